//! The era of a server, and the connection that modern requests share.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::cells::Cells;
use super::key::{Key, Principal};
use super::start::StartError;
use super::{Backend, Leased, OpenError, Way, lock};
use crate::pool::PoolError;
use crate::protocol::revision::{Era, Revision};
use crate::settings::{EraChoice, Isolation, Target};
use crate::upstream::Connection;
use crate::upstream::driver::Sharing;
use crate::upstream::error::UpstreamError;
use crate::upstream::probe::Verdict;
use crate::upstream::streamable::HttpUpstream;

/// How long a verdict is relied on. A child's ends with the child.
const VERDICT_FOR: Duration = Duration::from_secs(3600);

/// How long a verdict without an answer is relied on, and one that there is reason to doubt.
const GUESS_FOR: Duration = Duration::from_secs(60);

/// What a modern request finds.
#[derive(Clone)]
pub(crate) enum Modern {
    /// A connection that others use too, and the versions that the server says it speaks.
    Shared(Connection, Arc<[String]>),
    /// A connection has to be leased for each request; and the versions.
    Each(Arc<[String]>),
    /// The server has a handshake.
    LegacyOnly,
}

impl Modern {
    /// Whether the server has no handshake.
    pub(crate) fn is_stateless(&self) -> bool {
        match self {
            Modern::Shared(_, versions) | Modern::Each(versions) => is_stateless(versions),
            Modern::LegacyOnly => false,
        }
    }
}

/// Whether none of the versions has a handshake.
fn is_stateless(versions: &[String]) -> bool {
    !versions.iter().any(|version| Revision::parse(version).is_some_and(|one| one.era() == Era::Legacy))
}

/// What is known, for all clients or for each principal. Replaced when out of date.
pub(super) type Eras = Cells<Option<Principal>, Known>;

pub(super) struct Known {
    modern: Modern,
    since: Instant,
    until: Option<Instant>,
    /// It came of a doubt: the server had refused a handshake.
    is_confirmed: bool,
    used: Mutex<Instant>,
    /// What is shared.
    _lease: Option<Leased>,
}

impl Known {
    fn new(modern: Modern, until: Option<Instant>, lease: Option<Leased>) -> Known {
        let since = Instant::now();
        Known { modern, since, until, is_confirmed: false, used: Mutex::new(since), _lease: lease }
    }

    /// Whether it may be wrong, now that the server has refused a handshake. One that came of such a doubt is relied on for a while, so
    /// that a server which refuses each handshake is not asked each time.
    fn is_doubtful(&self) -> bool {
        let is_configured = self.until.is_none();
        !is_configured && (!self.is_confirmed || self.since.elapsed() >= GUESS_FOR)
    }

    /// What there is for a request, unless it is out of date.
    fn modern(&self) -> Option<Modern> {
        let alive = match &self.modern {
            Modern::Shared(connection, _) => !connection.gone().is_cancelled(),
            Modern::Each(_) | Modern::LegacyOnly => true,
        };
        let now = Instant::now();
        if !alive || self.until.is_some_and(|until| now >= until) {
            return None;
        }
        *lock(&self.used) = now;
        Some(self.modern.clone())
    }

    /// Whether nobody has needed it for so long, and nobody is using it. After `longest` nobody is: what is not answered by
    /// then was cancelled.
    pub(super) fn is_idle(&self, idle: Duration, longest: Duration) -> bool {
        let unused = lock(&self.used).elapsed();
        let quiet = match &self.modern {
            Modern::Shared(connection @ Connection::Driven(_), _) => connection.is_quiescent() || unused >= longest,
            // Requests under way have what they need.
            Modern::Shared(Connection::Http(_), _) | Modern::Each(_) | Modern::LegacyOnly => true,
        };
        quiet && unused >= idle
    }
}

