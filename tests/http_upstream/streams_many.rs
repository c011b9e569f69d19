//! Many streams that break together, and what the operator sees of streams.

use std::time::Duration;

use super::*;
use shadowcat::testing::{At, End};

fn cut(end: End) -> Do {
    Do::Cut { after: Some(At { events: 2, bytes: 0 }), end }
}

fn is_resumption(request: &Recorded) -> bool {
    is_get(request) && request.headers.get("last-event-id").is_some()
}

/// C-SSE-10: of streams that break together only so many are connected again at the same time; one that is given up makes room
/// for the next at once; and none of them is counted when it is gone.
#[tokio::test]
async fn lost_streams_are_connected_again_a_few_at_a_time() {
    const STREAMS: usize = 10;
    const LIMIT: usize = 3;
    let script = legacy().fault(On::tool("progress"), cut(End::Abrupt)).fault(On::http("GET"), Do::Hang);
    let stage = Stage::with(script, |settings| {
        settings.limits.reconnecting = LIMIT;
        settings.timeouts.reconnect_base = Duration::from_millis(10);
        settings.timeouts.start = DEADLINE * 2;
    })
    .await;
    let mut calls = Vec::new();
    for _ in 0..STREAMS {
        let client = stage.listening().await;
        let call = streams::steps(&client, 4).await;
        calls.push((client, call));
    }
    let sessions: Vec<String> =
        stage.posts("tools/call").iter().map(|call| call.headers.get("mcp-session-id").unwrap().to_owned()).collect();
    // The standing streams, which are connected for the first time, do not count.
    let counted = async |connecting: usize, backoff: usize| {
        let status = until(
            "streams",
            async || stage.status().await["streams"].clone(),
            |streams| *streams == json!({ "connecting": STREAMS + connecting, "open": 0, "backoff": backoff }),
        );
        status.await;
    };
    for cancelled in 0..STREAMS {
        counted(LIMIT.min(STREAMS - cancelled), (STREAMS - cancelled).saturating_sub(LIMIT)).await;
        let turns = STREAMS.min(LIMIT + cancelled);
        let resumed =
            until("each in its turn", async || stage.arrived(is_resumption), |resumed| resumed.len() >= turns).await;
        assert_eq!(resumed.len(), turns, "each in its turn");
        // First come, first served: those that were asked for first are connecting.
        let session = resumed[cancelled].headers.get("mcp-session-id").unwrap();
        let which = sessions.iter().position(|one| one == session).unwrap();
        calls[which].0.send(&common::cancelled(json!(1))).ok().await;
    }
    counted(0, 0).await;
    stage.until_metric("shadowcat_upstream_reconnects_total", &["reason=\"broken\""], STREAMS as f64).await;
    for (client, call) in calls {
        drop(call);
        client.delete().ok().await;
    }
    stage.until_metric("shadowcat_upstream_streams", &[], 0.0).await;
    stage.until_metric("shadowcat_upstream_streams_ended_total", &["client_gone"], STREAMS as f64).await;
    stage.until_metric("shadowcat_upstream_streams_ended_total", &["session_ended"], STREAMS as f64).await;
}

/// Fewer places than streams cost nobody anything: all are resumed, each once.
#[tokio::test]
async fn all_lost_streams_come_back() {
    let script = legacy().fault(On::tool("progress"), cut(End::Reset));
    let stage = Stage::with(script, |settings| settings.limits.reconnecting = 1).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(stage.session().await);
    }
    let call = async |client: &LegacySession| all(streams::steps(client, 4).await).await;
    for messages in futures_util::future::join_all(clients.iter().map(call)).await {
        assert_eq!(progress(&messages), [1, 2, 3, 4]);
        assert_eq!(text(&messages[4]), "did 4 steps");
    }
    assert_eq!(stage.arrived(is_resumption).len(), clients.len());
    assert_eq!(stage.posts("tools/call").len(), clients.len());
    stage.until_metric("shadowcat_upstream_streams_ended_total", &["answered"], clients.len() as f64).await;
}

