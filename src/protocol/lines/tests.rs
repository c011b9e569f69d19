use proptest::prelude::*;

use super::*;

const LIMIT: usize = 64;

#[derive(Debug, PartialEq, Eq)]
struct Split {
    lines: Vec<Result<Bytes, LineError>>,
    partial: bool,
    rest: Option<Bytes>,
}

fn split<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>, limit: usize) -> Split {
    let mut framing = Lines::new(limit);
    let mut lines = Vec::new();
    for chunk in chunks {
        framing.push(chunk.as_ref());
        while let Some(line) = framing.next_line() {
            lines.push(line);
        }
        assert!(framing.buffer.len() <= limit + BOM.len() + 1, "what is kept is bounded");
    }
    Split { lines, partial: framing.has_partial(), rest: framing.finish() }
}

fn split_every_way(input: &[u8]) -> Split {
    let whole = split([input], LIMIT);
    for at in 0..=input.len() {
        let (head, tail) = input.split_at(at);
        assert_eq!(split([head, b"", tail], LIMIT), whole, "cut at {at}");
    }
    assert_eq!(split(input.chunks(1), LIMIT), whole, "byte by byte");
    whole
}

/// Input, the lines in it, and what is left at its end.
type Vector = (&'static [u8], &'static [&'static [u8]], Option<&'static [u8]>);

#[test]
fn lines_end_in_lf_or_crlf() {
    #[rustfmt::skip]
    let table: &[Vector] = &[
        (b"", &[], None),
        (b"{}\n", &[b"{}"], None),
        (b"{}\r\n[]\n", &[b"{}", b"[]"], None),
        (b"a\n\n\r\n \t\r\nb\n", &[b"a", b"b"], None),
        (b" a \n", &[b" a "], None),
        (b"a\rb\r\r\n", &[b"a\rb\r"], None),
        (b"a\nb", &[b"a"], Some(b"b")),
        (b"a\nb\r", &[b"a"], Some(b"b")),
        (b"a\n  ", &[b"a"], None),
        (b"\xEF\xBB\xBFa\n\xEF\xBB\xBFb\n", &[b"a", b"\xEF\xBB\xBFb"], None),
        (b"\xEF\xBB\xBF\n", &[], None),
        (b"\xEF\xBB\xBF", &[], None),
        (b"\xEF\xBB", &[], Some(b"\xEF\xBB")),
        (b"\xEF\xBBa\n", &[b"\xEF\xBBa"], None),
        (b"\xFF\0\n", &[b"\xFF\0"], None),
    ];
    for (input, expected, rest) in table {
        let outcome = split_every_way(input);
        let lines = outcome.lines.iter().map(|line| &line.as_ref().expect("a line")[..]).collect::<Vec<_>>();
        assert_eq!(lines, *expected, "{}", input.escape_ascii());
        assert_eq!(outcome.rest.as_deref(), *rest, "{}", input.escape_ascii());
    }
}

#[test]
fn a_line_may_be_as_long_as_the_limit() {
    let too_long = Err(LineError::TooLong { bytes_max: LIMIT });
    for end in ["\n", "\r\n"] {
        for mark in ["", "\u{FEFF}"] {
            let fits = "x".repeat(LIMIT);
            let outcome = split_every_way(format!("{mark}{fits}{end}b{end}").as_bytes());
            assert_eq!(outcome.lines, [Ok(Bytes::from(fits.clone())), Ok(Bytes::from("b"))]);
            let outcome = split_every_way(format!("{mark}{fits}x{end}b{end}").as_bytes());
            assert_eq!(outcome.lines, [too_long.clone(), Ok(Bytes::from("b"))]);
        }
    }
}

/// The error comes as soon as it is certain, once, and the framing finds its way back.
#[test]
fn a_line_that_is_too_long_is_reported_at_once_and_skipped() {
    let mut framing = Lines::new(LIMIT);
    framing.push(&[b'x'; LIMIT]);
    assert_eq!(framing.next_line(), None);
    framing.push(b"x");
    assert_eq!(framing.next_line(), Some(Err(LineError::TooLong { bytes_max: LIMIT })));
    for _ in 0..1000 {
        framing.push(&[b'x'; 1000]);
        assert_eq!(framing.next_line(), None);
        assert!(framing.has_partial() && framing.buffer.is_empty());
    }
    framing.push(b"x\r\nnext\n");
    assert_eq!(framing.next_line(), Some(Ok(Bytes::from("next"))));
    assert_eq!(framing.next_line(), None);
    assert!(!framing.has_partial());
    framing.push(&[b'x'; LIMIT + 1]);
    assert!(framing.next_line().is_some_and(|line| line.is_err()));
    assert_eq!(framing.finish(), None, "it was reported already");
}

#[test]
fn a_started_line_is_partial() {
    let mut framing = Lines::new(LIMIT);
    assert!(!framing.has_partial());
    framing.push(b"a");
    assert_eq!(framing.next_line(), None);
    assert!(framing.has_partial());
    framing.push(b"\n");
    assert_eq!(framing.next_line(), Some(Ok(Bytes::from("a"))));
    assert_eq!(framing.next_line(), None);
    assert!(!framing.has_partial());
}

/// With a rescan per chunk this would take minutes.
#[test]
fn a_line_in_many_chunks_is_linear() {
    let mut input = vec![b'x'; 4 << 20];
    input.push(b'\n');
    assert_eq!(split(input.chunks(16), 8 << 20).lines.len(), 1);
}

#[test]
fn there_is_room_to_read_into() {
    let mut framing = Lines::new(LIMIT);
    assert!(framing.buffer().spare_capacity_mut().len() >= READ_BYTES);
    framing.buffer().extend_from_slice(b"a\nb");
    assert_eq!(framing.next_line(), Some(Ok(Bytes::from("a"))));
    assert!(framing.buffer().spare_capacity_mut().len() >= READ_BYTES);
    framing.buffer().extend_from_slice(b"\n");
    assert_eq!(framing.next_line(), Some(Ok(Bytes::from("b"))));
}

#[test]
fn a_text_of_one_line_is_not_copied() {
    let text = Bytes::from_static(b"{\"a\":\"\\n\"}");
    assert_eq!(single_line(&text).as_ptr(), text.as_ptr());
}

#[test]
fn a_text_of_many_lines_keeps_its_value_and_its_offsets() {
    let text = Bytes::from("{\r\n  \"a\": [1,\n2\n],\r\"b\": \"\\r\\n\"\n}\n");
    let line = single_line(&text);
    assert_eq!(line, "{    \"a\": [1, 2 ], \"b\": \"\\r\\n\" } ");
    let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("JSON");
    assert_eq!(value(&line), value(&text));
}

const PIECES: &[&[u8]] = &[b"a", b"\r", b"\n", b"\r\n", b" ", BOM, b"xxxxxxxxxxxx"];

proptest! {
    /// Whatever the bytes, every chunking gives the same lines, the same errors and the same rest; and the lines are
    /// those of a naive split.
    #[test]
    fn chunks_do_not_matter(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60),
        sizes in prop::collection::vec(1..9_usize, 1..20),
        limit in 0..32_usize,
    ) {
        let input = pieces.concat();
        let mut chunks = Vec::new();
        let mut rest = &input[..];
        for &size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at(size.min(rest.len()));
            chunks.push(head);
            rest = tail;
        }
        let outcome = split(chunks, limit);
        prop_assert_eq!(&outcome, &split([&input], limit));

        let mut naive = input.strip_prefix(BOM).unwrap_or(&input).split(|&byte| byte == b'\n').collect::<Vec<_>>();
        naive.pop();
        let naive = naive
            .into_iter()
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| line.len() > limit || !line.iter().all(u8::is_ascii_whitespace))
            .map(|line| if line.len() > limit { Err(LineError::TooLong { bytes_max: limit }) } else { Ok(Bytes::copy_from_slice(line)) });
        let expected = naive.collect::<Vec<_>>();
        // A last line that is too long is reported although it has no end.
        prop_assert_eq!(&outcome.lines[..expected.len()], &expected[..]);
        prop_assert!(outcome.lines.len() <= expected.len() + 1);
    }
}
