//! What is easy to get wrong in the ledger, path by path. (`Books` compares each step with the model as well.)

use std::time::Duration;

use super::super::ledger::{Bounds, Reason, Refusal};
use super::books::Books;
use super::fake::ms;
use super::model::{End, K, SPARE, Who};

const A: K = K(1);
const B: K = K(3);

fn books(max: usize) -> Books {
    Books::new(Bounds { max, creating: max, queue: 8, idle: ms(100), spares: 0 })
}

impl Books {
    /// Creates whatever is planned, all of it.
    fn make(&mut self) {
        self.plan();
        for place in self.places(|who| who == Who::Creating) {
            self.created(place, false, Duration::from_secs(1));
        }
    }

    /// A lease, by way of waiting.
    fn lease(&mut self, key: K) {
        assert_eq!(self.ask(key), Ok(None));
        self.make();
        let last = self.tickets.len() - 1;
        assert!(matches!(self.look(last), Some(End::Given(_))));
    }

    fn bury(&mut self) {
        for place in self.places(|who| who == Who::Closing) {
            self.gone(place);
        }
    }
}

/// C-POOL-1, -4: an idle connection that serves nobody makes room, and its place is used when it is gone, not before.
#[test]
fn another_key_evicts_and_waits_for_the_end() {
    let mut books = books(1);
    books.lease(A);
    books.put(0, None);
    assert_eq!(books.ask(B), Ok(None));
    assert_eq!(books.plan(), []);
    assert_eq!(books.model.counts().closing, 1, "evicted");
    assert_eq!(books.plan(), [], "its place is still taken");
    books.bury();
    assert!(books.due);
    assert_eq!(books.plan(), [B]);
    books.finish();
}

/// What comes back while somebody has no place makes room within that call: nobody can snatch it in between.
#[test]
fn a_return_makes_room_at_once() {
    let mut books = books(1);
    books.lease(A);
    books.ask(B).unwrap();
    books.plan();
    let step = books.put(0, None);
    assert_eq!(step.closed.len(), 1);
    assert_eq!(step.closed[0].1, Some(Reason::Evicted));
    assert_eq!(books.ask(A), Ok(None), "it has to queue");
    books.finish();
}

/// C-POOL-11: whoever asks is not given what is too old or was unused for too long, though no sweep has seen it.
#[test]
fn age_and_idleness_are_looked_at_by_whoever_asks() {
    let mut books = books(3);
    for _ in 0..3 {
        books.lease(A);
    }
    books.put(0, None);
    books.pass(ms(99));
    books.put(0, None);
    books.pass(ms(1));
    let given = books.ask(A).unwrap().unwrap();
    assert_eq!(books.held.last().unwrap().place, given, "the one returned later");
    books.put(1, None);
    books.pass(ms(1000));
    assert_eq!(books.ask(A), Ok(None), "now both are too old");
    // And one that comes back too old is not kept either.
    let step = books.put(0, None);
    assert_eq!(step.closed[0].1, Some(Reason::Age));
    books.finish();
}

/// A creation of a spare is no comfort for one who waits: it gets its own, and takes whichever is ready first.
#[test]
fn a_spare_that_is_made_covers_nobody() {
    let mut books = books(3);
    books.spares(1);
    assert_eq!(books.plan(), [SPARE]);
    assert_eq!(books.ask(A), Ok(None));
    assert_eq!(books.plan(), [A]);
    let spare = books.places(|who| who == Who::Creating)[0];
    books.created(spare, false, ms(1000));
    assert_eq!(books.look(0), Some(End::Given(spare)));
    assert!(books.due);
    assert_eq!(books.plan(), [SPARE], "it is replaced");
    books.finish();
}

/// Where a spare that is not ready has the last place, or is the last creation that may be under way, it has to do as it is: it
/// goes to the one who waits, or makes room.
#[test]
fn a_spare_that_is_not_ready_is_in_nobodys_way() {
    for (max, creating, key) in [(2, 2, A), (2, 2, B), (4, 2, A)] {
        let mut books = Books::new(Bounds { max, creating, queue: 8, idle: ms(100), spares: 2 });
        assert_eq!(books.plan(), [SPARE, SPARE]);
        let spares = books.places(|who| who == Who::Creating);
        assert!(!books.is_needed(spares[0]));
        assert_eq!(books.ask(key), Ok(None));
        assert_eq!(books.plan(), []);
        assert_eq!(spares.iter().map(|spare| books.is_needed(*spare)).collect::<Vec<_>>(), [true, false]);
        let step = books.created(spares[0], false, ms(1000));
        if key == A {
            assert_eq!(books.look(0), Some(End::Given(spares[0])));
        } else {
            assert_eq!(step.closed[0].1, Some(Reason::Evicted));
            books.bury();
            assert_eq!(books.plan(), [B]);
        }
        books.finish();
    }
}

/// Those who wait come before spares, for as long as one of them has nothing under way.
#[test]
fn spares_come_last() {
    let mut books = Books::new(Bounds { max: 3, creating: 1, queue: 8, idle: ms(100), spares: 2 });
    books.ask(A).unwrap();
    books.ask(B).unwrap();
    assert_eq!(books.plan(), [A]);
    let first = books.places(|who| who == Who::Creating)[0];
    let step = books.created(first, false, ms(1000));
    assert!(step.plan, "there is room for another creation");
    assert_eq!(books.plan(), [B]);
    let second = books.places(|who| who == Who::Creating)[0];
    books.created(second, false, ms(1000));
    assert_eq!(books.plan(), [SPARE], "and no more than there are places");
    books.finish();
}

