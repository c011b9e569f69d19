//! Which connections are created, and which go to make room for them.

use std::task::{Poll, Waker};
use std::time::Instant;

use super::super::mutant::{Mutant, is_on};
use super::{Creation, Key, Ledger, Orders, Outcome, PASSES_MAX, Place, Pooled, Reason, Refusal, Row, State, Ticket};

impl<K: Key, T: Pooled, E> Ledger<K, T, E> {
    /// Decides what is created, and what has to go for it. Returns what to create: each has to end in
    /// [`Ledger::created`] or [`Ledger::failed`].
    pub(crate) fn plan(&mut self, now: Instant, orders: &mut Orders<T>) -> Vec<(Place, K)> {
        let mut create = Vec::new();
        if self.closed {
            return create;
        }
        let resting = self.is_resting(now);
        // First come, first served.
        let all = self.waiters.len();
        for at in if resting { self.unserved(all) } else { self.wanting(all) } {
            if self.rows.len() >= self.bounds.max {
                break;
            }
            if resting && self.refuses {
                self.finish(at, Outcome::Refused(Refusal::Resting), orders);
            } else if !resting && self.counts.creating < self.bounds.creating {
                let key = self.waiters[at].key.clone();
                create.push((self.begin(key.clone()), key));
            } else {
                break;
            }
        }
        self.make_room(now, orders);
        self.need_spares(orders);
        // Spares come after those who wait.
        if !resting && (self.counts.waiting == 0 || self.wanting(self.waiters.len()).is_empty()) {
            self.plan_spares(&mut create);
        }
        create
    }

    fn plan_spares(&mut self, create: &mut Vec<(Place, K)>) {
        let Some(spare) = self.spare.clone() else { return };
        while self.lacks_spare() && self.counts.creating < self.bounds.creating {
            create.push((self.begin(spare.clone()), spare.clone()));
        }
    }

    /// A spare takes its time until it is known to be ready, but not from those for whom nothing can be made: one for each of
    /// them has to do as it is. It goes to somebody whom it fits, or makes room.
    fn need_spares(&mut self, orders: &mut Orders<T>) {
        if is_on(Mutant::SparesFirst) {
            return;
        }
        let wanting = self.wanting(self.waiters.len()).len();
        for creation in self.creating.iter_mut().filter(|creation| creation.key.is_spare()).take(wanting) {
            creation.needed = true;
            orders.wake.extend(creation.waker.take());
        }
    }

