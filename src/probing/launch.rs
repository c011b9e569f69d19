//! Processes of the server, started and asked for who they are.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::heard::Reply;
use super::process::{Broken, Client, Process, Steps};
use super::words::{self, Introduction, Request};
use super::{Failure, Plan};
use crate::metrics::{Metrics, ServerMetrics};
use crate::protocol::message::Message;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::rt::Tasks;
use crate::settings::{Limits, Timeouts};
use crate::upstream::probe::{self, Verdict};
use crate::upstream::stdio::StdioPipe;

/// Starts processes.
pub(super) struct Launcher<'a> {
    plan: &'a Plan,
    tasks: &'a Tasks,
    limits: Limits,
    timeouts: Timeouts,
    metrics: ServerMetrics,
}

/// A process that has introduced itself.
pub(super) struct Opened {
    pub(super) process: Process,
    pub(super) introduction: Introduction,
    /// From its start to its first answer.
    pub(super) took: Duration,
}

/// Which eras the first process was found to speak.
pub(super) struct Spoken {
    /// The versions that it listed; `None` if it has a handshake only.
    pub(super) versions: Option<Vec<String>>,
    /// From its start to its first answer; `None` where it had to be asked twice.
    pub(super) took: Option<Duration>,
    /// It; `None` if it did not survive the question.
    pub(super) process: Option<Process>,
}

impl<'a> Launcher<'a> {
    pub(super) fn new(plan: &'a Plan, tasks: &'a Tasks) -> Launcher<'a> {
        Launcher {
            plan,
            tasks,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            metrics: Arc::new(Metrics::new()).server(&plan.target.program),
        }
    }

    /// Dropped before it is done, it leaves no process.
    async fn start(&self, era: Era, client: Client) -> Result<Process, Failure> {
        let (started, steps) = (Instant::now(), Arc::new(Steps::default()));
        let pipe = StdioPipe::start(
            &self.plan.target,
            &self.limits,
            &self.timeouts,
            self.tasks,
            &self.metrics,
            Arc::<Steps>::clone(&steps),
        );
        let pipe = pipe.await.map_err(|error| Failure::Start(chain(&error)))?;
        Ok(Process::new(pipe, started, era, client, self.limits.depth, steps))
    }

    /// Asks a first process what it speaks. One that keeps silent is asked for a handshake as well: it may be old, or slow.
    ///
    /// # Errors
    /// It answers nothing at all, or cannot be started.
    pub(super) async fn ask_era(&self) -> Result<Spoken, Failure> {
        let mut process = self.start(Era::Legacy, Client::Nobody).await?;
        match self.first_answer(&mut process).await {
            Ok(Some((verdict, took))) => {
                let versions = match verdict {
                    Verdict::Modern(versions) => Some(versions),
                    Verdict::Legacy => None,
                };
                Ok(Spoken { versions, took, process: Some(process) })
            }
            Ok(None) => Err(self.silent(process, Known::Initialize).await),
            // Old servers die of a question that they do not know. Whether this is one, the next process shows.
            Err(_) => {
                process.bury().await;
                Ok(Spoken { versions: None, took: None, process: None })
            }
        }
    }

    async fn first_answer(&self, process: &mut Process) -> Result<Option<(Verdict, Option<Duration>)>, Broken> {
        let deadline = process.started + self.plan.patience;
        let discover = (process.send(&Request::new(Known::Discover, Value::Null)), Known::Discover);
        let first =
            process.await_any(&[discover], process.started + self.timeouts.probe.min(self.plan.patience / 2)).await?;
        if let Some((_, reply)) = first {
            return Ok(Some((judge(&reply), Some(process.started.elapsed()))));
        }
        let initialize = (process.send(&Request::initialize(false)), Known::Initialize);
        let second = process.await_any(&[discover, initialize], deadline).await?;
        Ok(second.map(|(id, reply)| match id == discover.0 {
            true => (judge(&reply), Some(process.started.elapsed())),
            false => (Verdict::Legacy, None),
        }))
    }

    /// Starts a process and has it introduce itself.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn open(&self, era: Era, client: Client) -> Result<Opened, Failure> {
        let mut process = self.start(era, client).await?;
        let request = match era {
            Era::Legacy => Request::initialize(client == Client::StandIn),
            Era::Modern => Request::new(Known::Discover, Value::Null),
        };
        let deadline = process.started + self.plan.patience;
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match process.ask(&request, left).await {
            Ok(Reply::Result(result)) => {
                let introduction = Introduction::of(&serde_json::from_str(&result).unwrap_or_default(), era);
                if !introduction.revision.is_empty() {
                    let took = process.started.elapsed();
                    if era == Era::Legacy {
                        process.tell(words::initialized());
                    }
                    return Ok(Opened { process, introduction, took });
                }
                "its result names no revision".to_owned()
            }
            Ok(Reply::Error(error)) => words::printable(&error),
            Ok(Reply::Malformed) => "its answer is no JSON-RPC message".to_owned(),
            Ok(Reply::Silence) => return Err(self.silent(process, request.method).await),
            Err(broken) => {
                let (why, words) = process.autopsy(&broken.why).await;
                return Err(Failure::Ended { why, words });
            }
        };
        Err(Failure::Refused { question: request.method.as_str(), error, words: process.bury().await })
    }

    async fn silent(&self, process: Process, question: Known) -> Failure {
        let words = process.bury().await;
        Failure::Silent { question: question.as_str(), patience: self.plan.patience, words }
    }
}

/// What the answer to `server/discover` says.
fn judge(reply: &Reply) -> Verdict {
    let answer = match reply {
        Reply::Result(text) => format!(r#"{{"jsonrpc":"2.0","id":1,"result":{text}}}"#),
        Reply::Error(text) => format!(r#"{{"jsonrpc":"2.0","id":1,"error":{text}}}"#),
        Reply::Malformed | Reply::Silence => return Verdict::Legacy,
    };
    Message::parse(answer.into(), Limits::default().depth).map_or(Verdict::Legacy, |answer| probe::judge(&answer))
}

/// Whether one of these versions has a handshake.
pub(super) fn has_handshake(versions: &[String]) -> bool {
    versions.iter().any(|version| Revision::parse(version).is_some_and(|revision| revision.era() == Era::Legacy))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
