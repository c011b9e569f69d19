//! The books of a pool: who has which connection, who waits, what has to be made and what has to go.
//!
//! Pure: no I/O, no clock, no async. Every method tells in [`Orders`] what is to be done once the lock is given back.
//! What a connection takes from the pool is a *place*: from the decision to create it until nothing is left of it.
//! There are never more places than `max` (C-POOL-1), so that a permit that could be lost on the way does not exist.
//!
//! Between two calls, no idle connection fits anybody who waits: what comes back is handed over at once (C-POOL-3).

mod parts;
mod plan;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::task::{Poll, Waker};
use std::time::Instant;

use super::mutant::{Mutant, is_on};
pub(crate) use parts::{Ask, Bounds, Counts, Held, Key, Lost, Orders, Outcome, Place, Pooled, Reason, Refusal, Ticket};

/// How often a waiter is passed over in favour of later ones whom the returned connection fits.
const PASSES_MAX: u32 = 8;

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

struct Row<K> {
    state: State,
    /// Its key, if there is to be one at most of that.
    single: Option<K>,
    /// When the connection is too old to be used again.
    expires: Option<Instant>,
    born: Option<Instant>,
    /// It is closed because it broke while nobody had it.
    broke: bool,
    /// Its end is counted as a failed start already.
    blamed: bool,
}

struct Creation<K> {
    place: Place,
    key: K,
    /// It is to end with what there is.
    needed: bool,
    waker: Option<Waker>,
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
    /// How often others, who came later, were given something while nothing was under way for this one.
    passed: u32,
}

impl<K, T, E> Waiter<K, T, E> {
    fn waits(&self) -> bool {
        matches!(self.state, Waiting::Waiting(_))
    }
}

/// See the module.
pub(crate) struct Ledger<K, T, E> {
    bounds: Bounds,
    spare: Option<K>,
    rows: BTreeMap<Place, Row<K>>,
    /// What is being created, oldest first.
    creating: Vec<Creation<K>>,
    /// Oldest return first.
    idle: Vec<Idle<K, T>>,
    quarantine: Vec<Quarantined<K, T>>,
    /// In the order they came; those whose wait has ended stay until they look.
    waiters: VecDeque<Waiter<K, T, E>>,
    counts: Counts,
    /// How many wait for the only one of its kind.
    single_waiters: usize,
    next: u64,
    rests_until: Option<Instant>,
    refuses: bool,
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
            single_waiters: 0,
            next: 1,
            rests_until: None,
            refuses: true,
            closed: false,
            on_empty: Vec::new(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Asks for a connection: the most recently used one that fits, or a place in the queue. [`Ledger::plan`] is due after
    /// it said `Wait`.
    pub(crate) fn ask(&mut self, key: &K, now: Instant, orders: &mut Orders<T>) -> Ask<K, T> {
        if self.closed {
            return Ask::Refused(Refusal::Closed);
        }
        // Whoever waits is fitted by nothing that is idle, so nobody is overtaken.
        while let Some(idle) = self.take_idle(key) {
            match self.why_not(&idle, now, idle.held.key.is_spare()) {
                Some(reason) if reason == Reason::Broken || !is_on(Mutant::AgeForgotten) => {
                    self.let_go(idle.held, reason, orders);
                }
                _ => {
                    self.set(idle.held.place, State::Leased);
                    self.look_for_singles(orders);
                    // A spare that is used wants to be replaced.
                    orders.plan |= idle.held.key.is_spare() && self.wants_plan();
                    return Ask::Given(idle.held);
                }
            }
        }
        // Whatever is not leased is on its way to one who waits.
        let soon = self.bounds.max.saturating_sub(self.counts.leased);
        if self.counts.waiting >= self.bounds.queue + soon {
            return Ask::Refused(Refusal::Queue);
        }
        let ticket = self.number();
        self.counts.waiting += 1;
        self.single_waiters += usize::from(key.is_single());
        self.waiters.push_back(Waiter { ticket, key: key.clone(), state: Waiting::Waiting(None), passed: 0 });
        Ask::Wait(ticket)
    }

    /// Looks how waiting goes; the waker is called when there is news. `spent` takes the waker that this one replaces.
    pub(crate) fn poll(&mut self, ticket: Ticket, waker: &Waker, spent: &mut Option<Waker>) -> Poll<Outcome<K, T, E>> {
        let Some(at) = self.find(ticket) else {
            return Poll::Ready(Outcome::Refused(Refusal::Closed));
        };
        match &mut self.waiters[at].state {
            Waiting::Waiting(slot) => {
                if !slot.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
                    *spent = slot.replace(waker.clone());
                }
                Poll::Pending
            }
            Waiting::Done(_) => match self.waiters.remove(at).map(|waiter| waiter.state) {
                Some(Waiting::Done(outcome)) => Poll::Ready(outcome),
                _ => Poll::Ready(Outcome::Refused(Refusal::Closed)),
            },
        }
    }

