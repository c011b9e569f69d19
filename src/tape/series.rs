//! The files of one recording, in their order, read as one tape: a long recording goes on in another file now and then.

use std::collections::{HashMap, VecDeque};
use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::format::{Ending, Frame, Header, Kind};
use super::reader::{Reader, TapeError};

type File = Reader<Box<dyn BufRead + Send>>;

/// Files that belong together, in their order.
pub type Series = Vec<PathBuf>;

/// A file that is no tape, and why.
pub type Unreadable = (PathBuf, TapeError);

struct Part {
    /// Its place among all that were named.
    named: usize,
    path: PathBuf,
    header: Header,
    /// What comes behind it.
    next: Option<usize>,
    /// It comes behind another one.
    follows: bool,
}

/// Finds out which files are of one recording, and in which order. Reads their first lines; all of them only where a part is missing.
#[must_use]
pub fn gather(paths: impl IntoIterator<Item = PathBuf>) -> (Vec<Series>, Vec<Unreadable>) {
    let (mut parts, mut unreadable) = (Vec::<Part>::new(), Vec::new());
    for (named, path) in paths.into_iter().enumerate() {
        match Reader::open(&path) {
            Ok(reader) => parts.push(Part { named, header: reader.header().clone(), path, next: None, follows: false }),
            Err(error) => unreadable.push((path, error)),
        }
    }
    parts.sort_by(|one, other| (&one.header.started, &one.path).cmp(&(&other.header.started, &other.path)));
    let mut names: HashMap<String, usize> = HashMap::new();
    for (at, part) in parts.iter().enumerate() {
        names.entry(name(&part.path)).or_insert(at);
    }
    for at in 0..parts.len() {
        let before = parts[at].header.continues.as_ref().and_then(|name| names.get(name)).copied();
        if let Some(before) = before {
            link(&mut parts, before, at);
        }
    }
    // What lies between two files is not there, but both name it.
    for at in 0..parts.len() {
        let Some(missing) = parts[at].header.continues.clone().filter(|_| !parts[at].follows) else { continue };
        let names_it = |part: &Part| part.next.is_none() && next_of(&part.path).as_ref() == Some(&missing);
        if let Some(before) = (0..parts.len()).find(|before| *before != at && names_it(&parts[*before])) {
            link(&mut parts, before, at);
        }
    }
    let mut all = Vec::new();
    let mut taken = vec![false; parts.len()];
    // First those that follow nothing; then what would follow only itself.
    let first = (0..parts.len()).filter(|at| !parts[*at].follows);
    for start in first.chain(0..parts.len()).collect::<Vec<_>>() {
        let (mut series, mut named, mut at) = (Series::new(), usize::MAX, Some(start));
        while let Some(part) = at.filter(|at| !std::mem::replace(&mut taken[*at], true)) {
            series.push(parts[part].path.clone());
            named = named.min(parts[part].named);
            at = parts[part].next;
        }
        all.extend((!series.is_empty()).then_some((named, series)));
    }
    all.sort();
    (all.into_iter().map(|(_, series)| series).collect(), unreadable)
}

fn link(parts: &mut [Part], before: usize, at: usize) {
    if before != at && parts[before].next.is_none() && !parts[at].follows {
        parts[before].next = Some(at);
        parts[at].follows = true;
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The file that a tape says it goes on in.
fn next_of(path: &Path) -> Option<String> {
    let mut reader = Reader::open(path).ok()?;
    for frame in reader.by_ref() {
        if frame.is_err_and(|error| !error.is_of_one_line()) {
            return None;
        }
    }
    match reader.ending() {
        Ending::Proper { next, .. } => next,
        _ => None,
    }
}

/// Reads the files of one recording as one tape, frame by frame. Of one file all is as it is there; of several, frames are numbered
/// anew, times count from the beginning of the first, and where a part is missing or cut short there is a frame of the kind `gap`.
pub struct Recording {
    header: Header,
    path: PathBuf,
    reader: File,
    rest: VecDeque<PathBuf>,
    /// The file that was announced as the next one.
    announced: Option<String>,
    /// The last number and time before those of the file that is being read, and of all.
    base: (u64, u64),
    last: (u64, u64),
    missing: Vec<String>,
    /// What is said before anything that is read.
    first: Option<Frame>,
}

impl Recording {
    /// Opens files of one recording that are in their order (see [`gather`]).
    ///
    /// # Errors
    /// The first cannot be read, or is no tape; there is none.
    pub fn open(series: impl IntoIterator<Item = PathBuf>) -> Result<Recording, TapeError> {
        let mut rest: VecDeque<PathBuf> = series.into_iter().collect();
        let path = rest.pop_front().ok_or(TapeError::Empty)?;
        let reader = Reader::open(&path)?;
        let header = reader.header().clone();
        let begins = header.continues.as_ref().filter(|_| !rest.is_empty());
        let missing: Vec<String> =
            begins.map(|name| format!("{name}, which it goes on from, is not there")).into_iter().collect();
        let first = missing.first().map(|why| gap(1, 0, why.clone()));
        let base = (u64::from(first.is_some()), 0);
        Ok(Recording { header, path, reader, rest, announced: None, base, last: base, missing, first })
    }

    /// The first line of the first file.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How the last file ends, as far as it has been read.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.reader.ending()
    }

    /// What is missing of it, as far as it has been read.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    fn place(&mut self, mut frame: Frame) -> Frame {
        frame.seq = frame.seq.saturating_add(self.base.0);
        frame.at = frame.at.saturating_add(self.base.1);
        self.last = (frame.seq, frame.at.max(self.last.1));
        frame
    }

    /// Goes on in the next file. What is to be said of that.
    fn advance(&mut self) -> Option<Result<Option<Frame>, TapeError>> {
        let path = self.rest.pop_front()?;
        let reader = match Reader::open(&path) {
            Ok(reader) => reader,
            Err(error) => return Some(Err(error)),
        };
        let (this, next) = (name(&self.path), name(&path));
        let follows = reader.header().continues.as_ref() == Some(&this);
        let why = match (self.announced.take(), self.reader.ending()) {
            (Some(announced), _) if announced != next => Some(format!("{announced} is not there")),
            _ if !follows => Some(format!("what lies between {this} and {next} is not there")),
            (None, Ending::Torn { .. } | Ending::CutShort) => Some(format!("{this} was cut short")),
            _ => None,
        };
        let offset = |header: &Header| header.started_at();
        let since = offset(reader.header()).zip(offset(&self.header));
        let since = since.and_then(|(now, first)| now.duration_since(first).ok());
        let since = since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        let gap = why.map(|why| {
            self.missing.push(why.clone());
            self.last.0 = self.last.0.saturating_add(1);
            gap(self.last.0, self.last.1, why)
        });
        self.base = (self.last.0, since.max(self.last.1));
        (self.path, self.reader) = (path, reader);
        Some(Ok(gap))
    }
}

