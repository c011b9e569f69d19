//! Structured results that are no objects, within objects: `{"result": …}`. Up to 2025-11-25 an `outputSchema` is one of an object
//! and `structuredContent` is one (Tools › Output Schema); in 2026-07-28 both can be anything.
//!
//! What a schema says of itself by a pointer (`#/…`) is somewhere else then. All else stays: names (`#name`), other documents, parts
//! that are documents of their own (`$id`), and what is data (`const`, `enum`, `default`, `examples`).

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::quoted;

/// Where the schema, or the value, is.
const PLACE: &str = "result";
const POINTER: &str = "#/properties/result";

/// Keywords whose value has names of the author's own, each with a schema.
const MAPS: [&str; 6] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
/// Keywords whose value is data.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords that name another schema.
const REFERENCES: [&str; 2] = ["$ref", "$dynamicRef"];

/// The tools of which a client was told a schema that is wrapped: what they result in has to be wrapped, too.
#[derive(Debug, Default)]
pub(crate) struct Wrapped {
    names: BTreeSet<Box<str>>,
    bytes: usize,
}

impl Wrapped {
    /// How much is remembered of one session, in bytes of names.
    const BYTES_MAX: usize = 64 << 10;

    /// Whether this one is.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// How many bytes of names there is room for.
    pub(crate) fn room(&self) -> usize {
        Self::BYTES_MAX - self.bytes
    }

    /// The client was told of a tool, and whether its schema is wrapped.
    pub(crate) fn told(&mut self, name: &str, is_wrapped: bool) {
        if !is_wrapped {
            if self.names.remove(name) {
                self.bytes -= name.len();
            }
        } else if name.len() <= self.room() && self.names.insert(name.into()) {
            self.bytes += name.len();
        }
    }
}

