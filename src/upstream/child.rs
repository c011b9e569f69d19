//! A child process: started with an argument vector and a scrubbed environment, leader of its own process group,
//! its stderr always drained, waited on by one task, and stopped by a ladder that cannot hang.
//!
//! Who does what:
//!
//! - The thread `starter` starts the processes of all upstreams, one after the other ([`starter`]).
//! - The caller owns the two pipes that carry MCP, and a [`Child`] to ask for a stop.
//! - The task `child-owner` is the only one that waits on the process. It reaps the leader, kills what the leader
//!   left in its group, and climbs the ladder: end of input, SIGTERM, SIGKILL.
//! - The task `child-stderr` reads stderr to its end ([`stderr`]).
//! - If the owner is dropped before its work is done, because its runtime is gone, dropping it kills the group.
//!
//! Only the files 0, 1 and 2 go on to a child; on systems other than Linux also those that the proxy itself was given
//! beyond these.
//!
//! A process that leaves the group (`setsid`) is out of reach of the signals; it sees its pipes close. On Linux the
//! leader also gets SIGTERM when the proxy is killed, see [`command::PARENT_DEATH_SIGNAL`].

mod command;
mod starter;
mod stderr;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use process_wrap::tokio::ChildWrapper;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::rt::Tasks;
use crate::settings::{StdioTarget, Timeouts};

#[cfg(test)]
pub(crate) use self::starter::hold;
use self::stderr::Tail;

/// How long the kernel gets to end a process after SIGKILL. Only one that is stuck in the kernel needs longer; it is
/// left behind, with an error in the log.
const REAP_WAIT: Duration = Duration::from_secs(2);

/// A running child. Dropping it asks for a stop, as [`Child::stop`] does.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    process: Arc<Slot>,
    order: watch::Sender<Order>,
    exited: watch::Receiver<Option<Exit>>,
    tail: Arc<Tail>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was waited on, and this is what it said.
    Status(ExitStatus),
    /// It is out of our hands: killed with its runtime, stuck in the kernel, or reaped by somebody else (which
    /// happens when the proxy itself was started with SIGCHLD ignored).
    Unknown,
}

/// A step of the ladder beyond the end of the child's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopStep {
    /// SIGTERM to the group.
    Terminate,
    /// SIGKILL to the group, or the end of the job on Windows.
    Kill,
}

/// What the caller may want to count. Called from the child's tasks: must not block.
pub(crate) trait ChildEvents: fmt::Debug + Send + Sync + 'static {
    /// Lines arrived on stderr; `suppressed` of them were over the rate at which they are logged.
    fn stderr(&self, lines: u64, suppressed: u64) {
        let _ = (lines, suppressed);
    }

    /// The child did not end by itself, and this was done to it.
    fn stop_step(&self, step: StopStep) {
        let _ = step;
    }

    /// The child has ended; `asked` tells whether a stop had been asked for. Called exactly once per child.
    fn exited(&self, exit: Exit, asked: bool) {
        let _ = (exit, asked);
    }
}

/// Counts nothing.
impl ChildEvents for () {}

