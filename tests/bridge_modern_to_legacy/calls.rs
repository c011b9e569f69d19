//! Plain requests: what is asked for once is answered once, in the words of 2026-07-28.

use super::*;

/// 2026-07-28, Discovery: a client that knows no handshake finds its way, over each transport.
#[tokio::test]
async fn a_modern_client_uses_a_server_with_a_handshake() {
    for via in Via::ALL {
        let world = World::new(via).await;
        let discovered = world.answer(&Modern::new("server/discover").id("\"d\"")).await;
        assert_eq!(discovered["id"], "d");
        let result = &discovered["result"];
        assert_eq!(result["resultType"], "complete", "{via:?} {discovered}");
        assert_eq!(result["supportedVersions"][0], "2026-07-28");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "shadowcat-demo");
        assert!(result["capabilities"]["tools"].is_object() && result["instructions"].is_string(), "{discovered}");
        assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(60_000), &json!("private")));

        let listed = world.answer(&Modern::new("tools/list")).await;
        assert_eq!(listed["result"]["resultType"], "complete");
        assert_eq!((&listed["result"]["ttlMs"], &listed["result"]["cacheScope"]), (&json!(0), &json!("private")));
        assert!(listed["result"]["tools"].as_array().unwrap().len() > 5, "{listed}");

        let called = world.answer(&Modern::call("echo", json!({ "text": "hi" })).id("1.0")).await;
        assert_eq!((text(&called), &called["id"]), ("hi", &json!(1.0)), "{via:?}");
        assert_eq!(called["result"]["resultType"], "complete");
        assert!(called["result"].get("ttlMs").is_none(), "a call is not kept");
        world.close().await;
    }
}

/// 2026-07-28, Basic › `_meta`: what only that revision has stays here; everything else goes on.
#[tokio::test]
async fn the_envelope_stays_here_and_the_rest_goes_on() {
    for via in Via::ALL {
        let world = World::new(via).await;
        let call = Modern::call("meta", json!({ "n": 1.5 })).progress_token(json!("t")).log_level("error");
        let call = call.meta("vendor/x", json!([1])).meta("traceparent", "00-1-2-03".into());
        let seen: Value = serde_json::from_str(text(&world.answer(&call).await)).unwrap();
        let meta = seen["_meta"].as_object().unwrap();
        let mut names: Vec<&str> = meta.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["progressToken", "traceparent", "vendor/x"], "{via:?} {seen}");
        assert!(meta["progressToken"].is_u64(), "a name of ours: {seen}");
        assert_eq!(seen["arguments"], json!({ "n": 1.5 }));
        world.close().await;
    }
}

/// 2026-07-28, Progress; Logging: both come on the stream of the request that asked for them, and to no other.
#[tokio::test]
async fn progress_and_log_messages_come_to_those_who_ask() {
    for via in Via::ALL {
        let world = World::new(via).await;
        let steps = Modern::call("progress", json!({ "steps": 3 }));
        let said = messages(world.post(&steps.clone().progress_token(json!("t\u{e9}"))).await).await;
        let progress: Vec<_> = said.iter().filter(|one| one["method"] == "notifications/progress").collect();
        assert_eq!(progress.len(), 3, "{via:?} {said:?}");
        assert!(progress.iter().all(|one| one["params"]["progressToken"] == "t\u{e9}"), "{said:?}");
        assert_eq!(messages(world.post(&steps).await).await.len(), 1);

        let log = |level: &str| Modern::call("log", json!({ "level": level, "text": "x" }));
        let logs = async |request: Modern| messages(world.post(&request).await).await.len() - 1;
        assert_eq!(logs(log("error").log_level("warning")).await, 1, "{via:?}");
        assert_eq!(logs(log("info").log_level("warning")).await, 0, "{via:?}");
        assert_eq!(logs(log("info").log_level("debug")).await, 1, "{via:?}");
        assert_eq!(logs(log("error")).await, 0, "{via:?}: it was not asked for");
        let odd = world.answer(&log("error").log_level("loud")).await;
        assert_eq!(code(&odd), -32602);
        world.close().await;
    }
}

/// 2026-07-28, Streamable HTTP; Basic › Error Codes: a server's errors are told with their codes, and with the statuses that
/// 2026-07-28 has for them.
#[tokio::test]
async fn errors_are_told_with_their_statuses() {
    for via in Via::ALL {
        let world = World::new(via).await;
        for (request, status, expected) in [
            (Modern::new("vendor/unknown"), 404, -32601),
            (Modern::call("no-such-tool", json!({})), 200, -32602),
            (Modern::call("error", json!({ "code": -32000 })), 200, -32000),
            (Modern::call("error", json!({ "code": -32021 })), 200, -32603),
            (Modern::call("error", json!({ "code": 7 })), 200, 7),
            (Modern::new("resources/read").param("uri", "shadowcat://none".into()), 200, -32602),
            (Modern::new("ping"), 404, -32601),
        ] {
            let response = world.post(&request).await;
            assert_eq!(response.status, status, "{via:?} {request:?}");
            let answer = response.answer().ok().await;
            assert_eq!(code(&answer), expected, "{via:?} {answer}");
            if expected == -32602 && request.body().contains("resources/read") {
                assert_eq!(answer["error"]["data"]["uri"], "shadowcat://none", "{answer}");
            }
        }
        assert_eq!(world.lost("error_code").await, 1.0);
        world.close().await;
    }
}

