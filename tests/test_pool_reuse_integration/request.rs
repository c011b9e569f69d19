//! Isolation by request: each request leases a connection for itself, from those that are used again.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use shadowcat::settings::{Isolation, Reuse, Settings};
use shadowcat::testing::client::{LegacySession, Modern, SseSession};
use shadowcat::testing::{Do, On, Script};

use crate::common::*;
use crate::support::*;

/// C-POOL-1, C-POOL-3: with one connection, one process serves the requests of all sessions, one after the other, and is
/// greeted once.
#[tokio::test]
async fn one_process_serves_the_requests_of_all_sessions_in_turn() {
    let proxy = isolated(Isolation::Request, legacy(), one).await;
    let clients = [open(&proxy).await, open(&proxy).await, open(&proxy).await, open(&proxy).await];
    let pid = clients[0].pid().await;
    for n in 0..24 {
        let client = &clients[n % 4];
        assert_eq!(client.pid().await, pid);
        let said = format!("number {n}");
        assert_eq!(text(&client.call("echo", json!({ "text": said })).await), said);
    }
    let stats = clients[3].stats().await;
    assert_eq!((&stats["requests"]["initialize"], &stats["tools"]["echo"]), (&json!(1), &json!(24)));
    assert_eq!(stats["notifications"], json!({ "notifications/initialized": 1 }), "{stats}");
    for (labels, value) in [("cold", 1.0), ("warm", 0.0), ("reused", 53.0)] {
        assert_eq!(proxy.metric("shadowcat_pool_leases_total", &[labels]).await, value, "{labels}");
    }
    assert_eq!(proxy.metric("shadowcat_pool_creations_total", &[]).await, 1.0);
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
    for client in clients {
        end(client).await;
    }
    rests_with(&proxy, 1, 0).await;
    proxy.close().await;
    assert!(!alive(pid));
}

/// C-POOL-1; 2026-07-28, stdio: the same for requests that have no session, the one that asked for the era included.
#[tokio::test]
async fn one_process_serves_modern_requests_in_turn() {
    let proxy = isolated(Isolation::Request, modern(), one).await;
    let client = proxy.client(Era::Modern).await;
    let pid = client.pid().await;
    for n in 0..24 {
        assert_eq!(client.pid().await, pid);
        assert_eq!(text(&client.call("count", json!({ "key": "k" })).await), (n + 1).to_string());
    }
    assert_eq!(client.stats().await["requests"]["server/discover"], 1);
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
    rests_with(&proxy, 1, 0).await;
    proxy.close().await;
    assert!(!alive(pid));
}

/// C-POOL-1, invariant of ownership: many at once, over few processes. There are never more than allowed, and everybody
/// gets what is theirs: the answer under their id, the progress under their token.
#[tokio::test]
async fn many_requests_share_few_processes() {
    const ALLOWED: usize = 3;
    for era in Era::BOTH {
        let few = |settings: &mut Settings| {
            settings.upstreams[0].connections_max = ALLOWED;
            settings.timeouts.acquire = DEADLINE;
        };
        let proxy = isolated(Isolation::Request, era.server(), few).await;
        let clients: Vec<Client> = match era {
            Era::Legacy => join_all((0..6).map(|_| open(&proxy))).await,
            Era::Modern => join_all((0..6).map(|_| proxy.client(era))).await,
        };
        let calls = (0..60).map(async |n: usize| {
            let client = &clients[n % 6];
            // Ids and tokens of the sessions collide.
            let (id, token) = (format!("{}", n / 6), format!("\"t{}\"", n / 6));
            if n.is_multiple_of(3) {
                let said = format!("{era:?} {n}");
                let answer = client.begin(&id, None, "echo", json!({ "text": said })).await.answer().ok().await;
                assert_eq!((text(&answer), &answer["id"]), (said.as_str(), &json!(n / 6)));
                return None;
            }
            if n % 3 == 1 {
                let answer = client.begin(&id, None, "pid", json!({})).await.answer().ok().await;
                let process: Value = serde_json::from_str(text(&answer)).unwrap();
                return process["pid"].as_i64();
            }
            let steps = n % 5 + 2;
            let heard = messages(client.begin(&id, Some(&token), "progress", json!({ "steps": steps })).await).await;
            assert_eq!(heard.len(), steps + 1, "{heard:?}");
            for (step, message) in heard[..steps].iter().enumerate() {
                assert_eq!(message["params"]["progressToken"], format!("t{}", n / 6));
                assert_eq!(
                    (&message["params"]["progress"], &message["params"]["total"]),
                    (&json!(step + 1), &json!(steps))
                );
            }
            assert_eq!(text(&heard[steps]), format!("did {steps} steps"));
            None
        });
        let pids: BTreeSet<i64> = join_all(calls).await.into_iter().flatten().collect();
        assert!(pids.len() <= ALLOWED, "{era:?}: {pids:?}");
        assert!(proxy.metric("shadowcat_child_starts_total", &[]).await <= 3.0, "{era:?}: none was replaced");
        let books = at_rest(&proxy).await;
        assert!(books.leased == 0.0 && books.idle <= 3.0, "{era:?}: {books:?}");
        proxy.close().await;
    }
}

