//! What the parts cost that every request passes: `cargo bench --bench micro`, quickly with `-- --quick`.
//!
//! The files of the pool, of the interceptors and of the sessions' table are compiled in here, because they are no part of the public interface.
#![allow(dead_code, reason = "not all that they can do is measured")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(missing_docs, reason = "the macros of criterion")]

#[path = "../src/pool/desk.rs"]
mod desk;
#[path = "../src/tap/intercept/mod.rs"]
mod intercept;
#[path = "../src/pool/ledger/mod.rs"]
mod ledger;
#[path = "../src/pool/mutant.rs"]
mod mutant;
#[path = "../src/pool/sync.rs"]
mod sync;
#[path = "../src/session/table.rs"]
mod table;

mod protocol {
    pub(crate) use shadowcat::protocol::message;
}
mod tape {
    pub(crate) use shadowcat::tape::format;
}

use std::collections::VecDeque;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use desk::Desk;
use futures_util::future::BoxFuture;
use intercept::{Chain, Decision, Direction, Interceptor, Verdict};
use shadowcat::protocol::message::Message;
use shadowcat::protocol::sse::{self, Decoder, Event, Item};

use table::Table;

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

/// Finding the session of a request by its id, and taking hold of it.
fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session lookup");
    // As long as ours.
    let id = |number: u64| format!("{:08x}{:012x}{number:012x}", number * 7919, number * 104_729);
    for held in [1, 100, 10_000] {
        let table = Table::new(held as usize);
        let ids: Vec<String> = (0..held).map(id).collect();
        ids.iter().for_each(|id| drop(table.add(id.clone(), || [0u8; 512]).unwrap()));
        group.bench_function(format!("of {held}"), |bench| {
            let mut ids = ids.iter().cycle();
            bench.iter(|| table.find(ids.next().unwrap()).unwrap());
        });
        group.bench_function(format!("of {held}, unknown"), |bench| {
            let unknown = id(held);
            bench.iter(|| black_box(table.find(black_box(&unknown)).is_none()));
        });
    }
    group.finish();
}

/// A call as it comes, and an answer, with so much text in it.
fn call(bytes: usize) -> Bytes {
    let text: String = ('a'..='z').cycle().take(bytes).collect();
    let meta = r#"{"progressToken":"a-token-7"}"#;
    let params = format!(r#"{{"name":"echo","arguments":{{"text":"{text}"}},"_meta":{meta}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":"request-12345","method":"tools/call","params":{params}}}"#).into()
}

const SIZES: [(&str, usize); 3] = [("200 B", 200), ("4 KiB", 4096), ("64 KiB", 65536)];

/// Reading a message once, and changing what is ours in it.
fn message(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    for (size, bytes) in SIZES {
        let text = call(bytes);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("scan/{size}"), |bench| {
            bench.iter(|| Message::parse(black_box(text.clone()), 128).unwrap());
        });
        let message = Message::parse(text, 128).unwrap();
        group.bench_function(format!("edit id and token/{size}"), |bench| {
            bench.iter(|| black_box(&message).edit().id("4711").meta("progressToken", "4711").finish());
        });
    }
    group.finish();
}

/// Events in and out again.
fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse");
    for (size, bytes) in SIZES {
        let event = Event { id: Some(Bytes::from_static(b"12-34")), ..Event::new(call(bytes)) };
        let mut encoded = BytesMut::new();
        sse::encode(&event, &mut encoded).unwrap();
        let encoded = encoded.freeze();
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_function(format!("encode/{size}"), |bench| {
            let mut out = BytesMut::with_capacity(2 * encoded.len());
            bench.iter(|| {
                out.clear();
                sse::encode(black_box(&event), &mut out).unwrap();
            });
        });
        group.bench_function(format!("decode/{size}"), |bench| {
            let mut decoder = Decoder::new(1 << 20);
            bench.iter(|| {
                let mut input = black_box(encoded.clone());
                let Some(Ok(Item::Event(event))) = decoder.decode(&mut input) else { panic!("a whole event") };
                event
            });
        });
    }
    group.finish();
}

/// Wants messages of one method.
struct Of(&'static str);

impl Interceptor for Of {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn wants(&self, _direction: Direction, message: &Message) -> bool {
        message.method() == Some(self.0)
    }

    fn intercept<'a>(&'a self, _direction: Direction, _message: &'a Message) -> BoxFuture<'a, Verdict> {
        Box::pin(std::future::ready(Verdict::default()))
    }
}

/// Asking those who may interfere, with a message that has been read.
fn interceptors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("interceptors");
    let message = Message::parse(call(200), 128).unwrap();
    for (what, method) in [("that want nothing of it", "tools/list"), ("that let it pass", "tools/call")] {
        for count in [0, 1, 5] {
            let chain = Chain::new((0..count).map(|_| Arc::new(Of(method)) as Arc<dyn Interceptor>).collect());
            group.bench_function(format!("{count} {what}"), |bench| {
                // The clock that limits them is the runtime's.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                bench.iter(|| match black_box(&chain).on(Direction::Up, black_box(&message)) {
                    Some(asked) => runtime.block_on(asked),
                    None => Decision::default(),
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pool, sessions, message, events, interceptors);
criterion_main!(benches);
