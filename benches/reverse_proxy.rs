//! What a call takes through nothing, through the legacy baseline, and through shadowcat: `cargo bench reverse_proxy`.
//!
//! For looking closer: plots are in `target/criterion/report/index.html`. What must be kept is decided by `budget`, since Criterion
//! measures one thing after the other, and what comes later meets another machine.
#![allow(unreachable_pub, missing_docs, reason = "a program, not a library")]
#![allow(clippy::panic, clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark fails by panicking")]

#[allow(dead_code, reason = "mutants are for the gate")]
mod legacy;
mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use serde_json::{Map, json};
use shadowcat::load::{Call, Crew, Plan, Tally};
use shadowcat::protocol::revision::Era;
use support::echo::PROGRESS;
use support::process::{Behind, Server};
use support::stream::Listener;
use tokio::runtime::Runtime;

/// Bytes of payload, and clients.
const LOADS: [(usize, usize); 5] = [(200, 1), (200, 16), (200, 128), (4096, 16), (65536, 16)];

fn main() {
    support::process::play_role();
    let criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut criterion = criterion.configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let http = Server::echo();
    calls(&mut criterion, &runtime, "post_to_stdio", Behind::Stdio, None, 0);
    calls(&mut criterion, &runtime, "post_to_http_json", Behind::Http(&http.target), Some(&http), 0);
    calls(&mut criterion, &runtime, "post_to_http_sse", Behind::Http(&http.target), Some(&http), PROGRESS);
    sessions(&mut criterion, &runtime, &http);
    events(&mut criterion, &runtime, &http);
    criterion.final_summary();
}

fn plan(server: &Server, call: Call, clients: usize) -> Plan {
    let (target, patience) = (server.target.clone(), Duration::from_secs(10));
    Plan { target, era: Era::Legacy, clients, call, patience }
}

/// So many calls by all clients together; all answers right.
fn complete(runtime: &Runtime, crew: &mut Crew, calls: u64) -> Duration {
    let tally: Tally = runtime.block_on(crew.complete(calls));
    assert!(tally.failures().is_empty(), "{:?}", tally.first_failure());
    tally.time()
}

fn calls(
    criterion: &mut Criterion,
    runtime: &Runtime,
    name: &str,
    behind: Behind<'_>,
    direct: Option<&Server>,
    progress: usize,
) {
    let (legacy, shadowcat) = (Server::legacy(behind, None), Server::shadowcat(behind, false));
    let arms = direct.map(|server| ("direct", server)).into_iter();
    let arms: Vec<_> = arms.chain([("legacy", &legacy), ("shadowcat", &shadowcat)]).collect();
    for (bytes, clients) in LOADS {
        let mut group = criterion.benchmark_group(format!("reverse_proxy/{name}/{bytes} B, {clients} clients"));
        group.throughput(Throughput::Elements(1));
        for (arm, server) in &arms {
            let call = Call::echo("echo", "text", bytes).with_progress(progress);
            let mut crew = runtime.block_on(Crew::open(&plan(server, call, clients))).unwrap();
            group.bench_function(*arm, |bench| bench.iter_custom(|calls| complete(runtime, &mut crew, calls)));
            runtime.block_on(crew.close());
        }
        group.finish();
    }
}

/// A session from its first word to its last, with one call in it.
fn sessions(criterion: &mut Criterion, runtime: &Runtime, http: &Server) {
    for (name, behind) in [("stdio", Behind::Stdio), ("http", Behind::Http(&http.target))] {
        let mut group = criterion.benchmark_group(format!("reverse_proxy/session_open_call_close/{name}"));
        let mut measure = |arm, server: &Server| {
            group.bench_function(arm, |bench| {
                bench.iter_custom(|sessions| {
                    let plan = plan(server, Call::echo("echo", "text", 200), 1);
                    let started = Instant::now();
                    for _ in 0..sessions {
                        runtime.block_on(async { Crew::open(&plan).await.unwrap().close().await });
                    }
                    started.elapsed()
                });
            });
        };
        if matches!(behind, Behind::Http(_)) {
            measure("direct", http);
        }
        measure("legacy", &Server::legacy(behind, None));
        measure("shadowcat", &Server::shadowcat(behind, false));
        group.finish();
    }
}

/// From the call that makes a server say something beside its answer until that is there on the session's stream.
fn events(criterion: &mut Criterion, runtime: &Runtime, http: &Server) {
    let behind = Behind::Http(&http.target);
    let mut group: BenchmarkGroup<'_, WallTime> = criterion.benchmark_group("reverse_proxy/get_stream_event");
    let (legacy, shadowcat) = (Server::legacy(behind, None), Server::shadowcat(behind, false));
    for (arm, server) in [("direct", http), ("legacy", &legacy), ("shadowcat", &shadowcat)] {
        let arguments: Map<_, _> = [("text".to_owned(), json!("tick"))].into_iter().collect();
        let plan = plan(server, Call::tool("notify", arguments), 1);
        let mut crew = runtime.block_on(Crew::open(&plan)).unwrap();
        let session = crew.sessions().next().unwrap().to_owned();
        let mut listener = runtime.block_on(Listener::open(server, &session));
        group.bench_function(arm, |bench| {
            bench.iter_custom(|events| {
                let started = Instant::now();
                for _ in 0..events {
                    complete(runtime, &mut crew, 1);
                    runtime.block_on(listener.next());
                }
                started.elapsed()
            });
        });
    }
    group.finish();
}
