//! Streams that are cut again and again, at places that are chosen to hurt: the client sees one stream (C-SSE-3), its server
//! each call once (C-SSE-4), and each resumption names the last complete event, to the byte.

use std::time::Duration;

use super::*;
use futures_util::future::join_all;
use shadowcat::testing::{At, End};

const EVENTS: usize = 100;
/// More bytes than the id of an event has, and fewer than the event.
const WITHIN: i64 = 9;

fn cut(events: usize) -> Do {
    Do::Cut { after: Some(At { events: events as u64, bytes: WITHIN }), end: End::Abrupt }
}

/// There is no patience for more than one attempt: each event that comes has to end the outage.
fn impatient(settings: &mut Settings) {
    settings.limits.reconnect_attempts = 1;
    settings.timeouts.reconnect_base = Duration::from_millis(10);
}

fn resumed_from(stage: &Stage) -> Vec<String> {
    let resumed = stage.mock.requests().into_iter().filter(is_get);
    resumed.filter_map(|request| Some(request.headers.get("last-event-id")?.to_owned())).collect()
}

/// The ids that a stream has been resumed from: the last of each connection, when each brings so many.
fn every(stream: u64, events: usize) -> Vec<String> {
    (1..=EVENTS / events).map(|connection| format!("{stream}-{}", connection * events)).collect()
}

/// C-SSE-1 (an event ends the outage), C-SSE-3, C-SSE-4: the answer to a call, cut within every 2nd, 4th or 8th event.
#[tokio::test]
async fn an_answer_that_is_cut_every_few_events_is_one_answer() {
    let run = async |events: usize| {
        let script = legacy().fault(On::tool("progress"), cut(events)).fault(On::http("GET"), cut(events));
        let stage = Stage::with(script, impatient).await;
        let client = stage.session().await;
        let messages = all(streams::steps(&client, EVENTS as u64).await).await;
        assert_eq!(progress(&messages), (1..=100).collect::<Vec<_>>(), "cut after {events}");
        assert_eq!((messages.len(), text(&messages[EVENTS])), (EVENTS + 1, "did 100 steps"), "cut after {events}");
        assert_eq!(stage.posts("tools/call").len(), 1, "cut after {events}");
        // The handshake takes the first two streams.
        assert_eq!(resumed_from(&stage), every(3, events), "cut after {events}");
    };
    join_all([1, 3, 7].map(run)).await;
}

/// C-SSE-1, C-SSE-3: the same with what a server says by itself.
#[tokio::test]
async fn a_standing_stream_that_is_cut_every_few_events_is_one_stream() {
    let run = async |events: usize| {
        let stage = Stage::with(legacy().fault(On::http("GET"), cut(events)), impatient).await;
        let client = stage.session().await;
        let mut stream = client.stream(None).ok().await;
        let uri = |n: usize| format!("test://{n}");
        for n in 0..EVENTS {
            client.request("resources/subscribe", json!({ "uri": uri(n) })).ok().await.answer().ok().await;
        }
        for n in 0..EVENTS {
            assert_eq!(stage.mock.touch(&uri(n)), 1);
        }
        assert_eq!(stage.mock.change("tools"), 1, "after which there is nothing");
        for n in 0..EVENTS {
            let message = stream.message().ok().await.unwrap();
            assert_eq!(message["params"]["uri"], uri(n), "cut after {events}: {message}");
        }
        let last = stream.message().ok().await.unwrap();
        assert_eq!(last["method"], "notifications/tools/list_changed", "cut after {events}: {last}");
        assert_eq!(resumed_from(&stage), every(0, events), "cut after {events}");
    };
    join_all([1, 3, 7].map(run)).await;
}

/// C-SSE-3: an id goes back byte for byte, whatever a server thinks ids are. One that no header can hold is no place to go on
/// from: the call is lost, and nothing else is asked for in its stead.
#[tokio::test]
async fn ids_are_sent_back_as_they_came() {
    let longest = "x".repeat(1024);
    let sent = ["0", "a b", "a,b;c=\"d\"", "=?base64?eA==?=", "ü…", "a\tb", "-", longest.as_str()].map(|id| (id, true));
    let run = async |(id, can_be_sent): (&str, bool)| {
        let names_it = Do::Print { text: format!("id: {id}\ndata:\n\n"), times: 1, newline: false };
        let script = legacy().fault(On::tool("count"), names_it).fault(On::tool("count"), cut(0));
        let stage = Stage::new(answering(AnswerForm::Sse, script)).await;
        let client = stage.listening().await;
        stage.arrival(is_get).await;
        let answer = client.call("count", json!({})).ok().await.answer().ok().await;
        // No server would know the event again.
        assert_ours(&answer, -31003);
        let back = if can_be_sent { vec![id.to_owned()] } else { vec![] };
        assert_eq!(resumed_from(&stage), back);
        assert_eq!(stage.arrived(is_get).len(), 1 + back.len(), "{id:?}: and no other stream");
        assert_eq!(stage.posts("tools/call").len(), 1);
    };
    join_all(sent.into_iter().chain([("\u{1}", false), ("a\u{7f}b", false)]).map(run)).await;
}

/// C-SSE-2: silence is a loss like any other, also in the middle of an event.
#[tokio::test]
async fn a_standing_stream_that_falls_silent_is_resumed() {
    let stalls = Do::Stall(At { events: 2, bytes: WITHIN });
    let stage = Stage::with(legacy().fault(On::http("GET").nth(1), stalls), |settings| {
        settings.limits.reconnect_attempts = 1000;
        settings.timeouts.upstream_sse_idle = Duration::from_millis(400);
    })
    .await;
    let client = stage.session().await;
    let mut stream = client.stream(None).ok().await;
    stage.arrival(is_get).await;
    let kinds = ["tools", "prompts", "resources", "prompts", "tools"];
    for kind in kinds {
        assert_eq!(stage.mock.change(kind), 1);
    }
    for kind in kinds {
        let message = stream.message().ok().await.unwrap();
        assert_eq!(message["method"], format!("notifications/{kind}/list_changed"));
    }
    assert_eq!(resumed_from(&stage)[0], "0-2");
    assert!(common::metric(&stage.proxy, "shadowcat_upstream_reconnects_total", &["reason=\"idle\""]).await >= 1.0);
}

/// C-SSE-5, C-SSE-6: while the server is away, the client's stream says nothing that is an event; it only shows that it lives.
#[tokio::test]
async fn a_client_whose_server_is_away_is_kept_alive() {
    let script = legacy().fault(On::tool("echo"), Do::Poll { retry_ms: Some(1000) });
    let stage = Stage::with(script, |settings| settings.timeouts.sse_keepalive = Duration::from_millis(100)).await;
    let client = stage.session().await;
    let mut call = client.call("echo", json!({ "text": "hi" })).ok().await;
    let mut alive = 0;
    let mut ids = Vec::new();
    while let Some(event) = call.event().ok().await {
        alive += usize::from(!event.comments.is_empty());
        assert!(event.comments.is_empty() || (event.id.is_none() && event.data.is_none()), "{event:?}");
        ids.extend(event.id);
    }
    assert!(alive >= 3, "{alive}");
    assert_eq!(ids.len(), 2, "before the first event, and the answer: {ids:?}");
}
