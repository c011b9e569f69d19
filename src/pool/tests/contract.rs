//! The contract of the pool, point by point.

use std::time::Duration;

use tokio::time::{Instant, advance, sleep};

use super::super::{Patience, PoolError};
use super::fake::{AGE, GRACE, IDLE, Make, ONE, OTHER, PATIENCE, Setup, World, config, forgetful, ms, peek, settle};
use super::model::{K, SPARE};

/// C-POOL-1: what closes still counts; whoever comes waits until it is gone.
#[tokio::test(start_paused = true)]
async fn places_are_bounded_until_nothing_is_left() {
    let setup = Setup::new(2);
    setup.world.linger();
    let (first, _second) = (setup.lease(ONE).await, setup.lease(ONE).await);
    assert_eq!(setup.counts(), [0, 2, 0, 0]);
    let mut waiter = setup.waiter(ONE).await;
    setup.world.peer(first.id()).breaks();
    drop(first);
    settle().await;
    assert_eq!(setup.counts(), [0, 1, 0, 1], "closing counts");
    assert!(peek(&mut waiter).await.is_none());
    assert_eq!(setup.world.begun().len(), 2, "nothing is created yet");
    setup.world.bury();
    assert_eq!(waiter.await.unwrap().id(), 2);
    assert_eq!(setup.world.alive(), 2);
}

/// C-POOL-2: a failed creation, a panic, a connection that is broken on its return: the place is free again each time.
#[tokio::test(start_paused = true)]
async fn a_place_comes_back_whatever_happens() {
    let setup = Setup::with(forgetful(1), World::default());
    setup.world.order([Make::Badly(false, 1), Make::Panic, Make::Well]);
    assert!(matches!(setup.acquire(ONE).await, Err(PoolError::Create("refused"))));
    assert!(matches!(setup.acquire(ONE).await, Err(PoolError::Panicked)));
    for _ in 0..3 {
        let mut lease = setup.lease(ONE).await;
        lease.reuse(false);
        drop(lease);
        let lease = setup.lease(ONE).await;
        setup.world.peer(lease.id()).breaks();
        drop(lease);
    }
    settle().await;
    assert_eq!((setup.counts(), setup.world.alive()), ([0; 4], 0));
    assert_eq!(setup.tasks.panics(), 1);
}

/// C-POOL-3: what is dropped is, within the drop, whose turn it is; nothing is created.
#[tokio::test(start_paused = true)]
async fn a_return_is_for_who_waits() {
    let setup = Setup::new(1);
    let lease = setup.lease(ONE).await;
    let mut waiter = setup.waiter(ONE).await;
    drop(lease);
    let lease = peek(&mut waiter).await.expect("no other task had to run").unwrap();
    assert_eq!((lease.id(), setup.world.begun().len()), (0, 1));
    assert_eq!(setup.counts(), [0, 1, 0, 0]);
    assert_eq!(setup.metric("pool_leases_total", "reused"), 1);
}

/// C-POOL-4: first come, first served.
#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_the_order_they_came() {
    let setup = Setup::new(1);
    let mut lease = setup.lease(ONE).await;
    let mut waiters = Vec::new();
    for _ in 0..4 {
        waiters.push(setup.waiter(ONE).await);
    }
    while !waiters.is_empty() {
        drop(lease);
        let later = waiters.split_off(1);
        lease = peek(&mut waiters[0]).await.expect("it is its turn").unwrap();
        waiters = later;
        for waiter in &mut waiters {
            assert!(peek(waiter).await.is_none(), "nobody is overtaken");
        }
    }
}

/// C-POOL-4: what was used last is used again.
#[tokio::test(start_paused = true)]
async fn the_most_recently_used_is_used_again() {
    let setup = Setup::new(3);
    let [a, b, c] = [setup.lease(ONE).await, setup.lease(ONE).await, setup.lease(ONE).await];
    for lease in [b, c, a] {
        drop(lease);
        advance(ms(10)).await;
    }
    let again = [setup.lease(ONE).await, setup.lease(ONE).await, setup.lease(ONE).await];
    assert_eq!(again.each_ref().map(|lease| lease.id()), [0, 2, 1]);
}

