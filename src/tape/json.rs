//! JSON as a tree whose numbers are compared by value, without rounding: what `1` and `1.0` have in common, and
//! 9007199254740993 and 9007199254740992 have not.

use std::collections::BTreeMap;
use std::fmt;

use super::pointer::Cursor;
use crate::protocol::id::RequestId;
use crate::protocol::scan::{DEPTH_MAX, ScanError, Scanner, Span, ValueKind, unescape};

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number: equal by value, shown as it was written. (Ids have the same equality.)
    Number(RequestId),
    /// A string, unescaped.
    Text(String),
    /// `[…]`
    Array(Vec<Json>),
    /// `{…}`; of a key that occurs twice, the last one.
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// Reads a text.
    ///
    /// # Errors
    /// It is not JSON, or nested too deeply.
    pub fn parse(text: &[u8]) -> Result<Json, ScanError> {
        if let Err(error) = std::str::from_utf8(text) {
            return Err(ScanError::Syntax(error.valid_up_to()));
        }
        let mut scanner = Scanner::new(text, DEPTH_MAX);
        scanner.white();
        let value = read(&mut scanner, text, 0)?;
        scanner.end()?;
        Ok(value)
    }

    /// A member of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.get(name),
            _ => None,
        }
    }

    /// The elements of an array; none of anything else.
    #[must_use]
    pub fn elements(&self) -> &[Json] {
        match self {
            Json::Array(elements) => elements,
            _ => &[],
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::Text(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }

    /// The value without what the cursor points to. Members go; elements become null, so that the others keep their places.
    #[must_use]
    pub(super) fn without(self, at: &Cursor<'_>) -> Json {
        if at.is_lost() {
            return self;
        }
        if at.is_hit() {
            return Json::Null;
        }
        match self {
            Json::Object(members) => Json::Object(
                members
                    .into_iter()
                    .filter_map(|(name, value)| {
                        let below = at.step(&name);
                        (!below.is_hit()).then(|| (name, value.without(&below)))
                    })
                    .collect(),
            ),
            Json::Array(elements) => Json::Array(
                elements
                    .into_iter()
                    .enumerate()
                    .map(|(index, value)| {
                        let below = at.step(&index.to_string());
                        if below.is_hit() { Json::Null } else { value.without(&below) }
                    })
                    .collect(),
            ),
            other => other,
        }
    }
}

/// As compact JSON, members sorted by name.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(number) => f.write_str(number.as_json()),
            Json::Text(text) => write!(f, "{}", serde_json::Value::from(text.as_str())),
            Json::Array(elements) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if index == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Json::Object(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{}:{value}", serde_json::Value::from(name.as_str()))?;
                }
                f.write_str("}")
            }
        }
    }
}

fn read(scanner: &mut Scanner<'_>, text: &[u8], depth: usize) -> Result<Json, ScanError> {
    let start = scanner.pos();
    let kind = scanner.kind()?;
    Ok(match kind {
        ValueKind::Object => {
            let mut members = BTreeMap::new();
            scanner.object(depth, |scanner, (key, _), depth| {
                let start = scanner.pos();
                let kind = scanner.kind()?;
                let value = read(scanner, text, depth)?;
                members.insert(string(key.of(text)), value);
                Ok((Span::new(start, scanner.pos()), kind))
            })?;
            Json::Object(members)
        }
        ValueKind::Array => {
            let mut elements = Vec::new();
            scanner.array(depth, |scanner, depth| {
                elements.push(read(scanner, text, depth)?);
                Ok(())
            })?;
            Json::Array(elements)
        }
        ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::Null => {
            let span = scanner.value(depth)?.0;
            let raw = span.of(text);
            match kind {
                ValueKind::String => Json::Text(string(&raw[1..raw.len() - 1])),
                ValueKind::Number => {
                    let number = std::str::from_utf8(raw).ok().and_then(RequestId::from_json);
                    number.map(Json::Number).ok_or(ScanError::Syntax(start))?
                }
                ValueKind::Bool => Json::Bool(raw == b"true"),
                _ => Json::Null,
            }
        }
    })
}

/// A string; of one that is not Unicode, what stands between its quotes.
fn string(between_quotes: &[u8]) -> String {
    if memchr::memchr(b'\\', between_quotes).is_none() {
        return String::from_utf8_lossy(between_quotes).into_owned();
    }
    unescape(between_quotes).unwrap_or_else(|| String::from_utf8_lossy(between_quotes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn values_are_equal_whatever_their_spelling() {
        let same = [
            (r#"{"a":1,"b":[2.50]}"#, r#"{ "b" : [ 25e-1 ], "\u0061" : 1.0 }"#),
            (r#""\u00e9\/""#, r#""é/""#),
            ("[-0]", "[0.0e7]"),
        ];
        for (one, other) in same {
            assert_eq!(json(one), json(other));
        }
        let different =
            [("9007199254740993", "9007199254740992"), ("1", "\"1\""), ("[1,2]", "[2,1]"), ("1e400", "1e401")];
        for (one, other) in different {
            assert_ne!(json(one), json(other));
        }
    }

    #[test]
    fn it_is_shown_compact_and_sorted() {
        assert_eq!(
            json("{\"b\" : [ 1.0, true,null ], \"a\\n\":\"x\\\"\"}").to_string(),
            r#"{"a\n":"x\"","b":[1.0,true,null]}"#
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "[1,]", "nul", "1 2", "\"\u{1}\""] {
            assert!(Json::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Json::parse(&[vec![b'['; 10_000], vec![b']'; 10_000]].concat()).is_err());
        assert!(Json::parse(b"\"\xff\"").is_err());
    }
}
