//! Legacy streams: what is on which, what a disconnect means, and how a client comes back for the rest.

use serde_json::{Value, json};
use shadowcat::settings::Settings;
use shadowcat::testing::client::{Event, LegacySession, Response};
use shadowcat::testing::{Do, On};

use crate::common::*;

async fn session(proxy: &Proxy) -> LegacySession {
    proxy.session().await
}

/// Begins a call that asks `rounds` times, and reads the first question.
async fn asking(session: &LegacySession, rounds: u64) -> (Response, Event) {
    let mut response = session.call("ask", json!({ "message": "?", "rounds": rounds })).ok().await;
    assert!(response.is_sse());
    let first = next(&mut response).await.unwrap();
    assert_eq!(first.json()["method"], "elicitation/create");
    (response, first)
}

/// Answers a question.
async fn answer(session: &LegacySession, question: &Event, with: &str) {
    let result = json!({ "action": "accept", "content": { "answer": with } });
    assert_eq!(session.respond(&question.json()["id"], &result).ok().await.status, 202);
}

/// 2025-11-25, Streamable HTTP › Sending Messages: a client that goes away has not cancelled; the call goes on, and
/// `GET` with the last event id yields exactly what it missed, then what comes live, then the end.
#[tokio::test]
async fn a_dropped_stream_is_resumed_where_it_broke_off() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let (stream, first) = asking(&session, 3).await;
    drop(stream);
    proxy.until_metric("shadowcat_streams", &[], 0.0).await;
    answer(&session, &first, "one").await;

    let mut resumed = session.stream(first.id.as_deref()).ok().await;
    assert_eq!((resumed.status, resumed.is_sse()), (200, true));
    let second = next(&mut resumed).await.unwrap();
    assert_eq!(second.json()["method"], "elicitation/create");
    assert_ne!(second.json()["id"], first.json()["id"]);
    // The same place can be resumed twice: the first event is not there, the second one is there again.
    drop(resumed);
    let mut resumed = session.stream(first.id.as_deref()).ok().await;
    assert_eq!(next(&mut resumed).await.unwrap(), second);
    answer(&session, &second, "two").await;
    let third = next(&mut resumed).await.unwrap();
    answer(&session, &third, "three").await;
    let rest = rest(&mut resumed).await;
    assert_eq!(rest.len(), 1, "the answer ends the stream: {rest:?}");
    assert_eq!(text(&rest[0].json()).lines().count(), 3);

    let client = Client::Legacy(session);
    let stats = client.stats().await;
    assert_eq!(
        (&stats["cancellations"], &stats["tools"]["ask"]),
        (&json!(0), &json!(1)),
        "not cancelled, not repeated"
    );
}

/// 2025-11-25, Resumability and Redelivery: an answer that came while nobody was there waits for whoever comes back.
#[tokio::test]
async fn an_answer_waits_for_the_client_to_come_back() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let (stream, first) = asking(&session, 1).await;
    drop(stream);
    proxy.until_metric("shadowcat_streams", &[], 0.0).await;
    answer(&session, &first, "x").await;
    proxy.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
    let mut resumed = session.stream(first.id.as_deref()).ok().await;
    let events = rest(&mut resumed).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(text(&events[0].json()).starts_with("answer: accept"));
    // Nothing is left behind the last event, and that is the end and not an error.
    let mut over = session.stream(events[0].id.as_deref()).ok().await;
    assert_eq!((over.status, rest(&mut over).await.len()), (200, 0));
}

/// 2025-11-25, Resumability and Redelivery: an id of another stream, of another session, of the future, or of nobody
/// yields no data.
#[tokio::test]
async fn event_ids_of_others_yield_nothing() {
    let proxy = Proxy::start(legacy()).await;
    let (mine, theirs) = (session(&proxy).await, session(&proxy).await);
    let (_open, first) = asking(&theirs, 1).await;
    let id = first.id.unwrap();
    let (stream, number) = id.rsplit_once('-').unwrap();
    let number: u64 = number.parse().unwrap();
    let future = format!("{stream}-{}", number + 1);
    for (session, id) in [
        (&mine, id.as_str()), // their stream has that number, mine does not exist
        (&theirs, &future),
        (&mine, "77-1"),
        (&mine, "x"),
        (&mine, ""),
        (&mine, "1-1 "),
        (&mine, "99999999999999999999-1"),
    ] {
        let response = session.stream(Some(id)).ok().await;
        assert_eq!(response.status, 400, "{id}");
        let refusal = response.json().ok().await;
        assert_eq!(refusal["error"]["data"]["origin"], "proxy", "{id}: {refusal}");
    }
}

