use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy { failures: 3, pause: Duration::from_secs(5), pause_max: Duration::from_secs(60) };

#[expect(clippy::disallowed_methods, reason = "only differences matter")]
fn now() -> Instant {
    Instant::now()
}

fn pass(circuit: &mut Circuit, now: Instant) -> Ticket {
    match circuit.enter(now) {
        Entry::Pass(ticket) => ticket,
        entry => panic!("{entry:?}"),
    }
}

fn turn(circuit: &mut Circuit, now: Instant) -> Ticket {
    match circuit.enter(now) {
        Entry::Turn(ticket) => ticket,
        entry => panic!("{entry:?}"),
    }
}

/// A circuit that has just opened, and for how long.
fn open(now: Instant, jitter: f64) -> (Circuit, Duration) {
    let mut circuit = Circuit::new(POLICY);
    let mut pause = None;
    for _ in 0..POLICY.failures {
        assert_eq!(pause, None, "not before the limit");
        let ticket = pass(&mut circuit, now);
        pause = circuit.failed(ticket, now, jitter, Duration::ZERO);
    }
    assert_eq!(circuit.position(), Position::Open, "exactly at the limit");
    (circuit, pause.expect("it opened"))
}

#[test]
fn it_opens_exactly_at_the_limit_and_lets_nothing_through() {
    let start = now();
    let (mut circuit, pause) = open(start, 0.0);
    assert_eq!(pause, POLICY.pause);
    let until = start + pause;
    for at in [start, until - Duration::from_nanos(1)] {
        assert_eq!(circuit.enter(at), Entry::Refused(Some(until)));
        assert_eq!(circuit.pause_left(at), Some(until - at));
    }
    assert_eq!(circuit.pause_left(until), None);
    assert!(circuit.watch().is_none());
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    let (mut circuit, now) = (Circuit::new(POLICY), now());
    for round in 0..10 {
        for _ in 1..POLICY.failures {
            let ticket = pass(&mut circuit, now);
            assert_eq!(circuit.failed(ticket, now, 0.0, Duration::ZERO), None, "{round}");
        }
        let ticket = pass(&mut circuit, now);
        circuit.succeeded(ticket);
    }
    assert_eq!(circuit.position(), Position::Closed);
}

#[test]
fn one_finds_out_and_the_others_are_refused() {
    let start = now();
    let (mut circuit, pause) = open(start, 0.0);
    let later = start + pause;
    let first = turn(&mut circuit, later);
    assert_eq!(circuit.position(), Position::HalfOpen);
    assert_eq!(circuit.enter(later + pause), Entry::Refused(None), "however long the turn takes");
    circuit.released(first);
    let second = turn(&mut circuit, later);
    circuit.succeeded(second);
    assert_eq!(circuit.position(), Position::Closed);
    pass(&mut circuit, later);
}

#[test]
fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
    let mut at = now();
    let (mut circuit, first) = open(at, 0.0);
    let mut pauses = vec![first.as_secs()];
    for _ in 0..6 {
        at += Duration::from_secs(pauses[pauses.len() - 1]);
        let ticket = turn(&mut circuit, at);
        pauses.push(circuit.failed(ticket, at, 0.0, Duration::ZERO).expect("it opens again").as_secs());
    }
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60, 60]);
    at += POLICY.pause_max;
    let ticket = turn(&mut circuit, at);
    circuit.succeeded(ticket);
    for n in 1..=POLICY.failures {
        let ticket = pass(&mut circuit, at);
        let pause = circuit.failed(ticket, at, 0.0, Duration::ZERO);
        assert_eq!(pause.is_some(), n == POLICY.failures);
        assert!(pause.is_none_or(|pause| pause == POLICY.pause));
    }
}

/// A server that says when to come back is heard, within reason.
#[test]
fn the_server_may_ask_for_a_longer_pause() {
    for (asked, pause) in [(0, 5), (4, 5), (7, 7), (3600, 60)] {
        let (mut circuit, now) = (Circuit::new(Policy { failures: 1, ..POLICY }), now());
        let ticket = pass(&mut circuit, now);
        let begun = circuit.failed(ticket, now, 0.0, Duration::from_secs(asked));
        assert_eq!(begun, Some(Duration::from_secs(pause)), "{asked}");
    }
}

