//! The format of a tape: its lines as data, and back. Pure: no files, no clock (C-TAPE-1, C-TAPE-2).
//!
//! The message of a frame is always the last member of its line, so that all the rest can be read without it, and its bytes are a
//! slice of the line: they are copied when they are written, and not even that when they are read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::protocol::message::{Message, ParseError};
use crate::protocol::scan::{DEPTH_MAX, Member, ScanError, Scanner, unescape};

/// The version of the format that is written, and the newest that is read.
pub const VERSION: u64 = 1;

/// Most pointers of [`Frame::redacted`] that are written; of more, only how many they are.
pub const REDACTED_MAX: usize = 32;

// === The header ===

/// The first line of a tape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    #[serde(rename = "shadowcat_tape")]
    version: u64,
    /// When the recording began: RFC 3339, in UTC. [`Frame::at`] counts from here.
    pub started: String,
    /// What made the tape, with its version.
    #[serde(default)]
    pub by: String,
    /// The name of the server behind the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Which sides of the proxy were recorded.
    #[serde(default)]
    pub edges: Vec<Edge>,
    /// How the client spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Transport>,
    /// How the server spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Transport>,
    /// File name of the tape that this one goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<String>,
    /// Which rules of redaction were in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redaction: Vec<String>,
    /// Members that this version does not know, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Why a line is no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It does not say that it is one.
    #[error("not a tape: the first line is no header")]
    NotATape,
    /// A version that is not known.
    #[error("the tape has version {0} and was made by a newer shadowcat: this one reads up to version {VERSION}")]
    Newer(u64),
    /// It says that it is one, and is broken.
    #[error("the header of the tape is broken")]
    Broken,
}

impl Header {
    /// A header of a recording that began at this time, to the millisecond.
    #[must_use]
    pub fn new(started: SystemTime) -> Header {
        Header {
            version: VERSION,
            started: rfc3339(started),
            by: concat!("shadowcat ", env!("CARGO_PKG_VERSION")).to_owned(),
            upstream: None,
            edges: Vec::new(),
            client: None,
            server: None,
            continues: None,
            redaction: Vec::new(),
            extra: Map::new(),
        }
    }

    /// Reads the first line of a tape.
    ///
    /// # Errors
    /// It is no header, or that of a newer version.
    pub fn parse(line: &[u8]) -> Result<Header, HeaderError> {
        let value: Value = serde_json::from_slice(line).map_err(|_| HeaderError::NotATape)?;
        // The version comes first: what else a newer header looks like is not known.
        match value.get("shadowcat_tape").map(Value::as_u64) {
            None => Err(HeaderError::NotATape),
            Some(None | Some(0)) => Err(HeaderError::Broken),
            Some(Some(version)) if version > VERSION => Err(HeaderError::Newer(version)),
            Some(Some(_)) => serde_json::from_value(value).map_err(|_| HeaderError::Broken),
        }
    }

    /// Appends the line, with its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        append(out, self);
        out.push(b'\n');
    }

    /// The version of the format.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// [`started`](Header::started) as a time, if it is one.
    #[must_use]
    pub fn started_at(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.started).ok()
    }
}

/// A time to the millisecond; of one before 1970 or after 9999, the first that there is.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let mut text = String::new();
    match write!(text, "{}", humantime::format_rfc3339_millis(time)) {
        Ok(()) => text,
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

/// A side of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// Between client and proxy.
    Client,
    /// Between proxy and upstream.
    Upstream,
}

/// How somebody speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// Streamable HTTP.
    #[serde(rename = "http")]
    Http,
    /// HTTP+SSE (2024-11-05).
    #[serde(rename = "http+sse")]
    HttpSse,
    /// Standard input and output.
    #[serde(rename = "stdio")]
    Stdio,
    /// In a way that this version does not know.
    #[serde(untagged)]
    Other(String),
}

// === Frames ===

