//! Random use for a while: sessions that end in every way, calls that are cancelled or abandoned, processes that are killed.
//! Afterwards everything is as it was before: processes, open files, tasks, memory; and every request had its answer.
//!
//! `SHADOWCAT_SOAK_SECONDS` says how long (6 by default), `SHADOWCAT_SOAK_SEED` which course it takes: a failure names the
//! seed of its run. What the clients do depends on the seed; how they meet does not.
#![cfg(target_os = "linux")]
#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]
#![allow(unused_imports, dead_code, reason = "what is common is not all needed")]

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use serde_json::{Value, json};
use shadowcat::settings::{Isolation, Reuse, Settings};
use shadowcat::testing::client::{LegacySession, Modern};
use tokio::time::Instant;

/// Clients of each proxy.
const CLIENTS: u64 = 4;

/// Numbers that depend on the seed alone (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// How often what happened.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
    abandoned: AtomicU64,
    killed: AtomicU64,
    sessions: AtomicU64,
}

impl Tally {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

/// C-POOL-1, C-POOL-2, C-POOL-10, C-POOL-12, C-LIFE-3.
#[test]
fn random_use_leaves_nothing_behind() {
    alone("random_use_leaves_nothing_behind", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(soak());
    });
}

async fn soak() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = setting("SHADOWCAT_SOAK_SEED", now.as_secs());
    let length = Duration::from_secs(setting("SHADOWCAT_SOAK_SECONDS", 6));
    eprintln!("SHADOWCAT_SOAK_SEED={seed}");
    // What the runtime and the fakes open once is open before it is counted.
    round(seed, Duration::from_millis(300)).await;
    let (files, memory) = (open_files(), resident());
    round(seed + 1, length / 2).await;
    let halfway = resident();
    round(seed + 2, length / 2).await;
    assert_eq!(open_files(), files, "open files");
    assert_eq!(children(i32::try_from(std::process::id()).unwrap()), [0; 0], "processes, zombies too");
    let grown = resident().saturating_sub(halfway);
    eprintln!("memory: {memory} kB, {halfway} kB, then {grown} kB more");
    // The allocator keeps some, and not always the same; a leak would be as large in the second half as in the first.
    let first_half = halfway.saturating_sub(memory);
    assert!(grown <= first_half / 2 + 16_384, "memory grows: {memory} kB, {halfway} kB, then {grown} kB more");
}

/// Starts proxies of every kind, uses them, and expects that they are at rest afterwards and stop without force.
async fn round(seed: u64, length: Duration) {
    let kinds = [
        (Isolation::Session, Era::Legacy),
        (Isolation::Shared, Era::Legacy),
        (Isolation::Request, Era::Legacy),
        (Isolation::Request, Era::Modern),
        (Isolation::Shared, Era::Modern),
    ];
    let until = Instant::now() + length;
    let tally = Arc::new(Tally::default());
    let used = kinds.iter().enumerate().map(async |(kind, (isolation, era))| {
        let proxy = Proxy::with(era.server(), |settings| short(settings, *isolation)).await;
        let clients = (0..CLIENTS).map(|client| {
            let chance = Chance(seed.wrapping_mul(1000) + u64::try_from(kind).unwrap() * CLIENTS + client);
            use_it(&proxy, *era, chance, until, &tally)
        });
        let kill = kill_some(&proxy, Chance(seed ^ 0x5eed ^ u64::try_from(kind).unwrap()), until, &tally);
        tokio::join!(futures_util::future::join_all(clients), kill);
        at_rest(&proxy).await;
        proxy.close().await;
    });
    futures_util::future::join_all(used).await;
    let [answered, refused, abandoned, killed, sessions] =
        [&tally.answered, &tally.refused, &tally.abandoned, &tally.killed, &tally.sessions]
            .map(|counter| counter.load(Ordering::Relaxed));
    eprintln!("{sessions} sessions, {answered} answers, {refused} refusals, {abandoned} abandoned, {killed} killed");
    assert!(answered > 0 && answered > refused, "most of it works: {answered} answers, {refused} refusals");
}

/// Everything that passes with time passes soon.
fn short(settings: &mut Settings, isolation: Isolation) {
    let ms = Duration::from_millis;
    settings.timeouts.session_idle = ms(700);
    settings.timeouts.session_init = ms(700);
    settings.timeouts.cancel_grace = ms(100);
    settings.timeouts.connection_idle = ms(500);
    settings.timeouts.connection_max_age = Duration::from_secs(3);
    settings.timeouts.backlog_retention = ms(500);
    // What is killed here is no crash loop.
    settings.limits.crashes = 1000;
    settings.timeouts.restart_max = ms(50);
    let upstream = &mut settings.upstreams[0];
    upstream.connections_max = 6;
    upstream.isolation = isolation;
    if matches!(isolation, Isolation::Session | Isolation::Request) {
        upstream.reuse = Reuse::Any;
        upstream.warm_spares = 1;
    }
}

