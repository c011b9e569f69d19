//! A call that a modern server only carries out as a task (2026-07-28, extension `io.modelcontextprotocol/tasks`). It is driven to
//! its end: the client, which knows no such tasks, waits for its answer as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::{own, quoted};
use crate::protocol::error::MISSING_CAPABILITY;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// How often a server is asked that does not say how often it wants to be, and the limits of what it may say.
const INTERVAL: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(60);
/// Most questions that are remembered as answered.
const ANSWERED_MAX: usize = 1024;

/// A task that is under way.
#[derive(Debug)]
pub(super) struct Task {
    /// The server's name for it.
    pub(super) name: String,
    /// The server's names for what it was told: it may ask once more before it has noticed.
    answered: BTreeSet<String>,
    /// What is under way is the answer to its questions.
    pub(super) is_told: bool,
    pub(super) interval: Duration,
}

#[derive(serde::Deserialize)]
struct Said<'a> {
    #[serde(rename = "taskId")]
    name: String,
    status: String,
    #[serde(rename = "pollIntervalMs", default)]
    interval: Option<u64>,
    #[serde(borrow, rename = "inputRequests", default)]
    requests: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// How a task stands.
#[derive(Debug)]
pub(super) enum Stands<'a> {
    Working,
    /// What has not been answered.
    Asks(BTreeMap<String, &'a RawValue>),
    Completed(&'a RawValue),
    Failed(&'a RawValue),
    Cancelled,
}

/// Whether a server refuses a call because its client has not said that it takes tasks, and for nothing else.
pub(super) fn is_wanted(error: &Message) -> bool {
    let said: Value = error.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    let needed = said["data"]["requiredCapabilities"].as_object();
    said["code"] == MISSING_CAPABILITY
        && needed.is_some_and(|needed| needed.len() == 1)
        && said["data"]["requiredCapabilities"]["extensions"]
            .as_object()
            .is_some_and(|all| all.len() == 1 && all.contains_key(meta::TASKS_EXTENSION))
}

impl Task {
    /// The task that the result of a call says was made. `None` if it does not.
    pub(super) fn made(result: &Message) -> Option<Task> {
        let said: Said<'_> = serde_json::from_str(result.body()?).ok()?;
        let mut task = Task { name: said.name, answered: BTreeSet::new(), is_told: false, interval: INTERVAL };
        task.waits(said.interval);
        Some(task)
    }

    fn waits(&mut self, interval_ms: Option<u64>) {
        if let Some(interval) = interval_ms {
            self.interval = Duration::from_millis(interval).clamp(SHORTEST, LONGEST);
        }
    }

    /// Reads what the server says of it. `None` if that is not to be read.
    pub(super) fn stands<'a>(&mut self, result: &'a Message) -> Option<Stands<'a>> {
        let said: Said<'a> = serde_json::from_str(result.body()?).ok()?;
        self.waits(said.interval);
        Some(match said.status.as_str() {
            "working" => Stands::Working,
            "input_required" => {
                let mut requests = said.requests.unwrap_or_default();
                requests.retain(|key, _| !self.answered.contains(key));
                if requests.is_empty() { Stands::Working } else { Stands::Asks(requests) }
            }
            "completed" => Stands::Completed(said.result.filter(|result| result.get().starts_with('{'))?),
            "failed" => Stands::Failed(said.error.filter(|error| error.get().starts_with('{'))?),
            "cancelled" => Stands::Cancelled,
            _ => return None,
        })
    }

    /// What it asked under these names has been answered.
    pub(super) fn answered<'k>(&mut self, keys: impl Iterator<Item = &'k String>) {
        self.is_told = true;
        for key in keys {
            if self.answered.len() < ANSWERED_MAX {
                self.answered.insert(key.clone());
            }
        }
    }

    /// A request about it, named 0.
    pub(super) fn request(&self, known: Known) -> Message {
        let (method, id, name) = (known.as_str(), meta::TASK_ID, quoted(self.name.as_str()));
        own(format!(r#"{{"jsonrpc":"2.0","id":0,"method":"{method}","params":{{"{id}":{name}}}}}"#))
    }
}
