//! What a parked call holds besides its process. Counted by the allocator, in a process that does nothing else.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::testing::client::Modern;
use tokio::time::sleep;

use common::{DEADLINE, InTime as _, Proxy, everything, legacy, text};

/// The system's allocator, and how many bytes it has given out that have not come back.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe to implement; this one leaves the work to the system's")]
// SAFETY: what is asked for is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many calls are parked at once, and how much each may hold.
const CALLS: usize = 24;
const BYTES_MAX: usize = 4 << 10;

/// What is held when nothing happens any more.
async fn settled() -> usize {
    let looks = DEADLINE.as_millis() / 5;
    let (mut last, mut same) = (0, 0);
    for _ in 0..looks {
        sleep(Duration::from_millis(5)).await;
        let live = LIVE.load(Ordering::Relaxed);
        same = if live == last { same + 1 } else { 0 };
        last = live;
        if same == 40 {
            return live;
        }
    }
    panic!("it never comes to rest");
}

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
