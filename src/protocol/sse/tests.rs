use proptest::prelude::*;

use super::*;

const LIMIT: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Decoded {
    items: Vec<Item>,
    last_event_id: Option<Bytes>,
    retry: Option<Duration>,
    error: Option<DecodeError>,
}

impl Decoded {
    fn data(&self) -> Vec<&[u8]> {
        self.events().map(|event| &event.data[..]).collect()
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.items.iter().filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Comment => None,
        })
    }
}

fn decode<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>, limit: usize) -> Decoded {
    let mut decoder = Decoder::new(limit);
    let (mut items, mut error) = (Vec::new(), None);
    for chunk in chunks {
        let mut chunk = Bytes::copy_from_slice(chunk.as_ref());
        while let Some(item) = decoder.decode(&mut chunk) {
            assert_eq!(error, None, "nothing comes after an error");
            match item {
                Ok(item) => items.push(item),
                Err(failure) => error = Some(failure),
            }
        }
        assert!(chunk.is_empty(), "`None` means that the input is used up");
    }
    Decoded { items, last_event_id: decoder.last_event_id().cloned(), retry: decoder.retry(), error }
}

/// Decodes `input` whole, cut in two at every place, byte by byte, and byte by byte with empty chunks in between:
/// all must agree.
fn decode_every_way(input: &[u8], limit: usize) -> Decoded {
    let whole = decode([input], limit);
    for at in 0..=input.len() {
        let (head, tail) = input.split_at(at);
        assert_eq!(decode([head, tail], limit), whole, "cut at {at} of {:?}", input.escape_ascii().to_string());
        assert_eq!(decode([head, b"", tail], limit), whole, "cut at {at} with an empty chunk");
    }
    assert_eq!(decode(input.chunks(1), limit), whole, "byte by byte");
    assert_eq!(decode(input.chunks(1).flat_map(|byte| [byte, b""]), limit), whole, "byte by byte, empty chunks");
    whole
}

/// Name, input, and the data of the events that must come out.
type Vector = (&'static str, &'static [u8], &'static [&'static [u8]]);

#[test]
fn vectors() {
    #[rustfmt::skip]
    const VECTORS: &[Vector] = &[
        ("1", b"data: a\n\n", &[b"a"]),
        ("2 CR", b"data:a\r\r", &[b"a"]),
        ("2 CRLF", b"data:a\r\n\r\n", &[b"a"]),
        ("2 mixed", b"data:a\n\r", &[b"a"]),
        ("3", b"data: a\r\ndata: b\r\n\r\n", &[b"a\nb"]),
        ("4", b"data: A\r\ndata: B\rdata: C\r\n\n", &[b"A\nB\nC"]),
        ("5", b"data:test\r\ndata\ndata:test\r\n\r", &[b"test\n\ntest"]),
        ("6", b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
            &[b"\0\n 2\n1\n3\n\n4"]),
        ("7", b"data\n\ndata\ndata\n\ndata:x", &[b"", b"\n"]),
        ("8", b"\xEF\xBB\xBFdata:1\n\n", &[b"1"]),
        ("8 half a mark", b"\xEF\xBBdata:1\n\ndata:2\n\n", &[b"2"]),
        ("9", b"\xEF\xBB\xBF\xEF\xBB\xBFdata:1\n\ndata:2\n\n", &[b"2"]),
        ("10", b"data:a\n\ndata: \xEF\xBB\xBFb\n\n", &[b"a", b"\xEF\xBB\xBFb"]),
        ("11", b": c\ndata:1\n:\n:x:y\ndata:2\n\n", &[b"1\n2"]),
        ("12 space", b"data:  x\n\n", &[b" x"]),
        ("12 tab", b"data:\tx\n\n", &[b"\tx"]),
        ("13", b" data:x\n\n", &[]),
        ("14", b"event: e\n\ndata:1\n\n", &[b"1"]),
        ("15", b"event:\ndata:1\n\n", &[b"1"]),
        ("16", b"id: 1\ndata:a\n\ndata:b\n\nid\ndata:c\n\n", &[b"a", b"b", b"c"]),
        ("17", b"id: a\0b\ndata:x\n\n", &[b"x"]),
        ("18", b"id: 7\n\n", &[]),
        ("19", b"id: 1\ndata:a\n\nid: 2\ndata:b", &[b"a"]),
        ("20", "id: …\ndata:x\n\n".as_bytes(), &[b"x"]),
        ("22", "data: €豆腐\n\n".as_bytes(), &["€豆腐".as_bytes()]),
        ("22 cut", b"data: \xF0\x9F\x98\x80\n\n", &["😀".as_bytes()]),
        ("23 unfinished", b"data: \xE2\x82", &[]),
        ("23 invalid, left to the message parser", b"data: \xFF\n\n", &[b"\xFF"]),
        ("25", b"data:1\n\n\n\n\ndata:2\n\n", &[b"1", b"2"]),
        ("nothing", b"", &[]),
        ("a lone mark", b"\xEF\xBB\xBF", &[]),
        ("no blank line", b"data:1\n", &[]),
    ];
    for (name, input, expected) in VECTORS {
        let decoded = decode_every_way(input, LIMIT);
        assert_eq!(decoded.data(), *expected, "vector {name}");
        assert_eq!(decoded.error, None, "vector {name}");
        assert!(decoded.events().all(|event| event.event.is_none()), "vector {name}: type is message");
    }
}

