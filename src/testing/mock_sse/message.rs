//! What a POSTed message is, and what is wrong with it before anybody handles it.

use base64::Engine as _;
use serde_json::Value;

use super::{Headers, Recorded};
use crate::testing::incoming::{Incoming, Kind};
use crate::testing::script::{LEGACY, MODERN};
use crate::testing::server::Failure;

/// A message that is refused: the status, and the error in the body.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) failure: Failure,
}

impl Refused {
    pub(super) fn new(status: u16, code: i64, message: &str) -> Refused {
        Refused { status, failure: Failure::new(code, message) }
    }
}

/// Reads the message in a POST.
pub(super) fn read(request: &Recorded) -> Result<Incoming, Refused> {
    if !request.headers.lists("content-type", "application/json") {
        return Err(Refused::new(415, -32600, "Content-Type has to be application/json"));
    }
    Incoming::parse(&request.body).map_err(|error| Refused::new(400, error.code(), &error.to_string()))
}

/// Whether the headers say that the sender speaks 2026-07-28.
pub(super) fn claims_modern(headers: &Headers) -> bool {
    headers.get("mcp-protocol-version").is_some_and(|version| version >= MODERN)
}

/// Checks that the version header of a legacy request is one we serve, if it has one.
pub(super) fn legacy_version(headers: &Headers) -> Result<(), Refused> {
    match headers.get("mcp-protocol-version") {
        Some(version) if !LEGACY.contains(&version) => Err(Refused::new(400, -32600, "Unsupported protocol version")),
        _ => Ok(()),
    }
}

/// Checks that the headers of a modern request say what its body says.
pub(super) fn mirrored(headers: &Headers, message: &Incoming) -> Result<(), Refused> {
    let mismatch = |what: &str| Err(Refused::new(400, -32020, &format!("Header mismatch: {what}")));
    let agrees = |name: &str, expected: Option<&str>| {
        let (value, repeated) = (headers.get(name), headers.all(name).nth(1).is_some());
        !repeated && value.map(decode) == expected.map(|expected| Some(expected.to_owned()))
    };
    if !agrees("mcp-protocol-version", message.claimed_version().and_then(Value::as_str)) {
        return mismatch("MCP-Protocol-Version");
    }
    if message.kind == Kind::Request && !agrees("mcp-method", Some(&message.method)) {
        return mismatch("Mcp-Method");
    }
    let named = match message.method.as_str() {
        "tools/call" | "prompts/get" => message.params["name"].as_str(),
        "resources/read" => message.params["uri"].as_str(),
        _ => return Ok(()),
    };
    if !agrees("mcp-name", named) {
        return mismatch("Mcp-Name");
    }
    if message.tool() == Some("region") && !agrees("mcp-param-region", message.argument("region").as_str()) {
        return mismatch("Mcp-Param-Region");
    }
    Ok(())
}

/// A header value that may be in the Base64 form; `None` if it is so, and wrong.
fn decode(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|value| value.strip_suffix("?=")) {
        Some(coded) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(coded).ok()?;
            String::from_utf8(bytes).ok()
        }
        None => Some(value.to_owned()),
    }
}
