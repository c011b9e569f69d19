//! A thread for work that blocks and may wait: on Linux, whatever answers somebody goes before it.

use std::panic::AssertUnwindSafe;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::Tasks;

/// How far it stands back: of a processor that others want too it gets about a tenth.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// See the module. Whoever asks for work waits for it; the thread has nothing to do then, and ends when this is dropped.
pub(crate) struct Background {
    tasks: Tasks,
    name: &'static str,
    jobs: mpsc::Sender<Job>,
}

impl Background {
    /// # Errors
    /// The system has no room for another thread.
    pub(crate) fn start(tasks: &Tasks, name: &'static str) -> std::io::Result<Background> {
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            // There it is for this thread alone, and elsewhere for all of the process.
            #[cfg(target_os = "linux")]
            if let Err(error) = rustix::process::nice(NICE) {
                tracing::debug!(%error, "The thread does not stand back");
            }
            while let Some(job) = queue.blocking_recv() {
                job();
            }
        })?;
        Ok(Background { tasks: tasks.clone(), name, jobs })
    }

    /// Does some work there; `None` if it panicked, which is counted and logged.
    ///
    /// # Cancel safety
    /// Work that has begun goes on, and nobody hears of its result. Whoever has not heard of one result must not ask for another.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (result, done) = oneshot::channel();
        let (tasks, name) = (self.tasks.clone(), self.name);
        let job = move || match std::panic::catch_unwind(AssertUnwindSafe(work)) {
            Ok(value) => drop(result.send(value)),
            Err(_) => tasks.work_panicked(name),
        };
        // One at a time: there is room.
        self.jobs.try_send(Box::new(job)).ok()?;
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_works_one_after_another_and_survives_a_panic() {
        let tasks = Tasks::new();
        let background = Background::start(&tasks, "test").unwrap();
        assert_eq!(background.run(|| 1).await, Some(1));
        assert_eq!(background.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(tasks.panics(), 1);
        let name = background.run(|| thread::current().name().map(str::to_owned)).await;
        assert_eq!(name.flatten().as_deref(), Some("test"));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_stands_back() {
        let nice = || rustix::process::nice(0).unwrap();
        let ours = nice();
        let background = Background::start(&Tasks::new(), "test").unwrap();
        assert_eq!(background.run(nice).await, Some((ours + NICE).min(19)));
    }
}