/// The examples of the HTML standard (Server-sent events › Interpreting an event stream; Introduction), with what it says of them.
#[test]
fn examples_of_the_standard() {
    type Expected = (&'static str, Option<&'static str>, Option<&'static str>);
    let table: &[(&str, &[Expected], Option<&str>)] = &[
        ("data: YHOO\ndata: +2\ndata: 10\n\n", &[("YHOO\n+2\n10", None, None)], None),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
            &[("first event", None, Some("1")), ("second event", None, Some(""))],
            Some(""),
        ),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            &[("first event", None, Some("1")), ("second event", None, Some("")), (" third event", None, None)],
            Some(""),
        ),
        ("data\n\ndata\ndata\n\ndata:", &[("", None, None), ("\n", None, None)], None),
        ("data:test\n\ndata: test\n\n", &[("test", None, None), ("test", None, None)], None),
        (
            "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
            &[("73857293", Some("add"), None), ("2153", Some("remove"), None), ("113411", Some("add"), None)],
            None,
        ),
        (
            "data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\n",
            &[
                ("This is the first message.", None, None),
                ("This is the second message, it\nhas two lines.", None, None),
            ],
            None,
        ),
    ];
    for (input, expected, last_event_id) in table {
        let decoded = decode_every_way(input.as_bytes(), LIMIT);
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let expected = expected.iter().map(|(data, event, id)| Event {
            id: id.map(bytes),
            event: event.map(bytes),
            data: bytes(data),
            retry: None,
        });
        assert!(decoded.events().cloned().eq(expected), "{input:?}: {decoded:?}");
        assert_eq!(decoded.last_event_id, last_event_id.map(bytes), "{input:?}");
        // Without its line ends there is no other reading of it.
        for ends in ["\r", "\r\n"] {
            let other = decode_every_way(input.replace('\n', ends).as_bytes(), LIMIT);
            assert_eq!(other, decoded, "{input:?} with {ends:?}");
        }
    }
}

#[test]
fn ids_are_committed_by_blank_lines() {
    let table: &[(&[u8], Option<&[u8]>)] = &[
        (b"id: 1\ndata:a\n\ndata:b\n\n", Some(b"1")),
        (b"id: 1\ndata:a\n\ndata:b\n\nid\ndata:c\n\n", Some(b"")),
        (b"id: 9\ndata:x\n\nid: a\0b\ndata:x\n\n", Some(b"9")),
        (b"id: 7\n\n", Some(b"7")),
        (b"id: 7\n", None),
        (b"id: 1\ndata:a\n\nid: 2\ndata:b", Some(b"1")),
        (b"id: 1\ndata:a\n\nid: 2\ndata:b\n", Some(b"1")),
        (b"id: 1\nid: 2\n\n", Some(b"2")),
        ("id: …\ndata:x\n\n".as_bytes(), Some("…".as_bytes())),
        (b"data:x\n\n", None),
    ];
    for (input, expected) in table {
        let decoded = decode_every_way(input, LIMIT);
        assert_eq!(decoded.last_event_id.as_deref(), *expected, "{}", input.escape_ascii());
    }
}

#[test]
fn an_event_carries_only_its_own_id_and_the_cursor_does_not_run_ahead() {
    let mut input = Bytes::from_static(b"id: 1\ndata:a\n\ndata:b\n\nid: 3\ndata:c\n\n");
    let mut decoder = Decoder::new(LIMIT);
    let mut seen = Vec::new();
    while let Some(Ok(Item::Event(event))) = decoder.decode(&mut input) {
        seen.push((event.id, decoder.last_event_id().cloned()));
    }
    let id = |text: &'static str| Some(Bytes::from(text));
    assert_eq!(seen, [(id("1"), id("1")), (None, id("1")), (id("3"), id("3"))]);
}

