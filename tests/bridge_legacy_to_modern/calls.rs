//! Requests, and what goes with them upstream.

use serde_json::{Value, json};
use shadowcat::testing::{Do, On};

use crate::common::*;
use crate::{Client, Place, Stage};

/// What arrived upstream of a call of the tool `meta`.
async fn arrived(client: &mut Client, params: Value) -> Value {
    let answer = client.request("tools/call", params).await;
    serde_json::from_str(text(&answer)).unwrap()
}

/// 2025-11-25, Tools: a client of any revision lists and calls tools, and sees nothing of the other era.
#[tokio::test]
async fn a_client_of_any_revision_lists_and_calls_tools() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, mut client) in stage.clients(everything()).await {
            let list = client.request("tools/list", json!({})).await;
            assert_eq!(list["id"], "c1", "{what}");
            assert_eq!(list["result"].as_object().unwrap().keys().collect::<Vec<_>>(), ["_meta", "tools"], "{what}");
            assert!(list["result"]["tools"].as_array().unwrap().len() > 10, "{what}");
            let called = client.call("echo", json!({ "text": "äöü" })).await;
            assert_eq!(text(&called), "äöü", "{place:?} {what}");
            assert_eq!(called["result"].get("resultType"), None, "{what}");
            assert_eq!(client.request("ping", json!({})).await["result"], json!({}), "{what}");
        }
    }
}

/// 2026-07-28, Basic › `_meta`: each request says who asks and what that client can do; the client's own metadata stays.
#[tokio::test]
async fn each_request_carries_the_session() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let mut client = Client::Http(stage.session(LEGACY).await);
        let meta = json!({ "traceparent": "00-x", "vendor/x": [1.50], "progressToken": "t",
            "io.modelcontextprotocol/protocolVersion": "1999-01-01", "io.modelcontextprotocol/logLevel": "debug" });
        let params =
            json!({ "name": "meta", "task": { "ttl": 1 }, "requestState": "mine", "_meta": meta, "vendor": 7 });
        let seen = arrived(&mut client, params).await;
        let meta = &seen["_meta"];
        assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], MODERN);
        assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "shadowcat-test-client");
        assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], everything());
        assert_eq!(meta.get("io.modelcontextprotocol/logLevel"), None, "no level was set");
        assert_eq!((&meta["traceparent"], &meta["vendor/x"]), (&json!("00-x"), &json!([1.5])));
        assert!(meta["progressToken"].is_number(), "the name is ours");
        assert_eq!((seen.get("task"), seen.get("requestState"), &seen["vendor"]), (None, None, &json!(7)));
        assert_eq!(stage.lost("task").await, 1.0);
    }
}

/// 2026-07-28, Streamable HTTP › Request Metadata: over HTTP the body's words are repeated in headers, the tool's own included.
#[tokio::test]
async fn headers_repeat_the_body() {
    let stage = Stage::new(Place::Http, modern()).await;
    for (what, mut client) in stage.clients(everything()).await {
        assert_eq!(text(&client.call("region", json!({ "region": "eu" })).await), "eu", "{what}");
    }
    let calls: Vec<_> = stage
        .mock()
        .requests()
        .into_iter()
        .filter(|one| one.body.contains("\"region\"") && one.body.contains("tools/call"))
        .collect();
    assert_eq!(calls.len(), 9);
    for call in calls {
        let header = |name| call.headers.get(name).unwrap_or_default().to_owned();
        assert_eq!(
            [header("mcp-method"), header("mcp-name"), header("mcp-param-region"), header("mcp-protocol-version")],
            ["tools/call", "region", "eu", MODERN]
        );
        assert_eq!(call.headers.get("mcp-session-id"), None);
    }
}

