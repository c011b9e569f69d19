//! A queue between two tasks, bounded in items and in bytes.
//!
//! Channels of the runtime are bounded in items only, and one item here may be sixteen bytes or sixteen megabytes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// How much a mailbox holds before its writer has to wait. One item always fits into an empty one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Whoever has so many items waiting is no quick reader.
const BEHIND: usize = 4;

/// Makes a mailbox. Dropping either half is seen by the other.
pub(crate) fn mailbox<T>(bounds: Bounds) -> (Writer<T>, Reader<T>) {
    let shared = Arc::new(Shared { state: Mutex::default(), bounds });
    (Writer { shared: Arc::clone(&shared) }, Reader { shared })
}

struct Shared<T> {
    /// Held for a few instructions, never over an await. Both halves wake each other after releasing it.
    state: Mutex<State<T>>,
    bounds: Bounds,
}

struct State<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    finished: bool,
    reader_gone: bool,
    /// How often the reader has forgotten.
    forgotten: u64,
    /// The half that waits: for an item while there is none, or for room while there are some. So both never do.
    waiting: Option<Waker>,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        State { queue: VecDeque::new(), bytes: 0, finished: false, reader_gone: false, forgotten: 0, waiting: None }
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn full(&self, bounds: Bounds) -> bool {
        !self.queue.is_empty() && (self.queue.len() >= bounds.items || self.bytes >= bounds.bytes)
    }

    fn wait(&mut self, waker: &Waker) {
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(waker),
            None => self.waiting = Some(waker.clone()),
        }
    }
}

/// Wakes the half that waits, which has to look again, once it can.
fn wake<T>(mut state: MutexGuard<'_, State<T>>) {
    let waiting = state.waiting.take();
    drop(state);
    if let Some(waker) = waiting {
        waker.wake();
    }
}

/// The half that puts in.
pub(crate) struct Writer<T> {
    shared: Arc<Shared<T>>,
}

/// Why an item was not taken.
#[derive(Debug)]
pub(crate) enum PushError<T> {
    /// No room; here it is back.
    Full(T),
    /// The reader has forgotten what was meant for it then; here it is back.
    Forgotten(T),
    /// Nobody reads any more.
    Gone,
}

/// A time between two moments at which the reader forgot: see [`Writer::now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(u64);

impl<T> Writer<T> {
    /// The time it is: what is meant for the reader as it is now has to be put in with this.
    pub(crate) fn now(&self) -> Time {
        Time(self.shared.state().forgotten)
    }

    /// Puts an item in, if there is room for it; with a `time`, only if the reader has not forgotten since what was meant for it then. If
    /// some wait already, this one may wait for long: then `kept` makes something of it that has its memory to itself, so that the bound
    /// in bytes means something.
    pub(crate) fn push(
        &self,
        time: Option<Time>,
        item: T,
        bytes: usize,
        kept: impl FnOnce(T) -> T,
    ) -> Result<(), PushError<T>> {
        let mut state = self.shared.state();
        if time.is_some_and(|time| state.forgotten != time.0) {
            return Err(PushError::Forgotten(item));
        }
        if state.reader_gone || state.finished {
            return Err(PushError::Gone);
        }
        if state.full(self.shared.bounds) {
            return Err(PushError::Full(item));
        }
        let item = if state.queue.len() >= BEHIND { kept(item) } else { item };
        state.bytes += bytes;
        state.queue.push_back((item, bytes));
        wake(state);
        Ok(())
    }

    /// Puts the last item in, room or not: there is one such item per mailbox.
    pub(crate) fn finish(&self, item: T, bytes: usize) {
        let mut state = self.shared.state();
        if state.reader_gone || state.finished {
            return;
        }
        state.bytes += bytes;
        state.queue.push_back((item, bytes));
        state.finished = true;
        wake(state);
    }

    /// Nothing more will be put in.
    pub(crate) fn close(&self) {
        let mut state = self.shared.state();
        state.finished = true;
        wake(state);
    }

