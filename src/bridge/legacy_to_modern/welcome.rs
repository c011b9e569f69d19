//! The answer to a client's `initialize`, made of what the server says of itself (2026-07-28, Discovery; 2025-11-25, Lifecycle ›
//! Initialization).

use serde_json::{Map, Value, json};

use super::client::Client;
use super::{own, quoted};
use crate::protocol::error::{INVALID_PARAMS, UNSUPPORTED_VERSION};
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Revision;

const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// The request that asks the server, on this client's behalf.
pub(crate) fn question(client: &Client, id: i64) -> Message {
    let (method, meta, envelope) = (Known::Discover.as_str(), meta::META, client.envelope(true, None));
    own(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"{meta}":{{{envelope}}}}}}}"#))
}

/// The result of the client's handshake, named 0. A server that does not say who it is goes by `name`. `None` if the server's
/// answer does not say what it can do.
pub(crate) fn result(client: &Client, discovered: &Message, name: &str) -> Option<Message> {
    if discovered.kind() != Kind::Result {
        return None;
    }
    let mut said: Map<String, Value> = serde_json::from_str(discovered.body()?).ok()?;
    let mut capabilities = match said.remove(meta::CAPABILITIES) {
        Some(Value::Object(capabilities)) => capabilities,
        _ => return None,
    };
    if client.revision < Revision::V2025_11_25 {
        capabilities.remove("extensions");
    } else if let Some(Value::Object(extensions)) = capabilities.get_mut("extensions")
        && extensions.remove(meta::TASKS_EXTENSION).is_some()
        && extensions.is_empty()
    {
        capabilities.remove("extensions");
    }
    // Drafts had it in the result itself. A malformed one invalidates nothing.
    let stamped = said.get(meta::META).and_then(|meta| meta.get(SERVER_INFO)).or_else(|| said.get("serverInfo"));
    let is_one = |info: &&Value| info["name"].is_string() && info["version"].is_string();
    let info = stamped.filter(is_one).cloned().unwrap_or_else(|| json!({ "name": name, "version": "0" }));
    let mut result = Map::new();
    result.insert(meta::PROTOCOL_VERSION_PARAM.into(), client.revision.as_str().into());
    result.insert(meta::CAPABILITIES.into(), Value::Object(capabilities));
    result.insert("serverInfo".into(), info);
    result.extend(said.remove_entry("instructions").filter(|(_, text)| text.is_string()));
    Some(own(format!(r#"{{"jsonrpc":"2.0","id":0,"result":{}}}"#, Value::Object(result))))
}

/// For how long, in milliseconds, the server says that its answer holds; and whether it holds for whoever asks.
pub(crate) fn keeps(discovered: &Message) -> (u64, bool) {
    let said: Value = discovered.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    (said["ttlMs"].as_u64().unwrap_or(0), said["cacheScope"] == "public")
}

/// Whether a client may say how severe log messages have to be, by the result of its handshake.
pub(crate) fn has_logging(result: &Message) -> bool {
    crate::bridge::handshake::capabilities(result).contains_key("logging")
}

/// A refusal for want of a common version, in the words of a server with a handshake; every other one as it is
/// (2025-11-25, Lifecycle › Error Handling).
pub(crate) fn refusal(answer: &Message, id: &RequestId) -> Message {
    let body: Value = answer.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    if body["code"] != UNSUPPORTED_VERSION {
        return answer.edit().id(id.as_json()).finish();
    }
    let versions = body["data"]["supported"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = versions.iter().filter_map(Value::as_str).collect();
    let text = quoted(format!("Unsupported protocol version: the server speaks {}", names.join(", ")));
    let (code, data, id) = (INVALID_PARAMS, &body["data"], id.as_json());
    own(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text},"data":{data}}}}}"#))
}
