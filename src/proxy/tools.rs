//! Which of a tool's arguments are repeated in headers, as the tool's schema says
//! (2026-07-28, Streamable HTTP › Custom Headers from Tool Parameters).
//!
//! Who ends HTTP has to know: in front of a child, or of a server with a handshake, the headers are checked here, since
//! such a server never sees them; for a client without HTTP they are made here, since an HTTP server wants to see them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use tokio::time::{Duration, Instant, timeout};

use super::error::ProxyError;
use crate::backend::bridged::Guest;
use crate::backend::key::Principal;
use crate::protocol::headers::{self, ParamHeader};
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Revision;
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use crate::upstream::{Call, Connection};

/// How long a list is relied on. A call that disagrees with it has it read again before it is refused.
const LIST_FOR: Duration = Duration::from_secs(60);
/// How old a list must be to be read again for a call that disagrees with it.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// In a tool's `execution`: whether it can be called as a task.
const TASK_SUPPORT: &str = "taskSupport";
/// Most pages of a list.
const PAGES_MAX: usize = 100;
/// How much of a list is remembered, in bytes of what the server said: only tools of which there is something to know count.
const LIST_BYTES_MAX: usize = 256 << 10;
/// Most lists that are kept: clients choose who they are.
const LISTS_MAX: usize = 256;

/// The headers that the tools of one server want.
#[derive(Default)]
pub(crate) struct ToolHeaders {
    /// By whose they are, the oldest first. Each is read by one call while the others wait, and replaced when it is too
    /// old. Locked for a clone or a replacement.
    lists: Mutex<Vec<Owned>>,
}

type Owned = (Option<Principal>, Arc<OnceCell<List>>);

/// What there is to know of a tool.
struct Facts {
    wanted: Vec<ParamHeader>,
    /// It can be called as a task (2025-11-25, Tasks › Tool-Level Negotiation).
    as_task: bool,
}

struct List {
    /// Only those of which there is something to know.
    tools: HashMap<String, Facts>,
    at: Instant,
}

/// Who is asked for the tools, and on whose behalf.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    connection: &'a Connection,
    /// A client of 2026-07-28 at a server with a handshake, which may tell each another list.
    guest: Option<&'a Guest>,
}

impl<'a> Source<'a> {
    /// A server of 2026-07-28: all have one list.
    pub(crate) fn modern(connection: &'a Connection) -> Source<'a> {
        Source { connection, guest: None }
    }

    /// A server with a handshake.
    pub(crate) fn with_handshake(connection: &'a Connection, guest: &'a Guest) -> Source<'a> {
        Source { connection, guest: Some(guest) }
    }

    fn owner(self) -> Option<Principal> {
        self.guest.and_then(owner)
    }
}

/// Whose list it is: to a server that gets no headers of its clients all are one.
fn owner(guest: &Guest) -> Option<Principal> {
    if guest.headers.is_empty() { None } else { guest.whole() }
}

impl ToolHeaders {
    /// Checks the headers that repeat arguments of a call.
    ///
    /// # Errors
    /// They are missing, malformed or different; or the server does not tell its tools.
    pub(crate) async fn check(
        &self,
        source: Source<'_>,
        request: &Message,
        given: &HeaderMap,
        patience: Duration,
    ) -> Result<(), ProxyError> {
        let Some(name) = called(request) else { return Ok(()) };
        let mut max_age = LIST_FOR;
        loop {
            let list = self.list(source, max_age, patience).await?;
            let list = list.get();
            let facts = list.and_then(|list| list.tools.get(&*name)).filter(|facts| !facts.wanted.is_empty());
            let Some(facts) = facts else { return Ok(()) };
            let outcome = headers::check_params(given, &facts.wanted, &arguments(request));
            match outcome {
                Err(_) if list.is_some_and(|list| list.at.elapsed() > DOUBT_AFTER) => max_age = DOUBT_AFTER,
                outcome => return Ok(outcome?),
            }
        }
    }

    /// The same by what is known already: for a request that is said once more.
    ///
    /// # Errors
    /// They are missing, malformed or different.
    pub(crate) fn check_again(&self, guest: &Guest, request: &Message, given: &HeaderMap) -> Result<(), ProxyError> {
        let Some(name) = called(request) else { return Ok(()) };
        let owner = owner(guest);
        let cell = {
            let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            lists.iter().find(|(whose, _)| *whose == owner).map(|(_, cell)| Arc::clone(cell))
        };
        let facts = cell.as_ref().and_then(|cell| cell.get()).and_then(|list| list.tools.get(&*name));
        Ok(facts.map_or(Ok(()), |facts| headers::check_params(given, &facts.wanted, &arguments(request)))?)
    }

