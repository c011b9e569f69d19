//! HTTP/1.1 by hand: just enough of it to be read, and to be broken on purpose.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// The longest head that is read.
const HEAD_MAX: usize = 1 << 20;
/// The longest body that is read.
const BODY_MAX: usize = 64 << 20;

/// Header lines in order, names as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header; names are compared without regard to case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a header.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = name.to_owned();
        self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(&name)).map(|(_, value)| value)
    }

    /// All lines.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds a line.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Whether a comma-separated header has this token, without regard to parameters and case.
    pub(crate) fn lists(&self, name: &str, token: &str) -> bool {
        let mut tokens = self.all(name).flat_map(|value| value.split(','));
        tokens.any(|value| value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(lines: I) -> Headers {
        Headers(lines.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The first line and the headers of a message.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) headers: Headers,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Bytes(usize),
    Chunked,
    UntilClose,
}

impl Head {
    /// How the end of the body is known; `otherwise` if the headers don't tell.
    pub(crate) fn length(&self, otherwise: Length) -> io::Result<Length> {
        if self.headers.lists("transfer-encoding", "chunked") {
            return Ok(Length::Chunked);
        }
        match self.headers.get("content-length") {
            Some(length) => length.trim().parse().map(Length::Bytes).map_err(|_| invalid("content-length")),
            None => Ok(otherwise),
        }
    }
}

/// Reads a head; `None` when the connection ended before it began.
pub(crate) async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
    let mut left = HEAD_MAX;
    let first = loop {
        match read_line(reader, &mut left).await? {
            None => return Ok(None),
            Some(line) if line.is_empty() => {}
            Some(line) => break line,
        }
    };
    let mut headers = Headers::default();
    loop {
        let line = read_line(reader, &mut left).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some(Head { first, headers }));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header line"))?;
        headers.push(name, value.trim());
    }
}

/// Reads a line without its end.
pub(crate) async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    left: &mut usize,
) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = reader.take(*left as u64).read_until(b'\n', &mut line).await?;
    *left -= read;
    if read == 0 {
        return if *left == 0 { Err(invalid("length of head")) } else { Ok(None) };
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| invalid("text"))
}

/// Reads a whole body.
pub(crate) async fn read_body(reader: &mut (impl AsyncBufRead + Unpin), length: Length) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match length {
        Length::Bytes(bytes) if bytes > BODY_MAX => return Err(invalid("length of body")),
        Length::Bytes(bytes) => {
            body.resize(bytes, 0);
            reader.read_exact(&mut body).await?;
        }
        Length::UntilClose => {
            reader.take(BODY_MAX as u64).read_to_end(&mut body).await?;
        }
        Length::Chunked => {
            while let Some(chunk) = read_chunk(reader).await? {
                if body.len() + chunk.len() > BODY_MAX {
                    return Err(invalid("length of body"));
                }
                body.extend_from_slice(&chunk);
            }
        }
    }
    Ok(body)
}

/// Reads a chunk; `None` after the last one.
pub(crate) async fn read_chunk(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut left = HEAD_MAX;
    let line = read_line(reader, &mut left).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let size = line.split(';').next().unwrap_or_default().trim();
    let size = usize::from_str_radix(size, 16).map_err(|_| invalid("chunk size"))?;
    if size > BODY_MAX {
        return Err(invalid("chunk size"));
    }
    let mut chunk = vec![0; size];
    reader.read_exact(&mut chunk).await?;
    read_line(reader, &mut left).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((size > 0).then_some(chunk))
}

/// The text of a head.
pub(crate) fn head(first: &str, headers: &Headers) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{first}\r\n{lines}\r\n").into_bytes()
}

/// Bytes as a chunk. An empty one would end the body.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// The words that go with a status code.
pub(crate) fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}

pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid HTTP: {what}"))
}
