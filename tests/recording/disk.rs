//! What comes to the disk, and what becomes of traffic when the disk does not take it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::json;
use shadowcat::settings::{Isolation, Record, RecordEdges, RecordPolicy, Redact};
use shadowcat::tape::{Ending, Frame, Kind, Party, Reader};
use shadowcat::testing::Script;
use shadowcat::testing::client::{LegacySession, Modern};

use super::common::{
    DEADLINE, InTime, LEGACY, Program, Proxy, assert_ours, everything, legacy, message, modern, rest, text, until,
};
use super::{OnDisk, recorded, tapes};

/// Everything in a folder, whatever it is.
fn raw(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

/// C-TAPE-2: what is a secret by its header, its name, its place, its form or what was said about it never comes to the disk, on
/// neither side; what is beside it does, byte for byte.
#[tokio::test]
async fn no_secret_comes_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), |settings| {
        let redact = Redact {
            keys: vec!["*pin*".into()],
            pointers: vec!["/params/arguments/place".into()],
            patterns: vec!["PLANTED-[0-9]+".into()],
            ..Redact::default()
        };
        let record = Record { edges: RecordEdges::Both, redact, ..Record::to(folder.path()) };
        settings.upstreams[0].record = Some(record);
        settings.upstreams[0].forward_headers = vec![];
    })
    .await;
    let session = proxy.session().await;
    let mut headers = session.headers();
    headers.extend([
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("Authorization", "Bearer secret-of-authorization"),
        ("Cookie", "id=secret-of-cookie"),
        ("X-Api-Key", "secret-of-x-api-key"),
    ]);
    let nested = json!({ "deep": { "password": "secret-of-json-in-text" } }).to_string();
    let arguments = json!({
        "text": "kept \u{e9}",
        "json": nested,
        "password": "secret-of-password",
        "client_secret": { "value": "secret-of-object" },
        "Access-Token": "secret-of-token",
        "my_pin_code": "secret-of-key",
        "place": "secret-of-pointer",
        "list": ["kept too", "it is PLANTED-12345 here", "ghp_secretsecretsecretsecretsecretsecret"],
    });
    let call = message("7", "tools/call", &json!({ "name": "echo", "arguments": arguments }).to_string());
    assert_eq!(super::common::send("POST", &proxy.url, &headers, &call).await.status, 200);
    // The answer repeats all of it, as JSON in a text.
    let mut arguments = arguments;
    arguments.as_object_mut().unwrap().remove("place");
    let answer = session.call("meta", arguments).ok().await.text().ok().await;
    assert!(answer.contains("secret-of-password"), "clients get what they always got: {answer}");
    session.delete().ok().await;
    proxy.close().await;

    let raw = raw(folder.path());
    for secret in ["secret-of", "PLANTED", "ghp_secret"] {
        let found = raw.match_indices(secret).map(|(at, _)| &raw[at.saturating_sub(60)..(at + 40).min(raw.len())]);
        assert_eq!(found.collect::<Vec<_>>(), [""; 0], "{secret}");
    }
    let tapes = tapes(folder.path());
    let [tape] = tapes.as_slice() else { panic!("{tapes:#?}") };
    assert_eq!(tape.header.redaction, ["defaults", "keys: 1", "pointers: 1", "patterns: 1"]);
    for (from, to) in [(Party::Client, Party::Proxy), (Party::Proxy, Party::Upstream)] {
        let is_call = |frame: &&Frame| {
            (frame.from, frame.to) == (Some(from), Some(to))
                && super::text(frame).is_some_and(|text| text.contains("kept too"))
        };
        let call = tape.frames.iter().find(is_call).unwrap();
        assert!(call.redacted.contains(&"/params/arguments/place".to_owned()), "{call:?}");
        let text = super::text(call).unwrap();
        assert!(text.contains("\"kept \u{e9}") && text.contains("it is [redacted] here"), "{text}");
    }
}

