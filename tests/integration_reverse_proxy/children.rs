//! Servers that misbehave, and processes that do.

use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::settings::Settings;
use shadowcat::testing::client::{Modern, Response};
use shadowcat::testing::{At, Discover, Do, LineEnd, On, Script};

use crate::common::*;

/// The answer of a call whose server died: exactly one, of the proxy, and it says that the outcome is unknown.
async fn assert_unknown(response: Response) {
    let heard = messages(response).await;
    let finals: Vec<&Value> = heard.iter().filter(|message| message.get("method").is_none()).collect();
    assert_eq!(finals.len(), 1, "{heard:?}");
    assert_ours(finals[0], -31003);
    assert_eq!(finals[0]["error"]["data"]["retryable"], false);
    assert!(finals[0]["error"]["message"].as_str().unwrap().contains("may have been executed"), "{finals:?}");
}

/// C-POOL-10: a server that dies in the middle of calls: each of them ends in exactly one error that says that its outcome is
/// unknown, lists may be repeated, a modern client goes on with a fresh process and a legacy one learns that its session is
/// over. Nothing is executed twice.
#[tokio::test]
async fn a_death_in_the_middle_of_calls_is_told_to_each_of_them_once() {
    let hang = |tool: &str| (On::tool(tool), Do::Hang);
    for era in Era::BOTH {
        let list = On::method("prompts/list");
        let script = [hang("echo"), hang("sleep")]
            .into_iter()
            .fold(era.server().fault(list, Do::Hang), |script, (on, fault)| script.fault(on, fault));
        let proxy = Proxy::start(script).await;
        let client = proxy.client(era).await;
        let pid = client.pid().await;
        let list = async {
            match &client {
                Client::Legacy(session) => session.request("prompts/list", json!({})).ok().await,
                Client::Modern(url) => Modern::new("prompts/list").post(url).ok().await,
            }
        };
        let kill = async {
            client.until_stats("/requests/prompts~1list", 1).await;
            client.until_stats("/tools/sleep", 1).await;
            client.until_stats("/tools/echo", 1).await;
            client.begin("\"last\"", Some("1"), "exit", json!({ "code": 7 })).await
        };
        let (echo, sleep, list, exit) = tokio::join!(
            client.begin("\"e\"", None, "echo", json!({})),
            client.begin("\"s\"", Some("1"), "sleep", json!({})),
            list,
            kill
        );
        for response in [echo, sleep, exit] {
            assert_eq!(response.status, 200, "after the dispatch trouble is no HTTP status");
            assert_unknown(response).await;
        }
        let list = list.answer().ok().await;
        assert_ours(&list, -31002);
        assert_eq!(list["error"]["data"]["retryable"], true);
        let stats = client.stats().await;
        assert_eq!(stats["tools"], json!({ "stats": 1 }), "the fresh process was not given the old calls: {stats}");
        assert_ne!(client.pid().await, pid);
        assert!(!alive(pid));
    }
}

/// C-POOL-12: killed from outside between two calls: the next one is served by another process, or the session is over; nobody
/// waits for a deadline.
#[tokio::test]
async fn a_server_that_is_killed_between_calls_is_replaced() {
    let proxy = Proxy::start(modern()).await;
    let client = proxy.client(Era::Modern).await;
    for _ in 0..3 {
        let pid = client.pid().await;
        kill(pid, rustix::process::Signal::KILL);
        until("it has gone", async || alive(pid), |alive| !alive).await;
        proxy.until_metric("shadowcat_children", &[], 0.0).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    }
}

