//! A request of a legacy session to a server that knows of no sessions, and everything that answers it: the I/O around
//! [`legacy_to_modern::call`](crate::bridge::legacy_to_modern::call).

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::error::ProxyError;
use super::exchange::{Next, Output, Signal, Stop, own};
use super::tools::Source;
use crate::backend::{Leased, Way};
use crate::bridge::legacy_to_modern::answer::is_header_mismatch;
use crate::bridge::legacy_to_modern::call::{Call, Effect, Input, Leg, withdrawn};
use crate::bridge::loss::Loss;
use crate::bridge::sharing;
use crate::metrics::GaugeGuard;
use crate::protocol::error::{INVALID_PARAMS, METHOD_NOT_FOUND, RpcError};
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message, json_str};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::session::route::Stateless;
use crate::session::{CallGuard, QUESTIONS_MAX, Session};
use crate::settings::Timeouts;
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use crate::upstream::{self, Replies};

/// How long a server may take to hear that nobody waits for its task.
const FAREWELL: Duration = Duration::from_secs(5);

/// A request under way. Dropping it cancels the request upstream.
pub(crate) struct Bridged {
    call: Call,
    session: Arc<Session>,
    /// Until the end: then its id may be used again.
    guard: Option<CallGuard>,
    /// What may stop it.
    stop: Stop,
    /// Ends when there may be something to see on the clock.
    alarm: Pin<Box<Sleep>>,
    way: Sender,
    replies: Option<Replies>,
    lease: Option<Leased>,
    /// A leg on its way.
    sending: Option<BoxFuture<'static, Result<Sent, ProxyError>>>,
    /// A subscription, until the server has promised it.
    subscribing: Option<BoxFuture<'static, Result<(), Message>>>,
    /// The leg has been sent again: because of its headers, because nobody took it up.
    again: [bool; 2],
    /// Whether the server said anything on this leg.
    heard: bool,
    /// Questions that the client has, by our numbers: their names in the session.
    names: HashMap<u32, i64>,
    answers: Option<Answers>,
    ready: VecDeque<Output>,
    effects: Vec<Effect>,
    is_over: bool,
    idle: Duration,
    idle_until: Instant,
    hard_until: Instant,
    started: Instant,
    outcome: &'static str,
    _in_flight: GaugeGuard,
}

/// Where the client's answers to questions come in, by our numbers.
type Answers = (mpsc::Sender<(u32, Message)>, mpsc::Receiver<(u32, Message)>);

/// What sends a leg.
#[derive(Clone)]
struct Sender {
    server: Arc<Server>,
    session: Arc<Session>,
    headers: HeaderMap,
    wants_log: bool,
    /// How long the server may take to tell its tools.
    patience: Duration,
}

struct Sent {
    replies: Replies,
    lease: Option<Leased>,
}

impl Sender {
    /// Sends a leg. With `fresh`, the server is asked anew which headers it wants.
    ///
    /// # Errors
    /// Nothing was sent.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is sent.
    async fn send(&self, leg: &Leg, fresh: bool) -> Result<Sent, ProxyError> {
        let Sender { server, session, .. } = self;
        let owner = session.route().owner();
        let mut tries = 0;
        loop {
            let modern = server.backend.modern(owner).await?;
            let Some(Way { connection, lease }) = server.backend.way(&modern, owner).await? else {
                // There is a handshake now: the client has to make it.
                return Err(session.is_lost().into());
            };
            let mut headers = HeaderMap::new();
            if !server.is_child {
                headers = server.tools.mirror(Source::modern(&connection), leg.request(), fresh, self.patience).await?;
                headers.extend(self.headers.clone());
            }
            let id = connection.next_id();
            let facts = CallFacts { may_ask: false, wants_log: self.wants_log, cancellable: true };
            match connection.call(upstream::Call { id, message: &leg.message(id), facts, headers }).await {
                Ok(replies) => return Ok(Sent { replies, lease }),
                // It was lost before it could take the request: there may be another.
                Err(_) if connection.gone().is_cancelled() && tries == 0 => tries += 1,
                Err(error) => {
                    let repeatable = leg.request().known().is_some_and(Known::safe_to_repeat);
                    return Err(ProxyError::Upstream { error, repeatable });
                }
            }
        }
    }
}