/// What stands between the member before and the value of this one: a name of ours, in which nothing has to be escaped.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// One line of a tape after the header.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Its number in the tape: 1, 2, …
    pub seq: u64,
    /// When: microseconds since the start of the recording, by a clock that is never set. Never less than that of the frame before.
    pub at: u64,
    /// Who said it; `None` where nobody did.
    pub from: Option<Party>,
    /// To whom.
    pub to: Option<Party>,
    /// What it is.
    pub kind: Kind,
    /// What ties an HTTP request to its answer on one edge, or a stream to its GET. None on stdio.
    pub exchange: Option<u64>,
    /// Which connection to the upstream, 1, 2, …; on the edge of the upstream only.
    pub connection: Option<u64>,
    /// Of the HTTP request or response that it came with; on the first frame of either only.
    pub http: Option<Arc<Http>>,
    /// Of the event that it came as, where that had more than data.
    pub sse: Option<Box<Sse>>,
    /// What the proxy's interceptors did with it.
    pub by: Vec<Intervention>,
    /// JSON pointers to what was replaced before it was written.
    pub redacted: Vec<String>,
    /// How much more was replaced.
    pub redacted_more: u64,
    /// Members that this version does not know: names, and JSON text.
    extra: Vec<(String, String)>,
    /// The message, or what should have been one.
    pub body: Option<Body>,
}

/// Who speaks or listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// The client.
    Client,
    /// The proxy.
    Proxy,
    /// The server behind it.
    Upstream,
}

impl Party {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Party::Client => "client",
            Party::Proxy => "proxy",
            Party::Upstream => "upstream",
        }
    }
}

/// What a frame is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A JSON-RPC message, or what should have been one: see [`Frame::body`].
    Message,
    /// An HTTP request or response (or the head of one) without a message.
    Http,
    /// An SSE event without a message.
    Event,
    /// The end of a stream, a connection or a process.
    Close {
        /// Why, in words.
        reason: String,
    },
    /// Frames were lost here.
    Gap {
        /// How many.
        lost: u64,
        /// How many bytes of messages they had.
        bytes: u64,
        /// Why, in words.
        why: String,
    },
    /// The tape was ended in good order. One without it was cut short.
    End {
        /// Why, in words.
        reason: String,
        /// File name of the tape that goes on from here.
        next: Option<String>,
    },
    /// One that this version does not know. It is kept.
    Other(String),
}

impl Kind {
    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Kind::Message => "message",
            Kind::Http => "http",
            Kind::Event => "event",
            Kind::Close { .. } => "close",
            Kind::Gap { .. } => "gap",
            Kind::End { .. } => "end",
            Kind::Other(name) => name,
        }
    }
}

/// How a tape ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was ended in good order.
    Proper {
        /// Why, in words.
        reason: String,
        /// File name of the tape that goes on from there.
        next: Option<String>,
    },
    /// It just stops: it is still being written, or whatever wrote it was.
    CutShort,
    /// It stops in the middle of a line (or of compressed data), which is left out.
    Torn {
        /// How many bytes are left out.
        bytes: u64,
    },
}

/// Facts of an HTTP request or response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Those headers that are recorded, names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Facts of an SSE event beside its data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sse {
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// After how many milliseconds to come back when the stream is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<u64>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What an interceptor did with a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Intervention {
    /// The interceptor.
    pub name: String,
    /// What it did, in a word.
    pub did: String,
    /// For how many milliseconds it held it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// Digest of what there was before, if it was changed: `sha256:` and hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Why a line is no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not UTF-8.
    #[error("not valid UTF-8 at byte {0}")]
    Utf8(usize),
    /// Not a JSON object as it should be.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// More than 4 GiB.
    #[error("far too long for a line")]
    TooLong,
    /// A member that every frame has is missing.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// A member is not what it should be.
    #[error("its `{0}` is not what it should be")]
    Malformed(&'static str),
    /// More than one of `message`, `text` and `base64`.
    #[error("it has two messages")]
    TwoBodies,
}

