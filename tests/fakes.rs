//! The fakes as their users see them: the server over HTTP, the client, and the server as a process of its own.

use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::testing::client::{LegacySession, Modern, Response, SseSession, post, send};
use shadowcat::testing::{
    AnswerForm, At, Discover, Do, End, HttpScript, MockSse, On, Script, Served, When,
};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(10);

fn script(answer: AnswerForm) -> Script {
    Script {
        http: HttpScript {
            answer,
            ..HttpScript::default()
        },
        ..Script::default()
    }
}

async fn start(script: Script) -> MockSse {
    MockSse::start(script).await.unwrap()
}

async fn session(mock: &MockSse) -> LegacySession {
    let all = json!({ "elicitation": {}, "sampling": {}, "roots": {} });
    LegacySession::open(&mock.url(), "2025-11-25", all)
        .await
        .unwrap()
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("no text: {answer}"))
}

/// Whether nothing more comes for a while.
async fn silent(response: &mut Response) -> bool {
    tokio::time::timeout(Duration::from_millis(200), response.event())
        .await
        .is_err()
}

#[tokio::test]
async fn a_modern_request_is_answered_as_json_or_sse() {
    for (answer, sse) in [
        (AnswerForm::Auto, false),
        (AnswerForm::Json, false),
        (AnswerForm::Sse, true),
    ] {
        let mock = start(script(answer)).await;
        let response = Modern::call("echo", json!({ "text": "hi" }))
            .id("1.0")
            .post(&mock.url())
            .await
            .unwrap();
        assert_eq!((response.status, response.is_sse()), (200, sse));
        assert_eq!(response.headers.get("mcp-session-id"), None);
        assert_eq!(text(&response.answer().await.unwrap()), "hi");
    }
}

#[tokio::test]
async fn progress_makes_a_response_a_stream() {
    let mock = start(Script::default()).await;
    let call = Modern::call("progress", json!({ "steps": 2 })).progress_token("t".into());
    let mut response = call.post(&mock.url()).await.unwrap();
    assert!(response.is_sse());
    for step in 1..=2 {
        let event = response.event().await.unwrap().unwrap();
        assert_eq!(
            (event.id, event.event),
            (None, None),
            "modern events have no ids"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&event.data.unwrap()).unwrap()["params"]["progress"],
            step
        );
    }
    assert_eq!(response.message().await.unwrap().unwrap()["id"], 1);
    assert_eq!(response.event().await.unwrap(), None);
}

#[tokio::test]
async fn headers_have_to_say_what_the_body_says() {
    let mock = start(Script::default()).await;
    let call =
        || Modern::call("region", json!({ "region": "eu" })).header("Mcp-Param-Region", Some("eu"));
    let url = mock.url();
    let code = async |request: Modern| {
        let response = request.post(&url).await.unwrap();
        let status = response.status;
        (
            status,
            response.answer().await.unwrap()["error"]["code"].as_i64(),
        )
    };
    assert_eq!(code(call()).await, (200, None));
    assert_eq!(
        code(call().header("Mcp-Name", Some("=?base64?cmVnaW9u?="))).await,
        (200, None)
    );
    for name in ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"] {
        assert_eq!(
            code(call().header(name, None)).await,
            (400, Some(-32020)),
            "without {name}"
        );
        assert_eq!(
            code(call().header(name, Some("2025-06-18"))).await,
            (400, Some(-32020)),
            "wrong {name}"
        );
    }
    let other = Modern::call("region", json!({ "region": "eu" }));
    assert_eq!(
        code(other.header("Mcp-Param-Region", Some("us"))).await,
        (400, Some(-32020))
    );
    assert_eq!(code(Modern::new("no/such")).await, (404, Some(-32601)));
    assert_eq!(code(Modern::new("ping")).await, (404, Some(-32601)));
    let version = "io.modelcontextprotocol/protocolVersion";
    assert_eq!(
        code(Modern::new("tools/list").meta(version, "2031-01-01".into())).await,
        (400, Some(-32022))
    );
    assert_eq!(
        code(Modern::new("tools/list").capabilities(Value::Null)).await,
        (400, Some(-32602))
    );
    let bare = Modern::new("tools/list").meta(version, Value::Null);
    assert_eq!(
        code(bare.header("MCP-Protocol-Version", Some("2026-07-28"))).await,
        (400, Some(-32602))
    );
    let notified = Modern::new("notifications/x")
        .notification()
        .post(&mock.url())
        .await
        .unwrap();
    assert_eq!(notified.status, 202);
}

