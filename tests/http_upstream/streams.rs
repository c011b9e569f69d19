//! Streams that break: resumed where the server said how, lost where it did not, never sent twice
//! (2025-11-25, Transports › Resumability and Redelivery).

use std::time::Duration;

use super::*;
use shadowcat::testing::{At, End, LineEnd};

fn cut(events: u64, bytes: i64, end: End) -> Do {
    Do::Cut { after: Some(At { events, bytes }), end }
}

/// A call that reports so many steps.
pub(super) async fn steps(client: &LegacySession, steps: u64) -> Response {
    let params = json!({ "name": "progress", "arguments": { "steps": steps }, "_meta": { "progressToken": "t" } });
    client.request("tools/call", params).ok().await
}

/// C-SSE-3, C-SSE-4: however a stream breaks, the client sees one uninterrupted answer, and the server one request.
#[tokio::test]
async fn a_broken_stream_is_resumed() {
    for end in [End::Abrupt, End::Clean, End::Reset] {
        for (events, bytes) in [(0, 0), (0, 40), (2, 0), (2, 5), (2, 40)] {
            let stage =
                Stage::new(answering(AnswerForm::Sse, legacy().fault(On::tool("progress"), cut(events, bytes, end))))
                    .await;
            let client = stage.session().await;
            let messages = all(steps(&client, 4).await).await;
            let case = format!("{end:?} after {events} events and {bytes} bytes");
            assert_eq!(progress(&messages), [1, 2, 3, 4], "{case}");
            assert_eq!(messages.len(), 5, "{case}: {messages:?}");
            assert_eq!(text(&messages[4]), "did 4 steps", "{case}");
            assert_eq!(stage.posts("tools/call").len(), 1, "{case}");
            let resumed = stage.arrived(|request| request.headers.get("last-event-id").is_some());
            assert_eq!(resumed.len(), 1, "{case}");
            let stream = resumed[0].headers.get("last-event-id").unwrap();
            assert!(stream.ends_with(&format!("-{events}")), "{case}: the last complete event, not {stream}");
        }
    }
}

/// C-SSE, evidence: a server that drops every few events; the client sees all, once each, in order, on one connection.
#[tokio::test]
async fn a_stream_that_breaks_again_and_again_is_one_stream_to_the_client() {
    let script =
        legacy().fault(On::tool("progress"), cut(30, 11, End::Abrupt)).fault(On::http("GET"), cut(30, 11, End::Abrupt));
    let stage = Stage::new(script).await;
    let client = stage.session().await;
    let messages = all(steps(&client, 100).await).await;
    assert_eq!(progress(&messages), (1..=100).collect::<Vec<_>>());
    assert_eq!(messages.len(), 101);
    assert_eq!(stage.posts("tools/call").len(), 1);
}

/// A server that hangs up by design and says when to come back is polled, not before that time (Sending Messages).
#[tokio::test]
async fn a_server_may_have_itself_polled() {
    let poll = Do::Poll { retry_ms: Some(300) };
    let stage = Stage::new(legacy().fault(On::tool("echo"), poll)).await;
    let client = stage.session().await;
    let answer = client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await;
    assert_eq!(text(&answer), "hi");
    let call = &stage.posts("tools/call")[0];
    let back = stage.arrived(|request| request.headers.get("last-event-id").is_some());
    assert_eq!(back.len(), 1);
    assert!(back[0].at - call.at >= Duration::from_millis(300), "it came back after {:?}", back[0].at - call.at);
}

/// A server that repeats what it said before is heard once.
#[tokio::test]
async fn what_is_redelivered_twice_is_heard_once() {
    let script = legacy().fault(On::tool("progress"), cut(3, 0, End::Abrupt)).fault(On::http("GET"), Do::ReplayAll);
    let stage = Stage::new(script).await;
    let client = stage.session().await;
    let messages = all(steps(&client, 5).await).await;
    assert_eq!(progress(&messages), [1, 2, 3, 4, 5]);
    assert_eq!(text(&messages[5]), "did 5 steps");
}

/// A question is not put twice either: the client would be asked for approval again.
#[tokio::test]
async fn a_redelivered_question_is_asked_once() {
    let script = legacy().fault(On::tool("ask"), cut(1, 0, End::Abrupt)).fault(On::http("GET"), Do::ReplayAll);
    let stage = Stage::new(script).await;
    let client = stage.session().await;
    let mut call = client.call("ask", json!({ "message": "?", "parallel": 3 })).ok().await;
    for _ in 0..3 {
        let question = call.message().ok().await.unwrap();
        client.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    }
    assert_eq!(text(&call.answer().ok().await), ["answer: decline null"; 3].join("\n"));
    assert_eq!(stage.mock.stats()["answers"], 3);
}

