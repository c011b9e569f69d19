//! The vocabulary of misbehaviour: one for stdio and HTTP, always at a given place, never by chance.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::incoming::Incoming;
use super::plan::Occasion;

mod detail;

pub use self::detail::{At, BodyEnd, End, EventId, LineEnd, OnCancel, When, WrongId};

/// One fault: when, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it happens.
    pub on: On,
    /// What happens.
    #[serde(rename = "do")]
    pub fault: Do,
}

/// When a fault happens. Everything that is given has to fit; nothing given fits every message (over HTTP: every request).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct On {
    /// When the process starts, before anything is read. Only over stdio.
    pub start: bool,
    /// On a message with this JSON-RPC method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// On a call of this tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// On an HTTP request of this kind: `GET`, `POST` or `DELETE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Only on the nth that fits, counted from 1; without it on each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
}

impl On {
    /// When the process starts.
    #[must_use]
    pub fn start() -> On {
        On { start: true, ..On::default() }
    }

    /// On each call of a tool.
    #[must_use]
    pub fn tool(name: &str) -> On {
        On { tool: Some(name.into()), ..On::default() }
    }

    /// On each message with a method.
    #[must_use]
    pub fn method(name: &str) -> On {
        On { method: Some(name.into()), ..On::default() }
    }

    /// On each HTTP request of a kind.
    #[must_use]
    pub fn http(kind: &str) -> On {
        On { http: Some(kind.into()), ..On::default() }
    }

    /// Only the nth time, counted from 1.
    #[must_use]
    pub fn nth(self, nth: u64) -> On {
        On { nth: Some(nth), ..self }
    }

    pub(crate) fn fits(&self, occasion: Occasion<'_>) -> bool {
        fn same(want: &Option<String>, have: Option<&str>) -> bool {
            want.as_deref().is_none_or(|want| have == Some(want))
        }
        let message = occasion.message;
        self.start == occasion.start
            && same(&self.method, message.map(|message| message.method.as_str()))
            && same(&self.tool, message.and_then(Incoming::tool))
            && self.http.as_deref().is_none_or(|want| occasion.http.is_some_and(|have| have.eq_ignore_ascii_case(want)))
    }
}

/// What goes wrong.
///
/// In JSON: the name alone (`"hang"`) where there is nothing to say, else an object (`{"delay": {"ms": 200}}`).
/// Where a transport is named, the fault exists there only. "The answer" is the answer to the message the fault is on;
/// over SSE it includes the events before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Do {
    /// The process ends, before anything is said about the message or after its answer. Over HTTP the server goes down.
    Exit {
        /// The exit code.
        #[serde(default = "one_u8")]
        code: u8,
        /// Before or after the answer.
        #[serde(default)]
        when: When,
    },
    /// Waits before anything is done.
    Delay {
        /// How long.
        ms: u64,
    },
    /// Waits between what is done and the answer to it.
    Late {
        /// How long.
        ms: u64,
    },
    /// Writes text that is not part of the protocol (a banner, log lines, any bytes) before the answer.
    Print {
        /// The text.
        text: String,
        /// How often.
        #[serde(default = "one")]
        times: u64,
        /// Whether a newline follows each time.
        #[serde(default = "yes")]
        newline: bool,
    },
    /// Writes so much to stderr before the answer. Stdio.
    Stderr {
        /// How much.
        bytes: u64,
        /// In lines, or as one endless one.
        #[serde(default = "yes")]
        newlines: bool,
    },
    /// Goes on living when stdin ends. Stdio, at the start.
    IgnoreEof,
    /// Goes on living when asked to terminate (SIGTERM). Stdio, at the start.
    IgnoreTerm,
    /// Reads nothing more. Stdio.
    StopReading,
    /// Starts a process that holds stdin, stdout and stderr open for so long, whatever becomes of this one. Stdio, Unix.
    Grandchild {
        /// How long.
        seconds: u32,
    },
    /// Never answers the message; over HTTP not even with headers.
    Hang,
    /// The answer has another id.
    Id(WrongId),
    /// The answer comes twice; over SSE as the same event with the same event id.
    Duplicate,
    /// The answer has both a result and an error.
    ResultAndError,
    /// Progress for the message follows its answer (if it had a token).
    LateProgress,
    /// A message of any kind follows the answer: what a server says when nobody asks.
    Aside {
        /// The message.
        text: String,
        /// How often.
        #[serde(default = "one")]
        times: u64,
    },
    /// What becomes of the message when it is cancelled.
    Cancel(OnCancel),
    /// Log notifications before the answer, whether wanted or not.
    Flood {
        /// How many.
        count: u64,
        /// How long the text in each is.
        #[serde(default = "hundred")]
        bytes: usize,
    },
    /// Falls silent within the answer and stays so; over stdio for good, over HTTP for this response.
    Stall(At),
    /// Ends the output within the answer: closes stdout, or the connection.
    Cut {
        /// Where; without it before anything at all is said (over HTTP: before the headers).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<At>,
        /// How. Over stdio all are the same.
        #[serde(default)]
        end: End,
    },
    /// Writes the answer in pieces. At the start: everything.
    Slice {
        /// Size of a piece.
        #[serde(default = "one_usize")]
        bytes: usize,
        /// Wait after each piece.
        #[serde(default)]
        gap_ms: u64,
        /// Over HTTP: whether status and headers come in such pieces too.
        #[serde(default)]
        head: bool,
    },
    /// A line (over SSE an event) of this size before the answer.
    Huge {
        /// How long.
        bytes: usize,
        /// Whether it ever ends.
        #[serde(default = "yes")]
        newline: bool,
    },
    /// The answer holds a byte that is not UTF-8.
    InvalidUtf8,
    /// Lines of the answer end in something else than LF. At the start: all lines.
    LineEnd(LineEnd),
    /// A byte order mark at the beginning of the answer, over HTTP of the body. At the start: of the output.
    Bom,
    /// Answers with this status instead. HTTP.
    Status {
        /// The status code.
        code: u16,
        /// Headers, for example `Retry-After`, `Location`, `WWW-Authenticate`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// The right answer under this `Content-Type`. HTTP.
    ContentType(String),
    /// The right answer with a header of so many bytes more. HTTP.
    Header {
        /// How many.
        bytes: usize,
        /// Whether such headers go on for as long as anybody reads, and nothing comes after them.
        #[serde(default)]
        endless: bool,
    },
    /// The right answer compressed, whether the client accepts that or not. HTTP.
    Gzip,
    /// The end of the body is told in another way than by `Content-Length` (JSON) or chunks (SSE). HTTP.
    BodyEnd(BodyEnd),
    /// Waits before the response ends, be it as it should or by a `cut`: all has been said, and the connection stays. HTTP.
    Linger {
        /// How long.
        ms: u64,
    },
    /// The session is forgotten before the request is looked at. HTTP.
    ForgetSession,
    /// A `retry:` field with this text before the answer. SSE.
    Retry(String),
    /// Events have other ids than they should. SSE, legacy.
    EventId {
        /// Which.
        id: EventId,
        /// From the event of this number on: 0 is the one that only sets the id, 1 the first with a message.
        #[serde(default)]
        from: u64,
    },
    /// An event with an id and no data, then the end; the answer is there for whoever resumes. SSE, legacy.
    Poll {
        /// A `retry:` field that goes before the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
    },
    /// Comment lines before the answer. SSE.
    Comments {
        /// How many.
        count: u64,
        /// How long each is.
        #[serde(default)]
        bytes: usize,
    },
    /// A resumed stream is given from its beginning, not from where it broke off. HTTP, on a GET.
    ReplayAll,
}

