//! Isolation `shared`: all sessions are one client to one server, and nothing of one is seen by another.

use futures_util::future::join_all;
use serde_json::{Value, json};
use shadowcat::settings::{Isolation, Settings};
use shadowcat::testing::client::{LegacySession, Response};
use shadowcat::testing::{Do, On};

use crate::common::*;
use crate::support::*;

const HELLO: &str = "shadowcat://demo/hello.txt";
const DOT: &str = "shadowcat://demo/dot.png";

async fn listening(client: &Client) -> Response {
    session(client).stream(None).ok().await
}

async fn resource(client: &Client, what: &str, uri: &str) {
    let answer = request(client, &format!("resources/{what}"), json!({ "uri": uri })).await;
    assert_eq!(answer["result"], json!({}), "{what} {uri}: {answer}");
}

async fn touch(client: &Client, uri: &str) {
    assert_eq!(text(&client.call("touch", json!({ "uri": uri })).await), "told 1");
}

/// Invariant of ownership: clients that all use the same id and the same token at the same time hear what is theirs, on
/// one process that was greeted once, by the proxy.
#[tokio::test]
async fn one_process_serves_all_and_nothing_crosses() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let clients = join_all((0..8).map(|_| open(&proxy))).await;
    let calls = clients.iter().zip(2..).map(async |(client, steps): (&Client, usize)| {
        for round in 0..3 {
            let arguments = json!({ "steps": steps, "delay_ms": 3 });
            let heard = messages(client.begin("1", Some("\"t\""), "progress", arguments).await).await;
            assert_eq!(heard.len(), steps + 1, "{heard:?}");
            for (step, message) in heard[..steps].iter().enumerate() {
                let params = &message["params"];
                assert_eq!(
                    (&params["progressToken"], &params["progress"]),
                    (&json!("t"), &json!(step + 1)),
                    "{message}"
                );
                assert_eq!(params["total"], steps, "{message}");
            }
            assert_eq!((text(&heard[steps]), &heard[steps]["id"]), (format!("did {steps} steps").as_str(), &json!(1)));
            let said = format!("{steps} {round}");
            assert_eq!(text(&client.call("echo", json!({ "text": said })).await), said);
        }
        client.pid().await
    });
    let pids = join_all(calls).await;
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    let stats = clients[0].stats().await;
    assert_eq!(stats["requests"]["initialize"], 1);
    assert_eq!(stats["notifications"], json!({ "notifications/initialized": 1 }));
    assert_eq!(stats["client"]["capabilities"], json!({}), "it can ask nobody anything");
    rests_with(&proxy, 0, 1).await;
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
    for client in clients {
        end(client).await;
    }
    proxy.close().await;
    assert!(!alive(pids[0]));
}

/// 2025-11-25, Tools › List Changed Notification: everybody hears that a list has changed.
#[tokio::test]
async fn everybody_hears_of_changed_lists() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let clients = join_all((0..3).map(|_| open(&proxy))).await;
    let mut streams = join_all(clients.iter().map(listening)).await;
    for kind in ["tools", "prompts", "resources"] {
        assert_eq!(text(&clients[1].call("change", json!({ "kind": kind })).await), "told 1");
        for stream in &mut streams {
            assert_eq!(hears(stream).await, format!("notifications/{kind}/list_changed"));
        }
    }
}

/// 2025-11-25, Resources › Subscriptions: an update is for those who subscribed; the server's own subscription lasts as long
/// as anybody's, and ends with the last of them, be it by the end of a session.
#[tokio::test]
async fn updates_are_for_those_who_subscribed() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let (ada, bob, cid) = (open(&proxy).await, open(&proxy).await, open(&proxy).await);
    let mut streams = [listening(&ada).await, listening(&bob).await, listening(&cid).await];
    resource(&ada, "subscribe", HELLO).await;
    resource(&bob, "subscribe", HELLO).await;
    resource(&cid, "subscribe", DOT).await;
    touch(&cid, HELLO).await;
    touch(&cid, DOT).await;
    for (stream, uri) in streams.iter_mut().zip([HELLO, HELLO, DOT]) {
        let heard = next(stream).await.unwrap().json();
        assert_eq!(
            (heard["method"].as_str(), heard["params"]["uri"].as_str()),
            (Some("notifications/resources/updated"), Some(uri))
        );
    }
    // One gives it up: the other still hears, and the server notices nothing.
    resource(&ada, "unsubscribe", HELLO).await;
    assert_eq!(cid.stats().await["requests"].get("resources/unsubscribe"), None);
    touch(&cid, HELLO).await;
    assert_eq!(hears(&mut streams[1]).await, "notifications/resources/updated");
    cid.call("change", json!({ "kind": "tools" })).await;
    for stream in &mut streams {
        assert_eq!(hears(stream).await, "notifications/tools/list_changed", "and nothing else in between");
    }
    // Its last holder goes without a word.
    end(bob).await;
    let subscriptions = async || cid.stats().await["client"]["subscriptions"].clone();
    until("the server is told", subscriptions, |seen| *seen == json!([DOT])).await;
    resource(&cid, "unsubscribe", DOT).await;
    assert_eq!(subscriptions().await, json!([]));
    assert_eq!(cid.stats().await["requests"]["resources/unsubscribe"], 2);
    // To give up what one does not have changes nothing for others.
    resource(&cid, "subscribe", DOT).await;
    resource(&ada, "unsubscribe", DOT).await;
    assert_eq!(subscriptions().await, json!([DOT]));
}

