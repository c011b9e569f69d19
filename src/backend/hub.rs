//! One legacy connection that several sessions share: what the server says by itself is told to those whom it concerns.
//!
//! A server with a handshake has one session per connection, so here all of its clients are one client to it: without
//! capabilities, so that it asks nobody anything. Answers and progress belong to calls, whose names are ours. List changes
//! go to everybody, updates of a resource to those who subscribed to it, log messages to nobody (docs/isolation.md).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::cells::Cells;
use super::key::{Key, Principal};
use super::start::ask;
use super::{Backend, Leased, OpenError, lock};
use crate::bridge::handshake::Handshake;
use crate::bridge::sharing;
use crate::metrics::ServerMetrics;
use crate::protocol::error::{METHOD_NOT_FOUND, RpcError};
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::rt::adopter::Adopter;
use crate::settings::Isolation;
use crate::upstream::Connection;
use crate::upstream::driver::Sharing;

/// Most resources that are subscribed to on one connection.
const SUBSCRIPTIONS_MAX: usize = 10_000;
/// How long the end of a subscription may take.
const UNSUBSCRIBE: Duration = Duration::from_secs(5);

/// The hubs of one upstream: one for each version that clients want to speak, and for each principal if they are kept apart.
pub(super) type Hubs = Cells<(Arc<Handshake>, Option<Principal>), Arc<Hub>>;

/// See the module.
pub(crate) struct Hub {
    connection: Connection,
    answer: Message,
    state: Mutex<State>,
    over: CancellationToken,
    metrics: ServerMetrics,
    adopter: Adopter,
}

struct State {
    members: HashMap<u64, Hear>,
    next: u64,
    /// Who subscribed to what.
    holders: BTreeMap<String, BTreeSet<u64>>,
    /// How many requests to subscribe to what have not been answered yet.
    awaited: HashMap<String, usize>,
    /// Of what the server is being told that nobody wants to hear. Cancelled when that is over: until then nobody subscribes to
    /// it, since what is sent later may be done earlier.
    ending: HashMap<String, CancellationToken>,
    left: Instant,
}

impl State {
    /// Whether the server has to go on telling of this.
    fn wants(&self, uri: &str) -> bool {
        self.holders.contains_key(uri) || self.awaited.contains_key(uri)
    }

    /// Notes that the server is about to be told, if nobody wants to hear of it. An error if it is being told already.
    fn end(&mut self, uri: &str) -> Result<Option<CancellationToken>, CancellationToken> {
        if self.wants(uri) {
            return Ok(None);
        }
        if let Some(over) = self.ending.get(uri) {
            return Err(over.clone());
        }
        let over = CancellationToken::new();
        self.ending.insert(uri.to_owned(), over.clone());
        Ok(Some(over))
    }
}

/// What a member hears.
pub(crate) enum Said<'a> {
    /// Something that the server said by itself.
    Message(&'a Message),
    /// The connection is lost.
    Lost,
}

