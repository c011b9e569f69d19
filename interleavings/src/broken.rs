//! Desks that lose wake-ups or places: each model must fail, or those beside them prove nothing.

use std::sync::Arc;
use std::task::{Poll, Waker};

use loom::sync::Mutex;
use loom::thread;

use crate::pool::{K, Pool, explore};

/// Set in the process in which a model is to fail: loom ends that process when it finds a deadlock.
const ALONE: &str = "INTERLEAVINGS_ALONE";

/// Runs a model, which is that of the test of this name, in a process of its own, where it must end in a deadlock.
fn must_fail(name: &str, model: impl Fn() + Sync + Send + 'static) {
    if std::env::var_os(ALONE).is_some() {
        return explore(model);
    }
    let program = std::env::current_exe().unwrap();
    let ended = std::process::Command::new(program)
        .args(["--exact", &format!("broken::{name}"), "--nocapture"])
        .env(ALONE, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("deadlock"), "{name} was not found out: {said}");
}

/// Looks first and leaves its waker after that, in two visits: what comes between the two is missed.
#[test]
fn a_waker_left_too_late_is_found() {
    struct Desk(Mutex<(bool, Option<Waker>)>);
    must_fail("a_waker_left_too_late_is_found", || {
        let desk = Arc::new(Desk(Mutex::new((false, None))));
        let other = Arc::clone(&desk);
        let waits = thread::spawn(move || {
            loom::future::block_on(std::future::poll_fn(|context| {
                if other.0.lock().unwrap().0 {
                    return Poll::Ready(());
                }
                other.0.lock().unwrap().1 = Some(context.waker().clone());
                Poll::Pending
            }));
        });
        let waker = {
            let mut desk = desk.0.lock().unwrap();
            desk.0 = true;
            desk.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        waits.join().unwrap();
    });
}

/// Whoever leaves forgets to say so: what it had been given is nobody's, and the next waits for ever.
#[test]
fn one_who_leaves_without_a_word_is_found() {
    must_fail("one_who_leaves_without_a_word_is_found", || {
        let pool = Pool::new(1);
        let lease = pool.acquire(K(1)).unwrap();
        let _left = pool.ask(K(1)).unwrap().unwrap_err();
        let next = pool.ask(K(1)).unwrap().unwrap_err();
        let other = pool.clone();
        let waits = thread::spawn(move || other.put(other.wait(next).unwrap()));
        pool.put(lease);
        waits.join().unwrap();
    });
}

/// Somebody asks, and nobody plans.
#[test]
fn a_plan_that_is_forgotten_is_found() {
    must_fail("a_plan_that_is_forgotten_is_found", || {
        let pool = Pool::new(1);
        let lease = pool.acquire(K(1)).unwrap();
        let other = pool.clone();
        let asks = thread::spawn(move || other.acquire(K(2)).map(|lease| other.put(lease)));
        let place = lease.place;
        let _ = pool.desk.visit(|ledger, orders| ledger.discard(lease, crate::ledger::Reason::Discarded, orders));
        // As `Pool::gone`, without what it is told to do.
        let _ = pool.desk.visit(|ledger, orders| ledger.gone(place, orders));
        asks.join().unwrap().unwrap();
    });
}
