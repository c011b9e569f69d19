//! Server-sent events as bytes: an incremental decoder and an encoder.
//!
//! The decoder follows the event-stream interpretation of the HTML standard, with bounds. Two things differ, both
//! because the payload is JSON-RPC:
//!
//! - Bytes are not decoded to text. The standard replaces invalid UTF-8 with U+FFFD; here the bytes stay what they
//!   were, and whoever parses the message refuses them. Every delimiter is ASCII, so the framing is the same.
//! - What is kept is bounded, and exceeding a bound ends the stream with an error. Any chunking of the same bytes gives
//!   the same items and the same error.

use std::mem;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Longest `id` and longest `event` that is accepted, in bytes.
pub const FIELD_BYTES_MAX: usize = 1024;

/// A comment between two events: tells both ends and everything in between that the stream is alive.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The id given in this very event; `None` leaves the client's cursor where it is, an empty one resets it.
    pub id: Option<Bytes>,
    /// The type, if it was given and not empty; `None` means `message`.
    pub event: Option<Bytes>,
    /// The payload; lines are separated by LF.
    pub data: Bytes,
    /// The reconnection time given in this very event, as sent: nothing is clamped.
    pub retry: Option<Duration>,
}

impl Event {
    /// An event of the default type that carries `data` and no id.
    pub fn new(data: Bytes) -> Event {
        Event { data, ..Event::default() }
    }

    /// An event that carries nothing but a cursor: `id` and empty data (MCP 2025-11-25, Transports › Streamable HTTP).
    pub fn priming(id: Bytes) -> Event {
        Event { id: Some(id), ..Event::default() }
    }

    /// The JSON-RPC message in this event. `None` for other event types, and for empty data (a priming event).
    pub fn message(&self) -> Option<&Bytes> {
        let default_type = self.event.as_deref().is_none_or(|event| event == b"message");
        (default_type && !self.data.is_empty()).then_some(&self.data)
    }
}

/// What a stream consists of, for somebody who listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A complete event.
    Event(Event),
    /// A comment line: says that the peer is alive, and nothing else.
    Comment,
}

/// The stream cannot be read any further. Nothing of the event in question has been handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// An event, or one line of it, exceeds the limit given to [`Decoder::new`].
    #[error("an SSE event is larger than {bytes_max} bytes")]
    EventTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// An `id` or `event` is longer than [`FIELD_BYTES_MAX`].
    #[error("the id or type of an SSE event is longer than {FIELD_BYTES_MAX} bytes")]
    FieldTooLong,
}

/// Turns the bytes of one connection into [`Item`]s, however they are chunked.
///
/// A single `data:` line that lies within one chunk becomes a slice of that chunk; one that spans chunks is copied once.
/// Time is linear in the bytes; memory is at most about twice the limit, plus the chunk. There is no end-of-input call:
/// what has no blank line after it is not an event, and dropping the decoder discards it.
///
/// A new connection needs a new decoder (byte order mark, unfinished event), which does not know the old one's
/// [`last_event_id`](Decoder::last_event_id): whoever reconnects has it.
#[derive(Debug)]
pub struct Decoder {
    event_bytes_max: usize,
    start: Start,
    /// The last line ended in CR, so an LF that comes next belongs to it. Waiting for that byte before ending the line
    /// would hold back an event until the peer sends something else.
    swallow_lf: bool,
    /// The beginning of a line whose end has not come. It was searched for line ends already and is not again.
    partial_line: BytesMut,
    /// What the lines since the last blank one said.
    block: Block,
    last_event_id: Option<Bytes>,
    retry: Option<Duration>,
}

impl Decoder {
    /// A decoder for one connection; `event_bytes_max` bounds the payload of an event, in bytes.
    pub fn new(event_bytes_max: usize) -> Decoder {
        Decoder {
            event_bytes_max,
            start: Start::Bom { matched: 0 },
            swallow_lf: false,
            partial_line: BytesMut::new(),
            block: Block::default(),
            last_event_id: None,
            retry: None,
        }
    }

    /// Takes bytes from the front of `input` up to the end of the next item. `None` means that `input` is used up.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use shadowcat::protocol::sse::{Decoder, Event, Item};
    /// let mut decoder = Decoder::new(1024);
    /// let mut chunk = Bytes::from_static(b"data: a\n\ndata: b\n\nda");
    /// let mut events = Vec::new();
    /// while let Some(item) = decoder.decode(&mut chunk) {
    ///     events.push(item?);
    /// }
    /// assert_eq!(events, ["a", "b"].map(|data| Item::Event(Event::new(data.into()))));
    /// # Ok::<(), shadowcat::protocol::sse::DecodeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A limit is exceeded. That is reported once and is final: all further input is dropped.
    pub fn decode(&mut self, input: &mut Bytes) -> Option<Result<Item, DecodeError>> {
        match self.try_decode(input) {
            Ok(item) => item.map(Ok),
            Err(error) => {
                self.start = Start::Failed;
                self.partial_line = BytesMut::new();
                self.block = Block::default();
                Some(Err(error))
            }
        }
    }

