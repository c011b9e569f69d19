//! A ledger and its model side by side: every step is taken by both, and compared after.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::super::ledger::{Ask, Bounds, Held, Key, Ledger, Orders, Outcome, Place, Pooled, Reason, Refusal, Ticket};
use super::model::{At, End, K, Model, SPARE, Thing, Waiter, Who};

/// A connection that is nothing but its flags.
#[derive(Debug, Clone)]
pub(super) struct Conn {
    pub(super) place: Place,
    dead: Rc<Cell<bool>>,
    busy: Rc<Cell<bool>>,
}

impl Pooled for Conn {
    fn is_usable(&self) -> bool {
        !self.dead.get()
    }

    fn is_quiescent(&self) -> bool {
        !self.busy.get()
    }
}

/// Whether a waiter was woken.
#[derive(Default)]
pub(super) struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Real = Ledger<K, Conn, &'static str>;

/// What happened in a step, besides its answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    pub(super) closed: Vec<(Place, Option<Reason>)>,
    pub(super) plan: bool,
}

pub(super) struct Books {
    real: Real,
    pub(super) model: Model,
    start: Instant,
    /// What was created, alive or not, with its flags.
    conns: Vec<Conn>,
    /// What holders have.
    pub(super) held: Vec<Held<K, Conn>>,
    /// Those who asked, wait or have not looked, and their bells once they have looked.
    pub(super) tickets: Vec<(Ticket, Option<Arc<Bell>>)>,
    /// In the order they went there.
    quarantine: Vec<Place>,
    used: BTreeSet<Place>,
    /// A plan was called for since the last one.
    pub(super) due: bool,
    all_gone: Arc<Bell>,
}

impl Books {
    pub(super) fn new(bounds: Bounds) -> Books {
        Books {
            real: Ledger::new(bounds.clone(), Some(SPARE)),
            model: Model::new(bounds),
            start: tokio::time::Instant::now().into_std(),
            conns: Vec::new(),
            held: Vec::new(),
            tickets: Vec::new(),
            quarantine: Vec::new(),
            used: BTreeSet::new(),
            // As the shell does when it makes a pool.
            due: true,
            all_gone: Arc::default(),
        }
    }

    fn now(&self) -> Instant {
        self.start + self.model.now
    }

    /// Lets both carry out a step, and compares what was dropped, who was woken, and all that must hold at any time.
    fn both<R>(
        &mut self,
        real: impl FnOnce(&mut Real, Instant, &mut Orders<Conn>) -> R,
        model: impl FnOnce(&mut Model, &R),
    ) -> (R, Step) {
        let now = self.now();
        let mut orders = Orders::new();
        let answer = real(&mut self.real, now, &mut orders);
        model(&mut self.model, &answer);
        let mut closed: Vec<_> = orders.close.iter().map(|(conn, reason)| (conn.place, *reason)).collect();
        closed.sort();
        let mut expected = std::mem::take(&mut self.model.dropped);
        expected.sort();
        assert_eq!(closed, expected, "what is closed, and why");
        orders.wake.into_iter().for_each(Waker::wake);
        self.due |= orders.plan;
        self.invariants();
        (answer, Step { closed, plan: orders.plan })
    }

