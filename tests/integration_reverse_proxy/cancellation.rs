//! Taking requests back, and going away without doing so.

use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::settings::Settings;
use shadowcat::testing::client::{LegacySession, Modern};
use shadowcat::testing::{Do, On, OnCancel};
use tokio::io::AsyncWriteExt;

use crate::common::*;

fn session(client: &Client) -> &LegacySession {
    match client {
        Client::Legacy(session) => session,
        Client::Modern(_) => panic!("no session"),
    }
}

/// Begins a call of `ask` under this id and waits for its question: it is under way, and stays so.
async fn asking(session: &LegacySession, id: &str) -> (shadowcat::testing::client::Response, Value) {
    let call = json!({ "name": "ask", "arguments": { "message": "?" } }).to_string();
    let mut response = session.send(&message(id, "tools/call", &call)).ok().await;
    let question = next(&mut response).await.unwrap().json();
    (response, question)
}

/// 2025-11-25, Cancellation: the server is told, in the client's words and under the id that it knows; there is no answer,
/// and the session goes on. The question that the call had asked is withdrawn.
#[tokio::test]
async fn a_legacy_cancellation_reaches_the_server_and_ends_the_call() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    for id in ["5", "\"five\""] {
        let (mut response, question) = asking(session(&client), id).await;
        let value: Value = serde_json::from_str(id).unwrap();
        assert_eq!(session(&client).send(&cancelled(value)).ok().await.status, 202);
        let heard = rest(&mut response).await;
        assert!(
            heard.iter().all(|event| event.json()["method"] == "notifications/cancelled"),
            "no answer follows: {heard:?}"
        );
        let late = session(&client).respond(&question["id"], &json!({ "action": "accept" })).ok().await;
        assert_eq!(late.status, 202, "to an answer that comes too late nobody objects");
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    }
    let stats = client.until_stats("/cancelled", 2).await;
    assert_eq!(stats["cancellations"], 2, "once each: {stats}");
}

/// 2025-11-25, Cancellation: what cannot be cancelled is left alone: unknown requests, finished ones, `initialize`, and
/// those of other sessions.
#[tokio::test]
async fn cancelling_what_is_not_there_does_nothing() {
    let proxy = Proxy::start(legacy()).await;
    let (client, other) = (proxy.client(Era::Legacy).await, proxy.client(Era::Legacy).await);
    let (mut response, question) = asking(session(&client), "\"mine\"").await;
    client.begin("3", None, "echo", json!({ "text": "x" })).await.answer().ok().await;
    for id in [json!(0), json!(3), json!(4), json!("3"), json!("mine "), json!(null), json!({})] {
        assert_eq!(session(&client).send(&cancelled(id)).ok().await.status, 202);
    }
    assert_eq!(session(&other).send(&cancelled(json!("mine"))).ok().await.status, 202);
    session(&client).respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    assert!(text(&next(&mut response).await.unwrap().json()).starts_with("answer: decline"));
    for client in [client, other] {
        assert_eq!(client.stats().await["cancellations"], 0, "nothing of it has reached a server");
    }
}

/// 2025-11-25, Cancellation: a server that answers all the same, or never notices, bothers nobody: the answer is dropped and
/// later calls get their own.
#[tokio::test]
async fn an_answer_that_follows_a_cancellation_goes_nowhere() {
    for how in [OnCancel::Answer, OnCancel::Ignore] {
        let script = legacy()
            .fault(On::tool("sleep"), Do::Cancel(how))
            .fault(On::tool("sleep"), Do::Flood { count: 1, bytes: 1 });
        let proxy = Proxy::start(script).await;
        let client = proxy.client(Era::Legacy).await;
        let sleep = json!({ "name": "sleep", "arguments": { "ms": 100 } }).to_string();
        let mut response = session(&client).send(&message("1", "tools/call", &sleep)).ok().await;
        assert_eq!(next(&mut response).await.unwrap().json()["method"], "notifications/message", "it is under way");
        session(&client).send(&cancelled(json!(1))).ok().await;
        assert!(rest(&mut response).await.is_empty(), "{how:?}");
        // The same id again, while the server may still be busy with the first.
        let echo = client.begin("1", None, "echo", json!({ "text": "the next" })).await.answer().ok().await;
        assert_eq!(text(&echo), "the next", "{how:?}");
        proxy.until_metric("shadowcat_dropped_total", &["late_answer"], 1.0).await;
    }
}

/// 2026-07-28, Cancellation: a modern client that closes the stream, or the connection before there is one, has cancelled;
/// the server is told at once.
#[tokio::test]
async fn a_modern_client_cancels_by_going_away() {
    let proxy = Proxy::start(modern()).await;
    let client = proxy.client(Era::Modern).await;
    let streaming = Modern::call("progress", json!({ "steps": 1000, "delay_ms": 50 })).progress_token(1.into());
    let mut response = streaming.post(&proxy.url).ok().await;
    next(&mut response).await.unwrap();
    let gone = tokio::time::Instant::now();
    drop(response);
    client.until_stats("/cancellations", 1).await;
    assert!(gone.elapsed() < Duration::from_secs(1), "within a second: {:?}", gone.elapsed());

    let silent = Modern::call("sleep", json!({ "ms": 600_000 }));
    let waiting = silent.post(&proxy.url);
    tokio::select! {
        _ = waiting => panic!("there is no answer to have"),
        () = async { client.until_stats("/tools/sleep", 1).await; } => {}
    }
    client.until_stats("/cancellations", 2).await;
    proxy.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
}

