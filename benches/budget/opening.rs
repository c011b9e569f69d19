//! What opening a session costs where processes wait for it: a client connects, introduces itself, makes one call, says goodbye and goes.
//!
//! The thin bridge has one process, which has been there all the time, and passes on to it what the client says, its handshake included. So
//! both do the same on the client's side (one connection, four requests), and three of the four reach a process that is warm already. What
//! shadowcat does besides, with a process for each session, is in the figure: giving one away, ending it, and having another one started
//! while the next client may be there already.

use std::time::{Duration, Instant};

use shadowcat::load::stats::Limit;
use shadowcat::load::{Call, Crew, Failure, Plan};
use shadowcat::protocol::revision::Era;

use crate::gate::{Arm, BUDGET, Budget, Effort, Outcome, PATIENCE, Turn, alternate};
use crate::support::process::{Server, Usage};

pub const NAME: &str = "opening a session, stdio, own, warm spares";

const OPENING: Budget = Budget { rate: None, p50: Some(Limit::AtMost(1.6)), p95: None, ..BUDGET };
/// So many processes wait for a client.
const SPARES: usize = 8;
/// Clients come one after the other, that far apart at least: enough for another process to be started.
const PACE: Duration = Duration::from_millis(20);
const VISITS: usize = 10;

pub async fn run(effort: &Effort) -> Outcome {
    eprint!("{NAME} ");
    let (bridge, shadowcat) = (Server::bridge(), Server::with_spares(SPARES));
    let arms = [Arm::new("bridge", &bridge), Arm::new("shadowcat", &shadowcat)];
    let mut outcome = Outcome::new(NAME.to_owned());
    for arm in &arms {
        // Warms up; the turns of shadowcat begin with all of its spares.
        for _ in 0..VISITS {
            record(visit(arm).await, arm, &mut outcome);
            tokio::time::sleep(PACE).await;
        }
    }
    let take = async |outcome: &mut Outcome, at: usize| turn(&arms[at], outcome).await;
    alternate(&mut outcome, ["bridge", "shadowcat"], 0, &OPENING, effort, take).await;
    eprintln!("{:?}", outcome.verdict());
    outcome
}

async fn turn(arm: &Arm<'_>, outcome: &mut Outcome) {
    let (quiet, before) = (Usage::now(), arm.server.cpu());
    let mut took = Vec::new();
    for _ in 0..VISITS {
        let due = Instant::now() + PACE;
        took.extend(record(visit(arm).await, arm, outcome));
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
    }
    // A turn whose visits all failed says so by what it is not.
    took.sort_by(f64::total_cmp);
    let at = |part: f64| {
        took.get((took.len().saturating_sub(1) as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
    };
    let cpu = arm.server.cpu() - before;
    outcome.turns.entry(arm.name).or_default().push(Turn {
        rate: took.len() as f64 * 1e6 / took.iter().sum::<f64>(),
        cpu_us: cpu.as_secs_f64() * 1e6 / VISITS as f64,
        p50_us: at(0.5),
        p95_us: at(0.95),
        p99_us: at(0.99),
        first_event_p95_us: 0.0,
        noise: Usage::now().noise_since(&quiet),
    });
}

/// How long it takes, in microseconds.
async fn visit(arm: &Arm<'_>) -> Result<f64, Failure> {
    let plan = Plan {
        target: arm.server.target.clone(),
        era: Era::Legacy,
        clients: 1,
        call: Call::echo("echo", "text", 200),
        patience: PATIENCE,
    };
    let started = Instant::now();
    Crew::open(&plan).await?.close().await;
    Ok(started.elapsed().as_secs_f64() * 1e6)
}

fn record(visited: Result<f64, Failure>, arm: &Arm<'_>, outcome: &mut Outcome) -> Option<f64> {
    visited.map_err(|failure| outcome.failures.push(format!("{}: {failure}", arm.name))).ok()
}
