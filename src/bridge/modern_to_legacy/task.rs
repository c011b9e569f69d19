//! Tasks of 2025-11-25 in the words of the extension that took their place (2026-07-28, `io.modelcontextprotocol/tasks`).
//!
//! There the server decides which call becomes a task, and a client that polls gets questions and the result with the
//! state; here the client decides, and results and questions come on a request of their own.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::answer::{self, own};
use crate::bridge::loss::Loss;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Whether the client of this request takes a task for an answer.
pub(crate) fn takes(request: &Message) -> bool {
    let json = request.meta(meta::CLIENT_CAPABILITIES).unwrap_or_default();
    // Most clients do not.
    if json.len() <= meta::TASKS_EXTENSION.len()
        || memchr::memmem::find(json.as_bytes(), meta::TASKS_EXTENSION.as_bytes()).is_none()
    {
        return false;
    }
    let all: Value = serde_json::from_str(json).unwrap_or_default();
    all["extensions"][meta::TASKS_EXTENSION].is_object()
}

/// The error to a client that does not, and asks for what only those get.
pub(crate) fn undeclared(id: &RequestId) -> Message {
    answer::needs(id, json!({ "extensions": { meta::TASKS_EXTENSION: {} } }))
}

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Working,
    InputRequired,
    /// There is a result, or an error.
    Done,
    Cancelled,
}

/// A task, as its server describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Described {
    members: Map<String, Value>,
    /// The metadata of what it was read from.
    about: Option<Value>,
    pub(crate) status: Status,
}

impl Described {
    /// Reads what came back for `tasks/get`, or the member of a result that says that a task was made. `None` if it is none.
    pub(crate) fn of(task: Value) -> Option<Described> {
        let Value::Object(mut members) = task else { return None };
        let about = members.remove(meta::META);
        let status = match members.get("status")?.as_str()? {
            "working" => Status::Working,
            "input_required" => Status::InputRequired,
            "completed" | "failed" => Status::Done,
            "cancelled" => Status::Cancelled,
            _ => return None,
        };
        Some(Described { members, about, status })
    }

    /// The task that a result says was made.
    pub(crate) fn made(result: &Message) -> Option<Described> {
        let mut said: Map<String, Value> = serde_json::from_str(result.body()?).ok()?;
        let made = Described::of(said.remove(meta::TASK)?)?;
        Some(Described { about: said.remove(meta::META), ..made })
    }

    /// How long its server keeps it, in milliseconds from its making; `None` if it does not say.
    pub(crate) fn ttl_ms(&self) -> Option<u64> {
        self.members.get("ttl").and_then(Value::as_u64)
    }

    /// The members of the same in the client's words: under this name, and for no longer than that.
    fn told(mut self, name: &str, life_ms: u64, status: &str) -> Map<String, Value> {
        let ttl = self.ttl_ms().map_or(life_ms, |ttl| ttl.min(life_ms));
        self.members.remove("ttl");
        if let Some(interval) = self.members.remove("pollInterval") {
            self.members.insert("pollIntervalMs".into(), interval);
        }
        self.members.insert(meta::TASK_ID.into(), name.into());
        self.members.insert("status".into(), status.into());
        self.members.insert(meta::TTL_MS.into(), ttl.into());
        self.members
    }
}

