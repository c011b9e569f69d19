//! Servers of 2024-11-05, found by trying: a POST that fails, a GET that names an address
//! (2025-11-25, Transports › Backwards Compatibility; 2024-11-05, Transports › HTTP with SSE).

use super::*;

/// A server that has only the old transport, under the URL that is configured.
pub(super) async fn old(script: Script, change: impl FnOnce(&mut Settings)) -> Stage {
    let mock =
        MockSse::start(Script { http: HttpScript { streamable: false, ..HttpScript::default() }, ..script }).ok().await;
    let (proxy, url) = front(&mock.sse_url(), change).await;
    Stage { url, proxy, mock, heard: std::sync::Mutex::default() }
}

/// What an old server says to a POST; from then on it is known.
#[tokio::test]
async fn an_old_server_is_found_by_what_it_refuses() {
    for status in [400, 404, 405] {
        let stage =
            old(legacy().fault(On::method("initialize").nth(1), respond(status, "text/plain", "")), |_| {}).await;
        for _ in 0..2 {
            let client = stage.session_of("2024-11-05").await;
            assert_eq!(client.initialized["protocolVersion"], "2024-11-05");
            assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
        }
        let posted_to_stream = stage.arrived(|request| request.method == "POST" && request.target == "/sse");
        assert_eq!(posted_to_stream.len(), 1, "{status}: it is tried once");
        let messages = stage.arrived(|request| request.method == "POST" && request.target.starts_with("/messages"));
        assert!(messages.iter().all(|request| request.headers.get("mcp-session-id").is_none()), "{status}");
        assert_eq!(stage.arrived(is_get).len(), 2, "{status}: a stream for each session");
    }
}

/// Any other failure is a failure.
#[tokio::test]
async fn an_old_server_is_not_looked_for_elsewhere() {
    for status in [401, 403, 500, 503] {
        let stage = old(legacy().fault(On::method("initialize"), respond(status, "text/plain", "")), |_| {}).await;
        let refused = common::send("POST", &stage.url, &common::json_headers(), &common::initialize(LEGACY)).await;
        assert_eq!(refused.answer().ok().await["error"]["data"]["origin"], "proxy", "{status}");
        assert_eq!(stage.arrived(is_get).len(), 0, "{status}");
    }
}

/// The configured transport is the only one that is tried.
#[tokio::test]
async fn a_configured_transport_is_not_looked_for() {
    let stage = old(legacy(), |settings| target(settings).transport = HttpTransport::Streamable).await;
    let refused = common::send("POST", &stage.url, &common::json_headers(), &common::initialize(LEGACY)).await;
    assert_ours(&refused.answer().ok().await, -31002);
    assert_eq!(stage.arrived(is_get).len(), 0);

    let stage = old(legacy(), |settings| target(settings).transport = HttpTransport::Sse).await;
    let client = stage.session().await;
    assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
    assert_eq!(stage.arrived(|request| request.method == "POST" && request.target == "/sse").len(), 0);
    assert_eq!(stage.post(&Modern::new("tools/list")).await.status, 200, "it has a handshake, and nobody asks");
    assert_eq!(stage.posts("server/discover").len(), 0);
}

/// The address for messages is of the server's own origin: requests carry credentials.
#[tokio::test]
async fn an_address_of_another_origin_is_refused() {
    let other = MockSse::start(Script::default()).ok().await;
    let port = other.address().port();
    for address in [
        format!("http://{}/messages", other.address()),
        format!("//127.0.0.1:{port}/messages"),
        format!("https://127.0.0.1:{port}/m"),
        "http://".into(),
    ] {
        let body = format!("event: endpoint\ndata: {address}\n\n");
        let stage = old(legacy().fault(On::http("GET"), respond(200, "text/event-stream", &body)), |_| {}).await;
        let refused = common::send("POST", &stage.url, &common::json_headers(), &common::initialize(LEGACY)).await;
        assert!(refused.headers.get("mcp-session-id").is_none());
        let answer = refused.answer().ok().await;
        assert_eq!(answer["error"]["data"]["origin"], "proxy", "{address}: {answer}");
        assert_eq!(stage.posts("initialize").len(), 1, "{address}: the POST that found out");
    }
    assert_eq!(other.connections(), 0);
}

