//! Servers whose HTTP is wrong in ways that a proxy must neither pass on nor suffer from: every call is executed once, has one
//! answer, and is followed by calls that work.

use std::time::Duration;

use super::*;
use common::{Client, Era};
use shadowcat::testing::{At, BodyEnd, End, EventId, LineEnd};

const JSON: AnswerForm = AnswerForm::Json;
const SSE: AnswerForm = AnswerForm::Sse;

/// A proxy in front of a server of which the first call of a tool goes wrong, and a client.
async fn hostile(
    era: Era,
    answer: AnswerForm,
    tool: &str,
    faults: &[Do],
    change: impl FnOnce(&mut Settings),
) -> (Stage, Client) {
    let script = faults.iter().fold(era.server(), |script, fault| script.fault(On::tool(tool).nth(1), fault.clone()));
    let stage = Stage::with(answering(answer, script), change).await;
    let client = match era {
        Era::Legacy => Client::Legacy(stage.session().await),
        Era::Modern => Client::Modern(stage.url.clone()),
    };
    (stage, client)
}

/// The next call works, and is the second that was executed.
async fn was_executed_once(client: &Client, case: &str) {
    let next = client.call("count", json!({})).await;
    assert_eq!(next["result"]["content"][0]["text"], "2", "{case}: {next}");
}

/// What the client is told when a call goes wrong like this: the proxy's error, whatever the era.
async fn is_told(answer: AnswerForm, faults: &[Do], code: i64) -> Vec<String> {
    is_told_with(answer, faults, code, |_| {}).await
}

async fn is_told_with(answer: AnswerForm, faults: &[Do], code: i64, change: impl Fn(&mut Settings)) -> Vec<String> {
    let mut messages = Vec::new();
    for era in Era::BOTH {
        let case = format!("{era:?}, {faults:?}");
        let (stage, client) = hostile(era, answer, "count", faults, &change).await;
        let told = client.call("count", json!({})).await;
        assert_ours(&told, code);
        assert_eq!(told["error"]["data"]["retryable"], false, "{case}: {told}");
        assert_eq!(stage.posts("tools/call").len(), 1, "{case}");
        was_executed_once(&client, &case).await;
        messages.push(told["error"]["message"].as_str().unwrap().to_owned());
    }
    messages
}

/// The answer that a client gets all the same, with the progress before it; a body that is JSON has no room for that.
async fn is_answered(era: Era, answer: AnswerForm, faults: &[Do]) -> Stage {
    let case = format!("{era:?}, {faults:?}");
    let (stage, client) = hostile(era, answer, "progress", faults, |_| {}).await;
    let messages = all(client.begin("5", Some("\"t\""), "progress", json!({ "steps": 3 })).await).await;
    let (last, before) = messages.split_last().unwrap();
    assert_eq!((text(last), &last["id"]), ("did 3 steps", &json!(5)), "{case}");
    if answer == SSE {
        assert_eq!((progress(before), before.len()), (vec![1, 2, 3], 3), "{case}");
    }
    assert_eq!(stage.mock.stats()["tools"]["progress"], 1, "{case}");
    assert_eq!(text(&client.call("echo", json!({ "text": "well" })).await), "well", "{case}");
    stage
}

fn cut(events: u64, bytes: i64, end: End) -> Do {
    Do::Cut { after: Some(At { events, bytes }), end }
}

/// Farther than any answer is long.
const BEYOND: i64 = 1 << 20;

fn impatient(settings: &mut Settings) {
    settings.timeouts.request = Duration::from_millis(500);
}

/// Headers without end are given up when they are too many, and, if they trickle, when the time is over. (At 300 bytes a
/// line and 64 KiB in all, memory is not what ends them.)
#[tokio::test]
async fn headers_that_never_end_are_given_up() {
    let endless = Do::Header { bytes: 300, endless: true };
    is_told(JSON, std::slice::from_ref(&endless), -31003).await;
    let drip = Do::Slice { bytes: 10, gap_ms: 5, head: true };
    is_told_with(JSON, &[endless, drip], -31001, impatient).await;
}

/// Headers that come in single bytes are headers.
#[tokio::test]
async fn headers_that_trickle_are_read() {
    for era in Era::BOTH {
        for answer in [JSON, SSE] {
            is_answered(era, answer, &[Do::Slice { bytes: 1, gap_ms: 0, head: true }]).await;
        }
    }
}

