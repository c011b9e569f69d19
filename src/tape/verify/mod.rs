//! A tape as a client: what was asked of a server is asked of another one, and the answers are compared (C-TAPE-5).
//!
//! Requests go out in the order of the tape, each as soon as those are answered that were answered before it. What the server asks
//! in between is answered as it was on the tape.

mod drive;
pub mod report;
mod script;
mod told;
mod update;

use std::time::Duration;

use bytes::Bytes;

use super::compare::{Difference, Rules};
use super::pointer::{NotAPointer, Pointers};
use super::whole::Tape;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::scan::DEPTH_MAX;
use crate::rt::Tasks;
use crate::settings::UpstreamSettings;
pub use told::Told;
pub use update::{Contradiction, Updated};

/// How it is verified.
#[derive(Debug, Clone)]
pub struct Options {
    /// What counts as a difference.
    pub rules: Rules,
    /// How long an answer may take; a notification that the tape has, and that no answer has to wait for, a quarter of that.
    pub patience: Duration,
    /// Notifications are not compared.
    pub only_answers: bool,
}

/// What never counts in what a server says, since it is made up anew with every run: by what requests and questions are called.
///
/// # Errors
/// None in practice.
pub fn names() -> Result<Pointers, NotAPointer> {
    let params = [meta::PROGRESS_TOKEN, meta::ELICITATION_ID].map(|name| format!("/params/{name}"));
    Pointers::parse(["/id"].into_iter().chain(params.iter().map(String::as_str)))
}

/// What does not count unless it is asked for: names and times that are new with every run, and the server's version.
///
/// # Errors
/// None in practice.
pub fn ignored() -> Result<Pointers, NotAPointer> {
    let mut texts: Vec<String> = ["/result/nextCursor", "/result/serverInfo/version"].map(str::to_owned).into();
    texts.push(format!("/params/{}", meta::META));
    texts.extend([meta::TASK_ID, "createdAt", "lastUpdatedAt"].map(|name| format!("/params/{name}")));
    texts.extend([meta::META, meta::REQUEST_STATE, meta::TTL_MS].map(|name| format!("/result/{name}")));
    // A task stands for itself, in an answer that makes it, or in a list.
    for place in ["", "/task", "/tasks/*"] {
        texts.extend([meta::TASK_ID, "createdAt", "lastUpdatedAt"].map(|name| format!("/result{place}/{name}")));
    }
    Ok(names()?.and(Pointers::parse(texts.iter().map(String::as_str))?))
}

/// What came of one request of the tape.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The number of its frame.
    pub seq: u64,
    /// The number of the frame of its answer.
    pub answer_seq: Option<u64>,
    /// Its method.
    pub method: String,
    /// The tool, prompt or resource.
    pub subject: Option<String>,
    /// How the answer compares.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// What was answered.
    pub answer: Option<Message>,
    /// In what the notifications before the answer are not as they were.
    pub told: Vec<Told>,
}

impl Outcome {
    /// Whether there is no difference, or nothing was compared.
    #[must_use]
    pub fn is_same(&self) -> bool {
        matches!(self.verdict, Verdict::Same | Verdict::Skipped(_)) && self.told.is_empty()
    }
}

/// How an answer compares with the recorded one.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing that counts is different.
    Same,
    /// This is.
    Different(Vec<Difference>),
    /// There was none: why.
    NoAnswer(String),
    /// It was not compared: why.
    Skipped(&'static str),
}

/// What came of a tape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// Of each request, in the order of the tape.
    pub outcomes: Vec<Outcome>,
    /// In what that is not as it was which the server told by itself.
    pub told: Vec<Told>,
    /// What the server asked that the tape has no answer to.
    pub questions: Vec<String>,
}

impl Verified {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.questions.is_empty() && self.told.is_empty() && self.outcomes.iter().all(Outcome::is_same)
    }
}

/// Why nothing could be verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The tape has no request that a client made.
    #[error("there is nothing to verify: the tape has no request of a client")]
    NothingToDo,
    /// The server cannot be started or reached.
    #[error("{0}")]
    Server(String),
}

/// Asks a server what the tape's client asked, and compares.
///
/// # Errors
/// The server cannot be started, or there is nothing to ask. Whatever goes wrong after that is an outcome.
///
/// # Cancel safety
/// Dropped, it leaves the server to `tasks`, which stop it.
pub(crate) async fn run(
    tape: &Tape,
    server: &UpstreamSettings,
    options: &Options,
    tasks: &Tasks,
) -> Result<Verified, Failure> {
    let script = script::Script::of(tape).ok_or(Failure::NothingToDo)?;
    drive::drive(&script, server, options, tasks).await
}

/// A message of ours.
fn composed(text: String) -> Option<Message> {
    Message::parse(Bytes::from(text), DEPTH_MAX).ok()
}
