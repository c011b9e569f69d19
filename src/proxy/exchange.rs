//! One client request and everything that answers it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::error::ProxyError;
use super::listening::{Listening, Reopened};
use super::sending::{self, Sent};
use crate::backend::Leased;
use crate::bridge::relay::{Down, Relay};
use crate::metrics::{GaugeGuard, ServerMetrics};
use crate::protocol::error as code;
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::rt::flag::Flag;
use crate::session::route::Notable;
use crate::session::{CallGuard, EndReason, Pending, Session};
use crate::settings::Timeouts;
use crate::upstream::error::UpstreamError;
use crate::upstream::{Connection, Replies};

/// One message on its way to the client.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) message: Message,
    /// Nothing comes after it.
    pub(crate) last: bool,
    /// The status, if it is the first and only one.
    pub(crate) status: StatusCode,
}

/// A request under way. Dropping it cancels the request upstream.
pub(crate) struct Exchange {
    relay: Relay,
    replies: Option<Replies>,
    legacy: Option<Legacy>,
    /// The connection of a modern request, where it is this request's alone.
    lease: Option<Leased>,
    /// What may stop it. Kept from one message to the next: to begin to listen takes longer than to look.
    stop: Stop,
    /// Ends when there may be something to see on the clock: not later, but it may be earlier.
    alarm: Pin<Box<Sleep>>,
    known: Option<Known>,
    era: Era,
    clock: Clock,
    started: Instant,
    metrics: ServerMetrics,
    outcome: &'static str,
    screens_tools: bool,
    /// Whether the request may be sent on another connection when nothing of it was done on the first: once.
    repeat: Repeat,
    /// For a stream of notifications.
    listening: Option<Box<Listening>>,
    _in_flight: GaugeGuard,
}

/// What stops an exchange from outside.
pub(super) enum Signal {
    /// Nobody wants the answer any more.
    Cancelled,
    /// The proxy has no more time for it.
    Cut,
}

/// Nothing was heard for as long as the caller cared to wait.
struct Quiet;

/// Waits for what ends a request from outside. It is looked at each time that something else has come, which is made cheap:
/// as long as the same task looks and nothing has happened, that it waits is known already.
pub(super) struct Stop {
    /// Raised when nobody wants the answer any more, unless that is no matter now.
    cancelled: Option<Flag>,
    /// Cancelled when the proxy has no more time for it.
    pub(super) cut: CancellationToken,
    cuts: Pin<Box<WaitForCancellationFutureOwned>>,
    waits: Option<Waker>,
}

impl Stop {
    pub(super) fn of(cancelled: Option<Flag>, cut: CancellationToken) -> Stop {
        Stop { cuts: Box::pin(cut.clone().cancelled_owned()), cancelled, cut, waits: None }
    }

    /// Whether the client has taken the request back, or nobody can any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(Flag::is_raised)
    }

    /// Whether it is over.
    pub(super) fn is_due(&self) -> bool {
        self.is_cancelled() || self.cut.is_cancelled()
    }
}

impl Future for Stop {
    type Output = Signal;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Signal> {
        if self.waits.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) && !self.is_due() {
            return Poll::Pending;
        }
        self.waits = Some(context.waker().clone());
        if self.cancelled.as_ref().is_some_and(|cancelled| cancelled.poll_raised(context).is_ready()) {
            return Poll::Ready(Signal::Cancelled);
        }
        self.cuts.as_mut().poll(context).map(|()| Signal::Cut)
    }
}

/// What came next.
pub(crate) enum Next {
    Output(Output),
    /// Nothing, for as long as the caller cares to wait. More may come.
    Quiet,
    /// There is no more.
    End,
}

