//! Each fault that a pipe in memory can show.

use tokio::io::AsyncReadExt;

use super::*;
use crate::testing::{At, LineEnd, On, OnCancel, When, WrongId};

fn on_echo(fault: Do) -> Script {
    Script::default().fault(On::tool("echo").nth(1), fault)
}

/// Calls `echo` once with the fault, and gives back the first line that comes.
async fn echo_once(fault: Do) -> String {
    let mut line = String::new();
    legacy(on_echo(fault), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        line = client.line().await;
    })
    .await;
    line
}

#[tokio::test(start_paused = true)]
async fn ids_can_be_wrong_in_four_ways() {
    assert!(echo_once(Do::Id(WrongId::Unknown)).await.contains(r#""id":"nobody's","#));
    assert!(echo_once(Do::Id(WrongId::Retyped)).await.contains(r#""id":"1","#));
    assert!(echo_once(Do::Id(WrongId::Null)).await.contains(r#""id":null,"#));
    assert!(!echo_once(Do::Id(WrongId::Missing)).await.contains("\"id\""));
}

#[tokio::test(start_paused = true)]
async fn answers_can_be_double_or_both() {
    legacy(on_echo(Do::Duplicate), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        assert_eq!(client.next().await, client.next().await);
        client.call("2", "echo", json!({ "text": "x" })).await;
        client.next().await;
        assert!(client.silence().await, "only the first call is doubled");
    })
    .await;
    let both: Value = serde_json::from_str(&echo_once(Do::ResultAndError).await).unwrap();
    assert!(both["result"].is_object() && both["error"].is_object());
}

#[tokio::test(start_paused = true)]
async fn progress_can_be_late() {
    legacy(on_echo(Do::LateProgress), async |mut client: Client| {
        client.send(&call("1", "echo", json!({ "text": "x" }), &json!({ "progressToken": "t" }))).await;
        assert_eq!(client.next().await["id"], 1);
        assert_eq!(client.next().await["params"]["progressToken"], "t");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_can_hang_and_still_serve_others() {
    legacy(on_echo(Do::Hang), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        client.call("2", "echo", json!({ "text": "x" })).await;
        assert_eq!(client.next().await["id"], 2);
        assert!(client.silence().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_can_be_slow() {
    let before = tokio::time::Instant::now();
    echo_once(Do::Delay { ms: 700 }).await;
    assert!(before.elapsed() >= Duration::from_millis(700));
}

#[tokio::test(start_paused = true)]
async fn cancelling_can_be_ignored_or_answered() {
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    for (how, expected) in [(OnCancel::Ignore, "slept 500 ms"), (OnCancel::Answer, "too late")] {
        let script = Script::default().fault(On::tool("sleep"), Do::Cancel(how));
        legacy(script, async |mut client: Client| {
            client.call("1", "sleep", json!({ "ms": 500 })).await;
            client.send(cancel).await;
            assert_eq!(text(&client.next().await), expected);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn lines_can_be_broken_off() {
    let stall = Do::Stall(At { events: 0, bytes: 5 });
    legacy(on_echo(stall), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        let mut half = [0; 5];
        client.reader.read_exact(&mut half).await.unwrap();
        assert_eq!(&half, b"{\"jso");
        client.call("2", "echo", json!({ "text": "x" })).await;
        assert!(client.silence().await, "not even others are answered");
    })
    .await;
    let cut = Do::Cut { after: Some(At { events: 0, bytes: 5 }), end: Default::default() };
    assert_eq!(echo_once(cut).await, "{\"jso");
}

#[tokio::test(start_paused = true)]
async fn lines_can_be_odd() {
    assert!(echo_once(Do::LineEnd(LineEnd::Crlf)).await.ends_with("}\r\n"));
    assert!(echo_once(Do::Bom).await.starts_with("\u{feff}{"));
    let junk = Do::Print { text: "log line".into(), times: 1, newline: true };
    assert_eq!(echo_once(junk).await, "log line\n");
    assert_eq!(echo_once(Do::Huge { bytes: 100_000, newline: true }).await.len(), 100_001);
    let slow = Do::Slice { bytes: 1, gap_ms: 1, head: false };
    assert!(echo_once(slow).await.ends_with("}\n"));
    legacy(on_echo(Do::InvalidUtf8), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        let mut line = Vec::new();
        client.reader.read_until(b'\n', &mut line).await.unwrap();
        assert!(std::str::from_utf8(&line).is_err());
        assert!(serde_json::from_str::<Value>(&String::from_utf8_lossy(&line)).is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endless_line_does_not_end() {
    legacy(on_echo(Do::Huge { bytes: 10_000, newline: false }), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        let mut line = vec![0; 10_000];
        client.reader.read_exact(&mut line).await.unwrap();
        assert!(!line.contains(&b'\n'));
        assert!(client.silence().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn notifications_can_come_in_floods() {
    legacy(on_echo(Do::Flood { count: 5000, bytes: 100 }), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        for _ in 0..5000 {
            assert_eq!(client.next().await["method"], "notifications/message");
        }
        assert_eq!(client.next().await["id"], 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_can_stop_reading() {
    let serving = legacy(on_echo(Do::StopReading), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
        assert_eq!(client.next().await["id"], 1);
        let flood = vec![b' '; 1 << 20];
        let written = tokio::time::timeout(Duration::from_secs(60), client.writer.write_all(&flood)).await;
        assert!(written.is_err(), "the pipe is never emptied");
    });
    // What reads nothing does not learn that its input has ended either.
    assert!(tokio::time::timeout(Duration::from_secs(3600), serving).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn it_can_exit_before_and_after_its_answer() {
    for (when, code) in [(When::Before, 7), (When::After, 8)] {
        let ending = legacy(on_echo(Do::Exit { code, when }), async |mut client: Client| {
            client.call("1", "echo", json!({ "text": "x" })).await;
            assert_eq!(client.line().await.is_empty(), when == When::Before);
            assert_eq!(client.line().await, "");
        });
        assert!(matches!(ending.await, Ending::Exit(exit) if exit == code));
    }
    let ending = legacy(Script::default(), async |mut client: Client| {
        client.call("1", "exit", json!({ "code": 9, "when": "after" })).await;
        assert_eq!(text(&client.next().await), "goodbye");
        client.line().await;
    });
    assert!(matches!(ending.await, Ending::Exit(9)));
    let dead = Script::default().fault(On::start(), Do::Exit { code: 3, when: When::Before });
    assert!(matches!(with(dead, async |mut client: Client| client.line().await).await, Ending::Exit(3)));
}

#[tokio::test(start_paused = true)]
async fn a_start_can_be_bad() {
    let script = Script::default()
        .fault(On::start(), Do::Delay { ms: 2000 })
        .fault(On::start(), Do::Print { text: "Welcome!".into(), times: 2, newline: true })
        .fault(On::start(), Do::LineEnd(LineEnd::Crlf));
    with(script, async |mut client: Client| {
        let before = tokio::time::Instant::now();
        assert_eq!((client.line().await, client.line().await), ("Welcome!\n".into(), "Welcome!\n".into()));
        assert!(before.elapsed() >= Duration::from_secs(2));
        client.initialize("2025-11-25", json!({})).await;
        client.call("1", "echo", json!({ "text": "x" })).await;
        assert!(client.line().await.ends_with("\r\n"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_can_ignore_the_end_of_its_input() {
    let script = Script::default().fault(On::start(), Do::IgnoreEof);
    let serving = with(script, async |mut client: Client| client.writer.shutdown().await);
    assert!(tokio::time::timeout(Duration::from_secs(3600), serving).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_hangs_at_the_end_of_the_input_is_given_up() {
    let ending = legacy(on_echo(Do::Hang), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "x" })).await;
    });
    assert!(matches!(ending.await, Ending::Eof));
}

#[tokio::test]
async fn impossible_scripts_are_refused() {
    let refused = |text: &str| Script::from_json(text).unwrap_err().to_string();
    assert!(refused(r#"{"fault":[]}"#).contains("unknown field `fault`"));
    assert!(refused(r#"{"faults":[{"on":{},"do":"explode"}]}"#).contains("unknown variant `explode`"));
    assert!(refused(r#"{"faults":[{"on":{"nth":0},"do":"hang"}]}"#).contains("counts from 1"));
    assert!(refused(r#"{"newest_legacy":"2026-07-28"}"#).contains("newest_legacy"));
    let http = Script::from_json(r#"{"faults":[{"on":{},"do":"forget_session"}]}"#).unwrap();
    let ending = serve(tokio::io::empty(), tokio::io::sink(), http).await;
    let Ending::Script(error) = ending else { panic!("{ending:?}") };
    assert_eq!(error.to_string(), "faults[0]: `forget_session` is not possible over stdio");
}

/// Every fault has the name in JSON that it has in messages.
#[test]
fn faults_have_the_names_they_say() {
    let all = r#"[
        {"exit":{}}, {"delay":{"ms":1}}, {"print":{"text":"x"}}, {"stderr":{"bytes":1}}, "ignore_eof", "ignore_term",
        "stop_reading", {"grandchild":{"seconds":1}}, "hang", {"id":"null"}, "duplicate", "result_and_error",
        "late_progress", {"cancel":"ignore"}, {"flood":{"count":1}}, {"stall":{}}, {"cut":{}}, {"slice":{}},
        {"huge":{"bytes":1}}, "invalid_utf8", {"line_end":"cr"}, "bom", {"status":{"code":500}}, {"content_type":"text/html"},
        {"header":{"bytes":1}}, "gzip", {"body_end":"close"}, {"body_end":{"length":1}}, {"linger":{"ms":1}}, {"late":{"ms":1}},
        {"aside":{"text":"x"}}, "forget_session", {"retry":"0"}, {"event_id":{"id":"empty"}}, {"poll":{}}, {"comments":{"count":1}}, "replay_all"
    ]"#;
    let faults: Vec<Do> = serde_json::from_str(all).unwrap();
    for fault in faults {
        let json = serde_json::to_value(&fault).unwrap();
        let keys = || json.as_object().unwrap().keys().next().cloned().unwrap();
        assert_eq!(json.as_str().map_or_else(keys, str::to_owned), fault.name());
    }
}
