//! What a session and an idle stream take: the slope over some thousand of them, so that what a process takes anyway is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use shadowcat::load::stats::{Limit, Ratio, median};
use shadowcat::load::{Call, Crew, Plan};
use shadowcat::protocol::revision::Era;

use crate::gate::{Outcome, Row};
use crate::paths::Path;
use crate::support::process::Server;
use crate::support::stream::Listener;

/// There before the first look.
const BEFORE: usize = 200;
/// Added between the looks.
const ADDED: usize = 2000;
const ROUNDS: usize = 3;
const LIMIT: Limit = Limit::AtMost(1.10);

/// Bytes per session with its connection, and per stream with its own.
struct Slopes {
    session: f64,
    stream: Option<f64>,
}

pub async fn run() -> Vec<Outcome> {
    let http = Server::echo();
    let mut outcomes = Vec::new();
    for path in [Path::Stdio, Path::HttpJson] {
        let mut slopes: BTreeMap<&str, Vec<Slopes>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let behind = path.behind(&http);
            let mut add = async |name, server: Server, streams| {
                slopes.entry(name).or_default().push(measure(&server, streams).await);
            };
            // The process that the sessions share has nothing to say to one of them, and the baseline no stream.
            let streams = path == Path::HttpJson;
            add("legacy", Server::legacy(behind, None), streams).await;
            add("shadowcat", Server::shadowcat(behind, false), streams).await;
            match path {
                Path::Stdio => add("bridge", Server::bridge(), false).await,
                _ => {
                    if let Some(nginx) = Server::nginx(&http.target) {
                        add("nginx", nginx, true).await;
                    }
                }
            }
        }
        for (what, of) in [
            ("session", (|slopes| Some(slopes.session)) as fn(&Slopes) -> Option<f64>),
            ("stream", |slopes| slopes.stream),
        ] {
            let of = |name: &str| -> Vec<f64> { slopes.get(name).into_iter().flatten().filter_map(of).collect() };
            if of("legacy").is_empty() {
                continue;
            }
            let legacy = median(of("legacy"));
            let ours = of("shadowcat");
            // Too few for a bootstrap: the interval is all that was seen.
            let ratio = Ratio {
                low: ours.iter().copied().fold(f64::INFINITY, f64::min) / legacy,
                mid: median(ours.clone()) / legacy,
                high: ours.iter().copied().fold(0.0, f64::max) / legacy,
            };
            let kib = |name: &str| median(of(name)) / 1024.0;
            let other = if path == Path::Stdio { "bridge" } else { "nginx" };
            let mut outcome = Outcome::new(format!(
                "memory of a {what}, {}: legacy {:.1} KiB, shadowcat {:.1} KiB, {other} {:.1} KiB",
                path.name(),
                kib("legacy"),
                kib("shadowcat"),
                kib(other)
            ));
            outcome.rows = vec![Row { what: "memory", ratio, limit: LIMIT, verdict: LIMIT.judge(ratio) }];
            outcomes.push(outcome);
        }
    }
    outcomes
}

async fn measure(server: &Server, streams: bool) -> Slopes {
    let plan = |clients| Plan {
        target: server.target.clone(),
        era: Era::Legacy,
        clients,
        call: Call::echo("echo", "text", 200),
        patience: Duration::from_secs(20),
    };
    let _before = Crew::open(&plan(BEFORE)).await.unwrap();
    let at_first = settled(server).await;
    let crew = Crew::open(&plan(ADDED)).await.unwrap();
    let with_sessions = settled(server).await;
    let session = (with_sessions - at_first) / ADDED as f64;
    let mut open = Vec::new();
    if streams {
        for session in crew.sessions() {
            open.push(Listener::open(server, session).await);
        }
    }
    let stream = streams.then_some((settled(server).await - with_sessions) / ADDED as f64);
    Slopes { session, stream }
}

/// What it takes when it has come to rest.
async fn settled(server: &Server) -> f64 {
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.memory() as f64
}