/// 2025-11-25, Resources › Subscriptions: a server may tell of a part of what was subscribed to.
#[tokio::test]
async fn an_update_of_a_part_is_for_those_who_subscribed_to_the_whole() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let (ada, bob) = (open(&proxy).await, open(&proxy).await);
    let mut streams = [listening(&ada).await, listening(&bob).await];
    resource(&ada, "subscribe", "shadowcat://demo/folder").await;
    resource(&bob, "subscribe", "shadowcat://demo/fold").await;
    let updated =
        json!({ "method": "notifications/resources/updated", "params": { "uri": "shadowcat://demo/folder/file" } });
    bob.call("notify", updated).await;
    bob.call("change", json!({ "kind": "tools" })).await;
    assert_eq!(hears(&mut streams[0]).await, "notifications/resources/updated");
    assert_eq!(hears(&mut streams[1]).await, "notifications/tools/list_changed");
}

/// The same where one gives up, or goes, while the other's subscription is under way: the other keeps it.
#[tokio::test]
async fn a_subscription_under_way_is_not_ended_by_another() {
    for goes in [false, true] {
        let slow = On::method("resources/subscribe").nth(2);
        let proxy = isolated(Isolation::Shared, legacy().fault(slow, Do::Late { ms: 400 }), plain).await;
        let (ada, bob, cid) = (open(&proxy).await, open(&proxy).await, open(&proxy).await);
        let mut stream = listening(&bob).await;
        resource(&ada, "subscribe", HELLO).await;
        tokio::join!(resource(&bob, "subscribe", HELLO), async {
            cid.until_stats("/requests/resources~1subscribe", 2).await;
            if goes {
                end(ada).await;
            } else {
                resource(&ada, "unsubscribe", HELLO).await;
            }
        });
        touch(&cid, HELLO).await;
        assert_eq!(hears(&mut stream).await, "notifications/resources/updated", "{goes}");
        assert_eq!(cid.stats().await["client"]["subscriptions"], json!([HELLO]));
    }
}

/// The other way round: one subscribes while the end of the last subscription is under way: the server learns of the end first,
/// however slow it is.
#[tokio::test]
async fn a_subscription_is_not_overtaken_by_the_end_of_another() {
    for goes in [false, true] {
        let slow = On::method("resources/unsubscribe").nth(1);
        let proxy = isolated(Isolation::Shared, legacy().fault(slow, Do::Delay { ms: 400 }), plain).await;
        let (ada, bob, cid) = (open(&proxy).await, open(&proxy).await, open(&proxy).await);
        let mut stream = listening(&bob).await;
        resource(&ada, "subscribe", HELLO).await;
        let ends = async {
            if goes {
                end(ada).await;
            } else {
                resource(&ada, "unsubscribe", HELLO).await;
            }
        };
        tokio::join!(ends, async {
            cid.until_stats("/requests/resources~1unsubscribe", 1).await;
            resource(&bob, "subscribe", HELLO).await;
        });
        assert_eq!(cid.stats().await["client"]["subscriptions"], json!([HELLO]), "{goes}");
        touch(&cid, HELLO).await;
        assert_eq!(hears(&mut stream).await, "notifications/resources/updated", "{goes}");
    }
}

/// 2025-11-25, Logging: a log message does not say which client it is for, so it is for none.
#[tokio::test]
async fn log_messages_reach_nobody() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let (ada, bob) = (open(&proxy).await, open(&proxy).await);
    let mut streams = [listening(&ada).await, listening(&bob).await];
    let heard = messages(ada.begin("1", None, "log", json!({ "level": "error", "text": "secret" })).await).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(text(&heard[0]), "logged");
    ada.call("change", json!({ "kind": "tools" })).await;
    for stream in &mut streams {
        assert_eq!(hears(stream).await, "notifications/tools/list_changed");
    }
    assert_eq!(proxy.metric("shadowcat_dropped_total", &[]).await, 1.0);
}

