//! Random programs of many who ask, give up, hold, break and panic, in a world that does what it likes. Time is paused.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use super::super::{Patience, PoolError};
use super::fake::{Make, Setup, World, config, ms, peek};
use super::model::K;

/// What one client does, again and again.
#[derive(Debug, Clone)]
struct Visit {
    after: u64,
    key: u8,
    wait: u64,
    create: u64,
    /// Polled so often, and given up.
    gives_up: Option<u8>,
    holds: u64,
    ends: Ends,
}

#[derive(Debug, Clone, Copy)]
enum Ends {
    Returns,
    Refiles(u8),
    Discards,
    Panics,
    LeavesDirty(u64),
    Breaks,
    Dies,
    /// Another task drops it later.
    GivesAway(u64),
}

#[derive(Debug, Clone)]
struct Program {
    max: usize,
    creating: usize,
    queue: usize,
    spares: usize,
    clients: Vec<Vec<Visit>>,
    makes: Vec<Make>,
    /// Idle connections die then.
    deaths: Vec<u64>,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// Two close, then.
    Closed(u64),
    /// All handles are dropped, and nobody closes.
    Dropped,
    /// The program stops, then.
    Stopped(u64),
}

fn visit() -> impl Strategy<Value = Visit> {
    let ends = prop_oneof![
        6 => Just(Ends::Returns),
        2 => (1..5u8).prop_map(Ends::Refiles),
        1 => Just(Ends::Discards),
        1 => Just(Ends::Panics),
        2 => (0..40u64).prop_map(Ends::LeavesDirty),
        1 => Just(Ends::Breaks),
        1 => Just(Ends::Dies),
        1 => (0..30u64).prop_map(Ends::GivesAway),
    ];
    let gives_up = prop::option::weighted(0.3, 0..4u8);
    (0..30u64, 1..5u8, 0..60u64, 0..60u64, gives_up, 0..25u64, ends).prop_map(
        |(after, key, wait, create, gives_up, holds, ends)| Visit { after, key, wait, create, gives_up, holds, ends },
    )
}

