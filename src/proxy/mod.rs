//! The proxy: what it fronts, who uses it, and how a request begins.

pub(crate) mod bridged;
pub(crate) mod crossing;
pub(crate) mod error;
pub(crate) mod exchange;
mod half;
mod hearing;
mod listening;
mod parking;
mod sending;
mod standing;
mod tasking;
mod tools;
mod welcoming;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval_at};

use crate::backend::key::Principal;
use crate::backend::{Backend, Modern, OpenError, Way};
use crate::bridge::handshake::negotiated;
use crate::bridge::legacy_to_modern::welcome::refusal;
use crate::bridge::modern_to_legacy::describe;
use crate::bridge::relay::Relay;
use crate::bridge::sharing;
use crate::metrics::{Metrics, ServerMetrics};
use crate::protocol::headers;
use crate::protocol::message::{Message, json_str};
use crate::protocol::meta::{self, Envelope};
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::rt::Tasks;
use crate::rt::adopter::Adopter;
use crate::session::route::{Opened, Route};
use crate::session::{CallError, Pending, Session, SessionError, Sessions};
use crate::settings::{Settings, Target};
use crate::tap::Tap;
use crate::upstream::Call;
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use bridged::Bridged;
use crossing::{Crossing, Patience};
use error::ProxyError;
use exchange::{Exchange, Legacy, Next, Output};
use half::Half;
use listening::Listening;
use parking::Parking;
use sending::Sent;
use tasking::Tasking;
use tools::{Source, ToolHeaders};
use welcoming::{Described, Welcome, welcome};

/// Everything that a running proxy is. Made once, by [`Proxy::build`].
pub(crate) struct Proxy {
    pub(crate) settings: Settings,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) adopter: Adopter,
    servers: BTreeMap<String, Arc<Server>>,
}

/// One upstream and the way to it.
pub(crate) struct Server {
    pub(crate) backend: Arc<Backend>,
    pub(crate) metrics: ServerMetrics,
    tools: ToolHeaders,
    parking: Arc<Parking<Box<Half>>>,
    tasking: Arc<Tasking>,
    described: Described,
    /// It is a child, or a tape: it never sees a header.
    is_child: bool,
    /// Headers that repeat what it is asked were checked when its tape was made.
    is_tape: bool,
    /// A tape that stands in for its server is asked nothing that no client asks; one that is played through the proxy, all that it was.
    pub(super) stands_in: bool,
    forward_headers: Vec<HeaderName>,
    patience: Patience,
    tasks: Tasks,
    /// Who sees or changes what passes, if anybody does.
    pub(crate) tap: Option<Arc<Tap>>,
}

impl Server {
    /// Who sends a request with these headers.
    ///
    /// # Errors
    /// It has to be known, and is not.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, ProxyError> {
        Ok(Caller { principal: self.principal(headers)?, headers: self.forwarded(headers) })
    }

    /// Who the client is that sent these headers, where that matters to the isolation.
    ///
    /// # Errors
    /// It has to be known, and is not.
    pub(crate) fn principal(&self, headers: &HeaderMap) -> Result<Option<Principal>, ProxyError> {
        self.backend.principal(headers).map_err(|name| ProxyError::Principal(name.to_owned()))
    }

    /// Who the client is that sent these headers, as far as it says so, whether or not that matters to the isolation.
    pub(crate) fn shown(&self, headers: &HeaderMap) -> Option<Principal> {
        self.backend.shown(headers)
    }

    /// Those of a client's headers that the server is to have: only what was configured, so that credentials stay here.
    pub(crate) fn forwarded(&self, headers: &HeaderMap) -> HeaderMap {
        let names = self.forward_headers.iter();
        names.flat_map(|name| headers.get_all(name).iter().map(|value| (name.clone(), value.clone()))).collect()
    }

    /// Those of a modern client's headers that go to a modern server: what repeats the body, which keeps what they repeat, so
    /// that they are still right; and what is forwarded.
    fn passed(&self, headers: &HeaderMap) -> HeaderMap {
        let mirrored = headers.iter().filter(|(name, _)| headers::is_mirrored(name));
        let mut passed: HeaderMap = mirrored.map(|(name, value)| (name.clone(), value.clone())).collect();
        passed.extend(self.forwarded(headers));
        passed
    }
}

