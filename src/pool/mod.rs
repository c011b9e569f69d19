//! A pool of connections that are leased exclusively: `C-POOL` of docs/contracts.md.
//!
//! Everything is decided by the [`ledger`], which is pure; the [`desk`] is the lock around it; this is what makes and
//! drops connections. Generic over what it pools, so that it is tested without processes.
//!
//! Whoever asks waits at the desk, and creations, which are tasks of their own, feed the queue: one who goes away while a
//! connection is created for it leaves it to the next. A lease that is dropped hands its connection, within that drop, to
//! the first who waits. No reference count is ever read.

mod desk;
mod keeper;
pub(crate) mod ledger;
mod mutant;
pub(crate) mod restarts;
mod sync;

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::metrics::{PoolMetrics, Start};
use crate::rt::Tasks;
use desk::{After, Desk};
use ledger::{Ask, Bounds, Counts, Held, Key, Ledger, Outcome, Pooled, Reason, Refusal, Ticket};
use mutant::{Mutant, is_on};
use restarts::{Policy, Rest, Restarts};

/// Makes connections.
pub(crate) trait Connect: Send + Sync + 'static {
    type Key: Key + Send + Sync + 'static;
    type Conn: Pooled + Send + 'static;
    type Error: Send + 'static;

    /// Makes a connection that serves whoever asks for `key`. Runs in a task of its own; dropped when the pool is closed.
    /// `place` is dropped by whoever sees to it that nothing is left of the connection, when nothing is.
    fn connect(
        &self,
        key: &Self::Key,
        place: Place,
    ) -> impl Future<Output = Result<Self::Conn, Failure<Self::Error>>> + Send;
}

/// Why there is no connection, and what that says about the next attempt.
#[derive(Debug)]
pub(crate) struct Failure<E> {
    pub(crate) error: E,
    /// The next attempt would most likely fail, too: it counts towards a crash loop.
    pub(crate) counts: bool,
}

/// The sizes and times of a pool.
#[derive(Debug, Clone)]
pub(crate) struct Config<K> {
    pub(crate) bounds: Bounds,
    /// What is kept ahead of need.
    pub(crate) spare: Option<K>,
    /// Life of a connection, less up to a tenth at random.
    pub(crate) max_age: Duration,
    /// How long something given up may take to end before its connection is closed.
    pub(crate) cancel_grace: Duration,
    pub(crate) restarts: Policy,
}

/// How long one who asks is prepared to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a connection to become free.
    pub(crate) wait: Duration,
    /// Beyond that, while one is being created for it.
    pub(crate) create: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError<E> {
    /// All connections are in use, and waiting took too long.
    #[error("no connection became free in time")]
    Timeout,
    /// All connections are in use, and too many wait already.
    #[error("too many requests wait for a connection")]
    QueueFull,
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// It failed before and is not tried again yet.
    #[error("the server failed {} times: it is tried again later", .0.failures)]
    Resting(Rest),
    /// A connection cannot be made.
    #[error("a connection cannot be made")]
    Create(E),
    /// Making a connection ended in a panic.
    #[error("making a connection panicked")]
    Panicked,
}

/// A pool. Clones share it: dropping one of several changes nothing (C-POOL-5). When the last one and the last lease are
/// gone, what is idle is closed.
pub(crate) struct Pool<C: Connect> {
    shared: Arc<Shared<C>>,
}

impl<C: Connect> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Pool { shared: Arc::clone(&self.shared) }
    }
}

impl<C: Connect> Drop for Pool<C> {
    fn drop(&mut self) {
        if is_on(Mutant::DropCloses) {
            let _ = self.shared.desk.visit(|ledger, orders| ledger.close(orders));
        }
    }
}

struct Shared<C: Connect> {
    desk: Arc<Desk<C::Key, C::Conn, C::Error>>,
    connector: Arc<C>,
    restarts: Mutex<Restarts>,
    config: Config<C::Key>,
    tasks: Tasks,
    metrics: PoolMetrics,
    /// Tells the keeper that there is something to plan.
    kick: Arc<Notify>,
    /// Cancelled when the pool is closed or nobody has it any more.
    over: CancellationToken,
    _over: DropGuard,
    #[cfg(test)]
    serial: tokio::sync::Mutex<()>,
}

