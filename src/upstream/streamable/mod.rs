//! Streamable HTTP towards an upstream: a POST per message, an answer as JSON or as a stream, and for servers with a
//! handshake a session and a stream of what they say by themselves
//! (2025-11-25 and 2026-07-28, Transports › Streamable HTTP).
//!
//! A call has no task: its response is read as it is polled, and dropping it closes it. A legacy session has one task,
//! which reads the standing stream, sends what `Drop` leaves behind, and deletes the session at the end.

mod connect;
pub(super) mod failure;
pub(super) mod gate;
pub(super) mod lifeline;
mod replies;
mod session;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::{Notify, SemaphorePermit};
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Call;
use super::driver;
use super::error::UpstreamError;
use super::http::{Body, HttpClient, HttpError, Response};
use super::probe::{self, Verdict};
use super::reconnect;
use super::tapped;
use crate::metrics::{ServerMetrics, StreamAt, StreamMetrics, StreamState};
use crate::protocol::headers;
use crate::protocol::message::{Incoming, Message};
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::protocol::sse::{Event, Item};
use crate::rt::mailbox::{Reader, Writer};
use crate::rt::{Spawner, Tasks};
use crate::settings::{HttpTarget, HttpTransport, Limits, Timeouts};
use crate::tap::{Line, Tap};
use failure::{failure, refusal};
use gate::{Entered, Gate};
pub(crate) use replies::HttpReplies;
use session::DELETE_WAIT;

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
    pub(super) streams: Arc<StreamMetrics>,
    pub(super) gate: Arc<Gate>,
    /// How patient we are with its streams.
    policy: reconnect::Policy,
    tasks: Tasks,
    /// Sessions that have not ended yet, with the server too.
    sessions: TaskTracker,
    /// It was found to speak the transport of 2024-11-05 only.
    is_2024: AtomicBool,
    tap: Option<Arc<Tap>>,
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
        tap: Option<Arc<Tap>>,
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
        let streams = metrics.streams();
        Ok(HttpUpstream {
            gate: Gate::new(limits, timeouts, Arc::clone(&streams)),
            streams,
            policy: super::patience(limits, timeouts),
            client,
            sessions,
            is_2024: AtomicBool::new(target.transport == HttpTransport::Sse),
            target: target.clone(),
            limits: limits.clone(),
            timeouts: timeouts.clone(),
            tasks: tasks.clone(),
            metrics,
            tap,
        })
    }

    /// How long people may take to answer what the server asks.
    pub(super) fn people(&self) -> Duration {
        self.timeouts.question.max(self.timeouts.parked)
    }

    /// Why nothing is sent to the server now, if that is so.
    pub(crate) fn failing(&self) -> Option<String> {
        let seconds = gate::whole_seconds(self.gate.pause_left()?);
        Some(UpstreamError::CircuitOpen { seconds }.to_string())
    }

    /// A stream was lost for this reason, and waits to be opened again.
    pub(crate) fn lost_stream(&self, reason: &'static str) -> StreamState {
        self.streams.reconnects(reason);
        self.streams.stream(StreamAt::Backoff)
    }

    /// One of the few places for opening a lost stream again.
    ///
    /// # Cancel safety
    /// The place in the queue is lost.
    pub(crate) async fn reconnecting(&self) -> Option<SemaphorePermit<'_>> {
        self.gate.reconnecting().await
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
        let task = self.sessions.track_future(Arc::clone(&core).look_after());
        let open = Arc::new(Open(Arc::clone(&core)));
        (HttpConnection { core, _open: Some(open) }, standing, task)
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
        let body = Bytes::from(probe::question(id));
        // Whether it is there again is found out by this as well as by any other question.
        let (Entered::Pass(pass) | Entered::Turn(pass)) = self.gate.enter()?;
        let deadline = Instant::now() + self.timeouts.probe;
        let response = connection.core.send(Method::POST, headers, body, deadline).await;
        pass.responded(&response, self.limits.depth);
        let response = response.map_err(|e| failure(&e))?;
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
    _open: Option<Arc<Open>>,
}

/// Ends the session when it is dropped.
struct Open(Arc<Core>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.tell(Told::OVER);
    }
}

/// What the task of a session is told. It stays told.
#[derive(Clone, Copy)]
struct Told(u8);

impl Told {
    /// Nobody wants the connection any more.
    const OVER: Told = Told(1);
    /// The client has completed the handshake: the standing stream may be opened.
    const INITIALIZED: Told = Told(2);
    /// There is somebody to hear what the server says by itself: only then is the stream opened.
    const WANTED: Told = Told(4);

    fn has(self, other: Told) -> bool {
        self.0 & other.0 == other.0
    }
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
    standing: Arc<Writer<Message>>,
    /// Held for a push or a take, never over an await.
    leftovers: Mutex<VecDeque<Bytes>>,
    wake: Notify,
    /// Told of each response to a call.
    answered: Notify,
    /// Calls whose answer has not been seen: those that were given up may still be under way.
    unanswered: AtomicUsize,
    /// Who records what passes, if anybody does.
    line: Option<Arc<Line>>,
    /// Of [`Told`].
    told: AtomicU8,
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

