//! Dialogues to be read, a row of the map of both eras each, and what is true of every dialogue.

mod dialogues;
mod rules;

use super::*;
use crate::bridge::modern_to_legacy::upward::{about_task, upward, upward_as_task};

const WINDOW: Duration = Duration::from_millis(20);
const PARKED: Duration = Duration::from_secs(600);

/// Of a server that makes tasks.
fn greeting() -> Message {
    message(r#"{"jsonrpc":"2.0","id":1,"result":{"capabilities":{"tasks":{"requests":{"tools":{"call":{}}}}}}}"#)
}

/// Metadata of a client that takes a task for an answer.
const TAKES_TASKS: &str = r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

fn message(text: &str) -> Message {
    Message::parse(text.to_owned().into(), 64).unwrap_or_else(|error| panic!("{error:?}: {text}"))
}

fn text(message: &Message) -> String {
    String::from_utf8(message.text().to_vec()).unwrap()
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn leg(request: &Message) -> Leg {
    Leg::of(request, request.id().unwrap())
}

/// The call of a request that has just been sent.
fn begun(request: &Message, now: Instant) -> Call {
    Call::begin(request, leg(request), rules(now), &greeting())
}

fn rules(now: Instant) -> Rules {
    let (errand, until) = (Duration::from_secs(20), now + Duration::from_secs(3600));
    Rules { window: WINDOW, parked: PARKED, errand, rounds: 3, bytes: 1 << 20, until, ttl_ms: 0 }
}

/// A request of a client that can be asked everything, unless `meta` says otherwise.
fn request(id: &str, method: &str, params: &str, meta: &str) -> Message {
    let capabilities =
        r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;
    let meta = if meta.contains("clientCapabilities") { meta.to_owned() } else { format!("{capabilities}{meta}") };
    let version = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
    let comma = if params.is_empty() { "" } else { "," };
    message(&format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}"_meta":{{{version},{meta}}}}}}}"#
    ))
}
