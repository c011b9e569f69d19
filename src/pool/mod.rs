//! A pool of connections that are leased exclusively: `C-POOL` of docs/contracts.md.
//!
//! Everything is decided by the [`ledger`], which is pure; the [`desk`] is the lock around it; this is what makes and
//! drops connections. Generic over what it pools, so that it is tested without processes.
//!
//! Whoever asks waits at the desk, and creations, which are tasks of their own, feed the queue: one who goes away while a
//! connection is created for it leaves it to the next. A lease that is dropped hands its connection, within that drop, to
//! the first who waits. No reference count is ever read.

mod creation;
mod desk;
mod keeper;
mod lease;
pub(crate) mod ledger;
mod mutant;
pub(crate) mod restarts;
mod sync;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::metrics::{PoolMetrics, Start};
use crate::rt::Tasks;
use desk::{After, Desk};
pub(crate) use lease::Lease;
use ledger::{Ask, Bounds, Counts, Held, Key, Ledger, Outcome, Pooled, Refusal, Ticket};
use mutant::{Mutant, is_on};
use restarts::{Policy, Rest, Restarts};

/// Makes connections.
pub(crate) trait Connect: Send + Sync + 'static {
    type Key: Key + Send + Sync + 'static;
    type Conn: Pooled + Send + 'static;
    type Error: Send + 'static;

    /// Makes a connection that serves whoever asks for `key`. Runs in a task of its own; dropped when the pool is closed.
    /// `place` is dropped by whoever sees to it that nothing is left of the connection, when nothing is: whoever keeps it
    /// for ever keeps the place of a connection for ever. When `needed` ends, somebody waits for the place of a spare: it has
    /// to do as it is.
    fn connect(
        &self,
        key: &Self::Key,
        place: Place,
        needed: impl Future<Output = ()> + Send,
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
    /// Cancelled when the pool is closed, when nobody has it any more, and when the program stops.
    over: CancellationToken,
    _over: DropGuard,
    /// Counts the tasks of this pool.
    crew: TaskTracker,
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
        let over = tasks.stop().child_token();
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
            crew: TaskTracker::new(),
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
        loop {
            let (answer, after) = shared.desk.ask(key, Instant::now().into_std());
            shared.after(after);
            let (held, start) = match answer {
                Ask::Given(held) => {
                    let start = if held.fresh { Start::Warm } else { Start::Reused };
                    (held, start)
                }
                Ask::Refused(refusal) => return Err(shared.refused(refusal)),
                // In a box, so that the future of one who need not wait stays small.
                Ask::Wait(ticket) => Box::pin(self.wait(InQueue { shared, ticket }, asked, patience)).await?,
            };
            let now = Instant::now();
            // One that comes back may die before it is looked at. Of a new one, its holder learns why it died.
            if held.fresh || held.conn.is_usable() || is_on(Mutant::DeadReused) {
                shared.metrics.leased(start, now - asked);
                return Ok(Lease::new(Arc::clone(shared), held, start, now));
            }
            let after = shared.desk.visit(|ledger, orders| ledger.put(held, now.into_std(), orders)).1;
            shared.after(after);
        }
    }

    /// Waits in the queue. Leaving it is what the guard does.
    async fn wait(
        &self,
        place: InQueue<'_, C>,
        asked: Instant,
        patience: Patience,
    ) -> Result<(Held<C::Key, C::Conn>, Start), PoolError<C::Error>> {
        let (shared, ticket) = (&self.shared, place.ticket);
        shared.plan();
        let mut turn = shared.desk.turn(ticket);
        let deadline = later(asked, patience.wait);
        let mut outcome = timeout_at(deadline, &mut turn).await;
        if outcome.is_err() && shared.desk.visit(|ledger, _| ledger.is_covered(ticket)).0 {
            outcome = timeout_at(later(deadline, patience.create), &mut turn).await;
        }
        drop(place);
        match outcome {
            Ok(Outcome::Given(held)) => {
                let start = if held.fresh { Start::Cold } else { Start::Reused };
                Ok((held, start))
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

    /// A connection turned out not to work after it was made. [`Lease::failed`] is for those who still have it: here nobody
    /// knows whether its end is counted, too.
    #[cfg(test)]
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
        self.shared.crew.close();
        let done = async {
            std::future::poll_fn(|context| self.shared.desk.poll_empty(context)).await;
            self.shared.crew.wait().await;
        };
        let _ = timeout_at(deadline, done).await;
        self.counts().live()
    }
}

impl<C: Connect> Shared<C> {
    /// Locked within visits to the desk, and never the other way round.
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
}

/// Nobody has the pool any more.
impl<C: Connect> Drop for Shared<C> {
    fn drop(&mut self) {
        let after = self.desk.visit(|ledger, orders| ledger.close(orders)).1;
        self.after(after);
        // What is still closing has no place any more.
        self.metrics.counts([0; 4], 0);
    }
}

/// A moment that lies so far ahead, or, if there is no such moment, far ahead.
fn later(now: Instant, wait: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    now.checked_add(wait).unwrap_or(now + FAR)
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

#[cfg(test)]
mod tests;
