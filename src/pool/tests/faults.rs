//! What goes wrong: creations that fail again and again, panics, places that nobody gives back in time, ends of programs.

use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use super::super::{Lease, PoolError};
use super::fake::{AGE, IDLE, Make, ONE, OTHER, PATIENCE, Setup, World, config, forgetful, ms, peek, settle};
use super::model::{K, SPARE};

/// Spares that cannot be made are not tried for ever: whatever a creation says of itself, however it ends.
#[tokio::test(start_paused = true)]
async fn spares_that_fail_rest() {
    for make in [Make::Badly(true, 1), Make::Badly(false, 1), Make::Panic, Make::DeadOnArrival, Make::Broken] {
        let mut config = config(3);
        config.bounds.spares = 1;
        let world = World::default();
        world.order([make; 200]);
        let setup = Setup::with(config, world);
        let begun = Instant::now();
        sleep(Duration::from_secs(20)).await;
        let tried: Vec<_> = setup.world.begun().iter().map(|(at, _)| at.duration_since(begun).as_millis()).collect();
        assert!(tried.len() == 5, "{make:?} was tried at {tried:?}");
        sleep(Duration::from_secs(300)).await;
        let often = setup.world.begun().len();
        assert!((30..=60).contains(&often), "{make:?} was tried {often} times");
        assert_eq!(setup.counts(), [0; 4], "C-POOL-2");
    }
}

/// The same for a server that is there, and breaks as soon as it is used. Short pauses are waited for; only a crash loop
/// refuses.
#[tokio::test(start_paused = true)]
async fn connections_that_break_at_once_rest() {
    let setup = Setup::new(2);
    let mut waited = Vec::new();
    let rest = loop {
        let asked = Instant::now();
        match setup.acquire(ONE).await {
            Ok(lease) => setup.world.peer(lease.id()).die(),
            Err(PoolError::Resting(rest)) => break rest,
            Err(error) => panic!("{error}"),
        }
        waited.push(asked.elapsed().as_millis());
        assert!(waited.len() < 20, "it never rests");
    };
    assert!(matches!(waited[..], [0, 0, 250..300, 500..550, 1000..1050]), "the first failure is free: {waited:?}");
    assert_eq!(setup.pool.rest(), Some(rest));
    assert!(rest.looping && rest.failures == 5);
    assert_eq!(rest.until, (Instant::now() + Duration::from_secs(30)).into_std());
    // What is told from outside counts as well, but not twice.
    setup.pool.start_failed();
    assert_eq!(setup.pool.rest(), Some(rest));
}

/// One connection that does not work is one failure, in whatever order its holder and its process say so.
#[tokio::test(start_paused = true)]
async fn a_failure_counts_once() {
    for process_first in [true, false] {
        let setup = Setup::new(1);
        for expected in [false, true] {
            let mut lease = setup.lease(ONE).await;
            let peer = setup.world.peer(lease.id());
            peer.breaks();
            if process_first {
                peer.vanish();
            }
            lease.failed();
            drop(lease);
            assert_eq!(setup.pool.rest().is_some(), expected, "process first: {process_first}");
            assert!(peer.is_dropped());
        }
        assert_eq!(setup.pool.rest().expect("it rests").failures, 2);
    }
    let setup = Setup::new(1);
    setup.lease(ONE).await.failed();
    assert_eq!((setup.counts(), setup.pool.rest()), ([0; 4], None), "it is closed, though it may seem to work");
}

/// What has been of use may end young, in whatever way: that says nothing of the next one.
#[tokio::test(start_paused = true)]
async fn what_worked_may_end() {
    let setup = Setup::new(1);
    for process_first in [true, false, true, false] {
        let lease = setup.lease(ONE).await;
        let peer = setup.world.peer(lease.id());
        peer.worked();
        peer.breaks();
        if process_first {
            peer.vanish();
        }
        drop(lease);
        assert_eq!((setup.counts(), setup.pool.rest()), ([0; 4], None));
    }
}