/// Why a stream was lost is told by a word.
#[tokio::test]
async fn losses_are_told_apart() {
    for (fault, reason) in [
        (cut(End::Clean), "ended"),
        (cut(End::Abrupt), "broken"),
        (cut(End::Reset), "broken"),
        (Do::Poll { retry_ms: Some(1) }, "polled"),
        (Do::Stall(At { events: 2, bytes: 0 }), "idle"),
    ] {
        let stage = Stage::with(answering(AnswerForm::Sse, legacy().fault(On::tool("progress"), fault)), |settings| {
            settings.timeouts.upstream_sse_idle = Duration::from_secs(1);
        })
        .await;
        let client = stage.session().await;
        let messages = all(streams::steps(&client, 4).await).await;
        assert_eq!(text(&messages[4]), "did 4 steps", "{reason}");
        // A standing stream that is silent is lost as well.
        if reason != "idle" {
            let label = format!("reason=\"{reason}\"");
            stage.until_metric("shadowcat_upstream_reconnects_total", &[&label], 1.0).await;
            stage.until_metric("shadowcat_upstream_reconnects_total", &[], 1.0).await;
        }
    }
}

/// HTTP+SSE has one stream, and no way to resume it: its end is counted with the reason, and the answer is unknown.
#[tokio::test]
async fn the_end_of_an_old_stream_is_told_by_a_word() {
    for (end, reason) in [(End::Clean, "ended"), (End::Abrupt, "broken"), (End::Reset, "broken")] {
        let script = Script { http: HttpScript { streamable: false, ..HttpScript::default() }, ..legacy() };
        // Within what follows the address and the answer to the handshake.
        let ends = Do::Cut { after: Some(At { events: 2, bytes: 7 }), end };
        let script = script.fault(On::http("GET").nth(1), ends);
        let mock = MockSse::start(script).ok().await;
        let (proxy, url) = front(&mock.sse_url(), |settings| target(settings).transport = HttpTransport::Sse).await;
        let stage = Stage { url, proxy, mock, heard: std::sync::Mutex::default() };
        let client = stage.session().await;
        assert_eq!(stage.mock.change("tools"), 1);
        let streams = "shadowcat_upstream_streams_ended_total";
        stage.until_metric(streams, &[&format!("reason=\"{reason}\"")], 1.0).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
        assert_eq!(stage.status().await["streams"], json!({ "connecting": 0, "open": 1, "backoff": 0 }));
        client.delete().ok().await;
        stage.until_metric(streams, &["reason=\"session_ended\""], 1.0).await;
        stage.until_metric("shadowcat_upstream_streams", &[], 0.0).await;
    }
}

/// A standing stream that was given up is taken up again where it was, when the server answers something.
#[tokio::test]
async fn a_standing_stream_comes_back_with_its_server() {
    let ends = Do::Cut { after: Some(At { events: 1, bytes: 7 }), end: End::Abrupt };
    let script = legacy()
        .fault(On::http("GET").nth(1), ends)
        .fault(On::http("GET").nth(2), respond(500, "text/plain", ""))
        .fault(On::http("GET").nth(3), respond(500, "text/plain", ""));
    let stage = Stage::with(script, |settings| settings.limits.reconnect_attempts = 2).await;
    let client = stage.session().await;
    let mut stream = client.stream(None).ok().await;
    stage.arrival(is_get).await;
    for kind in ["tools", "prompts"] {
        assert_eq!(stage.mock.change(kind), 1);
    }
    assert_eq!(stream.message().ok().await.unwrap()["method"], "notifications/tools/list_changed");
    stage.until_metric("shadowcat_upstream_streams_ended_total", &["reason=\"given_up\""], 1.0).await;
    assert_eq!(stage.status().await["streams"], json!({ "connecting": 0, "open": 0, "backoff": 0 }));
    assert_eq!(text(&client.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await), "hi");
    assert_eq!(stream.message().ok().await.unwrap()["method"], "notifications/prompts/list_changed");
    assert_eq!(stage.arrived(is_get).len(), 4);
}

/// What the operator is told of a server at one glance.
#[tokio::test]
async fn the_status_of_a_server() {
    let stage = Stage::new(legacy()).await;
    let client = stage.listening().await;
    let open = async || stage.status().await;
    let status = until("its standing stream", open, |status| status["streams"]["open"] == 1).await;
    let expected = json!({
        "state": "ready",
        "sessions": 1,
        "in_flight": 0,
        "queue": 0,
        "pool": { "idle": 0, "leased": 1, "creating": 0, "closing": 0, "max": 64 },
        "streams": { "connecting": 0, "open": 1, "backoff": 0 },
        "circuit": "closed",
    });
    assert_eq!(status, expected);
    client.delete().ok().await;
    until(
        "nothing is left",
        async || stage.status().await,
        |status| status["sessions"] == 0 && status["streams"]["open"] == 0 && status["pool"]["leased"] == 0,
    )
    .await;
}
