//! How a session begins.

use serde_json::{Value, json};
use shadowcat::settings::{EraChoice, Isolation, Reuse, Settings};
use shadowcat::testing::client::LegacySession;
use shadowcat::testing::{Do, On};

use crate::common::*;
use crate::{Client, Place, Stage};

/// 2025-11-25, Lifecycle › Initialization: each client gets a session in the revision it asks for, and learns what the server
/// says of itself.
#[tokio::test]
async fn a_client_of_any_revision_gets_a_session() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, client) in stage.clients(everything()).await {
            let welcome = client.welcome();
            let revision = what.split(' ').next().filter(|word| word.starts_with('2')).unwrap_or("2024-11-05");
            assert_eq!(welcome["protocolVersion"], revision, "{place:?} {what}");
            assert_eq!(welcome["serverInfo"]["name"], "shadowcat-demo", "{what}");
            assert!(welcome["instructions"].is_string(), "{what}");
            assert_eq!(welcome["capabilities"]["tools"], json!({ "listChanged": true }), "{what}");
            for modern in ["supportedVersions", "resultType", "ttlMs", "cacheScope"] {
                assert_eq!(welcome.get(modern), None, "{what}");
            }
        }
    }
}

/// Sessions are the proxy's: however many there are, one process serves them, and they end as sessions do.
#[tokio::test]
async fn sessions_need_no_connection_of_their_own() {
    let stage = Stage::new(Place::Child, modern()).await;
    let sessions: Vec<_> =
        futures_util::future::join_all((0..10).map(|_| stage.session(LEGACY))).await.into_iter().collect();
    stage.until_metric("shadowcat_sessions", &[], 10.0).await;
    stage.until_metric("shadowcat_children", &[], 1.0).await;
    let ids: std::collections::BTreeSet<_> = sessions.iter().map(|session| session.id.clone()).collect();
    assert_eq!(ids.len(), 10);
    for session in &sessions {
        assert_eq!(session.delete().ok().await.status, 204);
        assert_eq!(session.call("echo", json!({ "text": "x" })).ok().await.status, 404, "it is over");
    }
    stage.until_metric("shadowcat_sessions", &[], 0.0).await;
}

/// The era is found out once, whoever comes first, and the configuration outranks it.
#[tokio::test]
async fn the_era_needs_no_configuration_and_can_have_one() {
    for place in Place::BOTH {
        for era in [EraChoice::Auto, EraChoice::Modern] {
            let stage = Stage::with(place, modern(), |settings| settings.upstreams[0].era = era).await;
            for _ in 0..3 {
                let mut client = Client::Http(stage.session(LEGACY).await);
                assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
            }
            if let Some(mock) = &stage.mock {
                let requests = mock.requests();
                let handshakes = requests.iter().filter(|one| one.body.contains("\"initialize\"")).count();
                assert_eq!(handshakes, usize::from(era == EraChoice::Auto), "{era:?}");
            }
        }
        let legacy = |settings: &mut Settings| settings.upstreams[0].era = EraChoice::Legacy;
        let stage = Stage::with(place, modern(), legacy).await;
        let refused = LegacySession::open(&stage.url, LEGACY, json!({}));
        let refused: Value = serde_json::from_str(&refused.await.unwrap_err().to_string()).unwrap();
        assert_eq!(code(&refused), -32602, "{refused}");
    }
}

/// A server that speaks both eras meets a client with a handshake in the client's own words.
#[tokio::test]
async fn who_has_a_handshake_too_is_not_translated() {
    for place in Place::BOTH {
        let stage = Stage::new(place, Default::default()).await;
        let mut client = Client::Http(stage.session(LEGACY).await);
        let stats: Value = serde_json::from_str(text(&client.call("stats", json!({})).await)).unwrap();
        assert_eq!(stats["client"]["revision"], LEGACY, "{place:?}");
    }
}

/// 2025-11-25, Lifecycle › Error Handling: without a common version the handshake fails, and says which versions there are.
#[tokio::test]
async fn without_a_common_version_the_client_learns_which_there_are() {
    let body = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32022,"message":"x","data":{"supported":["2031-01-01"],"requested":"x"}}}"#;
    let refuses = || Do::Status {
        code: 400,
        headers: [("Content-Type".into(), "application/json".into())].into(),
        body: body.into(),
    };
    let script = modern().fault(On::method("initialize"), refuses()).fault(On::method("server/discover"), refuses());
    let stage = Stage::new(Place::Http, script).await;
    let refused = LegacySession::open(&stage.url, LEGACY, json!({}));
    let refused: Value = serde_json::from_str(&refused.await.unwrap_err().to_string()).unwrap();
    assert_eq!(code(&refused), -32602, "{refused}");
    assert_eq!(refused["error"]["data"]["supported"], json!(["2031-01-01"]));
    assert!(refused["error"]["message"].as_str().unwrap().contains("2031-01-01"));
}

/// docs/isolation.md: nothing is kept upstream for a session, so that log levels and questions are there under every isolation; but
/// where each request has a process for itself, there is none on which changes could be told.
#[tokio::test]
async fn sessions_have_what_can_be_kept_apart_under_every_isolation() {
    for isolation in [Isolation::Session, Isolation::Shared, Isolation::Principal, Isolation::Request] {
        let stage = Stage::with(Place::Child, modern(), |settings| {
            let upstream = &mut settings.upstreams[0];
            (upstream.isolation, upstream.reuse) = (isolation, Reuse::usual(isolation));
        })
        .await;
        let headers = [("Authorization", "Bearer ada")];
        let session = LegacySession::open_with(&stage.url, LEGACY, everything(), &headers).ok().await;
        let mut client = Client::Http(session);
        assert!(client.welcome()["capabilities"]["logging"].is_object(), "{isolation:?}");
        assert_eq!(client.request("logging/setLevel", json!({ "level": "debug" })).await["result"], json!({}));
        let heard = client
            .converse(
                "tools/call",
                json!({ "name": "ask", "arguments": { "message": "?" } }),
                |_| json!({ "result": { "action": "decline" } }),
            )
            .await;
        assert_eq!(text(heard.last().unwrap()), "answer: decline null", "{isolation:?}");
        let subscribed = client.request("resources/subscribe", json!({ "uri": "shadowcat://demo/hello.txt" })).await;
        let offers = client.welcome()["capabilities"]["resources"].get("subscribe").is_some();
        let is_refused = subscribed["error"]["data"]["reason"] == "isolation";
        assert_eq!((offers, is_refused), (isolation != Isolation::Request, isolation == Isolation::Request));
    }
}
