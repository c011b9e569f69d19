//! What the models have in common: a desk, connections that are made of nothing, and what the shell does around them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::sync::atomic::{AtomicBool, Ordering};

use crate::desk::Desk;
use crate::ledger::{Ask, Bounds, Counts, Held, Key, Ledger, Outcome, Place, Pooled, Reason, Refusal, Ticket};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct K(pub(crate) u8);

impl Key for K {
    fn fits(&self, held: &Self) -> bool {
        self == held
    }

    fn is_spare(&self) -> bool {
        false
    }
}

/// A connection. `dead` is set by its reader, in another thread.
#[derive(Debug, Clone)]
pub(crate) struct Conn {
    pub(crate) dead: Arc<AtomicBool>,
}

impl Pooled for Conn {
    fn is_usable(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }

    fn is_quiescent(&self) -> bool {
        true
    }
}

pub(crate) type Lease = Held<K, Conn>;
pub(crate) type End = Outcome<K, Conn, ()>;

/// A pool whose connections are made as soon as they are planned.
pub(crate) struct Pool {
    pub(crate) desk: Arc<Desk<K, Conn, ()>>,
    start: Instant,
}

impl Clone for Pool {
    fn clone(&self) -> Pool {
        Pool { desk: Arc::clone(&self.desk), start: self.start }
    }
}

impl Pool {
    pub(crate) fn new(max: usize) -> Pool {
        let bounds = Bounds { max, creating: max, queue: 8, idle: Duration::from_secs(60), spares: 0 };
        let watch = move |counts: Counts| assert!(counts.live() <= max, "C-POOL-1: {counts:?}");
        Pool { desk: Arc::new(Desk::new(Ledger::new(bounds, None), Box::new(watch))), start: Instant::now() }
    }

    pub(crate) fn plan(&self) {
        let start = self.start;
        let (create, _) = self.desk.visit(|ledger, orders| ledger.plan(start, orders));
        for (place, _) in create {
            let conn = Conn { dead: Arc::new(AtomicBool::new(false)) };
            let expires = start + Duration::from_secs(60);
            let (_, after) = self.desk.visit(|ledger, orders| ledger.created(place, conn, expires, start, orders));
            assert!(!after.plan || after.closed.is_empty());
        }
    }

    /// What is closed here is gone at once.
    pub(crate) fn gone(&self, place: Place) {
        let (_, after) = self.desk.visit(|ledger, orders| ledger.gone(place, orders));
        if after.plan {
            self.plan();
        }
    }

    /// A ticket, or what is there.
    pub(crate) fn ask(&self, key: K) -> Result<Result<Lease, Ticket>, Refusal> {
        match self.desk.ask(&key, self.start).0 {
            Ask::Given(held) => Ok(Ok(held)),
            Ask::Wait(ticket) => {
                self.plan();
                Ok(Err(ticket))
            }
            Ask::Refused(refusal) => Err(refusal),
        }
    }

    pub(crate) fn acquire(&self, key: K) -> Result<Lease, Refusal> {
        match self.ask(key)? {
            Ok(held) => Ok(held),
            Err(ticket) => self.wait(ticket),
        }
    }

    pub(crate) fn wait(&self, ticket: Ticket) -> Result<Lease, Refusal> {
        match loom::future::block_on(self.desk.turn(ticket)) {
            End::Given(held) => Ok(held),
            End::Refused(refusal) => Err(refusal),
            End::Failed(_) => unreachable!("no creation fails here"),
        }
    }

    pub(crate) fn leave(&self, ticket: Ticket) {
        if self.desk.leave(ticket, self.start).plan {
            self.plan();
        }
    }

    /// Gives it back. Whatever the pool closes is gone.
    pub(crate) fn put(&self, lease: Lease) {
        let (start, place) = (self.start, lease.place);
        let (_, after) = self.desk.visit(|ledger, orders| ledger.put(lease, start, orders));
        self.end(place, &after.closed);
        if after.plan {
            self.plan();
        }
    }

    pub(crate) fn discard(&self, lease: Lease) {
        let place = lease.place;
        let (_, after) = self.desk.visit(|ledger, orders| ledger.discard(lease, Reason::Discarded, orders));
        self.end(place, &after.closed);
    }

    fn end(&self, place: Place, closed: &[Reason]) {
        if !closed.is_empty() {
            self.gone(place);
        }
    }

    pub(crate) fn close(&self) {
        let _ = self.desk.visit(|ledger, orders| ledger.close(orders));
    }

    pub(crate) fn counts(&self) -> Counts {
        self.desk.visit(|ledger, _| ledger.counts()).0
    }
}

/// Every interleaving, or an error that says which is wrong.
pub(crate) fn explore(model: impl Fn() + Sync + Send + 'static) {
    loom::model(model);
}
