//! Writes that wait until all who are ready have had their turn.
//!
//! Each write to a peer that waits wakes it, and often it runs at once in place of us. Where many are answered, one after the other, that is
//! a switch for each answer; where all are read first and then all are answered, the peer is woken once, and finds all of them.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use prometheus_client::metrics::gauge::Gauge;
use tokio::task::yield_now;

/// A stream whose writer lets all other tasks of its thread that are ready have a turn before it writes, once for all that it then
/// writes until it flushes.
pub(crate) struct Gathered<S> {
    stream: S,
    /// How many there are that may be ready. `None`: nobody is waited for.
    crowd: Option<Gauge>,
    turn: Turn,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The others'.
    Theirs,
    /// Ours when we are polled again.
    Next,
    Ours,
}

impl<S> Gathered<S> {
    /// Nobody is waited for while there is but one in the crowd.
    pub(crate) fn new(stream: S, crowd: Option<Gauge>) -> Gathered<S> {
        Gathered { stream, crowd, turn: Turn::Theirs }
    }

    /// Whether it is our turn. If not, the task is woken when it is.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn = match self.turn {
            Turn::Theirs if self.crowd.as_ref().is_some_and(|crowd| crowd.get() > 1) => Turn::Next,
            _ => Turn::Ours,
        };
        if self.turn == Turn::Ours {
            return Poll::Ready(());
        }
        // It is woken by what this has left with the runtime.
        let _ = pin!(yield_now()).poll(cx);
        Poll::Pending
    }
}

impl<S: Read + Unpin> Read for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: Write + Unpin> Write for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_turn(cx));
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_turn(cx));
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.turn = Turn::Theirs;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    type Log = Rc<RefCell<Vec<(&'static str, u8)>>>;

    /// Takes two bytes at a time.
    struct Logged(Log);

    impl Write for Logged {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.borrow_mut().push(("writes", bytes[0]));
            Poll::Ready(Ok(bytes.len().min(2)))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What two do, each of whom is ready with two messages.
    fn written(crowd: Option<Gauge>) -> Vec<(&'static str, u8)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (log, tasks) = (Log::default(), LocalSet::new());
        for who in 0..2 {
            let (log, crowd) = (Rc::clone(&log), crowd.clone());
            tasks.spawn_local(async move {
                let mut stream = Gathered::new(Logged(Rc::clone(&log)), crowd);
                for _ in 0..2 {
                    log.borrow_mut().push(("is ready", who));
                    for bytes in [&[who; 4][..], &[who; 2]] {
                        poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, bytes)).await.unwrap();
                    }
                    poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
                }
            });
        }
        runtime.block_on(tasks);
        Rc::into_inner(log).unwrap().into_inner()
    }

    fn gauge(count: i64) -> Gauge {
        let gauge = Gauge::default();
        gauge.set(count);
        gauge
    }

    #[test]
    fn all_who_are_ready_come_before_the_first_write() {
        let log = written(Some(gauge(2)));
        let (first, rest) = log.split_at(2);
        assert!(first.contains(&("is ready", 0)) && first.contains(&("is ready", 1)), "{log:?}");
        let writes: Vec<u8> = rest.iter().filter(|(what, _)| *what == "writes").map(|(_, who)| *who).collect();
        assert_eq!(writes.len(), 8);
        let once = writes.chunks(2).all(|pair| pair[0] == pair[1]);
        assert!(once, "what is written until the flush waits once: {log:?}");
    }

    #[test]
    fn who_is_alone_writes_at_once() {
        let turn = [("is ready", 0), ("writes", 0), ("writes", 0)];
        for crowd in [Some(gauge(1)), None] {
            assert_eq!(written(crowd)[..6], [turn, turn].concat());
        }
    }
}