/// 2026-07-28, Cancellation: who closes the stream has cancelled, and the server learns it in its own words.
#[tokio::test]
async fn who_goes_away_has_cancelled() {
    for via in [Via::Http, Via::Sse] {
        let world = World::new(via).await;
        let call = Modern::call("sleep", json!({ "ms": 60_000 }));
        let called = tokio::select! {
            answered = world.post(&call) => panic!("{via:?}: it sleeps: {answered:?}"),
            called = world.arrival("tools/call") => called,
        };
        let cancelled = world.arrival("notifications/cancelled").await;
        assert_eq!(cancelled.json("/params/requestId"), called.json("/id"), "{via:?}");
        assert!(called.json("/id").is_u64());
    }
}

/// 2026-07-28, Streamable HTTP › Custom Headers from Tool Parameters: what a tool wants repeated in headers is, or the call is
/// refused before the server sees it: it knows of no such headers, and whoever routes by them relies on somebody.
#[tokio::test]
async fn headers_that_repeat_arguments_agree_with_them() {
    for via in Via::ALL {
        let world = World::new(via).await;
        let region = |header| Modern::call("region", json!({ "region": "eu" })).header("Mcp-Param-Region", header);
        for wrong in [None, Some("us"), Some(""), Some("=?base64?*?=")] {
            let refused = world.post(&region(wrong)).await;
            assert_eq!(refused.status, 400, "{via:?} {wrong:?}");
            assert_ours(&refused.answer().ok().await, -32020);
        }
        let absent = Modern::call("region", json!({})).header("Mcp-Param-Region", Some("eu"));
        assert_eq!(world.post(&absent).await.status, 400, "{via:?}");
        for right in ["eu", "=?base64?ZXU=?="] {
            assert_eq!(text(&world.answer(&region(Some(right))).await), "eu", "{via:?}");
        }
        // Nobody wants that one.
        let echo = Modern::call("echo", json!({ "text": "x" })).header("Mcp-Param-Region", Some("eu"));
        assert_eq!(text(&world.answer(&echo).await), "x");
        let stats: Value = serde_json::from_str(text(&world.answer(&Modern::call("stats", json!({}))).await)).unwrap();
        assert_eq!(stats["tools"]["region"], 2, "{via:?} {stats}");
        if let Some(mock) = &world.mock {
            let lists = mock.requests().into_iter().filter(|one| one.json("/method") == "tools/list").count();
            assert_eq!(lists, 1, "{via:?}: it is asked once, in its own words");
            let list = world.arrived("tools/list").remove(0);
            assert_eq!(list.json("/params"), json!({}), "{via:?}");
        }
        world.close().await;
    }
}

/// The same holds when a call is made once more, with answers; and a request that is refused for it spoils nothing.
#[tokio::test]
async fn headers_agree_when_a_call_is_made_again() {
    let schema =
        json!({ "type": "object", "properties": { "message": { "type": "string", "x-mcp-header": "Message" } } });
    let listed = json!({ "tools": [{ "name": "ask", "inputSchema": schema }] });
    let body = json!({ "jsonrpc": "2.0", "id": 2, "result": listed }).to_string();
    let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
    let script = legacy().fault(On::method("tools/list"), Do::Status { code: 200, headers, body });
    let world = World::with(Via::Http, script, |_| {}).await;
    let ask = |header| asking(json!({ "message": "?" })).header("Mcp-Param-Message", header);
    let asked = world.answer(&ask(Some("?"))).await;
    for wrong in [None, Some("!")] {
        let refused = world.post(&again(ask(wrong), &asked, accepting(&asked))).await;
        assert_eq!(refused.status, 400, "{wrong:?}");
        assert_ours(&refused.answer().ok().await, -32020);
    }
    let done = world.answer(&again(ask(Some("?")), &asked, accepting(&asked))).await;
    assert!(text(&done).starts_with("answer: accept"), "{done}");
    world.close().await;
}

/// Each may be told of other tools: what one wants repeated is not taken from another's list.
#[tokio::test]
async fn each_principal_is_asked_for_its_own_list_of_tools() {
    let world = World::with(Via::Http, legacy(), |settings| {
        settings.upstreams[0].forward_headers = vec!["x-user".parse().unwrap()];
    })
    .await;
    for who in ["a", "b", "a"] {
        let call = Modern::call("region", json!({ "region": "eu" })).header("Mcp-Param-Region", Some("eu"));
        assert_eq!(text(&world.answer(&call.header("X-User", Some(who))).await), "eu");
    }
    let asked: Vec<_> =
        world.arrived("tools/list").iter().map(|list| list.headers.get("x-user").unwrap().to_owned()).collect();
    assert_eq!(asked, ["a", "b"]);
    world.close().await;
}

