//! The fakes as their users see them: the server over HTTP, the client, and the server as a process of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "fakes/bodies.rs"]
mod bodies;
#[path = "fakes/events.rs"]
mod events;
#[path = "fakes/heads.rs"]
mod heads;
#[path = "fakes/http.rs"]
mod http;
#[path = "fakes/official_client.rs"]
mod official_client;
#[path = "fakes/process.rs"]
mod process;
#[cfg(unix)]
#[path = "fakes/program.rs"]
mod program;
#[path = "fakes/raw.rs"]
mod raw;
#[path = "fakes/scripted.rs"]
mod scripted;

use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::testing::client::{LegacySession, Modern, Response, SseSession, post, send};
use shadowcat::testing::{
    AnswerForm, At, BodyEnd, Discover, Do, End, EventId, HttpScript, LineEnd, MockSse, On, Script, Served, When,
};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(10);

fn script(answer: AnswerForm) -> Script {
    Script { http: HttpScript { answer, ..HttpScript::default() }, ..Script::default() }
}

async fn start(script: Script) -> MockSse {
    MockSse::start(script).await.unwrap()
}

async fn session(mock: &MockSse) -> LegacySession {
    let all = json!({ "elicitation": {}, "sampling": {}, "roots": {} });
    LegacySession::open(&mock.url(), "2025-11-25", all).await.unwrap()
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// Whether nothing more comes for a while.
async fn silent(response: &mut Response) -> bool {
    tokio::time::timeout(Duration::from_millis(200), response.event()).await.is_err()
}