/// A request that the server cannot have taken up may be sent to another one, once (docs/contracts.md, C-SSE-4).
enum Repeat {
    Possible,
    /// It is on its way.
    Due(BoxFuture<'static, Result<Option<Sent>, ProxyError>>),
    /// It has been done, or something has been said to the client.
    Over,
}

/// What an exchange of a legacy session has besides.
pub(crate) struct Legacy {
    pub(crate) session: Arc<Session>,
    pub(crate) call: Arc<CallGuard>,
    pub(crate) connection: Connection,
    /// Where the connection is this request's alone.
    pub(crate) lease: Option<Leased>,
    /// The client's words, and what goes with them over HTTP.
    pub(crate) request: Message,
    pub(crate) headers: HeaderMap,
    /// What becomes of it, if that has to be known later.
    pub(crate) notable: Option<Notable>,
    pub(crate) pending: Pending,
}

/// The deadlines of a request: one that progress moves, one that it does not (2025-11-25, Lifecycle › Timeouts).
struct Clock {
    started: Instant,
    idle: std::time::Duration,
    question: std::time::Duration,
    idle_until: Instant,
    hard_until: Instant,
    asked_at: Option<Instant>,
}

impl Clock {
    fn start(timeouts: &Timeouts, endless: bool) -> Clock {
        let now = Instant::now();
        // A stream of notifications has no answer to wait for: it ends with its client.
        let far = std::time::Duration::from_secs(365 * 24 * 3600);
        let (idle, max) = if endless { (far, far) } else { (timeouts.request, timeouts.request_max) };
        let question = timeouts.question;
        Clock { started: now, idle, question, idle_until: now + idle, hard_until: now + max, asked_at: None }
    }

    fn deadline(&self) -> Instant {
        self.idle_until.min(self.hard_until)
    }

    fn progress(&mut self) {
        self.idle_until = Instant::now() + self.idle;
    }

    /// The deadline has come. Whether it counts: people take their time, and theirs is not the server's.
    fn is_over(&mut self, pending: bool) -> bool {
        let now = Instant::now();
        if now >= self.hard_until {
            return true;
        }
        match self.asked_at {
            Some(asked) if pending => {
                self.idle_until = asked + self.question;
                self.idle_until <= now
            }
            Some(_) => {
                self.asked_at = None;
                self.progress();
                false
            }
            None => true,
        }
    }
}

impl Exchange {
    pub(crate) fn new(
        relay: Relay,
        replies: Replies,
        era: Era,
        request: &Message,
        legacy: Option<Legacy>,
        timeouts: &Timeouts,
        cut: CancellationToken,
        metrics: ServerMetrics,
    ) -> Box<Exchange> {
        // A modern client cancels by going away.
        let cancelled = legacy.as_ref().map(|legacy| legacy.call.cancelled().clone());
        let clock = Clock::start(timeouts, request.known() == Some(Known::Listen));
        Box::new(Exchange {
            relay,
            replies: Some(replies),
            legacy,
            lease: None,
            stop: Stop::of(cancelled, cut),
            alarm: Box::pin(sleep_until(clock.deadline())),
            known: request.known(),
            era,
            started: clock.started,
            clock,
            _in_flight: metrics.exchange_started(),
            metrics,
            outcome: "abandoned",
            screens_tools: false,
            repeat: Repeat::Possible,
            listening: None,
        })
    }

    /// Its answer is a list from which some tools have to be left out.
    pub(super) fn screen_tools(&mut self) {
        self.screens_tools = true;
    }

    /// Its connection is its own until it ends.
    pub(super) fn holds(&mut self, lease: Option<Leased>) {
        self.lease = lease;
    }

    /// It is a stream of notifications.
    pub(super) fn listens(&mut self, listening: Listening) {
        self.listening = Some(Box::new(listening));
    }

    /// The session it belongs to.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        self.legacy.as_ref().map(|legacy| &legacy.session)
    }

    /// The next message for the client; the end comes after the last one, and when the client has taken the request back: then
    /// there is no answer (2025-11-25, Cancellation). Waits no longer than until `quiet`.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is lost.
    pub(crate) async fn next_until(&mut self, quiet: Option<Instant>) -> Next {
        match self.heard(quiet).await {
            Ok(Some(output)) => Next::Output(output),
            Ok(None) => Next::End,
            Err(Quiet) => Next::Quiet,
        }
    }