/// 2025-11-25, Logging, Tasks: what cannot be kept apart is not offered, and refused with a reason.
#[tokio::test]
async fn what_cannot_be_kept_apart_is_refused() {
    let mut script = legacy();
    let all = json!({ "tools": { "listChanged": true }, "logging": {}, "tasks": { "list": {} }, "resources": { "subscribe": true } });
    script.capabilities = all.as_object().cloned();
    let proxy = isolated(Isolation::Shared, script, plain).await;
    let client = open(&proxy).await;
    let offered = &session(&client).initialized["capabilities"];
    assert_eq!(*offered, json!({ "tools": { "listChanged": true }, "resources": { "subscribe": true } }));
    let task = json!({ "taskId": "1" });
    let rows = [
        ("logging/setLevel", json!({ "level": "info" })),
        ("tasks/list", json!({})),
        ("tasks/get", task.clone()),
        ("tasks/result", task.clone()),
        ("tasks/cancel", task),
        ("tools/call", json!({ "name": "echo", "arguments": { "text": "x" }, "task": {} })),
    ];
    for (method, params) in rows {
        let answer = request(&client, method, params).await;
        assert_ours(&answer, -32601);
        assert_eq!(reason(&answer), "isolation", "{method}");
    }
    assert_eq!(client.stats().await["requests"], json!({ "initialize": 1, "tools/call": 1 }));
}

/// 2025-11-25, Sampling, Elicitation, Roots: a server that asks all the same is told that nobody can be asked, and its call
/// goes on; no client hears of it.
#[tokio::test]
async fn questions_of_the_server_are_refused() {
    let ask = |id: u64, method: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{}}}}"#);
    let questions = ["sampling/createMessage", "elicitation/create", "roots/list"];
    let lines: Vec<String> = questions.iter().zip(1..).map(|(method, id)| ask(id, method)).collect();
    let print = Do::Print { text: lines.join("\n"), times: 1, newline: true };
    let proxy = isolated(Isolation::Shared, legacy().fault(On::tool("echo"), print), plain).await;
    let (ada, bob) = (open(&proxy).await, open(&proxy).await);
    let mut stream = listening(&bob).await;
    let heard = messages(ada.begin("1", None, "echo", json!({ "text": "x" })).await).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    ada.until_stats("/answers", 3).await;
    for tool in ["ask", "sample", "roots"] {
        assert_eq!(
            ada.call(tool, json!({})).await["result"]["isError"],
            true,
            "{tool}: it knows of no such capability"
        );
    }
    ada.call("change", json!({ "kind": "tools" })).await;
    assert_eq!(hears(&mut stream).await, "notifications/tools/list_changed");
}

/// 2025-11-25, Cancellation: a client cancels its own request, also where others have one of the same id.
#[tokio::test]
async fn a_cancellation_ends_ones_own_request_only() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let (ada, bob, cid) = (open(&proxy).await, open(&proxy).await, open(&proxy).await);
    let sleep = json!({ "ms": 600_000 });
    let (cancelled_one, other, ()) =
        tokio::join!(ada.begin("1", None, "sleep", sleep.clone()), bob.begin("1", None, "sleep", sleep), async {
            cid.until_stats("/tools/sleep", 2).await;
            assert_eq!(session(&ada).send(&cancelled(json!(1))).ok().await.status, 202);
            cid.until_stats("/cancelled", 1).await;
            // Unknown to whoever did not ask.
            assert_eq!(session(&cid).send(&cancelled(json!(1))).ok().await.status, 202);
            assert_eq!(text(&cid.call("echo", json!({ "text": "x" })).await), "x");
            assert_eq!(cid.stats().await["cancellations"], 1);
            session(&bob).send(&cancelled(json!(1))).ok().await;
            cid.until_stats("/cancelled", 2).await;
        },);
    for response in [cancelled_one, other] {
        assert!(!response.text().ok().await.contains("\"id\":1"), "no answer");
    }
    assert_eq!(text(&ada.begin("1", None, "echo", json!({ "text": "on" })).await.answer().ok().await), "on");
}

/// 2025-11-25, Cancellation: what a session had under way when it ended is cancelled; the process, which others use, would
/// work on it for nobody.
#[tokio::test]
async fn the_end_of_a_session_cancels_its_requests() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let (ada, bob) = (open(&proxy).await, open(&proxy).await);
    let (slept, ()) = tokio::join!(ada.call("sleep", json!({ "ms": 600_000 })), async {
        bob.until_stats("/tools/sleep", 1).await;
        assert_eq!(session(&ada).delete().ok().await.status, 204);
        bob.until_stats("/cancellations", 1).await;
    });
    assert_eq!(reason(&slept), "session_ended");
}

