//! Legacy sessions: the handshake, the session's headers, the standing stream, questions, cancellation, the end
//! (2025-11-25, Transports › Streamable HTTP; Lifecycle).

use std::time::Duration;

use super::*;
use shadowcat::settings::{Isolation, Reuse};
use shadowcat::testing::{At, End};

/// Session Management; Protocol Version Header: on everything after the handshake, on nothing before.
#[tokio::test]
async fn session_and_version_are_on_everything_after_the_handshake() {
    for revision in ["2025-03-26", "2025-06-18", LEGACY] {
        let stage = Stage::new(legacy()).await;
        let client = stage.session_of(revision).await;
        let mut call = client.call("roots", json!({})).ok().await;
        let question = call.message().ok().await.unwrap();
        client.respond(&question["id"], &json!({ "roots": [] })).ok().await;
        assert_eq!(text(&call.answer().ok().await), "roots: ");
        let _stream = client.stream(None).ok().await;
        stage.arrival(is_get).await;
        assert_eq!(client.delete().ok().await.status, 204);
        stage.arrival(|request| request.method == "DELETE").await;

        let (first, rest) =
            stage.mock.requests().split_first().map(|(first, rest)| (first.clone(), rest.to_vec())).unwrap();
        assert_eq!(first.json("/method"), "initialize");
        assert_eq!((first.headers.get("mcp-session-id"), first.headers.get("mcp-protocol-version")), (None, None));
        let id = rest[0].headers.get("mcp-session-id").map(str::to_owned);
        assert!(id.is_some() && id != client.id, "the client has a name of its own");
        assert_eq!(rest.len(), 5, "{rest:#?}");
        for request in rest {
            assert_eq!(request.headers.get("mcp-session-id"), id.as_deref(), "{request:?}");
            assert_eq!(request.headers.get("mcp-protocol-version"), Some(revision), "{request:?}");
            assert!(request.headers.all("mcp-session-id").count() == 1);
        }
    }
}

/// A server without sessions is not made to have one.
#[tokio::test]
async fn a_server_without_session_ids_is_sent_none() {
    let server = wiremock::MockServer::start().await;
    let answer = |request: &wiremock::Request| {
        let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let result =
            json!({ "protocolVersion": LEGACY, "capabilities": {}, "serverInfo": { "name": "x", "version": "0" } });
        match message.get("id") {
            Some(id) => wiremock::ResponseTemplate::new(200)
                .set_body_json(json!({ "jsonrpc": "2.0", "id": id, "result": result })),
            None => wiremock::ResponseTemplate::new(if message.is_null() { 405 } else { 202 }),
        }
    };
    wiremock::Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
    let (proxy, url) = front(&server.uri(), |_| {}).await;
    let client = LegacySession::open(&url, LEGACY, json!({})).ok().await;
    assert!(client.id.is_some());
    client.request("tools/list", json!({})).ok().await.answer().ok().await;
    client.delete().ok().await;
    within("shutdown", proxy.shutdown()).await;
    for request in server.received_requests().await.unwrap() {
        assert!(!request.headers.contains_key("mcp-session-id"), "{request:?}");
        assert_ne!(request.method.as_str(), "DELETE", "there is nothing to end");
    }
}

/// Lifecycle › Initialization: the server says nothing by itself before it is told that the client is ready.
#[tokio::test]
async fn the_standing_stream_is_opened_when_the_client_listens_and_after_initialized() {
    let stage = Stage::new(legacy()).await;
    let shaken = common::send("POST", &stage.url, &common::json_headers(), &common::initialize(LEGACY)).await;
    let id = shaken.headers.get("mcp-session-id").unwrap().to_owned();
    let session = [("Mcp-Session-Id", id.as_str()), ("MCP-Protocol-Version", LEGACY)];
    let headers: Vec<_> = common::json_headers().into_iter().chain(session).collect();
    let list = common::message("1", "tools/list", "{}");
    assert_eq!(common::send("POST", &stage.url, &headers, &list).await.status, 200);
    assert_eq!(stage.arrived(is_get).len(), 0);
    let initialized = common::notification("notifications/initialized", json!({}));
    assert_eq!(common::send("POST", &stage.url, &headers, &initialized).await.status, 202);
    assert_eq!(common::send("POST", &stage.url, &headers, &list).await.status, 200);
    assert_eq!(stage.arrived(is_get).len(), 0, "nobody listens");
    let listen: Vec<_> = session.into_iter().chain([("Accept", "text/event-stream")]).collect();
    let _stream = common::send("GET", &stage.url, &listen, "").await;
    let get = stage.arrival(is_get).await;
    assert_eq!(get.headers.get("accept"), Some("text/event-stream"));
    assert_eq!(get.headers.get("last-event-id"), None);
}

