//! A thread for work that blocks, so that no worker of a runtime waits for it.

use std::panic::AssertUnwindSafe;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::Tasks;

/// How far one stands back that does: of a processor that others want too it gets about a tenth.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Who goes first where a processor is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// It is one of many. What it starts is so, too: on Linux a process goes on with the rank of the thread that started it.
    Equal,
    /// On Linux, whatever answers somebody goes before it. Elsewhere as above.
    Back,
}

type Job = Box<dyn FnOnce() + Send>;

/// See the module. One thing is done at a time and one more is taken; further ones wait with those who ask. When this is
/// dropped, the thread does what it has taken, and ends.
pub(crate) struct Background {
    name: &'static str,
    jobs: mpsc::Sender<Job>,
}

impl Background {
    /// # Errors
    /// The system has no room for another thread.
    pub(crate) fn start(name: &'static str, rank: Rank) -> std::io::Result<Background> {
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            // There it is for this thread alone, and elsewhere for all of the process.
            #[cfg(target_os = "linux")]
            if rank == Rank::Back
                && let Err(error) = rustix::process::nice(NICE)
            {
                tracing::debug!(%error, "The thread does not stand back");
            }
            #[cfg(not(target_os = "linux"))]
            let _ = rank;
            while let Some(job) = queue.blocking_recv() {
                job();
            }
        })?;
        Ok(Background { name, jobs })
    }

    /// Does some work there; `None` if it panicked, which `tasks` count and log.
    ///
    /// # Cancel safety
    /// Work that waits for its turn in front of the thread is not done. What the thread has taken is done; its result is dropped, there or
    /// here.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        tasks: &Tasks,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (result, done) = oneshot::channel();
        let (tasks, name) = (tasks.clone(), self.name);
        let job = move || {
            let mut result = Some(result);
            // A result that nobody wants is dropped within, since that may panic, too.
            let worked = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let value = work();
                drop(result.take().map(|result| result.send(value)));
            }));
            // Whoever asked hears of a panic when it has been counted.
            if worked.is_err() {
                tasks.work_panicked(name);
            }
        };
        self.jobs.send(Box::new(job)).await.ok()?;
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn it_works_one_after_another_and_survives_a_panic() {
        let tasks = Tasks::new();
        let background = Background::start("test", Rank::Equal).unwrap();
        assert_eq!(background.run(&tasks, || 1).await, Some(1));
        assert_eq!(background.run(&tasks, || -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(tasks.panics(), 1);
        let name = background.run(&tasks, || thread::current().name().map(str::to_owned)).await;
        assert_eq!(name.flatten().as_deref(), Some("test"));
    }

    #[tokio::test]
    async fn it_takes_one_more_and_the_next_waits_in_front() {
        let (tasks, background) = (Tasks::new(), Background::start("test", Rank::Equal).unwrap());
        let (go, gate) = oneshot::channel::<()>();
        let done = Arc::new(Mutex::new(Vec::new()));
        let work = |number| {
            let done = Arc::clone(&done);
            Box::pin(background.run(&tasks, move || done.lock().unwrap().push(number)))
        };
        let mut held = Box::pin(background.run(&tasks, || drop(gate.blocking_recv())));
        assert!(held.as_mut().now_or_never().is_none());
        while background.jobs.capacity() == 0 {
            tokio::task::yield_now().await;
        }
        // The first of them is taken, the others wait in front; one of these goes away.
        let mut waiting: Vec<_> = (1..=4).map(work).collect();
        assert!(waiting.iter_mut().all(|work| work.as_mut().now_or_never().is_none()));
        assert_eq!(background.jobs.capacity(), 0);
        drop(waiting.remove(2));
        go.send(()).unwrap();
        assert_eq!(futures_util::future::join_all(waiting).await, [Some(()); 3]);
        assert_eq!((&done.lock().unwrap()[..], tasks.panics()), (&[1, 2, 4][..], 0));
    }

    /// A result that says when it is dropped, and panics then.
    struct Fragile(std::sync::mpsc::SyncSender<()>);

    impl Drop for Fragile {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            panic!("on purpose");
        }
    }

    #[tokio::test]
    async fn a_result_that_nobody_waits_for_is_dropped_and_harms_nobody() {
        let (tasks, background) = (Tasks::new(), Background::start("test", Rank::Equal).unwrap());
        let (go, gate) = oneshot::channel::<()>();
        let (dropped, drops) = std::sync::mpsc::sync_channel(1);
        let mut asked = Box::pin(background.run(&tasks, move || {
            drop(gate.blocking_recv());
            Fragile(dropped)
        }));
        assert!(asked.as_mut().now_or_never().is_none());
        drop(asked);
        go.send(()).unwrap();
        drops.recv().unwrap();
        assert_eq!((background.run(&tasks, || 1).await, tasks.panics()), (Some(1), 1));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_stands_back_if_told_to() {
        let nice = || rustix::process::nice(0).unwrap();
        let ours = nice();
        for (rank, expected) in [(Rank::Equal, ours), (Rank::Back, (ours + NICE).min(19))] {
            let background = Background::start("test", rank).unwrap();
            assert_eq!(background.run(&Tasks::new(), nice).await, Some(expected));
        }
    }
}
