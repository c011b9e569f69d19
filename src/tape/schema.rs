//! The JSON schemas that the specification publishes for each revision, and whether messages keep to them. Pure.
//!
//! Of JSON Schema this knows what those schemas use, which a test sees to, and it leaves `format` alone. A schema is read when the
//! first message of its revision is looked at.

use std::collections::BTreeMap;

use super::json::Json;
use super::pointer::escaped;
use crate::protocol::revision::Revision;

/// Most faults of one message that are told.
const FAULTS_MAX: usize = 10;
/// How deep references lead into each other.
const DEPTH_MAX: usize = 128;

/// In what a message breaks its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: a JSON pointer into the message.
    pub path: String,
    /// What is wrong there.
    pub what: String,
}

/// The schema of one revision.
pub struct Schema {
    definitions: BTreeMap<String, Json>,
    /// What requests and notifications are called in it, by method.
    methods: BTreeMap<String, String>,
}

impl Schema {
    /// The schema of a revision.
    #[must_use]
    pub fn of(revision: Revision) -> Schema {
        let text = match revision {
            Revision::V2024_11_05 => include_str!("schema/2024-11-05.json"),
            Revision::V2025_03_26 => include_str!("schema/2025-03-26.json"),
            Revision::V2025_06_18 => include_str!("schema/2025-06-18.json"),
            Revision::V2025_11_25 => include_str!("schema/2025-11-25.json"),
            Revision::V2026_07_28 => include_str!("schema/2026-07-28.json"),
        };
        let mut definitions = BTreeMap::new();
        if let Ok(Json::Object(mut schema)) = Json::parse(text.as_bytes())
            && let Some(Json::Object(all)) = schema.remove("definitions").or_else(|| schema.remove("$defs"))
        {
            definitions = all;
        }
        let method = |(name, definition): (&String, &Json)| {
            let method = definition.get("properties")?.get("method")?.get("const")?.as_str()?;
            Some((method.to_owned(), name.clone()))
        };
        let methods = definitions.iter().filter_map(method).collect();
        Schema { definitions, methods }
    }

    /// Looks at a request or notification. `None` if the revision has no such method.
    #[must_use]
    pub fn check(&self, method: &str, message: &Json) -> Option<Vec<Fault>> {
        let definition = self.definitions.get(self.methods.get(method)?)?;
        Some(self.faults(&[definition], message, ""))
    }

    /// Looks at the result of a request of this method. `None` if the revision has no such method. `as_task`: the request asked for
    /// a task, which is what may be answered then (2025-11-25, Tasks).
    #[must_use]
    pub fn check_result(&self, method: &str, result: &Json, as_task: bool) -> Option<Vec<Fault>> {
        let request = self.methods.get(method)?;
        let base = request.strip_suffix("Request")?;
        let named = |name: &str| self.definitions.get(name);
        let response =
            named(&format!("{base}ResultResponse")).and_then(|response| response.get("properties")?.get("result"));
        let result_type = response.or_else(|| named(&format!("{base}Result"))).or_else(|| named("EmptyResult"))?;
        let task = as_task.then(|| named("CreateTaskResult")).flatten();
        let allowed: Vec<&Json> = [Some(result_type), task].into_iter().flatten().collect();
        Some(self.faults(&allowed, result, "/result"))
    }

    /// Looks at an error.
    #[must_use]
    pub fn check_error(&self, message: &Json) -> Vec<Fault> {
        let names = ["JSONRPCErrorResponse", "JSONRPCError"];
        let definition = names.iter().find_map(|name| self.definitions.get(*name));
        definition.map_or_else(Vec::new, |definition| self.faults(&[definition], message, ""))
    }

    fn faults(&self, allowed: &[&Json], value: &Json, path: &str) -> Vec<Fault> {
        let mut faults = self.best(allowed.iter().copied(), value, path, 0);
        faults.truncate(FAULTS_MAX);
        faults
    }