    /// One who waited does not wait any more. What it had been given goes to the next. Returns an error that it would have
    /// been told.
    pub(crate) fn cancel(&mut self, ticket: Ticket, now: Instant, orders: &mut Orders<T>) -> Option<E> {
        let waiter = self.find(ticket).and_then(|at| self.waiters.remove(at))?;
        match waiter.state {
            Waiting::Waiting(waker) => {
                self.counts.waiting -= 1;
                self.single_waiters -= usize::from(waiter.key.is_single());
                orders.spent.extend(waker);
                self.look_for_singles(orders);
                None
            }
            Waiting::Done(Outcome::Given(held)) if is_on(Mutant::CancelLoses) => {
                std::mem::forget(held);
                None
            }
            Waiting::Done(Outcome::Given(held)) => {
                self.hand(held, now, orders);
                None
            }
            Waiting::Done(Outcome::Failed(error)) => error,
            Waiting::Done(Outcome::Refused(_)) => None,
        }
    }

    /// A creation succeeded. `expires` is when the connection is too old. Returns whether the connection works.
    pub(crate) fn created(
        &mut self,
        place: Place,
        conn: T,
        expires: Instant,
        now: Instant,
        orders: &mut Orders<T>,
    ) -> bool {
        let Some((key, vacant)) = self.end_creation(place, orders) else {
            orders.close.push((conn, None));
            return false;
        };
        let works = !vacant && (conn.is_usable() || is_on(Mutant::DeadReused));
        if vacant {
            self.remove(place, orders);
            orders.close.push((conn, Some(Reason::Broken)));
        } else {
            if let Some(row) = self.rows.get_mut(&place) {
                (row.expires, row.born) = (Some(expires), Some(now));
            }
            self.set(place, State::Leased);
            let held = Held { place, key, conn, fresh: true };
            match works {
                true => self.hand(held, now, orders),
                false => self.discard(held, Reason::Broken, orders),
            }
        }
        // There is room for another creation, and whom it was meant for may have nothing under way any more.
        orders.plan |= self.wants_plan() && !is_on(Mutant::NextForgotten);
        works
    }

    /// A creation failed, or panicked: the first of those for whom it was made is told, and nobody else. Returns the error
    /// if there is none.
    pub(crate) fn failed(&mut self, place: Place, error: Option<E>, orders: &mut Orders<T>) -> Option<E> {
        let Some((key, vacant)) = self.end_creation(place, orders) else { return error };
        if vacant {
            self.remove(place, orders);
        } else {
            // The place is free when nothing is left of what had been begun: see `gone`.
            self.set(place, State::Closing);
        }
        orders.plan |= self.wants_plan();
        // Not one for whom another creation is under way, and whom this one, a spare, would have served as well.
        match self.waiters.iter().position(|waiter| waiter.waits() && waiter.key == key) {
            Some(at) => {
                self.finish(at, Outcome::Failed(error), orders);
                None
            }
            None => error,
        }
    }

    /// A connection comes back, to be used again.
    pub(crate) fn put(&mut self, held: Held<K, T>, now: Instant, orders: &mut Orders<T>) {
        self.hand(Held { fresh: false, ..held }, now, orders);
    }

    /// A connection comes back and is not used again.
    pub(crate) fn discard(&mut self, held: Held<K, T>, reason: Reason, orders: &mut Orders<T>) {
        let known = self.rows.contains_key(&held.place);
        if known {
            self.set(held.place, State::Closing);
            self.look_for_singles(orders);
        }
        orders.close.push((held.conn, known.then_some(reason)));
    }

    /// A connection comes back on which something given up may still be under way: it is used again when that has ended,
    /// and closed when it has not by `until`. Until then it counts as leased.
    pub(crate) fn quarantine(&mut self, held: Held<K, T>, until: Instant, orders: &mut Orders<T>) {
        if self.closed || !self.rows.contains_key(&held.place) {
            return self.discard(held, Reason::Closed, orders);
        }
        self.quarantine.push(Quarantined { held: Held { fresh: false, ..held }, until });
        // Somebody has to look at it again.
        orders.plan = true;
    }

    /// Nothing is left of what took this place.
    pub(crate) fn gone(&mut self, place: Place, orders: &mut Orders<T>) -> Option<Lost> {
        let row = self.rows.get_mut(&place)?;
        let (born, state, broke, blamed) = (row.born, row.state, row.broke, row.blamed);
        match state {
            State::Creating { .. } => {
                row.state = State::Creating { vacant: true };
                self.look_for_singles(orders);
                return None;
            }
            State::Idle => {
                if let Some(at) = self.idle.iter().position(|idle| idle.held.place == place) {
                    orders.close.push((self.idle.remove(at).held.conn, None));
                }
            }
            State::Leased => {
                if let Some(at) = self.quarantine.iter().position(|kept| kept.held.place == place) {
                    orders.close.push((self.quarantine.remove(at).held.conn, None));
                }
            }
            State::Closing if is_on(Mutant::PermitLost) => return None,
            State::Closing => {}
        }
        self.remove(place, orders);
        orders.plan |= self.wants_plan();
        let unnoticed = state != State::Closing;
        born.filter(|_| unnoticed || broke).map(|born| Lost { born, unnoticed, blamed })
    }