    fn invariants(&mut self) {
        let (counts, model) = (self.real.counts(), &self.model);
        assert!(counts.live() <= model.bounds.max, "C-POOL-1: {counts:?}");
        assert_eq!(counts, model.counts(), "C-POOL-1, -2: every place is counted once, where it is");
        let waits = counts.waiting;
        assert!(waits <= model.bounds.queue + model.bounds.max, "the queue is bounded: {waits}");
        for idle in &model.idle {
            let key = model.things.iter().find(|thing| thing.place == *idle).expect("known").key;
            let served = model.waiting.iter().any(|waiter| waiter.key.fits(&key));
            assert!(!served, "C-POOL-3: {key:?} is idle, and somebody waits for it");
        }
        if model.closed {
            assert_eq!(
                (counts.idle, counts.waiting),
                (0, 0),
                "C-POOL-7: nothing is idle and nobody waits after closing"
            );
        }
        for thing in &model.things {
            assert_eq!(
                self.real.is_needed(thing.place),
                thing.who == Who::Creating && thing.needed,
                "whom a spare delays"
            );
        }
        for (ticket, bell) in &self.tickets {
            let ended = model.ended.iter().any(|(ended, _)| ended == ticket);
            if let Some(bell) = bell {
                assert_eq!(bell.0.load(Ordering::Relaxed), ended, "C-POOL-3: whoever waits is woken when it is over");
            }
            assert_eq!(self.real.is_covered(*ticket), model.covered(*ticket), "who has a creation under way");
        }
        if counts.live() == 0 {
            assert!(
                self.real.poll_empty(&Waker::from(Arc::clone(&self.all_gone))).is_ready(),
                "C-POOL-2: all are free"
            );
        }
        if !self.due {
            let mut ahead = self.model.clone();
            let create = ahead.plan();
            ahead.need_spares();
            assert!(create.is_empty(), "nobody called for a plan, and {create:?} is to be created");
            let needed = |model: &Model| model.things.iter().filter(|thing| thing.needed).count();
            assert_eq!(needed(&ahead), needed(&self.model), "nobody called for a plan that needs a spare");
            assert_eq!(ahead.dropped, [], "nobody called for a plan that evicts");
            assert_eq!(ahead.ended.len(), self.model.ended.len(), "nobody called for a plan that refuses");
        }
    }

    pub(super) fn ask(&mut self, key: K) -> Result<Option<Place>, Refusal> {
        let mut expected = None;
        let (answer, _) = self.both(
            |real, now, orders| {
                let answer = real.ask(&key, now, orders);
                // As the shell does.
                orders.plan |= matches!(answer, Ask::Wait(_));
                answer
            },
            |model, answer| {
                expected = Some(model.ask(key));
                if let Ask::Wait(ticket) = answer {
                    model.waiting.push(Waiter { ticket: *ticket, key, passed: 0 });
                }
            },
        );
        let expected = expected.expect("asked");
        match answer {
            Ask::Given(held) => {
                assert_eq!(Ok(Some(held.place)), expected, "C-POOL-4: the one used last that fits");
                assert!(held.conn.is_usable(), "C-POOL-10");
                self.take(held);
            }
            Ask::Refused(refusal) => assert_eq!(Err(refusal), expected),
            Ask::Wait(ticket) => {
                assert_eq!(Ok(None), expected);
                self.tickets.push((ticket, None));
            }
        }
        expected
    }

    fn take(&mut self, held: Held<K, Conn>) {
        let thing = self.model.thing(held.place);
        assert_eq!((held.key, held.fresh), (thing.key, thing.fresh));
        thing.who = Who::Holder;
        let other = self.held.iter().any(|other| other.place == held.place);
        assert!(!other, "one connection has one holder");
        self.held.push(held);
    }

    /// One who waits looks. Returns how it ended, if it did.
    pub(super) fn look(&mut self, at: usize) -> Option<End> {
        let ticket = self.tickets[at].0;
        let bell = self.tickets[at].1.get_or_insert_default();
        let waker = Waker::from(Arc::clone(bell));
        let expected = self.model.ended.iter().position(|(ended, _)| *ended == ticket);
        let mut spent = None;
        let looked = self.real.poll(ticket, &waker, &mut spent);
        assert!(spent.is_none());
        let Some(expected) = expected.map(|at| self.model.ended.remove(at).1) else {
            assert!(looked.is_pending());
            return None;
        };
        self.tickets.remove(at);
        match (looked, &expected) {
            (Poll::Ready(Outcome::Given(held)), End::Given(place)) => {
                assert_eq!(held.place, *place, "C-POOL-4");
                self.take(held);
            }
            (Poll::Ready(Outcome::Refused(refusal)), End::Refused(reason)) => assert_eq!(refusal, *reason),
            (Poll::Ready(Outcome::Failed(Some("error"))), End::Failed) => {}
            (looked, _) => panic!("{looked:?} instead of {expected:?}"),
        }
        self.invariants();
        Some(expected)
    }

