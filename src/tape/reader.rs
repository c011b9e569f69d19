//! Reads a tape, be it finished, still being written, or cut short by a crash (C-TAPE-1).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::format::{Ending, Frame, FrameError, Header, HeaderError, Kind};
use super::zst::Decompressor;

/// Most bytes of a line, unless it is said otherwise: some times what a message may have.
const LINE_BYTES_MAX: usize = 128 << 20;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// What a zstd frame begins with (RFC 8878, 3.1.1).
const ZSTD_MAGIC: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];

/// Why a tape, or a line of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// The file cannot be opened or read.
    #[error("the tape cannot be read: {0}")]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("the tape is empty")]
    Empty,
    /// The first line is no header, or one of a newer version.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A line is no frame. Reading can go on behind it.
    #[error("line {line} of the tape is broken: {error}")]
    Frame {
        /// Which line; the header is line 1.
        line: u64,
        /// What is wrong with it.
        #[source]
        error: FrameError,
    },
    /// A line is longer than the limit. Reading can go on behind it.
    #[error("line {line} of the tape is longer than {bytes_max} bytes")]
    LineTooLong {
        /// Which line.
        line: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// It is needed in memory as a whole, and is too large for that.
    #[error(
        "the tape takes more than {0} bytes of memory, and this needs all of it: only `list`, `show` and `check` read any"
    )]
    TooLarge(u64),
}

impl TapeError {
    /// Whether only one line is lost, and what follows it can be read.
    #[must_use]
    pub fn is_of_one_line(&self) -> bool {
        matches!(self, TapeError::Frame { .. } | TapeError::LineTooLong { .. })
    }
}

/// Reads a tape frame by frame. As an iterator, it goes to the end and takes a last line for what it is, whole or torn.
///
/// ```
/// use shadowcat::tape::Reader;
///
/// let text = concat!(
///     r#"{"shadowcat_tape":1,"started":"2026-11-23T14:00:00.000Z"}"#, "\n",
///     r#"{"seq":1,"at":5,"from":"client","to":"proxy","kind":"message","message":{"jsonrpc":"2.0","id":1,"method":"ping"}}"#, "\n",
///     r#"{"seq":2,"at":17,"from":"pro"#,
/// );
/// let mut tape = Reader::new(text.as_bytes())?;
/// let frames: Vec<_> = tape.by_ref().collect::<Result<_, _>>()?;
/// assert_eq!(&frames[0].body.as_ref().unwrap().bytes()[..], br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
/// assert_eq!(tape.ending(), shadowcat::tape::Ending::Torn { bytes: 28 });
/// # Ok::<_, shadowcat::tape::TapeError>(())
/// ```
pub struct Reader<R> {
    source: R,
    header: Header,
    bytes_max: usize,
    line: BytesMut,
    /// The line that is being read.
    number: u64,
    /// The line was too long; the rest of it is passed over.
    skipping: bool,
    /// Compressed data stops in the middle.
    broken_off: bool,
    /// How the tape ends, as far as it has been read.
    ending: Ending,
}

/// What is found at the place where the reader is.
enum Found {
    Line(Bytes),
    TooLong,
    /// Nothing, or a line without its end.
    End,
}

impl Reader<Box<dyn BufRead + Send>> {
    /// Opens a file and reads its header. One compressed with zstd is decompressed, whatever its name.
    ///
    /// # Errors
    /// There is no such file, or it is no tape.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TapeError> {
        let mut file = BufReader::with_capacity(READ_BYTES, File::open(path)?);
        let compressed = file.fill_buf()?.starts_with(ZSTD_MAGIC);
        let source: Box<dyn BufRead + Send> = match compressed {
            true => Box::new(BufReader::with_capacity(READ_BYTES, Decompressor::new(file)?)),
            false => Box::new(file),
        };
        Reader::new(source)
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is none, or that of a newer version.
    pub fn new(source: R) -> Result<Self, TapeError> {
        Reader::with_limit(source, LINE_BYTES_MAX)
    }

