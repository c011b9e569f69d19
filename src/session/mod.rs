//! Legacy sessions at the client edge: who they are, what they have under way, which connection is theirs.

pub(crate) mod backlog;
pub(crate) mod route;
pub(crate) mod stream;
pub(crate) mod subscriptions;
mod table;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::bridge::sharing;
use crate::metrics::{GaugeGuard, ServerMetrics};
use crate::protocol::error::{METHOD_NOT_FOUND, RpcError};
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Revision;
use crate::rt::flag::Flag;
use crate::settings::{Limits, Timeouts};
use crate::upstream::Connection;
use crate::upstream::error::UpstreamError;
use backlog::Bounds;
use route::{Opened, Route};
use stream::Stream;
use table::Table;

/// What is looked up for each request is hashed quickly. How much a peer can put in is bounded everywhere.
type Hashing = foldhash::fast::RandomState;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms_since(epoch: Instant) -> u64 {
    let since = Instant::now().saturating_duration_since(epoch).as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// The sessions of one proxy.
pub(crate) struct Sessions {
    table: Table<Session>,
    /// `last_seen` of a session is milliseconds since this.
    epoch: Instant,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// The table is full.
    #[error("there are as many sessions as the proxy serves")]
    TooMany,
    /// Never issued, expired, ended, or of another server.
    #[error("there is no such session")]
    NotFound,
    /// The system has no random numbers.
    #[error("no session id can be made")]
    NoRandomness,
}

/// Why a session ended, or a call in it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The client said so.
    Deleted,
    /// The client's only stream closed (HTTP+SSE).
    Disconnected,
    /// Nobody used it.
    Idle,
    /// The client did not complete the handshake.
    NotInitialized,
    /// The connection to the server is gone.
    UpstreamGone,
    /// The proxy stops.
    Shutdown,
}

impl EndReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EndReason::Deleted => "deleted",
            EndReason::Disconnected => "disconnected",
            EndReason::Idle => "idle",
            EndReason::NotInitialized => "not_initialized",
            EndReason::UpstreamGone => "upstream_gone",
            EndReason::Shutdown => "shutdown",
        }
    }
}

/// One legacy session: a client, and its way to the server.
pub(crate) struct Session {
    id: String,
    route: Route,
    sessions: Weak<Sessions>,
    revision: OnceLock<Revision>,
    /// Requests of the client that have not ended, by the client's names.
    calls: Mutex<HashMap<RequestId, OpenCall, Hashing>>,
    questions: Mutex<Questions>,
    /// By number, which is by age. Bounded in what is kept of requests that are over: see [`Session::open_stream`].
    streams: Mutex<BTreeMap<u32, Arc<Stream>>>,
    standing: Arc<Stream>,
    streams_opened: AtomicU32,
    bounds: Bounds,
    in_flight_max: usize,
    started: Instant,
    epoch: Instant,
    last_seen_ms: AtomicU64,
    initialized: OnceLock<()>,
    ended: CancellationToken,
    reason: OnceLock<EndReason>,
    metrics: ServerMetrics,
    _counted: GaugeGuard,
}

#[derive(Clone)]
struct OpenCall {
    /// Where it is under way, and by which name. Until then it waits for a connection.
    sent: Option<(Connection, i64)>,
    cancelled: Flag,
}

/// Requests of the server that the client has not answered, by our names.
#[derive(Default)]
struct Questions {
    asked: i64,
    open: HashMap<i64, Question>,
}

struct Question {
    asker: Asker,
    /// How many questions its call waits for: falls when the question is answered, refused or withdrawn.
    pending: Option<PendingGuard>,
}

/// Where the answer to a question has to go.
enum Asker {
    /// To the server that asked, under its own name.
    Server(RequestId, Connection),
    /// To the call that put the question for its server; and what it calls it.
    Call(u32, mpsc::Sender<(u32, Message)>),
}

impl Asker {
    fn is(&self, connection: &Connection, server_id: &RequestId) -> bool {
        matches!(self, Asker::Server(id, own) if id == server_id && own.is(connection))
    }

