//! One server behind the proxy: its connections, its era, who shares what.
//!
//! A legacy session leases a connection, or joins a [`hub`] that has one, or leases one for each request, as the
//! isolation of the server has it. Modern requests share one, or lease one each ([`modern`]). All of them come from one
//! pool, so that their number is bounded together.

mod alike;
pub(crate) mod bridged;
mod cells;
pub(crate) mod hub;
pub(crate) mod key;
mod leased;
mod modern;
pub(crate) mod start;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::sync::SemaphorePermit;
use tokio::time::{Duration, Instant};

use crate::bridge::handshake::Handshake;
use crate::metrics::{ServerMetrics, StreamState};
use crate::pool::ledger::Bounds;
use crate::pool::restarts::Policy;
use crate::pool::{self, Config, Patience, Pool};
use crate::protocol::message::Message;
use crate::rt::Tasks;
use crate::rt::adopter::Adopter;
use crate::settings::{
    EraChoice, Isolation, Limits, OnCrash, Reuse, Settings, Structured, Target, Timeouts, UpstreamSettings,
};
use crate::tap::Tap;
use crate::upstream::error::UpstreamError;
use crate::upstream::reconnect::{self, Origin, Reconnect};
use crate::upstream::streamable::HttpUpstream;
use crate::upstream::{self, Connection};
use alike::Alike;
use bridged::Greetings;
use hub::Hubs;
use key::{Key, Principal};
pub(crate) use leased::Leased;
use modern::Eras;
pub(crate) use modern::Modern;
use start::{StartError, Starter};

/// What has stood for so long was good, even if nothing was heard of it. Shorter than for a stream that is resumed, since whoever
/// cuts silent connections does so after half a minute or a minute.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// How many spares may turn out to have ended before one session gives up.
const SPARES_LOST_MAX: u32 = 2;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum OpenError {
    /// All connections are in use, and waiting took too long.
    #[error("no connection became free in time")]
    Timeout,
    /// All connections are in use, and too many wait already.
    #[error("too many requests wait for a connection")]
    QueueFull,
    /// The proxy stops.
    #[error("the pool is closed")]
    Closed,
    /// It failed before and is not tried again yet.
    #[error("{}", resting(*.failures, *.seconds, *.looping))]
    Resting { failures: usize, seconds: u64, looping: bool },
    /// It cannot be started or reached.
    #[error(transparent)]
    Start(UpstreamError),
    /// It did not answer the handshake.
    #[error(transparent)]
    Unanswered(UpstreamError),
    /// It refuses the handshake: its answer.
    #[error("the server refuses the handshake")]
    Refused(Box<Message>),
    /// What the session was cannot be restored.
    #[error("the connection was lost, and the session with it")]
    Lost,
}

fn resting(failures: usize, seconds: u64, looping: bool) -> String {
    if looping {
        format!("the server keeps failing ({failures} times in a short time): it is tried again in {seconds} s")
    } else {
        format!("the server has failed {failures} times in a short time: it is tried again in {seconds} s")
    }
}

impl From<pool::PoolError<StartError>> for OpenError {
    fn from(error: pool::PoolError<StartError>) -> OpenError {
        match error {
            pool::PoolError::Timeout => OpenError::Timeout,
            pool::PoolError::QueueFull => OpenError::QueueFull,
            pool::PoolError::Closed => OpenError::Closed,
            pool::PoolError::Resting(rest) => {
                let left = Instant::from_std(rest.until).saturating_duration_since(Instant::now());
                let (failures, looping) = (rest.failures, rest.looping);
                OpenError::Resting { failures, seconds: left.as_secs() + 1, looping }
            }
            pool::PoolError::Create(error) => error.into(),
            pool::PoolError::Panicked => OpenError::Start(UpstreamError::Start("a fault in the proxy".into())),
        }
    }
}

