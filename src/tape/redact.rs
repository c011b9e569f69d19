//! Takes secrets out of what goes onto a tape (C-TAPE-2). Pure.
//!
//! A value whose name sounds like a secret, or that a pointer leads to, becomes `"[redacted]"`; so does, within any string, what
//! looks like one. All else stays byte for byte. JSON within strings is looked into, since tools repeat their structured results
//! there. This is a net with known holes: what neither name nor form betrays stays.

use std::borrow::Cow;

use bytes::Bytes;
use regex::Regex;
use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;

use super::pointer::{Cursor, NotAPointer, Pointers, escaped};
use crate::protocol::headers::{PARAM_PREFIX, SESSION_ID};
use crate::protocol::scan::{DEPTH_MAX, ScanError, Scanner, Span, ValueKind, unescape};

/// What stands where something was taken out.
pub const REDACTED: &str = "[redacted]";

/// How deep JSON within strings of JSON is looked into.
const NESTED_MAX: usize = 8;
/// Most places of one message that are remembered; the others are counted.
const PLACES_MAX: usize = super::format::REDACTED_MAX;

/// The longest message that is remembered to compare the next one with, in bytes.
const CLEAN_MAX: usize = 4096;

/// Names of values that are taken out, unless it is said otherwise: `*` stands for anything; case, `-` and `_` do not count.
pub const KEYS: &[&str] = &[
    "*password*",
    "*passwd*",
    "*passphrase*",
    "*secret*",
    "*apikey*",
    "*accesskey*",
    "*privatekey*",
    "*credential*",
    "token",
    "*accesstoken",
    "*apitoken",
    "*authtoken",
    "*bearertoken",
    "*idtoken",
    "*refreshtoken",
    "*sessiontoken",
    "authorization",
    "proxyauthorization",
    "connectionstring",
    "cookie",
    "setcookie",
];

/// Forms of secrets that are taken out of strings, unless it is said otherwise.
pub const PATTERNS: &[&str] = &[
    // JSON web tokens.
    r"(?-u:\b)eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    // Keys of AWS, Google, OpenAI and others, GitHub, GitLab, Slack, npm, Stripe.
    r"(?-u:\b)(?:AKIA|ASIA)[A-Z0-9]{16}(?-u:\b)",
    r"(?-u:\b)AIza[A-Za-z0-9_-]{35}",
    r"(?-u:\b)sk-[A-Za-z0-9_-]{20,}",
    r"(?-u:\b)gh[pousr]_[A-Za-z0-9]{30,}",
    r"(?-u:\b)github_pat_[A-Za-z0-9_]{30,}",
    r"(?-u:\b)glpat-[A-Za-z0-9_-]{20,}",
    r"(?-u:\b)xox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"(?-u:\b)npm_[A-Za-z0-9]{36}",
    r"(?-u:\b)[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"(?i)(?-u:\b)(?:bearer|basic)\s+[A-Za-z0-9._~+/-]{16,}=*",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?",
];

/// Headers that are recorded; of all others not even the name is.
const HEADERS: &[&str] = &[
    "accept",
    "allow",
    "cache-control",
    "content-encoding",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "origin",
    "retry-after",
    "user-agent",
    "www-authenticate",
];

/// Members whose names describe values and are none themselves: names in a schema say what a tool takes.
const SCHEMAS: &[&str] = &["inputSchema", "outputSchema", "requestedSchema"];

/// What is to be taken out.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Whether [`KEYS`] and [`PATTERNS`] are in force too.
    pub defaults: bool,
    /// Names of values, as in [`KEYS`].
    pub keys: Vec<String>,
    /// Pointers into messages, such as `/params/arguments/pin`; see [`Pointers`].
    pub pointers: Vec<String>,
    /// Regular expressions: what they match within strings.
    pub patterns: Vec<String>,
    /// Headers that are not recorded although they would be, as in [`KEYS`].
    pub headers: Vec<String>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { defaults: true, keys: vec![], pointers: vec![], patterns: vec![], headers: vec![] }
    }
}

/// A rule that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// A pointer.
    #[error(transparent)]
    Pointer(#[from] NotAPointer),
    /// A pattern.
    #[error("`{pattern}` is no regular expression: {error}")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        #[source]
        error: regex::Error,
    },
}

/// Takes secrets out.
#[derive(Debug, Clone)]
pub struct Redactor {
    rules: Rules,
    /// All names of secrets.
    keys: Option<Regex>,
    pointers: Pointers,
    /// All patterns as alternatives of one.
    patterns: Option<Regex>,
    /// Finds whatever may be such a name, or is of such a form, in a message that has no escapes. `None` if it would not do to look for
    /// these.
    suspects: Option<meta::Regex>,
    /// No name of a secret has digits in it.
    digits_say_nothing: bool,
    headers: Option<Regex>,
}