fn make() -> impl Strategy<Value = Make> {
    prop_oneof![
        6 => Just(Make::Well),
        4 => (1..40u64).prop_map(Make::Slowly),
        2 => (any::<bool>(), 0..20u64).prop_map(|(counts, time)| Make::Badly(counts, time)),
        1 => Just(Make::Never),
        1 => Just(Make::Panic),
        1 => Just(Make::DeadOnArrival),
        1 => Just(Make::Broken),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let end = prop_oneof![(0..300u64).prop_map(End::Closed), Just(End::Dropped), (0..300u64).prop_map(End::Stopped),];
    let clients = prop::collection::vec(prop::collection::vec(visit(), 1..8), 1..10);
    let sizes = (1..5usize, 1..4usize, 0..6usize, 0..3usize);
    (sizes, clients, prop::collection::vec(make(), 0..30), prop::collection::vec(0..200u64, 0..4), end).prop_map(
        |((max, creating, queue, spares), clients, makes, deaths, end)| Program {
            max,
            creating,
            queue,
            spares,
            clients,
            makes,
            deaths,
            end,
        },
    )
}

/// Who has what, as those know who have it.
type Holders = Arc<Mutex<BTreeSet<usize>>>;

async fn client(pool: super::super::Pool<World>, world: World, visits: Vec<Visit>, holders: Holders) {
    for visit in visits {
        sleep(ms(visit.after)).await;
        let patience = Patience { wait: ms(visit.wait), create: ms(visit.create) };
        let key = K(visit.key);
        let begun = Instant::now();
        let mut asks = Box::pin(pool.acquire(&key, patience));
        let answer = match visit.gives_up {
            None => Some(asks.await),
            Some(polls) => {
                let mut answer = None;
                for _ in 0..polls {
                    answer = peek(&mut asks).await;
                    if answer.is_some() {
                        break;
                    }
                    sleep(ms(3)).await;
                }
                drop(asks);
                answer
            }
        };
        if visit.gives_up.is_none() {
            let took = begun.elapsed();
            assert!(took <= patience.wait + patience.create + ms(1), "{took:?} is longer than {patience:?}");
        }
        let mut lease = match answer {
            None | Some(Err(PoolError::Resting(_) | PoolError::QueueFull | PoolError::Timeout)) => continue,
            Some(Err(PoolError::Create(_) | PoolError::Panicked)) => continue,
            Some(Err(PoolError::Closed)) => return,
            Some(Ok(lease)) => lease,
        };
        let peer = world.peer(lease.id());
        assert!(!peer.is_dropped(), "C-POOL-10: it is closed");
        assert!(holders.lock().unwrap().insert(peer.id), "one connection has one holder");
        let fits = super::super::ledger::Key::fits(&key, lease.key());
        assert!(fits, "{key:?} is not served by {:?}", lease.key());
        sleep(ms(visit.holds)).await;
        holders.lock().unwrap().remove(&peer.id);
        match visit.ends {
            Ends::Returns => {}
            Ends::Refiles(key) => lease.file_under(K(key)),
            Ends::Discards => lease.reuse(false),
            Ends::Panics => {
                let panics = AssertUnwindSafe(async move {
                    let _lease = lease;
                    panic!("as it was told");
                });
                assert!(panics.catch_unwind().await.is_err());
                continue;
            }
            Ends::LeavesDirty(time) => {
                peer.busy(true);
                drop(lease);
                sleep(ms(time)).await;
                peer.busy(false);
                continue;
            }
            Ends::Breaks => peer.breaks(),
            Ends::Dies => peer.die(),
            Ends::GivesAway(time) => {
                holders.lock().unwrap().insert(peer.id);
                sleep(ms(time)).await;
                holders.lock().unwrap().remove(&peer.id);
            }
        }
        drop(lease);
    }
}

async fn run(program: Program) {
    let mut config = config(program.max);
    config.bounds.creating = program.creating;
    config.bounds.queue = program.queue;
    config.bounds.spares = program.spares;
    config.bounds.idle = ms(50);
    config.max_age = ms(120);
    config.cancel_grace = ms(15);
    config.restarts.window = ms(40);
    config.restarts.longest = ms(20);
    let world = World::default();
    world.order(program.makes);
    let setup = Setup::with(config, world.clone());
    let begun = Instant::now();
    let holders = Holders::default();
    let clients: Vec<_> = program
        .clients
        .into_iter()
        .map(|visits| client(setup.pool.clone(), world.clone(), visits, Arc::clone(&holders)))
        .collect();
    // Looks all the time.
    let max = program.max;
    let watches = {
        let (pool, world) = (setup.pool.clone(), world.clone());
        async move {
            loop {
                let counts = pool.counts();
                assert!(counts.live() <= max && world.alive() <= max, "C-POOL-1: {counts:?}");
                sleep(ms(1)).await;
            }
        }
    };
    let deaths = async {
        for death in program.deaths {
            sleep(ms(death)).await;
            let holders = holders.lock().unwrap().clone();
            let idle = world.peers().into_iter().find(|peer| peer.is_alive() && !holders.contains(&peer.id));
            if let Some(idle) = idle {
                idle.die();
            }
        }
    };
    let deadline = begun + Duration::from_secs(60);
    let ends = async {
        match program.end {
            End::Closed(after) => {
                sleep(ms(after)).await;
                let (one, other) = tokio::join!(setup.pool.close(deadline), setup.pool.close(deadline));
                assert_eq!((one, other), (0, 0), "C-POOL-7");
            }
            End::Dropped => {}
            End::Stopped(after) => {
                sleep(ms(after)).await;
                assert_eq!(setup.tasks.close(deadline).await, [], "no task outlives the program");
            }
        }
    };
    let all = async { tokio::join!(futures_util::future::join_all(clients), deaths, ends) };
    tokio::select! {
        _ = all => {}
        () = watches => {}
        () = tokio::time::sleep_until(deadline + ms(1)) => panic!("somebody waits for ever"),
    }
    let Setup { pool, world, tasks, metrics: _ } = setup;
    // Those who are still being created, for nobody, and those in quarantine, end as well.
    drop(pool);
    sleep(ms(100)).await;
    assert_eq!(world.alive(), 0, "C-POOL-2, -6: nothing is left");
    assert_eq!(tasks.live(), [] as [&str; 0], "C-POOL-6: no task is left");
}

proptest! {
    #![proptest_config(super::cases(120))]

    /// C-POOL-1, -2, -6, -7 and -10, and that nobody waits longer than it wants to, whatever happens.
    #[test]
    fn whatever_happens_nothing_is_lost(program in program()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(program));
    }
}
