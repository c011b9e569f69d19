//! One SSE stream of a legacy session: a backlog that somebody fills, and whoever reads it now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::{Backlog, Bounds, EventId, ResumeError};

/// A stream that outlives the connections it is read on.
pub(crate) struct Stream {
    /// Held for a push or a look, never over an await.
    state: Mutex<State>,
    /// Something has changed: an event, a reader, the end.
    changed: Notify,
    /// More than one reader may wait for its turn, instead of the newest ending the others.
    standing: bool,
}

struct State {
    backlog: Backlog,
    finished: bool,
    /// Those who are attached, and how far each has read; oldest first. The newest one reads.
    readers: Vec<(u64, EventId)>,
    attached: u64,
    /// How far the standing stream has been delivered.
    delivered: EventId,
}

impl Stream {
    /// The stream of what belongs to no request: read by GET.
    pub(crate) fn standing(bounds: Bounds) -> Arc<Stream> {
        Self::make(0, bounds, true)
    }

    /// The stream of one request.
    pub(crate) fn of_request(number: u32, bounds: Bounds) -> Arc<Stream> {
        Self::make(number, bounds, false)
    }

    fn make(number: u32, bounds: Bounds, standing: bool) -> Arc<Stream> {
        let backlog = Backlog::new(number, bounds);
        let delivered = backlog.start();
        let state = State { backlog, finished: false, readers: Vec::new(), attached: 0, delivered };
        Arc::new(Stream { state: Mutex::new(state), changed: Notify::new(), standing })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and wakes the reader.
    pub(crate) fn push(&self, payload: &[u8]) -> EventId {
        let mut state = self.state();
        let is_read = !state.readers.is_empty();
        let id = state.backlog.push(payload, Instant::now().into_std(), is_read);
        drop(state);
        self.changed.notify_waiters();
        id
    }

    /// Waits until an event of so many bytes does not push out one that the reader has not read. A reader that is too slow is
    /// cut off by its connection; where nobody reads, or the stream is over, there is nothing to wait for (C-SSE-7).
    ///
    /// # Cancel safety
    /// Nothing is held while it waits.
    pub(crate) async fn room(&self, bytes: usize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state();
                let has_room = |(_, cursor): &(u64, EventId)| state.backlog.has_room(bytes, *cursor);
                if state.finished || state.readers.last().is_none_or(has_room) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Nothing will be added any more.
    pub(crate) fn finish(&self) {
        self.state().finished = true;
        self.changed.notify_waiters();
    }

    /// The place before the first event.
    pub(crate) fn start(&self) -> EventId {
        self.state().backlog.start()
    }

    /// Drops old events; tells whether the stream is over and empty.
    pub(crate) fn sweep(&self) -> bool {
        let mut state = self.state();
        state.backlog.expire(Instant::now().into_std());
        state.finished && state.backlog.is_empty() && state.readers.is_empty()
    }

    /// How many bytes it keeps although nothing will be added any more; `None` while that is not so.
    pub(crate) fn kept_after_end(&self) -> Option<usize> {
        let state = self.state();
        state.finished.then(|| state.backlog.kept_bytes())
    }

    /// Whether somebody reads it now.
    pub(crate) fn is_read(&self) -> bool {
        !self.state().readers.is_empty()
    }

    /// Waits until somebody else has come to read this stream: it was resumed on another connection.
    pub(crate) async fn taken_over(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state().attached > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Starts reading behind `after`; without it, behind what was delivered last.
    /// With `readers_max` readers attached already, the oldest of them is sent away.
    ///
    /// # Errors
    /// The events behind `after` cannot be had.
    pub(crate) fn attach(
        self: &Arc<Self>,
        after: Option<EventId>,
        readers_max: usize,
    ) -> Result<StreamReader, ResumeError> {
        let mut state = self.state();
        let cursor = after.unwrap_or(state.delivered);
        if after.is_some() {
            let _events = state.backlog.after(cursor)?;
        }
        state.attached += 1;
        let me = state.attached;
        if state.readers.len() >= readers_max.max(1) {
            state.readers.remove(0);
        }
        state.readers.push((me, cursor));
        drop(state);
        self.changed.notify_waiters();
        Ok(StreamReader { stream: Arc::clone(self), me, cursor, attached: me, missed: 0 })
    }
}

/// Reads a stream.
pub(crate) struct StreamReader {
    stream: Arc<Stream>,
    me: u64,
    cursor: EventId,
    /// How many had attached when it last had its turn.
    attached: u64,
    missed: u64,
}

impl StreamReader {
    /// The next event; `None` at the end, or when somebody else has taken over. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<(EventId, Bytes)> {
        loop {
            let changed = self.stream.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.stream.state();
                if !state.readers.iter().any(|(reader, _)| *reader == self.me) {
                    return None;
                }
                if state.readers.last().is_some_and(|(reader, _)| *reader == self.me) {
                    let moved = std::mem::replace(&mut self.attached, state.attached) != state.attached;
                    if moved {
                        // Others have read in the meantime: what they were given is not given again.
                        self.cursor.number = self.cursor.number.max(state.delivered.number);
                        if let Some((_, cursor)) = state.readers.last_mut() {
                            *cursor = self.cursor;
                        }
                    }
                    if state.backlog.after(self.cursor).is_err() {
                        // It went out of the backlog before it could be read: an event larger than the whole backlog.
                        let oldest = state.backlog.oldest();
                        self.missed += oldest.number.saturating_sub(self.cursor.number);
                        self.cursor = oldest;
                    }
                    let next = state.backlog.after(self.cursor).ok().and_then(|mut events| events.next());
                    if let Some((id, payload)) = next {
                        self.cursor = id;
                        // Who resumes further back reads again what somebody has read before: that takes nothing back.
                        state.delivered.number = state.delivered.number.max(id.number);
                        if let Some((_, cursor)) = state.readers.last_mut() {
                            *cursor = id;
                        }
                        if state.backlog.last() == id {
                            state.backlog.trim();
                        }
                        drop(state);
                        // Whoever waits for room may have it now.
                        self.stream.changed.notify_waiters();
                        return Some((id, payload));
                    }
                    if state.finished {
                        return None;
                    }
                    if moved {
                        drop(state);
                        // Whoever waits for room has waited for events that this one need not read.
                        self.stream.changed.notify_waiters();
                    }
                } else if !self.stream.standing {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Whether it reads what belongs to no request.
    pub(crate) fn is_standing(&self) -> bool {
        self.stream.standing
    }

    /// The last event that was read, or where reading began.
    pub(crate) fn position(&self) -> EventId {
        self.cursor
    }

    /// How many events this reader could not be given since it was last asked.
    pub(crate) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let me = self.me;
        let mut state = self.stream.state();
        state.readers.retain(|(reader, _)| *reader != me);
        if state.readers.is_empty() {
            state.backlog.trim();
        }
        drop(state);
        // The one who waited for its turn may have it now.
        self.stream.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    const BOUNDS: Bounds = Bounds { events: 4, bytes: 100, retention: Duration::from_secs(60) };

    fn texts(reader: &mut StreamReader) -> Vec<String> {
        std::iter::from_fn(|| reader.next().now_or_never().flatten())
            .map(|(_, payload)| String::from_utf8(payload.to_vec()).unwrap())
            .collect()
    }

    /// Each message is on exactly one GET stream: the newest; the older one has its turn again when that is gone
    /// (2025-11-25, Streamable HTTP › Multiple Connections).
    #[tokio::test]
    async fn the_newest_reader_reads_the_standing_stream() {
        let stream = Stream::standing(BOUNDS);
        stream.push(b"before");
        let mut first = stream.attach(None, 2).unwrap();
        assert_eq!(texts(&mut first), ["before"]);
        let mut second = stream.attach(None, 2).unwrap();
        stream.push(b"x");
        assert_eq!(texts(&mut first), Vec::<String>::new());
        assert_eq!(texts(&mut second), ["x"]);
        drop(second);
        stream.push(b"y");
        assert_eq!(texts(&mut first), ["y"], "and nothing twice");
    }

    /// A resumed stream goes on behind the given event, and its former connection ends (2025-11-25, Resumability and Redelivery).
    #[tokio::test]
    async fn a_resumed_stream_moves() {
        let stream = Stream::of_request(3, BOUNDS);
        let first_id = stream.push(b"a");
        stream.push(b"b");
        assert!(stream.taken_over().now_or_never().is_none());
        let mut first = stream.attach(Some(first_id), 1).unwrap();
        assert!(stream.taken_over().now_or_never().is_some());
        let mut second = stream.attach(Some(first_id), 1).unwrap();
        assert_eq!(first.next().now_or_never(), Some(None));
        assert_eq!(texts(&mut second), ["b"]);
        stream.finish();
        assert_eq!(second.next().now_or_never(), Some(None));
        assert!(stream.attach(Some(EventId { stream: 2, number: 1 }), 1).is_err());
    }

    /// What is pushed faster than it is read is a loss that the reader learns of.
    #[tokio::test]
    async fn a_reader_learns_what_it_missed() {
        let stream = Stream::standing(BOUNDS);
        let mut reader = stream.attach(None, 2).unwrap();
        for text in ["1", "2", "3", "4", "5", "6"] {
            stream.push(text.as_bytes());
        }
        assert_eq!(texts(&mut reader), ["3", "4", "5", "6"]);
        assert_eq!(reader.take_missed(), 2);
    }

    /// An event that is larger than the backlog reaches who is there to read it, and is kept for nobody else.
    #[tokio::test]
    async fn a_large_event_is_for_who_is_there() {
        let stream = Stream::standing(BOUNDS);
        let large = "x".repeat(200);
        let id = stream.push(large.as_bytes());
        assert_eq!(stream.attach(Some(stream.start()), 2).err(), Some(ResumeError::Gap));
        let mut reader = stream.attach(Some(id), 2).unwrap();
        stream.push(large.as_bytes());
        assert_eq!(stream.state().backlog.kept_bytes(), 200);
        assert_eq!(texts(&mut reader), std::slice::from_ref(&large));
        assert_eq!(stream.state().backlog.kept_bytes(), 0, "it has been read");
        stream.push(large.as_bytes());
        drop(reader);
        assert_eq!(stream.state().backlog.kept_bytes(), 0, "nobody is there any more");
    }

    /// C-SSE-7: there is room as long as nothing is pushed out that a reader still has to read, and where nobody reads.
    #[tokio::test]
    async fn there_is_room_for_what_is_read() {
        let stream = Stream::standing(BOUNDS);
        let has_room = |bytes| stream.room(bytes).now_or_never().is_some();
        for _ in 0..8 {
            assert!(has_room(60), "nobody reads");
            stream.push(&[b'x'; 60]);
        }
        let last = stream.state().backlog.last();
        let mut reader = stream.attach(Some(last), 2).unwrap();
        assert!(has_room(1000), "all has been read");
        stream.push(&[b'x'; 60]);
        assert!(has_room(40) && !has_room(41), "bytes");
        for _ in 0..3 {
            assert!(has_room(1));
            stream.push(b"x");
        }
        assert!(!has_room(1), "events");
        let waiting = stream.room(1);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        reader.next().await.unwrap();
        assert!(waiting.now_or_never().is_some(), "one has been read");
        stream.push(b"x");
        assert!(!has_room(1));
        drop(reader);
        assert!(has_room(1), "the reader is gone");
    }

    /// Nor does a reader whose turn comes again hold up anybody for what another has read meanwhile.
    #[tokio::test(start_paused = true)]
    async fn there_is_room_for_a_reader_whose_turn_comes_again() {
        let stream = Stream::standing(BOUNDS);
        let mut first = stream.attach(None, 2).unwrap();
        let mut second = stream.attach(None, 2).unwrap();
        for _ in 0..BOUNDS.events {
            stream.push(b"x");
        }
        assert_eq!(texts(&mut second).len(), BOUNDS.events);
        drop(second);
        let saying = async {
            stream.room(1).await;
            stream.push(b"y")
        };
        let hearing = tokio::time::timeout(Duration::from_secs(1), async { tokio::join!(saying, first.next()) });
        let (said, heard) = hearing.await.expect("nobody waits for ever");
        assert_eq!(heard, Some((said, Bytes::from("y"))));
    }

    /// C-SSE-6: nobody waits for a reader of a stream that is over.
    #[tokio::test]
    async fn there_is_nothing_to_wait_for_at_the_end() {
        let stream = Stream::standing(BOUNDS);
        let _reader = stream.attach(None, 2).unwrap();
        for _ in 0..BOUNDS.events {
            stream.push(b"x");
        }
        let waiting = stream.room(1);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        stream.finish();
        assert!(waiting.now_or_never().is_some());
    }
}