impl Proxy {
    /// The only constructor of state: whoever serves, serves what this made (C-LIFE-1).
    pub(crate) fn build(settings: Settings, tasks: Tasks) -> Arc<Proxy> {
        let metrics = Arc::new(Metrics::new());
        let adopter = Adopter::default();
        let servers = settings.upstreams.iter().map(|upstream| {
            let metrics = metrics.server(&upstream.name);
            let is_child = !matches!(upstream.target, Target::Http(_));
            let is_tape = matches!(upstream.target, Target::Tape(_));
            let stands_in = matches!(&upstream.target, Target::Tape(tape) if tape.replay.options.in_step.is_none());
            let tap = Tap::build(upstream, &settings, &tasks, &metrics);
            let backend = Arc::new(Backend::new(upstream, &settings, &tasks, &adopter, metrics.clone(), tap.clone()));
            let forward_headers = upstream.forward_headers.clone();
            let parking = Arc::new(Parking::new(&settings.limits, &settings.timeouts, metrics.clone()));
            let tasking = Arc::new(Tasking::new(&settings.limits, &settings.timeouts, metrics.clone()));
            let server = Server {
                backend,
                metrics,
                tools: ToolHeaders::default(),
                parking,
                tasking,
                described: Described::default(),
                is_child,
                is_tape,
                stands_in,
                forward_headers,
                patience: Patience::new(&settings.timeouts, &settings.limits),
                tasks: tasks.clone(),
                tap,
            };
            (upstream.name.clone(), Arc::new(server))
        });
        let proxy = Arc::new(Proxy {
            servers: servers.collect(),
            sessions: Arc::new(Sessions::new(settings.limits.sessions)),
            adopter,
            metrics,
            settings,
            tasks,
        });
        proxy.adopter.start(&proxy.tasks);
        proxy.start_sweeper();
        proxy
    }

    /// The upstream of that name; without a name, the only one.
    pub(crate) fn server(&self, name: Option<&str>) -> Option<&Arc<Server>> {
        match name {
            Some(name) => self.servers.get(name),
            None if self.servers.len() == 1 => self.servers.values().next(),
            None => None,
        }
    }

