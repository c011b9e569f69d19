//! What a modern client relies on with a modern server.

use serde_json::{Value, json};
use shadowcat::testing::client::{Modern, Response};
use shadowcat::testing::{Do, On};

use crate::common::*;

const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

async fn post(proxy: &Proxy, request: Modern) -> Response {
    request.post(&proxy.url).ok().await
}

/// 2026-07-28, Basic › Results; Caching: each result says what it is, and what may be kept says for how long and for whom.
#[tokio::test]
async fn results_say_what_they_are_and_how_long_they_keep() {
    let proxy = Proxy::start(modern()).await;
    let cacheable = [
        Modern::new("server/discover"),
        Modern::new("tools/list"),
        Modern::new("prompts/list"),
        Modern::new("resources/list"),
        Modern::new("resources/templates/list"),
        Modern::new("resources/read").param("uri", "shadowcat://demo/hello.txt".into()),
    ];
    for request in cacheable {
        let answer = post(&proxy, request).await.answer().ok().await;
        let result = &answer["result"];
        assert_eq!(result["resultType"], "complete", "{answer}");
        assert!(result["ttlMs"].is_u64(), "{answer}");
        assert!(["public", "private"].map(Value::from).contains(&result["cacheScope"]), "{answer}");
    }
    let discovered = post(&proxy, Modern::new("server/discover")).await.answer().ok().await;
    assert_eq!(discovered["result"]["supportedVersions"], json!([MODERN]));
    let ask = Modern::call("ask", json!({ "message": "?" })).capabilities(everything());
    let asking = post(&proxy, ask).await.answer().ok().await;
    assert_eq!(asking["result"]["resultType"], "input_required");
    assert!(asking["result"].get("ttlMs").is_none() && asking["result"].get("cacheScope").is_none());
}

/// 2026-07-28, Multi Round-Trip Requests: the state that a server hands out comes back to it as it was, and the question
/// is answered by calling again.
#[tokio::test]
async fn a_question_is_answered_by_calling_again() {
    let proxy = Proxy::start(modern()).await;
    let ask = || Modern::call("ask", json!({ "message": "?", "rounds": 2, "parallel": 2 })).capabilities(everything());
    let mut request = ask().id("1");
    for round in 1..=2 {
        let asked = post(&proxy, request).await.answer().ok().await;
        let questions = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}")).clone();
        assert_eq!(questions.len(), 2, "{asked}");
        let answers: Value = questions
            .keys()
            .map(|key| (key.clone(), json!({ "action": "accept", "content": { "answer": key } })))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let next_id = (round + 1).to_string();
        request = ask()
            .id(&next_id)
            .param("requestState", asked["result"]["requestState"].clone())
            .param("inputResponses", answers);
    }
    let answer = post(&proxy, request).await.answer().ok().await;
    assert_eq!(text(&answer).lines().count(), 4, "{answer}");
    let mut again = ask().param("requestState", "made up".into());
    again = again.param("inputResponses", json!({}));
    assert_eq!(code(&post(&proxy, again).await.answer().ok().await), -32602, "the server is asked about its own state");
}

/// 2026-07-28, Basic: requests share nothing, not even on one connection: what the first client could do says nothing
/// about the second.
#[tokio::test]
async fn capabilities_are_those_of_the_request() {
    let proxy = Proxy::start(modern()).await;
    let ask = || Modern::call("ask", json!({ "message": "?" }));
    let able = post(&proxy, ask().capabilities(everything())).await;
    assert_eq!(able.status, 200);
    assert_eq!(able.answer().ok().await["result"]["resultType"], "input_required");
    let unable = post(&proxy, ask()).await;
    assert_eq!(unable.status, 400, "2026-07-28, Basic › Error Codes");
    let answer = unable.json().ok().await;
    assert_eq!(code(&answer), -32021);
    assert_eq!(answer["error"]["data"]["requiredCapabilities"], json!({ "elicitation": {} }));
}

