//! What a run came to.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::Failure;

/// Latencies are kept to three digits, up to this.
const LONGEST: Duration = Duration::from_secs(3600);

/// Counts and latencies of a run. Adding up those of several runs gives that of all.
#[derive(Debug, Clone)]
pub struct Tally {
    latencies: Histogram<u64>,
    /// Until the first of an answer's events was there.
    first_events: Histogram<u64>,
    time: Duration,
    progress: u64,
    failures: BTreeMap<String, u64>,
    first_failure: Option<String>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "percentiles say what they are")]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

impl Default for Tally {
    fn default() -> Tally {
        let latencies = Histogram::new_with_max(LONGEST.as_nanos() as u64, 3);
        let latencies = latencies.expect("BUG: constants that the histogram accepts");
        Tally {
            first_events: latencies.clone(),
            latencies,
            time: Duration::ZERO,
            progress: 0,
            failures: BTreeMap::new(),
            first_failure: None,
        }
    }
}

impl Tally {
    /// An answer took so long, and the first event before it, if there were any, so long.
    pub(super) fn answered(&mut self, latency: Duration, first_event: Duration, progress: usize) {
        let nanos = |time: Duration| time.as_nanos().try_into().unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanos(latency));
        if progress > 0 {
            self.first_events.saturating_record(nanos(first_event));
        }
        self.progress += progress as u64;
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        *self.failures.entry(failure.kind()).or_default() += 1;
        self.first_failure.get_or_insert_with(|| failure.to_string());
    }

    /// The run took `time`, and `left` requests were not sent although their time had come.
    pub(super) fn close(&mut self, time: Duration, left: u64) {
        self.time = time;
        if left > 0 {
            self.failures.insert("not sent: too slow for the rate".to_owned(), left);
        }
    }

    /// Adds another run.
    pub fn add(&mut self, other: &Tally) {
        // Both have the same bounds.
        let _ = self.latencies.add(&other.latencies).and_then(|()| self.first_events.add(&other.first_events));
        self.time += other.time;
        self.progress += other.progress;
        for (kind, count) in &other.failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    /// Requests with a right answer.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.latencies.len()
    }

    /// Right answers per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.answers() as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// How long it took, from the end of the warm-up to the last answer.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Progress notifications, each of which was its request's own.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// Requests without a right answer, by what was wrong.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }

    /// The first of them, in full.
    #[must_use]
    pub fn first_failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
    }

    /// So much of the answers took no longer, in microseconds; `quantile` is 0.5 for the median.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The same for the time until the first progress notification was there; zero where there was none.
    #[must_use]
    pub fn first_event_quantile(&self, quantile: f64) -> f64 {
        self.first_events.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The latencies.
    #[must_use]
    pub fn latency(&self) -> Latency {
        Latency {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p95: self.quantile(0.95),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.latencies.max() as f64 / 1000.0,
            mean: self.latencies.mean() / 1000.0,
        }
    }

    /// How many answers there are in each range of latencies: its upper end in microseconds, and the number. The ranges double.
    #[must_use]
    pub fn ranges(&self) -> Vec<(f64, u64)> {
        self.latencies
            .iter_log(1000, 2.0)
            .map(|step| (step.value_iterated_to() as f64 / 1000.0, step.count_since_last_iteration()))
            .collect()
    }
}
