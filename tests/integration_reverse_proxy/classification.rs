//! Which era a request is of, and what is wrong with it.

use serde_json::{Value, json};
use shadowcat::testing::Script;
use shadowcat::testing::client::Modern;

use crate::common::*;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A call with everything right; each row of the tables below breaks one thing.
fn call() -> Modern {
    Modern::call("echo", json!({ "text": "x" }))
}

/// Posts each request, and expects this status and code under the request's own id; nothing may reach the server.
async fn all_refused(rows: Vec<(&str, Modern, u16, i64)>) {
    let proxy = Proxy::start(modern()).await;
    let before = proxy.client(Era::Modern).await.stats().await;
    for (what, request, status, expected) in rows {
        let response = request.id("\"the same\"").post(&proxy.url).ok().await;
        assert_eq!(response.status, status, "{what}");
        let answer = response.json().ok().await;
        assert_ours(&answer, expected);
        assert_eq!(answer["id"], "the same", "{what}");
    }
    let after = proxy.client(Era::Modern).await.stats().await;
    assert_eq!(before["tools"], json!({ "stats": 1 }));
    assert_eq!(after["tools"], json!({ "stats": 2 }), "nothing else has reached the server");
    assert_eq!(before["requests"]["server/discover"], after["requests"]["server/discover"]);
}

/// 2026-07-28, Streamable HTTP › Request Metadata: headers and body say the same, and the version header is required.
/// Values are compared with case; a header that comes twice says nothing.
#[tokio::test]
async fn headers_that_do_not_say_what_the_body_says_are_refused() {
    let read = || Modern::new("resources/read").param("uri", "shadowcat://demo/hello.txt".into());
    all_refused(vec![
        ("no version header", call().header("MCP-Protocol-Version", None), 400, -32020),
        (
            "another version",
            call().meta(VERSION, "2025-11-25".into()).header("MCP-Protocol-Version", Some(MODERN)),
            400,
            -32020,
        ),
        ("no method header", call().header("Mcp-Method", None), 400, -32020),
        ("another method", call().header("Mcp-Method", Some("tools/list")), 400, -32020),
        ("a method in another case", call().header("Mcp-Method", Some("Tools/Call")), 400, -32020),
        ("no name header", call().header("Mcp-Name", None), 400, -32020),
        ("another name", call().header("Mcp-Name", Some("exit")), 400, -32020),
        ("a name in another case", call().header("Mcp-Name", Some("Echo")), 400, -32020),
        ("the name twice", call().header("Mcp-Name", Some("echo")).header("Mcp-Name", Some("echo")), 400, -32020),
        ("bad Base64", call().header("Mcp-Name", Some("=?base64?Z?=")), 400, -32020),
        ("Base64 of another name", call().header("Mcp-Name", Some("=?base64?ZXhpdA==?=")), 400, -32020),
        ("no URI header", read().header("Mcp-Name", None), 400, -32020),
        ("another URI", read().header("Mcp-Name", Some("shadowcat://demo/dot.png")), 400, -32020),
    ])
    .await;
}

/// 2026-07-28, Basic › `_meta`, and Versioning: version and capabilities are required on each request.
#[tokio::test]
async fn requests_without_complete_metadata_are_refused() {
    let capabilities = "io.modelcontextprotocol/clientCapabilities";
    let level = "io.modelcontextprotocol/logLevel";
    all_refused(vec![
        (
            "no envelope",
            call()
                .meta(VERSION, Value::Null)
                .meta(capabilities, Value::Null)
                .header("MCP-Protocol-Version", Some(MODERN)),
            400,
            -32602,
        ),
        ("no version", call().meta(VERSION, Value::Null).header("MCP-Protocol-Version", Some(MODERN)), 400, -32602),
        ("no capabilities", call().meta(capabilities, Value::Null), 400, -32602),
        ("capabilities that are no object", call().meta(capabilities, json!([])), 400, -32602),
        (
            "a version that is no text",
            call().meta(VERSION, json!(20260728)).header("MCP-Protocol-Version", Some(MODERN)),
            400,
            -32602,
        ),
        ("an unknown log level", call().meta(level, "loud".into()), 200, -32602),
        ("a log level that is no text", call().meta(level, json!(3)), 200, -32602),
    ])
    .await;
}

/// 2026-07-28, Key Changes: methods that are gone are answered like any unknown one, with 404 and `-32601`.
#[tokio::test]
async fn methods_that_are_gone_are_not_found() {
    let gone = ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];
    all_refused(gone.into_iter().map(|method| (method, Modern::new(method), 404, -32601)).collect()).await;
}

