//! What is on the tape is what crossed the wire, on both sides.

use serde_json::json;
use shadowcat::settings::RecordEdges;
use shadowcat::tape::{Edge, Ending, Kind, Party, Transport};
use shadowcat::testing::client::Modern;

use super::common::{Era, InTime, LEGACY, MODERN, Proxy, legacy, message, modern, notification, rest};
use super::{json, recorded, tapes};

/// C-TAPE-1, C-TAPE-2: a session has a tape, on which its messages stand byte for byte.
#[tokio::test]
async fn a_session_is_on_one_tape_as_its_client_saw_it() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), recorded(folder.path(), RecordEdges::Client)).await;
    let session = proxy.session().await;
    // As no serialiser would write it.
    let call = "{ \"id\" : 7,\"jsonrpc\":\"2.0\",\"method\":\"tools/call\", \"params\":{\"name\":\"echo\",\"arguments\":{\"text\":\"h\\u0069\"}}}";
    let answer = session.send(call).ok().await.text().ok().await;
    let params = json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": "t" } });
    let mut response = session.send(&message("8", "tools/call", &params.to_string())).ok().await;
    let events: Vec<String> = rest(&mut response).await.into_iter().filter_map(|event| event.data).collect();
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(session.delete().ok().await.status, 204);
    let id =
        session.headers().iter().find(|(name, _)| name.eq_ignore_ascii_case("mcp-session-id")).unwrap().1.to_owned();
    proxy.close().await;

    let tapes = tapes(folder.path());
    let [tape] = tapes.as_slice() else { panic!("{tapes:#?}") };
    assert!(tape.name.starts_with("fake-") && tape.name.ends_with(".tape.jsonl"), "{}", tape.name);
    assert_eq!(tape.header.upstream.as_deref(), Some("fake"));
    assert_eq!((&tape.header.client, &tape.header.server), (&Some(Transport::Http), &Some(Transport::Stdio)));
    assert_eq!(tape.header.edges, [Edge::Client]);
    assert!(matches!(&tape.ending, Ending::Proper { .. }), "{:?}", tape.ending);
    let up = tape.said(Party::Client, Party::Proxy);
    assert_eq!(json(&up[0])["method"], "initialize");
    assert!(up.contains(&call.to_owned()), "{up:?}");
    let down = tape.said(Party::Proxy, Party::Client);
    assert!(down.contains(&answer), "{down:?}");
    for event in &events {
        assert!(down.contains(event), "{event}: {down:?}");
    }
    // The heads: what may be known of them.
    let first = tape.frames[0].http.as_ref().unwrap();
    assert_eq!((first.method.as_deref(), first.headers["content-type"].as_str()), (Some("POST"), "application/json"));
    let opened = tape.frames.iter().find(|frame| frame.from == Some(Party::Proxy)).unwrap();
    let opened = opened.http.as_ref().unwrap();
    assert_eq!(opened.status, Some(200));
    let pseudonym = &opened.headers["mcp-session-id"];
    assert!(pseudonym.starts_with("session-"), "{pseudonym}");
    let raw = std::fs::read_to_string(folder.path().join(&tape.name)).unwrap();
    assert!(!raw.contains(&id), "the session's id is as good as a credential");
    // What belongs together says so.
    let of_call = tape.frames.iter().find(|frame| super::text(frame).as_deref() == Some(call)).unwrap();
    let of_answer = tape.frames.iter().find(|frame| super::text(frame).as_deref() == Some(&answer)).unwrap();
    assert!(of_call.exchange.is_some() && of_call.exchange == of_answer.exchange, "{of_call:?} {of_answer:?}");
    assert!(tape.frames.iter().any(|frame| matches!(&frame.kind, Kind::Close { .. })), "the stream has an end");
}
