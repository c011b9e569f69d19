//! Random programs of the ledger, each step of which is compared with the model.

use std::time::Duration;

use proptest::prelude::*;

use super::super::ledger::Bounds;
use super::books::Books;
use super::fake::ms;
use super::model::{K, Who};

/// Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Op {
    Ask(u8),
    Look(usize),
    Cancel(usize),
    Plan,
    Created { which: usize, dead: bool, lives: u64 },
    Failed(usize),
    Put { which: usize, key: Option<u8> },
    Discard(usize),
    Quarantine { which: usize, grace: u64 },
    Gone(usize),
    Closed,
    Die(usize),
    Busy(usize, bool),
    Sweep,
    Pass(u64),
    Rest(Option<u64>),
    Refuse(bool),
    Spares(usize),
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..64usize;
    prop_oneof![
        12 => (0..6u8).prop_map(Op::Ask),
        8 => which.clone().prop_map(Op::Look),
        3 => which.clone().prop_map(Op::Cancel),
        8 => Just(Op::Plan),
        8 => (which.clone(), prop::bool::weighted(0.1), 5..60u64)
            .prop_map(|(which, dead, lives)| Op::Created { which, dead, lives }),
        2 => which.clone().prop_map(Op::Failed),
        8 => (which.clone(), prop::option::weighted(0.4, 0..5u8)).prop_map(|(which, key)| Op::Put { which, key }),
        1 => which.clone().prop_map(Op::Discard),
        2 => (which.clone(), 0..20u64).prop_map(|(which, grace)| Op::Quarantine { which, grace }),
        2 => which.clone().prop_map(Op::Gone),
        4 => Just(Op::Closed),
        1 => which.clone().prop_map(Op::Die),
        3 => (which.clone(), any::<bool>()).prop_map(|(which, busy)| Op::Busy(which, busy)),
        3 => Just(Op::Sweep),
        4 => (1..15u64).prop_map(Op::Pass),
        1 => prop::option::weighted(0.7, 0..30u64).prop_map(Op::Rest),
        1 => any::<bool>().prop_map(Op::Refuse),
        1 => (0..3usize).prop_map(Op::Spares),
    ]
}

/// One program in a few is closed at some time.
fn program() -> impl Strategy<Value = Vec<Op>> {
    (prop::collection::vec(op(), 0..150), prop::option::weighted(0.3, 0..150usize)).prop_map(|(mut ops, close)| {
        if let Some(at) = close {
            ops.insert(at.min(ops.len()), Op::Close);
        }
        ops
    })
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (1..6usize, 1..4usize, 0..6usize, 0..3usize).prop_map(|(max, creating, queue, spares)| Bounds {
        max,
        creating,
        queue,
        idle: Duration::from_millis(20),
        spares,
    })
}

/// Does it with one of these, if there is any.
fn some<T: Copy, R>(list: &[T], which: usize, act: impl FnOnce(T) -> R) {
    if !list.is_empty() {
        let _ = act(list[which % list.len()]);
    }
}

fn step(books: &mut Books, op: Op) {
    let tickets: Vec<usize> = (0..books.tickets.len()).collect();
    let leases: Vec<usize> = (0..books.held.len()).collect();
    let creating = books.places(|who| who == Who::Creating);
    let all: Vec<_> = books.model.things.iter().filter(|thing| !thing.gone).map(|thing| thing.place).collect();
    match op {
        Op::Ask(key) => drop(books.ask(K(key))),
        Op::Look(which) => some(&tickets, which, |at| books.look(at)),
        Op::Cancel(which) => some(&tickets, which, |at| books.cancel(at)),
        Op::Plan => drop(books.plan()),
        Op::Created { which, dead, lives } => some(&creating, which, |place| books.created(place, dead, ms(lives))),
        Op::Failed(which) => some(&creating, which, |place| books.failed(place)),
        Op::Put { which, key } => some(&leases, which, |at| books.put(at, key.map(K))),
        Op::Discard(which) => some(&leases, which, |at| books.discard(at)),
        Op::Quarantine { which, grace } => some(&leases, which, |at| books.quarantine(at, ms(grace))),
        Op::Gone(which) => some(&all, which, |place| books.gone(place)),
        Op::Closed => some(&books.places(|who| who == Who::Closing), 0, |place| books.gone(place)),
        Op::Die(which) => some(&all, which, |place| books.die(place)),
        Op::Busy(which, busy) => some(&all, which, |place| books.busy(place, busy)),
        Op::Sweep => drop(books.sweep()),
        Op::Pass(time) => books.pass(ms(time)),
        Op::Rest(time) => books.rest(time.map(ms)),
        Op::Refuse(refuse) => books.refuse(refuse),
        Op::Spares(spares) => books.spares(spares),
        Op::Close => drop(books.close()),
    }
}

