//! C-TAPE-1, C-TAPE-2: what is written is read back, byte for byte; what is not known is kept.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn line(frame: &Frame) -> Vec<u8> {
    let mut line = Vec::new();
    frame.write(&mut line);
    line
}

fn parse(text: impl Into<Vec<u8>>) -> Result<Frame, FrameError> {
    Frame::parse(&Bytes::from(text.into()))
}

fn shown(frame: &Frame) -> String {
    String::from_utf8(line(frame)).unwrap()
}

#[test]
fn a_header_looks_like_this() {
    let mut header = Header::new(UNIX_EPOCH + Duration::from_millis(1_795_442_400_123));
    header.upstream = Some("files".into());
    header.edges = vec![Edge::Client, Edge::Upstream];
    header.client = Some(Transport::HttpSse);
    header.server = Some(Transport::Stdio);
    header.by = "shadowcat".into();
    let mut line = Vec::new();
    header.write(&mut line);
    insta::assert_snapshot!(String::from_utf8(line.clone()).unwrap(), @r#"{"shadowcat_tape":1,"started":"2026-11-23T14:00:00.123Z","by":"shadowcat","upstream":"files","edges":["client","upstream"],"client":"http+sse","server":"stdio"}"#);
    let read = Header::parse(&line).unwrap();
    assert_eq!(read, header);
    assert_eq!(read.started_at(), Some(UNIX_EPOCH + Duration::from_millis(1_795_442_400_123)));
}

#[test]
fn frames_look_like_this() {
    let mut request = Frame::message(
        1,
        1234,
        Party::Client,
        Party::Proxy,
        r#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call", "params":{}}"#,
    );
    request.exchange = Some(3);
    request.connection = Some(1);
    let headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
    request.http = Some(Arc::new(Http { method: Some("POST".into()), headers, ..Http::default() }));
    request.by =
        vec![Intervention { name: "faults".into(), did: "delayed".into(), ms: Some(20), ..Intervention::default() }];
    request.redacted = vec!["/params/arguments/token".into()];
    request.set_extra("colour", &json!({ "b": 1, "a": [null] }));
    let mut event = Frame::new(2, 1300, Kind::Event);
    event.sse = Some(Box::new(Sse { id: Some("1-0".into()), retry: Some(3000), ..Sse::default() }));
    let frames = [
        request,
        event,
        Frame::message(3, 1400, Party::Upstream, Party::Proxy, "no \"json\"\n"),
        Frame::message(4, 1400, Party::Upstream, Party::Proxy, &b"\xff\x00"[..]),
        Frame::new(5, 1500, Kind::Gap { lost: 12, bytes: 3456, why: "the disk did not keep up".into() }),
        Frame::new(6, 1500, Kind::Close { reason: "server exited with 1".into() }),
        Frame::new(7, 1600, Kind::End { reason: "rotated".into(), next: Some("b.tape.jsonl".into()) }),
    ];
    let text: String = frames.iter().map(shown).collect();
    insta::assert_snapshot!(text);
    for frame in &frames {
        assert_eq!(parse(line(frame)).unwrap(), *frame);
    }
}

#[test]
fn bytes_of_a_message_are_a_slice_of_its_line() {
    let line = Bytes::from_static(br#"{"seq":1,"at":0,"kind":"message","message":{"a" : 1e0}}"#);
    let frame = Frame::parse(&line).unwrap();
    let bytes = frame.body.unwrap().bytes().clone();
    assert_eq!(&bytes[..], br#"{"a" : 1e0}"#);
    assert!(line.as_ptr_range().contains(&bytes.as_ptr()));
}

#[test]
fn what_cannot_stand_in_a_line_is_written_otherwise() {
    let form = |bytes: &'static [u8]| Body::of(Bytes::from_static(bytes)).form();
    for json in [&b"{}"[..], b"[]", b"\"\\ud800\"", b"-0.0e1", b"{\"a\": [ ]}"] {
        assert_eq!(form(json), Form::Json, "{json:?}");
    }
    for text in [&b""[..], b" {}", b"{} ", b"{\n}", b"{\r}", b"{}{}", b"nonsense", b"\xef\xbb\xbf{}", b"01"] {
        assert_eq!(form(text), Form::Text, "{text:?}");
    }
    assert_eq!(form(b"\"\xff\""), Form::Base64);
    // As deep as a line can be, the message being one level deeper in it.
    let nested = |depth: usize| Bytes::from([vec![b'['; depth], vec![b']'; depth]].concat());
    assert_eq!(Body::of(nested(DEPTH_MAX - 1)).form(), Form::Json);
    assert_eq!(Body::of(nested(DEPTH_MAX)).form(), Form::Text);
    for depth in [DEPTH_MAX - 1, DEPTH_MAX] {
        let frame = Frame::message(1, 0, Party::Client, Party::Proxy, nested(depth));
        assert_eq!(parse(line(&frame)).unwrap(), frame);
    }
}

#[test]
fn what_is_not_known_is_kept() {
    let text = concat!(
        r#"{"seq":1,"at":2,"from":"client","to":"proxy","kind":"smell","sse":{"id":"1","size":7},"of":"roses","#,
        r#""x":{"z":1.0,"a":[1e3]},"message":{}}"#,
        "\n"
    );
    let frame = parse(text).unwrap();
    assert_eq!(frame.kind, Kind::Other("smell".into()));
    assert_eq!(frame.extra("x"), Some(r#"{"z":1.0,"a":[1e3]}"#));
    assert_eq!(shown(&frame), text);

    let header = r#"{"shadowcat_tape":1,"started":"x","by":"y","edges":[],"client":"pigeon","flavour":{"sweet":true}}"#;
    let mut line = Vec::new();
    Header::parse(header.as_bytes()).unwrap().write(&mut line);
    assert_eq!(String::from_utf8(line).unwrap().trim_end(), header);
}

#[test]
fn members_of_ours_cannot_be_forged() {
    let mut frame = Frame::new(1, 2, Kind::Message);
    for name in KNOWN {
        frame.set_extra(name, &json!("forged"));
    }
    assert_eq!(shown(&frame), "{\"seq\":1,\"at\":2,\"kind\":\"message\"}\n");
}

#[test]
fn many_redactions_are_counted() {
    let mut frame = Frame::new(1, 2, Kind::Message);
    frame.redacted = (0..40).map(|n| format!("/{n}")).collect();
    frame.redacted_more = 5;
    let read = parse(line(&frame)).unwrap();
    assert_eq!((read.redacted.len(), read.redacted_more), (REDACTED_MAX, 13));
}

#[test]
fn versions_are_checked() {
    let told = |text: &str| Header::parse(text.as_bytes()).map_err(|error| error.to_string());
    let faults = [
        "",
        "no json",
        "[]",
        r#"{"seq":1}"#,
        r#"{"shadowcat_tape":2,"what":"ever"}"#,
        r#"{"shadowcat_tape":"1","started":"x"}"#,
        r#"{"shadowcat_tape":0,"started":"x"}"#,
        r#"{"shadowcat_tape":1}"#,
        r#"{"shadowcat_tape":1,"started":"x","edges":["third"]}"#,
    ];
    let text: Vec<String> = faults.iter().map(|line| format!("{line}: {}", told(line).unwrap_err())).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn faults_of_frames_are_told() {
    let faults = [
        "",
        "no json",
        "[1]",
        r#"{"seq":1,"at":2,"kind":"message"} {}"#,
        r#"{"seq":1,"seq":1,"at":2,"kind":"message"}"#,
        r#"{"at":2,"kind":"message"}"#,
        r#"{"seq":1,"kind":"message"}"#,
        r#"{"seq":1,"at":2}"#,
        r#"{"seq":-1,"at":2,"kind":"message"}"#,
        r#"{"seq":1,"at":2,"kind":"message","from":"moon"}"#,
        r#"{"seq":1,"at":2,"kind":"message","http":{"status":"ok"}}"#,
        r#"{"seq":1,"at":2,"kind":"gap","lost":"all"}"#,
        r#"{"seq":1,"at":2,"kind":"message","text":7}"#,
        r#"{"seq":1,"at":2,"kind":"message","base64":"?"}"#,
        r#"{"seq":1,"at":2,"kind":"message","text":"a","message":{}}"#,
    ];
    let text: Vec<String> = faults.iter().map(|line| format!("{line}: {}", parse(*line).unwrap_err())).collect();
    insta::assert_snapshot!(text.join("\n"));
    assert_eq!(parse(*b"\xff"), Err(FrameError::Utf8(0)));
}

fn party() -> impl Strategy<Value = Option<Party>> {
    proptest::option::of(prop_oneof![Just(Party::Client), Just(Party::Proxy), Just(Party::Upstream)])
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Message),
        Just(Kind::Http),
        Just(Kind::Event),
        any::<String>().prop_map(|reason| Kind::Close { reason }),
        (any::<u64>(), any::<u64>(), any::<String>()).prop_map(|(lost, bytes, why)| Kind::Gap { lost, bytes, why }),
        (any::<String>(), any::<Option<String>>()).prop_map(|(reason, next)| Kind::End { reason, next }),
        "[a-z]{1,3}x".prop_map(Kind::Other),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        any::<String>().prop_map(String::into_bytes),
        any::<String>().prop_map(|text| json!({ "jsonrpc": "2.0", "id": 1, "result": text }).to_string().into_bytes()),
        r#"[ \t\r\n]{0,2}(\{"a":-?1(\.50)?(e1)?\}|\[\]|null|"\\u00e9")[ \r\n]{0,2}"#.prop_map(String::into_bytes),
    ]
}

fn words() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-z-]{1,9}", any::<String>(), 0..3)
}

prop_compose! {
    fn any_frame()(
        (seq, at, kind, from, to) in (any::<u64>(), any::<u64>(), kind(), party(), party()),
        (exchange, connection) in any::<(Option<u64>, Option<u64>)>(),
        http in proptest::option::of((any::<Option<String>>(), any::<Option<u16>>(), words())),
        sse in any::<Option<(Option<String>, Option<String>, Option<u64>)>>(),
        by in proptest::collection::vec(any::<(String, String, Option<u64>, Option<String>)>(), 0..3),
        redacted in proptest::collection::vec(any::<String>(), 0..4),
        extra in words(),
        body in proptest::option::of(bytes()),
    ) -> Frame {
        let mut frame = Frame { from, to, exchange, connection, redacted, ..Frame::new(seq, at, kind) };
        frame.http = http.map(|(method, status, headers)| {
            Arc::new(Http { method, status, headers, ..Http::default() })
        });
        frame.sse = sse.map(|(id, event, retry)| Box::new(Sse { id, event, retry, ..Sse::default() }));
        let by = by.into_iter().map(|(name, did, ms, was)| Intervention { name, did, ms, was, ..Intervention::default() });
        frame.by = by.collect();
        for (name, value) in extra {
            frame.set_extra(&format!("x-{name}"), &json!(value));
        }
        frame.body = body.map(|bytes| Body::of(bytes.into()));
        frame
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(frame in any_frame()) {
        let written = line(&frame);
        prop_assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read = parse(written.clone());
        prop_assert_eq!(read.as_ref(), Ok(&frame));
        prop_assert_eq!(line(&read.unwrap()), written);
    }

    #[test]
    fn half_a_line_is_never_a_frame(frame in any_frame(), cut in any::<proptest::sample::Index>()) {
        let written = line(&frame);
        // Without its end and its last brace, at least.
        let half = &written[..cut.index(written.len() - 1)];
        prop_assert!(parse(half).is_err());
    }

    #[test]
    fn no_line_is_too_strange(text in "[\\[\\]{}\",:a-z0-9 \\\\]{0,40}") {
        let _ = parse(text);
    }
}