/// While creation rests, what is there is used all the same.
#[tokio::test(start_paused = true)]
async fn a_rest_is_a_rest_of_creations_only() {
    let setup = Setup::new(3);
    let lease = setup.lease(ONE).await;
    setup.pool.start_failed();
    assert!(setup.pool.rest().is_none(), "the first is free");
    for _ in 0..4 {
        sleep(Duration::from_secs(3)).await;
        setup.pool.start_failed();
    }
    assert!(matches!(setup.acquire(ONE).await, Err(PoolError::Resting(_))));
    drop(lease);
    assert_eq!(setup.lease(ONE).await.id(), 0);
    // No idle connection is closed to make room for one that is not created.
    let setup = Setup::new(1);
    drop(setup.lease(ONE).await);
    setup.pool.start_failed();
    setup.pool.start_failed();
    let begun = Instant::now();
    let mut waiter = setup.waiter(OTHER).await;
    settle().await;
    assert_eq!(setup.counts(), [1, 0, 0, 0]);
    assert!(peek(&mut waiter).await.is_none());
    assert_eq!(waiter.await.unwrap().key(), &OTHER, "when the rest is over, it is");
    assert!(begun.elapsed() >= ms(250) && begun.elapsed() < ms(300), "{:?}", begun.elapsed());
}

/// A burst of failures that were begun together is no crash loop, and each of those who asked is told its own.
#[tokio::test(start_paused = true)]
async fn each_failure_is_told_to_one() {
    let setup = Setup::new(6);
    setup.world.order([Make::Badly(true, 10); 4]);
    let mut waiters = Vec::new();
    for _ in 0..6 {
        waiters.push(setup.waiter(ONE).await);
    }
    let ends = futures_util::future::join_all(waiters).await;
    let failed = ends.iter().filter(|end| matches!(end, Err(PoolError::Create("refused")))).count();
    let given = ends.iter().filter(|end| end.is_ok()).count();
    assert_eq!((failed, given), (4, 2));
    assert!(setup.pool.rest().is_none_or(|rest| !rest.looping));
}

/// A spare that fails is nobody's failure: one who waits has a creation of its own under way.
#[tokio::test(start_paused = true)]
async fn a_spare_that_fails_is_nobodys_failure() {
    let mut config = config(3);
    config.bounds.spares = 1;
    let world = World::default();
    world.order([Make::Badly(true, 10), Make::Slowly(100), Make::Slowly(500)]);
    let setup = Setup::with(config, world);
    settle().await;
    assert_eq!(setup.lease(ONE).await.key(), &ONE);
}

/// C-LIFE-3: once the program drains, no spare is begun, and what fails or ends is no sign of a server that does not work.
#[tokio::test(start_paused = true)]
async fn a_drain_makes_no_spares_and_no_failures() {
    let mut config = config(4);
    config.bounds.spares = 2;
    let world = World::default();
    world.order([Make::Well, Make::Badly(true, 10)]);
    let setup = Setup::with(config, world);
    settle().await;
    assert_eq!(setup.counts(), [1, 0, 1, 0]);
    setup.tasks.drain().cancel();
    setup.world.order([Make::Badly(false, 0); 20]);
    setup.world.peer(0).die();
    sleep(Duration::from_secs(10)).await;
    assert_eq!((setup.counts(), setup.world.begun().len()), ([0; 4], 2));
    assert_eq!(setup.pool.rest(), None, "nothing that would be told as a failure");
}

/// One who waits does not wait for a spare that is not ready: it gets it as it is, or its place.
#[tokio::test(start_paused = true)]
async fn a_spare_that_is_not_ready_is_in_nobodys_way() {
    for key in [ONE, OTHER] {
        let mut config = config(2);
        config.bounds.spares = 2;
        let world = World::default();
        world.order([Make::Silent; 2]);
        let setup = Setup::with(config, world);
        settle().await;
        assert_eq!(setup.counts(), [0, 0, 2, 0]);
        let asked = Instant::now();
        let lease = setup.lease(key).await;
        assert_eq!((asked.elapsed(), lease.key() == &SPARE), (Duration::ZERO, key == ONE));
        let again = setup.lease(key).await;
        assert_eq!((asked.elapsed(), again.id() == lease.id()), (Duration::ZERO, false));
    }
}

