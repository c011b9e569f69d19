//! Tapes as files: names, rotation, and what happens when the disk does not take them.
//!
//! Everything here blocks. Files are only ever appended to; a write that fails half-way is taken back, so that a tape never has a
//! torn line but its last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::time::{Duration, Instant};

use super::note::Note;
use super::recorder::{Entry, Loss, Sink};
use super::redaction::Redaction;
use crate::metrics::TapeMetrics;
use crate::tape::format::{Body, Frame, Header, Kind};

/// How long a tape that could not be written is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// After how many bytes for one tape they are handed to the operating system, within one round of writing.
const CHUNK: usize = 1 << 20;
/// What the name of a tape ends in,
const SUFFIX: &str = ".tape.jsonl";
/// and what comes behind that where it is compressed.
const COMPRESSED: &str = ".zst";
/// How hard it is tried to compress: the library's own default.
const LEVEL: i32 = 3;

/// How tapes are kept.
#[derive(Debug, Clone)]
pub(super) struct Keeping {
    pub(super) folder: PathBuf,
    /// The name of the upstream, which file names begin with.
    pub(super) upstream: String,
    /// A tape goes on in another file after so many bytes,
    pub(super) file_bytes: u64,
    /// or after so long.
    pub(super) file_age: Duration,
    /// Whether they are compressed (zstd).
    pub(super) compress: bool,
    /// Most files that are open at once.
    pub(super) open_max: usize,
    /// Most bytes of tapes in the folder, those that were there before included.
    pub(super) folder_bytes: u64,
}

/// See the module.
pub(super) struct Disk {
    keeping: Keeping,
    redaction: Redaction,
    metrics: TapeMetrics,
    /// By number.
    tapes: BTreeMap<u64, OnDisk>,
    /// Whose files are open, by when they were last written.
    open: BTreeMap<u64, u64>,
    turn: u64,
    /// Of whom lines wait to be written.
    dirty: BTreeSet<u64>,
    /// Whose last attempt failed.
    failing: BTreeSet<u64>,
    /// Bytes of tapes in the folder.
    used: u64,
    /// The folder is there, and files can be made in it.
    prepared: bool,
    /// A failure was logged, and what follows of it is no news until something could be written while there was room for so many bytes.
    complained: Option<u64>,
}

/// One tape that goes on.
struct OnDisk {
    header: Header,
    /// The file that is written now, or will be as soon as there is something to write.
    current: Option<Current>,
    /// The file that was written before it and that it goes on from.
    previous: Option<String>,
    lost: Loss,
    why_lost: &'static str,
    /// The last attempt to write failed; until then there is no other.
    rests_until: Option<Instant>,
}

struct Current {
    name: String,
    /// When the time of its frames begins.
    base: Instant,
    /// Closed when too many are open.
    file: Option<File>,
    turn: u64,
    /// How much of it is good; 0 if it was not made yet.
    bytes: u64,
    /// The number of its last frame that was written or waits to be, and the time of that.
    seq: u64,
    at: u64,
    /// The number of the last frame that was written.
    written: u64,
    /// Lines that wait to be written.
    lines: Vec<u8>,
    /// See [`Redaction::apply`].
    clean: Vec<u8>,
    /// What is lost if they cannot be.
    waiting: Loss,
}

/// The queue could not take it.
const BEHIND: &str = "the disk did not keep up";
/// The disk could not take it.
const FAILED: &str = "the disk did not take it";

/// Makes a folder for tapes, readable by its owner only, unless there is one; and sees whether files can be made in it.
///
/// # Errors
/// They cannot.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
    }
    let trial = folder.join(format!(".shadowcat-{}", random()));
    drop(create(&trial)?);
    fs::remove_file(trial)
}

/// A new file that only its owner may read. Whatever has that name already is left alone.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create_new(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// How many notes are written before others get their turn: some ten microseconds.
const TURN: usize = 16;

/// Whoever waits for this processor has something to answer, and does not get it from one that has not used up its time, however far
/// that stands back. But what is recorded must not be lost for it.
fn give_way(behind: &AtomicBool) {
    if !behind.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
}

