//! One JSON-RPC message, as bytes and as the few places in it that the proxy reads.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::id::RequestId;
use super::meta;
use super::method::Known;
use super::scan::{Look, Member, Members, ScanError, Scanner, Span, ValueKind, unescape};

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wants an answer.
    Request,
    /// Wants none.
    Notification,
    /// Answers a request.
    Result,
    /// Answers a request with an error.
    Error,
}

/// One JSON-RPC message exactly as it arrived: text, and spans into it.
///
/// Cloning is cheap. Only the message's own members, those of `params` (or `result`) and those of `_meta` in it
/// have been looked at; the rest was checked to be JSON and is passed on byte for byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    text: Bytes,
    /// Apart, since a message is handed on from one to the next many times, and kept by some.
    shape: Arc<Shape>,
}

/// What was found in a message.
#[derive(Debug, Clone, PartialEq)]
struct Shape {
    kind: Kind,
    id: Option<Span>,
    method: Option<Span>,
    /// The method's name where it is written with escapes.
    method_name: Option<Box<str>>,
    known: Option<Known>,
    /// `params`, `result` or `error`.
    body: Option<Span>,
    /// The members of `params`, or the few of `result` that have a meaning for us.
    members: Option<Members>,
    meta: Option<Members>,
    single_line: bool,
}

/// Why a text is not a message.
#[derive(Debug, Clone, PartialEq)]
pub struct ParseError {
    /// What is wrong.
    pub reason: Invalid,
    /// The message's id, where one could be read: the answer echoes it.
    pub id: Option<RequestId>,
}

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not UTF-8.
    #[error("not valid UTF-8 at byte {0}")]
    Utf8(usize),
    /// Not JSON, or JSON that we refuse.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// JSON, but no JSON-RPC 2.0 message.
    #[error("not a JSON-RPC 2.0 message: {0}")]
    NotAMessage(&'static str),
}

impl Invalid {
    /// Whether the text is not even JSON (`-32700`), or JSON but no message (`-32600`).
    pub fn is_syntax(&self) -> bool {
        matches!(self, Invalid::Utf8(_) | Invalid::Scan(ScanError::Syntax(_) | ScanError::TooDeep(_)))
    }
}

/// Most elements of a batch that are looked at, whatever the limit is set to: each becomes many times its size.
pub const BATCH_MAX: usize = 1024;

/// What a body or a line holds: one message, or a batch of them (2025-03-26).
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// One message.
    One(Message),
    /// An array: each element for itself.
    Batch(Vec<Result<Message, ParseError>>),
}

impl Incoming {
    /// Reads a message or an array of messages.
    ///
    /// # Errors
    /// The text is not JSON, is nested deeper than `depth_max`, is neither a message nor an array, or is an array of
    /// more than [`BATCH_MAX`] elements.
    pub fn parse(text: Bytes, depth_max: usize) -> Result<Incoming, ParseError> {
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'[') {
            return Message::parse(text, depth_max).map(Incoming::One);
        }
        let fail = |reason| ParseError { reason, id: None };
        let look = checked(&text).map_err(fail)?;
        let mut scanner = Scanner::of(&text, look, depth_max);
        let mut elements = Vec::new();
        scanner.white();
        scanner
            .array(0, |scanner, depth| {
                let element = scanner.value(depth)?.0;
                if elements.len() <= BATCH_MAX {
                    elements.push(element);
                }
                Ok(())
            })
            .and_then(|_| scanner.end())
            .map_err(|error| fail(error.into()))?;
        if elements.len() > BATCH_MAX {
            return Err(fail(Invalid::NotAMessage("a batch of far too many messages")));
        }
        let each = |span: Span| Message::parse(text.slice(span.start as usize..span.end as usize), depth_max);
        Ok(Incoming::Batch(elements.into_iter().map(each).collect()))
    }
}

/// Looks at a text, which has to be UTF-8.
fn checked(text: &[u8]) -> Result<Look, Invalid> {
    let look = Look::at(text);
    if look.has_high {
        std::str::from_utf8(text).map_err(|error| Invalid::Utf8(error.valid_up_to()))?;
    }
    Ok(look)
}

/// What has been found of a message while scanning it.
#[derive(Default)]
struct Found {
    version: Option<Span>,
    id: Option<(Span, ValueKind)>,
    method: Option<(Span, ValueKind)>,
    params: Option<Span>,
    result: Option<Span>,
    error: Option<(Span, ValueKind)>,
    members: Option<Members>,
    meta: Option<Members>,
    others: SmallVec<[Member; 2]>,
}

