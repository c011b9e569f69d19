//! Every task of the program: who they are, how they are told to end, and what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

/// The owner of all tasks. Clones share it.
///
/// Three tokens tell tasks what is wanted: [`drain`](Tasks::drain) (finish what you have, take nothing new),
/// [`cut`](Tasks::cut) (answer what you have with an error) and [`stop`](Tasks::stop) (end now). Each implies those before.
#[derive(Clone)]
pub(crate) struct Tasks {
    inner: Arc<Inner>,
}

/// A task that had not ended when [`Tasks::close`] ran out of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survivor {
    /// The name it was spawned with.
    pub(crate) name: &'static str,
    /// How long it had been alive.
    pub(crate) age: Duration,
}

/// Starts the tasks of a library that wants to start its own.
#[derive(Clone)]
pub(crate) struct Spawner {
    tasks: Tasks,
    name: &'static str,
    stop: CancellationToken,
}

impl Spawner {
    /// All of them get this name, and end when `stop` is cancelled, which somebody has to see to.
    pub(crate) fn new(tasks: &Tasks, name: &'static str, stop: CancellationToken) -> Spawner {
        Spawner { tasks: tasks.clone(), name, stop }
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        let stop = self.stop.clone();
        self.tasks.spawn(self.name, async move {
            tokio::select! {
                biased;
                () = future => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

struct Inner {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// A child of `stop`, as `drain` is of this: each implies the milder ones.
    cut: CancellationToken,
    drain: CancellationToken,
    table: Mutex<Table>,
    panics: AtomicU64,
}

/// The live tasks by serial number: the tracker counts them, this names them.
#[derive(Default)]
struct Table {
    next: u64,
    live: BTreeMap<u64, Row>,
    /// Set when `close` has taken its census: nobody would wait for a later task.
    sealed: bool,
}

struct Row {
    name: &'static str,
    started: Instant,
    /// `None` for the moment between entering the table and being spawned.
    abort: Option<AbortHandle>,
}

impl Tasks {
    /// No tasks yet.
    pub(crate) fn new() -> Self {
        let stop = CancellationToken::new();
        let cut = stop.child_token();
        Tasks {
            inner: Arc::new(Inner {
                tracker: TaskTracker::new(),
                drain: cut.child_token(),
                cut,
                stop,
                table: Mutex::default(),
                panics: AtomicU64::new(0),
            }),
        }
    }

    /// Starts a task. It is expected to end soon after [`stop`](Tasks::stop) is cancelled.
    ///
    /// A panic in it is caught, counted and logged; it ends this task and no other. After [`close`](Tasks::close) has
    /// returned, the future is dropped without being polled: whatever it guards is released by its `Drop`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as `tokio::spawn` does.
    pub(crate) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let Some(entry) = self.enter(name) else {
            debug!(task = name, "Task refused after close");
            return;
        };
        let id = entry.id;
        let inner = Arc::clone(&self.inner);
        // Not an `async` block: that would be twice as large as what it waits for.
        let guarded = AssertUnwindSafe(future).catch_unwind().map(move |ended| {
            let _entry = entry;
            if ended.is_err() {
                // The panic hook has printed message and place; the payload may hold what must not be logged.
                inner.panics.fetch_add(1, Ordering::Relaxed);
                error!(task = name, "Task panicked");
            }
        });
        // The table is not locked here: on a runtime that is shutting down, spawning drops the future at once, and
        // with it the entry, which takes the lock.
        let abort = spawn(self.inner.tracker.track_future(guarded));
        let late = {
            let mut table = self.inner.table();
            if let Some(row) = table.live.get_mut(&id) {
                row.abort = Some(abort.clone());
            }
            table.sealed
        };
        if late {
            // `close` took its census between the two locks and could not abort what had no handle yet.
            abort.abort();
        }
    }

    /// Runs work that blocks (files) on a thread that is there for that, and waits for it. `None` if it panicked, which is counted
    /// and logged, or if the runtime is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Work that has begun goes on, and nobody hears of its result.
    pub(crate) async fn block_on_thread<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match tokio::task::spawn_blocking(work).await {
            Ok(value) => Some(value),
            Err(ended) => {
                if ended.is_panic() {
                    self.work_panicked(name);
                }
                None
            }
        }
    }

    /// Counts and logs a panic in work that blocks.
    pub(super) fn work_panicked(&self, name: &'static str) {
        self.inner.panics.fetch_add(1, Ordering::Relaxed);
        error!(task = name, "Work panicked");
    }

    /// The token that asks for draining: finish what you have, take nothing new.
    pub(crate) fn drain(&self) -> &CancellationToken {
        &self.inner.drain
    }

    /// The token that asks requests under way to end now, each with an answer that says so.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.inner.cut
    }

    /// The token that asks every task to end now.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// A guard that cancels [`stop`](Tasks::stop) when it is dropped, synchronously and with or without a runtime.
    pub(crate) fn stop_on_drop(&self) -> DropGuard {
        self.inner.stop.clone().drop_guard()
    }

    /// The names of the live tasks, oldest first. A name occurs once per task.
    pub(crate) fn live(&self) -> Vec<&'static str> {
        self.inner.table().live.values().map(|row| row.name).collect()
    }

    /// How many tasks have panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }

    /// Tells every task to stop, waits until all have ended or `deadline` has passed, and aborts and names the rest.
    ///
    /// An aborted task ends at its next await, which is not waited for. Calling this from one of the tasks waits for
    /// the caller itself, that is, until the deadline. A further call finds nothing left to do.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, it has cancelled `stop` but aborted nothing; it can be called again.
    pub(crate) async fn close(&self, deadline: Instant) -> Vec<Survivor> {
        self.inner.stop.cancel();
        self.inner.tracker.close();
        let _ = tokio::time::timeout_at(deadline, self.inner.tracker.wait()).await;
        let left = {
            let mut table = self.inner.table();
            table.sealed = true;
            table
                .live
                .values()
                .map(|row| (Survivor { name: row.name, age: row.started.elapsed() }, row.abort.clone()))
                .collect::<Vec<_>>()
        };
        // Aborting may drop the task here and now, which takes the lock: so only after it was given back.
        left.into_iter()
            .map(|(survivor, abort)| {
                if let Some(abort) = abort {
                    abort.abort();
                }
                survivor
            })
            .collect()
    }

    /// Puts a task into the table; `None` after `close`.
    fn enter(&self, name: &'static str) -> Option<Entry> {
        let mut table = self.inner.table();
        if table.sealed {
            return None;
        }
        let id = table.next;
        table.next += 1;
        table.live.insert(id, Row { name, started: Instant::now(), abort: None });
        Some(Entry { inner: Arc::clone(&self.inner), id })
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("live", &self.live())
            .field("draining", &self.drain().is_cancelled())
            .field("stopping", &self.stop().is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row of the table, removed when the task ends, is aborted, or is dropped before it ran.
struct Entry {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let row = self.inner.table().live.remove(&self.id);
        drop(row);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(future).abort_handle()
}

#[cfg(test)]
mod tests;
