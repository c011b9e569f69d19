//! The baseline of the benches does what it claims to do, and stays what it is.
#![allow(clippy::panic, clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking")]
#![allow(unreachable_pub, missing_docs, dead_code, reason = "a bench helper")]

#[path = "../benches/legacy/mod.rs"]
mod legacy;

use std::time::Duration;

use legacy::{Legacy, Upstream};
use ring::digest::{SHA256, digest};
use serde_json::{Map, json};
use shadowcat::load::{Call, Crew, Plan, Target};
use shadowcat::protocol::revision::Era;
use shadowcat::testing::{MockSse, Script};
use tokio::net::TcpListener;

const PROGRAM: &str = env!("CARGO_BIN_EXE_shadowcat");

/// Of `benches/legacy/mod.rs`. What is measured against it can only be compared as long as it stays the same.
const CHECKSUM: &str = "43239cc0f7101a1d7498a9230137f3b5c274f390beaead5cf152676cd23ebf8e";

/// Puts the baseline before a server, and has several clients call; all answers must be right.
async fn serves(upstream: Upstream, era: Era, call: Call) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::parse(&format!("http://{}/mcp", listener.local_addr().unwrap())).unwrap();
    let serving = tokio::spawn(Legacy::new(upstream.clone(), None).serve(listener));
    let plan = Plan { target, era, clients: 3, call, patience: Duration::from_secs(20) };
    let mut crew = Crew::open(&plan).await.unwrap_or_else(|failure| panic!("{upstream:?}, {era:?}: {failure}"));
    let tally = crew.complete(30).await;
    assert_eq!(tally.answers(), 30, "{upstream:?}, {era:?}: {:?}", tally.first_failure());
    crew.close().await;
    serving.abort();
}

#[test]
fn it_is_frozen() {
    let source = include_bytes!("../benches/legacy/mod.rs");
    let sum: String = digest(&SHA256, source).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, CHECKSUM, "see benches/legacy/README.md");
}

#[tokio::test]
async fn it_serves_a_process_in_either_era() {
    for (era, per_session) in [(Era::Legacy, false), (Era::Legacy, true), (Era::Modern, false)] {
        let args = ["fake", "stdio"].map(str::to_owned).to_vec();
        let upstream = Upstream::Stdio { program: PROGRAM.to_owned(), args, per_session };
        serves(upstream, era, Call::echo("echo", "text", 4096)).await;
    }
}

#[tokio::test]
async fn it_serves_a_server_over_http_and_passes_its_streams_on() {
    let server = MockSse::start(Script::default()).await.unwrap();
    let url = server.url();
    let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let upstream = Upstream::Http { authority: authority.to_owned(), path: format!("/{path}") };
    let steps: Map<_, _> = [("steps".to_owned(), json!(3))].into_iter().collect();
    for era in [Era::Legacy, Era::Modern] {
        serves(upstream.clone(), era, Call::echo("echo", "text", 4096)).await;
        serves(upstream.clone(), era, Call::tool("progress", steps.clone()).with_progress(3)).await;
    }
}
