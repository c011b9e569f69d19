//! What a parked call holds besides its process. Counted by the allocator, in a process that does nothing else.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/counting.rs"]
mod counting;

use serde_json::{Value, json};
use shadowcat::testing::client::Modern;

use common::{InTime as _, Proxy, everything, legacy, text};
use counting::settled;

/// How many calls are parked at once, and how much each may hold.
const CALLS: usize = 24;
const BYTES_MAX: usize = 4 << 10;

fn ask() -> Modern {
    // The client's own words are not kept for it.
    let padding = "x".repeat(16 << 10);
    Modern::call("ask", json!({ "message": "Which of the two do you want?", "padding": padding }))
        .capabilities(everything())
}

async fn park(proxy: &Proxy) -> Vec<Value> {
    let calls = (0..CALLS).map(|_| async { ask().post(&proxy.url).ok().await.answer().ok().await });
    let asked = futures_util::future::join_all(calls).await;
    proxy.until_metric("shadowcat_parked", &[], CALLS as f64).await;
    asked
}

async fn answer(proxy: &Proxy, asked: Vec<Value>) {
    let answers = asked.into_iter().map(|asked| async move {
        let result = &asked["result"];
        let key = result["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
        let again = ask()
            .param("requestState", result["requestState"].clone())
            .param("inputResponses", json!({ key: { "action": "decline" } }));
        assert_eq!(text(&again.post(&proxy.url).ok().await.answer().ok().await), "answer: decline null");
    });
    futures_util::future::join_all(answers).await;
    proxy.until_metric("shadowcat_parked", &[], 0.0).await;
}

/// The same processes, with and without calls that wait at them.
#[tokio::test]
async fn a_parked_call_holds_little_besides_its_process() {
    let proxy = Proxy::with(legacy(), |settings| settings.limits.parked = CALLS).await;
    // What is made once, and the processes.
    for _ in 0..2 {
        let asked = park(&proxy).await;
        answer(&proxy, asked).await;
    }
    let starts = proxy.metric("shadowcat_child_starts_total", &[]).await;
    let without = settled().await;
    let asked = park(&proxy).await;
    let text = serde_json::to_string(&asked).unwrap();
    drop(asked);
    let with = settled().await - text.capacity();
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, starts, "they are the same");
    let each = with.saturating_sub(without) / CALLS;
    println!("{each} bytes for each of {CALLS} parked calls");
    assert!(each <= BYTES_MAX, "{each} bytes");
    answer(&proxy, serde_json::from_str(&text).unwrap()).await;
    // And nothing stays.
    let after = settled().await;
    assert!(after <= without + CALLS * 256 + text.capacity(), "{without} bytes, and later {after}");
    proxy.close().await;
}