/// Why a child could not be started. The texts name programs and folders, never arguments or environment values.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// There is no such program.
    #[error("program `{program}` not found: {hint}")]
    NotFound {
        /// As configured.
        program: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The program, or the way to it, may not be used.
    #[error("`{program}` may not be executed: check that it is a file with the execute permission")]
    PermissionDenied {
        /// As configured.
        program: String,
    },
    /// The working directory is not there.
    #[error("working directory `{}` is missing or not a directory: create it or correct `cwd`", cwd.display())]
    CwdMissing {
        /// As configured.
        cwd: PathBuf,
    },
    /// The proxy is stopping and starts no processes any more.
    #[error("not started: the proxy is stopping")]
    Stopping,
    /// The operating system said no for another reason.
    #[error("`{program}` could not be started")]
    Other {
        /// As configured.
        program: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl Child {
    /// Starts the process and the two tasks that look after it. `name` is the upstream's, for the log.
    ///
    /// That takes milliseconds, more where others are being started, and as long as the system needs to open the program's
    /// file: whoever cannot wait for ever says how long. All children are started by one thread of their own: no worker
    /// of the runtime waits, and it does not matter to a child when a worker ends.
    ///
    /// The child is told to stop by dropping the returned [`ChildStdin`] **and then** calling [`Child::stop`]. It has
    /// to be dropped: `AsyncWrite::shutdown` on it succeeds without closing the pipe, and the child would never see
    /// the end of its input.
    ///
    /// # Errors
    ///
    /// When the process cannot be started. That an interpreter or loader started well and the program then fails at
    /// once is no error here but an exit: see [`Child::exited`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, it leaves no child: what is not being started yet is not started, and what is being
    /// started is killed, with its group, as soon as it is there, and reaped by tokio. If meanwhile the runtime ends, too,
    /// tokio closes the pipes of the new process and forgets it: it sees the end of its input, and the signal at the end of
    /// the program.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its I/O driver enabled.
    pub(crate) async fn spawn(
        name: &str,
        target: &StdioTarget,
        timeouts: &Timeouts,
        tasks: &Tasks,
        events: Arc<dyn ChildEvents>,
    ) -> Result<(Child, ChildStdin, ChildStdout), SpawnError> {
        // From here on a return kills the process: `Process` does so when it is dropped.
        let mut process = starter::start(target, tasks).await?;
        let pid = process.child.id();
        let pipes = (process.child.stdin().take(), process.child.stdout().take(), process.child.stderr().take());
        let (Some(pid), (Some(stdin), Some(stdout), Some(stderr))) = (pid, pipes) else {
            let source = io::Error::other("the process has no pipes");
            return Err(SpawnError::Other { program: target.program.clone(), source });
        };

        let span = info_span!("child", upstream = name, pid);
        span.in_scope(|| info!("Child started"));
        let process = Arc::new(Slot(Mutex::new(Some(process))));
        let (order, orders) = watch::channel(Order::Run);
        let (publish, exited) = watch::channel(None);
        let tail = Arc::new(Tail::default());

        let owner = Owner {
            process: Arc::clone(&process),
            orders,
            stop: tasks.stop().clone(),
            waits: (timeouts.stop_eof, timeouts.stop_term),
            asked: false,
            exited: publish,
            events: Arc::clone(&events),
        };
        tasks.spawn("child-owner", owner.run(pid).instrument(span.clone()));
        let pump = stderr::pump(stderr, Arc::clone(&tail), events, exited.clone());
        tasks.spawn("child-stderr", pump.instrument(span));
        Ok((Child { pid, process, order, exited, tail }, stdin, stdout))
    }

    /// Its process id, for the log. It may belong to another process once the child has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Holds the exit as soon as the child itself has ended, also while another process keeps its stdout open: what
    /// is in the pipe then is all that the child wrote, and whoever reads it should not insist on its end.
    pub(crate) fn exited(&self) -> watch::Receiver<Option<Exit>> {
        self.exited.clone()
    }

    /// Asks for a stop and returns at once; further calls change nothing. The caller drops the child's stdin *first*:
    /// its end is the first step, and time starts to run now.
    ///
    /// `stop_eof` later SIGTERM goes to the group, `stop_term` later SIGKILL. The `stop` token of the tasks asks for
    /// the same.
    pub(crate) fn stop(&self) {
        self.order_at_least(Order::Stop);
    }

    /// Kills the group here and now, without waiting for anything. The owner still reaps it.
    pub(crate) fn kill_now(&self) {
        self.process.kill();
        self.order_at_least(Order::Kill);
    }

    /// Waits until the child has been reaped and its group killed. Asks for nothing: call [`Child::stop`] before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub(crate) async fn stopped(&self) -> Exit {
        let mut exited = self.exited.clone();
        // The owner publishes when it is dropped, too: there is always a value before the sender is gone.
        exited.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Unknown)
    }

    /// The last 64 KiB of its stderr, control characters escaped; waits for the exit, and for what was in the pipe by
    /// then. For the operator's log, to say why a child that has ended did so; never for a client, since a server may
    /// print anything there.
    pub(crate) async fn last_words(&self) -> String {
        self.tail.complete().await;
        self.tail.text()
    }

    fn order_at_least(&self, wanted: Order) {
        self.order.send_if_modified(|order| {
            let higher = *order < wanted;
            *order = wanted.max(*order);
            higher
        });
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Status(status) => status.fmt(f),
            Exit::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// What the handle wants of the owner. It only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Run,
    Stop,
    Kill,
}

// === The process ===

/// The process and its group, until it has been reaped.
///
/// Reaping gives the process id back to the system, and with it the name of the group. So the poll that reaps also
/// empties the slot, under the lock that every signal takes: no signal can go to a stranger that got the same number.
#[derive(Debug)]
struct Slot(Mutex<Option<Process>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SIGTERM to the group. `false` where there is no such thing.
    fn terminate(&self) -> bool {
        #[cfg(unix)]
        if let Some(process) = &*self.lock() {
            // Fails only when the group is empty, and then there is nobody to tell.
            let _ = process.child.signal(rustix::process::Signal::TERM.as_raw());
        }
        cfg!(unix)
    }

    /// SIGKILL to the group, or the end of the job.
    fn kill(&self) {
        if let Some(process) = &mut *self.lock() {
            process.kill();
        }
    }

    /// Kills, and gives up the right to wait.
    fn abandon(&self) {
        let process = self.lock().take();
        drop(process);
    }

    /// Waits for the leader to end, reaps it, and kills what it left in its group.
    async fn reaped(&self) -> Exit {
        poll_fn(|cx| self.poll_reaped(cx)).await
    }

    fn poll_reaped(&self, cx: &mut Context<'_>) -> Poll<Exit> {
        let mut slot = self.lock();
        let Some(process) = slot.as_mut() else {
            return Poll::Ready(Exit::Unknown);
        };
        // The *inner* child's wait. The wrapper's own would go on to wait for every process of the group that is, or
        // becomes, a child of ours: as process 1 of a container, for a grandchild that may never end.
        // A future per poll is sound: the waker is registered with the process, not with the future.
        let exit = match ready!(pin!(process.child.inner_mut().wait()).poll(cx)) {
            Ok(status) => Exit::Status(status),
            Err(error) => {
                debug!(%error, "Child could not be waited on");
                Exit::Unknown
            }
        };
        process.kill();
        process.reaped = true;
        *slot = None;
        Poll::Ready(exit)
    }
}

/// Owns the process. Dropped without having been reaped, it kills the group by a plain system call: no runtime is
/// needed, nothing waits, and nothing panics.
#[derive(Debug)]
struct Process {
    child: Box<dyn ChildWrapper>,
    reaped: bool,
}

impl Process {
    fn kill(&mut self) {
        // Fails only when nobody is left in the group.
        let _ = self.child.start_kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // Reaps if the process happens to be dead by now. Otherwise tokio keeps it in a list of orphans, which
            // any runtime of this program works off; with none left, the zombie ends with the program.
            let _ = self.child.inner_mut().try_wait();
        }
    }
}