/// A client that closes its sending side counts as gone: of a modern one nothing else would show it.
#[tokio::test]
async fn a_modern_client_that_closes_its_side_has_cancelled() {
    let proxy = Proxy::start(modern()).await;
    let client = proxy.client(Era::Modern).await;
    let body = Modern::call("sleep", json!({ "ms": 600_000 })).body();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: sleep\r\n\r\n",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(proxy.running.address()).ok().await;
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).ok().await;
    client.until_stats("/tools/sleep", 1).await;
    stream.shutdown().ok().await;
    client.until_stats("/cancellations", 1).await;
    proxy.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
}

/// 2025-11-25, Streamable HTTP › Sending Messages: a legacy client that goes away before there is a stream has not cancelled
/// either.
#[tokio::test]
async fn a_legacy_client_that_goes_away_has_not_cancelled() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    let sleep = session(&client).call("sleep", json!({ "ms": 300 }));
    tokio::select! {
        _ = sleep => panic!("it was to be dropped before its answer"),
        () = async { client.until_stats("/tools/sleep", 1).await; } => {}
    }
    let ended = ["legacy", "tools/call", "ok"];
    let before = proxy.metric("shadowcat_exchanges_total", &ended).await;
    proxy.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
    assert!(proxy.metric("shadowcat_exchanges_total", &ended).await > before, "it ran to its end");
    assert_eq!(client.stats().await["cancellations"], 0);
}

/// C-LIFE; 2025-11-25, Lifecycle › Timeouts: a request that is not answered in time ends in one error that says so, the
/// server is told to stop, and the connection goes on.
#[tokio::test]
async fn a_request_that_is_never_answered_times_out() {
    for era in Era::BOTH {
        // The proxy itself reads a modern server's tools before the first call, to check headers.
        let list = On::method("tools/list").nth(if era == Era::Modern { 2 } else { 1 });
        let script = era.server().fault(On::tool("echo").nth(1), Do::Hang).fault(list, Do::Hang);
        let quick = |settings: &mut Settings| settings.timeouts.request = Duration::from_millis(200);
        let proxy = Proxy::with(script, quick).await;
        let client = proxy.client(era).await;
        let answer = client.call("echo", json!({ "text": "x" })).await;
        assert_ours(&answer, -31001);
        assert_eq!(answer["error"]["data"]["retryable"], false, "a call may have been executed: {answer}");
        client.until_stats("/cancelled", 1).await;
        let list = match &client {
            Client::Legacy(session) => session.request("tools/list", json!({})).ok().await,
            Client::Modern(url) => Modern::new("tools/list").post(url).ok().await,
        };
        assert_eq!(list.status, 200, "an upstream's silence is no news about the session or the era");
        let answer = list.answer().ok().await;
        assert_ours(&answer, -31001);
        assert_eq!(answer["error"]["data"]["retryable"], true, "a list can be asked for again: {answer}");
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    }
}

/// 2025-11-25, Lifecycle › Timeouts: progress keeps a request alive, but not for ever.
#[tokio::test]
async fn progress_extends_the_deadline_up_to_a_limit() {
    for era in Era::BOTH {
        let quick = |settings: &mut Settings| {
            settings.timeouts.request = Duration::from_millis(600);
            settings.timeouts.request_max = Duration::from_millis(2500);
        };
        let proxy = Proxy::with(era.server(), quick).await;
        let client = proxy.client(era).await;
        let slow =
            messages(client.begin("1", Some("1"), "progress", json!({ "steps": 5, "delay_ms": 200 })).await).await;
        assert_eq!(text(slow.last().unwrap()), "did 5 steps", "longer than the deadline, but alive");
        let endless =
            messages(client.begin("1", Some("1"), "progress", json!({ "steps": 1000, "delay_ms": 100 })).await).await;
        assert_ours(endless.last().unwrap(), -31001);
        client.until_stats("/cancelled", 1).await;
    }
}

/// 2025-11-25, Cancellation: a call that has said nothing yet ends without an answer, too.
#[tokio::test]
async fn a_silent_call_that_is_cancelled_ends_without_an_answer() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    let sleep = message("1", "tools/call", r#"{"name":"sleep","arguments":{"ms":600000}}"#);
    let (response, ()) = tokio::join!(session(&client).send(&sleep).ok(), async {
        client.until_stats("/tools/sleep", 1).await;
        session(&client).send(&cancelled(json!(1))).ok().await;
    });
    assert!(response.status < 300, "{}", response.status);
    assert_eq!(response.text().ok().await, "");
    client.until_stats("/cancelled", 1).await;
}

/// 2025-11-25, Cancellation: a cancellation that crosses its answer ends in the answer or in silence, never in somebody else's
/// answer: the id is used again at once, and each call gets what it asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_that_crosses_its_answer_confuses_nobody() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    for round in 0..60u64 {
        let ms = round % 3;
        let call = json!({ "name": "sleep", "arguments": { "ms": ms } }).to_string();
        let (call, cancel) = (message("1", "tools/call", &call), cancelled(json!(1)));
        let (response, _) = tokio::join!(session(&client).send(&call).ok(), session(&client).send(&cancel).ok());
        let body = response.text().ok().await;
        assert!(body.is_empty() || body.contains(&format!("slept {ms} ms")), "{body}");
        let mine = format!("round {round}");
        let echo = client.begin("1", None, "echo", json!({ "text": mine })).await.answer().ok().await;
        assert_eq!(text(&echo), mine);
    }
}