impl Bridged {
    /// Begins a request of a session whose server knows of none. `None` if the client took it back before it was sent.
    ///
    /// # Errors
    /// Nothing was sent.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is sent. The request is known to its session when this has been polled once.
    pub(super) async fn begin(
        server: &Arc<Server>,
        session: &Arc<Session>,
        stateless: &Stateless,
        request: &Message,
        headers: HeaderMap,
        can_be_asked: bool,
        timeouts: &Timeouts,
        cut: CancellationToken,
    ) -> Result<Option<Box<Bridged>>, ProxyError> {
        session.initialized();
        let guard = session.begin_call(request.id().ok_or(ProxyError::Initialize)?)?;
        let level = stateless.level();
        let (client, wants_log) = (&stateless.client, level.is_some());
        let call = Call::begin(client, request, can_be_asked, level.as_deref(), timeouts.question);
        let call = call.ok_or(ProxyError::Initialize)?.shaped(stateless.shape(request));
        let way = Sender {
            server: Arc::clone(server),
            session: Arc::clone(session),
            headers,
            wants_log,
            patience: timeouts.probe,
        };
        let (now, cancelled) = (Instant::now(), guard.cancelled().clone());
        let mut bridged = Box::new(Bridged {
            call,
            session: Arc::clone(session),
            stop: Stop::of(Some(cancelled.clone()), cut),
            alarm: Box::pin(sleep_until(now + timeouts.request)),
            guard: Some(guard),
            way,
            replies: None,
            lease: None,
            sending: None,
            subscribing: None,
            again: [false; 2],
            heard: false,
            names: HashMap::new(),
            answers: None,
            ready: VecDeque::new(),
            effects: Vec::new(),
            is_over: false,
            idle: timeouts.request,
            idle_until: now + timeouts.request,
            hard_until: now + timeouts.request_max,
            started: now,
            outcome: "abandoned",
            _in_flight: server.metrics.exchange_started(),
        });
        let subscribes = matches!(request.known(), Some(Known::ResourcesSubscribe | Known::ResourcesUnsubscribe));
        let isolation = server.backend.isolation();
        if subscribes
            && server.is_child
            && let Some(why) = sharing::refuses(isolation, request)
        {
            return Err(ProxyError::Isolated { isolation, why });
        }
        if let Some(answer) = here(stateless, request, bridged.call.client_id())? {
            bridged.finish(answer, "ok");
            return Ok(Some(bridged));
        }
        if request.known() == Some(Known::ResourcesSubscribe) {
            let uri = sharing::uri(request).ok_or(ProxyError::Uri)?;
            let version = stateless.subscriptions.add(uri.clone()).ok_or(ProxyError::Subscriptions)?;
            let session = Arc::clone(session);
            bridged.subscribing = Some(async move { subscribed(&session, version, &uri).await }.boxed());
            return Ok(Some(bridged));
        }
        if request.known() == Some(Known::ToolsCall) && request.param(meta::TASK).is_some() {
            server.metrics.lost(Loss::Task);
        }
        let sent = tokio::select! {
            biased;
            () = cancelled.raised() => return Ok(None),
            sent = bridged.way.send(bridged.call.leg(), false) => sent?,
        };
        bridged.is_sent(sent);
        // What the client said of it may have overtaken it: dropping it tells the server.
        Ok((!cancelled.is_raised()).then_some(bridged))
    }

