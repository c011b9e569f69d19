//! Legacy sessions over Streamable HTTP: how they begin, who belongs to them, how they end.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use shadowcat::settings::Settings;
use shadowcat::testing::client::{LegacySession, Response};
use shadowcat::testing::{Do, On};

use crate::common::*;

/// A request with these session ids, by HTTP method.
async fn with_session(proxy: &Proxy, method: &str, ids: &[&str]) -> Response {
    let mut headers = json_headers();
    headers.extend(ids.iter().map(|id| ("Mcp-Session-Id", *id)));
    let body = if method == "POST" { message("1", "tools/list", "{}") } else { String::new() };
    send(method, &proxy.url, &headers, &body).await
}

/// 2025-11-25, Streamable HTTP › Session Management: the id is visible ASCII, cannot be guessed, comes with the
/// handshake's answer and with nothing else.
#[tokio::test]
async fn session_ids_come_with_the_handshake_only() {
    let proxy = Proxy::start(legacy()).await;
    let mut ids = BTreeSet::new();
    for _ in 0..4 {
        let session = proxy.session().await;
        let id = session.id.clone().unwrap();
        assert!(id.len() >= 22 && id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "128 bits at least: {id}");
        assert!(ids.insert(id));
        for response in [session.call("echo", json!({ "text": "x" })).ok().await, session.stream(None).ok().await] {
            assert_eq!(response.status, 200);
            assert_eq!(response.headers.get("mcp-session-id"), None);
        }
    }
}

/// 2025-11-25, Streamable HTTP › Session Management: without an id 400, with one that is not (or no longer) there 404,
/// whichever way it came to be so. Nobody is ever put into somebody else's session.
#[tokio::test]
async fn only_live_sessions_are_served() {
    let proxy = Proxy::start(legacy()).await;
    let ended = proxy.session().await;
    assert_eq!(ended.delete().ok().await.status, 204);
    let ended = ended.id.unwrap();
    let live = proxy.session().await;
    let longer = format!("{}x", live.id.as_deref().unwrap());
    let two = [live.id.as_deref().unwrap(), ended.as_str()];
    let rows: [(&[&str], u16); 6] =
        [(&[], 400), (&["unknown"], 404), (&[""], 404), (&[&ended], 404), (&[&longer], 404), (&two, 404)];
    for (ids, status) in rows {
        for method in ["POST", "GET", "DELETE"] {
            let response = with_session(&proxy, method, ids).await;
            assert_eq!(response.status, status, "{method} {ids:?}");
            assert_eq!(response.json().ok().await["error"]["data"]["origin"], "proxy");
        }
    }
    assert_eq!(live.request("tools/list", json!({})).ok().await.status, 200, "the live one is untouched");
}

/// 2025-11-25, Streamable HTTP › Session Management: DELETE ends the session, its calls and its process (C-LIFE).
#[tokio::test]
async fn delete_ends_the_session_and_its_process() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    let pid = client.pid().await;
    let Client::Legacy(session) = &client else { unreachable!() };
    let mut stream = session.stream(None).ok().await;
    let mut asking = session.call("ask", json!({ "message": "?" })).ok().await;
    assert_eq!(next(&mut asking).await.unwrap().json()["method"], "elicitation/create");
    assert_eq!(session.delete().ok().await.status, 204);
    assert_ours(&next(&mut asking).await.unwrap().json(), -31008);
    assert!(next(&mut asking).await.is_none() && rest(&mut stream).await.is_empty(), "its streams end");
    until("the process has ended", async || alive(pid), |alive| !alive).await;
    proxy.until_metric("shadowcat_children", &[], 0.0).await;
    proxy.close().await;
}

/// 2025-11-25, Streamable HTTP › Session Management: concurrent ends and uses each get a definite answer.
#[tokio::test]
async fn ending_and_using_a_session_at_once_is_safe() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session().await;
    let calls = (0..12).map(async |n| match n % 3 {
        0 => session.delete().ok().await.status,
        1 => session.stream(None).ok().await.status,
        _ => session.call("echo", json!({ "text": "x" })).ok().await.status,
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| [200, 204, 404].contains(status)), "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 1, "ended once: {statuses:?}");
    proxy.until_metric("shadowcat_children", &[], 0.0).await;
}