    async fn heard(&mut self, quiet: Option<Instant>) -> Result<Option<Output>, Quiet> {
        loop {
            if let Repeat::Due(sending) = &mut self.repeat {
                let sent = sending.await;
                self.repeat = Repeat::Over;
                match sent {
                    Ok(Some(sent)) => self.goes_on(sent),
                    Ok(None) => return Ok(self.stopped(self.session().and_then(|session| session.end_reason()))),
                    Err(error) => return Ok(Some(self.refuse(&error))),
                }
            }
            if let Some(listening) = &mut self.listening {
                if let Some(message) = listening.missed() {
                    return Ok(Some(Output { message, last: false, status: StatusCode::OK }));
                }
                if listening.is_lost() {
                    // No lease is held meanwhile: the server is gone.
                    (self.replies, self.lease) = (None, None);
                    match Box::pin(self.reopened()).await {
                        Some(output) => return Ok(Some(output)),
                        None => continue,
                    }
                }
            }
            let drain = self.listening.as_ref().map(|listening| listening.drain());
            let Some(replies) = self.replies.as_mut() else { return Ok(None) };
            let own = self.legacy.as_mut().and_then(|legacy| legacy.lease.as_mut());
            let until = quiet.map_or_else(|| self.clock.deadline(), |quiet| quiet.min(self.clock.deadline()));
            if until < self.alarm.deadline() {
                self.alarm.as_mut().reset(until);
            }
            // A look before each wait, so that a server that never pauses does not keep us from it.
            let is_stopped = self.stop.is_due();
            let reply = tokio::select! {
                biased;
                reply = replies.next(), if !is_stopped => {
                    // What was cancelled gets no answer from its connection either: that is no loss.
                    let answered = matches!(reply, Some(Ok(_)));
                    if !answered && self.stop.is_cancelled() {
                        continue;
                    }
                    reply
                }
                signal = &mut self.stop => match signal {
                    Signal::Cut => Some(Err(UpstreamError::Closed { sent: true })),
                    Signal::Cancelled => match self.session().and_then(|session| session.end_reason()) {
                        // When the server is gone, the connection says what that means for this request: what was said
                        // before, and whether it may have been executed.
                        Some(EndReason::UpstreamGone) => {
                            self.stop = Stop::of(None, self.stop.cut.clone());
                            continue;
                        }
                        reason => return Ok(self.stopped(reason)),
                    },
                },
                Some(message) = said(own) => {
                    if let Some(legacy) = &self.legacy {
                        Box::pin(legacy.session.say(&legacy.connection, message)).await;
                    }
                    continue;
                }
                () = drains(drain) => return Ok(Some(self.end_listening("drained"))),
                () = self.alarm.as_mut() => {
                    let now = Instant::now();
                    if now < self.clock.deadline() {
                        self.alarm.as_mut().reset(self.clock.deadline());
                        if quiet.is_some_and(|quiet| quiet <= now) {
                            return Err(Quiet);
                        }
                        continue;
                    }
                    let pending = self.legacy.as_ref().is_some_and(|legacy| legacy.pending.any());
                    if !self.clock.is_over(pending) {
                        self.alarm.as_mut().reset(self.clock.deadline());
                        continue;
                    }
                    Some(Err(UpstreamError::Timeout { sent: true }))
                }
            };
            match reply {
                Some(Ok(message)) => {
                    if let Some(output) = self.down(message).await {
                        return Ok(Some(output));
                    }
                }
                Some(Err(error)) if self.may_go_elsewhere(&error) => self.repeat = self.again(&error),
                reply => {
                    let error = match reply {
                        Some(Err(error)) => error,
                        _ => UpstreamError::Lost { sent: true },
                    };
                    if !self.listening.as_mut().is_some_and(|listening| listening.loses(&error)) {
                        return Ok(Some(self.fail(error)));
                    }
                }
            }
        }
    }

