//! The JSON schema of the configuration file, for editors: made from the same tables that the reader uses.

use serde_json::{Map, Value, json};

use super::keys::{Key, Kind, SERVER, TOP};
use super::values;
use crate::settings::{
    BridgeReuse, EraChoice, HttpTransport, Isolation, Limits, OnCrash, RecordEdges, RecordPolicy, Reuse, Structured,
    Timeouts,
};

/// The JSON schema of the configuration file.
///
/// What it refuses is refused when the file is read. The reverse holds as far as a schema can say it: the ranges of
/// times and of sizes with units, names of headers and the like are only checked by the reader.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table(TOP);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("shadowcat configuration"));
    Value::Object(schema)
}

fn table<T>(keys: &[Key<T>]) -> Map<String, Value> {
    closed(keys.iter().map(|key| (key.name, with_about(key.about, of(&key.kind)))))
}

fn of<T>(kind: &Kind<T>) -> Map<String, Value> {
    match kind {
        Kind::Flag(_) => object(json!({"type": "boolean"})),
        Kind::Count(range, _) => object(json!({"type": "integer", "minimum": range.start(), "maximum": range.end()})),
        Kind::Address(_) | Kind::AddressOrOff(_) | Kind::Text(_) | Kind::Template(_) => text(),
        Kind::Texts(_) | Kind::Templates(_) => object(json!({"type": "array", "items": text()})),
        Kind::Pairs(_) => object(json!({"type": "object", "additionalProperties": text()})),
        Kind::Transport(_) => choice(&HttpTransport::NAMED),
        Kind::Era(_) => choice(&EraChoice::NAMED),
        Kind::Isolation(_) => choice(&Isolation::NAMED),
        Kind::Reuse(_) => choice(&Reuse::NAMED),
        Kind::BridgeReuse(_) => choice(&BridgeReuse::NAMED),
        Kind::Structured(_) => choice(&Structured::NAMED),
        Kind::OnCrash(_) => choice(&OnCrash::NAMED),
        Kind::RecordEdges(_) => choice(&RecordEdges::NAMED),
        Kind::RecordPolicy(_) => choice(&RecordPolicy::NAMED),
        Kind::Limits(_) => limits(),
        Kind::Timeouts(_) => timeouts(),
        Kind::Servers(_) => {
            let mut server = table(SERVER);
            let one_of = json!([{"required": ["command"]}, {"required": ["url"]}]);
            server.insert("oneOf".to_owned(), one_of);
            object(json!({"type": "object", "additionalProperties": server}))
        }
    }
}

fn limits() -> Map<String, Value> {
    let mut defaults = Limits::default();
    closed(Limits::NUMBERS.iter().map(|number| {
        let default = *(number.slot)(&mut defaults);
        let (min, max) = (number.range.start(), number.range.end());
        let integer = json!({"type": "integer", "minimum": min, "maximum": max});
        let (schema, shown) = if number.is_size() {
            (json!({"anyOf": [integer, text()]}), values::show_size(default))
        } else {
            (integer, default.to_string())
        };
        let about = format!("{} Default: {shown}.", number.about.trim());
        (number.name, with_about(&about, object(schema)))
    }))
}

fn timeouts() -> Map<String, Value> {
    let mut defaults = Timeouts::default();
    closed(Timeouts::NUMBERS.iter().map(|number| {
        let about = format!(
            "{} From {} to {}. Default: {}.",
            number.about.trim(),
            values::show_duration(*number.range.start()),
            values::show_duration(*number.range.end()),
            values::show_duration(*(number.slot)(&mut defaults)),
        );
        (number.name, with_about(&about, text()))
    }))
}

/// A table that takes these keys and no others.
fn closed(properties: impl Iterator<Item = (&'static str, Map<String, Value>)>) -> Map<String, Value> {
    let properties: Map<String, Value> =
        properties.map(|(name, schema)| (name.to_owned(), Value::Object(schema))).collect();
    object(json!({"type": "object", "additionalProperties": false, "properties": properties}))
}

fn with_about(about: &str, mut schema: Map<String, Value>) -> Map<String, Value> {
    schema.insert("description".to_owned(), json!(about));
    schema
}

fn choice<V>(choices: &[(&str, V)]) -> Map<String, Value> {
    object(json!({"enum": choices.iter().map(|(name, _)| *name).collect::<Vec<_>>()}))
}

fn text() -> Map<String, Value> {
    object(json!({"type": "string"}))
}

/// The map of a `json!({…})`.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
