//! Streamable HTTP towards an upstream: a POST per message, an answer as JSON or as a stream, and for servers with a
//! handshake a session and a stream of what they say by themselves
//! (2025-11-25 and 2026-07-28, Transports › Streamable HTTP).
//!
//! A call has no task: its response is read as it is polled, and dropping it closes it. A legacy session has one task,
//! which reads the standing stream, sends what `Drop` leaves behind, and deletes the session at the end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::driver::{self, CallFacts, Reply};
use super::error::UpstreamError;
use super::http::{Body, HttpClient, HttpError, Response, SseBody, Violation};
use super::probe::{self, Verdict};
use super::reconnect::{self, Heard, Loss, Origin, Reconnect, Step, parse_retry_after};
use super::redelivery::Redelivery;
use super::{Call, sse_2024};
use crate::metrics::ServerMetrics;
use crate::protocol::error::INVALID_REQUEST;
use crate::protocol::headers;
use crate::protocol::message::{Incoming, Kind, Message, cancelled, json_str};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::protocol::sse::{Event, Item};
use crate::rt::mailbox::{Bounds, PushError, Reader, Writer, mailbox};
use crate::rt::{Spawner, Tasks};
use crate::settings::{HttpTarget, HttpTransport, Limits, Timeouts};

/// How long the end of a session is announced for: best effort (2025-11-25, Session Management).
const DELETE_WAIT: Duration = Duration::from_secs(1);
/// Most messages that `Drop` and the standing stream may leave to be sent; what is beyond that is dropped and counted.
const LEFTOVERS_MAX: usize = 256;

const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One server behind HTTP.
pub(crate) struct HttpUpstream {
    pub(super) client: HttpClient,
    pub(super) target: HttpTarget,
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: ServerMetrics,
    tasks: Tasks,
    /// Sessions that have not ended yet, with the server too.
    sessions: TaskTracker,
    /// It was found to speak the transport of 2024-11-05 only.
    is_2024: AtomicBool,
}

impl HttpUpstream {
    /// A client for the server; nothing is connected yet.
    ///
    /// # Errors
    /// The URL cannot be used, or the system's certificates cannot be read.
    pub(crate) fn new(
        target: &HttpTarget,
        limits: &Limits,
        timeouts: &Timeouts,
        tasks: &Tasks,
        metrics: ServerMetrics,
    ) -> std::io::Result<HttpUpstream> {
        let (sessions, connections) = (TaskTracker::new(), CancellationToken::new());
        let spawner = Spawner::new(tasks, "upstream-connection", connections.clone());
        let client = HttpClient::new(&target.url, limits, timeouts, spawner)?;
        let (stop, ending) = (tasks.stop().clone(), sessions.clone());
        tasks.spawn("upstream-http", async move {
            stop.cancelled().await;
            // The last thing said over a connection is that the sessions are over.
            ending.close();
            let _ = timeout(DELETE_WAIT, ending.wait()).await;
            connections.cancel();
        });
        Ok(HttpUpstream {
            client,
            sessions,
            is_2024: AtomicBool::new(target.transport == HttpTransport::Sse),
            target: target.clone(),
            limits: limits.clone(),
            timeouts: timeouts.clone(),
            tasks: tasks.clone(),
            metrics,
        })
    }

    /// The way for stateless requests.
    pub(crate) fn modern(self: &Arc<Self>) -> HttpConnection {
        let (core, _) = Core::new(self, Era::Modern);
        HttpConnection { core, _open: None }
    }

    /// A legacy session to be: its connection, what the server will say by itself, and the task that looks after it.
    pub(crate) fn legacy(
        self: &Arc<Self>,
    ) -> (HttpConnection, Reader<Message>, impl Future<Output = ()> + Send + 'static) {
        let (core, standing) = Core::new(self, Era::Legacy);
        let open = CancellationToken::new();
        let task = self.sessions.track_future(Arc::clone(&core).look_after(open.clone()));
        (HttpConnection { core, _open: Some(Arc::new(open.drop_guard())) }, standing, task)
    }