/// What a connection takes from its pool. Given back when it is dropped, which may happen anywhere, at any time.
pub(crate) struct Place {
    number: ledger::Place,
    worked: bool,
    vacate: Option<Vacate>,
}

/// Is told which place is free, and whether its connection had worked.
type Vacate = Box<dyn FnOnce(ledger::Place, bool) + Send>;

impl Place {
    /// The connection has been of use: that it ends does not mean that the next one would not work.
    pub(crate) fn worked(&mut self) {
        self.worked = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(vacate) = self.vacate.take() {
            vacate(self.number, self.worked);
        }
    }
}

impl<C: Connect> Pool<C> {
    /// A pool, whose background task ends with it. Creates its spares at once.
    pub(crate) fn new(connector: C, config: Config<C::Key>, tasks: &Tasks, metrics: PoolMetrics) -> Pool<C> {
        let over = CancellationToken::new();
        metrics.max(config.bounds.max);
        let gauges = metrics.clone();
        let watch = Box::new(move |counts: Counts| {
            let Counts { idle, leased, creating, closing, waiting } = counts;
            gauges.counts([idle, leased, creating, closing], waiting);
        });
        let shared = Arc::new(Shared {
            desk: Arc::new(Desk::new(Ledger::new(config.bounds.clone(), config.spare.clone()), watch)),
            connector: Arc::new(connector),
            restarts: Mutex::new(Restarts::new(config.restarts.clone())),
            config,
            tasks: tasks.clone(),
            metrics,
            kick: Arc::default(),
            _over: over.clone().drop_guard(),
            over,
            #[cfg(test)]
            serial: tokio::sync::Mutex::default(),
        });
        keeper::start(&shared);
        shared.plan();
        Pool { shared }
    }

    /// An exclusive lease on a connection that serves `key`.
    ///
    /// The time of `patience` covers all of it: waiting, checking and creating. First come, first served, among those
    /// whom a connection fits (C-POOL-4).
    ///
    /// # Errors
    /// See [`PoolError`].
    ///
    /// # Cancel safety
    /// Dropped at any moment, it leaves nothing behind: a connection that was meant for it goes to the next.
    pub(crate) async fn acquire(&self, key: &C::Key, patience: Patience) -> Result<Lease<C>, PoolError<C::Error>> {
        let shared = &self.shared;
        #[cfg(test)]
        let _held = if is_on(Mutant::LockOverAwait) { Some(shared.serial.lock().await) } else { None };
        shared.metrics.asked();
        let asked = Instant::now();
        let (answer, after) = shared.desk.ask(key, asked.into_std());
        shared.after(after);
        let ticket = match answer {
            Ask::Given(held) => {
                let start = if held.fresh { Start::Warm } else { Start::Reused };
                return Ok(shared.lease(held, start, asked));
            }
            Ask::Refused(refusal) => return Err(shared.refused(refusal)),
            Ask::Wait(ticket) => ticket,
        };
        // From here on leaving is what the guard does.
        let place = InQueue { shared, ticket };
        shared.plan();
        let mut turn = shared.desk.turn(ticket);
        let mut outcome = timeout_at(asked + patience.wait, &mut turn).await;
        if outcome.is_err() && shared.desk.visit(|ledger, _| ledger.is_covered(ticket)).0 {
            outcome = timeout_at(asked + patience.wait + patience.create, &mut turn).await;
        }
        drop(place);
        match outcome {
            Ok(Outcome::Given(held)) => {
                let start = if held.fresh { Start::Cold } else { Start::Reused };
                Ok(shared.lease(held, start, asked))
            }
            Ok(Outcome::Refused(refusal)) => Err(shared.refused(refusal)),
            Ok(Outcome::Failed(Some(error))) => Err(PoolError::Create(error)),
            Ok(Outcome::Failed(None)) => Err(PoolError::Panicked),
            Err(_) => {
                shared.metrics.timed_out();
                Err(self.rest().map_or(PoolError::Timeout, PoolError::Resting))
            }
        }
    }