/// What is left of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The message; the very same bytes if nothing was taken out.
    pub bytes: Bytes,
    /// Pointers to what was taken out, in order; of what is no JSON, empty ones.
    pub places: Vec<String>,
    /// How many places there are besides.
    pub more: u64,
}

/// What becomes of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// It is recorded, with this value.
    Kept(String),
    /// Its value must not be recorded, but which are the same may be told: a session id.
    Pseudonym,
    /// It is not recorded.
    Dropped,
}

impl Redactor {
    /// Makes rules ready for use.
    ///
    /// # Errors
    /// One of them makes no sense.
    pub fn new(rules: Rules) -> Result<Redactor, RuleError> {
        let defaults = |all: &'static [&'static str]| if rules.defaults { all } else { &[] };
        let all_keys = || rules.keys.iter().map(String::as_str).chain(defaults(KEYS).iter().copied());
        let keys = regex(names("^(?:", all_keys(), ".*", ")$"))?;
        let headers = regex(names("^(?:", rules.headers.iter().map(String::as_str), ".*", ")$"))?;
        for pattern in &rules.patterns {
            regex(Some(pattern.clone()))?;
        }
        let all: Vec<&str> =
            rules.patterns.iter().map(String::as_str).chain(defaults(PATTERNS).iter().copied()).collect();
        let joined = all.iter().map(|pattern| format!("(?:{pattern})")).collect::<Vec<_>>().join("|");
        let joined = Some(joined).filter(|joined| !joined.is_empty());
        // Patterns of one's own may say where a string begins or ends.
        let suspects = match rules.patterns.is_empty() && rules.pointers.is_empty() {
            true => {
                let both = [names(r#""(?:"#, all_keys(), r#"[^"]*"#, r#")"\s*:"#), joined.clone()];
                suspects(&both.into_iter().flatten().collect::<Vec<_>>())
            }
            false => None,
        };
        let patterns = regex(joined)?;
        let pointers = Pointers::parse(rules.pointers.iter().map(String::as_str))?;
        let digits_say_nothing = !rules.keys.iter().any(|key| key.contains(|c: char| c.is_ascii_digit()));
        Ok(Redactor { keys, pointers, patterns, suspects, digits_say_nothing, headers, rules })
    }

    /// The rules in a few words, for the header of a tape: their kinds, and how many were given.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let counted = |what: &str, count: usize| (count > 0).then(|| format!("{what}: {count}"));
        let defaults = self.rules.defaults.then(|| "defaults".to_owned());
        let Rules { keys, pointers, patterns, headers, .. } = &self.rules;
        let given = [
            counted("keys", keys.len()),
            counted("pointers", pointers.len()),
            counted("patterns", patterns.len()),
            counted("headers", headers.len()),
        ];
        defaults.into_iter().chain(given.into_iter().flatten()).collect()
    }

    /// Takes the secrets out of a message. What is no JSON is one string to it; what is not even UTF-8 is left out entirely if a
    /// pattern finds something in it.
    #[must_use]
    pub fn message(&self, bytes: &Bytes) -> Redacted {
        let unchanged = || Redacted { bytes: bytes.clone(), places: Vec::new(), more: 0 };
        let Ok(text) = std::str::from_utf8(bytes) else {
            let found = self.text(&String::from_utf8_lossy(bytes)).is_some();
            return if found { self.whole(REDACTED.to_owned()) } else { unchanged() };
        };
        if self.is_beyond_suspicion(text) {
            return unchanged();
        }
        self.walked(bytes, text)
    }

    /// The same, for one message after another: of two that differ in an id only, as what comes in and what goes out do, the second is
    /// not searched. `clean` is empty at first, and then the last that there was nothing in; it never gets longer than `CLEAN_MAX`.
    pub(crate) fn next_message(&self, bytes: &Bytes, clean: &mut Vec<u8>) -> Option<Redacted> {
        if self.digits_say_nothing && differ_by_number(clean, bytes) {
            return None;
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return Some(self.message(bytes)) };
        if !self.is_beyond_suspicion(text) {
            return Some(self.walked(bytes, text));
        }
        if bytes.len() <= CLEAN_MAX {
            clean.clear();
            clean.extend_from_slice(bytes);
        }
        None
    }

    fn walked(&self, bytes: &Bytes, text: &str) -> Redacted {
        let unchanged = || Redacted { bytes: bytes.clone(), places: Vec::new(), more: 0 };
        match self.json(text, self.pointers.root(), 0) {
            Ok(walk) if walk.splices.is_empty() => unchanged(),
            Ok(walk) => Redacted { bytes: walk.spliced().into(), places: walk.places, more: walk.more },
            Err(_) => self.text(text).map_or_else(unchanged, |left| self.whole(left)),
        }
    }