    /// Asks for the era.
    ///
    /// # Errors
    /// The answer is no evidence: refused credentials, failures, silence.
    pub(crate) async fn probe(self: &Arc<Self>) -> Result<Verdict, UpstreamError> {
        if self.target.transport == HttpTransport::Sse {
            return Ok(Verdict::Legacy);
        }
        let connection = self.modern();
        let id = connection.next_id();
        let mut request_headers = HeaderMap::new();
        request_headers.insert(headers::METHOD, HeaderValue::from_static(Known::Discover.as_str()));
        let headers = connection.core.headers(&BOTH, request_headers);
        let deadline = Instant::now() + self.timeouts.probe;
        let body = Bytes::from(probe::question(id));
        let response =
            self.client.send(Method::POST, &self.target.url, headers, body, deadline).await.map_err(|e| failure(&e))?;
        if !probe::is_evidence(response.status) {
            return Err(refusal(&response));
        }
        let text = match response.body {
            Body::Json(text) => text,
            Body::Sse(mut body) => loop {
                match body.next().await {
                    Some(Ok(Item::Event(event))) if event.message().is_some() => break event.data,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(failure(&error)),
                    None => return Err(UpstreamError::Lost { sent: true }),
                }
            },
            // An empty body, a page: no modern server answers so.
            Body::Empty | Body::Other(_) => return Ok(Verdict::Legacy),
        };
        Ok(Message::parse(text, self.limits.depth).map_or(Verdict::Legacy, |answer| probe::judge(&answer)))
    }
}

/// A way to an HTTP server. Clones share it; the last one of a legacy session ends the session when it is dropped.
#[derive(Clone)]
pub(crate) struct HttpConnection {
    core: Arc<Core>,
    _open: Option<Arc<DropGuard>>,
}

struct Core {
    upstream: Arc<HttpUpstream>,
    era: Era,
    next_id: AtomicI64,
    session: OnceLock<HeaderValue>,
    version: OnceLock<HeaderValue>,
    /// What the client of a session sent along with its latest request: what goes on its behalf without being a request
    /// of its own has it too. Held for a clone or a replacement.
    forwarded: Mutex<HeaderMap>,
    /// What the handshake found to be a server of 2024-11-05 goes over a connection of that kind.
    driven: OnceLock<driver::Handle>,
    standing: Writer<Message>,
    /// Held for a push or a take, never over an await.
    leftovers: Mutex<VecDeque<Bytes>>,
    wake: Notify,
    /// Cancelled when the client has completed the handshake: the standing stream may be opened.
    initialized: CancellationToken,
    /// The session is over; or, without one, the server may not be what it was.
    gone: CancellationToken,
}

impl HttpConnection {
    pub(crate) fn next_id(&self) -> i64 {
        self.core.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn gone(&self) -> &CancellationToken {
        &self.core.gone
    }

    /// Prepares a request; it is sent when the replies are asked for.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<HttpReplies, UpstreamError> {
        let core = &self.core;
        let is_initialize = call.message.known() == Some(Known::Initialize);
        if core.era == Era::Legacy {
            core.forwarded().clone_from(&call.headers);
        }
        if let Some(handle) = core.driven.get() {
            let replies = handle.call(call.id, call.message.line(), call.facts).await?;
            return Ok(HttpReplies::driven(core, call.id, replies));
        }
        if is_initialize && core.upstream.is_2024.load(Ordering::Relaxed) {
            let handle = core.fall_back().await?;
            let replies = handle.call(call.id, call.message.line(), call.facts).await?;
            return Ok(HttpReplies::driven(core, call.id, replies));
        }
        let body = call.message.text().clone();
        let post = core.post(body.clone(), call.headers, Instant::now() + core.upstream.timeouts.request_max);
        Ok(HttpReplies {
            core: Arc::clone(core),
            id: call.id,
            facts: call.facts,
            handshake: is_initialize.then_some(body),
            ready: VecDeque::new(),
            redelivery: Redelivery::default(),
            state: State::Posting(post),
            open: true,
        })
    }

    /// Sends a notification, or the answer to a request of the server.
    pub(crate) async fn send(&self, message: &Message) -> Result<(), UpstreamError> {
        let core = &self.core;
        if let Some(handle) = core.driven.get() {
            return handle.send(message.line()).await;
        }
        core.deliver(message.text().clone()).await?;
        if message.known() == Some(Known::Initialized) {
            core.initialized.cancel();
        }
        Ok(())
    }

    /// Cancels a call with the client's own notification. A modern call is cancelled by being dropped.
    pub(crate) fn cancel(&self, id: i64, notification: Bytes) {
        match self.core.driven.get() {
            Some(handle) => handle.cancel(id, Some(notification)),
            None if self.core.era == Era::Legacy => self.core.leave(notification),
            None => {}
        }
    }
}

