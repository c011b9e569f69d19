//! A stream of notifications (2026-07-28, Subscriptions) whose server is lost: it is opened again for a client that need not
//! know, and that is told what it may have missed.
//!
//! Nothing is resumed: a modern stream has no event ids. The listen request changes nothing, so that it can be sent again,
//! as patiently as any stream is connected again (docs/contracts.md, C-SSE-1).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::key::Principal;
use crate::backend::{Backend, Leased, OpenError, Way};
use crate::bridge::promise::Promise;
use crate::bridge::relay::Relay;
use crate::metrics::{ServerMetrics, StreamAt, StreamState};
use crate::protocol::message::{Kind, Message};
use crate::protocol::revision::Era;
use crate::rt::chance;
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use crate::upstream::reconnect::{Event, Heard, Loss, Reconnect, Step};
use crate::upstream::{Call, Replies};

/// See the module.
pub(super) struct Listening {
    backend: Arc<Backend>,
    metrics: ServerMetrics,
    caller: Option<Principal>,
    request: Message,
    headers: HeaderMap,
    /// Cancelled when it has to end although its client still listens.
    drain: CancellationToken,
    /// What the server acknowledged, once it has.
    promise: Option<Promise>,
    reconnect: Reconnect,
    /// Whether anything was told since the stream was opened.
    heard: bool,
    outage: Option<Outage>,
    /// What the client has to be told since there was a gap.
    missed: VecDeque<Message>,
}

/// From the loss until the stream is open again.
struct Outage {
    /// What the client gets in the end, if it is never opened again.
    error: UpstreamError,
    step: Step,
    attempt: Option<BoxFuture<'static, Result<Box<Answered>, Failure>>>,
    state: Option<Arc<StreamState>>,
}

/// What became of a lost stream.
pub(super) enum Reopened {
    /// It goes on.
    Open(Box<Answered>),
    /// The server answered instead: the end.
    Answer(Box<Answered>),
    /// The server does not promise what it did, or is of the other era: the client has to ask anew.
    Changed,
    /// It is given up.
    Lost(UpstreamError),
}

/// A new stream, and the first that the server said on it.
pub(super) struct Answered {
    pub(super) relay: Relay,
    pub(super) replies: Replies,
    pub(super) lease: Option<Leased>,
    pub(super) first: Message,
}

enum Failure {
    /// There may be another time.
    Lost(Loss),
    /// The server speaks 2026-07-28 no more.
    Legacy,
    /// The proxy stops.
    Closed,
}

impl Listening {
    pub(super) fn new(
        backend: &Arc<Backend>,
        metrics: &ServerMetrics,
        caller: Option<Principal>,
        request: &Message,
        headers: &HeaderMap,
        drain: &CancellationToken,
    ) -> Listening {
        Listening {
            backend: Arc::clone(backend),
            metrics: metrics.clone(),
            caller,
            request: request.clone(),
            headers: headers.clone(),
            drain: drain.clone(),
            promise: None,
            reconnect: backend.reconnect(),
            heard: false,
            outage: None,
            missed: VecDeque::new(),
        }
    }

