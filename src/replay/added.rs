//! What is added to a tape while it is replayed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::stage::Inbox;
use crate::tape::format::{Edge, Frame, Kind, Party};

/// See the module. Who writes it down is told of it.
#[derive(Debug)]
pub(crate) struct Added {
    edge: Edge,
    inner: Mutex<Inner>,
    keeper: Arc<Inbox>,
}

#[derive(Debug)]
struct Inner {
    frames: Vec<Frame>,
    seq: u64,
    /// When the tape ends, and since when time counts again.
    end: u64,
    begun: Option<Instant>,
    connections: u64,
    bytes: u64,
    /// What found no room: messages, and their bytes.
    lost: (u64, u64),
}

/// Most bytes of messages that are added: they are kept in memory, and the file is written anew each time.
const BYTES_MAX: u64 = 256 << 20;

impl Added {
    /// Behind these frames.
    pub(super) fn after(edge: Edge, frames: &[&Frame]) -> Added {
        let kept = || frames.iter().filter(|frame| !matches!(frame.kind, Kind::End { .. }));
        let inner = Inner {
            frames: Vec::new(),
            seq: kept().map(|frame| frame.seq).max().unwrap_or(0),
            end: kept().map(|frame| frame.at).max().unwrap_or(0),
            begun: None,
            connections: kept().filter_map(|frame| frame.connection).max().unwrap_or(0),
            bytes: 0,
            lost: (0, 0),
        };
        Added { edge, inner: Mutex::new(inner), keeper: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for another connection to the server.
    pub(crate) fn connection(&self) -> u64 {
        let mut inner = self.inner();
        inner.connections = inner.connections.saturating_add(1);
        inner.connections
    }

    /// Something passed between the client and the server. How it is kept; `None` if there is no room for it.
    pub(super) fn push(&self, upward: bool, connection: u64, text: Bytes, now: Instant) -> Option<Frame> {
        let mut inner = self.inner();
        let bytes = text.len() as u64;
        if inner.bytes + bytes > BYTES_MAX {
            inner.lost = (inner.lost.0 + 1, inner.lost.1 + bytes);
            return None;
        }
        inner.bytes += bytes;
        inner.seq = inner.seq.saturating_add(1);
        let since = now.saturating_duration_since(*inner.begun.get_or_insert(now));
        let at = inner.end.saturating_add(u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        let (from, to) = match (self.edge, upward) {
            (Edge::Upstream, true) => (Party::Proxy, Party::Upstream),
            (Edge::Upstream, false) => (Party::Upstream, Party::Proxy),
            (Edge::Client, true) => (Party::Client, Party::Proxy),
            (Edge::Client, false) => (Party::Proxy, Party::Client),
        };
        let mut frame = Frame::message(inner.seq, at, from, to, text);
        frame.connection = (self.edge == Edge::Upstream).then_some(connection);
        inner.frames.push(frame.clone());
        drop(inner);
        self.keeper.wake();
        Some(frame)
    }

    /// How much there is.
    pub(crate) fn len(&self) -> usize {
        self.inner().frames.len()
    }

    /// Everything so far, if there is more than so much, and the end of the tape behind it.
    pub(crate) fn beyond(&self, known: usize) -> Option<Vec<Frame>> {
        let inner = self.inner();
        if inner.frames.len() <= known {
            return None;
        }
        let mut frames = inner.frames.clone();
        let end = frames.last().map_or(inner.end, |frame| frame.at);
        let mut seq = inner.seq;
        if let (lost @ 1.., bytes) = inner.lost {
            seq = seq.saturating_add(1);
            frames.push(Frame::new(seq, end, Kind::Gap { lost, bytes, why: "the tape is full".to_owned() }));
        }
        frames.push(Frame::new(seq.saturating_add(1), end, Kind::End { reason: "added to".to_owned(), next: None }));
        Some(frames)
    }

    /// Ready when there may be more.
    pub(crate) fn keeper(&self) -> &Inbox {
        &self.keeper
    }
}
