//! Whether one series of measurements is worse than another, and how sure that is.
//!
//! A measurement on a shared machine is off by much more than what is looked for. So each is taken many times, in turns with
//! what it is compared to; what is compared are medians of ratios; and how far these can be trusted is found by the bootstrap:
//! the same is computed for many samples drawn, with repetition, from what was measured, and the interval is where 95 % of them lie.

use serde::{Deserialize, Serialize};

/// How many samples are drawn.
const SAMPLES: usize = 2000;
/// How many in a hundred lie outside of the interval, on either side.
const TAIL: f64 = 0.025;

/// A ratio, and the interval in which it lies with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Lower end.
    pub low: f64,
    /// The median of what was measured.
    pub mid: f64,
    /// Upper end.
    pub high: f64,
}

/// What a ratio says about a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All of the interval is inside.
    Pass,
    /// All of it is outside.
    Fail,
    /// The limit is in it: no pass.
    Inconclusive,
}

/// A limit that a ratio has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Limit {
    /// Not more than this, as for times.
    AtMost(f64),
    /// Not less than this, as for rates.
    AtLeast(f64),
}

impl Limit {
    /// What a ratio says about it.
    #[must_use]
    pub fn judge(self, ratio: Ratio) -> Verdict {
        let (best, worst, inside): (f64, f64, fn(f64, f64) -> bool) = match self {
            Limit::AtMost(_) => (ratio.low, ratio.high, |value, limit| value <= limit),
            Limit::AtLeast(_) => (ratio.high, ratio.low, |value, limit| value >= limit),
        };
        let (Limit::AtMost(limit) | Limit::AtLeast(limit)) = self;
        match (inside(worst, limit), inside(best, limit)) {
            (true, _) => Verdict::Pass,
            (false, false) => Verdict::Fail,
            (false, true) => Verdict::Inconclusive,
        }
    }
}

/// The ratio of measurements that were taken in pairs, `ours[n]` right beside `theirs[n]`: the median of the pairs' ratios.
#[must_use]
pub fn paired(ours: &[f64], theirs: &[f64]) -> Ratio {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    let mut dice = Dice::new();
    bootstrap(median(ratios.clone()), || median(dice.resample(&ratios)))
}

/// The ratio of the medians of two series that have nothing to do with each other.
#[must_use]
pub fn unpaired(ours: &[f64], theirs: &[f64]) -> Ratio {
    let mut dice = Dice::new();
    bootstrap(median(ours.to_vec()) / median(theirs.to_vec()), || {
        median(dice.resample(ours)) / median(dice.resample(theirs))
    })
}

fn bootstrap(mid: f64, mut sample: impl FnMut() -> f64) -> Ratio {
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| samples[((SAMPLES - 1) as f64 * part).round() as usize];
    Ratio { low: at(TAIL), mid, high: at(1.0 - TAIL) }
}

/// The median; not a number if there are no values.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Pseudo-random numbers (xorshift), the same ones each time: a verdict can be computed again.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        Dice(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn resample(&mut self, values: &[f64]) -> Vec<f64> {
        (0..values.len()).map(|_| values[self.below(values.len())]).collect()
    }
}
