//! The tools of the fake server.

use std::time::Duration;

use serde_json::{Value, json};

use super::catalog;
use super::peer::Say;
use super::process;
use super::questions::{Dialogue, Question};
use super::raw;
use super::server::{Exchange, Failure, Spoken, Stop};
use super::state::{Topic, notification};

/// The most text a tool makes at once.
const PAYLOAD_MAX: u64 = 1 << 30;

impl Exchange {
    /// `tools/call`.
    pub(crate) async fn call(&self, spoken: Spoken) -> Result<Value, Stop> {
        let Some(tool) = self.message.params["name"].as_str() else {
            return Err(Failure::new(-32602, "Missing tool name").into());
        };
        let revealed = self.server.state().revealed;
        if !self.server.script.has_tool(tool, revealed) {
            return Err(Failure::new(-32602, format!("Unknown tool: {tool}")).into());
        }
        let answer = match tool {
            "echo" => self.text("text"),
            "payload" => self.number("bytes", None).map(|bytes| payload(bytes.min(PAYLOAD_MAX))),
            "progress" => self.report_progress().await,
            "log" => self.log(spoken).await?,
            "fail" => Err(self.text("message").unwrap_or_else(|_| "failed as asked".into())),
            "error" => return Err(self.error()),
            "sleep" => self.sleep().await,
            "ask" | "sample" | "roots" => return self.ask(spoken, tool).await,
            "count" => return Ok(self.count(spoken)),
            "pid" => Ok(process::report().to_string()),
            "stats" => Ok(self.stats()),
            "notify" => self.notify().await,
            "touch" => self.text("uri").map(|uri| self.told(Topic::Resource(&uri))),
            "change" => self.changed(),
            "exit" => return self.exit().await,
            "meta" => Ok(self.message.params_text.clone()),
            "region" => self.text("region"),
            _ => return Err(Failure::new(-32602, format!("Unknown tool: {tool}")).into()),
        };
        Ok(match answer {
            Ok(text) => content(&text),
            Err(text) => failed(&text),
        })
    }

    /// A text argument. What is no text is taken as it was written, so that numbers keep their digits.
    fn text(&self, name: &str) -> Result<String, String> {
        match self.message.argument(name) {
            Value::Null => Err(format!("missing argument: {name}")),
            Value::String(text) => Ok(text.clone()),
            other => {
                let arguments = raw::member(&self.message.params_text, "arguments").unwrap_or_default();
                Ok(raw::member(arguments, name).map_or_else(|| other.to_string(), str::to_owned))
            }
        }
    }

    fn number(&self, name: &str, default: Option<u64>) -> Result<u64, String> {
        match (self.message.argument(name), default) {
            (Value::Null, Some(default)) => Ok(default),
            (value, _) => value.as_u64().ok_or_else(|| format!("not a number: {name}")),
        }
    }

    async fn report_progress(&self) -> Result<String, String> {
        let (steps, delay) = (self.number("steps", Some(3))?, self.number("delay_ms", Some(0))?);
        for step in 1..=steps {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            self.progress(step, Some(steps), &format!("step {step} of {steps}")).await;
        }
        Ok(format!("did {steps} steps"))
    }

    async fn log(&self, spoken: Spoken) -> Result<Result<String, String>, Stop> {
        let level = self.text("level").unwrap_or_else(|_| "info".into());
        let Some(rank) = catalog::level_rank(&level) else {
            return Ok(Err(format!("no such level: {level}")));
        };
        let least = match (spoken, self.message.reserved("logLevel")) {
            (Spoken::Legacy(_), _) => Some(self.peer.state().log_level),
            (Spoken::Modern, None) => None,
            (Spoken::Modern, Some(wanted)) => {
                let rank = wanted.as_str().and_then(catalog::level_rank);
                Some(rank.ok_or_else(|| Failure::new(-32602, "No such log level"))?)
            }
        };
        let Some(_) = least.filter(|least| *least <= rank) else {
            return Ok(Ok("not logged".into()));
        };
        let params = json!({ "level": level, "logger": "demo", "data": self.text("text").unwrap_or_default() });
        self.outlet.say(Say::Message(notification("notifications/message", &params.to_string()))).await;
        Ok(Ok("logged".into()))
    }

    fn error(&self) -> Stop {
        let code = self.message.argument("code").as_i64().unwrap_or(-32603);
        Failure::new(code, self.text("message").unwrap_or_else(|_| "an error as asked".into())).into()
    }

    async fn sleep(&self) -> Result<String, String> {
        let ms = self.number("ms", None)?;
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(format!("slept {ms} ms"))
    }