/// 2025-11-25, Lifecycle: clients that can do different things do not share a process, since the server has been told what
/// its client can do; and when there is room for one process only, they take turns.
#[tokio::test]
async fn clients_with_other_capabilities_get_another_process() {
    for allowed in [1, 8] {
        let proxy =
            isolated(Isolation::Request, legacy(), |settings| settings.upstreams[0].connections_max = allowed).await;
        let can = async |what: Value| Client::Legacy(LegacySession::open(&proxy.url, LEGACY, what).ok().await);
        let clients = [can(json!({})).await, can(json!({ "sampling": {} })).await, can(json!({})).await];
        let mut pids = Vec::new();
        for client in &clients {
            pids.push(client.pid().await);
        }
        assert_ne!(pids[0], pids[1]);
        assert_eq!(pids[0] == pids[2], allowed > 1);
        for (client, has) in clients.iter().zip([false, true, false]) {
            let declared = client.stats().await["client"]["capabilities"].clone();
            assert_eq!(declared.get("sampling").is_some(), has, "{declared}");
        }
        assert!(at_rest(&proxy).await.children <= f64::from(u32::try_from(allowed).unwrap()));
    }
}

/// Configuration, `reuse`: with `never` each request has a process that nobody had before and nobody has after it.
#[tokio::test]
async fn without_reuse_each_request_has_a_process_of_its_own() {
    for era in Era::BOTH {
        let never = |settings: &mut Settings| settings.upstreams[0].reuse = Reuse::Never;
        let proxy = isolated(Isolation::Request, era.server(), never).await;
        let client = match era {
            Era::Legacy => open(&proxy).await,
            Era::Modern => proxy.client(era).await,
        };
        let mut pids = BTreeSet::new();
        for _ in 0..5 {
            let pid = client.pid().await;
            assert!(pids.insert(pid), "{era:?}: {pid} was used before: {pids:?}");
            until("its process has ended", async || alive(pid), |alive| !alive).await;
        }
        rests_with(&proxy, 0, 0).await;
    }
}

/// Configuration, `reuse`: with `same-principal` a process is used again for whoever had it, never for somebody else, and
/// never for or after one who is not known.
#[tokio::test]
async fn a_process_is_used_again_for_the_same_principal_only() {
    for era in Era::BOTH {
        let same = |settings: &mut Settings| settings.upstreams[0].reuse = Reuse::SamePrincipal;
        let proxy = isolated(Isolation::Request, era.server(), same).await;
        let pid = async |who: Option<&str>| match era {
            Era::Legacy => open_as(&proxy, who).await.pid().await,
            Era::Modern => modern_pid(&proxy, who).await,
        };
        let (ada, bob) = (pid(Some("Bearer ada")).await, pid(Some("Bearer bob")).await);
        assert_ne!(ada, bob, "{era:?}");
        let nobody = [pid(None).await, pid(None).await];
        assert!(nobody[0] != nobody[1] && !nobody.contains(&ada) && !nobody.contains(&bob), "{era:?}: {nobody:?}");
        assert_eq!((pid(Some("Bearer ada")).await, pid(Some("Bearer bob")).await), (ada, bob), "{era:?}");
        until("nobody's are gone", async || alive(nobody[0]) || alive(nobody[1]), |alive| !alive).await;
    }
}

/// C-POOL-10: what a server says by itself while nobody has its connection is for nobody: not for the next one, who may
/// be somebody else.
#[tokio::test]
async fn what_was_said_between_two_requests_is_for_nobody() {
    let late = r#"{"jsonrpc":"2.0","method":"vendor/said","params":{"about":"ada"}}"#;
    let script = legacy().fault(On::tool("echo").nth(1), Do::Aside { text: late.into(), times: 100 });
    let proxy = isolated(Isolation::Request, script, one).await;
    let (ada, bob) = (open(&proxy).await, open(&proxy).await);
    let mut hears = session(&bob).stream(None).ok().await;
    assert_eq!(text(&ada.call("echo", json!({ "text": "x" })).await), "x");
    proxy.until_metric("shadowcat_dropped_total", &["no_recipient"], 100.0).await;
    assert_eq!(text(&bob.call("echo", json!({ "text": "y" })).await), "y");
    end(bob).await;
    assert_eq!(rest(&mut hears).await.iter().map(|event| event.json()).collect::<Vec<_>>(), [] as [Value; 0]);
}

