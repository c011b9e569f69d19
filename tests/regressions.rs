//! What once went wrong, and must not again. Each test says what it was.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use common::*;
use serde_json::json;
use shadowcat::testing::{Do, On};

/// The plain position on the standing stream went back with whoever resumed further back, so that the next plain `GET` was
/// given again what had been delivered (2025-11-25, Streamable HTTP › Multiple Connections).
#[tokio::test]
async fn resuming_far_back_does_not_repeat_for_those_who_come_after() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session().await;
    for kind in ["tools", "prompts", "resources"] {
        session.call("change", json!({ "kind": kind })).ok().await.answer().ok().await;
    }
    let mut first = session.stream(None).ok().await;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(next(&mut first).await.unwrap());
    }
    drop(first);
    let mut resumed = session.stream(events[0].id.as_deref()).ok().await;
    assert_eq!(next(&mut resumed).await.as_ref(), Some(&events[1]));
    drop(resumed);
    proxy.until_metric("shadowcat_streams", &[], 0.0).await;
    let mut plain = session.stream(None).ok().await;
    session.call("notify", json!({ "method": "vendor/new" })).ok().await.answer().ok().await;
    assert_eq!(next(&mut plain).await.unwrap().json()["method"], "vendor/new", "and none of the old ones before it");
}

/// A server that answers and dies at once took its last answer with it: the end of the session was seen first (C-POOL-10).
#[tokio::test]
async fn the_last_answer_of_a_dying_server_arrives() {
    for era in Era::BOTH {
        let proxy = Proxy::start(era.server()).await;
        for round in 0..10 {
            let client = proxy.client(era).await;
            let answer = client.call("exit", json!({ "when": "after", "code": 3 })).await;
            assert_eq!(text(&answer), "goodbye", "{era:?} {round}");
            // A call that is sent to it while it dies may well be lost, and that would be another matter.
            proxy.until_metric("shadowcat_children", &[], 0.0).await;
        }
    }
}

/// Requests that shutdown cut off saw a broken connection and no word; and where there was one, it said that a call which may have
/// been executed could be repeated (C-LIFE-3).
#[tokio::test]
async fn requests_that_shutdown_cuts_off_learn_whether_they_may_be_repeated() {
    for era in Era::BOTH {
        let script = era.server().fault(On::tool("count"), Do::Hang).fault(On::method("prompts/list"), Do::Hang);
        let proxy = Proxy::with(script, |settings| settings.timeouts.drain = Duration::from_millis(200)).await;
        let client = proxy.client(era).await;
        let list = async {
            let response = match &client {
                Client::Legacy(session) => session.request("prompts/list", json!({})).ok().await,
                Client::Modern(url) => shadowcat::testing::client::Modern::new("prompts/list").post(url).ok().await,
            };
            response.answer().ok().await
        };
        let shutdown = async {
            client.until_stats("/tools/count", 1).await;
            client.until_stats("/requests/prompts~1list", 1).await;
            proxy.running.shutdown().await
        };
        let call = async { client.begin("\"c\"", None, "count", json!({ "key": "k" })).await.answer().ok().await };
        let (call, list, report) = tokio::join!(call, list, within("shutdown", shutdown));
        assert!(report.requests_cut && report.survivors.is_empty(), "{report:?}");
        for (answer, retryable) in [(call, false), (list, true)] {
            assert_ours(&answer, -31005);
            assert_eq!(answer["error"]["data"]["retryable"], retryable, "{answer}");
        }
    }
}
