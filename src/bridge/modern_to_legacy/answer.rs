//! Results and errors of a server with a handshake, for a client of 2026-07-28.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};
use serde_json::{Map, Value, json};

use crate::bridge::loss::Loss;
use crate::protocol::error as code;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::scan::{Members, Span};

/// A resource that is not there (up to 2025-11-25). 2026-07-28 has no code of its own for it.
const RESOURCE_NOT_FOUND: i64 = -32002;
/// The user has to go somewhere first (2025-11-25, Elicitation › URL Elicitation Required Error).
const URL_REQUIRED: i64 = -32042;
/// What went wrong inside.
pub(crate) const INTERNAL_ERROR: i64 = -32603;

/// How long what a request lists or reads may be kept; `None` if results of this method say nothing of it
/// (2026-07-28, Caching).
pub(crate) fn keeps(known: Option<Known>) -> bool {
    matches!(
        known,
        Some(
            Known::ToolsList
                | Known::PromptsList
                | Known::ResourcesList
                | Known::ResourceTemplatesList
                | Known::ResourcesRead
        )
    )
}

/// The result as it goes to the client: it says what kind it is, and, where `ttl_ms` is given, how long it may be kept.
/// `None` if it is no object, which every result is.
pub(crate) fn complete(result: &Message, id: &RequestId, ttl_ms: Option<u64>) -> Option<Message> {
    let span = result.body_span()?;
    let body = span.of(result.text());
    let inside = body.strip_prefix(b"{")?;
    // Results are large and these names are short: they are searched for before the result is taken apart.
    static RESULT_TYPE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(meta::RESULT_TYPE));
    let cached = ttl_ms.is_some()
        && [meta::TTL_MS, meta::CACHE_SCOPE].iter().any(|name| memmem::find(body, name.as_bytes()).is_some());
    let mentioned = cached || RESULT_TYPE.find(body).is_some();
    let members = if mentioned { Some(result.result_members()?.0) } else { None };
    let own = |name| members.as_ref().and_then(|members| members.find(result.text(), name));
    let mut said = String::with_capacity(96);
    let mut edit = result.edit().id(id.as_json());
    match own(meta::RESULT_TYPE) {
        Some(member) => edit = edit.span(member.value, "\"complete\""),
        None => said.extend(["\"", meta::RESULT_TYPE, "\":\"complete\","]),
    }
    if let Some(ttl) = ttl_ms {
        // The server's own word counts, should it have one.
        if own(meta::TTL_MS).is_none() {
            said.push_str(&format!(r#""{}":{ttl},"#, meta::TTL_MS));
        }
        if own(meta::CACHE_SCOPE).is_none() {
            said.push_str(&format!(r#""{}":"private","#, meta::CACHE_SCOPE));
        }
    }
    if said.is_empty() {
        return Some(edit.finish());
    }
    if inside.trim_ascii_start().starts_with(b"}") {
        said.pop();
    }
    let at = span.start + 1;
    Some(edit.span(Span { start: at, end: at }, &said).finish())
}

/// Whether the server says that it does not know what it is asked to do.
pub(super) fn is_unknown_method(error: &Message) -> bool {
    let said: Map<String, Value> = error.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    said.get("code").and_then(Value::as_i64) == Some(i64::from(code::METHOD_NOT_FOUND))
}

/// The name (JSON) of the task that the result says has been made.
pub(super) fn task_of(result: &Message) -> Option<String> {
    let said: Value = serde_json::from_str(result.body()?).ok()?;
    let name = said.get(meta::TASK)?.get(meta::TASK_ID)?;
    name.is_string().then(|| name.to_string())
}

/// Whether a server with this answer to the handshake makes tasks of calls (2025-11-25, Tasks).
pub(crate) fn makes_tasks(greeting: &Message) -> bool {
    let capabilities = Value::Object(crate::bridge::handshake::capabilities(greeting));
    capabilities.pointer("/tasks/requests/tools/call").is_some_and(Value::is_object)
}

/// What an error becomes.
pub(crate) enum Refusal {
    /// An error for the client, and its code.
    Error(Message, Option<Loss>),
    /// The user has to go to these places first, each the params of an `elicitation/create`.
    Errands(Vec<Value>),
}

/// Whether an answer is the error that the user has to go somewhere first.
pub(crate) fn needs_errand(answer: &Message) -> bool {
    let said = (answer.kind() == Kind::Error).then(|| answer.body()).flatten();
    let said: Map<String, Value> = said.and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    said.get("code").and_then(Value::as_i64) == Some(URL_REQUIRED)
}

/// What the error of a server becomes.
pub(crate) fn refusal(error: &Message, id: &RequestId, known: Option<Known>, uri: Option<&str>) -> Refusal {
    let said: Map<String, Value> = error.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    let own = said.get("code").and_then(Value::as_i64).unwrap_or_default();
    let message = said.get("message").cloned().unwrap_or_else(|| "".into());
    match own {
        RESOURCE_NOT_FOUND => {
            let mut data = match said.get("data").cloned() {
                Some(Value::Object(map)) => map,
                Some(other) => Map::from_iter([("data".to_owned(), other)]),
                None => Map::new(),
            };
            if let Some(uri) = uri {
                data.entry("uri").or_insert_with(|| uri.into());
            }
            Refusal::Error(error_of(id, i64::from(code::INVALID_PARAMS), &message, &Value::Object(data)), None)
        }
        URL_REQUIRED if known.is_some_and(Known::may_ask) => {
            let places = said.get("data").and_then(|data| data.get("elicitations")).and_then(Value::as_array);
            let places: Vec<Value> =
                places.into_iter().flatten().filter(|one| one["url"].is_string()).cloned().collect();
            if places.is_empty() {
                return Refusal::Error(foreign(id, &said), Some(Loss::ErrorCode));
            }
            Refusal::Errands(places.into_iter().map(errand).collect())
        }
        // Each has a meaning in 2026-07-28 that a server with a handshake cannot have had in mind.
        URL_REQUIRED | -32029..=-32020 => Refusal::Error(foreign(id, &said), Some(Loss::ErrorCode)),
        _ => Refusal::Error(error.edit().id(id.as_json()).finish(), None),
    }
}

fn errand(place: Value) -> Value {
    let mut params = place.as_object().cloned().unwrap_or_default();
    params.remove("elicitationId");
    params.insert("mode".to_owned(), "url".into());
    Value::Object(params)
}

fn foreign(id: &RequestId, said: &Map<String, Value>) -> Message {
    let data = json!({ "origin": "upstream", "error": said });
    let message = said.get("message").cloned().unwrap_or_else(|| "".into());
    error_of(id, INTERNAL_ERROR, &message, &data)
}

pub(crate) fn error_of(id: &RequestId, code: i64, message: &Value, data: &Value) -> Message {
    let error = json!({ "code": code, "message": message, "data": data });
    own(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.as_json()))
}

/// The answer to a call whose user did not want to go where it needs them to: for the model to read, where there is one.
pub(crate) fn declined(id: &RequestId, known: Option<Known>) -> Message {
    const WHY: &str = "The user declined to open the URL that this needs";
    if known == Some(Known::ToolsCall) {
        let result = json!({
            meta::RESULT_TYPE: "complete", "isError": true, "content": [{ "type": "text", "text": WHY }],
        });
        return own(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_json()));
    }
    error_of(id, INTERNAL_ERROR, &WHY.into(), &json!({ "origin": "proxy", "reason": "declined" }))
}

/// In place of an answer that is too large to be kept until its client comes back.
pub(super) fn too_large() -> Message {
    let why = "The answer came while the call was parked, and was too large to be kept; the call was executed".into();
    let data = json!({ "origin": "proxy", "reason": "parked_answer", "retryable": false });
    error_of(&RequestId::from_integer(0), i64::from(code::TOO_LARGE), &why, &data)
}

/// The error to a client that cannot be asked something, and has to be (`capabilities` is JSON).
pub(crate) fn needs(id: &RequestId, capabilities: Value) -> Message {
    let why = "This needs a client that can be asked: see requiredCapabilities".into();
    let data = json!({ "origin": "proxy", "requiredCapabilities": capabilities });
    error_of(id, i64::from(code::MISSING_CAPABILITY), &why, &data)
}

/// Whether it is an error, or a tool's result that is one.
pub(crate) fn is_failure(answer: &Message) -> bool {
    let is_error = |(members, _): (Members, _)| {
        members.find(answer.text(), "isError").is_some_and(|member| member.value.of(answer.text()) == b"true")
    };
    answer.kind() == Kind::Error || answer.result_members().is_some_and(is_error)
}

pub(super) fn own(text: String) -> Message {
    match Message::parse(text.into(), crate::protocol::scan::DEPTH_MAX) {
        Ok(message) => message,
        Err(error) => unreachable!("BUG: the proxy wrote what is no message: {error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(text.to_owned().into(), 64).unwrap()
    }

    fn text(message: &Message) -> &str {
        std::str::from_utf8(message.text()).unwrap()
    }

    /// 2026-07-28, Basic › Results; Caching: what is missing is added, all else stays byte for byte.
    #[test]
    fn a_result_says_what_it_is_and_how_long_it_keeps() {
        let id = RequestId::from_json("\"c\"").unwrap();
        let done = |body: &str, ttl| {
            let result = message(&format!(r#"{{"jsonrpc":"2.0","result":{body},"id":1}}"#));
            let done = complete(&result, &id, ttl).unwrap();
            assert_eq!(done.id(), Some(id.clone()));
            done.body().unwrap().to_owned()
        };
        assert_eq!(done("{}", None), r#"{"resultType":"complete"}"#);
        assert_eq!(done("{ }", None), r#"{"resultType":"complete" }"#);
        assert_eq!(
            done(r#"{"tools":[{"n":1.50}],"z":1E5}"#, Some(0)),
            r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"n":1.50}],"z":1E5}"#
        );
        assert_eq!(
            done(r#"{"ttlMs":9,"cacheScope":"public","tools":[]}"#, Some(0)),
            r#"{"resultType":"complete","ttlMs":9,"cacheScope":"public","tools":[]}"#
        );
        assert_eq!(done(r#"{"a":1,"resultType":"odd"}"#, None), r#"{"a":1,"resultType":"complete"}"#);
        assert_eq!(
            done(r#"{"a":"resultType","b":{"resultType":1}}"#, None),
            r#"{"resultType":"complete","a":"resultType","b":{"resultType":1}}"#
        );
        assert_eq!(
            done(r#"{"tools":[{"properties":{"ttlMs":{}}}]}"#, Some(5)),
            r#"{"resultType":"complete","ttlMs":5,"cacheScope":"private","tools":[{"properties":{"ttlMs":{}}}]}"#
        );
        assert!(complete(&message(r#"{"jsonrpc":"2.0","id":1,"result":[]}"#), &id, None).is_none());
    }

    /// 2026-07-28, Basic › Error Codes.
    #[test]
    fn errors_mean_what_they_meant() {
        let id = RequestId::from_json("7").unwrap();
        let becomes = |error: &str, known, uri| {
            let error = message(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#));
            match refusal(&error, &id, known, uri) {
                Refusal::Error(message, loss) => (text(&message).to_owned(), loss),
                Refusal::Errands(places) => (Value::from(places).to_string(), None),
            }
        };
        let as_it_is = r#"{"code":-32601,"message":"x","data":{"n":1.50}}"#;
        let (said, loss) = becomes(as_it_is, None, None);
        assert_eq!(
            (said.as_str(), loss),
            (r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"x","data":{"n":1.50}}}"#, None)
        );
        let missing = becomes(r#"{"code":-32002,"message":"x"}"#, Some(Known::ResourcesRead), Some("a://b"));
        assert_eq!(
            missing.0,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"data":{"uri":"a://b"},"message":"x"}}"#
        );
        for code in [-32020, -32021, -32022, -32042] {
            let (said, loss) = becomes(&format!(r#"{{"code":{code},"message":"x"}}"#), Some(Known::ToolsCall), None);
            assert!(said.contains(r#""code":-32603"#) && said.contains(&code.to_string()), "{said}");
            assert_eq!(loss, Some(Loss::ErrorCode));
        }
        let places = r#"{"code":-32042,"message":"x","data":{"elicitations":[{"mode":"url","url":"https://a","elicitationId":"e","message":"m"}]}}"#;
        assert_eq!(
            becomes(places, Some(Known::ToolsCall), None).0,
            r#"[{"message":"m","mode":"url","url":"https://a"}]"#
        );
    }
}