    /// The session it belongs to.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The next message for the client; the end comes after the last one, and when the client has taken the request back. Waits no
    /// longer than until `quiet`.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is lost.
    pub(crate) async fn next_until(&mut self, quiet: Option<Instant>) -> Next {
        loop {
            if let Some(output) = self.ready.pop_front() {
                return Next::Output(output);
            }
            if self.is_over {
                return Next::End;
            }
            let deadline = self.deadline();
            let until = quiet.map_or(deadline, |quiet| quiet.min(deadline));
            if until < self.alarm.deadline() {
                self.alarm.as_mut().reset(until);
            }
            // A look before each wait: to begin to listen takes longer.
            let is_stopped = self.stop.is_due();
            tokio::select! {
                biased;
                reply = reply(&mut self.replies), if !is_stopped => match reply {
                    Some(Ok(message)) => self.replied(message),
                    // What was cancelled gets no answer from its connection either: that is no loss.
                    _ if self.stop.is_cancelled() => self.stopped(),
                    Some(Err(error)) => self.lost(error),
                    None => self.lost(UpstreamError::Lost { sent: true }),
                },
                signal = &mut self.stop => match signal {
                    Signal::Cancelled => self.stopped(),
                    Signal::Cut => self.fail(UpstreamError::Closed { sent: true }),
                },
                sent = sent(&mut self.sending) => {
                    self.sending = None;
                    match sent {
                        Ok(sent) => self.is_sent(sent),
                        Err(error) => self.refuse(&error),
                    }
                }
                promised = promised(&mut self.subscribing) => {
                    self.subscribing = None;
                    let answer = match promised {
                        Ok(()) => done(self.call.client_id()),
                        Err(error) => error.edit().id(self.call.client_id().as_json()).finish(),
                    };
                    self.finish(answer, "ok");
                }
                Some((number, message)) = answer(&mut self.answers) => {
                    self.names.remove(&number);
                    self.handle(Input::Answered(number, message));
                }
                () = self.alarm.as_mut() => {
                    let now = Instant::now();
                    self.alarm.as_mut().reset(deadline);
                    if now >= deadline {
                        self.timer(now);
                    } else if quiet.is_some_and(|quiet| quiet <= now) {
                        return Next::Quiet;
                    }
                }
            }
        }
    }

    /// When something has to be done although nothing happens: people take their time, and theirs is not the server's.
    fn deadline(&self) -> Instant {
        let own = if self.call.is_upstream() { Some(self.idle_until) } else { None };
        let calls = self.call.deadline().map(Instant::from_std);
        [own, calls].into_iter().flatten().fold(self.hard_until, Instant::min)
    }

    fn timer(&mut self, now: Instant) {
        if now >= self.hard_until || (self.call.is_upstream() && now >= self.idle_until) {
            return self.fail(UpstreamError::Timeout { sent: true });
        }
        self.handle(Input::Timer);
    }

    fn replied(&mut self, mut message: Message) {
        let (is_child, known) = (self.way.server.is_child, self.call.known());
        if message.known() == Some(Known::Progress) {
            self.idle_until = Instant::now() + self.idle;
        }
        self.heard = true;
        match message.kind() {
            // What we know of its tools is out of date.
            Kind::Error if !is_child && !self.again[0] && is_header_mismatch(&message) => {
                self.again[0] = true;
                return self.send(true);
            }
            Kind::Result if !is_child && known == Some(Known::ToolsList) => {
                message = super::tools::screen(message, self.way.server.metrics.name());
            }
            _ => {}
        }
        if matches!(message.kind(), Kind::Result | Kind::Error) {
            (self.replies, self.lease) = (None, None);
        }
        self.handle(Input::Upstream(message));
    }

    /// The server is lost. It is asked again, once, if it cannot have taken the request up.
    fn lost(&mut self, error: UpstreamError) {
        let unsent = matches!(error, UpstreamError::Exited { sent: false, .. } | UpstreamError::Lost { sent: false });
        if unsent && !self.heard && !self.again[1] && !self.stop.cut.is_cancelled() {
            self.again[1] = true;
            self.way.server.metrics.repeated(error.kind());
            return self.send(false);
        }
        self.fail(error);
    }

