//! Everything at once, for a while, in two worlds. In the end everything has returned to where it began.
//!
//! - Processes: random sessions of both eras in front of servers of every isolation, which are killed in the middle of it;
//!   clients that cancel, go away and read slowly.
//! - Streams: a hundred of all kinds in front of servers over HTTP that break them at random places; every event is accounted for.
//!
//! `SHADOWCAT_SOAK_SECONDS` says for how long, `SHADOWCAT_SOAK_SEED` repeats decisions (not the moments at which they are
//! carried out), `SHADOWCAT_SOAK_LEAK` loses something on purpose. `scripts/soak` sets all of them.
#![cfg(target_os = "linux")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, join_all};

use tokio::time::Instant;

#[path = "soak/accounts.rs"]
mod accounts;
#[path = "soak/broken.rs"]
mod broken;
#[path = "soak/chance.rs"]
mod chance;
#[path = "common/mod.rs"]
mod common;
#[path = "soak/leak.rs"]
mod leak;
#[path = "soak/listeners.rs"]
mod listeners;
#[path = "soak/measured.rs"]
mod measured;
#[path = "soak/tally.rs"]
mod tally;
#[path = "soak/visits.rs"]
mod visits;
#[path = "soak/world.rs"]
mod world;

use accounts::Accounts;
use broken::Broken;
use chance::Chance;
use common::*;
use leak::Leak;
use listeners::Listener;
use measured::{Growth, Measured};
use tally::Tally;
use visits::Visitor;
use world::World;

/// Each world measures the whole process: there is one at a time.
static PROCESS: Mutex<()> = Mutex::new(());

/// How many clients there are at the same time.
const VISITORS: u64 = 16;

/// A number from the environment.
fn asked_for(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: not a number: {value}")))
}

/// What the environment asks for.
struct Asked {
    seed: u64,
    length: Duration,
    leak: Option<Leak>,
}

/// Does it as the environment asks, alone in the process.
fn alone_in_the_process(soak: impl AsyncFnOnce(Asked)) {
    let _alone = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = asked_for("SHADOWCAT_SOAK_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let length = Duration::from_secs(asked_for("SHADOWCAT_SOAK_SECONDS").unwrap_or(6));
    let leak = Leak::asked_for();
    println!("soak: {length:?}, SHADOWCAT_SOAK_SEED={seed}, leak: {leak:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(soak(Asked { seed, length, leak }));
}

/// C-LIFE, C-POOL-1, C-POOL-2, C-POOL-12, invariants of ownership: see above.
#[test]
fn everything_returns_to_where_it_began() {
    alone_in_the_process(async |Asked { seed, length, leak }| {
        let empty = Measured::now();
        let world = World::start().await;
        // Everything was done once, so that what is made once and kept is there.
        soak(&world, &Tally::new(None), seed, length / 6).await;
        let before = world.at_rest().await;

        let tally = Tally::new(leak);
        let growth = soak(&world, &tally, seed, length).await;
        println!("{} requests\n{}", tally.asked(), tally.lines());
        let (said, bounded) = growth.judge();
        println!("{said}");
        let after = world.at_rest().await;
        println!("before {before:?}\nafter  {after:?}");
        Measured::until_no_more_than(before).await;
        assert!(bounded, "{said}");
        assert!(tally.seen("ok") * 2 > tally.asked(), "half of it at least works:\n{}", tally.lines());

        let report = within("shutdown", world.proxy.running.shutdown()).await;
        assert!(report.is_clean(), "{report:?}");
        drop(world);
        Measured::until_no_more_than(empty).await;
    });
}

/// C-SSE: whatever breaks, each client hears each event that is for it once and in order, or is told; each call arrives once; and
/// nothing is left.
#[test]
fn every_event_is_accounted_for() {
    alone_in_the_process(async |Asked { seed, length, leak }| {
        let over = Instant::now() + length;
        let mut right = RIGHT.map(|_| 0);
        for round in 0.. {
            let left = over.saturating_duration_since(Instant::now());
            if round > 0 && left < ROUND / 4 {
                break;
            }
            let accounts = Accounts::new(leak);
            let empty = Measured::now();
            listen(&accounts, seed.wrapping_add(round), left.min(ROUND)).await;
            Measured::until_no_more_than(empty).await;
            for (count, what) in right.iter_mut().zip(RIGHT) {
                *count += accounts.counted(what);
            }
            println!("round {round}: {} events of calls\n{}", accounts.events(), accounts.lines());
        }
        println!("{right:?} of {RIGHT:?}");
        assert!(length < ROUND || right.iter().all(|count| *count > 0), "{right:?} of {RIGHT:?}");
    });
}

/// What there has to be in a run of some length.
const RIGHT: [&str; 4] = [
    "right  a call of streams",
    "right  a call of old",
    "right  an event of a standing stream",
    "right  an event of a subscription",
];

/// A new proxy and new servers, whose faults have not all happened yet and who remember little, every so often.
const ROUND: Duration = Duration::from_secs(12);

/// A hundred streams of all kinds, until the time is over and all have gone.
async fn listen(accounts: &Accounts, seed: u64, length: Duration) {
    let world = Broken::start(&mut Chance::new(seed, u64::MAX)).await;
    let until = Instant::now() + length;
    let clients = (0..100).map(|who| {
        let client = |kind: &str| Listener {
            world: &world,
            accounts,
            chance: Chance::new(seed, who),
            who: format!("{kind}-{who}"),
            until,
        };
        let client: LocalBoxFuture<'_, ()> = match who {
            0..30 => client("caller").calls("streams", false).boxed_local(),
            30..45 => client("mover").calls("streams", true).boxed_local(),
            45..75 => client("listener").stands().boxed_local(),
            75..90 => client("subscriber").subscribes().boxed_local(),
            _ => client("guest").calls("old", false).boxed_local(),
        };
        client
    });
    join_all(clients).await;
    world.at_rest().await;
    accounts.settle(world.arrived());
    let (told, lost) = (accounts.told("streams"), world.lost_calls());
    assert_eq!(told, lost, "who is told that a call failed, and calls that could not but fail:\n{}", accounts.lines());
    let report = within("shutdown", world.proxy.shutdown()).await;
    assert!(report.is_clean(), "{report:?}");
}

/// Lets clients come, and kills servers, until the time is over and all have gone.
async fn soak(world: &World, tally: &Tally, seed: u64, length: Duration) -> Growth {
    let until = Instant::now() + length;
    let visitors = (0..VISITORS).map(async |who| {
        let mut visitor = Visitor { world, tally, chance: Chance::new(seed, who), who, serial: 0 };
        while Instant::now() < until {
            visitor.visit().await;
        }
    });
    let killer = async {
        let mut chance = Chance::new(seed, u64::MAX);
        let me = i32::try_from(std::process::id()).unwrap();
        while Instant::now() < until {
            chance.pause(300).await;
            let servers = children(me);
            if !servers.is_empty() {
                kill(*chance.pick(&servers));
                tally.count("killed a server");
            }
        }
    };
    let growth = RefCell::new(Growth::default());
    let sampler = async {
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(250)).await;
            growth.borrow_mut().sample(tally.asked());
        }
    };
    tokio::join!(join_all(visitors), killer, sampler);
    growth.into_inner()
}