/// C-SSE-7: a client that does not read is given up in the end; until then and after it the others are served.
#[tokio::test]
async fn a_slow_client_does_not_stop_the_others() {
    // The second request on this connection, behind the handshake, reports more than sockets hold.
    let params = json!({ "progressToken": 2, "progress": 1, "message": "x".repeat(8_000) });
    let flood = Do::Print { text: notification("notifications/progress", params), times: 3_000, newline: true };
    let proxy = isolated(Isolation::Shared, legacy().fault(On::tool("echo").nth(1), flood), plain).await;
    let (slow, quick) = (open(&proxy).await, open(&proxy).await);
    let endless = slow.begin("1", Some("1"), "echo", json!({ "text": "x" })).await;
    let given_up = async || {
        assert_eq!(text(&quick.call("echo", json!({ "text": "x" })).await), "x");
        proxy.metric("shadowcat_errors_total", &["slow"]).await
    };
    until("it is given up", given_up, |seen| *seen == 1.0).await;
    quick.until_stats("/cancellations", 1).await;
    drop(endless);
    assert_eq!(text(&slow.call("echo", json!({ "text": "again" })).await), "again");
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
}

/// 2025-11-25, Lifecycle › Version Negotiation: clients of other revisions get another process, whatever else they say of
/// themselves makes no difference.
#[tokio::test]
async fn each_revision_has_a_process() {
    let proxy = isolated(Isolation::Shared, legacy(), plain).await;
    let mut pids = Vec::new();
    for revision in REVISIONS {
        let mut of_revision = Vec::new();
        for capabilities in [json!({}), everything()] {
            let session = LegacySession::open(&proxy.url, revision, capabilities).ok().await;
            assert_eq!(session.initialized["protocolVersion"], revision);
            let client = Client::Legacy(session);
            of_revision.push(client.pid().await);
            assert_eq!(client.stats().await["client"]["revision"], revision);
        }
        assert_eq!(of_revision[0], of_revision[1], "{revision}");
        assert!(!pids.contains(&of_revision[0]), "{revision}");
        pids.push(of_revision[0]);
    }
    let session = LegacySession::open(&proxy.url, "1999-12-31", json!({})).ok().await;
    assert_eq!(Client::Legacy(session).pid().await, pids[3], "who asks for what nobody knows gets the newest");
    rests_with(&proxy, 0, 4).await;
}

/// Configuration, `connection_idle`: a process that nobody has used for that long ends, also when its last client had
/// cancelled something; the next session gets a new one.
#[tokio::test]
async fn an_unused_process_ends() {
    for isolation in [Isolation::Shared, Isolation::Principal] {
        let quick = |settings: &mut Settings| settings.timeouts.connection_idle = ms(200);
        let proxy = isolated(isolation, legacy(), quick).await;
        let client = open_as(&proxy, Some("Bearer ada")).await;
        let pid = client.pid().await;
        let (cancelled_one, ()) = tokio::join!(client.begin("1", None, "sleep", json!({ "ms": 600_000 })), async {
            client.until_stats("/tools/sleep", 1).await;
            session(&client).send(&cancelled(json!(1))).ok().await;
        });
        drop(cancelled_one);
        end(client).await;
        rests_with(&proxy, 0, 0).await;
        assert!(!alive(pid));
        let next = open_as(&proxy, Some("Bearer ada")).await;
        assert_ne!(next.pid().await, pid);
    }
}

/// C-LIFE: when the server does not answer the handshake, all who wait for it are told after the time that one start may take.
#[tokio::test]
async fn all_who_wait_for_a_dead_start_are_told_together() {
    let quick = |settings: &mut Settings| {
        settings.timeouts.start = ms(700);
        settings.timeouts.acquire = ms(300);
    };
    let proxy = isolated(Isolation::Shared, legacy().fault(On::method("initialize"), Do::Hang), quick).await;
    let started = tokio::time::Instant::now();
    let opening = (0..20).map(|_| send_initialize(&proxy));
    for answer in join_all(opening).await {
        assert_eq!(answer["error"]["data"]["origin"], "proxy", "{answer}");
    }
    assert!(started.elapsed() < DEADLINE / 3, "one after the other it takes {:?}", 20 * ms(700));
    rests_with(&proxy, 0, 0).await;
}

async fn send_initialize(proxy: &Proxy) -> Value {
    let response = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
    assert_eq!(response.headers.get("mcp-session-id"), None);
    response.json().ok().await
}