    /// All upstreams, by name.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (&str, &Arc<Server>)> {
        self.servers.iter().map(|(name, server)| (name.as_str(), server))
    }

    /// Whether new work is refused.
    pub(crate) fn is_draining(&self) -> bool {
        self.tasks.drain().is_cancelled()
    }

    /// Opens a session: where the connection is the session's alone, the client's handshake is the server's. `None` in place
    /// of a session means that the server refused; the message is its answer either way.
    ///
    /// # Cancel safety
    /// Dropped before it is done, no session is left.
    pub(crate) async fn initialize(
        &self,
        server: &Server,
        request: &Message,
        caller: Caller,
    ) -> Result<(Option<Arc<Session>>, Message), ProxyError> {
        self.sessions.check_room()?;
        let Some(id) = request.id() else { return Err(ProxyError::Initialize) };
        let opened = match self.open(server, request, caller).await {
            Ok(opened) => opened,
            Err(OpenError::Refused(answer)) => return Ok((None, refusal(&answer, &id))),
            Err(error) => return Err(error.into()),
        };
        if let (Some(_), Some(connection)) = (&server.tap, opened.connection()) {
            // The handshake was made by whoever made the connection: from here on it is known for whom.
            connection.attach();
        }
        let answer = opened.answer();
        let (limits, timeouts) = (&self.settings.limits, &self.settings.timeouts);
        let session = self.sessions.open(opened, limits, timeouts, server.metrics.clone())?;
        // A version that we do not know is older than all that we know: newer ones are not negotiated with a handshake.
        let revision = negotiated(&answer).unwrap_or(Revision::V2024_11_05);
        session.negotiated(revision);
        tracing::debug!(upstream = server.metrics.name(), %revision, "Session opened");
        Ok((Some(session), answer.edit().id(id.as_json()).finish()))
    }

    /// The way of a new session. A server whose era is not known is shown the client's handshake: only if it wants none is it
    /// asked what it is, so that a legacy client in front of a legacy server never costs a question.
    async fn open(&self, server: &Server, request: &Message, caller: Caller) -> Result<Opened, OpenError> {
        let timeouts = &self.settings.timeouts;
        if server.backend.was_stateless() {
            match Box::pin(welcome(server, request, &caller, timeouts)).await? {
                Welcome::Opened(opened) => return Ok(*opened),
                Welcome::Refused(answer) => return Err(OpenError::Refused(answer)),
                Welcome::NotStateless => {}
            }
        }
        let begun = Instant::now();
        let refused = match Route::open(&server.backend, request, caller.principal, caller.headers.clone()).await {
            Err(refused @ (OpenError::Refused(_) | OpenError::Unanswered(UpstreamError::Status(_)))) => refused,
            opened => return opened,
        };
        server.backend.refused(caller.principal, begun);
        match Box::pin(welcome(server, request, &caller, timeouts)).await {
            Ok(Welcome::Opened(opened)) => Ok(*opened),
            Ok(Welcome::Refused(answer)) => Err(OpenError::Refused(answer)),
            Ok(Welcome::NotStateless) | Err(_) => Err(refused),
        }
    }

    /// Begins a request of a legacy session; `headers` are what an HTTP upstream gets of the client's. `None` if the client
    /// took it back before it was sent: then there is no answer (2025-11-25, Cancellation). `hears` says whether the client can be
    /// asked something while it waits.
    ///
    /// # Errors
    /// Nothing was sent.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is sent. The request is known to its session, so that it can be cancelled, when
    /// this has been polled once.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Message,
        headers: HeaderMap,
        hears: bool,
    ) -> Result<Option<Work>, ProxyError> {
        if let Some(stateless) = session.route().as_stateless() {
            let server = self.server(Some(session.metrics().name())).ok_or(ProxyError::NotFound)?;
            session.route().remember(&headers);
            if request.known() == Some(Known::ResourcesSubscribe) {
                self.listens(session);
            }
            let (timeouts, cut) = (&self.settings.timeouts, self.tasks.cut().clone());
            let begun = Bridged::begin(server, session, stateless, request, headers, hears, timeouts, cut);
            return Ok(Box::pin(begun).await?.map(Work::Bridged));
        }
        let isolation = session.route().isolation();
        if let Some(why) = sharing::refuses(isolation, request) {
            return Err(ProxyError::Isolated { isolation, why });
        }
        // A client that asks for something is there, whether or not it cared to say so.
        session.initialized();
        if request.known() == Some(Known::ResourcesSubscribe) && !session.may_subscribe() {
            return Err(ProxyError::Subscriptions);
        }
        let call = session.begin_call(request.id().ok_or(ProxyError::Initialize)?)?;
        let Some(sent) = sending::send(session, &call, request, &headers).await? else {
            return if session.ended().is_cancelled() { Err(CallError::Ended.into()) } else { Ok(None) };
        };
        let Sent { relay, replies, connection, lease, notable } = sent;
        let (session, call) = (Arc::clone(session), Arc::new(call));
        let (request_again, pending) = (request.clone(), Pending::default());
        let legacy = Legacy { session, call, connection, lease, request: request_again, headers, notable, pending };
        let metrics = legacy.session.metrics().clone();
        let (timeouts, cut) = (&self.settings.timeouts, self.tasks.cut().clone());
        let exchange = Exchange::new(relay, replies, Era::Legacy, request, Some(legacy), timeouts, cut, metrics);
        Ok(Some(Work::Relay(exchange)))
    }

    /// Begins a modern request, whose envelope and standard headers are known to be right. `headers` are those that it came
    /// with; `None` if it did not come over HTTP.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) async fn begin_modern(
        &self,
        server: &Arc<Server>,
        request: &Message,
        caller: Option<Principal>,
        headers: Option<&HeaderMap>,
        shown: impl FnOnce() -> Option<Principal>,
    ) -> Result<Work, ProxyError> {
        if self.is_draining() {
            return Err(ProxyError::ShuttingDown);
        }
        let modern = server.backend.modern(caller).await?;
        let Some(Way { connection, lease }) = server.backend.way(&modern, caller).await? else {
            return self.begin_crossing(server, request, caller, headers, shown()).await;
        };
        // A server that does not tell its tools must not hold up their calls for longer than it may take to say who it is.
        let patience = self.settings.timeouts.probe;
        let headers = match headers {
            _ if server.is_tape => HeaderMap::new(),
            Some(headers) if server.is_child => {
                server.tools.check(Source::modern(&connection), request, headers, patience).await?;
                HeaderMap::new()
            }
            // The server checks them itself.
            Some(headers) => server.passed(headers),
            None if server.is_child => HeaderMap::new(),
            None => server.tools.mirror(Source::modern(&connection), request, false, patience).await?,
        };
        let (relay, upstream) =
            Relay::begin(Era::Modern, request.id().ok_or(ProxyError::Initialize)?, request, connection.next_id());
        let is_listen = request.known() == Some(Known::Listen);
        // Log messages come on the stream of an answer, and never on one of notifications, whatever its client puts on requests.
        let wants_log = !is_listen && request.meta(meta::LOG_LEVEL).is_some();
        let facts = CallFacts { may_ask: false, wants_log, cancellable: true };
        let listening = is_listen.then(|| {
            let drain = self.tasks.drain();
            Listening::new(&server.backend, &server.metrics, caller, request, &headers, drain)
        });
        let call = Call { id: relay.upstream_id(), message: &upstream, facts, headers };
        let repeatable = request.known().is_some_and(Known::safe_to_repeat);
        let replies = connection.call(call).await.map_err(|error| ProxyError::Upstream { error, repeatable })?;
        let metrics = server.metrics.clone();
        let cut = self.tasks.cut().clone();
        let mut exchange =
            Exchange::new(relay, replies, Era::Modern, request, None, &self.settings.timeouts, cut, metrics);
        exchange.holds(lease);
        if !server.is_child && request.known() == Some(Known::ToolsList) {
            exchange.screen_tools();
        }
        if let Some(listening) = listening {
            exchange.listens(listening);
        }
        Ok(Work::Relay(exchange))
    }

    /// Begins a modern request to a server that is taken to have a handshake. If it wants none after all, and turns out to be of
    /// 2026-07-28 itself, the request begins once more.
    fn begin_crossing<'a>(
        &'a self,
        server: &'a Arc<Server>,
        request: &'a Message,
        caller: Option<Principal>,
        headers: Option<&'a HeaderMap>,
        principal: Option<Principal>,
    ) -> BoxFuture<'a, Result<Work, ProxyError>> {
        let begun = Instant::now();
        let crossing = async move {
            let refused = match crossing::begin(server, request, principal, headers).await {
                Err(error) if error.refuses_handshake() && server.backend.refused(caller, begun) => error,
                crossing => return crossing.map(Work::Crossing),
            };
            match server.backend.modern(caller).await? {
                Modern::LegacyOnly => Err(refused),
                Modern::Shared(..) | Modern::Each(_) => {
                    self.begin_modern(server, request, caller, headers, move || principal).await
                }
            }
        };
        crossing.boxed()
    }

    /// Checks what a modern request says of itself, before anything goes upstream.
    ///
    /// # Errors
    /// The first rule that is broken (2026-07-28, Basic › `_meta`; Versioning).
    pub(crate) async fn check_envelope(
        &self,
        server: &Server,
        request: &Message,
        envelope: Envelope<'_>,
        caller: Option<Principal>,
    ) -> Result<(), ProxyError> {
        let version = match envelope {
            Envelope::Complete(version) => version,
            Envelope::Broken(what) => return Err(ProxyError::Envelope(what)),
            Envelope::Absent => {
                return Err(ProxyError::Envelope("`_meta` lacks io.modelcontextprotocol/protocolVersion"));
            }
        };
        if Revision::parse(&version).map(Revision::era) != Some(Era::Modern) {
            let supported = match Box::pin(server.backend.modern(caller)).await {
                // Nothing is promised that `server/discover` does not list.
                Ok(Modern::Shared(_, versions) | Modern::Each(versions)) => versions.to_vec(),
                Ok(Modern::LegacyOnly) => describe::versions(),
                Err(_) => vec![Revision::V2026_07_28.as_str().to_owned()],
            };
            return Err(ProxyError::UnsupportedVersion { requested: version.into_owned(), supported });
        }
        if request.known().is_some_and(Known::removed_in_modern) {
            return Err(ProxyError::RemovedMethod);
        }
        if let Some(level) = request.meta(meta::LOG_LEVEL)
            && !json_str(level).is_some_and(|level| meta::is_log_level(&level))
        {
            return Err(ProxyError::LogLevel);
        }
        Ok(())
    }

    /// Runs an exchange that has lost its connection to the end: a legacy client that goes away has not cancelled
    /// (2025-11-25, Streamable HTTP › Sending Messages). `stream` is where it may come back for the rest.
    pub(crate) fn adopt(&self, mut exchange: Work, stream: Option<Arc<crate::session::stream::Stream>>) {
        let session = exchange.session().cloned();
        self.adopter.adopt(async move {
            while let Some(output) = exchange.next().await {
                match (&stream, &session) {
                    (Some(stream), _) => {
                        let line = output.message.line();
                        stream.room(line.len()).await;
                        stream.push(&line);
                    }
                    // The client has never seen a stream to come back to: what is not the answer can still reach it elsewhere.
                    (None, Some(session)) if !output.last => {
                        session.standing().push(&output.message.line());
                    }
                    (None, session) => {
                        if let Some(session) = session {
                            session.metrics().dropped("client_gone");
                        }
                    }
                }
                if output.last {
                    break;
                }
            }
            if let Some(stream) = &stream {
                stream.finish();
            }
        });
    }

    /// Closes all connections to all servers, and waits until nothing is left of them, at most until `deadline`.
    pub(crate) async fn close(&self, deadline: Instant) {
        let closing = self.servers.values().map(|server| server.backend.close(deadline));
        futures_util::future::join_all(closing).await;
    }

    /// Ends the tapes, when nothing passes any more, and waits until they are written, at most until `deadline`.
    pub(crate) async fn end_tapes(&self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + self.settings.timeouts.tape_flush);
        let taps = self.servers.values().filter_map(|server| server.tap.as_ref());
        futures_util::future::join_all(taps.map(|tap| tap.close(deadline))).await;
    }

    fn start_sweeper(&self) {
        let (sessions, timeouts) = (Arc::clone(&self.sessions), self.settings.timeouts.clone());
        let backends: Vec<_> = self.servers.values().map(|server| Arc::clone(&server.backend)).collect();
        let stop = self.tasks.stop().clone();
        let shortest = timeouts.session_idle.min(timeouts.session_init).min(timeouts.connection_idle);
        let period = shortest.min(Duration::from_secs(20)) / 4;
        self.tasks.spawn("session-sweeper", async move {
            let period = period.max(Duration::from_millis(10));
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {
                        sessions.sweep(&timeouts);
                        for backend in &backends {
                            backend.sweep();
                        }
                    }
                }
            }
        });
    }
}

