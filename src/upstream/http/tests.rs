use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::*;
use crate::protocol::sse::{Event, Item};

/// A server that says what the test says, byte for byte.
struct Server {
    listener: TcpListener,
    url: Uri,
}

struct Peer {
    stream: TcpStream,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        Server { listener, url: url.parse().expect("a URL") }
    }

    async fn accept(&self) -> Peer {
        Peer { stream: self.listener.accept().await.expect("a connection").0 }
    }

    /// Accepts a connection, reads a request and answers `text`.
    async fn answer(&self, text: &str) -> Peer {
        let mut peer = self.accept().await;
        peer.request().await;
        peer.say(text).await;
        peer
    }

    fn client(&self) -> HttpClient {
        self.client_with(&limits(), &timeouts())
    }

    fn client_with(&self, limits: &Limits, timeouts: &Timeouts) -> HttpClient {
        HttpClient::new(&self.url, limits, timeouts, TokioExecutor::new()).expect("a client")
    }
}

impl Peer {
    /// The head of a request; its body is read as well.
    async fn request(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.expect("a request"));
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        self.stream.read_exact(&mut body).await.expect("a body");
        head
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("written");
    }

    async fn chunk(&mut self, text: &str) {
        self.say(&format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    /// Whether the other side has closed the connection, after whatever it still sent.
    async fn closed(mut self) -> bool {
        timeout(Duration::from_secs(5), self.stream.read_to_end(&mut Vec::new())).await.is_ok()
    }
}

const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn limits() -> Limits {
    Limits { message_bytes: 1000, ..Limits::default() }
}

fn timeouts() -> Timeouts {
    Timeouts::default()
}

fn soon(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

async fn post(client: &HttpClient, url: &Uri) -> Result<Response, HttpError> {
    post_until(client, url, soon(10_000)).await
}

async fn post_until(client: &HttpClient, url: &Uri, deadline: Instant) -> Result<Response, HttpError> {
    client.send(Method::POST, url, HeaderMap::new(), Bytes::from_static(b"{}"), deadline).await
}

/// What a client makes of an answer after which the server closes the connection.
async fn outcome_of(answer: &str) -> Result<Response, HttpError> {
    let server = Server::start().await;
    let client = server.client();
    let (_, outcome) = tokio::join!(async { drop(server.answer(answer).await) }, post(&client, &server.url));
    outcome
}

async fn body_of(answer: &str) -> Body {
    outcome_of(answer).await.expect("a response").body
}

async fn violation_of(answer: &str) -> Violation {
    match outcome_of(answer).await.expect_err("a violation") {
        HttpError::Protocol(violation) => violation,
        error => panic!("{error:?}"),
    }
}

async fn sse(client: &HttpClient, url: &Uri) -> Box<SseBody> {
    match post(client, url).await.expect("a response").body {
        Body::Sse(body) => body,
        body => panic!("{body:?}"),
    }
}

fn data(item: Option<Result<Item, HttpError>>) -> String {
    match item {
        Some(Ok(Item::Event(Event { data, .. }))) => String::from_utf8(data.to_vec()).expect("text"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn json_comes_back_whole() {
    let server = Server::start().await;
    let client = server.client();
    let serve = async {
        let mut peer = server.accept().await;
        let head = peer.request().await;
        peer.say("HTTP/1.1 400 Bad Request\r\nContent-Type: Application/JSON; charset=utf-8\r\n").await;
        peer.say("Mcp-Session-Id: 7\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for piece in ["{\"a\"", ":", "[1]}", ""] {
            peer.chunk(piece).await;
            sleep(Duration::from_millis(5)).await;
        }
        head
    };
    let (head, response) = tokio::join!(serve, post(&client, &server.url));
    let response = response.expect("a response");
    assert_eq!(response.status, 400);
    assert_eq!(response.headers["mcp-session-id"], "7");
    assert!(matches!(&response.body, Body::Json(text) if text == "{\"a\":[1]}"), "{:?}", response.body);
    assert!(head.starts_with("post /mcp http/1.1\r\n"), "{head}");
    assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
    let authority = server.url.authority().expect("an authority");
    assert!(head.contains(&format!("host: {authority}\r\n")), "{head}");
}

#[tokio::test]
async fn bodies_are_told_apart() {
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    assert!(matches!(body_of(json).await, Body::Json(text) if text == "{}"));
    let json = "HTTP/1.1 503 No\r\nContent-Encoding: identity\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    assert!(matches!(body_of(json).await, Body::Json(text) if text == "{}"));
    for empty in [
        "HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nAccepted",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert!(matches!(body_of(empty).await, Body::Empty), "{empty}");
    }
    for name in ["text/event-stream", "text/event-stream;", "Text/Event-Stream; charset=utf-8"] {
        for length in ["", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"] {
            let stream = format!("HTTP/1.1 200 OK\r\nContent-Type: {name}\r\n{length}\r\n");
            assert!(
                matches!(body_of(&stream).await, Body::Sse(_)),
                "{stream}: it may be over at once, and is a stream"
            );
        }
    }
    let stream = "HTTP/1.1 404 No\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
    assert!(matches!(body_of(stream).await, Body::Other(_)), "only with status 200");
    let html = format!("HTTP/1.1 502 No\r\nContent-Type: text/html\r\n\r\n{}", "x".repeat(5000));
    assert!(matches!(body_of(&html).await, Body::Other(text) if text.len() == SNIPPET_BYTES_MAX));
    let gzip = "HTTP/1.1 502 No\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz";
    assert!(matches!(body_of(gzip).await, Body::Other(text) if text.is_empty()));
    let cut = "HTTP/1.1 502 No\r\nContent-Type: text/html\r\nContent-Length: 30\r\n\r\nxyz";
    assert!(matches!(body_of(cut).await, Body::Other(text) if text == "xyz"), "the status is what matters");
}

/// U8, U10.
#[tokio::test]
async fn what_is_neither_json_nor_a_stream_is_a_violation() {
    let content_type = Violation::ContentType { status: StatusCode::OK };
    let html = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>";
    assert_eq!(violation_of(html).await, content_type);
    let unnamed = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(violation_of(unnamed).await, content_type);
    for similar in ["text/event-streamx", "text/x-bogus"] {
        let similar = format!("HTTP/1.1 200 OK\r\nContent-Type: {similar}\r\nContent-Length: 2\r\n\r\n\n\n");
        assert_eq!(violation_of(&similar).await, content_type, "{similar}");
    }
    let gzip = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n";
    assert_eq!(violation_of(gzip).await, Violation::ContentEncoding);
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit() {
    let too_large = Violation::TooLarge { bytes_max: 1000 };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let sized = |bytes: usize| format!("{head}Content-Length: {bytes}\r\n\r\n{}", "1".repeat(bytes));
    assert!(matches!(body_of(&sized(1000)).await, Body::Json(text) if text.len() == 1000));
    assert_eq!(violation_of(&sized(1001)).await, too_large);
    let chunked = |last: &str| {
        let chunk = format!("1f4\r\n{}\r\n", "1".repeat(500));
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}{last}0\r\n\r\n")
    };
    assert!(matches!(body_of(&chunked("")).await, Body::Json(text) if text.len() == 1000));
    assert_eq!(violation_of(&chunked("1\r\n1\r\n")).await, too_large);
}

/// U11.
#[tokio::test]
async fn a_head_without_end_is_an_error() {
    let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEADER_BYTES_MAX));
    assert!(matches!(outcome_of(&head).await, Err(HttpError::Lost(_))));
}

/// U9: never a part of a body as if it were all of it.
#[tokio::test]
async fn a_cut_body_is_lost() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for cut in ["Content-Length: 3\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"] {
        assert!(matches!(outcome_of(&format!("{head}{cut}")).await, Err(HttpError::Lost(_))), "{cut}");
    }
    assert!(matches!(outcome_of("").await, Err(HttpError::Lost(_))), "closed without an answer");
    assert!(matches!(outcome_of("HTTP/1.1 2").await, Err(HttpError::Lost(_))));
}

/// U2.
#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_at_the_deadline() {
    let server = Server::start().await;
    let client = server.client();
    for beginning in ["", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"] {
        let (peer, outcome) = tokio::join!(server.answer(beginning), post_until(&client, &server.url, soon(200)));
        assert!(matches!(outcome, Err(HttpError::Timeout { sent: true })), "{outcome:?}");
        assert!(peer.closed().await, "giving up cancels the request");
    }
}

#[tokio::test]
async fn a_stalled_body_is_given_up_before_the_deadline() {
    let server = Server::start().await;
    let client =
        server.client_with(&limits(), &Timeouts { upstream_body_idle: Duration::from_millis(100), ..timeouts() });
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    let (_peer, outcome) = tokio::join!(server.answer(answer), post(&client, &server.url));
    assert!(matches!(outcome, Err(HttpError::Timeout { sent: true })), "{outcome:?}");
}

/// U1. Nothing of a URL is in the error, whatever it contains.
#[tokio::test]
async fn refused_is_unsent() {
    let server = Server::start().await;
    let authority = server.url.authority().expect("an authority").clone();
    drop(server);
    let url = format!("http://user:secret@{authority}/path?token=secret").parse::<Uri>().expect("a URL");
    let client = HttpClient::new(&url, &limits(), &timeouts(), TokioExecutor::new()).expect("a client");
    let error = post(&client, &url).await.expect_err("refused");
    assert!(matches!(error, HttpError::Unsent(_)) && error.is_unsent(), "{error:?}");
    let source = error.source().expect("a source");
    for text in [format!("{error:?}"), error.to_string(), source.to_string(), format!("{client:?}")] {
        assert!(!text.contains("secret") && !text.contains("path"), "{text}");
    }
}

/// A server that takes the connection and says nothing to the TLS handshake.
#[tokio::test]
async fn a_hanging_handshake_is_unsent() {
    let server = Server::start().await;
    let url = server.url.to_string().replace("http", "https").parse::<Uri>().expect("a URL");
    let client = |limit| {
        let connector = Connector::new(tls(false).expect("TLS"), Duration::from_millis(limit));
        let origin = Origin::of(&url).expect("an origin");
        HttpClient::build(url.clone(), origin, connector, &limits(), &timeouts(), TokioExecutor::new())
    };
    let (patient, impatient) = (client(10_000), client(100));
    let (_peer, outcome) = tokio::join!(server.accept(), post(&impatient, &url));
    assert!(matches!(outcome, Err(HttpError::Unsent(_))), "the time to connect is over: {outcome:?}");
    let (_peer, outcome) = tokio::join!(server.accept(), post_until(&patient, &url, soon(100)));
    assert!(matches!(outcome, Err(HttpError::Timeout { sent: false })), "all time is over: {outcome:?}");
    assert!(outcome.is_err_and(|error| error.is_unsent()));
}

/// U7.
#[tokio::test]
async fn redirections_are_not_followed() {
    let server = Server::start().await;
    let client = server.client();
    let answer = format!("HTTP/1.1 307 Elsewhere\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", server.url);
    let (_peer, outcome) = tokio::join!(server.answer(&answer), post(&client, &server.url));
    assert_eq!(outcome.expect("a response").status, 307);
    assert!(timeout(Duration::from_millis(50), server.accept()).await.is_err(), "no further connection");
}

#[tokio::test]
async fn a_client_does_not_leave_its_origin() {
    let server = Server::start().await;
    let client = server.client();
    let port = server.url.port_u16().expect("a port");
    for elsewhere in [
        format!("http://localhost:{port}/mcp"),
        format!("https://127.0.0.1:{port}/mcp"),
        "http://127.0.0.1/mcp".to_owned(),
        "/mcp".to_owned(),
    ] {
        let outcome = post(&client, &elsewhere.parse().expect("a URL")).await;
        assert!(matches!(outcome, Err(HttpError::OtherOrigin)), "{elsewhere}");
    }
}

#[test]
fn origins() {
    let origin = |url: &str| Origin::of(&url.parse().expect("a URL"));
    assert_eq!(origin("http://A.example/x"), origin("http://u:p@a.example:80/y?z"));
    assert_eq!(origin("https://a.example"), origin("https://a.example:443/"));
    assert_ne!(origin("https://a.example"), origin("http://a.example:443"));
    assert_ne!(origin("https://a.example"), origin("https://a.example."));
    for none in ["/", "a.example:80", "ftp://a.example/", "http://:80/"] {
        assert_eq!(none.parse().ok().as_ref().and_then(Origin::of), None, "{none}");
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// U3, the dangerous half: a kept connection takes the request and is then closed without an answer.
#[tokio::test]
async fn a_request_that_may_have_arrived_is_not_sent_again() {
    let server = Server::start().await;
    let client = server.client();
    let (mut peer, first) = tokio::join!(server.answer(OK), post(&client, &server.url));
    assert!(matches!(first.expect("a response").body, Body::Json(_)));
    let serve = async {
        peer.request().await;
        drop(peer);
        timeout(Duration::from_millis(100), server.accept()).await.is_ok()
    };
    let (again, second) = tokio::join!(serve, post(&client, &server.url));
    assert!(matches!(second, Err(HttpError::Lost(_))), "{second:?}");
    assert!(!again, "it was sent a second time");
}

/// U3, the harmless half: a kept connection was closed while nobody used it.
#[tokio::test]
async fn a_connection_closed_in_the_pool_is_replaced() {
    let server = Server::start().await;
    let client = server.client();
    for _ in 0..3 {
        let (mut peer, outcome) = tokio::join!(server.answer(OK), post(&client, &server.url));
        assert!(matches!(outcome.expect("a response").body, Body::Json(_)));
        peer.stream.shutdown().await.expect("shut down");
        assert!(peer.closed().await, "the client has noticed");
    }
}

#[tokio::test]
async fn a_kept_connection_is_used_again_and_then_closed() {
    let server = Server::start().await;
    let client =
        server.client_with(&limits(), &Timeouts { upstream_keepalive: Duration::from_millis(100), ..timeouts() });
    let (mut peer, first) = tokio::join!(server.answer(OK), post(&client, &server.url));
    first.expect("a response");
    let serve = async {
        peer.request().await;
        peer.say(OK).await;
    };
    let ((), second) = tokio::join!(serve, post(&client, &server.url));
    second.expect("a response");
    assert!(peer.closed().await);
}

#[tokio::test]
async fn events_come_as_they_are_sent() {
    let server = Server::start().await;
    let client = server.client();
    let serve = async {
        let mut peer = server.answer(SSE).await;
        for piece in ["\u{FEFF}id: 1\nda", "ta: a\r", "\n\r\n: ping\nretry: 5\ndata: b\n", "\ndata: c"] {
            peer.chunk(piece).await;
            sleep(Duration::from_millis(10)).await;
        }
        peer.chunk("").await;
    };
    let listen = async {
        let mut body = sse(&client, &server.url).await;
        assert_eq!(data(body.next().await), "a");
        assert_eq!(body.last_event_id(), Some(&Bytes::from("1")));
        assert!(matches!(body.next().await, Some(Ok(Item::Comment))));
        assert_eq!(data(body.next().await), "b");
        assert_eq!(body.retry(), Some(Duration::from_millis(5)));
        assert!(body.next().await.is_none(), "the unfinished event is dropped");
        assert!(body.next().await.is_none());
    };
    tokio::join!(serve, listen);
}

/// An event is delivered when its blank line has come: the server need not say more.
#[tokio::test]
async fn an_event_is_not_held_back() {
    let server = Server::start().await;
    let client = server.client();
    let serve = async {
        let mut peer = server.answer(SSE).await;
        peer.chunk("data: a\r\n\r").await;
        peer
    };
    let (_peer, mut body) = tokio::join!(serve, sse(&client, &server.url));
    assert_eq!(data(timeout(Duration::from_secs(5), body.next()).await.expect("at once")), "a");
}

/// U12.
#[tokio::test]
async fn a_stream_cut_within_an_event_is_lost_without_it() {
    let server = Server::start().await;
    let client = server.client();
    let serve = async {
        let mut peer = server.answer(SSE).await;
        peer.chunk("id: 1\ndata: a\n\nid: 2\ndata: \u{20AC}").await;
        peer.say("9\r\nhalf a chu").await;
    };
    let ((), mut body) = tokio::join!(serve, sse(&client, &server.url));
    assert_eq!(data(body.next().await), "a");
    assert!(matches!(body.next().await, Some(Err(HttpError::Lost(_)))));
    assert_eq!(body.last_event_id(), Some(&Bytes::from("1")));
    assert!(body.next().await.is_none());
}

/// U21.
#[tokio::test]
async fn an_event_without_end_is_a_violation() {
    let server = Server::start().await;
    let client = server.client();
    let serve = async {
        let mut peer = server.answer(SSE).await;
        peer.chunk(&format!("data: a\n\ndata: {}", "x".repeat(1100))).await;
        peer
    };
    let (peer, mut body) = tokio::join!(serve, sse(&client, &server.url));
    assert_eq!(data(body.next().await), "a");
    let error = body.next().await.expect("an error").expect_err("too large");
    let expected = Violation::Sse(DecodeError::EventTooLarge { bytes_max: 1000 });
    assert!(matches!(error, HttpError::Protocol(violation) if violation == expected), "{error:?}");
    assert!(body.next().await.is_none());
    drop(body);
    assert!(peer.closed().await);
}

/// U19.
#[tokio::test]
async fn comments_are_life_and_silence_is_not() {
    let server = Server::start().await;
    let client =
        server.client_with(&limits(), &Timeouts { upstream_sse_idle: Duration::from_millis(400), ..timeouts() });
    let serve = async {
        let mut peer = server.answer(SSE).await;
        for _ in 0..10 {
            sleep(Duration::from_millis(80)).await;
            peer.chunk(":\n").await;
        }
        peer
    };
    let listen = async {
        let mut body = sse(&client, &server.url).await;
        for _ in 0..10 {
            assert!(matches!(body.next().await, Some(Ok(Item::Comment))));
        }
        body
    };
    let (_peer, mut body) = tokio::join!(serve, listen);
    let start = Instant::now();
    // In steps, each cancelled: the time waited must add up.
    let error = loop {
        if let Ok(item) = timeout(Duration::from_millis(150), body.next()).await {
            break item.expect("an error").expect_err("silence");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "a cancelled wait does not count");
    };
    assert!(matches!(error, HttpError::Timeout { sent: true }), "{error:?}");
}

#[tokio::test]
async fn a_slow_listener_is_not_taken_for_a_silent_server() {
    let server = Server::start().await;
    let client =
        server.client_with(&limits(), &Timeouts { upstream_sse_idle: Duration::from_millis(200), ..timeouts() });
    let serve = async {
        let mut peer = server.answer(SSE).await;
        peer.chunk("data: a\n\n").await;
        sleep(Duration::from_millis(400)).await;
        peer.chunk("data: b\n\n").await;
        peer
    };
    let listen = async {
        let mut body = sse(&client, &server.url).await;
        assert_eq!(data(body.next().await), "a");
        sleep(Duration::from_millis(300)).await;
        assert_eq!(data(body.next().await), "b");
    };
    tokio::join!(serve, listen);
}

#[tokio::test]
async fn cancelling_next_loses_nothing() {
    let server = Server::start().await;
    let client = server.client();
    let serve = async {
        let mut peer = server.answer(SSE).await;
        for byte in (0..20).flat_map(|n| format!("data: {n}\n\n").into_bytes()) {
            peer.chunk(&char::from(byte).to_string()).await;
            sleep(Duration::from_micros(200)).await;
        }
        peer.chunk("").await;
    };
    let listen = async {
        let mut body = sse(&client, &server.url).await;
        let mut seen = Vec::new();
        loop {
            // Polled once and dropped, again and again.
            let polled =
                { std::pin::pin!(body.next()).as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) };
            match polled {
                Poll::Ready(None) => return seen,
                Poll::Ready(item) => seen.push(data(item)),
                Poll::Pending => sleep(Duration::from_micros(50)).await,
            }
        }
    };
    let ((), seen) = tokio::join!(serve, listen);
    assert_eq!(seen, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn dropping_a_stream_closes_it() {
    let server = Server::start().await;
    let client = server.client();
    let (peer, body) = tokio::join!(server.answer(SSE), sse(&client, &server.url));
    drop(body);
    assert!(peer.closed().await);
}