/// Without an event id there is nothing to resume from. The request may have been executed: it is not sent again, and the
/// client is told (C-SSE-4).
#[tokio::test]
async fn a_stream_that_cannot_be_resumed_is_an_error() {
    for end in [End::Abrupt, End::Clean, End::Reset] {
        let stage = Stage::new(answering(AnswerForm::Sse, legacy().fault(On::tool("count"), cut(0, 0, end)))).await;
        // Events have ids in every revision, but before 2025-11-25 there is none in front of the first.
        let client = stage.session_of("2025-06-18").await;
        let messages = all(client.call("count", json!({})).ok().await).await;
        assert_eq!(messages.len(), 1, "{end:?}: {messages:?}");
        assert_ours(&messages[0], -31003);
        assert_eq!((&messages[0]["id"], &messages[0]["error"]["data"]["retryable"]), (&json!(1), &json!(false)));
        assert_eq!(stage.posts("tools/call").len(), 1, "{end:?}");
        let answer = client.call("count", json!({})).ok().await.answer().ok().await;
        assert_ours(&answer, -31003);
        assert_eq!(text(&client.call("echo", json!({ "text": "alive" })).ok().await.answer().ok().await), "alive");
    }
}

/// A connection that ends without a response may have brought the request to the server all the same: also a pooled one.
#[tokio::test]
async fn a_lost_request_is_not_sent_again() {
    for end in [End::Abrupt, End::Reset] {
        let stage = Stage::new(legacy().fault(On::tool("count"), Do::Cut { after: None, end })).await;
        let client = stage.session().await;
        for _ in 0..2 {
            let answer = client.call("count", json!({})).ok().await.answer().ok().await;
            assert_ours(&answer, -31003);
            assert_eq!(answer["error"]["data"]["retryable"], false);
            let list = client.request("tools/list", json!({})).ok().await.answer().ok().await;
            assert!(list["result"]["tools"].is_array(), "{list}");
        }
        assert_eq!(stage.posts("tools/call").len(), 2, "one for each");
    }
    let stage =
        Stage::new(legacy().fault(On::method("tools/list").nth(1), Do::Cut { after: None, end: End::Reset })).await;
    let answer = stage.session().await.request("tools/list", json!({})).ok().await.answer().ok().await;
    assert_ours(&answer, -31002);
    assert_eq!(answer["error"]["data"]["retryable"], true, "reading a list twice does no harm: {answer}");
}

/// A server that does not want to resume decides that the answer is lost; one that has forgotten the session, that this is too.
#[tokio::test]
async fn a_refused_resumption_is_an_error() {
    for (status, session_is_gone) in [(400, false), (405, false), (404, true)] {
        let script = Script { http: HttpScript { answer: AnswerForm::Sse, ..HttpScript::default() }, ..legacy() }
            .fault(On::tool("count"), cut(0, 0, End::Abrupt))
            .fault(On::http("GET").nth(2), respond(status, "text/plain", ""));
        let stage = Stage::new(script).await;
        let client = stage.listening().await;
        stage.arrival(is_get).await;
        let answer = client.call("count", json!({})).ok().await.answer().ok().await;
        assert_ours(&answer, -31003);
        assert_eq!(stage.posts("tools/call").len(), 1);
        assert_eq!(client.request("tools/list", json!({})).ok().await.status, 200);
        assert_eq!(stage.posts("initialize").len(), if session_is_gone { 2 } else { 1 });
    }
}

/// The client's cancellation ends the wait for a server that is to come back.
#[tokio::test]
async fn a_cancellation_ends_the_wait_for_a_broken_stream() {
    let script = legacy().fault(On::tool("sleep"), Do::Poll { retry_ms: Some(600_000) });
    let stage = Stage::new(script).await;
    let client = stage.session().await;
    let cancel = async {
        stage.arrival(|request| request.json("/params/name") == "sleep").await;
        client.send(&common::cancelled(json!(1))).ok().await
    };
    let (call, _) = tokio::join!(client.call("sleep", json!({ "ms": 600_000 })).ok(), cancel);
    assert!(all(call).await.is_empty());
    stage.arrival(|request| request.json("/method") == "notifications/cancelled").await;
}

/// What is no part of the answer is not taken for it: comments, repeated answers, late progress, odd line ends, tiny pieces.
#[tokio::test]
async fn noise_on_a_stream_is_no_answer() {
    for noise in [
        Do::Comments { count: 100, bytes: 50 },
        Do::Duplicate,
        Do::LateProgress,
        Do::LineEnd(LineEnd::Crlf),
        Do::Slice { bytes: 1, gap_ms: 0, head: false },
        Do::Retry("0".into()),
        Do::Retry("soon".into()),
        Do::Print { text: "data: not json\n".into(), times: 1, newline: true },
        Do::Print { text: r#"data: {"jsonrpc":"2.0","id":999,"result":{}}"#.to_owned() + "\n", times: 1, newline: true },
        Do::Print { text: r#"data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":999,"progress":7}}"#.to_owned() + "\n", times: 1, newline: true },
    ] {
        for script in [legacy(), modern()] {
            let stage = Stage::new(answering(AnswerForm::Sse, script.fault(On::tool("progress"), noise.clone()))).await;
            let messages = match stage.mock.url() {
                _ if script_is_modern(&stage).await => {
                    all(stage.post(&Modern::call("progress", json!({ "steps": 2 })).progress_token("t".into())).await).await
                }
                _ => all(steps(&stage.session().await, 2).await).await,
            };
            assert_eq!(progress(&messages), [1, 2], "{noise:?}");
            assert_eq!((messages.len(), text(&messages[2])), (3, "did 2 steps"), "{noise:?}");
        }
    }
}

async fn script_is_modern(stage: &Stage) -> bool {
    stage.post(&Modern::new("tools/list")).await.status == 200
}
