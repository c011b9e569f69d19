//! A server that is much faster than any proxy: it echoes, in either era, over pipes or HTTP.
//!
//! `echo` answers with its `text`. With a progress token it reports progress three times before, and with `pause_ms` it rests between
//! that and the answer. `notify` sends its `text` as a notification beside the answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// How often `echo` reports progress to whoever asked for it.
pub const PROGRESS: usize = 3;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    #[serde(borrow, default)]
    params: Params<'a>,
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    name: Option<&'a str>,
    #[serde(borrow, default)]
    arguments: Arguments<'a>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Meta<'a>,
    #[serde(borrow, rename = "protocolVersion")]
    version: Option<&'a str>,
}

#[derive(Deserialize, Default)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(default)]
    pause_ms: u64,
}

#[derive(Deserialize, Default)]
struct Meta<'a> {
    #[serde(borrow, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a str>,
}

/// What there is to say to a message.
#[derive(Default)]
struct Said {
    before: Vec<String>,
    pause: Duration,
    /// `None` to a notification.
    answer: Option<String>,
    /// To nobody's request.
    beside: Option<String>,
    opens: bool,
}

fn reply(message: &[u8]) -> Said {
    let Ok(Message { id: Some(id), method: Some(method), params }) = serde_json::from_slice(message) else {
        return Said::default();
    };
    let kind = if params.meta.version.is_some() { r#""resultType":"complete","# } else { "" };
    let mut said = Said::default();
    let text = params.arguments.text.map_or("\"\"", RawValue::get);
    let result = match (method, params.name) {
        ("tools/call", Some("notify")) => {
            let data = format!(r#"{{"level":"info","data":{text}}}"#);
            said.beside = Some(format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{data}}}"#));
            format!(r#"{{{kind}"content":[]}}"#)
        }
        ("tools/call", _) => {
            if let Some(token) = params.meta.progress_token.map(RawValue::get) {
                said.before.extend((1..=PROGRESS).map(|n| {
                    let params = format!(r#"{{"progressToken":{token},"progress":{n},"total":{PROGRESS}}}"#);
                    format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#)
                }));
            }
            said.pause = Duration::from_millis(params.arguments.pause_ms);
            format!(r#"{{{kind}"content":[{{"type":"text","text":{text}}}]}}"#)
        }
        ("initialize", _) => {
            said.opens = true;
            let version = params.version.unwrap_or("2025-11-25");
            format!(
                r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{}},"logging":{{}}}},"serverInfo":{{"name":"echo","version":"1"}}}}"#
            )
        }
        ("server/discover", _) => format!(
            r#"{{{kind}"supportedVersions":["2026-07-28"],"capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"echo","version":"1"}},"ttlMs":0,"cacheScope":"private"}}"#
        ),
        ("tools/list", _) => {
            let schema = r#"{"type":"object","properties":{"text":{"type":"string"},"pause_ms":{"type":"integer"}}}"#;
            let tool = |name| format!(r#"{{"name":"{name}","inputSchema":{schema}}}"#);
            format!(r#"{{{kind}"tools":[{},{}],"ttlMs":0,"cacheScope":"private"}}"#, tool("echo"), tool("notify"))
        }
        _ => "{}".to_owned(),
    };
    said.answer = Some(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get()));
    said
}

/// The server on standard input and output. All that can be read at once is answered at once.
pub fn stdio() {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut unread, mut answers) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(count @ 1..) = input.read(&mut buffer) {
        // A line that has not ended is not looked at again.
        let last = memchr::memrchr(b'\n', &buffer[..count]);
        let Some(last) = last else {
            unread.extend_from_slice(&buffer[..count]);
            continue;
        };
        unread.extend_from_slice(&buffer[..last]);
        for line in unread.split(|byte| *byte == b'\n') {
            let Said { before, answer, beside, .. } = reply(line);
            for message in before.into_iter().chain(beside).chain(answer) {
                answers.extend_from_slice(message.as_bytes());
                answers.push(b'\n');
            }
        }
        if output.write_all(&answers).and_then(|()| output.flush()).is_err() {
            return;
        }
        answers.clear();
        unread.clear();
        unread.extend_from_slice(&buffer[last + 1..count]);
    }
}

type Streams = Rc<RefCell<HashMap<String, Option<mpsc::Sender<Bytes>>>>>;
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server over HTTP, on one thread.
pub async fn http(listener: TcpListener) {
    let sessions = Streams::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let sessions = Rc::clone(&sessions);
        let service = service_fn(move |request| {
            let sessions = Rc::clone(&sessions);
            async move { Ok::<_, Infallible>(answer(request, &sessions).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::task::spawn_local(connection);
    }
}

async fn answer(request: Request<Incoming>, sessions: &Streams) -> Answer {
    let (head, body) = request.into_parts();
    let session = session_of(&head.headers);
    match head.method {
        Method::GET => {
            let (events, queue) = mpsc::channel(256);
            sessions.borrow_mut().insert(session.unwrap_or_default(), Some(events));
            let next = |mut queue: mpsc::Receiver<Bytes>| async { Some((queue.recv().await?, queue)) };
            respond("text/event-stream", stream::unfold(queue, next))
        }
        Method::POST => {
            let Ok(body) = body.collect().await else { return empty(StatusCode::BAD_REQUEST) };
            let Said { before, pause, answer, beside, opens } = reply(&body.to_bytes());
            let Some(answer) = answer else { return empty(StatusCode::ACCEPTED) };
            let listener = session.and_then(|session| sessions.borrow().get(&session).cloned().flatten());
            if let (Some(message), Some(listener)) = (beside, listener) {
                let _ = listener.send(event(&message)).await;
            }
            let mut response = if before.is_empty() {
                let body = Full::new(Bytes::from(answer)).boxed_unsync();
                with_type("application/json", body)
            } else {
                let last = stream::once(async move {
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    event(&answer)
                });
                let before: Vec<Bytes> = before.iter().map(|message| event(message)).collect();
                respond("text/event-stream", stream::iter(before).chain(last))
            };
            if opens {
                let id = format!("session-{}", sessions.borrow().len());
                response.headers_mut().insert(SESSION, HeaderValue::from_str(&id).unwrap());
                sessions.borrow_mut().insert(id, None);
            }
            response
        }
        _ => empty(StatusCode::OK),
    }
}

fn session_of(headers: &HeaderMap) -> Option<String> {
    headers.get(SESSION)?.to_str().ok().map(str::to_owned)
}

fn event(message: &str) -> Bytes {
    format!("data: {message}\n\n").into()
}

fn respond(kind: &'static str, events: impl stream::Stream<Item = Bytes> + Send + 'static) -> Answer {
    with_type(kind, StreamBody::new(events.map(|event| Ok(Frame::data(event)))).boxed_unsync())
}

fn with_type(kind: &'static str, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = status;
    response
}