fn kill(pid: i32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

/// 2025-11-25 and 2026-07-28, stdio: what a server writes besides messages is skipped and counted; what it writes about itself to
/// stderr never holds it up.
#[tokio::test]
async fn noise_is_skipped_and_holds_nobody_up() {
    let junk = |text: &str, times| Do::Print { text: text.into(), times, newline: true };
    for era in Era::BOTH {
        let rows: Vec<(&str, Script)> = vec![
            ("a banner", era.server().fault(On::start(), junk("Welcome to the server!\n\n{\n", 1))),
            ("log lines", era.server().fault(On::tool("echo"), junk("[info] working", 1000))),
            ("blank lines", era.server().fault(On::tool("echo"), junk("", 100))),
            ("JSON that is no message", era.server().fault(On::tool("echo"), junk(r#"{"level":"info"}"#, 10))),
            ("stderr in lines", era.server().fault(On::tool("echo"), Do::Stderr { bytes: 2 << 20, newlines: true })),
            ("stderr without end", era.server().fault(On::start(), Do::Stderr { bytes: 2 << 20, newlines: false })),
            ("CR LF", era.server().fault(On::start(), Do::LineEnd(LineEnd::Crlf))),
            ("single bytes", era.server().fault(On::start(), Do::Slice { bytes: 1, gap_ms: 0, head: false })),
        ];
        for (what, script) in rows {
            let proxy = Proxy::start(script).await;
            let client = proxy.client(era).await;
            for _ in 0..2 {
                assert_eq!(text(&client.call("echo", json!({ "text": what })).await), what, "{era:?}");
            }
            let skipped = proxy.metric("shadowcat_dropped_total", &["not_a_message"]).await;
            match what {
                "log lines" => assert_eq!(skipped, 2000.0, "{era:?} {what}"),
                "JSON that is no message" => assert_eq!(skipped, 20.0, "{era:?} {what}"),
                _ => {}
            }
        }
    }
}

/// 2025-11-25, stdio: a server that breaks the protocol is told apart from one that is slow: the call it answers badly fails at
/// once, or the connection is given up; never is anything repaired and passed on.
#[tokio::test]
async fn broken_answers_fail_the_call_they_belong_to() {
    let at = At { events: 0, bytes: 20 };
    let rows = [
        ("result and error", Do::ResultAndError, -31006, true),
        ("its output closed", Do::Cut { after: None, end: Default::default() }, -31003, false),
        ("nothing but noise", Do::Print { text: "noise".into(), times: 20_000, newline: true }, -31006, false),
        ("half a line, then the end", Do::Cut { after: Some(at), end: Default::default() }, -31003, false),
        ("half a line, then silence", Do::Stall(at), -31006, false),
        ("a line without end", Do::Huge { bytes: 3 << 20, newline: false }, -31007, false),
        ("a huge line", Do::Huge { bytes: 3 << 20, newline: true }, -31007, false),
    ];
    for era in Era::BOTH {
        for (what, fault, expected, survives) in rows.clone() {
            let change = |settings: &mut Settings| {
                settings.limits.message_bytes = 1 << 20;
                settings.timeouts.partial_line = Duration::from_millis(300);
                settings.timeouts.stop_eof = Duration::from_millis(300);
            };
            let proxy = Proxy::with(era.server().fault(On::tool("echo").nth(1), fault), change).await;
            let client = proxy.client(era).await;
            let pid = client.pid().await;
            assert_ours(&client.call("echo", json!({ "text": "x" })).await, expected);
            if survives {
                assert_eq!(client.pid().await, pid, "{era:?} {what}");
            } else {
                until(&format!("{era:?} {what}: its process has ended"), async || alive(pid), |alive| !alive).await;
            }
            let fresh = proxy.client(era).await;
            assert_eq!(text(&fresh.call("count", json!({ "key": what })).await), "1", "{era:?} {what}: and it goes on");
        }
    }
}

/// Bytes that are no text are never guessed at: the call fails, at its deadline at the latest, and nothing of them is passed on.
#[tokio::test]
async fn bytes_that_are_no_text_are_not_passed_on() {
    for era in Era::BOTH {
        let quick = |settings: &mut Settings| settings.timeouts.request = Duration::from_millis(300);
        let proxy = Proxy::with(era.server().fault(On::tool("echo").nth(1), Do::InvalidUtf8), quick).await;
        let client = proxy.client(era).await;
        let answer = client.call("echo", json!({ "text": "x" })).await;
        assert_eq!(answer["error"]["data"]["origin"], "proxy", "{answer}");
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    }
}

/// A server that floods a client with notifications slows itself down and nobody else; all of them arrive, in order.
#[tokio::test]
async fn a_flood_arrives_whole_and_in_order() {
    let proxy = Proxy::start(legacy().fault(On::tool("echo"), Do::Flood { count: 3000, bytes: 200 })).await;
    let client = proxy.client(Era::Legacy).await;
    let heard = messages(client.begin("1", None, "echo", json!({ "text": "x" })).await).await;
    assert_eq!(heard.len(), 3001);
    for (n, message) in heard[..3000].iter().enumerate() {
        assert!(message["params"]["data"].as_str().unwrap().starts_with(&format!("{n} ")), "{n}: {message}");
    }
}

/// A server that stops reading is given up after a while: who waits is told, and its process ends.
#[tokio::test]
async fn a_server_that_reads_nothing_is_given_up() {
    let quick = |settings: &mut Settings| {
        settings.timeouts.write_stall_child = Duration::from_millis(300);
        settings.timeouts.stop_eof = Duration::from_millis(200);
    };
    let proxy = Proxy::with(legacy().fault(On::tool("echo"), Do::StopReading), quick).await;
    let client = proxy.client(Era::Legacy).await;
    let other = proxy.client(Era::Legacy).await;
    let pid = client.pid().await;
    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x", "the last thing it read");
    let large = json!({ "text": "x".repeat(1 << 20) });
    let (stalled, meanwhile) = tokio::join!(client.call("meta", large), other.call("stats", json!({})));
    assert_eq!(stalled["error"]["data"]["origin"], "proxy", "{stalled}");
    assert!(meanwhile.get("result").is_some());
    until("its process has ended", async || alive(pid), |alive| !alive).await;
}

/// A command that cannot be started, or ends at once, fails fast; after a few times it is not even tried for a while, so
/// that nothing forks without end.
#[tokio::test]
async fn a_server_that_cannot_start_fails_fast_and_rests() {
    let rows = [
        ("no such program", command("/no/such/program", vec![])),
        ("not executable", command("/etc/passwd", vec![])),
        ("ends at once", command("false", vec![])),
    ];
    for (what, upstream) in rows {
        let proxy = Proxy::with(legacy(), |settings| settings.upstreams = vec![upstream]).await;
        let mut starts = Vec::new();
        for _ in 0..10 {
            let response = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
            assert_eq!(response.headers.get("mcp-session-id"), None);
            let answer = response.json().ok().await;
            assert_eq!(answer["error"]["data"]["origin"], "proxy", "{what}: {answer}");
            starts.push(proxy.metric("shadowcat_child_starts_total", &[]).await);
        }
        assert!(starts[9] < 6.0, "{what}: {starts:?}");
        assert_eq!(proxy.metric("shadowcat_sessions", &[]).await, 0.0);
        proxy.until_metric("shadowcat_children", &[], 0.0).await;
        let admin = format!("http://{}/ready", proxy.running.admin_address().unwrap());
        assert_eq!(send("GET", &admin, &[], "").await.status, 503, "{what}");
    }
}

/// C-POOL-12; 2025-11-25, Lifecycle › Shutdown: a server that ignores the end of its input and SIGTERM is killed in the end, and
/// with it whatever it has started; one that goes by itself leaves no relatives behind either.
#[tokio::test]
async fn stubborn_servers_and_their_relatives_end() {
    let stubborn = || legacy().fault(On::start(), Do::IgnoreEof).fault(On::start(), Do::IgnoreTerm);
    let rows = [
        ("polite", legacy(), 0.0, 0.0),
        ("ignores the end of input", legacy().fault(On::start(), Do::IgnoreEof), 1.0, 0.0),
        ("ignores SIGTERM too", stubborn(), 1.0, 1.0),
        ("has a relative", stubborn().fault(On::start(), Do::Grandchild { seconds: 600 }), 1.0, 1.0),
        ("does not read", stubborn().fault(On::tool("stats"), Do::StopReading), 1.0, 1.0),
    ];
    for (what, script, terminated, killed) in rows {
        let quick = |settings: &mut Settings| {
            settings.timeouts.stop_eof = if what == "polite" { DEADLINE } else { Duration::from_millis(100) };
            settings.timeouts.stop_term = Duration::from_millis(100);
        };
        let proxy = Proxy::with(script, quick).await;
        let client = proxy.client(Era::Legacy).await;
        let process = client.process().await;
        client.stats().await;
        let pgid = i32::try_from(process["pgid"].as_i64().unwrap()).unwrap();
        assert_eq!(process["pid"], process["pgid"], "a group of its own");
        assert!(!group(pgid).is_empty(), "{what}");
        let Client::Legacy(session) = &client else { unreachable!() };
        session.delete().ok().await;
        until(&format!("{what}: the group is empty"), async || group(pgid), Vec::is_empty).await;
        proxy.until_metric("shadowcat_children", &[], 0.0).await;
        let steps = async |step: &str| proxy.metric("shadowcat_child_exits_total", &[step]).await.abs();
        assert_eq!(
            (steps("terminated").await, steps("killed").await),
            (terminated, killed),
            "{what}: one step after the other"
        );
        proxy.close().await;
    }
}

/// A relative that holds the pipes open does not keep the proxy waiting for a server that has gone.
#[tokio::test]
async fn a_relative_that_holds_the_pipes_keeps_nobody_waiting() {
    let proxy = Proxy::start(modern().fault(On::start(), Do::Grandchild { seconds: 600 })).await;
    let client = proxy.client(Era::Modern).await;
    let process = client.process().await;
    let pgid = i32::try_from(process["pgid"].as_i64().unwrap()).unwrap();
    let exit = client.begin("1", None, "exit", json!({ "code": 1 })).await;
    assert_unknown(exit).await;
    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
    until("the group is empty", async || group(pgid), Vec::is_empty).await;
}

/// A child has its three pipes and nothing else of the proxy: no socket, no other child's pipe.
#[tokio::test]
async fn a_child_inherits_its_pipes_and_nothing_else() {
    let proxy = Proxy::start(legacy()).await;
    let _others = [proxy.session().await, proxy.session().await];
    let mut streams = Vec::new();
    for session in &_others {
        streams.push(session.stream(None).ok().await);
    }
    let process = proxy.client(Era::Legacy).await.process().await;
    let fds = process["fds"].as_object().unwrap();
    assert!(fds.len() > 3 && fds["0"] != fds["1"], "{fds:?}");
    let own =
        std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let own: Vec<String> =
        own.map(|target| target.display().to_string()).filter(|target| !target.starts_with("anon_inode")).collect();
    assert!(own.contains(&fds["0"].as_str().unwrap().to_owned()), "the other end of its input is ours");
    for (fd, target) in fds.iter().filter(|(fd, _)| !["0", "1", "2"].contains(&fd.as_str())) {
        assert!(!own.iter().any(|own| target == own), "{fd} is {target}, which is ours");
    }
}

/// 2026-07-28, stdio › Backward Compatibility: what dies of the question about its era is not counted as a failure: the session after it starts at once.
#[tokio::test]
async fn dying_of_the_question_is_no_crash() {
    let proxy = Proxy::start(surprised(Discover::Exit)).await;
    for _ in 0..5 {
        assert_eq!(Modern::new("server/discover").post(&proxy.url).ok().await.status, 200);
        proxy.session().await;
    }
    let started = proxy.metric("shadowcat_child_starts_total", &[]).await;
    assert_eq!(started, 7.0, "asked once, described once, started for each session");
}

/// C-SSE-1, C-SSE-6: a client that only listens asks for nothing that would show that its server is gone. Its session gets
/// another all the same, with what it had subscribed to, and its stream goes on.
#[tokio::test]
async fn a_client_that_only_listens_gets_another_server() {
    for isolation in [shadowcat::settings::Isolation::Session, shadowcat::settings::Isolation::Shared] {
        let proxy = Proxy::with(legacy(), |settings| settings.upstreams[0].isolation = isolation).await;
        let session = proxy.session().await;
        let uri = json!({ "uri": "fake://resource/1" });
        session.request("resources/subscribe", uri.clone()).ok().await.answer().ok().await;
        let process = session.call("pid", json!({})).ok().await.answer().ok().await;
        let process: serde_json::Value = serde_json::from_str(text(&process)).unwrap();
        let pid = i32::try_from(process["pid"].as_i64().unwrap()).unwrap();
        let mut stream = session.stream(None).ok().await;
        proxy.until_metric("shadowcat_streams", &[], 1.0).await;
        kill(pid, rustix::process::Signal::KILL);
        // It may have missed any of it.
        let updated = next(&mut stream).await.unwrap().json();
        assert_eq!((&updated["method"], &updated["params"]), (&json!("notifications/resources/updated"), &uri));
        for kind in ["tools", "prompts", "resources"] {
            let changed = next(&mut stream).await.unwrap().json();
            assert_eq!(changed["method"], format!("notifications/{kind}/list_changed"), "{isolation:?}");
        }
        assert_eq!(proxy.metric("shadowcat_session_restarts_total", &["ok"]).await, 1.0);
        session.call("touch", uri.clone()).ok().await.answer().ok().await;
        let updated = next(&mut stream).await.unwrap().json();
        assert_eq!(updated["method"], "notifications/resources/updated", "{isolation:?} {updated}");
    }
}

/// C-SSE-1: streams of notifications of modern clients go on with another process, which is started once for all of them.
#[tokio::test]
async fn modern_listeners_get_another_server() {
    let proxy = Proxy::start(modern()).await;
    let listen = async |id: &str| {
        let filter = json!({ "promptsListChanged": true });
        let listen = Modern::new("subscriptions/listen").id(id).param("notifications", filter);
        let mut stream = listen.post(&proxy.url).ok().await;
        assert_eq!(next(&mut stream).await.unwrap().json()["method"], "notifications/subscriptions/acknowledged");
        stream
    };
    let mut streams = [listen("1").await, listen("2").await];
    let client = proxy.client(Era::Modern).await;
    let process: serde_json::Value = serde_json::from_str(text(&client.call("pid", json!({})).await)).unwrap();
    kill(i32::try_from(process["pid"].as_i64().unwrap()).unwrap(), rustix::process::Signal::KILL);
    for changes in 0..2 {
        for (stream, id) in streams.iter_mut().zip([1, 2]) {
            let changed = next(stream).await.unwrap().json();
            assert_eq!(changed["method"], "notifications/prompts/list_changed", "{changed}");
            assert_eq!(changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
        }
        if changes == 0 {
            assert_eq!(text(&client.call("change", json!({ "kind": "prompts" })).await), "told 2");
        }
    }
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 2.0);
}
