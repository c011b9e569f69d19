//! What the ledger has to do, said again with plain lists: slow, and obvious.

use std::time::Duration;

use super::super::ledger::{Bounds, Counts, Key, Place, Reason, Refusal, Ticket};

/// 0 is the spare, which serves 1 and 2. Whoever asks for 4 is also served by 1, but not the other way round. Of 5 there is one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct K(pub(super) u8);

pub(super) const SPARE: K = K(0);

impl Key for K {
    fn fits(&self, held: &Self) -> bool {
        self == held || matches!((self.0, held.0), (1 | 2, 0) | (4, 1))
    }

    fn is_spare(&self) -> bool {
        *self == SPARE
    }

    fn is_single(&self) -> bool {
        self.0 == 5
    }
}

/// Time since the beginning.
pub(super) type At = Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Creating,
    Idle,
    Holder,
    /// Given to one who has not looked yet.
    Offered(Ticket),
    Quarantine(At),
    Closing,
}

/// A connection, from the decision to create it until it is gone and nobody has it.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    pub(super) place: Place,
    pub(super) key: K,
    pub(super) who: Who,
    /// Its place was given back.
    pub(super) gone: bool,
    pub(super) dead: bool,
    pub(super) busy: bool,
    pub(super) fresh: bool,
    /// Its creation has to do with what there is.
    pub(super) needed: bool,
    pub(super) expires: At,
    pub(super) returned: At,
    pub(super) broke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Given(Place),
    Refused(Refusal),
    Failed,
}

#[derive(Debug, Clone)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) key: K,
    pub(super) passed: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) bounds: Bounds,
    pub(super) now: At,
    pub(super) things: Vec<Thing>,
    /// Places of the idle, in the order they came back.
    pub(super) idle: Vec<Place>,
    pub(super) waiting: Vec<Waiter>,
    pub(super) ended: Vec<(Ticket, End)>,
    pub(super) rests: Option<At>,
    /// Whether those who need a creation meanwhile are refused, or wait.
    pub(super) refuses: bool,
    pub(super) closed: bool,
    /// What had to be dropped since the last look.
    pub(super) dropped: Vec<(Place, Option<Reason>)>,
}

impl Model {
    pub(super) fn new(bounds: Bounds) -> Model {
        Model {
            bounds,
            now: At::ZERO,
            things: Vec::new(),
            idle: Vec::new(),
            waiting: Vec::new(),
            ended: Vec::new(),
            rests: None,
            refuses: true,
            closed: false,
            dropped: Vec::new(),
        }
    }

    pub(super) fn thing(&mut self, place: Place) -> &mut Thing {
        self.things.iter_mut().find(|thing| thing.place == place).expect("known")
    }