    /// What is wrong by that one of several schemas which is meant, as far as one can tell.
    fn best<'s>(&self, allowed: impl Iterator<Item = &'s Json>, value: &Json, path: &str, depth: usize) -> Vec<Fault> {
        let tried = allowed.map(|schema| {
            let mut faults = Vec::new();
            self.walk(schema, value, &mut path.to_owned(), depth, &mut faults);
            faults
        });
        // A value whose constants fit was meant to be this, even if more is wrong with it.
        let distance = |faults: &Vec<Fault>| {
            let constants = faults.iter().filter(|fault| fault.what.starts_with(CONSTANT)).count();
            (constants, faults.len())
        };
        tried.min_by_key(distance).unwrap_or_default()
    }

    fn walk(&self, schema: &Json, value: &Json, path: &mut String, depth: usize, faults: &mut Vec<Fault>) {
        let Json::Object(keywords) = schema else { return };
        let mut fault = |path: &str, what: String| faults.push(Fault { path: path.to_owned(), what });
        if depth > DEPTH_MAX {
            return fault(path, "nested too deeply".into());
        }
        if let Some(types) = keywords.get("type") {
            let one = std::slice::from_ref(types);
            let types = if types.elements().is_empty() { one } else { types.elements() };
            if !types.iter().filter_map(Json::as_str).any(|name| is_of(value, name)) {
                let names: Vec<&str> = types.iter().filter_map(Json::as_str).collect();
                // What it has to contain is of no interest then.
                return fault(path, format!("must be of type {}, and is {}", names.join(" or "), value.kind()));
            }
        }
        if let Some(constant) = keywords.get("const").filter(|constant| *constant != value) {
            fault(path, format!("{CONSTANT}{constant}"));
        }
        if let Some(names) = keywords.get("enum").filter(|names| !names.elements().contains(value)) {
            fault(path, format!("must be one of {names}"));
        }
        if let (Json::Number(number), Ok(value)) = (value, value.to_string().parse::<f64>()) {
            let bound = |name: &str| keywords.get(name).and_then(|bound| bound.to_string().parse::<f64>().ok());
            if bound("minimum").is_some_and(|least| value < least) || bound("maximum").is_some_and(|most| value > most)
            {
                fault(path, format!("{} is out of range", number.as_json()));
            }
        }
        if let (Json::Array(elements), Some(Json::Number(most))) = (value, keywords.get("maxItems"))
            && most.as_integer().is_some_and(|most| i64::try_from(elements.len()).is_ok_and(|count| count > most))
        {
            fault(path, format!("has more than {} elements", most.as_json()));
        }
        if let Some(definition) = keywords.get("$ref").and_then(|name| self.referred(name)) {
            self.walk(definition, value, path, depth + 1, faults);
        }
        for part in keywords.get("allOf").map(Json::elements).unwrap_or_default() {
            self.walk(part, value, path, depth + 1, faults);
        }
        if let Some(parts) = keywords.get("anyOf") {
            faults.extend(self.best(parts.elements().iter(), value, path, depth + 1));
        }
        match value {
            Json::Object(members) => self.members(keywords, members, path, depth, faults),
            Json::Array(elements) => {
                let Some(items) = keywords.get("items") else { return };
                for (index, element) in elements.iter().enumerate() {
                    self.below(items, element, &index.to_string(), path, depth, faults);
                }
            }
            _ => {}
        }
    }

    fn members(
        &self,
        keywords: &BTreeMap<String, Json>,
        members: &BTreeMap<String, Json>,
        path: &mut String,
        depth: usize,
        faults: &mut Vec<Fault>,
    ) {
        let required = keywords.get("required").map(Json::elements).unwrap_or_default();
        for name in required.iter().filter_map(Json::as_str).filter(|name| !members.contains_key(*name)) {
            faults.push(Fault { path: path.clone(), what: format!("lacks `{name}`") });
        }
        for (name, value) in members {
            let known = keywords.get("properties").and_then(|properties| properties.get(name));
            match (known, keywords.get("additionalProperties")) {
                (Some(schema), _) | (None, Some(schema @ Json::Object(_))) => {
                    self.below(schema, value, name, path, depth, faults);
                }
                (None, Some(Json::Bool(false))) => {
                    faults.push(Fault { path: path.clone(), what: format!("must not have `{name}`") });
                }
                _ => {}
            }
        }
    }

    fn below(&self, schema: &Json, value: &Json, name: &str, path: &mut String, depth: usize, faults: &mut Vec<Fault>) {
        if faults.len() >= FAULTS_MAX {
            return;
        }
        let length = path.len();
        path.push('/');
        path.push_str(&escaped(name));
        self.walk(schema, value, path, depth + 1, faults);
        path.truncate(length);
    }

    fn referred(&self, reference: &Json) -> Option<&Json> {
        let name = reference.as_str()?.rsplit('/').next()?;
        self.definitions.get(name)
    }
}

const CONSTANT: &str = "must be ";