    /// Whether everything that was asked has been answered.
    pub(crate) fn is_quiescent(&self) -> bool {
        match self.core.driven.get() {
            Some(handle) => handle.is_quiescent(),
            None => self.core.unanswered.load(Ordering::Relaxed) == 0,
        }
    }

    /// Who uses the connection from now on; for HTTP+SSE, which carries everything on one stream.
    pub(crate) fn share(&self, sharing: driver::Sharing) {
        if let Some(handle) = self.core.driven.get() {
            handle.share(sharing);
        }
    }

    /// From now on somebody hears what the server says by itself.
    pub(crate) fn listen(&self) {
        self.core.tell(Told::WANTED);
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &HttpConnection) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }

    /// Ends the session, whoever else holds the connection.
    pub(crate) fn close(&self) {
        self.core.tell(Told::OVER);
    }

    /// See [`Connection::attach`](super::Connection::attach).
    pub(crate) fn attach(&self) {
        match (self.core.driven.get(), &self.core.line) {
            (Some(handle), _) => handle.attach(),
            (None, Some(line)) => line.attach(),
            (None, None) => {}
        }
    }

    /// Prepares a request; it is sent when the replies are asked for.
    ///
    /// # Errors
    /// Nothing was sent: the server keeps failing and is left alone, or it is one of 2024-11-05 and cannot be reached.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<HttpReplies, UpstreamError> {
        let core = &self.core;
        let is_initialize = call.message.known() == Some(Known::Initialize);
        if core.era == Era::Legacy {
            let mut forwarded = core.forwarded();
            if *forwarded != call.headers {
                *forwarded = headers::detached(&call.headers);
            }
        }
        let pass = core.admit().await?;
        if let Some(handle) = core.driven.get() {
            let replies = handle.call(call.id, call.message.line(), call.facts).await?;
            return Ok(HttpReplies::driven(core, call.id, replies));
        }
        if is_initialize && core.upstream.is_2024.load(Ordering::Relaxed) {
            let handle = Box::pin(core.fall_back()).await?;
            let replies = handle.call(call.id, call.message.line(), call.facts).await?;
            return Ok(HttpReplies::driven(core, call.id, replies));
        }
        let body = call.message.text().clone();
        let (timeouts, now) = (&core.upstream.timeouts, Instant::now());
        let post = core.post(body.clone(), call.headers, now + timeouts.request_max);
        // Its deadline is its caller's, who began to count a little earlier or later.
        let late = if is_initialize { timeouts.start / 2 } else { timeouts.request };
        let pass = pass.late_at(now + late);
        Ok(HttpReplies::posting(core, call.id, call.facts, is_initialize.then_some(body), post, pass))
    }

    /// Sends a notification, or the answer to a request of the server.
    pub(crate) async fn send(&self, message: &Message) -> Result<(), UpstreamError> {
        let core = &self.core;
        if let Some(handle) = core.driven.get() {
            core.admit().await?;
            return handle.send(message.line()).await;
        }
        core.deliver(message.text().clone()).await?;
        if message.known() == Some(Known::Initialized) {
            core.tell(Told::INITIALIZED);
        }
        Ok(())
    }

    /// Leaves something to be sent by the session's task.
    pub(crate) async fn leave(&self, message: &Message) {
        match self.core.driven.get() {
            Some(handle) => drop(handle.send(message.line()).await),
            None => self.core.leave(message.text().clone()),
        }
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
        let (standing, reader) = driver::standing();
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
            answered: Notify::new(),
            unanswered: AtomicUsize::new(0),
            line: upstream.tap.as_ref().and_then(|tap| tap.line()),
            told: AtomicU8::new(0),
            gone: CancellationToken::new(),
        };
        if era == Era::Modern {
            let _ = core.version.set(HeaderValue::from_static(Revision::V2026_07_28.as_str()));
        }
        (Arc::new(core), reader)
    }

    fn told(&self) -> Told {
        Told(self.told.load(Ordering::Acquire))
    }

    fn tell(&self, told: Told) {
        if !self.told().has(told) {
            self.told.fetch_or(told.0, Ordering::AcqRel);
            self.wake.notify_one();
        }
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
        // For these, and those that the HTTP client adds, at once: a map that grows costs more than it holds.
        headers.reserve(8);
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
        if self.line.is_some() {
            return async move { core.send(Method::POST, headers, body, deadline).await }.boxed();
        }
        async move { core.upstream.client.send(Method::POST, &core.upstream.target.url, headers, body, deadline).await }
            .boxed()
    }

    /// Sends a request of a rare kind.
    fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Response, HttpError>> {
        let (client, url) = (&self.upstream.client, &self.upstream.target.url);
        match &self.line {
            None => client.send(method, url, headers, body, deadline).boxed(),
            Some(line) => tapped::send(line, client, method, url, headers, body, deadline).boxed(),
        }
    }

    /// Sends something that has no answer.
    async fn deliver(self: &Arc<Self>, body: Bytes) -> Result<(), UpstreamError> {
        let deadline = Instant::now() + self.upstream.timeouts.request;
        let pass = self.admit().await?;
        let forwarded = self.forwarded().clone();
        let response = self.post(body, forwarded, deadline).await;
        pass.responded(&response, self.upstream.limits.depth);
        let response = response.map_err(|error| failure(&error))?;
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