    /// Whether there is nothing to take out of a message, as most often can be seen without looking at its values one by one: where
    /// nothing is escaped, what is in a string, or is a name, stands there as it is.
    fn is_beyond_suspicion(&self, text: &str) -> bool {
        self.suspects
            .as_ref()
            .is_some_and(|suspects| memchr::memchr(b'\\', text.as_bytes()).is_none() && !suspects.is_match(text))
    }

    fn whole(&self, left: String) -> Redacted {
        Redacted { bytes: left.into(), places: vec![String::new()], more: 0 }
    }

    /// Takes the secrets out of a text that is no JSON. `None` if there are none.
    #[must_use]
    pub fn text(&self, text: &str) -> Option<String> {
        match self.patterns.as_ref()?.replace_all(text, REDACTED) {
            Cow::Borrowed(_) => None,
            Cow::Owned(left) => Some(left),
        }
    }

    /// Whether there are values of a header with which something of it is recorded. `name` is in lower case.
    pub(crate) fn may_record(name: &str) -> bool {
        name == SESSION_ID || HEADERS.contains(&name) || name.starts_with(PARAM_PREFIX)
    }

    /// What becomes of a header. `name` is in lower case.
    #[must_use]
    pub fn header(&self, name: &str, value: &str) -> Header {
        if name == SESSION_ID {
            return Header::Pseudonym;
        }
        // They repeat arguments of tools.
        let secret = name.strip_prefix(PARAM_PREFIX).is_some_and(|param| self.is_secret(param));
        if !Redactor::may_record(name) || secret || is_one_of(&self.headers, name) {
            return Header::Dropped;
        }
        Header::Kept(self.text(value).unwrap_or_else(|| value.to_owned()))
    }

    fn is_secret(&self, key: &str) -> bool {
        is_one_of(&self.keys, key)
    }

    fn json<'t>(&self, text: &'t str, at: Cursor<'_>, nested: usize) -> Result<Walk<'_, 't>, ScanError> {
        if u32::try_from(text.len()).is_err() {
            return Err(ScanError::Syntax(0));
        }
        let mut walk = Walk {
            redactor: self,
            text,
            nested,
            path: String::new(),
            splices: Vec::new(),
            places: Vec::new(),
            more: 0,
        };
        let mut scanner = Scanner::new(text.as_bytes(), DEPTH_MAX);
        scanner.white();
        walk.value(&mut scanner, 0, &at, Names::Count)?;
        scanner.end()?;
        Ok(walk)
    }
}

/// Whether the names of values count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Count,
    /// A secret's name was above: every value is one.
    Betray,
    /// Within a schema, names name no values.
    Describe,
}

/// Whether two messages differ in one number at most, and in nothing else: in what stands between a colon and a comma or a brace, and is
/// all digits. No suspicious name or form of ours has a colon in it, and digits around it, so that what holds for one holds for both. (Whether
/// the number stands in a string does not matter.)
fn differ_by_number(clean: &[u8], text: &[u8]) -> bool {
    let same = clean.iter().zip(text).take_while(|(one, other)| one == other).count();
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let start = same - digits_at_end(&clean[..same]);
    let (one, other) = (&clean[start..], &text[start..]);
    let (ones, others) = (digits(one), digits(other));
    let rest = &one[ones..];
    clean[..start].ends_with(b":")
        && ones > 0
        && others > 0
        && matches!(rest.first(), Some(b',' | b'}'))
        && rest == &other[others..]
}

fn digits_at_end(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count()
}

struct Walk<'r, 't> {
    redactor: &'r Redactor,
    text: &'t str,
    nested: usize,
    path: String,
    splices: Vec<(Span, String)>,
    places: Vec<String>,
    more: u64,
}