// === The owner ===

/// Waits on the process, and climbs the ladder when asked to.
struct Owner {
    process: Arc<Slot>,
    orders: watch::Receiver<Order>,
    stop: CancellationToken,
    /// From the end of input to SIGTERM, and from there to SIGKILL.
    waits: (Duration, Duration),
    asked: bool,
    exited: watch::Sender<Option<Exit>>,
    events: Arc<dyn ChildEvents>,
}

impl Owner {
    async fn run(mut self, pid: u32) {
        let exit = self.until_ended().await;
        if self.asked {
            info!(%exit, "Child stopped");
        } else {
            warn!(%exit, "Child ended by itself");
        }
        self.publish(exit);
        drop(self);
        sweep_group(pid).await;
    }

    async fn until_ended(&mut self) -> Exit {
        tokio::select! {
            biased;
            exit = self.process.reaped() => return exit,
            () = ordered(&mut self.orders, Order::Stop) => {}
            () = self.stop.cancelled() => {}
        }
        self.asked = true;

        // The caller has closed the input, or is about to.
        let (after_eof, after_term) = self.waits;
        if let Some(exit) = self.ended_within(after_eof).await {
            return exit;
        }
        if *self.orders.borrow() < Order::Kill && self.process.terminate() {
            debug!("Child did not end with its input, SIGTERM sent");
            self.events.stop_step(StopStep::Terminate);
            if let Some(exit) = self.ended_within(after_term).await {
                return exit;
            }
        }
        warn!("Child did not end when asked, killing its process group");
        self.events.stop_step(StopStep::Kill);
        self.process.kill();
        match tokio::time::timeout(REAP_WAIT, self.process.reaped()).await {
            Ok(exit) => exit,
            Err(_) => {
                error!("Child survives SIGKILL, left behind");
                self.process.abandon();
                Exit::Unknown
            }
        }
    }

    /// The exit, if it comes within `wait` and before a kill is ordered.
    async fn ended_within(&mut self, wait: Duration) -> Option<Exit> {
        tokio::select! {
            biased;
            exit = self.process.reaped() => Some(exit),
            () = ordered(&mut self.orders, Order::Kill) => None,
            () = tokio::time::sleep(wait) => None,
        }
    }

    fn publish(&self, exit: Exit) {
        let first = self.exited.send_if_modified(|published| {
            let first = published.is_none();
            published.get_or_insert(exit);
            first
        });
        if first {
            self.events.exited(exit, self.asked);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // In the ordinary course both have been done and this does nothing.
        self.process.abandon();
        self.publish(Exit::Unknown);
    }
}

/// Waits for an order of at least this rank. The handle gives its last one, a stop, when it is dropped.
async fn ordered(orders: &mut watch::Receiver<Order>, rank: Order) {
    let gone = orders.wait_for(|order| *order >= rank).await.is_err();
    if gone {
        std::future::pending::<()>().await;
    }
}

/// Reaps what the killed group left to us. Orphans are handed to process 1 (or a subreaper), which in a container is
/// often the proxy itself; everywhere else the first call says that there is nothing to wait for.
#[cfg(unix)]
async fn sweep_group(pid: u32) {
    use rustix::process::{Pid, WaitOptions, waitpgid};
    const ROUNDS: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(20);

    let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    for _ in 0..ROUNDS {
        match waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => tokio::time::sleep(PAUSE).await,
            Err(_) => return,
        }
    }
}

#[cfg(not(unix))]
async fn sweep_group(_pid: u32) {}

#[cfg(test)]
mod tests;