fn one() -> u64 {
    1
}
fn one_u8() -> u8 {
    1
}
fn one_usize() -> usize {
    1
}
fn hundred() -> usize {
    100
}
fn yes() -> bool {
    true
}

/// How a fake server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Stdio,
    Http,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Stdio => "stdio",
            Transport::Http => "HTTP",
        }
    }
}

impl Do {
    /// Its name in a script.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Do::Exit { .. } => "exit",
            Do::Delay { .. } => "delay",
            Do::Late { .. } => "late",
            Do::Print { .. } => "print",
            Do::Stderr { .. } => "stderr",
            Do::IgnoreEof => "ignore_eof",
            Do::IgnoreTerm => "ignore_term",
            Do::StopReading => "stop_reading",
            Do::Grandchild { .. } => "grandchild",
            Do::Hang => "hang",
            Do::Id(_) => "id",
            Do::Duplicate => "duplicate",
            Do::ResultAndError => "result_and_error",
            Do::LateProgress => "late_progress",
            Do::Aside { .. } => "aside",
            Do::Cancel(_) => "cancel",
            Do::Flood { .. } => "flood",
            Do::Stall(_) => "stall",
            Do::Cut { .. } => "cut",
            Do::Slice { .. } => "slice",
            Do::Huge { .. } => "huge",
            Do::InvalidUtf8 => "invalid_utf8",
            Do::LineEnd(_) => "line_end",
            Do::Bom => "bom",
            Do::Status { .. } => "status",
            Do::ContentType(_) => "content_type",
            Do::Header { .. } => "header",
            Do::Gzip => "gzip",
            Do::BodyEnd(_) => "body_end",
            Do::Linger { .. } => "linger",
            Do::ForgetSession => "forget_session",
            Do::Retry(_) => "retry",
            Do::EventId { .. } => "event_id",
            Do::Poll { .. } => "poll",
            Do::Comments { .. } => "comments",
            Do::ReplayAll => "replay_all",
        }
    }

    /// Whether a transport can have it, at the start or on a message.
    pub(crate) fn possible(&self, transport: Transport, start: bool) -> bool {
        match (transport, start, self) {
            (Transport::Http, true, _) => false,
            (Transport::Stdio, true, fault) => matches!(
                fault,
                Do::Exit { .. }
                    | Do::Delay { .. }
                    | Do::Print { .. }
                    | Do::Stderr { .. }
                    | Do::IgnoreEof
                    | Do::IgnoreTerm
                    | Do::StopReading
                    | Do::Grandchild { .. }
                    | Do::Cut { .. }
                    | Do::Slice { .. }
                    | Do::Huge { .. }
                    | Do::LineEnd(_)
                    | Do::Bom
            ),
            (Transport::Stdio, false, fault) => !matches!(
                fault,
                Do::IgnoreEof
                    | Do::IgnoreTerm
                    | Do::Status { .. }
                    | Do::ContentType(_)
                    | Do::Header { .. }
                    | Do::Gzip
                    | Do::BodyEnd(_)
                    | Do::Linger { .. }
                    | Do::ForgetSession
                    | Do::Retry(_)
                    | Do::EventId { .. }
                    | Do::Poll { .. }
                    | Do::Comments { .. }
                    | Do::ReplayAll
            ),
            (Transport::Http, false, fault) => !matches!(
                fault,
                Do::IgnoreEof | Do::IgnoreTerm | Do::StopReading | Do::Grandchild { .. } | Do::Stderr { .. }
            ),
        }
    }
}
