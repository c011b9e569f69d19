//! Making a connection: a process or an HTTP session, and the first words with it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::HeaderMap;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};

use super::alike::Alike;
use super::key::Key;
use crate::bridge::handshake::{Handshake, initialized};
use crate::metrics::ServerMetrics;
use crate::pool::ledger::Pooled;
use crate::pool::{Connect, Failure, Place};
use crate::protocol::message::{Kind, Message};
use crate::rt::Tasks;
use crate::rt::mailbox::Reader;
use crate::settings::{Isolation, Limits, Target, Timeouts, UpstreamSettings};
use crate::tap::Tap;
use crate::upstream::driver::{self, CallFacts, DriverLimits, Pipe, Sharing};
use crate::upstream::error::UpstreamError;
use crate::upstream::probe::{self, Verdict};
use crate::upstream::stdio::StdioPipe;
use crate::upstream::streamable::HttpUpstream;
use crate::upstream::tape::TapePipe;
use crate::upstream::tapped;
use crate::upstream::{Call, Connection, Replies};

/// Most messages that are kept which the server sends before it has answered the handshake.
const EARLY_MAX: usize = 64;

/// Our own questions: their answers are all that matters.
const QUIET: CallFacts = CallFacts { may_ask: false, wants_log: false, cancellable: false };

/// Why a connection cannot be made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StartError {
    /// It cannot be started or reached.
    Start(UpstreamError),
    /// It did not answer the first question.
    Unanswered(UpstreamError),
    /// The server refuses the handshake: its answer.
    Refused(Box<Message>),
}

/// A pooled connection. Dropping it closes the connection, whoever else holds a clone.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// What the server says by itself.
    pub(crate) standing: Reader<Message>,
    /// What it said before it had answered the handshake.
    pub(crate) early: Vec<Message>,
    /// The result of the handshake.
    pub(crate) answer: Option<Message>,
    /// The answer to the question for its era.
    pub(crate) verdict: Option<Verdict>,
    /// The least level of log messages that it was asked for, if any.
    pub(crate) level: Option<Box<str>>,
    completed: Arc<AtomicBool>,
}

/// In a box, since it changes hands many times.
impl Pooled for Box<Link> {
    fn is_usable(&self) -> bool {
        !self.connection.gone().is_cancelled()
    }

    fn is_quiescent(&self) -> bool {
        self.connection.is_quiescent()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.close();
    }
}

/// Whether the server knows that the handshake is complete. Clones share it.
#[derive(Clone)]
pub(crate) struct Completion {
    connection: Connection,
    completed: Arc<AtomicBool>,
}

impl Completion {
    /// Tells the server, if it has not been told.
    pub(crate) async fn complete(&self) -> Result<(), UpstreamError> {
        if self.is_complete() {
            return Ok(());
        }
        self.complete_with(&initialized()).await
    }

    /// Tells the server in the client's own words, if it has not been told.
    pub(crate) async fn complete_with(&self, notification: &Message) -> Result<(), UpstreamError> {
        if self.completed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.connection.send(notification).await
    }

    /// Whether it has been told, or is being told.
    pub(crate) fn is_complete(&self) -> bool {
        self.completed.load(Ordering::Relaxed)
    }
}

impl Link {
    pub(super) fn new(connection: Connection, standing: Reader<Message>) -> Link {
        Link {
            connection,
            standing,
            early: Vec::new(),
            answer: None,
            verdict: None,
            level: None,
            completed: Arc::default(),
        }
    }