/// 2026-07-28, stdio: a server that says a lot which belongs to no request does not come to a halt, whoever uses it.
#[tokio::test]
async fn a_talkative_server_goes_on() {
    for era in Era::BOTH {
        let proxy = isolated(Isolation::Request, era.server(), one).await;
        let client = match era {
            Era::Legacy => open(&proxy).await,
            Era::Modern => proxy.client(era).await,
        };
        for n in 0..200 {
            let notify = json!({ "method": "vendor/said", "params": { "n": n } });
            let answer = client.begin("1", None, "notify", notify).await.answer().ok().await;
            assert_eq!(text(&answer), "sent vendor/said", "{era:?} {n}");
        }
        rests_with(&proxy, 1, 0).await;
    }
}

/// C-POOL-10: an answer that is no message is an answer: nothing is under way any more, and the process is used again.
#[tokio::test]
async fn an_answer_that_is_no_message_leaves_nothing_under_way() {
    for era in Era::BOTH {
        let script = era.server().fault(On::tool("echo").nth(1), Do::ResultAndError);
        let change = |settings: &mut Settings| {
            one(settings);
            settings.timeouts.cancel_grace = DEADLINE;
            settings.timeouts.acquire = ms(500);
        };
        let proxy = isolated(Isolation::Request, script, change).await;
        let client = match era {
            Era::Legacy => open(&proxy).await,
            Era::Modern => proxy.client(era).await,
        };
        let pid = client.pid().await;
        assert_eq!(reason(&client.call("echo", json!({ "text": "x" })).await), "violation", "{era:?}");
        assert_eq!(client.pid().await, pid, "{era:?}");
    }
}

/// 2025-11-25, Logging, Resources, Tasks: what needs a connection that stays is not offered, and refused with a reason.
#[tokio::test]
async fn what_needs_a_connection_that_stays_is_refused() {
    let proxy = isolated(Isolation::Request, legacy(), one).await;
    let client = open(&proxy).await;
    let offered = &session(&client).initialized["capabilities"];
    for lacking in ["/logging", "/tasks", "/resources/subscribe", "/resources/listChanged", "/tools/listChanged"] {
        assert_eq!(offered.pointer(lacking), None, "{lacking}: {offered}");
    }
    assert!(offered["tools"].is_object() && offered["resources"].is_object() && offered["prompts"].is_object());
    let uri = json!({ "uri": "shadowcat://demo/hello.txt" });
    let rows = [
        ("logging/setLevel", json!({ "level": "info" })),
        ("resources/subscribe", uri.clone()),
        ("resources/unsubscribe", uri),
        ("tasks/list", json!({})),
        ("tools/call", json!({ "name": "echo", "arguments": { "text": "x" }, "task": {} })),
    ];
    for (method, params) in rows {
        let answer = request(&client, method, params).await;
        assert_ours(&answer, -32601);
        assert_eq!(reason(&answer), "isolation", "{method}");
    }
    let stats = client.stats().await;
    assert_eq!(stats["requests"], json!({ "initialize": 1, "tools/call": 1 }), "the server hears nothing of it");
}

/// 2025-11-25, Cancellation: a client cancels its own request, also where another has a request of the same id.
#[tokio::test]
async fn a_cancellation_is_for_ones_own_request() {
    let proxy = isolated(Isolation::Request, legacy(), plain).await;
    let (ada, bob) = (open(&proxy).await, open(&proxy).await);
    let (mut adas, bobs) = tokio::join!(asking(&ada, "1", "ada?"), asking(&bob, "1", "bob?"));
    assert_eq!(session(&ada).send(&cancelled(json!(1))).ok().await.status, 202);
    // The question is withdrawn, or not even that: there is no answer.
    assert!(rest(&mut adas.0).await.iter().all(|event| event.json()["id"].is_null()));
    assert!(answering(&bob, bobs, "here").await.contains("here"));
    assert_eq!(text(&ada.call("echo", json!({ "text": "on" })).await), "on");
}

