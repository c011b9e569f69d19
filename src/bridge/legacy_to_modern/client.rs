//! What a client said of itself in its handshake, as the metadata of each of its requests (2026-07-28, Basic › `_meta`).

use serde_json::{Map, Value};

use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::revision::{Era, Revision};

/// The capabilities of a client that let a server ask it something.
const INTERACTIVE: [&str; 3] = ["elicitation", "sampling", "roots"];

/// A legacy client, as a modern server has to know it.
#[derive(Debug)]
pub(crate) struct Client {
    /// What was negotiated with it.
    pub(crate) revision: Revision,
    /// It can be shown a form.
    pub(super) form: bool,
    /// It can be sent to a URL.
    pub(super) url: bool,
    /// Its model can be asked.
    pub(super) sampling: bool,
    /// And may use tools meanwhile.
    pub(super) sampling_tools: bool,
    /// It has folders.
    pub(super) roots: bool,
    /// The members of `_meta` that each request has, and the same for one on which nothing can be asked.
    envelope: Box<str>,
    mute: Box<str>,
}

impl Client {
    /// Reads the client's `initialize`. It gets the version that it asks for if that has a handshake and is known, and the newest
    /// such otherwise (2025-11-25, Lifecycle › Version Negotiation).
    pub(crate) fn of(initialize: &Message) -> Client {
        let asked = initialize.param_str(meta::PROTOCOL_VERSION_PARAM).and_then(|version| Revision::parse(&version));
        let revision = asked.filter(|revision| revision.era() == Era::Legacy).unwrap_or(Revision::LATEST_LEGACY);
        let said: Option<Map<String, Value>> =
            initialize.param(meta::CAPABILITIES).and_then(|json| serde_json::from_str(json).ok());
        let capabilities = carried(said.unwrap_or_default(), revision);
        let has = |name: &str| capabilities.get(name).is_some_and(Value::is_object);
        let within = |name: &str, inner: &str| capabilities.get(name).and_then(|one| one.get(inner)).is_some();
        let (form, url) = (within("elicitation", "form"), within("elicitation", "url"));
        let mut without = capabilities.clone();
        INTERACTIVE.iter().for_each(|name| drop(without.remove(*name)));
        let info = initialize.param(meta::CLIENT_INFO_PARAM).filter(|json| json.starts_with('{'));
        Client {
            revision,
            // Nothing said means that forms can be shown (2026-07-28, Elicitation › Capabilities).
            form: has("elicitation") && (form || !url),
            url,
            sampling: has("sampling"),
            sampling_tools: within("sampling", "tools"),
            roots: has("roots"),
            envelope: envelope(info, capabilities),
            mute: envelope(info, without),
        }
    }

    /// The same for a request whose answer may be a task, of which the client need not know.
    pub(super) fn envelope_with_tasks(&self, can_be_asked: bool, level: Option<&str>) -> String {
        let envelope = format!("{{{}}}", self.envelope(can_be_asked, level));
        let mut members: Map<String, Value> = serde_json::from_str(&envelope).unwrap_or_default();
        let capabilities = members.entry(meta::CLIENT_CAPABILITIES).or_insert_with(|| Map::new().into());
        capabilities["extensions"][meta::TASKS_EXTENSION] = Map::new().into();
        let envelope = Value::Object(members).to_string();
        envelope[1..envelope.len() - 1].to_owned()
    }

