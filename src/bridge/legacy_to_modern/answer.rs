//! What a modern server answers, in the words of the client's revision (2025-11-25, Basic › Messages; Tools › Structured Content).

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{member, own, quoted, wrap};
use crate::bridge::loss::Loss;
use crate::protocol::error::{
    HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, MISSING_CAPABILITY, RESOURCE_NOT_FOUND, UNSUPPORTED_VERSION,
};
use crate::protocol::id::RequestId;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Revision;
use crate::protocol::scan::Members;

/// In a result of `tools/call`, and in a tool.
const STRUCTURED: &str = "structuredContent";
const SCHEMA: &str = "outputSchema";

/// What becomes of structured results that no revision with a handshake can have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Shape {
    /// They are left out.
    #[default]
    Omit,
    /// In a list, their schemas are wrapped, while there is room for the names of the tools, in bytes.
    Wrap { room: usize },
    /// The client was told that the schema of this tool is wrapped.
    Wrapped,
}

/// What there is to say of a result besides.
#[derive(Default)]
pub(super) struct Said {
    pub(super) losses: Vec<Loss>,
    /// The tools that the client is told of, and whether the schema of each is wrapped: where any may be.
    pub(super) listed: Vec<(String, bool)>,
}

/// A result without what only modern results have.
pub(super) fn result(
    revision: Revision,
    known: Option<Known>,
    id: &RequestId,
    message: &Message,
    members: &Members,
    shape: Shape,
    said: &mut Said,
) -> Message {
    let text = &message.text()[..];
    let mut out: smallvec::SmallVec<[&str; 4]> = smallvec::smallvec![meta::RESULT_TYPE];
    if known.is_some_and(is_cacheable) {
        out.extend(["ttlMs", "cacheScope"]);
    }
    let mut edit = message.edit().id(id.as_json());
    let mut content = None;
    if known == Some(Known::ToolsCall)
        && let Some(found) = members.find(text, STRUCTURED)
        && let Some(value) = member(members, text, STRUCTURED)
    {
        let fits = value.starts_with('{') || matches!(shape, Shape::Wrapped);
        if !fits {
            out.push(STRUCTURED);
            said.losses.push(Loss::StructuredContent);
        } else if matches!(shape, Shape::Wrapped) {
            edit = edit.span(found.value, &wrap::value(value));
        }
        if !fits || revision < Revision::V2025_06_18 {
            content = with_text(member(members, text, "content"), value);
        }
    }
    if let Some(content) = content {
        edit = match members.find(text, "content") {
            Some(found) => edit.span(found.value, &content),
            None => {
                let start = members.object.start + 1;
                let comma = if members.iter().next().is_some() { "," } else { "" };
                // Whatever is taken out at this place: a comma is needed if anything is left.
                let comma = if members.without(text, &out).1 > 0 { comma } else { "" };
                edit.span(crate::protocol::scan::Span { start, end: start }, &format!(r#""content":{content}{comma}"#))
            }
        };
    }
    if known == Some(Known::ToolsList)
        && let Some(found) = members.find(text, "tools")
        && let Some(list) = looser(member(members, text, "tools").unwrap_or_default(), shape, said)
    {
        edit = edit.span(found.value, &list);
    }
    for cut in members.without(text, &out).0 {
        edit = edit.span(cut, "");
    }
    edit.finish()
}

/// Whether a result says how long it may be kept (2026-07-28, Caching).
fn is_cacheable(known: Known) -> bool {
    matches!(
        known,
        Known::ToolsList
            | Known::PromptsList
            | Known::ResourcesList
            | Known::ResourceTemplatesList
            | Known::ResourcesRead
    )
}

/// The content of a result with a value in it, as text, if it is not there (2025-11-25, Tools › Structured Content).
fn with_text(content: Option<&str>, value: &str) -> Option<String> {
    let blocks: Vec<&RawValue> = content.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let parsed: Option<Value> = serde_json::from_str(value).ok();
    let says = |block: &&RawValue| {
        let block: Value = serde_json::from_str(block.get()).unwrap_or_default();
        block["text"].as_str().is_some_and(|text| serde_json::from_str(text).ok() == parsed)
    };
    if blocks.iter().any(says) {
        return None;
    }
    let block = json!({ "type": "text", "text": value }).to_string();
    let all: Vec<&str> = blocks.iter().map(|block| block.get()).chain([block.as_str()]).collect();
    Some(format!("[{}]", all.join(",")))
}

/// A list of tools whose output schemas are all ones of objects, if it is not one: the others are wrapped, or go, as do their
/// results (2025-11-25, Tools › Output Schema).
fn looser(tools: &str, shape: Shape, said: &mut Said) -> Option<String> {
    let mut room = match shape {
        Shape::Wrap { room } => Some(room),
        // Results are large and the name is short: it is searched for before they are taken apart.
        Shape::Omit | Shape::Wrapped => {
            memchr::memmem::find(tools.as_bytes(), SCHEMA.as_bytes())?;
            None
        }
    };
    let tools: Vec<&RawValue> = serde_json::from_str(tools).ok()?;
    let mut changed = false;
    let one = |tool: &RawValue| {
        let parsed: Value = serde_json::from_str(tool.get()).unwrap_or_default();
        let fits = parsed.get(SCHEMA).is_none_or(|schema| schema.get("type") == Some(&Value::from("object")));
        let name = parsed["name"].as_str().unwrap_or_default();
        let wrapped = room.as_mut().filter(|room| !fits && name.len() <= **room).and_then(|room| {
            let wrapped = with_wrapped_schema(tool.get())?;
            *room -= name.len();
            Some(wrapped)
        });
        if room.is_some() {
            said.listed.push((name.to_owned(), wrapped.is_some()));
        }
        changed |= !fits;
        match wrapped {
            Some(wrapped) => wrapped,
            None if fits => tool.get().to_owned(),
            None => {
                said.losses.push(Loss::OutputSchema);
                without(tool.get(), SCHEMA)
            }
        }
    };
    let list: Vec<String> = tools.into_iter().map(one).collect();
    changed.then(|| format!("[{}]", list.join(",")))
}

/// A tool with its schema wrapped, if that can be.
fn with_wrapped_schema(tool: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Tool<'a> {
        #[serde(borrow, rename = "outputSchema")]
        schema: &'a RawValue,
    }
    let schema = serde_json::from_str::<Tool<'_>>(tool).ok()?.schema;
    let start = schema.get().as_ptr() as usize - tool.as_ptr() as usize;
    let (before, after) = (&tool[..start], &tool[start + schema.get().len()..]);
    Some(format!("{before}{}{after}", wrap::schema(schema)?))
}

/// An object without one of its members, the others as they are.
fn without(object: &str, name: &str) -> String {
    let mut scanner = crate::protocol::scan::Scanner::new(object.as_bytes(), crate::protocol::scan::DEPTH_MAX);
    let Ok((members, _)) = scanner.members(0, "") else { return object.to_owned() };
    let mut rest = object.to_owned();
    for cut in members.without(object.as_bytes(), &[name]).0.into_iter().rev() {
        rest.replace_range(cut.start as usize..cut.end as usize, "");
    }
    rest
}

#[derive(serde::Deserialize)]
struct Failure<'a> {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// An error as the client can understand it. Those that are about our own metadata are no business of the client's.
pub(super) fn error(request: &Message, id: &RequestId, message: &Message, losses: &mut Vec<Loss>) -> Message {
    let as_it_is = || message.edit().id(id.as_json()).finish();
    let Some(Ok(failure)) = message.body().map(serde_json::from_str::<Failure<'_>>) else { return as_it_is() };
    let data: Value = failure.data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
    let is = |code: i32| failure.code == i64::from(code);
    if is(INVALID_PARAMS) && request.known() == Some(Known::ResourcesRead) {
        let about = data.get("uri").and_then(Value::as_str);
        if about.is_none() || request.param_str("uri").as_deref() != about {
            return as_it_is();
        }
        return rewritten(id, RESOURCE_NOT_FOUND, &failure.message, failure.data);
    }
    if is(MISSING_CAPABILITY) {
        losses.push(Loss::MissingCapability);
        let wanted = data["requiredCapabilities"].as_object();
        let wanted: Vec<&str> = wanted.into_iter().flat_map(|all| all.keys().map(String::as_str)).collect();
        let text = format!("The server needs a client that it can ask for: {}", wanted.join(", "));
        return rewritten(id, INTERNAL_ERROR, &text, failure.data);
    }
    if is(HEADER_MISMATCH) || is(UNSUPPORTED_VERSION) {
        losses.push(Loss::ErrorCode);
        let text = format!("The server refuses the proxy's metadata: {}", failure.message);
        return rewritten(id, INTERNAL_ERROR, &text, failure.data);
    }
    as_it_is()
}

fn rewritten(id: &RequestId, code: i32, text: &str, data: Option<&RawValue>) -> Message {
    let (id, text) = (id.as_json(), quoted(text));
    let data = data.map(|data| format!(r#","data":{data}"#)).unwrap_or_default();
    own(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text}{data}}}}}"#))
}