impl From<StartError> for OpenError {
    fn from(error: StartError) -> OpenError {
        match error {
            StartError::Start(UpstreamError::Closed { .. }) => OpenError::Closed,
            StartError::Start(error) => OpenError::Start(error),
            StartError::Unanswered(error) => OpenError::Unanswered(error),
            StartError::Refused(answer) => OpenError::Refused(answer),
        }
    }
}

/// See the module.
pub(crate) struct Backend {
    settings: UpstreamSettings,
    timeouts: Timeouts,
    tasks: Tasks,
    metrics: ServerMetrics,
    adopter: Adopter,
    http: Option<Arc<HttpUpstream>>,
    pool: Pool<Starter>,
    eras: Eras,
    /// The last answer to the question for its era was that of a modern server.
    was_modern: AtomicBool,
    /// And it named no revision with a handshake.
    was_stateless: AtomicBool,
    /// It has refused a handshake since it was last asked for its era: it answers, if one waits.
    has_refused: AtomicBool,
    hubs: Hubs,
    greetings: Greetings,
    /// Each is kept by every session whose client made it.
    handshakes: Alike<Arc<Handshake>>,
    /// The answers to them, likewise.
    answers: Arc<Alike<Message>>,
    reconnect: reconnect::Policy,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    pub(crate) fn new(
        upstream: &UpstreamSettings,
        settings: &Settings,
        tasks: &Tasks,
        adopter: &Adopter,
        metrics: ServerMetrics,
        tap: Option<Arc<Tap>>,
    ) -> Backend {
        let (limits, timeouts) = (&settings.limits, &settings.timeouts);
        let http = match &upstream.target {
            Target::Http(target) => HttpUpstream::new(target, limits, timeouts, tasks, metrics.clone(), tap.clone())
                .inspect_err(|error| tracing::error!(upstream = metrics.name(), %error, "Server cannot be used"))
                .ok()
                .map(Arc::new),
            Target::Stdio(_) | Target::Tape(_) => None,
        };
        let answers = Arc::new(Alike::default());
        let starter = Starter {
            answers: Arc::clone(&answers),
            settings: upstream.clone(),
            limits: limits.clone(),
            timeouts: timeouts.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            http: http.clone(),
            tap,
        };
        // Each has a connection, or waits for one.
        let shared_max = upstream.connections_max + limits.queue;
        let pool = Pool::new(starter, config(upstream, limits, timeouts), tasks, metrics.pool());
        Backend {
            settings: upstream.clone(),
            timeouts: timeouts.clone(),
            tasks: tasks.clone(),
            metrics,
            adopter: adopter.clone(),
            http,
            pool,
            eras: Eras::new(shared_max),
            was_modern: AtomicBool::new(false),
            was_stateless: AtomicBool::new(upstream.era == EraChoice::Modern),
            has_refused: AtomicBool::new(false),
            hubs: Hubs::new(shared_max),
            greetings: Greetings::new(bridged::GREETINGS_MAX),
            handshakes: Alike::default(),
            answers,
            reconnect: upstream::patience(limits, timeouts),
        }
    }

    /// Whether it said when it was last asked, or the configuration says, that it has no handshake.
    pub(crate) fn was_stateless(&self) -> bool {
        self.was_stateless.load(Ordering::Relaxed)
    }

    pub(crate) fn isolation(&self) -> Isolation {
        self.settings.isolation
    }

    /// Takes over work that belongs to no request.
    pub(crate) fn adopter(&self) -> &Adopter {
        &self.adopter
    }

    /// Whether structured results that no handshake knows are put into an object.
    pub(crate) fn wraps(&self) -> bool {
        self.settings.bridge_structured == Structured::Wrap
    }

    /// Whether a session goes on when its connection is lost.
    pub(crate) fn reinitializes(&self) -> bool {
        self.settings.on_crash == OnCrash::Reinitialize
    }

    /// Something of a client's that stands, and that is made again when it is lost: a session's connection, a stream of
    /// notifications.
    pub(crate) fn reconnect(&self) -> Reconnect {
        let policy = reconnect::Policy { healthy_after: HEALTHY_AFTER, ..self.reconnect };
        let now = Instant::now().into_std();
        let mut reconnect = Reconnect::new(Origin::Get, policy, now);
        reconnect.on(reconnect::Event::Opened, now, 0.0);
        reconnect
    }

