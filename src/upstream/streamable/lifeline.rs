//! A stream of the server over all of its connections: what is to be done when it breaks, and what there is to see of it.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use crate::metrics::{StreamAt, StreamMetrics, StreamState};
use crate::rt::chance;
use crate::upstream::reconnect::{Event, Origin, Policy, Reconnect, Step};

/// A stream that is counted: in the state that it is in, and when it ends with the reason for that.
pub(in crate::upstream) struct Watched {
    metrics: Arc<StreamMetrics>,
    /// What it is for: a word for the log.
    what: &'static str,
    state: Arc<StreamState>,
    reason: &'static str,
}

impl Watched {
    /// `reason` is why it is over if nothing else is said before it is dropped.
    pub(in crate::upstream) fn new(
        metrics: &Arc<StreamMetrics>,
        what: &'static str,
        at: StreamAt,
        reason: &'static str,
    ) -> Watched {
        Watched { metrics: Arc::clone(metrics), what, state: Arc::new(metrics.stream(at)), reason }
    }

    /// It is asked for.
    pub(in crate::upstream) fn connecting(&self) {
        self.state.to(StreamAt::Connecting);
    }

    /// It is read.
    pub(in crate::upstream) fn open(&self) {
        tracing::debug!(upstream = self.metrics.name(), stream = self.what, "Stream is open");
        self.state.to(StreamAt::Open);
    }

    /// Why it is over.
    pub(in crate::upstream) fn over(&mut self, reason: &'static str) {
        self.reason = reason;
    }

    fn backs_off(&self, reason: &'static str, attempt: u32, wait: Duration) {
        let upstream = self.metrics.name();
        tracing::debug!(upstream, stream = self.what, reason, attempt, ?wait, "Stream is lost and will be resumed");
        self.metrics.reconnects(reason);
        self.state.to(StreamAt::Backoff);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        tracing::debug!(upstream = self.metrics.name(), stream = self.what, reason = self.reason, "Stream is over");
        self.metrics.ended(self.reason);
    }
}

/// See the module. Dropping it is the end of the stream.
pub(super) struct Lifeline {
    reconnect: Reconnect,
    /// Until it is over.
    watched: Option<Watched>,
    /// It has been connected before.
    lost: bool,
}

impl Lifeline {
    /// The answer to a POST, which is being read.
    pub(super) fn of_post(policy: Policy, metrics: &Arc<StreamMetrics>) -> Lifeline {
        let watched = Watched::new(metrics, "answer", StreamAt::Open, "client_gone");
        Lifeline::new(Origin::Post, policy, watched)
    }

    /// A stream that is about to be asked for.
    pub(super) fn of_get(policy: Policy, metrics: &Arc<StreamMetrics>) -> Lifeline {
        Lifeline::new(Origin::Get, policy, standing(metrics))
    }

    fn new(origin: Origin, policy: Policy, watched: Watched) -> Lifeline {
        let reconnect = Reconnect::new(origin, policy, Instant::now().into_std());
        Lifeline { reconnect, watched: Some(watched), lost: false }
    }

    /// Takes note of what happened and says what to do.
    pub(super) fn on(&mut self, event: Event) -> Step {
        let loss = match &event {
            Event::Lost { loss, .. } => Some(*loss),
            Event::Opened | Event::Due | Event::Revived => None,
        };
        let now = Instant::now().into_std();
        let step = self.reconnect.on(event, now, chance());
        match (&step, loss) {
            (Step::Read, _) => {
                if let Some(watched) = &self.watched {
                    watched.open();
                }
            }
            (Step::WaitUntil(until), Some(loss)) => {
                self.lost = true;
                let attempt = self.reconnect.attempts();
                // A server that has itself polled has lost nothing.
                let reason = if attempt == 0 { "polled" } else { loss.reason() };
                if let Some(watched) = &self.watched {
                    watched.backs_off(reason, attempt, until.saturating_duration_since(now));
                }
            }
            (Step::GiveUp(why), _) => self.over(why.reason()),
            (Step::WaitUntil(_) | Step::Connect { .. }, _) => {}
        }
        step
    }

    /// Takes up again what was given up: the server has answered something else.
    pub(super) fn revive(&mut self, metrics: &Arc<StreamMetrics>) -> Step {
        self.watched = Some(standing(metrics));
        self.on(Event::Revived)
    }

    /// Whether it is not the first connection that is asked for.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Until when a connection is waited for that cannot be asked for yet.
    pub(super) fn patience(&self) -> Instant {
        Instant::from_std(self.reconnect.patience(Instant::now().into_std()))
    }

    /// Where it stands, for whoever moves it on.
    pub(super) fn state(&self) -> Option<Arc<StreamState>> {
        self.watched.as_ref().map(|watched| Arc::clone(&watched.state))
    }

    /// It is over, and why.
    pub(super) fn over(&mut self, reason: &'static str) {
        if let Some(mut watched) = self.watched.take() {
            watched.over(reason);
        }
    }
}

fn standing(metrics: &Arc<StreamMetrics>) -> Watched {
    Watched::new(metrics, "standing", StreamAt::Backoff, "session_ended")
}

#[cfg(test)]
mod tests;
