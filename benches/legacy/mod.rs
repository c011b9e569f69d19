//! R1, the legacy baseline. Frozen: see README.md in this folder. `tests/legacy_baseline.rs` has its checksum.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Request headers that an HTTP upstream gets.
const PASSED: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::ACCEPT,
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("mcp-method"),
    HeaderName::from_static("mcp-name"),
];

/// The regressions that the predecessor is known for, one of which can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    ProcessPerRequest,
    DoubleParse,
    BufferedSse,
    StatePerRequest,
    DebugLog,
}

#[derive(Debug, Clone)]
pub enum Upstream {
    /// One process for all sessions, or one for each.
    Stdio {
        program: String,
        args: Vec<String>,
        per_session: bool,
    },
    Http {
        authority: String,
        path: String,
    },
}

pub struct Legacy {
    upstream: Upstream,
    mutant: Option<Mutant>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    next_session: AtomicU64,
    shared: Option<Arc<Process>>,
    client: Arc<Client>,
}

#[derive(Default)]
struct Session {
    process: Option<Arc<Process>>,
    upstream: Option<HeaderValue>,
}

/// All that is read of a message; the rest is passed as it came.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
}

impl Legacy {
    /// # Panics
    /// When the process cannot be started.
    pub fn new(upstream: Upstream, mutant: Option<Mutant>) -> Arc<Legacy> {
        let shared = match &upstream {
            Upstream::Stdio { program, args, per_session: false } => Some(Process::start(program, args)),
            _ => None,
        };
        Arc::new(Legacy {
            upstream,
            mutant,
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            shared,
            client: Arc::default(),
        })
    }

