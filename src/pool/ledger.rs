//! The books of a pool: who has which connection, who waits, what has to be made and what has to go.
//!
//! Pure: no I/O, no clock, no async. Every method tells in [`Orders`] what is to be done once the lock is given back.
//! What a connection takes from the pool is a *place*: from the decision to create it until nothing is left of it.
//! There are never more places than `max` (C-POOL-1), so that a permit that could be lost on the way does not exist.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::mutant::{Mutant, is_on};

/// What a connection is good for. One that is filed under a key serves whoever asks for a key that it fits.
pub(crate) trait Key: Clone + PartialEq {
    /// Whether a connection filed under `held` can serve one who asks for `self`. True where they are equal.
    fn fits(&self, held: &Self) -> bool;
    /// Whether it is kept ahead of need: idleness does not end it.
    fn is_spare(&self) -> bool;
}

/// What a connection can say of itself at any moment, by looking at flags.
pub(crate) trait Pooled {
    /// It lives, as far as its reader knows (C-POOL-10).
    fn is_usable(&self) -> bool;
    /// Nothing is under way on it: no answer is outstanding.
    fn is_quiescent(&self) -> bool;
}

/// How many, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Places.
    pub(crate) max: usize,
    /// Connections that are being created at once.
    pub(crate) creating: usize,
    /// Those who wait without a creation under way for them.
    pub(crate) queue: usize,
    /// Life of an unused connection, from its last return.
    pub(crate) idle: Duration,
    /// Spares.
    pub(crate) spares: usize,
}

/// How often a waiter is passed over in favour of later ones whom the returned connection fits.
const PASSES_MAX: u32 = 8;

/// The number of a place; never used again.
pub(crate) type Place = u64;
/// The number of one who waits; never used again.
pub(crate) type Ticket = u64;

/// Why a connection is closed by the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// It was unused for too long.
    Idle,
    /// It was old.
    Age,
    /// It was found to be broken.
    Broken,
    /// Something on it was given up and did not end in time.
    Dirty,
    /// Its holder wanted it closed.
    Discarded,
    /// Another kind of connection was needed more.
    Evicted,
    /// The pool was closed.
    Closed,
}

impl Reason {
    /// A word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Idle => "idle",
            Reason::Age => "age",
            Reason::Broken => "broken",
            Reason::Dirty => "dirty",
            Reason::Discarded => "discarded",
            Reason::Evicted => "evicted",
            Reason::Closed => "closed",
        }
    }
}

/// What has to be done outside the lock.
#[must_use]
pub(crate) struct Orders<T> {
    /// To be dropped, which closes them.
    pub(crate) close: Vec<(T, Reason)>,
    pub(crate) wake: Vec<Waker>,
    /// [`Ledger::plan`] would find something to do.
    pub(crate) plan: bool,
}

impl<T> Orders<T> {
    pub(crate) fn new() -> Orders<T> {
        Orders { close: Vec::new(), wake: Vec::new(), plan: false }
    }
}

/// A connection that changes hands.
#[derive(Debug)]
pub(crate) struct Held<K, T> {
    pub(crate) place: Place,
    pub(crate) key: K,
    pub(crate) conn: T,
    /// Nobody had it before.
    pub(crate) fresh: bool,
}

/// The answer to [`Ledger::ask`].
pub(crate) enum Ask<K, T> {
    Given(Held<K, T>),
    Wait(Ticket),
    Refused(Refusal),
}

/// Why one who asked gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    /// Too many wait.
    Queue,
    /// A connection would have to be created, and creation rests after failures.
    Resting,
}

/// How waiting ended.
#[derive(Debug)]
pub(crate) enum Outcome<K, T, E> {
    Given(Held<K, T>),
    Refused(Refusal),
    /// The creation failed; without a reason, it panicked.
    Failed(Option<E>),
}

/// How many are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) idle: usize,
    pub(crate) leased: usize,
    pub(crate) creating: usize,
    pub(crate) closing: usize,
    pub(crate) waiting: usize,
}

