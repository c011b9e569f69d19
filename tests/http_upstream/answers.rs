//! Answers that are none, or not quite: each request has one answer, in bounded time and memory, and the session goes on.

use super::*;
use shadowcat::testing::{At, End, WrongId};

/// Calls a tool under an odd id and gives back status and answer, as a client of either era.
async fn outcome(stage: &Stage, client: Option<&LegacySession>) -> (u16, Option<String>, Value) {
    let response = match client {
        Some(client) => {
            let call =
                r#"{"jsonrpc":"2.0","id":"mine","method":"tools/call","params":{"name":"count","arguments":{}}}"#;
            client.send(call).ok().await
        }
        None => stage.post(&Modern::call("count", json!({})).id("\"mine\"")).await,
    };
    let (status, retry) = (response.status, response.headers.get("retry-after").map(str::to_owned));
    let answer = response.answer().ok().await;
    assert_eq!(answer["id"], "mine", "{answer}");
    (status, retry, answer)
}

/// A server that does this on a call, once for a client of each era; what each is told.
async fn outcomes(fault: Do, change: impl Fn(&mut Settings)) -> Vec<(u16, Value)> {
    let mut outcomes = Vec::new();
    for is_legacy in [true, false] {
        let script = if is_legacy { legacy() } else { modern() };
        let stage = Stage::with(script.fault(On::tool("count").nth(1), fault.clone()), &change).await;
        let client = if is_legacy { Some(stage.session().await) } else { None };
        let (status, _, answer) = outcome(&stage, client.as_ref()).await;
        assert_eq!(stage.posts("tools/call").len(), 1, "it is sent once: {fault:?}");
        let (_, _, next) = outcome(&stage, client.as_ref()).await;
        assert!(next["result"].is_object(), "life goes on after {fault:?}: {next}");
        outcomes.push((status, answer));
    }
    outcomes
}

/// The error is the proxy's, of this code, and may or may not be tried again.
async fn is_ours(fault: Do, code: i64, retryable: bool) {
    is_ours_with(fault, code, retryable, |_| {}).await;
}

async fn is_ours_with(fault: Do, code: i64, retryable: bool, change: impl Fn(&mut Settings)) {
    for (status, answer) in outcomes(fault.clone(), change).await {
        assert_ours(&answer, code);
        assert_eq!(status, 200, "the request was passed on: {answer}");
        assert_eq!(answer["error"]["data"]["retryable"], retryable, "{fault:?}: {answer}");
    }
}

/// Errors that a server sends with a status of HTTP carry no id, or null (Streamable HTTP › Sending Messages), or a word
/// of one SDK's: they are about the one request there is, and reach the client under its name.
#[tokio::test]
async fn an_error_without_an_id_is_answered_to_the_client() {
    let data = json!({ "z": 1, "a": [null] });
    let missing = r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"no","data":{"z":1,"a":[null]}}}"#.to_owned();
    let foreign = missing.replace(r#""error""#, r#""id":"server-error","error""#);
    for (status, body) in
        [(400, error_body(-32602, &data)), (400, missing), (400, foreign), (500, error_body(-32602, &data))]
    {
        for (http, answer) in outcomes(respond(status, "application/json", &body), |_| {}).await {
            assert_eq!(answer["error"], json!({ "code": -32602, "message": "no", "data": data }));
            assert_eq!(http, 200, "a status of the proxy's own would be taken for its own trouble");
        }
    }
}

/// Credentials are between proxy and server: the client is told what is the matter, and cannot help it.
#[tokio::test]
async fn refused_credentials_are_an_error_that_says_so() {
    for status in [401, 403] {
        let challenge = [("WWW-Authenticate".to_owned(), "Bearer resource_metadata=\"http://x/\"".to_owned())];
        let refused = Do::Status { code: status, headers: challenge.into(), body: error_body(-32001, &Value::Null) };
        for (_, answer) in outcomes(refused, |_| {}).await {
            assert_ours(&answer, -31002);
            assert_eq!(answer["error"]["data"]["reason"], "credentials");
            let told = answer["error"]["message"].as_str().unwrap();
            assert!(told.contains(&status.to_string()) && !told.contains("repeated"), "{told}");
        }
    }
}