/// One client, who comes and goes.
async fn use_it(proxy: &Proxy, era: Era, mut chance: Chance, until: Instant, tally: &Tally) {
    let mut number = 0;
    while Instant::now() < until {
        let client = match era {
            Era::Modern => Client::Modern(proxy.url.clone()),
            Era::Legacy => {
                let capabilities = if chance.below(4) == 0 { everything() } else { json!({}) };
                match within("a session", LegacySession::open(&proxy.url, LEGACY, capabilities)).await {
                    Ok(session) => Client::Legacy(session),
                    Err(error) => {
                        // Refused with a reason: there was no room, or it was killed in the middle of it.
                        assert!(error.to_string().contains("proxy"), "{error}");
                        Tally::count(&tally.refused);
                        continue;
                    }
                }
            }
        };
        Tally::count(&tally.sessions);
        for _ in 0..1 + chance.below(6) {
            number += 1;
            act(&client, &mut chance, number, tally).await;
        }
        if let Client::Legacy(session) = &client
            && chance.below(3) > 0
        {
            let status = within("its end", session.delete()).await.unwrap().status;
            assert!(matches!(status, 204 | 404), "{status}");
        }
    }
}

/// One thing that a client does.
async fn act(client: &Client, chance: &mut Chance, number: u64, tally: &Tally) {
    let said = format!("{number} {}", chance.next());
    match chance.below(10) {
        // Given up while it is under way: by a word, or by hanging up.
        0 | 1 => {
            let id = number.to_string();
            let call = client.begin(&id, None, "sleep", json!({ "ms": 400 }));
            // Where nothing comes back, there is nothing to wait for.
            let begun = tokio::time::timeout(Duration::from_millis(chance.below(20)), call).await;
            if let (Client::Legacy(session), true) = (client, chance.below(2) == 0) {
                let word = notification("notifications/cancelled", json!({ "requestId": number }));
                let _ = within("a cancellation", session.send(&word)).await;
            }
            drop(begun);
            Tally::count(&tally.abandoned);
        }
        2 => {
            let call =
                async { messages(client.begin(&number.to_string(), Some("1"), "progress", json!({})).await).await };
            let said = within("progress", call).await;
            let last = said.last().unwrap();
            check(last, None, number, tally);
            assert!(said[..said.len() - 1].iter().all(|one| one["params"]["progressToken"] == 1), "{said:?}");
        }
        _ => {
            let call = async {
                client.begin(&number.to_string(), None, "echo", json!({ "text": said })).await.answer().ok().await
            };
            check(&within("an answer", call).await, Some(&said), number, tally);
        }
    }
}

/// One answer: the right one, to this request, or an error that says where it comes from.
fn check(answer: &Value, said: Option<&str>, number: u64, tally: &Tally) {
    assert_eq!(answer["id"], number, "{answer}");
    if answer.get("error").is_some() {
        assert_eq!(answer["error"]["data"]["origin"], "proxy", "{answer}");
        return Tally::count(&tally.refused);
    }
    if let Some(said) = said {
        assert_eq!(text(answer), said);
    }
    Tally::count(&tally.answered);
}

/// Kills processes while they are used.
async fn kill_some(proxy: &Proxy, mut chance: Chance, until: Instant, tally: &Tally) {
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50 + chance.below(300))).await;
        let all = proxy.processes();
        if !all.is_empty() {
            kill(all[usize::try_from(chance.next()).unwrap_or(0) % all.len()]);
            Tally::count(&tally.killed);
        }
    }
}

/// Nobody uses it, and it has noticed.
async fn at_rest(proxy: &Proxy) {
    proxy.until_metric("shadowcat_sessions", &[], 0.0).await;
    proxy.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
    proxy.until_metric("shadowcat_queue", &[], 0.0).await;
    let numbers = async || {
        let mut pool = Vec::new();
        for state in ["\"idle\"", "\"leased\"", "\"creating\"", "\"closing\""] {
            pool.push(proxy.metric("shadowcat_pool", &[state]).await);
        }
        (pool, proxy.metric("shadowcat_children", &[]).await)
    };
    let quiet = |(pool, children): &(Vec<f64>, f64)| pool[2..] == [0.0, 0.0] && pool.iter().sum::<f64>() == *children;
    until("there are as many processes as connections, and nothing is on its way", numbers, quiet).await;
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Kilobytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
