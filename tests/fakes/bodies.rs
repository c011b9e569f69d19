//! What is wrong with bodies: how they are coded, how their end is told, and where they break off.

use super::raw::{LAST_CHUNK, Raw, parts};
use super::*;

/// A server of which the first `initialize` goes wrong.
async fn with(answer: AnswerForm, faults: &[Do]) -> MockSse {
    let on = || On::method("initialize").nth(1);
    start(faults.iter().fold(script(answer), |script, fault| script.fault(on(), fault.clone()))).await
}

/// The body of a response that ends by itself.
async fn body(mock: &MockSse, end: &str) -> String {
    let text = Raw::initialize(mock).await.until(end).await;
    parts(&text).1.to_owned()
}

fn cut(events: u64, bytes: i64, end: End) -> Do {
    Do::Cut { after: Some(At { events, bytes }), end }
}

/// What gzip holds that was stored, not compressed (RFC 1951, 3.2.4).
fn gunzip(bytes: &[u8]) -> Vec<u8> {
    assert_eq!(&bytes[..3], [0x1f, 0x8b, 8], "not gzip");
    let (mut at, mut out, mut last) = (10, Vec::new(), false);
    while !last {
        let length = usize::from(u16::from_le_bytes([bytes[at + 1], bytes[at + 2]]));
        (last, at) = (bytes[at] == 1, at + 5);
        out.extend_from_slice(&bytes[at..at + length]);
        at += length;
    }
    assert_eq!(bytes[at + 4..], u32::try_from(out.len()).unwrap().to_le_bytes(), "the length, and nothing after it");
    out
}

