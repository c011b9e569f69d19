//! A server made with the official SDK: over HTTP in this process, and on a pair of pipes in one of its own.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rmcp::model::*;
use rmcp::service::{Peer, RequestContext, SubscriptionContext};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

const HELLO: &str = "test://hello";
const PAGE: usize = 3;
/// Files of `scripts/peers`.
const CANCELLED: &str = "CANCELLED_FILE";
const CHANGES: &str = "CHANGES_FILE";

/// The server. Clones share what it knows.
#[derive(Clone)]
pub(crate) struct Everything {
    cancelled: Arc<AtomicU64>,
    changes: broadcast::Sender<&'static str>,
    /// The only revision that is spoken, if it is one.
    only: Option<Arc<[ProtocolVersion]>>,
}

impl Everything {
    fn new(only: Option<&str>) -> Everything {
        let only = only.map(|version| [from(json!(version))].into());
        Everything { cancelled: Arc::default(), changes: broadcast::Sender::new(16), only }
    }

    async fn run(
        &self,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments: Value = request.arguments.clone().unwrap_or_default().into();
        let text = arguments["text"].as_str().unwrap_or_default();
        let peer = &context.peer;
        let lost = |error: rmcp::ServiceError| ErrorData::internal_error(error.to_string(), None);
        let is_modern = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        let answer = match request.name.as_ref() {
            "echo" => text.to_owned(),
            "structured" => {
                return Ok(CallToolResult::structured(
                    json!({ "z": 1.5, "a": [null, { "deep": "ü" }], "n": u64::MAX }),
                )
                .into());
            }
            "fail" => return Ok(CallToolResult::error(vec![ContentBlock::text("as asked")]).into()),
            "progress" => {
                let steps = arguments["steps"].as_u64().unwrap_or(1);
                let pause = Duration::from_millis(arguments["pause_ms"].as_u64().unwrap_or(0));
                for step in 1..=steps {
                    if let Some(token) = context.meta.get_progress_token() {
                        let params =
                            json!({ "progressToken": token, "progress": step, "total": steps, "message": text });
                        peer.notify_progress(from(params)).await.map_err(lost)?;
                        tokio::time::sleep(pause).await;
                    }
                }
                format!("{steps} steps")
            }
            "log" => {
                let params = json!({ "level": "warning", "logger": "test", "data": { "z": 1, "a": text } });
                peer.notify_logging_message(from(params)).await.map_err(lost)?;
                "logged".into()
            }
            "ask" | "sample" | "roots" if is_modern => match &request.input_responses {
                None => {
                    let requests = json!({ "q": question(&request.name, &arguments) });
                    return Ok(
                        InputRequiredResult::new(Some(from(requests)), Some("s\u{1}tate \"ü\" \\".into())).into()
                    );
                }
                Some(_) if request.request_state.as_deref() != Some("s\u{1}tate \"ü\" \\") => {
                    return Err(ErrorData::invalid_params("the state has changed", None));
                }
                Some(answers) => describe(&request.name, &answers["q"]),
            },
            "ask" => {
                let request = ServerRequest::ElicitRequest(from(question("ask", &arguments)));
                describe("ask", &json!(peer.send_request(request).await.map_err(lost)?))
            }
            "sample" => {
                let params = from(question("sample", &arguments)["params"].take());
                describe("sample", &json!(peer.create_message(params).await.map_err(lost)?))
            }
            "roots" => describe("roots", &json!(peer.list_roots().await.map_err(lost)?)),
            "wait" => {
                let params = json!({ "progressToken": context.meta.get_progress_token(), "progress": 1 });
                peer.notify_progress(from(params)).await.map_err(lost)?;
                context.ct.cancelled().await;
                self.cancelled.fetch_add(1, Ordering::Relaxed);
                note(CANCELLED, "cancelled");
                "cancelled".into()
            }
            "cancelled" => self.cancelled.load(Ordering::Relaxed).to_string(),
            "touch" if is_modern => self.change("touch"),
            "change" if is_modern => self.change("change"),
            "touch" if std::env::var(CHANGES).is_ok() => {
                note(CHANGES, "changed");
                "touched".into()
            }
            "touch" => {
                peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(HELLO)).await.map_err(lost)?;
                "touched".into()
            }
            "change" => {
                peer.notify_tool_list_changed().await.map_err(lost)?;
                "changed".into()
            }
            _ => return Err(ErrorData::invalid_params("no such tool", Some(json!({ "tool": request.name })))),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(answer)]).into())
    }

    fn change(&self, what: &'static str) -> String {
        format!("{what} {}", self.changes.send(what).unwrap_or(0))
    }
}