/// A value within an object.
pub(super) fn value(json: &str) -> String {
    format!(r#"{{"{PLACE}":{json}}}"#)
}

/// A schema (JSON) as that of an object with one member. `None` if it cannot be said there.
pub(super) fn schema(json: &RawValue) -> Option<String> {
    let text = json.get();
    // A schema of `true` or `false` is none for all clients, not even within another.
    let (dialect, inner) = match text {
        "true" => (None, "{}".to_owned()),
        "false" => (None, r#"{"not":{}}"#.to_owned()),
        _ if text.starts_with('{') => {
            let Members(members) = serde_json::from_str(text).ok()?;
            let dialect = members.iter().find(|(name, _)| name == "$schema").map(|(_, value)| value.get());
            let kept: Vec<_> = members.into_iter().filter(|(name, _)| name != "$schema").collect();
            let mut inner = String::with_capacity(text.len());
            moved_object(&kept, &mut inner)?;
            (dialect, inner)
        }
        _ => return None,
    };
    let dialect = dialect.map(|dialect| format!(r#""$schema":{dialect},"#)).unwrap_or_default();
    Some(format!(r#"{{{dialect}"type":"object","properties":{{"{PLACE}":{inner}}},"required":["{PLACE}"]}}"#))
}

/// A schema that has been moved. `None` if it says something that cannot be.
fn moved(json: &RawValue, out: &mut String) -> Option<()> {
    let text = json.get();
    match text.as_bytes().first()? {
        b'{' => moved_object(&serde_json::from_str::<Members<'_>>(text).ok()?.0, out),
        b'[' => {
            let all: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push('[');
            for (at, one) in all.into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                moved(one, out)?;
            }
            out.push(']');
            Some(())
        }
        _ => {
            out.push_str(text);
            Some(())
        }
    }
}

fn moved_object(members: &[Member<'_>], out: &mut String) -> Option<()> {
    let is_document = members.iter().any(|(name, value)| name == "$id" && is_address(value));
    object(members, out, |name, value, out| match name {
        _ if is_document || DATA.contains(&name) => {
            out.push_str(value.get());
            Some(())
        }
        // It means the whole, which is another thing then, and there is no other word for it.
        "$recursiveRef" => None,
        _ if REFERENCES.contains(&name) => {
            match serde_json::from_str::<String>(value.get()) {
                Ok(target) if target == "#" || target.starts_with("#/") => {
                    out.push_str(&quoted(format!("{POINTER}{}", &target[1..])));
                }
                _ => out.push_str(value.get()),
            }
            Some(())
        }
        _ if MAPS.contains(&name) && value.get().starts_with('{') => {
            let Members(schemas) = serde_json::from_str(value.get()).ok()?;
            object(&schemas, out, |_, schema, out| moved(schema, out))
        }
        _ => moved(value, out),
    })
}

/// Writes an object, each member as `write` has it.
fn object(
    members: &[Member<'_>],
    out: &mut String,
    write: impl Fn(&str, &RawValue, &mut String) -> Option<()>,
) -> Option<()> {
    out.push('{');
    for (at, (name, value)) in members.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        out.push_str(&quoted(name.as_str()));
        out.push(':');
        write(name, value, out)?;
    }
    out.push('}');
    Some(())
}

/// Whether an `$id` makes what it stands in a document of its own: up to draft 7 one like `#name` was only a name.
fn is_address(id: &RawValue) -> bool {
    serde_json::from_str::<String>(id.get()).is_ok_and(|id| !id.is_empty() && !id.starts_with('#'))
}

type Member<'a> = (String, &'a RawValue);

/// The members of an object as they follow on each other.
struct Members<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn wrapped(schema: &str) -> Option<String> {
        super::schema(&serde_json::from_str::<Box<RawValue>>(schema).unwrap())
    }

    /// What is moved and what is not, keyword by keyword (JSON Schema 2020-12, Core 8.2).
    #[test]
    fn a_schema_says_the_same_of_itself_elsewhere() {
        let rows = [
            (r#"{"type":"array","n":1.50}"#, r#"{"type":"array","n":1.50}"#),
            (r##"{"$ref":"#"}"##, r##"{"$ref":"#/properties/result"}"##),
            (r##"{"items":{"$ref":"#/$defs/a~1b"}}"##, r##"{"items":{"$ref":"#/properties/result/$defs/a~1b"}}"##),
            (r##"{"\u0024ref":"\u0023/a"}"##, r##"{"$ref":"#/properties/result/a"}"##),
            (r##"{"anyOf":[{"$dynamicRef":"#/x"}]}"##, r##"{"anyOf":[{"$dynamicRef":"#/properties/result/x"}]}"##),
            (r##"{"$ref":"#name"}"##, r##"{"$ref":"#name"}"##),
            (r##"{"$ref":"https://a/b#/c"}"##, r##"{"$ref":"https://a/b#/c"}"##),
            (r##"{"const":{"$ref":"#"},"enum":[{"$ref":"#"}]}"##, r##"{"const":{"$ref":"#"},"enum":[{"$ref":"#"}]}"##),
            (
                r##"{"default":{"$ref":"#"},"examples":[{"$ref":"#"}]}"##,
                r##"{"default":{"$ref":"#"},"examples":[{"$ref":"#"}]}"##,
            ),
            // What a property is called says nothing.
            (
                r##"{"properties":{"const":{"$ref":"#"},"$ref":{"$ref":"#/a"},"$id":{"$ref":"#"}}}"##,
                r##"{"properties":{"const":{"$ref":"#/properties/result"},"$ref":{"$ref":"#/properties/result/a"},"$id":{"$ref":"#/properties/result"}}}"##,
            ),
            (r##"{"items":{"$id":"b","$ref":"#/c"}}"##, r##"{"items":{"$id":"b","$ref":"#/c"}}"##),
            (r##"{"$id":"https://a","items":{"$ref":"#/c"}}"##, r##"{"$id":"https://a","items":{"$ref":"#/c"}}"##),
            (
                r##"{"$id":"#name","items":{"$ref":"#/c"}}"##,
                r##"{"$id":"#name","items":{"$ref":"#/properties/result/c"}}"##,
            ),
            ("true", "{}"),
            ("false", r#"{"not":{}}"#),
        ];
        for (schema, inner) in rows {
            let expected = format!(r#"{{"type":"object","properties":{{"result":{inner}}},"required":["result"]}}"#);
            assert_eq!(wrapped(schema).as_deref(), Some(expected.as_str()), "{schema}");
        }
        insta::assert_snapshot!(wrapped(r#"{"type":"array","$schema":"http://json-schema.org/draft-07/schema#"}"#).unwrap(),
            @r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"result":{"type":"array"}},"required":["result"]}"#);
        for other in [r##"{"$recursiveRef":"#"}"##, "[]", "7", "null"] {
            assert_eq!(wrapped(other), None, "{other}");
        }
    }

    /// Any schema whose references lead somewhere, and where they lead.
    fn schemas() -> impl Strategy<Value = Value> {
        let reference =
            prop::sample::select(vec!["#", "#/$defs/a", "#/$defs/b/items", "#name", "https://x/y#/z", "other"]);
        let leaf = prop_oneof![
            Just(json!({ "type": "string" })),
            Just(json!(true)),
            reference.clone().prop_map(|to| json!({ "$ref": to, "title": "t" })),
            reference.clone().prop_map(|to| json!({ "const": { "$ref": to }, "examples": [{ "$ref": to }] })),
            reference.prop_map(|to| json!({ "$id": "https://own", "items": { "$ref": to } })),
        ];
        let name = prop::sample::select(vec!["a", "$ref", "const", "$id", "properties"]);
        let schema = leaf.prop_recursive(4, 32, 4, move |inner| {
            let map = prop::collection::btree_map(name.clone(), inner.clone(), 0..3)
                .prop_map(|all| Value::Object(all.into_iter().map(|(name, one)| (name.to_owned(), one)).collect()));
            prop_oneof![
                inner.clone().prop_map(|one| json!({ "type": "array", "items": one })),
                prop::collection::vec(inner, 1..3).prop_map(|all| json!({ "anyOf": all })),
                map.clone().prop_map(|all| json!({ "properties": all })),
                map.prop_map(|all| json!({ "dependentSchemas": all, "enum": [1.5, null] })),
            ]
        });
        (schema.clone(), schema.clone(), schema, any::<bool>()).prop_map(|(root, a, b, named)| {
            let mut root = match root {
                Value::Object(root) => root,
                _ => Map::new(),
            };
            root.insert("$defs".into(), json!({ "a": a, "b": { "items": b, "$anchor": "name" } }));
            if named {
                root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
            }
            Value::Object(root)
        })
    }

    /// All schemas in one, by the pointers to them, but for documents of their own: an independent reading of what is a schema.
    fn places<'a>(at: &str, schema: &'a Value, found: &mut Vec<(String, &'a Value)>) {
        found.push((at.to_owned(), schema));
        let Some(members) = schema.as_object().filter(|members| !members.get("$id").is_some_and(Value::is_string))
        else {
            return;
        };
        for (name, value) in members {
            match (name.as_str(), value) {
                ("properties" | "$defs" | "dependentSchemas", Value::Object(all)) => {
                    all.iter().for_each(|(key, one)| places(&format!("{at}/{name}/{key}"), one, found));
                }
                ("items", one) => places(&format!("{at}/items"), one, found),
                ("anyOf", Value::Array(all)) => {
                    all.iter().enumerate().for_each(|(key, one)| places(&format!("{at}/anyOf/{key}"), one, found));
                }
                _ => {}
            }
        }
    }

    proptest! {
        /// Each reference leads to the schema that it led to; nothing else has changed.
        #[test]
        fn references_lead_where_they_led(schema in schemas()) {
            let wrapped: Value = serde_json::from_str(&wrapped(&schema.to_string()).unwrap()).unwrap();
            prop_assert_eq!(&wrapped["type"], "object");
            prop_assert_eq!(wrapped.get("$schema"), schema.get("$schema"));
            let mut inner = wrapped["properties"]["result"].clone();
            let (mut before, mut after) = (Vec::new(), Vec::new());
            places("", &schema, &mut before);
            let copy = inner.clone();
            places("", &copy, &mut after);
            prop_assert_eq!(before.len(), after.len());
            for ((place, was), (other, is)) in before.iter().zip(&after) {
                prop_assert_eq!(place, other);
                let (Some(was), Some(is)) = (was["$ref"].as_str(), is["$ref"].as_str()) else { continue };
                let is_document = copy.pointer(place).is_some_and(|schema| schema["$id"].is_string());
                if let (Some(was), false) = (was.strip_prefix('#').filter(|to| to.is_empty() || to.starts_with('/')), is_document) {
                    let place = format!("/properties/result{was}");
                    prop_assert_eq!(is, format!("#{place}"));
                    prop_assert_eq!(schema.pointer(was).is_some(), wrapped.pointer(&place).is_some());
                } else {
                    prop_assert_eq!(was, is);
                }
            }
            // Back again: what was not a reference is as it was.
            for (place, _) in &after {
                let Some(schema) = inner.pointer_mut(place).and_then(Value::as_object_mut) else { continue };
                if schema.get("$id").is_none_or(|id| !id.is_string())
                    && let Some(Value::String(to)) = schema.get_mut("$ref")
                    && let Some(rest) = to.strip_prefix(POINTER)
                {
                    *to = format!("#{rest}");
                }
            }
            let mut without = schema.clone();
            without.as_object_mut().unwrap().remove("$schema");
            prop_assert_eq!(inner, without);
        }
    }

    /// What is remembered is bounded, and goes with what the client is told last.
    #[test]
    fn little_is_remembered() {
        let mut wrapped = Wrapped::default();
        wrapped.told("a", true);
        wrapped.told("a", true);
        assert!(wrapped.has("a") && !wrapped.has("b"));
        let long = "x".repeat(Wrapped::BYTES_MAX);
        wrapped.told(&long, true);
        assert!(!wrapped.has(&long));
        wrapped.told("a", false);
        assert_eq!((wrapped.has("a"), wrapped.room()), (false, Wrapped::BYTES_MAX));
    }
}
