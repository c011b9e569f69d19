//! What the probe says to a server, and how it reads what comes back.

use bytes::Bytes;
use serde_json::{Value, json};

use super::ToolCall;
use crate::protocol::error::{METHOD_NOT_FOUND, RpcError};
use crate::protocol::id::RequestId;
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::upstream::probe;

/// A request without its id: the process that it is sent to gives it one.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Known,
    pub(super) params: Value,
    /// The tool, if it calls one.
    pub(super) tool: Option<String>,
}

impl Request {
    pub(super) fn new(method: Known, params: Value) -> Request {
        Request { method, params, tool: None }
    }

    /// The next page of a list.
    pub(super) fn page(method: Known, cursor: Option<&str>) -> Request {
        Request::new(method, cursor.map_or(json!({}), |cursor| json!({ "cursor": cursor })))
    }

    pub(super) fn call(call: &ToolCall) -> Request {
        let params = json!({ "name": call.name, meta::ARGUMENTS: call.arguments });
        Request { method: Known::ToolsCall, params, tool: Some(call.name.clone()) }
    }

    /// The same call, to be worked on as a task (2025-11-25, Tasks).
    pub(super) fn task(call: &ToolCall) -> Request {
        let mut request = Request::call(call);
        request.params["task"] = json!({});
        request
    }

    /// The question that starts a session (2025-11-25, Lifecycle). A client that `can_be_asked` declares what there is to ask.
    pub(super) fn initialize(can_be_asked: bool) -> Request {
        let capabilities = match can_be_asked {
            true => json!({ "roots": {}, "sampling": {}, "elicitation": {} }),
            false => json!({}),
        };
        let params = json!({
            meta::PROTOCOL_VERSION_PARAM: Revision::LATEST_LEGACY.as_str(),
            "capabilities": capabilities,
            meta::CLIENT_INFO_PARAM: client(),
        });
        Request::new(Known::Initialize, params)
    }

    /// The message. One to a modern server carries an envelope (2026-07-28, Basic › `_meta`).
    pub(super) fn line(&self, id: i64, era: Era) -> Bytes {
        if self.method == Known::Discover {
            return probe::question(id).into();
        }
        let mut params = self.params.clone();
        if era == Era::Modern {
            params[meta::META] = json!({
                meta::PROTOCOL_VERSION: Revision::V2026_07_28.as_str(),
                meta::CLIENT_INFO: client(),
                meta::CLIENT_CAPABILITIES: {},
            });
        }
        json!({ "jsonrpc": "2.0", "id": id, "method": self.method.as_str(), "params": params }).to_string().into()
    }
}

fn client() -> Value {
    json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") })
}

/// The client is ready.
pub(super) fn initialized() -> Bytes {
    json!({ "jsonrpc": "2.0", "method": Known::Initialized.as_str() }).to_string().into()
}

/// What a shared process is told when it asks its client: it has none.
pub(super) fn refusal(id: &RequestId) -> Bytes {
    RpcError::new(METHOD_NOT_FOUND, "shared", "This process is shared: there is no client to ask")
        .to_json(Some(id))
        .into()
}

/// What a client answers that can be asked: as little as possible, and never a yes.
pub(super) fn stand_in(id: &RequestId, question: Option<Known>) -> Bytes {
    let result = match question {
        Some(Known::RootsList) => json!({ "roots": [] }),
        Some(Known::Elicit) => json!({ "action": "decline" }),
        Some(Known::CreateMessage) => json!({
            "role": "assistant",
            "content": { "type": "text", "text": "This is the answer of a probe." },
            "model": "none",
            "stopReason": "endTurn",
        }),
        Some(Known::Ping) => json!({}),
        _ => return refusal(id),
    };
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_json()).into()
}

/// Longest text of a server that is shown, in characters.
const SHOWN_MAX: usize = 300;

