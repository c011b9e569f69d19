//! Isolation by session: a process for each, and who may have it afterwards.

use serde_json::{Value, json};
use shadowcat::settings::{Isolation, Reuse, Settings};
use shadowcat::testing::client::LegacySession;
use shadowcat::testing::{Do, On, OnCancel, Script};

use crate::common::*;
use crate::support::*;

fn reusing(reuse: Reuse) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.upstreams[0].reuse = reuse;
        settings.timeouts.cancel_grace = ms(300);
    }
}

/// C-POOL-12, configuration, `reuse`: by default a session has a process of its own, which ends with it.
#[tokio::test]
async fn by_default_a_process_ends_with_its_session() {
    let proxy = isolated(Isolation::Session, legacy(), plain).await;
    let (a, b) = (open(&proxy).await, open(&proxy).await);
    let pids = [a.pid().await, b.pid().await];
    assert_ne!(pids[0], pids[1]);
    rests_with(&proxy, 0, 2).await;
    end(a).await;
    rests_with(&proxy, 0, 1).await;
    assert!(!alive(pids[0]) && alive(pids[1]));
    assert!(!pids.contains(&open(&proxy).await.pid().await));
    proxy.close().await;
}

/// C-POOL-4, configuration, `reuse`: with `any` the next session has the process of one that is over; the most recently used
/// one first, so that the others can be let go.
#[tokio::test]
async fn the_next_session_has_the_process_of_one_that_is_over() {
    let proxy = isolated(Isolation::Session, legacy(), reusing(Reuse::Any)).await;
    let (a, b) = (open(&proxy).await, open(&proxy).await);
    let (first, second) = (a.pid().await, b.pid().await);
    end(a).await;
    rests_with(&proxy, 1, 1).await;
    end(b).await;
    rests_with(&proxy, 2, 0).await;
    for _ in 0..3 {
        let next = open(&proxy).await;
        assert_eq!(next.pid().await, second);
        assert_eq!(next.stats().await["requests"]["initialize"], 1, "it was greeted once");
        end(next).await;
        rests_with(&proxy, 2, 0).await;
    }
    let (c, d) = (open(&proxy).await, open(&proxy).await);
    assert_eq!([c.pid().await, d.pid().await], [second, first]);
    assert_eq!(proxy.metric("shadowcat_pool_leases_total", &["reused"]).await, 5.0);
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 2.0);
}

/// 2025-11-25, Lifecycle: who introduced itself otherwise gets a process to which it has introduced itself.
#[tokio::test]
async fn another_handshake_is_made_with_another_process() {
    let proxy = isolated(Isolation::Session, legacy(), reusing(Reuse::Any)).await;
    let a = open(&proxy).await;
    let pid = a.pid().await;
    end(a).await;
    rests_with(&proxy, 1, 0).await;
    for (revision, capabilities) in [("2025-06-18", rootless()), (LEGACY, json!({})), (LEGACY, everything())] {
        let other = LegacySession::open(&proxy.url, revision, capabilities.clone()).ok().await;
        assert_eq!(other.initialized["protocolVersion"], revision);
        let other = Client::Legacy(other);
        assert_ne!(other.pid().await, pid);
        assert_eq!(other.stats().await["client"]["capabilities"], capabilities);
    }
}

/// What a session does, with what answer, and whether another may have its process then.
struct Row {
    what: &'static str,
    script: Script,
    capabilities: Value,
    does: Vec<(&'static str, Value)>,
    reused: bool,
}

fn row(what: &'static str, reused: bool, does: Vec<(&'static str, Value)>) -> Row {
    Row { what, script: legacy(), capabilities: rootless(), does, reused }
}