/// C-POOL-5: handles come and go; the pool does not notice.
#[tokio::test(start_paused = true)]
async fn handles_are_cloned_and_dropped_freely() {
    let setup = Setup::new(1);
    let lease = setup.lease(ONE).await;
    for _ in 0..3 {
        drop(setup.pool.clone());
        let clone = setup.pool.clone();
        drop(clone.clone());
    }
    drop(lease);
    assert_eq!(setup.counts(), [1, 0, 0, 0], "what came back is kept");
    assert_eq!(setup.lease(ONE).await.id(), 0, "and used again");
    let waiter = setup.pool.clone();
    let lease = waiter.acquire(&ONE, PATIENCE).await.unwrap();
    drop(waiter);
    drop(lease);
    assert_eq!(setup.lease(ONE).await.id(), 0);
}

/// C-POOL-6: the last handle and the last lease are gone, and so is everything, without `close`.
#[tokio::test(start_paused = true)]
async fn a_pool_that_nobody_has_ends() {
    let setup = Setup::new(3);
    setup.world.order([Make::Well, Make::Well, Make::Never]);
    let (lease, other) = (setup.lease(ONE).await, setup.lease(ONE).await);
    let waiter = setup.waiter(OTHER).await;
    drop(other);
    let Setup { pool, world, tasks, metrics } = setup;
    drop((pool, waiter));
    settle().await;
    assert_eq!(world.alive(), 2, "a lease is out, so the pool is there");
    assert!(tasks.live().contains(&"pool-keeper"));
    sleep(2 * IDLE).await;
    assert_eq!(world.alive(), 1, "and looked after");
    drop(lease);
    assert_eq!(world.alive(), 0, "what is idle is closed at once");
    settle().await;
    assert_eq!(tasks.live(), [] as [&str; 0], "no task is left");
    let text = metrics.exposition(0);
    let left: Vec<_> =
        text.lines().filter(|line| line.starts_with("shadowcat_pool{") && !line.ends_with(" 0")).collect();
    assert_eq!(left, [] as [&str; 0], "no gauge says otherwise");
}

/// C-POOL-7: from the moment it is called, whoever asks or waits is told, and what comes back is closed.
#[tokio::test(start_paused = true)]
async fn a_pool_that_closes_gives_nothing_out() {
    let setup = Setup::new(3);
    setup.world.order([Make::Well, Make::Well, Make::Never]);
    let (lease, idle) = (setup.lease(ONE).await, setup.lease(ONE).await);
    drop(idle);
    let parked = setup.waiter(OTHER).await;
    let begun = Instant::now();
    let mut closing = Box::pin(setup.close());
    assert!(peek(&mut closing).await.is_none());
    assert!(matches!(parked.await, Err(PoolError::Closed)), "whoever waits is told");
    assert!(matches!(setup.acquire(ONE).await, Err(PoolError::Closed)), "whoever comes is told");
    assert_eq!(begun.elapsed(), Duration::ZERO, "at once");
    settle().await;
    assert_eq!(setup.counts(), [0, 1, 0, 0], "what is idle is closed, what is being created is not created");
    assert!(peek(&mut closing).await.is_none(), "a lease is out");
    drop(lease);
    assert_eq!(closing.await, 0);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(setup.world.alive(), 0);
    settle().await;
    assert_eq!(setup.tasks.live(), [] as [&str; 0], "no task is left");
}