impl Backend {
    /// What there is for the modern requests of this client.
    ///
    /// Takes no longer than a connection and a question may take, however many ask at once: when the server does not
    /// answer, those who waited for the one who asked would otherwise ask again one after the other.
    ///
    /// # Errors
    /// See [`OpenError`]: the server could not be asked.
    pub(crate) async fn modern(&self, owner: Option<Principal>) -> Result<Modern, OpenError> {
        let owner = owner.filter(|_| self.settings.isolation == Isolation::Principal);
        if let Some(modern) = self.eras.find(&owner, Known::modern) {
            return Ok(modern);
        }
        let patience = self.timeouts.acquire + self.probe_patience();
        // Asked rarely: in a box, so that the future of each request stays small.
        Box::pin(timeout(patience, self.find_modern(owner))).await.unwrap_or(Err(OpenError::Timeout))
    }

    /// How long the answer to the question for its era is waited for.
    fn probe_patience(&self) -> Duration {
        if self.has_refused.load(Ordering::Relaxed) { self.timeouts.start } else { self.timeouts.probe }
    }

    /// The server has refused a handshake that was begun then. Whether there is another verdict on its era since, or will be when
    /// it is asked for: this one may have come of a server that was slow, or of another that was in its place.
    pub(crate) fn refused(&self, owner: Option<Principal>, begun: Instant) -> bool {
        let owner = owner.filter(|_| self.settings.isolation == Isolation::Principal);
        let Some(cell) = self.eras.get(owner) else { return false };
        match cell.get() {
            Some(known) if known.since >= begun => return true,
            Some(known) if !known.is_doubtful() => return false,
            Some(_) => self.eras.forget(&cell),
            None => {}
        }
        tracing::info!(upstream = self.metrics.name(), "Server refuses a handshake: it is asked for its era anew");
        self.has_refused.store(true, Ordering::Relaxed);
        true
    }

