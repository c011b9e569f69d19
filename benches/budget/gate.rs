//! One comparison: two proxies in turns, others now and then, and what the ratios say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use shadowcat::load::stats::{Limit, Ratio, Verdict, median, paired};
use shadowcat::load::{Call, Crew, Pace, Plan};
use shadowcat::protocol::revision::Era;

use crate::support::process::{Server, Usage};

/// Of the slower one's highest rate, apart from its clients ([`Server::apart`]), latency is measured at this part: below saturation, above
/// idleness. Not at more of it: who answers one request at a time takes twice as long for each as one who finds many.
const LOAD: f64 = 0.2;
/// Others than the two that are compared are measured every so many pairs.
const OTHERS_EVERY: usize = 4;
const OTHERS_FIRST: usize = 1;
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How much is measured.
pub struct Effort {
    /// Pairs of turns before anything is judged, and at most.
    pairs: usize,
    pairs_max: usize,
    /// How long a turn is in either loop.
    pub turn: Duration,
    deadline: Instant,
}

impl Effort {
    pub fn full(deadline: Instant) -> Effort {
        Effort { pairs: 20, pairs_max: 64, turn: Duration::from_millis(100), deadline }
    }

    /// For a part that is asked for alone: what is close to its limit takes more turns to be decided.
    pub fn patient(deadline: Instant) -> Effort {
        Effort { pairs_max: 240, ..Effort::full(deadline) }
    }

    pub fn quick(deadline: Instant) -> Effort {
        Effort { pairs: 16, pairs_max: 56, turn: Duration::from_millis(50), deadline }
    }
}

/// What is called, by how many.
#[derive(Clone)]
pub struct Load {
    pub era: Era,
    pub clients: usize,
    pub call: Call,
}

/// Something that is measured.
pub struct Arm<'a> {
    pub name: &'static str,
    pub server: &'a Server,
    /// What its clients speak, if that is not what the load says.
    era: Option<Era>,
}

impl<'a> Arm<'a> {
    pub fn new(name: &'static str, server: &'a Server) -> Arm<'a> {
        Arm { name, server, era: None }
    }

    pub fn of(self, era: Era) -> Arm<'a> {
        Arm { era: Some(era), ..self }
    }
}

/// A turn of an arm.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Turn {
    /// Closed loop: answers per second.
    pub rate: f64,
    /// Closed loop: processor time of the proxy per answer.
    pub cpu_us: f64,
    /// Open loop.
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    /// Open loop: until the first of the events before an answer is there.
    pub first_event_p95_us: f64,
    /// What part of the machine was busy with other things.
    pub noise: f64,
}

/// What is measured against what, within which limit.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub what: &'static str,
    pub ratio: Ratio,
    pub limit: Limit,
    pub verdict: Verdict,
}

/// How ours compares with something that is no baseline.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ToOther {
    pub rate: f64,
    pub cpu: f64,
    pub p50: f64,
}

/// All that was found out about one load.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub name: String,
    pub rows: Vec<Row>,
    /// By arm.
    pub turns: BTreeMap<&'static str, Vec<Turn>>,
    /// Wrong answers, by arm and kind.
    pub failures: Vec<String>,
    /// Ours to each of the others.
    pub others: BTreeMap<&'static str, ToOther>,
    /// A comparison that has to fail: the gate is what is tested.
    pub must_fail: bool,
}

impl Outcome {
    pub fn new(name: String) -> Outcome {
        Outcome {
            name,
            rows: Vec::new(),
            turns: BTreeMap::new(),
            failures: Vec::new(),
            others: BTreeMap::new(),
            must_fail: false,
        }
    }

    pub fn verdict(&self) -> Verdict {
        if !self.failures.is_empty() {
            return Verdict::Fail;
        }
        let has = |verdict| self.rows.iter().any(|row| row.verdict == verdict);
        match (has(Verdict::Fail), has(Verdict::Inconclusive), self.must_fail) {
            (true, _, must_fail) => {
                if must_fail {
                    Verdict::Pass
                } else {
                    Verdict::Fail
                }
            }
            (false, true, _) => Verdict::Inconclusive,
            (false, false, must_fail) => {
                if must_fail {
                    Verdict::Fail
                } else {
                    Verdict::Pass
                }
            }
        }
    }

