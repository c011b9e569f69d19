//! A JSON scanner: checks the grammar once and tells where things are, without building anything.
//!
//! The rest of `protocol` asks it for the members of the few objects whose fields MCP gives a meaning to;
//! everything below them is skipped over (but still checked), so that it can be copied byte for byte.
//! Nesting is bounded, since skipping recurses and a peer must not be able to overflow the stack.

use std::borrow::Cow;
use std::collections::HashSet;

use smallvec::SmallVec;

/// The deepest nesting that any configuration can allow: the scanner recurses once per level.
pub const DEPTH_MAX: usize = 512;

/// A half-open range of bytes in a message's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Span {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Span { start: start as u32, end: end as u32 }
    }

    /// The bytes of `text` that the span covers.
    pub fn of<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// What a JSON value is, told by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`
    Null,
}

impl ValueKind {
    /// What begins with this byte.
    #[inline]
    pub(crate) fn of(first: u8) -> Option<ValueKind> {
        Some(match first {
            b'{' => ValueKind::Object,
            b'[' => ValueKind::Array,
            b'"' => ValueKind::String,
            b'-' | b'0'..=b'9' => ValueKind::Number,
            b't' | b'f' => ValueKind::Bool,
            b'n' => ValueKind::Null,
            _ => return None,
        })
    }
}

/// One member of an object: where its key and its value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The key without its quotes.
    pub key: Span,
    /// Whether the key is written with escapes, so that its text is not its name.
    pub escaped: bool,
    /// The value.
    pub value: Span,
}

/// The members of one object in source order, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The object, braces included.
    pub object: Span,
    entries: SmallVec<[Member; 4]>,
}

impl Members {
    /// The member called `name`.
    pub fn find(&self, text: &[u8], name: &str) -> Option<&Member> {
        // Most names can be told apart by their lengths.
        let (name, length) = (name.as_bytes(), name.len() as u32);
        self.entries.iter().find(|member| match member.escaped {
            false => member.key.end - member.key.start == length && member.key.of(text) == name,
            true => unescape(member.key.of(text)).is_some_and(|key| key.as_bytes() == name),
        })
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.entries.iter()
    }

    /// What has to be cut out of the text so that the members with these names are gone, commas included; and how many are left.
    pub(crate) fn without(&self, text: &[u8], names: &[&str]) -> (SmallVec<[Span; 4]>, usize) {
        let (mut cuts, mut left) = (SmallVec::<[Span; 4]>::new(), 0);
        for (at, member) in self.entries.iter().enumerate() {
            if !names.iter().any(|name| key_is(text, member, name)) {
                left += 1;
                continue;
            }
            let key = |member: &Member| member.key.start - 1;
            let end = member.value.end;
            let cut = match (left, self.entries.get(at + 1)) {
                // The first that is left must have no comma before it.
                (0, next) => Span { start: key(member), end: next.map_or(end, key) },
                (_, _) => Span { start: self.entries[at - 1].value.end, end },
            };
            match cuts.last_mut() {
                Some(last) if last.end == cut.start => last.end = cut.end,
                _ => cuts.push(cut),
            }
        }
        (cuts, left)
    }

    /// The same elsewhere, without the members that are not kept.
    pub(crate) fn moved(&self, is_kept: impl Fn(&Member) -> bool, moved: impl Fn(Span) -> Span) -> Members {
        let kept = self.entries.iter().filter(|member| is_kept(member));
        let entries = kept.map(|member| Member { key: moved(member.key), value: moved(member.value), ..*member });
        Members { object: moved(self.object), entries: entries.collect() }
    }
}

/// Why a text is not acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The grammar is violated at this byte.
    #[error("not valid JSON at byte {0}")]
    Syntax(usize),
    /// Nested deeper than allowed.
    #[error("nested too deeply at byte {0}")]
    TooDeep(usize),
    /// An object that we read has the same key twice: parsers disagree on which one counts.
    #[error("duplicate key at byte {0}")]
    DuplicateKey(usize),
    /// An object that we read has more members than any message has.
    #[error("too many members in one object at byte {0}")]
    TooManyMembers(usize),
}

/// Most members of an object whose members are read (not of those that are only skipped).
pub const MEMBERS_MAX: usize = 1024;

/// Whether a member's key is `name`, escapes resolved.
#[inline]
pub fn key_is(text: &[u8], member: &Member, name: &str) -> bool {
    if member.escaped {
        return unescape(member.key.of(text)).as_deref() == Some(name);
    }
    // Most names can be told apart by their lengths.
    (member.key.end - member.key.start) as usize == name.len() && member.key.of(text) == name.as_bytes()
}