fn random() -> String {
    let mut bytes = [0; 5];
    // Without randomness a name may be taken already, which is found out.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// How many bytes of tapes there are in a folder.
fn used(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let is_tape = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(SUFFIX);
    entries.flatten().filter(is_tape).filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

impl Disk {
    /// Makes the folder if it is not there.
    pub(super) fn new(keeping: Keeping, redaction: Redaction, metrics: TapeMetrics) -> Disk {
        let prepared = prepare(&keeping.folder)
            .inspect_err(|error| {
                // What that means is up to the policy.
                let folder = keeping.folder.display();
                tracing::error!(upstream = keeping.upstream, %folder, %error, "Tapes cannot be written there");
            })
            .is_ok();
        let used = used(&keeping.folder);
        Disk {
            keeping,
            redaction,
            metrics,
            tapes: BTreeMap::new(),
            open: BTreeMap::new(),
            turn: 0,
            dirty: BTreeSet::new(),
            failing: BTreeSet::new(),
            used,
            prepared,
            complained: None,
        }
    }

    fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Begin(number, header) => {
                let tape = OnDisk {
                    header: Header::clone(header),
                    current: None,
                    previous: None,
                    lost: Loss::default(),
                    why_lost: BEHIND,
                    rests_until: None,
                };
                self.tapes.insert(*number, tape);
                self.metrics.tapes(self.tapes.len());
            }
            Entry::Note(number, note) => self.note(*number, note),
            Entry::Lost(number, loss) => {
                if let Some(tape) = self.tapes.get_mut(number) {
                    tape.lose(*loss, BEHIND);
                }
            }
            Entry::End(number, reason) => {
                self.last_words(*number, reason);
                self.flush(*number);
                self.close(*number);
                self.tapes.remove(number);
                self.failing.remove(number);
                self.metrics.tapes(self.tapes.len());
            }
        }
    }

    fn note(&mut self, number: u64, note: &Note) {
        let Some(tape) = self.tapes.get_mut(&number) else {
            // It came after the end of its tape.
            self.metrics.lost("ended", note.loss().notes);
            return;
        };
        if tape.rests_until.is_some_and(|until| Instant::now() < until) {
            let loss = note.loss();
            self.metrics.lost("disk", loss.notes);
            tape.lose(loss, FAILED);
            return;
        }
        let (file_bytes, file_age) = (self.keeping.file_bytes, self.keeping.file_age);
        if tape.current.as_ref().is_some_and(|current| current.is_over(note.at, file_bytes, file_age)) {
            self.rotate(number);
        }
        let (keeping, redaction) = (&self.keeping, &mut self.redaction);
        let Some(tape) = self.tapes.get_mut(&number) else { return };
        tape.begin(keeping, note.at);
        tape.write_gap();
        let Some(current) = &mut tape.current else { return };
        note.each(|note| current.write(note, redaction));
        self.dirty.insert(number);
        if current.lines.len() >= CHUNK {
            self.flush(number);
        }
    }

    /// Goes on in another file.
    fn rotate(&mut self, number: u64) {
        let next = self.keeping.name();
        let Some(tape) = self.tapes.get_mut(&number) else { return };
        tape.write_gap();
        if let Some(current) = &mut tape.current {
            current.push(Kind::End { reason: "rotated".to_owned(), next: Some(next.clone()) });
        }
        if self.flush(number) {
            self.close(number);
            if let Some(tape) = self.tapes.get_mut(&number)
                && let Some(last) = tape.current.take()
            {
                tape.previous = Some(last.name);
                tape.current = Some(Current::new(next, &tape.header, tape.previous.as_deref(), Instant::now()));
            }
        }
    }

    /// The end of a tape of which there is something.
    fn last_words(&mut self, number: u64, reason: &'static str) {
        let Some(tape) = self.tapes.get_mut(&number) else { return };
        if tape.lost != Loss::default() {
            tape.begin(&self.keeping, Instant::now());
        }
        tape.write_gap();
        if let Some(current) = &mut tape.current {
            current.push(Kind::End { reason: reason.to_owned(), next: None });
        }
    }

    /// Hands what waits to the operating system. Whether that is done.
    fn flush(&mut self, number: u64) -> bool {
        self.turn += 1;
        let (turn, used) = (self.turn, self.used);
        let Some(tape) = self.tapes.get_mut(&number) else { return false };
        let Some(current) = &mut tape.current else { return tape.rests_until.is_none() };
        if current.lines.is_empty() {
            return true;
        }
        let mut result = Ok(0);
        if used + current.lines.len() as u64 > self.keeping.folder_bytes {
            result = Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the folder holds as many bytes as it may"));
        } else {
            let before = std::mem::replace(&mut current.turn, turn);
            self.open.remove(&before);
            if current.file.is_none()
                && self.open.len() >= self.keeping.open_max
                && let Some((_, oldest)) = self.open.pop_first()
                && let Some(oldest) = self.tapes.get_mut(&oldest).and_then(|tape| tape.current.as_mut())
            {
                oldest.file = None;
            }
        }
        let Some(tape) = self.tapes.get_mut(&number) else { return false };
        let Some(current) = &mut tape.current else { return false };
        result = result.and_then(|_| current.append(&self.keeping.folder));
        if current.file.is_some() {
            self.open.insert(turn, number);
        }
        match result {
            Ok(bytes) => {
                self.used += bytes;
                current.bytes += bytes;
                self.metrics.written(current.seq - current.written, bytes);
                current.lines.clear();
                current.lines.shrink_to(CHUNK);
                current.waiting = Loss::default();
                current.written = current.seq;
                tape.rests_until = None;
                self.failing.remove(&number);
                if self.complained.is_some_and(|room| self.used.saturating_add(room) <= self.keeping.folder_bytes) {
                    self.complained = None;
                }
                true
            }
            Err(error) => {
                self.metrics.lost("disk", current.waiting.notes);
                if self.complained.is_none() {
                    // What is smaller may still fit into a full folder: that is no end of the trouble.
                    let is_full = error.kind() == io::ErrorKind::QuotaExceeded;
                    self.complained = Some(if is_full { current.lines.len() as u64 } else { 0 });
                    let (upstream, folder) = (&self.keeping.upstream, self.keeping.folder.display());
                    tracing::error!(upstream, %folder, %error, "A tape cannot be written: what passes is lost to it");
                }
                if tape.take_back(&self.keeping.folder) {
                    self.open.remove(&turn);
                }
                self.failing.insert(number);
                tape.rests_until = Some(Instant::now() + PAUSE);
                false
            }
        }
    }

    fn close(&mut self, number: u64) {
        if let Some(current) = self.tapes.get_mut(&number).and_then(|tape| tape.current.as_mut()) {
            self.open.remove(&current.turn);
            current.file = None;
        }
    }
}