#[test]
fn retry_takes_ascii_digits_only_and_saturates() {
    let table: &[(&[u8], Option<u64>)] = &[
        (b"retry: 3000\n\n", Some(3000)),
        (b"retry: 3000\n", Some(3000)),
        (b"retry: 3000", None),
        (b"retry:\n", None),
        (b"retry: 1000x\n", None),
        (b"retry: -1\n", None),
        (b"retry: +5\n", None),
        (b"retry: 1.5\n", None),
        ("retry: ٣\n".as_bytes(), None),
        (b"retry:  5\n", None),
        (b"retry: 0\n", Some(0)),
        (b"retry: 99999999999999999999999\n", Some(u64::MAX)),
        (b"retry: 5\nretry: x\n", Some(5)),
    ];
    for (input, expected) in table {
        let decoded = decode_every_way(input, LIMIT);
        assert_eq!(decoded.retry, expected.map(Duration::from_millis), "{}", input.escape_ascii());
        assert!(decoded.items.is_empty());
    }
}

#[test]
fn comments_are_reported_as_they_come() {
    let decoded = decode_every_way(b":\n\n: ping\ndata: 1\n:\n\n", LIMIT);
    let event = Item::Event(Event::new(Bytes::from_static(b"1")));
    assert_eq!(decoded.items, [Item::Comment, Item::Comment, Item::Comment, event]);
}

/// An event that ends in CR is complete with that CR: a peer that then waits for us must not be waited for.
#[test]
fn a_final_cr_is_not_waited_behind() {
    assert_eq!(decode([b"data: a\r\r"], LIMIT).data(), [b"a"]);
    assert_eq!(decode(["data: a\r\n\r", "\ndata: b\r\n\r"], LIMIT).data(), [b"a", b"b"]);
}

#[test]
fn only_default_events_with_data_carry_messages() {
    let message = |event: &Event| event.message().cloned();
    let mut event = Event::new(Bytes::from_static(b"{}"));
    assert_eq!(message(&event), Some(Bytes::from_static(b"{}")));
    event.event = Some(Bytes::from_static(b"message"));
    assert_eq!(message(&event), Some(Bytes::from_static(b"{}")));
    event.event = Some(Bytes::from_static(b"Message"));
    assert_eq!(message(&event), None);
    assert_eq!(message(&Event::priming(Bytes::from_static(b"1"))), None);
}

/// Vector 24. The limit is on the payload, wherever the pieces are cut.
#[test]
fn an_event_may_be_as_large_as_the_limit() {
    let too_large = Some(DecodeError::EventTooLarge { bytes_max: LIMIT });
    for (bytes, error) in [(LIMIT - 1, None), (LIMIT, None), (LIMIT + 1, too_large)] {
        let payload = vec![b'x'; bytes];
        let one_line = [b"data: ", &payload[..], b"\n\n"].concat();
        let half = bytes / 2;
        let two_lines = [b"data: ", &payload[..half], b"\ndata:", &payload[half + 1..], b"\n\n"].concat();
        let many_lines = b"data\n".repeat(bytes + 1);
        for input in [one_line, two_lines, [&many_lines[..], b"\n"].concat()] {
            let whole = decode([&input], LIMIT);
            assert_eq!(whole.error, error, "{bytes} bytes");
            assert_eq!(whole.data().len(), usize::from(error.is_none()));
            for size in [1, 7, 1000] {
                assert_eq!(decode(input.chunks(size), LIMIT), whole, "{bytes} bytes in chunks of {size}");
            }
        }
    }
}

/// A line that never ends is an error before it is buffered, whatever it would have been.
#[test]
fn a_line_without_end_is_refused() {
    for name in ["data:", ":", "unknown", "retry:"] {
        let mut decoder = Decoder::new(LIMIT);
        assert_eq!(decoder.decode(&mut Bytes::copy_from_slice(name.as_bytes())), None);
        let outcome = std::iter::repeat_with(|| decoder.decode(&mut Bytes::from_static(&[b'1'; 100])))
            .take(100)
            .flatten()
            .collect::<Vec<_>>();
        assert_eq!(outcome, [Err(DecodeError::EventTooLarge { bytes_max: LIMIT })], "{name}");
        assert!(decoder.partial_line.is_empty());
    }
}