/// Listening for Messages: a server may have no such stream.
#[tokio::test]
async fn a_server_without_a_standing_stream_is_left_alone() {
    let stage =
        Stage::new(Script { http: HttpScript { get_stream: false, ..HttpScript::default() }, ..legacy() }).await;
    let client = stage.session().await;
    let stream = client.stream(None).ok().await;
    assert_eq!(stream.status, 200, "the client's stream is the proxy's");
    stage.arrival(is_get).await;
    for _ in 0..3 {
        let answer = client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await;
        assert_eq!(text(&answer), "hi");
    }
    assert_eq!(stage.arrived(is_get).len(), 1);
}

/// Many servers have nothing at all under GET, and say so with 404: that is no news of the session.
#[tokio::test]
async fn a_server_that_knows_no_get_is_left_alone() {
    let nothing_there = Do::Status { code: 404, headers: [].into(), body: "Cannot GET /mcp".into() };
    let stage = Stage::new(legacy().fault(On::http("GET"), nothing_there)).await;
    let client = stage.session().await;
    let _stream = client.stream(None).ok().await;
    stage.arrival(is_get).await;
    for _ in 0..3 {
        let answer = client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await;
        assert_eq!(text(&answer), "hi");
    }
    stage.until_metric("shadowcat_upstream_streams", &[], 0.0).await;
    assert_eq!((stage.arrived(is_get).len(), stage.posts("initialize").len()), (1, 1));
}

/// What the server says by itself reaches the client's own stream, however often the server's breaks: each message
/// once, in order (C-SSE-3).
#[tokio::test]
async fn what_the_server_says_by_itself_reaches_the_client() {
    let cut = |nth| (On::http("GET").nth(nth), Do::Cut { after: Some(At { events: 1, bytes: 7 }), end: End::Abrupt });
    let script = [cut(1), cut(2)].into_iter().fold(legacy(), |script, (on, fault)| script.fault(on, fault));
    let stage = Stage::new(script).await;
    let client = stage.session().await;
    let mut stream = client.stream(None).ok().await;
    stage.arrival(is_get).await;
    let kinds = ["tools", "prompts", "resources", "tools", "prompts"];
    for kind in kinds {
        assert_eq!(stage.mock.change(kind), 1);
    }
    for kind in kinds {
        let message = stream.message().ok().await.unwrap();
        assert_eq!(message["method"], format!("notifications/{kind}/list_changed"));
    }
    let resumed = stage.arrived(|request| is_get(request) && request.headers.get("last-event-id").is_some());
    assert_eq!(resumed.len(), 2);
}

/// Sending Messages: the server's requests come on the stream of the call that caused them, and so they do to the client;
/// its answers go back under the server's own ids.
#[tokio::test]
async fn questions_reach_the_client_and_answers_the_server() {
    let stage = Stage::new(legacy()).await;
    let client = stage.session().await;
    for (tool, arguments, answer, expected) in [
        (
            "ask",
            json!({ "message": "?" }),
            json!({ "action": "accept", "content": { "answer": "yes" } }),
            r#"answer: accept {"answer":"yes"}"#,
        ),
        (
            "sample",
            json!({ "prompt": "?" }),
            json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "so" } }),
            "sampled: so",
        ),
        ("roots", json!({}), json!({ "roots": [{ "uri": "file:///a" }] }), "roots: file:///a"),
        (
            "ask",
            json!({ "message": "?", "parallel": 3, "rounds": 2 }),
            json!({ "action": "cancel" }),
            &["answer: cancel null"; 6].join("\n"),
        ),
    ] {
        let mut call = client.call(tool, arguments).ok().await;
        assert!(call.is_sse());
        let answered = loop {
            let message = call.message().ok().await.unwrap();
            if message.get("method").is_none() {
                break message;
            }
            assert_eq!(client.respond(&message["id"], &answer).ok().await.status, 202);
        };
        assert_eq!(text(&answered), expected);
    }
    assert_eq!(stage.mock.stats()["stray_answers"], 0);
    assert_eq!(stage.mock.stats()["answers"], 9);
}