/// C-POOL-2: those that the limit of creations held back are looked at when a creation ends.
#[tokio::test(start_paused = true)]
async fn creations_follow_one_another() {
    let mut config = config(6);
    config.bounds.creating = 1;
    let setup = Setup::with(config, World::default());
    setup.world.order([Make::Slowly(10); 6]);
    let mut waiters = Vec::new();
    for _ in 0..6 {
        waiters.push(setup.waiter(ONE).await);
    }
    let begun = Instant::now();
    let ends = futures_util::future::join_all(waiters).await;
    assert!(ends.iter().all(Result::is_ok));
    assert!(begun.elapsed() < ms(100), "without a pause between two: {:?}", begun.elapsed());
}

/// One that gives up while a connection is created for it leaves it to the next (a creation is not thrown away).
#[tokio::test(start_paused = true)]
async fn a_creation_survives_who_asked_for_it() {
    let setup = Setup::new(1);
    setup.world.order([Make::Slowly(100)]);
    let waiter = setup.waiter(ONE).await;
    let next = setup.waiter(ONE).await;
    drop(waiter);
    assert_eq!(next.await.unwrap().id(), 0);
    let setup = Setup::new(1);
    setup.world.order([Make::Slowly(100)]);
    drop(setup.waiter(ONE).await);
    sleep(ms(200)).await;
    assert_eq!(setup.counts(), [1, 0, 0, 0], "or to whoever comes");
}

/// A panic of its holder ends a connection: anything may be half done on it.
#[tokio::test(start_paused = true)]
async fn a_panic_ends_the_connection() {
    let setup = Setup::new(1);
    let lease = setup.lease(ONE).await;
    let caught = std::panic::AssertUnwindSafe(async move {
        let _lease = lease;
        panic!("in the middle of something");
    });
    assert!(caught.catch_unwind().await.is_err());
    assert_eq!((setup.counts(), setup.world.alive()), ([0; 4], 0));
    assert_eq!(setup.lease(ONE).await.id(), 1);
}

/// C-POOL-6: the last lease may be dropped anywhere: by another task, outside a runtime, after its runtime.
#[test]
fn leases_end_anywhere() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // In another runtime's task, which owns it for its whole life.
    let first = runtime();
    let setup = first.block_on(async { Setup::new(2) });
    let (lease, other) = first.block_on(async { (setup.lease(ONE).await, setup.lease(ONE).await) });
    runtime().block_on(async move {
        sleep(ms(10)).await;
        drop(lease);
    });
    assert_eq!(setup.counts(), [1, 1, 0, 0]);
    let Setup { pool, world, .. } = setup;
    drop(pool);
    assert_eq!(world.alive(), 2);
    drop(other);
    assert_eq!(world.alive(), 0, "outside a runtime");
    // After its runtime, with somebody who waits and a creation under way.
    let second = runtime();
    let (setup, lease) = second.block_on(async {
        let setup = Setup::new(2);
        let lease = setup.lease(ONE).await;
        setup.world.order([Make::Never]);
        let pool = setup.pool.clone();
        setup.tasks.spawn("asks", async move { drop(pool.acquire(&OTHER, PATIENCE).await) });
        settle().await;
        assert_eq!(setup.counts(), [0, 1, 1, 0]);
        (setup, lease)
    });
    drop(second);
    assert_eq!(setup.counts(), [0, 1, 0, 0]);
    drop(lease);
    let Setup { pool, world, .. } = setup;
    assert_eq!(world.alive(), 1);
    drop(pool);
    assert_eq!(world.alive(), 0);
}

/// A program that stops, without closing the pool, waits for nothing, and whoever waits is told.
#[tokio::test(start_paused = true)]
async fn the_pool_ends_with_the_program() {
    let setup = Setup::new(2);
    setup.world.order([Make::Well, Make::Never]);
    let lease = setup.lease(ONE).await;
    let waits = setup.waiter(OTHER).await;
    settle().await;
    let begun = Instant::now();
    let (left, waited) = tokio::join!(setup.tasks.close(begun + Duration::from_secs(5)), waits);
    assert_eq!((left.len(), begun.elapsed()), (0, Duration::ZERO), "no task outlives it");
    assert!(matches!(waited, Err(PoolError::Closed)));
    assert!(matches!(setup.acquire(OTHER).await, Err(PoolError::Closed)));
    drop(lease);
    assert_eq!(setup.world.alive(), 0);
}

