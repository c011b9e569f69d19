use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderMap;
use tokio::time::sleep;

use super::*;
use crate::metrics::Metrics;
use crate::upstream::reconnect::{self, Heard, Loss, Origin, Reconnect, Step};

const DEPTH: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

impl Pass {
    fn settle(mut self, outcome: Outcome) {
        self.end(outcome, Duration::ZERO);
    }
}

fn gate(change: impl FnOnce(&mut Limits, &mut Timeouts)) -> (Arc<Gate>, Arc<Metrics>) {
    let (mut limits, mut timeouts) = (Limits::default(), Timeouts::default());
    change(&mut limits, &mut timeouts);
    let metrics = Arc::new(Metrics::new());
    (Gate::new(&limits, &timeouts, metrics.server("s").streams()), metrics)
}

fn pass(gate: &Arc<Gate>) -> Pass {
    match gate.enter() {
        Ok(Entered::Pass(pass)) => pass,
        Ok(Entered::Turn(_)) => panic!("a turn"),
        Err(error) => panic!("{error}"),
    }
}

fn turn(gate: &Arc<Gate>) -> Pass {
    match gate.enter() {
        Ok(Entered::Turn(turn)) => turn,
        Ok(Entered::Pass(_)) => panic!("it is closed"),
        Err(error) => panic!("{error}"),
    }
}

fn refused(gate: &Arc<Gate>) -> u64 {
    match gate.enter().map(|_| ()) {
        Err(UpstreamError::CircuitOpen { seconds }) => seconds,
        other => panic!("{other:?}"),
    }
}

/// A gate whose circuit has just opened.
fn open() -> (Arc<Gate>, Arc<Metrics>) {
    let (gate, metrics) = gate(|limits, _| limits.circuit_failures = 2);
    for _ in 0..2 {
        pass(&gate).settle(Outcome::Failed);
    }
    (gate, metrics)
}