    fn is_sent(&mut self, sent: Sent) {
        if sent.lease.is_some() {
            self.call.is_alone();
        }
        (self.replies, self.lease) = (Some(sent.replies), sent.lease);
    }

    /// Sends the leg that the call is at.
    fn send(&mut self, fresh: bool) {
        (self.replies, self.lease, self.heard) = (None, None, false);
        self.idle_until = Instant::now() + self.idle;
        let (way, leg) = (self.way.clone(), self.call.leg().clone());
        self.sending = Some(async move { way.send(&leg, fresh).await }.boxed());
    }

    fn handle(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let mut effects = std::mem::take(&mut self.effects);
            self.call.handle(input, Instant::now().into_std(), &mut effects);
            for effect in effects.drain(..) {
                if let Some(unasked) = self.perform(effect) {
                    next.get_or_insert(unasked);
                }
            }
            self.effects = effects;
        }
    }

    /// Does what the call says; what is returned has to be told to it.
    fn perform(&mut self, effect: Effect) -> Option<Input> {
        let metrics = &self.way.server.metrics;
        match effect {
            Effect::Pass(message) => self.say(message, false),
            Effect::Ask(number, question) => {
                let (answers, _) = self.answers.get_or_insert_with(|| mpsc::channel(QUESTIONS_MAX));
                let Some((name, question)) = self.session.ask_for(number, answers, &question) else {
                    return Some(Input::Unasked(number));
                };
                self.names.insert(number, name);
                self.say(question, false);
            }
            Effect::Withdraw(number) => {
                if let Some(name) = self.names.remove(&number)
                    && self.session.take_back(name)
                {
                    self.say(withdrawn(name), false);
                }
            }
            Effect::Again => {
                self.again = [false; 2];
                self.send(false);
            }
            Effect::Finish(message) => {
                let outcome = if message.kind() == Kind::Error { "error" } else { "ok" };
                self.finish(message, outcome);
            }
            Effect::Listed(tools) => {
                if let Some(stateless) = self.session.route().as_stateless() {
                    stateless.listed(&tools);
                }
            }
            Effect::Violation(what) => self.fail(UpstreamError::Violation(what)),
            Effect::Lost(loss) => metrics.lost(loss),
            Effect::Drop(reason) => metrics.dropped(reason),
        }
        None
    }

    fn say(&mut self, message: Message, last: bool) {
        self.ready.push_back(Output { message, last, status: StatusCode::OK });
    }

    fn finish(&mut self, message: Message, outcome: &'static str) {
        self.say(message, true);
        self.end(outcome);
    }

    fn fail(&mut self, error: UpstreamError) {
        let metrics = &self.way.server.metrics;
        tracing::debug!(upstream = metrics.name(), %error, "Request failed");
        metrics.error("upstream", error.kind());
        let outcome = error.kind();
        let repeatable = self.call.known().is_some_and(Known::safe_to_repeat);
        self.finish_with(&ProxyError::Upstream { error, repeatable }, outcome);
    }

    /// What failed before it reached the server, as the end of the request.
    fn refuse(&mut self, error: &ProxyError) {
        let (side, kind) = error.blame();
        self.way.server.metrics.error(side, kind);
        self.finish_with(error, kind);
    }

    fn stopped(&mut self) {
        match self.session.end_reason() {
            Some(reason) => self.finish_with(&ProxyError::SessionEnded(reason), "session_ended"),
            None => self.end("cancelled"),
        }
    }

    /// It was dispatched once: from then on trouble is no HTTP status.
    fn finish_with(&mut self, error: &ProxyError, outcome: &'static str) {
        let text = error.outward().error.to_json(Some(self.call.client_id()));
        self.finish(own(text), outcome);
    }

    fn end(&mut self, outcome: &'static str) {
        self.outcome = outcome;
        self.is_over = true;
        (self.replies, self.lease, self.sending, self.answers) = (None, None, None, None);
        self.subscribing = None;
        for (_, name) in self.names.drain() {
            self.session.take_back(name);
        }
        self.guard = None;
        if let Some(leg) = self.call.leave_task() {
            let way = self.way.clone();
            self.way.server.backend.adopter().adopt(async move { drop(timeout(FAREWELL, tell(&way, &leg)).await) });
        }
    }
}

