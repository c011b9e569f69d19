//! Finding out which era a server is of, and what clients of the other one see.

use serde_json::{Value, json};
use shadowcat::settings::{EraChoice, Isolation, Reuse, Settings};
use shadowcat::testing::client::{Modern, Response};
use shadowcat::testing::{Discover, Do, On, Script};

use crate::common::*;

async fn discover(proxy: &Proxy) -> Response {
    Modern::new("server/discover").post(&proxy.url).ok().await
}

/// What a modern client is told in front of a server with a handshake: what that has said in it.
async fn assert_described(response: Response) {
    assert_eq!(response.status, 200);
    let answer = response.json().ok().await;
    assert_eq!(answer["result"]["supportedVersions"][0], MODERN, "{answer}");
    assert_eq!(answer["result"]["supportedVersions"][1], LEGACY, "{answer}");
}

/// 2026-07-28, stdio › Backward Compatibility: a server that refuses the question, keeps silent, or dies of it has a handshake.
/// Its clients notice nothing, of whichever era; whoever comes first.
#[tokio::test]
async fn servers_with_a_handshake_are_known_by_whatever_they_do_when_asked() {
    for how in [Discover::Error, Discover::Silence, Discover::Exit] {
        for modern_first in [true, false] {
            let quick = |settings: &mut Settings| settings.timeouts.probe = std::time::Duration::from_millis(300);
            let proxy = Proxy::with(surprised(how), quick).await;
            let modern = async || {
                assert_described(discover(&proxy).await).await;
                let called = Modern::call("echo", json!({ "text": "x" })).post(&proxy.url).ok().await;
                assert_eq!(text(&called.json().ok().await), "x", "{how:?}");
            };
            if modern_first {
                modern().await;
            }
            let session = proxy.session().await;
            assert_eq!(
                text(&session.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await),
                "x",
                "{how:?}"
            );
            modern().await;
            assert_eq!(
                text(&session.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await),
                "x",
                "{how:?}"
            );
            let stats = Client::Legacy(session).stats().await;
            assert_eq!(stats["tools"]["echo"], 2, "{how:?}: the session's server is the one it began with");
        }
    }
}

/// 2026-07-28, Versioning: the verdict is remembered. However many ask, a server is asked once; the child that survived
/// the question is used.
#[tokio::test]
async fn a_server_is_asked_for_its_era_once() {
    let proxy = Proxy::start(legacy()).await;
    let together = (0..10).map(|_| async { assert_described(discover(&proxy).await).await });
    futures_util::future::join_all(together).await;
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
    let stats = Client::Modern(proxy.url.clone()).stats().await;
    assert_eq!(
        stats["requests"],
        json!({ "server/discover": 1, "initialize": 1, "tools/list": 1, "tools/call": 1 }),
        "{stats}"
    );
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0, "it is the child that was asked");

    let proxy = Proxy::start(modern()).await;
    let together = (0..10).map(|_| async { discover(&proxy).await.answer().ok().await });
    let answers = futures_util::future::join_all(together).await;
    assert!(answers.iter().all(|answer| answer["result"]["supportedVersions"] == json!([MODERN])), "{answers:?}");
    let client = proxy.client(Era::Modern).await;
    let stats = client.stats().await;
    assert_eq!(stats["requests"]["server/discover"], 11, "one question of the proxy, ten of the clients: {stats}");
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0, "and all share one process");
}

/// 2026-07-28, Versioning: a modern server that was started again is asked again; whoever was using it goes on.
#[tokio::test]
async fn a_restarted_server_is_asked_again() {
    let proxy = Proxy::start(modern()).await;
    let client = proxy.client(Era::Modern).await;
    let pid = client.pid().await;
    let exit = client.call("exit", json!({})).await;
    assert_ours(&exit, -31003);
    let (again, stats) = (client.pid().await, client.stats().await);
    assert_ne!(pid, again);
    assert_eq!(stats["requests"]["server/discover"], 1);
    assert!(!alive(pid));
}

