//! The way from a session to its server: its own connection, a shared one, or one for each request; and how it is found
//! again when the connection is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::HeaderMap;
use tokio::time::{Instant, sleep_until};

use super::subscriptions::Subscriptions;
use super::{EndReason, Session, lock};
use crate::backend::hub::{Awaited, Ending, Membership, Said};
use crate::backend::key::Principal;
use crate::backend::start::Completion;
use crate::backend::{Backend, Leased, OpenError, Way};
use crate::bridge::handshake::{self, Handshake};
use crate::bridge::legacy_to_modern::answer::Shape;
use crate::bridge::legacy_to_modern::client::Client;
use crate::bridge::legacy_to_modern::welcome;
use crate::bridge::legacy_to_modern::wrap::Wrapped;
use crate::bridge::loss;
use crate::bridge::sharing;
use crate::protocol::headers;
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::rt::chance;
use crate::settings::Isolation;
use crate::upstream::Connection;
use crate::upstream::error::UpstreamError;
use crate::upstream::reconnect::{Event, Heard, Loss, Reconnect, Step};

/// Most subscriptions that are repeated on a new connection.
const SUBSCRIPTIONS_MAX: usize = 1024;

/// See the module.
pub(crate) struct Route {
    pub(super) backend: Arc<Backend>,
    handshake: Arc<Handshake>,
    owner: Option<Principal>,
    /// What went along with the latest request: what a new connection is made with.
    headers: Mutex<Arc<HeaderMap>>,
    /// The result of the handshake, as the server gave it.
    answer: Message,
    /// Held for a look or a replacement.
    state: Mutex<State>,
    /// The latest attempt to make another connection, for all who wait for one. Held for a look or a replacement.
    restoring: Mutex<Option<Attempt>>,
    /// How often the connection was lost lately, over all connections. Held for one step.
    reconnect: Mutex<Reconnect>,
    memory: Mutex<Memory>,
    /// Where the server knows of no sessions: there is never a connection, and each request goes for itself.
    stateless: Option<Box<Stateless>>,
}

/// What a server without sessions has to be told with each request of one.
pub(crate) struct Stateless {
    pub(crate) client: Arc<Client>,
    /// Whether the server writes log messages.
    has_logging: bool,
    /// How severe they have to be, once the client has said so. Held for a look or a replacement.
    level: Mutex<Option<String>>,
    pub(crate) subscriptions: Subscriptions,
    /// Of which tools the client was told a schema that is wrapped, where any may be. Held for a look or a page.
    wrapped: Option<Mutex<Wrapped>>,
}

impl Stateless {
    /// How severe log messages have to be; `None` if the client wants none.
    pub(crate) fn level(&self) -> Option<String> {
        lock(&self.level).clone()
    }

    /// What becomes of a structured result of this request that the client's revision cannot have.
    pub(crate) fn shape(&self, request: &Message) -> Shape {
        let Some(wrapped) = &self.wrapped else { return Shape::Omit };
        match request.known() {
            Some(Known::ToolsList) => Shape::Wrap { room: lock(wrapped).room() },
            Some(Known::ToolsCall) if request.param_str("name").is_some_and(|name| lock(wrapped).has(&name)) => {
                Shape::Wrapped
            }
            _ => Shape::Omit,
        }
    }

    /// The client is told of these tools, and of some a schema that is wrapped.
    pub(crate) fn listed(&self, tools: &[(String, bool)]) {
        let Some(wrapped) = &self.wrapped else { return };
        let mut wrapped = lock(wrapped);
        tools.iter().for_each(|(name, is_wrapped)| wrapped.told(name, *is_wrapped));
    }

    /// From now on log messages have to be this severe. Whether there are any.
    pub(crate) fn set_level(&self, level: String) -> bool {
        if self.has_logging {
            *lock(&self.level) = Some(level);
        }
        self.has_logging
    }
}

/// Goes on though nobody waits for it any more: what is restored must not be left half done.
type Attempt = Shared<BoxFuture<'static, Result<(), OpenError>>>;

enum State {
    /// There is none, or none any more.
    None,
    Own(Connection, Completion),
    Shared(Membership),
}

