//! What a modern server asks in a result, as requests to a client with a handshake (2026-07-28, Multi Round-Trip Requests;
//! 2025-11-25, Elicitation, Sampling, Roots).

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::client::Client;
use super::own;
use crate::protocol::message::Message;
use crate::protocol::method::Known;
use crate::protocol::revision::Revision;

/// Why something cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unaskable {
    /// The server was told that it cannot be asked.
    Undeclared,
    /// The client's revision has no words for it.
    Unspeakable,
    /// It is no question.
    Invalid,
}

#[derive(serde::Deserialize)]
struct Entry<'a> {
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// One entry of `inputRequests` as a request, named 0. The member `elicitationId`, where there is one, has yet to get a value
/// that is the question's own.
pub(super) fn request(client: &Client, entry: &str) -> Result<(Known, Message), Unaskable> {
    let entry: Entry<'_> = serde_json::from_str(entry).map_err(|_| Unaskable::Invalid)?;
    let params = entry.params.map_or("{}", RawValue::get);
    let known = Known::parse(&entry.method).ok_or(Unaskable::Invalid)?;
    let rewritten = match known {
        Known::Elicit => elicit(client, params)?,
        Known::CreateMessage => sample(client, params)?,
        Known::RootsList if client.roots => None,
        Known::RootsList => return Err(Unaskable::Undeclared),
        _ => return Err(Unaskable::Invalid),
    };
    let params = rewritten.as_deref().unwrap_or(params);
    if !params.starts_with('{') {
        return Err(Unaskable::Invalid);
    }
    Ok((known, own(format!(r#"{{"jsonrpc":"2.0","id":0,"method":"{}","params":{params}}}"#, known.as_str()))))
}

/// The params of a question to the user, if they cannot stay as they are.
fn elicit(client: &Client, params: &str) -> Result<Option<String>, Unaskable> {
    let said: Map<String, Value> = serde_json::from_str(params).map_err(|_| Unaskable::Invalid)?;
    if said.get("mode").is_some_and(|mode| mode == "url") {
        if !client.url {
            return Err(Unaskable::Undeclared);
        }
        let mut said = said;
        // 2025-11-25 has one in each; nobody will ever refer to it.
        said.insert("elicitationId".into(), "".into());
        return Ok(Some(Value::Object(said).to_string()));
    }
    if !client.form {
        return Err(Unaskable::Undeclared);
    }
    if client.revision >= Revision::V2025_11_25 {
        return Ok(None);
    }
    let mut said = said;
    said.remove("mode");
    if let Some(Value::Object(properties)) = said.get_mut("requestedSchema").and_then(|one| one.get_mut("properties")) {
        for property in properties.values_mut() {
            older(property)?;
        }
    }
    Ok(Some(Value::Object(said).to_string()))
}

/// A field of a form in the words of 2025-06-18: one of several is an `enum` with names beside it; there is no way to choose more
/// than one.
fn older(property: &mut Value) -> Result<(), Unaskable> {
    let Some(property) = property.as_object_mut() else { return Ok(()) };
    if property.get("type").is_some_and(|kind| kind == "array") {
        return Err(Unaskable::Unspeakable);
    }
    let Some(Value::Array(options)) = property.remove("oneOf") else { return Ok(()) };
    let one = |option: &Value, name: &str| option.get(name).cloned();
    let values: Option<Vec<Value>> = options.iter().map(|option| one(option, "const")).collect();
    let values = values.ok_or(Unaskable::Unspeakable)?;
    let names =
        options.iter().zip(&values).map(|(option, value)| one(option, "title").unwrap_or_else(|| value.clone()));
    property.insert("enumNames".into(), names.collect());
    property.insert("enum".into(), Value::Array(values));
    Ok(())
}

/// A question to the client's model: nothing has to be changed, but not everybody can be asked everything.
fn sample(client: &Client, params: &str) -> Result<Option<String>, Unaskable> {
    if !client.sampling {
        return Err(Unaskable::Undeclared);
    }
    if client.sampling_tools {
        return Ok(None);
    }
    let said: Value = serde_json::from_str(params).map_err(|_| Unaskable::Invalid)?;
    if said.get("tools").is_some() || said.get("toolChoice").is_some() {
        return Err(Unaskable::Undeclared);
    }
    let messages = said["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    if messages.iter().any(|message| message["content"].is_array()) {
        return Err(Unaskable::Unspeakable);
    }
    Ok(None)
}