#[test]
fn ids_and_types_are_bounded() {
    for name in ["id", "event"] {
        let line = |bytes| format!("{name}: {}\ndata: x\n\n", "1".repeat(bytes));
        assert_eq!(decode([line(FIELD_BYTES_MAX)], 10).error, None);
        assert_eq!(decode([line(FIELD_BYTES_MAX + 1)], 10_000).error, Some(DecodeError::FieldTooLong));
    }
}

#[test]
fn a_single_line_within_a_chunk_is_not_copied() {
    let mut chunk = Bytes::from_static(b"id: 1\ndata: payload\n\n");
    let whole = chunk.clone();
    let Some(Ok(Item::Event(event))) = Decoder::new(LIMIT).decode(&mut chunk) else { panic!("no event") };
    assert_eq!(event.data.as_ptr(), whole[12..].as_ptr());
    let id = event.id.expect("an id");
    assert!(!whole.as_ptr_range().contains(&id.as_ptr()), "an id outlives its chunk, so it is copied");
}

/// Vector 26. With a rescan per chunk this would take a minute.
#[test]
fn many_chunks_and_many_events_are_linear() {
    let payload = vec![b'x'; 400_000];
    let input = [b"data: ", &payload[..], b"\n\n"].concat();
    assert_eq!(decode(input.chunks(4), usize::MAX).data(), [&payload[..]]);

    let input = (0..1000).map(|n| format!("data: {n}\n\n")).collect::<String>();
    let expected = (0..1000).map(|n| n.to_string().into_bytes()).collect::<Vec<_>>();
    assert_eq!(decode([input], LIMIT).data(), expected);

    let many_lines = b"data: x\n".repeat(100_000);
    assert_eq!(decode([&many_lines[..], b"\n"], usize::MAX).data()[0].len(), 199_999);
}

#[test]
fn event_streams_are_known_by_their_content_type() {
    for accepted in
        ["text/event-stream", "text/event-stream;", "Text/Event-Stream; charset=utf-8", " text/event-stream "]
    {
        assert!(is_event_stream(accepted.as_bytes()), "{accepted}");
    }
    for refused in ["", ";", "text/event-streamx", "text/x-bogus", "application/json", "text/event stream"] {
        assert!(!is_event_stream(refused.as_bytes()), "{refused}");
    }
}

fn encoded(event: &Event) -> BytesMut {
    let mut out = BytesMut::new();
    encode(event, &mut out).expect("encodes");
    out
}

#[test]
fn encoding() {
    let bytes = |text: &'static str| Bytes::from(text);
    let event = Event {
        id: Some(bytes("7")),
        event: Some(bytes("message")),
        data: bytes("{}"),
        retry: Some(Duration::from_micros(1500)),
    };
    assert_eq!(encoded(&event), "event: message\nid: 7\nretry: 1\ndata: {}\n\n");
    assert_eq!(encoded(&Event::priming(bytes("1-0"))), "id: 1-0\ndata:\n\n");
    assert_eq!(encoded(&Event::new(bytes("a\rb\nc\r\nd\n"))), "data: a\ndata: b\ndata: c\ndata: d\ndata:\n\n");
    assert_eq!(encoded(&Event::new(bytes(" a"))), "data:  a\n\n");
    let mut out = BytesMut::new();
    encode_retry(Duration::MAX, &mut out);
    assert_eq!(out, "retry: 18446744073709551615\n\n");
    assert_eq!(decode([KEEP_ALIVE], LIMIT).items, [Item::Comment]);
}

#[test]
fn what_would_break_a_line_is_refused_and_nothing_is_written() {
    for text in ["a\rb", "a\nb", "a\0b", "\n"] {
        let text = Some(Bytes::from(text));
        let mut out = BytesMut::from("before");
        let event = Event { id: text.clone(), ..Event::default() };
        assert_eq!(encode(&event, &mut out), Err(EncodeError::Id));
        let event = Event { event: text, ..Event::default() };
        assert_eq!(encode(&event, &mut out), Err(EncodeError::EventType));
        assert_eq!(out, "before");
    }
}

