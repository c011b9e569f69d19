//! JSON-RPC errors: the codes of the specification and our own.

use super::id::RequestId;

/// The text is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// The JSON is not a message.
pub const INVALID_REQUEST: i32 = -32600;
/// Nobody knows the method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// The parameters are not what the method takes.
pub const INVALID_PARAMS: i32 = -32602;
/// Something went wrong within.
pub const INTERNAL_ERROR: i32 = -32603;
/// There is no such resource (up to 2025-11-25; later that is `INVALID_PARAMS`).
pub const RESOURCE_NOT_FOUND: i32 = -32002;
/// Headers and body disagree (2026-07-28, Basic › Error Codes).
pub const HEADER_MISMATCH: i32 = -32020;
/// A capability is missing that the request needs (2026-07-28).
pub const MISSING_CAPABILITY: i32 = -32021;
/// The revision is not served (2026-07-28).
pub const UNSUPPORTED_VERSION: i32 = -32022;

// Conditions of the proxy itself. They lie outside -32768…-32000, which JSON-RPC and MCP keep for themselves,
// so that nobody takes them for the server's (2026-07-28, Basic › Error Codes).

/// No answer from the upstream in time; it was told to stop.
pub const UPSTREAM_TIMEOUT: i32 = -31001;
/// The upstream cannot be reached; nothing was sent to it.
pub const UPSTREAM_UNAVAILABLE: i32 = -31002;
/// The upstream went away with the request: it may have been executed.
pub const OUTCOME_UNKNOWN: i32 = -31003;
/// A limit of the proxy is reached.
pub const OVERLOADED: i32 = -31004;
/// The proxy is shutting down.
pub const SHUTTING_DOWN: i32 = -31005;
/// The upstream broke the protocol.
pub const UPSTREAM_VIOLATION: i32 = -31006;
/// A message is larger than allowed.
pub const TOO_LARGE: i32 = -31007;
/// No such session (any more).
pub const SESSION_NOT_FOUND: i32 = -31008;
/// Refused by a guard: origin, host, headers.
pub const REFUSED: i32 = -31009;
/// The tape that is replayed has no answer to this.
pub const NOT_ON_TAPE: i32 = -31010;

/// A JSON-RPC error that the proxy itself makes. It always says so: `data.origin` is `"proxy"`.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcError {
    /// JSON-RPC code.
    pub code: i32,
    /// What happened and what to do next, for a person.
    pub message: String,
    /// What happened, for a program: a fixed word.
    pub reason: &'static str,
    /// Further members of `data`.
    pub data: serde_json::Map<String, serde_json::Value>,
}

impl RpcError {
    /// An error with nothing but `origin` and `reason` in its data.
    pub fn new(code: i32, reason: &'static str, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into(), reason, data: serde_json::Map::new() }
    }

    /// The same with one more member in `data`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> RpcError {
        self.data.insert(key.to_owned(), value.into());
        self
    }

    /// The error response to request `id`; without one, `id` is null as JSON-RPC has it.
    pub fn to_json(&self, id: Option<&RequestId>) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, id.map_or("null", RequestId::as_json), self.body())
    }

    /// The error response to a request whose id is not known, as 2026-07-28 has it: without one (schema, `JSONRPCErrorResponse`).
    pub fn to_json_without_id(&self) -> String {
        format!(r#"{{"jsonrpc":"2.0","error":{}}}"#, self.body())
    }

    fn body(&self) -> serde_json::Value {
        let mut data = serde_json::Map::new();
        data.insert("origin".into(), "proxy".into());
        data.insert("reason".into(), self.reason.into());
        data.extend(self.data.clone());
        serde_json::json!({ "code": self.code, "message": self.message, "data": data })
    }
}