impl Core {
    fn new(upstream: &Arc<HttpUpstream>, era: Era) -> (Arc<Core>, Reader<Message>) {
        let (standing, reader) = mailbox(Bounds { items: 64, bytes: 1 << 20 });
        let core = Core {
            upstream: Arc::clone(upstream),
            era,
            next_id: AtomicI64::new(1),
            session: OnceLock::new(),
            version: OnceLock::new(),
            forwarded: Mutex::default(),
            driven: OnceLock::new(),
            standing,
            leftovers: Mutex::default(),
            wake: Notify::new(),
            initialized: CancellationToken::new(),
            gone: CancellationToken::new(),
        };
        if era == Era::Modern {
            let _ = core.version.set(HeaderValue::from_static(Revision::V2026_07_28.as_str()));
        }
        (Arc::new(core), reader)
    }

    fn leftovers(&self) -> std::sync::MutexGuard<'_, VecDeque<Bytes>> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forwarded(&self) -> std::sync::MutexGuard<'_, HeaderMap> {
        self.forwarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server may have been replaced by one of the other era: the next stateless request asks again before it uses
    /// this way. Requests under way are not concerned.
    fn doubt(&self) {
        if self.era == Era::Modern {
            self.gone.cancel();
        }
    }

    /// Leaves a message to be sent by the session's task.
    fn leave(&self, message: Bytes) {
        let mut leftovers = self.leftovers();
        if leftovers.len() >= LEFTOVERS_MAX {
            drop(leftovers);
            self.upstream.metrics.dropped("leftovers");
            return;
        }
        leftovers.push_back(message);
        drop(leftovers);
        self.wake.notify_one();
    }

    fn headers(&self, accept: &HeaderValue, mut headers: HeaderMap) -> HeaderMap {
        headers.insert(ACCEPT, accept.clone());
        headers.insert(CONTENT_TYPE, JSON);
        if let Some(session) = self.session.get() {
            headers.insert(headers::SESSION_ID, session.clone());
        }
        if let Some(version) = self.version.get() {
            headers.insert(headers::PROTOCOL_VERSION, version.clone());
        }
        for (name, value) in &self.upstream.target.headers {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }

    fn post(self: &Arc<Self>, body: Bytes, headers: HeaderMap, deadline: Instant) -> Sending {
        let core = Arc::clone(self);
        let headers = self.headers(&BOTH, headers);
        async move { core.upstream.client.send(Method::POST, &core.upstream.target.url, headers, body, deadline).await }
            .boxed()
    }

    fn get(self: &Arc<Self>, last_id: Option<Bytes>) -> Sending {
        let core = Arc::clone(self);
        let forwarded = self.forwarded().clone();
        let mut headers = self.headers(&EVENTS, forwarded);
        headers.remove(CONTENT_TYPE);
        if let Some(id) = last_id.and_then(|id| HeaderValue::from_maybe_shared(id).ok()) {
            headers.insert(headers::LAST_EVENT_ID, id);
        }
        let deadline = Instant::now() + self.upstream.timeouts.start;
        async move {
            core.upstream.client.send(Method::GET, &core.upstream.target.url, headers, Bytes::new(), deadline).await
        }
        .boxed()
    }

    /// Sends something that has no answer.
    async fn deliver(self: &Arc<Self>, body: Bytes) -> Result<(), UpstreamError> {
        let deadline = Instant::now() + self.upstream.timeouts.request;
        let forwarded = self.forwarded().clone();
        let response = self.post(body, forwarded, deadline).await.map_err(|error| failure(&error))?;
        if response.status.is_success() {
            return Ok(());
        }
        Err(self.refused(&response))
    }

    /// What a status other than success means. A session that the server has forgotten is over for us too.
    fn refused(&self, response: &Response) -> UpstreamError {
        if response.status == StatusCode::NOT_FOUND && self.session.get().is_some() {
            self.gone.cancel();
            return UpstreamError::SessionGone;
        }
        refusal(response)
    }

    /// Connects with the transport of 2024-11-05. From here on that is the connection.
    async fn fall_back(self: &Arc<Self>) -> Result<driver::Handle, UpstreamError> {
        let upstream = &self.upstream;
        let forwarded = self.forwarded().clone();
        let pipe = sse_2024::SsePipe::connect(upstream, forwarded).await?;
        upstream.is_2024.store(true, Ordering::Relaxed);
        let limits =
            driver::DriverLimits { depth: upstream.limits.depth, message_bytes: upstream.limits.message_bytes };
        let stop = upstream.tasks.stop().clone();
        let (handle, mut said, task) =
            driver::drive(pipe, driver::Sharing::Exclusive, limits, upstream.metrics.clone(), stop);
        let core = Arc::clone(self);
        // The handle lives in `core`: this ends with the session, or with the connection.
        upstream.tasks.spawn("upstream-sse", async move {
            let pass_on = async {
                while let Some(message) = said.next().await {
                    core.say(message).await;
                }
            };
            tokio::join!(task, pass_on);
            core.gone.cancel();
        });
        let _ = self.driven.set(handle.clone());
        Ok(handle)
    }

    /// Something the server says by itself.
    async fn say(&self, message: Message) {
        let bytes = message.text().len();
        let mut message = message;
        loop {
            match self.standing.push(message, bytes) {
                Ok(()) => return,
                Err(PushError::Full(back)) => message = back,
                Err(PushError::Gone) => return self.upstream.metrics.dropped("client_gone"),
            }
            self.standing.room().await;
        }
    }

    /// The life of a legacy session.
    async fn look_after(self: Arc<Self>, open: CancellationToken) {
        let stop = self.upstream.tasks.stop().clone();
        let listening = self.listen();
        let sending = async {
            loop {
                let next = self.leftovers().pop_front();
                match next {
                    // Whether it arrives is seen by what the server does next.
                    Some(message) => drop(self.deliver(message).await),
                    None => self.wake.notified().await,
                }
            }
        };
        tokio::select! {
            biased;
            () = open.cancelled() => {}
            () = stop.cancelled() => {}
            () = self.gone.cancelled() => {}
            () = async { tokio::join!(listening, sending); } => {}
        }
        // What was still to be sent concerns calls of a session that ends now.
        let forgotten = self.gone.is_cancelled();
        self.gone.cancel();
        self.standing.close();
        if let Some(handle) = self.driven.get() {
            handle.close();
        } else if self.session.get().is_some() && !forgotten {
            let forwarded = self.forwarded().clone();
            let mut headers = self.headers(&BOTH, forwarded);
            headers.remove(CONTENT_TYPE);
            let deadline = Instant::now() + DELETE_WAIT;
            let url = &self.upstream.target.url;
            // 405 means that it has no use for this; silence means nothing.
            drop(self.upstream.client.send(Method::DELETE, url, headers, Bytes::new(), deadline).await);
        }
    }

    /// Holds the stream of what the server says by itself, once the handshake is done. Ends where there is none.
    async fn listen(self: &Arc<Self>) {
        self.initialized.cancelled().await;
        if self.driven.get().is_some() {
            return;
        }
        let mut reconnect = Reconnect::new(Origin::Get, reconnect::Policy::default(), Instant::now().into_std());
        let mut step = Step::Connect { last_id: None };
        let mut body: Option<Box<SseBody>> = None;
        let mut redelivery = Redelivery::default();
        loop {
            let event = match step {
                Step::Connect { last_id } => match self.get(last_id).await {
                    Ok(Response { body: Body::Sse(stream), .. }) => {
                        body = Some(stream);
                        reconnect::Event::Opened
                    }
                    response => reconnect::Event::Lost { loss: loss(&response), heard: Heard::default() },
                },
                Step::WaitUntil(until) => {
                    sleep_until(Instant::from_std(until)).await;
                    reconnect::Event::Due
                }
                Step::Read => {
                    let Some(stream) = &mut body else { return };
                    let (heard, loss) = self.read_standing(stream, &mut redelivery).await;
                    body = None;
                    redelivery.resumed();
                    reconnect::Event::Lost { loss, heard }
                }
                Step::GiveUp(reconnect::GiveUp::Refused(StatusCode::NOT_FOUND)) => {
                    // The session is gone, and with it what this connection was.
                    self.gone.cancel();
                    return;
                }
                // There is no such stream (405), or it is of no use: the server is without it.
                Step::GiveUp(why) => {
                    tracing::debug!(upstream = self.upstream.metrics.name(), ?why, "No standing stream");
                    return;
                }
            };
            step = reconnect.on(event, Instant::now().into_std(), jitter());
        }
    }

    async fn read_standing(&self, stream: &mut SseBody, redelivery: &mut Redelivery) -> (Heard, Loss) {
        let mut message = false;
        let loss = loop {
            match stream.next().await {
                Some(Ok(Item::Event(event))) if redelivery.is_repeated(event.id.as_ref()) => {}
                Some(Ok(Item::Event(event))) => {
                    for parsed in self.parse(&event) {
                        message = true;
                        match parsed.kind() {
                            Kind::Request if parsed.known() == Some(Known::Ping) => self.pong(&parsed),
                            Kind::Request | Kind::Notification => self.say(parsed).await,
                            Kind::Result | Kind::Error => self.upstream.metrics.dropped("unknown_answer"),
                        }
                    }
                }
                Some(Ok(Item::Comment)) => {}
                Some(Err(error)) => break loss_of(&error),
                None => break Loss::Ended,
            }
        };
        (Heard { message, last_id: stream.last_event_id().cloned(), retry: stream.retry() }, loss)
    }

    /// The messages in an event: none in a priming event, several in a batch (2025-03-26).
    fn parse(&self, event: &Event) -> Vec<Message> {
        let Some(text) = event.message() else { return Vec::new() };
        match Incoming::parse(text.clone(), self.upstream.limits.depth) {
            Ok(Incoming::One(message)) => vec![message],
            Ok(Incoming::Batch(messages)) => messages.into_iter().flatten().collect(),
            Err(error) => {
                tracing::warn!(upstream = self.upstream.metrics.name(), error = %error.reason, "Event is no message");
                self.upstream.metrics.dropped("not_a_message");
                Vec::new()
            }
        }
    }

    /// The proxy is the client here, and it is alive (2025-11-25, Ping).
    fn pong(&self, ping: &Message) {
        if let Some(id) = ping.id() {
            self.leave(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_json())));
        }
    }
}

