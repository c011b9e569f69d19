//! A client made with the official SDK, and a user who tries everything it can do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmcp::model::*;
use rmcp::service::{NotificationContext, PeerRequestOptions, RequestContext, RunningService, ServiceError};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::common::{until, within};

/// The resource that changes.
const HELLO: &str = "test://hello";

/// How a server is reached.
pub(crate) enum Transport {
    Http(String),
    /// Program and arguments, environment.
    Command(Vec<String>, Vec<(String, String)>),
}

/// A user with a client.
pub(crate) struct User {
    client: RunningService<RoleClient, Ears>,
    heard: mpsc::Receiver<Value>,
    name: Arc<Mutex<&'static str>>,
}

/// Answers what a server asks, and remembers what it says.
struct Ears {
    heard: mpsc::Sender<Value>,
    name: Arc<Mutex<&'static str>>,
}

impl Ears {
    async fn hear(&self, what: &str, params: impl Serialize) {
        // If nobody listens any more the test is over.
        let _ = self.heard.send(json!({ what: params })).await;
    }
}

impl ClientHandler for Ears {
    fn get_info(&self) -> ClientConfig {
        let capabilities =
            serde_json::from_value(json!({ "sampling": {}, "elicitation": {}, "roots": { "listChanged": true } }));
        ClientConfig::new(capabilities.unwrap(), Implementation::new("user", "0.1.0"))
            .with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    async fn create_message(
        &self,
        _: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        Ok(CreateMessageResult::new(SamplingMessage::assistant_text("sampled"), "model".into()))
    }

    async fn list_roots(&self, _: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        Ok(serde_json::from_value(json!({ "roots": [{ "uri": "file:///home/ü", "name": "home" }] })).unwrap())
    }

    async fn create_elicitation(
        &self,
        _: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let name = *self.name.lock().unwrap();
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "name": name })))
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.hear("progress", params).await;
    }

    async fn on_logging_message(&self, params: LoggingMessageNotificationParam, _: NotificationContext<RoleClient>) {
        self.hear("log", params).await;
    }

    async fn on_resource_updated(&self, params: ResourceUpdatedNotificationParam, _: NotificationContext<RoleClient>) {
        self.hear("updated", params).await;
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.hear("changed", "tools").await;
    }
}

/// A result, or what the server said instead.
fn outcome(result: Result<impl Serialize, ServiceError>) -> Value {
    match result {
        Ok(result) => json!(result),
        Err(ServiceError::McpError(error)) => json!({ "error": error }),
        Err(other) => panic!("{other:?}"),
    }
}

impl User {
    pub(crate) async fn connect(transport: &Transport, lifecycle: ClientLifecycleMode) -> User {
        let (sender, heard) = mpsc::channel(256);
        let name = Arc::new(Mutex::new("somebody"));
        let ears = Ears { heard: sender, name: Arc::clone(&name) };
        let client = match transport {
            Transport::Http(url) => {
                let config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
                ears.serve_with_lifecycle(StreamableHttpClientTransport::from_config(config), lifecycle).await
            }
            Transport::Command(command, environment) => {
                let mut process = tokio::process::Command::new(&command[0]);
                process.args(&command[1..]).envs(environment.iter().cloned());
                ears.serve_with_lifecycle(TokioChildProcess::new(process).unwrap(), lifecycle).await
            }
        };
        User { client: client.unwrap(), heard, name }
    }

    pub(crate) async fn leave(self) {
        within("leave", self.client.cancel()).await.unwrap();
    }

    /// What it answers when it is asked for its name.
    pub(crate) fn is_called(&self, name: &'static str) {
        *self.name.lock().unwrap() = name;
    }

    pub(crate) fn version(&self) -> ProtocolVersion {
        self.client.peer_info().unwrap().protocol_version.clone()
    }

    fn is_modern(&self) -> bool {
        self.version() >= ProtocolVersion::V_2026_07_28
    }