impl Message {
    /// The same in memory of its own: what is kept for long must not keep what came along with it.
    #[must_use]
    pub fn alone(self) -> Message {
        Message { text: Bytes::copy_from_slice(&self.text), ..self }
    }

    /// Reads one message in one pass: UTF-8, grammar, depth, duplicate keys, shape.
    ///
    /// # Errors
    /// See [`Invalid`]. Key names are compared with case, and a key that occurs twice in the message, its `params` or
    /// their `_meta` is refused, so that nobody behind us can read another message than we did.
    pub fn parse(text: Bytes, depth_max: usize) -> Result<Message, ParseError> {
        let look = checked(&text).map_err(|reason| ParseError { reason, id: None })?;
        let mut found = Found::default();
        let scanned = Self::scan(&mut Scanner::of(&text, look, depth_max), &text, &mut found);
        let id = found.id.and_then(|(span, _)| RequestId::from_json(as_str(span.of(&text))));
        let fail = |reason: Invalid| ParseError { reason, id: id.clone() };
        scanned.map_err(fail)?;
        let shape = |what| fail(Invalid::NotAMessage(what));

        if found.version.map(|span| span.of(&text)) != Some(br#""2.0""#) {
            return Err(shape("`jsonrpc` must be \"2.0\""));
        }
        let id_kind = found.id.map(|(_, kind)| kind);
        let kind = match (found.method, id_kind, found.result, found.error) {
            (Some((_, ValueKind::String)), None, None, None) => Kind::Notification,
            (Some((_, ValueKind::String)), Some(ValueKind::String | ValueKind::Number), None, None) => Kind::Request,
            (Some((_, ValueKind::String)), Some(_), None, None) => {
                return Err(shape("`id` must be a string or a number"));
            }
            (None, Some(ValueKind::String | ValueKind::Number), Some(_), None) => Kind::Result,
            // An error may come without an id, or with null, when the request's own could not be read.
            (
                None,
                None | Some(ValueKind::String | ValueKind::Number | ValueKind::Null),
                None,
                Some((_, ValueKind::Object)),
            ) => Kind::Error,
            (Some((_, ValueKind::String)), ..) => {
                return Err(shape("a message with `method` has no `result` or `error`"));
            }
            (Some(_), ..) => return Err(shape("`method` must be a string")),
            (None, _, Some(_), Some(_)) => return Err(shape("a response has `result` or `error`, not both")),
            (None, _, None, None) => return Err(shape("one of `method`, `result` and `error` must be there")),
            _ => return Err(shape("`id` must be a string or a number, and `error` an object")),
        };
        let mut method_name = None;
        let mut known = None;
        let method = found.method.map(|(span, _)| Span { start: span.start + 1, end: span.end - 1 });
        if let Some(span) = method {
            let raw = span.of(&text);
            if memchr::memchr(b'\\', raw).is_some() {
                method_name = unescape(raw).map(String::into_boxed_str);
                if method_name.is_none() {
                    return Err(shape("`method` is not Unicode"));
                }
            }
            known = Known::parse(method_name.as_deref().unwrap_or_else(|| as_str(raw)));
        }
        if matches!(kind, Kind::Request | Kind::Notification)
            && found.params.is_some_and(|span| !matches!(text[span.start as usize], b'{' | b'['))
        {
            return Err(shape("`params` must be an object"));
        }
        let single_line = !look.has_control || is_single_line(&text);
        let found = Shape {
            kind,
            id: found.id.filter(|(_, kind)| *kind != ValueKind::Null).map(|(span, _)| span),
            method,
            method_name,
            known,
            body: match kind {
                Kind::Request | Kind::Notification => found.params,
                Kind::Result => found.result,
                Kind::Error => found.error.map(|(span, _)| span),
            },
            members: found.members,
            meta: found.meta,
            single_line,
        };
        Ok(Message { text, shape: Arc::new(found) })
    }

