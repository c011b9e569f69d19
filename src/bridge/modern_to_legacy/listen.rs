//! A stream of notifications (2026-07-28, Subscriptions), out of what a server with a handshake says by itself.

use serde_json::{Map, Value, json};

use super::answer::own;
use crate::bridge::handshake;
use crate::bridge::sharing;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::scan::Span;

/// Most resources that one stream is for.
const URIS_MAX: usize = 1024;

const TOOLS: &str = "toolsListChanged";
const PROMPTS: &str = "promptsListChanged";
const RESOURCES: &str = "resourcesListChanged";
const URIS: &str = "resourceSubscriptions";

/// What a stream is for: what is asked for, or what of it is promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wishes {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
    /// Tasks that are there.
    tasks: Vec<String>,
}

impl Wishes {
    /// What the request asks for, as far as it is known here.
    pub(crate) fn of(request: &Message) -> Wishes {
        let asked: Map<String, Value> =
            request.param(meta::NOTIFICATIONS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        let flag = |name: &str| asked.get(name) == Some(&Value::Bool(true));
        let uris = asked.get(URIS).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let mut uris: Vec<String> = uris.take(URIS_MAX).map(str::to_owned).collect();
        uris.sort_unstable();
        uris.dedup();
        let tasks = Vec::new();
        Wishes { tools: flag(TOOLS), prompts: flag(PROMPTS), resources: flag(RESOURCES), uris, tasks }
    }

    /// What of it a server with this answer to the handshake tells at all.
    pub(crate) fn granted(self, greeting: &Message) -> Wishes {
        let capabilities = handshake::capabilities(greeting);
        let has =
            |what: &str, flag: &str| capabilities.get(what).and_then(|one| one.get(flag)) == Some(&Value::Bool(true));
        Wishes {
            tools: self.tools && has("tools", meta::LIST_CHANGED),
            prompts: self.prompts && has("prompts", meta::LIST_CHANGED),
            resources: self.resources && has("resources", meta::LIST_CHANGED),
            uris: if has("resources", "subscribe") { self.uris } else { Vec::new() },
            tasks: self.tasks,
        }
    }

    /// The resources that have to be subscribed to.
    pub(crate) fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The same for these resources only.
    pub(crate) fn with_uris(self, uris: Vec<String>) -> Wishes {
        Wishes { uris, ..self }
    }

    /// The same, and news of these tasks.
    pub(crate) fn with_tasks(self, tasks: Vec<String>) -> Wishes {
        Wishes { tasks, ..self }
    }

    /// The first thing that is said on the stream.
    pub(crate) fn acknowledged(&self, id: &RequestId) -> Message {
        let mut promised = Map::new();
        for (name, granted) in [(TOOLS, self.tools), (PROMPTS, self.prompts), (RESOURCES, self.resources)] {
            if granted {
                promised.insert(name.to_owned(), true.into());
            }
        }
        if !self.uris.is_empty() {
            promised.insert(URIS.to_owned(), self.uris.clone().into());
        }
        if !self.tasks.is_empty() {
            promised.insert(meta::TASK_IDS.to_owned(), self.tasks.clone().into());
        }
        let method = Known::SubscriptionAcknowledged.as_str();
        let params = json!({ meta::NOTIFICATIONS: promised });
        tagged(&own(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)), id)
    }

    /// What the server says by itself, as it is told on the stream; `None` if it is not for this one.
    pub(crate) fn told(&self, said: &Message, id: &RequestId) -> Option<Message> {
        let wanted = said.kind() == Kind::Notification
            && match said.known()? {
                Known::ToolsChanged => self.tools,
                Known::PromptsChanged => self.prompts,
                Known::ResourcesChanged => self.resources,
                Known::ResourceUpdated => {
                    let uri = sharing::uri(said)?;
                    self.uris.iter().any(|held| sharing::concerns(&uri, held))
                }
                _ => false,
            };
        wanted.then(|| tagged(said, id))
    }
}