    /// Whether the server has been told, or is being told, that the handshake is complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.completed.load(Ordering::Relaxed)
    }

    /// The end of the handshake, which is the client's to say where the handshake is the client's.
    pub(crate) fn completion(&self) -> Completion {
        Completion { connection: self.connection.clone(), completed: Arc::clone(&self.completed) }
    }

    /// Makes the handshake (2025-11-25, Lifecycle › Initialization).
    pub(super) async fn shake_hands(
        &mut self,
        handshake: &Handshake,
        headers: &HeaderMap,
        answers: &Alike<Message>,
        deadline: Instant,
    ) -> Result<(), StartError> {
        let id = self.connection.next_id();
        let request = handshake.request(id);
        let facts = CallFacts { wants_log: true, ..QUIET };
        let answered = timeout_at(deadline, async {
            let call = Call { id, message: &request, facts, headers: headers.clone() };
            let mut replies = self.connection.call(call).await?;
            loop {
                // Until the handshake is done nothing but its answer goes to the client.
                let message = tokio::select! {
                    reply = replies.next() => reply.unwrap_or(Err(UpstreamError::Lost { sent: true }))?,
                    Some(message) = self.standing.next() => message,
                };
                match message.kind() {
                    Kind::Result | Kind::Error => break Ok(message),
                    // More than this nobody says before it has been greeted.
                    _ if self.early.len() < EARLY_MAX => self.early.push(message),
                    _ => {}
                }
            }
        });
        let late = UpstreamError::Timeout { sent: true };
        let answer = answered.await.unwrap_or(Err(late)).map_err(StartError::Unanswered)?;
        if answer.kind() == Kind::Error {
            return Err(StartError::Refused(Box::new(answer)));
        }
        let same = |known: &Message, this: &Message| known.text() == this.text();
        self.answer = Some(answers.one(answer.detached(), answer.text().len(), same));
        Ok(())
    }

    /// Sends a request of the proxy's own, and waits for its answer.
    pub(crate) async fn ask(&self, message: &Message, id: i64, deadline: Instant) -> Result<Message, UpstreamError> {
        ask(&self.connection, message, id, &HeaderMap::new(), deadline).await
    }
}

/// Sends a request of the proxy's own, and waits for its answer.
pub(crate) async fn ask(
    connection: &Connection,
    message: &Message,
    id: i64,
    headers: &HeaderMap,
    deadline: Instant,
) -> Result<Message, UpstreamError> {
    let asked = async {
        let call = Call { id, message, facts: QUIET, headers: headers.clone() };
        answer_of(connection.call(call).await?).await
    };
    timeout_at(deadline, asked).await.unwrap_or(Err(UpstreamError::Timeout { sent: true }))
}

async fn answer_of(mut replies: Replies) -> Result<Message, UpstreamError> {
    while let Some(reply) = replies.next().await {
        let message = reply?;
        if matches!(message.kind(), Kind::Result | Kind::Error) {
            return Ok(message);
        }
    }
    Err(UpstreamError::Lost { sent: true })
}

/// Starts the connections of one upstream.
#[derive(Clone)]
pub(crate) struct Starter {
    pub(super) settings: UpstreamSettings,
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
    pub(super) tasks: Tasks,
    pub(super) metrics: ServerMetrics,
    pub(super) http: Option<Arc<HttpUpstream>>,
    pub(super) tap: Option<Arc<Tap>>,
    pub(super) answers: Arc<Alike<Message>>,
}

/// How long after one was taken another spare is started, unless somebody waits: whoever took it is about to use it, and to start a
/// process takes more of the machine than that.
const SPARE_PAUSE: Duration = Duration::from_millis(10);

impl Starter {
    /// Makes a connection on which nothing has been said yet, within the time that a start may take.
    ///
    /// # Cancel safety
    /// Dropped, or out of time, it leaves nothing but the place, until nothing is left of the process.
    async fn open(&self, key: &Key, place: Place) -> Result<Link, UpstreamError> {
        if self.tasks.drain().is_cancelled() {
            return Err(UpstreamError::Closed { sent: false });
        }
        match &self.settings.target {
            Target::Stdio(target) => {
                let (made, link) = oneshot::channel();
                let (starter, target) = (self.clone(), target.clone());
                // A task of its own, since a process that is being started cannot be called back, and has a place until it is
                // gone (C-POOL-12). A link that nobody waits for any more is dropped, which ends its process.
                self.tasks.spawn("child-start", async move {
                    let Starter { limits, timeouts, tasks, metrics, .. } = &starter;
                    let pipe = StdioPipe::spawn(&target, limits, timeouts, tasks, metrics).await;
                    let _ = made.send(pipe.map(|pipe| starter.drive(pipe, "child-driver", place)));
                });
                match timeout(self.timeouts.start, link).await {
                    Ok(link) => link.unwrap_or(Err(UpstreamError::Closed { sent: false })),
                    Err(_) => Err(UpstreamError::Timeout { sent: false }),
                }
            }
            Target::Tape(tape) => {
                // Of those who come without a handshake of their own, none is who the tape was made for.
                let transposed = key.handshake().is_some_and(|(handshake, _)| handshake.is_of_bridge());
                Ok(self.drive(TapePipe::new(tape, transposed, self.limits.message_bytes), "tape-player", place))
            }
            Target::Http(_) => {
                let (connection, standing, task) = self.http()?.legacy();
                self.tasks.spawn(
                    "upstream-session",
                    task.map(move |()| {
                        let mut place = place;
                        // A session costs nothing to be opened again.
                        place.worked();
                    }),
                );
                Ok(Link::new(Connection::Http(connection), standing))
            }
        }
    }