/// Whether the server says that the headers of a request do not agree with its body.
pub(crate) fn is_header_mismatch(message: &Message) -> bool {
    let failure = message.body().and_then(|body| serde_json::from_str::<Failure<'_>>(body).ok());
    failure.is_some_and(|failure| failure.code == i64::from(HEADER_MISMATCH))
}

/// The end of a request whose client does not answer what the server has to know: for a tool a result, which models are shown,
/// and an error otherwise. `error` is what the client said instead of an answer.
pub(super) fn unanswered(known: Option<Known>, id: &RequestId, what: &str, error: Option<&str>) -> Message {
    let name = id.as_json();
    if known == Some(Known::ToolsCall) {
        let said = error.and_then(|json| serde_json::from_str::<Value>(json).ok());
        let said = said.and_then(|error| error["message"].as_str().map(str::to_owned));
        let text = quoted(said.map_or_else(|| what.to_owned(), |said| format!("{what}: {said}")));
        return own(format!(
            r#"{{"jsonrpc":"2.0","id":{name},"result":{{"content":[{{"type":"text","text":{text}}}],"isError":true}}}}"#
        ));
    }
    let data = error.map(|error| format!(r#","error":{error}"#)).unwrap_or_default();
    own(format!(
        r#"{{"jsonrpc":"2.0","id":{name},"error":{{"code":{INTERNAL_ERROR},"message":{},"data":{{"origin":"proxy","reason":"not_answered"{data}}}}}}}"#,
        quoted(what)
    ))
}
