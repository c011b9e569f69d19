//! The methods of the fake server but for `tools/call`.

use serde_json::{Value, json};

use super::catalog::{self, COUNTER_PREFIX};
use super::incoming::reserved;
use super::peer::Say;
use super::raw;
use super::script::{Discover, Served};
use super::server::{Exchange, Failure, Spoken, Stop};
use super::state::tagged_notification;

/// How long modern clients may keep what can be kept: not at all, so that they see each change.
const TTL_MS: u64 = 0;

/// Whether 2026-07-28 has such a method, and the fake server serves it.
pub(crate) fn is_modern_method(method: &str) -> bool {
    const METHODS: [&str; 13] = [
        "server/discover",
        "subscriptions/listen",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "prompts/list",
        "tools/call",
        "resources/read",
        "prompts/get",
        "completion/complete",
        "tasks/get",
        "tasks/update",
        "tasks/cancel",
    ];
    METHODS.contains(&method)
}

impl Exchange {
    /// The result of the request, as text.
    pub(crate) async fn handle(&self) -> Result<String, Stop> {
        let spoken = self.server.spoken(&self.peer, &self.message)?;
        let method = self.message.method.as_str();
        let result = match (method, spoken) {
            ("server/discover", Spoken::Legacy(_)) => return Err(self.discovered_by_surprise()),
            _ if self.is_about_tasks(spoken) => self.tasks(spoken).await?,
            _ if self.is_about_modern_tasks(spoken) => self.modern_tasks().await?,
            ("initialize", Spoken::Legacy(_)) => self.initialize(),
            ("ping", Spoken::Legacy(_)) => json!({}),
            ("logging/setLevel", Spoken::Legacy(_)) => self.set_level()?,
            ("resources/subscribe" | "resources/unsubscribe", Spoken::Legacy(_)) => self.subscribe(method)?,
            ("server/discover", Spoken::Modern) => self.discover(),
            ("subscriptions/listen", Spoken::Modern) => return self.listen().await,
            ("tools/list", _) => self.list(spoken, "tools", self.tools(spoken))?,
            ("resources/list", _) => self.list(spoken, "resources", catalog::resources())?,
            ("resources/templates/list", _) => self.list(spoken, "resourceTemplates", catalog::templates())?,
            ("prompts/list", _) => self.list(spoken, "prompts", catalog::prompts())?,
            ("tools/call", _) => self.call(spoken).await?,
            ("resources/read", _) => self.read(spoken)?,
            ("prompts/get", _) => self.prompt()?,
            ("completion/complete", _) => self.complete()?,
            _ => return Err(Failure::new(-32601, format!("Method not found: {method}")).into()),
        };
        Ok(self.seal(spoken, result).to_string())
    }

    /// Adds what every modern result has.
    fn seal(&self, spoken: Spoken, mut result: Value) -> Value {
        if spoken != Spoken::Modern {
            return result;
        }
        let complete = result.get("resultType").is_none();
        if complete {
            result["resultType"] = "complete".into();
        }
        let cacheable = self.message.method.ends_with("/list")
            || matches!(self.message.method.as_str(), "server/discover" | "resources/read");
        if complete && cacheable {
            result["ttlMs"] = TTL_MS.into();
            result["cacheScope"] = "private".into();
        }
        result["_meta"][reserved("serverInfo")] = self.server_info(spoken);
        result
    }

    fn server_info(&self, spoken: Spoken) -> Value {
        let mut info = json!({ "name": self.server.script.name, "version": env!("CARGO_PKG_VERSION") });
        if spoken.since("2025-06-18") {
            info["title"] = "The demo server of shadowcat".into();
        }
        info
    }