    /// The connection for one modern request.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) async fn way(&self, modern: &Modern, owner: Option<Principal>) -> Result<Option<Way>, OpenError> {
        match modern {
            Modern::LegacyOnly => Ok(None),
            Modern::Shared(connection, _) => Ok(Some(connection.clone().into())),
            Modern::Each(_) => {
                let asked = Instant::now();
                let owner = owner.filter(|_| self.knows_principals());
                let mut lease = Box::pin(self.acquire(&Key::Modern { owner })).await?;
                // Nothing of one request may depend on another (2026-07-28, Basic › Statelessness).
                lease.reuse(self.keeps(owner));
                lease.connection.share(Sharing::Shared);
                self.metrics.ready(lease.start(), asked.elapsed());
                Ok(Some(lease.into()))
            }
        }
    }

    async fn find_modern(&self, owner: Option<Principal>) -> Result<Modern, OpenError> {
        loop {
            let cell = self.eras.get(owner).ok_or(OpenError::QueueFull)?;
            if let Some(modern) = cell.get_or_try_init(|| self.ask(owner)).await?.modern() {
                return Ok(modern);
            }
            self.eras.forget(&cell);
        }
    }

    async fn ask(&self, owner: Option<Principal>) -> Result<Known, OpenError> {
        let has_refused = self.has_refused.load(Ordering::Relaxed);
        let known = self.find_out(owner, has_refused).await?;
        self.has_refused.store(false, Ordering::Relaxed);
        Ok(Known { is_confirmed: has_refused, ..known })
    }

    /// Finds out the era, on a child that may not survive the question. `patient`: it is waited for as long as for any start.
    async fn find_out(&self, owner: Option<Principal>, patient: bool) -> Result<Known, OpenError> {
        let legacy_for = |time| Known::new(Modern::LegacyOnly, Some(Instant::now() + time), None);
        let name = self.metrics.name();
        if self.settings.era == EraChoice::Legacy {
            return Ok(Known::new(Modern::LegacyOnly, None, None));
        }
        if self.settings.era == EraChoice::Modern {
            return self.take_for_modern(owner).await;
        }
        if let Target::Http(_) = self.settings.target {
            return self.ask_http().await;
        }
        let asked = Instant::now();
        let mut lease = match self.acquire_probe(patient).await? {
            Ok(lease) => lease,
            // It said that it is modern: what it does now is no answer. But there may be another in its place by now.
            Err(error) if self.was_modern.swap(false, Ordering::Relaxed) => return Err(OpenError::Unanswered(error)),
            // It died of the question: old servers do. So does any server that cannot run, so this is not believed for long.
            Err(UpstreamError::Exited { .. } | UpstreamError::Lost { .. }) => {
                tracing::info!(upstream = name, "Server ended on server/discover: taken to have a handshake");
                return Ok(legacy_for(GUESS_FOR));
            }
            // Silent: old servers are. But a modern one may have taken long to start, so this is not believed for long.
            Err(UpstreamError::Timeout { .. }) => {
                tracing::info!(upstream = name, "Server keeps silent on server/discover: taken to have a handshake");
                return Ok(legacy_for(GUESS_FOR));
            }
            Err(error) => return Err(OpenError::Unanswered(error)),
        };
        let Some(Verdict::Modern(versions)) = lease.verdict.take() else {
            tracing::info!(upstream = name, "Server has a handshake");
            self.was_modern.store(false, Ordering::Relaxed);
            self.was_stateless.store(false, Ordering::Relaxed);
            // It is ready for one.
            lease.file_under(Key::Spare);
            return Ok(legacy_for(VERDICT_FOR));
        };
        tracing::info!(upstream = name, "Server speaks 2026-07-28");
        self.was_modern.store(true, Ordering::Relaxed);
        let versions: Arc<[String]> = versions.into();
        self.was_stateless.store(is_stateless(&versions), Ordering::Relaxed);
        if is_stateless(&versions) {
            // There will be no sessions for which one would be kept.
            self.pool.keep_spares(0);
        }
        if self.settings.isolation == Isolation::Request {
            lease.file_under(Key::Modern { owner: None });
            lease.reuse(self.keeps(None));
            return Ok(Known::new(Modern::Each(versions), Some(Instant::now() + VERDICT_FOR), None));
        }
        lease.file_under(Key::Modern { owner });
        Ok(self.share(lease, versions, asked))
    }

    /// What the configuration says needs no question.
    async fn take_for_modern(&self, owner: Option<Principal>) -> Result<Known, OpenError> {
        let versions = [Revision::V2026_07_28.as_str().to_owned()].into();
        if let Target::Http(_) = self.settings.target {
            let connection = Connection::Http(self.http_upstream()?.modern());
            return Ok(Known::new(Modern::Shared(connection, versions), None, None));
        }
        if self.settings.isolation == Isolation::Request {
            return Ok(Known::new(Modern::Each(versions), None, None));
        }
        let asked = Instant::now();
        let lease = self.acquire(&Key::Modern { owner }).await?;
        Ok(self.share(lease, versions, asked))
    }

    /// From now on a connection is for all that ask.
    fn share(&self, mut lease: Leased, versions: Arc<[String]>, asked: Instant) -> Known {
        self.metrics.ready(lease.start(), asked.elapsed());
        lease.reuse(false);
        lease.connection.share(Sharing::Shared);
        Known::new(Modern::Shared(lease.connection.clone(), versions), None, Some(lease))
    }

    /// A connection that has been asked; or what came instead of an answer, which is evidence, too.
    async fn acquire_probe(&self, patient: bool) -> Result<Result<Leased, UpstreamError>, OpenError> {
        match self.acquire(&Key::Probe { patient }).await {
            Ok(lease) => Ok(Ok(lease)),
            Err(OpenError::Unanswered(error)) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    fn http_upstream(&self) -> Result<&Arc<HttpUpstream>, OpenError> {
        self.http.as_ref().ok_or_else(|| {
            OpenError::from(PoolError::Create(StartError::Start(UpstreamError::Unreachable(
                "its URL or the system's certificates cannot be used".into(),
            ))))
        })
    }

    async fn ask_http(&self) -> Result<Known, OpenError> {
        let http = self.http_upstream()?;
        let until = Some(Instant::now() + VERDICT_FOR);
        let modern = match http.probe().await.map_err(OpenError::Start)? {
            Verdict::Modern(versions) => {
                tracing::info!(upstream = self.metrics.name(), "Server speaks 2026-07-28");
                self.was_stateless.store(is_stateless(&versions), Ordering::Relaxed);
                Modern::Shared(Connection::Http(http.modern()), versions.into())
            }
            Verdict::Legacy => {
                tracing::info!(upstream = self.metrics.name(), "Server has a handshake");
                self.was_stateless.store(false, Ordering::Relaxed);
                Modern::LegacyOnly
            }
        };
        Ok(Known::new(modern, until, None))
    }
}
