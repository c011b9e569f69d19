//! Everything at once, for a while: random sessions of both eras in front of servers of every isolation, which are killed in
//! the middle of it; clients that cancel, go away and read slowly. In the end everything has returned to where it began.
//!
//! `SHADOWCAT_SOAK_SECONDS` says for how long, `SHADOWCAT_SOAK_SEED` repeats decisions (not the moments at which they are
//! carried out), `SHADOWCAT_SOAK_LEAK` loses something on purpose. `scripts/soak` sets all of them.
#![cfg(target_os = "linux")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;

#[path = "soak/chance.rs"]
mod chance;
#[path = "common/mod.rs"]
mod common;
#[path = "soak/leak.rs"]
mod leak;
#[path = "soak/tally.rs"]
mod tally;
#[path = "soak/visits.rs"]
mod visits;
#[path = "soak/world.rs"]
mod world;

use chance::Chance;
use common::*;
use leak::Leak;
use tally::Tally;
use visits::Visitor;
use world::{Growth, Measured, World};

/// How many clients there are at the same time.
const VISITORS: u64 = 16;

/// A number from the environment.
fn asked_for(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: not a number: {value}")))
}

/// C-LIFE, C-POOL-1, C-POOL-2, C-POOL-12, invariants of ownership: see above.
#[test]
fn everything_returns_to_where_it_began() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = asked_for("SHADOWCAT_SOAK_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let length = Duration::from_secs(asked_for("SHADOWCAT_SOAK_SECONDS").unwrap_or(6));
    let leak = Leak::asked_for();
    println!("soak: {length:?}, SHADOWCAT_SOAK_SEED={seed}, leak: {leak:?}");
    runtime.block_on(async {
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
    tokio::join!(futures_util::future::join_all(visitors), killer, sampler);
    growth.into_inner()
}
