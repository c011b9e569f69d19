//! From those who see traffic to the disk: a bounded queue, and one task that writes what is in it.
//!
//! Nobody who passes a message on waits for a disk, unless the policy says so. The task takes all that is there at once, some
//! milliseconds after the first of it came, and writes it on a thread that stands back behind those who answer; when the queue is
//! half full, on one that does not. What was written is with the operating system, and survives the end of this process however
//! it comes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::note::Note;
use crate::metrics::TapeMetrics;
use crate::rt::Tasks;
use crate::rt::background::{Background, Rank};
use crate::settings::RecordPolicy;
use crate::tape::format::Header;

/// How long what was noted waits for company before it is written.
const GATHER: Duration = Duration::from_millis(2);
/// How often it is looked what has become of the tapes, and whether a disk that failed works again.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// After how much that was written others get their turn.
const FORGOTTEN_AT_ONCE: usize = 64;
/// By how much the queue may exceed its bounds by what cannot wait.
const OVERDRAFT: usize = 2;

/// How much may wait to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) notes: usize,
    pub(super) bytes: usize,
}

/// What happens on the disk, in order.
#[derive(Debug)]
pub(super) enum Entry {
    /// A tape begins.
    Begin(u64, Box<Header>),
    /// Something passed.
    Note(u64, Note),
    /// This much was not noted.
    Lost(u64, Loss),
    /// The tape ends.
    End(u64, &'static str),
}

/// What was not noted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) notes: u64,
    pub(super) bytes: u64,
}

impl Loss {
    pub(super) fn add(&mut self, other: Loss) {
        self.notes += other.notes;
        self.bytes += other.bytes;
    }
}

/// Where entries go. It blocks.
pub(super) trait Sink: Send + 'static {
    /// Writes them. With nothing to write, it looks whether what failed works again. While it is not `behind`, it gives way to others.
    fn write(&mut self, entries: &VecDeque<Entry>, behind: &AtomicBool);

    /// Whether the last attempts to write have worked.
    fn is_fine(&self) -> bool;
}

/// Writes tapes. Clones share it.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Shared>);

struct Shared {
    policy: RecordPolicy,
    bounds: Bounds,
    /// Held for a push or a take.
    queue: Mutex<Queue>,
    /// Something was put into an empty queue.
    arrived: Notify,
    /// It is full, or there is another reason for haste.
    hurry: Notify,
    /// There is room again.
    room: Notify,
    tapes: AtomicU64,
    /// The last attempt to write failed.
    broken: AtomicBool,
    /// The queue has become half full since it was last taken from.
    behind: Arc<AtomicBool>,
    closing: CancellationToken,
    closed: CancellationToken,
    metrics: TapeMetrics,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    notes: usize,
    bytes: usize,
    /// Nothing is taken any more.
    shut: bool,
}

/// What was to be recorded could not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unrecorded;

/// One tape that is being recorded: of a session, or of a client. Clones share it.
#[derive(Clone)]
pub(crate) struct Tape(Arc<Recorded>);

struct Recorded {
    number: u64,
    recorder: Recorder,
    exchanges: AtomicU64,
    connections: AtomicU64,
    /// What found no room since the last note that did. Held for a step, together with the queue.
    lost: Mutex<Loss>,
    ended: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Starts the task. `look` is called now and then.
    pub(super) fn start(
        policy: RecordPolicy,
        bounds: Bounds,
        sink: impl Sink,
        tasks: &Tasks,
        metrics: TapeMetrics,
        look: impl Fn() + Send + 'static,
    ) -> Recorder {
        let recorder = Recorder(Arc::new(Shared {
            policy,
            bounds,
            queue: Mutex::default(),
            arrived: Notify::new(),
            hurry: Notify::new(),
            room: Notify::new(),
            tapes: AtomicU64::new(0),
            broken: AtomicBool::new(!sink.is_fine()),
            behind: Arc::default(),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            metrics,
        }));
        let (shared, stop) = (Arc::clone(&recorder.0), tasks.stop().clone());
        // Should the task be dropped before its end, nobody waits for it.
        let closed = shared.closed.clone().drop_guard();
        let blocking = tasks.clone();
        tasks.spawn("recorder", async move {
            let _closed = closed;
            shared.write(sink, &blocking, &stop, look).await;
        });
        recorder
    }

