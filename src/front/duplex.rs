//! A client on one long-lived connection that carries everything, both ways: standard input and output, or HTTP+SSE.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::mcp::{deliver, pong};
use crate::backend::key::Principal;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Incoming, Kind, Message, ParseError};
use crate::protocol::meta::{self, Envelope};
use crate::protocol::method::Known;
use crate::protocol::revision::Revision;
use crate::proxy::error::ProxyError;
use crate::proxy::{Caller, Proxy, Server, Work};
use crate::rt::mailbox::{Bounds, PushError, Reader, Writer, mailbox};
use crate::session::{EndReason, Session, SessionError};
use crate::tap::{self, CURRENT, Tap};

/// Most messages that wait for a client to read them; a request that has more to say waits.
const OUTBOX_ITEMS: usize = 64;
/// Most bytes that wait for a client to read them.
const OUTBOX_BYTES: usize = 1 << 20;

/// One client. At most one session, and any number of stateless requests beside it.
pub(crate) struct Duplex {
    proxy: Arc<Proxy>,
    server: Arc<Server>,
    outbox: Writer<Bytes>,
    /// Who it is, and what an HTTP upstream gets of the headers that the connection came with.
    caller: Caller,
    /// Who it shows to be, whether or not the isolation wants to know.
    shown: Option<Principal>,
    session: OnceLock<Arc<Session>>,
    /// A handshake is under way or done: there is one per connection.
    initializing: AtomicBool,
    /// Stateless requests under way, by the client's names.
    modern: Mutex<HashMap<RequestId, CancellationToken>>,
    closed: CancellationToken,
    /// How many requests are under way.
    work: AtomicUsize,
    work_done: Notify,
}

impl Duplex {
    /// A client has connected; what is to be written to it comes out of the reader.
    pub(crate) fn open(
        proxy: &Arc<Proxy>,
        server: &Arc<Server>,
        caller: Caller,
        shown: Option<Principal>,
    ) -> (Arc<Duplex>, Reader<Bytes>) {
        let (outbox, reader) = mailbox(Bounds { items: OUTBOX_ITEMS, bytes: OUTBOX_BYTES });
        let duplex = Duplex {
            proxy: Arc::clone(proxy),
            server: Arc::clone(server),
            outbox,
            caller,
            shown,
            session: OnceLock::new(),
            initializing: AtomicBool::new(false),
            modern: Mutex::default(),
            closed: proxy.tasks.stop().child_token(),
            work: AtomicUsize::new(0),
            work_done: Notify::new(),
        };
        (Arc::new(duplex), reader)
    }

    /// Whoever has learned where another posts to has not become the other.
    pub(crate) fn check_caller(&self, headers: &HeaderMap) -> Result<(), ProxyError> {
        let known = self.server.backend.knows_principals();
        if known && self.server.principal(headers)? != self.caller.principal {
            return Err(SessionError::NotFound.into());
        }
        Ok(())
    }

    /// Who sees or changes what passes, if anybody does.
    pub(super) fn tap(&self) -> Option<&Arc<Tap>> {
        self.server.tap.as_ref()
    }

    /// Whether the handshake is done.
    pub(crate) fn has_session(&self) -> bool {
        self.session.get().is_some()
    }