/// Tells a member.
type Hear = Arc<dyn Fn(Said<'_>) + Send + Sync>;

impl Backend {
    /// The connection that this client shares with others.
    ///
    /// Takes no longer than one connection may take, however many ask at once: when the server does not answer, those who
    /// waited for the one who asked would otherwise ask again one after the other.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) async fn hub(
        &self,
        handshake: &Arc<Handshake>,
        owner: Option<Principal>,
    ) -> Result<Arc<Hub>, OpenError> {
        let owner = owner.filter(|_| self.settings.isolation == Isolation::Principal);
        let key = || Key::Legacy { handshake: Arc::clone(handshake), owner, headers: Arc::default() };
        self.hub_of((Arc::clone(handshake), owner), key).await
    }

    /// The one that is shared by those who have this in common; if there is none, it is made of a connection of that kind.
    pub(super) async fn hub_of(
        &self,
        shared: (Arc<Handshake>, Option<Principal>),
        key: impl FnOnce() -> Key,
    ) -> Result<Arc<Hub>, OpenError> {
        if let Some(hub) = self.hubs.find(&shared, |hub| hub.is_open().then(|| Arc::clone(hub))) {
            return Ok(hub);
        }
        let patience = self.timeouts.acquire + self.timeouts.start;
        // In a box, so that the future of each request stays small.
        Box::pin(timeout(patience, self.make_hub(shared, key()))).await.unwrap_or(Err(OpenError::Timeout))
    }

    async fn make_hub(&self, shared: (Arc<Handshake>, Option<Principal>), key: Key) -> Result<Arc<Hub>, OpenError> {
        loop {
            let cell = self.hubs.get(shared.clone()).ok_or(OpenError::QueueFull)?;
            let hub = cell.get_or_try_init(|| self.open_hub(key.clone())).await?;
            if hub.is_open() {
                return Ok(Arc::clone(hub));
            }
            self.hubs.forget(&cell);
        }
    }

    async fn open_hub(&self, key: Key) -> Result<Arc<Hub>, OpenError> {
        let lease = self.lease_of(key).await?;
        lease.completion().complete().await.map_err(OpenError::Unanswered)?;
        lease.connection.share(Sharing::Sessions);
        lease.connection.listen();
        let Some(answer) = lease.answer.clone() else { return Err(OpenError::Lost) };
        if self.tasks.drain().is_cancelled() {
            // Nobody would end it any more.
            return Err(OpenError::Closed);
        }
        let hub = Arc::new(Hub {
            connection: lease.connection.clone(),
            answer,
            state: Mutex::new(State {
                members: HashMap::new(),
                next: 0,
                holders: BTreeMap::new(),
                awaited: HashMap::new(),
                ending: HashMap::new(),
                left: Instant::now(),
            }),
            over: CancellationToken::new(),
            metrics: self.metrics.clone(),
            adopter: self.adopter.clone(),
        });
        self.adopter.adopt(listen(Arc::clone(&hub), lease));
        Ok(hub)
    }
}

/// Passes on what the server says, for as long as the connection is there and wanted.
async fn listen(hub: Arc<Hub>, mut lease: Leased) {
    loop {
        tokio::select! {
            biased;
            () = hub.over.cancelled() => return,
            message = lease.standing.next() => match message {
                Some(message) if message.kind() == Kind::Request => hub.refuse(&message).await,
                Some(message) => hub.route(&message),
                None => return hub.tell_lost(),
            },
        }
    }
}