/// 2025-11-25, Cancellation: a request that is taken back while it waits for its turn, or whose session ends, is not executed.
#[tokio::test]
async fn what_is_cancelled_while_it_waits_is_not_executed() {
    for ends in [false, true] {
        let proxy = isolated(Isolation::Request, legacy(), one).await;
        let (ada, bob) = (open(&proxy).await, open(&proxy).await);
        let question = asking(&ada, "1", "Wait?").await;
        let (waited, said) = tokio::join!(bob.begin("7", None, "count", json!({ "key": "k" })), async {
            proxy.until_metric("shadowcat_queue", &[], 1.0).await;
            if ends {
                assert_eq!(session(&bob).delete().ok().await.status, 204);
            } else {
                assert_eq!(session(&bob).send(&cancelled(json!(7))).ok().await.status, 202);
            }
            answering(&ada, question, "done").await
        });
        assert!(said.contains("done"), "{said}");
        assert_eq!(waited.status, if ends { 404 } else { 200 });
        if !ends {
            assert_eq!(waited.text().ok().await, "", "what is taken back is not answered");
            assert_eq!(text(&bob.begin("7", None, "echo", json!({ "text": "on" })).await.answer().ok().await), "on");
        }
        assert_eq!(ada.stats().await["tools"].get("count"), None, "{ends}");
        rests_with(&proxy, 1, 0).await;
    }
}

/// 2024-11-05, HTTP with SSE: while a request waits for its turn, its client is heard: it is told that the proxy is there, and can
/// take the request back. So does one of 2026-07-28 on such a connection.
#[tokio::test]
async fn who_waits_on_one_connection_is_heard_meanwhile() {
    let proxy = isolated(Isolation::Request, Script::default(), one).await;
    let ada = open(&proxy).await;
    let mut bob = SseSession::open(&proxy.at("/sse"), "2024-11-05", rootless()).ok().await;
    let envelope = json!({ "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "0" },
        "io.modelcontextprotocol/clientCapabilities": {} });
    for meta in [json!({}), envelope] {
        // Its era is known before there is nothing to ask it with.
        assert_eq!(text(&modern_call(&proxy, None, "echo", json!({ "text": "x" })).await.answer().ok().await), "x");
        let question = asking(&ada, "1", "Wait?").await;
        let count = json!({ "name": "count", "arguments": { "key": "k" }, "_meta": meta });
        assert_eq!(bob.send(&message("7", "tools/call", &count.to_string())).ok().await.status, 202);
        proxy.until_metric("shadowcat_queue", &[], 1.0).await;
        bob.send(&message("8", "ping", "{}")).ok().await;
        assert_eq!(bob.next().ok().await["id"], 8);
        bob.send(&cancelled(json!(7))).ok().await;
        proxy.until_metric("shadowcat_queue", &[], 0.0).await;
        answering(&ada, question, "done").await;
        assert_eq!(ada.stats().await["tools"].get("count"), None);
    }
}

/// 2026-07-28, Cancellation: a modern client that goes away while it waits for its turn leaves nothing behind: its request
/// is not executed, and the next in the queue is served.
#[tokio::test]
async fn who_goes_away_while_waiting_is_not_served() {
    let script = modern().fault(On::tool("echo").nth(1), Do::Hang);
    let change = |settings: &mut Settings| {
        one(settings);
        settings.timeouts.cancel_grace = ms(100);
    };
    let proxy = isolated(Isolation::Request, script, change).await;
    let client = proxy.client(Era::Modern).await;
    let pid = client.pid().await;
    let held = Modern::call("echo", json!({ "text": "x" }));
    let held = held.post(&proxy.url);
    let mut held = Box::pin(held);
    tokio::select! {
        _ = &mut held => panic!("it hangs"),
        () = async { rests_in_use(&proxy).await } => {}
    }
    let leaving = Modern::call("count", json!({ "key": "left" }));
    tokio::select! {
        _ = leaving.post(&proxy.url) => panic!("it waits"),
        () = proxy.until_metric("shadowcat_queue", &[], 1.0) => {}
    }
    proxy.until_metric("shadowcat_queue", &[], 0.0).await;
    let staying = client.pid();
    let release = async {
        proxy.until_metric("shadowcat_queue", &[], 1.0).await;
        drop(held);
    };
    let (next, ()) = tokio::join!(staying, release);
    assert_ne!(next, pid, "the one whose call was not answered is closed");
    assert_eq!(client.stats().await["tools"].get("count"), None);
    at_rest(&proxy).await;
}

async fn rests_in_use(proxy: &Proxy) {
    until("one call is under way", async || books(proxy).await, |books| books.in_flight == 1.0).await;
}