/// 2025-11-25, Streamable HTTP › Sending Messages: notifications and answers are accepted with 202 and an empty body,
/// whether or not anybody waits for them.
#[tokio::test]
async fn notifications_and_answers_are_accepted_without_a_body() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    let Client::Legacy(session) = &client else { unreachable!() };
    let accepted = [
        notification("notifications/roots/list_changed", json!({})),
        notification("vendor/unknown", json!({ "x": 1 })),
        notification("notifications/cancelled", json!({})),
        cancelled(json!(99)),
        cancelled(json!(null)),
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into(),
        r#"{"jsonrpc":"2.0","id":"1","error":{"code":1,"message":"x"}}"#.into(),
    ];
    for message in accepted {
        let response = session.send(&message).ok().await;
        assert_eq!((response.status, response.text().ok().await), (202, String::new()), "{message}");
    }
    let stats = client.stats().await;
    assert_eq!(
        (&stats["answers"], &stats["cancellations"]),
        (&json!(0), &json!(0)),
        "to nothing there is nothing to relay"
    );
    assert_eq!(stats["notifications"]["vendor/unknown"], 1, "what is not understood passes");
    assert_eq!(stats["notifications"]["notifications/roots/list_changed"], 1);
}

/// 2025-11-25, Ping: the proxy answers itself, before `initialized` and whatever the server does.
#[tokio::test]
async fn pings_are_answered_by_the_proxy() {
    let script = legacy().fault(On::method("ping"), Do::Hang).fault(On::tool("echo"), Do::StopReading);
    let proxy = Proxy::start(script).await;
    let first = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
    let id = first.headers.get("mcp-session-id").unwrap().to_owned();
    let ping = async |text: &str| {
        let mut headers = json_headers();
        headers.push(("Mcp-Session-Id", &id));
        let response = send("POST", &proxy.url, &headers, &message(text, "ping", "{}")).await;
        response.text().ok().await
    };
    assert_eq!(ping("1.0").await, r#"{"jsonrpc":"2.0","id":1.0,"result":{}}"#);
    assert_eq!(ping("\"p\"").await, r#"{"jsonrpc":"2.0","id":"p","result":{}}"#);
    assert_eq!(ping(r#""\ud800""#).await, r#"{"jsonrpc":"2.0","id":"\ud800","result":{}}"#, "half a pair, as it was");
}

/// 2025-11-25, Ping: a server's ping is answered under its own id, and its client hears nothing of it.
#[tokio::test]
async fn pings_of_the_server_are_answered_by_the_proxy() {
    let pings = "{\"jsonrpc\":\"2.0\",\"id\":\"from the server\",\"method\":\"ping\"}";
    let script = legacy().fault(On::tool("echo"), Do::Print { text: pings.into(), times: 1, newline: true });
    let proxy = Proxy::start(script).await;
    let client = proxy.client(Era::Legacy).await;
    let heard = messages(client.begin("1", None, "echo", json!({ "text": "x" })).await).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    // The fake did not send it as a question of its own, so that to it the answer is a stray one.
    client.until_stats("/stray_answers", 1).await;
}

/// 2025-11-25, Lifecycle › Initialization: a client that forgets `initialized` is served all the same; but a session that nobody
/// completes, and one that nobody uses, ends by itself.
#[tokio::test]
async fn sessions_that_nobody_uses_end() {
    let short = Duration::from_millis(300);
    let never_initialized = |settings: &mut Settings| settings.timeouts.session_init = short;
    let idle = |settings: &mut Settings| settings.timeouts.session_idle = short;
    type Change<'a> = &'a dyn Fn(&mut Settings);
    for (change, used, reason) in
        [(&never_initialized as Change<'_>, false, "not_initialized"), (&idle, false, "idle"), (&idle, true, "idle")]
    {
        let proxy = Proxy::with(legacy(), change).await;
        let response = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
        let id = response.headers.get("mcp-session-id").unwrap().to_owned();
        if used {
            assert_eq!(
                with_session(&proxy, "POST", &[&id]).await.status,
                200,
                "no hostage to a forgotten notification"
            );
        }
        proxy.until_metric("shadowcat_sessions_ended_total", &[reason], 1.0).await;
        assert_eq!(with_session(&proxy, "POST", &[&id]).await.status, 404);
        proxy.until_metric("shadowcat_children", &[], 0.0).await;
    }
}

/// 2025-11-25, Streamable HTTP › Listening for Messages: who listens is there; who has stopped listening is not.
#[tokio::test]
async fn a_session_that_listens_does_not_expire() {
    let idle = |settings: &mut Settings| settings.timeouts.session_idle = Duration::from_millis(200);
    let proxy = Proxy::with(legacy(), idle).await;
    let session = proxy.session().await;
    let stream = session.stream(None).ok().await;
    for others in 1..=2 {
        proxy.session().await;
        proxy.until_metric("shadowcat_sessions_ended_total", &["idle"], f64::from(others)).await;
    }
    assert_eq!(session.request("ping", json!({})).ok().await.status, 200);
    drop(stream);
    proxy.until_metric("shadowcat_sessions", &[], 0.0).await;
    proxy.until_metric("shadowcat_children", &[], 0.0).await;
}

/// C-LIFE: a request under way is use, however long the client has been silent.
#[tokio::test]
async fn a_session_with_a_request_under_way_does_not_expire() {
    let idle = |settings: &mut Settings| settings.timeouts.session_idle = Duration::from_millis(400);
    let proxy = Proxy::with(legacy(), idle).await;
    let session = proxy.session().await;
    let other = proxy.session().await;
    let mut asking = session.call("ask", json!({ "message": "?" })).ok().await;
    let question = next(&mut asking).await.unwrap().json();
    // The idle one goes, and with it the time in which the busy one would have gone.
    proxy.until_metric("shadowcat_sessions_ended_total", &["idle"], 1.0).await;
    let again = proxy.session().await;
    proxy.until_metric("shadowcat_sessions_ended_total", &["idle"], 2.0).await;
    for gone in [other, again] {
        assert_eq!(gone.call("echo", json!({})).ok().await.status, 404);
    }
    let answered = session.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    assert_eq!(answered.status, 202);
    assert!(text(&next(&mut asking).await.unwrap().json()).starts_with("answer: decline"));
}

/// 2025-11-25, Lifecycle › Initialization: a server that refuses, or dies of, the handshake leaves no session behind.
#[tokio::test]
async fn a_failed_handshake_leaves_no_session() {
    // Nor does it say that it is of the other era.
    let exits = Do::Exit { code: 3, when: Default::default() };
    let no_handshake = modern().fault(On::method("server/discover"), exits);
    let dies = legacy().fault(On::method("initialize"), Do::Exit { code: 3, when: Default::default() });
    let hangs = legacy().fault(On::method("initialize"), Do::Hang);
    for (what, script) in [("refuses", no_handshake), ("dies", dies), ("hangs", hangs)] {
        let quick = |settings: &mut Settings| settings.timeouts.start = Duration::from_millis(500);
        let proxy = Proxy::with(script, quick).await;
        let response = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
        assert_eq!(response.headers.get("mcp-session-id"), None, "{what}");
        assert!(
            ![400, 404, 405].contains(&response.status),
            "{what}: a client would take {} for news about us",
            response.status
        );
        code(&response.json().ok().await);
        proxy.until_metric("shadowcat_sessions", &[], 0.0).await;
        proxy.until_metric("shadowcat_children", &[], 0.0).await;
    }
}

/// 2025-11-25, Lifecycle: `initialize` is sent once, and without a session: a second one is another session.
#[tokio::test]
async fn a_second_initialize_is_another_session() {
    let proxy = Proxy::start(legacy()).await;
    let (a, b) = (proxy.session().await, LegacySession::open(&proxy.url, LEGACY, json!({})).ok().await);
    assert_ne!(a.id, b.id);
    for session in [a, b] {
        assert_eq!(
            text(&session.call("count", json!({ "key": "k" })).ok().await.answer().ok().await),
            "1",
            "each has its own process"
        );
    }
}
