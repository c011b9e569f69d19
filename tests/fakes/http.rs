//! What the server says over HTTP when nothing goes wrong, or one connection does.

use super::*;

#[tokio::test]
async fn a_modern_request_is_answered_as_json_or_sse() {
    for (answer, sse) in [(AnswerForm::Auto, false), (AnswerForm::Json, false), (AnswerForm::Sse, true)] {
        let mock = start(script(answer)).await;
        let response = Modern::call("echo", json!({ "text": "hi" })).id("1.0").post(&mock.url()).await.unwrap();
        assert_eq!((response.status, response.is_sse()), (200, sse));
        assert_eq!(response.headers.get("mcp-session-id"), None);
        assert_eq!(text(&response.answer().await.unwrap()), "hi");
    }
}

#[tokio::test]
async fn progress_makes_a_response_a_stream() {
    let mock = start(Script::default()).await;
    let call = Modern::call("progress", json!({ "steps": 2 })).progress_token("t".into());
    let mut response = call.post(&mock.url()).await.unwrap();
    assert!(response.is_sse());
    for step in 1..=2 {
        let event = response.event().await.unwrap().unwrap();
        assert_eq!((event.id, event.event), (None, None), "modern events have no ids");
        assert_eq!(serde_json::from_str::<Value>(&event.data.unwrap()).unwrap()["params"]["progress"], step);
    }
    assert_eq!(response.message().await.unwrap().unwrap()["id"], 1);
    assert_eq!(response.event().await.unwrap(), None);
}

#[tokio::test]
async fn headers_have_to_say_what_the_body_says() {
    let mock = start(Script::default()).await;
    let call = || Modern::call("region", json!({ "region": "eu" })).header("Mcp-Param-Region", Some("eu"));
    let url = mock.url();
    let code = async |request: Modern| {
        let response = request.post(&url).await.unwrap();
        let status = response.status;
        (status, response.answer().await.unwrap()["error"]["code"].as_i64())
    };
    assert_eq!(code(call()).await, (200, None));
    assert_eq!(code(call().header("Mcp-Name", Some("=?base64?cmVnaW9u?="))).await, (200, None));
    for name in ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"] {
        assert_eq!(code(call().header(name, None)).await, (400, Some(-32020)), "without {name}");
        assert_eq!(code(call().header(name, Some("2025-06-18"))).await, (400, Some(-32020)), "wrong {name}");
    }
    let other = Modern::call("region", json!({ "region": "eu" }));
    assert_eq!(code(other.header("Mcp-Param-Region", Some("us"))).await, (400, Some(-32020)));
    assert_eq!(code(Modern::new("no/such")).await, (404, Some(-32601)));
    assert_eq!(code(Modern::new("ping")).await, (404, Some(-32601)));
    let version = "io.modelcontextprotocol/protocolVersion";
    assert_eq!(code(Modern::new("tools/list").meta(version, "2031-01-01".into())).await, (400, Some(-32022)));
    assert_eq!(code(Modern::new("tools/list").capabilities(Value::Null)).await, (400, Some(-32602)));
    let bare = Modern::new("tools/list").meta(version, Value::Null);
    assert_eq!(code(bare.header("MCP-Protocol-Version", Some("2026-07-28"))).await, (400, Some(-32602)));
    let notified = Modern::new("notifications/x").notification().post(&mock.url()).await.unwrap();
    assert_eq!(notified.status, 202);
}