    /// Whether nobody waits for an answer any more.
    fn is_gone(&self) -> bool {
        match self {
            Asker::Server(_, connection) => connection.gone().is_cancelled(),
            Asker::Call(_, answers) => answers.is_closed(),
        }
    }
}

/// Counts the open questions of one call.
#[derive(Clone, Default)]
pub(crate) struct Pending(Arc<AtomicUsize>);

impl Pending {
    /// Whether the client has been asked something and has not answered.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn guard(&self) -> PendingGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        PendingGuard(Arc::clone(&self.0))
    }
}

struct PendingGuard(Arc<AtomicUsize>);

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Most streams of requests that are over which a client may still come back for.
const ENDED_STREAMS_MAX: usize = 16;

/// Most questions of a server that wait for the client at once; further ones are refused.
pub(crate) const QUESTIONS_MAX: usize = 64;

impl Sessions {
    pub(crate) fn new(max: usize) -> Sessions {
        Sessions { table: Table::new(max), epoch: Instant::now() }
    }

    /// Opens a session.
    ///
    /// # Errors
    /// The table is full.
    pub(crate) fn open(
        self: &Arc<Self>,
        opened: Opened,
        limits: &Limits,
        timeouts: &Timeouts,
        metrics: ServerMetrics,
    ) -> Result<Arc<Session>, SessionError> {
        let id = random_id()?;
        let bounds = Bounds {
            events: limits.backlog_events,
            bytes: limits.backlog_bytes,
            retention: timeouts.backlog_retention,
        };
        let make = || Session {
            id: id.clone(),
            route: opened.route,
            sessions: Arc::downgrade(self),
            revision: OnceLock::new(),
            calls: Mutex::default(),
            questions: Mutex::default(),
            streams: Mutex::default(),
            standing: Stream::standing(bounds),
            streams_opened: AtomicU32::new(0),
            bounds,
            in_flight_max: limits.in_flight,
            started: Instant::now(),
            epoch: self.epoch,
            last_seen_ms: AtomicU64::new(ms_since(self.epoch)),
            initialized: OnceLock::new(),
            ended: CancellationToken::new(),
            reason: OnceLock::new(),
            _counted: metrics.session(),
            metrics,
        };
        let session = self.table.add(id.clone(), make).ok_or(SessionError::TooMany)?;
        session.travel(opened.lease, opened.hub);
        Ok(session)
    }

    /// Fails where another session would not be accepted: asked before a process is started for it.
    pub(crate) fn check_room(&self) -> Result<(), SessionError> {
        if self.table.is_full() { Err(SessionError::TooMany) } else { Ok(()) }
    }

    /// The live session of this name at this server.
    ///
    /// # Errors
    /// There is none. It makes no difference whether there ever was one, or whether it is another server's.
    pub(crate) fn find(&self, id: &str, server: &str) -> Result<Arc<Session>, SessionError> {
        let session = self.table.find(id).ok_or(SessionError::NotFound)?;
        if session.metrics.name() != server {
            return Err(SessionError::NotFound);
        }
        session.touch();
        Ok(session)
    }

    /// Ends a session: its calls stop, its streams end, its connection closes.
    pub(crate) fn end(&self, session: &Session, reason: EndReason) {
        if self.table.remove(&session.id) {
            session.metrics.session_ended(reason.as_str());
            tracing::debug!(upstream = session.metrics.name(), reason = reason.as_str(), "Session ended");
        }
        let _ = session.reason.set(reason);
        session.ended.cancel();
        session.calls_end();
        session.leave();
        session.standing.finish();
        lock(&session.questions).open.clear();
        lock(&session.streams).clear();
    }

    /// Ends all sessions.
    pub(crate) fn end_all(&self, reason: EndReason) {
        for session in self.table.all() {
            self.end(&session, reason);
        }
    }

