//! What must hold for any input. The fuzz targets and `tests/fuzz_corpus.rs` include this file.

use bytes::{Bytes, BytesMut};
use shadowcat::protocol::lines::{LineError, Lines, single_line};
use shadowcat::protocol::sse::{self, DecodeError, Decoder, Item};

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
