//! What a legacy handshake says, as something that can be repeated and compared
//! (2025-11-25, Lifecycle › Initialization).

use bytes::Bytes;

use crate::protocol::message::{Message, json_str};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};

/// An `initialize` request. Two are equal when they say the same, whatever they are called and carry as metadata.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    request: Message,
    says: String,
    of_bridge: bool,
}

impl PartialEq for Handshake {
    fn eq(&self, other: &Self) -> bool {
        self.says == other.says
    }
}

impl Eq for Handshake {}

impl Handshake {
    /// The client's own.
    pub(crate) fn of_client(request: &Message) -> Handshake {
        Handshake { says: essence(request), request: request.detached(), of_bridge: false }
    }

    /// The proxy's own, in the version that the client asks for: with the client's capabilities where the server may ask
    /// it, with none where it must not.
    pub(crate) fn of_proxy(request: &Message, asks_client: bool) -> Handshake {
        // Versions that nobody knows must not each have a connection of their own.
        let asked = request.param_str(meta::PROTOCOL_VERSION_PARAM).and_then(|version| Revision::parse(&version));
        let version = asked.filter(|revision| revision.era() == Era::Legacy).unwrap_or(Revision::LATEST_LEGACY);
        let declared = request.param(meta::CAPABILITIES).filter(|_| asks_client).unwrap_or("{}");
        Handshake::compose(version, declared).unwrap_or_else(|| Handshake::of_client(request))
    }

    /// The proxy's own for clients that make none, with these capabilities (JSON).
    pub(crate) fn of_bridge(capabilities: &str) -> Handshake {
        match Handshake::compose(Revision::LATEST_LEGACY, capabilities) {
            Some(composed) => Handshake { of_bridge: true, ..composed },
            None => unreachable!("BUG: the proxy's own capabilities are no JSON"),
        }
    }

    /// `None` if the capabilities are no JSON.
    fn compose(version: Revision, capabilities: &str) -> Option<Handshake> {
        let client = serde_json::json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"{}","params":{{"{}":"{version}","{}":{capabilities},"{}":{client}}}}}"#,
            Known::Initialize.as_str(),
            meta::PROTOCOL_VERSION_PARAM,
            meta::CAPABILITIES,
            meta::CLIENT_INFO_PARAM,
        );
        let composed = Message::parse(Bytes::from(text), crate::protocol::scan::DEPTH_MAX).ok()?;
        Some(Handshake::of_client(&composed))
    }

    /// The whole text of the request.
    pub(crate) fn text(&self) -> &Bytes {
        self.request.text()
    }

    /// The request, under the name that the connection has for it.
    pub(crate) fn request(&self, id: i64) -> Message {
        let name = id.to_string();
        self.request.edit().id(&name).meta(meta::PROGRESS_TOKEN, &name).finish()
    }

    /// Whether it is the proxy's own, for clients that make none.
    pub(crate) fn is_of_bridge(&self) -> bool {
        self.of_bridge
    }

    /// Whether the client has folders that it tells the server of: what a server does then depends on them.
    pub(crate) fn declares_roots(&self) -> bool {
        let capabilities = self.request.param(meta::CAPABILITIES).unwrap_or_default();
        serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(capabilities)
            .is_ok_and(|map| map.contains_key("roots"))
    }
}

/// What an `initialize` says, for comparison.
fn essence(request: &Message) -> String {
    let params = request.body().unwrap_or_default();
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(params) {
        Ok(mut map) => {
            map.remove(meta::META);
            serde_json::Value::Object(map).to_string()
        }
        Err(_) => params.to_owned(),
    }
}

/// The version in the result of a handshake.
pub(crate) fn negotiated(result: &Message) -> Option<Revision> {
    Revision::parse(&json_str(member(result, meta::PROTOCOL_VERSION_PARAM)?)?)
        .filter(|revision| revision.era() == Era::Legacy)
}

/// The capabilities in the result of a handshake.
pub(crate) fn capabilities(result: &Message) -> serde_json::Map<String, serde_json::Value> {
    member(result, meta::CAPABILITIES).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

fn member<'m>(result: &'m Message, name: &str) -> Option<&'m str> {
    let (members, _) = result.result_members()?;
    std::str::from_utf8(members.find(result.text(), name)?.value.of(result.text())).ok()
}

/// Whether a client to whom one of the results was told can go on with the other.
pub(crate) fn agree(one: &Message, other: &Message) -> bool {
    if one.body() == other.body() {
        return true;
    }
    negotiated(one) == negotiated(other) && capabilities(one) == capabilities(other)
}

/// Whether a request makes, or is about, a task (2025-11-25, Tasks).
pub(crate) fn is_of_task(request: &Message) -> bool {
    match request.known() {
        Some(Known::ToolsCall) => request.param(meta::TASK).is_some(),
        Some(Known::TasksGet | Known::TasksList | Known::TasksResult | Known::TasksCancel) => true,
        _ => false,
    }
}

/// The result with other capabilities.
pub(crate) fn with_capabilities(
    result: &Message,
    capabilities: &serde_json::Map<String, serde_json::Value>,
) -> Message {
    let Some((members, _)) = result.result_members() else { return result.clone() };
    let Some(found) = members.find(result.text(), meta::CAPABILITIES) else { return result.clone() };
    result.edit().span(found.value, &serde_json::Value::Object(capabilities.clone()).to_string()).finish()
}