#[tokio::test]
async fn a_modern_client_that_goes_away_cancels() {
    let mock = start(script(AnswerForm::Sse)).await;
    let response = Modern::call("sleep", json!({ "ms": 60_000 })).post(&mock.url()).await.unwrap();
    drop(response);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while mock.stats()["cancelled"] != 1 {
        assert!(tokio::time::Instant::now() < deadline, "{}", mock.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_subscription_is_a_stream() {
    let mock = start(Script::default()).await;
    let filter = json!({ "toolsListChanged": true });
    let listen = Modern::new("subscriptions/listen").id("\"s\"").param("notifications", filter.clone());
    let mut stream = listen.post(&mock.url()).await.unwrap();
    let acknowledged = stream.message().await.unwrap().unwrap();
    assert_eq!(acknowledged["params"]["notifications"], filter);
    while mock.change("tools") == 0 {
        tokio::task::yield_now().await;
    }
    let changed = stream.message().await.unwrap().unwrap();
    assert_eq!(changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "s");
    assert_eq!(mock.change("prompts"), 0);
}

#[tokio::test]
async fn a_session_lives_and_ends() {
    let mock = start(Script::default()).await;
    let session = session(&mock).await;
    assert!(session.id.as_ref().is_some_and(|id| id.len() >= 32));
    let response = session.call("echo", json!({ "text": "x" })).await.unwrap();
    assert_eq!((response.status, response.headers.get("mcp-session-id")), (200, None));
    assert_eq!(text(&response.answer().await.unwrap()), "x");

    let stranger = post(&mock.url(), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, &[]).await.unwrap();
    assert_eq!(stranger.status, 400);
    let odd = [("Mcp-Session-Id", session.id.as_deref().unwrap()), ("MCP-Protocol-Version", "1999-01-01")];
    let response = post(&mock.url(), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, &odd).await.unwrap();
    assert_eq!(response.status, 400);

    assert_eq!(session.delete().await.unwrap().status, 204);
    assert_eq!(session.delete().await.unwrap().status, 404);
    assert_eq!(session.request("ping", json!({})).await.unwrap().status, 404);
    assert_eq!(session.stream(None).await.unwrap().status, 404);
    let initialize = mock.requests().into_iter().find(|request| request.json("/method") == "initialize").unwrap();
    assert_eq!((initialize.method.as_str(), initialize.target.as_str()), ("POST", "/mcp"));
}

#[tokio::test]
async fn a_question_rides_on_the_stream_of_its_call() {
    let mock = start(Script::default()).await;
    let session = session(&mock).await;
    let mut call = session.call("ask", json!({ "message": "well?" })).await.unwrap();
    let question = call.message().await.unwrap().unwrap();
    assert_eq!(question["method"], "elicitation/create");
    let accepted = session.respond(&question["id"], &json!({ "action": "accept", "content": {} })).await.unwrap();
    assert_eq!(accepted.status, 202);
    assert_eq!(text(&call.answer().await.unwrap()), "answer: accept {}");
}

#[tokio::test]
async fn what_nobody_asked_for_comes_on_the_newest_get_stream() {
    let mock = start(Script::default()).await;
    let session = session(&mock).await;
    mock.change("tools");
    let mut old = session.stream(None).await.unwrap();
    assert_eq!(old.message().await.unwrap().unwrap()["method"], "notifications/tools/list_changed");
    let mut new = session.stream(None).await.unwrap();
    assert_eq!(old.event().await.unwrap(), None, "the older stream ends");
    mock.change("prompts");
    assert_eq!(new.message().await.unwrap().unwrap()["method"], "notifications/prompts/list_changed");
}

#[tokio::test]
async fn a_lost_stream_is_resumed_where_it_broke_off() {
    let cut = Do::Cut { after: Some(At { events: 2, bytes: 9 }), end: End::Abrupt };
    let mock = start(Script::default().fault(On::tool("progress"), cut)).await;
    let session = session(&mock).await;
    let params = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": 1 } });
    let mut call = session.request("tools/call", params).await.unwrap();
    let (prime, first, second) = (
        call.event().await.unwrap().unwrap(),
        call.event().await.unwrap().unwrap(),
        call.event().await.unwrap().unwrap(),
    );
    assert_eq!((prime.data.as_deref(), first.json()["params"]["progress"].as_u64()), (Some(""), Some(1)));
    call.event().await.unwrap_err();

    let mut resumed = session.stream(second.id.as_deref()).await.unwrap();
    assert_eq!(resumed.event().await.unwrap().unwrap().json()["params"]["progress"], 3);
    assert_eq!(text(&resumed.event().await.unwrap().unwrap().json()), "did 3 steps");
    assert_eq!(resumed.event().await.unwrap(), None);
    let mut all = session.stream(prime.id.as_deref()).await.unwrap();
    assert_eq!(all.event().await.unwrap(), Some(first));
    assert_eq!(session.stream(Some("77-1")).await.unwrap().status, 400);
}

#[tokio::test]
async fn a_server_can_have_its_client_poll() {
    let mock = start(Script::default().fault(On::tool("sleep"), Do::Poll { retry_ms: Some(30) })).await;
    let session = session(&mock).await;
    let mut call = session.call("sleep", json!({ "ms": 100 })).await.unwrap();
    let prime = call.event().await.unwrap().unwrap();
    assert_eq!(call.event().await.unwrap().unwrap().retry.as_deref(), Some("30"));
    assert_eq!(call.event().await.unwrap(), None, "a proper end");
    let resumed = session.stream(prime.id.as_deref()).await.unwrap();
    assert_eq!(text(&resumed.answer().await.unwrap()), "slept 100 ms");
}

#[tokio::test]
async fn http_sse_works_as_of_old() {
    let mock = start(Script::default()).await;
    let mut session = SseSession::open(&mock.sse_url(), "2024-11-05", json!({})).await.unwrap();
    assert_eq!(session.initialized["protocolVersion"], "2024-11-05");
    let call = json!({ "jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": { "name": "pid" } });
    assert_eq!(session.send(&call.to_string()).await.unwrap().status, 202);
    assert_eq!(session.next().await.unwrap()["id"], 4);
    mock.change("tools");
    assert_eq!(session.next().await.unwrap()["method"], "notifications/tools/list_changed");
    let nobody = format!("{}x", session.endpoint);
    assert_eq!(post(&nobody, &call.to_string(), &[]).await.unwrap().status, 404);
}