proptest! {
    #![proptest_config(super::cases(250))]

    /// C-POOL-1, -2, -3, -4, -7, -10 and -11: see `Books`, which compares after every step.
    #[test]
    fn the_ledger_does_what_its_model_does(bounds in bounds(), program in program()) {
        let mut books = Books::new(bounds);
        for op in program {
            step(&mut books, op);
        }
        books.finish();
    }

    /// Nobody waits for ever: where creations succeed and whoever has a connection gives it back, everybody gets one, in
    /// whatever state the pool was.
    #[test]
    fn everybody_is_served_in_the_end(bounds in bounds(), program in program()) {
        let mut books = Books::new(bounds);
        for op in program.into_iter().filter(|op| !matches!(op, Op::Close)) {
            step(&mut books, op);
        }
        books.rest(None);
        let mut rounds = 0;
        while !books.tickets.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 200, "{:?}", books.model);
            if books.due {
                books.plan();
            }
            for place in books.places(|who| who == Who::Creating) {
                books.created(place, false, ms(1000));
            }
            for place in books.places(|who| who == Who::Closing) {
                books.gone(place);
            }
            for at in (0..books.tickets.len()).rev() {
                books.look(at);
            }
            if !books.held.is_empty() {
                books.put(0, None);
            }
            for place in books.places(|who| matches!(who, Who::Quarantine(_))) {
                books.busy(place, false);
            }
            books.sweep();
        }
        books.finish();
    }

    /// C-POOL-4: under a stream of those whom every returned connection fits, one whom none fits is passed over a bounded
    /// number of times.
    #[test]
    fn nobody_starves(max in 1..4usize, busy in 1..8usize, order in prop::collection::vec(0..4usize, 40)) {
        let mut books = Books::new(Bounds { max, creating: max, queue: 64, idle: ms(1000), spares: 0 });
        for _ in 0..max {
            prop_assert_eq!(books.ask(K(2)), Ok(None));
        }
        books.plan();
        for place in books.places(|who| who == Who::Creating) {
            books.created(place, false, ms(1000));
        }
        while !books.tickets.is_empty() {
            books.look(0);
        }
        prop_assert_eq!(books.ask(K(3)), Ok(None));
        let starving = books.tickets[0].0;
        let mut turns = 0;
        for which in order {
            // There are always `busy` more who wait for what comes back.
            while books.tickets.len() <= busy {
                prop_assert_eq!(books.ask(K(2)), Ok(None));
            }
            books.plan();
            if let Some(which) = (!books.held.is_empty()).then(|| which % books.held.len()) {
                books.put(which, None);
                turns += 1;
            }
            if !books.places(|who| who == Who::Closing).is_empty() {
                break;
            }
            prop_assert!(turns <= 9, "passed over {turns} times");
            for at in (1..books.tickets.len()).rev() {
                books.look(at);
            }
        }
        prop_assert!(!books.places(|who| who == Who::Closing).is_empty(), "it starves");
        // A place becomes free, and it is for the one that was passed over.
        for place in books.places(|who| who == Who::Closing) {
            books.gone(place);
        }
        prop_assert_eq!(books.plan(), [K(3)]);
        let place = books.places(|who| who == Who::Creating)[0];
        books.created(place, false, ms(1000));
        let at = books.tickets.iter().position(|(ticket, _)| *ticket == starving).expect("it has not looked");
        prop_assert!(books.look(at).is_some());
        prop_assert_eq!(&books.held.last().expect("given").key, &K(3));
        books.finish();
    }
}