/// Isolation, `reuse`: a session that left something behind which cannot be taken back is never followed by another; one that
/// took it back, or left nothing, is.
#[tokio::test]
async fn a_session_that_left_traces_is_not_followed_by_another() {
    let uri = || json!({ "uri": "shadowcat://demo/hello.txt" });
    let task = json!({ "name": "echo", "arguments": { "text": "x" }, "task": {} });
    let read = || ("resources/read", uri());
    let rows = [
        row("nothing", true, vec![]),
        row("reads", true, vec![read(), ("tools/list", json!({})), ("prompts/list", json!({}))]),
        row("sets a log level", false, vec![("logging/setLevel", json!({ "level": "error" }))]),
        row("sets no such log level", false, vec![("logging/setLevel", json!({ "level": "loud" }))]),
        row("subscribes", false, vec![("resources/subscribe", uri())]),
        row("subscribes for a while", true, vec![("resources/subscribe", uri()), ("resources/unsubscribe", uri())]),
        row("makes a task", false, vec![("tools/call", task)]),
        Row { capabilities: everything(), ..row("has folders", false, vec![]) },
    ];
    for Row { what, script, capabilities, does, reused } in rows {
        let proxy = isolated(Isolation::Session, script, reusing(Reuse::Any)).await;
        let open = async || Client::Legacy(LegacySession::open(&proxy.url, LEGACY, capabilities.clone()).ok().await);
        let client = open().await;
        let pid = client.pid().await;
        for (method, params) in does {
            request(&client, method, params).await;
        }
        end(client).await;
        rests_with(&proxy, u32::from(reused), 0).await;
        let next = open().await;
        assert_eq!(next.pid().await == pid, reused, "{what}");
        let client = &next.stats().await["client"];
        assert_eq!((&client["level"], &client["subscriptions"]), (&json!("debug"), &json!([])), "{what}");
    }
}

/// The same where the session ends before it is known what became of the request: it may have been carried out.
#[tokio::test]
async fn a_request_that_was_not_answered_in_time_leaves_traces_too() {
    let late = |method: &str| legacy().fault(On::method(method), Do::Late { ms: 150 });
    let uri = json!({ "uri": "shadowcat://demo/hello.txt" });
    let task = json!({ "name": "echo", "arguments": { "text": "x" }, "task": {} });
    let rows = [
        ("logging/setLevel", json!({ "level": "error" }), late("logging/setLevel"), "/requests/logging~1setLevel"),
        ("resources/subscribe", uri, late("resources/subscribe"), "/requests/resources~1subscribe"),
        ("tools/call", task, legacy().fault(On::tool("echo"), Do::Late { ms: 150 }), "/tools/echo"),
    ];
    for (method, params, script, seen) in rows {
        let proxy = isolated(Isolation::Session, script, reusing(Reuse::Any)).await;
        let client = open(&proxy).await;
        let pid = client.pid().await;
        let unanswered = session(&client).request(method, params);
        tokio::select! {
            _ = unanswered => {}
            _ = client.until_stats(seen, 1) => {}
        }
        end(client).await;
        until("it was answered or given up", async || books(&proxy).await, |books| books.leased == 0.0).await;
        let next = open(&proxy).await;
        assert_ne!(next.pid().await, pid, "{method}");
        let client = &next.stats().await["client"];
        assert_eq!((&client["level"], &client["subscriptions"]), (&json!("debug"), &json!([])), "{method}");
    }
}

/// C-POOL-10: a cancelled request that the server has not answered: its connection is used again only when the answer has
/// come, late as it is; when it does not come in time, never.
#[tokio::test]
async fn a_connection_waits_for_the_answer_to_what_was_cancelled() {
    let sleeps = |ms: u64| json!({ "ms": ms });
    for (what, script, arguments, reused) in [
        ("answered late", legacy().fault(On::tool("sleep"), Do::Cancel(OnCancel::Answer)), sleeps(600_000), true),
        ("runs on", legacy().fault(On::tool("sleep"), Do::Cancel(OnCancel::Ignore)), sleeps(50), true),
        ("never answered", legacy(), sleeps(600_000), false),
    ] {
        let proxy = isolated(Isolation::Session, script, reusing(Reuse::Any)).await;
        let client = open(&proxy).await;
        let pid = client.pid().await;
        let cancel = async {
            client.until_stats("/tools/sleep", 1).await;
            session(&client).send(&cancelled(json!(1))).ok().await
        };
        let (call, _) = tokio::join!(client.begin("1", None, "sleep", arguments), cancel);
        assert!(!reused || messages_or_none(call).await.is_empty(), "{what}: no answer");
        end(client).await;
        if reused {
            rests_with(&proxy, 1, 0).await;
        } else {
            let next = open(&proxy).await;
            assert_ne!(next.pid().await, pid, "{what}");
            proxy.until_metric("shadowcat_pool_closes_total", &["dirty"], 1.0).await;
            rests_with(&proxy, 0, 1).await;
            end(next).await;
            rests_with(&proxy, 1, 0).await;
        }
        let next = open(&proxy).await;
        assert_eq!(next.pid().await == pid, reused, "{what}");
        assert_eq!(text(&next.call("echo", json!({ "text": what })).await), what, "and nobody hears of the old one");
    }
}