    pub(super) fn cancel(&mut self, at: usize) -> Step {
        let (ticket, _) = self.tickets.remove(at);
        self.both(|real, now, orders| real.cancel(ticket, now, orders), |model, _| model.cancel(ticket)).1
    }

    /// Returns the keys that are created.
    pub(super) fn plan(&mut self) -> Vec<K> {
        let now = self.now();
        let mut orders = Orders::new();
        let create = self.real.plan(now, &mut orders);
        let spares = |model: &Model| {
            let spare = |thing: &&Thing| thing.key == SPARE && matches!(thing.who, Who::Idle | Who::Creating);
            model.things.iter().filter(spare).count()
        };
        let before = spares(&self.model);
        let expected = self.model.plan();
        let keys: Vec<K> = create.iter().map(|(_, key)| *key).collect();
        assert_eq!(keys, expected, "what is created, first come, first served");
        for (place, key) in create {
            assert!(self.used.insert(place), "no place has its number twice");
            self.model.begun(place, key);
        }
        self.model.need_spares();
        let asked = self.model.waiting.iter().filter(|waiter| waiter.key == SPARE).count();
        let after = spares(&self.model);
        assert!(
            after <= self.model.bounds.spares.max(before) + asked,
            "no more spares are made than are wanted: {after}"
        );
        let creating = self.model.counts().creating;
        assert!(creating <= self.model.bounds.creating || keys.is_empty(), "so many at once: {creating}");
        self.due = false;
        let mut closed: Vec<_> = orders.close.iter().map(|(conn, reason)| (conn.place, *reason)).collect();
        closed.sort();
        let mut dropped = std::mem::take(&mut self.model.dropped);
        dropped.sort();
        assert_eq!(closed, dropped, "what makes room");
        orders.wake.into_iter().for_each(Waker::wake);
        // Asserts that a further plan would find nothing to do.
        self.invariants();
        let again = self.real.plan(now, &mut Orders::new());
        assert!(again.is_empty(), "a second plan does nothing: {again:?}");
        keys
    }

    /// Whether a creation has to do with what there is; whoever sees to it is woken when it has.
    pub(super) fn is_needed(&mut self, place: Place) -> bool {
        let looked = self.real.poll_needed(place, Waker::noop(), &mut None).is_ready();
        assert_eq!(looked, self.real.is_needed(place));
        looked
    }

    pub(super) fn created(&mut self, place: Place, dead: bool, lives: At) -> Step {
        let conn = Conn { place, dead: Rc::new(Cell::new(dead)), busy: Rc::default() };
        self.conns.push(conn.clone());
        self.model.thing(place).dead = dead;
        let expires = self.model.now + lives;
        let at = self.start + expires;
        let mut expected = false;
        let (works, step) = self.both(
            |real, now, orders| real.created(place, conn, at, now, orders),
            |model, _| expected = model.created(place, expires),
        );
        assert_eq!(works, expected);
        step
    }

    pub(super) fn failed(&mut self, place: Place) -> Step {
        let mut told = false;
        let (unheard, step) = self
            .both(|real, _, orders| real.failed(place, Some("error"), orders), |model, _| told = model.failed(place));
        assert_eq!(unheard.is_none(), told, "one is told, or nobody");
        step
    }

    pub(super) fn put(&mut self, at: usize, key: Option<K>) -> Step {
        let mut held = self.held.remove(at);
        held.key = key.unwrap_or(held.key);
        let (place, key) = (held.place, held.key);
        self.both(|real, now, orders| real.put(held, now, orders), |model, _| model.put(place, key)).1
    }

    pub(super) fn discard(&mut self, at: usize) -> Step {
        let held = self.held.remove(at);
        let place = held.place;
        self.both(|real, _, orders| real.discard(held, Reason::Discarded, orders), |model, _| model.discard(place)).1
    }

