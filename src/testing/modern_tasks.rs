//! Tasks of 2026-07-28 (extension `io.modelcontextprotocol/tasks`), where the script has them: every call becomes one, but for `stats`
//! and `pid`, so that a client that does not take tasks is refused.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::incoming::Incoming;
use super::server::{Exchange, Failure, Spoken, Stop};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// Most tasks that are kept; the oldest are forgotten.
const KEPT: usize = 100;

/// A call that became a task. It is done before its client hears of it, or as soon as its client has answered; but the first who
/// looks sees it at work.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    id: String,
    created: String,
    call: Incoming,
    status: &'static str,
    /// What belongs to the status.
    more: Value,
    looks: u32,
}

impl Task {
    fn to_json(&self) -> Value {
        json!({
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.created,
            "ttlMs": Value::Null,
            "pollIntervalMs": 10,
        })
    }

    /// Notes what has come of the call.
    fn came_to(&mut self, outcome: Result<Value, Stop>) -> Result<(), Stop> {
        (self.status, self.more) = match outcome {
            Ok(asks) if asks["resultType"] == "input_required" => ("input_required", asks),
            Ok(result) => ("completed", json!({ "result": result })),
            Err(Stop::Error(failure)) => ("failed", json!({ "error": failure.to_json() })),
            Err(stop) => return Err(stop),
        };
        Ok(())
    }
}

impl Exchange {
    /// Whether the request is about such tasks, and this server has them.
    pub(crate) fn is_about_modern_tasks(&self, spoken: Spoken) -> bool {
        let tool = self.message.params["name"].as_str().unwrap_or_default();
        self.has_modern_tasks(spoken)
            && match self.message.method.as_str() {
                "tools/call" => !matches!(tool, "stats" | "pid"),
                method => matches!(method, "tasks/get" | "tasks/update" | "tasks/cancel"),
            }
    }

    /// Whether clients are told of the extension in this language.
    pub(crate) fn has_modern_tasks(&self, spoken: Spoken) -> bool {
        self.server.script.tasks && spoken == Spoken::Modern
    }

    /// Answers what is about tasks.
    pub(crate) async fn modern_tasks(&self) -> Result<Value, Stop> {
        let takes =
            self.message.reserved("clientCapabilities").is_some_and(|all| all["extensions"][EXTENSION].is_object());
        if !takes {
            let missing = json!({ "requiredCapabilities": { "extensions": { EXTENSION: {} } } });
            return Err(Failure::new(-32021, "Missing required client capability").with(missing).into());
        }
        match self.message.method.as_str() {
            "tasks/get" => {
                let task = self.with_task(|task| {
                    task.looks += 1;
                    task.clone()
                })?;
                let mut told = task.to_json();
                if task.looks == 1 {
                    told["status"] = "working".into();
                    return Ok(told);
                }
                for name in ["inputRequests", "result", "error"] {
                    if let Some(value) = task.more.get(name) {
                        told[name] = value.clone();
                    }
                }
                Ok(told)
            }
            "tasks/update" => {
                let task = self.with_task(|task| task.clone())?;
                if task.status == "input_required" {
                    let mut call = task.call;
                    call.params["inputResponses"] = self.message.params["inputResponses"].clone();
                    call.params["requestState"] = task.more["requestState"].clone();
                    call.params_text = call.params.to_string();
                    let outcome = self.instead(call).call(Spoken::Modern).await;
                    self.with_task(|task| task.came_to(outcome))??;
                }
                Ok(json!({}))
            }
            "tasks/cancel" => {
                self.with_task(|task| {
                    if matches!(task.status, "working" | "input_required") {
                        (task.status, task.more) = ("cancelled", Value::Null);
                    }
                })?;
                Ok(json!({}))
            }
            _ => self.begin_modern_task().await,
        }
    }

    async fn begin_modern_task(&self) -> Result<Value, Stop> {
        let created = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let call = self.message.clone();
        let mut task = Task { id: String::new(), created, call, status: "working", more: Value::Null, looks: 0 };
        // What sleeps is at work until it is cancelled.
        if self.message.params["name"] != "sleep" {
            task.came_to(self.call(Spoken::Modern).await)?;
        }
        let mut state = self.server.state();
        state.last_task += 1;
        task.id = format!("task-{}", state.last_task);
        let mut told = task.to_json();
        (told["resultType"], told["status"]) = ("task".into(), "working".into());
        if state.modern_tasks.len() == KEPT {
            state.modern_tasks.pop_front();
        }
        state.modern_tasks.push_back(task);
        Ok(told)
    }

    fn with_task<T>(&self, look: impl FnOnce(&mut Task) -> T) -> Result<T, Failure> {
        let id = self.message.params["taskId"].as_str().unwrap_or_default();
        let mut state = self.server.state();
        let task = state.modern_tasks.iter_mut().find(|task| task.id == id);
        task.map(look).ok_or_else(|| Failure::new(-32602, "No such task"))
    }
}
