//! Streams of notifications that break: they cannot be resumed, so they are opened again (2026-07-28, Subscriptions).

use std::time::Duration;

use super::*;
use shadowcat::testing::{At, End};

const LISTEN: &str = "subscriptions/listen";
const TAG: &str = "io.modelcontextprotocol/subscriptionId";

fn cut_after_acknowledging(end: End) -> Do {
    Do::Cut { after: Some(At { events: 1, bytes: 0 }), end }
}

fn quick(settings: &mut Settings) {
    settings.timeouts.reconnect_base = Duration::from_millis(1);
}

/// A client that listens for changes of the tools and of one resource, and has been promised them.
async fn listening(stage: &Stage) -> Response {
    let filter = json!({ "toolsListChanged": true, "resourceSubscriptions": ["fake://resource/1"] });
    let mut stream = stage.post(&Modern::new(LISTEN).id("\"L\"").param("notifications", filter)).await;
    let acknowledged = stream.message().ok().await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    stream
}

/// The next two: what a gap may have hidden, each once, on the client's own subscription.
async fn hears_of_the_gap(stream: &mut Response) {
    for (method, uri) in [("tools/list_changed", Value::Null), ("resources/updated", json!("fake://resource/1"))] {
        let told = stream.message().ok().await.unwrap();
        assert_eq!(told["method"], format!("notifications/{method}"), "{told}");
        assert_eq!((&told["params"]["uri"], &told["params"][TAG]), (&uri, &Value::Null));
        assert_eq!(told["params"]["_meta"][TAG], "L");
    }
}

/// C-SSE-1, C-SSE-6: however it breaks, the client keeps its connection, is acknowledged once, hears once that what it listens
/// for may have changed, and then hears what changes.
#[tokio::test]
async fn a_broken_stream_is_opened_again() {
    for end in [End::Abrupt, End::Clean, End::Reset] {
        let script = modern().fault(On::method(LISTEN).nth(1), cut_after_acknowledging(end));
        let stage = Stage::with(script, quick).await;
        let mut stream = listening(&stage).await;
        hears_of_the_gap(&mut stream).await;
        assert_eq!(stage.mock.change("tools"), 1, "the server has one listener");
        let changed = stream.message().ok().await.unwrap();
        assert_eq!(changed["method"], "notifications/tools/list_changed");
        assert_eq!(changed["params"]["_meta"][TAG], "L");
        assert_eq!(stage.posts(LISTEN).len(), 2, "{end:?}");
        stage.until_metric("shadowcat_listen_reopenings_total", &["reason=\"ok\""], 1.0).await;
        stage.until_metric("shadowcat_upstream_streams", &["state=\"backoff\""], 0.0).await;
        drop(stream);
        until("none listens", async || stage.mock.stats()["listeners"].clone(), |count| *count == 0).await;
    }
}

/// C-SSE-2: what may pass is tried again, with pauses, on one connection of the client's.
#[tokio::test]
async fn a_server_that_is_away_for_a_while_is_waited_for() {
    let script = modern()
        .fault(On::method(LISTEN).nth(1), cut_after_acknowledging(End::Reset))
        .fault(On::method(LISTEN).nth(2), respond(503, "text/plain", "away"))
        .fault(On::method(LISTEN).nth(3), Do::Cut { after: None, end: End::Reset })
        .fault(On::method(LISTEN).nth(4), respond(429, "text/plain", "slowly"));
    let stage = Stage::with(script, quick).await;
    let mut stream = listening(&stage).await;
    hears_of_the_gap(&mut stream).await;
    assert_eq!(stage.posts(LISTEN).len(), 5);
}