    pub(crate) async fn call(&mut self, tool: &'static str, arguments: Value) -> Value {
        let params = CallToolRequestParams::new(tool).with_arguments(arguments.as_object().cloned().unwrap());
        outcome(within(tool, self.client.call_tool(params)).await)
    }

    /// The next things that the server says besides its answers. They come in no particular order: the SDK handles each in a
    /// task of its own.
    pub(crate) async fn hear(&mut self, count: usize) -> Vec<Value> {
        let mut heard = Vec::new();
        for n in 0..count {
            heard.push(within(&format!("{n} of {count} heard"), self.heard.recv()).await.unwrap());
        }
        heard.sort_by_key(Value::to_string);
        heard
    }

    /// Everything a client of the SDK can do; what it has seen.
    ///
    /// With `can_be_asked` the server can also say something outside of an answer.
    pub(crate) async fn try_everything(&mut self, can_be_asked: bool) -> Vec<(&'static str, Value)> {
        let mut seen = Vec::new();
        seen.push(("server", json!(self.client.peer_info())));
        for (what, arguments) in [
            ("echo", json!({ "text": "h\u{e9}llo \u{1f600} \u{2028} \"\\" })),
            ("structured", json!({})),
            ("fail", json!({})),
            ("no such tool", json!({})),
        ] {
            seen.push((what, self.call(what, arguments).await));
        }
        seen.extend(self.read().await);
        seen.push(("progress", self.call("progress", json!({ "steps": 3, "text": "step" })).await));
        seen.push(("progress heard", self.hear(3).await.into()));
        let logged = self.log().await;
        seen.extend([("log", logged), ("log heard", self.hear(1).await.into())]);
        if can_be_asked {
            for tool in ["ask", "sample", "roots"] {
                seen.push((tool, self.call(tool, json!({ "message": "Who is it?" })).await));
            }
            seen.extend(self.subscribe().await);
            seen.push(("cancelled", self.cancel().await));
        }
        seen
    }

    /// Lists, resources, prompts, completion.
    async fn read(&mut self) -> Vec<(&'static str, Value)> {
        let client = &self.client;
        let first = within("page", client.list_tools(None)).await.unwrap();
        let cursor = first.next_cursor.clone();
        assert!(cursor.is_some(), "there is more than one page");
        let next = Some(PaginatedRequestParams::default().with_cursor(cursor));
        let read = |uri: &str| ReadResourceRequestParams::new(uri);
        let greet =
            GetPromptRequestParams::new("greet").with_arguments(json!({ "name": "you" }).as_object().cloned().unwrap());
        vec![
            ("a page", json!(first)),
            ("the next page", outcome(within("page", client.list_tools(next)).await)),
            ("all tools", outcome(within("tools", client.list_all_tools()).await)),
            ("resources", outcome(within("resources", client.list_all_resources()).await)),
            ("templates", outcome(within("templates", client.list_all_resource_templates()).await)),
            ("a resource", outcome(within("read", client.read_resource(read("test://hello"))).await)),
            ("no resource", outcome(within("read", client.read_resource(read("test://nothing"))).await)),
            ("prompts", outcome(within("prompts", client.list_all_prompts()).await)),
            ("a prompt", outcome(within("prompt", client.get_prompt(greet)).await)),
            ("completion", outcome(within("complete", client.complete_prompt_simple("greet", "name", "x")).await)),
        ]
    }

    /// Logging: set once, or asked for with each request.
    pub(crate) async fn log(&mut self) -> Value {
        let mut call =
            CallToolRequestParams::new("log").with_arguments(json!({ "text": "x" }).as_object().cloned().unwrap());
        if self.is_modern() {
            let mut meta = RequestMetaObject::new();
            meta.set_log_level(LoggingLevel::Info);
            call.meta = Some(meta);
        } else {
            within("level", self.client.set_level(SetLevelRequestParams::new(LoggingLevel::Info))).await.unwrap();
        }
        outcome(within("log", self.client.call_tool(call)).await)
    }