    /// Whether something of the client is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.work.load(Ordering::Acquire) > 0
    }

    /// Waits until everything that the client asked for has been answered.
    pub(crate) async fn idle(&self) {
        loop {
            let done = self.work_done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if !self.is_busy() {
                return;
            }
            done.await;
        }
    }

    /// Cancelled when the session is over: then so is the connection.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Nothing more will be said: the outbox ends when it has been read.
    pub(crate) fn finish(&self) {
        self.outbox.close();
    }

    /// The client has gone: what it asked for is cancelled, its session ends.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        if let Some(session) = self.session.get() {
            self.proxy.sessions.end(session, EndReason::Disconnected);
        }
    }

    /// Takes what the client sent. What answers it comes through the outbox, each when it is ready.
    pub(crate) async fn accept(self: &Arc<Self>, incoming: Result<Incoming, ParseError>) {
        match incoming {
            Ok(Incoming::One(message)) => self.message(message).await,
            Ok(Incoming::Batch(messages)) => self.batch(messages).await,
            Err(error) => self.refuse(&ProxyError::Parse(error), None).await,
        }
    }

    async fn batch(self: &Arc<Self>, messages: Vec<Result<Message, ParseError>>) {
        let max = self.proxy.settings.limits.batch;
        let allowed = self.session.get().is_some_and(|session| session.revision() == Revision::V2025_03_26);
        if !allowed {
            return self.refuse(&ProxyError::Batch, None).await;
        }
        if messages.is_empty() || messages.len() > max {
            return self.refuse(&ProxyError::BatchSize(max), None).await;
        }
        for message in messages {
            match message {
                Ok(message) if message.known() == Some(Known::Initialize) => {
                    self.refuse(&ProxyError::Initialize, message.id()).await;
                }
                Ok(message) => self.message(message).await,
                Err(error) => self.refuse(&ProxyError::Parse(error), None).await,
            }
        }
    }

    async fn message(self: &Arc<Self>, message: Message) {
        let id = message.id();
        let result = match message.kind() {
            Kind::Request if Envelope::of(&message) != Envelope::Absent => self.modern(message),
            Kind::Request if message.known() == Some(Known::Initialize) => self.initialize(message),
            Kind::Request => self.legacy(message).await,
            Kind::Notification if self.cancel_modern(&message) => Ok(()),
            Kind::Notification | Kind::Result | Kind::Error => match self.session.get() {
                Some(session) => deliver(session, &message).await,
                None => {
                    self.server.metrics.dropped("no_session");
                    Ok(())
                }
            },
        };
        if let Err(error) = result
            && (message_wants_answer(id.as_ref()))
        {
            self.refuse(&error, id).await;
        }
    }

    fn initialize(self: &Arc<Self>, request: Message) -> Result<(), ProxyError> {
        if self.proxy.is_draining() {
            return Err(ProxyError::ShuttingDown);
        }
        if self.initializing.swap(true, Ordering::AcqRel) {
            return Err(ProxyError::Initialize);
        }
        let duplex = Arc::clone(self);
        let working = Working::begin(self);
        self.adopt(async move {
            match duplex.proxy.initialize(&duplex.server, &request, duplex.caller.clone()).await {
                Ok((session, answer)) => {
                    if let Some(session) = &session {
                        let _ = duplex.session.set(Arc::clone(session));
                    }
                    duplex.say(answer.line()).await;
                    drop(working);
                    match session {
                        Some(session) => duplex.opened(session).await,
                        // The client may try again, with another version perhaps.
                        None => duplex.initializing.store(false, Ordering::Release),
                    }
                }
                Err(error) => {
                    duplex.initializing.store(false, Ordering::Release);
                    duplex.refuse(&error, request.id()).await;
                }
            }
        });
        Ok(())
    }

    /// Passes on what the server says by itself, for as long as the session lives.
    async fn opened(&self, session: Arc<Session>) {
        session.initialized();
        let reader = session.standing().attach(None, 1);
        self.proxy.listens(&session);
        if self.closed.is_cancelled() {
            return self.close();
        }
        if let Ok(mut reader) = reader {
            while let Some((_, data)) = reader.next().await {
                let missed = reader.take_missed();
                self.say(data).await;
                if missed > 0 {
                    for message in session.missed(missed) {
                        self.say(message.line()).await;
                    }
                }
            }
        }
        // The server is gone, or the session was ended: this connection has no other.
        self.closed.cancel();
    }

    async fn legacy(self: &Arc<Self>, request: Message) -> Result<(), ProxyError> {
        let Some(session) = self.session.get() else {
            // A modern client that forgot its metadata, or a legacy one that forgot its handshake.
            return Err(if request.known() == Some(Known::Discover) {
                ProxyError::Envelope("`_meta` lacks io.modelcontextprotocol/protocolVersion")
            } else {
                ProxyError::SessionMissing
            });
        };
        if let Some(pong) = pong(&request) {
            self.say(pong).await;
            return Ok(());
        }
        if self.proxy.is_draining() {
            return Err(ProxyError::ShuttingDown);
        }
        let (duplex, session) = (Arc::clone(self), Arc::clone(session));
        self.run(None, request.id(), async move {
            duplex.proxy.begin(&session, &request, duplex.caller.headers.clone(), true).await
        });
        Ok(())
    }

    fn modern(self: &Arc<Self>, request: Message) -> Result<(), ProxyError> {
        let Some(id) = request.id() else { return Ok(()) };
        let cancelled = self.closed.child_token();
        {
            let mut modern = self.modern.lock().unwrap_or_else(PoisonError::into_inner);
            if modern.len() >= self.proxy.settings.limits.in_flight {
                return Err(crate::session::CallError::TooMany.into());
            }
            if modern.contains_key(&id) {
                return Err(crate::session::CallError::Duplicate.into());
            }
            modern.insert(id.clone(), cancelled.clone());
        }
        let under_way = UnderWay { duplex: Arc::clone(self), id: id.clone(), cancelled };
        let duplex = Arc::clone(self);
        self.run(Some(under_way), Some(id), async move {
            let (proxy, server, principal) = (&duplex.proxy, &duplex.server, duplex.caller.principal);
            proxy.check_envelope(server, &request, Envelope::of(&request), principal).await?;
            proxy.begin_modern(server, &request, principal, None, || duplex.shown).await.map(Some)
        });
        Ok(())
    }

    /// Begins a request, and passes on everything that answers it, while its client is read on: it may take back what waits for
    /// a connection. A modern one ends when it is cancelled: dropping it tells the server.
    fn run(
        self: &Arc<Self>,
        under_way: Option<UnderWay>,
        id: Option<RequestId>,
        begin: impl Future<Output = Result<Option<Work>, ProxyError>> + Send + 'static,
    ) {
        let duplex = Arc::clone(self);
        let working = Working::begin(self);
        let mut work = async move {
            let _working = working;
            let cancelled = under_way.as_ref().map_or_else(CancellationToken::new, |one| one.cancelled.clone());
            let answers = async {
                match begin.await {
                    Ok(Some(work)) => duplex.pass_on(work).await,
                    Ok(None) => {}
                    Err(error) => duplex.refuse(&error, id).await,
                }
            };
            tokio::select! {
                biased;
                () = cancelled.cancelled() => {}
                () = answers => {}
            }
        }
        .boxed();
        // What need not wait is sent in the order in which it came, and what waits is known by its id before the next is read.
        if (&mut work).now_or_never().is_none() {
            self.adopt(work);
        }
    }

    async fn pass_on(&self, mut work: Work) {
        while let Some(output) = work.next().await {
            let last = output.last;
            self.say(output.message.line()).await;
            if last {
                return;
            }
        }
    }

    /// A modern request is cancelled by a notification where there is no stream to close (2026-07-28, Cancellation).
    fn cancel_modern(&self, notification: &Message) -> bool {
        if notification.known() != Some(Known::Cancelled) {
            return false;
        }
        let Some(id) = notification.param(meta::REQUEST_ID).and_then(RequestId::from_json) else { return false };
        match self.modern.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(token) => {
                token.cancel();
                true
            }
            None => false,
        }
    }

    fn adopt(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        let work = async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                () = work => {}
            }
        };
        // It stays the work of whoever it was.
        match tap::current() {
            None => self.proxy.adopter.adopt(work),
            tape => self.proxy.adopter.adopt(CURRENT.scope(tape, work)),
        }
    }

    pub(super) async fn refuse(&self, error: &ProxyError, id: Option<RequestId>) {
        let (side, kind) = error.blame();
        self.proxy.metrics.refused(side, kind);
        let text = error.outward().error.to_json(id.as_ref().or(error.id()));
        self.say(Bytes::from(text)).await;
    }

    /// Writes one message; waits while the client does not read.
    pub(super) async fn say(&self, line: Bytes) {
        let mut line = line;
        loop {
            let bytes = line.len();
            match self.outbox.push(None, line, bytes, |line| Bytes::copy_from_slice(&line)) {
                Ok(()) | Err(PushError::Gone | PushError::Forgotten(_)) => return,
                Err(PushError::Full(back)) => line = back,
            }
            tokio::select! {
                () = self.outbox.room() => {}
                () = self.closed.cancelled() => return,
            }
        }
    }
}

/// Notifications and answers get no answer, not even an error.
fn message_wants_answer(id: Option<&RequestId>) -> bool {
    id.is_some()
}

/// Something that the client waits for.
struct Working(Arc<Duplex>);

impl Working {
    fn begin(duplex: &Arc<Duplex>) -> Working {
        duplex.work.fetch_add(1, Ordering::AcqRel);
        Working(Arc::clone(duplex))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.work.fetch_sub(1, Ordering::AcqRel);
        self.0.work_done.notify_waiters();
    }
}

/// A stateless request under way.
struct UnderWay {
    duplex: Arc<Duplex>,
    id: RequestId,
    cancelled: CancellationToken,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.duplex.modern.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
