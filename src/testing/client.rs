//! A small MCP client over HTTP, for tests: it says exactly what it is told to, and hides nothing of what it hears.
//!
//! Each request has a connection of its own. Dropping a [`Response`] closes it, which for a modern server is a cancellation.

mod legacy;
mod modern;

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

pub use self::legacy::{LegacySession, SseSession};
pub use self::modern::Modern;
pub use super::http::Headers;
use super::http::{Length, head, invalid, read_body, read_chunk, read_head};

/// What an MCP client accepts.
const ACCEPT: (&str, &str) = ("Accept", "application/json, text/event-stream");

/// A response: status and headers are there, the body is read on demand.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    length: Length,
    stream: BufReader<TcpStream>,
    /// What has been read of an SSE body and not been given out yet.
    unread: Vec<u8>,
    ended: bool,
}

/// A Server-Sent Event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its `id:`, if it has one.
    pub id: Option<String>,
    /// Its `event:`, if it has one.
    pub event: Option<String>,
    /// Its `data:` lines, joined; `None` if it has no such line.
    pub data: Option<String>,
    /// Its `retry:`, if it has one, as it was written.
    pub retry: Option<String>,
    /// Its comments.
    pub comments: Vec<String>,
}

impl Event {
    /// The data as JSON; `Null` if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        self.data.as_deref().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default()
    }

    fn parse(text: &str) -> Event {
        let mut event = Event::default();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => event.comments.push(value),
                "id" => event.id = Some(value),
                "event" => event.event = Some(value),
                "retry" => event.retry = Some(value),
                "data" => match &mut event.data {
                    Some(data) => *data += &format!("\n{value}"),
                    none => *none = Some(value),
                },
                _ => {}
            }
        }
        event
    }
}

/// Sends a request and reads the head of the response. `url` is `http://host:port/path`.
///
/// # Errors
/// When there is no connection, or what comes back is no HTTP.
pub async fn send(method: &str, url: &str, headers: Headers, body: &str) -> io::Result<Response> {
    let rest = url.strip_prefix("http://").ok_or_else(|| invalid("URL"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut all: Headers = [("Host", host)].into_iter().collect();
    if !body.is_empty() || method == "POST" {
        all.push("Content-Length", body.len().to_string());
    }
    headers.iter().for_each(|(name, value)| all.push(name, value));
    let first = format!("{method} {} HTTP/1.1", if path.is_empty() { "/" } else { path });
    let mut stream = BufReader::new(TcpStream::connect(host).await?);
    stream.write_all(&[&head(&first, &all), body.as_bytes()].concat()).await?;
    let head = read_head(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status =
        head.first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| invalid("status"))?;
    let length = if status == 204 { Length::Bytes(0) } else { head.length(Length::UntilClose)? };
    Ok(Response { status, headers: head.headers, length, stream, unread: Vec::new(), ended: false })
}

/// POSTs JSON, accepting JSON and SSE; `headers` come in addition.
///
/// # Errors
/// As [`send`].
pub async fn post(url: &str, json: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
    let base = [("Content-Type", "application/json"), ACCEPT];
    send("POST", url, base.into_iter().chain(headers.iter().copied()).collect(), json).await
}

impl Response {
    /// Whether the body is a stream of events.
    #[must_use]
    pub fn is_sse(&self) -> bool {
        self.headers.lists("content-type", "text/event-stream")
    }

    /// The whole body.
    ///
    /// # Errors
    /// When the connection ends before the body does, or the body is not UTF-8.
    pub async fn text(mut self) -> io::Result<String> {
        let body = read_body(&mut self.stream, self.length).await?;
        String::from_utf8(body).map_err(|_| invalid("text"))
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// As [`text`](Response::text), and when it is not JSON.
    pub async fn json(self) -> io::Result<Value> {
        Ok(serde_json::from_str(&self.text().await?)?)
    }

    /// The next event of an SSE body, be it only a comment; `None` at the proper end of the body.
    ///
    /// # Errors
    /// When the connection ends before the body does.
    ///
    /// # Cancel safety
    /// Not safe: a dropped read may lose bytes.
    pub async fn event(&mut self) -> io::Result<Option<Event>> {
        loop {
            let end = |pattern: &[u8]| {
                let at = self.unread.windows(pattern.len()).position(|window| window == pattern)?;
                Some((at, at + pattern.len()))
            };
            if let Some((at, end)) = [end(b"\n\n"), end(b"\r\n\r\n")].into_iter().flatten().min() {
                let event: Vec<u8> = self.unread.drain(..end).take(at).collect();
                return Ok(Some(Event::parse(std::str::from_utf8(&event).map_err(|_| invalid("text"))?)));
            }
            match self.more().await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }

    /// The next message of an SSE body, passing over events without data; `None` at its end.
    ///
    /// # Errors
    /// As [`event`](Response::event).
    pub async fn message(&mut self) -> io::Result<Option<Value>> {
        while let Some(event) = self.event().await? {
            if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
                return Ok(Some(event.json()));
            }
        }
        Ok(None)
    }

    /// The answer, be it a JSON body or the first message on an SSE stream that has a result or an error.
    ///
    /// # Errors
    /// When the body ends without it.
    pub async fn answer(mut self) -> io::Result<Value> {
        if !self.is_sse() {
            return self.json().await;
        }
        loop {
            let message = self.message().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if message.get("method").is_none() {
                return Ok(message);
            }
        }
    }

    /// More bytes of the body; `None` at its end.
    async fn more(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.length {
            _ if self.ended => Ok(None),
            Length::Chunked => {
                let chunk = read_chunk(&mut self.stream).await?;
                self.ended = chunk.is_none();
                Ok(chunk)
            }
            Length::Bytes(_) => {
                self.ended = true;
                read_body(&mut self.stream, self.length).await.map(Some)
            }
            Length::UntilClose => {
                let bytes = self.stream.fill_buf().await?.to_vec();
                self.stream.consume(bytes.len());
                self.ended = bytes.is_empty();
                Ok((!bytes.is_empty()).then_some(bytes))
            }
        }
    }
}