    /// The members of `_meta` that a request has on its behalf: with what a server may ask it for, where it can be asked.
    pub(crate) fn envelope(&self, can_be_asked: bool, level: Option<&str>) -> String {
        let envelope = if can_be_asked { &self.envelope } else { &self.mute };
        match level {
            Some(level) => format!(r#"{envelope},"{}":"{level}""#, meta::LOG_LEVEL),
            None => envelope.to_string(),
        }
    }
}

/// What a modern server is told of the client's capabilities: what can be carried to a client of this revision.
fn carried(mut said: Map<String, Value>, revision: Revision) -> Map<String, Value> {
    // Tasks of the client's are nothing that a modern server could ask for; nor is it ever told that roots have changed.
    said.remove("tasks");
    if let Some(Value::Object(extensions)) = said.get_mut("extensions") {
        extensions.remove(meta::TASKS_EXTENSION);
    }
    if let Some(Value::Object(roots)) = said.get_mut("roots") {
        roots.remove(meta::LIST_CHANGED);
    }
    if revision < Revision::V2025_06_18 {
        said.remove("elicitation");
    }
    if revision < Revision::V2025_11_25 {
        if let Some(Value::Object(sampling)) = said.get_mut("sampling") {
            sampling.remove("tools");
        }
        if let Some(Value::Object(elicitation)) = said.get_mut("elicitation")
            && elicitation.remove("url").is_some()
            && !elicitation.contains_key("form")
        {
            said.remove("elicitation");
        }
    }
    said
}

fn envelope(info: Option<&str>, capabilities: Map<String, Value>) -> Box<str> {
    let (version, capabilities) = (Revision::V2026_07_28, Value::Object(capabilities));
    let info = info.map(|info| format!(r#""{}":{info},"#, meta::CLIENT_INFO)).unwrap_or_default();
    let (version_key, capabilities_key) = (meta::PROTOCOL_VERSION, meta::CLIENT_CAPABILITIES);
    format!(r#""{version_key}":"{version}",{info}"{capabilities_key}":{capabilities}"#).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(revision: &str, capabilities: &str) -> Client {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{capabilities},"clientInfo":{{"name":"c","version":"1.50"}}}}}}"#
        );
        Client::of(&Message::parse(text.into(), 64).unwrap())
    }

    fn told(client: &Client, can_be_asked: bool) -> Value {
        let envelope: Value =
            serde_json::from_str(&format!("{{{}}}", client.envelope(can_be_asked, Some("info")))).unwrap();
        assert_eq!(envelope[meta::PROTOCOL_VERSION], "2026-07-28");
        assert_eq!(envelope[meta::CLIENT_INFO], serde_json::json!({ "name": "c", "version": "1.50" }));
        assert_eq!(envelope[meta::LOG_LEVEL], "info");
        envelope[meta::CLIENT_CAPABILITIES].clone()
    }

    /// 2026-07-28, Basic › `_meta`: the server is told what it can ask for, by the revision of the client.
    #[test]
    fn a_server_is_told_what_can_be_carried_to_the_client() {
        let all = r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{"listChanged":true},"tasks":{"list":{}},"vendor":{"x":1}}"#;
        let rows = [
            ("2024-11-05", serde_json::json!({ "sampling": {}, "roots": {}, "vendor": { "x": 1 } })),
            ("2025-03-26", serde_json::json!({ "sampling": {}, "roots": {}, "vendor": { "x": 1 } })),
            (
                "2025-06-18",
                serde_json::json!({ "elicitation": { "form": {} }, "sampling": {}, "roots": {}, "vendor": { "x": 1 } }),
            ),
            (
                "2025-11-25",
                serde_json::json!({ "elicitation": { "form": {}, "url": {} }, "sampling": { "tools": {} }, "roots": {}, "vendor": { "x": 1 } }),
            ),
        ];
        for (revision, expected) in rows {
            let client = client(revision, all);
            assert_eq!(client.revision.as_str(), revision);
            assert_eq!(told(&client, true), expected, "{revision}");
            assert_eq!(told(&client, false), serde_json::json!({ "vendor": { "x": 1 } }), "{revision}");
        }
    }

    /// 2025-11-25, Elicitation › Capabilities: nothing said means forms; and one who can only be sent to URLs has nothing to
    /// offer in a revision without them.
    #[test]
    fn a_bare_elicitation_stays_bare() {
        let bare = client("2025-11-25", r#"{"elicitation":{}}"#);
        assert_eq!(told(&bare, true), serde_json::json!({ "elicitation": {} }));
        assert!(bare.form && !bare.url);
        let url = client("2025-11-25", r#"{"elicitation":{"url":{}}}"#);
        assert!(!url.form && url.url);
        assert_eq!(told(&client("2025-06-18", r#"{"elicitation":{"url":{}}}"#), true), serde_json::json!({}));
    }

    /// 2025-11-25, Lifecycle › Version Negotiation: who asks for what has no handshake, or does not exist, is offered the newest.
    #[test]
    fn unknown_versions_get_the_newest_with_a_handshake() {
        for odd in ["2026-07-28", "2031-01-01", "1.0"] {
            assert_eq!(client(odd, "{}").revision, Revision::LATEST_LEGACY, "{odd}");
        }
    }
}
