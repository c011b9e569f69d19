//! Agreement between a modern request's headers and its body
//! (2026-07-28, Streamable HTTP › Request Metadata, Custom Headers, Server Validation).
//!
//! The body is the truth; a header that says something else is refused, so that whoever routes by headers
//! and whoever executes the body act on the same request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::message::Message;
use super::method::Known;

/// Revision of a request; required from 2025-06-18 on.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Method of a modern request.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// What a modern request is about: the tool, the prompt, the resource.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Session of a legacy request.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// Last event of a stream that a legacy client resumes.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How the headers that repeat a tool's arguments begin.
pub const PARAM_PREFIX: &str = "mcp-param-";

/// The keyword in a tool's input schema that asks for a header.
pub const X_MCP_HEADER: &str = "x-mcp-header";

/// Whether a header repeats something of the body of a modern request.
pub(crate) fn is_mirrored(name: &HeaderName) -> bool {
    *name == METHOD || *name == NAME || name.as_str().starts_with(PARAM_PREFIX)
}

/// A copy of headers to be kept for long: their values alone, and not the buffers that they were read in.
pub(crate) fn detached(headers: &HeaderMap) -> HeaderMap {
    headers.iter().map(|(name, value)| (name.clone(), detached_value(value))).collect()
}

/// See [`detached`].
pub(crate) fn detached_value(value: &HeaderValue) -> HeaderValue {
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    copy.set_sensitive(value.is_sensitive());
    copy
}

/// How a value begins that is not written as it is.
const ENCODED: &str = "=?base64?";

/// How headers and body disagree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A required header is not there.
    #[error("the header {0} is missing; it must repeat the body's value")]
    Missing(String),
    /// A header is there twice.
    #[error("the header {0} occurs more than once")]
    Repeated(String),
    /// A header's value cannot be read.
    #[error("the header {0} is malformed")]
    Malformed(String),
    /// A header says something else than the body.
    #[error("the header {0} differs from the body")]
    Differs(String),
    /// A header repeats a value which the body does not have.
    #[error("the header {0} is there, but the body has no such value")]
    Unexpected(String),
}

/// The only value of a header, decoded; `None` if the header is absent.
fn single(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Mismatch> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Mismatch::Repeated(name.to_string()));
    }
    decode(value).map(Some).ok_or_else(|| Mismatch::Malformed(name.to_string()))
}

/// A header's value: visible ASCII, spaces and tabs as they are, or Base64 of UTF-8 between `=?base64?` and `?=`.
pub fn decode(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    match text.strip_prefix(ENCODED).and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

/// A value as a header carries it: plain where it is safe, Base64 otherwise (2026-07-28, Streamable HTTP › Value Encoding).
pub fn encode(value: &str) -> HeaderValue {
    let plain = value.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\t'))
        && value.trim_matches([' ', '\t']).len() == value.len()
        && !(value.starts_with(ENCODED) && value.ends_with("?="));
    if plain && let Ok(value) = HeaderValue::from_str(value) {
        return value;
    }
    let encoded = format!("=?base64?{}?=", STANDARD.encode(value));
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Checks the standard headers of a modern request against its body.
///
/// # Errors
/// The first header that is missing, repeated, malformed or different.
pub fn check(headers: &HeaderMap, message: &Message, version: &str) -> Result<(), Mismatch> {
    let param = message.known().and_then(Known::name_param);
    let name = param.and_then(|(param, _)| message.param_text(param));
    // A name that is missing or no string is for the server to refuse; a header cannot agree with it.
    let requires_name = name.is_some() && param.is_some_and(|(_, required)| required);
    let mut wanted = [
        (&PROTOCOL_VERSION, Some(version), true, Said::Nothing),
        (&METHOD, message.method(), true, Said::Nothing),
        (&NAME, name.as_deref(), requires_name, Said::Nothing),
    ];
    // Most often each says it once, in plain words, which is seen in one look at all of them.
    for (name, value) in headers {
        if let Some((_, body, _, said)) = wanted.iter_mut().find(|(wanted, ..)| *wanted == name) {
            let is_plain = body.is_some_and(|body| value.as_bytes() == body.as_bytes() && is_plain(body));
            *said = if is_plain && *said == Said::Nothing { Said::Same } else { Said::Else };
        }
    }
    let all = if param.is_some() { &wanted[..] } else { &wanted[..2] };
    for (name, body, required, said) in all {
        if *said != Said::Same {
            must_be(headers, name, *body, *required)?;
        }
    }
    Ok(())
}

/// What headers say of something, at the first look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    /// What the body says.
    Same,
    /// Something that has to be looked into.
    Else,
}

/// Whether a header carries it as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\t')) && !text.starts_with(ENCODED)
}

