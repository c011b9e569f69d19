//! What is on the tape is what crossed the wire, on both sides.

use std::path::Path;

use serde_json::json;
use shadowcat::settings::{HttpTarget, HttpTransport, Isolation, RecordEdges, Target, UpstreamSettings};
use shadowcat::tape::{Edge, Ending, Frame, Kind, Party, Transport};
use shadowcat::testing::MockSse;
use shadowcat::testing::client::{LegacySession, Modern};

use super::common::{Era, InTime, PROGRAM, Proxy, command, legacy, message, modern, rest, script_file, until};
use super::{json as json_of, recorded, tapes, text};

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
    assert_eq!(json_of(&up[0])["method"], "initialize");
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
    let of_call = tape.frames.iter().find(|frame| text(frame).as_deref() == Some(call)).unwrap();
    let of_answer = tape.frames.iter().find(|frame| text(frame).as_deref() == Some(&answer)).unwrap();
    assert!(of_call.exchange.is_some() && of_call.exchange == of_answer.exchange, "{of_call:?} {of_answer:?}");
    assert!(tape.frames.iter().any(|frame| matches!(&frame.kind, Kind::Close { .. })), "the stream has an end");
}

/// A server on standard input and output with somebody on the line: what it is told and what it says goes to these files, too.
fn overheard(folder: &Path, script: &Path) -> UpstreamSettings {
    let (heard, said) = (folder.join("heard"), folder.join("said"));
    let line = format!(
        "tee '{}' | '{PROGRAM}' fake stdio --script '{}' | tee '{}'",
        heard.display(),
        script.display(),
        said.display()
    );
    command("/bin/sh", vec!["-c".into(), line])
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// C-TAPE-1: with both edges, what the server was told and what it said is on the tape, too, in the order in which it passed the
/// pipes: the handshake before anybody knew for whom it was, and what the proxy says by itself, included.
#[tokio::test]
async fn both_edges_are_on_the_tape_of_a_session_with_a_process() {
    let (folder, wire) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = script_file(&legacy());
    let upstream = overheard(wire.path(), script.path());
    let proxy = Proxy::with(legacy(), |settings| {
        settings.upstreams[0] = upstream;
        recorded(folder.path(), RecordEdges::Both)(settings);
    })
    .await;
    let session = proxy.session().await;
    let answer = session.call("echo", json!({ "text": "both" })).ok().await.text().ok().await;
    let params = json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": "t" } });
    rest(&mut session.send(&message("8", "tools/call", &params.to_string())).ok().await).await;
    session.delete().ok().await;
    proxy.close().await;

    let tapes = tapes(folder.path());
    let [tape] = tapes.as_slice() else { panic!("{tapes:#?}") };
    assert_eq!(tape.header.edges, [Edge::Client, Edge::Upstream]);
    assert_eq!(tape.said(Party::Proxy, Party::Upstream), lines(&wire.path().join("heard")));
    assert_eq!(tape.said(Party::Upstream, Party::Proxy), lines(&wire.path().join("said")));
    assert!(tape.said(Party::Proxy, Party::Client).contains(&answer));
    for frame in tape.edge(Edge::Upstream) {
        assert_eq!((frame.connection, frame.exchange), (Some(1), None), "{frame:?}");
    }
    // Nothing is answered before the server has answered.
    let at = |from, to, part: &str| {
        let position = |frame: &Frame| {
            (frame.from, frame.to) == (Some(from), Some(to)) && text(frame).is_some_and(|text| text.contains(part))
        };
        tape.frames.iter().position(position).unwrap()
    };
    let way = [
        at(Party::Client, Party::Proxy, "both"),
        at(Party::Proxy, Party::Upstream, "both"),
        at(Party::Upstream, Party::Proxy, "both"),
        at(Party::Proxy, Party::Client, "both"),
    ];
    assert!(way.is_sorted(), "{way:?}");
    assert!(tape.edge(Edge::Upstream).any(|frame| matches!(&frame.kind, Kind::Close { .. })), "the end of the process");
}

/// C-TAPE-1: the same where the server speaks HTTP: requests with their heads, answers as JSON and as events, the standing stream,
/// and the end of the session.
#[tokio::test]
async fn both_edges_are_on_the_tape_of_a_session_with_a_server_behind_http() {
    let folder = tempfile::tempdir().unwrap();
    let mock = MockSse::start(legacy()).ok().await;
    let target = HttpTarget {
        url: mock.url().parse().unwrap(),
        headers: vec![("authorization".parse().unwrap(), "Bearer upstream-credential".parse().unwrap())],
        transport: HttpTransport::Streamable,
    };
    let proxy = Proxy::with(legacy(), |settings| {
        settings.upstreams[0] = UpstreamSettings::new("web", Target::Http(target));
        recorded(folder.path(), RecordEdges::Both)(settings);
    })
    .await;
    let session = proxy.session().await;
    let _listening = session.stream(None).ok().await;
    let is_asked = || mock.requests().iter().any(|request| request.method == "GET");
    until("the server's standing stream is asked for", async || is_asked(), |asked| *asked).await;
    session.call("echo", json!({ "text": "both" })).ok().await.text().ok().await;
    let params = json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": "t" } });
    rest(&mut session.send(&message("8", "tools/call", &params.to_string())).ok().await).await;
    session.delete().ok().await;
    until(
        "the server's session is deleted",
        async || mock.requests().len(),
        |_| mock.requests().iter().any(|request| request.method == "DELETE"),
    )
    .await;
    proxy.close().await;

    let tapes = tapes(folder.path());
    let [tape] = tapes.as_slice() else { panic!("{tapes:#?}") };
    let mut sent = tape.said(Party::Proxy, Party::Upstream);
    let mut received: Vec<String> =
        mock.requests().into_iter().map(|request| request.body).filter(|body| !body.is_empty()).collect();
    // Several requests are under way at the same time.
    sent.sort();
    received.sort();
    assert_eq!(sent, received);
    let methods: Vec<_> = tape.edge(Edge::Upstream).filter_map(|frame| frame.http.as_ref()?.method.clone()).collect();
    for method in ["GET", "DELETE"] {
        assert!(methods.iter().any(|known| known == method), "{method}: {methods:?}");
    }
    let heard = tape.said(Party::Upstream, Party::Proxy);
    assert_eq!(heard.iter().filter(|text| text.contains("notifications/progress")).count(), 2, "{heard:?}");
    // Each answer is tied to what it answers.
    for frame in tape.edge(Edge::Upstream).filter(|frame| frame.from == Some(Party::Upstream)) {
        let exchange = frame.exchange.unwrap_or_else(|| panic!("{frame:?}"));
        let asked =
            tape.edge(Edge::Upstream).any(|one| one.exchange == Some(exchange) && one.from == Some(Party::Proxy));
        assert!(asked, "{frame:?}");
    }
    let raw = std::fs::read_to_string(folder.path().join(&tape.name)).unwrap();
    assert!(!raw.contains("upstream-credential"), "what is sent to the server to be let in is nobody's business");
}

/// C-TAPE-1: a call that its client has left is taken back from a server behind HTTP, and the tape says so. One that was answered is not.
#[tokio::test]
async fn a_call_that_was_taken_back_is_closed_on_the_tape() {
    let folder = tempfile::tempdir().unwrap();
    let mock = MockSse::start(modern()).ok().await;
    let target = HttpTarget { url: mock.url().parse().unwrap(), headers: vec![], transport: HttpTransport::Streamable };
    let proxy = Proxy::with(modern(), |settings| {
        settings.upstreams[0] = UpstreamSettings::new("web", Target::Http(target));
        recorded(folder.path(), RecordEdges::Both)(settings);
    })
    .await;
    let progress = Modern::call("progress", json!({ "steps": 2 })).progress_token(json!("p"));
    rest(&mut progress.post(&proxy.url).ok().await).await;
    {
        let call = Modern::call("sleep", json!({ "ms": 60_000 }));
        let mut left = Box::pin(call.post(&proxy.url));
        let asked = async || mock.requests().iter().filter(|request| request.body.contains("sleep")).count();
        tokio::select! {
            _ = until("the server is asked", asked, |count| *count == 1) => {}
            response = &mut left => panic!("{response:?}"),
        }
    }
    proxy.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
    proxy.close().await;

    let tapes = tapes(folder.path());
    let [tape] = tapes.as_slice() else { panic!("{tapes:#?}") };
    let exchange = |tool: &str| {
        let wanted = format!(r#""name":"{tool}""#);
        let asked = |frame: &&Frame| frame.is_upward() && text(frame).is_some_and(|text| text.contains(&wanted));
        tape.edge(Edge::Upstream).find(asked).unwrap().exchange
    };
    let closes = |tool: &str| {
        let of = tape.edge(Edge::Upstream).filter(|frame| frame.exchange == exchange(tool));
        of.filter(|frame| matches!(frame.kind, Kind::Close { .. }) && frame.is_upward()).count()
    };
    assert_eq!((closes("sleep"), closes("progress")), (1, 0), "{tape:#?}");
}

/// C-TAPE-1: clients without a session have a tape each, whatever connection they share, and what was asked of the server for one of
/// them is on its own.
#[tokio::test]
async fn clients_without_a_session_have_a_tape_each() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(modern(), recorded(folder.path(), RecordEdges::Both)).await;
    for name in ["one", "two", "one"] {
        let call = Modern::call("echo", json!({ "text": format!("said by {name}") }))
            .header("Authorization", Some(&format!("Bearer {name}-credential")));
        let answer = call.post(&proxy.url).ok().await.text().ok().await;
        assert!(answer.contains(&format!("said by {name}")), "{answer}");
    }
    proxy.close().await;

    let tapes = tapes(folder.path());
    assert_eq!(tapes.len(), 2, "{tapes:#?}");
    let of = |name: &str| tapes.iter().find(|tape| tape.has_message_with(&format!("said by {name}"))).unwrap();
    assert!(!of("one").has_message_with("said by two") && !of("two").has_message_with("said by one"), "{tapes:#?}");
    for (name, calls) in [("one", 2), ("two", 1)] {
        for way in [
            (Party::Client, Party::Proxy),
            (Party::Proxy, Party::Upstream),
            (Party::Upstream, Party::Proxy),
            (Party::Proxy, Party::Client),
        ] {
            let said = of(name).said(way.0, way.1);
            let mine = said.iter().filter(|text| text.contains(&format!("said by {name}"))).count();
            assert_eq!(mine, calls, "{name} {way:?}: {said:?}");
        }
    }
    for tape in &tapes {
        let raw = std::fs::read_to_string(folder.path().join(&tape.name)).unwrap();
        assert!(!raw.contains("credential"), "{raw}");
    }
}

/// C-TAPE-1: a client of 2024-11-05 has a tape for its connection.
#[tokio::test]
async fn a_client_of_http_sse_has_a_tape_for_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), recorded(folder.path(), RecordEdges::Both)).await;
    let mut session = proxy.sse().await;
    let call = message("5", "tools/call", r#"{"name":"echo","arguments":{"text":"old"}}"#);
    session.send(&call).ok().await;
    let answer = session.next().ok().await;
    assert_eq!(super::common::text(&answer), "old");
    drop(session);
    proxy.until_metric("shadowcat_sessions", &[], 0.0).await;
    proxy.close().await;

    let tapes = tapes(folder.path());
    let [tape] = tapes.as_slice() else { panic!("{tapes:#?}") };
    assert_eq!(tape.header.client, Some(Transport::HttpSse));
    assert!(tape.said(Party::Client, Party::Proxy).contains(&call));
    assert!(tape.said(Party::Proxy, Party::Client).iter().any(|text| json_of(text) == answer), "{tape:#?}");
    assert!(tape.said(Party::Proxy, Party::Upstream).iter().any(|text| text.contains("old")), "{tape:#?}");
    let gone = |frame: &Frame| matches!(&frame.kind, Kind::Close { reason } if reason == "client went away");
    assert!(tape.edge(Edge::Client).any(gone), "{tape:#?}");
}