    /// Whether a call can become a task. If the server does not tell its tools, it cannot.
    pub(crate) async fn makes_task(&self, source: Source<'_>, request: &Message, patience: Duration) -> bool {
        let Some(name) = called(request) else { return false };
        let list = self.list(source, LIST_FOR, patience).await;
        let facts = list.as_ref().ok().and_then(|list| list.get()).and_then(|list| list.tools.get(&*name));
        facts.is_some_and(|facts| facts.as_task)
    }

    /// The headers that a request has over HTTP, for a client that sent none. With `fresh`, what is known of the tools is not
    /// relied on.
    ///
    /// # Errors
    /// The server does not tell its tools.
    pub(crate) async fn mirror(
        &self,
        source: Source<'_>,
        request: &Message,
        fresh: bool,
        patience: Duration,
    ) -> Result<HeaderMap, ProxyError> {
        let mut map = HeaderMap::new();
        if let Some(method) = request.method() {
            map.insert(headers::METHOD, headers::encode(method));
        }
        if let Some((param, _)) = request.known().and_then(Known::name_param)
            && let Some(name) = request.param_str(param)
        {
            map.insert(headers::NAME, headers::encode(&name));
        }
        if let Some(name) = called(request) {
            let max_age = if fresh { Duration::ZERO } else { LIST_FOR };
            let list = self.list(source, max_age, patience).await?;
            if let Some(facts) = list.get().and_then(|list| list.tools.get(&*name)) {
                let arguments = arguments(request);
                for wanted in &facts.wanted {
                    if let Some(value) = wanted.value(&arguments) {
                        map.insert(wanted.header.clone(), value);
                    }
                }
            }
        }
        Ok(map)
    }

    async fn list(
        &self,
        source: Source<'_>,
        max_age: Duration,
        patience: Duration,
    ) -> Result<Arc<OnceCell<List>>, ProxyError> {
        let owner = source.owner();
        let cell = {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            let is_old = |cell: &OnceCell<List>| cell.get().is_some_and(|list| list.at.elapsed() > max_age);
            match lists.iter().position(|(whose, _)| *whose == owner) {
                Some(at) if !is_old(&lists[at].1) => Arc::clone(&lists[at].1),
                found => {
                    if let Some(at) = found.or((lists.len() >= LISTS_MAX).then_some(0)) {
                        lists.remove(at);
                    }
                    let cell = Arc::default();
                    lists.push((owner, Arc::clone(&cell)));
                    cell
                }
            }
        };
        // The patience is the caller's, and not that of the one whose turn it is to ask: they wait at the same time.
        let known = match cell.initialized() {
            true => return Ok(cell),
            false => Box::pin(timeout(patience, cell.get_or_try_init(|| read(source)))).await,
        };
        let known = known.unwrap_or(Err(UpstreamError::Timeout { sent: true }));
        known.map_err(|error| ProxyError::Upstream { error, repeatable: true })?;
        Ok(cell)
    }
}

fn called(request: &Message) -> Option<Cow<'_, str>> {
    if request.known() != Some(Known::ToolsCall) {
        return None;
    }
    request.param_text("name")
}

