//! A load generator for MCP servers over Streamable HTTP.
//!
//! A [`Crew`] is so many clients, each with a connection and, where the era has them, a session of its own. [`Crew::run`] has
//! them call, as fast as answers come (closed loop) or at a fixed rate (open loop). In an open loop a latency counts from the
//! moment at which the request was *meant* to start, so that a server that stalls cannot hide the requests that it kept waiting
//! (coordinated omission). Each answer is checked: its id, its payload, how many progress notifications came before it.
//!
//! All clients share one thread and one task: it takes little from the machine that is measured, and nothing waits for a lock.

mod alarm;
mod client;
pub mod stats;
mod tally;
mod words;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use crate::protocol::revision::Era;
use alarm::Alarm;
use client::Client;

pub(crate) use client::look_around;
pub use client::{Failure, Target};
pub use tally::{Latency, Tally};
pub use words::{Call, Wrong};

/// Most clients that are connecting at once.
const OPENING: usize = 32;
/// Most failures in a row after which a client gives up.
const FAILURES_MAX: u32 = 10;
/// How long a client rests after a failure: a server that refuses is not hammered.
const REST: Duration = Duration::from_millis(50);
/// How long a run may take that ends after so many calls.
const LONGEST_RUN: Duration = Duration::from_secs(3600);

/// Who calls what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The endpoint.
    pub target: Target,
    /// What the clients speak.
    pub era: Era,
    /// How many clients; each has one request under way at most.
    pub clients: usize,
    /// What they call.
    pub call: Call,
    /// How long an answer may take, and a connection to be made.
    pub patience: Duration,
}

/// When requests start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each client sends the next request when the last one is answered: what throughput is measured with.
    Closed,
    /// So many requests a second, evenly, by whichever client is free: what latency is measured with.
    Rate(f64),
}

/// Connected clients.
pub struct Crew {
    clients: Vec<Client>,
}

impl Crew {
    /// Connects all clients. The first of them makes one call, whose answer is read in full.
    ///
    /// # Errors
    /// The server cannot be reached, refuses a session, or answers the call with something else than was expected.
    pub async fn open(plan: &Plan) -> Result<Crew, Failure> {
        let mut first = Client::open(plan, 0).await?;
        first.rehearse().await?;
        let mut clients = vec![first];
        let mut others = stream::iter(1..plan.clients).map(|number| Client::open(plan, number)).buffered(OPENING);
        while let Some(client) = others.next().await {
            clients.push(client?);
        }
        Ok(Crew { clients })
    }

    /// Has the clients call for `duration`, after a warm-up of which nothing is kept.
    pub async fn run(&mut self, pace: Pace, warm_up: Duration, duration: Duration) -> Tally {
        let start = Instant::now();
        let measured = start + warm_up;
        self.follow(Schedule::new(pace, start, measured, measured + duration, u64::MAX)).await
    }

    /// Has the clients make so many calls together, as fast as they can.
    pub async fn complete(&mut self, calls: u64) -> Tally {
        let start = Instant::now();
        self.follow(Schedule::new(Pace::Closed, start, start, start + LONGEST_RUN, calls)).await
    }

    async fn follow(&mut self, schedule: Schedule) -> Tally {
        let tally = RefCell::new(Tally::default());
        join_all(self.clients.iter_mut().map(|client| work(client, &schedule, &tally))).await;
        let mut tally = tally.into_inner();
        tally.close(schedule.last.get() - schedule.measured, schedule.left());
        tally
    }

    /// The ids of the sessions, where there are any.
    pub fn sessions(&self) -> impl Iterator<Item = &str> {
        self.clients.iter().filter_map(Client::session)
    }

    /// Ends the sessions and closes the connections.
    pub async fn close(self) {
        join_all(self.clients.into_iter().map(Client::close)).await;
    }
}

/// What a client does in a run.
async fn work(client: &mut Client, schedule: &Schedule, tally: &RefCell<Tally>) {
    let mut alarm = Alarm::new();
    let mut failures = 0;
    while let Some(due) = schedule.next(&mut alarm).await {
        let answered = client.call().await;
        let now = Instant::now();
        if due >= schedule.measured {
            schedule.last.set(schedule.last.get().max(now));
            match &answered {
                Ok(events) => {
                    tally.borrow_mut().answered(now - due, client.first_bytes() - due, *events);
                }
                Err(failure) => tally.borrow_mut().failed(failure),
            }
        }
        failures = if answered.is_ok() { 0 } else { failures + 1 };
        if failures == FAILURES_MAX {
            return;
        }
        if failures > 0 {
            tokio::time::sleep(REST).await;
        }
    }
}

/// When the requests of a run are to start. All clients take from it.
struct Schedule {
    pace: Pace,
    start: Instant,
    /// What starts before this is warm-up.
    measured: Instant,
    end: Instant,
    /// How many may start at all.
    calls: u64,
    /// How many have started: in an open loop, the next slot.
    next: Cell<u64>,
    /// When the last answer came.
    last: Cell<Instant>,
}

impl Schedule {
    fn new(pace: Pace, start: Instant, measured: Instant, end: Instant, calls: u64) -> Schedule {
        Schedule { pace, start, measured, end, calls, next: Cell::new(0), last: Cell::new(measured) }
    }

    /// Waits for the next start, and says when it was meant to be; `None` when the run is over.
    async fn next(&self, alarm: &mut Alarm) -> Option<Instant> {
        let now = Instant::now();
        let slot = self.next.get();
        let due = match self.pace {
            Pace::Closed => now,
            Pace::Rate(rate) => self.start + Duration::from_secs_f64(slot as f64 / rate),
        };
        if now.max(due) >= self.end || slot == self.calls {
            return None;
        }
        self.next.set(slot + 1);
        if self.pace != Pace::Closed {
            alarm.wait_until(due).await;
        }
        Some(due)
    }

    /// How many requests should have started, and did not since all clients were waiting.
    fn left(&self) -> u64 {
        let Pace::Rate(rate) = self.pace else { return 0 };
        let planned = ((self.end - self.start).as_secs_f64() * rate).floor() as u64;
        planned.saturating_sub(self.next.get())
    }
}

#[cfg(test)]
mod tests;
