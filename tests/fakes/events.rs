//! What is wrong with events and their fields.

use super::raw::{LAST_CHUNK, Raw, parts};
use super::*;

/// The ids of the events of a call that reports progress twice: the one before all, two reports, the answer.
async fn ids(fault: Do) -> Vec<Option<String>> {
    let mock = start(script(AnswerForm::Sse).fault(On::tool("progress"), fault)).await;
    let session = session(&mock).await;
    let params = json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": 1 } });
    let mut response = session.request("tools/call", params).await.unwrap();
    let mut ids = Vec::new();
    while let Some(event) = response.event().await.unwrap() {
        // Without the number of the stream.
        ids.push(event.id.map(|id| id.split('-').next_back().unwrap_or_default().to_owned()));
    }
    ids
}

#[tokio::test]
async fn events_have_the_wrong_ids() {
    let wrong = |id, from| Do::EventId { id, from };
    let some = |ids: [&str; 4]| ids.map(|id| Some(id.to_owned())).to_vec();
    assert_eq!(ids(Do::Late { ms: 0 }).await, some(["0", "1", "2", "3"]), "the right ones");
    assert_eq!(ids(wrong(EventId::Missing, 0)).await, [None, None, None], "nor is there one before the first");
    assert_eq!(ids(wrong(EventId::Missing, 1)).await, [Some("0".into()), None, None, None]);
    assert_eq!(ids(wrong(EventId::Empty, 2)).await, some(["0", "1", "", ""]));
    assert_eq!(ids(wrong(EventId::Same, 1)).await, some(["0", "1", "1", "1"]));
}

/// An empty id is a field without a value, not no field.
#[tokio::test]
async fn an_id_is_taken_back() {
    let empty = Do::EventId { id: EventId::Empty, from: 0 };
    let mock = start(script(AnswerForm::Sse).fault(On::method("initialize"), empty)).await;
    let text = Raw::initialize(&mock).await.until(LAST_CHUNK).await;
    assert!(parts(&text).1.split_once("\r\n").unwrap().1.starts_with("id: \ndata: {"), "{text}");
}

#[tokio::test]
async fn lines_end_otherwise() {
    for (end, line) in [(LineEnd::Crlf, "\r\n"), (LineEnd::Cr, "\r")] {
        let faults = [Do::LineEnd(end), Do::Retry("7".into()), Do::Comments { count: 1, bytes: 2 }];
        let script = faults
            .into_iter()
            .fold(script(AnswerForm::Sse), |script, fault| script.fault(On::method("initialize"), fault));
        let text = Raw::initialize(&start(script).await).await.until(LAST_CHUNK).await;
        let blank = line.repeat(2);
        for piece in [format!("retry: 7{blank}\r\n"), format!(":cc{blank}\r\n"), format!("}}}}{blank}\r\n0\r\n")] {
            assert!(text.contains(&piece), "{piece:?} in {text:?}");
        }
        assert!(text.contains(&format!("\r\nid: 1-1{line}data: {{")), "{text:?}");
    }
    let mock = start(Script::default().fault(On::http("GET"), Do::LineEnd(LineEnd::Cr))).await;
    let text = Raw::sse(&mock).await.until("\r\r").await;
    assert!(text.contains("event: endpoint\rdata: /messages?session_id="), "{text:?}");
}