impl Frame {
    /// A frame with nothing but these.
    #[must_use]
    pub fn new(seq: u64, at: u64, kind: Kind) -> Frame {
        Frame {
            seq,
            at,
            from: None,
            to: None,
            kind,
            exchange: None,
            connection: None,
            http: None,
            sse: None,
            by: Vec::new(),
            redacted: Vec::new(),
            redacted_more: 0,
            extra: Vec::new(),
            body: None,
        }
    }

    /// A message on its way.
    #[must_use]
    pub fn message(seq: u64, at: u64, from: Party, to: Party, bytes: impl Into<Bytes>) -> Frame {
        let body = Some(Body::of(bytes.into()));
        Frame { from: Some(from), to: Some(to), body, ..Frame::new(seq, at, Kind::Message) }
    }

    /// Reads a line, without its end. The bytes of the message are a slice of it.
    ///
    /// # Errors
    /// It is not JSON, has a member twice, or lacks what every frame has.
    pub fn parse(line: &Bytes) -> Result<Frame, FrameError> {
        if u32::try_from(line.len()).is_err() {
            return Err(FrameError::TooLong);
        }
        std::str::from_utf8(line).map_err(|error| FrameError::Utf8(error.valid_up_to()))?;
        let mut scanner = Scanner::new(line, DEPTH_MAX);
        scanner.white();
        let (members, _) = scanner.members(0, "")?;
        scanner.end()?;

        let mut frame = Frame::new(0, 0, Kind::Message);
        let (mut seq, mut at, mut kind) = (None, None, None);
        for member in members.iter() {
            let name = name_of(line, member);
            let value = member.value.of(line);
            match &*name {
                "seq" => seq = Some(read("seq", value)?),
                "at" => at = Some(read("at", value)?),
                "kind" => kind = Some(read::<String>("kind", value)?),
                "from" => frame.from = read("from", value)?,
                "to" => frame.to = read("to", value)?,
                "exchange" => frame.exchange = read("exchange", value)?,
                "connection" => frame.connection = read("connection", value)?,
                "http" => frame.http = read::<Option<Http>>("http", value)?.map(Arc::new),
                "sse" => frame.sse = read("sse", value)?,
                "by" => frame.by = read("by", value)?,
                "redacted" => frame.redacted = read("redacted", value)?,
                "redacted_more" => frame.redacted_more = read("redacted_more", value)?,
                "message" | "text" | "base64" if frame.body.is_some() => return Err(FrameError::TwoBodies),
                "message" => frame.body = Some(Body { form: Form::Json, bytes: line.slice_ref(value) }),
                "text" => {
                    let bytes = read::<String>("text", value)?.into();
                    frame.body = Some(Body { form: Form::Text, bytes });
                }
                "base64" => {
                    let bytes = STANDARD.decode(read::<String>("base64", value)?);
                    let bytes = bytes.map_err(|_| FrameError::Malformed("base64"))?.into();
                    frame.body = Some(Body { form: Form::Base64, bytes });
                }
                _ => frame.extra.push((name, String::from_utf8_lossy(value).into_owned())),
            }
        }
        frame.seq = seq.ok_or(FrameError::Missing("seq"))?;
        frame.at = at.ok_or(FrameError::Missing("at"))?;
        let kind = kind.ok_or(FrameError::Missing("kind"))?;
        frame.kind = frame.kind_called(kind)?;
        Ok(frame)
    }

