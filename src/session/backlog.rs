//! What a client may have missed: the latest events of one stream of a legacy session, kept for `Last-Event-ID`
//! (MCP 2025-11-25, Transports › Streamable HTTP › Resumability and Redelivery). Pure: time is an argument.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

/// The latest events of one stream, bounded in number, bytes and age. The oldest go first.
///
/// Who resumes gets everything behind the given event or is told that it cannot be had; never a part of it, and never
/// anything of another stream.
#[derive(Debug)]
pub(crate) struct Backlog {
    stream: u32,
    bounds: Bounds,
    /// The last `kept.len()` of the events that were issued.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// Number of events ever issued, which is the number of the last one.
    issued: u64,
}

/// How much is kept. An event goes as soon as any of these is exceeded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most events.
    pub(crate) events: usize,
    /// Most bytes of payload.
    pub(crate) bytes: usize,
    /// How long an event is kept.
    pub(crate) retention: Duration,
}

/// The place of an event in a session: opaque to clients, and theirs to send back.
///
/// As text it is `<stream>-<number>`, both in decimal without leading zeros: visible ASCII, at most 31 bytes, and
/// exactly one text per id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EventId {
    /// Which stream of the session.
    pub(crate) stream: u32,
    /// Which event of the stream, from 1. 0 stands before the first one.
    pub(crate) number: u64,
}

/// Why a stream cannot be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ResumeError {
    /// Some of the events behind that id are no longer kept.
    #[error("events after this id are no longer available")]
    Gap,
    /// No event of this stream ever had that id.
    #[error("this event id was never issued on this stream")]
    Unknown,
}

impl Backlog {
    /// An empty backlog; `stream` is unique in the session and never used again.
    pub(crate) fn new(stream: u32, bounds: Bounds) -> Backlog {
        Backlog { stream, bounds, kept: VecDeque::new(), kept_bytes: 0, issued: 0 }
    }

    /// Issues an id for `payload`, the data of an event, and keeps the event as far as the bounds allow. One that is larger
    /// than all of the backlog is kept only where somebody is there to read it, until [`trim`](Backlog::trim).
    ///
    /// The bytes are copied. A message is often a slice of a much larger network buffer, which it would keep in memory
    /// with all that had been in it, and the bound in bytes would mean nothing.
    pub(crate) fn push(&mut self, payload: &[u8], now: Instant, is_read: bool) -> EventId {
        self.issued += 1;
        self.expire(now);
        if payload.len() > self.bounds.bytes || self.bounds.events == 0 {
            // Not even alone does it fit. What is older must go as well, as nobody could resume across the gap.
            self.clear();
            if !is_read {
                return self.last();
            }
        }
        while !self.kept.is_empty() && !self.holds(self.kept.len() + 1, self.kept_bytes + payload.len()) {
            self.drop_oldest();
        }
        self.kept_bytes += payload.len();
        self.kept.push_back(Kept { payload: Bytes::copy_from_slice(payload), since: now });
        self.last()
    }

    /// Whether an event of so many bytes can be added without dropping one that lies behind `cursor`. There is always room when
    /// nothing lies there.
    pub(crate) fn has_room(&self, bytes: usize, cursor: EventId) -> bool {
        if self.holds(self.kept.len() + 1, self.kept_bytes + bytes) {
            return true;
        }
        let unread = usize::try_from(self.issued.saturating_sub(cursor.number)).unwrap_or(usize::MAX);
        let unread = self.kept.range(self.kept.len().saturating_sub(unread)..);
        let (events, unread) = unread.fold((0, 0), |(events, sum), kept| (events + 1, sum + kept.payload.len()));
        events == 0 || self.holds(events + 1, unread + bytes)
    }

    /// Drops what is beyond the bounds, which only an event is that somebody was there to read.
    pub(crate) fn trim(&mut self) {
        if !self.holds(self.kept.len(), self.kept_bytes) {
            self.clear();
        }
    }

    /// The events behind `id`, oldest first. Empty if `id` is the last one.
    ///
    /// # Errors
    ///
    /// [`ResumeError::Gap`] if one of them was dropped, [`ResumeError::Unknown`] if `id` is of another stream or lies in
    /// the future.
    pub(crate) fn after(&self, id: EventId) -> Result<impl Iterator<Item = (EventId, Bytes)>, ResumeError> {
        if id.stream != self.stream || id.number > self.issued {
            return Err(ResumeError::Unknown);
        }
        let dropped = self.issued - self.kept.len() as u64;
        let Some(skip) = id.number.checked_sub(dropped) else {
            return Err(ResumeError::Gap);
        };
        // `skip` is at most `kept.len()`, so it fits.
        let events = self.kept.range(skip as usize..).zip(id.number + 1..);
        Ok(events.map(move |(kept, number)| (EventId { number, ..id }, kept.payload.clone())))
    }

    /// The place before the first event: the id of a priming event.
    pub(crate) fn start(&self) -> EventId {
        EventId { stream: self.stream, number: 0 }
    }

    /// The place before the oldest event that is kept.
    pub(crate) fn oldest(&self) -> EventId {
        EventId { stream: self.stream, number: self.issued - self.kept.len() as u64 }
    }

    /// The id of the last event that was issued, or [`start`](Backlog::start).
    pub(crate) fn last(&self) -> EventId {
        EventId { stream: self.stream, number: self.issued }
    }

    /// Drops what has been kept for long enough. [`push`](Backlog::push) does this too; a stream on which nothing
    /// happens needs to be swept. `now` never goes back.
    pub(crate) fn expire(&mut self, now: Instant) {
        let retention = self.bounds.retention;
        let expired = |kept: &Kept| now.saturating_duration_since(kept.since) >= retention;
        while self.kept.front().is_some_and(expired) {
            self.drop_oldest();
        }
    }

    /// How many bytes are kept.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn holds(&self, events: usize, bytes: usize) -> bool {
        events <= self.bounds.events && bytes <= self.bounds.bytes
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.kept_bytes = 0;
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.kept_bytes -= kept.payload.len();
        }
    }
}

impl EventId {
    /// Reads what a client sent as `Last-Event-ID`. `None` if it is not, to the byte, what [`Display`](fmt::Display)
    /// writes for some id.
    pub(crate) fn parse(text: &[u8]) -> Option<EventId> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (stream, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(EventId { stream: parse_number(stream)?, number: parse_number(number)? })
    }

    /// The text, for an SSE event.
    pub(crate) fn to_bytes(self) -> Bytes {
        let (mut stream, mut number) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (stream, number) = (stream.format(self.stream), number.format(self.number));
        Bytes::from([stream.as_bytes(), b"-", number.as_bytes()].concat())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.number)
    }
}

#[derive(Debug)]
struct Kept {
    payload: Bytes,
    since: Instant,
}

/// Ten digits, a hyphen, twenty digits.
const TEXT_BYTES_MAX: usize = 31;

/// Decimal digits without sign or leading zeros.
fn parse_number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
