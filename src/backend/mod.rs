//! Connections to one upstream: how many there may be, who has one, what is known of the server's era.
//!
//! A legacy session leases a connection for itself. Modern requests share one. A permit belongs to each connection and
//! is given back by the task that owns the process, when nothing is left of it: `live connections ≤ max` at every
//! instant, the closing ones included (C-POOL-1, C-POOL-12).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::ServerMetrics;
use crate::protocol::message::Message;
use crate::protocol::revision::Revision;
use crate::rt::Tasks;
use crate::rt::mailbox::Reader;
use crate::settings::{EraChoice, Limits, Target, Timeouts, UpstreamSettings};
use crate::upstream::driver::{self, CallFacts, DriverLimits, Sharing};
use crate::upstream::error::UpstreamError;
use crate::upstream::probe::{self, Verdict};
use crate::upstream::stdio::StdioPipe;
use crate::upstream::streamable::HttpUpstream;
use crate::upstream::{Call, Connection};

/// How long a verdict is relied on. A child's ends with the child.
const VERDICT_FOR: Duration = Duration::from_secs(3600);

/// How long a verdict without an answer is relied on.
const GUESS_FOR: Duration = Duration::from_secs(60);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    /// All connections are in use, and waiting took too long.
    #[error("no connection became free in time")]
    Timeout,
    /// All connections are in use, and too many wait already.
    #[error("too many requests wait for a connection")]
    QueueFull,
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// A connection cannot be made.
    #[error(transparent)]
    Create(#[from] UpstreamError),
}

/// A connection for one legacy session.
pub(crate) struct Lease {
    pub(crate) connection: Connection,
    /// What the server says by itself.
    pub(crate) standing: Reader<Message>,
}

/// What a modern request finds.
#[derive(Clone)]
pub(crate) enum Modern {
    /// A connection that others use too, and the versions that the server says it speaks.
    Shared(Connection, Arc<[String]>),
    /// The server has a handshake.
    LegacyOnly,
}

/// The connections to one upstream.
pub(crate) struct Pool {
    settings: UpstreamSettings,
    limits: Limits,
    timeouts: Timeouts,
    tasks: Tasks,
    metrics: ServerMetrics,
    http: Option<Arc<HttpUpstream>>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// The era and the shared connection, found out by one request while the others wait. Replaced when out of date.
    era: Mutex<Arc<OnceCell<Known>>>,
    /// The child that was asked for its era and turned out to have a handshake: good for one session.
    spare: Mutex<Option<Lease>>,
    rest: Mutex<Rest>,
}

struct Known {
    modern: Modern,
    until: Option<Instant>,
}

