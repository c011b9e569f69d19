//! A server behind the tape: what is asked of it, and what comes to the tape of that.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use shadowcat::tape;

use super::*;

const SERVER: [&str; 4] = ["--", PROGRAM, "fake", "stdio"];

fn with_server<'a>(options: &[&'a str]) -> Vec<&'a str> {
    [options, &SERVER].concat()
}

async fn legacy(player: &Player) -> LegacySession {
    LegacySession::open(&player.url, LEGACY, everything()).ok().await
}

async fn echo(session: &LegacySession, text: &str) -> Value {
    session.call("echo", json!({ "text": text })).ok().await.answer().ok().await
}

fn requests(path: &Path) -> Vec<String> {
    let tape = tape::Tape::open(path).unwrap();
    assert!(tape.faults.is_empty() && matches!(tape.ending, tape::Ending::Proper { .. }), "{:?}", tape.ending);
    let seqs: Vec<u64> = tape.frames.iter().map(|frame| frame.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let upward = tape.frames.iter().filter(|frame| frame.is_upward());
    upward.filter_map(|frame| Some(frame.body.as_ref()?.message().ok()?.method()?.to_owned())).collect()
}

/// Without a tape, `once` makes one; with one, it is all there is.
#[tokio::test]
async fn once_records_what_is_not_there_and_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.tape.jsonl");
    for client in ["legacy", "modern"] {
        let _ = std::fs::remove_file(&path);
        let player = Player::at(&path, &with_server(&[])).await;
        if client == "legacy" {
            let session = legacy(&player).await;
            assert_eq!(text(&echo(&session, "first").await), "first");
            let mut call = session.call("ask", json!({ "message": "?" })).ok().await;
            let asked = call.message().ok().await.unwrap();
            session.respond(&asked["id"], &json!({ "action": "accept", "content": {} })).ok().await;
            assert!(text(&call.message().ok().await.unwrap()).starts_with("answer: accept"));
        } else {
            let call = Modern::call("echo", json!({ "text": "first" })).post(&player.url).ok().await;
            assert_eq!(text(&call.answer().ok().await), "first");
        }
        assert_eq!(player.end().await, (Some(0), String::new()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(requests(&path).contains(&"tools/call".to_owned()));

        let player = Player::at(&path, &with_server(&[])).await;
        let session = legacy(&player).await;
        assert_eq!(text(&echo(&session, "first").await), "first");
        assert_eq!(echo(&session, "second").await["error"]["data"]["reason"], "not_on_tape");
        let call = Modern::call("echo", json!({ "text": "first" })).post(&player.url).ok().await;
        assert_eq!(text(&call.answer().ok().await), "first");
        if client == "legacy" {
            let mut call = session.call("ask", json!({ "message": "?" })).ok().await;
            let asked = call.message().ok().await.unwrap();
            session.respond(&asked["id"], &json!({ "action": "accept", "content": {} })).ok().await;
            assert!(text(&call.message().ok().await.unwrap()).starts_with("answer: accept"));
        }
        assert_eq!(player.end().await.0, Some(7));
    }
}

/// With `new-episodes` a server is asked what the tape does not have, once: after that the tape has it.
#[tokio::test]
async fn new_episodes_are_added_to_the_tape() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.tape.jsonl");
    std::fs::write(&path, legacy_tape()).unwrap();
    let before = requests(&path);
    let player = Player::at(&path, &with_server(&["--mode", "new-episodes"])).await;
    let session = legacy(&player).await;
    assert_eq!(session.initialized["serverInfo"]["name"], "taped");
    assert_eq!(text(&echo(&session, "hi").await), "hi");
    assert_eq!(text(&echo(&session, "new").await), "new");
    let params = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "p" } });
    let progress = messages(session.request("tools/call", params).ok().await).await;
    assert_eq!(progress.len(), 4);
    // Of clients of the other era, too.
    let call = Modern::call("echo", json!({ "text": "newer" })).post(&player.url).ok().await;
    assert_eq!(text(&call.answer().ok().await), "newer");
    // What is on the disk is whole at any time.
    let calls = |all: Vec<String>| all.iter().filter(|method| *method == "tools/call").count();
    common::until("it is written", async || calls(requests(&path)), |seen| *seen == calls(before.clone()) + 3).await;
    assert_eq!(player.end().await, (Some(0), String::new()));

    let player = Player::at(&path, &["--mode", "none"]).await;
    let session = legacy(&player).await;
    for said in ["hi", "new", "newer"] {
        assert_eq!(text(&echo(&session, said).await), said);
    }
    let params = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "q" } });
    let again = messages(session.request("tools/call", params).ok().await).await;
    assert_eq!(again.len(), 4);
    assert_eq!(again[0]["params"]["progressToken"], "q");
    assert_eq!(again[3]["result"], progress[3]["result"]);
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// What was added is on the tape at once: the server is asked once, by whichever session. What is asked for its effect is asked each time.
#[tokio::test]
async fn what_was_added_is_replayed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.tape.jsonl");
    std::fs::write(&path, legacy_tape()).unwrap();
    let player = Player::at(&path, &with_server(&["--mode", "new-episodes"])).await;
    let (one, other) = (legacy(&player).await, legacy(&player).await);
    // The server counts what it is asked.
    let count = async |session: &LegacySession| {
        text(&session.call("stats", json!({})).ok().await.answer().ok().await).to_owned()
    };
    let first = count(&one).await;
    assert_eq!(text(&echo(&one, "new").await), "new");
    for session in [&one, &other, &legacy(&player).await] {
        assert_eq!(count(session).await, first);
        assert_eq!(text(&echo(session, "new").await), "new");
        let progress = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "p" } });
        assert_eq!(messages(session.request("tools/call", progress).ok().await).await.len(), 4);
        session.request("logging/setLevel", json!({ "level": "debug" })).ok().await.answer().ok().await;
    }
    let call = Modern::call("echo", json!({ "text": "new" })).post(&player.url).ok().await;
    assert_eq!(text(&call.answer().ok().await), "new");
    assert_eq!(player.end().await, (Some(0), String::new()));
    let methods = requests(&path);
    let times = |wanted: &str| methods.iter().filter(|method| *method == wanted).count();
    assert_eq!(times("tools/call"), 2 + 3, "two were there; {methods:?}");
    assert_eq!(times("logging/setLevel"), 3);
}

