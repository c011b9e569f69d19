//! The proxy: what it fronts, who uses it, and how a request begins.

pub(crate) mod error;
pub(crate) mod exchange;
mod tools;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval_at};

use crate::backend::{Lease, Modern, Pool, PoolError};
use crate::bridge::relay::Relay;
use crate::metrics::{Metrics, ServerMetrics};
use crate::protocol::message::{Kind, Message, json_str};
use crate::protocol::meta::{self, Envelope};
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::rt::Tasks;
use crate::rt::adopter::Adopter;
use crate::session::{EndReason, Pending, Session, Sessions};
use crate::settings::{Settings, Target};
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use crate::upstream::{Call, Connection};
use error::ProxyError;
use exchange::{Exchange, Legacy, Output};
use tools::ToolHeaders;

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
    pub(crate) pool: Pool,
    pub(crate) metrics: ServerMetrics,
    tools: ToolHeaders,
    /// It is a child: it never sees a header.
    is_child: bool,
    forward_headers: Vec<HeaderName>,
}

impl Server {
    /// Those of a client's headers that the server is to have: only what was configured, so that credentials stay here.
    pub(crate) fn forwarded(&self, headers: &HeaderMap) -> HeaderMap {
        let names = self.forward_headers.iter();
        names.flat_map(|name| headers.get_all(name).iter().map(|value| (name.clone(), value.clone()))).collect()
    }
}

