//! Having a connection.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio::time::Instant;

use super::ledger::{Held, Pooled, Reason};
use super::{Connect, Shared, later};
use crate::metrics::Start;

/// A connection that is its holder's alone. Dropping it gives it back: to the first who waits for such a one, within the
/// drop, without waiting, inside and outside a runtime.
pub(crate) struct Lease<C: Connect> {
    held: Option<Held<C::Key, C::Conn>>,
    shared: Arc<Shared<C>>,
    start: Start,
    reuse: bool,
    since: Instant,
}

impl<C: Connect> Lease<C> {
    /// What it is filed under.
    pub(crate) fn key(&self) -> &C::Key {
        &self.held().key
    }

    pub(super) fn new(shared: Arc<Shared<C>>, held: Held<C::Key, C::Conn>, start: Start, since: Instant) -> Lease<C> {
        Lease { held: Some(held), shared, start, reuse: true, since }
    }

    /// Where the connection came from.
    pub(crate) fn start(&self) -> Start {
        self.start
    }

    /// What it will be filed under when it comes back.
    pub(crate) fn file_under(&mut self, key: C::Key) {
        self.held_mut().key = key;
    }

    /// Whether the connection may be used again by others. It may, unless this says otherwise.
    pub(crate) fn reuse(&mut self, reuse: bool) {
        self.reuse = reuse;
    }

    /// The connection does not work, although it was made: it is closed when this is dropped, and counts as a failed start,
    /// once, whoever else notices its end.
    pub(crate) fn failed(&mut self) {
        self.reuse = false;
        let place = self.held().place;
        if self.shared.desk.visit(|ledger, _| ledger.blame(place)).0 {
            self.shared.failed();
        }
    }

    fn held(&self) -> &Held<C::Key, C::Conn> {
        match &self.held {
            Some(held) => held,
            None => unreachable!("BUG: a lease holds its connection until it is dropped"),
        }
    }

    fn held_mut(&mut self) -> &mut Held<C::Key, C::Conn> {
        match &mut self.held {
            Some(held) => held,
            None => unreachable!("BUG: a lease holds its connection until it is dropped"),
        }
    }
}

impl<C: Connect> Deref for Lease<C> {
    type Target = C::Conn;

    fn deref(&self) -> &C::Conn {
        &self.held().conn
    }
}

impl<C: Connect> DerefMut for Lease<C> {
    fn deref_mut(&mut self) -> &mut C::Conn {
        &mut self.held_mut().conn
    }
}

impl<C: Connect> Drop for Lease<C> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let now = Instant::now();
        self.shared.metrics.used(now - self.since);
        // A panic may have left anything half done.
        let reuse = self.reuse && !std::thread::panicking();
        let until = later(now, self.shared.config.cancel_grace);
        let after =
            self.shared.desk.visit(|ledger, orders| match (reuse, held.conn.is_usable(), held.conn.is_quiescent()) {
                (false, true, _) => ledger.discard(held, Reason::Discarded, orders),
                (false, false, _) => ledger.discard(held, Reason::Broken, orders),
                (true, true, false) => ledger.quarantine(held, until.into_std(), orders),
                // The ledger looks whether it is usable.
                (true, _, _) => ledger.put(held, now.into_std(), orders),
            });
        self.shared.after(after.1);
    }
}