    /// The kind of this name, with its own members taken out of those that nobody knows.
    fn kind_called(&mut self, name: String) -> Result<Kind, FrameError> {
        let mut take = |name: &str| {
            let at = self.extra.iter().position(|(known, _)| known == name)?;
            Some(self.extra.remove(at).1)
        };
        let word = |field: &'static str, text: Option<String>| {
            text.map_or(Ok(String::new()), |text| read(field, text.as_bytes()))
        };
        let number =
            |field: &'static str, text: Option<String>| text.map_or(Ok(0), |text| read(field, text.as_bytes()));
        Ok(match name.as_str() {
            "message" => Kind::Message,
            "http" => Kind::Http,
            "event" => Kind::Event,
            "close" => Kind::Close { reason: word("reason", take("reason"))? },
            "gap" => Kind::Gap {
                lost: number("lost", take("lost"))?,
                bytes: number("bytes", take("bytes"))?,
                why: word("why", take("why"))?,
            },
            "end" => Kind::End {
                reason: word("reason", take("reason"))?,
                next: take("next").map(|text| read("next", text.as_bytes())).transpose()?,
            },
            _ => Kind::Other(name),
        })
    }

    /// Appends the line, with its end. The bytes of the message are copied as they are.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_with(None, out);
    }

    /// The same, with this text, which is JSON, in place of [`http`](Frame::http).
    pub(crate) fn write_with(&self, http: Option<&[u8]>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"seq\":");
        append(out, &self.seq);
        member(out, key!("at"), &self.at);
        word(out, key!("from"), self.from.map(Party::as_str));
        word(out, key!("to"), self.to.map(Party::as_str));
        match &self.kind {
            Kind::Other(name) => member(out, key!("kind"), name),
            kind => word(out, key!("kind"), Some(kind.as_str())),
        }
        optional(out, key!("exchange"), self.exchange.as_ref());
        optional(out, key!("connection"), self.connection.as_ref());
        match http {
            Some(text) => {
                out.extend_from_slice(key!("http"));
                out.extend_from_slice(text);
            }
            None => optional(out, key!("http"), self.http.as_deref()),
        }
        optional(out, key!("sse"), self.sse.as_ref());
        if !self.by.is_empty() {
            member(out, key!("by"), &self.by);
        }
        if !self.redacted.is_empty() {
            let shown = &self.redacted[..self.redacted.len().min(REDACTED_MAX)];
            member(out, key!("redacted"), shown);
        }
        let more = self.redacted_more.saturating_add(self.redacted.len().saturating_sub(REDACTED_MAX) as u64);
        optional(out, key!("redacted_more"), Some(&more).filter(|more| **more > 0));
        match &self.kind {
            Kind::Message | Kind::Http | Kind::Event | Kind::Other(_) => {}
            Kind::Close { reason } => member(out, key!("reason"), reason),
            Kind::Gap { lost, bytes, why } => {
                member(out, key!("lost"), lost);
                member(out, key!("bytes"), bytes);
                member(out, key!("why"), why);
            }
            Kind::End { reason, next } => {
                member(out, key!("reason"), reason);
                optional(out, key!("next"), next.as_ref());
            }
        }
        for (name, json) in &self.extra {
            out.push(b',');
            append(out, name);
            out.push(b':');
            out.extend_from_slice(json.as_bytes());
        }
        match &self.body {
            None => {}
            Some(Body { form: Form::Json, bytes }) => {
                out.extend_from_slice(key!("message"));
                out.extend_from_slice(bytes);
            }
            Some(Body { form: Form::Text, bytes }) => member(out, key!("text"), &String::from_utf8_lossy(bytes)),
            Some(Body { form: Form::Base64, bytes }) => member(out, key!("base64"), &STANDARD.encode(bytes)),
        }
        out.extend_from_slice(b"}\n");
    }

    /// Which side of the proxy it passed; `None` for what passed neither.
    #[must_use]
    pub fn edge(&self) -> Option<Edge> {
        match (self.from, self.to) {
            (Some(Party::Client), _) | (_, Some(Party::Client)) => Some(Edge::Client),
            (Some(Party::Upstream), _) | (_, Some(Party::Upstream)) => Some(Edge::Upstream),
            _ => None,
        }
    }

    /// Whether it goes the way of requests: from the client, or to the upstream.
    #[must_use]
    pub fn is_upward(&self) -> bool {
        self.from == Some(Party::Client) || self.to == Some(Party::Upstream)
    }

    /// The JSON text of a member that this version does not know.
    #[must_use]
    pub fn extra(&self, name: &str) -> Option<&str> {
        self.extra.iter().find(|(known, _)| known == name).map(|(_, json)| json.as_str())
    }

    /// Adds or replaces a member that this version does not know. One that it does know is left alone.
    pub fn set_extra(&mut self, name: &str, value: &Value) {
        if KNOWN.contains(&name) {
            return;
        }
        self.extra.retain(|(known, _)| known != name);
        self.extra.push((name.to_owned(), value.to_string()));
    }
}