    /// The same, with lines of at most so many bytes.
    ///
    /// # Errors
    /// As [`new`](Reader::new).
    pub fn with_limit(source: R, bytes_max: usize) -> Result<Self, TapeError> {
        let mut reader = Reader {
            source,
            header: Header::new(std::time::UNIX_EPOCH),
            bytes_max,
            line: BytesMut::new(),
            number: 1,
            skipping: false,
            broken_off: false,
            ending: Ending::CutShort,
        };
        let line = match reader.find()? {
            Found::Line(line) => line,
            // A header is short: what is too long is none.
            Found::TooLong => return Err(HeaderError::NotATape.into()),
            Found::End if reader.line.is_empty() => return Err(TapeError::Empty),
            Found::End => reader.line.split().freeze(),
        };
        let bom = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&line);
        reader.header = Header::parse(bom)?;
        Ok(reader)
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of the line that the last frame, or error, was about. The header is line 1.
    pub fn line_number(&self) -> u64 {
        self.number - 1
    }

    /// How the tape ends, as far as it has been read.
    pub fn ending(&self) -> Ending {
        self.ending.clone()
    }

    /// The next frame that is there with the end of its line; `None` if there is none *yet*: of a tape that is still being written,
    /// more may come later.
    ///
    /// # Errors
    /// The file cannot be read, or the line is no frame: see [`TapeError::is_of_one_line`].
    pub fn next_written(&mut self) -> Result<Option<Frame>, TapeError> {
        loop {
            match self.find()? {
                Found::Line(line) if is_blank(&line) => {}
                Found::Line(line) => return self.frame(&line).map(Some),
                Found::TooLong => {
                    return Err(TapeError::LineTooLong { line: self.line_number(), bytes_max: self.bytes_max });
                }
                Found::End => return Ok(None),
            }
        }
    }

    /// What there is behind the last line end: a frame that only lacks it, or a torn one.
    fn last(&mut self) -> Option<Frame> {
        let rest = self.line.split().freeze();
        let frame = if self.skipping || is_blank(&rest) { None } else { self.frame(&rest).ok() };
        if self.broken_off || self.skipping || (frame.is_none() && !is_blank(&rest)) {
            self.ending = Ending::Torn { bytes: if frame.is_none() { rest.len() as u64 } else { 0 } };
        }
        frame
    }

    fn frame(&mut self, line: &Bytes) -> Result<Frame, TapeError> {
        let frame = Frame::parse(line).map_err(|error| TapeError::Frame { line: self.line_number(), error })?;
        self.ending = match &frame.kind {
            Kind::End { reason, next } => Ending::Proper { reason: reason.clone(), next: next.clone() },
            _ => Ending::CutShort,
        };
        Ok(frame)
    }

    fn find(&mut self) -> Result<Found, TapeError> {
        loop {
            let available = match self.source.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // So says the decompressor of data that stops in the middle.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.broken_off = true;
                    return Ok(Found::End);
                }
                Err(error) => return Err(error.into()),
            };
            self.broken_off = false;
            if available.is_empty() {
                return Ok(Found::End);
            }
            let end = memchr::memchr(b'\n', available);
            let length = end.unwrap_or(available.len());
            if !self.skipping {
                self.line.extend_from_slice(&available[..length]);
            }
            self.source.consume(length + usize::from(end.is_some()));
            if self.line.len() > self.bytes_max {
                // Not `clear`: that would keep the memory of the long line.
                self.line = BytesMut::new();
                self.skipping = true;
            }
            if end.is_some() {
                self.number += 1;
                let line = self.line.split().freeze();
                return Ok(if std::mem::take(&mut self.skipping) { Found::TooLong } else { Found::Line(line) });
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Frame, TapeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_written() {
            Ok(Some(frame)) => Some(Ok(frame)),
            Ok(None) => self.last().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests;