/// While creation rests, whoever would need one is told at once, and whoever can wait for a return waits.
#[test]
fn a_rest_refuses_those_who_need_a_creation() {
    let mut books = books(2);
    books.lease(A);
    books.rest(Some(ms(50)));
    assert_eq!(books.ask(A), Ok(None));
    assert_eq!(books.plan(), []);
    assert_eq!(books.look(0), Some(End::Refused(Refusal::Resting)), "there is a place, and nothing may be put there");
    books.rest(None);
    books.lease(A);
    books.rest(Some(ms(50)));
    assert_eq!(books.ask(A), Ok(None));
    assert_eq!(books.plan(), []);
    assert_eq!(books.look(0), None, "there is none");
    books.put(0, None);
    assert!(matches!(books.look(0), Some(End::Given(_))));
    books.finish();
}

/// C-POOL-4: a connection that comes back for another purpose is for those whom it now fits.
#[test]
fn what_is_refiled_serves_others() {
    let mut books = books(1);
    books.lease(A);
    books.ask(A).unwrap();
    books.ask(B).unwrap();
    books.plan();
    books.put(0, Some(B));
    assert_eq!(books.look(0), None);
    assert!(matches!(books.look(1), Some(End::Given(_))));
    assert_eq!(books.held[0].key, B);
    books.finish();
}

/// A failure is told to the first for whom the creation was, and the others get theirs.
#[test]
fn one_failure_is_told_to_one() {
    let mut books = books(2);
    for _ in 0..2 {
        books.ask(A).unwrap();
    }
    assert_eq!(books.plan(), [A, A]);
    let creating = books.places(|who| who == Who::Creating);
    // Even the later creation's.
    books.failed(creating[1]);
    assert_eq!(books.look(0), Some(End::Failed));
    assert_eq!(books.look(0), None);
    books.created(creating[0], false, ms(1000));
    assert!(matches!(books.look(0), Some(End::Given(_))));
    books.finish();
}

/// C-POOL-2: the end of a connection may be known before its beginning.
#[test]
fn gone_before_it_was_there() {
    let mut books = books(1);
    for fails in [true, false] {
        books.ask(A).unwrap();
        books.plan();
        let place = books.places(|who| who == Who::Creating)[0];
        assert_eq!(books.gone(place), None);
        assert_eq!(books.model.counts().creating, 1, "it counts until its creation has ended");
        if fails {
            books.failed(place);
        } else {
            books.created(place, false, ms(1000));
        }
        assert_eq!(books.model.counts().live(), 0);
        books.cancel(0);
    }
    books.finish();
}

/// C-POOL-7: what was given before the end and not looked at is given; what comes back after it is closed.
#[test]
fn the_end_of_the_pool() {
    let mut books = books(2);
    books.lease(A);
    books.ask(A).unwrap();
    books.ask(B).unwrap();
    books.plan();
    books.put(0, None);
    books.close();
    assert_eq!(books.look(1), Some(End::Refused(Refusal::Closed)));
    assert!(matches!(books.look(0), Some(End::Given(_))), "the reply was on its way");
    let step = books.put(0, None);
    assert_eq!(step.closed[0].1, Some(Reason::Closed));
    let creating = books.places(|who| who == Who::Creating)[0];
    assert_eq!(books.created(creating, false, ms(1000)).closed[0].1, Some(Reason::Closed));
    assert_eq!(books.plan(), []);
    books.close();
    books.finish();
}

/// Two who wait behind one who goes away: what it had been given is for the first of them.
#[test]
fn what_was_not_wanted_goes_to_the_next() {
    let mut books = books(1);
    books.lease(A);
    for _ in 0..3 {
        books.ask(A).unwrap();
    }
    books.put(0, None);
    books.cancel(0);
    assert_eq!(books.look(1), None);
    assert!(matches!(books.look(0), Some(End::Given(_))));
    books.finish();
}

/// The queue is bounded by what it waits for: places that are not leased do not count.
#[test]
fn the_queue_is_full() {
    let mut books = Books::new(Bounds { max: 2, creating: 1, queue: 1, idle: ms(100), spares: 0 });
    books.lease(A);
    books.put(0, None);
    books.lease(B);
    // Another kind is idle: it would make room, so this one is not queued.
    assert_eq!(books.ask(B), Ok(None));
    assert_eq!(books.ask(B), Ok(None));
    assert_eq!(books.ask(B), Err(Refusal::Queue));
    books.finish();
}

/// Who holds what for ever is one who was given it and never looks: it is given back when it goes away.
#[test]
fn one_who_never_looks_holds_what_it_was_given() {
    let mut books = books(1);
    books.lease(A);
    books.ask(A).unwrap();
    books.put(0, None);
    assert_eq!(books.model.counts().leased, 1);
    books.sweep();
    books.pass(ms(1000));
    let step = books.cancel(0);
    assert_eq!(step.closed[0].1, Some(Reason::Age));
    books.finish();
}

/// Of some kinds there is one at most: whoever finds it in use waits for it, though there is room; and gets another when it is gone for good.
#[test]
fn the_only_one_of_its_kind_is_waited_for() {
    const ONLY: K = K(5);
    let mut books = books(3);
    books.lease(ONLY);
    assert_eq!((books.ask(ONLY), books.ask(ONLY)), (Ok(None), Ok(None)));
    assert_eq!(books.plan(), [], "it will come back");
    books.lease(A);
    books.put(0, None);
    assert!(matches!(books.look(0), Some(End::Given(_))), "first come, first served");
    // While what was given up on it may still be under way, too.
    let only = books.held.len() - 1;
    books.busy(books.held[only].place, true);
    books.quarantine(only, ms(10));
    assert_eq!(books.plan(), []);
    books.pass(ms(10));
    books.sweep();
    assert!(books.due, "it is closed, and somebody waits");
    assert_eq!(books.plan(), [ONLY]);
    books.finish();
}