#[tokio::test]
async fn json_is_compressed_for_a_client_that_did_not_ask() {
    let mock = with(AnswerForm::Json, &[Do::Gzip]).await;
    let mut raw = Raw::initialize(&mock).await;
    let text = raw.until("\r\n\r\n").await;
    let head = parts(&text).0.to_owned();
    assert!(head.contains("\r\nContent-Encoding: gzip"), "{head}");
    let length: usize = head.split("Content-Length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    raw.bytes(head.len() + 4 + length).await;
    let answer: Value = serde_json::from_slice(&gunzip(&raw.came[head.len() + 4..])).unwrap();
    assert_eq!(answer["id"], 1);
    assert!(raw.silent().await, "nothing beyond the length");
}

#[tokio::test]
async fn a_stream_is_compressed_event_by_event() {
    let mock = with(AnswerForm::Sse, &[Do::Gzip, Do::BodyEnd(BodyEnd::Close)]).await;
    let mut raw = Raw::initialize(&mock).await;
    let text = raw.until("\r\n\r\n").await;
    assert!(text.contains("\r\nContent-Encoding: gzip\r\n"), "{text}");
    let head = parts(&text).0.len() + 4;
    raw.end().await.unwrap();
    let events = String::from_utf8(gunzip(&raw.came[head..])).unwrap();
    assert!(events.starts_with("id: 1-1\ndata: {\"jsonrpc\"") && events.ends_with("}\n\n"), "{events}");
}

#[tokio::test]
async fn the_end_of_json_is_told_in_other_ways() {
    let whole = body(&start(script(AnswerForm::Json)).await, "}}}").await;
    let mock = with(AnswerForm::Json, &[Do::BodyEnd(BodyEnd::Chunked)]).await;
    assert_eq!(body(&mock, LAST_CHUNK).await, format!("{:x}\r\n{whole}\r\n0\r\n\r\n", whole.len()));
    let mock = with(AnswerForm::Json, &[Do::BodyEnd(BodyEnd::Close)]).await;
    let text = Raw::initialize(&mock).await.all().await.unwrap();
    assert_eq!(parts(&text).1, whole);
    assert!(!text.contains("Content-Length") && text.contains("\r\nConnection: close\r\n"), "{text}");
    for length in [5, 1_000_000] {
        let mock = with(AnswerForm::Json, &[Do::BodyEnd(BodyEnd::Length(length))]).await;
        let mut raw = Raw::initialize(&mock).await;
        let text = raw.until(&whole).await;
        assert!(text.contains(&format!("\r\nContent-Length: {length}\r\n")), "{text}");
        assert!(raw.silent().await, "the connection stays");
    }
}

/// An abrupt end is short of what was announced: of the length, of the last chunk, or of the chunk that has begun.
#[tokio::test]
async fn a_body_ends_before_its_end() {
    let whole = body(&start(script(AnswerForm::Json)).await, "}}}").await;
    let all = async |answer, faults: &[Do]| Raw::initialize(&with(answer, faults).await).await.all().await;
    for end in [End::Abrupt, End::MidChunk] {
        let text = all(AnswerForm::Json, &[cut(0, 1 << 20, end)]).await.unwrap();
        assert!(text.contains(&format!("\r\nContent-Length: {}\r\n", whole.len() + 1)), "{text}");
        assert_eq!(parts(&text).1, whole, "nothing is missing but what was announced");
    }
    let text = all(AnswerForm::Sse, &[cut(0, 20, End::Abrupt)]).await.unwrap();
    assert_eq!(parts(&text).1, "14\r\nid: 1-1\ndata: {\"json\r\n");
    let text = all(AnswerForm::Sse, &[cut(0, 20, End::MidChunk)]).await.unwrap();
    assert_eq!(parts(&text).1, "15\r\nid: 1-1\ndata: {\"json");
    let chunked = [Do::BodyEnd(BodyEnd::Chunked), cut(0, 5, End::MidChunk)];
    assert_eq!(parts(&all(AnswerForm::Json, &chunked).await.unwrap()).1, "6\r\n{\"jso");
    let nothing = all(AnswerForm::Sse, &[cut(0, 0, End::MidChunk)]).await.unwrap();
    assert_eq!(parts(&nothing).1, "1\r\n");
    let reset = all(AnswerForm::Sse, &[cut(0, 20, End::Reset)]).await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Below zero the place is counted from the end of the event: before the blank line, before all line ends.
#[tokio::test]
async fn an_event_is_cut_before_the_blank_line() {
    for (bytes, end) in [(-1, "}}}\n\r\n"), (-2, "}}}\r\n")] {
        let mock = with(AnswerForm::Sse, &[cut(0, bytes, End::Abrupt)]).await;
        let text = Raw::initialize(&mock).await.all().await.unwrap();
        assert!(text.ends_with(end), "{bytes}: {text:?}");
    }
}

#[tokio::test]
async fn a_character_is_cut_in_half() {
    let script = Script { instructions: "caf\u{e9}".into(), ..script(AnswerForm::Sse) };
    let mock = start(script.clone()).await;
    let event = Raw::initialize(&mock).await.until(LAST_CHUNK).await;
    let event = parts(&event).1.split_once("\r\n").unwrap().1.to_owned();
    let middle = i64::try_from(event.find('\u{e9}').unwrap() + 1).unwrap();
    let mock = start(script.fault(On::method("initialize"), cut(0, middle, End::Abrupt))).await;
    let mut raw = Raw::initialize(&mock).await;
    raw.end().await.unwrap();
    assert!(raw.came.ends_with(b"caf\xc3\r\n"), "{}", raw.text());
}

/// All has been said, but the end of the response, or the break, is held back.
#[tokio::test]
async fn a_response_is_slow_to_end() {
    let slow = Do::Linger { ms: 60_000 };
    let mock = with(AnswerForm::Sse, std::slice::from_ref(&slow)).await;
    let mut raw = Raw::initialize(&mock).await;
    raw.until("}}}\n\n\r\n").await;
    assert!(raw.silent().await);
    assert!(!raw.text().ends_with("0\r\n\r\n"), "{}", raw.text());
    let mock = with(AnswerForm::Json, &[slow, Do::BodyEnd(BodyEnd::Close)]).await;
    let mut raw = Raw::initialize(&mock).await;
    raw.until("}}}").await;
    assert!(raw.silent().await);
    let quick = with(AnswerForm::Sse, &[Do::Linger { ms: 1 }, cut(0, 9, End::Abrupt)]).await;
    assert!(Raw::initialize(&quick).await.all().await.unwrap().ends_with("9\r\nid: 1-1\nd\r\n"));
}

#[tokio::test]
async fn a_body_begins_with_a_byte_order_mark() {
    let mock = with(AnswerForm::Json, &[Do::Bom]).await;
    let text = Raw::initialize(&mock).await.until("}}}").await;
    let (head, body) = parts(&text);
    assert!(body.starts_with("\u{feff}{\"jsonrpc\""), "{text}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
    let mock = with(AnswerForm::Sse, &[Do::Bom]).await;
    let text = body_of_chunk(&Raw::initialize(&mock).await.until(LAST_CHUNK).await);
    assert!(text.starts_with("\u{feff}id: 1-1\ndata: "), "{text}");
    let mock = start(Script::default().fault(On::http("GET"), Do::Bom)).await;
    let text = body_of_chunk(&Raw::sse(&mock).await.until("\n\n").await);
    assert!(text.starts_with("\u{feff}event: endpoint\ndata: /messages?session_id="), "{text}");
}

fn body_of_chunk(text: &str) -> String {
    parts(text).1.split_once("\r\n").unwrap().1.to_owned()
}

/// The event that names the address is the first of a 2024-11-05 stream.
#[tokio::test]
async fn a_stream_of_2024_breaks_off_within_its_address() {
    for (at, rest) in [((0, 0), ""), ((0, 16), "10\r\nevent: endpoint\n\r\n")] {
        let mock = start(Script::default().fault(On::http("GET"), cut(at.0, at.1, End::Abrupt))).await;
        assert_eq!(parts(&Raw::sse(&mock).await.all().await.unwrap()).1, rest);
    }
    let silent = Do::Stall(At::default());
    let mock = start(Script::default().fault(On::http("GET"), silent)).await;
    let mut raw = Raw::sse(&mock).await;
    assert!(raw.until("\r\n\r\n").await.contains("text/event-stream"));
    assert!(raw.silent().await);
}
