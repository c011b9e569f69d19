//! A file as a tree with places: what TOML and JSON have in common. Reading goes through this tree and not through
//! serde because serde stops at the first fault, and because it does not say where a value stood.

use std::sync::Arc;

use jsonc_parser::ast as json;
use jsonc_parser::common::Ranged as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, FaultKind, Place};

/// A file's name and text: turns offsets into places.
pub(crate) struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
}

/// A value and the offset of its first byte.
pub(crate) struct Node {
    pub(crate) at: usize,
    pub(crate) value: Value,
}

/// What a file can say.
pub(crate) enum Value {
    Null,
    Flag(bool),
    Integer(i64),
    /// A number that is no `i64`, as written.
    Number(String),
    Text(String),
    /// Only TOML has it, and nothing takes it.
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key, where it stands, and its value.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: usize,
    pub(crate) value: Node,
}

impl Value {
    /// What it is, for a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Flag(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::Date => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &str, text: &'a str) -> Self {
        // Editors on Windows leave a mark there. Both parsers can do without it, and columns are right without it.
        Source { file: file.into(), text: text.strip_prefix('\u{feff}').unwrap_or(text) }
    }

    /// The place of the byte at `offset`.
    pub(crate) fn place(&self, offset: usize, key: &str) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Place::File { file: self.file.clone(), at: Some((line, column)), key: key.to_owned() }
    }

    /// Parses TOML. After a syntax fault there is no tree: what can be recovered of a broken document lacks things
    /// that are there, and would be blamed for it.
    pub(crate) fn toml(&self, faults: &mut Vec<Fault>) -> Option<Node> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return Some(Node { at: 0, value: toml_table(root.into_inner()) });
        }
        faults.extend(errors.iter().map(|error| Fault {
            place: self.place(error.span().map_or(0, |span| span.start), ""),
            kind: FaultKind::Syntax(error.message().to_owned()),
        }));
        None
    }

    /// Parses JSON with comments and trailing commas, which is what MCP hosts read.
    pub(crate) fn json(&self, faults: &mut Vec<Fault>) -> Option<Node> {
        let options = jsonc_parser::ParseOptions {
            allow_comments: true,
            allow_trailing_commas: true,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let fault = match jsonc_parser::parse_to_ast(self.text, &Default::default(), &options) {
            Ok(parsed) => match parsed.value {
                Some(value) => return Some(json_node(value)),
                None => Fault { place: self.place(0, ""), kind: FaultKind::Syntax("the file is empty".to_owned()) },
            },
            Err(error) => {
                Fault { place: self.place(error.range().start, ""), kind: FaultKind::Syntax(error.kind().to_string()) }
            }
        };
        faults.push(fault);
        None
    }
}

/// The path of `key` in the table at `path`; a key that could not stand bare is quoted.
pub(crate) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let dot = if path.is_empty() { "" } else { "." };
    if bare { format!("{path}{dot}{key}") } else { format!("{path}{dot}{key:?}") }
}

fn toml_table(table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry { at: key.span().start, key: key.into_inner().into_owned(), value: toml_node(value) })
        .collect();
    // The parser sorts by key; servers keep the order that the file gives them.
    entries.sort_by_key(|entry| entry.at);
    Value::Table(entries)
}

fn toml_node(spanned: Spanned<DeValue<'_>>) -> Node {
    let at = spanned.span().start;
    let value = match spanned.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) => Value::Integer(value),
            Err(_) => Value::Number(integer.to_string()),
        },
        DeValue::Float(float) => Value::Number(float.as_str().to_owned()),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(list) => Value::List(list.into_iter().map(toml_node).collect()),
        DeValue::Table(table) => toml_table(table),
    };
    Node { at, value }
}

fn json_node(value: json::Value<'_>) -> Node {
    let at = value.range().start;
    let value = match value {
        json::Value::NullKeyword(_) => Value::Null,
        json::Value::BooleanLit(literal) => Value::Flag(literal.value),
        json::Value::NumberLit(literal) => match literal.value.parse() {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Number(literal.value.to_owned()),
        },
        json::Value::StringLit(literal) => Value::Text(literal.value.into_owned()),
        json::Value::Array(list) => Value::List(list.elements.into_iter().map(json_node).collect()),
        json::Value::Object(object) => Value::Table(
            object
                .properties
                .into_iter()
                .map(|property| Entry {
                    at: property.name.range().start,
                    key: property.name.into_string(),
                    value: json_node(property.value),
                })
                .collect(),
        ),
    };
    Node { at, value }
}