/// C-POOL-7: several can close, at once and again, and closing ends when its time is up.
#[tokio::test(start_paused = true)]
async fn closing_is_done_by_many_and_takes_no_longer_than_it_may() {
    let setup = Setup::new(2);
    let (lease, other) = (setup.lease(ONE).await, setup.lease(ONE).await);
    let begun = Instant::now();
    let pool = setup.pool.clone();
    let soon = pool.close(begun + ms(100));
    let (left, late) = tokio::join!(soon, async {
        sleep(ms(50)).await;
        drop(other);
        setup.pool.close(begun + ms(300)).await
    });
    assert_eq!((left, late), (1, 1), "so many are still there");
    assert_eq!(begun.elapsed(), ms(300));
    drop(lease);
    assert_eq!((setup.close().await, setup.close().await), (0, 0));
    // One that was given up has closed it all the same.
    let setup = Setup::new(1);
    drop(setup.lease(ONE).await);
    let mut closing = Box::pin(setup.close());
    let _ = peek(&mut closing).await;
    drop(closing);
    assert_eq!(setup.world.alive(), 0);
    assert!(matches!(setup.acquire(ONE).await, Err(PoolError::Closed)));
}

/// C-POOL-7: no creation begins in a pool that is closed, also not one that was decided upon before.
#[tokio::test(start_paused = true)]
async fn nothing_is_created_after_closing() {
    let setup = Setup::new(2);
    // The creation is a task that has not run yet.
    let waiter = setup.waiter(ONE).await;
    let (left, waited) = tokio::join!(setup.close(), waiter);
    assert!(matches!(waited, Err(PoolError::Closed)));
    assert_eq!((left, setup.world.begun().len()), (0, 0));
}

/// C-POOL-8: an idle connection is given out while another is being created, for however long.
#[tokio::test(start_paused = true)]
async fn a_creation_that_hangs_is_in_nobodys_way() {
    let setup = Setup::new(3);
    drop(setup.lease(ONE).await);
    setup.world.order([Make::Never]);
    let mut hangs = setup.waiter(OTHER).await;
    let begun = Instant::now();
    let lease = tokio::time::timeout(ms(1), setup.lease(ONE)).await.expect("an idle one is there");
    let other = tokio::time::timeout(ms(1), setup.lease(K(2))).await.expect("there is room");
    assert_eq!((lease.id(), other.id(), begun.elapsed()), (0, 1, Duration::ZERO));
    drop((lease, other));
    assert!(peek(&mut hangs).await.is_none());
    assert!(matches!(hangs.await, Err(PoolError::Timeout)));
    assert_eq!(begun.elapsed(), PATIENCE.wait + PATIENCE.create, "the wait covers all of it");
}

/// C-POOL-9: the first sweep comes after one full period; what was missed is not made up for.
#[tokio::test(start_paused = true)]
async fn the_first_sweep_comes_after_a_full_period() {
    let begun = Instant::now();
    let mut config = config(2);
    config.bounds.idle = Duration::from_secs(8);
    let setup = Setup::with(config, World::default());
    let lease = setup.lease(ONE).await;
    let peer = setup.world.peer(lease.id());
    drop(lease);
    // Found by a sweep, and by nothing else.
    peer.breaks();
    while !peer.is_dropped() {
        assert!(begun.elapsed() < Duration::from_secs(3));
        advance(ms(1)).await;
        settle().await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < ms(2010), "{:?}", begun.elapsed());

    // After a long sleep of the machine there is one sweep, and then none before the next period.
    let lease = setup.lease(ONE).await;
    advance(Duration::from_secs(21)).await;
    settle().await;
    let peer = setup.world.peer(lease.id());
    drop(lease);
    peer.breaks();
    settle().await;
    assert!(!peer.is_dropped(), "no tick is made up for");
    advance(Duration::from_secs(2)).await;
    settle().await;
    assert!(peer.is_dropped());
}