/// C-SSE-2: a refusal is final, and so is a budget that is spent: the client is told with an error that names the proxy.
#[tokio::test]
async fn a_stream_that_cannot_be_opened_again_ends_with_an_error() {
    let broken = || modern().fault(On::method(LISTEN).nth(1), cut_after_acknowledging(End::Reset));
    let refused = broken().fault(On::method(LISTEN).nth(2), respond(403, "text/plain", "no"));
    let away = (2..=4)
        .fold(broken(), |script, nth| script.fault(On::method(LISTEN).nth(nth), respond(503, "text/plain", "away")));
    for (script, requests) in [(refused, 2), (away, 4)] {
        let stage = Stage::with(script, |settings| {
            quick(settings);
            settings.limits.reconnect_attempts = 3;
            settings.limits.circuit_failures = 100;
        })
        .await;
        let mut stream = listening(&stage).await;
        let error = stream.message().ok().await.unwrap();
        assert_eq!(error["id"], "L");
        assert_ours(&error, -31002);
        assert_eq!(error["error"]["data"]["retryable"], true, "listening changes nothing: {error}");
        assert_eq!(stream.message().ok().await, None, "the stream is over");
        assert_eq!(stage.posts(LISTEN).len(), requests);
        stage.until_metric("shadowcat_listen_reopenings_total", &["reason=\"failed\""], 1.0).await;
        stage.until_metric("shadowcat_upstream_streams", &[], 0.0).await;
    }
}

/// 2026-07-28, Subscriptions: a server that comes back with less than it had promised would leave the client waiting for ever:
/// the stream ends in good order, and the client listens anew.
#[tokio::test]
async fn a_server_that_promises_less_ends_the_stream() {
    let acknowledged = json!({
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": { "notifications": {}, "_meta": { TAG: 2 } },
    });
    let script = modern()
        .fault(On::method(LISTEN).nth(1), cut_after_acknowledging(End::Reset))
        .fault(On::method(LISTEN).nth(2), respond(200, "text/event-stream", &format!("data: {acknowledged}\n\n")));
    let stage = Stage::with(script, quick).await;
    let mut stream = listening(&stage).await;
    let end = stream.message().ok().await.unwrap();
    assert_eq!((&end["id"], &end["result"]["resultType"]), (&json!("L"), &json!("complete")));
    stage.until_metric("shadowcat_listen_reopenings_total", &["reason=\"changed\""], 1.0).await;
}

/// 2026-07-28, Subscriptions: a server that comes back with what cannot be there breaks the protocol, and the client is told.
#[tokio::test]
async fn a_server_that_asks_in_place_of_promising_ends_the_stream() {
    let question = json!({ "jsonrpc": "2.0", "id": 1, "method": "roots/list" });
    let script = modern()
        .fault(On::method(LISTEN).nth(1), cut_after_acknowledging(End::Reset))
        .fault(On::method(LISTEN).nth(2), respond(200, "text/event-stream", &format!("data: {question}\n\n")));
    let stage = Stage::with(script, quick).await;
    let mut stream = listening(&stage).await;
    let error = stream.message().ok().await.expect("the end is said");
    assert_eq!(error["id"], "L");
    assert_ours(&error, -31006);
}

/// C-SSE-6: who is gone is not waited for, and who waits is told when the proxy stops.
#[tokio::test]
async fn the_wait_ends_with_the_client_and_with_the_proxy() {
    let script = modern().fault(On::method(LISTEN), cut_after_acknowledging(End::Reset));
    let stage = Stage::with(script, |settings| settings.timeouts.reconnect_base = DEADLINE * 100).await;
    let (gone, mut stays) = (listening(&stage).await, listening(&stage).await);
    stage.until_metric("shadowcat_upstream_streams", &["state=\"backoff\""], 2.0).await;
    drop(gone);
    stage.until_metric("shadowcat_upstream_streams", &["state=\"backoff\""], 1.0).await;
    let (_, end) = tokio::join!(within("shutdown", stage.proxy.shutdown()), stays.message().ok());
    assert_eq!(end.unwrap()["result"]["resultType"], "complete");
}

/// C-SSE-10: streams that break together come back a few at a time, and all of them do.
#[tokio::test]
async fn many_streams_come_back() {
    const STREAMS: usize = 50;
    let mut script = modern();
    for nth in 1..=STREAMS {
        script = script.fault(On::method(LISTEN).nth(nth as u64), cut_after_acknowledging(End::Reset));
    }
    let stage = Stage::with(script, |settings| {
        quick(settings);
        settings.limits.reconnecting = 1;
    })
    .await;
    let mut streams = futures_util::future::join_all((0..STREAMS).map(|_| listening(&stage))).await;
    futures_util::future::join_all(streams.iter_mut().map(hears_of_the_gap)).await;
    assert_eq!(stage.mock.change("tools"), STREAMS);
    stage.until_metric("shadowcat_listen_reopenings_total", &["reason=\"ok\""], STREAMS as f64).await;
}