    /// Looks whether a creation has to do with what there is, since somebody waits for its place; the waker is called when
    /// it has. `spent` takes the waker that this one replaces.
    pub(crate) fn poll_needed(&mut self, place: Place, waker: &Waker, spent: &mut Option<Waker>) -> Poll<()> {
        match self.creating.iter_mut().find(|creation| creation.place == place) {
            Some(creation) if creation.needed => Poll::Ready(()),
            Some(creation) => {
                if !creation.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
                    *spent = creation.waker.replace(waker.clone());
                }
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// Whether a creation has to do with what there is.
    pub(crate) fn is_needed(&self, place: Place) -> bool {
        self.creating.iter().any(|creation| creation.place == place && creation.needed)
    }

    /// How many spares are kept from now on.
    pub(crate) fn keep_spares(&mut self, spares: usize, orders: &mut Orders<T>) {
        self.bounds.spares = spares;
        orders.plan |= self.wants_plan();
    }

    /// Whether those who need a connection to be created are refused while creation rests, or wait. They are refused unless
    /// this says otherwise.
    pub(crate) fn refuse_while_resting(&mut self, refuse: bool) {
        self.refuses = refuse;
    }

    /// No connection is created before this.
    pub(crate) fn rest_until(&mut self, until: Option<Instant>, orders: &mut Orders<T>) {
        self.rests_until = until;
        orders.plan |= self.wants_plan();
    }

    /// Whether a creation is under way for one who waits.
    pub(crate) fn is_covered(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some_and(|at| self.waiters[at].waits() && !self.uncovered(at + 1).contains(&at))
    }

    /// Those of the first `end` in the queue who wait and for whom nothing is being created. A creation is for the first
    /// who waits for that very key: a spare may take its time until it is known to be ready, so that one who waits gets a
    /// connection of its own.
    pub(super) fn uncovered(&self, end: usize) -> Vec<usize> {
        let mut cover: Vec<&K> = self.creating.iter().map(|creation| &creation.key).collect();
        let mut uncovered = Vec::new();
        for (at, waiter) in self.waiters.iter().enumerate().take(end).filter(|(_, waiter)| waiter.waits()) {
            match cover.iter().position(|key| waiter.key == **key) {
                Some(found) => drop(cover.swap_remove(found)),
                None => uncovered.push(at),
            }
        }
        uncovered
    }

    /// Those of them who do not wait for the only one of its kind that there is.
    fn unserved(&self, end: usize) -> Vec<usize> {
        let mut unserved = self.uncovered(end);
        unserved.retain(|at| !self.waiters[*at].key.is_single() || !self.is_taken(&self.waiters[*at].key));
        unserved
    }

    /// Those of them for whom one is to be created: of one kind only the first, where there is to be only one.
    pub(super) fn wanting(&self, end: usize) -> Vec<usize> {
        let mut wanting = self.unserved(end);
        let mut singles: Vec<&K> = Vec::new();
        wanting.retain(|at| {
            let key = &self.waiters[*at].key;
            let is_first = !singles.contains(&key);
            singles.extend(key.is_single().then_some(key));
            is_first
        });
        wanting
    }

    /// Whether somebody has the only one of this kind, or it is being made.
    fn is_taken(&self, key: &K) -> bool {
        let in_use = |state| matches!(state, State::Creating { vacant: false } | State::Leased);
        self.rows.values().any(|row| in_use(row.state) && row.single.as_ref() == Some(key))
    }

    /// One idle connection, which fits nobody who waits, goes for each of those who need a place and for whom no closing
    /// one makes room. Not while nothing would be created in its place.
    pub(super) fn make_room(&mut self, now: Instant, orders: &mut Orders<T>) {
        if self.counts.waiting == 0 || self.idle.is_empty() || self.is_resting(now) {
            return;
        }
        let free = self.bounds.max.saturating_sub(self.rows.len());
        let without_place = self.wanting(self.waiters.len()).len().saturating_sub(free);
        while without_place > self.counts.closing && !self.idle.is_empty() {
            let idle = self.idle.remove(0);
            self.let_go(idle.held, Reason::Evicted, orders);
        }
    }

    /// Whether more of these, who would be passed over once more, have waited long enough than places become free anyway.
    /// Then a connection that fits a later one goes, to make room.
    pub(super) fn passed_enough(&self, passed: &[usize], now: Instant) -> bool {
        let starving = passed.iter().filter(|at| self.waiters[**at].passed >= PASSES_MAX).count();
        starving > self.counts.closing && !self.is_resting(now) && !is_on(Mutant::PassesForgotten)
    }

    pub(super) fn wants_plan(&self) -> bool {
        !self.closed && (self.counts.waiting > 0 || self.lacks_spare())
    }

    fn lacks_spare(&self) -> bool {
        let room = self.spare.is_some() && self.rows.len() < self.bounds.max;
        room && self.spares() < self.bounds.spares
    }

    fn spares(&self) -> usize {
        let idle = self.idle.iter().filter(|idle| idle.held.key.is_spare()).count();
        idle + self.creating.iter().filter(|creation| creation.key.is_spare()).count()
    }

    fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    fn begin(&mut self, key: K) -> Place {
        let place = self.number();
        let state = State::Creating { vacant: false };
        let single = key.is_single().then(|| key.clone());
        self.rows.insert(place, Row { state, single, expires: None, born: None, broke: false, blamed: false });
        self.creating.push(Creation { place, key, needed: false, waker: None });
        self.counts.creating += 1;
        place
    }

    /// What the creation was for, and whether nothing is left of it already. `None` if it is no creation.
    pub(super) fn end_creation(&mut self, place: Place, orders: &mut Orders<T>) -> Option<(K, bool)> {
        let at = self.creating.iter().position(|creation| creation.place == place)?;
        let Creation { key, waker, .. } = self.creating.remove(at);
        orders.spent.extend(waker);
        let vacant = self.rows.get(&place).is_none_or(|row| row.state == State::Creating { vacant: true });
        Some((key, vacant))
    }
}
