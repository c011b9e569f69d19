//! `shadowcat replay`: a tape as a server, for clients of either era (C-TAPE-4).
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay_server/asking.rs"]
mod asking;
mod common;
#[path = "replay_server/matching.rs"]
mod matching;
#[path = "replay_server/modes.rs"]
mod modes;
#[path = "replay_server/support.rs"]
mod support;

use serde_json::{Value, json};
use shadowcat::testing::client::{LegacySession, Modern};

use common::{
    InTime as _, LEGACY, PROGRAM, cancelled, everything, initialize, message, messages, notification, rest, text,
};
use support::{Player, Stdio, Tape, envelope, legacy_tape, modern_tape, said};

/// A tape of a server with a handshake answers a client of that era as that server did.
#[tokio::test]
async fn a_legacy_tape_answers_a_legacy_client() {
    let player = Player::start(&legacy_tape(), &[]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let tools = session.send(&message("\"l\"", "tools/list", "{}")).ok().await.answer().ok().await;
    assert_eq!(tools["id"], "l");
    assert_eq!(tools["result"]["tools"][0]["name"], "echo");
    let call = session.send(&message("1.0", "tools/call", r#"{"name":"echo","arguments":{"text":"hi"}}"#)).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hi");
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// The same tape answers a client without sessions.
#[tokio::test]
async fn a_legacy_tape_answers_a_modern_client() {
    let player = Player::start(&legacy_tape(), &[]).await;
    let call = Modern::call("echo", json!({ "text": "hi" })).post(&player.url).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hi");
    let progress = Modern::call("progress", json!({ "steps": 2 })).progress_token(json!("mine"));
    let mut progress = progress.post(&player.url).ok().await;
    let told: Vec<Value> = rest(&mut progress).await.iter().map(|event| event.json()).collect();
    assert_eq!(told[0]["params"], json!({ "progressToken": "mine", "progress": 1, "total": 2 }));
    assert_eq!(told[1]["params"]["progress"], 2);
    assert_eq!(text(&told[2]), "2 steps");
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// And a tape of a server without sessions answers both.
#[tokio::test]
async fn a_modern_tape_answers_both() {
    let player = Player::start(&modern_tape(), &[]).await;
    let call = Modern::call("echo", json!({ "text": "hi" })).post(&player.url).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hi");
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let call = session.send(&message("7", "tools/call", r#"{"name":"echo","arguments":{"text":"hi"}}"#)).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hi");
    assert_eq!(player.end().await, (Some(0), String::new()));
}