    /// Why nothing is started now.
    pub(crate) fn rest(&self) -> Option<Rest> {
        self.shared.restarts().rest(Instant::now().into_std())
    }

    /// A connection turned out not to work after it was made.
    pub(crate) fn start_failed(&self) {
        self.shared.failed();
    }

    /// How many spares are kept from now on.
    pub(crate) fn keep_spares(&self, spares: usize) {
        let after = self.shared.desk.visit(|ledger, orders| ledger.keep_spares(spares, orders)).1;
        self.shared.after(after);
    }

    /// How many connections are where.
    pub(crate) fn counts(&self) -> Counts {
        self.shared.desk.visit(|ledger, _| ledger.counts()).0
    }

    /// Closes the pool: nothing is given out from the moment this is called, whoever waits is told, what is idle is
    /// closed at once and what is leased when it comes back. Waits until nothing is left, at most until `deadline`, and
    /// returns how many places are still in use then. Can be called again, and by several at once (C-POOL-7).
    ///
    /// # Cancel safety
    /// Dropped before it is done, the pool is closed all the same.
    pub(crate) async fn close(&self, deadline: Instant) -> usize {
        let after = self.shared.desk.visit(|ledger, orders| ledger.close(orders)).1;
        self.shared.after(after);
        self.shared.over.cancel();
        let emptied = std::future::poll_fn(|context| self.shared.desk.poll_empty(context));
        let _ = timeout_at(deadline, emptied).await;
        self.counts().live()
    }
}

impl<C: Connect> Shared<C> {
    fn restarts(&self) -> MutexGuard<'_, Restarts> {
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries on with what a visit to the desk led to. Spawns nothing: it is called in drops.
    fn after(&self, after: After) {
        for reason in after.closed {
            self.metrics.closed(reason.as_str());
        }
        if after.plan {
            self.kick.notify_one();
        }
    }

    fn lease(self: &Arc<Self>, held: Held<C::Key, C::Conn>, start: Start, asked: Instant) -> Lease<C> {
        let now = Instant::now();
        self.metrics.leased(start, now - asked);
        Lease { held: Some(held), shared: Arc::clone(self), start, reuse: true, since: now }
    }

    fn refused(&self, refusal: Refusal) -> PoolError<C::Error> {
        match refusal {
            Refusal::Closed => PoolError::Closed,
            Refusal::Queue => PoolError::QueueFull,
            Refusal::Resting => {
                let now = Instant::now().into_std();
                // It may have ended between the refusal and now.
                let over = Rest { until: now, failures: 1, looping: false };
                PoolError::Resting(self.restarts().rest(now).unwrap_or(over))
            }
        }
    }

    /// Starts what the ledger wants to be created. Must be called within a runtime.
    fn plan(self: &Arc<Self>) {
        let now = Instant::now().into_std();
        let (create, after) = self.desk.visit(|ledger, orders| ledger.plan(now, orders));
        self.after(After { plan: false, ..after });
        for (number, key) in create {
            let creation = Creation { shared: Arc::downgrade(self), number, done: false };
            let place = Place { number, worked: false, vacate: Some(vacate(Arc::downgrade(self))) };
            let (connector, over) = (Arc::clone(&self.connector), self.over.clone());
            self.tasks.spawn("pool-connect", async move {
                let started = Instant::now();
                let made = tokio::select! {
                    made = connector.connect(&key, place) => made,
                    () = over.cancelled() => return,
                };
                creation.end(made, started);
            });
        }
    }

    fn failed(&self) {
        let now = Instant::now().into_std();
        let rest = self.restarts().failed(now);
        if let Some(rest) = rest {
            if rest.looping {
                tracing::error!(
                    upstream = self.metrics.name(),
                    failures = rest.failures,
                    "Server keeps failing: it is left alone for a while"
                );
            }
            let after = self.desk.visit(|ledger, orders| ledger.rest_until(Some((rest.until, rest.looping)), orders)).1;
            self.after(after);
        }
    }

