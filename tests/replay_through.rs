//! A tape of both sides of the proxy, played through the proxy (C-TAPE-4), and what is recorded of that.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shadowcat::settings::{Record, RecordEdges};
use shadowcat::tape::{Frame, Header, Reader};
use shadowcat::testing::client::{LegacySession, Modern};
use shadowcat::through::{Options, Outcome, through};

use common::{Era, InTime as _, LEGACY, Proxy, cancelled, everything, message, messages, rest, text, within};

/// A tape, as it was read.
fn read(path: &Path) -> (Header, Vec<Frame>) {
    let mut reader = Reader::open(path).unwrap();
    let frames = reader.by_ref().collect::<Result<_, _>>().unwrap();
    (reader.header().clone(), frames)
}

/// Records what `client` does at a server of this era: the one tape of that.
async fn recorded(server: Era, client: impl AsyncFnOnce(&Proxy)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(server.server(), |settings| {
        let record = Record { edges: RecordEdges::Both, ..Record::to(folder.path()) };
        settings.upstreams[0].record = Some(record);
    })
    .await;
    client(&proxy).await;
    proxy.close().await;
    let tapes: Vec<PathBuf> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(tapes.len(), 1, "{tapes:?}");
    let tape = tapes.into_iter().next().unwrap();
    (folder, tape)
}

async fn play(path: &Path) -> Outcome {
    let (header, frames) = read(path);
    within("the tape", through(&header, &frames, &Options::default(), |_| {})).await.unwrap()
}

/// What a client with sessions does in these tests.
async fn legacy_client(proxy: &Proxy) {
    let session = LegacySession::open(&proxy.url, LEGACY, everything()).ok().await;
    let list = session.request("tools/list", json!({})).ok().await.answer().ok().await;
    assert!(list["result"]["tools"].is_array());
    let call =
        session.send(&message("\"c\"", "tools/call", r#"{"name":"echo","arguments":{"text":"h\u00e9"}}"#)).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hé");
    let params = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "p" } });
    assert_eq!(messages(session.request("tools/call", params).ok().await).await.len(), 4);
    let mut call = session.call("ask", json!({ "message": "?" })).ok().await;
    let asked = call.message().ok().await.unwrap();
    session.respond(&asked["id"], &json!({ "action": "accept", "content": { "answer": "yes" } })).ok().await;
    let told: Vec<Value> = rest(&mut call).await.iter().map(|event| event.json()).collect();
    assert!(text(&told[0]).starts_with("answer: accept"));
    let wait = json!({ "name": "sleep", "arguments": { "ms": 60000 }, "_meta": { "progressToken": "w" } });
    let wait = message("\"w\"", "tools/call", &wait.to_string());
    let wait = session.send(&wait);
    let cancel = async {
        proxy.until_metric("shadowcat_exchanges_in_flight", &[], 1.0).await;
        session.send(&cancelled(json!("w"))).ok().await
    };
    let (waited, _) = tokio::join!(wait.ok(), cancel);
    drop(waited);
    session.delete().ok().await;
}

/// What a client without sessions does.
async fn modern_client(proxy: &Proxy) {
    let list = Modern::new("tools/list").post(&proxy.url).ok().await.answer().ok().await;
    assert!(list["result"]["tools"].is_array());
    let call = Modern::call("echo", json!({ "text": "hé" })).post(&proxy.url).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hé");
    let progress = Modern::call("progress", json!({ "steps": 3 })).progress_token(json!("p"));
    assert_eq!(messages(progress.post(&proxy.url).ok().await).await.len(), 4);
    let ask = || Modern::call("ask", json!({ "message": "?" })).capabilities(everything());
    let asked = ask().post(&proxy.url).ok().await.answer().ok().await;
    let (key, _) = asked["result"]["inputRequests"].as_object().unwrap().iter().next().unwrap();
    let answers = json!({ key: { "action": "accept", "content": { "answer": "yes" } } });
    let again = ask().param("requestState", asked["result"]["requestState"].clone()).param("inputResponses", answers);
    let answer = again.post(&proxy.url).ok().await.answer().ok().await;
    assert!(text(&answer).starts_with("answer: accept"), "{answer}");
}

/// In all four cells: what was recorded is what comes of it again.
#[tokio::test]
async fn what_passed_once_passes_again() {
    for server in Era::BOTH {
        for client in Era::BOTH {
            let (_folder, tape) = recorded(server, async |proxy: &Proxy| match client {
                Era::Legacy => legacy_client(proxy).await,
                Era::Modern => modern_client(proxy).await,
            })
            .await;
            let outcome = play(&tape).await;
            assert_eq!(outcome.findings, [] as [String; 0], "{client:?} at {server:?}");
            assert!(outcome.made > 4);
        }
    }
}
