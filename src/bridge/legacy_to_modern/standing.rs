//! What a modern server says by itself, for a client with a session (2026-07-28, Subscriptions; 2025-11-25, Resources ›
//! Subscriptions): one stream of notifications, for all that the server has to tell and all that the client has subscribed to.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::client::Client;
use super::own;
use crate::bridge::handshake::capabilities;
use crate::bridge::promise::Promise;
use crate::bridge::sharing;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;

/// The request for the stream, by the result of the client's handshake and the resources that it has subscribed to. `None` if
/// there is nothing to listen to.
pub(crate) fn request(client: &Client, welcome: &Message, uris: &BTreeSet<String>, id: u64) -> Option<Message> {
    let capabilities = capabilities(welcome);
    let tells = |name: &str| capabilities.get(name).and_then(|one| one.get(meta::LIST_CHANGED)) == Some(&true.into());
    let lists =
        [("tools", "toolsListChanged"), ("prompts", "promptsListChanged"), ("resources", "resourcesListChanged")];
    let mut filter: Map<String, Value> = lists
        .into_iter()
        .filter(|(name, _)| tells(name))
        .map(|(_, flag)| (flag.to_owned(), Value::Bool(true)))
        .collect();
    if !uris.is_empty() {
        filter.insert(meta::RESOURCE_SUBSCRIPTIONS.to_owned(), uris.iter().cloned().collect());
    }
    if filter.is_empty() {
        return None;
    }
    let (method, meta, envelope) = (Known::Listen.as_str(), meta::META, client.envelope(false, None));
    let (name, filter) = (meta::NOTIFICATIONS, Value::Object(filter));
    Some(own(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"{meta}":{{{envelope}}},"{name}":{filter}}}}}"#
    )))
}

/// What the client gets of a notification on the stream, if it is for it.
pub(crate) fn down(message: &Message, uris: &BTreeSet<String>) -> Option<Message> {
    if message.kind() != Kind::Notification {
        return None;
    }
    match message.known()? {
        Known::ToolsChanged | Known::PromptsChanged | Known::ResourcesChanged => {}
        Known::ResourceUpdated => {
            let about = sharing::uri(message)?;
            if !uris.iter().any(|uri| sharing::concerns(&about, uri)) {
                return None;
            }
        }
        _ => return None,
    }
    Some(message.edit().without_lone_meta(meta::SUBSCRIPTION_ID).finish())
}

/// What the client may have missed of what was promised, while nobody listened.
pub(crate) fn missed(promise: &Promise, uris: &BTreeSet<String>) -> Vec<Message> {
    promise.missed("0").iter().filter_map(|message| down(message, uris)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(text.to_owned().into(), 64).unwrap()
    }

    fn text(message: &Message) -> String {
        String::from_utf8(message.text().to_vec()).unwrap()
    }

    /// 2026-07-28, Subscriptions: what is asked for is what the server says that it tells.
    #[test]
    fn listens_to_what_there_is() {
        let client = Client::of(&message(
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}}}}"#,
        ));
        let welcome = |capabilities: &str| {
            message(&format!(r#"{{"jsonrpc":"2.0","id":0,"result":{{"capabilities":{capabilities}}}}}"#))
        };
        let (none, some) = (BTreeSet::new(), BTreeSet::from(["x:\"1".to_owned()]));
        let filter = |capabilities: &str, uris| {
            let request = request(&client, &welcome(capabilities), uris, 7)?;
            meta::Envelope::of(&request).eq(&meta::Envelope::Complete("2026-07-28".into())).then_some(())?;
            request.param(meta::NOTIFICATIONS).map(str::to_owned)
        };
        let all = r#"{"tools":{"listChanged":true},"prompts":{"listChanged":false},"resources":{"listChanged":true}}"#;
        assert_eq!(filter(all, &none).unwrap(), r#"{"resourcesListChanged":true,"toolsListChanged":true}"#);
        assert_eq!(filter("{}", &none), None);
        assert_eq!(filter("{}", &some).unwrap(), r#"{"resourceSubscriptions":["x:\"1"]}"#);
    }

    /// 2025-11-25, Basic › Messages: the client knows of no subscription ids; and hears of what it subscribed to only.
    #[test]
    fn tags_and_strangers_are_left_out() {
        let uris = BTreeSet::from(["file:///a".to_owned()]);
        let tag = r#""io.modelcontextprotocol/subscriptionId":7"#;
        let told = |text: &str| down(&message(text), &uris).map(|message| self::text(&message));
        let changed = |meta: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"_meta":{{{meta}}}}}}}"#
            )
        };
        assert_eq!(
            told(&changed(tag)).unwrap(),
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#
        );
        assert_eq!(told(&changed(&format!(r#"{tag},"v":1.50"#))).unwrap(), changed(r#""v":1.50"#));
        let updated = |uri: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"_meta":{{{tag}}},"uri":"{uri}"}}}}"#
            )
        };
        assert_eq!(
            told(&updated("file:///a/b")).unwrap(),
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a/b"}}"#
        );
        assert_eq!(told(&updated("file:///b")), None);
        assert_eq!(told(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#), None);
    }
}