/// C-POOL-10: whatever is dead, wherever it died, is not given out.
#[tokio::test(start_paused = true)]
async fn the_dead_are_not_given_out() {
    let setup = Setup::with(forgetful(2), World::default());
    // While it is idle: the news frees the place, and without news the flag is enough.
    drop(setup.lease(ONE).await);
    setup.world.peer(0).die();
    assert_eq!(setup.counts(), [0; 4]);
    assert_eq!(setup.lease(ONE).await.id(), 1);
    setup.world.peer(1).breaks();
    let lease = setup.lease(ONE).await;
    assert_eq!(lease.id(), 2);
    // While it is leased.
    setup.world.peer(2).die();
    assert_eq!(setup.counts(), [0; 4]);
    drop(lease);
    assert_eq!(setup.counts(), [0; 4]);
    // On its way to one who waits, who keeps waiting.
    let lease = [setup.lease(ONE).await, setup.lease(ONE).await];
    let waiter = setup.waiter(ONE).await;
    let [first, _second] = lease;
    let id = first.id();
    drop(first);
    setup.world.peer(id).die();
    assert_eq!(waiter.await.unwrap().id(), 5);
}

/// C-POOL-10: a connection on which something was given up is used again when that has ended, and closed if it does not end.
#[tokio::test(start_paused = true)]
async fn what_is_dirty_waits_until_it_is_clean() {
    let setup = Setup::new(1);
    let lease = setup.lease(ONE).await;
    let peer = setup.world.peer(0);
    peer.busy(true);
    drop(lease);
    let mut waiter = setup.waiter(ONE).await;
    sleep(GRACE / 2).await;
    assert!(peek(&mut waiter).await.is_none());
    peer.busy(false);
    let lease = waiter.await.unwrap();
    assert_eq!(lease.id(), 0, "it has become clean");
    peer.busy(true);
    drop(lease);
    let begun = Instant::now();
    let lease = setup.lease(ONE).await;
    assert_eq!(lease.id(), 1, "it has not");
    assert!(begun.elapsed() >= GRACE && begun.elapsed() <= GRACE + ms(50), "{:?}", begun.elapsed());
    assert_eq!(setup.metric("pool_closes_total", "dirty"), 1);
    // Nobody waits for it to become clean if it is dead.
    setup.world.peer(1).busy(true);
    drop(lease);
    setup.world.peer(1).die();
    assert_eq!(setup.counts(), [0; 4]);
}

/// C-POOL-11: the age counts from the creation, however often it is used, and differs.
#[tokio::test(start_paused = true)]
async fn age_counts_from_creation_and_differs() {
    let setup = Setup::new(40);
    let mut leases = Vec::new();
    for _ in 0..40 {
        leases.push(setup.lease(ONE).await);
    }
    let begun = Instant::now();
    let mut ends = Vec::new();
    while begun.elapsed() < AGE + Duration::from_secs(10) {
        // Used all the time.
        leases.clear();
        advance(Duration::from_secs(1)).await;
        settle().await;
        let gone = setup.world.peers().iter().filter(|peer| peer.is_dropped()).count();
        ends.resize(gone, begun.elapsed());
        for _ in 0..40 - gone {
            leases.push(setup.lease(ONE).await);
        }
    }
    assert_eq!(ends.len(), 40, "none lives longer");
    let (first, last) = (ends[0], ends[39]);
    assert!(first >= AGE - AGE / 10, "{first:?}");
    assert!(last <= AGE + Duration::from_secs(6), "{last:?}");
    assert!(last - first > AGE / 50, "they do not end together: {first:?} {last:?}");
    assert_eq!(setup.metric("pool_closes_total", "age"), 40);
}

