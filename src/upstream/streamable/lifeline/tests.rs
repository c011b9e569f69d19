use tokio::time::sleep_until;

use super::*;
use crate::metrics::Metrics;
use crate::upstream::reconnect::{GiveUp, Heard, Loss};

const MILLISECOND: Duration = Duration::from_millis(1);
/// What the server would have to ask for to raise it; spread by a fifth.
const FLOOR: Duration = Duration::from_millis(100);

fn lost(message: bool) -> Event {
    Event::Lost { loss: Loss::Broken, heard: Heard { message, ..Heard::default() } }
}

/// Loses the connection, waits by the clock, and finds no server. How long it waited, or why it gave up.
async fn outage(lifeline: &mut Lifeline, message: bool) -> Result<Duration, GiveUp> {
    let began = Instant::now();
    match lifeline.on(lost(message)) {
        Step::WaitUntil(until) => sleep_until(Instant::from_std(until)).await,
        Step::GiveUp(why) => return Err(why),
        step => panic!("{step:?}"),
    }
    assert!(matches!(lifeline.on(Event::Due), Step::Connect { .. }));
    Ok(began.elapsed())
}

/// C-SSE-1: with the clock and the chance that streams really have, each wait lies between the floor and a ceiling that doubles
/// from 200 ms to 30 s, is spread evenly below it, and after ten attempts there is no other.
#[tokio::test(start_paused = true)]
async fn waits_double_and_are_spread_by_the_clock() {
    const STREAMS: usize = 400;
    let metrics = Arc::new(Metrics::new()).server("s").streams();
    let mut waits = vec![Vec::new(); 10];
    for _ in 0..STREAMS {
        let mut lifeline = Lifeline::of_get(Policy::default(), &metrics);
        for waits in &mut waits {
            waits.push(outage(&mut lifeline, false).await.expect("there is patience left"));
        }
        assert_eq!(outage(&mut lifeline, false).await, Err(GiveUp::Spent));
    }
    for (attempt, mut waits) in waits.into_iter().enumerate() {
        waits.sort_unstable();
        let ceiling = Duration::from_secs(30).min(Duration::from_millis(200 << attempt));
        let (shortest, longest) = (waits[0], waits[STREAMS - 1]);
        // The clock of the runtime counts milliseconds.
        let case = format!("attempt {attempt}: {shortest:?} to {longest:?}");
        assert!(shortest >= FLOOR && longest <= ceiling + MILLISECOND, "{case}");
        assert!(shortest <= FLOOR * 2 + ceiling / 20 && longest >= ceiling / 20 * 19, "{case}");
        for quarter in 1..=3 {
            let expected = (ceiling * quarter / 4).max(FLOOR);
            let found = waits[STREAMS * quarter as usize / 4];
            assert!(found.abs_diff(expected) <= ceiling / 8 + FLOOR / 5, "{case}, {quarter}/4: {found:?}");
        }
    }
}

/// C-SSE-1: the first complete event ends the outage, and the next wait is a first one again.
#[tokio::test(start_paused = true)]
async fn the_first_event_ends_an_outage_by_the_clock() {
    let metrics = Arc::new(Metrics::new()).server("s").streams();
    let mut lifeline = Lifeline::of_get(Policy::default(), &metrics);
    for round in 0..50 {
        for attempt in 0..9 {
            outage(&mut lifeline, false).await.expect("there is patience left");
            assert_eq!(lifeline.reconnect.attempts(), attempt + 1 + u32::from(round > 0));
        }
        assert_eq!(lifeline.on(Event::Opened), Step::Read);
        let wait = outage(&mut lifeline, true).await.expect("a new outage");
        assert!(wait <= Duration::from_millis(201), "{wait:?}");
        assert_eq!(lifeline.reconnect.attempts(), 1);
    }
}