    /// Opens a stream of notifications again; what is returned is the end of it.
    async fn reopened(&mut self) -> Option<Output> {
        let listening = self.listening.as_mut()?;
        let drain = listening.drain();
        let reopened = tokio::select! {
            biased;
            () = drain.cancelled() => return Some(self.end_listening("drained")),
            () = self.stop.cut.cancelled() => Reopened::Lost(UpstreamError::Closed { sent: true }),
            reopened = listening.reopen() => reopened,
        };
        match reopened {
            Reopened::Open(new) => {
                (self.relay, self.replies, self.lease) = (new.relay, Some(new.replies), new.lease);
                None
            }
            Reopened::Answer(new) => {
                self.relay = new.relay;
                self.down(new.first).await
            }
            Reopened::Changed => Some(self.end_listening("changed")),
            Reopened::Lost(error) => Some(self.fail(error)),
        }
    }

    /// Whether the request was not taken up, and there may be a server that takes it.
    fn may_go_elsewhere(&self, error: &UpstreamError) -> bool {
        let connection_is_gone = matches!(
            error,
            UpstreamError::SessionGone
                | UpstreamError::Exited { sent: false, .. }
                | UpstreamError::Lost { sent: false }
        );
        let live = self.session().is_some_and(|session| session.end_reason().is_none());
        connection_is_gone && live && matches!(self.repeat, Repeat::Possible) && !self.stop.cut.is_cancelled()
    }

    /// Sends the request on the connection that the session has now. It is kept under way, since whoever polls the exchange
    /// looks after other things in between.
    fn again(&mut self, error: &UpstreamError) -> Repeat {
        let Some(legacy) = &mut self.legacy else { return Repeat::Over };
        tracing::debug!(upstream = self.metrics.name(), %error, "Request goes to another connection");
        self.metrics.repeated(error.kind());
        // It would wait for itself.
        (self.replies, legacy.lease, legacy.notable) = (None, None, None);
        let (session, call) = (Arc::clone(&legacy.session), Arc::clone(&legacy.call));
        let (request, headers) = (legacy.request.clone(), legacy.headers.clone());
        Repeat::Due(async move { sending::send(&session, &call, &request, &headers).await }.boxed())
    }

    /// The request was sent again.
    fn goes_on(&mut self, sent: Sent) {
        let Sent { relay, replies, connection, lease, notable } = sent;
        (self.relay, self.replies) = (relay, Some(replies));
        if let Some(legacy) = &mut self.legacy {
            (legacy.connection, legacy.lease, legacy.notable) = (connection, lease, notable);
        }
    }

    /// What failed before it reached the server, as the end of the request.
    fn refuse(&mut self, error: &ProxyError) -> Output {
        let (side, kind) = error.blame();
        self.metrics.error(side, kind);
        self.outcome = kind;
        self.end();
        // It was dispatched once: from then on trouble is no HTTP status.
        Output { status: StatusCode::OK, ..self.proxy_error(error) }
    }

    async fn down(&mut self, message: Message) -> Option<Output> {
        if message.known() == Some(Known::Progress) {
            self.clock.progress();
        }
        self.repeat = Repeat::Over;
        if let Some(listening) = &mut self.listening {
            listening.hears(&message);
        }
        let pass = |message| Some(Output { message, last: false, status: StatusCode::OK });
        match (self.relay.down(message), &self.legacy) {
            (Down::Final(message), _) => Some(self.finish(message)),
            (Down::Pass(message), _) => pass(message),
            (Down::Ask(question, server_id), Some(legacy)) => {
                match legacy.session.ask(&legacy.connection, &question, server_id.clone(), Some(&legacy.pending)) {
                    Some(question) => {
                        self.clock.asked_at = Some(Instant::now());
                        pass(question)
                    }
                    None => {
                        Box::pin(legacy.session.refuse(&legacy.connection, &server_id)).await;
                        self.metrics.dropped("question_refused");
                        None
                    }
                }
            }
            (Down::Withdraw(notification, server_id), Some(legacy)) => {
                legacy.session.withdraw(&legacy.connection, &notification, &server_id).and_then(pass)
            }
            (Down::Ask(..) | Down::Withdraw(..), None) => {
                self.metrics.dropped("no_session");
                None
            }
            (Down::Drop(reason), _) => {
                self.metrics.dropped(reason);
                None
            }
            (Down::Violation(what), _) => Some(self.fail(UpstreamError::Violation(what))),
        }
    }