/// C-TAPE-1, C-TAPE-2: the answers of a user to a question of the server are a client's message like any other.
#[tokio::test]
async fn what_a_user_answers_is_redacted_too() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), recorded(folder.path(), RecordEdges::Both)).await;
    let session = proxy.session().await;
    let mut response = session.call("ask", json!({ "message": "your password?" })).ok().await;
    let question = super::common::next(&mut response).await.unwrap().json();
    let content = json!({ "action": "accept", "content": { "password": "secret-of-user" } });
    assert_eq!(session.respond(&question["id"], &content).ok().await.status, 202);
    rest(&mut response).await;
    session.delete().ok().await;
    proxy.close().await;
    let tapes = tapes(folder.path());
    for (from, to) in [(Party::Client, Party::Proxy), (Party::Proxy, Party::Upstream)] {
        let said = tapes[0].said(from, to);
        assert!(said.iter().any(|text| text.contains(r#""content":{"password":"[redacted]"}"#)), "{said:?}");
        assert!(said.iter().any(|text| text.contains("your password?")), "{said:?}");
    }
}

fn calls_on(tape: &OnDisk) -> Vec<String> {
    tape.said(Party::Proxy, Party::Client).into_iter().filter(|text| text.contains("call ")).collect()
}

/// C-TAPE-3: 200 sessions at a time have a tape each, complete, with few files open at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_have_a_tape_each_and_few_files_are_open() {
    const SESSIONS: usize = 200;
    const FILES: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), |settings| {
        recorded(folder.path(), RecordEdges::Client)(settings);
        settings.upstreams[0].isolation = Isolation::Shared;
        settings.limits.tape_files = FILES;
    })
    .await;
    let seen = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let is_tape = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_link(entry.unwrap().path()).is_ok_and(|path| path.starts_with(folder.path()))
        };
        files.filter(|_| true).map(is_tape).filter(|is| *is).count()
    };
    // While one is looked at, another may take the place of one that was: what is open is what several looks see.
    let open = || (0..5).map(|_| seen()).min().unwrap();
    let most = AtomicU64::new(0);
    let run = async |number: usize| {
        let session = proxy.session().await;
        for call in 0..3 {
            let answer = session.call("echo", json!({ "text": format!("call {number}-{call}") })).ok().await;
            answer.text().ok().await;
            most.fetch_max(open() as u64, Ordering::Relaxed);
        }
        session
    };
    // All of them live at the same time.
    let sessions = futures_util::future::join_all((0..SESSIONS).map(run)).await;
    proxy.until_metric("shadowcat_tapes", &[], SESSIONS as f64).await;
    most.fetch_max(open() as u64, Ordering::Relaxed);
    drop(sessions);
    proxy.close().await;
    let most = most.load(Ordering::Relaxed);
    assert!((1..=FILES as u64).contains(&most), "{most} files were open");
    let tapes = tapes(folder.path());
    assert_eq!(tapes.len(), SESSIONS);
    let mut all: Vec<String> = tapes.iter().map(|tape| calls_on(tape).join("")).collect();
    assert!(tapes.iter().all(|tape| calls_on(tape).len() == 3), "each has its own, and nothing else");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), SESSIONS);
}

/// C-TAPE-1: a long session goes on in further files, which name each other, and nothing is missing between them.
#[tokio::test]
async fn a_long_session_is_on_several_tapes_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), |settings| {
        recorded(folder.path(), RecordEdges::Client)(settings);
        settings.limits.tape_bytes = 4 << 10;
    })
    .await;
    let session = proxy.session().await;
    let mut said = Vec::new();
    for call in 0..40 {
        said.push(session.call("echo", json!({ "text": format!("call {call}") })).ok().await.text().ok().await);
    }
    session.delete().ok().await;
    proxy.close().await;
    let mut tapes = tapes(folder.path());
    assert!(tapes.len() > 2, "{}", tapes.len());
    let mut next = tapes.iter().position(|tape| tape.header.continues.is_none());
    let mut found = Vec::new();
    while let Some(at) = next {
        let tape = tapes.swap_remove(at);
        found.extend(calls_on(&tape));
        let Ending::Proper { next: name, .. } = &tape.ending else { panic!("{:?}", tape.ending) };
        next = name.as_ref().map(|name| tapes.iter().position(|tape| tape.name == *name).unwrap());
        if let Some(at) = next {
            assert_eq!(tapes[at].header.continues.as_ref(), Some(&tape.name));
        }
    }
    assert_eq!(found, said);
    assert!(tapes.is_empty());
}