    /// The id that a reconnection resumes from: the last one committed by a blank line, whether or not that block had data.
    /// Empty if the peer reset it, `None` if it never gave one.
    pub fn last_event_id(&self) -> Option<&Bytes> {
        self.last_event_id.as_ref()
    }

    /// The last reconnection time the peer gave, as sent. Unlike an id it counts as soon as its line is complete.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn try_decode(&mut self, input: &mut Bytes) -> Result<Option<Item>, DecodeError> {
        match self.start {
            Start::Failed => {
                input.clear();
                return Ok(None);
            }
            Start::Bom { matched } => self.skip_bom(matched, input),
            Start::Passed => {}
        }
        while let Some(line) = self.take_line(input)? {
            if let Some(item) = self.read_line(line)? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    fn skip_bom(&mut self, mut matched: usize, input: &mut Bytes) {
        while let Some(&byte) = input.first() {
            if byte != BOM[matched] {
                // It only began like one: those bytes are the beginning of the first line.
                self.partial_line.extend_from_slice(&BOM[..matched]);
                self.start = Start::Passed;
                return;
            }
            input.advance(1);
            matched += 1;
            if matched == BOM.len() {
                self.start = Start::Passed;
                return;
            }
        }
        self.start = Start::Bom { matched };
    }

    /// The next line without its end, or `None` if `input` has no further line end; what is left of it is then kept.
    fn take_line(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, DecodeError> {
        if self.swallow_lf
            && let Some(&byte) = input.first()
        {
            self.swallow_lf = false;
            if byte == b'\n' {
                input.advance(1);
            }
        }
        let end = memchr::memchr2(b'\n', b'\r', input);
        let length = self.partial_line.len() + end.unwrap_or(input.len());
        if length > self.event_bytes_max.max(FIELD_BYTES_MAX).saturating_add(FIELD_NAME_BYTES_MAX) {
            return Err(DecodeError::EventTooLarge { bytes_max: self.event_bytes_max });
        }
        let Some(end) = end else {
            self.partial_line.extend_from_slice(input);
            input.clear();
            return Ok(None);
        };
        let tail = input.split_to(end);
        let line = if self.partial_line.is_empty() {
            tail
        } else {
            self.partial_line.extend_from_slice(&tail);
            // The buffer goes with the line: kept for reuse it would hold on to the largest event there ever was.
            mem::take(&mut self.partial_line).freeze()
        };
        self.swallow_lf = input.first() == Some(&b'\r');
        input.advance(1);
        Ok(Some(line))
    }

    fn read_line(&mut self, line: Bytes) -> Result<Option<Item>, DecodeError> {
        if line.is_empty() {
            return Ok(self.end_block().map(Item::Event));
        }
        let (name, value) = match memchr::memchr(b':', &line) {
            Some(0) => return Ok(Some(Item::Comment)),
            Some(colon) => {
                let space = usize::from(line.get(colon + 1) == Some(&b' '));
                (&line[..colon], line.slice(colon + 1 + space..))
            }
            None => (&line[..], Bytes::new()),
        };
        match name {
            b"data" => {
                if self.block.data.bytes_with(&value) > self.event_bytes_max {
                    return Err(DecodeError::EventTooLarge { bytes_max: self.event_bytes_max });
                }
                self.block.data.append(value);
            }
            b"event" => {
                let event = short(&value)?;
                self.block.event = (!event.is_empty()).then_some(event);
            }
            b"id" => {
                let id = short(&value)?;
                if !id.contains(&0) {
                    self.block.id = Some(id);
                }
            }
            b"retry" => {
                if let Some(retry) = parse_retry(&value) {
                    self.block.retry = Some(retry);
                    self.retry = Some(retry);
                }
            }
            _ => {} // The standard: a field that is not known is ignored.
        }
        Ok(None)
    }

    fn end_block(&mut self) -> Option<Event> {
        let Block { id, event, data, retry } = mem::take(&mut self.block);
        if id.is_some() {
            self.last_event_id.clone_from(&id);
        }
        let data = data.finish()?;
        Some(Event { id, event, data, retry })
    }
}

/// Appends `event` to `out`. Line ends within the data (CR, LF, CRLF) become LF for whoever decodes it.
///
/// # Errors
///
/// The id or the type cannot be expressed: `out` is then unchanged.
pub fn encode(event: &Event, out: &mut BytesMut) -> Result<(), EncodeError> {
    let unfit =
        |text: &Option<Bytes>| text.as_deref().is_some_and(|text| memchr::memchr3(b'\r', b'\n', 0, text).is_some());
    if unfit(&event.id) {
        return Err(EncodeError::Id);
    }
    if unfit(&event.event) {
        return Err(EncodeError::EventType);
    }
    if let Some(kind) = event.event.as_deref().filter(|kind| !kind.is_empty()) {
        put_field(b"event", kind, out);
    }
    if let Some(id) = &event.id {
        put_field(b"id", id, out);
    }
    if let Some(time) = event.retry {
        put_retry(time, out);
    }
    let mut rest = &event.data[..];
    while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
        put_field(b"data", &rest[..end], out);
        let crlf = usize::from(rest[end..].starts_with(b"\r\n"));
        rest = &rest[end + 1 + crlf..];
    }
    put_field(b"data", rest, out);
    out.put_u8(b'\n');
    Ok(())
}

/// Appends a block that only sets the reconnection time, rounded down to milliseconds. It is not an event.
pub fn encode_retry(time: Duration, out: &mut BytesMut) {
    put_retry(time, out);
    out.put_u8(b'\n');
}

/// Whether a `Content-Type` announces an event stream: case and parameters do not matter.
pub fn is_event_stream(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// An event that has no representation on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The id contains CR, LF or NUL.
    #[error("an SSE event id contains a line end or NUL")]
    Id,
    /// The type contains CR, LF or NUL.
    #[error("an SSE event type contains a line end or NUL")]
    EventType,
}

/// What may precede the first line of a stream, once.
const BOM: &[u8; 3] = b"\xEF\xBB\xBF";

/// The longest known field name, its colon and the space: what a line may have besides its value.
const FIELD_NAME_BYTES_MAX: usize = "event: ".len();

#[derive(Debug, Clone, Copy)]
enum Start {
    /// Nothing has come but the first `matched` (fewer than three) bytes of a byte order mark.
    Bom {
        matched: usize,
    },
    Passed,
    Failed,
}

#[derive(Debug, Default)]
struct Block {
    id: Option<Bytes>,
    event: Option<Bytes>,
    data: Data,
    retry: Option<Duration>,
}

/// The `data` lines of a block. A single one stays the slice it was.
#[derive(Debug, Default)]
enum Data {
    #[default]
    Nothing,
    Line(Bytes),
    Joined(BytesMut),
}

impl Data {
    fn bytes_with(&self, line: &Bytes) -> usize {
        match self {
            Data::Nothing => line.len(),
            Data::Line(first) => first.len() + 1 + line.len(),
            Data::Joined(joined) => joined.len() + 1 + line.len(),
        }
    }