    fn scan(scanner: &mut Scanner<'_>, text: &[u8], found: &mut Found) -> Result<(), Invalid> {
        scanner.white();
        if scanner.kind()? != ValueKind::Object {
            scanner.value(0)?;
            scanner.end()?;
            return Err(Invalid::NotAMessage("a message is an object"));
        }
        scanner.object(0, |scanner, (key, escaped), depth| {
            let kind = scanner.kind()?;
            let duplicate = Err(ScanError::DuplicateKey(key.start as usize));
            let decoded;
            let name = if escaped {
                decoded = unescape(key.of(text)).unwrap_or_default();
                decoded.as_bytes()
            } else {
                key.of(text)
            };
            let seen = match name {
                b"jsonrpc" => found.version.is_some(),
                b"id" => found.id.is_some(),
                b"method" => found.method.is_some(),
                b"params" => found.params.is_some(),
                b"result" => found.result.is_some(),
                b"error" => found.error.is_some(),
                _ => found.others.iter().any(|other| other.key.of(text) == key.of(text)),
            };
            if seen {
                return duplicate;
            }
            let value = match name {
                b"params" if kind == ValueKind::Object => {
                    let (members, meta) = scanner.members(depth, meta::META)?;
                    let span = members.object;
                    found.members = Some(members);
                    found.meta = meta;
                    span
                }
                _ => scanner.value(depth)?.0,
            };
            match name {
                b"jsonrpc" => found.version = Some(value),
                b"id" => found.id = Some((value, kind)),
                b"method" => found.method = Some((value, kind)),
                b"params" => found.params = Some(value),
                b"result" => found.result = Some(value),
                b"error" => found.error = Some((value, kind)),
                _ if found.others.len() < 64 => found.others.push(Member { key, escaped, value }),
                _ => return Err(ScanError::TooManyMembers(key.start as usize)),
            }
            Ok((value, kind))
        })?;
        scanner.end()?;
        Ok(())
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.shape.kind
    }

    /// The whole text.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// A copy to be kept for long: its text alone, and not the buffer that it was read in along with others.
    pub(crate) fn detached(&self) -> Message {
        Message { text: Bytes::copy_from_slice(&self.text), shape: self.shape.clone() }
    }

    /// The text without line breaks between its tokens, as line-framed transports need it. Free when there are none.
    pub fn line(&self) -> Bytes {
        if self.shape.single_line { self.text.clone() } else { super::lines::single_line(&self.text) }
    }

    /// The id of a request or response.
    pub fn id(&self) -> Option<RequestId> {
        RequestId::from_json(as_str(self.shape.id?.of(&self.text)))
    }

    /// The id, where it is spelled like those that the proxy makes: digits, without zeros in front.
    pub(crate) fn own_id(&self) -> Option<i64> {
        let digits = self.shape.id?.of(&self.text);
        let is_own = digits.iter().all(u8::is_ascii_digit) && (digits[0] != b'0' || digits.len() == 1);
        is_own.then(|| as_str(digits).parse().ok()).flatten()
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<&str> {
        match &self.shape.method_name {
            Some(name) => Some(name),
            None => Some(as_str(self.shape.method?.of(&self.text))),
        }
    }

    /// The method, if it is one that the specification defines.
    pub fn known(&self) -> Option<Known> {
        self.shape.known
    }

    /// The JSON text of `params`, `result` or `error`.
    pub fn body(&self) -> Option<&str> {
        Some(as_str(self.shape.body?.of(&self.text)))
    }

    /// Where `params`, `result` or `error` is.
    pub(crate) fn body_span(&self) -> Option<Span> {
        self.shape.body
    }

    /// The JSON text of one member of `params`.
    pub fn param(&self, name: &str) -> Option<&str> {
        Some(as_str(self.param_member(name)?.value.of(&self.text)))
    }

    /// The JSON text of one member of `params._meta`.
    pub fn meta(&self, name: &str) -> Option<&str> {
        Some(as_str(self.meta_member(name)?.value.of(&self.text)))
    }

    /// What kind of value a member of `params._meta` is.
    pub(crate) fn meta_kind(&self, name: &str) -> Option<ValueKind> {
        ValueKind::of(*self.text.get(self.meta_member(name)?.value.start as usize)?)
    }

    fn param_member(&self, name: &str) -> Option<&Member> {
        self.shape.members.as_ref()?.find(&self.text, name)
    }

    fn meta_member(&self, name: &str) -> Option<&Member> {
        self.shape.meta.as_ref()?.find(&self.text, name)
    }

    /// A string member of `params`, unescaped.
    pub fn param_str(&self, name: &str) -> Option<String> {
        json_str(self.param(name)?)
    }

    /// The same, copied only where it is written with escapes.
    pub fn param_text(&self, name: &str) -> Option<Cow<'_, str>> {
        json_text(self.param(name)?)
    }

