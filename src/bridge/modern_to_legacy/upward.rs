//! What a server with a handshake gets in place of a client's request: without what only 2026-07-28 has.

use super::answer;
use super::question::Raw;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// What goes upstream in place of the request: without what only 2026-07-28 has.
pub(crate) fn upward(request: &Message, upstream_id: i64) -> Message {
    let name = upstream_id.to_string();
    request
        .edit()
        .id(&name)
        .meta(meta::PROGRESS_TOKEN, &name)
        .without_params(&[meta::INPUT_RESPONSES, meta::REQUEST_STATE])
        .without_meta(&[meta::PROTOCOL_VERSION, meta::CLIENT_CAPABILITIES, meta::CLIENT_INFO, meta::LOG_LEVEL])
        .finish_to_send()
}

/// The same request, to become a task of the server's.
pub(crate) fn upward_as_task(request: &Message, upstream_id: i64) -> Option<Message> {
    let mut params: Raw = serde_json::from_str(upward(request, upstream_id).body()?).ok()?;
    params.insert(meta::TASK.to_owned(), serde_json::value::to_raw_value(&serde_json::json!({})).ok()?);
    let (method, params) = (Known::ToolsCall.as_str(), serde_json::to_string(&params).ok()?);
    Some(answer::own(format!(r#"{{"jsonrpc":"2.0","id":{upstream_id},"method":"{method}","params":{params}}}"#)))
}

/// A request about a task (JSON).
pub(crate) fn about_task(known: Known, upstream_id: i64, task: &str) -> Message {
    let (method, id) = (known.as_str(), meta::TASK_ID);
    answer::own(format!(r#"{{"jsonrpc":"2.0","id":{upstream_id},"method":"{method}","params":{{"{id}":{task}}}}}"#))
}