    /// Waits until there is room, or nobody reads any more.
    ///
    /// Cancel safe. Only one task waits at a time.
    pub(crate) async fn room(&self) {
        poll_fn(|context| {
            let mut state = self.shared.state();
            if state.reader_gone || !state.full(self.shared.bounds) {
                return Poll::Ready(());
            }
            state.wait(context.waker());
            Poll::Pending
        })
        .await;
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// The half that takes out.
pub(crate) struct Reader<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Reader<T> {
    /// Holds no more memory than it has to: nothing is expected for long.
    pub(crate) fn shrink(&self) {
        self.shared.state().queue.shrink_to_fit();
    }

    /// The next item; `None` when there will be none. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<T> {
        poll_fn(|context| {
            let mut state = self.shared.state();
            if let Some((item, bytes)) = state.queue.pop_front() {
                state.bytes -= bytes;
                wake(state);
                return Poll::Ready(Some(item));
            }
            if state.finished {
                return Poll::Ready(None);
            }
            state.wait(context.waker());
            Poll::Pending
        })
        .await
    }

    /// Drops what is there, a last item included, and what was meant to be there and has found no room yet. Returns how many
    /// items were there.
    pub(crate) fn forget(&mut self) -> usize {
        let mut state = self.shared.state();
        state.forgotten += 1;
        state.bytes = 0;
        let queue = std::mem::take(&mut state.queue);
        if queue.is_empty() {
            // If anybody waits, it is this half, which need not be told what it does itself.
            let waiting = state.waiting.take();
            drop(state);
            drop(waiting);
        } else {
            wake(state);
        }
        queue.len()
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.reader_gone = true;
        let queue = std::mem::take(&mut state.queue);
        wake(state);
        drop(queue);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    fn push(writer: &Writer<u8>, item: u8, bytes: usize) -> Result<(), PushError<u8>> {
        writer.push(None, item, bytes, |item| item)
    }

    const BOUNDS: Bounds = Bounds { items: 2, bytes: 10 };

    #[tokio::test]
    async fn is_bounded_in_items_and_in_bytes() {
        let (writer, mut reader) = mailbox(BOUNDS);
        assert!(push(&writer, 1, 100).is_ok(), "one item fits whatever its size");
        assert!(matches!(push(&writer, 2, 1), Err(PushError::Full(2))));
        assert_eq!(reader.next().await, Some(1));
        assert!(push(&writer, 2, 1).is_ok() && push(&writer, 3, 1).is_ok());
        assert!(matches!(push(&writer, 4, 1), Err(PushError::Full(4))));
        writer.finish(5, 1);
        assert!(matches!(push(&writer, 6, 1), Err(PushError::Gone)));
        assert_eq!(
            (reader.next().await, reader.next().await, reader.next().await, reader.next().await),
            (Some(2), Some(3), Some(5), None)
        );
    }

    #[tokio::test]
    async fn a_waiting_writer_learns_of_room_and_of_the_end() {
        let (writer, mut reader) = mailbox(BOUNDS);
        push(&writer, 1, 10).unwrap();
        let (room, item) = tokio::join!(writer.room(), reader.next());
        assert_eq!(((), item), (room, Some(1)));
        push(&writer, 1, 10).unwrap();
        tokio::join!(writer.room(), async { drop(reader) });
        assert!(matches!(push(&writer, 1, 1), Err(PushError::Gone)));
    }

    #[tokio::test]
    async fn what_was_meant_for_a_reader_that_has_forgotten_is_refused() {
        let (writer, mut reader) = mailbox(BOUNDS);
        let before = writer.now();
        writer.push(Some(before), 1, 10, |item| item).unwrap();
        assert!(matches!(writer.push(Some(before), 2, 1, |item| item), Err(PushError::Full(2))));
        let (forgotten, ()) = (reader.forget(), writer.room().await);
        assert_eq!(forgotten, 1);
        assert!(matches!(writer.push(Some(before), 2, 1, |item| item), Err(PushError::Forgotten(2))));
        writer.push(Some(writer.now()), 3, 1, |item| item).unwrap();
        assert_eq!(reader.next().await, Some(3));
    }

    /// Whoever gives a connection back would be woken by that, for nothing.
    #[test]
    fn a_reader_that_forgets_does_not_wake_itself() {
        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (writer, mut reader) = mailbox::<u8>(BOUNDS);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        assert!(pin!(reader.next()).poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(reader.forget(), 0);
        push(&writer, 1, 1).unwrap();
        assert!(!woken.0.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_waiting_reader_learns_of_the_end() {
        let (writer, mut reader) = mailbox::<u8>(BOUNDS);
        let (item, ()) = tokio::join!(reader.next(), async { drop(writer) });
        assert_eq!(item, None);
    }

    /// A quick reader gets what came; what waits behind others has its memory to itself.
    #[tokio::test]
    async fn what_waits_behind_others_is_made_to_be_kept() {
        let (writer, mut reader) = mailbox(Bounds { items: 8, bytes: 100 });
        for item in 0..6 {
            writer.push(None, item, 1, |item| item + 100).unwrap();
        }
        for expected in [0, 1, 2, 3, 104, 105] {
            assert_eq!(reader.next().await, Some(expected));
        }
    }
}