type Sending = BoxFuture<'static, Result<Response, HttpError>>;

/// What comes back for one call. Dropping it before the final answer cancels the call.
pub(crate) struct HttpReplies {
    core: Arc<Core>,
    id: i64,
    facts: CallFacts,
    /// The body of an `initialize`, which may have to be sent over another transport.
    handshake: Option<Bytes>,
    /// Parsed and not yet asked for.
    ready: VecDeque<Message>,
    redelivery: Redelivery,
    state: State,
    open: bool,
}

enum State {
    Posting(Sending),
    /// Trying the transport of 2024-11-05; what the server said first holds if it does not speak that either.
    Falling(BoxFuture<'static, Result<driver::Replies, UpstreamError>>, Box<Reply>),
    Reading {
        body: Box<SseBody>,
        reconnect: Reconnect,
        heard: bool,
    },
    Waiting {
        until: std::time::Instant,
        reconnect: Reconnect,
    },
    Resuming {
        get: Sending,
        reconnect: Reconnect,
    },
    Driven(driver::Replies),
    Over,
}

impl HttpReplies {
    fn driven(core: &Arc<Core>, id: i64, replies: driver::Replies) -> HttpReplies {
        HttpReplies {
            core: Arc::clone(core),
            id,
            facts: CallFacts { may_ask: false, wants_log: false, cancellable: false },
            handshake: None,
            ready: VecDeque::new(),
            redelivery: Redelivery::default(),
            state: State::Driven(replies),
            open: false,
        }
    }