/// A body that is compressed although nobody asked is refused: neither passed on as it is, nor read as an event stream.
#[tokio::test]
async fn a_compressed_answer_is_refused() {
    for answer in [JSON, SSE] {
        for message in is_told(answer, &[Do::Gzip], -31006).await {
            assert!(message.contains("compressed"), "{message}");
        }
    }
    let (stage, client) = hostile(Era::Modern, JSON, "count", &[], |_| {}).await;
    client.call("count", json!({})).await;
    assert_eq!(stage.posts("tools/call")[0].headers.get("accept-encoding"), Some("identity"));
}

/// A body of which the end is missing is not delivered, be all of the JSON there: what is missing may be more than the end.
#[tokio::test]
async fn a_body_without_its_end_is_lost() {
    let chunked = Do::BodyEnd(BodyEnd::Chunked);
    for end in [End::Abrupt, End::MidChunk, End::Reset] {
        for bytes in [0, 20, BEYOND] {
            for faults in [vec![cut(0, bytes, end)], vec![chunked.clone(), cut(0, bytes, end)]] {
                for message in is_told(JSON, &faults, -31003).await {
                    assert!(message.contains("may have been executed"), "{faults:?}: {message}");
                }
            }
        }
    }
}

/// A body that ends with the connection is whole if it says no length: a server of HTTP/1.0.
#[tokio::test]
async fn a_body_may_end_with_its_connection() {
    for era in Era::BOTH {
        for answer in [JSON, SSE] {
            is_answered(era, answer, &[Do::BodyEnd(BodyEnd::Close)]).await;
        }
    }
}

/// A length that is too long is waited for, in vain; one that is too short leaves bytes behind that are no answer to
/// whatever comes next.
#[tokio::test]
async fn a_wrong_length_is_an_error() {
    is_told_with(JSON, &[Do::BodyEnd(BodyEnd::Length(1 << 20))], -31001, impatient).await;
    is_told(JSON, &[Do::BodyEnd(BodyEnd::Length(5))], -31006).await;
}

/// A stream that breaks, wherever: where there is an id it is resumed, and half an event is none.
#[tokio::test]
async fn a_stream_that_breaks_anywhere_is_resumed() {
    for end in [End::Abrupt, End::MidChunk, End::Clean] {
        for bytes in [0, 1, 30, -2, -1] {
            let stage = is_answered(Era::Legacy, SSE, &[cut(1, bytes, end)]).await;
            let resumed = stage.arrived(|request| request.headers.get("last-event-id").is_some());
            assert_eq!(resumed.len(), 1, "{end:?} at {bytes}");
            let last = resumed[0].headers.get("last-event-id").unwrap();
            assert!(last.ends_with("-1"), "{end:?} at {bytes}: the last whole event, not {last}");
        }
    }
}

/// In the middle of a character, too: at each byte of two that are not ASCII.
#[tokio::test]
async fn a_stream_that_breaks_within_a_character_is_resumed() {
    for bytes in 0..4 {
        let (stage, client) = hostile(Era::Legacy, SSE, "echo", &[], |_| {}).await;
        let whole = client.call("echo", json!({ "text": "\u{e9}\u{e9}" })).await.to_string();
        let after = whole.len() - whole.find('\u{e9}').unwrap();
        let fault = cut(0, -(i64::try_from(after).unwrap() + 2 - bytes), End::Abrupt);
        let on = On::tool("echo").nth(1);
        stage.mock.add_fault(shadowcat::testing::Fault { on, fault }).unwrap();
        assert_eq!(text(&client.call("echo", json!({ "text": "\u{e9}\u{e9}" })).await), "\u{e9}\u{e9}");
        assert_eq!(stage.arrived(|request| request.headers.get("last-event-id").is_some()).len(), 1);
        assert_eq!(stage.mock.stats()["tools"]["echo"], 2);
    }
}