/// What the client has told the server that a new connection has to be told again.
#[derive(Default)]
struct Memory {
    level: Option<Message>,
    subscriptions: BTreeMap<String, Message>,
    /// What the client asked to subscribe to and did not give up: it may be subscribed to, whatever was answered.
    asked: BTreeSet<String>,
    /// The connection may know of something that cannot be taken back.
    marked: bool,
}

/// A request that may change what the server keeps for a session.
pub(crate) struct Notable {
    session: Arc<Session>,
    request: Message,
    turn: Turn,
}

/// What a request means to those who share a connection, for as long as it is under way.
enum Turn {
    /// Nothing.
    Free,
    Subscribes(#[expect(dead_code, reason = "it is what its drop does")] Awaited),
    Ends(#[expect(dead_code, reason = "it is what its drop does")] Ending),
    /// It gives up what others hold.
    Needless,
}

impl Notable {
    /// The server need not know of it.
    pub(crate) fn is_needless(&self) -> bool {
        matches!(self.turn, Turn::Needless)
    }

    /// The server has done what it asked for.
    pub(crate) fn done(&self) {
        self.session.note(&self.request);
    }
}

/// A way that is open, before there is a session that uses it.
pub(crate) struct Opened {
    pub(super) route: Route,
    pub(super) lease: Option<Leased>,
    /// It joins when there is somebody to hear.
    pub(super) hub: Option<Arc<crate::backend::hub::Hub>>,
}

impl Opened {
    /// The connection, where it is already known which one it is.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        match (&self.lease, &self.hub) {
            (Some(lease), _) => Some(&lease.connection),
            (None, Some(hub)) => Some(hub.connection()),
            (None, None) => None,
        }
    }

    /// The result of the handshake, as the client is to see it.
    pub(crate) fn answer(&self) -> Message {
        if self.route.stateless.is_some() {
            // Nothing is kept there that would have to be kept apart.
            return self.route.answer.clone();
        }
        sharing::offer(self.route.backend.isolation(), &self.route.answer)
    }
}