    fn append(&mut self, line: Bytes) {
        let mut joined = match mem::take(self) {
            Data::Nothing => {
                *self = Data::Line(line);
                return;
            }
            Data::Line(first) => {
                let mut joined = BytesMut::with_capacity(first.len() + 1 + line.len());
                joined.extend_from_slice(&first);
                joined
            }
            Data::Joined(joined) => joined,
        };
        joined.put_u8(b'\n');
        joined.extend_from_slice(&line);
        *self = Data::Joined(joined);
    }

    fn finish(self) -> Option<Bytes> {
        match self {
            Data::Nothing => None,
            Data::Line(line) => Some(line),
            Data::Joined(joined) => Some(joined.freeze()),
        }
    }
}

/// A copy of a short value: as a slice, an id that is remembered would keep the whole chunk it came in.
fn short(value: &Bytes) -> Result<Bytes, DecodeError> {
    if value.len() > FIELD_BYTES_MAX {
        return Err(DecodeError::FieldTooLong);
    }
    Ok(Bytes::copy_from_slice(value))
}

/// ASCII digits only, in milliseconds; what does not fit is the largest value.
fn parse_retry(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let millis =
        value.iter().fold(0_u64, |millis, digit| millis.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(Duration::from_millis(millis))
}

fn put_field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.reserve(name.len() + value.len() + 3);
    out.put_slice(name);
    out.put_u8(b':');
    if !value.is_empty() {
        // Always, so that a value which itself begins with a space keeps it.
        out.put_u8(b' ');
        out.put_slice(value);
    }
    out.put_u8(b'\n');
}

fn put_retry(time: Duration, out: &mut BytesMut) {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    put_field(b"retry", millis.to_string().as_bytes(), out);
}

#[cfg(test)]
mod tests;
