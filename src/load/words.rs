//! What clients say, made once and reused with another id, and whether an answer is the right one.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use memchr::memmem;
use serde_json::{Map, Value, json};

use crate::protocol::headers;
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::protocol::sse::{Decoder, Item, is_event_stream};

/// The argument of an echoing tool, by its name.
const ECHOES: [(&str, &str); 3] = [("echo", "text"), ("echo", "message"), ("echo", "input")];
/// Largest answer that is read in full.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// Ids have so many digits, so that a request is as long as the one before. Every client counts from the same number: a proxy
/// that trusts ids across clients gives itself away by the payloads.
const FIRST_ID: u64 = 100_000_000;
const ID_DIGITS: usize = 9;

/// What is called.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    method: Known,
    tool: Option<String>,
    arguments: Map<String, Value>,
    /// The argument that the payload goes into, which the answer has to repeat.
    echo: Option<String>,
    payload_bytes: usize,
    progress: usize,
}

impl Call {
    /// A tool with these arguments.
    #[must_use]
    pub fn tool(name: &str, arguments: Map<String, Value>) -> Call {
        Call {
            method: Known::ToolsCall,
            tool: Some(name.to_owned()),
            arguments,
            echo: None,
            payload_bytes: 0,
            progress: 0,
        }
    }

    /// A tool that answers with what the argument says.
    #[must_use]
    pub fn echo(tool: &str, argument: &str, payload_bytes: usize) -> Call {
        Call { echo: Some(argument.to_owned()), payload_bytes, ..Call::tool(tool, Map::new()) }
    }

    /// The list of tools, which every server with tools has.
    #[must_use]
    pub fn list() -> Call {
        Call { method: Known::ToolsList, tool: None, ..Call::tool("", Map::new()) }
    }

    /// Expects so many progress notifications before each answer; they are asked for if it is more than none.
    #[must_use]
    pub fn with_progress(self, progress: usize) -> Call {
        Call { progress, ..self }
    }

    /// With this argument as well.
    #[must_use]
    pub fn with_argument(mut self, name: &str, value: Value) -> Call {
        self.arguments.insert(name.to_owned(), value);
        self
    }

    /// What a server with these tools can be asked for: something that echoes, or the list itself.
    #[must_use]
    pub(crate) fn found_in(tools: &Value, payload_bytes: usize) -> Call {
        let tools = tools["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has = |name: &str, argument: &str| {
            tools.iter().any(|tool| tool["name"] == name && !tool["inputSchema"]["properties"][argument].is_null())
        };
        match ECHOES.into_iter().find(|(name, argument)| has(name, argument)) {
            Some((name, argument)) => Call::echo(name, argument, payload_bytes),
            None => Call::list(),
        }
    }

    /// In words, for reports.
    #[must_use]
    pub fn describe(&self) -> String {
        let what = self.tool.as_deref().unwrap_or(self.method.as_str());
        let payload = self.echo.as_ref().map(|_| format!(", {} bytes", self.payload_bytes));
        let progress = (self.progress > 0).then(|| format!(", {} progress notifications", self.progress));
        format!("{what}{}{}", payload.unwrap_or_default(), progress.unwrap_or_default())
    }
}

/// How an answer is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is an HTTP error.
    #[error("status {0}")]
    Status(u16),
    /// The body has no answer to this id: there is none, or it is another's.
    #[error("no answer with the id of the request")]
    Id,
    /// The payload is not the one that was sent, or there is no result at all.
    #[error("not the payload that was sent, or no result")]
    Payload,
    /// Progress got lost, or came to the wrong client.
    #[error("{got} progress notifications instead of {expected}")]
    Progress {
        /// How many came that belong to the request.
        got: usize,
        /// How many had to come.
        expected: usize,
    },
}

impl Wrong {
    /// The same for every answer that is wrong in this way.
    pub(super) fn kind(&self) -> String {
        match self {
            Wrong::Progress { .. } => "wrong number of progress notifications".to_owned(),
            other => other.to_string(),
        }
    }
}

/// A client's request, with gaps for the id.
pub(super) struct Template {
    body: Vec<u8>,
    gaps: Vec<usize>,
    next: u64,
    payload: String,
    progress: usize,
    /// What its progress is known by, up to the id.
    token: String,
}

