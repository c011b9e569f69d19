//! When to try again what does not start. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The pause after the second failure in a row; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// How failures count.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// So many failures within `window` are a crash loop.
    pub(crate) failures: usize,
    /// Within which failures count together, and how long a crash loop then rests.
    pub(crate) window: Duration,
    /// The longest pause before that.
    pub(crate) longest: Duration,
}

/// Why nothing is started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rest {
    /// When the next attempt is made.
    pub(crate) until: Instant,
    /// How often it failed within the window.
    pub(crate) failures: usize,
    /// It has failed so often that this is a crash loop.
    pub(crate) looping: bool,
}

/// The failures of one upstream that are not forgotten yet.
#[derive(Debug)]
pub(crate) struct Restarts {
    policy: Policy,
    recent: VecDeque<Instant>,
    rest: Option<Rest>,
}

impl Restarts {
    pub(crate) fn new(policy: Policy) -> Restarts {
        Restarts { policy, recent: VecDeque::new(), rest: None }
    }

    /// A start failed, or a connection broke soon after it. Returns the rest that begins now. The first failure is free: a
    /// server that dies of a question it does not know is asked again at once. Those that come while nothing is started do
    /// not count: they were begun together with the one before, and say nothing new.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Rest> {
        if self.rest(now).is_some() {
            return None;
        }
        let window = self.policy.window;
        self.recent.retain(|at| now.saturating_duration_since(*at) < window);
        self.recent.push_back(now);
        let failures = self.recent.len();
        let looping = failures >= self.policy.failures;
        let pause = match failures {
            _ if looping => window,
            0 | 1 => return None,
            more => {
                let doublings = u32::try_from(more - 2).unwrap_or(u32::MAX).min(16);
                FIRST_PAUSE.saturating_mul(1 << doublings).min(self.policy.longest)
            }
        };
        if looping {
            // Its next attempt is the first one again.
            self.recent.clear();
        }
        self.rest = Some(Rest { until: now + pause, failures, looping });
        self.rest
    }

    /// A connection works.
    pub(crate) fn succeeded(&mut self) {
        self.rest = None;
    }

    /// Whether nothing is started now, and why.
    pub(crate) fn rest(&self, now: Instant) -> Option<Rest> {
        self.rest.filter(|rest| now < rest.until)
    }

    /// Whether a connection that broke was too young to have worked.
    pub(crate) fn is_young(&self, born: Instant, now: Instant) -> bool {
        now.saturating_duration_since(born) < self.policy.window
    }
}