#[tokio::test]
async fn a_modern_client_that_goes_away_cancels() {
    let mock = start(script(AnswerForm::Sse)).await;
    let response = Modern::call("sleep", json!({ "ms": 60_000 }))
        .post(&mock.url())
        .await
        .unwrap();
    drop(response);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while mock.stats()["cancelled"] != 1 {
        assert!(tokio::time::Instant::now() < deadline, "{}", mock.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_subscription_is_a_stream() {
    let mock = start(Script::default()).await;
    let filter = json!({ "toolsListChanged": true });
    let listen = Modern::new("subscriptions/listen")
        .id("\"s\"")
        .param("notifications", filter.clone());
    let mut stream = listen.post(&mock.url()).await.unwrap();
    let acknowledged = stream.message().await.unwrap().unwrap();
    assert_eq!(acknowledged["params"]["notifications"], filter);
    while mock.change("tools") == 0 {
        tokio::task::yield_now().await;
    }
    let changed = stream.message().await.unwrap().unwrap();
    assert_eq!(
        changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        "s"
    );
    assert_eq!(mock.change("prompts"), 0);
}

#[tokio::test]
async fn a_session_lives_and_ends() {
    let mock = start(Script::default()).await;
    let session = session(&mock).await;
    assert!(session.id.as_ref().is_some_and(|id| id.len() >= 32));
    let response = session.call("echo", json!({ "text": "x" })).await.unwrap();
    assert_eq!(
        (response.status, response.headers.get("mcp-session-id")),
        (200, None)
    );
    assert_eq!(text(&response.answer().await.unwrap()), "x");

    let stranger = post(
        &mock.url(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
        &[],
    )
    .await
    .unwrap();
    assert_eq!(stranger.status, 400);
    let odd = [
        ("Mcp-Session-Id", session.id.as_deref().unwrap()),
        ("MCP-Protocol-Version", "1999-01-01"),
    ];
    let response = post(
        &mock.url(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
        &odd,
    )
    .await
    .unwrap();
    assert_eq!(response.status, 400);

    assert_eq!(session.delete().await.unwrap().status, 204);
    assert_eq!(session.delete().await.unwrap().status, 404);
    assert_eq!(
        session.request("ping", json!({})).await.unwrap().status,
        404
    );
    assert_eq!(session.stream(None).await.unwrap().status, 404);
    let initialize = mock
        .requests()
        .into_iter()
        .find(|request| request.json("/method") == "initialize")
        .unwrap();
    assert_eq!(
        (initialize.method.as_str(), initialize.target.as_str()),
        ("POST", "/mcp")
    );
}

#[tokio::test]
async fn a_question_rides_on_the_stream_of_its_call() {
    let mock = start(Script::default()).await;
    let session = session(&mock).await;
    let mut call = session
        .call("ask", json!({ "message": "well?" }))
        .await
        .unwrap();
    let question = call.message().await.unwrap().unwrap();
    assert_eq!(question["method"], "elicitation/create");
    let accepted = session
        .respond(
            &question["id"],
            &json!({ "action": "accept", "content": {} }),
        )
        .await
        .unwrap();
    assert_eq!(accepted.status, 202);
    assert_eq!(text(&call.answer().await.unwrap()), "answer: accept {}");
}

#[tokio::test]
async fn what_nobody_asked_for_comes_on_the_newest_get_stream() {
    let mock = start(Script::default()).await;
    let session = session(&mock).await;
    mock.change("tools");
    let mut old = session.stream(None).await.unwrap();
    assert_eq!(
        old.message().await.unwrap().unwrap()["method"],
        "notifications/tools/list_changed"
    );
    let mut new = session.stream(None).await.unwrap();
    assert_eq!(old.event().await.unwrap(), None, "the older stream ends");
    mock.change("prompts");
    assert_eq!(
        new.message().await.unwrap().unwrap()["method"],
        "notifications/prompts/list_changed"
    );
}

#[tokio::test]
async fn a_lost_stream_is_resumed_where_it_broke_off() {
    let cut = Do::Cut {
        after: Some(At {
            events: 2,
            bytes: 9,
        }),
        end: End::Abrupt,
    };
    let mock = start(Script::default().fault(On::tool("progress"), cut)).await;
    let session = session(&mock).await;
    let params =
        json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": 1 } });
    let mut call = session.request("tools/call", params).await.unwrap();
    let (prime, first, second) = (
        call.event().await.unwrap().unwrap(),
        call.event().await.unwrap().unwrap(),
        call.event().await.unwrap().unwrap(),
    );
    assert_eq!(
        (
            prime.data.as_deref(),
            first.json()["params"]["progress"].as_u64()
        ),
        (Some(""), Some(1))
    );
    call.event().await.unwrap_err();

    let mut resumed = session.stream(second.id.as_deref()).await.unwrap();
    assert_eq!(
        resumed.event().await.unwrap().unwrap().json()["params"]["progress"],
        3
    );
    assert_eq!(
        text(&resumed.event().await.unwrap().unwrap().json()),
        "did 3 steps"
    );
    assert_eq!(resumed.event().await.unwrap(), None);
    let mut all = session.stream(prime.id.as_deref()).await.unwrap();
    assert_eq!(all.event().await.unwrap(), Some(first));
    assert_eq!(session.stream(Some("77-1")).await.unwrap().status, 400);
}

#[tokio::test]
async fn a_server_can_have_its_client_poll() {
    let mock =
        start(Script::default().fault(On::tool("sleep"), Do::Poll { retry_ms: Some(30) })).await;
    let session = session(&mock).await;
    let mut call = session.call("sleep", json!({ "ms": 100 })).await.unwrap();
    let prime = call.event().await.unwrap().unwrap();
    assert_eq!(
        call.event().await.unwrap().unwrap().retry.as_deref(),
        Some("30")
    );
    assert_eq!(call.event().await.unwrap(), None, "a proper end");
    let resumed = session.stream(prime.id.as_deref()).await.unwrap();
    assert_eq!(text(&resumed.answer().await.unwrap()), "slept 100 ms");
}

#[tokio::test]
async fn http_sse_works_as_of_old() {
    let mock = start(Script::default()).await;
    let mut session = SseSession::open(&mock.sse_url(), "2024-11-05", json!({}))
        .await
        .unwrap();
    assert_eq!(session.initialized["protocolVersion"], "2024-11-05");
    let call =
        json!({ "jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": { "name": "pid" } });
    assert_eq!(session.send(&call.to_string()).await.unwrap().status, 202);
    assert_eq!(session.next().await.unwrap()["id"], 4);
    mock.change("tools");
    assert_eq!(
        session.next().await.unwrap()["method"],
        "notifications/tools/list_changed"
    );
    let nobody = format!("{}x", session.endpoint);
    assert_eq!(
        post(&nobody, &call.to_string(), &[]).await.unwrap().status,
        404
    );
}

#[tokio::test]
async fn statuses_and_headers_come_as_scripted() {
    let status = |code, header: (&str, &str)| Do::Status {
        code,
        headers: [(header.0.to_owned(), header.1.to_owned())].into(),
        body: "no".into(),
    };
    let mock = start(
        Script::default()
            .fault(
                On::method("tools/list").nth(1),
                status(503, ("Retry-After", "2")),
            )
            .fault(
                On::method("tools/list").nth(2),
                status(307, ("Location", "http://192.0.2.1/")),
            )
            .fault(
                On::method("tools/list").nth(3),
                Do::ContentType("text/html".into()),
            ),
    )
    .await;
    let list = Modern::new("tools/list");
    let busy = list.post(&mock.url()).await.unwrap();
    assert_eq!(
        (busy.status, busy.headers.get("retry-after")),
        (503, Some("2"))
    );
    assert_eq!(busy.text().await.unwrap(), "no");
    assert_eq!(
        list.post(&mock.url())
            .await
            .unwrap()
            .headers
            .get("location"),
        Some("http://192.0.2.1/")
    );
    assert_eq!(
        list.post(&mock.url())
            .await
            .unwrap()
            .headers
            .get("content-type"),
        Some("text/html")
    );
    assert_eq!(list.post(&mock.url()).await.unwrap().status, 200);
}

#[tokio::test]
async fn connections_break_as_scripted() {
    let cut = |after, end| Do::Cut { after, end };
    let at = |events, bytes| Some(At { events, bytes });
    let mock = start(
        script(AnswerForm::Json)
            .fault(On::tool("echo").nth(1), cut(None, End::Abrupt))
            .fault(On::tool("echo").nth(2), cut(None, End::Reset))
            .fault(On::tool("echo").nth(3), cut(at(0, 7), End::Abrupt))
            .fault(On::tool("echo").nth(4), cut(at(0, 7), End::Clean))
            .fault(On::tool("echo").nth(5), Do::Hang)
            .fault(
                On::tool("echo").nth(6),
                Do::Stall(At {
                    events: 0,
                    bytes: 3,
                }),
            ),
    )
    .await;
    let (call, url) = (Modern::call("echo", json!({ "text": "x" })), mock.url());
    assert_eq!(
        call.post(&url).await.unwrap_err().kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    assert_eq!(
        call.post(&url).await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    call.post(&url).await.unwrap().text().await.unwrap_err();
    assert_eq!(
        call.post(&url).await.unwrap().text().await.unwrap(),
        "{\"jsonr"
    );
    let brief = Duration::from_millis(200);
    assert!(
        tokio::time::timeout(brief, call.post(&url)).await.is_err(),
        "no headers"
    );
    let stalled = call.post(&url).await.unwrap();
    assert!(
        tokio::time::timeout(brief, stalled.text()).await.is_err(),
        "no end"
    );
}

#[tokio::test]
async fn streams_break_as_scripted() {
    let mock = start(
        script(AnswerForm::Sse)
            .fault(
                On::tool("echo").nth(1),
                Do::Comments {
                    count: 3,
                    bytes: 10,
                },
            )
            .fault(On::tool("echo").nth(2), Do::Retry("0".into()))
            .fault(On::tool("echo").nth(3), Do::Duplicate)
            .fault(
                On::tool("echo").nth(4),
                Do::Slice {
                    bytes: 1,
                    gap_ms: 0,
                },
            )
            .fault(On::tool("echo").nth(5), Do::Crlf)
            .fault(
                On::tool("echo").nth(6),
                Do::Huge {
                    bytes: 1000,
                    newline: false,
                },
            )
            .fault(
                On::tool("echo").nth(7),
                Do::Cut {
                    after: Some(At::default()),
                    end: End::Clean,
                },
            ),
    )
    .await;
    let session = session(&mock).await;
    let call = async || {
        let mut response = session.call("echo", json!({ "text": "x" })).await.unwrap();
        response.event().await.unwrap().unwrap();
        response
    };
    let mut comments = call().await;
    for _ in 0..3 {
        assert_eq!(
            comments.event().await.unwrap().unwrap().comments,
            ["cccccccccc"]
        );
    }
    assert_eq!(
        call()
            .await
            .event()
            .await
            .unwrap()
            .unwrap()
            .retry
            .as_deref(),
        Some("0")
    );
    let mut double = call().await;
    assert_eq!(
        double.event().await.unwrap().unwrap(),
        double.event().await.unwrap().unwrap()
    );
    assert_eq!(text(&call().await.answer().await.unwrap()), "x");
    assert_eq!(text(&call().await.answer().await.unwrap()), "x");
    assert!(silent(&mut call().await).await);
    assert_eq!(call().await.event().await.unwrap(), None);
}

#[tokio::test]
async fn sessions_are_forgotten_as_scripted() {
    let mock = start(Script::default().fault(On::tool("echo").nth(2), Do::ForgetSession)).await;
    let session = session(&mock).await;
    for status in [200, 404, 404] {
        assert_eq!(
            session
                .call("echo", json!({ "text": "x" }))
                .await
                .unwrap()
                .status,
            status
        );
    }
}

#[tokio::test]
async fn old_servers_know_no_discovery() {
    let legacy = |discover| Script {
        era: Served::Legacy,
        discover,
        ..Script::default()
    };
    let discover = Modern::new("server/discover");
    let mock = start(legacy(Discover::Error)).await;
    assert_eq!(discover.post(&mock.url()).await.unwrap().status, 400);
    let mock = start(legacy(Discover::Exit)).await;
    discover.post(&mock.url()).await.unwrap_err();
    discover.post(&mock.url()).await.unwrap_err();
    let modern = start(Script {
        era: Served::Modern,
        ..Script::default()
    })
    .await;
    let refused = LegacySession::open(&modern.url(), "2025-11-25", json!({}))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("-32022"), "{refused}");
    let headers = [("MCP-Protocol-Version", "2026-07-28")]
        .into_iter()
        .collect();
    assert_eq!(
        send("GET", &modern.url(), headers, "")
            .await
            .unwrap()
            .status,
        405
    );
}

#[tokio::test]
async fn a_server_that_exits_answers_first_if_it_is_to() {
    let exit = Do::Exit {
        code: 1,
        when: When::After,
    };
    let mock = start(Script::default().fault(On::tool("echo"), exit)).await;
    let call = Modern::call("echo", json!({ "text": "x" }));
    assert_eq!(
        text(
            &call
                .post(&mock.url())
                .await
                .unwrap()
                .answer()
                .await
                .unwrap()
        ),
        "x"
    );
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while call.post(&mock.url()).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline);
    }
}

#[tokio::test]
async fn requests_are_kept_as_they_came() {
    let mock = start(Script::default()).await;
    Modern::new("tools/list")
        .header("X-Odd", Some("Ö b"))
        .post(&mock.url())
        .await
        .unwrap();
    let request = mock
        .request(PATIENCE, |request| request.headers.get("x-odd").is_some())
        .await
        .unwrap();
    assert_eq!(
        request.headers.iter().find(|(name, _)| *name == "X-Odd"),
        Some(("X-Odd", "Ö b"))
    );
    assert_eq!(
        request.json("/params/_meta/io.modelcontextprotocol~1protocolVersion"),
        "2026-07-28"
    );
    assert_eq!((request.connection, mock.connections()), (1, 1));
}

#[tokio::test]
#[should_panic(expected = "never happened")]
async fn a_fault_that_never_happened_fails_the_test() {
    start(Script::default().fault(On::tool("echo"), Do::Hang)).await;
}

#[tokio::test]
async fn a_fault_may_be_allowed_not_to_happen() {
    let mut mock = start(Script::default().fault(On::tool("echo"), Do::Hang)).await;
    assert_eq!(mock.unused().len(), 1);
    mock.allow_unused();
    let stdio_only = Script::default().fault(On::start(), Do::IgnoreEof);
    assert_eq!(
        MockSse::start(stdio_only).await.unwrap_err().kind(),
        std::io::ErrorKind::InvalidInput
    );
}
