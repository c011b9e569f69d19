//! What the parts cost that every request passes: `cargo bench --bench micro`, quickly with `-- --quick`.
//!
//! The files of the pool are compiled in here, because it is no part of the public interface.
#![allow(dead_code, reason = "not all that the pool can do is measured")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(missing_docs, reason = "the macros of criterion")]

#[path = "../src/pool/desk.rs"]
mod desk;
#[path = "../src/pool/ledger/mod.rs"]
mod ledger;
#[path = "../src/pool/mutant.rs"]
mod mutant;
#[path = "../src/pool/sync.rs"]
mod sync;

use std::collections::VecDeque;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};

use desk::Desk;
use ledger::{Ask, Bounds, Counts, Held, Key, Ledger, Outcome, Pooled, Ticket};

#[derive(Clone, PartialEq)]
struct Kind;

impl Key for Kind {
    fn fits(&self, held: &Self) -> bool {
        self == held
    }

    fn is_spare(&self) -> bool {
        false
    }
}

struct Conn;

impl Pooled for Conn {
    fn is_usable(&self) -> bool {
        true
    }

    fn is_quiescent(&self) -> bool {
        true
    }
}

struct Pool {
    desk: Arc<Desk<Kind, Conn, ()>>,
    now: Instant,
}

impl Pool {
    /// With as many leases as there are places.
    fn full(max: usize, queue: usize) -> (Pool, VecDeque<Held<Kind, Conn>>) {
        let day = Duration::from_secs(24 * 60 * 60);
        let bounds = Bounds { max, creating: max, queue, idle: day, spares: 0 };
        // The only clock here is that of the ledger's arguments.
        let now = tokio::time::Instant::now().into_std();
        let watch = Box::new(|counts| {
            black_box::<Counts>(counts);
        });
        let pool = Pool { desk: Arc::new(Desk::new(Ledger::new(bounds, None), watch)), now };
        let tickets: Vec<Ticket> = (0..max).map(|_| pool.wait()).collect();
        let (create, _) = pool.desk.visit(|ledger, orders| ledger.plan(now, orders));
        for (place, _) in create {
            let _ = pool.desk.visit(|ledger, orders| ledger.created(place, Conn, now + day, now, orders));
        }
        let leases = tickets.into_iter().map(|ticket| pool.look(ticket)).collect();
        (pool, leases)
    }

    fn wait(&self) -> Ticket {
        match self.desk.ask(&Kind, self.now).0 {
            Ask::Wait(ticket) => ticket,
            Ask::Given(_) | Ask::Refused(_) => panic!("nothing is there, and the queue is long"),
        }
    }

    fn look(&self, ticket: Ticket) -> Held<Kind, Conn> {
        let mut turn = self.desk.turn(ticket);
        match Pin::new(&mut turn).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Outcome::Given(held)) => held,
            _ => panic!("it was its turn"),
        }
    }

    fn put(&self, held: Held<Kind, Conn>) {
        let _ = black_box(self.desk.visit(|ledger, orders| ledger.put(held, self.now, orders)));
    }
}

fn pool(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pool");
    group.bench_function("acquire and release, nobody waits", |bench| {
        let (pool, leases) = Pool::full(8, 0);
        leases.into_iter().for_each(|lease| pool.put(lease));
        bench.iter(|| match pool.desk.ask(&Kind, pool.now).0 {
            Ask::Given(held) => pool.put(held),
            Ask::Wait(_) | Ask::Refused(_) => panic!("one is there"),
        });
    });
    group.bench_function("release to the first of 100 who wait for 8, who comes again", |bench| {
        let (pool, mut leases) = Pool::full(8, 100);
        let mut waiting: VecDeque<Ticket> = (0..100)
            .map(|_| {
                let ticket = pool.wait();
                let mut turn = pool.desk.turn(ticket);
                assert!(Pin::new(&mut turn).poll(&mut Context::from_waker(Waker::noop())).is_pending());
                ticket
            })
            .collect();
        bench.iter(|| {
            pool.put(leases.pop_front().unwrap());
            leases.push_back(pool.look(waiting.pop_front().unwrap()));
            waiting.push_back(pool.wait());
        });
    });
    group.bench_function("plan with 100 who wait for 8", |bench| {
        let (pool, _leases) = Pool::full(8, 100);
        for _ in 0..100 {
            pool.wait();
        }
        bench.iter(|| black_box(pool.desk.visit(|ledger, orders| ledger.plan(pool.now, orders))));
    });
    group.finish();
}

criterion_group!(benches, pool);
criterion_main!(benches);