/// Who records asks the server each time: equal requests may have different answers.
#[tokio::test]
async fn a_recording_has_each_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.tape.jsonl");
    let stats = async |player: &Player| {
        let session = legacy(player).await;
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(text(&session.call("stats", json!({})).ok().await.answer().ok().await).to_owned());
        }
        all
    };
    let player = Player::at(&path, &with_server(&[])).await;
    let recorded = stats(&player).await;
    assert!(recorded[0] != recorded[1] && recorded[1] != recorded[2], "{recorded:?}");
    assert_eq!(player.end().await, (Some(0), String::new()));
    let player = Player::at(&path, &with_server(&[])).await;
    assert_eq!(stats(&player).await, recorded);
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// With `all` the tape is made anew, and with `none` nobody is asked.
#[tokio::test]
async fn all_makes_the_tape_anew_and_none_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.tape.jsonl");
    std::fs::write(&path, legacy_tape()).unwrap();
    let player = Player::at(&path, &with_server(&["--mode", "none"])).await;
    assert_eq!(echo(&legacy(&player).await, "new").await["error"]["data"]["reason"], "not_on_tape");
    assert_eq!(player.end().await.0, Some(7));

    let player = Player::at(&path, &with_server(&["--mode", "all"])).await;
    let session = legacy(&player).await;
    assert_ne!(session.initialized["serverInfo"]["name"], "taped");
    assert_eq!(text(&echo(&session, "new").await), "new");
    assert_eq!(player.end().await, (Some(0), String::new()));
    assert_eq!(requests(&path), ["initialize", "notifications/initialized", "tools/call"]);
}

/// A mode that needs a server says so, and a tape that is broken is not added to.
#[test]
fn what_cannot_be_done_is_refused() {
    let run = |text: &str, options: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tape.jsonl"), text).unwrap();
        let mut command = assert_cmd::Command::new(PROGRAM);
        std::fs::write(folder.path().join("plan.json"), r#"{"faults":[{"do":{"status":{"code":500}}}]}"#).unwrap();
        let output =
            command.current_dir(folder.path()).args(["replay", "a.tape.jsonl"]).args(options).output().unwrap();
        let after = std::fs::read_to_string(folder.path().join("a.tape.jsonl")).unwrap();
        assert_eq!(after, text, "nothing is lost");
        format!("{:?} {}", output.status.code(), String::from_utf8_lossy(&output.stderr))
    };
    let whole = legacy_tape();
    let torn = &whole[..whole.len() - 200];
    let said = [
        run(&whole, &["--mode", "new-episodes"]),
        run(torn, &with_server(&["--mode", "new-episodes"])),
        run(&whole, &["--mode", "sometimes"]),
        run(&whole, &["--upstream", "ftp://example"]),
        run(&whole, &["--faults", "plan.json"]),
    ];
    insta::assert_snapshot!(said.join("\n"));
}
