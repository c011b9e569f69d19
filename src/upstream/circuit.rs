//! Whether a server that keeps failing is left alone for a while, so that its clients hear at once that it does not answer,
//! and it is not kept from recovering. Pure: time and chance are arguments.
//!
//! ```text
//! closed ── so many failures in a row ──▶ open ── after a pause: one turn ──▶ half open ── success ──▶ closed
//!                                          ▲                                      │
//!                                          └─────── failure: the pause doubles ───┘
//! ```

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(crate) struct Circuit {
    policy: Policy,
    state: State,
    /// Counts the states there have been: what was begun in another one says nothing about this one.
    generation: u64,
    /// How often it opened since it was last closed.
    openings: u32,
}

/// How much is put up with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// So many failures in a row open the circuit.
    pub(crate) failures: usize,
    /// The first pause; each failed turn doubles it.
    pub(crate) pause: Duration,
    /// The longest pause.
    pub(crate) pause_max: Duration,
}

/// What may be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Go ahead, and tell how it went.
    Pass(Ticket),
    /// Find out whether the server is there again, as the only one who does. Whoever has a turn tells how it went or gives
    /// it back: until then nobody else gets one.
    Turn(Ticket),
    /// Nothing is to be sent before this time; without one, before somebody else's turn is over.
    Refused(Option<Instant>),
}

/// Says when something was begun. To be handed in once, with what came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    generation: u64,
}

/// What there is to see from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// All goes through.
    Closed,
    /// Nothing does.
    Open,
    /// One turn at a time.
    HalfOpen,
}

impl Circuit {
    /// A closed circuit.
    pub(crate) fn new(policy: Policy) -> Circuit {
        Circuit { policy, state: State::Closed { failures: 0 }, generation: 0, openings: 0 }
    }

    /// Asks to send something.
    pub(crate) fn enter(&mut self, now: Instant) -> Entry {
        match self.state {
            State::Closed { .. } => Entry::Pass(self.ticket()),
            State::Open { until } if now < until => Entry::Refused(Some(until)),
            State::HalfOpen { taken: true } => Entry::Refused(None),
            State::Open { .. } | State::HalfOpen { taken: false } => {
                self.turn_to(State::HalfOpen { taken: true });
                Entry::Turn(self.ticket())
            }
        }
    }

    /// A ticket for what is under way anyhow: it counts only if all goes through.
    pub(crate) fn watch(&self) -> Option<Ticket> {
        matches!(self.state, State::Closed { .. }).then(|| self.ticket())
    }

    /// The server answered.
    pub(crate) fn succeeded(&mut self, ticket: Ticket) {
        match &mut self.state {
            _ if ticket.generation != self.generation => {}
            State::Closed { failures } => *failures = 0,
            State::HalfOpen { .. } => {
                self.openings = 0;
                self.turn_to(State::Closed { failures: 0 });
            }
            State::Open { .. } => {}
        }
    }

    /// The server did not. `jitter` is a fresh random number in 0..1, `asked` how long it wants to be left alone, which is
    /// heeded up to the longest pause. Returns the pause that begins now, if one does.
    pub(crate) fn failed(&mut self, ticket: Ticket, now: Instant, jitter: f64, asked: Duration) -> Option<Duration> {
        match &mut self.state {
            _ if ticket.generation != self.generation => return None,
            State::Closed { failures } => {
                *failures += 1;
                if *failures < self.policy.failures {
                    return None;
                }
            }
            State::HalfOpen { .. } => {}
            State::Open { .. } => return None,
        }
        let pause = self.pause(jitter).max(asked.min(self.policy.pause_max));
        self.openings = self.openings.saturating_add(1);
        self.turn_to(State::Open { until: now + pause });
        Some(pause)
    }

    /// Nothing came of it: a turn is free again, and nothing is counted.
    pub(crate) fn released(&mut self, ticket: Ticket) {
        if ticket.generation == self.generation
            && let State::HalfOpen { .. } = self.state
        {
            self.turn_to(State::HalfOpen { taken: false });
        }
    }

    /// Changes whenever the state does.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// What there is to see.
    pub(crate) fn position(&self) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::Open { .. } => Position::Open,
            State::HalfOpen { .. } => Position::HalfOpen,
        }
    }

    /// How long nothing is sent from now on; `None` when somebody may try.
    pub(crate) fn pause_left(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until - now),
            _ => None,
        }
    }

    /// Doubles with each opening, less up to a fifth by chance: several proxies do not come back together.
    fn pause(&self, jitter: f64) -> Duration {
        let jitter = if (0.0..=1.0).contains(&jitter) { jitter } else { 0.5 };
        let Policy { pause, pause_max, .. } = self.policy;
        let full = pause.saturating_mul(1 << self.openings.min(20)).min(pause_max);
        full - full.mul_f64(0.2 * jitter)
    }

    fn turn_to(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }

    fn ticket(&self) -> Ticket {
        Ticket { generation: self.generation }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: usize },
    Open { until: Instant },
    HalfOpen { taken: bool },
}

#[cfg(test)]
mod tests;