/// The standard's algorithm on the whole input at once, as plainly as it can be written.
fn reference(input: &[u8]) -> Decoded {
    let input = input.strip_prefix(BOM).unwrap_or(input);
    let mut text = Vec::new();
    for (at, &byte) in input.iter().enumerate() {
        match byte {
            b'\r' => text.push(b'\n'),
            b'\n' if at > 0 && input[at - 1] == b'\r' => {}
            byte => text.push(byte),
        }
    }
    let (mut items, mut last_event_id, mut retry) = (Vec::new(), None, None);
    let (mut event, mut data) = (Event::default(), Vec::<u8>::new());
    let mut lines = text.split(|&byte| byte == b'\n').collect::<Vec<_>>();
    lines.pop(); // Behind the last line end there is no line.
    for line in lines {
        if line.is_empty() {
            last_event_id = event.id.clone().or(last_event_id);
            let event = std::mem::take(&mut event);
            if let Some((_, data)) = std::mem::take(&mut data).split_last() {
                items.push(Item::Event(Event { data: Bytes::copy_from_slice(data), ..event }));
            }
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let value = colon.map_or(&b""[..], |colon| &line[colon + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon.unwrap_or(line.len())] {
            b"" => items.push(Item::Comment),
            b"data" => data.extend(value.iter().chain(b"\n")),
            b"event" => event.event = (!value.is_empty()).then(|| Bytes::copy_from_slice(value)),
            b"id" if !value.contains(&0) => event.id = Some(Bytes::copy_from_slice(value)),
            b"retry" if value.iter().all(u8::is_ascii_digit) && !value.is_empty() => {
                let text = std::str::from_utf8(value).expect("digits");
                retry = Some(Duration::from_millis(text.parse().unwrap_or(u64::MAX)));
                event.retry = retry;
            }
            _ => {}
        }
    }
    Decoded { items, last_event_id, retry, error: None }
}

fn event() -> impl Strategy<Value = Event> {
    let short = || prop::option::of("[^\r\n\0]{1,8}".prop_map(Bytes::from));
    let id = prop::option::of("[^\r\n\0]{0,8}".prop_map(Bytes::from));
    let data = prop_oneof!["[ -~€\n]{0,40}", "\\PC{0,20}", "[a\n]{0,6}"].prop_map(Bytes::from);
    let retry = prop::option::of(any::<u64>().prop_map(Duration::from_millis));
    (id, short(), data, retry).prop_map(|(id, event, data, retry)| Event { id, event, data, retry })
}

/// Cuts `input` after each of `sizes` bytes, round and round.
fn chunks<'a>(mut input: &'a [u8], sizes: &'a [usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for &size in sizes.iter().cycle() {
        if input.is_empty() {
            break;
        }
        let (head, tail) = input.split_at(size.min(input.len()));
        chunks.push(head);
        input = tail;
    }
    chunks
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    // The last one is never zero, so that a cycle gets on.
    (prop::collection::vec(0..12_usize, 0..6), 1..40_usize).prop_map(|(mut sizes, last)| {
        sizes.push(last);
        sizes
    })
}

/// Bytes that mean something to a decoder, in any order.
fn input() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        b"data",
        b"data:",
        b"data: ",
        b"id",
        b"id:",
        b"event: ",
        b"retry:",
        b":",
        b" ",
        b"\0",
        b"a",
        b"12",
        b"message",
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"\xEF",
        b"\xBB\xBF",
        BOM,
        b"\xE2\x82\xAC",
        b"\xFF",
        b"xxxxxxxxxxxx",
    ];
    prop::collection::vec(prop::sample::select(PIECES), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// parse(chunk(encode(events))) == events
    #[test]
    fn what_is_encoded_is_decoded(events in prop::collection::vec(event(), 0..8), sizes in sizes()) {
        let mut wire = BytesMut::new();
        for event in &events {
            encode(event, &mut wire).expect("encodes");
        }
        let decoded = decode(chunks(&wire, &sizes), LIMIT);
        prop_assert_eq!(decoded.error, None);
        prop_assert_eq!(decoded.items, events.into_iter().map(Item::Event).collect::<Vec<_>>());
    }

    /// Line ends within data come out as LF.
    #[test]
    fn line_ends_in_data_are_normalised(data in "[a\r\n]{0,12}") {
        let wire = encoded(&Event::new(Bytes::from(data.clone())));
        let expected = data.replace("\r\n", "\n").replace('\r', "\n");
        let decoded = decode([wire], LIMIT);
        prop_assert_eq!(decoded.data(), [expected.as_bytes()]);
    }

    /// The decoder does what the standard's algorithm does, whatever the input and its chunks.
    #[test]
    fn agrees_with_the_reference(input in input(), sizes in sizes()) {
        prop_assert_eq!(decode(chunks(&input, &sizes), LIMIT), reference(&input));
    }

    /// Whatever the bytes and the limit: every chunking gives the same items and the same error.
    #[test]
    fn chunks_do_not_matter(input in input(), limit in 0..40_usize, sizes in sizes()) {
        prop_assert_eq!(decode(chunks(&input, &sizes), limit), decode([&input], limit));
    }
}