/// 2026-07-28, Streamable HTTP › Sending Messages: a handler's error is an answer, with status 200.
#[tokio::test]
async fn errors_of_handlers_have_status_200() {
    let proxy = Proxy::start(modern()).await;
    for expected in [-32602, -32603, -32000, -32002, 7, -1] {
        let response = post(&proxy, Modern::call("error", json!({ "code": expected, "message": "m" }))).await;
        assert_eq!(response.status, 200, "{expected}");
        assert_eq!(response.json().ok().await["error"], json!({ "code": expected, "message": "m" }), "unchanged");
    }
    let unknown = post(&proxy, Modern::call("no-such-tool", json!({}))).await;
    assert_eq!((unknown.status, code(&unknown.json().ok().await)), (200, -32602));
    let failed = post(&proxy, Modern::call("fail", json!({ "message": "m" }))).await.answer().ok().await;
    assert_eq!(failed["result"]["isError"], true);
}

/// 2026-07-28, Logging: log messages come to the request that asked for some, before its answer, from its level on, and
/// to no other.
#[tokio::test]
async fn log_messages_come_to_the_request_that_wants_them() {
    let proxy = Proxy::start(modern()).await;
    let log = |wanted: Option<&str>, level: &str| {
        let call = Modern::call("log", json!({ "level": level, "text": "t" }));
        match wanted {
            Some(wanted) => call.meta(LOG_LEVEL, wanted.into()),
            None => call,
        }
    };
    for (wanted, level, expected) in
        [(None, "emergency", 0), (Some("warning"), "info", 0), (Some("warning"), "error", 1)]
    {
        let messages = messages(post(&proxy, log(wanted, level)).await).await;
        assert_eq!(messages.len(), expected + 1, "{wanted:?} {level}: {messages:?}");
        assert!(messages[..expected].iter().all(|message| message["method"] == "notifications/message"));
        assert!(messages[expected].get("result").is_some());
    }
}

/// 2026-07-28, Logging: log messages come on the stream of a call's answer. A stream of notifications whose client puts its level
/// on every request, as the Python SDK does, takes nothing from the calls beside it.
#[tokio::test]
async fn a_listener_takes_no_log_message_from_a_call() {
    let proxy = Proxy::start(modern()).await;
    let listen = Modern::new("subscriptions/listen").param("notifications", json!({ "toolsListChanged": true }));
    let mut stream = post(&proxy, listen.log_level("debug")).await;
    assert_eq!(next(&mut stream).await.unwrap().json()["method"], "notifications/subscriptions/acknowledged");
    let log = Modern::call("log", json!({ "level": "error", "text": "t" })).log_level("debug");
    let heard = messages(post(&proxy, log).await).await;
    assert_eq!(heard[0]["method"], "notifications/message", "{heard:?}");
}

/// 2026-07-28, Logging: even a server that logs unasked does not get through to a client that wants no log.
#[tokio::test]
async fn a_noisy_server_is_not_heard_by_those_who_want_silence() {
    let script = modern().fault(On::tool("echo"), Do::Flood { count: 20, bytes: 10 });
    let proxy = Proxy::start(script).await;
    let quiet = messages(post(&proxy, Modern::call("echo", json!({ "text": "x" }))).await).await;
    assert_eq!(quiet.len(), 1, "{quiet:?}");
    let wanting = Modern::call("echo", json!({ "text": "x" })).log_level("debug");
    assert_eq!(messages(post(&proxy, wanting).await).await.len(), 21);
}