/// The text of a JSON string, given what stands between its quotes. `None` where it is not Unicode (a lone surrogate).
pub fn unescape(between_quotes: &[u8]) -> Option<String> {
    if memchr::memchr(b'\\', between_quotes).is_none() {
        return Some(std::str::from_utf8(between_quotes).ok()?.to_owned());
    }
    let mut quoted = Vec::with_capacity(between_quotes.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(between_quotes);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok()
}

/// Walks over one text.
pub struct Scanner<'a> {
    text: &'a [u8],
    pos: usize,
    depth_max: usize,
    /// Whether there are control characters, which in a string are errors.
    has_control: bool,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `text`, which must be UTF-8 and at most 4 GiB.
    pub fn new(text: &'a [u8], depth_max: usize) -> Scanner<'a> {
        Scanner::of(text, Look::at(text), depth_max)
    }

    /// The same for a text that has been looked at.
    pub(crate) fn of(text: &'a [u8], look: Look, depth_max: usize) -> Scanner<'a> {
        Scanner { text, pos: 0, depth_max: depth_max.min(DEPTH_MAX), has_control: look.has_control }
    }

    /// A scanner that starts at `pos`.
    pub fn at(text: &'a [u8], pos: usize, depth_max: usize) -> Scanner<'a> {
        let Look { has_control, .. } = Look::at(text.get(pos..).unwrap_or_default());
        Scanner { text, pos, depth_max: depth_max.min(DEPTH_MAX), has_control }
    }

    /// Where the scanner is.
    pub fn pos(&self) -> usize {
        self.pos
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.pos).copied()
    }

    fn syntax<T>(&self) -> Result<T, ScanError> {
        Err(ScanError::Syntax(self.pos))
    }

    /// Skips white space.
    pub fn white(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.pos += 1;
        }
    }

    /// Succeeds if nothing but white space is left.
    pub fn end(&mut self) -> Result<(), ScanError> {
        self.white();
        if self.pos == self.text.len() { Ok(()) } else { self.syntax() }
    }

    /// What the value at this place is.
    pub fn kind(&self) -> Result<ValueKind, ScanError> {
        match self.peek().and_then(ValueKind::of) {
            Some(kind) => Ok(kind),
            None => self.syntax(),
        }
    }

    /// Skips one value, `depth` levels inside the text, and checks its grammar.
    pub fn value(&mut self, depth: usize) -> Result<(Span, ValueKind), ScanError> {
        let start = self.pos;
        let kind = self.kind()?;
        match kind {
            ValueKind::Object => {
                self.object(depth, |scanner, _, depth| scanner.value(depth))?;
            }
            ValueKind::Array => {
                self.array(depth, |scanner, depth| scanner.value(depth).map(|_| ()))?;
            }
            ValueKind::String => {
                self.string()?;
            }
            ValueKind::Number => self.number()?,
            ValueKind::Bool => self.literal(if self.peek() == Some(b't') { b"true" } else { b"false" })?,
            ValueKind::Null => self.literal(b"null")?,
        }
        Ok((Span::new(start, self.pos), kind))
    }

    /// Walks over an object: `each` is called at each value with the key (its span and whether it has escapes) and must consume the value.
    pub fn object(
        &mut self,
        depth: usize,
        mut each: impl FnMut(&mut Self, (Span, bool), usize) -> Result<(Span, ValueKind), ScanError>,
    ) -> Result<Span, ScanError> {
        let start = self.pos;
        if depth >= self.depth_max {
            return Err(ScanError::TooDeep(self.pos));
        }
        self.expect(b'{')?;
        self.white();
        if self.peek() == Some(b'}') {
            self.pos += 1;
            return Ok(Span::new(start, self.pos));
        }
        loop {
            let key = self.string()?;
            self.white();
            self.expect(b':')?;
            self.white();
            each(self, key, depth + 1)?;
            self.white();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b'}') => {
                    self.pos += 1;
                    return Ok(Span::new(start, self.pos));
                }
                _ => return self.syntax(),
            }
            self.white();
        }
    }

    /// Walks over an array: `each` is called at each element and must consume it.
    pub fn array(
        &mut self,
        depth: usize,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), ScanError>,
    ) -> Result<Span, ScanError> {
        let start = self.pos;
        if depth >= self.depth_max {
            return Err(ScanError::TooDeep(self.pos));
        }
        self.expect(b'[')?;
        self.white();
        if self.peek() == Some(b']') {
            self.pos += 1;
            return Ok(Span::new(start, self.pos));
        }
        loop {
            each(self, depth + 1)?;
            self.white();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => {
                    self.pos += 1;
                    return Ok(Span::new(start, self.pos));
                }
                _ => return self.syntax(),
            }
            self.white();
        }
    }

    /// Reads an object's members, refusing duplicates. Where a member called `inner` is an object, its members are read too.
    pub fn members(&mut self, depth: usize, inner: &str) -> Result<(Members, Option<Members>), ScanError> {
        let mut entries: SmallVec<[Member; 4]> = SmallVec::new();
        let mut names = Names::default();
        let mut nested = None;
        let text = self.text;
        let object = self.object(depth, |scanner, (key, escaped), depth| {
            let kind = scanner.kind()?;
            let mut member = Member { key, escaped, value: key };
            if entries.len() >= MEMBERS_MAX {
                return Err(ScanError::TooManyMembers(key.start as usize));
            }
            if !names.insert(text, &entries, &member) {
                return Err(ScanError::DuplicateKey(key.start as usize));
            }
            if kind == ValueKind::Object && key_is(text, &member, inner) {
                let (members, _) = scanner.members(depth, "")?;
                member.value = members.object;
                nested = Some(members);
            } else {
                member.value = scanner.value(depth)?.0;
            }
            entries.push(member);
            Ok((member.value, kind))
        })?;
        Ok((Members { object, entries }, nested))
    }

    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek() == Some(byte) {
            self.pos += 1;
            Ok(())
        } else {
            self.syntax()
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), ScanError> {
        if self.text[self.pos..].starts_with(word) {
            self.pos += word.len();
            Ok(())
        } else {
            self.syntax()
        }
    }

    /// Skips a string; returns what stands between its quotes and whether there are escapes in it.
    fn string(&mut self) -> Result<(Span, bool), ScanError> {
        self.expect(b'"')?;
        let start = self.pos;
        let mut escaped = false;
        loop {
            self.plain_run();
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok((Span::new(start, self.pos - 1), escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.pos += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 1,
                        Some(b'u') => {
                            self.pos += 1;
                            for _ in 0..4 {
                                if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                                    return self.syntax();
                                }
                                self.pos += 1;
                            }
                        }
                        _ => return self.syntax(),
                    }
                }
                _ => return self.syntax(),
            }
        }
    }

    /// Skips bytes of a string up to a quote, a backslash or a control character: eight at a time, and more at a time in a long one,
    /// since payloads are mostly strings.
    fn plain_run(&mut self) {
        const SHORT: usize = 24;
        let start = self.pos;
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGHS: u64 = 0x8080_8080_8080_8080;
        while let Some(chunk) = self.text.get(self.pos..).and_then(|rest| rest.first_chunk::<8>()) {
            let chunk = u64::from_le_bytes(*chunk);
            // `x - n & !x` has the high bit set in bytes below n; a borrow can only disturb bytes behind the first hit.
            let control = chunk.wrapping_sub(ONES * 0x20) & !chunk;
            let quote = chunk ^ (ONES * u64::from(b'"'));
            let quote = quote.wrapping_sub(ONES) & !quote;
            let backslash = chunk ^ (ONES * u64::from(b'\\'));
            let backslash = backslash.wrapping_sub(ONES) & !backslash;
            let hits = (control | quote | backslash) & HIGHS;
            if hits != 0 {
                self.pos += (hits.trailing_zeros() / 8) as usize;
                return;
            }
            self.pos += 8;
            if self.pos - start >= SHORT && !self.has_control {
                let rest = &self.text[self.pos..];
                self.pos += memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                return;
            }
        }
        while self.peek().is_some_and(|b| b >= 0x20 && b != b'"' && b != b'\\') {
            self.pos += 1;
        }
    }

    fn number(&mut self) -> Result<(), ScanError> {
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        match self.peek() {
            Some(b'0') => self.pos += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.syntax(),
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.pos += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.pos += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let start = self.pos;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.pos += 1;
        }
        if self.pos == start { self.syntax() } else { Ok(()) }
    }
}

