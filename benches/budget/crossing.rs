//! What crossing the eras costs: plain calls of a client of one era at a server of the other, and of a client of the server's own, over
//! the same kind of server.

use shadowcat::load::stats::Limit;
use shadowcat::protocol::revision::Era;

use crate::gate::{Arm, Budget, Effort, Load, Outcome, compare};
use crate::paths::{Path, size};
use crate::support::process::Server;

/// A translation is work: it may take that much more of the proxy's processor time, and how fast it is follows from that.
const CROSSING: Budget =
    Budget { rate: None, p50: None, p95: None, cpu: Some(Limit::AtMost(1.15)), first_event: None, tail: None };

/// The server's era, and the way to it.
const LOADS: [(Era, Path); 5] = [
    (Era::Legacy, Path::StdioPerSession),
    (Era::Legacy, Path::Stdio),
    (Era::Legacy, Path::HttpJson),
    (Era::Modern, Path::Stdio),
    (Era::Modern, Path::HttpJson),
];

pub async fn run(effort: &Effort) -> Vec<Outcome> {
    let http = Server::echo();
    let mut outcomes = Vec::new();
    for (own, path) in LOADS {
        let other = if own == Era::Legacy { Era::Modern } else { Era::Legacy };
        let behind = path.behind(&http);
        let relaying = Server::shadowcat(behind, own == Era::Modern);
        let crossing = Server::shadowcat(behind, own == Era::Modern);
        let pair = [Arm::new("relaying", &relaying).of(own), Arm::new("crossing", &crossing).of(other)];
        let name = format!("crossing: {} to {}, {}, {}", other.as_str(), own.as_str(), path.name(), size(200));
        let load = Load { era: own, clients: 16, call: path.call(200) };
        outcomes.push(compare(name, &load, pair, &[], &CROSSING, effort).await);
    }
    outcomes
}