/// A server is greeted once for many requests, and by clients that declare something else once more.
#[tokio::test]
async fn connections_are_used_again_by_those_who_declare_the_same() {
    let world = World::new(Via::Http).await;
    for _ in 0..20 {
        world.answer(&Modern::call("echo", json!({ "text": "x" }))).await;
    }
    assert_eq!(world.arrived("initialize").len(), 1);
    world.answer(&Modern::new("server/discover")).await;
    assert_eq!(world.arrived("initialize").len(), 1, "it has been greeted already");
    for _ in 0..3 {
        world.answer(&Modern::call("echo", json!({ "text": "x" })).capabilities(everything())).await;
    }
    let greetings = world.arrived("initialize");
    assert_eq!(greetings.len(), 2);
    assert_eq!(greetings[0].json("/params/capabilities"), json!({}));
    assert_eq!(greetings[1].json("/params/capabilities"), everything());
    assert_eq!(greetings[1].json("/params/protocolVersion"), "2025-11-25");
    assert_eq!(greetings[1].json("/params/clientInfo/name"), "shadowcat");
    assert_eq!(world.arrived("notifications/initialized").len(), 2);
    world.close().await;
}

/// docs/bridge.md: who has a connection next.
#[tokio::test]
async fn connections_are_used_again_by_whom_the_operator_allows() {
    for (reuse, [same, other, nobody]) in
        [(BridgeReuse::Never, [2, 3, 5]), (BridgeReuse::SamePrincipal, [1, 2, 3]), (BridgeReuse::Any, [1, 1, 1])]
    {
        let world = World::with(Via::Http, legacy(), |settings| settings.upstreams[0].bridge_reuse = reuse).await;
        let call = |who: Option<&str>| Modern::call("echo", json!({ "text": "x" })).header("Authorization", who);
        for (who, greetings) in [(Some("a"), 1), (Some("a"), same), (Some("b"), other)] {
            world.answer(&call(who)).await;
            assert_eq!(world.arrived("initialize").len(), greetings, "{reuse:?} {who:?}");
        }
        for _ in 0..2 {
            world.answer(&call(None)).await;
        }
        assert_eq!(world.arrived("initialize").len(), nobody, "{reuse:?}");
        world.close().await;
    }
}

/// A server that has forgotten a session that was to be used again gets the request on a new one: it was not taken up.
#[tokio::test]
async fn a_session_that_the_server_forgot_costs_the_client_nothing() {
    let script = legacy()
        .fault(On::tool("echo").nth(2), Do::Status { code: 404, headers: Default::default(), body: String::new() });
    let world = World::with(Via::Http, script, |_| {}).await;
    for _ in 0..3 {
        assert_eq!(text(&world.answer(&Modern::call("echo", json!({ "text": "x" }))).await), "x");
    }
    assert_eq!(world.arrived("initialize").len(), 2);
    world.close().await;
}

/// What `--era legacy` says is not asked; 2026-07-28 is spoken all the same, and other revisions of the kind are not.
#[tokio::test]
async fn a_server_that_is_said_to_have_a_handshake_is_not_asked() {
    let world = World::with(Via::Http, Script::default(), |settings| {
        settings.upstreams[0].era = shadowcat::settings::EraChoice::Legacy;
    })
    .await;
    assert_eq!(text(&world.answer(&Modern::call("echo", json!({ "text": "x" }))).await), "x");
    assert_eq!((world.arrived("server/discover").len(), world.arrived("initialize").len()), (0, 1));
    let later = Modern::new("tools/list").meta("io.modelcontextprotocol/protocolVersion", "2099-01-01".into());
    let response = world.post(&later).await;
    assert_eq!(response.status, 400);
    let answer = response.answer().ok().await;
    assert_eq!(code(&answer), -32022);
    assert_eq!(answer["error"]["data"]["supported"][0], "2026-07-28", "{answer}");
    world.close().await;
}

/// 2026-07-28, Caching: what a server says of itself to one client may be for that one alone. Whose headers differ is another.
#[tokio::test]
async fn a_description_is_told_to_whom_it_was_given() {
    let forwards = |settings: &mut Settings| settings.upstreams[0].forward_headers = vec!["x-tenant".parse().unwrap()];
    let world = World::with(Via::Http, legacy(), forwards).await;
    for (tenant, handshakes) in [("a", 1), ("a", 1), ("b", 2)] {
        world.answer(&Modern::new("server/discover").header("X-Tenant", Some(tenant))).await;
        assert_eq!(world.arrived("initialize").len(), handshakes, "{tenant}");
    }
    world.close().await;
}