/// 2026-07-28, Streamable HTTP › Client Behavior: who knows an old list of tools reads it again, once, and asks again.
#[tokio::test]
async fn a_refusal_of_headers_has_the_tools_read_again() {
    let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"HeaderMismatch"}}"#;
    let mismatch = || Do::Status {
        code: 400,
        headers: [("Content-Type".into(), "application/json".into())].into(),
        body: body.into(),
    };
    let stage = Stage::new(Place::Http, modern().fault(On::tool("echo").nth(1), mismatch())).await;
    let mut client = Client::Http(stage.session(LEGACY).await);
    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    let stats = stage.mock().stats();
    assert_eq!(stats["requests"]["tools/list"], 2, "{stats}");

    let stage = Stage::new(Place::Http, modern().fault(On::tool("echo"), mismatch())).await;
    let mut client = Client::Http(stage.session(LEGACY).await);
    let answer = client.call("echo", json!({ "text": "x" })).await;
    assert_eq!(code(&answer), -32603, "{answer}");
}

/// 2025-11-25, Logging: the level is the session's; the server gets it with each request.
#[tokio::test]
async fn a_log_level_goes_with_each_request() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, mut client) in stage.clients(everything()).await {
            let log = |level: &str| json!({ "name": "log", "arguments": { "level": level, "text": "words" } });
            let quiet = client.converse("tools/call", log("error"), |_| json!({})).await;
            assert_eq!(quiet.len(), 1, "{what}: before a level is set nothing is logged");
            assert_eq!(client.request("logging/setLevel", json!({ "level": "warning" })).await["result"], json!({}));
            let heard = client.converse("tools/call", log("error"), |_| json!({})).await;
            assert_eq!(heard[0]["params"]["data"], "words", "{place:?} {what}");
            assert_eq!(client.converse("tools/call", log("info"), |_| json!({})).await.len(), 1, "{what}");
            let wrong = client.request("logging/setLevel", json!({ "level": "loud" })).await;
            assert_eq!(code(&wrong), -32602, "{what}");
        }
    }
    let mut silent = modern();
    silent.capabilities = json!({ "tools": {} }).as_object().cloned();
    let stage = Stage::new(Place::Child, silent).await;
    let mut client = Client::Http(stage.session(LEGACY).await);
    assert_eq!(code(&client.request("logging/setLevel", json!({ "level": "info" })).await), -32601);
}

/// 2025-11-25, Progress: under the client's token, in its spelling.
#[tokio::test]
async fn progress_has_the_clients_token() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, mut client) in stage.clients(everything()).await {
            let params =
                json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": "tok" } });
            let heard = client.converse("tools/call", params, |_| json!({})).await;
            let progress: Vec<_> = heard.iter().filter(|one| one["method"] == "notifications/progress").collect();
            assert_eq!(progress.len(), 2, "{place:?} {what}");
            assert!(progress.iter().all(|one| one["params"]["progressToken"] == "tok"), "{what}");
        }
    }
}

/// 2025-11-25, Basic › Responses; Resources › Error Handling: errors have the codes of the client's revision, and their own status.
#[tokio::test]
async fn errors_are_those_of_the_clients_era() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, mut client) in stage.clients(json!({})).await {
            let missing = client.request("resources/read", json!({ "uri": "shadowcat://nowhere" })).await;
            assert_eq!(code(&missing), -32002, "{what}");
            assert_eq!(missing["error"]["data"]["uri"], "shadowcat://nowhere", "{what}");
            assert_eq!(code(&client.request("resources/read", json!({})).await), -32602, "{what}");
            assert_eq!(code(&client.request("vendor/unknown", json!({})).await), -32601, "{what}");
            for other_era in ["tasks/get", "tasks/list", "server/discover", "subscriptions/listen"] {
                assert_eq!(code(&client.request(other_era, json!({})).await), -32601, "{what} {other_era}");
            }
            let unable = client.call("ask", json!({ "message": "?" })).await;
            assert_eq!(code(&unable), -32603, "{what}");
            assert!(unable["error"]["message"].as_str().unwrap().contains("elicitation"), "{what}: {unable}");
            assert_eq!(unable["error"]["data"]["requiredCapabilities"], json!({ "elicitation": {} }), "{what}");
            let own = client.call("error", json!({ "code": -32011, "message": "mine" })).await;
            assert_eq!((code(&own), &own["error"]["message"]), (-32011, &json!("mine")), "{what}");
        }
        let session = stage.session(LEGACY).await;
        let unknown = session.request("vendor/unknown", json!({})).await.unwrap();
        assert_eq!(unknown.status, 200, "{place:?}: 404 would be the end of the session");
    }
}