/// 2026-07-28, Versioning: only what a modern server alone says is evidence; any other error means a handshake.
#[tokio::test]
async fn only_positive_evidence_makes_a_server_modern() {
    let answer = |body: &str| format!(r#"{{"jsonrpc":"2.0","id":1,{body}}}"#);
    let rows = [
        (r#""error":{"code":-32602,"message":"Invalid params"}"#, false),
        (r#""error":{"code":-32000,"message":"Server not initialized"}"#, false),
        (r#""error":{"code":-32001,"message":"?"}"#, false),
        (r#""result":{}"#, false),
        (r#""result":{"supportedVersions":["2025-11-25"]}"#, false),
        (
            r#""error":{"code":-32022,"message":"?","data":{"supported":["2025-11-25"],"requested":"2026-07-28"}}"#,
            false,
        ),
        (r#""error":{"code":-32022,"message":"?","data":{"supported":["2026-07-28"],"requested":"x"}}"#, true),
    ];
    for (body, is_modern) in rows {
        // The proxy's first id on a connection is 1; what the fake itself answers then comes too late.
        let server = if is_modern { modern() } else { legacy() };
        let script = server
            .fault(On::method("server/discover").nth(1), Do::Print { text: answer(body), times: 1, newline: true });
        let proxy = Proxy::start(script).await;
        if is_modern {
            assert_eq!(
                text(&proxy.client(Era::Modern).await.call("echo", json!({ "text": "x" })).await),
                "x",
                "{body}"
            );
        } else {
            assert_described(discover(&proxy).await).await;
            assert_eq!(
                text(&proxy.client(Era::Legacy).await.call("echo", json!({ "text": "x" })).await),
                "x",
                "{body}"
            );
        }
    }
}

/// The era can be said instead of asked: then no server is asked anything.
#[tokio::test]
async fn an_era_that_is_configured_is_not_asked_for() {
    let proxy = Proxy::with(Script::default(), |settings| settings.upstreams[0].era = EraChoice::Legacy).await;
    assert_described(discover(&proxy).await).await;
    let stats = Client::Modern(proxy.url.clone()).stats().await;
    assert_eq!(stats["requests"].get("server/discover"), None, "{stats}");
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
    assert_eq!(proxy.client(Era::Legacy).await.stats().await["requests"].get("server/discover"), None);

    for isolation in [Isolation::Session, Isolation::Principal, Isolation::Request] {
        let configured = |settings: &mut Settings| {
            let upstream = &mut settings.upstreams[0];
            (upstream.era, upstream.isolation, upstream.warm_spares) = (EraChoice::Modern, isolation, 1);
            upstream.reuse = Reuse::usual(isolation);
        };
        let proxy = Proxy::with(modern(), configured).await;
        let call = |tool| Modern::call(tool, json!({ "text": "x" })).header("Authorization", Some("Bearer ada"));
        assert_eq!(text(&call("echo").post(&proxy.url).ok().await.answer().ok().await), "x", "{isolation:?}");
        let stats = call("stats").post(&proxy.url).ok().await.answer().ok().await;
        let stats: Value = serde_json::from_str(text(&stats)).unwrap();
        assert_eq!(stats["requests"], json!({ "tools/call": 2, "tools/list": 1 }), "{isolation:?}: {stats}");
        assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0, "{isolation:?}");
    }
}

/// 2026-07-28, stdio › Backward Compatibility: silence says little. A server that was too slow to answer is taken to have a
/// handshake; when it refuses one, it is asked again, and waited for. Whoever comes first, for whatever, gets it.
#[tokio::test]
async fn a_server_that_was_too_slow_to_say_its_era_is_asked_again() {
    let slow = || modern().fault(On::method("server/discover").nth(1), Do::Delay { ms: 700 });
    for isolation in [Isolation::Session, Isolation::Request, Isolation::Shared] {
        let hasty = |settings: &mut Settings| {
            settings.timeouts.probe = std::time::Duration::from_millis(50);
            (settings.upstreams[0].isolation, settings.upstreams[0].reuse) = (isolation, Reuse::usual(isolation));
        };
        let called = async |proxy: &Proxy| {
            let called = Modern::call("echo", json!({ "text": "x" })).post(&proxy.url).ok().await;
            assert_eq!(text(&called.answer().ok().await), "x", "{isolation:?}");
        };
        let proxy = Proxy::with(slow(), hasty).await;
        called(&proxy).await;
        called(&proxy).await;

        let proxy = Proxy::with(slow(), hasty).await;
        let described = discover(&proxy).await.answer().ok().await;
        assert_eq!(described["result"]["supportedVersions"], json!([MODERN]), "{isolation:?} {described}");

        let proxy = Proxy::with(slow(), hasty).await;
        let listen = Modern::new("subscriptions/listen").param("notifications", json!({ "toolsListChanged": true }));
        let mut stream = listen.post(&proxy.url).ok().await;
        let first = stream.message().ok().await.unwrap();
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{isolation:?} {first}");

        let proxy = Proxy::with(slow(), hasty).await;
        let session = Client::Legacy(proxy.session().await);
        assert_eq!(text(&session.call("echo", json!({ "text": "x" })).await), "x", "{isolation:?}");
        called(&proxy).await;
    }
}

/// 2026-07-28, Versioning: a verdict is about the server that gave it. With one of the other era in its place clients get what they
/// ask for, at the latest when they ask again.
#[tokio::test]
async fn a_server_that_another_took_the_place_of_is_asked_again() {
    let quick = |settings: &mut Settings| settings.timeouts.probe = std::time::Duration::from_millis(300);
    let discovers = [Discover::Error, Discover::Silence, Discover::Exit].map(surprised);
    for other in discovers {
        let proxy = Proxy::with(modern(), quick).await;
        let client = proxy.client(Era::Modern).await;
        client.call("echo", json!({ "text": "x" })).await;
        proxy.play(&other);
        assert_ours(&client.call("exit", json!({})).await, -31003);
        let called = async || client.call("echo", json!({ "text": "x" })).await;
        until("it is found out", called, |answer| answer["result"]["content"][0]["text"] == "x").await;
        let session = Client::Legacy(proxy.session().await);
        assert_eq!(text(&session.call("echo", json!({ "text": "x" })).await), "x", "{other:?}");
    }
    for from_start in [Discover::Error, Discover::Silence].map(surprised) {
        let proxy = Proxy::with(from_start, quick).await;
        let client = proxy.client(Era::Modern).await;
        client.call("echo", json!({ "text": "x" })).await;
        proxy.play(&modern());
        assert_ours(&client.call("exit", json!({})).await, -31003);
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    }
}

/// A server that refuses all handshakes, and says that it has one, is not asked for its era with each request.
#[tokio::test]
async fn a_server_that_refuses_handshakes_is_not_asked_each_time() {
    // One of these is the proxy's name for the handshake; what the fake itself answers then comes too late.
    let refusal = |id| format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32000,"message":"Not today"}}}}"#);
    let print = Do::Print { text: [1, 2].map(refusal).join("\n"), times: 1, newline: true };
    let proxy = Proxy::start(legacy().fault(On::method("initialize"), print)).await;
    for _ in 0..5 {
        let refused = Modern::call("echo", json!({})).post(&proxy.url).ok().await.json().ok().await;
        assert_eq!(refused["error"]["data"]["reason"], "handshake_refused", "{refused}");
    }
    // One was asked in the first place, and once more; the others were shown handshakes.
    assert!(proxy.metric("shadowcat_child_starts_total", &[]).await <= 8.0);
}
