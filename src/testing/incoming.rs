//! One message from the client, as the fake server reads it.

use serde_json::Value;

use super::raw;

/// Key prefix of what the protocol itself puts into `_meta`.
const RESERVED: &str = "io.modelcontextprotocol/";

/// A message from the client.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) kind: Kind,
    /// The id as it was written; `None` for notifications.
    pub(crate) id: Option<String>,
    /// Empty for an answer.
    pub(crate) method: String,
    /// `Null` when absent.
    pub(crate) params: Value,
    /// `params` as it was written; `null` when absent.
    pub(crate) params_text: String,
}

/// What a message is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Request,
    Notification,
    /// An answer of the client to a question of ours: result or error.
    Answer(Result<Value, Value>),
}

/// Why text is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAMessage {
    #[error("Parse error")]
    Json,
    #[error("Invalid Request")]
    Shape,
}

impl NotAMessage {
    /// The JSON-RPC error code.
    pub(crate) fn code(self) -> i64 {
        match self {
            NotAMessage::Json => -32700,
            NotAMessage::Shape => -32600,
        }
    }
}

impl Incoming {
    /// Reads one message (not a batch).
    pub(crate) fn parse(text: &str) -> Result<Incoming, NotAMessage> {
        let value: Value = serde_json::from_str(text).map_err(|_| NotAMessage::Json)?;
        let object = value.as_object().ok_or(NotAMessage::Shape)?;
        if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err(NotAMessage::Shape);
        }
        let id = raw::member(text, "id").map(str::to_owned);
        let method = object.get("method").and_then(Value::as_str);
        let kind = match (method, &id, object.get("result"), object.get("error")) {
            (Some(_), Some(_), ..) => Kind::Request,
            (Some(_), None, ..) => Kind::Notification,
            (None, Some(_), Some(result), None) => Kind::Answer(Ok(result.clone())),
            (None, Some(_), None, Some(error)) => Kind::Answer(Err(error.clone())),
            _ => return Err(NotAMessage::Shape),
        };
        Ok(Incoming {
            kind,
            id,
            method: method.unwrap_or_default().to_owned(),
            params: object.get("params").cloned().unwrap_or(Value::Null),
            params_text: raw::member(text, "params").unwrap_or("null").to_owned(),
        })
    }

    /// The tool of a `tools/call`.
    pub(crate) fn tool(&self) -> Option<&str> {
        (self.method == "tools/call").then(|| self.params["name"].as_str()).flatten()
    }

    /// An argument of a `tools/call` or `prompts/get`.
    pub(crate) fn argument(&self, name: &str) -> &Value {
        &self.params["arguments"][name]
    }

    /// A reserved `_meta` value, named without its prefix.
    pub(crate) fn reserved(&self, name: &str) -> Option<&Value> {
        self.params.get("_meta")?.get(format!("{RESERVED}{name}"))
    }

    /// The version the envelope claims; that there is a claim at all makes the request a modern one.
    pub(crate) fn claimed_version(&self) -> Option<&Value> {
        self.reserved("protocolVersion")
    }

    /// The progress token as it was written.
    pub(crate) fn progress_token(&self) -> Option<&str> {
        raw::member(raw::member(&self.params_text, "_meta")?, "progressToken")
    }
}

/// The full name of a reserved `_meta` key.
pub(crate) fn reserved(name: &str) -> String {
    format!("{RESERVED}{name}")
}
