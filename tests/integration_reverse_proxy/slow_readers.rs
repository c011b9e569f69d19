//! Clients that read slowly, or not at all (C-SSE-7): they slow down their own server, and lose nothing without a word.

use std::time::Duration;

use serde_json::json;
use shadowcat::settings::{Isolation, Settings};
use shadowcat::testing::client::{LegacySession, SseSession};
use shadowcat::testing::{Do, On, Script};

use crate::common::*;

const EVENTS: u64 = 3000;

/// More than all buffers between the two ends hold, said by the server when it has answered.
fn talkative() -> Script {
    let padding = "x".repeat(10_000);
    let text = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": { "_meta": { "p": padding } } });
    legacy().fault(On::tool("echo").nth(1), Do::Aside { text: text.to_string(), times: EVENTS })
}

fn small_backlog(settings: &mut Settings) {
    settings.limits.backlog_events = 8;
}

async fn echo(session: &LegacySession, said: &str) {
    let answer = session.call("echo", json!({ "text": said })).ok().await.answer().ok().await;
    assert_eq!(text(&answer), said);
}

/// The standing stream is read by somebody who begins late: everything comes, once and in order, although the backlog holds
/// only a few of them.
#[tokio::test]
async fn a_slow_reader_slows_its_server_and_loses_nothing() {
    let proxy = Proxy::with(talkative(), small_backlog).await;
    let session = proxy.session().await;
    let mut stream = session.stream(None).ok().await;
    proxy.until_metric("shadowcat_streams", &[], 1.0).await;
    echo(&session, "go").await;
    // Its server is held up, and answers when there is room again.
    let late = session.call("echo", json!({ "text": "late" }));
    let reading = async {
        let mut last = 0;
        for _ in 0..EVENTS {
            let event = next(&mut stream).await.unwrap();
            let number: u64 = event.id.as_deref().unwrap().split_once('-').unwrap().1.parse().unwrap();
            assert_eq!(number, last + 1, "each once, in order");
            last = number;
        }
    };
    let (answer, ()) = tokio::join!(late, reading);
    assert_eq!(text(&answer.unwrap().answer().ok().await), "late");
    assert_eq!(proxy.metric("shadowcat_dropped_total", &["reason=\"backlog\""]).await, 0.0);
}

/// A reader that never reads is cut off after `write_stall`, and its server goes on.
#[tokio::test]
async fn a_reader_that_never_reads_is_cut_off() {
    let proxy = Proxy::with(talkative(), |settings| {
        small_backlog(settings);
        settings.timeouts.write_stall = Duration::from_millis(200);
    })
    .await;
    let session = proxy.session().await;
    let stream = session.stream(None).ok().await;
    proxy.until_metric("shadowcat_streams", &[], 1.0).await;
    echo(&session, "go").await;
    echo(&session, "and on").await;
    proxy.until_metric("shadowcat_streams", &[], 0.0).await;
    drop(stream);
    let resumed = session.stream(Some("0-1")).ok().await;
    assert_eq!(resumed.status, 400, "what was said meanwhile is not kept, and that is no secret");
}

/// Where others share the server, nobody waits for a slow reader: it is told that everything may have changed, and the loss
/// is counted.
#[tokio::test]
async fn a_slow_reader_of_a_shared_server_learns_what_it_may_have_missed() {
    let proxy = Proxy::with(talkative(), |settings| {
        small_backlog(settings);
        settings.upstreams[0].isolation = Isolation::Shared;
    })
    .await;
    let (slow, quick) = (proxy.session().await, proxy.session().await);
    let uri = json!({ "uri": "shadowcat://demo/hello.txt" });
    let subscribed = slow.request("resources/subscribe", uri.clone()).ok().await.answer().ok().await;
    assert_eq!(subscribed["result"], json!({}), "{subscribed}");
    let mut unread = slow.stream(None).ok().await;
    proxy.until_metric("shadowcat_streams", &[], 1.0).await;
    echo(&quick, "go").await;
    // Behind the flood: nobody holds it up.
    echo(&quick, "all is said").await;
    let (mut instead, mut events) = (Vec::new(), 0);
    while instead.len() < 4 {
        let event = next(&mut unread).await.unwrap();
        match event.id {
            Some(_) => events += 1,
            None => instead.push(event.json()),
        }
    }
    let methods: Vec<_> = instead.iter().map(|message| message["method"].as_str().unwrap()).collect();
    let changed = ["tools", "prompts", "resources"].map(|kind| format!("notifications/{kind}/list_changed"));
    assert_eq!(methods[..3], changed);
    assert_eq!((methods[3], &instead[3]["params"]), ("notifications/resources/updated", &uri));
    let lost = proxy.metric("shadowcat_dropped_total", &["reason=\"backlog\""]).await;
    assert!(lost > 0.0 && lost + f64::from(events) <= EVENTS as f64, "{lost} {events}");
}

/// The same for a client of HTTP+SSE, whose one stream carries everything.
#[tokio::test]
async fn a_slow_reader_of_the_only_stream_learns_what_it_may_have_missed() {
    let proxy = Proxy::with(talkative(), |settings| {
        small_backlog(settings);
        settings.upstreams[0].isolation = Isolation::Shared;
    })
    .await;
    // Who speaks the same version shares the server.
    let mut slow = SseSession::open(&proxy.at("/sse"), LEGACY, everything()).ok().await;
    let quick = proxy.session().await;
    echo(&quick, "go").await;
    echo(&quick, "all is said").await;
    let lost = async || proxy.metric("shadowcat_dropped_total", &["reason=\"backlog\""]).await;
    // What it was told itself is padded; what is said instead is not.
    let mut events = 0;
    let mut instead = Vec::new();
    while instead.len() < 3 {
        let message = slow.next().ok().await;
        match message["params"]["_meta"].is_object() {
            true => events += 1,
            false => instead.push(message["method"].as_str().unwrap().to_owned()),
        }
        assert!(events < EVENTS, "nothing was lost, or nothing was said of it");
    }
    let changed = ["tools", "prompts", "resources"].map(|kind| format!("notifications/{kind}/list_changed"));
    assert_eq!(instead, changed);
    assert!(lost().await > 0.0);
}

/// C-SSE-6: the end of a session does not wait for a reader that does not read.
#[tokio::test]
async fn a_reader_that_never_reads_does_not_hold_up_the_end_of_its_session() {
    let proxy = Proxy::with(talkative(), |settings| {
        small_backlog(settings);
        settings.timeouts.write_stall = DEADLINE * 100;
        settings.timeouts.sse_keepalive = Duration::from_millis(200);
    })
    .await;
    let session = proxy.session().await;
    let _unread = session.stream(None).ok().await;
    proxy.until_metric("shadowcat_streams", &[], 1.0).await;
    echo(&session, "go").await;
    // When its server is held up there is no room for answers, and what comes instead is a sign of life.
    let held_up = async || session.call("echo", json!({ "text": "late" })).ok().await.is_sse();
    until("the server is held up", held_up, |held_up| *held_up).await;
    assert_eq!(session.delete().ok().await.status, 204);
    until("its server has ended", async || proxy.processes().len(), |left| *left == 0).await;
}
