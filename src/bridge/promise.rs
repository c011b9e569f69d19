//! What a server has promised to tell on a stream of notifications (2026-07-28, Subscriptions), and what a client has to be
//! told when there was a gap in it.

use serde_json::{Map, Value, json};

use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// The subset of what a client asked for that the server acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise(Map<String, Value>);

impl Promise {
    /// `None` if the message is no acknowledgement.
    pub(crate) fn of(message: &Message) -> Option<Promise> {
        if message.known() != Some(Known::SubscriptionAcknowledged) {
            return None;
        }
        let promised = message.param(meta::NOTIFICATIONS).and_then(|json| serde_json::from_str(json).ok());
        Some(Promise(promised.unwrap_or_default()))
    }

    /// Whether changes of this resource are told.
    pub(crate) fn has(&self, uri: &str) -> bool {
        let resources = self.0.get(meta::RESOURCE_SUBSCRIPTIONS).and_then(Value::as_array);
        resources.is_some_and(|all| all.iter().any(|one| one == uri))
    }

    /// What may have been missed while nobody listened: that each list and each resource which was promised changed, each
    /// once, for the subscription of this id (JSON).
    pub(crate) fn missed(&self, subscription: &str) -> Vec<Message> {
        let lists = [
            ("toolsListChanged", Known::ToolsChanged),
            ("promptsListChanged", Known::PromptsChanged),
            ("resourcesListChanged", Known::ResourcesChanged),
        ];
        let changed = lists.into_iter().filter(|(name, _)| self.0.get(*name) == Some(&Value::Bool(true)));
        let changed = changed.map(|(_, known)| tagged(known, Map::new(), subscription));
        let resources = self.0.get(meta::RESOURCE_SUBSCRIPTIONS).and_then(Value::as_array);
        let updated = resources.into_iter().flatten().filter(|uri| uri.is_string());
        let updated = updated.map(|uri| {
            let params = Map::from_iter([("uri".to_owned(), uri.clone())]);
            tagged(Known::ResourceUpdated, params, subscription)
        });
        changed.chain(updated).collect()
    }
}

fn tagged(known: Known, mut params: Map<String, Value>, subscription: &str) -> Message {
    params.insert(meta::META.to_owned(), json!({ meta::SUBSCRIPTION_ID: 0 }));
    let params = Value::Object(params);
    let text = format!(r#"{{"jsonrpc":"2.0","method":"{}","params":{params}}}"#, known.as_str());
    match Message::parse(text.into(), 64) {
        // The id as the client spells it: a number may be longer than a value of JSON's library holds.
        Ok(message) => message.edit().meta(meta::SUBSCRIPTION_ID, subscription).finish(),
        Err(error) => unreachable!("BUG: the proxy wrote what is no message: {error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(params: &str) -> Promise {
        let text =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{params}}}"#);
        Promise::of(&Message::parse(text.into(), 64).unwrap()).unwrap()
    }

    /// 2026-07-28, Subscriptions: nothing is told that was not promised, and all of it belongs to the client's subscription.
    #[test]
    fn what_may_have_been_missed_is_what_was_promised() {
        let promise = promise(
            r#"{"_meta":{"x":1},"notifications":{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a://\"1","b://2"],"other":true}}"#,
        );
        let missed: Vec<String> = promise
            .missed("18446744073709551616")
            .iter()
            .map(|message| String::from_utf8(message.text().to_vec()).unwrap())
            .collect();
        let tag = r#""_meta":{"io.modelcontextprotocol/subscriptionId":18446744073709551616}"#;
        assert_eq!(
            missed,
            [
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{{tag}}}}}"#),
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{{tag},"uri":"a://\"1"}}}}"#
                ),
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{{tag},"uri":"b://2"}}}}"#
                ),
            ]
        );
    }

    #[test]
    fn promises_are_compared_and_not_their_spelling() {
        let one = promise(r#"{"_meta":{"s":1},"notifications":{"toolsListChanged":true,"promptsListChanged":true}}"#);
        let same = promise(r#"{"notifications": {"promptsListChanged": true, "toolsListChanged": true}}"#);
        assert_eq!(one, same);
        assert_ne!(one, promise(r#"{"notifications":{"toolsListChanged":true}}"#));
        assert!(promise("{}").missed("1").is_empty());
    }
}