impl Route {
    /// Makes the handshake that a client asks for, where it has to be made.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) async fn open(
        backend: &Arc<Backend>,
        request: &Message,
        owner: Option<Principal>,
        headers: HeaderMap,
    ) -> Result<Opened, OpenError> {
        let (handshake, headers) = (backend.handshake(request), Arc::new(headers::detached(&headers)));
        let (mut lease, mut hub) = (None, None);
        let answer = match backend.isolation() {
            Isolation::Session | Isolation::Request => {
                let mut leased = backend.lease(&handshake, owner, &headers).await?;
                let answer = leased.answer.clone();
                if backend.isolation() == Isolation::Session {
                    lease = Some(leased);
                } else {
                    leased.reuse(reusable(backend, owner, &handshake));
                }
                answer
            }
            Isolation::Shared | Isolation::Principal => {
                let shared = backend.hub(&handshake, owner).await?;
                Some(hub.insert(shared).answer().clone())
            }
        };
        let route = Route {
            backend: Arc::clone(backend),
            handshake,
            owner,
            headers: Mutex::new(headers),
            answer: answer.ok_or(OpenError::Lost)?,
            state: Mutex::new(State::None),
            restoring: Mutex::default(),
            reconnect: Mutex::new(backend.reconnect()),
            memory: Mutex::default(),
            stateless: None,
        };
        Ok(Opened { route, lease, hub })
    }

    /// The way of a client whose handshake was answered for a server that has none.
    pub(crate) fn stateless(
        backend: &Arc<Backend>,
        request: &Message,
        owner: Option<Principal>,
        headers: HeaderMap,
        client: Client,
        answer: Message,
    ) -> Opened {
        let has_logging = welcome::has_logging(&answer);
        let stateless = Stateless {
            client: Arc::new(client),
            has_logging,
            level: Mutex::default(),
            subscriptions: Subscriptions::default(),
            wrapped: backend.wraps().then(Mutex::default),
        };
        let route = Route {
            backend: Arc::clone(backend),
            handshake: Arc::new(Handshake::of_client(request)),
            owner,
            headers: Mutex::new(Arc::new(headers::detached(&headers))),
            answer,
            state: Mutex::new(State::None),
            restoring: Mutex::default(),
            reconnect: Mutex::new(backend.reconnect()),
            memory: Mutex::default(),
            stateless: Some(Box::new(stateless)),
        };
        Opened { route, lease: None, hub: None }
    }

    /// The result of the handshake, as the server gave it.
    pub(crate) fn answer(&self) -> &Message {
        &self.answer
    }

    /// What goes along with each request, where the server knows of no sessions.
    pub(crate) fn as_stateless(&self) -> Option<&Stateless> {
        self.stateless.as_deref()
    }

    fn step(&self, event: Event) -> Step {
        lock(&self.reconnect).on(event, Instant::now().into_std(), chance())
    }

    /// The connection, if there is one that is for more than one request.
    pub(crate) fn current(&self) -> Option<Connection> {
        let connection = match &*lock(&self.state) {
            State::None => return None,
            State::Own(connection, _) => connection.clone(),
            State::Shared(membership) => membership.hub().connection().clone(),
        };
        (!connection.gone().is_cancelled()).then_some(connection)
    }

    /// What goes along with a request of the session that is none of its client's.
    pub(crate) fn headers(&self) -> Arc<HeaderMap> {
        Arc::clone(&lock(&self.headers))
    }

    /// Credentials are renewed in the course of a session.
    pub(crate) fn remember(&self, headers: &HeaderMap) {
        let mut latest = lock(&self.headers);
        if **latest != *headers {
            *latest = Arc::new(headers::detached(headers));
        }
    }

    /// Who the client is, where that matters.
    pub(crate) fn owner(&self) -> Option<Principal> {
        self.owner
    }

    /// How the server is shared.
    pub(crate) fn isolation(&self) -> Isolation {
        self.backend.isolation()
    }

    /// Whether the connection may be used by others when the session is over.
    fn leaves_no_trace(&self, completion: &Completion) -> bool {
        let memory = lock(&self.memory);
        self.backend.reuses(self.owner, &self.handshake)
            && completion.is_complete()
            && memory.asked.is_empty()
            && !memory.marked
    }
}

fn reusable(backend: &Backend, owner: Option<Principal>, handshake: &Handshake) -> bool {
    backend.reuses(owner, handshake)
}

impl Session {
    /// Gives the session its way, and has it told what the server says by itself.
    pub(super) fn travel(self: &Arc<Self>, lease: Option<Leased>, hub: Option<Arc<crate::backend::hub::Hub>>) {
        if let Some(lease) = lease {
            self.own(lease);
        }
        if let Some(hub) = hub {
            let session = Arc::downgrade(self);
            let membership = hub.join(move |said| match (session.upgrade(), said) {
                (Some(session), Said::Message(message)) => drop(session.standing.push(&message.line())),
                (Some(session), Said::Lost) => session.lost(),
                (None, _) => {}
            });
            *lock(&self.route.state) = State::Shared(membership);
        }
    }

    fn own(self: &Arc<Self>, lease: Leased) {
        *lock(&self.route.state) = State::Own(lease.connection.clone(), lease.completion());
        self.listens();
        let session = Arc::clone(self);
        self.route.backend.adopter().adopt(session.hear(Box::new(lease)));
    }

    /// If the client listens, what the server says by itself is wanted.
    pub(crate) fn listens(&self) {
        if self.standing.is_read()
            && let State::Own(connection, _) = &*lock(&self.route.state)
        {
            connection.listen();
        }
    }

    /// Passes on what the server says, for as long as the session and its connection live.
    async fn hear(self: Arc<Self>, mut lease: Box<Leased>) {
        // Most sessions hear nothing for most of the time: what it takes to pass a message on is boxed.
        for message in std::mem::take(&mut lease.early) {
            Box::pin(self.say(&lease.connection, message)).await;
        }
        loop {
            tokio::select! {
                message = lease.standing.next() => match message {
                    Some(message) => {
                        let passed = async {
                            // A client that reads slowly slows its own server.
                            self.standing.room(message.line().len()).await;
                            self.say(&lease.connection, message).await;
                        };
                        Box::pin(passed).await;
                    }
                    None => break self.lost(),
                },
                () = self.ended().cancelled() => break,
            }
        }
        // A call that is under way, or about to be, would be on a connection of somebody else.
        let reuse = !self.is_busy() && self.route.leaves_no_trace(&lease.completion());
        lease.reuse(reuse);
    }

