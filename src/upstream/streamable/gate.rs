//! The way to one server: the circuit that closes it when the server keeps failing, and how many lost streams are connected
//! again at the same time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Duration, Instant, sleep_until};

use super::failure::retry_after;
use crate::metrics::{CircuitAt, StreamMetrics};
use crate::protocol::message::{Kind, Message};
use crate::rt::chance;
use crate::settings::{Limits, Timeouts};
use crate::upstream::circuit::{Circuit, Entry, Policy, Position, Ticket};
use crate::upstream::error::UpstreamError;
use crate::upstream::http::{Body, HttpError, Response};

/// See the module.
pub(in crate::upstream) struct Gate {
    /// Held for one step of the circuit, never over an await.
    circuit: Mutex<Circuit>,
    /// Told when the circuit is not where it was.
    changed: Notify,
    reconnecting: Semaphore,
    metrics: Arc<StreamMetrics>,
}

/// What may be done now.
pub(in crate::upstream) enum Entered {
    /// Send it.
    Pass(Pass),
    /// Ask the server something harmless first.
    Turn(Pass),
}

/// Something that is on its way to the server. Dropped without [`responded`](Pass::responded), it says nothing about the server:
/// those who ask go away for reasons of their own.
pub(in crate::upstream) struct Pass {
    gate: Arc<Gate>,
    ticket: Option<Ticket>,
    /// Whoever gives it up after this has waited for too long.
    late: Option<Instant>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server answered, whatever it said.
    Answered,
    /// It cannot be reached, or went away; or whoever stands before it says that.
    Failed,
    /// Neither.
    Unknown,
}

impl Outcome {
    /// What a response, or its absence, says about the server. Its errors in JSON-RPC are answers; a gateway's statuses
    /// without such an error are not.
    fn of(response: &Result<Response, HttpError>, depth: usize) -> Outcome {
        use StatusCode as S;
        match response {
            Err(HttpError::Unsent(_) | HttpError::Lost(_) | HttpError::Timeout { .. }) => Outcome::Failed,
            Err(HttpError::Protocol(_)) => Outcome::Answered,
            Err(HttpError::OtherOrigin) => Outcome::Unknown,
            Ok(Response { status: S::BAD_GATEWAY | S::SERVICE_UNAVAILABLE | S::GATEWAY_TIMEOUT, body, .. }) => {
                let is_error = |text| Message::parse(text, depth).is_ok_and(|message| message.kind() == Kind::Error);
                match body {
                    Body::Json(text) if is_error(text.clone()) => Outcome::Answered,
                    _ => Outcome::Failed,
                }
            }
            Ok(_) => Outcome::Answered,
        }
    }
}

impl Gate {
    pub(super) fn new(limits: &Limits, timeouts: &Timeouts, metrics: Arc<StreamMetrics>) -> Arc<Gate> {
        let policy = Policy {
            failures: limits.circuit_failures,
            pause: timeouts.circuit_open,
            pause_max: timeouts.circuit_open_max,
        };
        Arc::new(Gate {
            circuit: Mutex::new(Circuit::new(policy)),
            changed: Notify::new(),
            reconnecting: Semaphore::new(limits.reconnecting),
            metrics,
        })
    }

    /// Asks to send something.
    ///
    /// # Errors
    /// [`UpstreamError::CircuitOpen`]: nothing is sent now.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Entered, UpstreamError> {
        self.try_enter().map_err(|until| {
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            UpstreamError::CircuitOpen { seconds: whole_seconds(left) }
        })
    }

    /// Waits until something may be sent.
    ///
    /// # Cancel safety
    /// Nothing is held while it waits.
    pub(super) async fn wait(self: &Arc<Self>) -> Entered {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = match self.try_enter() {
                Ok(entered) => return entered,
                Err(until) => until,
            };
            match until {
                Some(until) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until) => {}
                },
                None => changed.await,
            }
        }
    }

    fn try_enter(self: &Arc<Self>) -> Result<Entered, Option<Instant>> {
        match self.step(|circuit, now| circuit.enter(now)) {
            Entry::Pass(ticket) => Ok(Entered::Pass(self.pass(Some(ticket)))),
            Entry::Turn(ticket) => Ok(Entered::Turn(self.pass(Some(ticket)))),
            Entry::Refused(until) => Err(until.map(Instant::from_std)),
        }
    }

    /// For what is sent anyhow: it counts, unless the circuit is not closed.
    pub(in crate::upstream) fn watch(self: &Arc<Self>) -> Pass {
        self.pass(self.circuit().watch())
    }

    /// One of the few places for connecting a lost stream again; first come, first served (C-SSE-10).
    ///
    /// # Cancel safety
    /// The place in the queue is lost.
    pub(in crate::upstream) async fn reconnecting(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.reconnecting.acquire().await.ok()
    }

    /// For how long nothing is sent; `None` if somebody may try.
    pub(super) fn pause_left(&self) -> Option<Duration> {
        self.circuit().pause_left(Instant::now().into_std())
    }

    fn pass(self: &Arc<Self>, ticket: Option<Ticket>) -> Pass {
        Pass { gate: Arc::clone(self), ticket, late: None }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the circuit, and whoever has to know of it is told.
    fn step<T>(&self, step: impl FnOnce(&mut Circuit, std::time::Instant) -> T) -> T {
        let mut circuit = self.circuit();
        let before = circuit.generation();
        let result = step(&mut circuit, Instant::now().into_std());
        if circuit.generation() != before {
            // Under the lock, so that the last word is the newest.
            self.metrics.circuit(match circuit.position() {
                Position::Closed => CircuitAt::Closed,
                Position::Open => CircuitAt::Open,
                Position::HalfOpen => CircuitAt::HalfOpen,
            });
            drop(circuit);
            self.changed.notify_waiters();
        }
        result
    }
}

impl Pass {
    /// Whoever gives it up later than this has waited for too long, which is the server's failure.
    pub(super) fn late_at(mut self, late: Instant) -> Pass {
        self.late = Some(late);
        self
    }

    /// Tells what came back.
    pub(in crate::upstream) fn responded(mut self, response: &Result<Response, HttpError>, depth: usize) {
        let asked = response.as_ref().ok().and_then(retry_after).unwrap_or_default();
        self.end(Outcome::of(response, depth), asked);
    }

    /// Tells what became of it, and for how long the server asked to be left alone.
    fn end(&mut self, outcome: Outcome, asked: Duration) {
        let Some(ticket) = self.ticket.take() else { return };
        let upstream = self.gate.metrics.name();
        match outcome {
            Outcome::Answered => {
                let closed = self.gate.step(|circuit, _| {
                    let before = circuit.position();
                    circuit.succeeded(ticket);
                    before != circuit.position()
                });
                if closed {
                    tracing::info!(upstream, "Server answers again");
                }
            }
            Outcome::Failed => {
                let opened = self.gate.step(|circuit, now| circuit.failed(ticket, now, chance(), asked));
                if let Some(pause) = opened {
                    self.gate.metrics.opened();
                    tracing::warn!(upstream, ?pause, "Server keeps failing: nothing is sent to it for a while");
                }
            }
            Outcome::Unknown => self.gate.step(|circuit, _| circuit.released(ticket)),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let late = self.late.is_some_and(|late| Instant::now() >= late);
        self.end(if late { Outcome::Failed } else { Outcome::Unknown }, Duration::ZERO);
    }
}

/// Rounded up, so that nobody comes back too early; never zero, which would be "at once".
pub(super) fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests;