/// What a server calls itself or one of its things, fit for a terminal: in one line, bounded, nothing that it would act on.
pub(super) fn printable(text: &str) -> String {
    let hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let mut shown: String =
        text.chars().take(SHOWN_MAX).map(|c| if c.is_control() || hidden(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// What a server says of itself, in the result of its handshake or of `server/discover`.
#[derive(Debug, Clone, Default)]
pub(super) struct Introduction {
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
    /// The revision that it speaks with us.
    pub(super) revision: String,
    capabilities: Value,
}

impl Introduction {
    pub(super) fn of(result: &Value, era: Era) -> Introduction {
        // 2026-07-28 has it in `_meta`; servers of its drafts have it where it was before.
        let modern = result.pointer("/_meta/io.modelcontextprotocol~1serverInfo");
        let info = modern.or_else(|| result.get("serverInfo")).unwrap_or(&Value::Null);
        let text = |value: &Value| value.as_str().map(printable);
        let revision = match era {
            Era::Legacy => text(&result[meta::PROTOCOL_VERSION_PARAM]).unwrap_or_default(),
            Era::Modern => Revision::V2026_07_28.as_str().to_owned(),
        };
        Introduction {
            name: text(&info["name"]),
            version: text(&info["version"]),
            revision,
            capabilities: result["capabilities"].clone(),
        }
    }

    /// Whether it declares a capability, or the part of one that the path leads to. `false` declares nothing.
    pub(super) fn declares(&self, path: &[&str]) -> bool {
        let declared = path.iter().try_fold(&self.capabilities, |value, name| value.get(name));
        declared.is_some_and(|value| *value != Value::Null && *value != Value::Bool(false))
    }
}

/// A tool, as far as the probe is interested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool {
    pub(super) name: String,
    /// Whether it can be called without being named: it says that it changes nothing, and needs no arguments.
    pub(super) harmless: bool,
    /// Whether calls of it can become tasks.
    pub(super) tasks: bool,
}

impl Tool {
    /// The tools on a page. What has no name is no tool.
    pub(super) fn all(page: &Value) -> Vec<Tool> {
        let read = |tool: &Value| {
            let name = tool["name"].as_str()?.to_owned();
            let required = tool.pointer("/inputSchema/required").and_then(Value::as_array);
            let read_only = tool.pointer("/annotations/readOnlyHint") == Some(&Value::Bool(true));
            let support = tool.pointer("/execution/taskSupport").and_then(Value::as_str);
            Some(Tool {
                name,
                harmless: read_only && required.is_none_or(Vec::is_empty),
                tasks: matches!(support, Some("optional" | "required")),
            })
        };
        page["tools"].as_array().map_or_else(Vec::new, |tools| tools.iter().filter_map(read).collect())
    }
}

/// Where the next page of a list begins; `None` behind the last one.
pub(super) fn next_cursor(page: &Value) -> Option<&str> {
    page["nextCursor"].as_str()
}

/// The first resource of a page.
pub(super) fn first_resource(page: &Value) -> Option<&str> {
    page["resources"].as_array()?.iter().find_map(|resource| resource["uri"].as_str())
}

/// Whether a result says that the tool failed.
pub(super) fn is_tool_failure(result: &Value) -> bool {
    result["isError"] == Value::Bool(true)
}

/// The name of the member that names a task.
fn task_member() -> &'static str {
    Known::TasksCancel.name_param().map_or("", |(name, _)| name)
}

/// The id of the task that a call became.
pub(super) fn task_id(result: &Value) -> Option<&str> {
    result["task"][task_member()].as_str()
}

/// Ends a task.
pub(super) fn cancel_task(id: &str) -> Request {
    Request::new(Known::TasksCancel, json!({ task_member(): id }))
}

/// Whether a list of tasks has this one.
pub(super) fn lists_task(page: &Value, id: &str) -> bool {
    page["tasks"].as_array().is_some_and(|tasks| tasks.iter().any(|task| task[task_member()] == id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Message;
    use crate::protocol::meta::Envelope;

    fn message(line: Bytes) -> Message {
        Message::parse(line, 64).unwrap()
    }

    #[test]
    fn requests_are_complete_in_either_era() {
        let call = ToolCall { name: "echo".into(), arguments: json!({ "text": "x" }) };
        for request in [Request::page(Known::ToolsList, None), Request::call(&call), Request::initialize(true)] {
            assert_eq!(Envelope::of(&message(request.line(1, Era::Legacy))), Envelope::Absent);
            let modern = message(request.line(7, Era::Modern));
            assert_eq!(Envelope::of(&modern), Envelope::Complete("2026-07-28".into()));
            assert_eq!(modern.id().unwrap().as_integer(), Some(7));
        }
        let page = message(Request::page(Known::ToolsList, Some("next")).line(1, Era::Legacy));
        assert_eq!(page.param_str("cursor").as_deref(), Some("next"));
    }

    #[test]
    fn only_what_is_safe_and_complete_is_called_by_itself() {
        let tool = |name: &str, rest: Value| {
            let mut tool = json!({ "name": name });
            rest.as_object().unwrap().iter().for_each(|(key, value)| tool[key] = value.clone());
            tool
        };
        let read_only = json!({ "readOnlyHint": true });
        let page = json!({ "tools": [
            tool("safe", json!({ "annotations": read_only, "inputSchema": { "type": "object", "required": [] } })),
            tool("bare", json!({ "annotations": read_only })),
            tool("needy", json!({ "annotations": read_only, "inputSchema": { "required": ["x"] } })),
            tool("silent", json!({})),
            tool("writes", json!({ "annotations": { "readOnlyHint": false } })),
            { "title": "without a name" },
        ] });
        let harmless: Vec<(String, bool)> =
            Tool::all(&page).into_iter().map(|tool| (tool.name, tool.harmless)).collect();
        let expected = [("safe", true), ("bare", true), ("needy", false), ("silent", false), ("writes", false)];
        assert_eq!(harmless, expected.map(|(name, harmless)| (name.to_owned(), harmless)));
        assert_eq!(Tool::all(&json!({ "tools": "none" })), []);
    }

    #[test]
    fn an_introduction_is_read_where_either_era_has_it() {
        let legacy = json!({
            "protocolVersion": "2025-06-18",
            "serverInfo": { "name": "a", "version": "1" },
            "capabilities": { "resources": { "subscribe": false }, "logging": {} },
        });
        let legacy = Introduction::of(&legacy, Era::Legacy);
        assert_eq!((legacy.name.as_deref(), legacy.revision.as_str()), (Some("a"), "2025-06-18"));
        assert!(
            legacy.declares(&["logging"])
                && legacy.declares(&["resources"])
                && !legacy.declares(&["resources", "subscribe"])
        );
        let modern = json!({ "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "b" } }, "capabilities": {} });
        let modern = Introduction::of(&modern, Era::Modern);
        assert_eq!((modern.name.as_deref(), modern.version), (Some("b"), None));
        let draft = Introduction::of(&json!({ "serverInfo": { "name": "c" } }), Era::Modern);
        assert_eq!(draft.name.as_deref(), Some("c"));
        assert_eq!(Introduction::of(&Value::Null, Era::Legacy).name, None, "garbage is no reason to panic");
    }

    #[test]
    fn a_stand_in_never_says_yes() {
        let id = RequestId::from_json("7").unwrap();
        let body = |question| message(stand_in(&id, question)).body().unwrap().to_owned();
        assert_eq!(body(Some(Known::Elicit)), r#"{"action":"decline"}"#);
        assert_eq!(body(Some(Known::RootsList)), r#"{"roots":[]}"#);
        assert!(body(None).contains("-32601") && body(Some(Known::ToolsList)).contains("-32601"));
    }
}