    pub async fn serve(self: Arc<Legacy>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let legacy = Arc::clone(&self);
            let service = service_fn(move |request| {
                let legacy = Arc::clone(&legacy);
                async move { Ok::<_, Infallible>(legacy.answer(request).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let session = head.headers.get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let known = session.as_ref().map(|id| self.sessions.lock().unwrap().get(id).cloned());
        let session_of = match known {
            Some(None) => return status(StatusCode::NOT_FOUND),
            known => known.flatten(),
        };
        if head.method == Method::DELETE {
            self.sessions.lock().unwrap().remove(&session.unwrap_or_default());
        }
        let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else { return status(StatusCode::BAD_REQUEST) };
        if self.mutant == Some(Mutant::DebugLog) {
            tracing::debug!(method = %head.method, headers = ?head.headers, body = ?body, "Request");
        }
        let body = if self.mutant == Some(Mutant::DoubleParse) { parse_twice(&body) } else { body };
        let response = match (&self.upstream, head.method) {
            (Upstream::Http { authority, path }, method) => {
                self.over_http((authority, path), method, &head.headers, body, session_of.as_deref()).await
            }
            (Upstream::Stdio { .. }, Method::POST) => self.over_stdio(body, session_of).await,
            (Upstream::Stdio { .. }, Method::GET) => match session_of.and_then(|session| session.process.clone()) {
                Some(process) => events(process.listen()),
                None => status(StatusCode::METHOD_NOT_ALLOWED),
            },
            (Upstream::Stdio { .. }, _) => status(StatusCode::OK),
        };
        if self.mutant == Some(Mutant::DebugLog) {
            tracing::debug!(status = %response.status(), headers = ?response.headers(), "Response");
        }
        response
    }

    async fn over_stdio(&self, body: Bytes, session: Option<Arc<Session>>) -> Response<Answer> {
        let Upstream::Stdio { program, args, per_session } = &self.upstream else { unreachable!() };
        let Ok(Envelope { id, method }) = serde_json::from_slice(&body) else { return status(StatusCode::BAD_REQUEST) };
        let opens = method == Some("initialize");
        let process = match (&self.shared, session.as_ref().and_then(|session| session.process.as_ref())) {
            _ if self.mutant == Some(Mutant::ProcessPerRequest) && !opens => Process::start(program, args),
            (_, Some(own)) => Arc::clone(own),
            (Some(shared), _) => Arc::clone(shared),
            (None, None) => Process::start(program, args),
        };
        let Some(id) = id else {
            process.send(body).await;
            return status(StatusCode::ACCEPTED);
        };
        let Some(mut answer) = process.call(&body, id.get()).await else { return status(StatusCode::BAD_GATEWAY) };
        if self.mutant == Some(Mutant::DoubleParse) {
            answer = parse_twice(&answer);
        }
        let mut response = Response::new(Answer::Whole(Full::new(answer)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if opens {
            let process = per_session.then_some(process);
            response.headers_mut().insert(SESSION, self.open(Session { process, upstream: None }));
        }
        response
    }

    async fn over_http(
        &self,
        (authority, path): (&str, &str),
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
        session: Option<&Session>,
    ) -> Response<Answer> {
        // One parse of the request, as for stdio; the body goes on as it came.
        let parsed = serde_json::from_slice::<Envelope<'_>>(&body);
        if method == Method::POST && parsed.is_err() {
            return status(StatusCode::BAD_REQUEST);
        }
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        for name in PASSED {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        request.headers_mut().insert(header::HOST, authority.parse().unwrap());
        if let Some(upstream) = session.and_then(|session| session.upstream.clone()) {
            request.headers_mut().insert(SESSION, upstream);
        }
        let fresh = Arc::default();
        let client = if self.mutant == Some(Mutant::StatePerRequest) { &fresh } else { &self.client };
        let Some((response, sender)) = client.send(authority, request).await else {
            return status(StatusCode::BAD_GATEWAY);
        };
        let (mut head, incoming) = response.into_parts();
        let passed = Passed { body: incoming, back: Some((sender, Arc::clone(client))) };
        let body = match self.mutant {
            Some(Mutant::BufferedSse | Mutant::DoubleParse) => {
                let whole = passed.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let parse = self.mutant == Some(Mutant::DoubleParse);
                Answer::Whole(Full::new(if parse { parse_twice(&whole) } else { whole }))
            }
            _ => Answer::Passed(passed),
        };
        for name in [header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::CONNECTION, header::DATE] {
            head.headers.remove(name);
        }
        if let Some(upstream) = head.headers.remove(SESSION) {
            let ours = self.open(Session { process: None, upstream: Some(upstream) });
            head.headers.insert(SESSION, ours);
        }
        Response::from_parts(head, body)
    }

    fn open(&self, session: Session) -> HeaderValue {
        let id =
            format!("{:032x}", u128::from(self.next_session.fetch_add(1, Ordering::Relaxed)) * 0x9e37_79b9_7f4a_7c15);
        self.sessions.lock().unwrap().insert(id.clone(), Arc::new(session));
        id.parse().unwrap()
    }
}

/// A mutant: JSON is made into values and back, twice.
fn parse_twice(text: &Bytes) -> Bytes {
    let once = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).map(|value| value.to_string());
    match once(text).and_then(|text| once(text.as_bytes())) {
        Ok(text) => text.into(),
        Err(_) => text.clone(),
    }
}

fn status(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Full::default()));
    *response.status_mut() = status;
    response
}

fn events(queue: mpsc::Receiver<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Events(queue));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// The body of a response.
pub enum Answer {
    Whole(Full<Bytes>),
    Passed(Passed),
    Events(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Answer::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Answer::Passed(body) => Pin::new(body).poll_frame(cx),
            Answer::Events(queue) => queue.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event)))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(body) => body.size_hint(),
            Answer::Passed(body) => body.body.size_hint(),
            Answer::Events(_) => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Whole(body) if body.is_end_stream())
    }
}

/// The body of an upstream's response, passed on as it comes. Its connection is used again when it has ended.
pub struct Passed {
    body: Incoming,
    back: Option<(SendRequest<Full<Bytes>>, Arc<Client>)>,
}

impl Body for Passed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if (matches!(polled, Poll::Ready(None)) || self.body.is_end_stream())
            && let Some((sender, client)) = self.back.take()
        {
            client.idle.lock().unwrap().push(sender);
        }
        polled
    }
}

