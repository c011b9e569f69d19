//! What was found out, for people and for programs.

use std::fmt;

use serde_json::{Value, json};
use shadowcat::load::stats::{Limit, Verdict, median};

use crate::gate::{Outcome, Turn};

/// What it was measured on.
pub struct Machine;

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown processor");
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = read("/proc/sys/kernel/osrelease");
        let busy = read("/proc/loadavg");
        let busy = busy.split(' ').next().unwrap_or_default();
        write!(f, "{cores} × {model}, {} {}, load {busy}; ", std::env::consts::OS, kernel.trim())?;
        write!(f, "shadowcat {}", env!("CARGO_PKG_VERSION"))
    }
}

/// One line for each load: rates and processor time of all, and the ratios that count.
pub struct Table<'a>(pub &'a [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in self.0 {
            let verdict = match (outcome.verdict(), outcome.must_fail) {
                (Verdict::Pass, true) => "ok, found",
                (Verdict::Pass, false) => "ok",
                (Verdict::Fail, true) => "NOT FOUND",
                (Verdict::Fail, false) => "BROKEN",
                (Verdict::Inconclusive, _) => "INCONCLUSIVE",
            };
            write!(f, "{verdict:<12}  {}", outcome.name)?;
            match outcome.turns.values().next().map(|turns| median(turns.iter().map(|turn| turn.noise).collect())) {
                Some(noise) => writeln!(f, " (others took {:.0} % of the machine)", noise * 100.0)?,
                None => writeln!(f)?,
            }
            for arm in [
                "direct",
                "bridge",
                "nginx",
                "legacy",
                "other build",
                "again",
                "mutant",
                "new",
                "worn",
                "relaying",
                "crossing",
                "shadowcat",
                "recording",
            ] {
                let Some(rate) = outcome.median(arm, |turn| turn.rate) else { continue };
                let of = |of: fn(&Turn) -> f64| outcome.median(arm, of).unwrap_or(f64::NAN);
                let spread = outcome.spread(arm, |turn| turn.rate).unwrap_or(f64::NAN) * 100.0;
                write!(f, "    {arm:<11} {rate:>7.0} /s ± {spread:>2.0} %   CPU {:>5.1} µs", of(|turn| turn.cpu_us))?;
                write!(f, "   p50 {:>6.0} µs   p95 {:>6.0} µs", of(|turn| turn.p50_us), of(|turn| turn.p95_us))?;
                if let Some(to) = outcome.others.get(arm) {
                    let (rate, cpu, p50) = (to.rate, to.cpu, to.p50);
                    write!(f, "   shadowcat: {rate:.2} × the rate, {cpu:.2} × the CPU, {p50:.2} × the p50")?;
                }
                writeln!(f)?;
            }
            for row in &outcome.rows {
                let (ratio, limit) = (row.ratio, Shown(row.limit));
                let word = match row.verdict {
                    Verdict::Pass => "",
                    Verdict::Fail => "  <- broken",
                    Verdict::Inconclusive => "  <- inconclusive",
                };
                writeln!(
                    f,
                    "    {:<16} {:.3} ({:.3} to {:.3}), {limit}{word}",
                    row.what, ratio.mid, ratio.low, ratio.high
                )?;
            }
            outcome.failures.iter().take(5).try_for_each(|failure| writeln!(f, "    WRONG: {failure}"))?;
        }
        Ok(())
    }
}

/// The same for a page: of each load the rates, what shadowcat takes of the processor, and how that compares.
pub struct Page<'a>(pub &'a [Outcome]);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| | requests/s | CPU per request | against the ceiling: rate, CPU | against the baseline: rate | p95 |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|")?;
        for outcome in self.0.iter().filter(|outcome| outcome.turns.contains_key("shadowcat")) {
            let of = |of: fn(&Turn) -> f64| outcome.median("shadowcat", of).unwrap_or(f64::NAN);
            let spread = outcome.spread("shadowcat", |turn| turn.rate).unwrap_or(f64::NAN) * 100.0;
            write!(
                f,
                "| {} | {:.0} ± {spread:.0} % | {:.0} µs ",
                outcome.name,
                of(|turn| turn.rate),
                of(|turn| turn.cpu_us)
            )?;
            match ["bridge", "nginx"].into_iter().find_map(|ceiling| Some((ceiling, outcome.others.get(ceiling)?))) {
                Some((name, to)) => write!(f, "| {name}: {:.2}, {:.2} ", to.rate, to.cpu)?,
                None => write!(f, "| ")?,
            }
            for what in ["rate", "p95"] {
                match outcome.rows.iter().find(|row| row.what == what).map(|row| row.ratio) {
                    Some(ratio) => write!(f, "| {:.2} ({:.2}–{:.2}) ", ratio.mid, ratio.low, ratio.high)?,
                    None => write!(f, "| ")?,
                }
            }
            writeln!(f, "|")?;
        }
        Ok(())
    }
}

struct Shown(Limit);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Limit::AtMost(limit) => write!(f, "at most {limit:.2}"),
            Limit::AtLeast(limit) => write!(f, "at least {limit:.2}"),
        }
    }
}

/// How many of each.
pub struct Summary<'a>(pub &'a [Outcome]);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |verdict| self.0.iter().filter(|outcome| outcome.verdict() == verdict).count();
        let [pass, fail, open] = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive].map(count);
        write!(f, "{pass} within the budget, {fail} not, {open} inconclusive")
    }
}

pub fn json(outcomes: &[Outcome]) -> Value {
    let of = |outcome: &Outcome| {
        let mut value = serde_json::to_value(outcome).unwrap();
        value["verdict"] = serde_json::to_value(outcome.verdict()).unwrap();
        value
    };
    json!({ "machine": Machine.to_string(), "outcomes": outcomes.iter().map(of).collect::<Vec<_>>() })
}