    /// The connection is lost: requests under way are told by it, the next one finds another. Where the client listens, it
    /// is not waited for.
    fn lost(self: &Arc<Self>) {
        if !self.route.backend.reinitializes() {
            self.end(EndReason::UpstreamGone);
        } else if self.standing.is_read() {
            self.route.backend.adopter().adopt(Arc::clone(self).come_back());
        } else {
            tracing::debug!(upstream = self.metrics.name(), "Connection lost: the next request makes another");
        }
    }

    /// Makes another connection, as often and as patiently as a broken stream is opened again (C-SSE-1).
    async fn come_back(self: Arc<Self>) {
        let lost = || Event::Lost { loss: Loss::Broken, heard: Heard::default() };
        let mut step = self.route.step(lost());
        loop {
            let event = match step {
                Step::WaitUntil(until) => tokio::select! {
                    () = sleep_until(Instant::from_std(until)) => Event::Due,
                    () = self.ended().cancelled() => return,
                },
                Step::Connect { .. } => match self.way(None).await {
                    Ok(_) | Err(OpenError::Lost) => return,
                    Err(_) => lost(),
                },
                // A request was faster.
                Step::Read => return,
                Step::GiveUp(_) => {
                    self.metrics.session_restarted("given_up");
                    tracing::warn!(upstream = self.metrics.name(), "Connection not made again: the next request tries");
                    return;
                }
            };
            step = self.route.step(event);
        }
    }

    /// The way for one request of the client, which came with these headers for an HTTP server.
    ///
    /// # Errors
    /// See [`OpenError`]; after [`OpenError::Lost`] the session is over.
    pub(crate) async fn way(self: &Arc<Self>, headers: Option<&HeaderMap>) -> Result<Way, OpenError> {
        let route = &self.route;
        if let Some(headers) = headers {
            route.remember(headers);
        }
        if route.isolation() == Isolation::Request {
            let headers = route.headers();
            let leased = Box::pin(route.backend.lease(&route.handshake, route.owner, &headers)).await;
            let mut lease = leased.map_err(|error| self.unless_refused(error))?;
            lease.reuse(reusable(&route.backend, route.owner, &route.handshake));
            if !lease.answer.as_ref().is_some_and(|answer| handshake::agree(answer, &route.answer)) {
                return Err(self.is_lost());
            }
            return Ok(lease.into());
        }
        if let Some(attempt) = self.attempt()? {
            attempt.await?;
        }
        // It may have been lost again.
        route.current().map(Way::from).ok_or(OpenError::Unanswered(UpstreamError::Lost { sent: false }))
    }

    /// What has to end before there is a connection that can be used, if anything.
    fn attempt(self: &Arc<Self>) -> Result<Option<Attempt>, OpenError> {
        let route = &self.route;
        let under_way = |attempt: &&Attempt| attempt.peek().is_none();
        let mut restoring = lock(&route.restoring);
        if let Some(attempt) = restoring.as_ref().filter(under_way) {
            return Ok(Some(attempt.clone()));
        }
        if route.current().is_some() {
            return Ok(None);
        }
        if !route.backend.reinitializes() || self.ended().is_cancelled() {
            drop(restoring);
            return Err(self.is_lost());
        }
        let session = Arc::clone(self);
        let attempt = async move {
            tokio::select! {
                biased;
                () = session.ended().cancelled() => Err(OpenError::Lost),
                restored = session.restore() => restored,
            }
        };
        let attempt = attempt.boxed().shared();
        *restoring = Some(attempt.clone());
        route.backend.adopter().adopt(attempt.clone().map(drop));
        Ok(Some(attempt))
    }