impl Drop for Bridged {
    fn drop(&mut self) {
        if !self.is_over {
            self.end("abandoned");
        }
        let method = self.call.known().map_or("other", Known::as_str);
        let (metrics, outcome, took) = (&self.way.server.metrics, self.outcome, self.started.elapsed());
        tracing::debug!(upstream = metrics.name(), method, outcome, took_ms = took.as_millis(), "Exchange ended");
        metrics.exchange_ended(Era::Legacy.as_str(), method, outcome, took);
    }
}

/// Sends what nobody waits for the answer to.
async fn tell(way: &Sender, leg: &Leg) {
    let Ok(mut sent) = way.send(leg, false).await else { return };
    while let Some(Ok(message)) = sent.replies.next().await {
        if matches!(message.kind(), Kind::Result | Kind::Error) {
            return;
        }
    }
}

async fn reply(replies: &mut Option<Replies>) -> Option<upstream::driver::Reply> {
    match replies {
        Some(replies) => replies.next().await,
        None => std::future::pending().await,
    }
}

async fn sent(sending: &mut Option<BoxFuture<'static, Result<Sent, ProxyError>>>) -> Result<Sent, ProxyError> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

async fn promised(subscribing: &mut Option<BoxFuture<'static, Result<(), Message>>>) -> Result<(), Message> {
    match subscribing {
        Some(subscribing) => subscribing.await,
        None => std::future::pending().await,
    }
}

/// Waits until the server has promised to tell of a resource.
async fn subscribed(session: &Session, version: u64, uri: &str) -> Result<(), Message> {
    let Some(stateless) = session.route().as_stateless() else { return Ok(()) };
    let outcome = stateless.subscriptions.outcome(version).await;
    let refusal = match outcome.said {
        Some(Ok(promise)) if promise.has(uri) => return Ok(()),
        Some(Err(refusal)) => refusal,
        Some(Ok(_)) | None => {
            let why = "The server does not tell of changes of this resource";
            let error = RpcError::new(INVALID_PARAMS, "not_subscribable", why);
            own(error.to_json(Some(&RequestId::from_integer(0))))
        }
    };
    stateless.subscriptions.remove(uri);
    Err(refusal)
}

fn done(id: &RequestId) -> Message {
    own(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_json()))
}

async fn answer(answers: &mut Option<Answers>) -> Option<(u32, Message)> {
    match answers {
        Some((_, answers)) => answers.recv().await,
        None => std::future::pending().await,
    }
}

/// The answer to what only a session has: it is ours to give.
fn here(stateless: &Stateless, request: &Message, id: &RequestId) -> Result<Option<Message>, ProxyError> {
    let missing = || {
        let error = RpcError::new(METHOD_NOT_FOUND, "method_not_found", "The server has no such method");
        own(error.to_json(Some(id)))
    };
    Ok(match request.known() {
        Some(Known::SetLevel) => {
            let level = request.param("level").and_then(json_str).filter(|level| meta::is_log_level(level));
            let level = level.ok_or(ProxyError::LogLevel)?;
            Some(if stateless.set_level(level) { done(id) } else { missing() })
        }
        Some(Known::ResourcesUnsubscribe) => {
            stateless.subscriptions.remove(&sharing::uri(request).ok_or(ProxyError::Uri)?);
            Some(done(id))
        }
        // The same names are other things in the other era, and nobody was offered these.
        Some(
            Known::TasksGet
            | Known::TasksList
            | Known::TasksResult
            | Known::TasksCancel
            | Known::TasksUpdate
            | Known::Discover
            | Known::Listen,
        ) => Some(missing()),
        _ => None,
    })
}
