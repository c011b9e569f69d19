//! When what fails is tried again.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::restarts::{Policy, Rest, Restarts};
use super::fake::ms;

const WINDOW: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(2);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn restarts(failures: usize) -> Restarts {
    Restarts::new(Policy { failures, window: WINDOW, longest: LONGEST })
}

/// The first failure is free, each further one doubles the pause up to the longest, and so many are a crash loop.
#[test]
fn pauses_double_and_end_in_a_rest() {
    let mut restarts = restarts(8);
    let mut now = now();
    assert_eq!((restarts.failed(now), restarts.rest(now)), (None, None));
    let mut pauses = Vec::new();
    for failures in 2..=8 {
        let rest = restarts.failed(now).expect("it pauses");
        assert_eq!((rest.failures, rest.looping), (failures, failures == 8));
        assert_eq!(restarts.rest(now), Some(rest));
        pauses.push((rest.until - now).as_millis());
        assert_eq!(restarts.rest(rest.until - ms(1)), Some(rest));
        now = rest.until;
        assert_eq!(restarts.rest(now), None, "a rest ends");
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 2000, 2000, 30_000]);
    assert_eq!(restarts.failed(now), None, "after that it begins anew");
}

/// What failed longer ago than the window is forgotten.
#[test]
fn failures_are_forgotten() {
    let mut restarts = restarts(3);
    let now = now();
    for failure in 0..10 {
        assert_eq!(restarts.failed(now + WINDOW * failure), None);
    }
    let later = now + WINDOW * 9;
    assert_eq!(restarts.failed(later + WINDOW - ms(1)).map(|rest| rest.failures), Some(2));
}

/// A success ends a rest, but what failed is not forgotten for it: a server that starts, and breaks each time, works no
/// better.
#[test]
fn a_success_ends_a_rest() {
    let mut restarts = restarts(5);
    let now = now();
    restarts.failed(now);
    assert!(restarts.failed(now).is_some());
    restarts.succeeded();
    assert_eq!(restarts.rest(now), None);
    assert_eq!(restarts.failed(now).map(|rest| rest.failures), Some(3));
}

/// What was begun together, and fails together, is one failure more, and not a crash loop.
#[test]
fn failures_during_a_rest_say_nothing_new() {
    let mut restarts = restarts(5);
    let now = now();
    restarts.failed(now);
    let rest = restarts.failed(now);
    for _ in 0..20 {
        assert_eq!(restarts.failed(now), None);
        assert_eq!(restarts.rest(now), rest);
    }
}

/// One failure is a crash loop where the policy says so.
#[test]
fn a_policy_may_forgive_nothing() {
    let now = now();
    let rest = restarts(1).failed(now);
    assert_eq!(rest, Some(Rest { until: now + WINDOW, failures: 1, looping: true }));
}

/// Young is what broke within the window.
#[test]
fn youth_has_an_end() {
    let now = now();
    assert!(restarts(5).is_young(now, now) && restarts(5).is_young(now, now + WINDOW - ms(1)));
    assert!(!restarts(5).is_young(now, now + WINDOW));
    assert!(restarts(5).is_young(now + ms(1), now), "the clock of another thread");
}

proptest! {
    #![proptest_config(super::cases(500))]

    /// Whatever happens when: a rest is never longer than the window or the longest pause, there are at most so many
    /// failures in a row without one, and as many pauses as the policy allows before a long rest.
    #[test]
    fn rests_are_bounded(
        limit in 1..10usize,
        steps in prop::collection::vec((0..4000u64, prop::bool::weighted(0.8)), 1..100),
    ) {
        let mut restarts = restarts(limit);
        let mut now = now();
        // What a plain list says: when it failed since the last long rest.
        let mut failed: Vec<Instant> = Vec::new();
        let mut rests: Option<Rest> = None;
        for (time, fails) in steps {
            now += ms(time);
            rests = rests.filter(|rest| now < rest.until);
            if !fails {
                restarts.succeeded();
                rests = None;
            } else if rests.is_some() {
                prop_assert_eq!(restarts.failed(now), None);
            } else {
                failed.push(now);
                let recent = failed.iter().filter(|at| now - **at < WINDOW).count();
                let expected = match recent {
                    recent if recent >= limit => Some(WINDOW),
                    1 => None,
                    recent => Some((ms(250) * 2u32.pow(recent as u32 - 2)).min(LONGEST)),
                };
                let rest = restarts.failed(now);
                prop_assert_eq!(rest.map(|rest| rest.until - now), expected);
                if recent >= limit {
                    failed.clear();
                }
                rests = rest;
            }
            prop_assert_eq!(restarts.rest(now), rests);
        }
    }
}