/// C-TAPE-1: where client and server are of different eras, the tape has what each of them saw, in its own words.
#[tokio::test]
async fn both_edges_are_on_the_tape_where_the_eras_differ() {
    for (client, server) in [(Era::Legacy, Era::Modern), (Era::Modern, Era::Legacy)] {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::with(server.server(), recorded(folder.path(), RecordEdges::Both)).await;
        let caller = proxy.client(client).await;
        assert_eq!(super::common::text(&caller.call("echo", json!({ "text": "across" })).await), "across");
        drop(caller);
        proxy.close().await;
        let tapes = tapes(folder.path());
        let [tape] = tapes.as_slice() else { panic!("{tapes:#?}") };
        let call = |from, to| {
            let said = tape.said(from, to).into_iter().filter(|text| text.contains("across"));
            said.map(|text| json_of(&text)).collect::<Vec<_>>()
        };
        for (from, to, era) in [(Party::Client, Party::Proxy, client), (Party::Proxy, Party::Upstream, server)] {
            let [one] = &call(from, to)[..] else { panic!("{tape:#?}") };
            let has_envelope = one["params"]["_meta"].get("io.modelcontextprotocol/protocolVersion").is_some();
            assert_eq!(has_envelope, era == Era::Modern, "{from:?}: {one}");
        }
        assert_eq!(call(Party::Upstream, Party::Proxy).len(), 1, "{tape:#?}");
        assert_eq!(call(Party::Proxy, Party::Client).len(), 1, "{tape:#?}");
    }
}

