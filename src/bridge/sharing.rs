//! What a legacy server can be asked when its connection is not one client's alone: the rules of isolation
//! (docs/isolation.md). What cannot be kept apart is not offered, and refused with a reason when it is asked for.

use serde_json::{Map, Value};

use super::handshake;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::settings::Isolation;

/// Why a request cannot be passed on to a connection that others use, too.
pub(crate) fn refuses(isolation: Isolation, request: &Message) -> Option<&'static str> {
    if isolation == Isolation::Session {
        return None;
    }
    match request.known()? {
        Known::SetLevel => Some("log messages do not say which client they are for"),
        Known::TasksGet | Known::TasksList | Known::TasksResult | Known::TasksCancel | Known::TasksUpdate => {
            Some("tasks do not say which client they are of")
        }
        Known::ToolsCall if request.param(meta::TASK).is_some() => Some("tasks do not say which client they are of"),
        Known::ResourcesSubscribe | Known::ResourcesUnsubscribe if isolation == Isolation::Request => {
            Some("there is no connection on which updates could arrive")
        }
        _ => None,
    }
}

/// The result of a handshake as a client gets it: without the capabilities whose use would be refused.
pub(crate) fn offer(isolation: Isolation, result: &Message) -> Message {
    if isolation == Isolation::Session {
        return result.clone();
    }
    let mut capabilities = handshake::capabilities(result);
    capabilities.remove("logging");
    capabilities.remove("tasks");
    if isolation == Isolation::Request {
        forget_changes(&mut capabilities);
    }
    handshake::with_capabilities(result, &capabilities)
}

/// The same for a server that knows of no sessions, where there is no connection on which it could tell of changes.
pub(crate) fn offer_without_changes(result: &Message) -> Message {
    let mut capabilities = handshake::capabilities(result);
    forget_changes(&mut capabilities);
    handshake::with_capabilities(result, &capabilities)
}

fn forget_changes(capabilities: &mut Map<String, Value>) {
    for name in ["tools", "prompts", "resources"] {
        if let Some(Value::Object(one)) = capabilities.get_mut(name) {
            one.remove(meta::LIST_CHANGED);
            one.remove("subscribe");
        }
    }
}

/// Whether a server may ask the client: only where it is certain whom.
pub(crate) fn may_ask(isolation: Isolation) -> bool {
    matches!(isolation, Isolation::Session | Isolation::Request)
}

/// The URI of a request or notification about a resource.
pub(crate) fn uri(message: &Message) -> Option<String> {
    message.param_str("uri")
}

/// Whether an update of `uri` is for one who subscribed to `subscribed`: a server may tell of a part of what was
/// subscribed to (2025-11-25, Resources › Subscriptions).
pub(crate) fn concerns(uri: &str, subscribed: &str) -> bool {
    uri.strip_prefix(subscribed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || subscribed.ends_with('/'))
}

/// A request that subscribes to a resource, or ends that.
pub(crate) fn subscription(known: Known, id: i64, uri: &str) -> Option<Message> {
    let mut params = Map::new();
    params.insert("uri".into(), uri.into());
    let text =
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{}","params":{}}}"#, known.as_str(), Value::Object(params));
    Message::parse(text.into(), 8).ok()
}

/// What a client may have missed of a resource that it had subscribed to with this request, when there was a gap.
pub(crate) fn missed(request: &Message) -> Option<Message> {
    updated((request.known() == Some(Known::ResourcesSubscribe)).then(|| uri(request))??)
}

/// The news that a resource has changed.
pub(crate) fn updated(uri: String) -> Option<Message> {
    let (method, uri) = (Known::ResourceUpdated.as_str(), Value::String(uri));
    Message::parse(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"uri":{uri}}}}}"#).into(), 8).ok()
}

/// The answer to a request that needs no more than to be confirmed.
pub(crate) fn done(id: i64) -> Option<Message> {
    Message::parse(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        Message::parse(text.into(), 64).unwrap()
    }

    /// The table of docs/isolation.md.
    #[test]
    fn refuses_what_cannot_be_kept_apart() {
        use Isolation::{Principal, Request, Session, Shared};
        let rows = [
            ("tools/call", r#"{"name":"x"}"#, &[][..]),
            ("tools/call", r#"{"name":"x","task":{}}"#, &[Shared, Principal, Request]),
            ("tasks/list", "{}", &[Shared, Principal, Request]),
            ("logging/setLevel", r#"{"level":"debug"}"#, &[Shared, Principal, Request]),
            ("resources/subscribe", r#"{"uri":"x:y"}"#, &[Request]),
            ("resources/unsubscribe", r#"{"uri":"x:y"}"#, &[Request]),
            ("vendor/anything", "{}", &[]),
        ];
        for (method, params, refused) in rows {
            for isolation in [Session, Shared, Principal, Request] {
                let refuses = refuses(isolation, &request(method, params)).is_some();
                assert_eq!(refuses, refused.contains(&isolation), "{method} {params} {isolation:?}");
            }
        }
    }

    /// What would be refused is not offered; everything else stays as the server said it.
    #[test]
    fn offers_what_it_keeps() {
        let said = r#"{"logging":{},"tasks":{},"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"vendor":{"x":1}}"#;
        let result = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"protocolVersion":"2025-11-25","capabilities":{said},"serverInfo":{{"n":1.50}}}}}}"#
        );
        let result = Message::parse(result.into(), 64).unwrap();
        assert_eq!(offer(Isolation::Session, &result), result);
        let offered = |isolation| Value::Object(handshake::capabilities(&offer(isolation, &result)));
        let shared = serde_json::json!({
            "tools": { "listChanged": true },
            "resources": { "subscribe": true, "listChanged": true },
            "vendor": { "x": 1 },
        });
        assert_eq!(offered(Isolation::Shared), shared);
        assert_eq!(offered(Isolation::Principal), shared);
        let each = serde_json::json!({ "tools": {}, "resources": {}, "vendor": { "x": 1 } });
        assert_eq!(offered(Isolation::Request), each);
    }

    /// 2025-11-25, Resources › Subscriptions: an update may be about a part of what was subscribed to.
    #[test]
    fn parts_concern_those_who_hold_the_whole() {
        for (uri, subscribed, concerned) in [
            ("file:///a", "file:///a", true),
            ("file:///a/b", "file:///a", true),
            ("file:///a/b", "file:///a/", true),
            ("file:///ab", "file:///a", false),
            ("file:///a", "file:///a/b", false),
        ] {
            assert_eq!(concerns(uri, subscribed), concerned, "{uri} {subscribed}");
        }
    }
}