    /// Ends the sessions that nobody uses, and drops old events of the others.
    pub(crate) fn sweep(&self, timeouts: &Timeouts) {
        for session in self.table.all() {
            if let Some(reason) = session.overdue(timeouts) {
                self.end(&session, reason);
            } else {
                session.standing.sweep();
                lock(&session.streams).retain(|_, stream| !stream.sweep());
            }
        }
    }
}

impl Session {
    /// Its name, as the client sends it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What was negotiated; the newest revision with a handshake until then.
    pub(crate) fn revision(&self) -> Revision {
        self.revision.get().copied().unwrap_or(Revision::LATEST_LEGACY)
    }

    /// The handshake's result, or the server's own choice, decides once.
    pub(crate) fn negotiated(&self, revision: Revision) {
        let _ = self.revision.set(revision);
    }

    /// The client has completed the handshake.
    pub(crate) fn initialized(&self) {
        let _ = self.initialized.set(());
    }

    /// Cancelled when the session is over.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Why it is over.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.reason.get().copied()
    }

    /// The client is there.
    pub(crate) fn touch(&self) {
        self.last_seen_ms.store(ms_since(self.epoch), Ordering::Relaxed);
    }

    /// Whether requests of the client are under way.
    pub(crate) fn is_busy(&self) -> bool {
        !lock(&self.calls).is_empty()
    }

    fn overdue(&self, timeouts: &Timeouts) -> Option<EndReason> {
        if self.is_busy() || self.standing.is_read() {
            // A request under way is use, and so is listening: a connection whose client is dead ends by itself.
            self.touch();
            return (self.started.elapsed() > timeouts.session_max_age && !self.is_busy()).then_some(EndReason::Idle);
        }
        let last_seen = self.epoch + Duration::from_millis(self.last_seen_ms.load(Ordering::Relaxed));
        if self.initialized.get().is_none() && last_seen.elapsed() > timeouts.session_init {
            return Some(EndReason::NotInitialized);
        }
        let old = self.started.elapsed() > timeouts.session_max_age;
        (old || last_seen.elapsed() > timeouts.session_idle).then_some(EndReason::Idle)
    }

    /// Its way to the server.
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// Ends the session, if it is one of those that can be found.
    fn end(&self, reason: EndReason) {
        if let Some(sessions) = self.sessions.upgrade() {
            sessions.end(self, reason);
        }
    }

    /// Notes a request of the client, which has no connection yet: from now on it can be cancelled.
    ///
    /// # Errors
    /// Another one has the same id, or there are too many.
    pub(crate) fn begin_call(self: &Arc<Self>, id: RequestId) -> Result<CallGuard, CallError> {
        let mut calls = lock(&self.calls);
        // Looked at under this lock: whoever gives the connection away sees the call, or the call sees that it is late.
        if self.ended.is_cancelled() {
            return Err(CallError::Ended);
        }
        if calls.len() >= self.in_flight_max {
            return Err(CallError::TooMany);
        }
        let cancelled = Flag::default();
        match calls.entry(id.clone()) {
            Entry::Occupied(_) => Err(CallError::Duplicate),
            Entry::Vacant(vacant) => {
                vacant.insert(OpenCall { sent: None, cancelled: cancelled.clone() });
                Ok(CallGuard { session: Arc::clone(self), id, cancelled })
            }
        }
    }

    /// The session is over, and with it all that its client has asked. Nothing is begun any more.
    fn calls_end(&self) {
        let calls: Vec<_> = lock(&self.calls).values().map(|call| call.cancelled.clone()).collect();
        calls.iter().for_each(Flag::raise);
    }

    /// The client cancels a request: the server is told in the client's own words, but for the name. One that waits for a
    /// connection is not sent. Unknown and finished requests are left alone (2025-11-25, Cancellation).
    pub(crate) fn cancel(&self, notification: &Message) {
        let id = notification.param(meta::REQUEST_ID).and_then(RequestId::from_json);
        let Some(call) = id.and_then(|id| lock(&self.calls).get(&id).cloned()) else {
            return self.metrics.dropped("cancel_of_nothing");
        };
        // First, so that who has just sent it sees that the words below may have come too early.
        call.cancelled.raise();
        if let Some((connection, upstream_id)) = call.sent {
            let upstream = notification.edit().param(meta::REQUEST_ID, &upstream_id.to_string()).finish();
            connection.cancel(upstream_id, upstream.line());
        }
    }

    /// Names a question of the server for the client. `None` if there are too many, or if it is not certain that the
    /// question is for this client.
    pub(crate) fn ask(
        &self,
        connection: &Connection,
        question: &Message,
        server_id: RequestId,
        pending: Option<&Pending>,
    ) -> Option<Message> {
        if !sharing::may_ask(self.route.isolation()) {
            return None;
        }
        let (asker, pending) = (Asker::Server(server_id, connection.clone()), pending.map(Pending::guard));
        let name = self.name(Question { asker, pending })?;
        Some(question.edit().id(&name.to_string()).finish())
    }

    /// Names a question that a call has for the client, on behalf of its server: the name, and the question as it goes out. The
    /// answer comes with the number of the question. `None` if there are too many.
    pub(crate) fn ask_for(
        &self,
        number: u32,
        answers: &mpsc::Sender<(u32, Message)>,
        question: &Message,
    ) -> Option<(i64, Message)> {
        let name = self.name(Question { asker: Asker::Call(number, answers.clone()), pending: None })?;
        let errand = format!("\"shadowcat-{name}\"");
        Some((name, question.edit().id(&name.to_string()).param(meta::ELICITATION_ID, &errand).finish()))
    }

    /// A question of this name need not be answered any more: whether it was open.
    pub(crate) fn take_back(&self, name: i64) -> bool {
        lock(&self.questions).open.remove(&name).is_some()
    }

    fn name(&self, question: Question) -> Option<i64> {
        let mut questions = lock(&self.questions);
        if questions.open.len() >= QUESTIONS_MAX {
            questions.open.retain(|_, question| !question.asker.is_gone());
        }
        if questions.open.len() >= QUESTIONS_MAX {
            return None;
        }
        questions.asked += 1;
        let name = questions.asked;
        questions.open.insert(name, question);
        Some(name)
    }

    /// The server takes a question back: the client's copy of the news, if the question was open.
    pub(crate) fn withdraw(
        &self,
        connection: &Connection,
        notification: &Message,
        server_id: &RequestId,
    ) -> Option<Message> {
        let mut questions = lock(&self.questions);
        // Servers count from the same number: what one calls so is nothing to another.
        let is_meant = |question: &Question| question.asker.is(connection, server_id);
        let name = questions.open.iter().find(|(_, question)| is_meant(question)).map(|(name, _)| *name)?;
        questions.open.remove(&name);
        Some(notification.edit().param(meta::REQUEST_ID, &name.to_string()).finish())
    }

    /// The call that asked these questions is over: nobody waits for answers to them.
    pub(crate) fn forget(&self, pending: &Pending) {
        if pending.any() {
            let of_call =
                |question: &Question| question.pending.as_ref().is_some_and(|guard| Arc::ptr_eq(&guard.0, &pending.0));
            lock(&self.questions).open.retain(|_, question| !of_call(question));
        }
    }

    /// Brings an answer of the client's to whoever asked; one to a question that nobody asked, or that was answered before, to
    /// nobody.
    ///
    /// # Errors
    /// It was not sent, or is not known to have arrived.
    pub(crate) async fn answer(&self, answer: &Message) -> Result<(), UpstreamError> {
        let name = answer.id().and_then(|id| id.as_integer());
        let question = name.and_then(|name| lock(&self.questions).open.remove(&name));
        match question.map(|question| question.asker) {
            Some(Asker::Server(id, connection)) => {
                connection.send(&answer.edit().id(id.as_json()).finish()).await?;
            }
            // There is room for an answer to each question.
            Some(Asker::Call(number, answers)) if answers.try_send((number, answer.clone())).is_ok() => {}
            _ => self.metrics.dropped("answer_to_nothing"),
        }
        Ok(())
    }

    /// A stream for one request. Of those whose requests are over, the oldest are forgotten beyond a number, and beyond
    /// the bytes that one stream may keep: memory does not grow with the number of past requests.
    pub(crate) fn open_stream(&self) -> Arc<Stream> {
        let number = self.streams_opened.fetch_add(1, Ordering::Relaxed) + 1;
        let stream = Stream::of_request(number, self.bounds);
        let mut streams = lock(&self.streams);
        let (mut count, mut bytes) = (0, 0);
        let mut beyond = Vec::new();
        for (number, stream) in streams.iter().rev() {
            if let Some(kept) = stream.kept_after_end() {
                count += 1;
                bytes += kept;
                if count > ENDED_STREAMS_MAX || bytes > self.bounds.bytes {
                    beyond.push(*number);
                }
            }
        }
        for number in beyond {
            streams.remove(&number);
        }
        streams.insert(number, Arc::clone(&stream));
        stream
    }

    /// The stream of that number.
    pub(crate) fn stream(&self, number: u32) -> Option<Arc<Stream>> {
        if number == 0 {
            return Some(Arc::clone(&self.standing));
        }
        lock(&self.streams).get(&number).cloned()
    }

    /// The stream of what belongs to no request.
    pub(crate) fn standing(&self) -> &Arc<Stream> {
        &self.standing
    }

    /// Something that the server says by itself goes to the standing stream, under names that the client knows.
    pub(crate) async fn say(&self, connection: &Connection, message: Message) {
        let text = match (message.kind(), message.id()) {
            (Kind::Request, Some(id)) => match self.ask(connection, &message, id.clone(), None) {
                Some(question) => Some(question),
                None => {
                    self.refuse(connection, &id).await;
                    None
                }
            },
            (Kind::Notification, _) if message.known() == Some(Known::Cancelled) => {
                let id = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                id.and_then(|id| self.withdraw(connection, &message, &id))
            }
            // Answers never go to the standing stream (2025-11-25, Streamable HTTP › Listening for Messages).
            (Kind::Result | Kind::Error, _) => None,
            _ => Some(message),
        };
        match text {
            Some(message) => {
                self.standing.push(&message.line());
            }
            None => self.metrics.dropped("no_recipient"),
        }
    }

    /// Tells the server that its question will not be answered.
    pub(crate) async fn refuse(&self, connection: &Connection, server_id: &RequestId) {
        let error = RpcError::new(METHOD_NOT_FOUND, "no_recipient", "The client cannot be asked now");
        if let Ok(message) = Message::parse(error.to_json(Some(server_id)).into(), 16) {
            connection.leave(&message).await;
        }
    }

    /// The metrics of its server.
    pub(crate) fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }
}