/// For `scripts/peers`, which has servers of more than one process: what happens is a line of a file.
fn note(file: &str, what: &str) {
    if let Ok(path) = std::env::var(file) {
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "{what}").unwrap();
    }
}

/// Tells a client of changes that are made outside, for as long as it can.
async fn watch(peer: Peer<RoleServer>, changes: String) {
    let size = || std::fs::metadata(&changes).map_or(0, |file| file.len());
    let mut known = size();
    while !peer.is_transport_closed() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if size() != known && peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(HELLO)).await.is_err()
        {
            return;
        }
        known = size();
    }
}

/// Values of the SDK's types, written as what they are on the wire.
fn from<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// A request of the server to its client.
fn question(tool: &str, arguments: &Value) -> Value {
    match tool {
        "ask" => json!({ "method": "elicitation/create", "params": {
            "mode": "form", "message": arguments["message"],
            "requestedSchema": { "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] },
        } }),
        "sample" => json!({ "method": "sampling/createMessage", "params": {
            "messages": [{ "role": "user", "content": { "type": "text", "text": "?" } }], "maxTokens": 10,
        } }),
        _ => json!({ "method": "roots/list" }),
    }
}

fn describe(tool: &str, answer: &Value) -> String {
    match tool {
        "ask" => format!(
            "{} {}",
            answer["action"].as_str().unwrap_or("?"),
            answer["content"]["name"].as_str().unwrap_or("?")
        ),
        "sample" => answer["content"]["text"].as_str().unwrap_or("?").to_owned(),
        _ => answer["roots"].to_string(),
    }
}

fn tools() -> Vec<Tool> {
    let names = [
        "echo",
        "structured",
        "fail",
        "progress",
        "log",
        "ask",
        "sample",
        "roots",
        "wait",
        "cancelled",
        "touch",
        "change",
    ];
    let schema = json!({
        "type": "object", "$defs": { "text": { "type": "string", "minLength": 0 } },
        "properties": { "text": { "$ref": "#/$defs/text" } }, "additionalProperties": true,
    });
    let tool = |name| json!({ "name": name, "title": format!("The {name}"), "description": "ü", "inputSchema": schema, "annotations": { "readOnlyHint": true } });
    names.into_iter().map(|name| from(tool(name))).collect()
}

impl ServerHandler for Everything {
    fn get_info(&self) -> ServerConfig {
        let capabilities = json!({
            "tools": { "listChanged": true }, "resources": { "subscribe": true, "listChanged": true },
            "prompts": { "listChanged": true }, "completions": {}, "logging": {}, "experimental": { "x": { "z": 1, "a": 2 } },
        });
        ServerConfig::new(from(capabilities))
            .with_server_info(Implementation::new("everything", "1.2.3"))
            .with_instructions("Use it with care.")
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        match &self.only {
            Some(only) => only.to_vec().into(),
            None => ProtocolVersion::KNOWN_VERSIONS.into(),
        }
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let start: usize = match request.and_then(|request| request.cursor) {
            Some(cursor) => {
                cursor.trim_start_matches("from ").parse().map_err(|_| ErrorData::invalid_params("cursor", None))?
            }
            None => 0,
        };
        let all = tools();
        let next = (start + PAGE < all.len()).then(|| format!("from {}", start + PAGE));
        let mut page = ListToolsResult::with_all_items(all.into_iter().skip(start).take(PAGE).collect());
        page.next_cursor = next;
        Ok(page)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.run(&request, &context).await
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(from(json!({ "resources": [{ "uri": HELLO, "name": "hello", "mimeType": "text/plain", "size": 5 }] })))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(from(json!({ "resourceTemplates": [{ "uriTemplate": "test://{name}", "name": "any" }] })))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != HELLO {
            return Err(ErrorData::resource_not_found("no such resource", Some(json!({ "uri": request.uri }))));
        }
        let result: ReadResourceResult = from(json!({ "contents": [
            { "uri": HELLO, "mimeType": "text/plain", "text": "h\u{e9}llo" },
            { "uri": "test://blob", "mimeType": "image/png", "blob": "AAEC" },
        ] }));
        Ok(result.into())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, context: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        if let Ok(changes) = std::env::var(CHANGES) {
            tokio::spawn(watch(context.peer, changes));
        }
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(from(json!({ "prompts": [{ "name": "greet", "arguments": [{ "name": "name", "required": true }] }] })))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let text = format!("Greet {}", json!(request.arguments));
        let result: GetPromptResult =
            from(json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": text } }] }));
        Ok(result.into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let value = request.argument.value;
        Ok(from(
            json!({ "completion": { "values": [format!("{value}1"), format!("{value}2")], "total": 2, "hasMore": false } }),
        ))
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.subscribe();
        loop {
            let change = tokio::select! {
                () = context.cancelled() => return Ok(()),
                change = changes.recv() => change,
            };
            // Who has not asked for it does not get it: that is an error of the sink, and none of ours.
            match change {
                Ok("touch") => drop(context.sink().notify_resource_updated(HELLO).await),
                Ok("change") => drop(context.sink().notify_tool_list_changed().await),
                _ => return Ok(()),
            }
        }
    }
}

// === Over HTTP ===

/// The server on a port of its own. Dropping it closes everything.
pub(crate) struct Served {
    address: std::net::SocketAddr,
    _tasks: JoinSet<()>,
}

impl Served {
    pub(crate) async fn start(sessions: bool, only: Option<&str>) -> Served {
        Served::start_on(0, sessions, only).await
    }

    async fn start_on(port: u16, sessions: bool, only: Option<&str>) -> Served {
        let server = Everything::new(only);
        let config = StreamableHttpServerConfig::default().with_legacy_session_mode(sessions);
        let service: StreamableHttpService<Everything, LocalSessionManager> =
            StreamableHttpService::new(move || Ok(server.clone()), Arc::default(), config);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().nest_service("/mcp", service);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(axum::serve(listener, router).await) });
        Served { address, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}

// === As a process ===

const SWITCH: &str = "SHADOWCAT_TEST_RMCP_SERVER";
/// Where it is served over HTTP, if it is.
const PORT: &str = "SHADOWCAT_TEST_RMCP_PORT";

/// The command that is this server: this very test program, asked for one test. What the test harness has to say goes to
/// stderr, so that stdout is the server's alone.
pub(crate) fn command() -> Vec<String> {
    let program = std::env::current_exe().unwrap().display().to_string();
    let script = r#"exec "$0" --exact server::is_a_process_of_its_own --nocapture 3>&1 >&2"#;
    vec!["sh".into(), "-c".into(), script.into(), program]
}

pub(crate) fn environment(only: Option<&str>) -> Vec<(String, String)> {
    vec![(SWITCH.into(), only.unwrap_or("all").into())]
}

/// No test, but what [`command`] runs, and `scripts/peers`.
#[tokio::test]
async fn is_a_process_of_its_own() {
    let Ok(only) = std::env::var(SWITCH) else { return };
    let only = (only != "all").then_some(only);
    if let Ok(port) = std::env::var(PORT) {
        let _served = Served::start_on(port.parse().unwrap(), true, only.as_deref()).await;
        std::future::pending::<()>().await;
    }
    let output = tokio::fs::File::options().write(true).open("/dev/fd/3").await.unwrap();
    let running = Everything::new(only.as_deref()).serve((tokio::io::stdin(), output)).await;
    // A client that leaves before it has said anything is none of our business.
    if let Ok(running) = running {
        drop(running.waiting().await);
    }
}
