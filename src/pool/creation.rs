//! Making connections: a task for each, which owns nothing of the pool.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::mutant::{Mutant, is_on};
use super::{After, Connect, Failure, Place, Shared, Vacate, later, ledger};
use ledger::Key;

impl<C: Connect> Shared<C> {
    /// Starts what the ledger wants to be created. Must be called within a runtime.
    pub(super) fn plan(self: &Arc<Self>) {
        let now = Instant::now().into_std();
        let drains = self.tasks.drain().is_cancelled();
        let (create, after) = self.desk.visit(|ledger, orders| {
            if drains {
                // They would end before anybody comes.
                ledger.keep_spares(0, orders);
            }
            ledger.plan(now, orders)
        });
        self.after(After { plan: false, ..after });
        for (number, key) in create {
            let spare = key.is_spare();
            let creation = Creation { shared: Arc::downgrade(self), number, spare, done: false };
            let place = Place { number, worked: false, vacate: Some(vacate(Arc::downgrade(self))) };
            let (connector, over, crew) = (Arc::clone(&self.connector), self.over.clone(), self.crew.token());
            let needed = self.desk.needed(number);
            self.tasks.spawn("pool-connect", async move {
                let _crew = crew;
                let started = Instant::now();
                let made = tokio::select! {
                    biased;
                    // First, so that nothing is begun in a pool that is closed.
                    () = over.cancelled(), if !is_on(Mutant::CreatesAfterClose) => return,
                    made = connector.connect(&key, place, needed) => made,
                };
                creation.end(made, started);
            });
        }
    }

    /// A start failed, or a connection broke soon after it. While the program drains that says nothing: it may be why.
    pub(super) fn failed(&self) {
        if self.tasks.drain().is_cancelled() {
            return;
        }
        let now = Instant::now().into_std();
        // Both sets of books under one lock, so that they agree.
        let (rest, after) = self.desk.visit(|ledger, orders| {
            let rest = self.restarts().failed(now);
            if let Some(rest) = rest.filter(|_| !is_on(Mutant::NoRest)) {
                ledger.rest_until(Some(rest.until), orders);
                // A short pause is waited for.
                ledger.refuse_while_resting(rest.looping);
            }
            rest
        });
        // The keeper has to know when the rest is over.
        self.after(After { plan: after.plan || (rest.is_some() && !is_on(Mutant::RestUnnoticed)), ..after });
        if let Some(rest) = rest.filter(|rest| rest.looping) {
            tracing::error!(
                upstream = self.metrics.name(),
                failures = rest.failures,
                "Server keeps failing: it is left alone for a while"
            );
        }
    }

    /// When a connection made now is too old, in a way that those made together do not end together.
    fn expiry(&self, now: Instant) -> Instant {
        let mut byte = [0u8];
        // Without chance they only end together.
        let _ = getrandom::fill(&mut byte);
        if is_on(Mutant::AgeWithoutJitter) {
            byte = [0];
        }
        later(now, self.config.max_age - self.config.max_age / 10 * u32::from(byte[0]) / 256)
    }
}

/// Gives a place back, if its pool is still there.
fn vacate<C: Connect>(shared: Weak<Shared<C>>) -> Vacate {
    Box::new(move |number, worked| {
        let Some(shared) = shared.upgrade() else { return };
        let (lost, after) = shared.desk.visit(|ledger, orders| ledger.gone(number, orders));
        shared.after(after);
        let Some(lost) = lost else { return };
        if lost.unnoticed {
            shared.metrics.closed("lost");
        }
        let young = shared.restarts().is_young(lost.born, Instant::now().into_std());
        if young && !worked && !lost.blamed {
            shared.failed();
        }
    })
}

/// A creation that has not ended. One that is dropped has failed: it panicked, or the pool is over.
struct Creation<C: Connect> {
    shared: Weak<Shared<C>>,
    number: ledger::Place,
    spare: bool,
    done: bool,
}

impl<C: Connect> Creation<C> {
    fn end(mut self, made: Result<C::Conn, Failure<C::Error>>, started: Instant) {
        self.done = true;
        // Without a pool there is nobody to have it.
        let Some(shared) = self.shared.upgrade() else { return };
        match made {
            Ok(conn) => self.made(&shared, conn, started),
            Err(failure) => self.failed(&shared, Some(failure.error), failure.counts),
        }
    }

    fn made(&self, shared: &Arc<Shared<C>>, conn: C::Conn, started: Instant) {
        let now = Instant::now();
        shared.metrics.created(now - started);
        let expires = shared.expiry(now).into_std();
        let (works, after) = shared.desk.visit(|ledger, orders| {
            // One that was not waited for has shown nothing yet.
            let ready = !ledger.is_needed(self.number);
            let works = ledger.created(self.number, conn, expires, now.into_std(), orders);
            if works && ready {
                shared.restarts().succeeded();
                ledger.rest_until(None, orders);
            }
            works
        });
        if !works {
            // Before anybody tries again.
            shared.failed();
        }
        shared.after(after);
    }

    fn failed(&self, shared: &Shared<C>, error: Option<C::Error>, counts: bool) {
        shared.metrics.create_failed();
        // Nobody is told of a spare that cannot be made, and it would be tried again at once, for ever.
        if counts || (self.spare && !is_on(Mutant::SparesHammer)) {
            shared.failed();
        }
        let (unheard, after) = shared.desk.visit(|ledger, orders| ledger.failed(self.number, error, orders));
        drop(unheard);
        shared.after(after);
    }
}

impl<C: Connect> Drop for Creation<C> {
    fn drop(&mut self) {
        if self.done || is_on(Mutant::PanicForgotten) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        let over = shared.over.is_cancelled();
        if over {
            // Whoever waits is told that, and not that something panicked.
            shared.after(shared.desk.visit(|ledger, orders| ledger.close(orders)).1);
        }
        self.failed(&shared, None, !over);
    }
}