impl Proxy {
    /// The only constructor of state: whoever serves, serves what this made (C-LIFE-1).
    pub(crate) fn build(settings: Settings, tasks: Tasks) -> Arc<Proxy> {
        let metrics = Arc::new(Metrics::new());
        let servers = settings.upstreams.iter().map(|upstream| {
            let metrics = metrics.server(&upstream.name);
            let is_child = matches!(upstream.target, Target::Stdio(_));
            let pool = Pool::new(upstream.clone(), &settings.limits, &settings.timeouts, &tasks, metrics.clone());
            let forward_headers = upstream.forward_headers.clone();
            let server = Server { pool, metrics, tools: ToolHeaders::default(), is_child, forward_headers };
            (upstream.name.clone(), Arc::new(server))
        });
        let proxy = Arc::new(Proxy {
            servers: servers.collect(),
            sessions: Arc::new(Sessions::new(settings.limits.sessions)),
            adopter: Adopter::default(),
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

    /// Opens a session: the client's handshake is the server's. `None` in place of a session means that the server
    /// refused; the message is its answer either way.
    ///
    /// # Cancel safety
    /// Dropped before it is done, no session is left.
    pub(crate) async fn initialize(
        &self,
        server: &Server,
        request: &Message,
        headers: HeaderMap,
    ) -> Result<(Option<Arc<Session>>, Message), ProxyError> {
        self.sessions.check_room()?;
        let since = Instant::now();
        let Lease { connection, mut standing } = server.pool.lease().await?;
        let (limits, timeouts) = (&self.settings.limits, &self.settings.timeouts);
        let session = self.sessions.open(connection, limits, timeouts, server.metrics.clone())?;
        let mut unless_opened = EndUnlessOpened { sessions: &self.sessions, session: &session, armed: true };

        let mut exchange = self.begin(&session, request, headers).await.inspect_err(|_| server.pool.start_failed())?;
        let deadline = since + timeouts.start;
        let answer = loop {
            let output = tokio::select! {
                output = exchange.next() => output,
                // Until the handshake is done nothing but its answer goes to the client.
                Some(message) = standing.next() => {
                    session.say(message).await;
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => {
                    server.pool.start_failed();
                    let error = UpstreamError::Timeout { sent: true };
                    return Err(ProxyError::Upstream { error, repeatable: true });
                }
            };
            match output {
                Some(Output { message, last: true, .. }) => break message,
                Some(Output { message, .. }) => session.say(message).await,
                None => return Err(ProxyError::SessionEnded(EndReason::Refused)),
            }
        };
        if answer.kind() == Kind::Error {
            if session.connection().gone().is_cancelled() {
                server.pool.start_failed();
            }
            return Ok((None, answer));
        }
        server.pool.start_succeeded();
        // A version that we do not know is older than all that we know: newer ones are not negotiated with a handshake.
        let revision = negotiated(&answer).unwrap_or(Revision::V2024_11_05);
        session.negotiated(revision);
        unless_opened.armed = false;
        drop(unless_opened);
        tracing::debug!(upstream = server.metrics.name(), %revision, "Session opened");

        let (sessions, listener) = (Arc::clone(&self.sessions), Arc::clone(&session));
        self.adopter.adopt(async move {
            loop {
                tokio::select! {
                    message = standing.next() => match message {
                        Some(message) => listener.say(message).await,
                        None => break sessions.end(&listener, EndReason::UpstreamGone),
                    },
                    () = listener.ended().cancelled() => break,
                }
            }
        });
        Ok((Some(session), answer))
    }

    /// Begins a request of a legacy session; `headers` are what an HTTP upstream gets of the client's.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) async fn begin(
        &self,
        session: &Arc<Session>,
        request: &Message,
        headers: HeaderMap,
    ) -> Result<Exchange, ProxyError> {
        let connection = session.connection();
        let (relay, upstream) = translate(Era::Legacy, request, connection)?;
        let cancellable = request.known() != Some(Known::Initialize);
        if cancellable {
            // A client that asks for something is there, whether or not it cared to say so.
            session.initialized();
        }
        let call = session.begin_call(relay.client_id(), relay.upstream_id(), cancellable)?;
        let facts = CallFacts { may_ask: request.known().is_none_or(Known::may_ask), wants_log: true, cancellable };
        let call_up = Call { id: relay.upstream_id(), message: &upstream, facts, headers };
        let repeatable = request.known().is_some_and(Known::safe_to_repeat);
        let replies = connection.call(call_up).await.map_err(|error| ProxyError::Upstream { error, repeatable })?;
        let legacy = Legacy { session: Arc::clone(session), call, pending: Pending::default() };
        let metrics = session.metrics().clone();
        let cut = self.tasks.cut().clone();
        Ok(Exchange::new(relay, replies, Era::Legacy, request, Some(legacy), &self.settings.timeouts, cut, metrics))
    }

    /// Begins a modern request, whose envelope and standard headers are known to be right. `mirrored` are the headers
    /// that repeat its body, and those that are forwarded; `None` if it did not come over HTTP.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) async fn begin_modern(
        &self,
        server: &Server,
        request: &Message,
        mirrored: Option<HeaderMap>,
    ) -> Result<Exchange, ProxyError> {
        if self.is_draining() {
            return Err(ProxyError::ShuttingDown);
        }
        let Modern::Shared(connection, _) = server.pool.modern().await? else {
            if request.known() == Some(Known::Discover) {
                // What the server itself would say. An SDK that speaks both eras reads a list of versions without its own as
                // the end, and this as the news that there is a handshake (2026-07-28, Versioning).
                return Err(ProxyError::LegacyOnly { supported: legacy_versions() });
            }
            return Err(ProxyError::UnsupportedVersion {
                requested: Revision::V2026_07_28.as_str().to_owned(),
                supported: legacy_versions(),
            });
        };
        // A server that does not tell its tools must not hold up their calls for longer than it may take to say who it is.
        let patience = self.settings.timeouts.probe;
        let headers = match mirrored {
            Some(mirrored) if server.is_child => {
                server.tools.check(&connection, request, &mirrored, patience).await?;
                HeaderMap::new()
            }
            // The body keeps what they repeat, so they are still right; the server checks them itself.
            Some(mirrored) => mirrored,
            None if server.is_child => HeaderMap::new(),
            None => server.tools.mirror(&connection, request, patience).await?,
        };
        let (relay, upstream) = translate(Era::Modern, request, &connection)?;
        let facts = CallFacts { may_ask: false, wants_log: request.meta(meta::LOG_LEVEL).is_some(), cancellable: true };
        let call = Call { id: relay.upstream_id(), message: &upstream, facts, headers };
        let repeatable = request.known().is_some_and(Known::safe_to_repeat);
        let replies = connection.call(call).await.map_err(|error| ProxyError::Upstream { error, repeatable })?;
        let metrics = server.metrics.clone();
        let cut = self.tasks.cut().clone();
        let mut exchange =
            Exchange::new(relay, replies, Era::Modern, request, None, &self.settings.timeouts, cut, metrics);
        if !server.is_child && request.known() == Some(Known::ToolsList) {
            exchange.screen_tools();
        }
        if request.known() == Some(Known::Listen) {
            exchange.listens_until(self.tasks.drain().clone());
        }
        Ok(exchange)
    }

    /// Checks what a modern request says of itself, before anything goes upstream.
    ///
    /// # Errors
    /// The first rule that is broken (2026-07-28, Basic › `_meta`; Versioning).
    pub(crate) async fn check_envelope(&self, server: &Server, request: &Message) -> Result<String, ProxyError> {
        let version = match Envelope::of(request) {
            Envelope::Complete(version) => version,
            Envelope::Broken(what) => return Err(ProxyError::Envelope(what)),
            Envelope::Absent => {
                return Err(ProxyError::Envelope("`_meta` lacks io.modelcontextprotocol/protocolVersion"));
            }
        };
        if Revision::parse(&version).map(Revision::era) != Some(Era::Modern) {
            let supported = match server.pool.modern().await {
                // Nothing is promised that `server/discover` does not list.
                Ok(Modern::Shared(_, versions)) => versions.to_vec(),
                Ok(Modern::LegacyOnly) => legacy_versions(),
                Err(_) => vec![Revision::V2026_07_28.as_str().to_owned()],
            };
            return Err(ProxyError::UnsupportedVersion { requested: version, supported });
        }
        if request.known().is_some_and(Known::removed_in_modern) {
            return Err(ProxyError::RemovedMethod);
        }
        if let Some(level) = request.meta(meta::LOG_LEVEL)
            && !json_str(level).is_some_and(|level| meta::is_log_level(&level))
        {
            return Err(ProxyError::LogLevel);
        }
        Ok(version)
    }

    /// Runs an exchange that has lost its connection to the end: a legacy client that goes away has not cancelled
    /// (2025-11-25, Streamable HTTP › Sending Messages). `stream` is where it may come back for the rest.
    pub(crate) fn adopt(&self, mut exchange: Exchange, stream: Option<Arc<crate::session::stream::Stream>>) {
        let session = exchange.session().cloned();
        self.adopter.adopt(async move {
            while let Some(output) = exchange.next().await {
                match (&stream, &session) {
                    (Some(stream), _) => {
                        stream.push(&output.message.line());
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

    fn start_sweeper(&self) {
        let (sessions, timeouts) = (Arc::clone(&self.sessions), self.settings.timeouts.clone());
        let stop = self.tasks.stop().clone();
        let period = timeouts.session_idle.min(timeouts.session_init).min(Duration::from_secs(20)) / 4;
        self.tasks.spawn("session-sweeper", async move {
            let period = period.max(Duration::from_millis(10));
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => sessions.sweep(&timeouts),
                }
            }
        });
    }
}

/// Ends a session that did not come to be.
struct EndUnlessOpened<'a> {
    sessions: &'a Sessions,
    session: &'a Session,
    armed: bool,
}

impl Drop for EndUnlessOpened<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.sessions.end(self.session, EndReason::Refused);
        }
    }
}

fn translate(era: Era, request: &Message, connection: &Connection) -> Result<(Relay, Message), ProxyError> {
    let id = connection.next_id();
    Relay::begin(era, request, id).ok_or(ProxyError::Initialize)
}

fn legacy_versions() -> Vec<String> {
    Revision::ALL
        .iter()
        .filter(|revision| revision.era() == Era::Legacy)
        .map(|revision| revision.as_str().to_owned())
        .collect()
}

/// The version in the result of a handshake.
fn negotiated(result: &Message) -> Option<Revision> {
    let (members, _) = result.result_members()?;
    let member = members.find(result.text(), meta::PROTOCOL_VERSION_PARAM)?;
    let json = std::str::from_utf8(member.value.of(result.text())).ok()?;
    Revision::parse(&json_str(json)?).filter(|revision| revision.era() == Era::Legacy)
}

impl From<UpstreamError> for ProxyError {
    fn from(error: UpstreamError) -> Self {
        ProxyError::Pool(PoolError::Create(error))
    }
}
