//! The lock around the ledger, and waiting at it: what is exhaustively checked for lost wake-ups (`interleavings/`).
//!
//! The lock is held for one call of the ledger, never over an await; connections and wakers are dropped and others woken
//! after it was given back (C-POOL-8). What was given to one who waits lies in the ledger until it looks, so that a
//! hand-over and a change of mind cannot miss each other.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use super::ledger::{Ask, Counts, Key, Ledger, Orders, Outcome, Place, Pooled, Reason, Ticket};
use super::sync::{Mutex, MutexGuard};

/// See the module.
pub(crate) struct Desk<K, T, E> {
    ledger: Mutex<Ledger<K, T, E>>,
    /// Is shown the counts after every visit, in the order of the visits.
    watch: Box<dyn Fn(Counts) + Send + Sync>,
}

/// What came of a visit to the desk, besides its answer.
pub(crate) struct After {
    /// What was closed.
    pub(crate) closed: Vec<Reason>,
    /// [`Ledger::plan`] is due.
    pub(crate) plan: bool,
}

impl<K: Key, T: Pooled, E> Desk<K, T, E> {
    /// `watch` is called under the lock, so it must be quick.
    pub(crate) fn new(ledger: Ledger<K, T, E>, watch: Box<dyn Fn(Counts) + Send + Sync>) -> Desk<K, T, E> {
        Desk { ledger: Mutex::new(ledger), watch }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger<K, T, E>> {
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets `visit` use the ledger, and carries out what it ordered. `visit` drops nothing of others: it returns it.
    pub(crate) fn visit<R>(&self, visit: impl FnOnce(&mut Ledger<K, T, E>, &mut Orders<T>) -> R) -> (R, After) {
        let mut orders = Orders::new();
        let answer = {
            let mut ledger = self.lock();
            let answer = visit(&mut ledger, &mut orders);
            (self.watch)(ledger.counts());
            answer
        };
        for waker in orders.wake {
            waker.wake();
        }
        let closed = orders.close.iter().filter_map(|(_, reason)| *reason).collect();
        drop((orders.close, orders.spent));
        (answer, After { closed, plan: orders.plan })
    }

    /// Asks for a connection; see [`Ledger::ask`].
    pub(crate) fn ask(&self, key: &K, now: Instant) -> (Ask<K, T>, After) {
        self.visit(|ledger, orders| ledger.ask(key, now, orders))
    }

    /// Waits for what was asked for. Cancel safe; [`Desk::leave`] has to be called when it is given up.
    pub(crate) fn turn(self: &Arc<Self>, ticket: Ticket) -> Turn<K, T, E> {
        Turn { desk: Arc::clone(self), ticket }
    }

    /// One who waited does not wait any more.
    pub(crate) fn leave(&self, ticket: Ticket, now: Instant) -> After {
        self.visit(|ledger, orders| ledger.cancel(ticket, now, orders)).1
    }

    /// Waits until a creation has to do with what there is, since somebody waits for its place. Cancel safe.
    pub(crate) fn needed(self: &Arc<Self>, place: Place) -> Needed<K, T, E> {
        Needed { desk: Arc::downgrade(self), place }
    }

    /// Whether all places are free; otherwise the caller is woken when they are.
    pub(crate) fn poll_empty(&self, context: &Context<'_>) -> Poll<()> {
        self.lock().poll_empty(context.waker())
    }
}

/// See [`Desk::turn`].
pub(crate) struct Turn<K, T, E> {
    desk: Arc<Desk<K, T, E>>,
    ticket: Ticket,
}

impl<K: Key, T: Pooled, E> Future for Turn<K, T, E> {
    type Output = Outcome<K, T, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Dropped after the lock was given back.
        let mut spent = None;
        self.desk.lock().poll(self.ticket, context.waker(), &mut spent)
    }
}

/// See [`Desk::needed`]. It keeps nothing of the pool.
pub(crate) struct Needed<K, T, E> {
    desk: Weak<Desk<K, T, E>>,
    place: Place,
}

impl<K: Key, T: Pooled, E> Future for Needed<K, T, E> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(desk) = self.desk.upgrade() else { return Poll::Pending };
        // Dropped after the lock was given back.
        let mut spent = None;
        desk.lock().poll_needed(self.place, context.waker(), &mut spent)
    }
}