    /// There is no way back: the client learns it from the end of its session.
    pub(crate) fn is_lost(&self) -> OpenError {
        self.end(EndReason::UpstreamGone);
        OpenError::Lost
    }

    /// A server that refuses the handshake which it once accepted is another one.
    fn unless_refused(&self, error: OpenError) -> OpenError {
        match error {
            OpenError::Refused(_) => self.is_lost(),
            error => error,
        }
    }

    /// Makes the handshake again, and tells the server what it has to know.
    async fn restore(self: &Arc<Self>) -> Result<(), OpenError> {
        let route = &self.route;
        let opened = match route.isolation() {
            Isolation::Session | Isolation::Request => {
                let lease = route.backend.lease(&route.handshake, route.owner, &route.headers()).await;
                lease.map(|lease| (lease.answer.clone(), Some(lease), None))
            }
            Isolation::Shared | Isolation::Principal => {
                let hub = route.backend.hub(&route.handshake, route.owner).await;
                hub.map(|hub| (Some(hub.answer().clone()), None, Some(hub)))
            }
        };
        let (answer, lease, hub) = opened.map_err(|error| {
            self.metrics.session_restarted("failed");
            self.unless_refused(error)
        })?;
        if !answer.is_some_and(|answer| handshake::agree(&answer, &route.answer)) {
            // A client cannot be told that what was negotiated does not hold any more, except by the end of its session.
            self.metrics.session_restarted("changed");
            return Err(self.is_lost());
        }
        if let Some(lease) = &lease {
            lease.completion().complete().await.map_err(OpenError::Unanswered)?;
        }
        self.travel(lease, hub);
        // It may have been lost again.
        let connection = route.current().ok_or(OpenError::Unanswered(UpstreamError::Lost { sent: false }))?;
        self.tell_again(&connection).await;
        for change in handshake::everything_changed(&route.answer) {
            self.standing.push(&change.line());
        }
        // Also where it had been given up, until a request came.
        route.step(Event::Revived);
        route.step(Event::Opened);
        self.metrics.session_restarted("ok");
        tracing::info!(upstream = self.metrics.name(), "Session goes on with a new connection");
        Ok(())
    }

    /// The client reads too slowly, and events of its standing stream are lost to it: what it has to be told instead, so that it
    /// can look for itself.
    pub(crate) fn missed(&self, events: u64) -> Vec<Message> {
        tracing::warn!(upstream = self.metrics.name(), events, "Client reads too slowly: events are lost to it");
        self.metrics.dropped_many("backlog", events);
        let mut subscriptions: Vec<_> =
            lock(&self.route.memory).subscriptions.values().filter_map(sharing::missed).collect();
        if let Some(stateless) = &self.route.stateless {
            let wanted = stateless.subscriptions.wanted().uris;
            subscriptions.extend(wanted.into_iter().filter_map(sharing::updated));
        }
        handshake::everything_changed(&self.route.answer).into_iter().chain(subscriptions).collect()
    }

    /// Repeats log level and subscriptions. A server that does not take one would not have taken it before.
    async fn tell_again(self: &Arc<Self>, connection: &Connection) {
        let deadline = self.route.backend.restore_deadline();
        let requests: Vec<Message> = {
            let memory = lock(&self.route.memory);
            memory.level.iter().chain(memory.subscriptions.values()).cloned().collect()
        };
        for request in requests {
            let id = connection.next_id();
            let renamed = request.edit().id(&id.to_string()).finish();
            let notable = self.notes(&request).await;
            let told = crate::backend::start::ask(connection, &renamed, id, &self.route.headers(), deadline).await;
            if told.as_ref().is_ok_and(|answer| answer.kind() == Kind::Result) {
                notable.iter().for_each(Notable::done);
                if let Some(missed) = sharing::missed(&request) {
                    self.standing.push(&missed.line());
                }
            } else {
                tracing::warn!(upstream = self.metrics.name(), method = request.method(), "Not restored");
                self.metrics.error("upstream", "not_restored");
            }
        }
    }