/// A ping: the one request that may precede a handshake.
pub(crate) fn ping(id: i64) -> Message {
    own(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{}"}}"#, Known::Ping.as_str()))
}

/// A request for log messages from this level (JSON) on.
pub(crate) fn set_level(id: i64, level: &str) -> Message {
    own(&format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{}","params":{{"level":{level}}}}}"#,
        Known::SetLevel.as_str()
    ))
}

/// The notification that completes a handshake.
pub(crate) fn initialized() -> Message {
    notification(Known::Initialized)
}

/// The notifications that tell a client that everything which can change may have changed.
pub(crate) fn everything_changed(result: &Message) -> Vec<Message> {
    let capabilities = capabilities(result);
    let changes = |name: &str| {
        capabilities.get(name).and_then(|one| one.get(meta::LIST_CHANGED)) == Some(&serde_json::Value::Bool(true))
    };
    [("tools", Known::ToolsChanged), ("prompts", Known::PromptsChanged), ("resources", Known::ResourcesChanged)]
        .into_iter()
        .filter(|(name, _)| changes(name))
        .map(|(_, known)| notification(known))
        .collect()
}

fn notification(known: Known) -> Message {
    own(&format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, known.as_str()))
}

fn own(text: &str) -> Message {
    match Message::parse(Bytes::copy_from_slice(text.as_bytes()), 8) {
        Ok(message) => message,
        Err(error) => unreachable!("BUG: the proxy wrote what is no message: {error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes()), 64).unwrap()
    }

    fn initialize(params: &str) -> Message {
        message(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{{params}}}}}"#))
    }

    const PARAMS: &str = r#""protocolVersion":"2025-06-18","capabilities":{"roots":{},"sampling":{}},"clientInfo":{"name":"x","version":"1"}"#;

    /// Names and metadata do not make two handshakes different; everything that is said does.
    #[test]
    fn says_the_same_or_not() {
        let one = Handshake::of_client(&initialize(PARAMS));
        let named = initialize(&format!(r#"{PARAMS},"_meta":{{"progressToken":7,"trace":"x"}}"#));
        assert_eq!(one, Handshake::of_client(&named));
        for (from, to) in [("2025-06-18", "2025-03-26"), ("roots", "elicitation"), (r#""x""#, r#""y""#)] {
            assert_ne!(one, Handshake::of_client(&initialize(&PARAMS.replace(from, to))), "{from}");
        }
        assert!(one.declares_roots());
        assert!(!Handshake::of_client(&initialize(&PARAMS.replace("roots", "x"))).declares_roots());
    }

    /// 2025-11-25, Lifecycle › Initialization: what goes to the server is what the client said, under our name for it.
    #[test]
    fn repeats_the_clients_words() {
        let request = initialize(&format!(r#"{PARAMS},"vendor":1.50,"_meta":{{"progressToken":"t","trace":"x"}}"#));
        let sent = Handshake::of_client(&request).request(42);
        let sent = std::str::from_utf8(sent.text()).unwrap();
        assert_eq!(
            sent,
            format!(
                r#"{{"jsonrpc":"2.0","id":42,"method":"initialize","params":{{{PARAMS},"vendor":1.50,"_meta":{{"progressToken":42,"trace":"x"}}}}}}"#
            )
        );
    }

    /// The proxy's own names the proxy, asks for a version that exists, and declares what the server may ask for.
    #[test]
    fn speaks_for_itself() {
        let own = |params: &str, asks| {
            let request = Handshake::of_proxy(&initialize(params), asks).request(1);
            serde_json::from_str::<serde_json::Value>(request.body().unwrap()).unwrap()
        };
        let asked = own(PARAMS, true);
        assert_eq!(asked["protocolVersion"], "2025-06-18");
        assert_eq!(asked["capabilities"], serde_json::json!({ "roots": {}, "sampling": {} }));
        assert_eq!(asked["clientInfo"]["name"], "shadowcat");
        assert_eq!(own(PARAMS, false)["capabilities"], serde_json::json!({}));
        for odd in ["1.0", "2026-07-28", "x"] {
            let version = own(&PARAMS.replace("2025-06-18", odd), false)["protocolVersion"].clone();
            assert_eq!(version, "2025-11-25", "versions that nobody knows are one version");
        }
        assert_eq!(own("", true)["capabilities"], serde_json::json!({}));
    }

    /// What was negotiated holds for a session: a result that says something else is another session's.
    #[test]
    fn agrees_on_what_was_negotiated() {
        let result = |version: &str, capabilities: &str| {
            message(&format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"protocolVersion":"{version}","capabilities":{capabilities},"instructions":"x"}}}}"#
            ))
        };
        let one =
            result("2025-06-18", r#"{"tools":{"listChanged":true},"prompts":{"listChanged":false},"logging":{}}"#);
        assert!(agree(
            &one,
            &result("2025-06-18", r#"{"logging":{},"tools":{"listChanged":true},"prompts":{"listChanged":false}}"#)
        ));
        assert!(!agree(&one, &result("2025-03-26", r#"{"tools":{"listChanged":true},"logging":{}}"#)));
        assert!(!agree(&one, &result("2025-06-18", "{}")));
        let told: Vec<_> = everything_changed(&one).iter().map(|change| change.known().unwrap()).collect();
        assert_eq!(told, [Known::ToolsChanged], "what was not promised is not told");
        let none = serde_json::Map::new();
        assert_eq!(
            std::str::from_utf8(with_capabilities(&one, &none).text()).unwrap(),
            r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{},"instructions":"x"}}"#
        );
    }
}