/// Without ids, or in an era that has none, nobody knows what was missed: the call is answered with an error, once.
#[tokio::test]
async fn a_stream_without_ids_is_lost_when_it_breaks() {
    let missing = Do::EventId { id: EventId::Missing, from: 0 };
    for end in [End::Abrupt, End::MidChunk, End::Clean, End::Reset] {
        for era in Era::BOTH {
            let (stage, client) = hostile(era, SSE, "progress", &[missing.clone(), cut(2, 9, end)], |_| {}).await;
            let messages = all(client.begin("5", Some("\"t\""), "progress", json!({ "steps": 3 })).await).await;
            assert_eq!((progress(&messages), messages.len()), (vec![1, 2], 3), "{era:?}, {end:?}");
            assert_ours(&messages[2], -31003);
            assert_eq!((&messages[2]["id"], &messages[2]["error"]["data"]["retryable"]), (&json!(5), &json!(false)));
            assert_eq!(stage.arrived(|request| request.headers.get("last-event-id").is_some()).len(), 0);
            assert_eq!(stage.mock.stats()["tools"]["progress"], 1, "{era:?}, {end:?}");
            assert_eq!(text(&client.call("echo", json!({ "text": "well" })).await), "well");
        }
    }
}

/// An empty id takes back the one before it (HTML, Server-sent events › Interpreting an event stream): the call's stream
/// cannot be resumed any more.
#[tokio::test]
async fn an_id_that_was_taken_back_is_not_resumed_from() {
    let empty = Do::EventId { id: EventId::Empty, from: 2 };
    let (stage, client) = hostile(Era::Legacy, SSE, "progress", &[empty, cut(2, 0, End::Abrupt)], |_| {}).await;
    let messages = all(client.begin("5", Some("\"t\""), "progress", json!({ "steps": 3 })).await).await;
    assert_eq!((progress(&messages), messages.len()), (vec![1, 2], 3));
    assert_ours(&messages[2], -31003);
    assert_eq!(stage.arrived(|request| request.headers.get("last-event-id").is_some()).len(), 0);
    assert_eq!(stage.mock.stats()["tools"]["progress"], 1);
}

/// The standing stream is opened again from nowhere.
#[tokio::test]
async fn a_standing_stream_whose_id_was_taken_back_begins_anew() {
    let empty = Do::EventId { id: EventId::Empty, from: 2 };
    let script = legacy().fault(On::http("GET").nth(1), empty).fault(On::http("GET").nth(1), cut(2, 1, End::Abrupt));
    let stage = Stage::new(script).await;
    let client = stage.session().await;
    let mut stream = client.stream(None).ok().await;
    stage.arrival(is_get).await;
    // The third is what the stream breaks at; without an id nobody can ask for it.
    for kind in ["tools", "prompts", "resources"] {
        stage.mock.change(kind);
    }
    until("it is opened again", async || stage.arrived(is_get), |gets| gets.len() == 2).await;
    assert_eq!(stage.arrived(is_get)[1].headers.get("last-event-id"), None);
    stage.mock.change("tools");
    for kind in ["tools", "prompts", "tools"] {
        let told = next(&mut stream).await.unwrap().json();
        assert_eq!(told["method"], format!("notifications/{kind}/list_changed"));
    }
}

/// Two events with one id are two events.
#[tokio::test]
async fn events_that_share_an_id_are_all_delivered() {
    is_answered(Era::Legacy, SSE, &[Do::EventId { id: EventId::Same, from: 1 }]).await;
}

/// All line ends of the standard, and a byte order mark, in any combination with small pieces; and where a stream that has them
/// breaks it is resumed.
#[tokio::test]
async fn odd_streams_are_read_by_the_standard() {
    let ends = [Do::LineEnd(LineEnd::Cr), Do::LineEnd(LineEnd::Crlf), Do::Bom];
    for end in &ends {
        for era in Era::BOTH {
            is_answered(era, SSE, std::slice::from_ref(end)).await;
            is_answered(era, SSE, &[end.clone(), Do::Bom, Do::Slice { bytes: 1, gap_ms: 0, head: false }]).await;
        }
        let stage = is_answered(Era::Legacy, SSE, &[end.clone(), cut(1, -1, End::Abrupt)]).await;
        assert_eq!(stage.arrived(|request| request.headers.get("last-event-id").is_some()).len(), 1);
    }
}

/// JSON does not begin with a byte order mark (RFC 8259, 8.1).
#[tokio::test]
async fn a_byte_order_mark_before_json_is_refused() {
    is_told(JSON, &[Do::Bom], -31006).await;
}