/// C-TAPE-1, failure model R3: killed in the middle of traffic, the tapes can be read, say that they were cut short, and have all
/// that was answered a moment before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tapes_survive_a_kill_in_the_middle_of_traffic() {
    const CLIENTS: u64 = 4;
    let folder = tempfile::tempdir().unwrap();
    let options = ["--record", folder.path().to_str().unwrap(), "--record-edges", "both", "--isolation", "shared"];
    let program = Program::start(legacy(), &options).await;
    let (answered, killed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let traffic = |client: u64| {
        let (url, answered, killed) = (program.url.clone(), Arc::clone(&answered), Arc::clone(&killed));
        async move {
            let session = LegacySession::open(&url, LEGACY, everything()).ok().await;
            for call in 0.. {
                let text = format!("call {client}-{call};");
                let answer = async { session.call("echo", json!({ "text": text })).await?.text().await }.await;
                match answer {
                    Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    Err(error) if killed.load(Ordering::Relaxed) => return drop(error),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let look = async {
        // A thousand messages and more are on the disk while the traffic goes on.
        let is_answer = |line: &&str| line.contains(r#""to":"client""#) && line.contains("call ");
        let on_disk = async || raw(folder.path()).lines().filter(is_answer).count();
        until("a thousand answers", async || answered.load(Ordering::Relaxed), |count| *count >= 1000).await;
        let before = answered.load(Ordering::Relaxed);
        // What was asked and not answered counts for nothing.
        until("they are on the disk", on_disk, |count| *count as u64 >= before).await;
        killed.store(true, Ordering::Relaxed);
        program.signal(Signal::KILL);
        before
    };
    let traffic = futures_util::future::join_all((0..CLIENTS).map(traffic));
    let (before, _) = tokio::time::timeout(DEADLINE, async { tokio::join!(look, traffic) }).await.unwrap();
    assert_eq!(program.exit_code().await, None);
    let mut calls = 0;
    let tapes = tapes(folder.path());
    assert_eq!(tapes.len() as u64, CLIENTS);
    for tape in &tapes {
        assert!(!matches!(tape.ending, Ending::Proper { .. }), "{:?}", tape.ending);
        assert_eq!(tape.lost(), 0, "the disk kept up");
        calls += calls_on(tape).len() as u64;
    }
    assert!(calls >= before, "{calls} of {before}");
}

/// `shadowcat serve` under a limit of the operating system: no file may be larger. Servers and logs do not come near it.
async fn limited(script: Script, options: &[&str], blocks: usize) -> Program {
    Program::under(
        &["/bin/sh", "-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")],
        script,
        options,
    )
    .await
}

/// C-TAPE-3, failure model R1: a disk that is full is no concern of the traffic: all is answered, and the tape is good as far as it goes.
#[tokio::test]
async fn a_full_disk_does_not_stop_traffic() {
    for policy in ["drop", "block"] {
        let folder = tempfile::tempdir().unwrap();
        let options = ["--record", folder.path().to_str().unwrap(), "--record-policy", policy];
        let program = limited(legacy(), &options, 32).await;
        let session = LegacySession::open(&program.url, LEGACY, everything()).ok().await;
        let call = async |call: usize| {
            let words = format!("call {call} {}", "x".repeat(500));
            let answer = session.call("echo", json!({ "text": words })).ok().await.json().ok().await;
            assert_eq!(text(&answer), words, "{policy}");
        };
        for number in 0..6 {
            call(number).await;
        }
        let on_disk = async || tapes(folder.path()).iter().map(|tape| calls_on(tape).len()).sum::<usize>();
        until("they are on the disk", on_disk, |count| *count == 6).await;
        for number in 6..60 {
            call(number).await;
        }
        program.signal(Signal::TERM);
        program.exit_code().await;
        let tapes = tapes(folder.path());
        let first = tapes.iter().find(|tape| tape.header.continues.is_none()).unwrap();
        assert!(calls_on(first).len() >= 6, "{policy}: what was good stays");
        // There may be room left to say what is missing; else it was cut short, and in no case within a line.
        match &first.ending {
            Ending::Proper { .. } => assert!(first.lost() > 0, "{policy}"),
            ending => assert_eq!(*ending, Ending::CutShort, "{policy}"),
        }
        let written: usize = tapes.iter().map(|tape| calls_on(tape).len()).sum();
        assert!(written < 60, "{policy}: {written}");
    }
}

/// C-TAPE-3: where recording is required, what cannot be recorded does not pass, and the client is told why; when the disk is there
/// again, so is the service.
#[tokio::test]
async fn required_recording_refuses_traffic_while_the_disk_fails() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("tapes");
    let proxy = Proxy::with(modern(), |settings| {
        let record = Record { policy: RecordPolicy::Required, ..Record::to(&folder) };
        settings.upstreams[0].record = Some(record);
    })
    .await;
    let call = |text: &str| Modern::call("echo", json!({ "text": text }));
    assert_eq!(call("fine").post(&proxy.url).ok().await.status, 200);
    until("it is on the disk", async || tapes(&folder).len(), |count| *count == 1).await;
    // Another client has another tape, which cannot be made.
    let hidden = parent.path().join("hidden");
    std::fs::rename(&folder, &hidden).unwrap();
    let other = |text: &str| call(text).header("Authorization", Some("Bearer other"));
    let refused = async || {
        // While nobody knows yet, an answer may be cut off.
        match other("refused").post(&proxy.url).await {
            Ok(response) => (response.status, response.json().await.unwrap_or_default()),
            Err(_) => (0, json!(null)),
        }
    };
    let (_, answer) = until("it is refused", refused, |(status, _)| *status == 503).await;
    assert_ours(&answer, -31004);
    assert_eq!(answer["error"]["data"]["reason"], "unrecorded", "{answer}");
    std::fs::rename(&hidden, &folder).unwrap();
    let status = async || other("again").post(&proxy.url).await.map_or(0, |response| response.status);
    until("it is served again", status, |status| *status == 200).await;
    proxy.close().await;
    let tapes = tapes(&folder);
    assert!(tapes.iter().any(|tape| tape.has_message_with("again")), "{tapes:#?}");
    let gap = |frame: &Frame| matches!(&frame.kind, Kind::Gap { why, .. } if why == "the disk did not take it");
    assert!(tapes.iter().any(|tape| tape.frames.iter().any(gap)), "{tapes:#?}");
}

/// Who asks for a recording that cannot be is told before anything is served.
#[tokio::test]
async fn a_folder_that_cannot_be_written_is_refused_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("tapes");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--record", folder.to_str().unwrap()];
    let run = assert_cmd::Command::new(super::common::PROGRAM).args(arguments).timeout(DEADLINE).assert();
    let run = run.code(3);
    let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(said.contains("cannot record to") && said.contains("--record"), "{said}");
}

/// A tape is readable for whoever follows it while it is written.
#[tokio::test]
async fn a_tape_can_be_followed_while_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), recorded(folder.path(), RecordEdges::Client)).await;
    let session = proxy.session().await;
    let look = async || tapes(folder.path()).first().map(|tape| (tape.frames.len(), tape.ending.clone()));
    let seen =
        until("the handshake is on the disk", look, |seen| seen.as_ref().is_some_and(|(frames, _)| *frames > 2)).await;
    assert_eq!(seen.unwrap().1, Ending::CutShort);
    let [name] = tapes(folder.path()).into_iter().map(|tape| tape.name).collect::<Vec<_>>().try_into().unwrap();
    let mut reader = Reader::open(folder.path().join(name)).unwrap();
    while reader.next_written().unwrap().is_some() {}
    session.call("echo", json!({ "text": "more" })).ok().await.text().ok().await;
    let more = async || reader.next_written().unwrap().and_then(|frame| super::text(&frame)).unwrap_or_default();
    until("it goes on", more, |text| text.contains("more")).await;
    proxy.close().await;
}