    fn capabilities(&self, spoken: Spoken) -> Value {
        if let Some(said) = &self.server.script.capabilities {
            return Value::Object(said.clone());
        }
        let mut capabilities = json!({
            "tools": { "listChanged": true },
            "resources": { "subscribe": true, "listChanged": true },
            "prompts": { "listChanged": true },
            "logging": {},
        });
        if spoken.since("2025-03-26") {
            capabilities["completions"] = json!({});
        }
        if self.has_tasks(spoken) {
            capabilities["tasks"] = json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } });
        }
        if self.has_modern_tasks(spoken) {
            capabilities["extensions"] = json!({ "io.modelcontextprotocol/tasks": {} });
        }
        capabilities
    }

    /// What a server that knows nothing of 2026-07-28 does when it is asked what it can do.
    fn discovered_by_surprise(&self) -> Stop {
        match (self.server.script.era, self.server.script.discover) {
            (Served::Legacy, Discover::Silence) => Stop::Silent,
            (Served::Legacy, Discover::Exit) => Stop::Exit(1),
            _ => Failure::new(-32601, "Method not found: server/discover").into(),
        }
    }

    fn initialize(&self) -> Value {
        let requested = self.message.params["protocolVersion"].as_str().unwrap_or_default();
        let revision = self.server.script.negotiate(requested);
        {
            let mut state = self.peer.state();
            state.revision = Some(revision);
            state.capabilities = self.message.params["capabilities"].clone();
        }
        self.server.state().joined(&self.peer);
        let spoken = Spoken::Legacy(revision);
        json!({
            "protocolVersion": revision,
            "capabilities": self.capabilities(spoken),
            "serverInfo": self.server_info(spoken),
            "instructions": self.server.script.instructions,
        })
    }

    fn discover(&self) -> Value {
        json!({
            "supportedVersions": self.server.script.versions(),
            "capabilities": self.capabilities(Spoken::Modern),
            "instructions": self.server.script.instructions,
        })
    }

    fn set_level(&self) -> Result<Value, Failure> {
        let level = self.message.params["level"].as_str().and_then(catalog::level_rank);
        self.peer.state().log_level = level.ok_or_else(|| Failure::new(-32602, "No such log level"))?;
        Ok(json!({}))
    }

    fn subscribe(&self, method: &str) -> Result<Value, Failure> {
        let uri = self.message.params["uri"].as_str().ok_or_else(|| Failure::new(-32602, "Missing uri"))?;
        let mut state = self.peer.state();
        if method == "resources/subscribe" {
            state.subscriptions.insert(uri.to_owned());
        } else {
            state.subscriptions.remove(uri);
        }
        Ok(json!({}))
    }

    /// The tools there are now.
    fn tools(&self, spoken: Spoken) -> Vec<Value> {
        let revealed = self.server.state().revealed;
        let has = |tool: &Value| self.server.script.has_tool(tool["name"].as_str().unwrap_or_default(), revealed);
        let mut tools: Vec<Value> = catalog::tools().into_iter().filter(has).collect();
        if self.has_tasks(spoken) {
            tools.iter_mut().for_each(|tool| tool["execution"] = json!({ "taskSupport": "optional" }));
        }
        tools
    }

    /// One page of a list. A cursor is the number of entries before the page, as text.
    fn list(&self, spoken: Spoken, key: &str, mut entries: Vec<Value>) -> Result<Value, Failure> {
        let from = match &self.message.params["cursor"] {
            Value::Null => 0,
            cursor => cursor
                .as_str()
                .and_then(|cursor| cursor.strip_prefix("after-")?.parse().ok())
                .filter(|from| *from <= entries.len())
                .ok_or_else(|| Failure::new(-32602, "No such cursor"))?,
        };
        let mut page: Vec<Value> = entries.drain(from..).collect();
        let size = self.server.script.page_size;
        let more = size > 0 && page.len() > size;
        if more {
            page.truncate(size);
        }
        if let Spoken::Legacy(revision) = spoken {
            page.iter_mut().for_each(|entry| catalog::trim(entry, revision));
        }
        let mut result = json!({ key: page });
        if more {
            result["nextCursor"] = format!("after-{}", from + size).into();
        }
        Ok(result)
    }

    fn read(&self, spoken: Spoken) -> Result<Value, Failure> {
        let uri = self.message.params["uri"].as_str().ok_or_else(|| Failure::new(-32602, "Missing uri"))?;
        let contents = match (uri, uri.strip_prefix(COUNTER_PREFIX)) {
            (catalog::HELLO, _) => {
                json!({ "uri": uri, "mimeType": "text/plain", "text": "Hello from the demo server.\n" })
            }
            (catalog::DOT, _) => {
                json!({ "uri": uri, "mimeType": "image/png", "blob": catalog::DOT_PNG })
            }
            (_, Some(key)) => {
                let count = json!({ "key": key, "count": self.server.state().counted(key) });
                json!({ "uri": uri, "mimeType": "application/json", "text": count.to_string() })
            }
            _ => {
                let code = if spoken == Spoken::Modern { -32602 } else { -32002 };
                return Err(Failure::new(code, "Resource not found").with(json!({ "uri": uri })));
            }
        };
        Ok(json!({ "contents": [contents] }))
    }

    fn prompt(&self) -> Result<Value, Failure> {
        let text = match self.message.params["name"].as_str() {
            Some("greet") => {
                let name = self.message.argument("name").as_str();
                let name = name.ok_or_else(|| Failure::new(-32602, "Missing argument: name"))?;
                let style = self.message.argument("style").as_str().unwrap_or("friendly");
                format!("Greet {name} in a {style} way.")
            }
            Some("tour") => "List the tools of this server and try each of them once, except `exit`.".to_owned(),
            other => {
                return Err(Failure::new(-32602, format!("No such prompt: {}", other.unwrap_or(""))));
            }
        };
        Ok(json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": text } }] }))
    }

    fn complete(&self) -> Result<Value, Failure> {
        let params = &self.message.params;
        let prefix = params["argument"]["value"].as_str().unwrap_or_default();
        let argument = params["argument"]["name"].as_str().unwrap_or_default();
        let starting =
            |all: &[&str]| all.iter().filter(|word| word.starts_with(prefix)).map(ToString::to_string).collect();
        let values: Vec<String> = match (params["ref"]["type"].as_str(), argument) {
            (Some("ref/prompt"), "style") => starting(&catalog::STYLES),
            (Some("ref/prompt"), "name") => starting(&["Ada", "Alan", "Grace", "Linus"]),
            (Some("ref/resource"), "key") => self.server.state().counters(prefix),
            (Some("ref/prompt" | "ref/resource"), _) => Vec::new(),
            _ => return Err(Failure::new(-32602, "No such reference")),
        };
        Ok(json!({ "completion": { "values": values, "total": values.len(), "hasMore": false } }))
    }

    /// Serves a subscription until it is cancelled, or the server ends.
    async fn listen(&self) -> Result<String, Stop> {
        let filter = self.message.params["notifications"].clone();
        if !filter.is_object() {
            return Err(Failure::new(-32602, "Missing notifications").into());
        }
        let known = ["toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"];
        let mut honoured = filter.clone();
        if let Some(honoured) = honoured.as_object_mut() {
            honoured.retain(|key, value| known.contains(&key.as_str()) && *value != false);
        }
        let acknowledged = tagged_notification(
            "notifications/subscriptions/acknowledged",
            &json!({ "notifications": honoured }),
            self.id(),
        );
        self.outlet.say(Say::Message(acknowledged)).await;
        let key = self.server.state().listens(self.id(), honoured, self.outlet.clone());
        let _listening = Listening { exchange: self, key };
        self.server.closing.cancelled().await;
        let info = json!({ reserved("serverInfo"): self.server_info(Spoken::Modern) });
        let meta = raw::with(&info.to_string(), &reserved("subscriptionId"), self.id());
        Ok(raw::with(r#"{"resultType":"complete"}"#, "_meta", &meta))
    }
}

/// Takes a listen request off the list when it ends, however it does.
struct Listening<'a> {
    exchange: &'a Exchange,
    key: u64,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.exchange.server.state().left(self.key);
    }
}