    /// `ask`, `sample` and `roots`.
    async fn ask(&self, spoken: Spoken, tool: &str) -> Result<Value, Stop> {
        let capability = match tool {
            "ask" => "elicitation",
            "sample" => "sampling",
            _ => "roots",
        };
        if !self.can_be_asked(spoken, capability) {
            return match spoken {
                Spoken::Legacy(_) => Ok(failed(&format!("the client does not support {capability}"))),
                Spoken::Modern => Err(Failure::new(-32021, "Missing required client capability")
                    .with(json!({ "requiredCapabilities": { capability: {} } }))
                    .into()),
            };
        }
        let count = usize::try_from(self.number("parallel", Some(1)).unwrap_or(1).clamp(1, 16)).unwrap_or(1);
        let rounds = self.number("rounds", Some(1)).unwrap_or(1).clamp(1, 64);
        let questions: Vec<Question> = (0..count).map(|_| self.question(tool)).collect();
        let answers = match self.dialogue(spoken, rounds, &questions).await? {
            Dialogue::InputRequired(result) => return Ok(result),
            Dialogue::Answered(answers) => answers,
        };
        let lines: Vec<String> = answers.iter().map(|answer| describe(tool, answer)).collect();
        let mut result = content(&lines.join("\n"));
        if answers.iter().any(Result::is_err) {
            result["isError"] = true.into();
        }
        Ok(result)
    }

    fn question(&self, tool: &str) -> Question {
        match tool {
            "ask" if self.message.argument("params").is_object() => {
                Question { method: "elicitation/create", params: self.message.argument("params").clone() }
            }
            "ask" => Question {
                method: "elicitation/create",
                params: json!({
                    "message": self.text("message").unwrap_or_else(|_| "Well?".into()),
                    "requestedSchema": { "type": "object", "properties": { "answer": { "type": "string" } } },
                }),
            },
            "sample" => {
                let prompt = self.text("prompt").unwrap_or_else(|_| "Say something.".into());
                let message = json!({ "role": "user", "content": { "type": "text", "text": prompt } });
                Question {
                    method: "sampling/createMessage",
                    params: json!({ "messages": [message], "maxTokens": 100 }),
                }
            }
            _ => Question { method: "roots/list", params: json!({}) },
        }
    }

    fn count(&self, spoken: Spoken) -> Value {
        let key = self.text("key").unwrap_or_else(|_| "default".into());
        let count = self.server.state().count(&key);
        let mut result = content(&count.to_string());
        if spoken.since("2025-06-18") {
            result["structuredContent"] = json!({ "key": key, "count": count });
        }
        result
    }

    /// What was seen of all clients, and what is known of this one.
    fn stats(&self) -> String {
        let mut stats = serde_json::to_value(self.server.state().stats()).unwrap_or_default();
        let client = self.peer.state();
        stats["client"] = json!({
            "revision": client.revision,
            "capabilities": client.capabilities,
            "level": catalog::LEVELS.get(client.log_level),
            "subscriptions": client.subscriptions,
        });
        stats.to_string()
    }

    async fn notify(&self) -> Result<String, String> {
        let method = self.text("method")?;
        let arguments = raw::member(&self.message.params_text, "arguments").unwrap_or_default();
        let params = raw::member(arguments, "params").unwrap_or("null");
        self.outlet.say(Say::Message(notification(&method, params))).await;
        Ok(format!("sent {method}"))
    }

    fn told(&self, topic: Topic<'_>) -> String {
        format!("told {}", self.server.state().publish(topic))
    }

    fn changed(&self) -> Result<String, String> {
        match self.text("kind")?.as_str() {
            kind @ ("tools" | "prompts" | "resources") => {
                self.server.state().revealed |= kind == "tools";
                Ok(self.told(Topic::List(kind)))
            }
            other => Err(format!("no such list: {other}")),
        }
    }

    async fn exit(&self) -> Result<Value, Stop> {
        let code = self.number("code", Some(0)).ok().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        if self.message.argument("when") != "after" {
            return Err(Stop::Exit(code));
        }
        self.exit_after(code);
        Ok(content("goodbye"))
    }
}

/// A result of one text.
fn content(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

/// A result that says the tool failed.
fn failed(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }], "isError": true })
}

/// Text of so many bytes: the alphabet, over and over.
fn payload(bytes: u64) -> String {
    (0..bytes).map(|n| char::from(b'a' + u8::try_from(n % 26).unwrap_or(0))).collect()
}

/// What a client answered, in a line.
fn describe(tool: &str, answer: &Result<Value, Value>) -> String {
    match (tool, answer) {
        (_, Err(error)) => format!("error: {} {}", error["code"], error["message"].as_str().unwrap_or_default()),
        ("ask", Ok(answer)) => format!("answer: {} {}", answer["action"].as_str().unwrap_or("?"), answer["content"]),
        ("sample", Ok(answer)) => format!("sampled: {}", answer["content"]["text"].as_str().unwrap_or_default()),
        (_, Ok(answer)) => {
            let uris =
                answer["roots"].as_array().map(|roots| roots.iter().filter_map(|root| root["uri"].as_str()).collect());
            format!("roots: {}", uris.unwrap_or_else(Vec::new).join(" "))
        }
    }
}
