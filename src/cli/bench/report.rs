//! What `bench` has measured: as a table, as JSON, and beside what was measured before.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::load::stats::{Limit, Ratio, Verdict, unpaired};
use crate::load::{Latency, Tally};

/// How long the bar of the most frequent range is.
const BAR: f64 = 40.0;

/// What was run. Only runs of the same can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) call: String,
    pub(super) era: String,
    pub(super) clients: usize,
    /// Of an open loop, per second.
    pub(super) rate: Option<u32>,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.clients == 1 { "" } else { "s" };
        write!(f, "{}; {} {} client{plural}", self.call, self.clients, self.era)?;
        match self.rate {
            Some(rate) => write!(f, ", {rate} requests a second"),
            None => write!(f, ", as fast as they can"),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) setup: Setup,
    answers: u64,
    seconds: f64,
    rate: f64,
    latency_us: Latency,
    progress: u64,
    failures: BTreeMap<String, u64>,
    first_failure: Option<String>,
    /// Of the parts of the run, in order.
    rates: Vec<f64>,
    p50_us: Vec<f64>,
    p95_us: Vec<f64>,
    /// Upper ends of ranges of latencies, and the answers in each.
    histogram_us: Vec<(f64, u64)>,
}

impl Report {
    pub(super) fn of(setup: Setup, parts: &[Tally]) -> Report {
        let mut all = parts.first().cloned().unwrap_or_default();
        parts.iter().skip(1).for_each(|part| all.add(part));
        Report {
            setup,
            answers: all.answers(),
            seconds: all.time().as_secs_f64(),
            rate: all.rate(),
            latency_us: all.latency(),
            progress: all.progress(),
            failures: all.failures().clone(),
            first_failure: all.first_failure().map(str::to_owned),
            rates: parts.iter().map(Tally::rate).collect(),
            p50_us: parts.iter().map(|part| part.quantile(0.5)).collect(),
            p95_us: parts.iter().map(|part| part.quantile(0.95)).collect(),
            histogram_us: all.ranges(),
        }
    }

    /// Whether there were answers, and nothing else.
    pub(super) fn is_right(&self) -> bool {
        self.answers > 0 && self.failures.is_empty()
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.setup)?;
        writeln!(f, "answers   {} in {:.1} s, {:.0} a second", self.answers, self.seconds, self.rate)?;
        if self.progress > 0 {
            writeln!(f, "progress  {} notifications", self.progress)?;
        }
        for (kind, count) in &self.failures {
            writeln!(f, "FAILURES  {count} × {kind}")?;
        }
        if let Some(first) = &self.first_failure {
            writeln!(f, "          the first: {}", first.replace(|c: char| c.is_control(), " "))?;
        }
        let latency = &self.latency_us;
        let columns = [
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p95", latency.p95),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ];
        write!(f, "latency ")?;
        columns.iter().try_for_each(|(name, value)| write!(f, "  {name} {}", Time(*value)))?;
        writeln!(f)?;
        let most = self.histogram_us.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1) as f64;
        let filled = |(_, count): &&(f64, u64)| *count > 0;
        for (end, count) in self.histogram_us.iter().skip_while(|range| !filled(range)) {
            let bar = "#".repeat((*count as f64 / most * BAR).ceil() as usize);
            writeln!(f, "{:>12}  {bar} {count}", format!("≤ {}", Time(*end)))?;
        }
        Ok(())
    }
}

/// Microseconds, for people.
struct Time(f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us < 1000.0 => write!(f, "{us:.0} µs"),
            us if us < 1_000_000.0 => write!(f, "{:.1} ms", us / 1000.0),
            us => write!(f, "{:.1} s", us / 1_000_000.0),
        }
    }
}

/// What became of the rate and of latencies.
pub(super) struct Comparison {
    rows: Vec<(&'static str, Ratio, Limit, Verdict)>,
}

impl Comparison {
    pub(super) fn of(now: &Report, before: &Report, budget: f64) -> Comparison {
        let mut rows = Vec::new();
        let mut row = |name, now: &[f64], before: &[f64], limit: Limit| {
            let ratio = match now.is_empty() || before.is_empty() {
                true => Ratio { low: f64::NAN, mid: f64::NAN, high: f64::NAN },
                false => unpaired(now, before),
            };
            rows.push((name, ratio, limit, limit.judge(ratio)));
        };
        // In an open loop the rate is what was asked for.
        if now.setup.rate.is_none() {
            row("rate", &now.rates, &before.rates, Limit::AtLeast(1.0 - budget));
        }
        row("p50", &now.p50_us, &before.p50_us, Limit::AtMost(1.0 + budget));
        row("p95", &now.p95_us, &before.p95_us, Limit::AtMost(1.0 + budget));
        Comparison { rows }
    }

    /// Whether all is within the budget, and surely so.
    pub(super) fn passes(&self) -> bool {
        self.rows.iter().all(|(_, _, _, verdict)| *verdict == Verdict::Pass)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, ratio, limit, verdict) in &self.rows {
            let limit = match limit {
                Limit::AtMost(limit) => format!("at most {limit:.3}"),
                Limit::AtLeast(limit) => format!("at least {limit:.3}"),
            };
            let word = match verdict {
                Verdict::Pass => "within the budget",
                Verdict::Fail => "BUDGET BROKEN",
                Verdict::Inconclusive => "INCONCLUSIVE: measure longer (--duration)",
            };
            let Ratio { low, mid, high } = ratio;
            writeln!(f, "{name:<9} {mid:.3} × before ({low:.3} to {high:.3}), {limit}: {word}")?;
        }
        Ok(())
    }
}