    /// Takes note of a request that is about to be sent, if it may change what the server keeps: from then on the connection
    /// is not what it was, even if there is never an answer. Where others have the connection, too, requests about one resource
    /// wait for each other.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nobody waits for it.
    pub(crate) async fn notes(self: &Arc<Self>, request: &Message) -> Option<Notable> {
        let known = request.known().filter(|known| known.is_remembered())?;
        let turn = self.turn(known, request).await;
        let mut memory = lock(&self.route.memory);
        match known {
            Known::SetLevel => memory.marked = true,
            Known::ResourcesSubscribe => {
                let uri = sharing::uri(request)?;
                if memory.asked.len() < SUBSCRIPTIONS_MAX {
                    memory.asked.insert(uri);
                } else {
                    memory.marked = true;
                }
            }
            Known::ResourcesUnsubscribe => {}
            _ if handshake::is_of_task(request) => memory.marked = true,
            _ => return None,
        }
        Some(Notable { session: Arc::clone(self), request: request.clone(), turn })
    }

    /// Waits until a request to subscribe, or to end that, can be sent.
    async fn turn(&self, known: Known, request: &Message) -> Turn {
        let subscribes = known == Known::ResourcesSubscribe;
        let Some(uri) = sharing::uri(request).filter(|_| subscribes || known == Known::ResourcesUnsubscribe) else {
            return Turn::Free;
        };
        loop {
            let turn = match &*lock(&self.route.state) {
                State::Shared(membership) if subscribes => membership.awaits(&uri).map(Turn::Subscribes),
                State::Shared(membership) => {
                    membership.gives_up(&uri).map(|ending| ending.map_or(Turn::Needless, Turn::Ends))
                }
                _ => Ok(Turn::Free),
            };
            match turn {
                Ok(turn) => return turn,
                Err(over) => over.cancelled().await,
            }
        }
    }

    /// The server has done what this request asked for: some of it has to be known later.
    fn note(&self, request: &Message) {
        let mut memory = lock(&self.route.memory);
        match request.known() {
            Some(Known::SetLevel) => memory.level = Some(request.detached()),
            Some(Known::ResourcesSubscribe) => {
                let Some(uri) = sharing::uri(request) else { return };
                if let State::Shared(membership) = &*lock(&self.route.state) {
                    membership.subscribed(uri.clone());
                }
                if memory.subscriptions.len() < SUBSCRIPTIONS_MAX {
                    memory.subscriptions.insert(uri, request.detached());
                }
            }
            Some(Known::ResourcesUnsubscribe) => {
                if let Some(uri) = sharing::uri(request) {
                    memory.subscriptions.remove(&uri);
                    memory.asked.remove(&uri);
                }
            }
            _ => {}
        }
    }

    /// Whether one more subscription is possible.
    pub(crate) fn may_subscribe(&self) -> bool {
        match &*lock(&self.route.state) {
            State::Shared(membership) => membership.may_subscribe(),
            _ => true,
        }
    }

    /// Passes on a notification of the client, where there is a server that it concerns.
    ///
    /// # Errors
    /// It was not sent, or is not known to have arrived.
    pub(crate) async fn notify(&self, message: &Message) -> Result<(), crate::upstream::error::UpstreamError> {
        let own = match &*lock(&self.route.state) {
            State::Own(connection, completion) => Some((connection.clone(), completion.clone())),
            _ => None,
        };
        match own {
            Some((_, completion)) if message.known() == Some(Known::Initialized) => {
                completion.complete_with(message).await
            }
            Some((connection, _)) if !connection.gone().is_cancelled() => connection.send(message).await,
            // It is about a connection that is not this client's, or is not there any more.
            _ if self.route.stateless.is_some() && message.known() == Some(Known::RootsChanged) => {
                self.metrics.lost(loss::Loss::RootsChanged);
                Ok(())
            }
            _ => {
                if message.known() != Some(Known::Initialized) {
                    self.metrics.dropped("no_connection");
                }
                Ok(())
            }
        }
    }

    /// Gives up the way: nobody needs it any more.
    pub(super) fn leave(&self) {
        let state = std::mem::replace(&mut *lock(&self.route.state), State::None);
        drop(state);
    }
}
