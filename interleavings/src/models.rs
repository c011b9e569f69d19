//! Where two or three threads meet at the desk.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

use loom::sync::atomic::Ordering;
use loom::thread;

use crate::ledger::{Counts, Outcome, Refusal};
use crate::pool::{K, Lease, Pool, explore};

const A: K = K(1);
const B: K = K(2);

fn full(max: usize) -> (Pool, Vec<Lease>) {
    let pool = Pool::new(max);
    let leases = (0..max).map(|_| pool.acquire(A).unwrap()).collect();
    (pool, leases)
}

fn idle(counts: Counts) -> usize {
    assert_eq!((counts.leased, counts.creating, counts.closing, counts.waiting), (0, 0, 0, 0), "{counts:?}");
    counts.idle
}

/// C-POOL-3: a connection comes back while somebody asks for one.
#[test]
fn release_and_acquire() {
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let other = pool.clone();
        let asks = thread::spawn(move || other.acquire(A).map(|lease| other.put(lease)));
        pool.put(lease);
        asks.join().unwrap().unwrap();
        assert_eq!(idle(pool.counts()), 1, "C-POOL-2");
    });
}

/// C-POOL-2, -3: one who waits goes away as it is given what comes back; the next gets it.
#[test]
fn leaving_and_hand_over() {
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let first = pool.ask(A).unwrap().unwrap_err();
        let next = pool.ask(A).unwrap().unwrap_err();
        let (leaving, waiting) = (pool.clone(), pool.clone());
        let leaves = thread::spawn(move || leaving.leave(first));
        let waits = thread::spawn(move || waiting.put(waiting.wait(next).unwrap()));
        pool.put(lease);
        leaves.join().unwrap();
        waits.join().unwrap();
        assert_eq!(idle(pool.counts()), 1, "C-POOL-2");
    });
}

/// C-POOL-2: time runs out for one who has looked, and who takes what is there or leaves it, never both or neither.
#[test]
fn time_out_and_grant() {
    // Not the model checker's: kept over all interleavings.
    static SEEN: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let ticket = pool.ask(A).unwrap().unwrap_err();
        let other = pool.clone();
        let waits = thread::spawn(move || {
            let mut turn = pin!(other.desk.turn(ticket));
            // Looks once, as `timeout` does when the time is up, and goes.
            let looked = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            other.leave(ticket);
            match looked {
                Poll::Ready(Outcome::Given(lease)) => {
                    other.put(lease);
                    true
                }
                Poll::Ready(end) => panic!("{end:?}"),
                Poll::Pending => false,
            }
        });
        pool.put(lease);
        SEEN[usize::from(waits.join().unwrap())].store(true, Ordering::SeqCst);
        assert_eq!(idle(pool.counts()), 1, "C-POOL-2");
    });
    assert!(SEEN.iter().all(|seen| seen.load(Ordering::SeqCst)), "both happen");
}

/// C-POOL-7: the pool is closed while one connection comes back and another is asked for.
#[test]
fn close_and_acquire_and_release() {
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let (asking, closing) = (pool.clone(), pool.clone());
        let asks = thread::spawn(move || match asking.acquire(A) {
            Ok(lease) => asking.put(lease),
            Err(refusal) => assert_eq!(refusal, Refusal::Closed),
        });
        let closes = thread::spawn(move || closing.close());
        let place = lease.place;
        pool.put(lease);
        closes.join().unwrap();
        asks.join().unwrap();
        pool.gone(place);
        assert_eq!(pool.counts(), Counts::default(), "C-POOL-7: nothing is left, nobody waits");
    });
}

/// C-POOL-7: whoever closes is woken by the end of the last.
#[test]
fn close_and_the_end_of_the_last() {
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let other = pool.clone();
        let closes = thread::spawn(move || {
            other.close();
            loom::future::block_on(poll_fn(|context| other.desk.poll_empty(context)));
        });
        pool.discard(lease);
        closes.join().unwrap();
        assert_eq!(pool.counts(), Counts::default());
    });
}

/// C-POOL-10, -2: an idle connection ends while it is asked for: whoever asks has another, or one whose end it sees.
#[test]
fn end_and_ask() {
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let (place, dead) = (lease.place, lease.conn.dead.clone());
        pool.put(lease);
        let other = pool.clone();
        let ends = thread::spawn(move || {
            dead.store(true, Ordering::SeqCst);
            other.gone(place);
        });
        let lease = pool.acquire(A).unwrap();
        let same = lease.place == place;
        pool.put(lease);
        ends.join().unwrap();
        assert_eq!(idle(pool.counts()), usize::from(!same), "C-POOL-2");
    });
}

/// C-POOL-4, -3: one connection comes back, two wait for it: both get it, one after the other.
#[test]
fn two_wait_for_one() {
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let waits = [pool.clone(), pool.clone()].map(|pool| {
            let ticket = pool.ask(A).unwrap().unwrap_err();
            thread::spawn(move || pool.put(pool.wait(ticket).unwrap()))
        });
        pool.put(lease);
        for waits in waits {
            waits.join().unwrap();
        }
        assert_eq!(idle(pool.counts()), 1, "C-POOL-2");
    });
}

/// C-POOL-1, -4: one whom nothing fits waits while the place is given back for another kind.
#[test]
fn another_kind_gets_the_place() {
    explore(|| {
        let (pool, mut leases) = full(1);
        let lease = leases.remove(0);
        let other = pool.clone();
        let asks = thread::spawn(move || other.put(other.acquire(B).unwrap()));
        pool.discard(lease);
        asks.join().unwrap();
        assert_eq!(idle(pool.counts()), 1);
    });
}
