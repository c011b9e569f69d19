//! Processes that are started ahead of need.

use futures_util::future::join_all;
use serde_json::json;
use shadowcat::settings::{Isolation, Reuse, Settings};
use shadowcat::testing::{Do, On, Script};

use crate::common::*;
use crate::support::*;

fn two(settings: &mut Settings) {
    settings.upstreams[0].warm_spares = 2;
}

async fn leases(proxy: &Proxy, start: &str) -> f64 {
    proxy.metric("shadowcat_pool_leases_total", &[start]).await.abs()
}

/// Configuration, `warm_spares`: so many are there before anybody comes; who comes takes one at once, and it is replaced.
#[tokio::test]
async fn spares_are_there_before_anybody_comes() {
    let proxy = isolated(Isolation::Session, legacy(), two).await;
    rests_with(&proxy, 2, 0).await;
    let ahead = proxy.processes();
    assert_eq!(ahead.len(), 2);
    for sessions in 1..=4_u32 {
        let client = open(&proxy).await;
        let pid = client.pid().await;
        assert!(sessions > 1 || ahead.contains(&pid), "{pid} is none of {ahead:?}");
        let stats = client.stats().await;
        assert_eq!(stats["requests"]["ping"], 1, "it was asked whether it is there: {stats}");
        assert_eq!(
            (&stats["requests"]["initialize"], &stats["notifications"]["notifications/initialized"]),
            (&json!(1), &json!(1))
        );
        std::mem::forget(client);
        rests_with(&proxy, 2, sessions).await;
    }
    assert_eq!((leases(&proxy, "warm").await, leases(&proxy, "cold").await), (4.0, 0.0));
    let all = proxy.processes();
    proxy.close().await;
    assert!(!all.into_iter().any(alive), "shutdown leaves none");
}

/// C-POOL-10: a spare that dies is replaced, and nobody gets the dead one.
#[tokio::test]
async fn a_spare_that_dies_is_replaced() {
    let proxy = isolated(Isolation::Session, legacy(), two).await;
    rests_with(&proxy, 2, 0).await;
    for round in 1..=3_u32 {
        // One that has never served anybody and dies young could be a sign of a server that does not work.
        let client = open(&proxy).await;
        rests_with(&proxy, 2, 1).await;
        let pid = client.pid().await;
        let spare = proxy.processes().into_iter().find(|spare| *spare != pid).unwrap();
        kill(spare);
        until("another one", async || proxy.processes(), |now| !now.contains(&spare) && now.len() == 3).await;
        rests_with(&proxy, 2, 1).await;
        assert_eq!(proxy.metric("shadowcat_pool_closes_total", &["lost"]).await, f64::from(round));
        end(client).await;
        rests_with(&proxy, 2, 0).await;
    }
}

/// Configuration, `warm_spares`: a server that keeps silent when it is pinged before the handshake is served all the same, by
/// processes that are started for each session.
#[tokio::test]
async fn a_server_that_ignores_ping_is_served_cold() {
    let proxy = isolated(Isolation::Session, legacy().fault(On::method("ping"), Do::Hang), two).await;
    let clients = join_all((0..4).map(|_| open(&proxy))).await;
    for client in &clients {
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    }
    assert_eq!((leases(&proxy, "warm").await, leases(&proxy, "cold").await), (0.0, 4.0));
    proxy.close().await;
}

/// The same where it answers in its own time: what is ready late is a spare, too.
#[tokio::test]
async fn a_server_that_ignores_ping_is_a_spare_in_the_end() {
    let change = |settings: &mut Settings| {
        two(settings);
        settings.timeouts.start = ms(400);
    };
    let proxy = isolated(Isolation::Session, legacy().fault(On::method("ping"), Do::Hang), change).await;
    rests_with(&proxy, 2, 0).await;
    let client = open(&proxy).await;
    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    assert_eq!(leases(&proxy, "warm").await, 1.0);
}