/// What bytes there are in a text. Most have neither of these, and that is found out quickly, for both in one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Below the space: line breaks, too.
    pub(crate) has_control: bool,
    /// Above ASCII.
    pub(crate) has_high: bool,
}

impl Look {
    pub(crate) fn at(text: &[u8]) -> Look {
        let add = |(low, high), byte: &u8| (low | u8::from(*byte < b' '), high | *byte);
        let (low, high) = text.iter().fold((0, 0), add);
        Look { has_control: low != 0, has_high: !high.is_ascii() }
    }
}

/// The names of an object's members, to find duplicates. Few are compared with each other, many are put into a set: a peer
/// can make an object of as many members as we read, and time must not grow with their square.
#[derive(Default)]
struct Names<'a>(HashSet<Cow<'a, [u8]>>);

impl<'a> Names<'a> {
    const FEW: usize = 8;

    /// Whether `member` has a name that none of `entries` has.
    fn insert(&mut self, text: &'a [u8], entries: &[Member], member: &Member) -> bool {
        if entries.len() < Self::FEW {
            return !entries.iter().any(|other| name(text, other) == name(text, member));
        }
        if self.0.is_empty() {
            self.0.extend(entries.iter().map(|entry| name(text, entry)));
        }
        self.0.insert(name(text, member))
    }
}

/// A member's name, escapes resolved. One that is no Unicode stands for itself.
fn name<'a>(text: &'a [u8], member: &Member) -> Cow<'a, [u8]> {
    let raw = member.key.of(text);
    match member.escaped.then(|| unescape(raw)).flatten() {
        Some(name) => Cow::Owned(name.into_bytes()),
        None => Cow::Borrowed(raw),
    }
}
