//! Requests of 2026-07-28 for tests.

use std::io;

use base64::Engine as _;
use serde_json::{Value, json};

use super::{Headers, Response, post};
use crate::testing::incoming::reserved;
use crate::testing::script::MODERN;

/// A request of 2026-07-28: envelope and mirrored headers are made from what it is, unless overridden.
///
/// ```
/// use shadowcat::testing::client::Modern;
/// use serde_json::json;
///
/// let request = Modern::call("echo", json!({ "text": "hi" })).id("\"a\"").log_level("info");
/// assert!(request.body().starts_with(r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"#));
/// assert_eq!(request.headers().get("mcp-name"), Some("echo"));
/// ```
#[derive(Debug, Clone)]
pub struct Modern {
    id: Option<String>,
    method: String,
    params: Value,
    meta: Value,
    overridden: Vec<(String, Option<String>)>,
}

impl Modern {
    /// A request without params of its own.
    #[must_use]
    pub fn new(method: &str) -> Modern {
        let meta = json!({
            reserved("protocolVersion"): MODERN,
            reserved("clientCapabilities"): {},
            reserved("clientInfo"): { "name": "shadowcat-test-client", "version": env!("CARGO_PKG_VERSION") },
        });
        Modern { id: Some("1".into()), method: method.into(), params: json!({}), meta, overridden: Vec::new() }
    }

    /// A `tools/call`.
    #[must_use]
    pub fn call(tool: &str, arguments: Value) -> Modern {
        Modern::new("tools/call").param("name", tool.into()).param("arguments", arguments)
    }

    /// With this id, as it is to be written.
    #[must_use]
    pub fn id(mut self, id: &str) -> Modern {
        self.id = Some(id.into());
        self
    }

    /// As a notification.
    #[must_use]
    pub fn notification(mut self) -> Modern {
        self.id = None;
        self
    }

    /// With a param.
    #[must_use]
    pub fn param(mut self, name: &str, value: Value) -> Modern {
        self.params[name] = value;
        self
    }

    /// With a `_meta` entry; `Null` takes it away.
    #[must_use]
    pub fn meta(mut self, name: &str, value: Value) -> Modern {
        if let (true, Some(meta)) = (value.is_null(), self.meta.as_object_mut()) {
            meta.remove(name);
        } else {
            self.meta[name] = value;
        }
        self
    }

    /// With these client capabilities.
    #[must_use]
    pub fn capabilities(self, capabilities: Value) -> Modern {
        self.meta(&reserved("clientCapabilities"), capabilities)
    }

    /// Wanting log messages from this level.
    #[must_use]
    pub fn log_level(self, level: &str) -> Modern {
        self.meta(&reserved("logLevel"), level.into())
    }

    /// With a progress token.
    #[must_use]
    pub fn progress_token(self, token: Value) -> Modern {
        self.meta("progressToken", token)
    }

    /// With another value of a header, or (`None`) without it.
    #[must_use]
    pub fn header(mut self, name: &str, value: Option<&str>) -> Modern {
        self.overridden.push((name.into(), value.map(Into::into)));
        self
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> String {
        let mut params = self.params.clone();
        params["_meta"] = self.meta.clone();
        let id = self.id.as_ref().map_or_else(String::new, |id| format!(r#""id":{id},"#));
        format!(r#"{{"jsonrpc":"2.0",{id}"method":{},"params":{params}}}"#, Value::from(self.method.as_str()))
    }

    /// The headers that mirror the body, with what was overridden. Not those for `x-mcp-header` params: add them with
    /// [`header`](Modern::header).
    #[must_use]
    pub fn headers(&self) -> Headers {
        let version = self.meta[reserved("protocolVersion")].as_str().unwrap_or_default();
        let name = match self.method.as_str() {
            "tools/call" | "prompts/get" => self.params["name"].as_str(),
            "resources/read" => self.params["uri"].as_str(),
            _ => None,
        };
        let mut headers = vec![("MCP-Protocol-Version", version.to_owned()), ("Mcp-Method", self.method.clone())];
        headers.extend(name.map(|name| ("Mcp-Name", encode(name))));
        let overridden = |name: &str| self.overridden.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let added = self.overridden.iter().filter_map(|(name, value)| Some((name.as_str(), value.clone()?)));
        headers.into_iter().filter(|(name, _)| !overridden(name)).chain(added).collect()
    }

    /// POSTs it.
    ///
    /// # Errors
    /// As [`post`](super::post).
    pub async fn post(&self, url: &str) -> io::Result<Response> {
        let headers = self.headers();
        post(url, &self.body(), &headers.iter().collect::<Vec<_>>()).await
    }
}

/// A header value: as it is if it can be, else in the Base64 form.
fn encode(value: &str) -> String {
    let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value;
    if plain && !value.starts_with("=?base64?") {
        return value.to_owned();
    }
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(value))
}