/// The result that ends a stream in good order.
pub(crate) fn ended(id: &RequestId) -> Message {
    let (id, kind, subscription) = (id.as_json(), meta::RESULT_TYPE, meta::SUBSCRIPTION_ID);
    own(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"{kind}":"complete","_meta":{{"{subscription}":{id}}}}}}}"#))
}

/// A notification that says which stream it is of; all else in it stays.
fn tagged(said: &Message, id: &RequestId) -> Message {
    if said.meta(meta::SUBSCRIPTION_ID).is_some() {
        return said.edit().meta(meta::SUBSCRIPTION_ID, id.as_json()).finish();
    }
    let tag = format!(r#""{}":{}"#, meta::SUBSCRIPTION_ID, id.as_json());
    let inside = |object: &str| {
        let inner = object.strip_prefix('{')?;
        let at = u32::try_from(inner.as_ptr() as usize - said.text().as_ptr() as usize).ok()?;
        Some((Span { start: at, end: at }, if inner.trim_start().starts_with('}') { "" } else { "," }))
    };
    let about = said.param(meta::META).and_then(inside);
    let edited = match (about, said.body().and_then(inside)) {
        (Some((at, comma)), _) => said.edit().span(at, &format!("{tag}{comma}")).finish(),
        (None, Some((at, comma))) => said.edit().span(at, &format!(r#""{}":{{{tag}}}{comma}"#, meta::META)).finish(),
        (None, None) => {
            let method = said.method().unwrap_or_default();
            return own(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"{}":{{{tag}}}}}}}"#, meta::META));
        }
    };
    // What was put in is not in the spans of the message.
    Message::parse(edited.text().clone(), crate::protocol::scan::DEPTH_MAX).unwrap_or(edited)
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

    fn wishes(capabilities: &str) -> Wishes {
        let request = message(
            r#"{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a://b","a://b"],"other":1}}}"#,
        );
        let greeting = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"capabilities":{capabilities}}}}}"#);
        Wishes::of(&request).granted(&message(&greeting))
    }

    const ALL: &str = r#"{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true}}"#;

    /// 2026-07-28, Subscriptions: what is promised is what was asked for and what the server tells.
    #[test]
    fn what_is_promised_is_what_can_be_kept() {
        let id = RequestId::from_json("\"L\"").unwrap();
        let tag = r#""_meta":{"io.modelcontextprotocol/subscriptionId":"L"}"#;
        assert_eq!(
            text(&wishes(ALL).acknowledged(&id)),
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{{tag},"notifications":{{"resourceSubscriptions":["a://b"],"toolsListChanged":true}}}}}}"#
            )
        );
        assert_eq!(
            text(&wishes("{}").acknowledged(&id)),
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{{tag},"notifications":{{}}}}}}"#
            )
        );
    }

    /// 2026-07-28, Subscriptions: everything on the stream says so, and is what it is for.
    #[test]
    fn what_is_told_is_what_was_promised() {
        let id = RequestId::from_json("7").unwrap();
        let told = |said: &str| wishes(ALL).told(&message(said), &id).map(|message| text(&message));
        let tag = r#""io.modelcontextprotocol/subscriptionId":7"#;
        for (said, expected) in [
            (
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"_meta":{{{tag}}}}}}}"#
                ),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#,
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"_meta":{{{tag}}}}}}}"#
                ),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"n":1.50,"uri":"a://b/c","_meta":{"x":1E5}}}"#,
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"n":1.50,"uri":"a://b/c","_meta":{{{tag},"x":1E5}}}}}}"#
                ),
            ),
        ] {
            assert_eq!(told(said), Some(expected), "{said}");
        }
        for none in [
            r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://c"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#,
            r#"{"jsonrpc":"2.0","method":"vendor/x"}"#,
        ] {
            assert_eq!(told(none), None, "{none}");
        }
    }
}
