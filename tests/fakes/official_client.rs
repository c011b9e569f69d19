//! The official client SDK against the fake server: nobody can agree only with himself.

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction,
    ErrorData, Implementation, ProtocolVersion,
};
use rmcp::service::{RequestContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use shadowcat::testing::serve;

use super::*;

/// A client whose user says yes to everything.
#[derive(Clone)]
struct Agreeable;

impl ClientHandler for Agreeable {
    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "answer": "yes" })))
    }

    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("agreeable", "0.0.0"))
            .with_protocol_version(ProtocolVersion::V_2025_11_25)
    }
}

fn lifecycles() -> [ClientLifecycleMode; 3] {
    let modern = || vec![ProtocolVersion::V_2026_07_28];
    [
        ClientLifecycleMode::Initialize,
        ClientLifecycleMode::Discover { preferred_versions: modern() },
        ClientLifecycleMode::Auto { preferred_versions: modern(), legacy_version: Some(ProtocolVersion::V_2025_11_25) },
    ]
}

async fn try_everything(client: RunningService<RoleClient, Agreeable>) {
    assert_eq!(client.list_all_tools().await.unwrap().len(), 19);
    assert_eq!(client.list_all_resources().await.unwrap().len(), 2);
    assert_eq!(client.list_all_prompts().await.unwrap().len(), 2);
    for (tool, arguments, expected) in [
        ("echo", json!({ "text": "hi" }), "hi"),
        ("progress", json!({ "steps": 2 }), "did 2 steps"),
        (
            "ask",
            json!({ "message": "?", "rounds": 2 }),
            "answer: accept {\"answer\":\"yes\"}\nanswer: accept {\"answer\":\"yes\"}",
        ),
    ] {
        let params = CallToolRequestParams::new(tool).with_arguments(arguments.as_object().cloned().unwrap());
        let result = serde_json::to_value(client.call_tool(params).await.unwrap()).unwrap();
        assert_eq!(result["content"][0]["text"], expected);
    }
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn it_gets_along_with_the_server_over_a_pipe() {
    for era in [Served::Dual, Served::Legacy] {
        for lifecycle in lifecycles() {
            if era == Served::Legacy && matches!(lifecycle, ClientLifecycleMode::Discover { .. }) {
                continue;
            }
            let (near, far) = tokio::io::duplex(1 << 16);
            let (input, output) = tokio::io::split(far);
            let script = Script { era, page_size: 8, ..Script::default() };
            let talking = async {
                try_everything(Agreeable.serve_with_lifecycle(near, lifecycle).await.unwrap()).await;
            };
            tokio::join!(serve(input, output, script), talking);
        }
    }
}

#[tokio::test]
async fn it_gets_along_with_the_server_over_http() {
    for answer in [AnswerForm::Auto, AnswerForm::Sse] {
        for lifecycle in lifecycles() {
            let mock = start(script(answer)).await;
            let config = StreamableHttpClientTransportConfig::with_uri(mock.url());
            let transport = StreamableHttpClientTransport::from_config(config);
            try_everything(Agreeable.serve_with_lifecycle(transport, lifecycle).await.unwrap()).await;
        }
    }
}
