//! A child process as a [`Pipe`]: one message per line on its standard input and output
//! (2025-11-25, Transports › stdio; 2026-07-28, Transports › stdio).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::metrics::{GaugeGuard, ServerMetrics};
use crate::protocol::lines::Lines;
use crate::rt::Tasks;
use crate::settings::{Limits, StdioTarget, Timeouts};
use crate::upstream::child::{Child, ChildEvents, Exit, SpawnError, StopStep};
use crate::upstream::driver::{Event, Pipe};
use crate::upstream::error::UpstreamError;
use crate::upstream::outbox::Outbox;

/// How long is read on after the child has ended: another process may hold its output open for ever.
const AFTER_EXIT: Duration = Duration::from_millis(250);

/// A child's pipes, and the child.
pub(crate) struct StdioPipe {
    child: Child,
    exited: watch::Receiver<Option<Exit>>,
    /// When the child was seen to have ended.
    ended: Option<(String, Instant)>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    lines: Lines,
    /// What waits to be written.
    outbox: Outbox,
    /// It was looked whether the child is there, since something was last written.
    looked: bool,
    /// Since when the child takes nothing.
    write_since: Option<Instant>,
    /// Since when a line has been begun and not ended.
    partial_since: Option<Instant>,
    write_stall: Duration,
    partial_line: Duration,
    /// It has said something.
    spoke: bool,
    _counted: GaugeGuard,
    name: String,
}

impl StdioPipe {
    /// Starts the child.
    ///
    /// # Errors
    /// The child cannot be started, or the proxy stops.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it leaves no child: see [`Child::spawn`].
    pub(crate) async fn spawn(
        target: &StdioTarget,
        limits: &Limits,
        timeouts: &Timeouts,
        tasks: &Tasks,
        metrics: &ServerMetrics,
    ) -> Result<StdioPipe, UpstreamError> {
        let events = Arc::new(Counting(metrics.clone()));
        Self::start(target, limits, timeouts, tasks, metrics, events).await.map_err(|error| {
            tracing::error!(upstream = metrics.name(), %error, "Server cannot be started");
            match error {
                SpawnError::Stopping => UpstreamError::Closed { sent: false },
                // The reason names programs and folders of this machine; the client learns that there is one.
                _ => UpstreamError::Start("its operator finds the reason in the proxy's log".into()),
            }
        })
    }

    /// Starts the child for its operator, who is told why when it cannot be, and by `events` what becomes of it.
    ///
    /// # Errors
    /// See [`Child::spawn`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, it leaves no child: see [`Child::spawn`].
    pub(crate) async fn start(
        target: &StdioTarget,
        limits: &Limits,
        timeouts: &Timeouts,
        tasks: &Tasks,
        metrics: &ServerMetrics,
        events: Arc<dyn ChildEvents>,
    ) -> Result<StdioPipe, SpawnError> {
        let counted = metrics.child();
        let (child, stdin, stdout) = Child::spawn(metrics.name(), target, timeouts, tasks, events).await?;
        Ok(StdioPipe {
            exited: child.exited(),
            child,
            ended: None,
            stdin: Some(stdin),
            stdout: Some(stdout),
            lines: Lines::new(limits.message_bytes),
            outbox: Outbox::default(),
            looked: false,
            write_since: None,
            partial_since: None,
            write_stall: timeouts.write_stall_child,
            partial_line: timeouts.partial_line,
            spoke: false,
            _counted: counted,
            name: metrics.name().to_owned(),
        })
    }

    /// The child, for whoever wants to know more of it than the pipe does.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Asks the child to end, and waits until it has been reaped. All that is left of the pipe then is [`child`](Self::child).
    pub(crate) async fn stop(&mut self) {
        // The end of its input is what asks a server to end (2025-11-25, Lifecycle › Shutdown). That it was asked is noted
        // first, since it may end at once.
        self.child.stop();
        self.stdin = None;
        self.child.stopped().await;
    }

    fn broken(&mut self) -> UpstreamError {
        match &self.ended {
            Some((status, _)) => UpstreamError::Exited { status: status.clone(), sent: true },
            None => UpstreamError::Lost { sent: true },
        }
    }
}