    /// Cancelled when it has to end although its client still listens.
    pub(super) fn drain(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Takes note of what goes to the client.
    pub(super) fn hears(&mut self, message: &Message) {
        if self.promise.is_some() {
            self.heard = true;
        } else if let Some(promise) = Promise::of(message) {
            self.promise = Some(promise);
        }
    }

    /// The server is lost. Whether the stream is to be opened again: only if the client was promised something.
    pub(super) fn loses(&mut self, error: &UpstreamError) -> bool {
        let Some(loss) = loss(error).filter(|_| self.promise.is_some()) else { return false };
        let heard = Heard { message: std::mem::take(&mut self.heard), ..Heard::default() };
        let step = self.reconnect.on(Event::Lost { loss, heard }, now(), chance());
        tracing::debug!(upstream = self.metrics.name(), %error, "Stream of notifications is lost");
        let state = self.backend.lost_stream(loss.reason()).map(Arc::new);
        self.outage = Some(Outage { error: error.clone(), step, attempt: None, state });
        true
    }

    /// Whether it has to be opened again.
    pub(super) fn is_lost(&self) -> bool {
        self.outage.is_some()
    }

    /// The next of what the client may have missed.
    pub(super) fn missed(&mut self) -> Option<Message> {
        self.missed.pop_front()
    }

    /// Opens it again.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it goes on where it was when it is called again.
    pub(super) async fn reopen(&mut self) -> Reopened {
        loop {
            let Some(outage) = &mut self.outage else { return Reopened::Lost(UpstreamError::Lost { sent: true }) };
            let event = match &outage.step {
                Step::WaitUntil(until) => {
                    sleep_until(Instant::from_std(*until)).await;
                    Event::Due
                }
                Step::Connect { .. } | Step::Read => {
                    let attempt = outage.attempt.get_or_insert_with(|| {
                        let patience = Instant::from_std(self.reconnect.patience(now()));
                        let (backend, request) = (Arc::clone(&self.backend), self.request.clone());
                        let (headers, state) = (self.headers.clone(), outage.state.clone());
                        open(backend, self.caller, request, headers, patience, state).boxed()
                    });
                    let answered = attempt.await;
                    outage.attempt = None;
                    match answered {
                        Ok(answered) => return self.answered(answered),
                        Err(Failure::Lost(loss)) => {
                            if let Some(state) = &outage.state {
                                state.to(StreamAt::Backoff);
                            }
                            Event::Lost { loss, heard: Heard::default() }
                        }
                        Err(Failure::Legacy) => return self.over("changed", Reopened::Changed),
                        Err(Failure::Closed) => {
                            let closed = UpstreamError::Closed { sent: true };
                            return self.over("closed", Reopened::Lost(closed));
                        }
                    }
                }
                Step::GiveUp(why) => {
                    tracing::warn!(
                        upstream = self.metrics.name(),
                        why = why.reason(),
                        "Stream of notifications given up"
                    );
                    let error = outage.error.clone();
                    return self.over("failed", Reopened::Lost(error));
                }
            };
            outage.step = self.reconnect.on(event, now(), chance());
        }
    }

    fn answered(&mut self, answered: Box<Answered>) -> Reopened {
        match answered.first.kind() {
            Kind::Notification => {}
            Kind::Result | Kind::Error => return self.over("answered", Reopened::Answer(answered)),
            Kind::Request => {
                let error = UpstreamError::Violation("it asks something on a stream of notifications");
                return self.over("failed", Reopened::Lost(error));
            }
        }
        let promise = Promise::of(&answered.first);
        if promise != self.promise {
            return self.over("changed", Reopened::Changed);
        }
        self.reconnect.on(Event::Opened, now(), chance());
        // The client has had its acknowledgement.
        self.missed.extend(promise.iter().flat_map(|promise| promise.missed(answered.relay.client_id().as_json())));
        self.over("ok", Reopened::Open(answered))
    }

    fn over(&mut self, result: &'static str, reopened: Reopened) -> Reopened {
        self.outage = None;
        self.metrics.listen_reopened(result);
        reopened
    }
}

/// Sends the listen request again, when it is its turn, and waits for the first word.
async fn open(
    backend: Arc<Backend>,
    caller: Option<Principal>,
    request: Message,
    headers: HeaderMap,
    patience: Instant,
    state: Option<Arc<StreamState>>,
) -> Result<Box<Answered>, Failure> {
    let unreachable = Failure::Lost(Loss::Unreachable);
    let Ok(_place) = timeout_at(patience, backend.reconnecting()).await else { return Err(unreachable) };
    if let Some(state) = state {
        state.to(StreamAt::Connecting);
    }
    let modern = backend.modern(caller).await?;
    let Some(Way { connection, lease }) = backend.way(&modern, caller).await? else { return Err(Failure::Legacy) };
    let Some(id) = request.id() else { return Err(unreachable) };
    let (relay, upstream) = Relay::begin(Era::Modern, id, &request, connection.next_id());
    let call = Call { id: relay.upstream_id(), message: &upstream, facts: FACTS, headers };
    let mut replies = connection.call(call).await?;
    match timeout_at(backend.restore_deadline(), replies.next()).await {
        Ok(Some(Ok(first))) => Ok(Box::new(Answered { relay, replies, lease, first })),
        Ok(Some(Err(error))) => Err(error.into()),
        Ok(None) => Err(Failure::Lost(Loss::Ended)),
        Err(_) => Err(Failure::Lost(Loss::Idle)),
    }
}

/// A stream of notifications has no log of its own, and is cancelled when its client goes.
const FACTS: CallFacts = CallFacts { may_ask: false, wants_log: false, cancellable: true };

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// What a failure is for a stream; `None` if opening it again is out of the question.
fn loss(error: &UpstreamError) -> Option<Loss> {
    let busy = |wait| Loss::Status { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(wait) };
    Some(match error {
        UpstreamError::Exited { .. }
        | UpstreamError::Stalled { .. }
        | UpstreamError::Lost { .. }
        | UpstreamError::SessionGone => Loss::Broken,
        UpstreamError::Timeout { .. } => Loss::Idle,
        UpstreamError::Start(_) | UpstreamError::Unreachable(_) => Loss::Unreachable,
        UpstreamError::Busy { status, retry_after } => {
            Loss::Status { status: *status, retry_after: retry_after.map(Duration::from_secs) }
        }
        UpstreamError::CircuitOpen { seconds } => busy(Duration::from_secs(*seconds)),
        UpstreamError::Status(status) | UpstreamError::Credentials(status) => {
            Loss::Status { status: *status, retry_after: None }
        }
        UpstreamError::Violation(_) | UpstreamError::TooLarge => Loss::Unusable,
        UpstreamError::SlowClient | UpstreamError::Closed { .. } => return None,
    })
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Failure {
        loss(&error).map_or(Failure::Closed, Failure::Lost)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        match error {
            OpenError::Start(error) | OpenError::Unanswered(error) => error.into(),
            OpenError::Resting { seconds, .. } => UpstreamError::CircuitOpen { seconds }.into(),
            OpenError::Timeout | OpenError::QueueFull => Failure::Lost(Loss::Unreachable),
            OpenError::Closed => Failure::Closed,
            OpenError::Refused(_) | OpenError::Lost => Failure::Legacy,
        }
    }
}