/// A GET that brings no address within reason.
#[tokio::test]
async fn a_stream_without_an_address_is_no_server() {
    for body in ["", ": nothing\n\n", "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"] {
        let stage = old(legacy().fault(On::http("GET"), respond(200, "text/event-stream", body)), |_| {}).await;
        let refused = common::send("POST", &stage.url, &common::json_headers(), &common::initialize(LEGACY)).await;
        assert_eq!(refused.answer().ok().await["error"]["data"]["origin"], "proxy", "{body:?}");
    }
}

/// Everything a session has works over the two endpoints as well.
#[tokio::test]
async fn a_session_over_two_endpoints_has_everything() {
    let stage = old(legacy(), |_| {}).await;
    let client = stage.session().await;
    let mut stream = client.stream(None).ok().await;

    let params = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "t" } });
    let messages = all(client.request("tools/call", params).ok().await).await;
    assert_eq!(progress(&messages), [1, 2, 3]);
    assert_eq!(messages[0]["params"]["progressToken"], "t");

    let mut call = client.call("ask", json!({ "message": "?" })).ok().await;
    let question = call.message().ok().await.unwrap();
    client.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    assert_eq!(text(&call.answer().ok().await), "answer: decline null");

    assert_eq!(stage.mock.change("tools"), 1);
    assert_eq!(stream.message().ok().await.unwrap()["method"], "notifications/tools/list_changed");

    let cancel = async {
        let sleep = stage.arrival(|request| request.json("/params/name") == "sleep").await;
        client.send(&common::cancelled(json!(3))).ok().await;
        sleep
    };
    let (call, sleep) = tokio::join!(client.call("sleep", json!({ "ms": 600_000 })).ok(), cancel);
    assert!(all(call).await.is_empty());
    let told = stage.arrival(|request| request.json("/method") == "notifications/cancelled").await;
    assert_eq!(told.json("/params/requestId"), sleep.json("/id"));

    client.delete().ok().await;
    until("the stream is closed", async || stage.mock.stats()["peers"].clone(), |peers| *peers == 0).await;
}

/// The stream is the session with the server: when it ends, open calls are answered, once, and the client's session goes on
/// with another.
#[tokio::test]
async fn the_end_of_the_stream_is_the_end_of_the_servers_session() {
    let stage = old(legacy(), |_| {}).await;
    let client = stage.session().await;
    let lose = async {
        stage.arrival(|request| request.json("/params/name") == "sleep").await;
        stage.mock.forget_sessions();
    };
    let (call, ()) = tokio::join!(client.call("sleep", json!({ "ms": 600_000 })).ok(), lose);
    assert_ours(&call.answer().ok().await, -31003);
    assert_eq!(stage.posts("tools/call").len(), 1);
    assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
    assert_eq!(stage.posts("initialize").len(), 3, "and the first of them told how it wants to be talked to");
}

/// A message that the server does not take is an error at once: nothing will come on the stream.
#[tokio::test]
async fn a_message_that_is_not_taken_is_an_error() {
    let stage = old(legacy().fault(On::tool("count").nth(1), respond(500, "text/plain", "")), |_| {}).await;
    let client = stage.session().await;
    let answer = client.call("count", json!({})).ok().await.answer().ok().await;
    assert_ours(&answer, -31003);
    assert_eq!(stage.posts("tools/call").len(), 1);
    assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
}

/// C-SSE-2: silence is a loss like any other. What was called is told so, and does not wait for its own time to be over.
#[tokio::test]
async fn a_stream_that_falls_silent_is_lost() {
    let stage =
        old(legacy(), |settings| settings.timeouts.upstream_sse_idle = std::time::Duration::from_millis(400)).await;
    let client = stage.session().await;
    let call = client.call("sleep", json!({ "ms": 600_000 })).ok().await;
    assert_ours(&call.answer().ok().await, -31003);
}