/// The answer is the end of the wait for it, whenever the server ends its response.
#[tokio::test]
async fn an_answer_does_not_wait_for_the_end_of_its_stream() {
    for era in Era::BOTH {
        is_answered(era, SSE, &[Do::Linger { ms: 600_000 }]).await;
    }
}

/// HTTP+SSE: the one stream is all there is. What breaks it is an error to whoever waits for an answer, and no call is
/// repeated on the next.
#[tokio::test]
async fn a_2024_stream_that_breaks_loses_its_calls() {
    for end in [End::Abrupt, End::MidChunk, End::Clean, End::Reset] {
        for bytes in [0, 30, -1] {
            let script = legacy().fault(On::tool("count").nth(1), cut(0, bytes, end));
            let stage = http_sse::old(script, |_| {}).await;
            let client = Client::Legacy(stage.session_of("2024-11-05").await);
            let case = format!("{end:?} at {bytes}");
            let told = client.call("count", json!({})).await;
            assert_ours(&told, -31003);
            assert_eq!(told["error"]["data"]["retryable"], false, "{case}: {told}");
            was_executed_once(&client, &case).await;
        }
    }
}

/// HTTP+SSE: odd bytes on the stream, from its first event on.
#[tokio::test]
async fn an_odd_2024_stream_is_read() {
    for fault in [
        Do::LineEnd(LineEnd::Cr),
        Do::LineEnd(LineEnd::Crlf),
        Do::Bom,
        Do::Slice { bytes: 1, gap_ms: 0, head: true },
        Do::Comments { count: 1000, bytes: 10 },
        Do::BodyEnd(BodyEnd::Close),
    ] {
        let stage = http_sse::old(legacy().fault(On::http("GET"), fault.clone()), |_| {}).await;
        let client = Client::Legacy(stage.session_of("2024-11-05").await);
        let counted = client.call("count", json!({})).await;
        assert_eq!(text(&counted), "1", "{fault:?}");
        was_executed_once(&client, &format!("{fault:?}")).await;
    }
}

/// HTTP+SSE: without an address there is no session, and the client hears so in time.
#[tokio::test]
async fn a_2024_stream_without_an_address_is_an_error() {
    for fault in [
        Do::Stall(At::default()),
        Do::Stall(At { events: 0, bytes: 20 }),
        cut(0, 20, End::Abrupt),
        cut(0, -1, End::Clean),
        Do::Gzip,
        Do::Header { bytes: 300, endless: true },
    ] {
        let short = |settings: &mut Settings| settings.timeouts.start = Duration::from_millis(300);
        let stage = http_sse::old(legacy().fault(On::http("GET"), fault.clone()), short).await;
        let refused = common::send("POST", &stage.url, &common::json_headers(), &common::initialize(LEGACY)).await;
        let told = refused.answer().ok().await;
        assert_eq!(told["error"]["data"]["origin"], "proxy", "{fault:?}: {told}");
        assert_eq!(stage.arrived(|request| request.target.starts_with("/messages")).len(), 0, "{fault:?}");
    }
}

/// A redirection is not followed from anywhere: not from an address for messages, nor when a stream is resumed.
#[tokio::test]
async fn redirections_are_followed_from_nowhere() {
    let elsewhere = MockSse::start(Script::default()).ok().await;
    let away = |status| Do::Status {
        code: status,
        headers: [("Location".to_owned(), elsewhere.url())].into(),
        body: String::new(),
    };
    for status in [301, 302, 303, 307, 308] {
        let stage = http_sse::old(legacy().fault(On::tool("count").nth(1), away(status)), |_| {}).await;
        let client = Client::Legacy(stage.session_of("2024-11-05").await);
        assert_ours(&client.call("count", json!({})).await, -31002);
        assert_eq!(text(&client.call("count", json!({})).await), "1", "{status}: it was not executed");

        let script = legacy().fault(On::tool("count").nth(1), cut(0, 0, End::Abrupt));
        let stage = Stage::new(answering(SSE, script.fault(On::http("GET").nth(2), away(status)))).await;
        let client = Client::Legacy(stage.listening().await);
        stage.arrival(is_get).await;
        assert_ours(&client.call("count", json!({})).await, -31003);
        was_executed_once(&client, &status.to_string()).await;
    }
    assert_eq!(elsewhere.connections(), 0);
}
