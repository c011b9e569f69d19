//! The gate, tested: it must pass what is equal, and fail each regression that is known.

use shadowcat::load::stats::Limit;
use shadowcat::protocol::revision::Era;

use crate::gate::{Arm, BUDGET, Budget, Effort, Load, Outcome, compare};
use crate::legacy::Mutant;
use crate::paths::{Path, size};
use crate::support::process::Server;

/// Where each regression is looked for.
const MUTANTS: [(Mutant, Path, usize); 5] = [
    (Mutant::ProcessPerRequest, Path::Stdio, 200),
    (Mutant::DoubleParse, Path::HttpJson, 64 * 1024),
    (Mutant::BufferedSse, Path::HttpLive, 200),
    (Mutant::StatePerRequest, Path::HttpJson, 200),
    (Mutant::DebugLog, Path::Stdio, 200),
];

pub async fn run(effort: &Effort) -> Vec<Outcome> {
    let http = Server::echo();
    let mut outcomes = Vec::new();
    for path in [Path::Stdio, Path::HttpSse] {
        let (one, other) = (Server::legacy(path.behind(&http), None), Server::legacy(path.behind(&http), None));
        let pair = [Arm::new("legacy", &one), Arm::new("again", &other)];
        let name = format!("control: {}", path.name());
        outcomes.push(compare(name, &load(path, 200), pair, &[], &BUDGET, effort).await);
    }
    for (mutant, path, bytes) in MUTANTS {
        let (plain, broken) =
            (Server::legacy(path.behind(&http), None), Server::legacy(path.behind(&http), Some(mutant)));
        let pair = [Arm::new("legacy", &plain), Arm::new("mutant", &broken)];
        let name = format!("mutant: {mutant:?}, {}, {}", path.name(), size(bytes));
        // One that is caught anyway need not be shown to be slow in every respect.
        let budget = Budget { rate: Some(Limit::AtLeast(0.95)), ..path.budget() };
        let mut outcome = compare(name, &load(path, bytes), pair, &[], &budget, effort).await;
        outcome.must_fail = true;
        outcomes.push(outcome);
    }
    outcomes
}

fn load(path: Path, bytes: usize) -> Load {
    Load { era: Era::Legacy, clients: 16, call: path.call(bytes) }
}