/// Why a request cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// An id may be used once at a time.
    #[error("a request with this id is under way")]
    Duplicate,
    /// The session is over.
    #[error("the session is over")]
    Ended,
    /// A session has a limit of its own.
    #[error("too many requests are under way in this session")]
    TooMany,
}

/// A request of the client under way.
pub(crate) struct CallGuard {
    session: Arc<Session>,
    id: RequestId,
    cancelled: Flag,
}

impl CallGuard {
    /// The client's name for it.
    pub(crate) fn id(&self) -> &RequestId {
        &self.id
    }

    /// The request is about to be sent on this connection.
    pub(crate) fn sent(&self, upstream_id: i64, connection: &Connection) {
        if let Some(call) = lock(&self.session.calls).get_mut(&self.id) {
            call.sent = Some((connection.clone(), upstream_id));
        }
    }

    /// Raised when the client does not want the answer any more, or the session is over.
    pub(crate) fn cancelled(&self) -> &Flag {
        &self.cancelled
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        lock(&self.session.calls).remove(&self.id);
        self.session.touch();
    }
}

/// 192 random bits in URL-safe Base64: visible ASCII (2025-11-25, Streamable HTTP › Session Management).
pub(crate) fn random_id() -> Result<String, SessionError> {
    use base64::Engine as _;
    let mut bytes = [0u8; 24];
    getrandom::fill(&mut bytes).map_err(|_| SessionError::NoRandomness)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}