    /// A string member of `params._meta`, unescaped.
    pub fn meta_str(&self, name: &str) -> Option<String> {
        json_str(self.meta(name)?)
    }

    /// The members of `result`, and of `_meta` in it. Scans the result: for results that have to be looked into only.
    pub fn result_members(&self) -> Option<(Members, Option<Members>)> {
        if self.shape.kind != Kind::Result {
            return None;
        }
        let span = self.shape.body?;
        if self.text[span.start as usize] != b'{' {
            return None;
        }
        Scanner::at(&self.text, span.start as usize, super::scan::DEPTH_MAX).members(0, meta::META).ok()
    }

    /// An edit of this message: what is not named stays as it is, byte for byte.
    pub fn edit(&self) -> Edit<'_> {
        Edit { message: self, splices: SmallVec::new() }
    }
}

/// The notification that cancels our own call `id` (2025-11-25, Cancellation).
pub(crate) fn cancelled(id: i64) -> Bytes {
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"{}":{id},"reason":"The client no longer waits for the answer"}}}}"#,
        Known::Cancelled.as_str(),
        meta::REQUEST_ID,
    ))
}

/// The text of a JSON string, or `None` if `json` is something else.
pub fn json_str(json: &str) -> Option<String> {
    json_text(json).map(Cow::into_owned)
}

