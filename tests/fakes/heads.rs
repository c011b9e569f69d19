//! What goes wrong before the body.

use super::raw::{Raw, parts};
use super::*;

#[tokio::test]
async fn headers_never_end() {
    let endless = Do::Header { bytes: 10, endless: true };
    let mock = start(Script::default().fault(On::method("initialize"), endless)).await;
    let mut raw = Raw::initialize(&mock).await;
    raw.bytes(1 << 20).await;
    let text = raw.text();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), "{}", &text[..100]);
    assert!(text.matches("\r\nX-Padding: xxxxxxxxxx\r\n").count() > 20_000);
    assert!(!text.contains("\r\n\r\n"));
}

#[tokio::test]
async fn headers_trickle() {
    let drip = |gap_ms| Do::Slice { bytes: 30, gap_ms, head: true };
    let mock = start(
        Script::default()
            .fault(On::method("initialize").nth(1), drip(60_000))
            .fault(On::method("initialize").nth(2), drip(1)),
    )
    .await;
    let mut raw = Raw::initialize(&mock).await;
    raw.bytes(30).await;
    assert!(raw.silent().await, "the next piece comes in a minute");
    assert_eq!(raw.text(), "HTTP/1.1 200 OK\r\nContent-Type:");
    let whole = Raw::initialize(&mock).await.until("}}}").await;
    assert!(parts(&whole).1.starts_with(r#"{"jsonrpc""#), "{whole}");
}

/// What is wrong with a head is wrong with any, be it one of a refusal.
#[tokio::test]
async fn a_scripted_status_can_trickle_too() {
    let busy = Do::Status { code: 429, headers: [("Retry-After".into(), "5".into())].into(), body: String::new() };
    let mock = start(
        Script::default()
            .fault(On::method("initialize").nth(1), Do::Slice { bytes: 12, gap_ms: 60_000, head: true })
            .fault(On::method("initialize").nth(1), busy.clone())
            .fault(On::method("initialize").nth(2), busy),
    )
    .await;
    let mut raw = Raw::initialize(&mock).await;
    raw.bytes(12).await;
    assert!(raw.silent().await);
    assert_eq!(raw.text(), "HTTP/1.1 429");
    let whole = Raw::initialize(&mock).await.until("\r\n\r\n").await;
    assert!(whole.contains("\r\nRetry-After: 5\r\n"), "{whole}");
}

#[tokio::test]
async fn nothing_comes_before_headers_that_hang() {
    let mock = start(Script::default().fault(On::method("initialize"), Do::Hang)).await;
    let mut raw = Raw::initialize(&mock).await;
    assert!(raw.silent().await);
    assert_eq!(raw.text(), "");
}