/// C-TAPE-1: sessions that share a process have on their tapes what was said to it for each of them, and nothing of each other's.
#[tokio::test]
async fn sessions_that_share_a_process_have_their_own_calls_on_their_tapes() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), |settings| {
        settings.upstreams[0].isolation = Isolation::Shared;
        recorded(folder.path(), RecordEdges::Both)(settings);
    })
    .await;
    let (one, two) = tokio::join!(proxy.session(), proxy.session());
    let call = async |session: &LegacySession, name: &str| {
        let params =
            json!({ "name": "progress", "arguments": { "steps": 2, "who": name }, "_meta": { "progressToken": name } });
        rest(&mut session.send(&message("8", "tools/call", &params.to_string())).ok().await).await
    };
    let (first, second) = tokio::join!(call(&one, "one"), call(&two, "two"));
    assert_eq!((first.len(), second.len()), (3, 3));
    proxy.close().await;
    let tapes = tapes(folder.path());
    assert_eq!(tapes.len(), 2, "{tapes:#?}");
    for tape in &tapes {
        let sent = tape.said(Party::Proxy, Party::Upstream);
        assert_eq!(sent.iter().filter(|text| text.contains("tools/call")).count(), 1, "{sent:#?}");
        let heard = tape.said(Party::Upstream, Party::Proxy);
        let of_call = heard.iter().filter(|text| text.contains("notifications/progress")).count();
        assert_eq!(of_call, 2, "{heard:#?}");
    }
}