/// 2025-11-25, Resumability and Redelivery: events that are no longer kept make a gap, which is said and not hidden.
#[tokio::test]
async fn a_gap_is_said_and_not_hidden() {
    let small = |settings: &mut Settings| settings.limits.backlog_events = 2;
    let proxy = Proxy::with(legacy(), small).await;
    let session = session(&proxy).await;
    let call = json!({ "name": "progress", "arguments": { "steps": 9 }, "_meta": { "progressToken": 1 } });
    let mut response = session.request("tools/call", call).ok().await;
    let events = rest(&mut response).await;
    assert_eq!(events.len(), 10);
    for (at, event) in events.iter().enumerate() {
        let mut resumed = session.stream(event.id.as_deref()).ok().await;
        if at < 7 {
            assert_eq!(resumed.status, 400, "event {at} of 10 with 2 kept");
            assert_eq!(resumed.json().ok().await["error"]["data"]["reason"], "gap");
        } else {
            assert_eq!(rest(&mut resumed).await, events[at + 1..]);
        }
    }
}

/// C-SSE-7: what is kept for clients that may come back does not grow with the number of past requests. The latest can be
/// resumed; of older ones a gap is said.
#[tokio::test]
async fn what_is_kept_of_past_requests_is_bounded() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let mut first_ids = Vec::new();
    for _ in 0..40 {
        let call = json!({ "name": "progress", "arguments": { "steps": 1 }, "_meta": { "progressToken": 1 } });
        let mut response = session.request("tools/call", call).ok().await;
        first_ids.push(rest(&mut response).await[0].id.clone());
    }
    for (at, id) in first_ids.iter().enumerate() {
        let mut resumed = session.stream(id.as_deref()).ok().await;
        if at < 20 {
            assert_eq!(resumed.status, 400, "stream {at} of 40");
        } else if at >= 30 {
            assert_eq!(rest(&mut resumed).await.len(), 1, "the answer, behind the progress");
        }
    }
}

/// 2025-11-25, Streamable HTTP › Sending Messages: streams of the newest revision begin with an id and no data; older
/// clients, who may not expect that, are spared it.
#[tokio::test]
async fn streams_are_primed_for_the_newest_revision_only() {
    let proxy = Proxy::start(legacy()).await;
    for revision in REVISIONS {
        let session = proxy.session_of(revision).await;
        let standing = session.stream(None).ok().await;
        let call = json!({ "name": "progress", "arguments": {}, "_meta": { "progressToken": 1 } });
        let own = session.request("tools/call", call).ok().await;
        assert_eq!(own.headers.get("x-accel-buffering"), Some("no"));
        assert_eq!(own.headers.get("cache-control"), Some("no-cache, no-transform"));
        session.call("change", json!({ "kind": "tools" })).ok().await.answer().ok().await;
        for (what, mut stream) in [("of a request", own), ("standing", standing)] {
            let first = stream.event().ok().await.unwrap();
            if revision == LEGACY {
                assert!(first.id.is_some() && first.data.as_deref() == Some(""), "{what}: {first:?}");
            } else {
                assert!(first.data.is_some_and(|data| !data.is_empty()), "{revision} {what}");
            }
        }
    }
}

/// 2025-11-25, Streamable HTTP › Listening for Messages: with both kinds of streams open each message is on exactly one:
/// what belongs to a request on its own, what the server says by itself on the newest of the others.
#[tokio::test]
async fn each_message_is_on_exactly_one_stream() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let mut older = session.stream(None).ok().await;
    let mut newer = session.stream(None).ok().await;
    assert_eq!((older.status, newer.status), (200, 200), "a second stream is legal");
    proxy.until_metric("shadowcat_streams", &[], 2.0).await;

    let call = json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": "t" } });
    let own = messages(session.request("tools/call", call).ok().await).await;
    assert_eq!(own.len(), 3, "two steps and the answer are on the stream of the request");
    assert_eq!(text(&session.call("change", json!({ "kind": "tools" })).ok().await.answer().ok().await), "told 1");
    let heard = next(&mut newer).await.unwrap();
    assert_eq!(heard.json()["method"], "notifications/tools/list_changed");

    // The newest has gone: the older one has its turn, and nothing twice.
    drop(newer);
    proxy.until_metric("shadowcat_streams", &[], 1.0).await;
    session.call("change", json!({ "kind": "prompts" })).ok().await.answer().ok().await;
    let heard = next(&mut older).await.unwrap();
    assert_eq!(heard.json()["method"], "notifications/prompts/list_changed");
}

