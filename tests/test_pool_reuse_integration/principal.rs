//! Isolation `principal`: one connection for all that one principal does.

use http::HeaderName;
use serde_json::json;
use shadowcat::settings::{Isolation, Settings};
use shadowcat::testing::client::{LegacySession, Modern};

use crate::common::*;
use crate::support::*;

const ADA: Option<&str> = Some("Bearer ada");
const BOB: Option<&str> = Some("Bearer bob");

/// Isolation: all sessions, or all modern requests, of one principal share a process; another principal has another one.
#[tokio::test]
async fn each_principal_has_a_process() {
    let proxy = isolated(Isolation::Principal, legacy(), plain).await;
    let (ada, again, bob) = (open_as(&proxy, ADA).await, open_as(&proxy, ADA).await, open_as(&proxy, BOB).await);
    let pids = [ada.pid().await, again.pid().await, bob.pid().await];
    assert!(pids[0] == pids[1] && pids[0] != pids[2], "{pids:?}");
    assert_eq!(text(&ada.call("count", json!({ "key": "k" })).await), "1");
    assert_eq!(text(&again.call("count", json!({ "key": "k" })).await), "2");
    assert_eq!(text(&bob.call("count", json!({ "key": "k" })).await), "1");
    rests_with(&proxy, 0, 2).await;

    let proxy = isolated(Isolation::Principal, modern(), plain).await;
    let pids = [modern_pid(&proxy, ADA).await, modern_pid(&proxy, BOB).await, modern_pid(&proxy, ADA).await];
    assert!(pids[0] == pids[2] && pids[0] != pids[1], "{pids:?}");
    rests_with(&proxy, 0, 2).await;
    proxy.close().await;
    assert!(!alive(pids[0]) && !alive(pids[1]));
}

/// Isolation: what one principal subscribed to, another does not hear of, though both hear of changes of their own server.
#[tokio::test]
async fn principals_hear_their_own_server() {
    let proxy = isolated(Isolation::Principal, legacy(), plain).await;
    let (ada, again, bob) = (open_as(&proxy, ADA).await, open_as(&proxy, ADA).await, open_as(&proxy, BOB).await);
    let mut streams = Vec::new();
    for client in [&again, &bob] {
        streams.push(session(client).stream(None).ok().await);
    }
    ada.call("change", json!({ "kind": "tools" })).await;
    bob.call("change", json!({ "kind": "prompts" })).await;
    assert_eq!(hears(&mut streams[0]).await, "notifications/tools/list_changed");
    assert_eq!(hears(&mut streams[1]).await, "notifications/prompts/list_changed");
}

/// Isolation: who does not say who it is, or says so twice, is refused, and no process is started for it.
#[tokio::test]
async fn who_is_not_known_is_refused() {
    let proxy = isolated(Isolation::Principal, legacy(), plain).await;
    let twice = [("Authorization", "Bearer ada"), ("Authorization", "Bearer ada")];
    for headers in [&[] as &[_], &twice] {
        let headers: Vec<_> = json_headers().into_iter().chain(headers.iter().copied()).collect();
        let response = send("POST", &proxy.url, &headers, &initialize(LEGACY)).await;
        assert_eq!((response.status, response.headers.get("mcp-session-id")), (403, None));
        assert_eq!(reason(&response.json().ok().await), "principal");
    }
    let response = Modern::call("echo", json!({ "text": "x" })).post(&proxy.url).ok().await;
    assert_eq!(response.status, 403);
    assert_eq!(reason(&response.json().ok().await), "principal");
    assert_eq!(send("GET", &proxy.at("/sse"), &[("Accept", "text/event-stream")], "").await.status, 403);
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 0.0);
}

/// 2025-11-25, Security Best Practices › Session Hijacking: a session is its principal's.
#[tokio::test]
async fn a_session_is_its_principals() {
    let proxy = isolated(Isolation::Principal, legacy(), plain).await;
    let mut client = open_as(&proxy, ADA).await;
    for (thief, status) in [(BOB, 404), (None, 403)] {
        let Client::Legacy(session) = &mut client else { unreachable!() };
        let own = session.extra.clone();
        session.extra = thief.map(|who| ("Authorization".to_owned(), who.to_owned())).into_iter().collect();
        assert_eq!(session.request("tools/list", json!({})).ok().await.status, status);
        assert_eq!(session.stream(None).ok().await.status, status);
        assert_eq!(session.delete().ok().await.status, status);
        session.extra = own;
    }
    assert_eq!(text(&client.call("echo", json!({ "text": "mine" })).await), "mine");
}

/// Configuration, `principal_header`: another header says who a client is, and then no other does.
#[tokio::test]
async fn another_header_can_name_the_principal() {
    let named = |settings: &mut Settings| {
        settings.upstreams[0].principal_header = HeaderName::from_static("x-user");
    };
    let proxy = isolated(Isolation::Principal, legacy(), named).await;
    let open = async |user: &str, token: &str| {
        let headers = [("X-User", user), ("Authorization", token)];
        Client::Legacy(LegacySession::open_with(&proxy.url, LEGACY, rootless(), &headers).ok().await)
    };
    let (a, b, c) = (open("ada", "1").await, open("ada", "2").await, open("bob", "1").await);
    let pids = [a.pid().await, b.pid().await, c.pid().await];
    assert!(pids[0] == pids[1] && pids[0] != pids[2], "{pids:?}");
    let headers: Vec<_> = json_headers().into_iter().chain([("Authorization", "1")]).collect();
    assert_eq!(send("POST", &proxy.url, &headers, &initialize(LEGACY)).await.status, 403);
}