impl Sink for Disk {
    fn is_fine(&self) -> bool {
        self.prepared && self.failing.is_empty()
    }

    fn write(&mut self, entries: &VecDeque<Entry>, behind: &AtomicBool) {
        if !self.prepared {
            self.prepared = prepare(&self.keeping.folder).is_ok();
        }
        for (count, entry) in entries.iter().enumerate() {
            self.take(entry);
            if count % TURN == 0 {
                give_way(behind);
            }
        }
        let now = Instant::now();
        for number in self.failing.clone() {
            let Some(tape) = self.tapes.get_mut(&number) else { continue };
            if tape.rests_until.is_some_and(|until| until <= now) {
                // To say what was lost is also how it is found out whether it works again.
                tape.begin(&self.keeping, now);
                tape.write_gap();
                self.dirty.insert(number);
            }
        }
        for number in std::mem::take(&mut self.dirty) {
            self.flush(number);
            give_way(behind);
        }
    }
}

impl OnDisk {
    fn lose(&mut self, loss: Loss, why: &'static str) {
        self.lost.add(loss);
        self.why_lost = why;
    }

    /// Sees to it that there is a file to write to, or will be.
    fn begin(&mut self, keeping: &Keeping, at: Instant) {
        if self.current.is_none() {
            let name = keeping.name();
            self.current = Some(Current::new(name, &self.header, self.previous.as_deref(), at));
        }
    }

    /// Says what was lost.
    fn write_gap(&mut self) {
        if let Some(current) = &mut self.current
            && self.lost != Loss::default()
        {
            let lost = std::mem::take(&mut self.lost);
            current.push(Kind::Gap { lost: lost.notes, bytes: lost.bytes, why: self.why_lost.to_owned() });
            // Should this be lost too, what it counts is not.
            current.waiting.add(lost);
        }
    }