fn arguments(request: &Message) -> Value {
    request.param(meta::ARGUMENTS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    tools: Vec<&'a RawValue>,
    #[serde(rename = "nextCursor", default)]
    next_cursor: Option<String>,
}

#[derive(serde::Deserialize)]
struct Tool {
    name: String,
    #[serde(rename = "inputSchema", default)]
    input_schema: Value,
    #[serde(default)]
    execution: Value,
}

/// Reads the whole list. A server that has no tools, or refuses to tell, has none that want headers.
async fn read(source: Source<'_>) -> Result<List, UpstreamError> {
    let mut tools = HashMap::new();
    let mut bytes = 0;
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let Some(answer) = page(source, cursor.as_deref()).await? else { break };
        let Ok(page) = serde_json::from_str::<Page<'_>>(answer.body().unwrap_or_default()) else { break };
        for raw in page.tools {
            let says = |what: &str| raw.get().contains(what);
            if (says(headers::X_MCP_HEADER) || says(TASK_SUPPORT))
                && bytes + raw.get().len() <= LIST_BYTES_MAX
                && let Ok(tool) = serde_json::from_str::<Tool>(raw.get())
            {
                bytes += raw.get().len();
                // An illegal annotation asks for nothing: such a tool is not listed to clients either.
                let wanted = headers::param_headers(&tool.input_schema).unwrap_or_default();
                let as_task = matches!(tool.execution[TASK_SUPPORT].as_str(), Some("optional" | "required"));
                tools.insert(tool.name, Facts { wanted, as_task });
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(List { tools, at: Instant::now() })
}

async fn page(source: Source<'_>, cursor: Option<&str>) -> Result<Option<Message>, UpstreamError> {
    let Source { connection, guest } = source;
    let id = connection.next_id();
    let mut params = serde_json::json!({});
    if guest.is_none() {
        params[meta::META] = serde_json::json!({
            meta::PROTOCOL_VERSION: Revision::V2026_07_28.as_str(),
            meta::CLIENT_CAPABILITIES: {},
            meta::CLIENT_INFO: { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
        });
    }
    if let Some(cursor) = cursor {
        params["cursor"] = cursor.into();
    }
    let method = Known::ToolsList.as_str();
    let text = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
    let message = super::exchange::own(text);
    let request_headers = match guest {
        Some(guest) => (*guest.headers).clone(),
        None => HeaderMap::from_iter([(headers::METHOD, HeaderValue::from_static(method))]),
    };
    let facts = CallFacts { may_ask: false, wants_log: false, cancellable: true };
    let mut replies = connection.call(Call { id, message: &message, facts, headers: request_headers }).await?;
    while let Some(reply) = replies.next().await {
        let reply = reply?;
        match reply.kind() {
            Kind::Result => return Ok(Some(reply)),
            Kind::Error => return Ok(None),
            Kind::Request | Kind::Notification => {}
        }
    }
    Err(UpstreamError::Lost { sent: true })
}

/// Takes tools whose annotations are illegal out of a list: whoever speaks Streamable HTTP with the server must not
/// offer them (2026-07-28, Streamable HTTP › Schema Extension). The other tools keep their text.
pub(super) fn screen(answer: Message, upstream: &str) -> Message {
    let illegal = |raw: &RawValue| {
        let Ok(tool) = serde_json::from_str::<Tool>(raw.get()) else { return false };
        match headers::param_headers(&tool.input_schema) {
            Ok(_) => false,
            Err(reason) => {
                tracing::warn!(upstream, tool = tool.name.escape_debug().to_string(), %reason, "Tool left out of the list");
                true
            }
        }
    };
    let body = answer.body().unwrap_or_default();
    if memchr::memmem::find(body.as_bytes(), headers::X_MCP_HEADER.as_bytes()).is_none() {
        return answer;
    }
    let Ok(page) = serde_json::from_str::<Page<'_>>(body) else { return answer };
    let (left_out, kept): (Vec<&RawValue>, Vec<&RawValue>) =
        page.tools.into_iter().partition(|raw| raw.get().contains(headers::X_MCP_HEADER) && illegal(raw));
    if left_out.is_empty() {
        return answer;
    }
    let kept: Vec<&str> = kept.into_iter().map(RawValue::get).collect();
    let list = Bytes::from(format!("[{}]", kept.join(",")));
    let Some((members, _)) = answer.result_members() else { return answer };
    let Some(member) = members.find(answer.text(), "tools") else { return answer };
    answer.edit().span(member.value, std::str::from_utf8(&list).unwrap_or("[]")).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-07-28, Streamable HTTP › Schema Extension: one malformed definition does not take the others along.
    #[test]
    fn tools_with_illegal_annotations_are_left_out() {
        let good =
            r#"{"name":"good", "inputSchema":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}},"n":1.10}"#;
        let bad = r#"{"name":"bad","inputSchema":{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}}"#;
        let text = |tools: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{tools}],"ttlMs":0}}}}"#);
        let parse = |text: String| Message::parse(Bytes::from(text), 64).unwrap();
        let screened = screen(parse(text(&format!("{bad},{good}"))), "x");
        assert_eq!(screened, parse(text(good)));
        assert_eq!(screen(parse(text(good)), "x"), parse(text(good)));
    }
}
