//! How long a lost stream is waited for: as long as its server asks, until the budget is spent, not at all where it was refused,
//! and no longer than somebody wants it (C-SSE-1, C-SSE-2, C-SSE-6).

use std::time::Duration;

use super::*;
use futures_util::future::join_all;
use shadowcat::testing::{At, End};

/// The stream breaks before the answer, and can be resumed.
fn breaks() -> Do {
    Do::Cut { after: Some(At::default()), end: End::Abrupt }
}

fn is_resumption(request: &Recorded) -> bool {
    is_get(request) && request.headers.get("last-event-id").is_some()
}

fn status(code: u16, headers: &[(&str, &str)]) -> Do {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Do::Status { code, headers, body: String::new() }
}

/// C-SSE-1: `Retry-After` is the least that is waited, on top of which comes chance.
#[tokio::test]
async fn a_server_that_is_busy_is_left_alone_for_as_long_as_it_asks() {
    let run = async |code: u16| {
        let script = legacy()
            .fault(On::tool("count"), breaks())
            .fault(On::http("GET").nth(2), status(code, &[("Retry-After", "1")]));
        let stage = Stage::with(answering(AnswerForm::Sse, script), |settings| {
            settings.timeouts.reconnect_base = Duration::from_millis(10);
        })
        .await;
        let client = stage.listening().await;
        stage.arrival(is_get).await;
        assert_eq!(text(&client.call("count", json!({})).ok().await.answer().ok().await), "1");
        let resumed = stage.arrived(is_resumption);
        assert_eq!(resumed.len(), 2, "{code}");
        let waited = resumed[1].at - resumed[0].at;
        assert!(waited >= Duration::from_secs(1), "{code}: {waited:?}");
    };
    join_all([429, 503].map(run)).await;
}

/// C-SSE-2: trouble that may pass is waited out. The call is the same.
#[tokio::test]
async fn statuses_that_may_pass_are_tried_again() {
    let run = async |code: u16| {
        let script = legacy().fault(On::tool("count"), breaks()).fault(On::http("GET").nth(2), status(code, &[]));
        let stage = Stage::new(answering(AnswerForm::Sse, script)).await;
        let client = stage.listening().await;
        stage.arrival(is_get).await;
        assert_eq!(text(&client.call("count", json!({})).ok().await.answer().ok().await), "1", "{code}");
        assert_eq!(stage.arrived(is_resumption).len(), 2, "{code}");
        assert_eq!(stage.posts("tools/call").len(), 1, "{code}");
    };
    join_all([408, 425, 429, 500, 502, 503, 504].map(run)).await;
}

/// C-SSE-2: what is refused is not asked for again: neither a standing stream nor the rest of an answer. That holds for whatever
/// is no stream: other successes, redirections to nowhere, other content types.
#[tokio::test]
async fn what_is_refused_is_not_asked_for_again() {
    let redirected = |code| [vec![], vec![("Location", "")]].map(|headers| (status(code, &headers), "refused"));
    let refused = [204, 205, 210, 299, 400, 401, 403, 406, 410].map(|code| (status(code, &[]), "refused"));
    let others = [
        (status(405, &[]), "no_stream"),
        (respond(200, "text/event-streamx", "data: {}\n\n"), "unusable"),
        (respond(200, "text/x-bogus", "data: {}\n\n"), "unusable"),
    ];
    let faults = refused.into_iter().chain([301, 307].into_iter().flat_map(redirected)).chain(others);
    let run = async |(fault, reason): (Do, &'static str)| {
        let script = legacy()
            .fault(On::http("GET").nth(1), fault.clone())
            .fault(On::tool("count"), breaks())
            .fault(On::http("GET").nth(2), fault.clone());
        let stage = Stage::new(answering(AnswerForm::Sse, script)).await;
        let client = stage.listening().await;
        let ended = format!("reason=\"{reason}\"");
        stage.until_metric("shadowcat_upstream_streams_ended_total", &[&ended], 1.0).await;
        let answer = client.call("count", json!({})).ok().await.answer().ok().await;
        assert_eq!(answer["error"]["data"]["origin"], "proxy", "{fault:?}: {answer}");
        assert!([-31003, -31006].contains(&code(&answer)), "{fault:?}: {answer}");
        stage.until_metric("shadowcat_upstream_streams_ended_total", &[&ended], 2.0).await;
        assert_eq!((stage.arrived(is_get).len(), stage.arrived(is_resumption).len()), (2, 1), "{fault:?}");
        assert_eq!(stage.posts("tools/call").len(), 1, "{fault:?}");
        assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
    };
    join_all(faults.map(run)).await;
}