impl Walk<'_, '_> {
    fn value(
        &mut self,
        scanner: &mut Scanner<'_>,
        depth: usize,
        at: &Cursor<'_>,
        names: Names,
    ) -> Result<(Span, ValueKind), ScanError> {
        let start = scanner.pos();
        let kind = scanner.kind()?;
        if at.is_hit() {
            let (span, kind) = scanner.value(depth)?;
            self.replace(span, format!("\"{REDACTED}\""));
            return Ok((span, kind));
        }
        match kind {
            ValueKind::Object => {
                scanner.object(depth, |scanner, (key, escaped_key), depth| {
                    let raw = &self.text[key.start as usize..key.end as usize];
                    let name = match escaped_key {
                        true => Cow::Owned(unescape(raw.as_bytes()).unwrap_or_else(|| raw.to_owned())),
                        false => Cow::Borrowed(raw),
                    };
                    let names = match names {
                        Names::Count if SCHEMAS.contains(&&*name) => Names::Describe,
                        Names::Count if self.redactor.is_secret(&name) => Names::Betray,
                        names => names,
                    };
                    self.below(scanner, depth, &name, at, names)
                })?;
            }
            ValueKind::Array => {
                let mut index = 0_usize;
                scanner.array(depth, |scanner, depth| {
                    self.below(scanner, depth, &index.to_string(), at, names)?;
                    index += 1;
                    Ok(())
                })?;
            }
            ValueKind::String => {
                let span = scanner.value(depth)?.0;
                self.string(span, names);
            }
            ValueKind::Number if names == Names::Betray => {
                let span = scanner.value(depth)?.0;
                self.replace(span, format!("\"{REDACTED}\""));
            }
            ValueKind::Number | ValueKind::Bool | ValueKind::Null => {
                scanner.value(depth)?;
            }
        }
        Ok((Span::new(start, scanner.pos()), kind))
    }

    fn below(
        &mut self,
        scanner: &mut Scanner<'_>,
        depth: usize,
        name: &str,
        at: &Cursor<'_>,
        names: Names,
    ) -> Result<(Span, ValueKind), ScanError> {
        let length = self.path.len();
        self.path.push('/');
        self.path.push_str(&escaped(name));
        let found = self.value(scanner, depth, &at.step(name), names);
        self.path.truncate(length);
        found
    }

    fn string(&mut self, span: Span, names: Names) {
        let raw = &self.text[span.start as usize + 1..span.end as usize - 1];
        if names == Names::Betray {
            // An empty one, or one that has been taken out before, holds nothing.
            if !raw.is_empty() && raw != REDACTED {
                self.replace(span, format!("\"{REDACTED}\""));
            }
            return;
        }
        let text = match memchr::memchr(b'\\', raw.as_bytes()) {
            Some(_) => unescape(raw.as_bytes()).map_or(Cow::Borrowed(raw), Cow::Owned),
            None => Cow::Borrowed(raw),
        };
        if self.nested < NESTED_MAX
            && text.trim_start().starts_with(['{', '[', '"'])
            // A pointer leads to a place of the message, and to none of what its strings say.
            && let Ok(walk) = self.redactor.json(&text, Pointers::default().root(), self.nested + 1)
        {
            if !walk.splices.is_empty() {
                self.replace(span, quoted(&walk.spliced()));
            }
            return;
        }
        if let Some(left) = self.redactor.text(&text) {
            self.replace(span, quoted(&left));
        }
    }

    fn replace(&mut self, span: Span, json: String) {
        self.splices.push((span, json));
        if self.places.len() < PLACES_MAX {
            self.places.push(self.path.clone());
        } else {
            self.more += 1;
        }
    }

    /// The text with what was taken out replaced.
    fn spliced(&self) -> String {
        let mut left = String::with_capacity(self.text.len());
        let mut copied = 0;
        for (span, json) in &self.splices {
            left.push_str(&self.text[copied..span.start as usize]);
            left.push_str(json);
            copied = span.end as usize;
        }
        left.push_str(&self.text[copied..]);
        left
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn is_one_of(names: &Option<Regex>, name: &str) -> bool {
    names.as_ref().is_some_and(|names| names.is_match(name))
}

fn regex(pattern: Option<String>) -> Result<Option<Regex>, RuleError> {
    let Some(pattern) = pattern else { return Ok(None) };
    Ok(Some(Regex::new(&pattern).map_err(|error| RuleError::Pattern { pattern, error })?))
}

/// What finds any of these; without it each value is looked at.
fn suspects(patterns: &[String]) -> Option<meta::Regex> {
    // Messages are full of what such a name or form may begin with: to go from one of these to the next costs more than to look at
    // every byte.
    let config = meta::Config::new().auto_prefilter(false).which_captures(WhichCaptures::None);
    meta::Builder::new().configure(config).build_many(patterns).ok()
}

/// The pattern of the names that one of these means, in which `*` stands for `anything`. `None` if there are none.
fn names<'g>(before: &str, globs: impl Iterator<Item = &'g str>, anything: &str, behind: &str) -> Option<String> {
    let ignored = "[-_]*";
    let part = |part: &str| {
        let letters = part.chars().filter(|c| !matches!(c, '-' | '_'));
        letters.map(|letter| regex::escape(&letter.to_string()) + ignored).collect::<String>()
    };
    let glob = |glob: &str| ignored.to_owned() + &glob.split('*').map(part).collect::<Vec<_>>().join(anything);
    let all = globs.map(glob).collect::<Vec<_>>();
    (!all.is_empty()).then(|| format!("(?is:{before}{}{behind})", all.join("|")))
}

#[cfg(test)]
mod tests;
