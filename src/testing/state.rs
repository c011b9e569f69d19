//! What the fake server remembers across clients: counters, what it has seen, who listens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use serde::Serialize;
use serde_json::{Value, json};

use super::incoming::{Incoming, Kind, reserved};
use super::peer::{Outlet, Peer, Say};
use super::raw;
use super::tasks::Task;

/// How many request ids are remembered.
const LAST_IDS: usize = 32;

/// What the `stats` tool tells.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Stats {
    /// Requests seen, by method.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Calls seen, by tool.
    pub(crate) tools: BTreeMap<String, u64>,
    /// Notifications seen, by method.
    pub(crate) notifications: BTreeMap<String, u64>,
    /// `notifications/cancelled` seen.
    pub(crate) cancellations: u64,
    /// Requests that ended early because they were cancelled, in whichever way.
    pub(crate) cancelled: u64,
    /// Answers to questions of ours.
    pub(crate) answers: u64,
    /// Answers to nothing we asked.
    pub(crate) stray_answers: u64,
    /// Input that is not a message.
    pub(crate) junk: u64,
    /// Legacy sessions and modern subscriptions there are now.
    pub(crate) peers: usize,
    pub(crate) listeners: usize,
    /// The ids of the last requests, oldest first, as they were written.
    pub(crate) last_ids: VecDeque<String>,
}

/// A `subscriptions/listen` that is open.
#[derive(Debug)]
struct Listener {
    key: u64,
    /// The id of the listen request as it was written.
    id: String,
    filter: Value,
    outlet: Outlet,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) stats: Stats,
    counts: BTreeMap<String, u64>,
    /// Whether the hidden tools are there.
    pub(crate) revealed: bool,
    /// Calls that became tasks, oldest first.
    pub(crate) tasks: VecDeque<Task>,
    pub(crate) modern_tasks: VecDeque<super::modern_tasks::Task>,
    pub(crate) last_task: u64,
    peers: Vec<Weak<Peer>>,
    listeners: Vec<Listener>,
    last_key: u64,
}

/// Which notifications somebody may have asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Topic<'a> {
    /// `tools`, `prompts` or `resources`.
    List(&'a str),
    /// A resource, by URI.
    Resource(&'a str),
}

impl State {
    /// Takes note of a message.
    pub(crate) fn seen(&mut self, message: &Incoming) {
        let stats = &mut self.stats;
        match message.kind {
            Kind::Request => {
                *stats.requests.entry(message.method.clone()).or_default() += 1;
                if let Some(tool) = message.tool() {
                    *stats.tools.entry(tool.to_owned()).or_default() += 1;
                }
                if stats.last_ids.len() == LAST_IDS {
                    stats.last_ids.pop_front();
                }
                stats.last_ids.extend(message.id.clone());
            }
            Kind::Notification => {
                *stats.notifications.entry(message.method.clone()).or_default() += 1;
                stats.cancellations += u64::from(message.method == "notifications/cancelled");
            }
            Kind::Answer(_) => stats.answers += 1,
        }
    }

    /// What has been seen so far.
    pub(crate) fn stats(&mut self) -> Stats {
        self.peers.retain(|peer| peer.strong_count() > 0);
        Stats { peers: self.peers.len(), listeners: self.listeners.len(), ..self.stats.clone() }
    }

    /// Adds one to a counter.
    pub(crate) fn count(&mut self, key: &str) -> u64 {
        let count = self.counts.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// A counter.
    pub(crate) fn counted(&self, key: &str) -> u64 {
        self.counts.get(key).copied().unwrap_or_default()
    }

    /// The names of the counters that start with `prefix`.
    pub(crate) fn counters(&self, prefix: &str) -> Vec<String> {
        self.counts.keys().filter(|key| key.starts_with(prefix)).take(100).cloned().collect()
    }

    /// Remembers a client that has initialised, to tell it of changes.
    pub(crate) fn joined(&mut self, peer: &Arc<Peer>) {
        self.peers.retain(|known| known.strong_count() > 0 && known.as_ptr() != Arc::as_ptr(peer));
        self.peers.push(Arc::downgrade(peer));
    }

    /// Remembers a listen request; the number is for [`State::left`].
    pub(crate) fn listens(&mut self, id: &str, filter: Value, outlet: Outlet) -> u64 {
        self.last_key += 1;
        self.listeners.push(Listener { key: self.last_key, id: id.to_owned(), filter, outlet });
        self.last_key
    }

    pub(crate) fn left(&mut self, key: u64) {
        self.listeners.retain(|listener| listener.key != key);
    }

    /// Tells everyone who asked for it; to how many it was said.
    pub(crate) fn publish(&self, topic: Topic<'_>) -> usize {
        let (method, params) = match topic {
            Topic::List(kind) => (format!("notifications/{kind}/list_changed"), json!({})),
            Topic::Resource(uri) => ("notifications/resources/updated".into(), json!({ "uri": uri })),
        };
        let plain = notification(&method, &params.to_string());
        let mut told = 0;
        for peer in self.peers.iter().filter_map(Weak::upgrade) {
            let wanted = match topic {
                Topic::List(_) => true,
                Topic::Resource(uri) => peer.state().subscriptions.contains(uri),
            };
            told += usize::from(wanted && peer.unasked.try_say(Say::Message(plain.clone())));
        }
        for listener in &self.listeners {
            let filter = &listener.filter;
            let wanted = match topic {
                Topic::List(kind) => filter[format!("{kind}ListChanged")] == true,
                Topic::Resource(uri) => {
                    filter["resourceSubscriptions"].as_array().is_some_and(|uris| uris.iter().any(|known| known == uri))
                }
            };
            let tagged = tagged_notification(&method, &params, &listener.id);
            told += usize::from(wanted && listener.outlet.try_say(Say::Message(tagged)));
        }
        told
    }
}

/// A notification with these params.
pub(crate) fn notification(method: &str, params: &str) -> String {
    let method = Value::from(method);
    match params {
        "null" => format!(r#"{{"jsonrpc":"2.0","method":{method}}}"#),
        params => format!(r#"{{"jsonrpc":"2.0","method":{method},"params":{params}}}"#),
    }
}

/// A notification on a listen stream: tagged with the id of the listen request, as that was written.
pub(crate) fn tagged_notification(method: &str, params: &Value, id: &str) -> String {
    let meta = raw::with("{}", &reserved("subscriptionId"), id);
    notification(method, &raw::with(&params.to_string(), "_meta", &meta))
}