/// 2025-11-25, Resumability and Redelivery: what the server said while nobody listened waits on the standing stream, and
/// `Last-Event-ID` works there too; answers never show up on it.
#[tokio::test]
async fn the_standing_stream_can_be_resumed() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let change = async |kind: &str| {
        session.call("change", json!({ "kind": kind })).ok().await.answer().ok().await;
    };
    change("tools").await;
    let mut stream = session.stream(None).ok().await;
    let first = next(&mut stream).await.unwrap();
    drop(stream);
    proxy.until_metric("shadowcat_streams", &[], 0.0).await;
    change("prompts").await;
    change("resources").await;
    let mut resumed = session.stream(first.id.as_deref()).ok().await;
    for kind in ["prompts", "resources"] {
        let event = next(&mut resumed).await.unwrap();
        assert_eq!(event.json()["method"], format!("notifications/{kind}/list_changed"));
    }
    session.delete().ok().await;
    assert!(rest(&mut resumed).await.is_empty());
}

/// 2025-11-25, Streamable HTTP › Resumability: an event id occurs once in a session, whichever stream it is on.
#[tokio::test]
async fn event_ids_are_unique_in_a_session() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let mut standing = session.stream(None).ok().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let call = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": 1 } });
        let mut response = session.request("tools/call", call).ok().await;
        while let Some(event) = response.event().ok().await {
            ids.extend(event.id);
        }
        session.call("change", json!({ "kind": "tools" })).ok().await.answer().ok().await;
        ids.extend(next(&mut standing).await.unwrap().id);
    }
    let total = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(
        (total, ids.len()),
        (3 * 6, 3 * 6),
        "a priming event, three steps and an answer; one on the standing stream"
    );
}

/// 2025-11-25, Logging: log messages of a call are on the call's stream, as the session's level wants them.
#[tokio::test]
async fn log_messages_follow_the_sessions_level() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let log = async |level: &str| {
        let response = session.call("log", json!({ "level": level, "text": "t" })).ok().await;
        messages(response).await.len()
    };
    session.request("logging/setLevel", json!({ "level": "warning" })).ok().await.answer().ok().await;
    assert_eq!((log("info").await, log("error").await), (1, 2));
    let other = proxy.session().await;
    let response = other.call("log", json!({ "level": "info", "text": "t" })).ok().await;
    assert_eq!(messages(response).await.len(), 2, "another session has a level of its own");
}

/// 2025-11-25, Resources › Subscriptions: an update comes to the session that subscribed, and to no other.
#[tokio::test]
async fn updates_come_to_the_session_that_subscribed() {
    let proxy = Proxy::start(legacy()).await;
    let uri = json!({ "uri": "shadowcat://demo/count/k" });
    let (a, b) = (session(&proxy).await, session(&proxy).await);
    let (mut stream_a, mut stream_b) = (a.stream(None).ok().await, b.stream(None).ok().await);
    assert_eq!(a.request("resources/subscribe", uri.clone()).ok().await.answer().ok().await["result"], json!({}));
    for session in [&a, &b] {
        session.call("touch", uri.clone()).ok().await.answer().ok().await;
        session.call("change", json!({ "kind": "tools" })).ok().await.answer().ok().await;
    }
    let update = next(&mut stream_a).await.unwrap().json();
    assert_eq!((&update["method"], &update["params"]["uri"]), (&json!("notifications/resources/updated"), &uri["uri"]));
    assert_eq!(
        next(&mut stream_b).await.unwrap().json()["method"],
        "notifications/tools/list_changed",
        "and no update before it"
    );
}

/// 2025-11-25, Streamable HTTP › Sending Messages: a client that reads one kind of body only gets its answer in that kind;
/// what else there is to say waits on the standing stream.
#[tokio::test]
async fn a_client_that_reads_only_json_or_only_events_is_answered_in_that() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let mut standing = session.stream(None).ok().await;
    let call = r#"{"name":"progress","arguments":{"steps":2},"_meta":{"progressToken":"t"}}"#;
    let ask = async |accept: &str| {
        let mut headers = session.headers();
        headers.extend([("Content-Type", "application/json"), ("Accept", accept)]);
        send("POST", &proxy.url, &headers, &message("1", "tools/call", call)).await
    };
    let json_only = ask("application/json").await;
    assert_eq!(json_only.headers.get("content-type"), Some("application/json"));
    assert_eq!(text(&json_only.json().ok().await), "did 2 steps");
    for step in 1..=2 {
        assert_eq!(next(&mut standing).await.unwrap().json()["params"]["progress"], Value::from(step));
    }
    let events_only = ask("text/event-stream").await;
    assert!(events_only.is_sse());
    assert_eq!(messages(events_only).await.len(), 3);
}