/// A question that is answered with an error, and one to a client of another session, do not cross.
#[tokio::test]
async fn each_client_answers_its_own_questions() {
    let stage = Stage::new(legacy()).await;
    let clients = [stage.session().await, stage.session().await];
    let mut calls = Vec::new();
    for client in &clients {
        calls.push(client.call("ask", json!({ "message": "?" })).ok().await);
    }
    let mut questions = Vec::new();
    for call in &mut calls {
        questions.push(call.message().ok().await.unwrap());
    }
    for ((client, question), name) in clients.iter().zip(&questions).zip(["first", "second"]).rev() {
        client.respond(&question["id"], &json!({ "action": "accept", "content": { "answer": name } })).ok().await;
    }
    for (call, name) in calls.into_iter().zip(["first", "second"]) {
        assert_eq!(text(&call.answer().ok().await), format!(r#"answer: accept {{"answer":"{name}"}}"#));
    }
    let ids: std::collections::BTreeSet<_> =
        stage.posts("tools/call").iter().map(|call| call.headers.get("mcp-session-id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2, "a session for each");
}

/// Ping: the proxy is the client of this hop, and answers for itself.
#[tokio::test]
async fn a_ping_of_the_server_is_answered_by_the_proxy() {
    let ping = Do::Print {
        text: r#"data: {"jsonrpc":"2.0","id":"p-1","method":"ping"}"#.to_owned() + "\n",
        times: 1,
        newline: true,
    };
    let stage = Stage::new(answering(AnswerForm::Sse, legacy().fault(On::tool("echo"), ping))).await;
    let client = stage.session().await;
    let messages = all(client.call("echo", json!({ "text": "hi" })).ok().await).await;
    assert_eq!(messages.len(), 1, "the client hears nothing of it: {messages:?}");
    let pong = stage.arrival(|request| request.json("/id") == "p-1").await;
    assert_eq!(pong.json("/result"), json!({}));
}

/// Cancellation: the server is told, under the name that it knows; the call ends.
#[tokio::test]
async fn a_cancellation_reaches_the_server_under_its_own_name() {
    let stage = Stage::new(legacy()).await;
    let client = stage.session().await;
    let (sent, ()) = tokio::join!(
        client.send(r#"{"jsonrpc":"2.0","id":"mine","method":"tools/call","params":{"name":"sleep","arguments":{"ms":600000}}}"#).ok(),
        async {
            stage.arrival(|request| request.json("/params/name") == "sleep").await;
            let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"mine","reason":"Enough"}}"#;
            assert_eq!(client.send(cancel).ok().await.status, 202);
        }
    );
    assert!(all(sent).await.is_empty(), "a cancelled request is not answered");
    let told = stage.arrival(|request| request.json("/method") == "notifications/cancelled").await;
    assert_eq!(told.json("/params/requestId"), stage.posts("tools/call")[0].json("/id"));
    assert_eq!(told.json("/params/reason"), "Enough");
    assert!(told.headers.get("mcp-session-id").is_some());
    until("it ended", async || stage.mock.stats()["cancelled"].clone(), |count| *count == 1).await;
    assert_eq!(stage.posts("notifications/cancelled").len(), 1, "it is told once");
}

/// A server that does not take one cancellation does not keep the next from it.
#[tokio::test]
async fn cancellations_do_not_wait_for_each_other() {
    let stage = Stage::new(legacy().fault(On::method("notifications/cancelled").nth(1), Do::Hang)).await;
    let client = stage.session().await;
    for n in 1..=2 {
        let cancel = async {
            until("it has begun", async || stage.posts("tools/call").len(), |calls| *calls == n).await;
            client.send(&common::cancelled(json!(n))).ok().await;
        };
        let (call, ()) = tokio::join!(client.call("sleep", json!({ "ms": 600_000 })).ok(), cancel);
        assert!(all(call).await.is_empty());
    }
    until("both are told", async || stage.posts("notifications/cancelled").len(), |told| *told == 2).await;
}

/// A client that lost its connection has not cancelled (Sending Messages): the server is not told, the answer is kept.
#[tokio::test]
async fn a_lost_client_cancels_nothing() {
    let stage = Stage::new(answering(AnswerForm::Sse, legacy())).await;
    let client = stage.session().await;
    let mut call = client.call("ask", json!({ "message": "?" })).ok().await;
    let primed = call.event().ok().await.unwrap().id.unwrap();
    let question = call.message().ok().await.unwrap();
    drop(call);
    let mut resumed = client.stream(Some(&primed)).ok().await;
    assert_eq!(resumed.message().ok().await.unwrap(), question);
    client.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    assert_eq!(text(&resumed.answer().ok().await), "answer: decline null");
    assert_eq!(stage.posts("notifications/cancelled").len(), 0);
}

/// Session Management: a server that forgets a session ends it, and a new one has to be begun. The call that found out was
/// not taken up, so it is sent to the new one; the client's session goes on, and is told that everything may have changed.
#[tokio::test]
async fn a_forgotten_session_is_begun_again() {
    let stage = Stage::new(legacy()).await;
    let client = stage.session().await;
    client.request("logging/setLevel", json!({ "level": "debug" })).ok().await.answer().ok().await;
    client.request("resources/subscribe", json!({ "uri": "fake://resource/1" })).ok().await.answer().ok().await;
    let mut stream = client.stream(None).ok().await;
    stage.arrival(is_get).await;
    stage.mock.forget_sessions();
    let answer = client.call("count", json!({})).ok().await.answer().ok().await;
    assert_eq!((text(&answer), &answer["id"]), ("1", &json!(3)));
    assert_eq!(stage.posts("tools/call").len(), 2, "the one that was refused, and the one that was executed");
    for told in ["resources/updated", "tools/list_changed", "prompts/list_changed", "resources/list_changed"] {
        let changed = next(&mut stream).await.unwrap().json();
        assert_eq!(changed["method"], format!("notifications/{told}"), "{changed}");
    }
    for (method, times) in
        [("initialize", 2), ("notifications/initialized", 2), ("logging/setLevel", 2), ("resources/subscribe", 2)]
    {
        assert_eq!(stage.posts(method).len(), times, "{method}");
    }
    assert_eq!(stage.arrived(|request| request.method == "DELETE").len(), 0, "there is nothing to end");
}

/// The same where each request has a session to itself, and the new handshake takes longer than a client is left in silence.
#[tokio::test]
async fn a_request_waits_for_a_new_session_beside_its_keep_alive() {
    let slow = Do::Delay { ms: 500 };
    let script = legacy().fault(On::method("initialize"), slow).fault(On::tool("count").nth(1), Do::ForgetSession);
    let stage = Stage::with(script, |settings| {
        settings.upstreams[0].isolation = Isolation::Request;
        settings.upstreams[0].reuse = Reuse::Any;
        settings.timeouts.sse_keepalive = Duration::from_millis(100);
    })
    .await;
    let client = stage.session().await;
    let answer = client.call("count", json!({})).ok().await.answer().ok().await;
    assert_eq!(text(&answer), "1", "{answer}");
    assert_eq!(stage.posts("tools/call").len(), 2);
    stage.until_metric("shadowcat_repeats_total", &["reason=\"session_gone\""], 1.0).await;
}

/// The same for a server whose sessions must not be replaced without the client: its session ends, and so does its stream.
#[tokio::test]
async fn a_forgotten_session_ends_where_it_must_not_be_replaced() {
    let end = |settings: &mut Settings| settings.upstreams[0].on_crash = OnCrash::EndSession;
    let stage = Stage::with(legacy(), end).await;
    let client = stage.session().await;
    let mut stream = client.stream(None).ok().await;
    stage.arrival(is_get).await;
    stage.mock.forget_sessions();
    while stream.event().ok().await.is_some() {}
    assert_eq!(client.request("tools/list", json!({})).ok().await.status, 404);
    assert_eq!(stage.posts("initialize").len(), 1);
}

/// Session Management: who ends a session here ends it there.
#[tokio::test]
async fn the_end_of_a_session_is_passed_on() {
    let stage = Stage::new(legacy()).await;
    let client = stage.session().await;
    let session = stage.posts("notifications/initialized")[0].headers.get("mcp-session-id").unwrap().to_owned();
    assert_eq!(client.delete().ok().await.status, 204);
    let ended = stage.arrival(|request| request.method == "DELETE").await;
    assert_eq!(ended.headers.get("mcp-session-id"), Some(session.as_str()));
    assert_eq!(client.request("tools/list", json!({})).ok().await.status, 404);

    let _other = stage.session().await;
    let report = within("shutdown", stage.proxy.shutdown()).await;
    assert!(report.is_clean(), "{report:?}");
    let ends = stage.arrived(|request| request.method == "DELETE");
    assert_eq!(ends.len(), 2, "a proxy that stops ends its sessions: {ends:#?}");
}

/// A server that does not want to be told, or does not answer, holds nothing up.
#[tokio::test]
async fn a_server_that_cannot_end_sessions_holds_nothing_up() {
    for fault in [respond(405, "text/plain", ""), Do::Hang] {
        let stage = Stage::new(legacy().fault(On::http("DELETE"), fault)).await;
        let client = stage.session().await;
        assert_eq!(client.delete().ok().await.status, 204);
        stage.arrival(|request| request.method == "DELETE").await;
        let report = within("shutdown", stage.proxy.shutdown()).await;
        assert!(report.is_clean(), "{report:?}");
    }
}

/// A notification that the server does not take is no success for the client either.
#[tokio::test]
async fn a_notification_that_is_not_taken_is_not_accepted() {
    let refused = legacy().fault(On::method("notifications/roots/list_changed"), respond(500, "text/plain", ""));
    let stage = Stage::new(refused).await;
    let client = stage.session().await;
    let changed = common::notification("notifications/roots/list_changed", json!({}));
    let response = client.send(&changed).ok().await;
    assert_eq!(response.status, 503);
    assert_ours(&response.json().ok().await, -31002);
    assert_eq!(stage.posts("notifications/roots/list_changed").len(), 1);
}

/// 2025-03-26, Batching: nor does it take away the answers to what came with it.
#[tokio::test]
async fn a_notification_that_is_not_taken_leaves_the_rest_of_its_batch_alone() {
    let refused = legacy().fault(On::method("notifications/roots/list_changed"), respond(500, "text/plain", ""));
    let stage = Stage::new(refused).await;
    let client = stage.session_of("2025-03-26").await;
    let changed = common::notification("notifications/roots/list_changed", json!({}));
    let call = common::message("1", "tools/call", r#"{"name":"count","arguments":{}}"#);
    let answers = all(client.send(&format!("[{call},{changed}]")).ok().await).await;
    assert_eq!((answers.len(), text(&answers[0])), (1, "1"), "{answers:?}");
    assert_eq!(client.send(&format!("[{changed},{changed}]")).ok().await.status, 503, "nobody else is to be answered");
}

/// Lifecycle: a refused handshake is the server's own refusal, and leaves no session.
#[tokio::test]
async fn a_refused_handshake_is_passed_on() {
    let refusal = respond(400, "application/json", &error_body(-32602, &json!({ "supported": ["1999-01-01"] })));
    let stage = Stage::new(legacy().fault(On::method("initialize").nth(1), refusal)).await;
    let response = common::send("POST", &stage.url, &common::json_headers(), &common::initialize(LEGACY)).await;
    assert_eq!((response.status, response.headers.get("mcp-session-id")), (200, None));
    let answer = response.answer().ok().await;
    assert_eq!((code(&answer), &answer["id"]), (-32602, &json!(0)));
    assert_eq!(answer["error"]["data"]["supported"], json!(["1999-01-01"]));
    let _session = stage.session().await;
}

/// C-SSE-1: a server that forgets each session as soon as it has begun is not asked for new ones without end: for a client that
/// only listens the proxy tries as often as for a broken stream, and then waits for a request.
#[tokio::test]
async fn a_server_that_forgets_every_session_is_left_alone() {
    // Each stream ends as soon as it is open, and when it is asked for again the session is not known any more.
    let cut = Do::Cut { after: Some(At::default()), end: End::Clean };
    let script = (1..=4).fold(legacy(), |script, session| {
        let script = script.fault(On::http("GET").nth(2 * session - 1), cut.clone());
        script.fault(On::http("GET").nth(2 * session), Do::ForgetSession)
    });
    let stage = Stage::with(script, |settings| {
        settings.timeouts.reconnect_base = std::time::Duration::from_millis(1);
        settings.limits.reconnect_attempts = 3;
    })
    .await;
    let client = stage.session().await;
    let stream = client.stream(None).ok().await;
    stage.until_metric("shadowcat_session_restarts_total", &["given_up"], 1.0).await;
    assert_eq!(stage.posts("initialize").len(), 4, "the client's, and three of the proxy's");
    assert_eq!(text(&client.call("echo", json!({ "text": "on" })).ok().await.answer().ok().await), "on");
    drop(stream);
}
