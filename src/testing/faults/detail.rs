//! What faults have to say about themselves: where, and in which way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place in an answer: after so many whole messages (over SSE: events), and so many bytes of the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct At {
    /// Whole messages. The event that only sets an id is not counted.
    pub events: u64,
    /// Bytes of the next. Below zero: so many before its end, so that -1 is before the line end that makes it whole. What lies
    /// beyond its end is its end.
    pub bytes: i64,
}

impl At {
    /// The place in a message of this length.
    pub(crate) fn within(self, length: usize) -> usize {
        let bytes = usize::try_from(self.bytes.unsigned_abs()).unwrap_or(usize::MAX);
        if self.bytes < 0 { length.saturating_sub(bytes) } else { bytes.min(length) }
    }
}

/// How a connection ends that is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The connection is closed, and the body is short of what was announced: of its length, or of its last chunk.
    #[default]
    Abrupt,
    /// The connection is closed in the middle of a chunk. A body without chunks ends as by `abrupt`.
    MidChunk,
    /// The body ends as if all had been said.
    Clean,
    /// The connection is reset.
    Reset,
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BodyEnd {
    /// By a last chunk.
    Chunked,
    /// By the end of the connection.
    Close,
    /// By a `Content-Length` of so many bytes, whether they are so many or not.
    Length(u64),
}

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineEnd {
    /// In CR LF.
    Crlf,
    /// In CR alone. Over stdio, where only LF ends a line, none ends.
    Cr,
}

/// How the id of an event is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventId {
    /// It is not there; the event that only sets it is left out.
    Missing,
    /// It is there and empty: the client is to forget the one it has.
    Empty,
    /// It is that of the first event that is concerned.
    Same,
}

/// Before or after the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before anything is said.
    #[default]
    Before,
    /// After the answer has been written.
    After,
}

/// How an id is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WrongId {
    /// One nobody used.
    Unknown,
    /// The right one as the other type: `"1"` for `1`.
    Retyped,
    /// `null`.
    Null,
    /// None at all.
    Missing,
}

/// What becomes of a message that is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnCancel {
    /// It runs on and is answered in its own time.
    Ignore,
    /// It ends, and is answered all the same.
    Answer,
}
