//! What must hold for any input. The fuzz targets and `tests/fuzz_corpus.rs` include this file.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use shadowcat::protocol::lines::{LineError, Lines, single_line};
use shadowcat::protocol::message::{Incoming, Message};
use shadowcat::protocol::sse::{self, DecodeError, Decoder, Item};
use shadowcat::tape::check::Check;
use shadowcat::tape::diff::Surface;
use shadowcat::tape::redact::{Redactor, Rules};
use shadowcat::tape::show::Timeline;
use shadowcat::tape::{Frame, Reader, Tape, compare, export};

/// Small, so that inputs of a few hundred bytes get there.
const LIMIT: usize = 128;

/// Decoding depends on the bytes and not on their chunks, stays within its bound, and reads what encoding writes.
pub(crate) fn sse_decode(input: &[u8]) {
    let whole = decode([input]);
    assert_eq!(whole, decode(input.chunks(1)), "byte by byte");
    assert_eq!(whole, decode(input.chunks(chunk_size(input))), "in chunks");

    let mut wire = BytesMut::new();
    let mut encoded = Vec::new();
    for item in whole.0 {
        if let Item::Event(event) = &item {
            assert!(event.data.len() <= LIMIT);
            if sse::encode(event, &mut wire).is_ok() {
                encoded.push(item);
            }
        }
    }
    assert_eq!(decode([wire]).0, encoded, "encoded and decoded");
}

/// Framing depends on the bytes and not on their chunks, and stays within its bound.
pub(crate) fn lines(input: &[u8]) {
    let whole = split([input]);
    assert_eq!(whole, split(input.chunks(1)), "byte by byte");
    assert_eq!(whole, split(input.chunks(chunk_size(input))), "in chunks");
    for line in whole.0.iter().flatten() {
        assert!(line.len() <= LIMIT && !line.contains(&b'\n'));
    }

    let text = Bytes::copy_from_slice(input);
    let line = single_line(&text);
    assert_eq!(line.len(), text.len());
    assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
}

/// What is accepted is JSON for another parser too, says what that one reads, and keeps its text.
pub(crate) fn message_parse(input: &[u8]) {
    let text = Bytes::copy_from_slice(input);
    match Incoming::parse(text.clone(), DEPTH) {
        Ok(Incoming::One(message)) => {
            assert_eq!(message.text(), &text);
            let value: serde_json::Value = match serde_json::from_slice(input) {
                Ok(value) => value,
                // Text that is no Unicode inside an escape passes as text; numbers beyond what it can hold are ours to pass on.
                Err(error) => {
                    return assert!(
                        !error.is_syntax() || input.contains(&b'u') || input.contains(&b'e') || input.contains(&b'E')
                    );
                }
            };
            assert_eq!(message.method(), value["method"].as_str());
            assert_eq!(message.id().is_some(), value["id"].is_string() || value["id"].is_number());
            let line = message.line();
            assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&line).ok(), Some(value));
        }
        Ok(Incoming::Batch(messages)) => assert!(messages.len() <= input.len()),
        Err(_) => {}
    }
}

/// An edited message is the one that parsing its text gives, and nothing but what was named has changed.
pub(crate) fn message_edit(input: &[u8]) {
    let Ok(message) = Message::parse(Bytes::copy_from_slice(input), DEPTH) else { return };
    let edited = message.edit().id("\"edited\"").meta("progressToken", "4711").param("requestId", "0").finish();
    assert_eq!(Message::parse(edited.text().clone(), DEPTH).as_ref(), Ok(&edited));
    let back = |name: &str| message.param(name).map(str::to_owned);
    for name in ["name", "uri", "arguments"] {
        assert_eq!(edited.param(name).map(str::to_owned), back(name));
    }
    assert_eq!(edited.method(), message.method());
}

/// Made once: its patterns take longer than all the rest.
static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| Redactor::new(Rules::default()).expect("rules that make sense"));

/// Whatever a tape holds, it is read within its bounds, written as it was read, and can be shown, checked and cleaned.
pub(crate) fn tape_read(input: &[u8]) {
    const LINE: usize = 1 << 16;
    let Ok(mut tape) = Reader::with_limit(input, LINE) else { return };
    let (mut timeline, mut check) = (Timeline::default(), Check::default());
    for frame in tape.by_ref() {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                assert!(error.is_of_one_line(), "{error}");
                check.broken(&error);
                continue;
            }
        };
        let mut line = Vec::new();
        frame.write(&mut line);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let again = Frame::parse(&Bytes::from(line)).expect("what was written is read");
        assert_eq!(again, frame);
        let shown = timeline.see(&frame);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        check.see(&frame);
        if let Some(body) = &frame.body {
            let once = REDACTOR.message(body.bytes());
            assert_eq!(REDACTOR.message(&once.bytes).bytes, once.bytes, "nothing is left to be taken out");
        }
    }
    let ending = tape.ending();
    assert!(timeline.summary(&ending).ends_with('\n'));
    assert!(check.finish(&ending).findings.len() <= 1000, "findings are bounded");
    if let Ok(whole) = Reader::with_limit(input, LINE).and_then(Tape::read) {
        assert!(export::har(&whole)["log"]["entries"].is_array());
        let surface = Surface::of(&whole.calls(whole.edge()));
        assert_eq!(surface.drift(&surface, &compare::Rules::default()), []);
    }
}

/// As deep as messages may be nested by default.
const DEPTH: usize = 128;

type Decoded = (Vec<Item>, Option<DecodeError>, Option<Bytes>);

fn decode<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>) -> Decoded {
    let mut decoder = Decoder::new(LIMIT);
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
        assert!(chunk.is_empty());
    }
    (items, error, decoder.last_event_id().cloned())
}

type Split = (Vec<Result<Bytes, LineError>>, bool, Option<Bytes>);

fn split<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>) -> Split {
    let mut framing = Lines::new(LIMIT);
    let mut lines = Vec::new();
    for chunk in chunks {
        framing.push(chunk.as_ref());
        lines.extend(std::iter::from_fn(|| framing.next_line()));
    }
    (lines, framing.has_partial(), framing.finish())
}

fn chunk_size(input: &[u8]) -> usize {
    2 + usize::from(input.last().copied().unwrap_or_default()) % 14
}
