//! A child's stderr: always read, so that the child never blocks on it; the last of it kept; some of it logged.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{ChildEvents, Exit};

/// What is kept for explaining a failed start.
const TAIL_BYTES: usize = 64 << 10;
/// The longest line that is logged; the rest of a longer one is left out.
const LINE_BYTES: usize = 64 << 10;
/// How many lines are logged in any one `WINDOW`.
const LINES_PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);
/// How long to read on after the child has ended: what it wrote is in the pipe already, and if the pipe has no end
/// then because a process that left the group holds it.
const DRAIN: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 16 << 10;

/// Reads until the end, or until shortly after the child's exit.
pub(super) fn pump(
    mut pipe: impl AsyncRead + Unpin,
    tail: Arc<Tail>,
    events: Arc<dyn ChildEvents>,
    mut exited: watch::Receiver<Option<Exit>>,
) -> impl Future<Output = ()> {
    // Made before the first poll: a future that is dropped unpolled completes the tail, too.
    let complete = tail.ended.clone().drop_guard();
    async move {
        let _complete = complete;
        let mut buffer = vec![0; READ_BYTES];
        let mut lines = Lines::default();
        let mut limiter = Limiter::new(Instant::now());
        let mut last_read = None;
        loop {
            tokio::select! {
                // The timers first: a flood must not keep them from being looked at.
                biased;
                () = until(last_read) => break,
                () = until(limiter.report_at()) => limiter.report(),
                () = ended(&mut exited), if last_read.is_none() => last_read = Some(Instant::now() + DRAIN),
                read = pipe.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(n) => {
                        let Some(bytes) = buffer.get(..n) else { break };
                        tail.push(bytes);
                        let now = Instant::now();
                        let (mut count, before) = (0, limiter.suppressed_ever);
                        lines.feed(bytes, |line| {
                            count += 1;
                            limiter.log(line, now);
                        });
                        events.stderr(count, limiter.suppressed_ever - before);
                    }
                }
            }
        }
        lines.finish(|line| {
            let before = limiter.suppressed_ever;
            limiter.log(line, Instant::now());
            events.stderr(1, limiter.suppressed_ever - before);
        });
        limiter.report();
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn ended(exited: &mut watch::Receiver<Option<Exit>>) {
    // An error means that the owner is gone, and the child with it.
    let _ = exited.wait_for(Option::is_some).await;
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    kept: Mutex<VecDeque<u8>>,
    /// Cancelled when nothing will be added any more.
    ended: CancellationToken,
}

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let bytes = bytes.get(bytes.len().saturating_sub(TAIL_BYTES)..).unwrap_or(bytes);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = (kept.len() + bytes.len()).saturating_sub(TAIL_BYTES);
        kept.drain(..excess);
        kept.extend(bytes);
    }

    /// Waits until nothing will be added any more.
    pub(super) async fn complete(&self) {
        self.ended.cancelled().await;
    }

    /// What is kept, as printable text; lines stay lines.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().copied().collect()
        };
        let mut text = String::with_capacity(bytes.len());
        for (n, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{}", Printable(without_return(line)));
        }
        text
    }
}

/// Cuts a stream into lines of at most [`LINE_BYTES`]. Holds at most one line.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    /// The current line was handed out when it reached the limit: skip the rest of it.
    skipping: bool,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let (piece, ends, rest) = match memchr::memchr(b'\n', bytes) {
                Some(at) => (&bytes[..at], true, &bytes[at + 1..]),
                None => (bytes, false, &[][..]),
            };
            bytes = rest;
            if !self.skipping {
                self.add(piece, ends, &mut each);
            }
            if ends {
                self.skipping = false;
            }
        }
    }

    /// Hands out what has no end; nothing follows.
    fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            each(without_return(&std::mem::take(&mut self.partial)));
        }
    }

    fn add(&mut self, piece: &[u8], ends: bool, each: &mut impl FnMut(&[u8])) {
        let room = LINE_BYTES - self.partial.len();
        if piece.len() >= room {
            self.partial.extend_from_slice(&piece[..room]);
            each(&self.partial);
            self.partial = Vec::new();
            self.skipping = true;
        } else if !ends {
            self.partial.extend_from_slice(piece);
        } else if self.partial.is_empty() {
            each(without_return(piece));
        } else {
            self.partial.extend_from_slice(piece);
            each(without_return(&self.partial));
            self.partial.clear();
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Lets a few lines per second through to the log and counts the others.
#[derive(Debug)]
struct Limiter {
    window: Instant,
    logged: u32,
    suppressed: u64,
    suppressed_ever: u64,
}

impl Limiter {
    fn new(now: Instant) -> Self {
        Limiter { window: now, logged: 0, suppressed: 0, suppressed_ever: 0 }
    }

    fn log(&mut self, line: &[u8], now: Instant) {
        if self.admits(now) {
            debug!(line = %Printable(line), "Child stderr");
        } else {
            self.suppressed += 1;
            self.suppressed_ever += 1;
        }
    }

    fn admits(&mut self, now: Instant) -> bool {
        if now >= self.window + WINDOW {
            self.report();
            self.window = now;
            self.logged = 0;
        }
        let admitted = self.logged < LINES_PER_WINDOW;
        self.logged += u32::from(admitted);
        admitted
    }

    /// When to say how many lines were left out, if any were.
    fn report_at(&self) -> Option<Instant> {
        (self.suppressed > 0).then(|| self.window + WINDOW)
    }

    fn report(&mut self) {
        if self.suppressed > 0 {
            debug!(lines = self.suppressed, "Child stderr lines suppressed");
            self.suppressed = 0;
        }
    }
}

/// Bytes of unknown origin, fit for a terminal: no control character, nothing invisible, nothing that changes the
/// direction of writing.
struct Printable<'a>(&'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_printable(c) {
                    f.write_char(c)?;
                } else {
                    write!(f, "{}", c.escape_default())?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