impl Pipe for StdioPipe {
    async fn next(&mut self, read: bool) -> Event {
        loop {
            if read {
                match self.lines.next_line() {
                    Some(Ok(line)) => {
                        self.partial_since = None;
                        self.spoke = true;
                        return Event::Text(line);
                    }
                    Some(Err(_)) => return Event::Closed(UpstreamError::TooLarge),
                    None if self.stdout.is_none() => return Event::Closed(self.broken()),
                    None => {}
                }
                if !self.outbox.is_empty() && !std::mem::replace(&mut self.looked, true) {
                    // A process that has ended must not be given a call whose outcome would then be unknown.
                    match read_some(&mut self.stdout, &mut self.lines).now_or_never() {
                        Some(Ok(1..)) => continue,
                        Some(Ok(0) | Err(_)) => {
                            self.stdout = None;
                            self.note_exit();
                            continue;
                        }
                        None => {}
                    }
                }
                self.partial_since = match (self.lines.has_partial(), self.partial_since) {
                    (true, since) => Some(since.unwrap_or_else(Instant::now)),
                    (false, _) => None,
                };
            }
            let write_deadline = self.write_since.map(|since| since + self.write_stall);
            let partial_deadline = self.partial_since.filter(|_| read).map(|since| since + self.partial_line);
            let after_exit = self.ended.as_ref().filter(|_| read).map(|(_, at)| *at + AFTER_EXIT);
            tokio::select! {
                biased;
                written = write(&mut self.stdin, &self.outbox), if !self.outbox.is_empty() => {
                    let Ok(count) = written else {
                        // It reads no more, but what it has written before it closed or ended still counts.
                        self.outbox.clear();
                        self.write_since = None;
                        self.stdin = None;
                        if !read || self.stdout.is_none() {
                            return Event::Closed(self.broken());
                        }
                        // Without its input it answers nothing new: its output is read to the end, for a moment.
                        self.ended.get_or_insert_with(|| ("its input is closed".into(), Instant::now()));
                        continue;
                    };
                    let sent = self.outbox.written(count);
                    self.looked = false;
                    self.write_since = (!self.outbox.is_empty()).then(Instant::now);
                    if !sent.is_empty() {
                        return Event::Sent(sent);
                    }
                }
                count = read_some(&mut self.stdout, &mut self.lines), if read => {
                    if !matches!(count, Ok(1..)) {
                        self.stdout = None;
                        if self.ended.is_none() {
                            // Its output has ended; most often so has the child, and then its status says why.
                            let _ = timeout(AFTER_EXIT, self.exited.wait_for(Option::is_some)).await;
                            self.note_exit();
                        }
                    }
                }
                changed = self.exited.changed(), if self.ended.is_none() => {
                    self.note_exit();
                    if changed.is_err() {
                        self.ended.get_or_insert_with(|| (Ending(Exit::Unknown).to_string(), Instant::now()));
                    }
                }
                () = at(write_deadline), if write_deadline.is_some() => return Event::Closed(UpstreamError::Stalled { sent: true }),
                () = at(partial_deadline), if partial_deadline.is_some() => {
                    return Event::Closed(UpstreamError::Violation("it began a line and did not end it"));
                }
                () = at(after_exit), if after_exit.is_some() => return Event::Closed(self.broken()),
            }
        }
    }

    fn ready(&mut self) -> Option<Event> {
        match self.lines.next_line()? {
            Ok(line) => {
                self.partial_since = None;
                self.spoke = true;
                Some(Event::Text(line))
            }
            Err(_) => Some(Event::Closed(UpstreamError::TooLarge)),
        }
    }

    fn write(&mut self, id: Option<i64>, line: Bytes) {
        self.write_since.get_or_insert_with(Instant::now);
        self.outbox.push(id, line);
    }

    fn unwrite(&mut self, id: i64) -> bool {
        let taken = self.outbox.remove(id);
        if self.outbox.is_empty() {
            (self.looked, self.write_since) = (false, None);
        }
        taken
    }

    fn queued(&self) -> usize {
        self.outbox.bytes()
    }

    async fn close(mut self, why: UpstreamError) {
        if !self.spoke && self.ended.is_some() {
            // Most often this is why a server does not start; the client is not told what it printed.
            let stderr = timeout(AFTER_EXIT, self.child.last_words()).await.unwrap_or_default();
            let pid = self.child.pid();
            tracing::error!(upstream = self.name, pid, stderr, "Server ended before it said anything");
        }
        if matches!(why, UpstreamError::Stalled { .. } | UpstreamError::TooLarge | UpstreamError::Violation(_)) {
            // It is stuck, or out of step with us: it would not hear a polite word.
            self.child.kill_now();
        }
        self.stop().await;
    }
}

impl StdioPipe {
    fn note_exit(&mut self) {
        if let Some(exit) = *self.exited.borrow_and_update() {
            self.ended.get_or_insert_with(|| (Ending(exit).to_string(), Instant::now()));
        }
    }
}

async fn write(stdin: &mut Option<ChildStdin>, outbox: &Outbox) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write_vectored(&outbox.slices()).await,
        None => Err(std::io::ErrorKind::BrokenPipe.into()),
    }
}

async fn read_some(stdout: &mut Option<ChildStdout>, lines: &mut Lines) -> std::io::Result<usize> {
    match stdout {
        Some(stdout) => stdout.read_buf(lines.buffer()).await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Ending(Exit);

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Exit::Status(status) => write!(f, "{status}"),
            Exit::Unknown => f.write_str("status unknown"),
        }
    }
}

struct Counting(ServerMetrics);

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

impl ChildEvents for Counting {
    fn stderr(&self, lines: u64, _suppressed: u64) {
        self.0.stderr_lines(lines);
    }

    fn stop_step(&self, step: StopStep) {
        self.0.child_exited(match step {
            StopStep::Terminate => "terminated",
            StopStep::Kill => "killed",
        });
    }

    fn exited(&self, _exit: Exit, asked: bool) {
        self.0.child_exited(if asked { "asked" } else { "by_itself" });
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    /// Nobody waits for a child that is owed nothing.
    #[tokio::test]
    async fn what_is_taken_back_stalls_nothing() {
        let target = StdioTarget { program: "cat".into(), args: vec![], env: vec![], pass_env: vec![], cwd: None };
        let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()).server("test"));
        let timeouts = Timeouts { write_stall_child: Duration::ZERO, ..Timeouts::default() };
        let mut pipe = StdioPipe::spawn(&target, &Limits::default(), &timeouts, &tasks, &metrics).await.unwrap();
        pipe.write(Some(1), Bytes::from_static(b"1"));
        assert!(pipe.unwrite(1) && !pipe.unwrite(1));
        assert!(timeout(Duration::from_millis(20), pipe.next(true)).await.is_err());
        pipe.write(Some(2), Bytes::from_static(b"2"));
        assert!(matches!(pipe.next(true).await, Event::Sent(ids) if ids[..] == [2]));
        assert!(matches!(pipe.next(true).await, Event::Text(line) if line == "2"));
        pipe.stop().await;
    }
}