/// 2026-07-28, Streamable HTTP: streams are not held back by middle-boxes, and their events have no ids to come back with.
#[tokio::test]
async fn streams_are_marked_as_such_and_cannot_be_resumed() {
    let proxy = Proxy::start(modern()).await;
    let call = Modern::call("progress", json!({ "steps": 3 })).progress_token("t".into());
    let mut response = post(&proxy, call).await;
    assert!(response.is_sse());
    assert_eq!(response.headers.get("x-accel-buffering"), Some("no"));
    assert_eq!(response.headers.get("cache-control"), Some("no-cache, no-transform"));
    let mut seen = 0;
    while let Some(event) = response.event().ok().await {
        assert_eq!((event.id.as_ref(), event.retry.as_ref()), (None, None), "{event:?}");
        seen += 1;
    }
    assert_eq!(seen, 4, "three steps and the answer, and no event to prime");
}

/// 2026-07-28, Streamable HTTP: a silent stream is kept alive with comments.
#[tokio::test]
async fn silent_streams_are_kept_alive() {
    let quick = |settings: &mut shadowcat::settings::Settings| {
        settings.timeouts.sse_keepalive = std::time::Duration::from_millis(100)
    };
    let proxy = Proxy::with(modern(), quick).await;
    let listen = Modern::new("subscriptions/listen").param("notifications", json!({ "toolsListChanged": true }));
    let mut stream = post(&proxy, listen).await;
    assert_eq!(next(&mut stream).await.unwrap().json()["method"], "notifications/subscriptions/acknowledged");
    for _ in 0..2 {
        let event = stream.event().ok().await.unwrap();
        assert_eq!(event.data, None, "a comment: {event:?}");
        assert!(!event.comments.is_empty());
    }
}

/// 2026-07-28, Subscriptions: the stream is acknowledged first, carries what was asked for, tagged with the client's own
/// id in its own type, and nothing else; two clients with the same id do not meet.
#[tokio::test]
async fn subscriptions_carry_the_clients_own_id() {
    let proxy = Proxy::start(modern()).await;
    let client = proxy.client(Era::Modern).await;
    let tag = |message: &Value| message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
    let listen = async |id: &str, filter: Value| {
        let mut stream = post(&proxy, Modern::new("subscriptions/listen").id(id).param("notifications", filter)).await;
        let first = next(&mut stream).await.unwrap().json();
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(tag(&first), serde_json::from_str::<Value>(id).unwrap());
        stream
    };
    let mut tools = listen("1", json!({ "toolsListChanged": true })).await;
    let mut prompts = listen("1", json!({ "promptsListChanged": true })).await;
    let mut both = listen("\"1\"", json!({ "toolsListChanged": true, "promptsListChanged": true })).await;
    assert_eq!(text(&client.call("change", json!({ "kind": "tools" })).await), "told 2");
    assert_eq!(text(&client.call("change", json!({ "kind": "prompts" })).await), "told 2");
    let told = async |stream: &mut Response| {
        let message = next(stream).await.unwrap().json();
        (message["method"].as_str().unwrap().to_owned(), tag(&message))
    };
    let (tools_changed, prompts_changed) = ("notifications/tools/list_changed", "notifications/prompts/list_changed");
    assert_eq!(told(&mut tools).await, (tools_changed.into(), json!(1)));
    assert_eq!(told(&mut prompts).await, (prompts_changed.into(), json!(1)));
    assert_eq!(told(&mut both).await, (tools_changed.into(), json!("1")));
    assert_eq!(told(&mut both).await, (prompts_changed.into(), json!("1")));
    drop(tools);
    client.until_stats("/listeners", 2).await;
}

/// 2026-07-28, Basic › Results: a server that has requests for its client is not one; nothing of them reaches the client.
#[tokio::test]
async fn requests_of_a_server_never_reach_a_modern_client() {
    let question =
        r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}"#;
    let script = modern().fault(On::tool("echo"), Do::Print { text: question.into(), times: 3, newline: true });
    let proxy = Proxy::start(script).await;
    let heard = messages(post(&proxy, Modern::call("echo", json!({ "text": "x" }))).await).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    let stats = proxy.client(Era::Modern).await.stats().await;
    assert_eq!((&stats["answers"], &stats["stray_answers"]), (&json!(0), &json!(0)), "nor is the server answered");
}
