//! Sessions whose server dies: what their clients are told, and how they go on.

use futures_util::future::join_all;
use serde_json::{Value, json};
use shadowcat::settings::{Isolation, OnCrash, Reuse, Settings};
use shadowcat::testing::client::Response;
use shadowcat::testing::{Do, On, Script};

use crate::common::*;
use crate::support::*;

const HELLO: &str = "shadowcat://demo/hello.txt";
const DOT: &str = "shadowcat://demo/dot.png";

async fn subscribe(client: &Client, uri: &str) {
    assert_eq!(request(client, "resources/subscribe", json!({ "uri": uri })).await["result"], json!({}));
}

async fn restarts(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric("shadowcat_session_restarts_total", &[result]).await.abs()
}

/// What a client hears when its server is another one: everything that can change may have changed, and so may this resource
/// that it has subscribed to.
async fn hears_that_all_has_changed(stream: &mut Response, subscribed: Option<&str>) {
    if let Some(uri) = subscribed {
        let updated = next(stream).await.unwrap().json();
        assert_eq!(
            (&updated["method"], &updated["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(uri))
        );
    }
    for kind in ["tools", "prompts", "resources"] {
        assert_eq!(hears(stream).await, format!("notifications/{kind}/list_changed"));
    }
}

/// Isolation, `on_crash`: killed between two requests: the next one is served by a new process, which has been told what the
/// session had set, and the client hears on its stream that everything may have changed. Again and again.
#[tokio::test]
async fn a_session_goes_on_with_a_new_process() {
    let proxy = isolated(Isolation::Session, legacy(), plain).await;
    let client = open(&proxy).await;
    let mut stream = session(&client).stream(None).ok().await;
    request(&client, "logging/setLevel", json!({ "level": "info" })).await;
    request(&client, "logging/setLevel", json!({ "level": "error" })).await;
    subscribe(&client, HELLO).await;
    subscribe(&client, DOT).await;
    request(&client, "resources/unsubscribe", json!({ "uri": DOT })).await;
    let mut pids = vec![client.pid().await];
    for round in 1..=4_u32 {
        kill_and_wait(&proxy, *pids.last().unwrap()).await;
        let pid = client.pid().await;
        assert!(!pids.contains(&pid), "{pids:?}");
        pids.push(pid);
        let stats = client.stats().await;
        assert_eq!((&stats["client"]["level"], &stats["client"]["subscriptions"]), (&json!("error"), &json!([HELLO])));
        assert_eq!(stats["client"]["capabilities"], rootless(), "the client's own handshake");
        assert_eq!(stats["notifications"], json!({ "notifications/initialized": 1 }), "{stats}");
        hears_that_all_has_changed(&mut stream, Some(HELLO)).await;
        assert_eq!(restarts(&proxy, "ok").await, f64::from(round));
    }
    assert_eq!(text(&client.call("touch", json!({ "uri": HELLO })).await), "told 1");
    assert_eq!(hears(&mut stream).await, "notifications/resources/updated");
    rests_with(&proxy, 0, 1).await;
    end(client).await;
    proxy.close().await;
}

/// C-LIFE, isolation, `on_crash`: killed in the middle of requests: each ends in one error, which says whether it may be repeated;
/// then the session goes on.
#[tokio::test]
async fn requests_under_way_are_told_and_the_session_goes_on() {
    for isolation in [Isolation::Session, Isolation::Shared, Isolation::Request] {
        let hangs = || Script::fault(legacy(), On::method("prompts/list"), Do::Hang).fault(On::tool("echo"), Do::Hang);
        let proxy = isolated(isolation, hangs(), plain).await;
        let clients = join_all((0..3).map(|_| open(&proxy))).await;
        let calls = clients.iter().map(async |client| {
            tokio::join!(
                async { messages(client.begin("\"e\"", None, "echo", json!({ "text": "x" })).await).await },
                request(client, "prompts/list", json!({})),
            )
        });
        let kill_all = async {
            until("all are under way", async || books(&proxy).await, |books| books.in_flight == 6.0).await;
            if isolation == Isolation::Request {
                until("each on its own", async || books(&proxy).await, |books| books.leased == 6.0).await;
            } else {
                for client in &clients {
                    client.until_stats("/tools/echo", if isolation == Isolation::Shared { 3 } else { 1 }).await;
                    let lists = if isolation == Isolation::Shared { 3 } else { 1 };
                    client.until_stats("/requests/prompts~1list", lists).await;
                }
            }
            proxy.play(&legacy());
            let old = proxy.processes();
            old.iter().copied().for_each(kill);
            old
        };
        let (answers, old) = tokio::join!(join_all(calls), kill_all);
        for (call, list) in answers {
            assert_eq!(call.len(), 1, "{isolation:?}: {call:?}");
            if isolation != Isolation::Request {
                assert_ours(&call[0], -31003);
                assert_eq!(call[0]["error"]["data"]["retryable"], false);
            }
            assert_eq!(call[0]["error"]["data"]["origin"], "proxy", "{call:?}");
            assert_ours(&list, -31002);
            assert_eq!(list["error"]["data"]["retryable"], true);
        }
        for client in &clients {
            assert_eq!(text(&client.call("echo", json!({ "text": "on" })).await), "on", "{isolation:?}");
            assert!(!old.contains(&client.pid().await));
        }
        let stats = clients[0].stats().await;
        assert_eq!(stats["requests"].get("prompts/list"), None, "{isolation:?}: nothing is sent twice: {stats}");
        let books = at_rest(&proxy).await;
        assert!(books.children <= 3.0, "{books:?}");
        proxy.close().await;
    }
}

/// Isolation `shared`: every session goes on with the same new process, which is told of the subscriptions of all who came
/// back, and each of them hears that everything may have changed.
#[tokio::test]
async fn all_sessions_of_a_shared_process_go_on_with_its_successor() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let clients = join_all((0..4).map(|_| open(&proxy))).await;
    let mut streams = join_all(clients.iter().map(async |client| session(client).stream(None).ok().await)).await;
    for (client, uri) in clients.iter().zip([HELLO, HELLO, DOT]) {
        subscribe(client, uri).await;
    }
    let mut old = clients[0].pid().await;
    for round in 1..=2_u32 {
        kill_and_wait(&proxy, old).await;
        // All at once.
        let pids = join_all(clients.iter().map(Client::pid)).await;
        assert!(pids.iter().all(|pid| *pid == pids[0] && *pid != old), "{old} {pids:?}");
        old = pids[0];
        for (stream, uri) in streams.iter_mut().zip([Some(HELLO), Some(HELLO), Some(DOT), None]) {
            hears_that_all_has_changed(stream, uri).await;
        }
        let stats = clients[3].stats().await;
        assert_eq!(stats["client"]["subscriptions"], json!([DOT, HELLO]));
        assert_eq!(
            (&stats["requests"]["initialize"], &stats["notifications"]["notifications/initialized"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(restarts(&proxy, "ok").await, f64::from(4 * round));
        clients[3].call("touch", json!({ "uri": HELLO })).await;
        clients[3].call("touch", json!({ "uri": DOT })).await;
        for (stream, uri) in streams.iter_mut().zip([HELLO, HELLO, DOT]) {
            assert_eq!(next(stream).await.unwrap().json()["params"]["uri"], uri);
        }
        rests_with(&proxy, 0, 1).await;
    }
    // Reference counts are right on the new one.
    request(&clients[0], "resources/unsubscribe", json!({ "uri": HELLO })).await;
    assert_eq!(clients[3].stats().await["client"]["subscriptions"], json!([DOT, HELLO]));
    request(&clients[1], "resources/unsubscribe", json!({ "uri": HELLO })).await;
    assert_eq!(clients[3].stats().await["client"]["subscriptions"], json!([DOT]));
}

/// However many requests find the connection lost, one of them makes another.
#[tokio::test]
async fn many_requests_make_one_new_connection() {
    let proxy = isolated(Isolation::Session, legacy(), plain).await;
    let client = open(&proxy).await;
    kill_and_wait(&proxy, client.pid().await).await;
    let calls = (0..20).map(async |n: u32| {
        let answer = client.begin(&n.to_string(), None, "pid", json!({})).await.answer().ok().await;
        assert_eq!(answer["id"], n);
        serde_json::from_str::<Value>(text(&answer)).unwrap()["pid"].clone()
    });
    let pids = join_all(calls).await;
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 2.0);
    assert_eq!(restarts(&proxy, "ok").await, 1.0);
}

/// Isolation, `on_crash = "end-session"`: a session ends with its process: 404.
#[tokio::test]
async fn a_session_can_be_made_to_end_with_its_process() {
    for isolation in [Isolation::Session, Isolation::Shared] {
        let change = |settings: &mut Settings| settings.upstreams[0].on_crash = OnCrash::EndSession;
        let proxy = isolated(isolation, legacy(), change).await;
        let (client, other) = (open(&proxy).await, open(&proxy).await);
        let mut stream = session(&client).stream(None).ok().await;
        let pid = client.pid().await;
        kill_and_wait(&proxy, pid).await;
        assert_eq!(session(&client).call("echo", json!({ "text": "x" })).ok().await.status, 404, "{isolation:?}");
        assert!(rest(&mut stream).await.is_empty(), "{isolation:?}: its stream ends");
        let status = session(&other).call("echo", json!({ "text": "x" })).ok().await.status;
        assert_eq!(status, if isolation == Isolation::Shared { 404 } else { 200 }, "{isolation:?}");
        assert_eq!(text(&open(&proxy).await.call("echo", json!({ "text": "new" })).await), "new");
    }
}

/// 2025-11-25, Lifecycle: a server that came back as another one, with another revision, other capabilities, or without a
/// handshake, is not the one that the client has negotiated with: the session ends, and the client can begin another.
#[tokio::test]
async fn a_session_ends_when_its_server_came_back_as_another() {
    let mut poorer = legacy();
    poorer.capabilities = json!({ "tools": {} }).as_object().cloned();
    let others = [
        ("another revision", Script { newest_legacy: "2025-06-18".into(), ..legacy() }),
        ("other capabilities", poorer),
        ("no handshake", modern()),
    ];
    for isolation in [Isolation::Session, Isolation::Shared, Isolation::Request] {
        for (what, script) in &others {
            let proxy = isolated(isolation, legacy(), plain).await;
            let client = open(&proxy).await;
            let pid = client.pid().await;
            proxy.play(script);
            kill_and_wait(&proxy, pid).await;
            for _ in 0..2 {
                let status = session(&client).call("echo", json!({ "text": "x" })).ok().await.status;
                assert_eq!(status, 404, "{isolation:?}, {what}");
            }
            proxy.until_metric("shadowcat_sessions", &[], 0.0).await;
            if *what != "no handshake" {
                assert_eq!(text(&open(&proxy).await.call("echo", json!({ "text": "new" })).await), "new");
            }
            proxy.close().await;
        }
    }
}

/// 2026-07-28, Versioning: a server that has shown that it is modern, and then dies or keeps silent when it is asked again, has
/// not become one with a handshake: its clients get an error that they may repeat, and are served as soon as it is back.
#[tokio::test]
async fn a_modern_server_that_dies_of_the_question_stays_modern() {
    let change = |settings: &mut Settings| settings.timeouts.probe = ms(300);
    for isolation in [Isolation::Session, Isolation::Request] {
        for fault in [Do::Exit { code: 1, when: Default::default() }, Do::Hang] {
            let proxy = isolated(isolation, modern(), change).await;
            let client = proxy.client(Era::Modern).await;
            let pid = client.pid().await;
            proxy.play(&modern().fault(On::method("server/discover"), fault.clone()));
            kill_and_wait(&proxy, pid).await;
            let response = modern_call(&proxy, None, "echo", json!({ "text": "x" })).await;
            if isolation == Isolation::Session {
                assert_eq!(response.status, 200, "{fault:?}: 400 would be news about the era");
                let answer = response.answer().ok().await;
                assert_eq!(answer["error"]["data"]["retryable"], true, "{fault:?}: {answer}");
                proxy.play(&modern());
            }
            assert_eq!(text(&client.call("echo", json!({ "text": "back" })).await), "back", "{isolation:?} {fault:?}");
        }
    }
}

/// C-POOL-10: an unused connection whose process was killed is not handed out; nobody notices.
#[tokio::test]
async fn an_idle_process_that_was_killed_is_not_used() {
    for isolation in [Isolation::Session, Isolation::Request] {
        let proxy = isolated(isolation, legacy(), |settings| settings.upstreams[0].reuse = Reuse::Any).await;
        let client = open(&proxy).await;
        let mut pid = client.pid().await;
        if isolation == Isolation::Session {
            end(client).await;
        }
        for _ in 0..5 {
            rests_with(&proxy, 1, 0).await;
            kill_and_wait(&proxy, pid).await;
            let next = open(&proxy).await;
            let another = next.pid().await;
            assert_ne!(another, pid, "{isolation:?}");
            pid = another;
            end(next).await;
        }
        rests_with(&proxy, 1, 0).await;
    }
}

/// Isolation, `on_crash`: a client that only listens hears of its server's end when it asks for something again; until then its
/// stream stays.
#[tokio::test]
async fn a_listener_keeps_its_stream() {
    let proxy = isolated(Isolation::Session, legacy(), plain).await;
    let client = open(&proxy).await;
    let mut stream = session(&client).stream(None).ok().await;
    kill_and_wait(&proxy, client.pid().await).await;
    for message in [notification("notifications/roots/list_changed", json!({})), cancelled(json!(1))] {
        assert_eq!(session(&client).send(&message).ok().await.status, 202, "to nobody");
    }
    assert_eq!(request(&client, "ping", json!({})).await["result"], json!({}));
    client.pid().await;
    hears_that_all_has_changed(&mut stream, None).await;
}

/// C-LIFE: when no new connection can be had, all who wait for it are told of that one failure: not one after the other, each
/// after a time of its own.
#[tokio::test]
async fn all_who_wait_for_a_new_connection_are_told_together() {
    let quick = |settings: &mut Settings| settings.timeouts.start = ms(1500);
    let proxy = isolated(Isolation::Session, legacy(), quick).await;
    let client = open(&proxy).await;
    let pid = client.pid().await;
    proxy.play(&legacy().fault(On::method("initialize"), Do::Hang));
    kill_and_wait(&proxy, pid).await;
    let ids: Vec<String> = (1..=10).map(|id| id.to_string()).collect();
    let calls = ids.iter().map(async |id| {
        let answer = client.begin(id, None, "echo", json!({ "text": "x" })).await.answer().ok().await;
        assert_eq!(reason(&answer), "timeout", "{answer}");
    });
    join_all(calls).await;
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 2.0);
}

/// Isolation, `on_crash`: what has to be restored is restored before anything else is sent, also if the request that first
/// needed it is taken back meanwhile.
#[tokio::test]
async fn what_is_restored_does_not_depend_on_who_waits_for_it() {
    let proxy = isolated(Isolation::Session, legacy(), plain).await;
    let client = open(&proxy).await;
    request(&client, "logging/setLevel", json!({ "level": "error" })).await;
    let pid = client.pid().await;
    proxy.play(&legacy().fault(On::method("logging/setLevel"), Do::Delay { ms: 1500 }));
    kill_and_wait(&proxy, pid).await;
    let (taken_back, stats) = tokio::join!(client.begin("1", None, "count", json!({ "key": "k" })), async {
        // The handshake is made, the log level is being set.
        until("it is made", async || books(&proxy).await, |books| books.leased == 1.0).await;
        session(&client).send(&cancelled(json!(1))).ok().await;
        client.stats().await
    });
    assert_eq!(taken_back.text().ok().await, "");
    assert_eq!((&stats["client"]["level"], stats["tools"].get("count")), (&json!("error"), None), "{stats}");
}
