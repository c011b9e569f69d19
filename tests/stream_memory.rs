//! C-SSE-7: what a stream keeps does not depend on how long it is. Counted by the allocator, in a process that does nothing else.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/counting.rs"]
mod counting;

use serde_json::json;
use shadowcat::server::Running;
use shadowcat::settings::Settings;
use shadowcat::testing::client::LegacySession;
use shadowcat::testing::{At, Do, End, On};

use common::{InTime as _, LEGACY, legacy, script_file, text, within};

/// How many events come, and after how many the connection is cut.
const EVENTS: u64 = 100_000;
const CUT_AFTER: u64 = 9_000;
/// What buffers may differ by from one moment to another: about a byte for each event in between.
const NOISE: usize = 64 << 10;

/// A server in a process of its own, since it remembers all that it has said, sends a hundred thousand events in answer to one call,
/// over a dozen connections. The proxy and the client keep no more at the end than after a fifth of them.
#[tokio::test]
async fn memory_does_not_grow_with_the_number_of_events() {
    let cut = || Do::Cut { after: Some(At { events: CUT_AFTER, bytes: 30 }), end: End::Abrupt };
    let script = legacy()
        .fault(On::tool("echo"), Do::Flood { count: EVENTS, bytes: 100 })
        .fault(On::tool("echo"), cut())
        .fault(On::http("GET"), cut());
    let plan = script_file(&script);
    let (_server, upstream) = common::fake_sse(plan.path()).await;
    let settings = Settings::for_upstream(upstream);
    let proxy = within("start", Running::start(settings)).await.unwrap();
    let client = LegacySession::open(&format!("http://{}/mcp", proxy.address()), LEGACY, json!({})).ok().await;

    let mut call = client.call("echo", json!({ "text": "done" })).ok().await;
    let (mut early, mut late) = (0, 0);
    for number in 0..EVENTS {
        let message = call.message().ok().await.unwrap();
        let data = message["params"]["data"].as_str().unwrap_or_else(|| panic!("event {number}: {message}"));
        assert_eq!(data.split(' ').next(), Some(number.to_string().as_str()));
        let peak = match number {
            20_000..40_000 => &mut early,
            80_000.. => &mut late,
            _ => continue,
        };
        *peak = counting::live().max(*peak);
    }
    assert_eq!(text(&call.answer().ok().await), "done");
    println!("at most {early} bytes from event 20,000 to 40,000, {late} from 80,000 to the end");
    assert!(late <= early + NOISE, "{early} bytes, and later {late}");
    assert!(within("shutdown", proxy.shutdown()).await.is_clean());
}