/// Nobody knows how much is missing.
fn gap(seq: u64, at: u64, why: String) -> Frame {
    Frame::new(seq, at, Kind::Gap { lost: 0, bytes: 0, why })
}

impl Iterator for Recording {
    type Item = Result<Frame, TapeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        loop {
            match self.reader.next() {
                Some(Ok(frame)) => match &frame.kind {
                    Kind::End { next: Some(next), .. } if !self.rest.is_empty() => self.announced = Some(next.clone()),
                    _ => return Some(Ok(self.place(frame))),
                },
                Some(Err(error)) => return Some(Err(error)),
                None => match self.advance()? {
                    Ok(None) => {}
                    Ok(Some(gap)) => return Some(Ok(gap)),
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Party;
    use super::*;

    /// Writes a part with so many frames, which begins so many milliseconds after the first.
    fn part(folder: &Path, name: &str, ms: u64, frames: u64, continues: Option<&str>, next: Option<&str>) -> PathBuf {
        let mut header = Header::new(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms));
        header.continues = continues.map(str::to_owned);
        let mut text = Vec::new();
        header.write(&mut text);
        for seq in 1..=frames {
            let ping = format!(r#"{{"jsonrpc":"2.0","id":{seq},"method":"ping"}}"#);
            Frame::message(seq, seq * 10, Party::Client, Party::Proxy, ping).write(&mut text);
        }
        if let Some(next) = next {
            let next = Some(next.to_owned()).filter(|next| !next.is_empty());
            Frame::new(frames + 1, frames * 10, Kind::End { reason: "done".into(), next }).write(&mut text);
        }
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn names(series: &[Series]) -> Vec<Vec<String>> {
        series.iter().map(|series| series.iter().map(|path| super::name(path)).collect()).collect()
    }

    #[test]
    fn parts_are_put_in_order_whatever_they_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let paths = [
            part(folder, "a", 9, 1, Some("z"), Some("")),
            part(folder, "lonely", 1, 1, None, Some("")),
            part(folder, "m", 2, 2, None, Some("z")),
            part(folder, "z", 5, 1, Some("m"), Some("a")),
            folder.join("not there"),
        ];
        let (series, unreadable) = gather(paths);
        assert_eq!(names(&series), [vec!["m", "z", "a"], vec!["lonely"]]);
        assert_eq!(unreadable.len(), 1);
        let mut recording = Recording::open(series[0].clone()).unwrap();
        let frames: Vec<(u64, u64)> =
            recording.by_ref().map(|frame| frame.map(|one| (one.seq, one.at)).unwrap()).collect();
        assert_eq!(frames, [(1, 10), (2, 20), (3, 3010), (4, 7010), (5, 7010)]);
        assert_eq!(recording.ending(), Ending::Proper { reason: "done".into(), next: None });
        assert_eq!(recording.missing(), [] as [&str; 0]);
    }

    #[test]
    fn parts_that_are_missing_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let paths = [
            part(folder, "d", 9, 1, Some("c"), Some("e")),
            part(folder, "b", 1, 1, Some("a"), Some("c")),
            part(folder, "e", 10, 1, Some("d"), None),
            part(folder, "f", 11, 1, Some("e"), None),
        ];
        let (series, _) = gather(paths);
        assert_eq!(names(&series), [["b", "d", "e", "f"]]);
        let mut recording = Recording::open(series[0].clone()).unwrap();
        let told = |frame: Frame| match frame.kind {
            Kind::Gap { why, .. } => format!("{} {why}", frame.seq),
            _ => frame.seq.to_string(),
        };
        let frames: Vec<String> = recording.by_ref().map(|frame| told(frame.unwrap())).collect();
        let begin = "1 a, which it goes on from, is not there";
        assert_eq!(frames, [begin, "2", "3 c is not there", "4", "5", "6 e was cut short", "7"]);
        assert_eq!(
            recording.missing(),
            ["a, which it goes on from, is not there", "c is not there", "e was cut short"]
        );
    }

    #[test]
    fn parts_that_follow_each_other_in_a_circle_are_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let paths = [part(folder, "a", 1, 1, Some("b"), Some("b")), part(folder, "b", 2, 1, Some("a"), Some("a"))];
        let (series, _) = gather(paths);
        assert_eq!(names(&series), [["a", "b"]]);
        assert_eq!(Recording::open(series[0].clone()).unwrap().count(), 4);
        let itself = part(folder, "c", 1, 1, Some("c"), Some("c"));
        assert_eq!(names(&gather([itself]).0), [["c"]]);
    }
}
