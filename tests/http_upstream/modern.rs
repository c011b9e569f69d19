//! Stateless requests over HTTP: relayed, streamed, cancelled by being dropped (2026-07-28, Streamable HTTP; Cancellation).

use super::*;
use shadowcat::testing::{At, End};

/// Cancellation: closing the response stream is the cancellation, and passed on at once.
#[tokio::test]
async fn a_client_that_goes_away_cancels_upstream() {
    for answer in [AnswerForm::Auto, AnswerForm::Sse] {
        let stage = Stage::new(answering(answer, modern())).await;
        let call = Modern::call("sleep", json!({ "ms": 600_000 }));
        let url = stage.url.clone();
        tokio::select! {
            response = call.post(&url) => panic!("it has nothing to answer: {response:?}"),
            _ = stage.arrival(|request| request.json("/params/name") == "sleep") => {}
        }
        until("it is cancelled", async || stage.mock.stats()["cancelled"].clone(), |count| *count == 1).await;
        assert_eq!(stage.posts("notifications/cancelled").len(), 0, "there is no such message over HTTP");
    }
}

/// The same once something has been said.
#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_cancels_upstream() {
    let stage = Stage::new(modern()).await;
    let call = Modern::call("progress", json!({ "steps": 1000, "delay_ms": 200 })).progress_token("t".into());
    let mut response = stage.post(&call).await;
    assert_eq!(response.message().ok().await.unwrap()["params"]["progress"], 1);
    drop(response);
    until("it is cancelled", async || stage.mock.stats()["cancelled"].clone(), |count| *count == 1).await;
}

/// There is no resumption: what is lost is lost, and is not sent again.
#[tokio::test]
async fn a_broken_stream_is_an_error() {
    for end in [End::Abrupt, End::Clean, End::Reset] {
        let cut = Do::Cut { after: Some(At { events: 1, bytes: 3 }), end };
        let stage = Stage::new(modern().fault(On::tool("progress"), cut)).await;
        let call = Modern::call("progress", json!({ "steps": 3 })).progress_token("t".into());
        let messages = all(stage.post(&call).await).await;
        assert_eq!(progress(&messages), [1], "{end:?}");
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert_ours(&messages[1], -31003);
        assert_eq!(stage.posts("tools/call").len(), 1);
        assert_eq!(stage.arrived(is_get).len(), 0);
    }
}