/// A client's request under way: relayed, or translated.
pub(crate) enum Work {
    /// Client and server are of one era.
    Relay(Box<Exchange>),
    /// A client of 2026-07-28 at a server with a handshake.
    Crossing(Box<Crossing>),
    /// A client with a handshake at a server of 2026-07-28.
    Bridged(Box<Bridged>),
}

impl Work {
    /// The next message for the client; `None` after the last one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Output> {
        loop {
            match self.next_until(None).await {
                Next::Output(output) => return Some(output),
                Next::End => return None,
                Next::Quiet => {}
            }
        }
    }

    /// The same, but waits no longer than until then. Cancel safe.
    pub(crate) async fn next_until(&mut self, quiet: Option<Instant>) -> Next {
        match self {
            Work::Relay(exchange) => exchange.next_until(quiet).await,
            // In boxes, so that the future of a request that is only relayed stays small.
            Work::Crossing(crossing) => Box::pin(crossing.next_until(quiet)).await,
            Work::Bridged(bridged) => Box::pin(bridged.next_until(quiet)).await,
        }
    }

    /// The session it belongs to.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Work::Relay(exchange) => exchange.session(),
            Work::Crossing(_) => None,
            Work::Bridged(bridged) => Some(bridged.session()),
        }
    }
}

impl From<Box<Exchange>> for Work {
    fn from(exchange: Box<Exchange>) -> Work {
        Work::Relay(exchange)
    }
}

impl From<OpenError> for ProxyError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unanswered(error @ UpstreamError::Unreachable(_)) => ProxyError::Open(OpenError::Start(error)),
            // It was reached: what is left of the answer is an error of the request.
            OpenError::Unanswered(error) => ProxyError::Upstream { error, repeatable: true },
            OpenError::Lost => ProxyError::Session(SessionError::NotFound),
            error => ProxyError::Open(error),
        }
    }
}

impl From<UpstreamError> for ProxyError {
    fn from(error: UpstreamError) -> Self {
        ProxyError::Open(OpenError::Start(error))
    }
}

/// Who sends a request, and what goes with it to an HTTP server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    pub(crate) principal: Option<Principal>,
    pub(crate) headers: HeaderMap,
}
