//! When all connections are in use: who waits, how long, and who is turned away.

use futures_util::future::join_all;
use serde_json::json;
use shadowcat::settings::{Isolation, Settings};
use shadowcat::testing::{Do, On};

use crate::common::*;
use crate::support::*;

fn patient(settings: &mut Settings) {
    one(settings);
    settings.timeouts.acquire = DEADLINE;
}

async fn waiting(proxy: &Proxy, count: u32) {
    proxy.until_metric("shadowcat_queue", &[], count.into()).await;
}

/// C-POOL-4: who came first is served first, whichever session it is of, on the one process that there is (C-POOL-3).
#[tokio::test]
async fn waiting_requests_are_served_in_order() {
    let proxy = isolated(Isolation::Request, legacy(), patient).await;
    let clients = join_all((0..3).map(|_| open(&proxy))).await;
    let pid = clients[0].pid().await;
    let held = asking(&clients[0], "0", "?").await;
    let counts = (0..9_u32).map(async |n| {
        // In the queue before the next one comes.
        waiting(&proxy, n).await;
        let client = &clients[n as usize % 3];
        let id = (n + 1).to_string();
        let answer = client.begin(&id, None, "count", json!({ "key": "turn" })).await.answer().ok().await;
        text(&answer).to_owned()
    });
    let release = async {
        waiting(&proxy, 9).await;
        answering(&clients[0], held, "done").await
    };
    let (turns, _) = tokio::join!(join_all(counts), release);
    assert_eq!(turns, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(clients[1].pid().await, pid);
    rests_with(&proxy, 1, 0).await;
}

/// C-POOL-4: sessions wait, too, and have the place of one that ends.
#[tokio::test]
async fn a_session_waits_for_the_end_of_another() {
    let proxy = isolated(Isolation::Session, legacy(), patient).await;
    let first = open(&proxy).await;
    let pid = first.pid().await;
    let (second, ()) = tokio::join!(open(&proxy), async {
        waiting(&proxy, 1).await;
        end(first).await;
    });
    assert_ne!(second.pid().await, pid);
    assert!(!alive(pid), "there was never a second one beside it");
    rests_with(&proxy, 0, 1).await;
}

/// C-POOL-10: when the process dies that all wait for, its successor serves them.
#[tokio::test]
async fn the_death_of_the_only_process_serves_those_who_wait() {
    let proxy = isolated(Isolation::Request, legacy(), patient).await;
    let client = open(&proxy).await;
    let pid = client.pid().await;
    let held = asking(&client, "0", "?").await;
    let others = (1..5_u32).map(async |n| {
        let said = n.to_string();
        text(&client.begin(&said, None, "echo", json!({ "text": said })).await.answer().ok().await).to_owned()
    });
    let (served, ()) = tokio::join!(join_all(others), async {
        waiting(&proxy, 4).await;
        kill(pid);
    });
    assert_eq!(served, ["1", "2", "3", "4"]);
    let mut held = held.0;
    assert_ours(&rest(&mut held).await.pop().unwrap().json(), -31003);
    rests_with(&proxy, 1, 0).await;
}

/// Errors, `queue`: beyond the limit nobody waits: 503 at once, and when to come back.
#[tokio::test]
async fn beyond_the_limit_nobody_waits() {
    let change = |settings: &mut Settings| {
        patient(settings);
        settings.limits.queue = 2;
    };
    let proxy = isolated(Isolation::Request, legacy(), change).await;
    let client = open(&proxy).await;
    let held = asking(&client, "0", "?").await;
    let echo = async |id: &str| client.begin(id, None, "echo", json!({ "text": id })).await;
    let turned_away = async {
        waiting(&proxy, 2).await;
        let modern = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
        for response in [echo("3").await, modern] {
            assert_eq!(response.status, 503);
            assert!(response.headers.get("retry-after").is_some_and(|after| after.parse::<u32>().is_ok_and(|n| n > 0)));
            let answer = response.json().ok().await;
            assert_ours(&answer, -31004);
            assert_eq!(reason(&answer), "queue_full");
        }
        answering(&client, held, "done").await
    };
    let (one, two, _) = tokio::join!(echo("1"), echo("2"), turned_away);
    assert_eq!(text(&one.answer().ok().await), "1");
    assert_eq!(text(&two.answer().ok().await), "2");
    at_rest(&proxy).await;
}

/// Errors, `acquire`: who has waited too long is told so; what held the connection is not disturbed.
#[tokio::test]
async fn nobody_waits_for_ever() {
    for isolation in [Isolation::Request, Isolation::Session] {
        let change = |settings: &mut Settings| {
            one(settings);
            settings.timeouts.acquire = ms(150);
        };
        let proxy = isolated(isolation, legacy(), change).await;
        let client = open(&proxy).await;
        let held = asking(&client, "0", "?").await;
        let response = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
        assert_eq!(response.status, 503, "{isolation:?}");
        assert!(response.headers.get("retry-after").is_some());
        assert_eq!(reason(&response.json().ok().await), "no_connection_free");
        assert_eq!(proxy.metric("shadowcat_pool_timeouts_total", &[]).await, 1.0);
        assert!(answering(&client, held, "still here").await.contains("still here"));
        at_rest(&proxy).await;
    }
}

/// C-POOL-10, C-POOL-4: a request that was cancelled keeps its connection until it is answered, and not longer than allowed;
/// who waits gets it then, or its successor.
#[tokio::test]
async fn a_cancelled_request_makes_the_next_one_wait_for_a_while() {
    for (answers, closed) in [(true, 0.0), (false, 1.0)] {
        let change = |settings: &mut Settings| {
            patient(settings);
            settings.timeouts.cancel_grace = if answers { DEADLINE } else { ms(200) };
        };
        let script = if answers {
            legacy().fault(On::tool("sleep"), Do::Cancel(shadowcat::testing::OnCancel::Answer))
        } else {
            legacy()
        };
        let proxy = isolated(Isolation::Request, script, change).await;
        let client = open(&proxy).await;
        let pid = client.pid().await;
        let (sleeping, ()) = tokio::join!(client.begin("1", None, "sleep", json!({ "ms": 600_000 })), async {
            until("it is under way", async || books(&proxy).await, |books| books.in_flight == 1.0).await;
            session(&client).send(&cancelled(json!(1))).ok().await;
        });
        drop(sleeping);
        assert_eq!(client.pid().await == pid, answers);
        assert_eq!(proxy.metric("shadowcat_pool_closes_total", &["dirty"]).await, closed);
        rests_with(&proxy, 1, 0).await;
    }
}

/// C-LIFE: a request whose session ends while it waits is not executed.
#[tokio::test]
async fn a_request_of_an_ended_session_is_not_executed() {
    let proxy = isolated(Isolation::Request, legacy(), patient).await;
    let (client, other) = (open(&proxy).await, open(&proxy).await);
    let held = asking(&other, "0", "?").await;
    let (waited, _) = tokio::join!(client.begin("1", None, "count", json!({ "key": "k" })), async {
        proxy.until_metric("shadowcat_queue", &[], 1.0).await;
        session(&client).delete().ok().await;
        answering(&other, held, "x").await
    });
    assert_eq!(waited.status, 404);
    assert_eq!(other.stats().await["tools"].get("count"), None);
}