    /// When a connection made now is too old, in a way that those made together do not end together.
    fn expiry(&self, now: Instant) -> std::time::Instant {
        let mut byte = [0u8];
        // Without chance they only end together.
        let _ = getrandom::fill(&mut byte);
        let less = self.config.max_age / 10 * u32::from(byte[0]) / 256;
        (now + self.config.max_age - less).into_std()
    }
}

/// Gives a place back, if its pool is still there.
fn vacate<C: Connect>(shared: Weak<Shared<C>>) -> Vacate {
    Box::new(move |number, worked| {
        let Some(shared) = shared.upgrade() else { return };
        let (born, after) = shared.desk.visit(|ledger, orders| ledger.gone(number, orders));
        shared.after(after);
        let Some(born) = born else { return };
        shared.metrics.closed("lost");
        let now = Instant::now().into_std();
        let young = shared.restarts().is_young(born, now);
        if young && !worked {
            shared.failed();
        }
    })
}

/// A creation that has not ended. One that is dropped has failed: it panicked, or the pool is over.
struct Creation<C: Connect> {
    shared: Weak<Shared<C>>,
    number: ledger::Place,
    done: bool,
}

impl<C: Connect> Creation<C> {
    fn end(mut self, made: Result<C::Conn, Failure<C::Error>>, started: Instant) {
        self.done = true;
        // Without a pool there is nobody to have it.
        let Some(shared) = self.shared.upgrade() else { return };
        let now = Instant::now();
        let after = match made {
            Ok(conn) => {
                shared.metrics.created(now - started);
                shared.restarts().succeeded();
                let expires = shared.expiry(now);
                shared
                    .desk
                    .visit(|ledger, orders| {
                        ledger.rest_until(None, orders);
                        ledger.created(self.number, conn, expires, now.into_std(), orders);
                    })
                    .1
            }
            Err(failure) => {
                shared.metrics.create_failed();
                if failure.counts {
                    shared.failed();
                }
                shared.desk.visit(|ledger, orders| ledger.failed(self.number, Some(failure.error), orders)).1
            }
        };
        shared.after(after);
    }
}

impl<C: Connect> Drop for Creation<C> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.metrics.create_failed();
            let after = shared.desk.visit(|ledger, orders| ledger.failed(self.number, None, orders)).1;
            shared.after(after);
        }
    }
}

/// One who waits; dropped when it does not any more.
struct InQueue<'a, C: Connect> {
    shared: &'a Shared<C>,
    ticket: Ticket,
}

impl<C: Connect> Drop for InQueue<'_, C> {
    fn drop(&mut self) {
        let after = self.shared.desk.leave(self.ticket, Instant::now().into_std());
        self.shared.after(after);
    }
}

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
    /// Where the connection came from.
    pub(crate) fn start(&self) -> Start {
        self.start
    }

    /// What it is filed under.
    pub(crate) fn key(&self) -> &C::Key {
        &self.held().key
    }

    /// What it will be filed under when it comes back.
    pub(crate) fn file_under(&mut self, key: C::Key) {
        self.held_mut().key = key;
    }

    /// Whether the connection may be used again by others. It may, unless this says otherwise.
    pub(crate) fn reuse(&mut self, reuse: bool) {
        self.reuse = reuse;
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
        let until = now + self.shared.config.cancel_grace;
        let after =
            self.shared.desk.visit(|ledger, orders| match (reuse, held.conn.is_usable(), held.conn.is_quiescent()) {
                (_, false, _) => ledger.discard(held, Reason::Broken, orders),
                (false, true, _) => ledger.discard(held, Reason::Discarded, orders),
                (true, true, true) => ledger.put(held, now.into_std(), orders),
                (true, true, false) => ledger.quarantine(held, until.into_std(), orders),
            });
        self.shared.after(after.1);
    }
}

#[cfg(test)]
mod tests;