impl Counts {
    /// Places in use.
    pub(crate) fn live(&self) -> usize {
        self.idle + self.leased + self.creating + self.closing
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Creating {
        /// The process is gone already; the news of its creation is still on its way.
        vacant: bool,
    },
    Idle,
    Leased,
    Closing,
}

struct Row {
    state: State,
    /// When the connection is too old to be used again.
    expires: Option<Instant>,
    born: Option<Instant>,
}

struct Idle<K, T> {
    held: Held<K, T>,
    since: Instant,
}

struct Quarantined<K, T> {
    held: Held<K, T>,
    until: Instant,
}

enum Waiting<K, T, E> {
    Waiting(Option<Waker>),
    Done(Outcome<K, T, E>),
}

struct Waiter<K, T, E> {
    ticket: Ticket,
    key: K,
    state: Waiting<K, T, E>,
    /// A creation is under way that fits.
    covered: bool,
    passed: u32,
}

/// See the module.
pub(crate) struct Ledger<K, T, E> {
    bounds: Bounds,
    spare: Option<K>,
    rows: BTreeMap<Place, Row>,
    /// What is being created, and for which key.
    creating: Vec<(Place, K)>,
    /// Oldest return first.
    idle: Vec<Idle<K, T>>,
    quarantine: Vec<Quarantined<K, T>>,
    /// In the order they came; those whose wait has ended stay until they look.
    waiters: VecDeque<Waiter<K, T, E>>,
    counts: Counts,
    next: u64,
    rests_until: Option<(Instant, bool)>,
    closed: bool,
    on_empty: Vec<Waker>,
}

impl<K: Key, T: Pooled, E> Ledger<K, T, E> {
    /// Nothing yet. `spare` is the key of those that are kept ahead.
    pub(crate) fn new(bounds: Bounds, spare: Option<K>) -> Ledger<K, T, E> {
        Ledger {
            bounds,
            spare,
            rows: BTreeMap::new(),
            creating: Vec::new(),
            idle: Vec::new(),
            quarantine: Vec::new(),
            waiters: VecDeque::new(),
            counts: Counts::default(),
            next: 1,
            rests_until: None,
            closed: false,
            on_empty: Vec::new(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many spares are kept from now on.
    pub(crate) fn keep_spares(&mut self, spares: usize, orders: &mut Orders<T>) {
        self.bounds.spares = spares;
        orders.plan |= self.wants_plan();
    }

    /// No connection is created before this. Whoever needs one to be created waits for that, or is refused.
    pub(crate) fn rest_until(&mut self, until: Option<(Instant, bool)>, orders: &mut Orders<T>) {
        self.rests_until = until;
        orders.plan |= self.wants_plan();
    }

    /// Asks for a connection: the most recently used one that fits, or a place in the queue. [`Ledger::plan`] is due after
    /// it said `Wait`.
    pub(crate) fn ask(&mut self, key: &K, now: Instant, orders: &mut Orders<T>) -> Ask<K, T> {
        if self.closed {
            return Ask::Refused(Refusal::Closed);
        }
        // Whoever waits is fitted by nothing that is idle, so nobody is overtaken.
        while let Some(idle) = self.take_idle(key) {
            match self.why_not(&idle, now) {
                None => {
                    self.set(idle.held.place, State::Leased);
                    return Ask::Given(idle.held);
                }
                Some(reason) => self.discard(idle.held, reason, orders),
            }
        }
        let soon = self.counts.creating + self.bounds.max.saturating_sub(self.rows.len());
        if self.counts.waiting >= self.bounds.queue + soon {
            return Ask::Refused(Refusal::Queue);
        }
        let ticket = self.number();
        self.counts.waiting += 1;
        let state = Waiting::Waiting(None);
        self.waiters.push_back(Waiter { ticket, key: key.clone(), state, covered: false, passed: 0 });
        Ask::Wait(ticket)
    }

    /// Looks how waiting goes; the waker is called when there is news.
    pub(crate) fn poll(&mut self, ticket: Ticket, waker: &Waker) -> Poll<Outcome<K, T, E>> {
        let Some(at) = self.find(ticket) else {
            return Poll::Ready(Outcome::Refused(Refusal::Closed));
        };
        match &mut self.waiters[at].state {
            Waiting::Waiting(slot) => {
                if !slot.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
                    *slot = Some(waker.clone());
                }
                Poll::Pending
            }
            Waiting::Done(_) => match self.waiters.remove(at).map(|waiter| waiter.state) {
                Some(Waiting::Done(outcome)) => Poll::Ready(outcome),
                _ => Poll::Ready(Outcome::Refused(Refusal::Closed)),
            },
        }
    }

    /// Whether a creation is under way for this waiter.
    pub(crate) fn is_covered(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some_and(|at| self.waiters[at].covered)
    }

    /// One who waited does not wait any more. What it had been given goes to the next.
    pub(crate) fn cancel(&mut self, ticket: Ticket, now: Instant, orders: &mut Orders<T>) {
        let Some(waiter) = self.find(ticket).and_then(|at| self.waiters.remove(at)) else { return };
        match waiter.state {
            Waiting::Waiting(_) => self.counts.waiting -= 1,
            Waiting::Done(Outcome::Given(held)) => self.hand(held, now, orders),
            Waiting::Done(_) => {}
        }
    }

    /// Decides what is created, and what has to go for it. Returns what to create: each has to end in
    /// [`Ledger::created`] or [`Ledger::failed`].
    pub(crate) fn plan(&mut self, now: Instant, orders: &mut Orders<T>) -> Vec<(Place, K)> {
        let mut create = Vec::new();
        if self.closed {
            return create;
        }
        let rest = self.rests_until.filter(|(until, _)| now < *until);
        let (resting, refuse) = (rest.is_some(), rest.is_some_and(|(_, refuse)| refuse));
        let mut cover: Vec<K> = self.creating.iter().map(|(_, key)| key.clone()).collect();
        // Those whom nothing that is being created will serve; and among them those for whom there is no place.
        let (mut bare, mut without_place) = (0, 0);
        for at in 0..self.waiters.len() {
            let waiter = &mut self.waiters[at];
            if !matches!(waiter.state, Waiting::Waiting(_)) {
                continue;
            }
            // A spare may take its time until it is known to be ready: one who waits gets a connection of its own.
            let found = cover.iter().position(|key| waiter.key == *key);
            waiter.covered = found.is_some();
            if let Some(found) = found {
                cover.swap_remove(found);
            } else if self.rows.len() >= self.bounds.max {
                (bare, without_place) = (bare + 1, without_place + 1);
            } else if refuse {
                self.finish(at, Outcome::Refused(Refusal::Resting), orders);
            } else if !resting && self.counts.creating < self.bounds.creating {
                waiter.covered = true;
                let key = waiter.key.clone();
                create.push((self.begin(key.clone()), key));
            } else {
                bare += 1;
            }
        }
        // One idle connection, which fits nobody, goes for each of those for whom no closing one makes room.
        while without_place > self.counts.closing && !self.idle.is_empty() {
            let idle = self.idle.remove(0);
            self.discard(idle.held, Reason::Evicted, orders);
        }
        if bare == 0 && !resting {
            self.plan_spares(&mut create);
        }
        create
    }

    fn plan_spares(&mut self, create: &mut Vec<(Place, K)>) {
        let Some(spare) = self.spare.clone() else { return };
        while self.spares() < self.bounds.spares
            && self.rows.len() < self.bounds.max
            && self.counts.creating < self.bounds.creating
        {
            create.push((self.begin(spare.clone()), spare.clone()));
        }
    }

    /// A creation succeeded. `expires` is when the connection is too old.
    pub(crate) fn created(&mut self, place: Place, conn: T, expires: Instant, now: Instant, orders: &mut Orders<T>) {
        let Some((key, vacant)) = self.end_creation(place) else {
            orders.close.push((conn, Reason::Broken));
            return;
        };
        if vacant {
            self.remove(place);
            self.tell_empty(orders);
            orders.close.push((conn, Reason::Broken));
            orders.plan |= self.wants_plan();
            return;
        }
        if let Some(row) = self.rows.get_mut(&place) {
            (row.expires, row.born) = (Some(expires), Some(now));
        }
        self.set(place, State::Leased);
        self.hand(Held { place, key, conn, fresh: true }, now, orders);
    }

    /// A creation failed, or panicked: the first who waits for such a connection is told, and nobody else.
    pub(crate) fn failed(&mut self, place: Place, error: Option<E>, orders: &mut Orders<T>) {
        let Some((key, vacant)) = self.end_creation(place) else { return };
        if vacant {
            self.remove(place);
            self.tell_empty(orders);
        } else {
            // The place is free when nothing is left of what had been begun: see `gone`.
            self.set(place, State::Closing);
        }
        let first =
            self.waiters.iter().position(|waiter| matches!(waiter.state, Waiting::Waiting(_)) && waiter.key.fits(&key));
        if let Some(at) = first {
            self.finish(at, Outcome::Failed(error), orders);
        }
        orders.plan |= self.wants_plan();
    }

    /// A connection comes back, to be used again.
    pub(crate) fn put(&mut self, held: Held<K, T>, now: Instant, orders: &mut Orders<T>) {
        self.hand(Held { fresh: false, ..held }, now, orders);
    }

    /// A connection comes back and is not used again.
    pub(crate) fn discard(&mut self, held: Held<K, T>, reason: Reason, orders: &mut Orders<T>) {
        if self.rows.contains_key(&held.place) {
            self.set(held.place, State::Closing);
        }
        orders.close.push((held.conn, reason));
    }

    /// A connection comes back on which something given up may still be under way: it is used again when that has ended,
    /// and closed when it has not by `until`. Until then it counts as leased.
    pub(crate) fn quarantine(&mut self, held: Held<K, T>, until: Instant, orders: &mut Orders<T>) {
        if self.closed {
            return self.discard(held, Reason::Closed, orders);
        }
        self.quarantine.push(Quarantined { held: Held { fresh: false, ..held }, until });
        // Somebody has to look at it again.
        orders.plan = true;
    }

    /// Nothing is left of what took this place. Returns when the connection was created if nobody had wanted its end.
    pub(crate) fn gone(&mut self, place: Place, orders: &mut Orders<T>) -> Option<Instant> {
        let row = self.rows.get_mut(&place)?;
        let (born, row_state) = (row.born, row.state);
        match row_state {
            State::Creating { .. } => {
                row.state = State::Creating { vacant: true };
                return None;
            }
            State::Idle => {
                if let Some(at) = self.idle.iter().position(|idle| idle.held.place == place) {
                    orders.close.push((self.idle.remove(at).held.conn, Reason::Broken));
                }
            }
            State::Leased => {
                if let Some(at) = self.quarantine.iter().position(|kept| kept.held.place == place) {
                    orders.close.push((self.quarantine.remove(at).held.conn, Reason::Broken));
                }
            }
            State::Closing if is_on(Mutant::PermitLost) => return None,
            State::Closing => {}
        }
        let unasked = row_state != State::Closing;
        self.remove(place);
        self.tell_empty(orders);
        orders.plan |= self.wants_plan();
        born.filter(|_| unasked)
    }

    /// Closes what is too old, unused for too long or broken; looks at what is in quarantine.
    pub(crate) fn sweep(&mut self, now: Instant, orders: &mut Orders<T>) {
        let mut at = 0;
        while at < self.idle.len() {
            match self.why_not(&self.idle[at], now) {
                Some(reason) => {
                    let idle = self.idle.remove(at);
                    self.discard(idle.held, reason, orders);
                }
                None => at += 1,
            }
        }
        let mut at = 0;
        while at < self.quarantine.len() {
            let kept = &self.quarantine[at];
            let reason = match (kept.held.conn.is_usable(), kept.held.conn.is_quiescent()) {
                (false, _) => Some(Reason::Broken),
                (true, true) => None,
                (true, false) if now >= kept.until => Some(Reason::Dirty),
                (true, false) => {
                    at += 1;
                    continue;
                }
            };
            let held = self.quarantine.remove(at).held;
            match reason {
                Some(reason) => self.discard(held, reason, orders),
                None => self.hand(held, now, orders),
            }
        }
        orders.plan |= self.wants_plan();
    }

    /// Whether anything waits for its quarantine to end.
    pub(crate) fn has_quarantine(&self) -> bool {
        !self.quarantine.is_empty()
    }

    /// Closes the pool: those who wait are told, what is idle is closed, what comes back later is closed (C-POOL-7).
    pub(crate) fn close(&mut self, orders: &mut Orders<T>) {
        self.closed = true;
        for at in 0..self.waiters.len() {
            if matches!(self.waiters[at].state, Waiting::Waiting(_)) {
                self.finish(at, Outcome::Refused(Refusal::Closed), orders);
            }
        }
        for idle in std::mem::take(&mut self.idle) {
            self.discard(idle.held, Reason::Closed, orders);
        }
        for kept in std::mem::take(&mut self.quarantine) {
            self.discard(kept.held, Reason::Closed, orders);
        }
    }

    /// Whether all places are free; the waker is called when they are.
    pub(crate) fn poll_empty(&mut self, waker: &Waker) -> Poll<()> {
        if self.rows.is_empty() {
            return Poll::Ready(());
        }
        self.on_empty.retain(|kept| !kept.will_wake(waker));
        self.on_empty.push(waker.clone());
        Poll::Pending
    }

    // === What the above is made of ===

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn find(&self, ticket: Ticket) -> Option<usize> {
        self.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()
    }

    fn spares(&self) -> usize {
        let idle = self.idle.iter().filter(|idle| idle.held.key.is_spare()).count();
        idle + self.creating.iter().filter(|(_, key)| key.is_spare()).count()
    }

    fn wants_plan(&self) -> bool {
        let lacks_spare = self.spare.is_some() && self.bounds.spares > 0 && self.rows.len() < self.bounds.max;
        !self.closed && (self.counts.waiting > 0 || lacks_spare)
    }

    fn begin(&mut self, key: K) -> Place {
        let place = self.number();
        let state = State::Creating { vacant: false };
        self.rows.insert(place, Row { state, expires: None, born: None });
        self.creating.push((place, key));
        self.counts.creating += 1;
        place
    }

    /// What the creation was for, and whether nothing is left of it already. `None` if it is no creation.
    fn end_creation(&mut self, place: Place) -> Option<(K, bool)> {
        let at = self.creating.iter().position(|(creating, _)| *creating == place)?;
        let (_, key) = self.creating.swap_remove(at);
        let vacant = self.rows.get(&place).is_none_or(|row| row.state == State::Creating { vacant: true });
        Some((key, vacant))
    }

    fn tell_empty(&mut self, orders: &mut Orders<T>) {
        if self.rows.is_empty() {
            orders.wake.append(&mut self.on_empty);
        }
    }

    fn take_idle(&mut self, key: &K) -> Option<Idle<K, T>> {
        let exact = self.idle.iter().rposition(|idle| idle.held.key == *key);
        let at = exact.or_else(|| self.idle.iter().rposition(|idle| key.fits(&idle.held.key)))?;
        Some(self.idle.remove(at))
    }

    /// Why an idle connection may not be used; it is off the list or about to be.
    fn why_not(&self, idle: &Idle<K, T>, now: Instant) -> Option<Reason> {
        let expires = self.rows.get(&idle.held.place).and_then(|row| row.expires);
        if !idle.held.conn.is_usable() && !is_on(Mutant::DeadReused) {
            Some(Reason::Broken)
        } else if expires.is_some_and(|at| now >= at) {
            Some(Reason::Age)
        } else if !idle.held.key.is_spare() && now.saturating_duration_since(idle.since) >= self.bounds.idle {
            Some(Reason::Idle)
        } else {
            None
        }
    }

    /// Gives a connection, counted as leased, to the first who waits for such a one, or files it as idle.
    fn hand(&mut self, held: Held<K, T>, now: Instant, orders: &mut Orders<T>) {
        let Some(row) = self.rows.get(&held.place) else {
            orders.close.push((held.conn, Reason::Broken));
            return;
        };
        let old = row.expires.is_some_and(|at| now >= at) && !held.fresh;
        let reason = match () {
            () if self.closed => Some(Reason::Closed),
            () if !held.conn.is_usable() && !is_on(Mutant::DeadReused) => Some(Reason::Broken),
            () if old => Some(Reason::Age),
            () => None,
        };
        if let Some(reason) = reason {
            return self.discard(held, reason, orders);
        }
        let waiters = if is_on(Mutant::ReturnStarves) && !held.fresh { 0 } else { self.waiters.len() };
        let mut passed_over = 0;
        for at in 0..waiters {
            let waiter = &self.waiters[at];
            if !matches!(waiter.state, Waiting::Waiting(_)) {
                continue;
            }
            if waiter.key.fits(&held.key) {
                for earlier in self.waiters.iter_mut().take(at) {
                    if matches!(earlier.state, Waiting::Waiting(_)) && !earlier.covered {
                        earlier.passed += 1;
                    }
                }
                return self.finish(at, Outcome::Given(held), orders);
            }
            if !held.fresh && !waiter.covered && waiter.passed >= PASSES_MAX {
                passed_over += 1;
                if passed_over > self.counts.closing {
                    return self.discard(held, Reason::Evicted, orders);
                }
            }
        }
        self.set(held.place, State::Idle);
        self.idle.push(Idle { held, since: now });
        orders.plan |= self.wants_plan();
    }

    fn finish(&mut self, at: usize, outcome: Outcome<K, T, E>, orders: &mut Orders<T>) {
        let waiter = &mut self.waiters[at];
        if let Waiting::Waiting(waker) = std::mem::replace(&mut waiter.state, Waiting::Done(outcome)) {
            self.counts.waiting -= 1;
            orders.wake.extend(waker);
        }
    }

    fn set(&mut self, place: Place, state: State) {
        let Some(row) = self.rows.get_mut(&place) else { return };
        let before = std::mem::replace(&mut row.state, state);
        *self.count(before) -= 1;
        *self.count(state) += 1;
    }

    fn remove(&mut self, place: Place) {
        if let Some(row) = self.rows.remove(&place) {
            *self.count(row.state) -= 1;
        }
    }

    fn count(&mut self, state: State) -> &mut usize {
        match state {
            State::Creating { .. } => &mut self.counts.creating,
            State::Idle => &mut self.counts.idle,
            State::Leased => &mut self.counts.leased,
            State::Closing => &mut self.counts.closing,
        }
    }
}
