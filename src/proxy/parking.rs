//! Calls at servers with a handshake that wait for their clients to come back with answers (2026-07-28, Multi Round-Trip
//! Requests). What a client brings back is a token that nobody else can make, for one use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use crate::backend::key::Principal;
use crate::bridge::seal::{Binding, Entropy, Sealer, Ticket};
use crate::metrics::{GaugeGuard, ServerMetrics};
use crate::settings::{Limits, Timeouts};

/// How long a key is used, unless tokens live longer.
const KEY_LIFE: Duration = Duration::from_secs(3600);

/// The places of one upstream, for what is parked there.
pub(crate) struct Parking<T> {
    node: u64,
    began: Instant,
    max: usize,
    max_per_principal: usize,
    key_life: Duration,
    metrics: ServerMetrics,
    /// Held for a look or a change.
    state: Mutex<State<T>>,
}

struct State<T> {
    taken: HashMap<[u8; 16], Place<T>>,
    /// Made when it is needed.
    sealer: Option<(Sealer, Instant)>,
}

struct Place<T> {
    principal: Option<Principal>,
    /// Tells who keeps it whom to give it to.
    wanted: oneshot::Sender<oneshot::Sender<T>>,
    _counted: GaugeGuard,
}

/// A place that is taken. Dropping it frees it: the token is of no use any more.
pub(crate) struct Spot<T> {
    parking: Arc<Parking<T>>,
    place: [u8; 16],
    wanted: oneshot::Receiver<oneshot::Sender<T>>,
}

impl<T> Spot<T> {
    /// Waits for the client to come back; then it is its. `None` never comes while the place is there.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn wanted(&mut self) -> Option<oneshot::Sender<T>> {
        (&mut self.wanted).await.ok()
    }
}

impl<T> Drop for Spot<T> {
    fn drop(&mut self) {
        let place = self.parking.state().taken.remove(&self.place);
        drop(place);
    }
}

impl<T> Parking<T> {
    pub(crate) fn new(limits: &Limits, timeouts: &Timeouts, metrics: ServerMetrics) -> Parking<T> {
        let mut node = [0; 8];
        // Without chance there are no keys either: nothing is ever parked.
        let _ = getrandom::fill(&mut node);
        Parking {
            node: u64::from_be_bytes(node),
            began: Instant::now(),
            max: limits.parked,
            max_per_principal: limits.parked_per_principal,
            key_life: KEY_LIFE.max(timeouts.parked),
            metrics,
            state: Mutex::new(State { taken: HashMap::new(), sealer: None }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a place, and makes the token for it. `None` if there are as many as there may be.
    pub(crate) fn park(
        self: &Arc<Self>,
        principal: Option<Principal>,
        binding: &Binding,
        expires: Instant,
    ) -> Option<(String, Spot<T>)> {
        let (mut place, mut nonce): ([u8; 16], [u8; 12]) = Default::default();
        getrandom::fill(&mut place).and_then(|()| getrandom::fill(&mut nonce)).ok()?;
        let mut state = self.state();
        let of_principal = || state.taken.values().filter(|place| place.principal == principal).count();
        if state.taken.len() >= self.max || (principal.is_some() && of_principal() >= self.max_per_principal) {
            return None;
        }
        let ticket = Ticket { node: self.node, place, expires: self.at(expires) };
        let token = state.sealer(self.key_life)?.seal(&ticket, binding, nonce);
        let (wants, wanted) = oneshot::channel();
        let _counted = self.metrics.parked();
        state.taken.insert(place, Place { principal, wanted: wants, _counted });
        Some((token, Spot { parking: Arc::clone(self), place, wanted }))
    }

    /// Takes back what is parked under a token: only the first gets it. What comes out of the receiver is it, if it is still
    /// there then. `None` for every token that is of no use, whatever is wrong with it.
    pub(crate) fn take(&self, token: &str, binding: &Binding) -> Option<oneshot::Receiver<T>> {
        let now = self.at(Instant::now());
        let mut state = self.state();
        let ticket = state.sealer.as_ref()?.0.open(token, binding, now)?;
        let place = state.taken.remove(&ticket.place).filter(|_| ticket.node == self.node)?;
        drop(state);
        let (give, given) = oneshot::channel();
        place.wanted.send(give).ok()?;
        Some(given)
    }
}

impl<T> State<T> {
    /// Keys are replaced so late that what was sealed with the last one has expired when it is forgotten.
    fn sealer(&mut self, key_life: Duration) -> Option<&Sealer> {
        let fresh = || {
            let mut entropy: Entropy = [0; 36];
            getrandom::fill(&mut entropy).ok().map(|()| entropy)
        };
        match &mut self.sealer {
            Some((_, since)) if since.elapsed() < key_life => {}
            Some((sealer, since)) => {
                sealer.rotate(&fresh()?);
                *since = Instant::now();
            }
            none => *none = Some((Sealer::new(&fresh()?), Instant::now())),
        }
        self.sealer.as_ref().map(|(sealer, _)| sealer)
    }
}
