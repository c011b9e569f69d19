//! Whether a request costs the same after a long day: shadowcat that has just been started, and shadowcat that holds ten thousand
//! sessions and has answered a million requests.

use std::time::Duration;

use shadowcat::load::stats::Limit;
use shadowcat::load::{Call, Crew, Plan};
use shadowcat::protocol::revision::Era;

use crate::gate::{Arm, BUDGET, Budget, Effort, Load, Outcome, compare};
use crate::paths::{Path, size};
use crate::support::process::Server;

/// Sessions that are held besides those that are measured. Each takes a file of this process, and two of the proxy.
const HELD: usize = 8_000;
const REQUESTS: u64 = 1_000_000;
/// What is warm in a processor's caches counts too, and that is not what is asked here.
const FLAT: Budget = Budget { cpu: Some(Limit::AtMost(1.05)), rate: None, p95: None, ..BUDGET };

pub async fn run(effort: &Effort) -> Vec<Outcome> {
    let http = Server::echo();
    let mut outcomes = Vec::new();
    for path in [Path::Stdio, Path::HttpJson] {
        let behind = path.behind(&http);
        let (new, worn) = (Server::shadowcat(behind, false), Server::shadowcat(behind, false));
        let load = Load { era: Era::Legacy, clients: 16, call: path.call(200) };
        let plan = |clients| Plan {
            target: worn.target.clone(),
            era: Era::Legacy,
            clients,
            call: Call::echo("echo", "text", 200),
            patience: Duration::from_secs(20),
        };
        eprint!("{HELD} sessions, {REQUESTS} requests … ");
        let held = Crew::open(&plan(HELD)).await.unwrap();
        let mut busy = Crew::open(&plan(16)).await.unwrap();
        let tally = busy.complete(REQUESTS).await;
        assert!(tally.failures().is_empty(), "{:?}", tally.failures());
        let pair = [Arm::new("new", &new), Arm::new("worn", &worn)];
        let name = format!("{HELD} sessions, {REQUESTS} requests: {}, {}", path.name(), size(200));
        outcomes.push(compare(name, &load, pair, &[], &FLAT, effort).await);
        busy.close().await;
        drop(held);
    }
    outcomes
}