    /// What waited is lost, and what of it had come to the disk is taken back. Whether the file is given up.
    fn take_back(&mut self, folder: &Path) -> bool {
        let Some(mut current) = self.current.take() else { return true };
        self.lose(std::mem::take(&mut current.waiting), FAILED);
        let is_whole = match &current.file {
            Some(file) => current.bytes > 0 && file.set_len(current.bytes).is_ok(),
            None => current.bytes > 0,
        };
        if is_whole {
            current.lines.clear();
            current.seq = current.written;
            self.current = Some(current);
        } else if current.bytes > 0 {
            self.previous = Some(current.name);
        } else if current.file.is_some() {
            // It has not even a header.
            let _ = fs::remove_file(folder.join(current.name));
        }
        !is_whole
    }
}

impl Current {
    /// A file that begins with its header. Frames count their time from `base`.
    fn new(name: String, header: &Header, previous: Option<&str>, base: Instant) -> Current {
        let mut header = header.clone();
        header.started = humantime::format_rfc3339_millis(SystemTime::now() - base.elapsed()).to_string();
        header.continues = previous.map(str::to_owned);
        let mut lines = Vec::new();
        header.write(&mut lines);
        Current {
            name,
            base,
            file: None,
            turn: 0,
            bytes: 0,
            seq: 0,
            at: 0,
            written: 0,
            lines,
            clean: Vec::new(),
            waiting: Loss::default(),
        }
    }

    fn is_over(&self, now: Instant, bytes_max: u64, age_max: Duration) -> bool {
        self.bytes + self.lines.len() as u64 >= bytes_max || now.saturating_duration_since(self.base) >= age_max
    }

    /// A frame after the others.
    fn frame(&mut self, at: Instant, kind: Kind) -> Frame {
        let at = at.saturating_duration_since(self.base).as_micros();
        // Two tasks may look at the clock in one order and come to the queue in the other.
        self.at = self.at.max(u64::try_from(at).unwrap_or(u64::MAX));
        self.seq += 1;
        Frame::new(self.seq, self.at, kind)
    }

    /// A frame about the tape itself.
    fn push(&mut self, kind: Kind) {
        self.frame(Instant::now(), kind).write(&mut self.lines);
    }

    fn write(&mut self, note: &Note, redaction: &mut Redaction) {
        self.waiting.notes += 1;
        self.waiting.bytes += note.body.as_ref().map_or(0, |body| body.len() as u64);
        let mut frame = self.frame(note.at, note.kind.clone());
        if let Some((from, to)) = note.way {
            (frame.from, frame.to) = (Some(from), Some(to));
        }
        frame.exchange = note.exchange;
        frame.connection = note.connection;
        frame.sse = note.sse.clone();
        frame.by = note.by.clone();
        frame.body = note.body.clone().map(if note.is_json { Body::of_json } else { Body::of });
        redaction.apply(&mut frame, &mut self.clean);
        let head = note.head.as_ref().map(|head| redaction.head(head));
        frame.write_with(head.as_deref(), &mut self.lines);
    }

    /// Appends what waits to the file, which is made or opened again if it has to be.
    ///
    /// Compressed, each piece is a frame of its own, so that it can be read however the next one comes out (RFC 8878, 3.1).
    fn append(&mut self, folder: &Path) -> io::Result<u64> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = folder.join(&self.name);
                let file =
                    if self.bytes == 0 { create(&path)? } else { OpenOptions::new().append(true).open(&path)? };
                none.insert(file)
            }
        };
        if !self.name.ends_with(COMPRESSED) {
            file.write_all(&self.lines)?;
            return Ok(self.lines.len() as u64);
        }
        let piece = zstd::bulk::compress(&self.lines, LEVEL)?;
        file.write_all(&piece)?;
        Ok(piece.len() as u64)
    }
}

impl Keeping {
    /// A name for a tape: nothing of it comes from a peer.
    fn name(&self) -> String {
        let time: String = humantime::format_rfc3339_seconds(SystemTime::now())
            .to_string()
            .chars()
            .filter(|c| c.is_ascii_digit() || *c == 'T')
            .collect();
        let compressed = if self.compress { COMPRESSED } else { "" };
        format!("{}-{time}-{}{SUFFIX}{compressed}", self.upstream, random())
    }
}

#[cfg(test)]
mod tests;