/// The last that is left of a task may be its waker, and the last that a task has a lease: wakers are not dropped under
/// the lock, in which the lease could not come back.
#[tokio::test(start_paused = true)]
async fn a_waker_may_hold_a_lease() {
    struct Holds(#[expect(dead_code, reason = "it is dropped")] Mutex<Lease<World>>);
    impl Wake for Holds {
        fn wake(self: Arc<Self>) {}
    }
    let setup = Setup::new(3);
    let leases = [setup.lease(ONE).await, setup.lease(ONE).await, setup.lease(ONE).await];
    let mut wakers = leases.map(|lease| Waker::from(Arc::new(Holds(Mutex::new(lease))))).into_iter();
    let mut waits = setup.waiter(OTHER).await;
    // Replaced by another.
    for waker in wakers.by_ref().take(2) {
        assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(setup.pool.counts().leased, 2, "one came back");
    // Dropped with the one who waits.
    drop(waits);
    assert_eq!(setup.pool.counts().leased, 1);
    // Of one who closes.
    let mut closing = Box::pin(setup.close());
    for waker in wakers {
        assert!(closing.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(closing);
}

/// A connection whose kind nobody wants any more makes room for one that is wanted, the one used longest ago first.
#[tokio::test(start_paused = true)]
async fn idle_connections_make_room() {
    let mut config = config(2);
    config.bounds.queue = 0;
    let setup = Setup::with(config, World::default());
    drop((setup.lease(ONE).await, setup.lease(K(2)).await));
    let lease = setup.lease(OTHER).await;
    assert_eq!((setup.world.peer(0).is_dropped(), setup.world.peer(1).is_dropped()), (true, false));
    assert_eq!(setup.metric("pool_closes_total", "evicted"), 1);
    drop(lease);
    assert_eq!(setup.lease(K(2)).await.id(), 1);
}

/// C-POOL-4: one whom nothing fits that comes back gets a place after some time, however many others wait.
#[tokio::test(start_paused = true)]
async fn nobody_is_passed_over_for_ever() {
    let setup = Setup::new(1);
    let mut lease = setup.lease(ONE).await;
    let mut waits = setup.waiter(OTHER).await;
    let mut turns = 0;
    let given = loop {
        let mut next = setup.waiter(ONE).await;
        drop(lease);
        settle().await;
        if let Some(given) = peek(&mut waits).await {
            break given;
        }
        lease = peek(&mut next).await.expect("it fits").unwrap();
        turns += 1;
        assert!(turns < 20, "it starves");
    };
    assert_eq!((given.unwrap().key(), turns), (&OTHER, 8));
}

/// Every connection that was made is closed once, for one reason.
#[tokio::test(start_paused = true)]
async fn what_is_counted_adds_up() {
    let setup = Setup::with(forgetful(10), World::default());
    let mut leases = Vec::new();
    for _ in 0..8 {
        leases.push(setup.lease(ONE).await);
    }
    // Idle and lost, leased and lost, broken on its return, discarded, dirty, and what is closed with the pool.
    drop(leases.pop());
    setup.world.peer(7).die();
    setup.world.peer(6).die();
    drop(leases.pop());
    setup.world.peer(5).breaks();
    drop(leases.pop());
    leases[4].reuse(false);
    drop(leases.pop());
    setup.world.peer(3).busy(true);
    drop(leases.pop());
    settle().await;
    sleep(Duration::from_secs(3)).await;
    drop(leases.pop());
    sleep(IDLE + Duration::from_secs(6)).await;
    drop(leases.pop());
    sleep(AGE).await;
    drop(leases.pop());
    setup.world.order([Make::DeadOnArrival, Make::Broken]);
    drop(setup.lease(ONE).await);
    assert_eq!(setup.close().await, 0);
    for (reason, number) in
        [("lost", 2), ("broken", 3), ("discarded", 1), ("dirty", 1), ("idle", 2), ("age", 1), ("closed", 1)]
    {
        assert_eq!(setup.metric("pool_closes_total", &format!("\"{reason}\"")), number, "{reason}");
    }
    assert_eq!(setup.metric("pool_creations_total", "ok"), 11);
    assert_eq!(setup.metric("pool_closes_total", ""), 11);
    assert_eq!(setup.metric("pool", "state"), 0, "no gauge says that anything is left");
}
