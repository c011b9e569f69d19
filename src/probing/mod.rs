//! May sessions share one process of a server? Tried out, with real processes.
//!
//! The server is started a few times. Some processes serve one session, others two that take turns; both look at the same
//! things, and what they see is compared. Further processes show what the server asks its client, how it starts and how it ends.
//! What is seen goes to [`judge`], which knows nothing of processes; what it finds is a [`Report`].
//!
//! Everything is bounded: pages, tools, what is kept of answers, and the time for each request.

use std::time::Duration;

use serde_json::Value;

mod heard;
pub(crate) mod judge;
mod kin;
mod launch;
mod look;
mod manners;
mod process;
mod trial;
mod words;

pub(crate) use kin::Memory;
pub(crate) use trial::run;

use crate::settings::StdioTarget;
use judge::Judgement;
use judge::observed::Ended;

/// What is to be tried.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The server.
    pub(crate) target: StdioTarget,
    /// How long it may take to start, and to answer a call that was asked for.
    pub(crate) patience: Duration,
    /// Calls that were asked for.
    pub(crate) calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolCall {
    pub(crate) name: String,
    /// An object.
    pub(crate) arguments: Value,
}

/// What was found out about a server.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) server: Server,
    /// From starting a process to its first answer: of the first process and of a second one. `None` where the first answer
    /// had to be waited for in vain, or there was no second process.
    pub(crate) startup: [Option<Duration>; 2],
    /// Of two processes that were there at the same time, after they had been used; empty where it cannot be seen.
    pub(crate) memory: Vec<Memory>,
    /// How many lists were read.
    pub(crate) lists: usize,
    pub(crate) judgement: Judgement,
    /// Where a process ended by itself, which ended the trial.
    pub(crate) ended: Option<Ended>,
}

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) speaks: Speaks,
    /// The revisions that it is known to speak.
    pub(crate) revisions: Vec<String>,
}

/// The eras that a server speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Speaks {
    #[default]
    Legacy,
    Modern,
    Both,
}

impl Speaks {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Speaks::Legacy => "legacy",
            Speaks::Modern => "modern",
            Speaks::Both => "both",
        }
    }
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It cannot be started.
    #[error("the server cannot be started: {0}")]
    Start(String),
    /// It ended, or broke off, before it had answered.
    #[error("{why}; it had not answered yet")]
    Ended {
        why: String,
        /// The last of its standard error.
        words: String,
    },
    /// It does not answer.
    #[error("the server did not answer `{question}` within {}", humantime::format_duration(*.patience))]
    Silent { question: &'static str, patience: Duration, words: String },
    /// It refuses the handshake.
    #[error("the server cannot be spoken to: `{question}`: {error}")]
    Refused { question: &'static str, error: String, words: String },
    /// It answers, but so slowly that the trial has no end.
    #[error("the server is so slow that it was not done within {}", humantime::format_duration(*.0))]
    TooLong(Duration),
    /// It worked, but not a second time beside itself.
    #[error("the server works, but a further process beside the first does not: {0}")]
    Further(Box<Failure>),
    /// It has no such tool.
    #[error("the server has no tool `{name}`; it has {known}")]
    NoSuchTool { name: String, known: String },
}

impl Failure {
    /// The last of the server's standard error.
    pub(crate) fn last_words(&self) -> &str {
        match self {
            Failure::Ended { words, .. } | Failure::Silent { words, .. } | Failure::Refused { words, .. } => words,
            Failure::Further(failure) => failure.last_words(),
            Failure::Start(_) | Failure::TooLong(_) | Failure::NoSuchTool { .. } => "",
        }
    }
}

/// What is being done, for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Starting,
    Alone,
    Shared,
    Again,
    Asking,
    Stopping,
}

impl Stage {
    /// As it is shown.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Stage::Starting => "starting the server, and asking which revision it speaks",
            Stage::Alone => "trying a process with one session",
            Stage::Shared => "trying a process with two sessions",
            Stage::Again => "trying again what differed",
            Stage::Asking => "trying a process whose client can be asked",
            Stage::Stopping => "waiting for the processes to end",
        }
    }
}