/// Configuration, `warm_spares`: a spare that keeps silent is in nobody's way, be all places taken by such, or all starts: who
/// comes gets one as it is, or its place.
#[tokio::test]
async fn a_spare_that_keeps_silent_is_in_nobodys_way() {
    for max in [2, 8] {
        let change = |settings: &mut Settings| {
            two(settings);
            settings.upstreams[0].connections_max = max;
            settings.limits.starting = 2;
            // Long enough for a process to end that owes an answer.
            settings.timeouts.acquire = DEADLINE / 4;
            settings.timeouts.start = 3 * DEADLINE;
        };
        let silent = Script::default().fault(On::method("ping"), Do::Hang);
        let proxy = isolated(Isolation::Session, silent, change).await;
        until("spares are being made", async || books(&proxy).await, |books| books.creating == 2.0).await;
        let client = open(&proxy).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
        // Nothing but a process of its own will do for this one.
        let answer = modern_call(&proxy, None, "echo", json!({ "text": "y" })).await.answer().ok().await;
        assert_eq!(text(&answer), "y");
        proxy.close().await;
    }
}

/// Configuration, `warm_spares`: spares count in `max_connections`, and do not stand in the way of those who come.
#[tokio::test]
async fn spares_take_nobodys_place() {
    let change = |settings: &mut Settings| {
        two(settings);
        settings.upstreams[0].connections_max = 2;
    };
    let proxy = isolated(Isolation::Session, legacy(), change).await;
    rests_with(&proxy, 2, 0).await;
    let (a, b) = (open(&proxy).await, open(&proxy).await);
    assert_ne!(a.pid().await, b.pid().await);
    rests_with(&proxy, 0, 2).await;
    end(a).await;
    rests_with(&proxy, 1, 1).await;
    end(b).await;
    rests_with(&proxy, 2, 0).await;
    // Requests of 2026-07-28 are served by one of them.
    assert_eq!(modern_call(&proxy, None, "echo", json!({ "text": "x" })).await.status, 200);
    at_rest(&proxy).await;
}

/// Configuration, `connection_idle`: spares do not end for being unused; the process that was asked for its era and has a
/// handshake waits like one, but is none.
#[tokio::test]
async fn spares_stay_and_what_is_beyond_them_goes() {
    for spares in [0, 2] {
        let change = |settings: &mut Settings| {
            settings.upstreams[0].warm_spares = spares;
            settings.timeouts.connection_idle = ms(150);
        };
        let proxy = isolated(Isolation::Session, legacy(), change).await;
        let spares = u32::try_from(spares).unwrap();
        rests_with(&proxy, spares, 0).await;
        assert_eq!(modern_call(&proxy, None, "echo", json!({ "text": "x" })).await.status, 200);
        proxy.until_metric("shadowcat_pool_closes_total", &["idle"], 1.0).await;
        rests_with(&proxy, spares, 0).await;
    }
}

/// Configuration, `reuse` and `warm_spares`: who can have a used one has it, and the spares stay.
#[tokio::test]
async fn a_used_process_goes_before_a_spare() {
    let change = |settings: &mut Settings| {
        two(settings);
        settings.upstreams[0].reuse = Reuse::Any;
    };
    let proxy = isolated(Isolation::Session, legacy(), change).await;
    rests_with(&proxy, 2, 0).await;
    let client = open(&proxy).await;
    let pid = client.pid().await;
    end(client).await;
    rests_with(&proxy, 3, 0).await;
    let client = open(&proxy).await;
    assert_eq!(client.pid().await, pid);
    rests_with(&proxy, 2, 1).await;
    assert_eq!((leases(&proxy, "warm").await, leases(&proxy, "reused").await), (1.0, 1.0));
}

/// Isolation by request, and shared: the first handshake takes a spare, which is replaced.
#[tokio::test]
async fn spares_serve_every_isolation() {
    for (isolation, idle, leased) in
        [(Isolation::Request, 3, 0), (Isolation::Shared, 2, 1), (Isolation::Principal, 2, 1)]
    {
        let proxy = isolated(isolation, legacy(), two).await;
        rests_with(&proxy, 2, 0).await;
        let client = open_as(&proxy, Some("Bearer ada")).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
        assert_eq!(leases(&proxy, "warm").await, 1.0, "{isolation:?}");
        rests_with(&proxy, idle, leased).await;
        proxy.close().await;
    }
}

/// Configuration, `warm_spares`: once a server is known to have no handshake, none is started ahead any more.
#[tokio::test]
async fn a_server_without_a_handshake_has_no_spares() {
    let change = |settings: &mut Settings| {
        two(settings);
        settings.timeouts.connection_idle = ms(200);
    };
    let proxy = isolated(Isolation::Session, modern(), change).await;
    rests_with(&proxy, 2, 0).await;
    let client = proxy.client(Era::Modern).await;
    let pid = client.pid().await;
    rests_with(&proxy, 0, 1).await;
    assert_eq!(client.pid().await, pid);
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 3.0);
}