fn is_of(value: &Json, name: &str) -> bool {
    match (name, value) {
        ("null", Json::Null)
        | ("boolean", Json::Bool(_))
        | ("number", Json::Number(_))
        | ("string", Json::Text(_))
        | ("array", Json::Array(_))
        | ("object", Json::Object(_)) => true,
        ("integer", Json::Number(number)) => {
            number.as_integer().is_some() || !number.as_json().contains(['.', 'e', 'E'])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(revision: Revision, method: &str, message: &str) -> Option<Vec<String>> {
        let faults = Schema::of(revision).check(method, &Json::parse(message.as_bytes()).unwrap())?;
        Some(faults.iter().map(|fault| format!("{}: {}", fault.path, fault.what)).collect())
    }

    fn result(revision: Revision, method: &str, result: &str) -> Option<Vec<String>> {
        let faults = Schema::of(revision).check_result(method, &Json::parse(result.as_bytes()).unwrap(), false)?;
        Some(faults.iter().map(|fault| format!("{}: {}", fault.path, fault.what)).collect())
    }

    /// What the schemas use, and a check does not know, would be no check.
    #[test]
    fn every_keyword_of_the_schemas_is_known() {
        fn visit(schema: &Json) {
            let Json::Object(keywords) = schema else { panic!("{schema}") };
            for (keyword, value) in keywords {
                match keyword.as_str() {
                    "properties" => match value {
                        Json::Object(properties) => properties.values().for_each(visit),
                        _ => panic!("{schema}"),
                    },
                    "items" => visit(value),
                    "additionalProperties" if matches!(value, Json::Bool(_)) => {}
                    "additionalProperties" => visit(value),
                    "anyOf" | "allOf" => value.elements().iter().for_each(visit),
                    "type" | "const" | "enum" | "required" | "minimum" | "maximum" | "maxItems" | "$ref" | "format" => {
                    }
                    other => panic!("{other}"),
                }
            }
        }
        for revision in Revision::ALL {
            let schema = Schema::of(revision);
            assert!(schema.definitions.len() > 70 && schema.methods.len() > 20, "{revision}");
            schema.definitions.values().for_each(visit);
        }
    }

    #[test]
    fn messages_that_keep_to_their_schema_do() {
        let none: Option<Vec<String>> = Some(vec![]);
        for revision in Revision::ALL.into_iter().skip(1) {
            let initialize = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"a","version":"1"}}}}}}"#
            );
            assert_eq!(told(revision, "initialize", &initialize), none, "{revision}");
            let tools =
                r#"{"tools":[{"name":"a","inputSchema":{"type":"object","properties":{"x":{"type":"string"}}}}]}"#;
            assert_eq!(result(revision, "tools/list", tools), none, "{revision}");
            assert_eq!(result(revision, "tools/call", r#"{"content":[{"type":"text","text":"x"}]}"#), none);
            assert_eq!(result(revision, "ping", "{}"), none);
            assert_eq!(told(revision, "their/own", "{}"), None);
        }
        let modern = r#"{"resultType":"complete","content":[]}"#;
        assert_eq!(result(Revision::V2026_07_28, "tools/call", modern), none);
        let asks = r#"{"resultType":"input_required","requestState":"x"}"#;
        assert_eq!(result(Revision::V2026_07_28, "tools/call", asks), none);
        let listen = r#"{"jsonrpc":"2.0","id":1.0,"result":{},"error":{"code":1,"message":"x"}}"#;
        assert_eq!(Schema::of(Revision::V2026_07_28).check_error(&Json::parse(listen.as_bytes()).unwrap()), []);
    }

    #[test]
    fn faults_say_where_and_what() {
        let revision = Revision::V2025_06_18;
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":[]}}"#;
        assert_eq!(
            told(revision, "tools/call", call).unwrap(),
            ["/params: lacks `name`", "/params/arguments: must be of type object, and is an array"]
        );
        let answer = r#"{"content":[{"type":"text","text":"a"},{"type":"text"},{"type":"image","data":1,"mimeType":"x"}],"isError":"no"}"#;
        assert_eq!(
            result(revision, "tools/call", answer).unwrap(),
            [
                "/result/content/1: lacks `text`",
                "/result/content/2/data: must be of type string, and is a number",
                "/result/isError: must be of type boolean, and is a string",
            ]
        );
        let level = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"loud","data":null}}"#;
        let faults = told(revision, "notifications/message", level).unwrap();
        assert!(faults[0].starts_with("/params/level: must be one of [\"alert\""), "{faults:?}");
        assert_eq!(result(revision, "ping", "[]").unwrap(), ["/result: must be of type object, and is an array"]);
        let progress =
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1.5,"progress":1}}"#;
        assert_eq!(
            told(revision, "notifications/progress", progress).unwrap(),
            ["/params/progressToken: must be of type string or integer, and is a number"]
        );
    }
}