fn shows(metrics: &Metrics, line: &str) -> bool {
    metrics.exposition(0).lines().any(|shown| shown == line)
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_says_nothing_unless_it_was_given_up_late() {
    let (gate, _) = gate(|limits, _| limits.circuit_failures = 1);
    drop(pass(&gate));
    drop(pass(&gate).late_at(Instant::now() + SECOND));
    let late = pass(&gate).late_at(Instant::now() + SECOND);
    sleep(SECOND).await;
    assert!(gate.pause_left().is_none());
    drop(late);
    assert!(gate.pause_left().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_refuses_and_says_for_how_long() {
    let (gate, metrics) = open();
    let left = gate.pause_left().unwrap();
    assert!(left > 3 * SECOND && left <= 5 * SECOND, "{left:?}");
    assert_eq!(refused(&gate), whole_seconds(left));
    assert!(shows(&metrics, "shadowcat_circuit{server=\"s\",state=\"open\"} 1"));
    assert!(shows(&metrics, "shadowcat_circuit_openings_total{server=\"s\"} 1"));
    gate.watch().settle(Outcome::Answered);
    assert!(gate.pause_left().is_some(), "what was sent before or anyhow does not count");
    sleep(left).await;
    assert!(gate.pause_left().is_none());
    let turn = turn(&gate);
    assert_eq!(refused(&gate), 1, "somebody is finding out");
    assert!(shows(&metrics, "shadowcat_circuit{server=\"s\",state=\"half_open\"} 1"));
    turn.settle(Outcome::Answered);
    assert!(shows(&metrics, "shadowcat_circuit{server=\"s\",state=\"closed\"} 1"));
    pass(&gate);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_dropped_is_somebody_elses() {
    let (gate, _) = open();
    sleep(5 * SECOND).await;
    drop(turn(&gate));
    let second = turn(&gate);
    second.settle(Outcome::Unknown);
    turn(&gate).settle(Outcome::Failed);
    let left = gate.pause_left().unwrap();
    assert!(left >= 8 * SECOND && left <= 10 * SECOND, "it doubled: {left:?}");
}

/// Whoever waits is woken by the end of the pause, by a turn that is given back, and by the circuit's closing.
#[tokio::test(start_paused = true)]
async fn those_who_wait_go_on_when_they_may() {
    let (gate, _) = open();
    let turns = AtomicUsize::new(0);
    let one = async || loop {
        match gate.wait().await {
            Entered::Pass(_) => return,
            Entered::Turn(turn) => {
                let nth = turns.fetch_add(1, Ordering::Relaxed);
                sleep(SECOND).await;
                match nth {
                    0 => drop(turn),
                    1 => turn.settle(Outcome::Failed),
                    _ => turn.settle(Outcome::Answered),
                }
            }
        }
    };
    let start = Instant::now();
    join_all((0..50).map(|_| one())).await;
    assert_eq!(turns.load(Ordering::Relaxed), 3);
    assert!(start.elapsed() < 20 * SECOND, "{:?}", start.elapsed());
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// C-SSE-10: of streams that are cut together, no more than the limit connect at the same time, each gets its turn, and
/// one that is given up keeps no place.
#[tokio::test(start_paused = true)]
async fn lost_streams_do_not_come_back_all_at_once() {
    for limit in [1, 8, 50] {
        let (gate, _) = gate(|limits, _| limits.reconnecting = limit);
        let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let stream = async |n: usize| {
            let began = Instant::now().into_std();
            let mut reconnect = Reconnect::new(Origin::Get, reconnect::Policy::default(), began);
            let lost = || reconnect::Event::Lost { loss: Loss::Broken, heard: Heard::default() };
            let mut step = reconnect.on(lost(), began, chance());
            let mut failures = n % 3;
            loop {
                let event = match step {
                    Step::WaitUntil(until) => {
                        sleep_until(Instant::from_std(until)).await;
                        reconnect::Event::Due
                    }
                    Step::Connect { .. } => {
                        let _place = gate.reconnecting().await;
                        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                        // It may be given up while it connects, too.
                        let connecting = Counted(&now);
                        sleep(Duration::from_millis(50)).await;
                        drop(connecting);
                        if failures == 0 {
                            done.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                        failures -= 1;
                        lost()
                    }
                    step => panic!("{step:?}"),
                };
                step = reconnect.on(event, Instant::now().into_std(), chance());
            }
        };
        let impatient = async |n: usize| {
            tokio::select! {
                () = stream(n) => {}
                // While it waits for its place.
                () = sleep(Duration::from_millis(121)), if n.is_multiple_of(10) && limit == 1 => {}
            }
        };
        join_all((0..200).map(impatient)).await;
        assert_eq!(most.load(Ordering::Relaxed), limit, "of 200 that want to at about the same time");
        assert_eq!(gate.reconnecting.available_permits(), limit);
        assert!(done.load(Ordering::Relaxed) >= 180, "{done:?}");
    }
}

fn response(status: u16, body: Body) -> Result<Response, HttpError> {
    Ok(Response { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body })
}

#[test]
fn outcomes() {
    let json = |text: &'static str| Body::Json(Bytes::from(text));
    let error = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"busy"}}"#;
    let failed = || std::io::Error::other("x").into();
    for (response, expected) in [
        (Err(HttpError::Unsent(failed())), Outcome::Failed),
        (Err(HttpError::Lost(failed())), Outcome::Failed),
        (Err(HttpError::Timeout { sent: false }), Outcome::Failed),
        (Err(HttpError::Timeout { sent: true }), Outcome::Failed),
        (Err(HttpError::OtherOrigin), Outcome::Unknown),
        (response(502, Body::Empty), Outcome::Failed),
        (response(503, Body::Other(Bytes::from("<h1>"))), Outcome::Failed),
        (response(504, json(r#"{"message":"upstream"}"#)), Outcome::Failed),
        (response(503, json(error)), Outcome::Answered),
        (response(500, Body::Empty), Outcome::Answered),
        (response(429, Body::Empty), Outcome::Answered),
        (response(404, json(error)), Outcome::Answered),
        (response(200, json(error)), Outcome::Answered),
        (response(202, Body::Empty), Outcome::Answered),
    ] {
        assert_eq!(Outcome::of(&response, DEPTH), expected, "{response:?}");
    }
}

#[test]
fn seconds_are_rounded_up() {
    for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
        assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
    }
}
