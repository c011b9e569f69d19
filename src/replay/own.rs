//! What a player says that is on no tape.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::episodes::{Episode, Episodes};
use crate::protocol::error::{METHOD_NOT_FOUND, NOT_ON_TAPE, RpcError};
use crate::protocol::id::RequestId;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};

/// The result that says nothing.
pub(super) fn empty(id: &RequestId) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_json()))
}

/// All that was asked for is promised (2026-07-28, Subscriptions).
pub(super) fn acknowledgement(request: &Message, id: &RequestId) -> Bytes {
    let wanted = request.param(meta::NOTIFICATIONS).unwrap_or("{}");
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"{}":{{"{}":{}}},"{}":{wanted}}}}}"#,
        Known::SubscriptionAcknowledged.as_str(),
        meta::META,
        meta::SUBSCRIPTION_ID,
        id.as_json(),
        meta::NOTIFICATIONS,
    ))
}

/// What the server would have said of itself, as far as the tape shows; to the question of the other era, that it has no such method.
pub(super) fn greeting(request: &Message, id: &RequestId, tape: &Episodes) -> Bytes {
    let mut capabilities = Map::new();
    for episode in &tape.all {
        let method = episode.message.method().unwrap_or_default();
        let capability = match method.split_once('/') {
            Some(("completion", _)) => "completions",
            Some((family @ ("tools" | "prompts" | "resources" | "logging"), _)) => family,
            _ => continue,
        };
        capabilities.entry(capability).or_insert_with(|| json!({}));
    }
    let server = json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
    let result = match (request.known(), tape.era) {
        (Some(Known::Initialize), Era::Legacy) => {
            let asked = request.param_str(meta::PROTOCOL_VERSION_PARAM).and_then(|asked| Revision::parse(&asked));
            let version = asked.filter(|version| version.era() == Era::Legacy).unwrap_or(Revision::LATEST_LEGACY);
            json!({ meta::PROTOCOL_VERSION_PARAM: version.as_str(), meta::CAPABILITIES: capabilities, "serverInfo": server })
        }
        (Some(Known::Discover), Era::Modern) => json!({
            meta::RESULT_TYPE: "complete",
            "supportedVersions": [Revision::V2026_07_28.as_str()],
            meta::CAPABILITIES: capabilities,
            meta::TTL_MS: 0,
            meta::CACHE_SCOPE: "private",
            meta::META: { meta::SERVER_INFO: server },
        }),
        _ => {
            let error = RpcError::new(METHOD_NOT_FOUND, "other_era", "The tape is of a server of the other era");
            return Bytes::from(error.to_json(Some(id)));
        }
    };
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_json()))
}

/// The tape has the request and no answer to it.
pub(super) fn unanswered(id: &RequestId, episode: &Episode) -> Bytes {
    let what = "The tape has this request, and ends before its answer: record it again";
    let error = RpcError::new(NOT_ON_TAPE, "unanswered_on_tape", what).with("frame", episode.seq);
    Bytes::from(error.to_json(Some(id)))
}

/// The tape does not have the request.
pub(super) fn unknown(id: &RequestId, why: &str, nearest: Option<Value>) -> Bytes {
    let mut error = RpcError::new(NOT_ON_TAPE, "not_on_tape", format!("Not on the tape: {why}"));
    if let Some(nearest) = nearest {
        error = error.with("nearest", nearest);
    }
    Bytes::from(error.to_json(Some(id)))
}
