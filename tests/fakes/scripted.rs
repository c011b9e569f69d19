//! What goes wrong over HTTP when the script says so.

use super::*;

#[tokio::test]
async fn statuses_and_headers_come_as_scripted() {
    let status = |code, header: (&str, &str)| Do::Status {
        code,
        headers: [(header.0.to_owned(), header.1.to_owned())].into(),
        body: "no".into(),
    };
    let mock = start(
        Script::default()
            .fault(On::method("tools/list").nth(1), status(503, ("Retry-After", "2")))
            .fault(On::method("tools/list").nth(2), status(307, ("Location", "http://192.0.2.1/")))
            .fault(On::method("tools/list").nth(3), Do::ContentType("text/html".into()))
            .fault(On::method("tools/list").nth(4), Do::Header { bytes: 100_000, endless: false }),
    )
    .await;
    let list = Modern::new("tools/list");
    let busy = list.post(&mock.url()).await.unwrap();
    assert_eq!((busy.status, busy.headers.get("retry-after")), (503, Some("2")));
    assert_eq!(busy.text().await.unwrap(), "no");
    assert_eq!(list.post(&mock.url()).await.unwrap().headers.get("location"), Some("http://192.0.2.1/"));
    assert_eq!(list.post(&mock.url()).await.unwrap().headers.get("content-type"), Some("text/html"));
    let padded = list.post(&mock.url()).await.unwrap();
    assert!(padded.headers.iter().any(|(_, value)| value.len() == 100_000));
    assert_eq!(list.post(&mock.url()).await.unwrap().status, 200);
}

#[tokio::test]
async fn connections_break_as_scripted() {
    let cut = |after, end| Do::Cut { after, end };
    let at = |events, bytes| Some(At { events, bytes });
    let mock = start(
        script(AnswerForm::Json)
            .fault(On::tool("echo").nth(1), cut(None, End::Abrupt))
            .fault(On::tool("echo").nth(2), cut(None, End::Reset))
            .fault(On::tool("echo").nth(3), cut(at(0, 7), End::Abrupt))
            .fault(On::tool("echo").nth(4), cut(at(0, 7), End::Clean))
            .fault(On::tool("echo").nth(5), Do::Hang)
            .fault(On::tool("echo").nth(6), Do::Stall(At { events: 0, bytes: 3 })),
    )
    .await;
    let (call, url) = (Modern::call("echo", json!({ "text": "x" })), mock.url());
    assert_eq!(call.post(&url).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(call.post(&url).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    call.post(&url).await.unwrap().text().await.unwrap_err();
    assert_eq!(call.post(&url).await.unwrap().text().await.unwrap(), "{\"jsonr");
    let brief = Duration::from_millis(200);
    assert!(tokio::time::timeout(brief, call.post(&url)).await.is_err(), "no headers");
    let stalled = call.post(&url).await.unwrap();
    assert!(tokio::time::timeout(brief, stalled.text()).await.is_err(), "no end");
}

#[tokio::test]
async fn streams_break_as_scripted() {
    let mock = start(
        script(AnswerForm::Sse)
            .fault(On::tool("echo").nth(1), Do::Comments { count: 3, bytes: 10 })
            .fault(On::tool("echo").nth(2), Do::Retry("0".into()))
            .fault(On::tool("echo").nth(3), Do::Duplicate)
            .fault(On::tool("echo").nth(4), Do::Slice { bytes: 1, gap_ms: 0, head: false })
            .fault(On::tool("echo").nth(5), Do::LineEnd(LineEnd::Crlf))
            .fault(On::tool("echo").nth(6), Do::Huge { bytes: 1000, newline: false })
            .fault(On::tool("echo").nth(7), Do::Cut { after: Some(At::default()), end: End::Clean }),
    )
    .await;
    let session = session(&mock).await;
    let call = async || {
        let mut response = session.call("echo", json!({ "text": "x" })).await.unwrap();
        response.event().await.unwrap().unwrap();
        response
    };
    let mut comments = call().await;
    for _ in 0..3 {
        assert_eq!(comments.event().await.unwrap().unwrap().comments, ["cccccccccc"]);
    }
    assert_eq!(call().await.event().await.unwrap().unwrap().retry.as_deref(), Some("0"));
    let mut double = call().await;
    assert_eq!(double.event().await.unwrap().unwrap(), double.event().await.unwrap().unwrap());
    assert_eq!(text(&call().await.answer().await.unwrap()), "x");
    assert_eq!(text(&call().await.answer().await.unwrap()), "x");
    assert!(silent(&mut call().await).await);
    assert_eq!(call().await.event().await.unwrap(), None);
}

#[tokio::test]
async fn sessions_are_forgotten_as_scripted() {
    let mock = start(Script::default().fault(On::tool("echo").nth(2), Do::ForgetSession)).await;
    let session = session(&mock).await;
    for status in [200, 404, 404] {
        assert_eq!(session.call("echo", json!({ "text": "x" })).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn old_servers_know_no_discovery() {
    let legacy = |discover| Script { era: Served::Legacy, discover, ..Script::default() };
    let discover = Modern::new("server/discover");
    let mock = start(legacy(Discover::Error)).await;
    assert_eq!(discover.post(&mock.url()).await.unwrap().status, 400);
    let mock = start(legacy(Discover::Exit)).await;
    discover.post(&mock.url()).await.unwrap_err();
    discover.post(&mock.url()).await.unwrap_err();
    let modern = start(Script { era: Served::Modern, ..Script::default() }).await;
    let refused = LegacySession::open(&modern.url(), "2025-11-25", json!({})).await.unwrap_err();
    assert!(refused.to_string().contains("-32022"), "{refused}");
    let headers = [("MCP-Protocol-Version", "2026-07-28")].into_iter().collect();
    assert_eq!(send("GET", &modern.url(), headers, "").await.unwrap().status, 405);
}

#[tokio::test]
async fn a_server_that_exits_answers_first_if_it_is_to() {
    let exit = Do::Exit { code: 1, when: When::After };
    let mock = start(Script::default().fault(On::tool("echo"), exit)).await;
    let call = Modern::call("echo", json!({ "text": "x" }));
    assert_eq!(text(&call.post(&mock.url()).await.unwrap().answer().await.unwrap()), "x");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while call.post(&mock.url()).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline);
    }
}

#[tokio::test]
async fn requests_are_kept_as_they_came() {
    let mock = start(Script::default()).await;
    Modern::new("tools/list").header("X-Odd", Some("Ö b")).post(&mock.url()).await.unwrap();
    let request = mock.request(PATIENCE, |request| request.headers.get("x-odd").is_some()).await.unwrap();
    assert_eq!(request.headers.iter().find(|(name, _)| *name == "X-Odd"), Some(("X-Odd", "Ö b")));
    assert_eq!(request.json("/params/_meta/io.modelcontextprotocol~1protocolVersion"), "2026-07-28");
    assert_eq!((request.connection, mock.connections()), (1, 1));
}

#[tokio::test]
#[should_panic(expected = "never happened")]
async fn a_fault_that_never_happened_fails_the_test() {
    start(Script::default().fault(On::tool("echo"), Do::Hang)).await;
}

#[tokio::test]
async fn a_fault_may_be_allowed_not_to_happen() {
    let mut mock = start(Script::default().fault(On::tool("echo"), Do::Hang)).await;
    assert_eq!(mock.unused().len(), 1);
    mock.allow_unused();
    let stdio_only = Script::default().fault(On::start(), Do::IgnoreEof);
    assert_eq!(MockSse::start(stdio_only).await.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