    pub(super) fn quarantine(&mut self, at: usize, grace: At) -> Step {
        let held = self.held.remove(at);
        let (place, until) = (held.place, self.model.now + grace);
        let end = self.start + until;
        let step = self
            .both(|real, _, orders| real.quarantine(held, end, orders), |model, _| model.quarantine(place, until))
            .1;
        self.quarantine.push(place);
        self.tidy();
        step
    }

    fn tidy(&mut self) {
        let model = &self.model;
        self.quarantine.retain(|place| {
            model.things.iter().any(|thing| thing.place == *place && matches!(thing.who, Who::Quarantine(_)))
        });
        assert_eq!(self.real.has_quarantine(), !self.quarantine.is_empty());
    }

    /// The end of whatever takes a place. Returns whether it was unwanted, and if so, whether it was unnoticed.
    pub(super) fn gone(&mut self, place: Place) -> Option<bool> {
        let mut expected = None;
        let (lost, _) = self.both(|real, _, orders| real.gone(place, orders), |model, _| expected = model.gone(place));
        self.tidy();
        assert_eq!(lost.map(|lost| lost.unnoticed), expected, "which ends were wanted");
        expected
    }

    pub(super) fn die(&mut self, place: Place) {
        if let Some(conn) = self.conns.iter().find(|conn| conn.place == place) {
            conn.dead.set(true);
            self.model.thing(place).dead = true;
        }
    }

    pub(super) fn busy(&mut self, place: Place, busy: bool) {
        if let Some(conn) = self.conns.iter().find(|conn| conn.place == place) {
            conn.busy.set(busy);
            self.model.thing(place).busy = busy;
        }
    }

    pub(super) fn sweep(&mut self) -> Step {
        let order = self.quarantine.clone();
        let step = self.both(|real, now, orders| real.sweep(now, orders), |model, _| model.sweep(&order)).1;
        self.tidy();
        step
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let before = self.model.now;
        self.model.now += time;
        // The keeper looks when a rest ends.
        self.due |= self.model.rests.is_some_and(|until| before < until && until <= self.model.now);
    }

    pub(super) fn rest(&mut self, time: Option<At>) {
        let until = time.map(|time| self.model.now + time);
        let at = until.map(|until| self.start + until);
        self.both(|real, _, orders| real.rest_until(at, orders), |model, _| model.rests = until);
    }

    pub(super) fn refuse(&mut self, refuse: bool) {
        // The shell says it together with the rest, of which the keeper is told.
        self.due = true;
        self.both(|real, _, _| real.refuse_while_resting(refuse), |model, _| model.refuses = refuse);
    }

    pub(super) fn spares(&mut self, spares: usize) {
        self.both(|real, _, orders| real.keep_spares(spares, orders), |model, _| model.bounds.spares = spares);
    }

    pub(super) fn close(&mut self) -> Step {
        let step = self.both(|real, _, orders| real.close(orders), |model, _| model.close()).1;
        self.tidy();
        step
    }

    /// Places whose connection is of such a kind.
    pub(super) fn places(&self, which: impl Fn(Who) -> bool) -> Vec<Place> {
        self.model.things.iter().filter(|thing| which(thing.who)).map(|thing| thing.place).collect()
    }

    /// Everything that is out comes back, and all that closes is gone: every place must be free again (C-POOL-2).
    pub(super) fn finish(mut self) {
        let bell = Waker::from(Arc::clone(&self.all_gone));
        let all_free = self.real.poll_empty(&bell).is_ready();
        self.close();
        for place in self.places(|who| who == Who::Creating) {
            self.failed(place);
        }
        while !self.tickets.is_empty() {
            self.cancel(0);
        }
        while !self.held.is_empty() {
            self.put(0, None);
        }
        for place in self.places(|_| true) {
            self.gone(place);
        }
        assert_eq!(self.real.counts(), super::super::ledger::Counts::default(), "C-POOL-2: nothing is lost");
        assert!(all_free || self.all_gone.0.load(Ordering::Relaxed), "C-POOL-7: whoever closes is woken");
        assert_eq!(self.ask(SPARE), Err(Refusal::Closed));
    }
}
