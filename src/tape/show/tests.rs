//! What people get to see of a tape.

use std::sync::Arc;

use super::super::format::{Http, Intervention, Party, Sse};
use super::*;

fn frame(seq: u64, at: u64, way: (Party, Party), text: &str) -> Frame {
    Frame::message(seq, at, way.0, way.1, text.to_owned())
}

const IN: (Party, Party) = (Party::Client, Party::Proxy);
const UP: (Party, Party) = (Party::Proxy, Party::Upstream);
const DOWN: (Party, Party) = (Party::Upstream, Party::Proxy);
const OUT: (Party, Party) = (Party::Proxy, Party::Client);

fn call(id: &str, tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}},"_meta":{{"progressToken":{id}}}}}}}"#
    )
}

fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn tape() -> Vec<Frame> {
    let mut frames = vec![
        frame(1, 0, IN, r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#),
        frame(2, 950, OUT, &result("0", "{}")),
        frame(3, 1_200, IN, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        frame(4, 2_000, IN, &call("\"a\"", "slow")),
        frame(5, 2_100, UP, &call("1", "slow")),
        frame(6, 3_000, IN, &call("7", "broken")),
        frame(
            7,
            4_000,
            DOWN,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"total":4}}"#,
        ),
        frame(8, 5_000, DOWN, r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"?"}}"#),
        frame(9, 5_500, UP, &result("1", r#"{"action":"accept"}"#)),
        frame(10, 6_000, OUT, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"No such tool"}}"#),
        frame(
            11,
            1_500_000,
            DOWN,
            &result("1", r#"{"content":[{"type":"text","text":"out of paper"}],"isError":true}"#),
        ),
        frame(12, 1_500_100, OUT, &result("\"a\"", r#"{"content":[]}"#)),
        frame(13, 1_600_000, OUT, &result("99", "{}")),
        frame(14, 1_600_000, DOWN, "Listening on port\u{1b}[31m 3000"),
        frame(15, 1_700_000, IN, &call("8", "for\u{202e}ever\\u0007")),
        frame(16, 1_800_000, IN, r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":8}}"#),
        frame(
            17,
            1_900_000,
            IN,
            r#"[{"jsonrpc":"2.0","id":20,"method":"ping"},{"jsonrpc":"2.0","id":21,"method":"tools/list"}]"#,
        ),
        Frame::new(18, 2_000_000, Kind::Gap { lost: 12, bytes: 3456, why: "the disk did not keep up".into() }),
        Frame::new(19, 2_000_000, Kind::Http),
        Frame::new(20, 2_000_000, Kind::Event),
        Frame::new(21, 2_000_000, Kind::Close { reason: "server exited with 1".into() }),
        Frame::new(22, 2_000_000, Kind::Other("smell".into())),
        Frame::new(23, 61_000_000, Kind::End { reason: "rotated".into(), next: Some("b.tape.jsonl".into()) }),
    ];
    frames[0].http = Some(Arc::new(Http { method: Some("POST".into()), ..Http::default() }));
    frames[3].redacted = vec!["/params/arguments/token".into()];
    frames[4].by =
        vec![Intervention { name: "faults".into(), did: "delayed".into(), ms: Some(20), ..Intervention::default() }];
    frames[9].http = Some(Arc::new(Http { status: Some(404), ..Http::default() }));
    frames[18].http = Some(Arc::new(Http { status: Some(202), ..Http::default() }));
    frames[18].from = Some(Party::Proxy);
    frames[18].to = Some(Party::Client);
    frames[19].sse = Some(Box::new(Sse { id: Some("1-0".into()), ..Sse::default() }));
    frames
}

fn shown(filter: Filter) -> String {
    let mut timeline = Timeline::new(filter);
    let mut text: String = tape().iter().map(|frame| timeline.see(frame)).collect();
    text += &timeline.summary(&Ending::Proper { reason: String::new(), next: None });
    text
}

#[test]
fn a_tape_is_a_timeline() {
    insta::assert_snapshot!(shown(Filter::default()));
}

#[test]
fn what_is_looked_for_is_shown_with_its_answers() {
    let method = |method: &str| Filter { method: Some(method.into()), ..Filter::default() };
    insta::assert_snapshot!("by_method", shown(method("tools/*")));
    insta::assert_snapshot!("by_notification", shown(method("notifications/progress")));
    insta::assert_snapshot!("by_tool", shown(Filter { subject: Some("slow".into()), ..Filter::default() }));
    insta::assert_snapshot!("by_id", shown(Filter { id: Some("7".into()), ..Filter::default() }));
    let text = shown(Filter { id: Some("a".into()), ..Filter::default() });
    assert_eq!(text.lines().filter(|line| line.contains("slow")).count(), 2, "{text}");
}

#[test]
fn the_end_says_what_is_missing() {
    let timeline = Timeline::default();
    let told = [Ending::CutShort, Ending::Torn { bytes: 17 }].map(|ending| timeline.summary(&ending)).concat();
    insta::assert_snapshot!(told);
}

#[test]
fn a_title_says_what_was_recorded() {
    let header = r#"{"shadowcat_tape":1,"started":"2026-11-23T14:00:00.000Z","by":"shadowcat 0.1.0","upstream":"fi\u0007les","client":"http+sse","server":"carrier pigeon","continues":"a.tape.jsonl"}"#;
    insta::assert_snapshot!(
        title(&Header::parse(header.as_bytes()).unwrap()),
        @"fi�les · 2026-11-23T14:00:00.000Z · shadowcat 0.1.0 · client: http+sse · server: carrier pigeon · continues a.tape.jsonl"
    );
}