    fn drive(&self, pipe: impl Pipe, name: &'static str, place: Place) -> Link {
        let limits = DriverLimits { depth: self.limits.depth, message_bytes: self.limits.message_bytes };
        let stop = self.tasks.stop().clone();
        let (writer, standing) = driver::standing();
        let line = self.tap.as_ref().and_then(|tap| tap.line());
        let (handle, task) = tapped::drive(pipe, line, writer, Sharing::Exclusive, limits, self.metrics.clone(), stop);
        // Only after this is the process gone: until then it counts (C-POOL-12).
        let reaped = task.map(move |worked| {
            let mut place = place;
            if worked {
                place.worked();
            }
        });
        self.tasks.spawn(name, reaped);
        Link::new(Connection::Driven(handle), standing)
    }

    pub(super) fn http(&self) -> Result<&Arc<HttpUpstream>, UpstreamError> {
        self.http
            .as_ref()
            .ok_or_else(|| UpstreamError::Unreachable("its URL or the system's certificates cannot be used".into()))
    }

    /// Asks for the era, on a process that may not survive the question.
    async fn judge(&self, link: &Link, deadline: Instant) -> Result<Verdict, UpstreamError> {
        let id = link.connection.next_id();
        let question = Message::parse(Bytes::from(probe::question(id)), self.limits.depth)
            .map_err(|_| UpstreamError::Violation("the question is no message"))?;
        Ok(probe::judge(&link.ask(&question, id, deadline).await?))
    }

    async fn start(
        &self,
        key: &Key,
        place: Place,
        needed: impl Future<Output = ()> + Send,
    ) -> Result<Link, StartError> {
        let mut needed = pin!(needed);
        let mut is_needed = false;
        if *key == Key::Spare {
            tokio::select! {
                biased;
                () = &mut needed => is_needed = true,
                () = sleep(SPARE_PAUSE) => {}
            }
        }
        let begun = Instant::now();
        let mut link = self.open(key, place).await.map_err(StartError::Start)?;
        match key {
            Key::Spare if is_needed => {}
            Key::Spare => {
                // A ping is the one thing that may be said before the handshake (2025-11-25, Lifecycle). Whatever it answers,
                // it is there; one that keeps silent is taken to be, after the time that a start may take, or when it is needed.
                let id = link.connection.next_id();
                let ping = crate::bridge::handshake::ping(id);
                tokio::select! {
                    biased;
                    answer = link.ask(&ping, id, begun + self.timeouts.start) => match answer {
                        Ok(_) | Err(UpstreamError::Timeout { .. }) => {}
                        Err(error) => return Err(StartError::Unanswered(error)),
                    },
                    () = needed => {}
                }
            }
            Key::Probe { patient } => {
                let patience = if *patient { self.timeouts.start } else { self.timeouts.probe };
                let verdict = self.judge(&link, begun + patience).await;
                link.verdict = Some(verdict.map_err(StartError::Unanswered)?);
            }
            Key::Legacy { handshake, headers, .. } | Key::Pinned { handshake, headers, .. } => {
                link.shake_hands(handshake, headers, &self.answers, begun + self.timeouts.start).await?;
                if self.settings.isolation != Isolation::Session {
                    link.completion().complete().await.map_err(StartError::Unanswered)?;
                }
            }
            Key::Modern { .. } => {}
        }
        Ok(link)
    }
}

impl Connect for Starter {
    type Key = Key;
    type Conn = Box<Link>;
    type Error = StartError;

    async fn connect(
        &self,
        key: &Key,
        place: Place,
        needed: impl Future<Output = ()> + Send,
    ) -> Result<Box<Link>, Failure<StartError>> {
        let started = self.start(key, place, needed).await;
        started.map(Box::new).map_err(|error| Failure { counts: self.counts(key, &error), error })
    }
}

impl Starter {
    /// Whether a failed start says something about the next one. An old server may die of a question, and a server behind
    /// HTTP costs nothing to be tried again.
    pub(super) fn counts(&self, key: &Key, error: &StartError) -> bool {
        let is_child = matches!(self.settings.target, Target::Stdio(_));
        is_child
            && match error {
                StartError::Start(UpstreamError::Closed { .. }) | StartError::Refused(_) => false,
                StartError::Start(_) => true,
                StartError::Unanswered(_) => !matches!(key, Key::Probe { .. }),
            }
    }
}

#[cfg(test)]
mod tests;