/// Failures in a row to start, and when to try again.
#[derive(Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(
        settings: UpstreamSettings,
        limits: &Limits,
        timeouts: &Timeouts,
        tasks: &Tasks,
        metrics: ServerMetrics,
    ) -> Pool {
        let http = match &settings.target {
            Target::Http(target) => HttpUpstream::new(target, limits, timeouts, tasks, metrics.clone())
                .inspect_err(|error| tracing::error!(upstream = metrics.name(), %error, "Server cannot be used"))
                .ok()
                .map(Arc::new),
            Target::Stdio(_) => None,
        };
        Pool {
            http,
            permits: Arc::new(Semaphore::new(settings.connections_max)),
            settings,
            limits: limits.clone(),
            timeouts: timeouts.clone(),
            tasks: tasks.clone(),
            metrics,
            waiting: AtomicUsize::new(0),
            era: Mutex::default(),
            spare: Mutex::default(),
            rest: Mutex::default(),
        }
    }

    /// A connection for one legacy session, on which no handshake has been made.
    ///
    /// # Errors
    /// See [`PoolError`]. Nothing is left behind.
    pub(crate) async fn lease(&self) -> Result<Lease, PoolError> {
        if let Some(lease) = self.take_spare() {
            return Ok(lease);
        }
        let permit = self.permit().await?;
        Ok(self.connect(permit, Sharing::Exclusive)?)
    }

    /// The connection that modern requests share, or the news that there is none.
    ///
    /// Takes no longer than a permit and a question may take, however many ask at once: when the server does not answer,
    /// those who waited for the one who asked would otherwise ask again one after the other.
    ///
    /// # Errors
    /// See [`PoolError`]: the server could not be asked.
    pub(crate) async fn modern(&self) -> Result<Modern, PoolError> {
        let patience = self.timeouts.acquire + self.timeouts.probe;
        timeout(patience, self.find_modern()).await.unwrap_or(Err(PoolError::Timeout))
    }

    async fn find_modern(&self) -> Result<Modern, PoolError> {
        loop {
            let cell = Arc::clone(&lock(&self.era));
            let known = cell.get_or_try_init(|| self.ask()).await?;
            let current = match &known.modern {
                Modern::Shared(connection, _) => !connection.gone().is_cancelled(),
                Modern::LegacyOnly => true,
            } && known.until.is_none_or(|until| Instant::now() < until);
            if current {
                return Ok(known.modern.clone());
            }
            let mut era = lock(&self.era);
            if Arc::ptr_eq(&era, &cell) {
                *era = Arc::default();
            }
        }
    }

    /// The start of a connection failed after it was made: the next one has to wait a little longer.
    pub(crate) fn start_failed(&self) {
        let mut rest = lock(&self.rest);
        rest.failures = rest.failures.saturating_add(1);
        // The first failure is free: a server that dies of a question it does not know is asked again at once.
        let pause = Duration::from_millis(250).saturating_mul(1 << rest.failures.min(8)).min(Duration::from_secs(30));
        rest.until = (rest.failures > 1).then(|| Instant::now() + pause);
    }

    /// A connection works.
    pub(crate) fn start_succeeded(&self) {
        *lock(&self.rest) = Rest::default();
    }

    /// Whether the server can be expected to answer.
    pub(crate) fn is_ready(&self) -> bool {
        lock(&self.rest).until.is_none_or(|until| until <= Instant::now())
    }

    fn take_spare(&self) -> Option<Lease> {
        lock(&self.spare).take().filter(|lease| !lease.connection.gone().is_cancelled())
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, PoolError> {
        if lock(&self.rest).until.is_some_and(|until| until > Instant::now()) {
            return Err(UpstreamError::Resting.into());
        }
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let since = Instant::now();
        let _waiting = Waiting::begin(&self.waiting, self.limits.queue)?;
        let acquired = tokio::select! {
            acquired = timeout(self.timeouts.acquire, Arc::clone(&self.permits).acquire_owned()) => acquired,
            // Nobody gets a connection any more, so nobody need wait for one (C-POOL-7).
            () = self.tasks.drain().cancelled() => return Err(PoolError::Closed),
        };
        let _ = since;
        acquired.map_err(|_| PoolError::Timeout)?.map_err(|_| PoolError::Closed)
    }

    fn connect(&self, permit: OwnedSemaphorePermit, sharing: Sharing) -> Result<Lease, UpstreamError> {
        if self.tasks.drain().is_cancelled() {
            return Err(UpstreamError::Closed { sent: false });
        }
        match &self.settings.target {
            Target::Stdio(target) => {
                let pipe = StdioPipe::spawn(target, &self.limits, &self.timeouts, &self.tasks, &self.metrics)
                    .inspect_err(|_| self.start_failed())?;
                let limits = DriverLimits { depth: self.limits.depth, message_bytes: self.limits.message_bytes };
                let stop = self.tasks.stop().clone();
                let (handle, standing, task) = driver::drive(pipe, sharing, limits, self.metrics.clone(), stop);
                self.tasks.spawn("child-driver", async move {
                    task.await;
                    // Only now is the process gone: until here it counts.
                    drop(permit);
                });
                Ok(Lease { connection: Connection::Driven(handle), standing })
            }
            Target::Http(_) => {
                let http = self.http()?;
                let (connection, standing, task) = http.legacy();
                self.tasks.spawn("upstream-session", async move {
                    task.await;
                    drop(permit);
                });
                Ok(Lease { connection: Connection::Http(connection), standing })
            }
        }
    }

    /// Finds out the era, on a child that may not survive the question.
    async fn ask(&self) -> Result<Known, PoolError> {
        let legacy_for = |time| Known { modern: Modern::LegacyOnly, until: Some(Instant::now() + time) };
        let guess = || legacy_for(GUESS_FOR);
        if self.settings.era == EraChoice::Legacy {
            return Ok(Known { modern: Modern::LegacyOnly, until: None });
        }
        if let Target::Http(_) = self.settings.target {
            return self.ask_http().await;
        }
        let permit = self.permit().await?;
        let since = Instant::now();
        let lease = self.connect(permit, Sharing::Exclusive)?;
        let verdict = self.probe(&lease.connection, since + self.timeouts.probe).await;
        match verdict {
            Ok(Verdict::Modern(versions)) => {
                self.start_succeeded();
                if let Connection::Driven(handle) = &lease.connection {
                    handle.share();
                }
                tracing::info!(upstream = self.metrics.name(), "Server speaks 2026-07-28");
                Ok(Known { modern: Modern::Shared(lease.connection, versions.into()), until: None })
            }
            Ok(Verdict::Legacy) => {
                tracing::info!(upstream = self.metrics.name(), "Server has a handshake");
                *lock(&self.spare) = Some(lease);
                Ok(legacy_for(VERDICT_FOR))
            }
            // It died of the question: old servers do. So does any server that cannot run, so this is not believed for long either.
            Err(UpstreamError::Exited { .. } | UpstreamError::Lost { .. }) => {
                tracing::info!(
                    upstream = self.metrics.name(),
                    "Server ended on server/discover: taken to have a handshake"
                );
                Ok(guess())
            }
            // Silent: old servers are. But a modern one may have taken long to start, so this is not believed for long.
            Err(UpstreamError::Timeout { .. }) => {
                tracing::info!(
                    upstream = self.metrics.name(),
                    "Server keeps silent on server/discover: taken to have a handshake"
                );
                Ok(guess())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn ask_http(&self) -> Result<Known, PoolError> {
        let http = self.http()?;
        if self.settings.era == EraChoice::Modern {
            let versions = [Revision::V2026_07_28.as_str().to_owned()].into();
            return Ok(Known { modern: Modern::Shared(Connection::Http(http.modern()), versions), until: None });
        }
        let until = Some(Instant::now() + VERDICT_FOR);
        let modern = match http.probe().await.inspect_err(|_| self.start_failed())? {
            Verdict::Modern(versions) => {
                tracing::info!(upstream = self.metrics.name(), "Server speaks 2026-07-28");
                Modern::Shared(Connection::Http(http.modern()), versions.into())
            }
            Verdict::Legacy => {
                tracing::info!(upstream = self.metrics.name(), "Server has a handshake");
                Modern::LegacyOnly
            }
        };
        self.start_succeeded();
        Ok(Known { modern, until })
    }

    fn http(&self) -> Result<&Arc<HttpUpstream>, UpstreamError> {
        self.http
            .as_ref()
            .ok_or_else(|| UpstreamError::Unreachable("its URL or the system's certificates cannot be used".into()))
    }

    async fn probe(&self, connection: &Connection, deadline: Instant) -> Result<Verdict, UpstreamError> {
        let id = connection.next_id();
        let question = Message::parse(Bytes::from(probe::question(id)), self.limits.depth)
            .map_err(|_| UpstreamError::Violation("the question is no message"))?;
        let facts = CallFacts { may_ask: false, wants_log: false, cancellable: false };
        let answered = timeout_at(deadline, async {
            let mut replies =
                connection.call(Call { id, message: &question, facts, headers: HeaderMap::new() }).await?;
            while let Some(reply) = replies.next().await {
                let message = reply?;
                if message.id().is_some() && message.method().is_none() {
                    return Ok(probe::judge(&message));
                }
            }
            Err(UpstreamError::Lost { sent: true })
        });
        answered.await.unwrap_or(Err(UpstreamError::Timeout { sent: true }))
    }
}

/// One who waits for a permit.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, max: usize) -> Result<Waiting<'a>, PoolError> {
        if count.fetch_add(1, Ordering::Relaxed) >= max {
            count.fetch_sub(1, Ordering::Relaxed);
            return Err(PoolError::QueueFull);
        }
        Ok(Waiting(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
