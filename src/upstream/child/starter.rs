//! The thread that starts children: to fork and to wait until the child runs its own program takes milliseconds, which no
//! worker of a runtime has.
//!
//! There is one for the process, from the first need to the end: on Linux a child is told to end when the *thread* that
//! started it ends ([`command::PARENT_DEATH_SIGNAL`]). So children are started one after the other.

use std::io;

use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::rt::Tasks;
use crate::rt::background::{Background, Rank};
use crate::settings::StdioTarget;

use super::{Process, SpawnError, command};

static THREAD: OnceCell<Background> = OnceCell::const_new();

async fn thread() -> io::Result<&'static Background> {
    THREAD.get_or_try_init(async || Background::start("starter", Rank::Equal)).await
}

/// Starts a process there. A panic is counted by `tasks`, and an error.
///
/// # Cancel safety
///
/// Dropped before its turn, nothing is started. Dropped later, the process is killed as soon as it is there.
pub(super) async fn start(target: &StdioTarget, tasks: &Tasks) -> Result<Process, SpawnError> {
    let other = |source| SpawnError::Other { program: target.program.clone(), source };
    let thread = thread().await.map_err(other)?;
    // Cancelled when the proxy stops, and when this future is dropped.
    let over = tasks.stop().child_token();
    let _asking = over.clone().drop_guard();
    let (target, runtime) = (target.clone(), Handle::current());
    let program = target.program.clone();
    let work = move || {
        if over.is_cancelled() {
            return Err(SpawnError::Stopping);
        }
        // The pipes belong to the runtime of whoever asked.
        let _entered = runtime.enter();
        // A process that cannot be handed over is dropped, which kills it.
        Ok(Process { child: command::start(&target)?, reaped: false })
    };
    let panicked = || SpawnError::Other { program, source: io::Error::other("starting it panicked") };
    thread.run(tasks, work).await.unwrap_or_else(|| Err(panicked()))
}

/// Nothing is started until what this returns is dropped.
#[cfg(test)]
pub(crate) async fn hold() -> tokio::sync::oneshot::Sender<()> {
    let (hold, held) = tokio::sync::oneshot::channel();
    let (begun, begins) = tokio::sync::oneshot::channel();
    let tasks = Tasks::new();
    let holding = thread().await.unwrap().run(&tasks, move || {
        let _ = begun.send(());
        let _ = held.blocking_recv();
    });
    tokio::select! {
        _ = holding => unreachable!("it is held"),
        begins = begins => begins.unwrap(),
    }
    hold
}
