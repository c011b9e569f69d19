//! What a client is told of a server with a handshake (2026-07-28, Discovery).

use serde_json::{Map, Value, json};

use crate::bridge::handshake;
use crate::protocol::id::RequestId;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::revision::{Era, Revision};

/// The versions in which a server with a handshake can be used here, the newest first.
pub(crate) fn versions() -> Vec<String> {
    let legacy = Revision::ALL.iter().filter(|revision| revision.era() == Era::Legacy);
    std::iter::once(&Revision::V2026_07_28).chain(legacy).map(|revision| revision.as_str().to_owned()).collect()
}

/// The answer to `server/discover`, out of the answer to a handshake. It may be kept for `ttl_ms`; whoever shares it may see
/// what is another's, so nobody does. `has_tasks`: calls may become tasks of the extension.
pub(crate) fn discovered(
    greeting: &Message,
    id: &RequestId,
    ttl_ms: u128,
    without: &[&str],
    has_tasks: bool,
) -> String {
    let said: Map<String, Value> = greeting.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    let mut capabilities = handshake::capabilities(greeting);
    // Another design under the same name: what there is of it is an extension (docs/bridge.md).
    capabilities.remove("tasks");
    if has_tasks && let Value::Object(all) = capabilities.entry("extensions").or_insert_with(|| json!({})) {
        all.insert(meta::TASKS_EXTENSION.into(), json!({}));
    }
    for name in without {
        capabilities.remove(*name);
    }
    let mut about = said.get(meta::META).and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(info) = said.get("serverInfo") {
        about.insert(meta::SERVER_INFO.to_owned(), info.clone());
    }
    let mut result = json!({
        meta::RESULT_TYPE: "complete",
        "supportedVersions": versions(),
        meta::CAPABILITIES: capabilities,
        meta::TTL_MS: u64::try_from(ttl_ms).unwrap_or(u64::MAX),
        meta::CACHE_SCOPE: "private",
        meta::META: about,
    });
    if let Some(instructions) = said.get("instructions") {
        result["instructions"] = instructions.clone();
    }
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_json())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the handshake said, in the words of the other era.
    #[test]
    fn a_handshake_becomes_a_description() {
        let said = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"logging":{},"tasks":{"list":{}},"vendor":{"x":1}},"serverInfo":{"name":"n","version":"1"},"instructions":"do","_meta":{"y":2}}}"#;
        let greeting = Message::parse(said.into(), 64).unwrap();
        let id = RequestId::from_json("\"d\"").unwrap();
        let told: Value = serde_json::from_str(&discovered(&greeting, &id, 60_000, &[], false)).unwrap();
        assert_eq!(
            told,
            json!({ "jsonrpc": "2.0", "id": "d", "result": {
                "resultType": "complete",
                "supportedVersions": ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"],
                "capabilities": { "tools": { "listChanged": true }, "logging": {}, "vendor": { "x": 1 } },
                "instructions": "do",
                "ttlMs": 60000,
                "cacheScope": "private",
                "_meta": { "y": 2, "io.modelcontextprotocol/serverInfo": { "name": "n", "version": "1" } },
            } })
        );
        let shared: Value = serde_json::from_str(&discovered(&greeting, &id, 0, &["logging"], true)).unwrap();
        assert!(shared["result"]["capabilities"].get("logging").is_none());
        let extensions = json!({ "io.modelcontextprotocol/tasks": {} });
        assert_eq!(shared["result"]["capabilities"]["extensions"], extensions);
    }
}