/// 2025-11-25, Streamable HTTP: silence on a stream is filled with comments that have no id to move the client's place
/// (C-SSE-5).
#[tokio::test]
async fn comments_keep_a_silent_stream_alive() {
    let quick = |settings: &mut Settings| settings.timeouts.sse_keepalive = std::time::Duration::from_millis(100);
    let proxy = Proxy::with(legacy().fault(On::tool("echo"), Do::Hang), quick).await;
    let session = session(&proxy).await;
    let (mut own, _) = asking(&session, 1).await;
    let mut standing = session.stream(None).ok().await;
    standing.event().ok().await;
    let old = proxy.session_of("2025-03-26").await;
    let body = format!("[{}]", message("1", "tools/call", r#"{"name":"echo","arguments":{}}"#));
    let mut batch = old.send(&body).ok().await;
    for stream in [&mut own, &mut standing, &mut batch] {
        let event = stream.event().ok().await.unwrap();
        assert_eq!((event.id, event.data), (None, None));
        assert!(!event.comments.is_empty());
    }
}

/// 2025-11-25, Resumability and Redelivery: whoever resumes a stream that is still open takes it over: from then on each message is
/// on the new connection only.
#[tokio::test]
async fn resuming_an_open_stream_takes_it_over() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let (mut before, first) = asking(&session, 2).await;
    let mut after = session.stream(first.id.as_deref()).ok().await;
    assert!(rest(&mut before).await.is_empty(), "the old connection ends");
    answer(&session, &first, "one").await;
    let second = next(&mut after).await.unwrap();
    answer(&session, &second, "two").await;
    let rest = rest(&mut after).await;
    assert_eq!(rest.len(), 1);
    assert_eq!(text(&rest[0].json()).lines().count(), 2);
}

/// 2025-11-25, Cancellation: a call that goes on without its client can still be cancelled by it; then its stream has no more.
#[tokio::test]
async fn a_call_that_goes_on_alone_can_be_cancelled() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let call = json!({ "name": "ask", "arguments": { "message": "?" } }).to_string();
    let mut stream = session.send(&message("\"c\"", "tools/call", &call)).ok().await;
    let first = next(&mut stream).await.unwrap();
    drop(stream);
    proxy.until_metric("shadowcat_streams", &[], 0.0).await;
    assert_eq!(session.send(&cancelled(json!("c"))).ok().await.status, 202);
    proxy.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
    let mut resumed = session.stream(first.id.as_deref()).ok().await;
    assert!(rest(&mut resumed).await.iter().all(|event| event.json().get("result").is_none()));
    Client::Legacy(session).until_stats("/cancelled", 1).await;
}

/// 2025-11-25, Streamable HTTP › Sending Messages: a client that reads JSON only can be asked all the same, where it listens.
#[tokio::test]
async fn a_client_that_reads_only_json_is_asked_where_it_listens() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let mut standing = session.stream(None).ok().await;
    let mut headers = session.headers();
    headers.extend([("Content-Type", "application/json"), ("Accept", "application/json")]);
    let call = message("1", "tools/call", r#"{"name":"ask","arguments":{"message":"?"}}"#);
    let (answered, ()) = tokio::join!(send("POST", &proxy.url, &headers, &call), async {
        let question = next(&mut standing).await.unwrap();
        answer(&session, &question, "x").await;
    });
    assert_eq!(answered.headers.get("content-type"), Some("application/json"));
    assert!(text(&answered.json().ok().await).starts_with("answer: accept"));
}

/// C-LIFE-3: a call whose client came back for the rest is under way like any other, and finishes.
#[tokio::test]
async fn a_resumed_call_finishes_although_the_proxy_drains() {
    let proxy = Proxy::start(legacy()).await;
    let session = session(&proxy).await;
    let call =
        json!({ "name": "progress", "arguments": { "steps": 20, "delay_ms": 50 }, "_meta": { "progressToken": 1 } });
    let mut stream = session.send(&message("1", "tools/call", &call.to_string())).ok().await;
    let first = next(&mut stream).await.unwrap();
    let mut resumed = session.stream(first.id.as_deref()).ok().await;
    next(&mut resumed).await.unwrap();
    let (report, rest) = tokio::join!(within("shutdown", proxy.running.shutdown()), rest(&mut resumed));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(text(&rest.last().unwrap().json()), "did 20 steps", "{rest:?}");
}