    /// Its holder found that a connection does not work. Returns whether that is news: its end may have been noticed.
    pub(crate) fn blame(&mut self, place: Place) -> bool {
        let row = self.rows.get_mut(&place);
        row.is_some_and(|row| !std::mem::replace(&mut row.blamed, true))
    }

    /// Closes the pool: those who wait are told, what is idle is closed, what comes back later is closed (C-POOL-7).
    pub(crate) fn close(&mut self, orders: &mut Orders<T>) {
        self.closed = true;
        for at in 0..if is_on(Mutant::CloseForgets) { 0 } else { self.waiters.len() } {
            if self.waiters[at].waits() {
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
        if !self.on_empty.iter().any(|kept| kept.will_wake(waker)) {
            self.on_empty.push(waker.clone());
        }
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

    fn take_idle(&mut self, key: &K) -> Option<Idle<K, T>> {
        if is_on(Mutant::IdleOldest) {
            let at = self.idle.iter().position(|idle| key.fits(&idle.held.key))?;
            return Some(self.idle.remove(at));
        }
        let exact = self.idle.iter().rposition(|idle| idle.held.key == *key);
        let at = exact.or_else(|| self.idle.iter().rposition(|idle| key.fits(&idle.held.key)))?;
        Some(self.idle.remove(at))
    }

    /// Gives a connection, counted as leased, to the first who waits for such a one, or files it as idle.
    fn hand(&mut self, held: Held<K, T>, now: Instant, orders: &mut Orders<T>) {
        let reason = match self.rows.get_mut(&held.place) {
            _ if self.closed => Some(Reason::Closed),
            _ if !held.conn.is_usable() && !is_on(Mutant::DeadReused) => Some(Reason::Broken),
            // Its place was given back while it was leased: it is dead, whatever it says.
            None => Some(Reason::Broken),
            Some(row) if !held.fresh && row.expires.is_some_and(|at| now >= at) => Some(Reason::Age),
            Some(row) => {
                row.single = held.key.is_single().then(|| held.key.clone());
                None
            }
        };
        if let Some(reason) = reason {
            return self.let_go(held, reason, orders);
        }
        self.look_for_singles(orders);
        let starves = is_on(Mutant::ReturnStarves) && !held.fresh;
        let first = self.waiters.iter().position(|waiter| waiter.waits() && waiter.key.fits(&held.key) && !starves);
        let Some(first) = first else {
            self.set(held.place, State::Idle);
            self.idle.push(Idle { held, since: now });
            self.make_room(now, orders);
            orders.plan |= self.wants_plan();
            return;
        };
        let passed = self.wanting(first);
        if !held.fresh && self.passed_enough(&passed, now) {
            return self.let_go(held, Reason::Evicted, orders);
        }
        for at in passed {
            self.waiters[at].passed += 1;
        }
        // A spare that is used wants to be replaced.
        orders.plan |= held.key.is_spare() && self.wants_plan();
        self.finish(first, Outcome::Given(held), orders);
    }

    /// Closes a connection that nobody has.
    fn let_go(&mut self, held: Held<K, T>, reason: Reason, orders: &mut Orders<T>) {
        if let Some(row) = self.rows.get_mut(&held.place) {
            row.broke = reason == Reason::Broken;
        }
        self.discard(held, reason, orders);
    }

    fn finish(&mut self, at: usize, outcome: Outcome<K, T, E>, orders: &mut Orders<T>) {
        let waiter = &mut self.waiters[at];
        if let Waiting::Waiting(waker) = std::mem::replace(&mut waiter.state, Waiting::Done(outcome)) {
            self.counts.waiting -= 1;
            self.single_waiters -= usize::from(waiter.key.is_single());
            orders.wake.extend(waker);
        }
        self.look_for_singles(orders);
    }

    /// Who has the only one of a kind, and who is the first to wait for it, decides for how many others something has to be created:
    /// whatever changes, it has to be looked at again while somebody waits so.
    fn look_for_singles(&self, orders: &mut Orders<T>) {
        orders.plan |= self.single_waiters > 0 && self.wants_plan();
    }

    fn set(&mut self, place: Place, state: State) {
        let Some(row) = self.rows.get_mut(&place) else { return };
        let before = std::mem::replace(&mut row.state, state);
        *self.count(before) -= 1;
        *self.count(state) += 1;
    }

    fn remove(&mut self, place: Place, orders: &mut Orders<T>) {
        if let Some(row) = self.rows.remove(&place) {
            *self.count(row.state) -= 1;
        }
        if self.rows.is_empty() {
            orders.wake.append(&mut self.on_empty);
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