/// C-SSE-2: a session that is gone is not asked for its stream again either.
#[tokio::test]
async fn a_stream_of_a_session_that_is_gone_is_not_asked_for_again() {
    let script = legacy().fault(On::tool("count"), breaks()).fault(On::http("GET").nth(2), status(404, &[]));
    let stage = Stage::new(answering(AnswerForm::Sse, script)).await;
    let client = stage.listening().await;
    stage.arrival(is_get).await;
    assert_ours(&client.call("count", json!({})).ok().await.answer().ok().await, -31003);
    assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
    assert_eq!(stage.arrived(is_resumption).len(), 1);
    assert_eq!(stage.posts("tools/call").len(), 2);
}

/// C-SSE-2: a stream that is over at once has ended like any other.
#[tokio::test]
async fn a_stream_without_a_byte_is_asked_for_again() {
    let empty = || respond(200, "text/event-stream", "");
    let script = legacy().fault(On::http("GET").nth(1), empty()).fault(On::http("GET").nth(2), empty());
    let stage = Stage::new(script).await;
    let client = stage.session().await;
    let mut stream = client.stream(None).ok().await;
    assert_eq!(stage.mock.change("tools"), 1);
    assert_eq!(stream.message().ok().await.unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(stage.arrived(is_get).len(), 3);
}

/// C-SSE-1, C-SSE-4: when the budget is spent, in attempts or in time, the call is answered, and was sent once.
#[tokio::test]
async fn a_call_whose_server_does_not_come_back_is_answered() {
    for (attempts, outage, most) in [(3, Duration::from_secs(60), 3), (1000, Duration::from_millis(350), 4)] {
        let script = legacy().fault(On::tool("count"), breaks()).fault(On::http("GET"), status(500, &[]));
        let stage = Stage::with(answering(AnswerForm::Sse, script), |settings| {
            settings.limits.reconnect_attempts = attempts;
            settings.timeouts.reconnect_outage = outage;
            settings.timeouts.reconnect_base = Duration::from_millis(10);
        })
        .await;
        let client = stage.session().await;
        let answer = client.call("count", json!({})).ok().await.answer().ok().await;
        assert_ours(&answer, -31003);
        assert_eq!(answer["error"]["data"]["retryable"], false, "it may have been executed");
        let resumed = stage.arrived(is_resumption).len();
        assert!((1..=most).contains(&resumed), "{resumed} of at most {most}");
        assert!(outage < Duration::from_secs(1) || resumed == most, "{resumed}");
        assert_eq!(stage.posts("tools/call").len(), 1);
        assert_eq!(stage.mock.stats()["tools"]["count"], 1);
    }
}

/// Streams that wait for minutes, since their server asked for that: one of a call, one that stands.
async fn waiting(change: impl FnOnce(&mut Settings)) -> (Stage, LegacySession, Response) {
    let change = |settings: &mut Settings| {
        // The first sign of life is what the client's response begins with.
        settings.timeouts.sse_keepalive = Duration::from_millis(100);
        change(settings);
    };
    let minutes = || Do::Poll { retry_ms: Some(600_000) };
    let script = legacy().fault(On::tool("count"), minutes()).fault(On::http("GET"), minutes());
    let stage = Stage::with(script, change).await;
    let client = stage.listening().await;
    let call = client.call("count", json!({})).ok().await;
    until("both wait", async || stage.status().await["streams"].clone(), |streams| streams["backoff"] == 2).await;
    (stage, client, call)
}

/// C-SSE-6: nobody waits for a server on behalf of a client that has gone.
#[tokio::test]
async fn the_end_of_a_session_ends_the_wait_for_its_streams() {
    let (stage, client, call) = waiting(|_| {}).await;
    assert_eq!(client.delete().ok().await.status, 204);
    let told = all(call).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["error"]["data"]["origin"], "proxy", "{told:?}");
    stage.until_metric("shadowcat_upstream_streams", &[], 0.0).await;
    assert_eq!(stage.arrived(is_resumption).len(), 0);
}

/// C-SSE-6: nor does a proxy that is to stop: what stands ends at once, and a call when its time to finish is over.
#[tokio::test]
async fn shutdown_ends_the_wait_for_streams() {
    let (stage, _client, call) = waiting(|settings| settings.timeouts.drain = Duration::from_millis(300)).await;
    let began = tokio::time::Instant::now();
    let (report, told) = tokio::join!(within("shutdown", stage.proxy.shutdown()), all(call));
    assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
    assert!(report.requests_cut && report.survivors.is_empty(), "{report:?}");
    assert_ours(&told[0], -31005);
    assert!(stage.mock.requests().iter().all(|request| !is_resumption(request)));

    let script = legacy().fault(On::http("GET"), Do::Poll { retry_ms: Some(600_000) });
    let stage = Stage::new(script).await;
    let _client = stage.listening().await;
    until("it waits", async || stage.status().await["streams"]["backoff"].clone(), |count| *count == 1).await;
    let report = within("shutdown", stage.proxy.shutdown()).await;
    assert!(report.is_clean(), "{report:?}");
}