    /// The server has been told already that this call is over.
    pub(crate) fn cancelled(&mut self) {
        self.open = false;
        if let State::Driven(replies) = &mut self.state {
            replies.cancelled();
        }
    }

    /// The next message; the last one is the answer, or an error. Cancel safe: what is under way is kept in `self`.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                match self.sort(message) {
                    Sorted::Deliver(message) => return Some(Ok(message)),
                    Sorted::Answer(message) => return Some(Ok(self.over(message))),
                    Sorted::Nothing => continue,
                }
            }
            match &mut self.state {
                State::Over => return None,
                State::Driven(replies) => return replies.next().await,
                State::Posting(post) => {
                    let response = post.await;
                    if let Err(error) = self.responded(response) {
                        return Some(Err(self.failed(error)));
                    }
                }
                State::Falling(connecting, _) => match connecting.await {
                    Ok(replies) => {
                        self.open = false;
                        self.state = State::Driven(replies);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "No HTTP+SSE there either");
                        let State::Falling(_, first) = std::mem::replace(&mut self.state, State::Over) else {
                            return None;
                        };
                        match *first {
                            Ok(answer) => self.ready.push_back(answer),
                            Err(first) => return Some(Err(self.failed(first))),
                        }
                    }
                },
                State::Reading { body, heard, .. } => match body.next().await {
                    Some(Ok(Item::Event(event))) => {
                        let repeated = self.redelivery.is_repeated(event.id.as_ref());
                        let mut messages = self.core.parse(&event);
                        if repeated {
                            // An answer that had been heard would have been the end, so this is none of those.
                            messages.retain(|message| matches!(message.kind(), Kind::Result | Kind::Error));
                        }
                        *heard |= !messages.is_empty();
                        self.ready.extend(messages);
                    }
                    Some(Ok(Item::Comment)) => {}
                    Some(Err(error)) => {
                        let broke = match loss_of(&error) {
                            // It would be the same next time.
                            Loss::Unusable => Err(failure(&error)),
                            loss => self.broke(loss),
                        };
                        if let Err(error) = broke {
                            return Some(Err(self.failed(error)));
                        }
                    }
                    None => {
                        if let Err(error) = self.broke(Loss::Ended) {
                            return Some(Err(self.failed(error)));
                        }
                    }
                },
                State::Waiting { until, .. } => {
                    sleep_until(Instant::from_std(*until)).await;
                    let State::Waiting { mut reconnect, .. } = std::mem::replace(&mut self.state, State::Over) else {
                        return None;
                    };
                    let step = reconnect.on(reconnect::Event::Due, Instant::now().into_std(), jitter());
                    if let Err(error) = self.step(step, reconnect) {
                        return Some(Err(self.failed(error)));
                    }
                }
                State::Resuming { get, .. } => {
                    let response = get.await;
                    let State::Resuming { mut reconnect, .. } = std::mem::replace(&mut self.state, State::Over) else {
                        return None;
                    };
                    match response {
                        Ok(Response { body: Body::Sse(body), .. }) => {
                            reconnect.on(reconnect::Event::Opened, Instant::now().into_std(), jitter());
                            self.redelivery.resumed();
                            self.state = State::Reading { body, reconnect, heard: false };
                        }
                        response => {
                            let event = reconnect::Event::Lost { loss: loss(&response), heard: Heard::default() };
                            let step = reconnect.on(event, Instant::now().into_std(), jitter());
                            if let Err(error) = self.step(step, reconnect) {
                                return Some(Err(self.failed(error)));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether an answer is the answer to this call: in the very spelling that was sent.
    fn is_ours(&self, answer: &Message) -> bool {
        answer.id().is_some_and(|id| id.as_json() == self.id.to_string())
    }

    /// What a message on this call's stream is.
    fn sort(&mut self, message: Message) -> Sorted {
        match message.kind() {
            Kind::Result | Kind::Error if self.is_ours(&message) => Sorted::Answer(message),
            Kind::Result | Kind::Error => {
                self.core.upstream.metrics.dropped("unknown_answer");
                Sorted::Nothing
            }
            Kind::Request if message.known() == Some(Known::Ping) && self.core.era == Era::Legacy => {
                self.core.pong(&message);
                Sorted::Nothing
            }
            // Progress for somebody else has no place on this stream, and would get this client's token.
            Kind::Notification
                if message.known() == Some(Known::Progress)
                    && message.param(meta::PROGRESS_TOKEN) != Some(&self.id.to_string()) =>
            {
                self.core.upstream.metrics.dropped("unknown_progress");
                Sorted::Nothing
            }
            Kind::Request | Kind::Notification => Sorted::Deliver(message),
        }
    }

    fn responded(&mut self, response: Result<Response, HttpError>) -> Result<(), UpstreamError> {
        self.state = State::Over;
        let response = response.map_err(|error| {
            if matches!(error, HttpError::Unsent(_) | HttpError::Lost(_)) {
                self.core.doubt();
            }
            failure(&error)
        })?;
        if self.handshake.is_some()
            && response.status.is_success()
            && let Some(session) = response.headers.get(headers::SESSION_ID)
        {
            let _ = self.core.session.set(session.clone());
        }
        match response {
            Response { status: StatusCode::OK, body: Body::Json(text), .. } => {
                let incoming = Incoming::parse(text, self.core.upstream.limits.depth)
                    .map_err(|_| UpstreamError::Violation("its answer is not a JSON-RPC message"))?;
                match incoming {
                    Incoming::One(message) => self.ready.push_back(message),
                    Incoming::Batch(messages) => self.ready.extend(messages.into_iter().flatten()),
                }
                if self.ready.iter().any(|message| matches!(message.kind(), Kind::Result | Kind::Error)) {
                    // If it is not the answer to this, there will be none.
                    return Ok(());
                }
                Err(UpstreamError::Violation("it accepted a request and did not answer it"))
            }
            Response { status: StatusCode::OK, body: Body::Sse(body), .. } => {
                let reconnect = Reconnect::new(Origin::Post, reconnect::Policy::default(), Instant::now().into_std());
                self.state = State::Reading { body, reconnect, heard: false };
                Ok(())
            }
            response if response.status.is_success() => {
                Err(UpstreamError::Violation("it accepted a request and did not answer it"))
            }
            response => self.not_ok(response),
        }
    }

    /// A status other than success: an error of the server in JSON-RPC, or one of HTTP.
    fn not_ok(&mut self, response: Response) -> Result<(), UpstreamError> {
        let error = self.core.refused(&response);
        let answer = match &response.body {
            Body::Json(text) => Message::parse(text.clone(), self.core.upstream.limits.depth).ok(),
            _ => None,
        };
        let answer = answer.filter(|answer| answer.kind() == Kind::Error);
        let telling = matches!(error, UpstreamError::Status(_));
        let answered = answer.as_ref().is_some_and(|answer| self.is_ours(answer));
        // Errors that refuse a request before it was read carry no id, or null, or (in a widespread SDK) a word; this is
        // the only request they can mean.
        let answer = answer.filter(|_| telling).and_then(|answer| {
            if answered {
                return Some(answer);
            }
            let text = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, self.id, answer.body()?);
            Message::parse(Bytes::from(text), self.core.upstream.limits.depth).ok()
        });
        let verdict = answer.ok_or(error);
        if is_of_an_older_server(response.status, &verdict) {
            self.core.doubt();
        }
        // What an old server says to a POST (2025-11-25, Transports › Backwards Compatibility).
        let old = match response.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => true,
            StatusCode::BAD_REQUEST => !answered,
            _ => false,
        };
        if let (Some(body), true, HttpTransport::Auto) =
            (self.handshake.take(), old, self.core.upstream.target.transport)
        {
            let (core, id, facts) = (Arc::clone(&self.core), self.id, self.facts);
            let connecting = async move { core.fall_back().await?.call(id, body, facts).await };
            self.state = State::Falling(connecting.boxed(), Box::new(verdict));
            return Ok(());
        }
        self.ready.push_back(verdict?);
        Ok(())
    }

    /// The stream ended before the answer. It is resumed where the server has said how (2025-11-25, Resumability and
    /// Redelivery); the request itself is never sent again.
    fn broke(&mut self, loss: Loss) -> Result<(), UpstreamError> {
        let State::Reading { body, mut reconnect, heard } = std::mem::replace(&mut self.state, State::Over) else {
            return Ok(());
        };
        if self.core.era == Era::Modern {
            return Err(UpstreamError::Lost { sent: true });
        }
        let heard = Heard { message: heard, last_id: body.last_event_id().cloned(), retry: body.retry() };
        let step = reconnect.on(reconnect::Event::Lost { loss, heard }, Instant::now().into_std(), jitter());
        self.step(step, reconnect)
    }

    fn step(&mut self, step: Step, reconnect: Reconnect) -> Result<(), UpstreamError> {
        self.state = match step {
            Step::WaitUntil(until) => State::Waiting { until, reconnect },
            Step::Connect { last_id } => State::Resuming { get: self.core.get(last_id), reconnect },
            Step::Read => return Err(UpstreamError::Lost { sent: true }),
            Step::GiveUp(reconnect::GiveUp::Refused(StatusCode::NOT_FOUND)) => {
                self.core.gone.cancel();
                return Err(UpstreamError::Lost { sent: true });
            }
            Step::GiveUp(reconnect::GiveUp::Unusable) => {
                return Err(UpstreamError::Violation("its stream cannot be read"));
            }
            Step::GiveUp(_) => return Err(UpstreamError::Lost { sent: true }),
        };
        Ok(())
    }

    fn over(&mut self, answer: Message) -> Message {
        self.open = false;
        self.state = State::Over;
        if self.handshake.take().is_some()
            && let Some(version) = negotiated(&answer)
        {
            let _ = self.core.version.set(version);
        }
        answer
    }

    fn failed(&mut self, error: UpstreamError) -> UpstreamError {
        self.open = false;
        self.state = State::Over;
        error
    }
}

enum Sorted {
    Deliver(Message),
    Answer(Message),
    Nothing,
}

impl Drop for HttpReplies {
    fn drop(&mut self) {
        // A modern call ends with its response, which is dropped with this. A legacy server has to be told.
        if self.open && self.core.era == Era::Legacy && self.facts.cancellable {
            self.core.leave(cancelled(self.id));
        }
    }
}

/// Whether a refusal is none that a server of 2026-07-28 gives: a status without an error, or an error that misses a session
/// (2026-07-28, Streamable HTTP › Backward Compatibility).
fn is_of_an_older_server(status: StatusCode, refusal: &Reply) -> bool {
    let refused = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    let is_modern = |answer: &Message| {
        let code = answer.body().and_then(|body| serde_json::from_str::<Code>(body).ok());
        code.is_some_and(|Code { code }| !(-32019..=-32000).contains(&code) && code != i64::from(INVALID_REQUEST))
    };
    refused && !refusal.as_ref().is_ok_and(is_modern)
}

#[derive(serde::Deserialize)]
struct Code {
    code: i64,
}

/// The version in the result of a handshake, as a header.
fn negotiated(result: &Message) -> Option<HeaderValue> {
    let (members, _) = result.result_members()?;
    let member = members.find(result.text(), meta::PROTOCOL_VERSION_PARAM)?;
    let json = std::str::from_utf8(member.value.of(result.text())).ok()?;
    HeaderValue::from_str(&json_str(json)?).ok()
}

/// A failure of HTTP, as one of an upstream. What it displays says nothing of addresses.
pub(super) fn failure(error: &HttpError) -> UpstreamError {
    tracing::debug!(error = %Chain(error), "HTTP failed");
    match error {
        HttpError::Unsent(_) | HttpError::OtherOrigin => UpstreamError::Unreachable(error.to_string()),
        HttpError::Lost(_) => UpstreamError::Lost { sent: true },
        HttpError::Timeout { sent } => UpstreamError::Timeout { sent: *sent },
        HttpError::Protocol(Violation::TooLarge { .. } | Violation::Sse(_)) => UpstreamError::TooLarge,
        HttpError::Protocol(Violation::ContentType { .. }) => {
            UpstreamError::Violation("its answer is neither JSON nor an event stream")
        }
        HttpError::Protocol(Violation::ContentEncoding) => UpstreamError::Violation("its answer is compressed"),
    }
}

/// An error and what caused it: for the operator's log.
struct Chain<'a>(&'a HttpError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// A status that is no success, as a failure of an upstream.
pub(super) fn refusal(response: &Response) -> UpstreamError {
    if let Body::Other(start) = &response.body {
        let body = String::from_utf8_lossy(start).escape_debug().to_string();
        tracing::debug!(status = response.status.as_u16(), body, "Server refused");
    }
    match response.status {
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => UpstreamError::Credentials(status),
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            let retry_after = retry_after(response).map(|wait| wait.as_secs());
            UpstreamError::Busy { status, retry_after }
        }
        status => UpstreamError::Status(status),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    parse_retry_after(response.headers.get(RETRY_AFTER)?.as_bytes(), std::time::SystemTime::now())
}

fn loss(response: &Result<Response, HttpError>) -> Loss {
    match response {
        Ok(response) if response.status == StatusCode::OK => Loss::Unusable,
        Ok(response) => Loss::Status { status: response.status, retry_after: retry_after(response) },
        Err(error) => loss_of(error),
    }
}

fn loss_of(error: &HttpError) -> Loss {
    match error {
        HttpError::Protocol(_) | HttpError::OtherOrigin => Loss::Unusable,
        HttpError::Unsent(_) | HttpError::Lost(_) | HttpError::Timeout { .. } => Loss::Broken,
    }
}

/// A random number in 0..1.
fn jitter() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness every proxy waits as long as the others: worse, and no reason to fail.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// Resolves the address that a server of 2024-11-05 names for messages. It must be of the server's own origin: it is
/// the server that says it, and requests of ours carry credentials.
pub(super) fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let absolute: Uri = if reference.starts_with("http://") || reference.starts_with("https://") {
        reference.parse().ok()?
    } else {
        let origin = format!("{}://{}", base.scheme_str()?, base.authority()?);
        let path = if reference.starts_with('/') {
            reference.to_owned()
        } else {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{reference}")
        };
        format!("{origin}{path}").parse().ok()?
    };
    (absolute.scheme() == base.scheme() && absolute.authority() == base.authority()).then_some(absolute)
}

pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, UpstreamError> {
    timeout(limit, future).await.map_err(|_| UpstreamError::Timeout { sent: false })
}
