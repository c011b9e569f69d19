//! The schema and the reader agree.

use serde_json::{Value, json};

use super::*;

/// Whether `value` fits `schema`, as far as our schemas go. A keyword that is not known here is a failure.
fn fits(schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "title" | "description" | "properties" => true,
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            other => panic!("type {other}"),
        },
        "enum" => rule.as_array().unwrap().contains(value),
        "minimum" => value.as_i64().is_none_or(|value| value >= rule.as_i64().unwrap()),
        "maximum" => value.as_i64().is_none_or(|value| value <= rule.as_i64().unwrap()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(rule, item))),
        "anyOf" => rule.as_array().unwrap().iter().any(|rule| fits(rule, value)),
        "oneOf" => rule.as_array().unwrap().iter().filter(|rule| fits(rule, value)).count() == 1,
        "required" => rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
        "additionalProperties" => value.as_object().is_none_or(|table| {
            table.iter().all(|(key, value)| match schema["properties"].get(key) {
                Some(schema) => fits(schema, value),
                None if rule.is_object() => fits(rule, value),
                None => rule.as_bool().unwrap(),
            })
        }),
        other => panic!("keyword {other}"),
    })
}

/// Whether a document with `value` at the key is read without a fault.
fn is_read(path: &[&str], value: &Value) -> bool {
    let text = toml::to_string(&document(path, value)).unwrap();
    load(&text).is_ok()
}

/// A good document with `value` at the key.
fn document(path: &[&str], value: &Value) -> Value {
    let server = match path {
        ["servers", _, "url" | "headers" | "transport" | "forward_headers"] => {
            json!({"url": "http://h"})
        }
        // There are no more spares than connections, which a schema cannot say.
        ["servers", _, "warm_spares"] => json!({"command": "x", "max_connections": 1_000}),
        _ => json!({"command": "x"}),
    };
    let mut document = json!({"servers": {"s": server}});
    // Hosts are named so that any address may be listened on, and outer waits are long.
    document["allow_hosts"] = json!(["h"]);
    document["timeouts"] = json!({"request_max": "1d"});
    let mut slot = &mut document;
    for key in path {
        slot = &mut slot[*key];
    }
    *slot = value.clone();
    if path == ["servers", "s", "url"] {
        document["servers"]["s"].as_object_mut().unwrap().remove("command");
    }
    if let ["servers", "s", key] = path
        && (key.starts_with("record_") || key.starts_with("redact_"))
    {
        document["servers"]["s"]["record"] = json!("/tapes");
    }
    document
}

/// The paths of all keys.
fn paths(schema: &Value, prefix: &[&'static str], found: &mut Vec<Vec<&'static str>>) {
    for (key, schema) in schema["properties"].as_object().unwrap() {
        let path = [prefix, &[&*key.clone().leak()]].concat();
        if schema.get("properties").is_some() {
            paths(schema, &path, found);
        } else if key == "servers" {
            paths(&schema["additionalProperties"], &["servers", "s"], found);
        } else {
            found.push(path);
        }
    }
}

/// Values of all kinds, among them a good one for every key.
fn samples() -> Vec<Value> {
    let mut samples = vec![
        json!(true),
        json!(1.5),
        json!([]),
        json!({}),
        json!([1]),
        json!(["h"]),
        json!(["https://h"]),
        json!({"K": "V"}),
        json!({"K": 1}),
        json!("127.0.0.1:1"),
        json!("off"),
        json!("/x"),
        json!("30s"),
        json!("4 KiB"),
        json!("auto"),
        json!("streamable-http"),
        json!("sse"),
        json!("legacy"),
        json!("modern"),
        json!("session"),
        json!("never"),
        json!("wrap"),
        json!("end-session"),
        json!("both"),
        json!("required"),
        json!("http://h"),
        json!("x"),
        json!("no such choice"),
    ];
    let numbers =
        [-1, 0, 1, 7, 8, 15, 16, 64, 65, 100, 128, 129, 1_000, 1_024, 8_192, 10_000, 10_001, 100_000, 100_001];
    let large = [1_000_000, 1_000_001, 16 << 20, (16 << 20) + 1, u32::MAX.into(), 1_i64 << 32];
    samples.extend(numbers.into_iter().chain(large).map(|number| json!(number)));
    samples
}

/// What the schema refuses, the reader refuses; what the schema takes and is no text, the reader takes. (What texts
/// mean, a schema cannot say.) And for each key something is taken by both.
#[test]
fn the_schema_says_what_is_read() {
    let schema = schema();
    let mut all = Vec::new();
    paths(&schema, &[], &mut all);
    assert_eq!(all.len(), 6 + Limits::NUMBERS.len() + Timeouts::NUMBERS.len() + keys::SERVER.len());
    for path in &all {
        let mut taken = 0;
        for value in samples() {
            let fits = fits(&schema, &document(path, &value));
            let read = is_read(path, &value);
            assert!(fits || !read, "{path:?} = {value}: read, but not in the schema");
            if matches!(value, Value::Number(_) | Value::Bool(_)) {
                assert_eq!(fits, read, "{path:?} = {value}: in the schema, but not read");
            }
            taken += usize::from(fits && read);
        }
        assert!(taken > 0, "{path:?}: no sample is taken");
    }
}

#[test]
fn the_schema_refuses_what_is_unknown() {
    let schema = schema();
    for path in [vec!["nope"], vec!["limits", "nope"], vec!["timeouts", "nope"], vec!["servers", "s", "nope"]] {
        let document = document(&path, &json!(1));
        assert!(!fits(&schema, &document), "{path:?}");
        assert!(!is_read(&path, &json!(1)), "{path:?}");
    }
    assert!(!fits(&schema, &json!({"servers": {"s": {}}})));
    assert!(!fits(&schema, &json!({"servers": {"s": {"command": "x", "url": "http://h"}}})));
}

/// Editors show the descriptions; this is one of each kind.
#[test]
fn the_schema_explains() {
    let schema = schema();
    let about = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"))["description"].clone();
    assert_eq!(
        about("/properties/limits/properties/body_bytes"),
        "Largest body of a client's request, in bytes (413 beyond it). Default: 4 MiB."
    );
    assert_eq!(
        about("/properties/timeouts/properties/drain"),
        "Shutdown: how long requests in flight may finish. From 10ms to 1h. Default: 20s."
    );
    assert_eq!(about("/properties/servers/additionalProperties/properties/args"), "Arguments of the program.");
}