    /// A stream of the server's was lost for this reason, and waits to be opened again: counted where streams are.
    pub(crate) fn lost_stream(&self, reason: &'static str) -> Option<StreamState> {
        self.http.as_ref().map(|http| http.lost_stream(reason))
    }

    /// One of the few places for opening a lost stream again; there is none to wait for where a process is started, of which
    /// only few are started at once anyway (C-SSE-10).
    ///
    /// # Cancel safety
    /// The place in the queue is lost.
    pub(crate) async fn reconnecting(&self) -> Option<SemaphorePermit<'_>> {
        match &self.http {
            Some(http) => http.reconnecting().await,
            None => None,
        }
    }

    /// Until when what a session needs to go on has to be restored.
    pub(crate) fn restore_deadline(&self) -> Instant {
        Instant::now() + self.timeouts.start
    }

    /// Whether it matters who a client is.
    pub(crate) fn knows_principals(&self) -> bool {
        self.settings.isolation == Isolation::Principal || self.settings.reuse == Reuse::SamePrincipal
    }

    /// Who the client is that sent these headers, where it matters. An error where it has to be known and is not: the name
    /// of the header that is missing.
    pub(crate) fn principal(&self, headers: &HeaderMap) -> Result<Option<Principal>, &str> {
        if !self.knows_principals() {
            return Ok(None);
        }
        match Principal::of(headers, &self.settings.principal_header) {
            None if self.settings.isolation == Isolation::Principal => Err(self.settings.principal_header.as_str()),
            principal => Ok(principal),
        }
    }

    /// The handshake that the server is to see for this one of a client.
    pub(crate) fn handshake(&self, request: &Message) -> Arc<Handshake> {
        let handshake = match self.settings.isolation {
            Isolation::Session => Handshake::of_client(request),
            isolation => Handshake::of_proxy(request, crate::bridge::sharing::may_ask(isolation)),
        };
        let bytes = handshake.text().len();
        self.handshakes.one(Arc::new(handshake), bytes, |known, this| known.text() == this.text())
    }

    /// Whether a connection may be used by others after this client, if nothing else speaks against it.
    pub(crate) fn reuses(&self, owner: Option<Principal>, handshake: &Handshake) -> bool {
        self.keeps(owner) && !handshake.declares_roots()
    }

    /// Whether connections are used again that this client had.
    fn keeps(&self, owner: Option<Principal>) -> bool {
        match self.settings.reuse {
            Reuse::Never => false,
            Reuse::SamePrincipal => owner.is_some(),
            Reuse::Any => true,
        }
    }

    /// A connection on which this handshake has been made, for one holder. It is not used again unless the holder says so.
    ///
    /// # Errors
    /// See [`OpenError`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is left behind.
    pub(crate) async fn lease(
        &self,
        handshake: &Arc<Handshake>,
        owner: Option<Principal>,
        headers: &Arc<HeaderMap>,
    ) -> Result<Leased, OpenError> {
        let owner = owner.filter(|_| self.knows_principals());
        self.lease_of(Key::Legacy { handshake: Arc::clone(handshake), owner, headers: Arc::clone(headers) }).await
    }

    /// The same; the key is that of a connection with a handshake.
    async fn lease_of(&self, key: Key) -> Result<Leased, OpenError> {
        let asked = Instant::now();
        let mut spares_lost = 0;
        loop {
            let mut lease = self.acquire(&key).await?;
            lease.reuse(false);
            if let (None, Key::Legacy { handshake, headers, .. }) = (&lease.answer, &key) {
                let deadline = Instant::now() + self.timeouts.start;
                match Box::pin(lease.shake_hands(handshake, headers, &self.answers, deadline)).await {
                    Ok(()) => lease.file_under(key.clone()),
                    // It ended while it was waiting to be used: that says nothing about another one.
                    Err(StartError::Unanswered(error)) if !error.sent() && spares_lost < SPARES_LOST_MAX => {
                        spares_lost += 1;
                        continue;
                    }
                    Err(error) => {
                        if matches!(error, StartError::Unanswered(_)) {
                            lease.failed();
                        }
                        return Err(error.into());
                    }
                }
                if self.settings.isolation != Isolation::Session {
                    lease.completion().complete().await.map_err(OpenError::Unanswered)?;
                }
            }
            self.metrics.ready(lease.start(), asked.elapsed());
            return Ok(lease);
        }
    }

    async fn acquire(&self, key: &Key) -> Result<Leased, OpenError> {
        let patience = Patience { wait: self.timeouts.acquire, create: self.timeouts.start };
        let drain = self.tasks.drain();
        let lease = tokio::select! {
            biased;
            lease = self.pool.acquire(key, patience), if !drain.is_cancelled() => lease,
            () = drain.cancelled() => return Err(OpenError::Closed),
        };
        // Nobody gets a connection any more, so nobody need wait for one (C-POOL-7).
        if drain.is_cancelled() {
            return Err(OpenError::Closed);
        }
        let lease = lease.map_err(|error| self.say_why(error.into()))?;
        Ok(Leased::new(lease, self.metrics.clone()))
    }

    /// Tells the operator why there is no connection to a server behind HTTP. (A child says that by itself.)
    fn say_why(&self, error: OpenError) -> OpenError {
        if let (Some(_), OpenError::Start(why) | OpenError::Unanswered(why)) = (&self.http, &error) {
            tracing::warn!(upstream = self.metrics.name(), error = %why, "No connection to the server");
        }
        error
    }

    /// Why the server cannot be expected to answer.
    pub(crate) fn resting(&self) -> Option<String> {
        let rest = self.pool.rest().map(|rest| OpenError::from(pool::PoolError::Resting(rest)).to_string());
        rest.or_else(|| self.http.as_ref()?.failing())
    }

    /// Gives back what nobody has used for a while.
    pub(crate) fn sweep(&self) {
        let (idle, longest) = (self.timeouts.connection_idle, self.timeouts.request_max);
        // The one that is for all clients is kept.
        drop(self.eras.sweep(|owner, known| owner.is_some() && known.is_idle(idle, longest)));
        for hub in self.hubs.sweep(|_, hub| hub.is_idle(idle)) {
            hub.get().inspect(|hub| hub.end());
        }
    }

    /// Closes all connections, and waits until nothing is left of them. Returns how many are left at the deadline.
    pub(crate) async fn close(&self, deadline: Instant) -> usize {
        for hub in self.hubs.take() {
            hub.get().inspect(|hub| hub.end());
        }
        drop(self.eras.take());
        self.pool.close(deadline).await
    }
}

fn config(upstream: &UpstreamSettings, limits: &Limits, timeouts: &Timeouts) -> Config<Key> {
    Config {
        bounds: Bounds {
            max: upstream.connections_max,
            creating: limits.starting,
            queue: limits.queue,
            idle: timeouts.connection_idle,
            // A server without a handshake has no use for what waits for one.
            spares: if upstream.era == EraChoice::Modern { 0 } else { upstream.warm_spares },
        },
        spare: Some(Key::Spare),
        max_age: timeouts.connection_max_age,
        cancel_grace: timeouts.cancel_grace,
        restarts: Policy { failures: limits.crashes, window: timeouts.crash_window, longest: timeouts.restart_max },
    }
}

/// A connection for one request, and what has to be kept for as long as the request is under way.
pub(crate) struct Way {
    pub(crate) connection: Connection,
    pub(crate) lease: Option<Leased>,
}

impl From<Connection> for Way {
    fn from(connection: Connection) -> Way {
        Way { connection, lease: None }
    }
}

impl From<Leased> for Way {
    fn from(lease: Leased) -> Way {
        lease.connection.listen();
        Way { connection: lease.connection.clone(), lease: Some(lease) }
    }
}
