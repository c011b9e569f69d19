//! What a process says: answers, and what was not asked for.

use super::judge::content::Content;
use super::judge::observed::{Answer, Questions};
use super::words;

/// What a process said that was no answer to a request.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) questions: Questions,
    /// Log messages.
    pub(super) logs: u64,
    /// URIs of changed resources, the first of them.
    pub(super) updates: Vec<String>,
    /// Answers under ids that were never used, and answers for a second time.
    pub(super) unknown: u64,
    pub(super) repeated: u64,
    /// Lines in a row that are no messages.
    pub(super) junk: u64,
}

/// What came back for a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    /// The text of the result.
    Result(String),
    /// The text of the error.
    Error(String),
    /// Something under the right id that is no answer.
    Malformed,
    /// Nothing in time.
    Silence,
}

impl Reply {
    /// The result as a value; `None` if there is none.
    pub(super) fn result(&self) -> Option<serde_json::Value> {
        match self {
            Reply::Result(text) => serde_json::from_str(text).ok(),
            _ => None,
        }
    }

    /// What is kept of it; `room` bytes may be.
    pub(super) fn to_answer(&self, room: usize) -> Answer {
        match self {
            Reply::Result(text) if self.result().is_some_and(|result| words::is_tool_failure(&result)) => {
                Answer::Failure(Content::of(text, room))
            }
            Reply::Result(text) => Answer::Result(Content::of(text, room)),
            Reply::Error(text) => Answer::Failure(Content::of(text, room)),
            Reply::Malformed => Answer::Malformed,
            Reply::Silence => Answer::Silence,
        }
    }
}