/// The same, copied only where it is written with escapes.
pub fn json_text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { unescape(inner.as_bytes()).map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn is_single_line(text: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', text).is_none()
}

/// Spans of a message lie on the borders of JSON tokens in text that was checked to be UTF-8.
fn as_str(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Replaces single values in a message.
#[derive(Debug)]
pub struct Edit<'m> {
    message: &'m Message,
    splices: SmallVec<[(Span, Box<str>); 3]>,
}

impl Edit<'_> {
    /// Replaces the id. `json` is a JSON string or number.
    #[must_use]
    pub fn id(mut self, json: &str) -> Self {
        if let Some(span) = self.message.shape.id {
            self.splices.push((span, json.into()));
        }
        self
    }

    /// Replaces the value of a member of `params` that is there.
    #[must_use]
    pub fn param(mut self, name: &str, json: &str) -> Self {
        if let Some(member) = self.message.param_member(name) {
            self.splices.push((member.value, json.into()));
        }
        self
    }

    /// Replaces the value of a member of `params._meta` that is there.
    #[must_use]
    pub fn meta(mut self, name: &str, json: &str) -> Self {
        if let Some(member) = self.message.meta_member(name) {
            self.splices.push((member.value, json.into()));
        }
        self
    }

    /// Replaces what a span of the message covers, which must be a value.
    #[must_use]
    pub fn span(mut self, span: Span, json: &str) -> Self {
        self.splices.push((span, json.into()));
        self
    }

    /// Takes members of `params` and of its `_meta` out, by name, and adds others to both: `params` and `meta` are the texts of
    /// members without their braces, and must not repeat what stays. Makes what is missing. The new members cannot be asked for.
    #[must_use]
    pub(crate) fn recast(mut self, out: &[&str], params: &str, meta_out: &[&str], meta: &str) -> Self {
        let message = self.message;
        let text = &message.text[..];
        let insert = |at: u32| Span { start: at, end: at };
        let Some(members) = &message.shape.members else {
            // Without `params` there is a place for them at the end; what is no object has none.
            if message.shape.body.is_none()
                && let Some(end) = memchr::memrchr(b'}', text)
            {
                let comma = if params.is_empty() { "" } else { "," };
                let name = super::meta::META;
                let added = format!(r#","params":{{{params}{comma}"{name}":{{{meta}}}}}"#);
                self.splices.push((insert(end as u32), added.into()));
            }
            return self;
        };
        let mut added = String::with_capacity(params.len() + meta.len() + 16);
        added.push_str(params);
        let (cuts, left) = match &message.shape.meta {
            Some(found) => {
                let (meta_cuts, meta_left) = found.without(text, meta_out);
                let comma = if meta_left > 0 && !meta.is_empty() { "," } else { "" };
                self.splices.push((insert(found.object.start + 1), [meta, comma].concat().into()));
                self.splices.extend(meta_cuts.into_iter().map(|cut| (cut, Box::default())));
                members.without(text, out)
            }
            None => {
                if !added.is_empty() {
                    added.push(',');
                }
                added.extend(["\"", super::meta::META, "\":{", meta, "}"]);
                // One that is no object would have been in the way.
                let all: SmallVec<[&str; 8]> = out.iter().copied().chain([super::meta::META]).collect();
                members.without(text, &all)
            }
        };
        if left > 0 && !added.is_empty() {
            added.push(',');
        }
        self.splices.push((insert(members.object.start + 1), added.into()));
        self.splices.extend(cuts.into_iter().map(|cut| (cut, Box::default())));
        self
    }

    /// Takes members of `params` out, with their commas.
    #[must_use]
    pub(crate) fn without_params(mut self, names: &[&str]) -> Self {
        if let Some(members) = &self.message.shape.members {
            let (cuts, _) = members.without(&self.message.text, names);
            self.splices.extend(cuts.into_iter().map(|cut| (cut, Box::default())));
        }
        self
    }

    /// Takes members of `params._meta` out, with their commas.
    #[must_use]
    pub(crate) fn without_meta(mut self, names: &[&str]) -> Self {
        if let Some(meta) = &self.message.shape.meta {
            let (cuts, _) = meta.without(&self.message.text, names);
            self.splices.extend(cuts.into_iter().map(|cut| (cut, Box::default())));
        }
        self
    }

    /// Takes one member of `params._meta` out, and all of that with the last one.
    #[must_use]
    pub(crate) fn without_lone_meta(mut self, name: &str) -> Self {
        let message = self.message;
        if let (Some(members), Some(meta)) = (&message.shape.members, &message.shape.meta) {
            let (cuts, left) = meta.without(&message.text, &[name]);
            let cuts = if left == 0 { members.without(&message.text, &[super::meta::META]).0 } else { cuts };
            self.splices.extend(cuts.into_iter().map(|cut| (cut, Box::default())));
        }
        self
    }

    /// The edited message. Nothing is parsed again: the spans move with the text.
    pub fn finish(self) -> Message {
        self.made(true)
    }

    /// The same, to be sent as it is: its members cannot be asked for.
    pub(crate) fn finish_to_send(self) -> Message {
        self.made(false)
    }

    fn made(mut self, with_members: bool) -> Message {
        let old = self.message;
        if self.splices.is_empty() {
            return old.clone();
        }
        self.splices.sort_by_key(|(span, _)| span.start);
        let grown: usize = self.splices.iter().map(|(_, json)| json.len()).sum();
        let gone: usize = self.splices.iter().map(|(span, _)| (span.end - span.start) as usize).sum();
        let mut text = Vec::with_capacity(old.text.len() + grown - gone);
        let mut copied = 0;
        for (span, json) in &self.splices {
            text.extend_from_slice(&old.text[copied..span.start as usize]);
            text.extend_from_slice(json.as_bytes());
            copied = span.end as usize;
        }
        text.extend_from_slice(&old.text[copied..]);

        let moved = |at: u32| {
            let before = self.splices.iter().take_while(|(span, _)| span.end <= at);
            let shift: i64 = before.map(|(span, json)| json.len() as i64 - i64::from(span.end - span.start)).sum();
            (i64::from(at) + shift) as u32
        };
        let moved = |span: Span| Span { start: moved(span.start), end: moved(span.end) };
        // Without those that were taken out.
        let is_kept = |member: &Member| {
            let mut gaps = self.splices.iter().filter(|(_, json)| json.is_empty());
            !gaps.any(|(gap, _)| gap.start < member.value.end && member.value.end <= gap.end)
        };
        let shape = Shape {
            kind: old.shape.kind,
            id: old.shape.id.map(moved),
            method: old.shape.method.map(moved),
            method_name: old.shape.method_name.clone(),
            known: old.shape.known,
            body: old.shape.body.map(moved),
            members: old.shape.members.as_ref().filter(|_| with_members).map(|members| members.moved(is_kept, moved)),
            meta: old.shape.meta.as_ref().filter(|_| with_members).map(|members| members.moved(is_kept, moved)),
            single_line: old.shape.single_line || is_single_line(&text),
        };
        Message { text: text.into(), shape: Arc::new(shape) }
    }
}

#[cfg(test)]
mod tests;