fn must_be(headers: &HeaderMap, name: &HeaderName, body: Option<&str>, required: bool) -> Result<(), Mismatch> {
    match (single(headers, name)?, body) {
        (Some(header), Some(body)) if header == body => Ok(()),
        (Some(_), Some(_)) => Err(Mismatch::Differs(name.to_string())),
        (Some(_), None) => Err(Mismatch::Unexpected(name.to_string())),
        (None, _) if required => Err(Mismatch::Missing(name.to_string())),
        (None, _) => Ok(()),
    }
}

/// A header that a tool wants for one of its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamHeader {
    /// The whole name, in lower case.
    pub header: HeaderName,
    /// Keys that lead from the arguments to the value.
    pub path: Vec<String>,
}

impl ParamHeader {
    /// The argument that the header repeats; `None` if it is absent or null.
    fn argument<'a>(&self, arguments: &'a Value) -> Option<&'a Value> {
        self.path.iter().try_fold(arguments, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// The header's value for these arguments; `None` if there is to be no header.
    pub fn value(&self, arguments: &Value) -> Option<HeaderValue> {
        match self.argument(arguments)? {
            Value::String(text) => Some(encode(text)),
            Value::Bool(flag) => Some(HeaderValue::from_static(if *flag { "true" } else { "false" })),
            Value::Number(number) => Some(encode(&number.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// Why a tool's definition is not acceptable over Streamable HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IllegalHeader {
    /// Not a header name.
    #[error("an x-mcp-header is not a header name")]
    Name,
    /// Two arguments share a header.
    #[error("an x-mcp-header occurs twice")]
    Duplicate,
    /// Neither string, integer nor boolean.
    #[error("an x-mcp-header is on something else than a string, an integer or a boolean")]
    Type,
    /// Not on a plain property.
    #[error("an x-mcp-header is somewhere else than on a property that is always there to be read")]
    Place,
}

/// The headers that a tool's input schema asks for (2026-07-28, Streamable HTTP › Schema Extension).
///
/// # Errors
/// The schema breaks a rule; the tool is to be left out of the list.
pub fn param_headers(schema: &Value) -> Result<Vec<ParamHeader>, IllegalHeader> {
    let mut found = Vec::new();
    properties(schema, &mut Vec::new(), &mut found)?;
    // Every annotation must have been met on the way along `properties`; one anywhere else is illegal.
    if count(schema) != found.len() {
        return Err(IllegalHeader::Place);
    }
    Ok(found)
}

fn properties(schema: &Value, path: &mut Vec<String>, found: &mut Vec<ParamHeader>) -> Result<(), IllegalHeader> {
    let Some(properties_) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    for (key, property) in properties_ {
        path.push(key.clone());
        if let Some(name) = property.get(X_MCP_HEADER) {
            let name = name.as_str().filter(|name| !name.is_empty()).ok_or(IllegalHeader::Name)?;
            let header =
                HeaderName::from_bytes(format!("{PARAM_PREFIX}{name}").as_bytes()).map_err(|_| IllegalHeader::Name)?;
            if !matches!(property.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
                return Err(IllegalHeader::Type);
            }
            if found.iter().any(|other| other.header == header) {
                return Err(IllegalHeader::Duplicate);
            }
            found.push(ParamHeader { header, path: path.clone() });
        }
        properties(property, path, found)?;
        path.pop();
    }
    Ok(())
}

/// How many annotations there are in schema positions. Data (`default`, `const`, `enum`, `examples`) and properties that are *called* so do not count.
fn count(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match key.as_str() {
                X_MCP_HEADER => 1,
                "default" | "const" | "enum" | "examples" => 0,
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
                    value.as_object().map_or(0, |map| map.values().map(count).sum())
                }
                _ => count(value),
            })
            .sum(),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 0,
    }
}

/// Checks the headers that repeat a tool's arguments (2026-07-28, Streamable HTTP › Server Behavior for Custom Headers).
///
/// # Errors
/// The first header that is missing, repeated, malformed, different, or there without a value to repeat.
pub fn check_params(headers: &HeaderMap, wanted: &[ParamHeader], arguments: &Value) -> Result<(), Mismatch> {
    for wanted in wanted {
        let name = || wanted.header.to_string();
        match (single(headers, &wanted.header)?, wanted.argument(arguments)) {
            (None, None) => {}
            (None, Some(_)) => return Err(Mismatch::Missing(name())),
            (Some(_), None) => return Err(Mismatch::Unexpected(name())),
            (Some(header), Some(value)) => {
                if !same_value(&header, value) {
                    return Err(Mismatch::Differs(name()));
                }
            }
        }
    }
    Ok(())
}

/// Integers are compared as numbers: `42.0` is 42.
fn same_value(header: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => header == text,
        Value::Bool(flag) => header == if *flag { "true" } else { "false" },
        Value::Number(number) => header.parse::<f64>().is_ok_and(|header| Some(header) == number.as_f64()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        map
    }

    fn call(name: &str) -> Message {
        let text = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": name } }).to_string();
        Message::parse(Bytes::from(text), 128).unwrap()
    }

    /// Streamable HTTP › Server Validation: missing, different and repeated headers are refused; values keep their case.
    #[test]
    fn standard_headers_must_agree() {
        let version = ("mcp-protocol-version", "2026-07-28");
        let method = ("mcp-method", "tools/call");
        let check = |pairs: &[_], name| check(&headers(pairs), &call(name), "2026-07-28");
        assert_eq!(check(&[version, method, ("mcp-name", "echo")], "echo"), Ok(()));
        assert_eq!(check(&[version, method, ("mcp-name", "=?base64?ZWNobw==?=")], "echo"), Ok(()));
        assert!(matches!(check(&[method, ("mcp-name", "echo")], "echo"), Err(Mismatch::Missing(_))));
        assert!(matches!(check(&[version, ("mcp-name", "echo")], "echo"), Err(Mismatch::Missing(_))));
        assert!(matches!(check(&[version, method], "echo"), Err(Mismatch::Missing(_))));
        assert!(matches!(check(&[version, method, ("mcp-name", "Echo")], "echo"), Err(Mismatch::Differs(_))));
        assert!(matches!(
            check(&[version, method, ("mcp-name", "echo"), ("mcp-name", "echo")], "echo"),
            Err(Mismatch::Repeated(_))
        ));
        assert!(matches!(check(&[version, method, ("mcp-name", "=?base64?*?=")], "echo"), Err(Mismatch::Malformed(_))));
        assert!(matches!(
            check(&[version, method, ("mcp-name", "caf\u{e9}")], "caf\u{e9}"),
            Err(Mismatch::Malformed(_))
        ));
    }

    /// Streamable HTTP › Value Encoding: what is encoded is decoded to the same, and is a legal header.
    #[test]
    fn values_survive_encoding() {
        for value in ["", "plain", "two words", " edge", "edge\t", "line\r\nbreak", "naïve", "=?base64?eA==?=", "日本"]
        {
            assert_eq!(decode(&encode(value)).as_deref(), Some(value));
        }
        assert_eq!(encode("plain"), "plain");
        assert!(encode("a\r\nb").to_str().unwrap().starts_with("=?base64?"));
    }

    /// Streamable HTTP › Schema Extension: which annotations are legal.
    #[test]
    fn annotations_are_checked() {
        let ok = json!({ "properties": { "region": { "type": "string", "x-mcp-header": "Region" },
            "deep": { "type": "object", "properties": { "n": { "type": "integer", "x-mcp-header": "N" } } },
            "x-mcp-header": { "type": "string" } } });
        let found = param_headers(&ok).unwrap();
        assert_eq!(found.iter().map(|h| h.header.as_str()).collect::<Vec<_>>(), ["mcp-param-n", "mcp-param-region"]);
        for (bad, why) in [
            (json!({ "properties": { "a": { "type": "string", "x-mcp-header": "" } } }), IllegalHeader::Name),
            (json!({ "properties": { "a": { "type": "string", "x-mcp-header": "a b" } } }), IllegalHeader::Name),
            (json!({ "properties": { "a": { "type": "number", "x-mcp-header": "A" } } }), IllegalHeader::Type),
            (
                json!({ "properties": { "a": { "type": "string", "x-mcp-header": "A" }, "b": { "type": "string", "x-mcp-header": "a" } } }),
                IllegalHeader::Duplicate,
            ),
            (
                json!({ "properties": { "a": { "type": "array", "items": { "type": "string", "x-mcp-header": "A" } } } }),
                IllegalHeader::Place,
            ),
            (
                json!({ "anyOf": [{ "properties": { "a": { "type": "string", "x-mcp-header": "A" } } }] }),
                IllegalHeader::Place,
            ),
        ] {
            assert_eq!(param_headers(&bad), Err(why), "{bad}");
        }
    }

    /// Streamable HTTP › Server Behavior for Custom Headers: the table of that section, and integers by value.
    #[test]
    fn arguments_must_agree() {
        let wanted = param_headers(&json!({ "properties": { "n": { "type": "integer", "x-mcp-header": "N" }, "s": { "type": "string", "x-mcp-header": "S" } } })).unwrap();
        let check = |pairs: &[_], arguments| check_params(&headers(pairs), &wanted, &arguments);
        assert_eq!(check(&[("mcp-param-n", "42.0")], json!({ "n": 42 })), Ok(()));
        assert_eq!(check(&[("Mcp-Param-S", "=?base64?w6k=?=")], json!({ "s": "é" })), Ok(()));
        assert_eq!(check(&[], json!({ "n": null })), Ok(()));
        assert!(matches!(check(&[], json!({ "n": 1 })), Err(Mismatch::Missing(_))));
        assert!(matches!(check(&[("mcp-param-n", "2")], json!({ "n": 1 })), Err(Mismatch::Differs(_))));
        assert!(matches!(check(&[("mcp-param-s", "x")], json!({})), Err(Mismatch::Unexpected(_))));
        assert_eq!(check(&[("mcp-param-other", "x")], json!({})), Ok(()), "unknown ones are nobody's business");
    }
}
