//! A whole tape in memory: for tests, and for whatever has to look at all of it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use super::conversation::{self, Call};
use super::format::{Edge, Ending, Frame, Header, Kind};
use super::matching::{Key, Miss, Rules};
use super::reader::{Reader, TapeError};
use super::series::Recording;
use crate::protocol::message::Message;

/// Most bytes of a tape that is read as a whole: those of its messages, and [`FRAME_BYTES`] for each frame.
const BYTES_MAX: u64 = 1 << 30;
/// What a frame takes besides its message.
const FRAME_BYTES: u64 = 512;

/// A tape that was read to its end.
///
/// ```
/// use shadowcat::tape::Tape;
///
/// let tape = Tape::open("fixtures/tapes/echo.tape.jsonl")?;
/// let answer = tape.answer(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi"}}}"#)?;
/// assert_eq!(answer, r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"text":"hi","type":"text"}]}}"#);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Tape {
    /// The first line.
    pub header: Header,
    /// All frames that could be read.
    pub frames: Vec<Frame>,
    /// How it ends.
    pub ending: Ending,
    /// What of it could not be read.
    pub faults: Vec<TapeError>,
}

/// Why a tape does not answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoAnswer {
    /// What is asked is no request.
    #[error("it is no request: {0}")]
    NotARequest(String),
    /// The tape has no such request.
    #[error("{0}")]
    Unknown(String),
    /// It has the request, and no answer to it.
    #[error("the tape has no answer to frame {0}")]
    Unanswered(u64),
}

impl Tape {
    /// Reads a file; one compressed with zstd, too.
    ///
    /// # Errors
    /// It cannot be read, or is no tape. That single lines are broken is no error here: see [`faults`](Tape::faults).
    pub fn open(path: impl AsRef<Path>) -> Result<Tape, TapeError> {
        Tape::read(Reader::open(path)?)
    }

    /// Reads what is left of a tape.
    ///
    /// # Errors
    /// As [`open`](Tape::open).
    pub fn read<R: BufRead>(mut reader: Reader<R>) -> Result<Tape, TapeError> {
        let (frames, faults) = collect(&mut reader, BYTES_MAX)?;
        Ok(Tape { header: reader.header().clone(), frames, ending: reader.ending(), faults })
    }

    /// Reads a recording of one file or several.
    ///
    /// # Errors
    /// As [`open`](Tape::open).
    pub fn read_all(recording: &mut Recording) -> Result<Tape, TapeError> {
        let (frames, faults) = collect(recording, BYTES_MAX)?;
        Ok(Tape { header: recording.header().clone(), frames, ending: recording.ending(), faults })
    }

    /// The edge whose conversation is the tape's truth: the client's, if it was recorded.
    #[must_use]
    pub fn edge(&self) -> Edge {
        let has = |edge| self.frames.iter().any(|frame| frame.edge() == Some(edge) && frame.kind == Kind::Message);
        if has(Edge::Client) || !has(Edge::Upstream) { Edge::Client } else { Edge::Upstream }
    }

    /// The requests of one edge with their answers, in the order of the tape.
    #[must_use]
    pub fn calls(&self, edge: Edge) -> Vec<Call> {
        conversation::calls(&self.frames, edge)
    }

    /// What the server answered to such a request when it was recorded, under the id of this one: for tests. Of several requests
    /// that are equal to it, the first counts.
    ///
    /// # Errors
    /// There is no such request, or no answer; the text names the recorded request that is nearest.
    pub fn answer(&self, request: &str) -> Result<String, NoAnswer> {
        let no_request = |reason: String| NoAnswer::NotARequest(reason);
        let message = Message::parse(request.to_owned().into(), crate::protocol::scan::DEPTH_MAX)
            .map_err(|error| no_request(error.reason.to_string()))?;
        let id = message.id().ok_or_else(|| no_request("it has no id".to_owned()))?;
        let calls: Vec<Call> = self.calls(self.edge()).into_iter().filter(|call| call.upward).collect();
        let rules = Rules::default();
        let keys = calls.iter().filter_map(|call| Key::of(&call.request.message, &rules.ignore));
        let mut matcher = super::matching::Matcher::new(rules.clone(), keys);
        let place = matcher.take(&message).map_err(|miss: Miss| {
            NoAnswer::Unknown(miss.told(|place| format!("frame {}", calls[place].request.seq)))
        })?;
        let call = &calls[place];
        let answer = call.answer.as_ref().ok_or(NoAnswer::Unanswered(call.request.seq))?;
        let answer = answer.message.edit().id(id.as_json()).finish();
        Ok(String::from_utf8_lossy(answer.text()).into_owned())
    }

    /// Writes the tape in place of whatever is there, all or nothing: readable by its owner only, and compressed if the name ends in
    /// `.zst`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let mut text = Vec::new();
        self.header.write(&mut text);
        self.frames.iter().for_each(|frame| frame.write(&mut text));
        if path.extension().is_some_and(|extension| extension == "zst") {
            text = zstd::encode_all(&text[..], 0)?;
        }
        write_private(path, &text)
    }
}

/// All frames, and what of them could not be read.
fn collect(
    frames: &mut impl Iterator<Item = Result<Frame, TapeError>>,
    bytes_max: u64,
) -> Result<(Vec<Frame>, Vec<TapeError>), TapeError> {
    let (mut kept, mut faults, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
    for frame in frames {
        bytes += FRAME_BYTES
            + frame.as_ref().map_or(0, |frame| frame.body.as_ref().map_or(0, |body| body.bytes().len() as u64));
        if bytes > bytes_max {
            return Err(TapeError::TooLarge(bytes_max));
        }
        match frame {
            Ok(frame) => kept.push(frame),
            Err(error) if error.is_of_one_line() => faults.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((kept, faults))
}

/// Writes a file in place of whatever is there, all or nothing, readable by its owner only. What a symbolic link leads to is
/// replaced, and not the link: nobody is to believe that something was taken out of a file which is as it was.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let target = if path.is_symlink() { path.canonicalize()? } else { path.to_owned() };
    let path = target.as_path();
    let beside = beside(path);
    let written = create_private(&beside).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    let saved = written.and_then(|()| std::fs::rename(&beside, path));
    if saved.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    saved
}

/// A name in the same folder, so that the file can be renamed.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

/// Makes a file that only its owner may read. There must be none of that name.
fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::super::format::Party;
    use super::*;

    #[test]
    fn no_more_of_a_tape_is_kept_than_a_bound() {
        let frames = || (1..=10).map(|seq| Ok(Frame::message(seq, 0, Party::Client, Party::Proxy, vec![b' '; 100])));
        let bytes = 10 * (100 + FRAME_BYTES);
        assert_eq!(collect(&mut frames(), bytes).unwrap().0.len(), 10);
        let error = collect(&mut frames(), bytes - 1).unwrap_err();
        assert!(matches!(error, TapeError::TooLarge(max) if max == bytes - 1));
    }
}