impl Template {
    /// The request of a client, which differs from that of the others by its payload and its token.
    pub(super) fn new(call: &Call, era: Era, client: usize) -> Template {
        let gap = FIRST_ID.to_string();
        let token = format!("load-{client}-");
        let tag = format!("<client {client}>");
        let payload: String = tag.chars().chain(('a'..='z').cycle()).take(call.payload_bytes.max(tag.len())).collect();
        let mut params = Map::new();
        if let Some(tool) = &call.tool {
            let mut arguments = call.arguments.clone();
            if let Some(echo) = &call.echo {
                arguments.insert(echo.clone(), payload.clone().into());
            }
            params.insert("name".to_owned(), tool.clone().into());
            params.insert(meta::ARGUMENTS.to_owned(), arguments.into());
        }
        let mut envelope = match era {
            Era::Legacy => Map::new(),
            Era::Modern => envelope(),
        };
        if call.progress > 0 {
            envelope.insert(meta::PROGRESS_TOKEN.to_owned(), format!("{token}{gap}").into());
        }
        if !envelope.is_empty() {
            params.insert(meta::META.to_owned(), envelope.into());
        }
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{gap},"method":"{}","params":{}}}"#,
            call.method.as_str(),
            Value::from(params)
        );
        let gaps = memmem::find_iter(text.as_bytes(), gap.as_bytes()).collect();
        let payload = if call.echo.is_some() { payload } else { String::new() };
        Template { body: text.into_bytes(), gaps, next: FIRST_ID, payload, progress: call.progress, token }
    }

    /// The next request, and its id.
    pub(super) fn next(&mut self) -> (Bytes, [u8; ID_DIGITS]) {
        self.next += 1;
        let id = digits(self.next);
        for gap in &self.gaps {
            self.body[*gap..*gap + ID_DIGITS].copy_from_slice(&id);
        }
        (Bytes::copy_from_slice(&self.body), id)
    }

    /// Whether a body answers the request with this id, by what has to be in it. Returns how many progress notifications came.
    ///
    /// The body is not parsed: that would cost more than many servers take to make it.
    pub(super) fn check(&self, body: &[u8], id: [u8; ID_DIGITS]) -> Result<usize, Wrong> {
        let id_is = |gap: &[u8]| memmem::find(body, &[b"\"id\":", gap, &id].concat()).is_some();
        if !id_is(b"") && !id_is(b" ") {
            return Err(Wrong::Id);
        }
        if self.payload.is_empty() {
            if memmem::find(body, b"\"result\"").is_none() {
                return Err(Wrong::Payload);
            }
        } else {
            // By its beginning, which is this client's alone; the rest is compared.
            let tag = &self.payload.as_bytes()[..self.payload.find('>').map_or(0, |end| end + 1)];
            let at = memmem::find(body, tag).ok_or(Wrong::Payload)?;
            if !body[at..].starts_with(self.payload.as_bytes()) {
                return Err(Wrong::Payload);
            }
        }
        if self.progress == 0 {
            return Ok(0);
        }
        let got = memmem::find_iter(body, &[self.token.as_bytes(), &id].concat()).count();
        match got == self.progress {
            true => Ok(got),
            false => Err(Wrong::Progress { got, expected: self.progress }),
        }
    }

    /// Whether a body answers the request with this id, read in full.
    pub(super) fn read(&self, content_type: &[u8], body: &[u8], id: [u8; ID_DIGITS]) -> Result<(), Wrong> {
        let messages = messages(content_type, body);
        let number = id.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        let answer = messages.iter().find(|message| message["id"] == number).ok_or(Wrong::Id)?;
        let result = &answer["result"];
        if result.is_null() || result["isError"] == true {
            return Err(Wrong::Payload);
        }
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        if !text.contains(&self.payload) {
            return Err(Wrong::Payload);
        }
        self.check(body, id).map(|_| ())
    }
}

fn digits(number: u64) -> [u8; ID_DIGITS] {
    let mut digits = [b'0'; ID_DIGITS];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// The messages in a body, be it JSON or events.
pub(super) fn messages(content_type: &[u8], body: &[u8]) -> Vec<Value> {
    let parse = |text: &[u8]| serde_json::from_slice(text).ok();
    if !is_event_stream(content_type) {
        return parse(body).into_iter().collect();
    }
    let (mut decoder, mut rest) = (Decoder::new(ANSWER_MAX), Bytes::copy_from_slice(body));
    let mut messages = Vec::new();
    while let Some(Ok(item)) = decoder.decode(&mut rest) {
        if let Item::Event(event) = item {
            messages.extend(event.message().and_then(|text| parse(text)));
        }
    }
    messages
}

/// What opens a session (2025-11-25, Lifecycle).
pub(super) fn initialize() -> Bytes {
    let params = json!({
        meta::PROTOCOL_VERSION_PARAM: Revision::LATEST_LEGACY.as_str(),
        meta::CAPABILITIES: {},
        meta::CLIENT_INFO_PARAM: client(),
    });
    json!({ "jsonrpc": "2.0", "id": 0, "method": Known::Initialize.as_str(), "params": params }).to_string().into()
}

pub(super) fn initialized() -> Bytes {
    json!({ "jsonrpc": "2.0", "method": Known::Initialized.as_str() }).to_string().into()
}

/// The headers of every request of a client (2025-11-25 and 2026-07-28, Streamable HTTP).
pub(super) fn header_map(call: &Call, era: Era, authority: &str) -> Result<HeaderMap, http::Error> {
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, value: &str| -> Result<(), http::Error> {
        headers.insert(name, HeaderValue::from_str(value)?);
        Ok(())
    };
    put(header::HOST, authority)?;
    put(header::CONTENT_TYPE, "application/json")?;
    put(header::ACCEPT, "application/json, text/event-stream")?;
    if era == Era::Modern {
        put(headers::PROTOCOL_VERSION, Revision::V2026_07_28.as_str())?;
        put(headers::METHOD, call.method.as_str())?;
        if let Some(tool) = &call.tool {
            headers.insert(headers::NAME, headers::encode(tool));
        }
    }
    Ok(headers)
}

/// The envelope of a modern request (2026-07-28, Basic › `_meta`).
fn envelope() -> Map<String, Value> {
    let fields = [
        (meta::PROTOCOL_VERSION, Revision::V2026_07_28.as_str().into()),
        (meta::CLIENT_INFO, client()),
        (meta::CLIENT_CAPABILITIES, json!({})),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn client() -> Value {
    json!({ "name": "shadowcat-bench", "version": env!("CARGO_PKG_VERSION") })
}