/// C-POOL-11: idleness counts from the last return; both are looked at by whoever asks, not only by the sweep.
#[tokio::test(start_paused = true)]
async fn idleness_counts_from_the_last_return() {
    let setup = Setup::new(2);
    for _ in 0..5 {
        drop(setup.lease(ONE).await);
        advance(IDLE - ms(1)).await;
    }
    assert_eq!(setup.lease(ONE).await.id(), 0, "used often enough");
    // No task runs between the two, so that no sweep does.
    advance(IDLE).await;
    let mut asked = Box::pin(setup.acquire(ONE));
    assert!(peek(&mut asked).await.is_none());
    assert_eq!(setup.metric("pool_closes_total", "idle"), 1);
    let lease = asked.await.unwrap();
    assert_eq!(lease.id(), 1);
    advance(AGE).await;
    drop(lease);
    assert_eq!(setup.metric("pool_closes_total", "age"), 1, "and by its return");
    let lease = setup.lease(ONE).await;
    drop(lease);
    sleep(IDLE + Duration::from_secs(6)).await;
    assert_eq!((setup.counts(), setup.metric("pool_closes_total", "idle")), ([0; 4], 2), "and by the sweep");
}

/// C-POOL-12: closing waits for what still ends, as long as it may, and says how many are left.
#[tokio::test(start_paused = true)]
async fn closing_waits_for_processes() {
    let setup = Setup::new(3);
    setup.world.linger();
    drop((setup.lease(ONE).await, setup.lease(ONE).await));
    assert_eq!(setup.pool.close(Instant::now() + ms(100)).await, 2);
    assert_eq!(setup.world.alive(), 2);
    let mut closing = Box::pin(setup.close());
    assert!(peek(&mut closing).await.is_none());
    setup.world.bury();
    assert_eq!(closing.await, 0);
}

/// Spares are made before anybody asks, are no older than idle ones may be, and are replaced when they are used.
#[tokio::test(start_paused = true)]
async fn spares_are_kept() {
    let mut config = config(4);
    config.bounds.spares = 2;
    let setup = Setup::with(config, World::default());
    settle().await;
    assert_eq!((setup.counts(), setup.world.begun().len()), ([2, 0, 0, 0], 2));
    sleep(2 * IDLE).await;
    assert_eq!(setup.counts(), [2, 0, 0, 0], "idleness does not end them");
    let mut lease = setup.lease(ONE).await;
    assert_eq!((lease.key(), setup.metric("pool_leases_total", "warm")), (&SPARE, 1));
    settle().await;
    assert_eq!(setup.counts(), [2, 1, 0, 0], "it is replaced at once");
    lease.file_under(ONE);
    drop(lease);
    assert_eq!(setup.lease(ONE).await.id(), 1, "what was used last; used ones before spares");
    setup.pool.keep_spares(0);
    sleep(IDLE + Duration::from_secs(6)).await;
    assert_eq!(setup.counts(), [0; 4], "those that are too many end as others do");
}

/// All errors are told apart, and the time of `Patience` covers everything.
#[tokio::test(start_paused = true)]
async fn errors_are_told_apart() {
    let mut config = config(1);
    config.bounds.queue = 1;
    let setup = Setup::with(config, World::default());
    let lease = setup.lease(ONE).await;
    let waits = setup.waiter(ONE).await;
    assert!(matches!(setup.acquire(ONE).await, Err(PoolError::QueueFull)));
    let begun = Instant::now();
    assert!(matches!(waits.await, Err(PoolError::Timeout)));
    assert_eq!(begun.elapsed(), PATIENCE.wait, "nothing was created for it");
    assert_eq!(setup.metric("pool_timeouts_total", ""), 1);
    let none = Patience { wait: Duration::ZERO, create: Duration::ZERO };
    assert!(matches!(setup.pool.acquire(&ONE, none).await, Err(PoolError::Timeout)));
    drop(lease);
    assert!(setup.pool.acquire(&ONE, none).await.is_ok(), "what is there needs no patience");
    // For ever is a time like any other.
    let ever = Patience { wait: Duration::MAX, create: Duration::MAX };
    let lease = setup.pool.acquire(&ONE, ever).await.unwrap();
    let pool = setup.pool.clone();
    let mut waits = Box::pin(async move { pool.acquire(&ONE, ever).await });
    assert!(peek(&mut waits).await.is_none());
    sleep(Duration::from_secs(300)).await;
    drop(lease);
    assert!(waits.await.is_ok());
}