    /// Changes that the server tells of: unasked and by subscription, or on a stream that asks for both.
    async fn subscribe(&mut self) -> Vec<(&'static str, Value)> {
        if !self.is_modern() {
            within("subscribe", self.client.subscribe(SubscribeRequestParams::new(HELLO))).await.unwrap();
            for what in ["touch", "change"] {
                let told = async |user: &mut User| user.call(what, json!({})).await["content"][0]["text"].clone();
                // Behind a proxy the server may be listened to as a modern one: it acknowledges before it listens.
                until("somebody listens", async || told(self).await, |told| *told != format!("{what} 0")).await;
            }
            let heard = self.hear(2).await;
            within("unsubscribe", self.client.unsubscribe(UnsubscribeRequestParams::new(HELLO))).await.unwrap();
            return vec![("changes heard", heard.into())];
        }
        let filter = json!({ "toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": [HELLO, "test://other"] });
        let listening = self.client.listen(serde_json::from_value(filter).unwrap());
        let mut subscription = within("listen", listening).await.unwrap();
        let mut seen = vec![("accepted", json!(subscription.acknowledged()))];
        for what in ["touch", "change"] {
            let told = async |user: &mut User| user.call(what, json!({})).await["content"][0]["text"].clone();
            // The server acknowledges before it listens.
            until("somebody listens", async || told(self).await, |told| *told == format!("{what} 1")).await;
            let heard = within("a change", subscription.next()).await.unwrap().unwrap();
            seen.push((what, json!({ "method": json!(heard)["method"], "params": json!(heard)["params"]["uri"] })));
        }
        within("unlisten", subscription.cancel()).await.unwrap();
        until(
            "nobody listens",
            async || self.call("touch", json!({})).await["content"][0]["text"].clone(),
            |told| *told == "touch 0",
        )
        .await;
        seen
    }

    /// A change of one resource, by whatever the revision has for it: which resources are said to have changed.
    pub(crate) async fn update(&mut self) -> Value {
        if !self.is_modern() {
            within("subscribe", self.client.subscribe(SubscribeRequestParams::new(HELLO))).await.unwrap();
            self.call("touch", json!({})).await;
            return json!([self.hear(1).await[0]["updated"]["uri"]]);
        }
        let filter = serde_json::from_value(json!({ "resourceSubscriptions": [HELLO] })).unwrap();
        let mut subscription = within("listen", self.client.listen(filter)).await.unwrap();
        // A server may acknowledge before it listens.
        let heard = loop {
            self.call("touch", json!({})).await;
            if let Ok(heard) = tokio::time::timeout(Duration::from_millis(300), subscription.next()).await {
                break heard.unwrap().unwrap();
            }
        };
        within("unlisten", subscription.cancel()).await.unwrap();
        json!([json!(heard)["params"]["uri"]])
    }

    /// The names of all tools, of however many pages.
    pub(crate) async fn tools(&self) -> Vec<String> {
        let tools = within("tools", self.client.list_all_tools()).await.unwrap();
        tools.into_iter().map(|tool| tool.name.into_owned()).collect()
    }

    /// Cancels a call, once it is known to have begun; how often the server has seen that.
    async fn cancel(&mut self) -> Value {
        self.begin_and_cancel().await;
        until(
            "it is cancelled",
            async || self.call("cancelled", json!({})).await,
            |seen| seen["content"][0]["text"] != "0",
        )
        .await
    }

    pub(crate) async fn begin_and_cancel(&mut self) {
        let call = CallToolRequest::new(CallToolRequestParams::new("wait"));
        let sending = self
            .client
            .peer()
            .send_cancellable_request(ClientRequest::CallToolRequest(call), PeerRequestOptions::no_options());
        let waiting = within("call", sending).await.unwrap();
        let begun = self.hear(1).await;
        assert!(begun[0]["progress"].is_object(), "{begun:?}");
        within("cancel", waiting.cancel(Some("Enough".into()))).await.unwrap();
    }
}