/// 2026-07-28, Streamable HTTP › Sending Messages: the server's own "no such method" has the status 404, too.
#[tokio::test]
async fn a_method_that_the_server_does_not_know_is_not_found() {
    let proxy = Proxy::start(modern()).await;
    let response = Modern::new("vendor/unknown").id("5").post(&proxy.url).ok().await;
    assert_eq!(response.status, 404);
    let answer = response.json().ok().await;
    assert_eq!((code(&answer), &answer["id"]), (-32601, &json!(5)));
}

/// 2026-07-28, Versioning: whoever asks for a version that is not served learns which are.
#[tokio::test]
async fn an_unknown_version_is_answered_with_the_served_ones() {
    for (script, expected) in [(modern(), vec![MODERN]), (Script::default(), vec![MODERN, LEGACY])] {
        let proxy = Proxy::start(script).await;
        for version in ["2027-01-01", "DRAFT", "1"] {
            let request = call().meta(VERSION, version.into());
            let response = request.post(&proxy.url).ok().await;
            assert_eq!(response.status, 400, "{version}");
            let answer = response.json().ok().await;
            assert_ours(&answer, -32022);
            assert_eq!(answer["error"]["data"]["requested"], version);
            let supported = answer["error"]["data"]["supported"].as_array().unwrap();
            assert!(expected.iter().all(|version| supported.contains(&json!(version))), "{answer}");
        }
    }
}

/// 2026-07-28, Basic › `_meta`; Streamable HTTP › Value Encoding: what is optional may be absent, header names have no
/// case, and values may be in Base64.
#[tokio::test]
async fn what_is_allowed_is_served() {
    let proxy = Proxy::start(modern()).await;
    let rows = [
        ("no client info", call().meta("io.modelcontextprotocol/clientInfo", Value::Null)),
        ("lower case", call().header("MCP-Protocol-Version", None).header("mcp-protocol-version", Some(MODERN))),
        ("upper case", call().header("Mcp-Name", None).header("MCP-NAME", Some("echo"))),
        ("Base64", call().header("Mcp-Name", Some("=?base64?ZWNobw==?="))),
        ("an unknown header of the family", call().header("Mcp-Param-Anything", Some("at all"))),
        ("a resumption", call().header("Last-Event-ID", Some("1-1"))),
        ("a session that is none", call().header("Mcp-Session-Id", Some("not-a-session"))),
    ];
    for (what, request) in rows {
        let response = request.post(&proxy.url).ok().await;
        assert_eq!(response.status, 200, "{what}");
        assert_eq!(response.headers.get("mcp-session-id"), None, "{what}: nothing of a session is in the answer");
        assert_eq!(text(&response.answer().ok().await), "x", "{what}");
    }
}

/// 2026-07-28, Versioning › Compatibility: each request is served in its own era, and neither sees the other's traces.
#[tokio::test]
async fn clients_of_both_eras_share_one_address() {
    let proxy = Proxy::start(Script::default()).await;
    // A client of both eras asks first, and may go on with a handshake.
    let probe = Modern::new("server/discover").post(&proxy.url).ok().await.answer().ok().await;
    assert_eq!(probe["result"]["resultType"], "complete", "{probe}");
    let (legacy, modern) = (proxy.client(Era::Legacy).await, proxy.client(Era::Modern).await);
    for round in 0..3 {
        let old = legacy.call("echo", json!({ "text": round.to_string() })).await;
        assert_eq!(old["result"], json!({ "content": [{ "type": "text", "text": round.to_string() }] }));
        let new = modern.call("echo", json!({ "text": round.to_string() })).await;
        assert_eq!((text(&new), &new["result"]["resultType"]), (round.to_string().as_str(), &json!("complete")));
    }
    let Client::Legacy(session) = &legacy else { unreachable!() };
    let inside = call().header("Mcp-Session-Id", session.id.as_deref()).post(&proxy.url).ok().await;
    assert_eq!(text(&inside.answer().ok().await), "x", "served without the session that it names");
    let seen = legacy.stats().await;
    assert_eq!(seen["tools"]["echo"], 3, "the session's own server saw the session's calls only: {seen}");
}

/// 2025-11-25, Lifecycle › Version Negotiation: a version that is served is echoed; for an unknown or a stateless one the
/// answer is the best with a handshake.
#[tokio::test]
async fn initialize_negotiates_a_version_with_a_handshake() {
    let proxy = Proxy::start(legacy()).await;
    for revision in REVISIONS {
        assert_eq!(proxy.session_of(revision).await.initialized["protocolVersion"], revision);
    }
    for other in [MODERN, "1999-01-01", "x"] {
        assert_eq!(proxy.session_of(other).await.initialized["protocolVersion"], LEGACY, "{other}");
    }
}

