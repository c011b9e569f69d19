//! Names of fields, and typed access to the metadata of modern requests.

use std::borrow::Cow;

use super::message::{Message, json_text};
use super::scan::ValueKind;

/// The member of `params` and `result` that carries metadata.
pub const META: &str = "_meta";
/// Progress token of a request, in its `_meta`; also the member of a progress notification.
pub const PROGRESS_TOKEN: &str = "progressToken";
/// The member of `notifications/cancelled` that names the request.
pub const REQUEST_ID: &str = "requestId";
/// The member of `initialize` and of its result.
pub const PROTOCOL_VERSION_PARAM: &str = "protocolVersion";
/// Revision of a modern request (2026-07-28, Basic › `_meta`).
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Capabilities of the client on this request.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Who the client is.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// Log messages wanted with this request.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Listen request that a notification belongs to.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// The member of a modern result that says what kind it is.
pub const RESULT_TYPE: &str = "resultType";
/// How long a modern result may be kept, in milliseconds (2026-07-28, Caching).
pub const TTL_MS: &str = "ttlMs";
/// Who may share a modern result.
pub const CACHE_SCOPE: &str = "cacheScope";
/// Who the server is, in the metadata of its description (2026-07-28, Discovery).
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// The answers to what a server asked with its result (2026-07-28, Multi Round-Trip Requests).
pub const INPUT_RESPONSES: &str = "inputResponses";
/// What a server asks with its result.
pub const INPUT_REQUESTS: &str = "inputRequests";
/// What a server wants to have back with the answers.
pub const REQUEST_STATE: &str = "requestState";
/// What client and server declare in a handshake.
pub const CAPABILITIES: &str = "capabilities";
/// Who the client is, in a handshake.
pub const CLIENT_INFO_PARAM: &str = "clientInfo";
/// In a capability: changes are told.
pub const LIST_CHANGED: &str = "listChanged";
/// What a stream of notifications is asked for, and what it is promised to tell (2026-07-28, Subscriptions).
pub const NOTIFICATIONS: &str = "notifications";
/// The resources in either.
pub const RESOURCE_SUBSCRIPTIONS: &str = "resourceSubscriptions";
/// The parameter that makes a call a task (2025-11-25).
pub const TASK: &str = "task";
/// The name of an errand at a URL (2025-11-25, Elicitation).
pub const ELICITATION_ID: &str = "elicitationId";
/// The name of a task.
pub const TASK_ID: &str = "taskId";
/// The tasks in what a stream of notifications is asked for, and is promised to tell.
pub const TASK_IDS: &str = "taskIds";
/// The extension that took the place of the tasks of 2025-11-25, and is another thing.
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// A tool's arguments.
pub const ARGUMENTS: &str = "arguments";

/// What a request says of its revision in its `_meta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Envelope<'m> {
    /// Nothing: not a modern request.
    Absent,
    /// A version, but it or the capabilities are missing or of the wrong type: what is wrong.
    Broken(&'static str),
    /// Complete, for this version (not necessarily one we know).
    Complete(Cow<'m, str>),
}

impl<'m> Envelope<'m> {
    /// Reads the envelope of a request (2026-07-28, Basic › `_meta`): version and capabilities are required, who the client is is not.
    pub fn of(message: &'m Message) -> Envelope<'m> {
        let Some(version) = message.meta(PROTOCOL_VERSION) else {
            return if message.meta_kind(CLIENT_CAPABILITIES).is_some() {
                Envelope::Broken("`_meta` lacks io.modelcontextprotocol/protocolVersion")
            } else {
                Envelope::Absent
            };
        };
        let Some(version) = json_text(version) else {
            return Envelope::Broken("io.modelcontextprotocol/protocolVersion must be a string");
        };
        match message.meta_kind(CLIENT_CAPABILITIES) {
            None => Envelope::Broken("`_meta` lacks io.modelcontextprotocol/clientCapabilities"),
            Some(ValueKind::Object) => match message.meta_kind(CLIENT_INFO) {
                None | Some(ValueKind::Object) => Envelope::Complete(version),
                Some(_) => Envelope::Broken("io.modelcontextprotocol/clientInfo must be an object"),
            },
            Some(_) => Envelope::Broken("io.modelcontextprotocol/clientCapabilities must be an object"),
        }
    }
}

/// Whether a log level is one of the eight (RFC 5424 names).
pub fn is_log_level(level: &str) -> bool {
    matches!(level, "debug" | "info" | "notice" | "warning" | "error" | "critical" | "alert" | "emergency")
}