/// 2025-11-25, Cancellation: the server is told in the way of its era, and the client gets no answer.
#[tokio::test]
async fn a_cancelled_call_is_cancelled_upstream() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let client = Client::Http(stage.session(LEGACY).await);
        let Client::Http(session) = &client else { unreachable!() };
        let sleeping = message("\"s\"", "tools/call", r#"{"name":"sleep","arguments":{"ms":600000}}"#);
        let (response, ()) = tokio::join!(session.send(&sleeping), async {
            let observer = stage.session(LEGACY).await;
            let observer = crate::common::Client::Legacy(observer);
            observer.until_stats("/tools/sleep", 1).await;
            assert_eq!(session.send(&cancelled(json!("s"))).ok().await.status, 202);
            observer.until_stats("/cancelled", 1).await;
        });
        assert_eq!(rest(&mut response.unwrap()).await.len(), 0, "{place:?}");
    }
}

/// 2025-11-25, Streamable HTTP › Sending Messages: who loses the connection has not cancelled, and comes back for the rest.
#[tokio::test]
async fn a_lost_connection_is_no_cancellation() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let session = stage.session(LEGACY).await;
        let params =
            json!({ "name": "progress", "arguments": { "steps": 5, "delay_ms": 20 }, "_meta": { "progressToken": 1 } });
        let mut response = session.request("tools/call", params).ok().await;
        let first = next(&mut response).await.unwrap();
        drop(response);
        let mut resumed = session.stream(first.id.as_deref()).ok().await;
        let rest = rest(&mut resumed).await;
        assert_eq!(rest.len(), 5, "{place:?} {rest:?}");
        assert_eq!(text(&rest[4].json()), "did 5 steps");
    }
}

/// 2025-11-25, Streamable HTTP › Protocol Version Header: a legacy header outranks metadata of the other era.
#[tokio::test]
async fn a_legacy_header_outranks_modern_metadata() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let session = stage.session(LEGACY).await;
        let envelope = json!({ "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": { "name": "liar", "version": "0" } });
        let params = json!({ "name": "meta", "_meta": envelope });
        let answer = session.request("tools/call", params).ok().await.answer().ok().await;
        assert_eq!(answer["result"].get("resultType"), None, "{place:?}: it is answered as a legacy request");
        let seen: Value = serde_json::from_str(text(&answer)).unwrap();
        let client = &seen["_meta"]["io.modelcontextprotocol/clientInfo"]["name"];
        assert_eq!(client, "shadowcat-test-client", "{place:?}: what the session knows counts");
        assert_eq!(seen["_meta"]["io.modelcontextprotocol/clientCapabilities"], everything());
    }
}

/// 2025-03-26, Basic › Batching: each message of a batch is a request of its own.
#[tokio::test]
async fn batches_are_taken_apart() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let session = stage.session("2025-03-26").await;
        let call = |id: u8| message(&id.to_string(), "tools/call", r#"{"name":"echo","arguments":{"text":"x"}}"#);
        let batch =
            format!("[{},{},{}]", call(1), notification("notifications/roots/list_changed", json!({})), call(2));
        let heard = messages(session.send(&batch).ok().await).await;
        let mut ids: Vec<_> = heard.iter().map(|one| (one["id"].as_i64(), text(one).to_owned())).collect();
        ids.sort();
        assert_eq!(ids, [(Some(1), "x".to_owned()), (Some(2), "x".to_owned())], "{place:?}");
        assert_eq!(stage.lost("roots_changed").await, 1.0);
    }
}

/// SIGTERM: a call under way comes to its end in order.
#[tokio::test]
async fn a_signal_lets_calls_end() {
    let program = Program::start(modern(), &[]).await;
    let client = program.session().await;
    let mut response = client.begin("1", Some("\"t\""), "progress", json!({ "steps": 5, "delay_ms": 100 })).await;
    assert_eq!(next(&mut response).await.unwrap().json()["method"], "notifications/progress");
    program.signal(rustix::process::Signal::TERM);
    let rest = messages(response).await;
    assert_eq!((rest.len(), text(rest.last().unwrap())), (5, "did 5 steps"), "{rest:?}");
    assert_eq!(program.exit_code().await, Some(0));
}