/// The answer to a call that became a task.
pub(crate) fn created(id: &RequestId, made: Described, name: &str, life_ms: u64) -> Message {
    let about = made.about.clone();
    let mut result = made.told(name, life_ms, "working");
    result.insert(meta::RESULT_TYPE.into(), "task".into());
    result.extend(about.map(|about| (meta::META.to_owned(), about)));
    own(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#, id.as_json(), Value::Object(result)))
}

/// What a task has come to.
#[derive(Debug)]
pub(crate) enum State<'a> {
    Working,
    /// What its client is asked: `inputRequests` (JSON).
    Asks(&'a str),
    /// The answer to `tasks/result`.
    Done(&'a Message),
    Cancelled,
}

/// All that there is to say of a task.
#[derive(Debug, Hash)]
pub(crate) struct Detailed {
    /// The members of an object (JSON), without the braces.
    members: String,
    /// Its metadata (JSON), without the braces; it may be empty.
    about: String,
}

fn without_braces(object: &Value) -> String {
    let text = object.to_string();
    text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default().to_owned()
}

/// What a task says in the state that it is in.
pub(crate) fn detailed(
    described: Described,
    name: &str,
    life_ms: u64,
    state: &State<'_>,
    losses: &mut Vec<Loss>,
) -> Detailed {
    let (status, more) = match state {
        State::Working => ("working", String::new()),
        State::Asks(requests) => ("input_required", format!(r#","{}":{requests}"#, meta::INPUT_REQUESTS)),
        // A tool's result that is a failure is one all the same: only errors of the protocol are none.
        State::Done(answer) if answer.kind() == Kind::Result => {
            ("completed", format!(r#","result":{}"#, answer.body().unwrap_or("{}")))
        }
        State::Done(error) => ("failed", format!(r#","error":{}"#, failure(error, losses))),
        State::Cancelled => ("cancelled", String::new()),
    };
    let about = described.about.as_ref().map(without_braces).unwrap_or_default();
    let members = without_braces(&Value::Object(described.told(name, life_ms, status)));
    Detailed { members: format!("{members}{more}"), about }
}

/// The error of a task, with a code that means the same to its client.
fn failure(error: &Message, losses: &mut Vec<Loss>) -> String {
    refused(error, &RequestId::from_integer(0), losses).body().unwrap_or("{}").to_owned()
}

/// An error of the server about a task, as the answer to a request of its client.
pub(crate) fn refused(error: &Message, id: &RequestId, losses: &mut Vec<Loss>) -> Message {
    match answer::refusal(error, id, None, None) {
        answer::Refusal::Error(error, loss) => {
            losses.extend(loss);
            error
        }
        // There is no call any more that could send its user somewhere.
        answer::Refusal::Errands(_) => error.edit().id(id.as_json()).finish(),
    }
}

/// The answer to `tasks/get`.
pub(crate) fn got(id: &RequestId, Detailed { members, about }: &Detailed) -> Message {
    let (id, kind) = (id.as_json(), meta::RESULT_TYPE);
    let about = if about.is_empty() { String::new() } else { format!(r#","{}":{{{about}}}"#, meta::META) };
    own(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"{kind}":"complete",{members}{about}}}}}"#))
}

/// The answer to `tasks/update` and `tasks/cancel`.
pub(crate) fn taken(id: &RequestId) -> Message {
    own(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"{}":"complete"}}}}"#, id.as_json(), meta::RESULT_TYPE))
}

/// The news of a task, on the stream with this id.
pub(crate) fn news(id: &RequestId, Detailed { members, about }: &Detailed) -> Message {
    let (method, meta, subscription) = (Known::TaskChanged.as_str(), meta::META, meta::SUBSCRIPTION_ID);
    let comma = if about.is_empty() { "" } else { "," };
    let about = format!(r#""{meta}":{{"{subscription}":{}{comma}{about}}}"#, id.as_json());
    own(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{about},{members}}}}}"#))
}

/// The tasks that a stream of notifications is asked to tell of, each once.
pub(crate) fn wanted(listen: &Message) -> Vec<String> {
    let asked: Map<String, Value> =
        listen.param(meta::NOTIFICATIONS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let names = asked.get(meta::TASK_IDS).and_then(Value::as_array).into_iter().flatten();
    let names: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(text.to_owned().into(), 64).unwrap()
    }

    const TASK: &str = r#"{"taskId":"t1","status":"working","ttl":60000,"pollInterval":10,"createdAt":"a","lastUpdatedAt":"b","vendor":1}"#;

    fn described(status: &str) -> Described {
        let text = TASK.replace("working", status).replace("{", r#"{"_meta":{"y":2},"#);
        Described::of(serde_json::from_str(&text).unwrap()).unwrap()
    }

    /// Extension for tasks, Task Creation: flat, under a name of ours, and no longer than it is looked after.
    #[test]
    fn what_was_made_is_told_in_other_words() {
        let id = RequestId::from_json("7").unwrap();
        let made = message(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"task":{TASK},"_meta":{{"x":1}}}}}}"#));
        let told = |life| {
            let created = created(&id, Described::made(&made).unwrap(), "ours", life);
            String::from_utf8(created.text().to_vec()).unwrap()
        };
        assert_eq!(
            told(90_000),
            r#"{"jsonrpc":"2.0","id":7,"result":{"_meta":{"x":1},"createdAt":"a","lastUpdatedAt":"b","pollIntervalMs":10,"resultType":"task","status":"working","taskId":"ours","ttlMs":60000,"vendor":1}}"#
        );
        assert!(told(50).contains(r#""ttlMs":50"#));
        let forever = made.text().to_vec();
        let forever = String::from_utf8(forever).unwrap().replace("60000", "null");
        assert_eq!(Described::made(&message(&forever)).unwrap().ttl_ms(), None);
        assert!(Described::made(&message(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#)).is_none());
    }

    /// Extension for tasks, Task Polling: with what belongs to its state; results keep their digits.
    #[test]
    fn a_task_is_told_with_its_result() {
        let id = RequestId::from_json("7").unwrap();
        let common = r#""createdAt":"a","lastUpdatedAt":"b","pollIntervalMs":10,"#;
        let mut losses = Vec::new();
        let result = message(r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"n":1.50}}"#);
        let error = message(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"m"}}"#);
        for (status, state, expected) in [
            ("input_required", State::Working, r#""status":"working","taskId":"ours","ttlMs":5,"vendor":1"#),
            (
                "working",
                State::Asks(r#"{"q1":{}}"#),
                r#""status":"input_required","taskId":"ours","ttlMs":5,"vendor":1,"inputRequests":{"q1":{}}"#,
            ),
            (
                "failed",
                State::Done(&result),
                r#""status":"completed","taskId":"ours","ttlMs":5,"vendor":1,"result":{"isError":true,"n":1.50}"#,
            ),
            (
                "completed",
                State::Done(&error),
                r#""status":"failed","taskId":"ours","ttlMs":5,"vendor":1,"error":{"code":-32603,"data":{"error":{"code":-32021,"message":"m"},"origin":"upstream"},"message":"m"}"#,
            ),
            ("cancelled", State::Cancelled, r#""status":"cancelled","taskId":"ours","ttlMs":5,"vendor":1"#),
        ] {
            let detailed = detailed(described(status), "ours", 5, &state, &mut losses);
            let all = format!("{common}{expected}");
            assert_eq!(detailed.members, all);
            let got = got(&id, &detailed);
            assert_eq!(got.body(), Some(&*format!(r#"{{"resultType":"complete",{all},"_meta":{{"y":2}}}}"#)));
            let news = news(&id, &detailed);
            assert_eq!((news.method(), news.meta(meta::SUBSCRIPTION_ID)), (Some("notifications/tasks"), Some("7")));
            assert_eq!(news.meta("y"), Some("2"));
        }
        assert_eq!(losses, [Loss::ErrorCode]);
        assert!(Described::of(json!({ "status": "odd" })).is_none());
    }

    #[test]
    fn who_takes_tasks_says_so() {
        let request = |capabilities: &str| {
            let meta = format!(r#"{{"{}":{capabilities}}}"#, meta::CLIENT_CAPABILITIES);
            message(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{meta}}}}}"#))
        };
        assert!(takes(&request(r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#)));
        for not in [
            "{}",
            r#"{"tasks":{}}"#,
            r#"{"extensions":{"io.modelcontextprotocol/tasks":true}}"#,
            r#"{"io.modelcontextprotocol/tasks":{}}"#,
        ] {
            assert!(!takes(&request(not)), "{not}");
        }
    }
}
