//! What is found on tapes that are not as they should be, and on those that are.

use super::super::whole::Tape;
use super::*;

fn frame(seq: u64, at: u64, from: Party, to: Party, text: &str) -> Frame {
    Frame::message(seq, at, from, to, text.to_owned())
}

fn report(frames: &[Frame], ending: &Ending) -> Report {
    let mut check = Check::default();
    frames.iter().for_each(|frame| check.see(frame));
    check.finish(ending)
}

fn told(frames: &[Frame], ending: &Ending) -> String {
    let report = report(frames, ending);
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    format!("{}\n{} messages, {} checked, {} faults", lines.join("\n"), report.messages, report.checked, report.faults)
}

const WHOLE: Ending = Ending::Proper { reason: String::new(), next: None };

#[test]
fn a_recorded_tape_has_no_faults() {
    let tape = Tape::open(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tapes/echo.tape.jsonl")).unwrap();
    assert_eq!(told(&tape.frames, &tape.ending), "\n9 messages, 9 checked, 0 faults");
}

#[test]
fn faults_of_structure_are_told() {
    let (client, proxy, upstream) = (Party::Client, Party::Proxy, Party::Upstream);
    let mut headless = Frame::new(13, 70, Kind::Message);
    (headless.from, headless.to) = (Some(client), Some(proxy));
    let mut lost = Frame::new(12, 70, Kind::Message);
    lost.from = Some(client);
    let frames = [
        frame(1, 0, client, proxy, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
        frame(3, 50, proxy, client, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        frame(4, 40, proxy, client, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        frame(5, 60, client, upstream, r#"{"jsonrpc":"2.0","method":"x"}"#),
        frame(6, 60, upstream, proxy, "\u{1b}[2Jready"),
        frame(7, 60, upstream, proxy, r#"{"jsonrpc":"1.0","id":1,"result":{}}"#),
        frame(8, 60, client, proxy, r#"{"jsonrpc":"2.0","id":"p","method":"tools/call","params":{"name":"slow"}}"#),
        Frame::new(9, 60, Kind::Gap { lost: 3, bytes: 99, why: "the disk is full".into() }),
        Frame::new(10, 60, Kind::Other("smell".into())),
        Frame::new(11, 60, Kind::End { reason: "done".into(), next: None }),
        lost,
        headless,
    ];
    insta::assert_snapshot!(told(&frames, &WHOLE));
    insta::assert_snapshot!("a_torn_end", told(&[], &Ending::Torn { bytes: 9 }));
    insta::assert_snapshot!("no_end", told(&[], &Ending::CutShort));
}

#[test]
fn messages_are_held_against_the_schema_of_their_revision() {
    let (client, proxy) = (Party::Client, Party::Proxy);
    let initialize = |version: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"a","version":"1"}}}}}}"#
        )
    };
    let agreed = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"b","version":"1"}}}"#;
    let mut redacted = frame(
        7,
        7,
        client,
        proxy,
        r#"{"jsonrpc":"2.0","id":4,"method":"logging/setLevel","params":{"level":"[redacted]"}}"#,
    );
    redacted.redacted = vec!["/params/level".into()];
    let modern = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":[]}}}"#;
    let frames = [
        frame(1, 1, client, proxy, &initialize("2025-11-25")),
        frame(2, 2, proxy, client, agreed),
        frame(3, 3, client, proxy, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#),
        frame(
            4,
            4,
            proxy,
            client,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"},{"inputSchema":{"type":"object"},"name":7}]}}"#,
        ),
        frame(
            5,
            5,
            proxy,
            client,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":"half"}}"#,
        ),
        frame(6, 6, proxy, client, r#"{"jsonrpc":"2.0","id":9,"error":{"code":"x","message":"y"}}"#),
        redacted,
        frame(8, 8, client, proxy, modern),
        frame(9, 9, proxy, client, r#"{"jsonrpc":"2.0","id":5,"result":{"content":{}}}"#),
        frame(10, 10, client, proxy, r#"{"jsonrpc":"2.0","id":6,"method":"their/own","params":{}}"#),
    ];
    insta::assert_snapshot!(told(&frames, &WHOLE));
}

#[test]
fn findings_are_bounded_and_counted() {
    let frames: Vec<Frame> = (0..3000).map(|_| Frame::new(1, 0, Kind::Other("x".into()))).collect();
    let report = report(&frames, &WHOLE);
    assert_eq!((report.findings.len(), report.more), (FINDINGS_MAX, 5999 - FINDINGS_MAX as u64));
}