/// The members that some frame has.
const KNOWN: [&str; 20] = [
    "seq",
    "at",
    "from",
    "to",
    "kind",
    "exchange",
    "connection",
    "http",
    "sse",
    "by",
    "redacted",
    "redacted_more",
    "reason",
    "lost",
    "bytes",
    "why",
    "next",
    "message",
    "text",
    "base64",
];

// === The message ===

/// What crossed the wire as one message, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    form: Form,
    bytes: Bytes,
}

/// How the bytes of a message are written on a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are (`message`): one JSON value, without line breaks.
    Json,
    /// As a string (`text`): no JSON, or with line breaks.
    Text,
    /// In Base64 (`base64`): not UTF-8.
    Base64,
}

impl Body {
    /// Finds out how these bytes are written.
    #[must_use]
    pub fn of(bytes: Bytes) -> Body {
        let form = match std::str::from_utf8(&bytes) {
            Err(_) => Form::Base64,
            Ok(_) if is_json_of_one_line(&bytes) => Form::Json,
            Ok(_) => Form::Text,
        };
        Body { form, bytes }
    }

    /// The same for what was read as JSON already, in which there is nothing but one value. That is not looked into again.
    #[must_use]
    pub(crate) fn of_json(bytes: Bytes) -> Body {
        let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| !byte.is_ascii_whitespace());
        let is_one_line = memchr::memchr2(b'\n', b'\r', &bytes).is_none();
        let form = if is_one_line && is_edge(bytes.first()) && is_edge(bytes.last()) { Form::Json } else { Form::Text };
        Body { form, bytes }
    }

    /// As they crossed the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How they are written.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// The message that they are. For a batch (2025-03-26) see [`Incoming`](crate::protocol::message::Incoming).
    ///
    /// # Errors
    /// They are none.
    pub fn message(&self) -> Result<Message, ParseError> {
        Message::parse(self.bytes.clone(), DEPTH_MAX)
    }
}

/// Whether the text is a JSON value from its first byte to its last that can stand in a line. It must be UTF-8.
fn is_json_of_one_line(text: &[u8]) -> bool {
    if u32::try_from(text.len()).is_err() || memchr::memchr2(b'\n', b'\r', text).is_some() {
        return false;
    }
    // In its line it lies one level deeper.
    let mut scanner = Scanner::new(text, DEPTH_MAX);
    scanner.value(1).is_ok() && scanner.pos() == text.len()
}

// === Pieces of a line ===

fn name_of(line: &[u8], member: &Member) -> String {
    let raw = member.key.of(line);
    let plain = || String::from_utf8_lossy(raw).into_owned();
    if member.escaped { unescape(raw).unwrap_or_else(plain) } else { plain() }
}

fn read<'t, T: Deserialize<'t>>(name: &'static str, json: &'t [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(json).map_err(|_| FrameError::Malformed(name))
}

fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Into memory, of types whose keys are strings: nothing can fail.
    let _ = serde_json::to_writer(out, value);
}

fn member<T: Serialize + ?Sized>(out: &mut Vec<u8>, key: &'static [u8], value: &T) {
    out.extend_from_slice(key);
    append(out, value);
}

/// A member whose value is a word of ours.
fn word(out: &mut Vec<u8>, key: &'static [u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }
}

fn optional<T: Serialize>(out: &mut Vec<u8>, key: &'static [u8], value: Option<&T>) {
    if let Some(value) = value {
        member(out, key, value);
    }
}

#[cfg(test)]
mod tests;
