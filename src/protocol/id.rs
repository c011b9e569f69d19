//! Request ids and progress tokens: compared by value, echoed by text.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::scan::unescape;

/// A JSON-RPC id or an MCP progress token: a string or a number, with the text it was written with. Cheap to clone.
///
/// Two are equal if they are the same JSON value: `1` and `1.0` are, `1` and `"1"` are not
/// (MCP 2025-11-25, Basic › Requests). What goes back to a peer is always its own text.
#[derive(Clone)]
pub struct RequestId {
    text: Arc<str>,
    value: Value,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Value {
    /// An integer that fits: by far the most common.
    Integer(i64),
    /// Any other number: sign, digits without zeros at either end, power of ten.
    Number {
        negative: bool,
        digits: Arc<str>,
        exponent: i64,
    },
    Text(Arc<str>),
}

impl RequestId {
    /// Reads an id from the text of a JSON string or number. `None` for anything else.
    ///
    /// The text must already be known to be valid JSON (the scanner has been over it).
    pub fn from_json(text: &str) -> Option<RequestId> {
        let value = match text.as_bytes().first()? {
            b'"' => {
                let inner = text.get(1..text.len().checked_sub(1)?)?;
                // A lone surrogate has no value of its own; its text stands for it.
                Value::Text(unescape(inner.as_bytes()).map_or_else(|| text.into(), Into::into))
            }
            b'-' | b'0'..=b'9' => number(text),
            _ => return None,
        };
        Some(RequestId { text: text.into(), value })
    }

    /// An integer id.
    pub fn from_integer(value: i64) -> RequestId {
        RequestId { text: value.to_string().into(), value: Value::Integer(value) }
    }

    /// The id as it was written: JSON text.
    pub fn as_json(&self) -> &str {
        &self.text
    }

    /// The id as an integer *written as one*; answers with `1.0` or `"1"` for `1` are not ours.
    pub fn as_integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }
}

fn number(text: &str) -> Value {
    if let Ok(integer) = text.parse::<i64>() {
        return Value::Integer(integer);
    }
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().unwrap_or(i64::MAX / 2)),
        None => (text, 0),
    };
    let negative = mantissa.starts_with('-');
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let trimmed = digits.trim_end_matches('0');
    let exponent = exponent
        .saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX))
        .saturating_add(i64::try_from(digits.len() - trimmed.len()).unwrap_or(i64::MAX));
    if trimmed.is_empty() {
        return Value::Integer(0);
    }
    // A small integer in another spelling (`1.0`, `1e2`) is that integer.
    if (0..=18).contains(&exponent) && trimmed.len() + exponent as usize <= 18 {
        let mut plain = String::with_capacity(20);
        if negative {
            plain.push('-');
        }
        plain.push_str(trimmed);
        plain.extend(std::iter::repeat_n('0', exponent as usize));
        if let Ok(integer) = plain.parse() {
            return Value::Integer(integer);
        }
    }
    Value::Number { negative, digits: trimmed.into(), exponent }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for RequestId {}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::RequestId;

    fn id(text: &str) -> RequestId {
        RequestId::from_json(text).unwrap()
    }

    /// Ids compare by value, whatever their spelling, and a string is never a number (Basic › Requests).
    #[test]
    fn equal_by_value_and_type() {
        for (a, b) in
            [("1", "1.0"), ("100", "1e2"), ("0", "-0"), ("0", "0.0e9"), ("\"a\"", "\"\\u0061\""), ("1.50", "15e-1")]
        {
            assert_eq!(id(a), id(b), "{a} {b}");
        }
        for (a, b) in [
            ("1", "\"1\""),
            ("1", "-1"),
            ("9007199254740993", "9007199254740992"),
            ("18446744073709551616", "18446744073709551617"),
            ("1e400", "1e401"),
        ] {
            assert_ne!(id(a), id(b), "{a} {b}");
        }
    }

    #[test]
    fn echoed_by_text() {
        for text in ["1.0", "1E5", "\"\\u0061\"", "9007199254740993", "\"\\ud800\""] {
            assert_eq!(id(text).as_json(), text);
        }
    }

    #[test]
    fn only_strings_and_numbers() {
        for text in ["null", "true", "{}", "[]", ""] {
            assert!(RequestId::from_json(text).is_none(), "{text}");
        }
    }
}
