//! What recording costs (C-TAPE-3): shadowcat that writes both sides of all that passes to tapes, and shadowcat that does not.

use shadowcat::load::stats::Limit;
use shadowcat::protocol::revision::Era;

use crate::gate::{Arm, BUDGET, Budget, Effort, Load, Outcome, compare};
use crate::paths::{Path, size};
use crate::support::process::Server;

/// Below saturation nobody may notice. At saturation, the processors that write tapes are those that answer: how much that takes is told by
/// the table, and is no promise.
const RECORDING: Budget = Budget { rate: Some(Limit::AtLeast(0.5)), p95: Some(Limit::AtMost(1.10)), ..BUDGET };

const LOADS: [(Path, Era, usize); 4] = [
    (Path::Stdio, Era::Legacy, 200),
    (Path::HttpJson, Era::Legacy, 200),
    (Path::HttpSse, Era::Legacy, 200),
    (Path::Stdio, Era::Modern, 200),
];

pub async fn run(effort: &Effort) -> Vec<Outcome> {
    let http = Server::echo();
    let mut outcomes = Vec::new();
    for (path, era, bytes) in LOADS {
        let behind = path.behind(&http);
        let plain = Server::shadowcat(behind, era == Era::Modern);
        let recording = Server::recording(behind, era == Era::Modern);
        let pair = [Arm::new("shadowcat", &plain), Arm::new("recording", &recording)];
        let name = format!("recording: {} {}, {}", path.name(), era.as_str(), size(bytes));
        let load = Load { era, clients: 16, call: path.call(bytes) };
        outcomes.push(compare(name, &load, pair, &[], &RECORDING, effort).await);
    }
    outcomes
}