/// 2025-11-25, Transports › Protocol Version Header: a value that is no revision is refused; none at all is fine.
#[tokio::test]
async fn the_version_header_of_a_session_is_checked() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session().await;
    let with = async |version: Option<&str>| {
        let mut headers = json_headers();
        headers.push(("Mcp-Session-Id", session.id.as_deref().unwrap()));
        headers.extend(version.map(|version| ("MCP-Protocol-Version", version)));
        send("POST", &proxy.url, &headers, &message("1", "tools/list", "{}")).await
    };
    assert_eq!(with(None).await.status, 200);
    assert_eq!(with(Some(LEGACY)).await.status, 200);
    for bad in ["2025-11-26", "", "latest"] {
        let response = with(Some(bad)).await;
        assert_eq!(response.status, 400, "{bad:?}");
        assert_ours(&response.json().ok().await, -32600);
    }
}

/// 2026-07-28, Streamable HTTP: a modern client has no answers to give, no streams to get and no sessions to delete.
#[tokio::test]
async fn what_modern_clients_do_not_send_is_refused() {
    let proxy = Proxy::start(Script::default()).await;
    let version = ("MCP-Protocol-Version", MODERN);
    let mut headers = json_headers();
    headers.push(version);
    let answer = send("POST", &proxy.url, &headers, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(answer.status, 400);
    let response = send("POST", &proxy.url, &headers, &cancelled(json!(1))).await;
    assert_eq!((response.status, response.text().ok().await), (202, String::new()));
    for method in ["GET", "DELETE"] {
        let response = send(method, &proxy.url, &[version, ("Accept", "text/event-stream")], "").await;
        assert_eq!(response.status, 405, "{method}");
        assert!(response.headers.get("allow").is_some_and(|allow| allow.contains("POST")), "{:?}", response.headers);
    }
    for method in ["PUT", "PATCH", "TRACE"] {
        assert_eq!(send(method, &proxy.url, &json_headers(), "").await.status, 405, "{method}");
    }
}

/// A large client keeps a session and puts the metadata of 2026-07-28 on its requests: the session's header decides.
#[tokio::test]
async fn a_session_may_carry_modern_metadata() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    let Client::Legacy(session) = &client else { unreachable!() };
    let answer = session.send(&call().body()).ok().await.answer().ok().await;
    assert_eq!(text(&answer), "x");
    assert_eq!(client.stats().await["tools"]["echo"], 1, "its own server has answered");
}

/// 2026-07-28, Streamable HTTP › Custom Headers from Tool Parameters: a header that a tool's schema asks for repeats the argument;
/// where the argument is not there, neither is the header. Nothing that disagrees reaches the server.
#[tokio::test]
async fn arguments_that_are_repeated_in_headers_agree() {
    let proxy = Proxy::start(modern()).await;
    let region = |value: Value| Modern::call("region", json!({ "region": value }));
    let header = |call: Modern, value: &str| call.header("Mcp-Param-Region", Some(value));
    let eu = || region("eu-1".into());
    let rows = [
        ("the same", header(eu(), "eu-1"), true),
        ("Base64 of the same", header(eu(), "=?base64?ZXUtMQ==?="), true),
        ("beyond ASCII, in Base64", header(region("é".into()), "=?base64?w6k=?="), true),
        ("both absent", Modern::call("region", json!({})), true),
        ("null and absent", region(Value::Null), true),
        ("missing", eu(), false),
        ("another", header(eu(), "us-1"), false),
        ("in another case", header(eu(), "EU-1"), false),
        ("twice", header(header(eu(), "eu-1"), "eu-1"), false),
        ("there, with nothing to repeat", header(Modern::call("region", json!({})), "eu-1"), false),
        ("bad Base64", header(eu(), "=?base64?ZXUtMQ?x?="), false),
    ];
    let mut served = 0;
    for (what, call, good) in rows {
        let response = call.post(&proxy.url).ok().await;
        assert_eq!(response.status, if good { 200 } else { 400 }, "{what}");
        served += i32::from(good);
        let answer = response.answer().ok().await;
        if !good {
            assert_ours(&answer, -32020);
        }
    }
    assert_eq!(proxy.client(Era::Modern).await.stats().await["tools"]["region"], served);
}