/// What the proxy does not own passes as it was written, both ways, over either form of response.
#[tokio::test]
async fn numbers_and_order_stay_as_they_were_written() {
    let odd = r#"{"z":1.10,"a":1E5,"n":18446744073709551616,"s":"\u00e9\/","z2":{"b":-0,"a":[ 1.0 ]}}"#;
    for answer in [AnswerForm::Json, AnswerForm::Sse] {
        for is_modern in [true, false] {
            let server = wiremock::MockServer::start().await;
            let result = odd.to_owned();
            let reply = move |request: &wiremock::Request| {
                let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let Some(id) = message.get("id") else { return wiremock::ResponseTemplate::new(405) };
                let result = match message["method"].as_str() {
                    Some("server/discover") => r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#.to_owned(),
                    Some("initialize") => format!(
                        r#"{{"protocolVersion":"{LEGACY}","capabilities":{{}},"serverInfo":{{"name":"x","version":"0"}}}}"#
                    ),
                    _ => result.clone(),
                };
                let text = format!(r#"{{"result":{result},"extra":1.0,"id":{id},"jsonrpc":"2.0"}}"#);
                match answer {
                    AnswerForm::Sse => wiremock::ResponseTemplate::new(200)
                        .set_body_raw(format!("data: {text}\n\n"), "text/event-stream"),
                    _ => wiremock::ResponseTemplate::new(200).set_body_raw(text, "application/json"),
                }
            };
            wiremock::Mock::given(wiremock::matchers::any()).respond_with(reply).mount(&server).await;
            let (_proxy, url) = front(&server.uri(), |_| {}).await;
            let params = format!(r#"{{"name":"x","arguments":{odd}"#);
            let response = if is_modern {
                let meta = r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"own":1.50}}"#;
                let message = common::message("1.0", "tools/call", &format!("{params}{meta}"));
                let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "x")];
                common::send("POST", &url, &[common::json_headers(), headers.to_vec()].concat(), &message).await
            } else {
                let shaken = common::send("POST", &url, &common::json_headers(), &common::initialize(LEGACY)).await;
                let id = shaken.headers.get("mcp-session-id").unwrap().to_owned();
                let headers = [common::json_headers(), vec![("Mcp-Session-Id", id.as_str())]].concat();
                common::send("POST", &url, &headers, &common::message("1.0", "tools/call", &format!("{params}}}")))
                    .await
            };
            let body = response.text().ok().await;
            assert!(body.contains(&format!(r#"{{"result":{odd},"extra":1.0,"id":1.0,"jsonrpc":"2.0"}}"#)), "{body}");
            let requests = server.received_requests().await.unwrap();
            let calls: Vec<_> = requests
                .iter()
                .map(|request| String::from_utf8_lossy(&request.body))
                .filter(|body| body.contains("tools/call"))
                .collect();
            assert_eq!(calls.len(), 1);
            assert!(calls[0].contains(&params), "{}", calls[0]);
        }
    }
}

/// Multi Round-Trip Requests: nothing of the state passes through a hand that could change it, and each leg is a call of its own.
#[tokio::test]
async fn a_call_that_needs_input_is_continued() {
    let stage = Stage::new(modern()).await;
    let capable =
        || Modern::call("ask", json!({ "message": "?", "rounds": 2 })).capabilities(json!({ "elicitation": {} }));
    let mut answer = stage.post(&capable()).await.answer().ok().await;
    for round in 2..=3 {
        let result = &answer["result"];
        assert_eq!(result["resultType"], "input_required", "{answer}");
        let keys = result["inputRequests"].as_object().unwrap().keys();
        let responses: Value = keys
            .map(|key| (key.clone(), json!({ "action": "accept", "content": { "answer": round } })))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let next = capable()
            .id(&round.to_string())
            .param("requestState", result["requestState"].clone())
            .param("inputResponses", responses);
        answer = stage.post(&next).await.answer().ok().await;
        assert_eq!(answer["id"], round);
    }
    assert_eq!(text(&answer), "answer: accept {\"answer\":2}\nanswer: accept {\"answer\":3}");
    let response = stage.post(&Modern::call("ask", json!({ "message": "?" }))).await;
    assert_eq!(response.status, 400);
    let refused = response.answer().ok().await;
    assert_eq!(
        (code(&refused), &refused["error"]["data"]["requiredCapabilities"]),
        (-32021, &json!({ "elicitation": {} }))
    );
}

/// Subscriptions: a stream under the client's own name; its end ends the server's, and the server's ends it.
#[tokio::test]
async fn a_subscription_is_a_stream() {
    const TAG: &str = "io.modelcontextprotocol/subscriptionId";
    let stage = Stage::new(modern()).await;
    let listen = |id: &str| {
        Modern::new("subscriptions/listen").id(id).param("notifications", json!({ "toolsListChanged": true }))
    };
    let mut streams = [stage.post(&listen("\"a\"")).await, stage.post(&listen("\"b\"")).await];
    for (stream, id) in streams.iter_mut().zip(["a", "b"]) {
        let acknowledged = stream.message().ok().await.unwrap();
        assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(acknowledged["params"]["_meta"][TAG], id);
    }
    assert_eq!(stage.mock.change("tools"), 2);
    for (stream, id) in streams.iter_mut().zip(["a", "b"]) {
        let changed = stream.message().ok().await.unwrap();
        assert_eq!(
            (&changed["method"], &changed["params"]["_meta"][TAG]),
            (&json!("notifications/tools/list_changed"), &json!(id))
        );
    }
    let [first, second] = streams;
    drop(first);
    until("one is left", async || stage.mock.stats()["listeners"].clone(), |count| *count == 1).await;
    drop(second);
    until("none is left", async || stage.mock.stats()["listeners"].clone(), |count| *count == 0).await;
}

/// Logging: only who asks for log messages gets any, on the stream of the request that asked.
#[tokio::test]
async fn log_messages_come_to_who_asked_for_them() {
    let stage = Stage::new(modern()).await;
    let log = || Modern::call("log", json!({ "level": "warning", "text": "x" }));
    assert_eq!(all(stage.post(&log()).await).await.len(), 1);
    let messages = all(stage.post(&log().log_level("info")).await).await;
    assert_eq!(messages[0]["method"], "notifications/message");
    assert_eq!(text(&messages[1]), "logged");
}

/// Many at once, over one server: each gets its own answer, whatever ids they chose.
#[tokio::test]
async fn many_clients_with_the_same_id_get_their_own_answers() {
    let stage = Stage::new(answering(AnswerForm::Sse, modern())).await;
    let calls = (0..32).map(|n| {
        let call = Modern::call("echo", json!({ "text": n.to_string() })).id("1");
        let url = stage.url.clone();
        async move { call.post(&url).ok().await.answer().ok().await }
    });
    for (n, answer) in futures_util::future::join_all(calls).await.iter().enumerate() {
        assert_eq!((text(answer), &answer["id"]), (n.to_string().as_str(), &json!(1)));
    }
    let ids: std::collections::BTreeSet<_> =
        stage.posts("tools/call").iter().map(|call| call.json("/id").to_string()).collect();
    assert_eq!(ids.len(), 32);
}