impl Hub {
    fn is_open(&self) -> bool {
        !self.over.is_cancelled() && !self.connection.gone().is_cancelled()
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The result of the handshake.
    pub(crate) fn answer(&self) -> &Message {
        &self.answer
    }

    /// Joins: from now on `hear` is called with what concerns this member. It must not block.
    pub(crate) fn join(self: &Arc<Self>, hear: impl Fn(Said<'_>) + Send + Sync + 'static) -> Membership {
        let mut state = lock(&self.state);
        state.next += 1;
        let number = state.next;
        state.members.insert(number, Arc::new(hear));
        Membership { hub: Arc::clone(self), number }
    }

    /// Closes the connection.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Tells the server that nobody can be asked: which of its clients it means, it does not say.
    async fn refuse(&self, question: &Message) {
        self.metrics.dropped("question_refused");
        let error =
            RpcError::new(METHOD_NOT_FOUND, "isolation", "Several clients share this connection: none can be asked");
        if let Ok(answer) = Message::parse(error.to_json(question.id().as_ref()).into(), 16) {
            self.connection.leave(&answer).await;
        }
    }

    pub(super) fn is_idle(&self, idle: Duration) -> bool {
        let state = lock(&self.state);
        // What its last member cancelled may never be answered, so that there is nothing else to wait for.
        state.members.is_empty() && state.left.elapsed() >= idle
    }

    fn tell_lost(&self) {
        let members: Vec<Hear> = lock(&self.state).members.values().cloned().collect();
        for hear in members {
            hear(Said::Lost);
        }
    }

    fn route(&self, message: &Message) {
        let concerned = match (message.kind(), message.known()) {
            (Kind::Notification, Some(Known::ResourceUpdated)) => self.holders(message),
            (Kind::Notification, Some(Known::ToolsChanged | Known::PromptsChanged | Known::ResourcesChanged)) => {
                lock(&self.state).members.values().cloned().collect()
            }
            // A log message may say what another client did.
            _ => Vec::new(),
        };
        if concerned.is_empty() {
            self.metrics.dropped("shared");
        }
        for hear in concerned {
            hear(Said::Message(message));
        }
    }

    /// Those who subscribed to the resource that has changed, or to what it is a part of.
    fn holders(&self, message: &Message) -> Vec<Hear> {
        let Some(uri) = sharing::uri(message) else { return Vec::new() };
        let state = lock(&self.state);
        let concerned: BTreeSet<u64> = match state.holders.get(&uri) {
            Some(exact) => exact.clone(),
            None => {
                let near = state.holders.iter().filter(|(held, _)| sharing::concerns(&uri, held));
                near.flat_map(|(_, holders)| holders.iter().copied()).collect()
            }
        };
        concerned.iter().filter_map(|number| state.members.get(number).cloned()).collect()
    }

    async fn unsubscribe(self: Arc<Self>, abandoned: Vec<String>) {
        for uri in abandoned {
            let ending = loop {
                let ending = lock(&self.state).end(&uri);
                match ending {
                    Ok(over) => break over.map(|over| Ending { hub: Arc::clone(&self), uri: uri.clone(), over }),
                    Err(over) => over.cancelled().await,
                }
            };
            let Some(_ending) = ending else { continue };
            let id = self.connection.next_id();
            if let Some(request) = sharing::subscription(Known::ResourcesUnsubscribe, id, &uri) {
                // A server that does not take it tells of changes that concern nobody.
                let _ = ask(&self.connection, &request, id, &HeaderMap::new(), Instant::now() + UNSUBSCRIBE).await;
            }
        }
    }
}

/// One session at a hub. Dropping it leaves.
pub(crate) struct Membership {
    hub: Arc<Hub>,
    number: u64,
}

impl Membership {
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Whether one more subscription is possible.
    pub(crate) fn may_subscribe(&self) -> bool {
        lock(&self.hub.state).holders.len() < SUBSCRIPTIONS_MAX
    }

    /// A request to subscribe is about to be sent: until it is answered, nobody ends that subscription for all. An error if the
    /// end of one is under way: what has to be waited for.
    pub(crate) fn awaits(&self, uri: &str) -> Result<Awaited, CancellationToken> {
        let mut state = lock(&self.hub.state);
        if let Some(over) = state.ending.get(uri) {
            return Err(over.clone());
        }
        *state.awaited.entry(uri.to_owned()).or_default() += 1;
        Ok(Awaited { hub: Arc::clone(&self.hub), uri: uri.to_owned() })
    }

    /// The server has accepted a subscription.
    pub(crate) fn subscribed(&self, uri: String) {
        lock(&self.hub.state).holders.entry(uri).or_default().insert(self.number);
    }

    /// This member does not want to hear of it any more. `None` if somebody else does, so that the server need not know. An
    /// error if the end of that subscription is under way: what has to be waited for.
    pub(crate) fn gives_up(&self, uri: &str) -> Result<Option<Ending>, CancellationToken> {
        let mut state = lock(&self.hub.state);
        if let Some(holders) = state.holders.get_mut(uri) {
            holders.remove(&self.number);
            if holders.is_empty() {
                state.holders.remove(uri);
            }
        }
        let over = state.end(uri)?;
        Ok(over.map(|over| Ending { hub: Arc::clone(&self.hub), uri: uri.to_owned(), over }))
    }
}

/// The end of a subscription that is under way.
pub(crate) struct Ending {
    hub: Arc<Hub>,
    uri: String,
    over: CancellationToken,
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.hub.state).ending.remove(&self.uri);
        self.over.cancel();
    }
}

/// A subscription that is under way.
pub(crate) struct Awaited {
    hub: Arc<Hub>,
    uri: String,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut state = lock(&self.hub.state);
        if let Some(count) = state.awaited.get_mut(&self.uri) {
            *count -= 1;
            if *count == 0 {
                state.awaited.remove(&self.uri);
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = lock(&self.hub.state);
        let hear = state.members.remove(&self.number);
        state.left = Instant::now();
        let mut abandoned = Vec::new();
        state.holders.retain(|uri, holders| {
            if holders.remove(&self.number) && holders.is_empty() {
                abandoned.push(uri.clone());
            }
            !holders.is_empty()
        });
        drop(state);
        drop(hear);
        if !abandoned.is_empty() {
            self.hub.adopter.adopt(Arc::clone(&self.hub).unsubscribe(abandoned));
        }
    }
}