/// What was begun before the circuit opened ends while it is open, or after it has closed again: that is old news.
#[test]
fn late_news_changes_nothing() {
    let start = now();
    let mut circuit = Circuit::new(POLICY);
    let mut early: Vec<_> = (0..10).map(|_| pass(&mut circuit, start)).collect();
    let mut fail = |circuit: &mut Circuit| early.pop().map(|ticket| circuit.failed(ticket, start, 0.0, Duration::ZERO));
    for _ in 0..POLICY.failures {
        fail(&mut circuit);
    }
    assert_eq!(circuit.position(), Position::Open);
    assert_eq!(fail(&mut circuit), Some(None));
    let ticket = turn(&mut circuit, start + POLICY.pause);
    assert_eq!(fail(&mut circuit), Some(None), "the turn is somebody else's");
    assert_eq!(circuit.position(), Position::HalfOpen);
    circuit.succeeded(ticket);
    for _ in 0..POLICY.failures {
        assert_eq!(fail(&mut circuit), Some(None));
    }
    assert_eq!(circuit.position(), Position::Closed);
}

/// What happens at random.
#[derive(Debug, Clone)]
enum Op {
    Enter,
    Watch,
    /// What becomes of one of those who are under way.
    Succeed(usize),
    Fail(usize, f64),
    Release(usize),
    /// Time moves, or stands still.
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let jitter = prop_oneof![0.0..1.0_f64, prop::num::f64::ANY];
    prop_oneof![
        4 => Just(Op::Enter),
        1 => Just(Op::Watch),
        1 => any::<usize>().prop_map(Op::Succeed),
        4 => (any::<usize>(), jitter).prop_map(|(which, jitter)| Op::Fail(which, jitter)),
        1 => any::<usize>().prop_map(Op::Release),
        2 => prop_oneof![Just(0), 0..70_000_u64].prop_map(Op::Wait),
    ]
}

proptest! {
    /// In any order: never two turns at once; open means open; pauses are within bounds; and once nobody is under way and
    /// the longest pause is over, somebody may try.
    #[test]
    fn whatever_happens_it_is_sound_and_recovers(
        failures in 1..6_usize,
        pause in 1..10_000_u64,
        longer in 0..60_000_u64,
        ops in prop::collection::vec(op(), 0..200),
    ) {
        let policy = Policy {
            failures,
            pause: Duration::from_millis(pause),
            pause_max: Duration::from_millis(pause + longer),
        };
        let mut circuit = Circuit::new(policy);
        let mut at = now();
        // Who is under way, and whether with a turn.
        let mut under_way: Vec<(Ticket, bool)> = Vec::new();
        let mut in_a_row = 0;
        let mut open_until = None;
        for op in ops {
            match op {
                Op::Enter => match circuit.enter(at) {
                    Entry::Pass(ticket) => {
                        prop_assert_eq!(circuit.position(), Position::Closed);
                        under_way.push((ticket, false));
                    }
                    Entry::Turn(ticket) => {
                        prop_assert!(under_way.iter().all(|(_, is_turn)| !is_turn), "two turns");
                        prop_assert!(open_until.is_none_or(|until| at >= until), "too early");
                        under_way.push((ticket, true));
                    }
                    Entry::Refused(Some(until)) => prop_assert!(Some(until) == open_until && at < until),
                    Entry::Refused(None) => prop_assert!(under_way.iter().any(|(_, is_turn)| *is_turn)),
                },
                Op::Watch => under_way.extend(circuit.watch().map(|ticket| (ticket, false))),
                Op::Wait(millis) => at += Duration::from_millis(millis),
                Op::Succeed(which) | Op::Fail(which, _) | Op::Release(which) if !under_way.is_empty() => {
                    let (ticket, is_turn) = under_way.swap_remove(which % under_way.len());
                    let current = ticket.generation == circuit.generation;
                    prop_assert!(current || !is_turn, "a turn is never overtaken");
                    match op {
                        Op::Succeed(_) => {
                            circuit.succeeded(ticket);
                            if current {
                                prop_assert_eq!(circuit.position(), Position::Closed);
                                (in_a_row, open_until) = (0, None);
                            }
                        }
                        Op::Fail(_, jitter) => {
                            in_a_row += usize::from(current);
                            let opened = circuit.failed(ticket, at, jitter, Duration::ZERO);
                            prop_assert_eq!(opened.is_some(), current && (is_turn || in_a_row == failures));
                            if let Some(pause) = opened {
                                prop_assert!(pause >= policy.pause.mul_f64(0.79) && pause <= policy.pause_max);
                                (in_a_row, open_until) = (0, Some(at + pause));
                            }
                        }
                        _ => circuit.released(ticket),
                    }
                }
                Op::Succeed(_) | Op::Fail(..) | Op::Release(_) => {}
            }
        }
        for (ticket, _) in under_way {
            circuit.released(ticket);
        }
        at += policy.pause_max;
        prop_assert!(!matches!(circuit.enter(at), Entry::Refused(_)), "wedged: {:?}", circuit);
    }
}