async fn messages_or_none(response: shadowcat::testing::client::Response) -> Vec<Value> {
    if response.is_sse() { messages(response).await } else { Vec::new() }
}

/// Isolation, `reuse`: a session that is deleted with a call under way has not left a quiet process.
#[tokio::test]
async fn a_session_that_ends_in_the_middle_of_a_call_is_not_followed_by_another() {
    let proxy = isolated(Isolation::Session, legacy().fault(On::tool("echo"), Do::Hang), reusing(Reuse::Any)).await;
    let client = open(&proxy).await;
    let pid = client.pid().await;
    let delete = async {
        client.until_stats("/tools/echo", 1).await;
        session(&client).delete().ok().await
    };
    let (call, deleted) = tokio::join!(client.begin("1", None, "echo", json!({ "text": "x" })), delete);
    assert_eq!(deleted.status, 204);
    assert_ours(&call.answer().ok().await, -31008);
    let next = open(&proxy).await;
    assert_ne!(next.pid().await, pid);
    rests_with(&proxy, 0, 1).await;
    assert!(!alive(pid));
}

/// Isolation, `same-principal`: a process is used again for the one who had it; another one, and one who does not say who it
/// is, get another; and nobody gets what a stranger had.
#[tokio::test]
async fn a_process_is_kept_for_its_principal() {
    let proxy = isolated(Isolation::Session, legacy(), reusing(Reuse::SamePrincipal)).await;
    let pid = async |who: Option<&str>| {
        let client = open_as(&proxy, who).await;
        let pid = client.pid().await;
        end(client).await;
        at_rest(&proxy).await;
        pid
    };
    let ada = pid(Some("Bearer ada")).await;
    rests_with(&proxy, 1, 0).await;
    let strangers = [pid(None).await, pid(None).await];
    rests_with(&proxy, 1, 0).await;
    assert!(strangers[0] != strangers[1] && !strangers.contains(&ada));
    let bob = pid(Some("Bearer bob")).await;
    assert!(bob != ada && !strangers.contains(&bob));
    assert_eq!([pid(Some("Bearer ada")).await, pid(Some("Bearer bob")).await], [ada, bob]);
    assert_ne!(pid(Some("bearer ada")).await, ada, "to the letter");
    rests_with(&proxy, 3, 0).await;
}

/// 2025-11-25, Security Best Practices › Session Hijacking: whoever has learned another's session id has not become the other.
#[tokio::test]
async fn a_session_id_is_of_use_to_its_principal_only() {
    let proxy = isolated(Isolation::Session, legacy(), reusing(Reuse::SamePrincipal)).await;
    for owner in [Some("Bearer ada"), None] {
        let mut client = open_as(&proxy, owner).await;
        let pid = client.pid().await;
        let Client::Legacy(session) = &mut client else { unreachable!() };
        let own = session.extra.clone();
        for thief in [Some("Bearer bob"), None].into_iter().filter(|thief| *thief != owner) {
            session.extra = thief.map(|who| ("Authorization".to_owned(), who.to_owned())).into_iter().collect();
            assert_eq!(session.request("tools/list", json!({})).ok().await.status, 404, "{owner:?} {thief:?}");
            assert_eq!(session.stream(None).ok().await.status, 404, "{owner:?} {thief:?}");
            assert_eq!(session.send(&cancelled(json!(1))).ok().await.status, 404, "{owner:?} {thief:?}");
            assert_eq!(session.delete().ok().await.status, 404, "{owner:?} {thief:?}");
        }
        // Two headers are a matter of opinion.
        session.extra = [own.clone(), own.clone()].concat();
        assert_eq!(session.request("tools/list", json!({})).ok().await.status == 404, owner.is_some());
        session.extra = own;
        assert_eq!(client.pid().await, pid, "its own session is untouched");
    }
}