    fn finish(&mut self, mut message: Message) -> Output {
        if self.screens_tools {
            message = super::tools::screen(message, self.metrics.name());
        }
        let error = (message.kind() == Kind::Error).then(|| error_code(&message)).flatten();
        if let Some(legacy) = &self.legacy
            && let Some(notable) = &legacy.notable
            && error.is_none()
        {
            notable.done();
        }
        self.outcome = if error.is_some() { "error" } else { "ok" };
        self.end();
        let status = match (self.era, error) {
            (Era::Modern, Some(error)) => modern_status(error),
            _ => StatusCode::OK,
        };
        Output { message, last: true, status }
    }

    /// Ends a stream of notifications in good order (2026-07-28, Subscriptions).
    fn end_listening(&mut self, outcome: &'static str) -> Output {
        self.outcome = outcome;
        let text = self.relay.graceful_end();
        self.end();
        Output { message: own(text), last: true, status: StatusCode::OK }
    }

    fn stopped(&mut self, reason: Option<EndReason>) -> Option<Output> {
        // A client that took it back has told the server in its own words. Where the session ended, dropping the call tells it.
        if let (None, Some(replies)) = (reason, &mut self.replies) {
            replies.cancelled();
        }
        match reason {
            Some(reason) => {
                let error = ProxyError::SessionEnded(reason);
                self.outcome = "session_ended";
                self.end();
                Some(self.proxy_error(&error))
            }
            None => {
                self.outcome = "cancelled";
                self.end();
                None
            }
        }
    }

    fn fail(&mut self, error: UpstreamError) -> Output {
        tracing::debug!(upstream = self.metrics.name(), %error, "Request failed");
        self.metrics.error("upstream", error.kind());
        self.outcome = error.kind();
        let repeatable = self.known.is_some_and(Known::safe_to_repeat);
        self.end();
        self.proxy_error(&ProxyError::Upstream { error, repeatable })
    }

    fn proxy_error(&self, error: &ProxyError) -> Output {
        let outward = error.outward();
        let text = outward.error.to_json(Some(self.relay.client_id()));
        Output { message: own(text), last: true, status: outward.status }
    }

    fn end(&mut self) {
        self.replies = None;
        self.listening = None;
        self.lease = None;
        // From here on its id may be used again.
        if let Some(legacy) = self.legacy.take() {
            legacy.session.forget(&legacy.pending);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let method = self.known.map_or("other", Known::as_str);
        let took = self.started.elapsed();
        let (upstream, outcome) = (self.metrics.name(), self.outcome);
        tracing::debug!(upstream, method, outcome, took_ms = took.as_millis(), "Exchange ended");
        self.metrics.exchange_ended(self.era.as_str(), method, outcome, took);
    }
}

/// What the server says by itself on a connection that is one request's alone.
async fn said(lease: Option<&mut Leased>) -> Option<Message> {
    match lease {
        Some(lease) => lease.standing.next().await,
        None => None,
    }
}

/// When a stream of notifications has to end although its client still listens.
async fn drains(drain: Option<CancellationToken>) {
    match drain {
        Some(drain) => drain.cancelled_owned().await,
        None => std::future::pending().await,
    }
}

/// A message that the proxy wrote itself.
pub(crate) fn own(text: String) -> Message {
    match Message::parse(text.into(), 64) {
        Ok(message) => message,
        Err(error) => unreachable!("BUG: the proxy wrote what is no message: {error:?}"),
    }
}

pub(super) fn error_code(message: &Message) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Code {
        code: serde_json::Number,
    }
    let code: Code = serde_json::from_str(message.body()?).ok()?;
    Some(code.code.as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(0))
}

/// The status that a modern error has (2026-07-28, Streamable HTTP › Sending Messages; Basic › Error Codes).
pub(super) fn modern_status(error: i32) -> StatusCode {
    match error {
        code::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