    /// The median of something over the turns of an arm.
    pub fn median(&self, arm: &str, of: fn(&Turn) -> f64) -> Option<f64> {
        self.turns.get(arm).map(|turns| median(turns.iter().map(of).collect()))
    }

    /// Half of the distance between its quartiles, in parts of the median.
    pub fn spread(&self, arm: &str, of: fn(&Turn) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.turns.get(arm)?.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Some((at(0.75) - at(0.25)) / 2.0 / at(0.5))
    }
}

/// What has to be kept: how fast, and for streams how soon.
pub struct Budget {
    pub rate: Option<Limit>,
    pub p50: Option<Limit>,
    pub p95: Option<Limit>,
    pub cpu: Option<Limit>,
    pub first_event: Option<Limit>,
    /// Our p99 against our own p50.
    pub tail: Option<Limit>,
}

const P95: Option<Limit> = Some(Limit::AtMost(1.05));

pub const BUDGET: Budget =
    Budget { rate: Some(Limit::AtLeast(0.95)), p50: None, p95: P95, cpu: None, first_event: None, tail: None };

pub const LIVE: Budget = Budget { first_event: P95, ..BUDGET };

/// Compares `ours` with `theirs`.
pub async fn compare(
    name: String,
    load: &Load,
    [theirs, ours]: [Arm<'_>; 2],
    others: &[Arm<'_>],
    budget: &Budget,
    effort: &Effort,
) -> Outcome {
    eprint!("{name} ");
    let mut outcome = Outcome::new(name);
    let mut crews = Vec::new();
    for arm in [&theirs, &ours].into_iter().chain(others) {
        let plan = Plan {
            target: arm.server.target.clone(),
            era: arm.era.unwrap_or(load.era),
            clients: load.clients,
            call: load.call.clone(),
            patience: PATIENCE,
        };
        match Crew::open(&plan).await {
            Ok(crew) => crews.push((arm, crew)),
            Err(failure) => outcome.failures.push(format!("{}: {failure}", arm.name)),
        }
    }
    if !outcome.failures.is_empty() {
        return outcome;
    }
    // The first run warms up, the second is what the load is chosen by.
    let mut slowest = f64::INFINITY;
    for (_, crew) in &mut crews {
        crew.run(Pace::Closed, Duration::ZERO, effort.turn).await;
    }
    for (arm, crew) in &mut crews[..2] {
        let _apart = arm.server.apart();
        slowest = slowest.min(crew.run(Pace::Closed, Duration::ZERO, effort.turn * 2).await.rate());
    }
    let pace = Pace::Rate((slowest * LOAD).max(20.0));
    let take = async |outcome: &mut Outcome, at: usize| turn(&mut crews[at], pace, effort.turn, outcome).await;
    alternate(&mut outcome, [theirs.name, ours.name], others.len(), budget, effort, take).await;
    for (arm, crew) in crews {
        crew.close().await;
        if arm.name != ours.name && arm.name != theirs.name {
            // Each of its turns beside ours of the same pair.
            let mine = outcome.turns[ours.name].iter().skip(OTHERS_FIRST).step_by(OTHERS_EVERY);
            let (mine, other): (Vec<Turn>, Vec<Turn>) = mine.zip(&outcome.turns[arm.name]).unzip();
            let ratio = |of: fn(&Turn) -> f64| {
                let series = |turns: &[Turn]| turns.iter().map(of).collect::<Vec<_>>();
                paired(&series(&mine), &series(&other)).mid
            };
            let compared = ToOther {
                rate: ratio(|turn| turn.rate),
                cpu: ratio(|turn| turn.cpu_us),
                p50: ratio(|turn| turn.p50_us),
            };
            outcome.others.insert(arm.name, compared);
        }
    }
    eprintln!("{:?}", outcome.verdict());
    outcome
}

/// Has two take turns, and now and then the others, until it can be judged or there is no time left. `turn` gets the number of the one
/// whose turn it is: theirs, ours, others.
pub async fn alternate(
    outcome: &mut Outcome,
    [theirs, ours]: [&str; 2],
    others: usize,
    budget: &Budget,
    effort: &Effort,
    mut turn: impl AsyncFnMut(&mut Outcome, usize),
) {
    let mut pairs = 0;
    loop {
        let order = if pairs % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            turn(outcome, at).await;
        }
        if pairs % OTHERS_EVERY == OTHERS_FIRST {
            for at in 2..2 + others {
                turn(outcome, at).await;
            }
        }
        pairs += 1;
        // Looked at only now and then: who looks often enough sees anything.
        if pairs >= effort.pairs && (pairs - effort.pairs).is_multiple_of(10) {
            outcome.rows = rows(&outcome.turns[ours], &outcome.turns[theirs], budget);
            let open = outcome.rows.iter().any(|row| row.verdict == Verdict::Inconclusive)
                && !outcome.rows.iter().any(|row| row.verdict == Verdict::Fail);
            if !open || pairs >= effort.pairs_max || Instant::now() >= effort.deadline || !outcome.failures.is_empty() {
                break;
            }
        }
    }
}

async fn turn((arm, crew): &mut (&Arm<'_>, Crew), pace: Pace, time: Duration, outcome: &mut Outcome) {
    let quiet = Usage::now();
    let before = arm.server.cpu();
    let closed = crew.run(Pace::Closed, Duration::ZERO, time).await;
    let cpu = arm.server.cpu() - before;
    let apart = arm.server.apart();
    let open = crew.run(pace, Duration::ZERO, time).await;
    drop(apart);
    for (kind, count) in closed.failures().iter().chain(open.failures()) {
        // A burst of somebody else's work may keep it from the rate for a moment: that shows in its latency.
        if !kind.starts_with("not sent") {
            outcome.failures.push(format!("{}: {count} × {kind}", arm.name));
        }
    }
    outcome.turns.entry(arm.name).or_default().push(Turn {
        rate: closed.rate(),
        cpu_us: cpu.as_secs_f64() * 1e6 / closed.answers().max(1) as f64,
        p50_us: open.quantile(0.5),
        p95_us: open.quantile(0.95),
        p99_us: open.quantile(0.99),
        first_event_p95_us: open.first_event_quantile(0.95),
        noise: Usage::now().noise_since(&quiet),
    });
}

/// The ratios of the quieter half of all pairs: which these are is decided by what else the machine did, and not by what came out.
fn rows(ours: &[Turn], theirs: &[Turn], budget: &Budget) -> Vec<Row> {
    let mut pairs: Vec<(&Turn, &Turn)> = ours.iter().zip(theirs).collect();
    pairs.sort_by(|(a, b), (c, d)| (a.noise + b.noise).total_cmp(&(c.noise + d.noise)));
    pairs.truncate(pairs.len().div_ceil(2));
    let series = |of: fn(&Turn) -> f64| pairs.iter().map(|(ours, theirs)| (of(ours), of(theirs))).unzip();
    let judged = |what, (ours, theirs): (Vec<f64>, Vec<f64>), limit: Limit| {
        let ratio = paired(&ours, &theirs);
        Row { what, ratio, limit, verdict: limit.judge(ratio) }
    };
    let row = |what, of, limit: Option<Limit>| Some(judged(what, series(of), limit?));
    let tail =
        || Some(judged("p99 to p50", pairs.iter().map(|(ours, _)| (ours.p99_us, ours.p50_us)).unzip(), budget.tail?));
    let rows = [
        row("rate", |turn| turn.rate, budget.rate),
        row("p50", |turn| turn.p50_us, budget.p50),
        row("p95", |turn| turn.p95_us, budget.p95),
        row("CPU", |turn| turn.cpu_us, budget.cpu),
        row("first event p95", |turn| turn.first_event_p95_us, budget.first_event),
        tail(),
    ];
    rows.into_iter().flatten().collect()
}
