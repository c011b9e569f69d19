//! Tasks of 2025-11-25, where the script has them: calls that are answered at once with a task, and whose result is fetched later.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::raw;
use super::server::{Exchange, Failure, Spoken, Stop};

/// Most tasks that are kept; the oldest are forgotten.
const KEPT: usize = 100;

/// A call that became a task. It was done before the client hears of it, so that nothing depends on time.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    id: String,
    created: String,
    result: Value,
}

impl Task {
    fn to_json(&self, status: &str) -> Value {
        json!({
            "taskId": self.id,
            "status": status,
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
                Ok(json!({ "tasks": state.tasks.iter().map(|task| task.to_json("completed")).collect::<Vec<_>>() }))
            }
            "tasks/get" => Ok(self.task()?.to_json("completed")),
            "tasks/result" => {
                let task = self.task()?;
                let related = json!({ "io.modelcontextprotocol/related-task": { "taskId": task.id } });
                let result = raw::with(&task.result.to_string(), "_meta", &related.to_string());
                Ok(serde_json::from_str(&result).unwrap_or(task.result))
            }
            "tasks/cancel" => {
                self.task()?;
                Err(Failure::new(-32602, "The task has ended").into())
            }
            method => Err(Failure::new(-32601, format!("Method not found: {method}")).into()),
        }
    }

    async fn begin_task(&self, spoken: Spoken) -> Result<Value, Stop> {
        let result = self.call(spoken).await?;
        let mut state = self.server.state();
        state.last_task += 1;
        let created = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let task = Task { id: format!("task-{}", state.last_task), created, result };
        let told = json!({ "task": task.to_json("working") });
        if state.tasks.len() == KEPT {
            state.tasks.pop_front();
        }
        state.tasks.push_back(task);
        Ok(told)
    }

    fn task(&self) -> Result<Task, Failure> {
        let id = self.message.params["taskId"].as_str().unwrap_or_default();
        let state = self.server.state();
        let task = state.tasks.iter().find(|task| task.id == id);
        task.cloned().ok_or_else(|| Failure::new(-32602, "No such task"))
    }
}
