//! Tasks of 2025-11-25, where the script has them: calls that are answered at once with a task, and whose result is fetched later.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::peer::Say;
use super::raw;
use super::server::{Exchange, Failure, Spoken, Stop};
use super::state::notification;

/// Most tasks that are kept; the oldest are forgotten.
const KEPT: usize = 100;

/// A call that became a task. Most are done before the client hears of them, so that nothing depends on time. Those whose tool
/// asks something begin when the client wants the result, on whose stream they ask; `sleep` does so, too.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    id: String,
    created: String,
    status: &'static str,
    result: Result<Value, Value>,
    /// The message that has yet to be carried out.
    deferred: Option<super::incoming::Incoming>,
}

impl Task {
    fn to_json(&self) -> Value {
        json!({
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.created,
            "ttl": Value::Null,
            "pollInterval": 10,
        })
    }
}

impl Exchange {
    /// Whether the request is about tasks, and this server has them.
    pub(crate) fn is_about_tasks(&self, spoken: Spoken) -> bool {
        self.has_tasks(spoken) && (self.message.method.starts_with("tasks/") || self.message.params["task"].is_object())
    }

    /// Whether clients are told of tasks in this language.
    pub(crate) fn has_tasks(&self, spoken: Spoken) -> bool {
        self.server.script.tasks && matches!(spoken, Spoken::Legacy(_)) && spoken.since("2025-11-25")
    }

    /// Answers what is about tasks.
    pub(crate) async fn tasks(&self, spoken: Spoken) -> Result<Value, Stop> {
        match self.message.method.as_str() {
            "tools/call" => self.begin_task(spoken).await,
            "tasks/list" => {
                let state = self.server.state();
                Ok(json!({ "tasks": state.tasks.iter().map(Task::to_json).collect::<Vec<_>>() }))
            }
            "tasks/get" => Ok(self.task()?.to_json()),
            "tasks/result" => self.finish_task(spoken).await,
            "tasks/cancel" => {
                let task = self.task()?;
                if task.deferred.is_none() {
                    return Err(Failure::new(-32602, "The task has ended").into());
                }
                let error = Failure::new(-32000, "The task was cancelled").to_json();
                Ok(self.change(&task.id, "cancelled", Err(error)))
            }
            method => Err(Failure::new(-32601, format!("Method not found: {method}")).into()),
        }
    }

    async fn begin_task(&self, spoken: Spoken) -> Result<Value, Stop> {
        let status = match self.message.params["name"].as_str() {
            Some("ask" | "sample" | "roots") => "input_required",
            Some("sleep") => "working",
            _ => "completed",
        };
        let deferred = (status != "completed").then(|| self.message.clone());
        let (status, result) = match &deferred {
            Some(_) => (status, Ok(Value::Null)),
            None => ended(self.call(spoken).await)?,
        };
        let mut state = self.server.state();
        state.last_task += 1;
        let created = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let task = Task { id: format!("task-{}", state.last_task), created, status, result, deferred };
        let told = json!({ "task": Task { status: "working", ..task.clone() }.to_json() });
        if state.tasks.len() == KEPT {
            state.tasks.pop_front();
        }
        state.tasks.push_back(task);
        Ok(told)
    }

    /// The result, as the call itself would have had it.
    async fn finish_task(&self, spoken: Spoken) -> Result<Value, Stop> {
        let mut task = self.task()?;
        if let Some(deferred) = task.deferred {
            let (status, result) = ended(self.instead(deferred).call(spoken).await)?;
            task.result = result.clone();
            let now = self.change(&task.id, status, result);
            let news = notification("notifications/tasks/status", &now.to_string());
            self.outlet.say(Say::Message(news)).await;
        }
        let result = task.result.map_err(|error| Stop::Error(Failure::of(&error)))?;
        let related = json!({ "io.modelcontextprotocol/related-task": { "taskId": task.id } });
        let text = raw::with(&result.to_string(), "_meta", &related.to_string());
        Ok(serde_json::from_str(&text).unwrap_or(result))
    }

    fn change(&self, id: &str, status: &'static str, result: Result<Value, Value>) -> Value {
        let mut state = self.server.state();
        let Some(task) = state.tasks.iter_mut().find(|task| task.id == id) else { return Value::Null };
        (task.status, task.result, task.deferred) = (status, result, None);
        task.to_json()
    }

    fn task(&self) -> Result<Task, Failure> {
        let id = self.message.params["taskId"].as_str().unwrap_or_default();
        let state = self.server.state();
        let task = state.tasks.iter().find(|task| task.id == id);
        task.cloned().ok_or_else(|| Failure::new(-32602, "No such task"))
    }
}

/// How a task has ended (2025-11-25, Tasks › Task Status): a tool's result that is a failure is one, too.
fn ended(outcome: Result<Value, Stop>) -> Result<(&'static str, Result<Value, Value>), Stop> {
    match outcome {
        Ok(result) if result["isError"] == true => Ok(("failed", Ok(result))),
        Ok(result) => Ok(("completed", Ok(result))),
        Err(Stop::Error(failure)) => Ok(("failed", Err(failure.to_json()))),
        Err(stop) => Err(stop),
    }
}
