//! Newline framing: the bytes of a child's output become lines, and a message becomes one line.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// Splits a byte stream into lines, however it is chunked.
///
/// A line ends in LF or CRLF; neither is part of it. A byte order mark at the very beginning is dropped, and lines of
/// nothing but whitespace are skipped. A line that is too long is reported once, as soon as that is certain, and
/// dropped up to its end; whether the stream is still worth reading is for the caller to decide.
///
/// Lines are slices of the buffer that was read into. Every byte is searched once. Memory is bounded by the limit plus
/// one read as long as the caller takes all lines out before it reads more.
#[derive(Debug)]
pub struct Lines {
    line_bytes_max: usize,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no newline.
    searched: usize,
    /// No line has been looked for yet: a byte order mark may come.
    at_start: bool,
    /// The rest of a line that was reported as too long is being dropped.
    skipping: bool,
}

/// A line that is not handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineError {
    /// The line is longer than the limit.
    #[error("a line is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit, without the line end.
        bytes_max: usize,
    },
}

impl Lines {
    /// Framing with lines of at most `line_bytes_max` bytes, not counting the line end.
    pub fn new(line_bytes_max: usize) -> Lines {
        Lines { line_bytes_max, buffer: BytesMut::new(), searched: 0, at_start: true, skipping: false }
    }

    /// Where to read into, by appending only: `reader.read_buf(lines.buffer())`. It has room for 8 KiB at least.
    pub fn buffer(&mut self) -> &mut BytesMut {
        // Without this a reader that fills what capacity there is would get along in steps of a few bytes.
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// Appends `bytes`, for those who do not read into [`buffer`](Lines::buffer).
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// The line is too long. The next call goes on behind it.
    pub fn next_line(&mut self) -> Option<Result<Bytes, LineError>> {
        if self.at_start && !self.skip_bom() {
            return None;
        }
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                return self.keep_partial().map(Err);
            };
            let mut line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.len() > self.line_bytes_max {
                return Some(Err(self.too_long()));
            }
            if !is_blank(&line) {
                return Some(Ok(line.freeze()));
            }
        }
    }

    /// Whether a line has begun and not ended. Meaningful after [`next_line`](Lines::next_line) has returned `None`.
    pub fn has_partial(&self) -> bool {
        self.skipping || !self.buffer.is_empty()
    }

    /// The end of the input: what came behind the last line end, if anything. It may be a line that the peer did not
    /// care to end, or half of one. Call it after [`next_line`](Lines::next_line) has returned `None`.
    pub fn finish(mut self) -> Option<Bytes> {
        if self.skipping {
            return None;
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.truncate(self.buffer.len() - 1);
        }
        (!is_blank(&self.buffer)).then(|| self.buffer.freeze())
    }

    /// Returns whether it is decided that there is a byte order mark or not.
    fn skip_bom(&mut self) -> bool {
        if self.buffer.starts_with(BOM) {
            self.buffer.advance(BOM.len());
        } else if BOM.starts_with(&self.buffer) {
            return false;
        }
        self.at_start = false;
        true
    }

    /// There is no newline in the buffer. Drops what belongs to a line that is too long, and says so the first time.
    fn keep_partial(&mut self) -> Option<LineError> {
        // A CR may turn out to be half of the line end, which does not count.
        let line_bytes = self.buffer.len() - usize::from(self.buffer.last() == Some(&b'\r'));
        if !self.skipping && line_bytes <= self.line_bytes_max {
            self.searched = self.buffer.len();
            return None;
        }
        self.searched = 0;
        if std::mem::replace(&mut self.skipping, true) {
            self.buffer.clear();
            return None;
        }
        // Not `clear`: that would keep the memory of the long line.
        self.buffer = BytesMut::new();
        Some(self.too_long())
    }

    fn too_long(&self) -> LineError {
        LineError::TooLong { bytes_max: self.line_bytes_max }
    }
}

/// The same JSON text without raw line ends, so that it can be written as one line.
///
/// Valid JSON has them between tokens only, where each becomes a space: lengths and offsets stay what they were. A text
/// without any (which is nearly every one) is not copied.
pub fn single_line(text: &Bytes) -> Bytes {
    let Some(first) = memchr::memchr2(b'\r', b'\n', text) else {
        return text.clone();
    };
    let mut line = BytesMut::from(&text[..]);
    for byte in &mut line[first..] {
        if matches!(*byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    line.freeze()
}

/// Least room in the buffer for a read, in bytes.
const READ_BYTES: usize = 8 << 10;

const BOM: &[u8] = b"\xEF\xBB\xBF";

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

#[cfg(test)]
mod tests;