    /// Begins a tape.
    pub(super) fn tape(&self, header: Header) -> Tape {
        let number = self.0.tapes.fetch_add(1, Ordering::Relaxed);
        self.0.command(Entry::Begin(number, Box::new(header)));
        Tape(Arc::new(Recorded {
            number,
            recorder: self.clone(),
            exchanges: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            lost: Mutex::default(),
            ended: AtomicBool::new(false),
        }))
    }

    /// Whether nothing may pass now, since it could not be recorded.
    pub(crate) fn refuses(&self) -> bool {
        self.0.policy == RecordPolicy::Required && self.0.broken.load(Ordering::Relaxed)
    }

    /// Takes nothing more, and waits until all that it has is written, at most until `deadline`.
    pub(super) async fn close(&self, deadline: Instant) -> bool {
        self.0.closing.cancel();
        timeout_at(deadline, self.0.closed.cancelled()).await.is_ok()
    }
}

impl Shared {
    /// What is no message is always taken: there are as many of them as there are tapes.
    fn command(&self, entry: Entry) {
        let mut queue = lock(&self.queue);
        if queue.shut {
            return;
        }
        queue.entries.push_back(entry);
        drop(queue);
        self.arrived.notify_one();
    }

    async fn write(&self, sink: impl Sink, tasks: &Tasks, stop: &CancellationToken, look: impl Fn()) {
        let mut sink = sink;
        let background = Background::start("tapes", Rank::Back)
            .inspect_err(|error| tracing::warn!(%error, "Tapes are written by threads that do not stand back"))
            .ok();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut last = false;
            tokio::select! {
                biased;
                () = self.closing.cancelled() => last = true,
                () = stop.cancelled() => last = true,
                _ = ticks.tick() => look(),
                () = self.arrived.notified() => {
                    tokio::select! {
                        () = sleep(GATHER) => {}
                        () = self.hurry.notified() => {}
                        () = self.closing.cancelled() => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
            let (entries, late) = {
                let mut queue = lock(&self.queue);
                queue.shut |= last;
                let late = last || queue.is_half_full(self.bounds);
                (queue.notes, queue.bytes) = (0, 0);
                self.behind.store(false, Ordering::Relaxed);
                (std::mem::take(&mut queue.entries), late)
            };
            self.room.notify_waiters();
            let behind = Arc::clone(&self.behind);
            let write = move || {
                sink.write(&entries, &behind);
                (sink, entries)
            };
            let written = match &background {
                Some(background) if !late => background.run(tasks, write).await,
                _ => tasks.block_on_thread("recorder", write).await,
            };
            match written {
                Some((back, entries)) => {
                    sink = back;
                    self.broken.store(!sink.is_fine(), Ordering::Relaxed);
                    forget(entries).await;
                }
                None => {
                    // A bug: without its disk it records nothing any more, and says so.
                    self.broken.store(true, Ordering::Relaxed);
                    self.shut();
                    return;
                }
            }
            if last {
                self.room.notify_waiters();
                return;
            }
        }
    }

    fn shut(&self) {
        let mut queue = lock(&self.queue);
        queue.shut = true;
        queue.entries.clear();
        drop(queue);
        self.room.notify_waiters();
    }
}

/// Gives back their memory where it came from, some at a time. A thread that stands back must not: it would be held up with a lock of
/// the allocator in its hand, for which those wait who do not stand back.
async fn forget(mut entries: VecDeque<Entry>) {
    while !entries.is_empty() {
        drop(entries.drain(..entries.len().min(FORGOTTEN_AT_ONCE)));
        yield_now().await;
    }
}

impl Queue {
    fn is_half_full(&self, bounds: Bounds) -> bool {
        self.notes >= bounds.notes / 2 || self.bytes >= bounds.bytes / 2
    }

    fn is_full(&self, bounds: Bounds, times: usize) -> bool {
        self.notes > 0 && (self.notes >= bounds.notes * times || self.bytes >= bounds.bytes * times)
    }
}

/// What became of a note.
enum Put {
    Taken,
    /// There is no room; here it is back.
    Full(Note),
    /// Nobody writes any more.
    Shut,
}

impl Tape {
    /// The number of the next exchange on this tape.
    pub(crate) fn exchange(&self) -> u64 {
        self.0.exchanges.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of the next connection to the upstream on this tape.
    pub(super) fn connection(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// No other tape of this recorder has it.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    pub(super) fn is_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Notes something, before it is passed on. If there is no room, that depends on the policy: it waits, or the note is
    /// counted as lost.
    ///
    /// # Errors
    /// Only where recording is required: it was not noted, so it must not be passed on.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is noted.
    pub(crate) async fn note(&self, note: Note) -> Result<(), Unrecorded> {
        let shared = &self.0.recorder.0;
        if self.0.recorder.refuses() {
            return Err(Unrecorded);
        }
        let mut put = self.put(note, 1);
        loop {
            let note = match put {
                Put::Taken => return Ok(()),
                Put::Full(back) if shared.policy == RecordPolicy::Drop => {
                    self.lose(&back);
                    return Ok(());
                }
                Put::Full(back) => back,
                Put::Shut if shared.policy == RecordPolicy::Required => return Err(Unrecorded),
                Put::Shut => return Ok(()),
            };
            self.room().await;
            put = self.put(note, 1);
        }
    }

    /// Notes something that cannot wait. It finds room for longer than what can.
    pub(crate) fn note_now(&self, note: Note) {
        let times = if self.0.recorder.0.policy == RecordPolicy::Drop { 1 } else { OVERDRAFT };
        match self.put(note, times) {
            Put::Taken | Put::Shut => {}
            Put::Full(note) => {
                self.0.recorder.0.hurry.notify_one();
                self.lose(&note);
            }
        }
    }

    /// Whether there is room, or nobody has to wait for it.
    pub(super) fn has_room(&self) -> bool {
        let shared = &self.0.recorder.0;
        if shared.policy == RecordPolicy::Drop {
            return true;
        }
        let queue = lock(&shared.queue);
        queue.shut || !queue.is_full(shared.bounds, 1)
    }

    /// Waits until there is room, where that is what to do.
    ///
    /// # Cancel safety
    /// Nothing is held while it waits.
    pub(crate) async fn room(&self) {
        let shared = &self.0.recorder.0;
        while !self.has_room() {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            // It may have come before anybody listened for it.
            if self.has_room() {
                return;
            }
            shared.hurry.notify_one();
            room.await;
        }
    }

    /// The tape is complete. What comes later is lost.
    pub(crate) fn end(&self, reason: &'static str) {
        if !self.0.ended.swap(true, Ordering::Relaxed) {
            let lost = std::mem::take(&mut *lock(&self.0.lost));
            if lost != Loss::default() {
                self.0.recorder.0.command(Entry::Lost(self.0.number, lost));
            }
            self.0.recorder.0.command(Entry::End(self.0.number, reason));
        }
    }

    fn put(&self, note: Note, times: usize) -> Put {
        let shared = &self.0.recorder.0;
        let mut queue = lock(&shared.queue);
        if queue.shut {
            return Put::Shut;
        }
        if queue.is_full(shared.bounds, times) {
            return Put::Full(note);
        }
        let lost = std::mem::take(&mut *lock(&self.0.lost));
        if lost != Loss::default() {
            queue.entries.push_back(Entry::Lost(self.0.number, lost));
        }
        queue.notes += 1;
        queue.bytes += note.size();
        let (is_first, is_half) = (queue.notes == 1, queue.is_half_full(shared.bounds));
        queue.entries.push_back(Entry::Note(self.0.number, note));
        drop(queue);
        if is_first {
            shared.arrived.notify_one();
        }
        if is_half && !shared.behind.swap(true, Ordering::Relaxed) {
            shared.hurry.notify_one();
        }
        Put::Taken
    }

    fn lose(&self, note: &Note) {
        let loss = note.loss();
        self.0.recorder.0.metrics.lost("queue", loss.notes);
        lock(&self.0.lost).add(loss);
    }
}

impl Drop for Recorded {
    /// Nobody can note anything on it any more.
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            let lost = std::mem::take(&mut *lock(&self.lost));
            let shared = &self.recorder.0;
            if lost != Loss::default() {
                shared.command(Entry::Lost(self.number, lost));
            }
            shared.command(Entry::End(self.number, "nobody uses it any more"));
        }
    }
}

#[cfg(test)]
mod tests;