    /// Those that take a place.
    fn number(&self, which: impl Fn(Who) -> bool) -> usize {
        self.things.iter().filter(|thing| (!thing.gone || thing.who == Who::Creating) && which(thing.who)).count()
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            idle: self.number(|who| who == Who::Idle),
            leased: self.number(|who| matches!(who, Who::Holder | Who::Offered(_) | Who::Quarantine(_))),
            creating: self.number(|who| who == Who::Creating),
            closing: self.number(|who| who == Who::Closing),
            waiting: self.waiting.len(),
        }
    }

    fn free(&self) -> usize {
        self.bounds.max - self.counts().live()
    }

    fn resting(&self) -> bool {
        self.rests.is_some_and(|until| self.now < until)
    }

    /// Indexes of those who wait and have no creation of their own, oldest first.
    fn bare(&self) -> Vec<usize> {
        let mut made: Vec<K> =
            self.things.iter().filter(|thing| thing.who == Who::Creating).map(|thing| thing.key).collect();
        let mut bare = Vec::new();
        for (at, waiter) in self.waiting.iter().enumerate() {
            match made.iter().position(|key| *key == waiter.key) {
                Some(found) => {
                    made.remove(found);
                }
                None => bare.push(at),
            }
        }
        bare
    }

    /// Those of them for whom nothing will come back: if somebody has the only one of its kind, that will.
    fn unserved(&self) -> Vec<usize> {
        let is_had = |thing: &Thing| !thing.gone && !matches!(thing.who, Who::Idle | Who::Closing);
        let mut unserved = self.bare();
        unserved.retain(|at| {
            let key = self.waiting[*at].key;
            !key.is_single() || !self.things.iter().any(|thing| thing.key == key && is_had(thing))
        });
        unserved
    }

    /// Those of them for whom one has to be made: one is enough where there is to be only one.
    fn wanting(&self) -> Vec<usize> {
        let mut asked = Vec::new();
        let mut wanting = self.unserved();
        wanting.retain(|at| {
            let key = self.waiting[*at].key;
            let is_first = !asked.contains(&key);
            asked.push(key);
            !key.is_single() || is_first
        });
        wanting
    }

    pub(super) fn covered(&self, ticket: Ticket) -> bool {
        let at = self.waiting.iter().position(|waiter| waiter.ticket == ticket);
        at.is_some_and(|at| !self.bare().contains(&at))
    }

    /// Closes one that nobody uses.
    fn drop_thing(&mut self, place: Place, reason: Reason, broke: bool) {
        let thing = self.thing(place);
        let counted = (!thing.gone).then_some(reason);
        thing.who = Who::Closing;
        thing.broke = broke;
        self.idle.retain(|idle| *idle != place);
        self.dropped.push((place, counted));
        self.forget();
    }

    /// What is gone and nobody has is no more.
    fn forget(&mut self) {
        self.things.retain(|thing| !(thing.gone && thing.who == Who::Closing));
    }

    /// C-POOL-11 and -10: why an idle one cannot be used.
    fn unfit(&self, place: Place, kept: bool) -> Option<Reason> {
        let thing = self.things.iter().find(|thing| thing.place == place).expect("known");
        if thing.dead {
            Some(Reason::Broken)
        } else if self.now >= thing.expires {
            Some(Reason::Age)
        } else if !kept && self.now - thing.returned >= self.bounds.idle {
            Some(Reason::Idle)
        } else {
            None
        }
    }

    /// What asking leads to: something, or a place in the queue (`Ok(None)`), or nothing.
    pub(super) fn ask(&mut self, key: K) -> Result<Option<Place>, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        loop {
            let key_of = |place: &Place| self.things.iter().find(|thing| thing.place == *place).expect("known").key;
            // C-POOL-4: the last that was used; one of that very kind before others.
            let same = self.idle.iter().rev().find(|place| key_of(place) == key);
            let other = self.idle.iter().rev().find(|place| key.fits(&key_of(place)));
            let Some(place) = same.or(other).copied() else { break };
            match self.unfit(place, key_of(&place) == SPARE) {
                Some(reason) => self.drop_thing(place, reason, reason == Reason::Broken),
                None => {
                    self.idle.retain(|idle| *idle != place);
                    self.thing(place).who = Who::Holder;
                    return Ok(Some(place));
                }
            }
        }
        // Those who depend on the return of a leased one, this one included.
        let queued = (self.waiting.len() + 1 + self.counts().leased).saturating_sub(self.bounds.max);
        if queued > self.bounds.queue { Err(Refusal::Queue) } else { Ok(None) }
    }

    fn end(&mut self, at: usize, end: End) {
        let waiter = self.waiting.remove(at);
        self.ended.push((waiter.ticket, end));
    }

    /// One that can be used is there for somebody.
    pub(super) fn hand(&mut self, place: Place) {
        let (closed, now) = (self.closed, self.now);
        let thing = self.thing(place).clone();
        let reason = match () {
            () if closed => Some(Reason::Closed),
            () if thing.dead || thing.gone => Some(Reason::Broken),
            () if !thing.fresh && now >= thing.expires => Some(Reason::Age),
            () => None,
        };
        if let Some(reason) = reason {
            return self.drop_thing(place, reason, reason == Reason::Broken);
        }
        let Some(first) = self.waiting.iter().position(|waiter| waiter.key.fits(&thing.key)) else {
            self.thing(place).who = Who::Idle;
            self.thing(place).returned = now;
            self.idle.push(place);
            return self.evict();
        };
        let earlier: Vec<usize> = self.wanting().into_iter().filter(|at| *at < first).collect();
        let starving = earlier.iter().filter(|at| self.waiting[**at].passed >= 8).count();
        if !thing.fresh && !self.resting() && starving > self.counts().closing {
            return self.drop_thing(place, Reason::Evicted, false);
        }
        for at in earlier {
            self.waiting[at].passed += 1;
        }
        self.thing(place).who = Who::Offered(self.waiting[first].ticket);
        self.end(first, End::Given(place));
    }

    fn evict(&mut self) {
        let needed = || self.wanting().len().saturating_sub(self.free());
        let (needed, closing) = (needed(), self.counts().closing);
        if !self.resting() {
            for place in self.idle.clone().into_iter().take(needed.saturating_sub(closing)) {
                self.drop_thing(place, Reason::Evicted, false);
            }
        }
    }

    /// What a plan has to lead to: the keys that are created, in this order. Their places are the ledger's to choose.
    pub(super) fn plan(&mut self) -> Vec<K> {
        let mut create = Vec::new();
        if self.closed {
            return create;
        }
        let (mut free, creating) = (self.free(), self.counts().creating);
        let wanting = if self.resting() { self.unserved() } else { self.wanting() };
        let bare: Vec<Waiter> = wanting.into_iter().map(|at| self.waiting[at].clone()).collect();
        let mut unserved = bare.len();
        for waiter in bare {
            if free == 0 || (self.resting() && !self.refuses) {
            } else if self.resting() {
                let at = self.waiting.iter().position(|other| other.ticket == waiter.ticket).expect("waits");
                self.end(at, End::Refused(Refusal::Resting));
                unserved -= 1;
            } else if creating + create.len() < self.bounds.creating {
                create.push(waiter.key);
                free -= 1;
                unserved -= 1;
            }
        }
        let (needed, closing) = (unserved.saturating_sub(free), self.counts().closing);
        if !self.resting() {
            for place in self.idle.clone().into_iter().take(needed.saturating_sub(closing)) {
                self.drop_thing(place, Reason::Evicted, false);
            }
            let spare = |thing: &&Thing| thing.key == SPARE && matches!(thing.who, Who::Idle | Who::Creating);
            let mut spares = self.things.iter().filter(spare).count();
            spares += create.iter().filter(|key| **key == SPARE).count();
            let mut creating = creating + create.len();
            while unserved == 0 && free > 0 && creating < self.bounds.creating && spares < self.bounds.spares {
                create.push(SPARE);
                (free, spares, creating) = (free - 1, spares + 1, creating + 1);
            }
        }
        create
    }

    /// What else a plan leads to, once what it creates has begun: as many spares have to do as they are.
    pub(super) fn need_spares(&mut self) {
        let wanting = if self.closed { 0 } else { self.wanting().len() };
        let unready = |thing: &&mut Thing| thing.key == SPARE && thing.who == Who::Creating;
        self.things.iter_mut().filter(unready).take(wanting).for_each(|thing| thing.needed = true);
    }

    pub(super) fn begun(&mut self, place: Place, key: K) {
        let (who, at) = (Who::Creating, At::ZERO);
        let (gone, dead, busy, fresh, needed, broke) = (false, false, false, true, false, false);
        self.things.push(Thing { place, key, who, gone, dead, busy, fresh, needed, expires: at, returned: at, broke });
    }

    pub(super) fn created(&mut self, place: Place, expires: At) -> bool {
        let thing = self.thing(place);
        thing.expires = expires;
        if thing.gone || thing.dead {
            thing.who = Who::Closing;
            self.dropped.push((place, Some(Reason::Broken)));
            self.forget();
            return false;
        }
        thing.who = Who::Holder;
        self.hand(place);
        true
    }

    pub(super) fn failed(&mut self, place: Place) -> bool {
        let thing = self.thing(place);
        let key = thing.key;
        thing.who = Who::Closing;
        self.forget();
        let told = self.waiting.iter().position(|waiter| waiter.key == key);
        if let Some(at) = told {
            self.end(at, End::Failed);
        }
        told.is_some()
    }

    /// Whether this end is one that nobody wanted, and whether it was noticed before.
    pub(super) fn gone(&mut self, place: Place) -> Option<bool> {
        let thing = self.thing(place);
        let (who, broke) = (thing.who, thing.broke);
        thing.gone = true;
        match who {
            Who::Creating => None,
            Who::Closing => {
                self.forget();
                broke.then_some(false)
            }
            Who::Idle | Who::Quarantine(_) => {
                self.drop_thing(place, Reason::Broken, true);
                Some(true)
            }
            Who::Holder | Who::Offered(_) => Some(true),
        }
    }

    pub(super) fn put(&mut self, place: Place, key: K) {
        let thing = self.thing(place);
        (thing.key, thing.fresh) = (key, false);
        self.hand(place);
    }

    pub(super) fn discard(&mut self, place: Place) {
        self.drop_thing(place, Reason::Discarded, false);
    }

    pub(super) fn quarantine(&mut self, place: Place, until: At) {
        if self.closed || self.thing(place).gone {
            return self.drop_thing(place, Reason::Closed, false);
        }
        let thing = self.thing(place);
        (thing.who, thing.fresh) = (Who::Quarantine(until), false);
    }

    pub(super) fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiter| waiter.ticket != ticket);
        if let Some(at) = self.ended.iter().position(|(ended, _)| *ended == ticket)
            && let (_, End::Given(place)) = self.ended.remove(at)
        {
            self.hand(place);
        }
    }

    /// `order` is that in which quarantine was entered.
    pub(super) fn sweep(&mut self, order: &[Place]) {
        let mut kept = 0;
        for place in self.idle.clone().into_iter().rev() {
            let spare = self.thing(place).key == SPARE && kept < self.bounds.spares;
            match self.unfit(place, spare) {
                Some(reason) => self.drop_thing(place, reason, reason == Reason::Broken),
                None => kept += usize::from(spare),
            }
        }
        for place in order {
            let now = self.now;
            let thing = self.thing(*place).clone();
            let Who::Quarantine(until) = thing.who else { panic!("in quarantine") };
            if thing.dead {
                self.drop_thing(*place, Reason::Broken, true);
            } else if !thing.busy {
                self.hand(*place);
            } else if now >= until {
                self.drop_thing(*place, Reason::Dirty, false);
            }
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        while !self.waiting.is_empty() {
            self.end(0, End::Refused(Refusal::Closed));
        }
        for thing in self.things.clone() {
            if matches!(thing.who, Who::Idle | Who::Quarantine(_)) {
                self.drop_thing(thing.place, Reason::Closed, false);
            }
        }
    }
}
