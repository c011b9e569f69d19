//! Servers that keep failing: who asks is told, nothing forks without end, and it recovers by itself.

use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::settings::{Isolation, Settings, UpstreamSettings};
use shadowcat::testing::{Do, On, Script};

use crate::common::*;
use crate::support::*;

fn dies_at_once() -> Script {
    legacy().fault(On::start(), Do::Exit { code: 7, when: Default::default() })
}

/// Three failures are a crash loop, which rests for `window`.
fn nervous(window: Duration) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.limits.crashes = 3;
        settings.timeouts.crash_window = window;
        settings.timeouts.restart_max = ms(60);
    }
}

/// The answer to `initialize`: status, `Retry-After`, body.
async fn opening(url: &str) -> (u16, Option<u64>, Value) {
    let response = send("POST", url, &json_headers(), &initialize(LEGACY)).await;
    let after = response.headers.get("retry-after").and_then(|after| after.parse().ok());
    (response.status, after, response.json().ok().await)
}

async fn ready(proxy: &Proxy, path: &str) -> u16 {
    let url = format!("http://{}{path}", proxy.running.admin_address().unwrap());
    send("GET", &url, &[], "").await.status
}

/// Fails until it is a crash loop, with a clear word each time.
async fn until_it_rests(url: &str) -> u64 {
    for attempt in 0..10 {
        let (status, after, answer) = opening(url).await;
        assert_eq!(answer["error"]["data"]["origin"], "proxy", "{attempt}: {answer}");
        if reason(&answer) == "crash_loop" {
            assert_eq!(status, 503);
            assert_eq!(code(&answer), -31002, "{answer}");
            return after.unwrap();
        }
        assert!([200, 503].contains(&status), "{attempt}: {status} {answer}");
    }
    panic!("it never rests");
}

/// Errors, `crash_loop`: a command that exits at once is tried a few times, with pauses, then not at all for a while: 503 and
/// when to come back; it is not ready, and another server beside it is.
#[tokio::test]
async fn a_command_that_exits_at_once_is_left_alone() {
    for isolation in [Isolation::Session, Isolation::Shared, Isolation::Request] {
        let good = script_file(&legacy());
        let upstream = UpstreamSettings { name: "good".into(), ..command(PROGRAM, fake(good.path())) };
        let change = |settings: &mut Settings| {
            nervous(Duration::from_secs(600))(settings);
            settings.upstreams.push(upstream);
        };
        let proxy = isolated(isolation, dies_at_once(), change).await;
        let (bad, good) = (proxy.at("/servers/fake/mcp"), proxy.at("/servers/good/mcp"));
        assert_eq!((ready(&proxy, "/ready/fake").await, ready(&proxy, "/ready").await), (200, 200));
        let after = until_it_rests(&bad).await;
        assert!((590..=601).contains(&after), "{after}");
        for _ in 0..20 {
            assert_eq!(reason(&opening(&bad).await.2), "crash_loop");
        }
        let modern = shadowcat::testing::client::Modern::call("echo", json!({ "text": "x" })).post(&bad).ok().await;
        assert_eq!(modern.status, 503, "nobody starts it, of whatever era");
        assert_eq!(proxy.metric("shadowcat_child_starts_total", &["fake"]).await, 3.0, "{isolation:?}");
        assert_eq!(ready(&proxy, "/ready/fake").await, 503);
        assert_eq!((ready(&proxy, "/ready/good").await, ready(&proxy, "/ready").await), (200, 200));
        assert_eq!(opening(&good).await.0, 200);
        assert_eq!(ready(&proxy, "/ready/nobody").await, 404);
        proxy.close().await;
    }
}

/// Readiness: with the only server in a crash loop the proxy is not ready; after its rest the server is tried again, and
/// all is well without anybody having done anything to the proxy.
#[tokio::test]
async fn it_recovers_after_its_rest() {
    let proxy = isolated(Isolation::Session, dies_at_once(), nervous(Duration::from_secs(2))).await;
    let after = until_it_rests(&proxy.url).await;
    assert!((1..=3).contains(&after), "{after}");
    assert_eq!((ready(&proxy, "/ready").await, ready(&proxy, "/ready/fake").await), (503, 503));
    assert_eq!(ready(&proxy, "/health").await, 200);
    proxy.play(&legacy());
    until("it is ready again", async || ready(&proxy, "/ready").await, |status| *status == 200).await;
    let client = open(&proxy).await;
    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    rests_with(&proxy, 0, 1).await;
}

/// The same for a server that greets and then dies of the first request, whoever starts it; one that does what it is asked
/// before it dies is no such server, however often it is killed.
#[tokio::test]
async fn dying_young_is_failing_and_dying_after_work_is_not() {
    let script = legacy().fault(On::tool("echo"), Do::Exit { code: 7, when: Default::default() });
    let proxy = isolated(Isolation::Session, script, nervous(Duration::from_secs(600))).await;
    for _ in 0..2 {
        let client = open(&proxy).await;
        assert_ours(&client.call("echo", json!({ "text": "x" })).await, -31003);
        proxy.until_metric("shadowcat_children", &[], 0.0).await;
    }
    let client = open(&proxy).await;
    assert_ours(&client.call("echo", json!({ "text": "x" })).await, -31003);
    until("it rests", async || opening(&proxy.url).await.2, |answer| answer["error"]["data"]["reason"] == "crash_loop")
        .await;

    let proxy = isolated(Isolation::Session, legacy(), nervous(Duration::from_secs(600))).await;
    for _ in 0..8 {
        let client = open(&proxy).await;
        kill_and_wait(&proxy, client.pid().await).await;
    }
    assert_eq!(ready(&proxy, "/ready").await, 200);
}

/// Isolation: a session whose server is in a crash loop is told so, and goes on when the server does.
#[tokio::test]
async fn a_session_outlives_a_crash_loop() {
    let proxy = isolated(Isolation::Session, legacy(), nervous(Duration::from_secs(1))).await;
    let client = open(&proxy).await;
    request(&client, "logging/setLevel", json!({ "level": "error" })).await;
    let pid = client.pid().await;
    proxy.play(&dies_at_once());
    kill_and_wait(&proxy, pid).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let response = session(&client).call("echo", json!({ "text": "x" })).ok().await;
        assert!([200, 503].contains(&response.status), "the session is not over: {}", response.status);
        seen.push(reason(&response.answer().ok().await).to_owned());
    }
    assert!(seen.iter().any(|reason| reason == "crash_loop"), "{seen:?}");
    proxy.play(&legacy());
    let echo = async || {
        let answer = client.call("echo", json!({ "text": "back" })).await;
        answer["result"]["content"][0]["text"].as_str().map(str::to_owned)
    };
    until("it is served again", echo, |said| said.as_deref() == Some("back")).await;
    assert_eq!(client.stats().await["client"]["level"], "error");
}

/// Configuration, `warm_spares`: spares that cannot start do not fork without end either, and come when they can.
#[tokio::test]
async fn spares_that_cannot_start_are_left_alone() {
    let change = |settings: &mut Settings| {
        nervous(Duration::from_secs(1))(settings);
        settings.upstreams[0].warm_spares = 2;
    };
    let proxy = isolated(Isolation::Session, dies_at_once(), change).await;
    until("it rests", async || ready(&proxy, "/ready").await, |status| *status == 503).await;
    proxy.play(&legacy());
    rests_with(&proxy, 2, 0).await;
    assert_eq!(ready(&proxy, "/ready").await, 200);
    assert!(proxy.metric("shadowcat_child_starts_total", &[]).await < 20.0);
}