/// An HTTP client that keeps its connections.
#[derive(Default)]
pub struct Client {
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    async fn send(
        &self,
        authority: &str,
        request: Request<Full<Bytes>>,
    ) -> Option<(Response<Incoming>, SendRequest<Full<Bytes>>)> {
        loop {
            let kept = self.idle.lock().unwrap().pop();
            let mut sender = match kept {
                Some(sender) => sender,
                None => connect(authority).await?,
            };
            if sender.ready().await.is_ok() {
                let response = sender.send_request(request).await.ok()?;
                return Some((response, sender));
            }
        }
    }
}

async fn connect(authority: &str) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

/// A process that speaks MCP. Requests of all who share it get numbers of ours.
struct Process {
    lines: mpsc::Sender<Bytes>,
    waiting: Mutex<HashMap<u64, (String, oneshot::Sender<Bytes>)>>,
    listener: Mutex<Option<mpsc::Sender<Bytes>>>,
    next: AtomicU64,
    _child: Child,
}

impl Process {
    fn start(program: &str, args: &[String]) -> Arc<Process> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (lines, queue) = mpsc::channel(1024);
        let process = Arc::new(Process {
            lines,
            waiting: Mutex::default(),
            listener: Mutex::default(),
            next: AtomicU64::new(1),
            _child: child,
        });
        tokio::spawn(write(stdin, queue));
        tokio::spawn(read(stdout, Arc::downgrade(&process)));
        process
    }

    fn listen(&self) -> mpsc::Receiver<Bytes> {
        let (events, queue) = mpsc::channel(256);
        *self.listener.lock().unwrap() = Some(events);
        queue
    }

    async fn send(&self, message: Bytes) {
        let _ = self.lines.send(message).await;
    }

    async fn call(&self, request: &Bytes, id: &str) -> Option<Bytes> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap().insert(number, (id.to_owned(), answer));
        self.send(splice(request, id, &number.to_string())).await;
        answered.await.ok()
    }

    /// Gives a line to whoever waits for it, under its own id.
    fn take(&self, line: &Bytes) {
        let Ok(Envelope { id, method }) = serde_json::from_slice(line) else { return };
        let Some(id) = id else {
            if let (Some(_), Some(listener)) = (method, self.listener.lock().unwrap().as_ref()) {
                let _ = listener.try_send([b"data: ", &line[..], b"\n\n"].concat().into());
            }
            return;
        };
        let waiting = id.get().parse().ok().and_then(|number: u64| self.waiting.lock().unwrap().remove(&number));
        if let Some((own, answer)) = waiting {
            let _ = answer.send(splice(line, id.get(), &own));
        }
    }
}

/// The text with another id in place of the one that lies in it.
fn splice(text: &Bytes, id: &str, other: &str) -> Bytes {
    let at = id.as_ptr() as usize - text.as_ptr() as usize;
    let mut spliced = BytesMut::with_capacity(text.len() + other.len());
    spliced.extend_from_slice(&text[..at]);
    spliced.extend_from_slice(other.as_bytes());
    spliced.extend_from_slice(&text[at + id.len()..]);
    spliced.freeze()
}

/// Writes lines, as many as there are at a time.
async fn write(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Bytes>) {
    let (mut lines, mut buffer) = (Vec::new(), BytesMut::new());
    while queue.recv_many(&mut lines, 64).await > 0 {
        buffer.clear();
        for line in lines.drain(..) {
            buffer.extend_from_slice(&line);
            buffer.extend_from_slice(b"\n");
        }
        if stdin.write_all(&buffer).await.is_err() {
            return;
        }
    }
}

async fn read(mut stdout: ChildStdout, process: std::sync::Weak<Process>) {
    let mut buffer = BytesMut::with_capacity(256 * 1024);
    let mut searched = 0;
    while matches!(stdout.read_buf(&mut buffer).await, Ok(1..)) {
        while let Some(end) = memchr::memchr(b'\n', &buffer[searched..]) {
            let line = buffer.split_to(searched + end + 1).freeze();
            searched = 0;
            let Some(process) = process.upgrade() else { return };
            process.take(&line.slice(..line.len() - 1));
        }
        searched = buffer.len();
        buffer.reserve(64 * 1024);
    }
    // Nobody is left waiting.
    if let Some(process) = process.upgrade() {
        process.waiting.lock().unwrap().clear();
    }
}