/// A body that is no message, or none at all.
#[tokio::test]
async fn a_response_that_is_no_answer_is_a_violation() {
    let json = "application/json";
    for fault in [
        respond(200, "text/html", "<h1>Welcome</h1>"),
        respond(200, "text/plain", r#"{"jsonrpc":"2.0","id":2,"result":{}}"#),
        Do::ContentType("application/octet-stream".into()),
        respond(200, json, r#"{"jsonrpc":"2.0","id":"#),
        respond(200, json, "[]"),
        respond(200, json, "null"),
        respond(200, json, r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#),
        respond(202, "text/plain", ""),
        respond(204, "text/plain", ""),
        Do::InvalidUtf8,
    ] {
        is_ours(fault, -31006, false).await;
    }
    let gzip =
        [("Content-Type", json), ("Content-Encoding", "gzip")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    is_ours(Do::Status { code: 200, headers: gzip.into(), body: "\u{1f}".into() }, -31006, false).await;
}

/// An answer to something else is no answer.
#[tokio::test]
async fn an_answer_with_another_id_is_not_the_answer() {
    for wrong in [WrongId::Unknown, WrongId::Retyped, WrongId::Null, WrongId::Missing] {
        for (_, answer) in outcomes(Do::Id(wrong), |_| {}).await {
            assert_eq!(answer["error"]["data"]["origin"], "proxy", "{wrong:?}: {answer}");
            assert!([-31003, -31006].contains(&code(&answer)), "{wrong:?}: {answer}");
        }
    }
    is_ours(Do::ResultAndError, -31006, false).await;
}

/// A stream that ends after an event that is no message has said all there is: the call fails at once, and the stream is not looked for again.
#[tokio::test]
async fn an_event_that_is_no_message_is_no_answer() {
    for garbled in [r#"{"jsonrpc":"2.0","result":{}}"#, "{", "[]"] {
        let stream = format!("id: 1\ndata:\n\nid: 2\ndata: {garbled}\n\n");
        is_ours(respond(200, "text/event-stream", &stream), -31006, false).await;
    }
}

/// A body that breaks off is not delivered, however much of it looks like an answer.
#[tokio::test]
async fn a_body_that_breaks_off_is_lost() {
    for end in [End::Abrupt, End::Reset] {
        for bytes in [0, 1, 30] {
            is_ours(Do::Cut { after: Some(At { events: 0, bytes }), end }, -31003, false).await;
        }
    }
}

/// A message is bounded before it is kept: as a body, and as an event that never ends.
#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let small = |settings: &mut Settings| settings.limits.message_bytes = 16 << 10;
    let large = format!(r#"{{"jsonrpc":"2.0","id":2,"result":{{"x":"{}"}}}}"#, "y".repeat(20 << 10));
    is_ours_with(respond(200, "application/json", &large), -31007, false, small).await;
    is_ours_with(respond(200, "text/event-stream", &format!("data: {large}\n\n")), -31007, false, small).await;
    for script in [legacy(), modern()] {
        let huge = Do::Huge { bytes: 1 << 20, newline: false };
        let stage = Stage::with(answering(AnswerForm::Sse, script.fault(On::tool("count").nth(1), huge)), small).await;
        let client =
            if stage.post(&Modern::new("tools/list")).await.status == 200 { None } else { Some(stage.session().await) };
        let (_, _, answer) = outcome(&stage, client.as_ref()).await;
        assert_ours(&answer, -31007);
    }
}

/// Headers are bounded too.
#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    is_ours(Do::Header { bytes: 200 << 10, endless: false }, -31003, false).await;
}

/// Redirections are not followed: the request, with the credentials in it, goes where it was configured to go.
#[tokio::test]
async fn redirections_are_not_followed() {
    let elsewhere = MockSse::start(Script::default()).ok().await;
    for status in [301, 302, 303, 307, 308] {
        let location = [("Location".to_owned(), elsewhere.url())];
        for (_, answer) in
            outcomes(Do::Status { code: status, headers: location.into(), body: String::new() }, |_| {}).await
        {
            assert_ours(&answer, -31002);
            assert!(!answer.to_string().contains(&elsewhere.url()), "{answer}");
            let advice = answer["error"]["message"].as_str().unwrap();
            assert!(advice.ends_with("the URL that is configured may not be its own"), "{advice}");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

/// A server that is busy says when to come back, in either form; the client is told.
#[tokio::test]
async fn a_busy_server_says_when_to_come_back() {
    let busy = |status, retry: &str| Do::Status {
        code: status,
        headers: [("Retry-After".into(), retry.into())].into(),
        body: String::new(),
    };
    for status in [429, 503] {
        for (_, answer) in outcomes(busy(status, "7"), |_| {}).await {
            assert_ours(&answer, -31002);
            assert_eq!(
                (&answer["error"]["data"]["reason"], &answer["error"]["data"]["retryable"]),
                (&json!("busy"), &json!(true))
            );
            assert_eq!(answer["error"]["data"]["retryAfter"], 7, "{answer}");
        }
    }
    for (_, answer) in outcomes(busy(503, "Fri, 31 Dec 1999 23:59:59 GMT"), |_| {}).await {
        assert_eq!(answer["error"]["data"]["retryAfter"], 0, "{answer}");
    }
    for (_, answer) in outcomes(busy(503, "whenever"), |_| {}).await {
        assert_eq!(answer["error"]["data"].get("retryAfter"), None, "{answer}");
    }
}

/// After a failure of the server nobody knows what it has done; a refusal is a promise that it did nothing.
#[tokio::test]
async fn a_failure_leaves_the_outcome_open_and_a_refusal_does_not() {
    // 503 without a word of when to come back is what a gateway says whose server went away in the midst of it.
    for status in [500, 502, 503, 504] {
        is_ours(respond(status, "text/html", "<h1>Oops</h1>"), -31003, false).await;
    }
    for status in [400, 406, 410, 415] {
        is_ours(respond(status, "text/plain", "no"), -31002, true).await;
    }
}

/// A server that says nothing is given up after the configured time, and told so in the way of its era.
#[tokio::test]
async fn a_silent_server_is_given_up() {
    let quick = |settings: &mut Settings| settings.timeouts.request = std::time::Duration::from_millis(100);
    for fault in [Do::Hang, Do::Stall(At::default()), Do::Stall(At { events: 0, bytes: 5 })] {
        for script in [legacy(), modern()] {
            let stage = Stage::with(script.fault(On::tool("count").nth(1), fault.clone()), quick).await;
            let is_modern = stage.post(&Modern::new("tools/list")).await.status == 200;
            let client = if is_modern { None } else { Some(stage.session().await) };
            let (_, _, answer) = outcome(&stage, client.as_ref()).await;
            assert_ours(&answer, -31001);
            assert_eq!(answer["error"]["data"]["retryable"], false);
            if !is_modern {
                let told = stage.arrival(|request| request.json("/method") == "notifications/cancelled").await;
                assert_eq!(told.json("/params/requestId"), stage.posts("tools/call")[0].json("/id"));
            }
        }
    }
}

/// A server that is not there: provably nothing was done.
#[tokio::test]
async fn a_server_that_is_gone_is_unavailable() {
    let stage = Stage::new(legacy()).await;
    let client = stage.session().await;
    let Stage { url, proxy: _proxy, mock, .. } = stage;
    drop(mock);
    let answer = client.call("count", json!({})).ok().await.answer().ok().await;
    assert_ours(&answer, -31002);
    assert_eq!(answer["error"]["data"]["retryable"], true, "{answer}");
    let shaken = common::send("POST", &url, &common::json_headers(), &common::initialize(LEGACY)).await;
    assert!(shaken.headers.get("mcp-session-id").is_none());
    assert_ours(&shaken.answer().ok().await, -31002);
}

/// A server that cannot be reached refuses nobody's handshake: its client is told to come back, by a status of its own.
#[tokio::test]
async fn an_initialize_that_reaches_nobody_may_be_tried_again() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_proxy, url) = front(&format!("http://{nobody}/mcp"), |_| {}).await;
    let response = common::send("POST", &url, &common::json_headers(), &common::initialize(LEGACY)).await;
    assert_eq!((response.status, response.headers.get("retry-after")), (503, Some("5")));
    assert_ours(&response.json().ok().await, -31002);
}
