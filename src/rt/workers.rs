//! Threads that share no work: each serves its own connections.
//!
//! Each is a runtime of its own. A connection of a client is given to one of them, and stays there with all that is started for
//! it: its requests, the connections to servers over HTTP that these use, the processes of its sessions. A runtime with
//! several threads hands tasks from thread to thread instead, which takes longer than what is done for a request.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The number of the worker on whose thread this is called; 0 on all others.
pub(crate) fn here() -> usize {
    HERE.get()
}

/// The threads. Whoever has them ends them.
pub(crate) struct Workers {
    first: Runtime,
    others: Vec<Runtime>,
}

impl Workers {
    /// Starts so many, and at least one.
    ///
    /// # Errors
    /// The system has no thread, or no file descriptor, for one of them.
    pub(crate) fn start(count: usize) -> io::Result<Workers> {
        let start = |number: usize| {
            let mut runtime = Builder::new_multi_thread();
            runtime.worker_threads(1).enable_all().thread_name(format!("worker-{number}"));
            runtime.on_thread_start(move || HERE.set(number)).build()
        };
        Ok(Workers { first: start(0)?, others: (1..count).map(start).collect::<io::Result<_>>()? })
    }

    /// Runs this until it ends, on the thread of the caller; what it starts is done by the first worker, or by those that it
    /// chooses.
    pub(crate) fn block_on<T>(&self, main: impl AsyncFnOnce(Crew) -> T) -> T {
        let all = std::iter::once(&self.first).chain(&self.others);
        let crew = Crew { all: all.map(|runtime| Worker::new(runtime.handle().clone())).collect() };
        self.first.block_on(main(crew))
    }

    /// Drops their tasks. Work that blocks may go on for so long; then nobody waits for it.
    pub(crate) fn end(self, patience: Duration) {
        for other in self.others {
            other.shutdown_timeout(patience);
        }
        self.first.shutdown_timeout(patience);
    }
}

/// The workers as they are known to those who have work for them. Clones share them.
#[derive(Clone)]
pub(crate) struct Crew {
    all: Arc<[Worker]>,
}

struct Worker {
    handle: Handle,
    /// How many connections it has.
    held: AtomicUsize,
}

impl Worker {
    fn new(handle: Handle) -> Worker {
        Worker { handle, held: AtomicUsize::new(0) }
    }
}

/// So many connections are served by one worker before the next one gets any: few are served best by one thread, which does what has
/// come for all of them before it rests, while several are woken for less each.
const FEW: usize = 16;

impl Crew {
    /// Only the runtime that this is called on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn alone() -> Crew {
        Crew { all: Arc::new([Worker::new(Handle::current())]) }
    }

    /// A place at the first worker with few connections; if all have more, at the one with the fewest. To be asked by one task: between
    /// looking and counting, another could get the same answer.
    pub(crate) fn place(&self) -> Place {
        let held = || self.all.iter().map(|worker| worker.held.load(Ordering::Relaxed)).enumerate();
        let free = held().find(|(_, held)| *held < FEW);
        let (number, _) = free.or_else(|| held().min_by_key(|(_, held)| *held)).unwrap_or_default();
        if let Some(worker) = self.all.get(number) {
            worker.held.fetch_add(1, Ordering::Relaxed);
        }
        Place { crew: self.clone(), number }
    }
}

/// One connection's place at a worker, until it is dropped.
pub(crate) struct Place {
    crew: Crew,
    number: usize,
}

impl Place {
    /// Whether it is at the runtime that this is called on, so that sockets need not move.
    pub(crate) fn is_here(&self) -> bool {
        self.handle().is_some_and(|handle| Handle::current().id() == handle.id())
    }

    /// Tasks, sockets and timers that this makes belong to the worker.
    pub(crate) fn within<T>(self, make: impl FnOnce(Place) -> T) -> T {
        let handle = self.handle().cloned();
        let _guard = handle.as_ref().map(Handle::enter);
        make(self)
    }

    fn handle(&self) -> Option<&Handle> {
        self.crew.all.get(self.number).map(|worker| &worker.handle)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(worker) = self.crew.all.get(self.number) {
            worker.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_together_and_many_are_shared_out() {
        let workers = Workers::start(3).unwrap();
        workers.block_on(async |crew| {
            let mut places: Vec<Place> = (0..FEW * 3 + 7).map(|_| crew.place()).collect();
            let numbers: Vec<usize> = places.iter().map(|place| place.number).collect();
            let (few, more) = numbers.split_at(FEW * 3);
            assert_eq!(few, [[0; FEW], [1; FEW], [2; FEW]].concat());
            assert_eq!(more, [0, 1, 2, 0, 1, 2, 0]);
            places.retain(|place| place.number != 1);
            assert_eq!(crew.place().number, 1, "a place is given back when it is dropped");
        });
        workers.end(Duration::ZERO);
    }

    #[test]
    fn what_is_made_at_a_place_stays_there() {
        let workers = Workers::start(2).unwrap();
        let numbers = workers.block_on(async |crew| {
            let (mut numbers, mut held) = (Vec::new(), Vec::new());
            let others = || (1..FEW).map(|_| crew.place()).collect::<Vec<_>>();
            for _ in 0..2 {
                let place = crew.place();
                let is_here = place.is_here();
                let tasks = crate::rt::Tasks::new();
                let (told, hears) = tokio::sync::oneshot::channel();
                let place = place.within(|place| {
                    tasks.spawn("test", async move {
                        // After a wait, too.
                        tokio::task::yield_now().await;
                        let _ = told.send(here());
                    });
                    place
                });
                numbers.push((is_here, hears.await.unwrap()));
                held.push((place, others()));
            }
            numbers
        });
        workers.end(Duration::ZERO);
        assert_eq!(numbers, [(true, 0), (false, 1)]);
    }
}
