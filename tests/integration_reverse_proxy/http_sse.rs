//! Clients of 2024-11-05, over HTTP+SSE.

use serde_json::{Value, json};
use shadowcat::testing::client::{self, SseSession};

use crate::common::*;

async fn call(session: &mut SseSession, id: &str, tool: &str, arguments: Value) {
    let call = message(id, "tools/call", &json!({ "name": tool, "arguments": arguments }).to_string());
    let response = session.send(&call).ok().await;
    assert_eq!(response.status, 202, "2024-11-05, Transports: what answers comes on the stream");
}

/// 2024-11-05, Transports › HTTP with SSE: the stream's first event says where to post, and everything comes back on it.
#[tokio::test]
async fn a_client_of_2024_is_served() {
    let proxy = Proxy::start(legacy()).await;
    let mut stream =
        client::send("GET", &proxy.at("/sse"), [("Accept", "text/event-stream")].into_iter().collect(), "").ok().await;
    assert_eq!((stream.status, stream.headers.get("content-type")), (200, Some("text/event-stream")));
    assert_eq!(stream.headers.get("x-accel-buffering"), Some("no"));
    let first = stream.event().ok().await.unwrap();
    assert_eq!(first.event.as_deref(), Some("endpoint"));
    let endpoint = first.data.unwrap();
    assert!(
        endpoint.starts_with("/messages?") && endpoint.len() > 40,
        "on our own origin, and not to be guessed: {endpoint}"
    );
    let posted = send("POST", &proxy.at(&endpoint), &json_headers(), &initialize("2024-11-05")).await;
    assert_eq!((posted.status, posted.headers.get("mcp-session-id")), (202, None));
    let answer = stream.event().ok().await.unwrap();
    assert_eq!(answer.event.as_deref(), Some("message"));
    assert_eq!(answer.json()["result"]["protocolVersion"], "2024-11-05");
}

/// 2024-11-05, Transports: calls, their progress, their questions and what the server says by itself share the stream.
#[tokio::test]
async fn everything_comes_on_the_one_stream() {
    let proxy = Proxy::start(legacy()).await;
    let mut session = proxy.sse().await;
    call(&mut session, "\"a\"", "echo", json!({ "text": "x" })).await;
    let answer = session.next().ok().await;
    assert_eq!((text(&answer), &answer["id"]), ("x", &json!("a")));

    call(&mut session, "1", "sample", json!({ "prompt": "?" })).await;
    let question = session.next().ok().await;
    assert_eq!(question["method"], "sampling/createMessage");
    let said = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Hi" } });
    session.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": said }).to_string()).ok().await;
    assert_eq!(text(&session.next().ok().await), "sampled: Hi");

    call(&mut session, "2", "change", json!({ "kind": "tools" })).await;
    let pair = [session.next().ok().await, session.next().ok().await];
    assert!(pair.iter().any(|message| message["method"] == "notifications/tools/list_changed"), "{pair:?}");

    session.send(&message("3", "ping", "{}")).ok().await;
    assert_eq!(session.next().ok().await, json!({ "jsonrpc": "2.0", "id": 3, "result": {} }));

    call(&mut session, "4", "sleep", json!({ "ms": 600_000 })).await;
    session.send(&cancelled(json!(4))).ok().await;
    call(&mut session, "5", "stats", json!({})).await;
    let stats = session.next().ok().await;
    assert_eq!(stats["id"], 5, "nothing answers what was cancelled");
    assert!(text(&stats).contains(r#""cancellations":1"#), "{stats}");
}

/// 2024-11-05, Transports: two clients with the same ids do not meet; the id in the address is the session.
#[tokio::test]
async fn clients_of_2024_do_not_meet() {
    let proxy = Proxy::start(legacy()).await;
    let (mut a, mut b) = (proxy.sse().await, proxy.sse().await);
    assert_ne!(a.endpoint, b.endpoint);
    for (session, mine) in [(&mut a, "of a"), (&mut b, "of b")] {
        call(session, "1", "echo", json!({ "text": mine })).await;
    }
    assert_eq!(text(&b.next().ok().await), "of b");
    assert_eq!(text(&a.next().ok().await), "of a");
    call(&mut a, "1", "count", json!({ "key": "k" })).await;
    call(&mut b, "1", "count", json!({ "key": "k" })).await;
    assert_eq!((text(&a.next().ok().await), text(&b.next().ok().await)), ("1", "1"), "each has its own process");
}

/// 2024-11-05, Transports: the connection is the session. With it end the calls and the process; its address is then unknown.
#[tokio::test]
async fn closing_the_stream_ends_the_session() {
    let proxy = Proxy::start(legacy()).await;
    let mut session = proxy.sse().await;
    call(&mut session, "1", "pid", json!({})).await;
    let report: Value = serde_json::from_str(text(&session.next().ok().await)).unwrap();
    let pid = i32::try_from(report["pid"].as_i64().unwrap()).unwrap();
    call(&mut session, "2", "sleep", json!({ "ms": 600_000 })).await;
    let SseSession { endpoint, stream, .. } = session;
    drop(stream);
    until("the process has ended", async || alive(pid), |alive| !alive).await;
    proxy.until_metric("shadowcat_sessions_ended_total", &["disconnected"], 1.0).await;
    for address in [endpoint.clone(), format!("{endpoint}x"), proxy.at("/messages?sessionId=")] {
        assert_eq!(send("POST", &address, &json_headers(), &message("1", "ping", "{}")).await.status, 404, "{address}");
    }
    assert_eq!(send("POST", &proxy.at("/messages"), &json_headers(), "{}").await.status, 400);
    proxy.close().await;
}

/// 2025-11-25, Transports › Backwards Compatibility: any revision with a handshake may come this way, and one address may have
/// both doors: the new one is not confused with the old.
#[tokio::test]
async fn newer_clients_may_come_through_the_old_door() {
    let proxy = Proxy::start(legacy()).await;
    for revision in REVISIONS {
        let session = SseSession::open(&proxy.at("/sse"), revision, everything()).ok().await;
        assert_eq!(session.initialized["protocolVersion"], revision);
    }
    assert_eq!(
        send("POST", &proxy.at("/sse"), &json_headers(), &initialize(LEGACY)).await.status,
        405,
        "2025-11-25: go and try GET"
    );
    let off = Proxy::with(legacy(), |settings| settings.http_sse = false).await;
    assert_eq!(send("GET", &off.at("/sse"), &[("Accept", "text/event-stream")], "").await.status, 404);
}

/// 2024-11-05, Transports: a message that cannot be read is refused where it was posted, and the stream goes on.
#[tokio::test]
async fn what_cannot_be_read_is_refused_where_it_was_posted() {
    let proxy = Proxy::start(legacy()).await;
    let mut session = proxy.sse().await;
    for (bad, expected) in [("{", -32700), ("{}", -32600)] {
        let response = session.send(bad).ok().await;
        assert_eq!(response.status, 400);
        assert_ours(&response.json().ok().await, expected);
    }
    let answer = async |session: &mut SseSession, text: &str| {
        assert_eq!(session.send(text).ok().await.status, 202);
        session.next().ok().await
    };
    assert_eq!(code(&answer(&mut session, "[]").await), -32600, "no arrays in this revision");
    assert_eq!(code(&answer(&mut session, &initialize(LEGACY)).await), -32600, "one handshake per connection");
    assert_eq!(answer(&mut session, &message("1", "ping", "{}")).await["result"], json!({}));
}
