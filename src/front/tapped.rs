//! Requests over HTTP that somebody records or interferes with: the same as the others, seen as they come and as they are
//! answered. What is noted of an answer is noted when it is about to be written.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming as Reading;
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use super::duplex::Duplex;
use super::guard::{check_content_type, read_body};
use super::mcp;
use super::reply::{empty, encode, json, refuse};
use crate::protocol::headers;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Incoming, Kind, Message, ParseError};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::sse::{self, Decoder, Event, Item, KEEP_ALIVE};
use crate::proxy::error::ProxyError;
use crate::proxy::{Proxy, Server};
use crate::tap::intercept::{Decision, Direction, Effect, Planned};
use crate::tap::{CURRENT, ClientKey, FROM_CLIENT, Head, InUse, Note, TO_CLIENT, Tap};
use crate::tape::format::{Intervention, Transport};

/// Answers one HTTP request to the endpoint of `server`, as [`mcp::endpoint`] does.
pub(super) async fn endpoint(
    tap: &Arc<Tap>,
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    request: Request<Reading>,
) -> Response {
    let (parts, body) = request.into_parts();
    let (method, headers) = (&parts.method, &Arc::new(parts.headers));
    if tap.refuses() {
        return refuse(proxy, &ProxyError::Unrecorded, None, None);
    }
    let head = Head::Request(method.clone(), Arc::clone(headers));
    if *method != Method::POST {
        let mut visit = Visit::of(tap, proxy, server, headers, None);
        if let Err(error) = visit.note(Note::http(FROM_CLIENT, head)).await {
            visit.over = true;
            return mcp::finish(proxy, headers, Err((error, None)));
        }
        let result = visit.working(async { mcp::without_body(proxy, server, method, headers) }).await;
        let response = mcp::finish(proxy, headers, result.map_err(|error| (error, None)));
        return visit.respond(response).await;
    }
    let read = async {
        check_content_type(headers)?;
        read_body(headers, body, &proxy.settings.limits, &proxy.settings.timeouts).await
    };
    let text = match read.await {
        Ok(text) => text,
        Err(error) => {
            let visit = Visit::of(tap, proxy, server, headers, None);
            // If it cannot be noted, neither can the answer, which says no more than this one.
            let _ = visit.note(Note::http(FROM_CLIENT, head)).await;
            return visit.respond(mcp::finish(proxy, headers, Err((error, None)))).await;
        }
    };
    post(tap, proxy, server, headers, head, text).await
}

async fn post(
    tap: &Arc<Tap>,
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    head: Head,
    text: Bytes,
) -> Response {
    let incoming = Incoming::parse(text.clone(), proxy.settings.limits.depth);
    let message = match &incoming {
        Ok(Incoming::One(message)) => Some(message),
        _ => None,
    };
    let id = message.filter(|message| message.kind() == Kind::Request).and_then(Message::id);
    let mut visit = Visit::of(tap, proxy, server, headers, message);
    let decision = decide(tap, &incoming).await;
    let came = Note::message(FROM_CLIENT, text).head(head).touched(decision.by);
    let came = if message.is_some() { came.of_json() } else { came };
    if let Err(error) = visit.note(came).await {
        visit.over = true;
        return mcp::finish(proxy, headers, Err((error, id)));
    }
    if let Some((planned, id)) = decision.answer.zip(id.clone()) {
        visit.answers.plan(id, planned);
    }
    wait(decision.wait).await;
    let response = match decision.effect {
        Effect::Answer(text) => json(StatusCode::OK, text),
        Effect::Respond(status, fields, text) => {
            let mut response = json(status, text);
            response.headers_mut().extend(*fields);
            response
        }
        // Nobody waits for an answer to a notification.
        Effect::Drop if id.is_none() => empty(StatusCode::ACCEPTED),
        Effect::Drop => {
            sleep(proxy.settings.timeouts.request_max).await;
            cut()
        }
        Effect::Cut => cut(),
        Effect::Refuse => mcp::finish(proxy, headers, Err((ProxyError::Intercepted, id))),
        Effect::Pass | Effect::Twice | Effect::Before(_) => {
            let result = visit.working(mcp::take(proxy, server, headers, incoming)).await;
            mcp::finish(proxy, headers, result)
        }
    };
    visit.opened(proxy, server, &response);
    visit.respond(response).await
}

/// What is to become of what a client sends.
async fn decide(tap: &Tap, incoming: &Result<Incoming, ParseError>) -> Decision {
    match incoming {
        Ok(Incoming::One(message)) => match tap.chain.on(Direction::Up, message) {
            Some(asked) => asked.await,
            None => Decision::default(),
        },
        Ok(Incoming::Batch(messages)) => tap.chain.on_batch(messages.iter().flatten()),
        Err(_) => Decision::default(),
    }
}

/// Takes a message of a client of HTTP+SSE, as [`http_sse::post`](super::http_sse::post) does.
pub(super) async fn accept(
    tap: &Arc<Tap>,
    proxy: &Arc<Proxy>,
    duplex: &Arc<Duplex>,
    headers: &HeaderMap,
    visit: Visit,
    text: Bytes,
) -> Result<Response, ProxyError> {
    if tap.refuses() {
        return Err(ProxyError::Unrecorded);
    }
    let head = Head::request(&Method::POST, headers);
    let response = match visit.take(duplex, text, Some(head)).await {
        Ok(None) => empty(StatusCode::ACCEPTED),
        Ok(Some(response)) => *response,
        Err((ProxyError::Unrecorded, _)) => return Err(ProxyError::Unrecorded),
        Err((error, _)) => refuse(proxy, &error, None, None),
    };
    Ok(visit.respond(response).await)
}

/// Takes a line of a client on standard input and output.
pub(super) async fn line(visit: &Visit, duplex: &Arc<Duplex>, text: Bytes) {
    if visit.tap.refuses() {
        let request = Message::parse(text, visit.depth).ok().filter(|message| message.kind() == Kind::Request);
        return duplex.refuse(&ProxyError::Unrecorded, request.and_then(|message| message.id())).await;
    }
    match visit.take(duplex, text, None).await {
        // There is nothing here that had a status: nothing of such a plan is let in.
        Ok(_) => {}
        Err((error, id)) => duplex.refuse(&error, id).await,
    }
}

/// What is to become of answers that have not come yet, by the id of the request. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<HashMap<RequestId, Planned>>>);

/// What the tape of a client on standard input and output is kept under: there is one such client.
const PIPE: &str = "";

/// Most answers of one client for which something is planned; for what is beyond that nothing happens.
const PLANNED_MAX: usize = 1024;

impl Answers {
    fn plan(&self, id: RequestId, planned: Planned) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < PLANNED_MAX {
            all.insert(id, planned);
        }
    }

    fn take(&self, id: &RequestId) -> Option<Planned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

async fn wait(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// A response that breaks off.
fn cut() -> Response {
    let mut response = Response::new(broken());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn broken() -> Body {
    let cut = io::Error::from(io::ErrorKind::ConnectionAborted);
    Body::new(StreamBody::new(stream::iter([Err::<Frame<Bytes>, _>(cut)])))
}

/// One request of a client, and what answers it; or all that passes over standard input and output.
pub(super) struct Visit {
    tap: Arc<Tap>,
    tape: Option<InUse>,
    /// There is none on standard input and output.
    exchange: Option<u64>,
    /// It is a handshake: the tape is for the session that it may open.
    opens: bool,
    answers: Answers,
    patience: Duration,
    /// Deepest nesting of a message.
    depth: usize,
    /// All was said.
    over: bool,
}

impl Visit {
    fn of(tap: &Arc<Tap>, proxy: &Proxy, server: &Server, headers: &HeaderMap, message: Option<&Message>) -> Visit {
        let session = headers.get(headers::SESSION_ID).and_then(|id| id.to_str().ok());
        let opens = session.is_none() && message.is_some_and(|message| message.known() == Some(Known::Initialize));
        let tape = session.and_then(|id| tap.of_session(id)).or_else(|| {
            if opens { tap.begin(Transport::Http) } else { tap.of_client(|| client(server, headers, message)) }
        });
        let mut visit = Visit::on(tap, proxy, tape);
        visit.opens = opens;
        visit
    }

    /// The stream of a client of HTTP+SSE, which has this id and lives until it is closed.
    ///
    /// # Errors
    /// What passes could not be recorded, and has to be.
    pub(super) fn of_stream(
        tap: &Arc<Tap>,
        proxy: &Proxy,
        id: &str,
        headers: &HeaderMap,
        closed: &CancellationToken,
    ) -> Result<Visit, ProxyError> {
        if tap.refuses() {
            return Err(ProxyError::Unrecorded);
        }
        let visit = Visit::on(tap, proxy, tap.begin(Transport::HttpSse));
        if let Some(tape) = &visit.tape {
            tap.bind(id, &tape.tape, closed.clone());
            let head = Head::request(&Method::GET, headers);
            tape.tape.note_now(visit.of_exchange(Note::http(FROM_CLIENT, head)));
        }
        Ok(visit)
    }

    /// All that passes over standard input and output, until it is closed.
    pub(super) fn of_pipe(tap: &Arc<Tap>, proxy: &Proxy, closed: &CancellationToken) -> Visit {
        let mut visit = Visit::on(tap, proxy, tap.begin(Transport::Stdio));
        visit.exchange = None;
        if let Some(tape) = &visit.tape {
            tap.bind(PIPE, &tape.tape, closed.clone());
        }
        visit
    }

    fn of_exchange(&self, note: Note) -> Note {
        match self.exchange {
            Some(exchange) => note.of(exchange),
            None => note,
        }
    }

    /// Takes a message of a client that has one connection for everything. A response is what a plan of faults wants in its place.
    async fn take(
        &self,
        duplex: &Arc<Duplex>,
        text: Bytes,
        head: Option<Head>,
    ) -> Result<Option<Box<Response>>, (ProxyError, Option<RequestId>)> {
        let incoming = Incoming::parse(text.clone(), self.depth);
        let id = match &incoming {
            Ok(Incoming::One(message)) if message.kind() == Kind::Request => message.id(),
            _ => None,
        };
        let decision = decide(&self.tap, &incoming).await;
        let note = Note::message(FROM_CLIENT, text).touched(decision.by);
        let note = match head {
            Some(head) => note.head(head),
            None => note,
        };
        self.note(note).await.map_err(|error| (error, id.clone()))?;
        if let Some((planned, id)) = decision.answer.zip(id.clone()) {
            self.answers.plan(id, planned);
        }
        wait(decision.wait).await;
        match decision.effect {
            Effect::Answer(text) => duplex.say(text).await,
            Effect::Respond(status, fields, text) => {
                let mut response = json(status, text);
                response.headers_mut().extend(*fields);
                return Ok(Some(Box::new(response)));
            }
            Effect::Drop => {}
            Effect::Cut => duplex.close(),
            Effect::Refuse => duplex.refuse(&ProxyError::Intercepted, id).await,
            Effect::Pass | Effect::Twice | Effect::Before(_) => match incoming {
                Err(error) => return Err((ProxyError::Parse(error), None)),
                incoming => self.working(duplex.accept(incoming)).await,
            },
        }
        Ok(None)
    }

    /// What is written of a line for a client on standard input and output: none, or some.
    ///
    /// # Errors
    /// The connection is cut in its place.
    pub(super) async fn saying(&self, line: Bytes) -> io::Result<Vec<Bytes>> {
        let cut = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let decision = self.decide(&line).await;
        wait(decision.wait).await;
        let lines = match decision.effect {
            Effect::Drop => Vec::new(),
            Effect::Cut => return Err(cut()),
            Effect::Twice => vec![line.clone(), line],
            Effect::Before(garbage) => vec![garbage, line],
            Effect::Pass | Effect::Answer(_) | Effect::Respond(..) | Effect::Refuse => vec![line],
        };
        for line in &lines {
            let note = Note::message(TO_CLIENT, line.clone()).touched(decision.by.clone());
            self.note(note).await.map_err(|_| cut())?;
        }
        Ok(lines)
    }

    /// A message of the client of HTTP+SSE with this id, whose answers come on the stream.
    pub(super) fn of_post(tap: &Arc<Tap>, proxy: &Proxy, id: &str, answers: Answers) -> Visit {
        let mut visit = Visit::on(tap, proxy, tap.of_session(id));
        visit.answers = answers;
        visit
    }

    /// What is to become of answers on this stream.
    pub(super) fn answers(&self) -> Answers {
        self.answers.clone()
    }

    /// A request that is noted on this tape.
    fn on(tap: &Arc<Tap>, proxy: &Proxy, tape: Option<InUse>) -> Visit {
        Visit {
            exchange: Some(tape.as_ref().map_or(0, |tape| tape.tape.exchange())),
            tap: Arc::clone(tap),
            tape,
            opens: false,
            answers: Answers::default(),
            patience: proxy.settings.timeouts.request_max,
            depth: proxy.settings.limits.depth,
            over: false,
        }
    }

    /// Notes something, and waits for it if that is the policy.
    pub(super) async fn note(&self, note: Note) -> Result<(), ProxyError> {
        match &self.tape {
            Some(tape) => tape.tape.note(self.of_exchange(note)).await.map_err(|_| ProxyError::Unrecorded),
            None => Ok(()),
        }
    }

    /// Does what the request is about: what is said to the server meanwhile is for the same tape.
    pub(super) async fn working<T>(&self, work: impl Future<Output = T>) -> T {
        // It is large, and stays where it is.
        let work = pin!(work);
        CURRENT.scope(self.tape.as_ref().map(|tape| tape.tape.clone()), work).await
    }

    /// If a session was opened, the tape is its own.
    fn opened(&mut self, proxy: &Proxy, server: &Server, response: &Response) {
        let Some(tape) = self.tape.as_ref().filter(|_| self.opens) else { return };
        let id = response.headers().get(headers::SESSION_ID).and_then(|id| id.to_str().ok());
        let session = id.and_then(|id| proxy.sessions.find(id, server.metrics.name()).ok());
        if let Some(session) = session {
            self.tap.bind(session.id(), &tape.tape, session.ended().clone());
            self.opens = false;
        }
    }

    /// The response, which is noted as it is read.
    pub(super) async fn respond(mut self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        let head = Head::response(parts.status, &parts.headers);
        let is_stream = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        if is_stream {
            if self.note(Note::http(TO_CLIENT, head)).await.is_err() {
                return Response::from_parts(parts, broken());
            }
            return Response::from_parts(parts, Playing::new(self, body).into_body());
        }
        // It is there already, or it breaks off.
        let Ok(whole) = self.working(body.collect()).await else {
            let _ = self.note(Note::http(TO_CLIENT, head)).await;
            self.close("cut");
            return Response::from_parts(parts, broken());
        };
        let text = whole.to_bytes();
        if text.is_empty() {
            let noted = self.note(Note::http(TO_CLIENT, head)).await;
            self.over = true;
            return match noted {
                Ok(()) => Response::from_parts(parts, Body::empty()),
                Err(_) => Response::from_parts(parts, broken()),
            };
        }
        let decision = self.decide(&text).await;
        wait(decision.wait).await;
        let text = match decision.effect {
            Effect::Drop => {
                sleep(self.patience).await;
                self.close("cut");
                return cut();
            }
            Effect::Cut => {
                let _ = self.note(Note::http(TO_CLIENT, head).touched(decision.by)).await;
                self.close("cut");
                return Response::from_parts(parts, broken());
            }
            Effect::Before(garbage) => Bytes::from([garbage, text].concat()),
            _ => text,
        };
        let said = Note::message(TO_CLIENT, text.clone()).head(head).touched(decision.by);
        let is_json = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        // Where nobody interferes, what is called so was read or made as that.
        let said = if is_json && self.tap.chain.is_empty() { said.of_json() } else { said };
        let noted = self.note(said).await;
        self.over = true;
        match noted {
            Ok(()) => Response::from_parts(parts, Body::from(text)),
            Err(_) => Response::from_parts(parts, broken()),
        }
    }

    /// What is to become of a message to the client.
    async fn decide(&self, text: &Bytes) -> Decision {
        if self.tap.chain.is_empty() {
            return Decision::default();
        }
        let Ok(message) = Message::parse(text.clone(), self.depth) else { return Decision::default() };
        if matches!(message.kind(), Kind::Result | Kind::Error)
            && let Some(planned) = message.id().and_then(|id| self.answers.take(&id))
        {
            return planned.into();
        }
        match self.tap.chain.on(Direction::Down, &message) {
            Some(asked) => asked.await,
            None => Decision::default(),
        }
    }

    fn close(&mut self, reason: &str) {
        self.over = true;
        if let Some(tape) = &self.tape {
            tape.tape.note_now(self.of_exchange(Note::close(TO_CLIENT, reason)));
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Some(tape) = &self.tape else { return };
        if !self.over {
            tape.tape.note_now(self.of_exchange(Note::close(FROM_CLIENT, "client went away")));
        }
        if self.opens {
            tape.tape.end("no session was opened");
        }
    }
}

/// Who a client without a session is.
fn client(server: &Server, headers: &HeaderMap, message: Option<&Message>) -> ClientKey {
    ClientKey {
        principal: server.shown(headers).map(|principal| *principal.as_bytes()),
        info: message.and_then(|message| message.meta(meta::CLIENT_INFO)).map(str::to_owned),
    }
}

/// A stream of events that is being read by a client.
struct Playing {
    visit: Visit,
    body: Body,
    decoder: Decoder,
    /// Read and not looked at.
    chunk: Bytes,
}

impl Playing {
    fn new(visit: Visit, body: Body) -> Playing {
        Playing { visit, body, decoder: Decoder::new(usize::MAX), chunk: Bytes::new() }
    }

    fn into_body(self) -> Body {
        Body::new(StreamBody::new(stream::unfold(self, |mut playing| async move {
            let piece = playing.next().await?;
            Some((piece.map(Frame::data), playing))
        })))
    }

    /// What is written next.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if self.visit.over {
                return None;
            }
            if !self.chunk.is_empty() {
                match self.piece().await {
                    Ok(piece) if piece.is_empty() => continue,
                    piece => return Some(piece),
                }
            }
            match self.visit.working(self.body.frame()).await {
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Some(Err(self.cut())),
                None => {
                    self.visit.close("end of stream");
                    return None;
                }
            }
        }
    }

    fn cut(&mut self) -> io::Error {
        self.visit.close("cut");
        io::ErrorKind::ConnectionAborted.into()
    }

    /// All of a chunk where nobody interferes, else one event of it.
    async fn piece(&mut self) -> io::Result<Bytes> {
        if self.visit.tap.chain.is_empty() {
            // Whole events: that is how they were written.
            let chunk = std::mem::take(&mut self.chunk);
            if self.visit.note(Note::piece(TO_CLIENT, chunk.clone())).await.is_err() {
                return Err(self.cut());
            }
            return Ok(chunk);
        }
        match self.decoder.decode(&mut self.chunk) {
            Some(Ok(Item::Event(event))) => self.event(event).await,
            Some(Ok(Item::Comment)) => Ok(Bytes::from_static(KEEP_ALIVE)),
            Some(Err(_)) => Err(self.cut()),
            None => Ok(Bytes::new()),
        }
    }

    async fn event(&mut self, event: Event) -> io::Result<Bytes> {
        let decision = match event.message() {
            Some(text) => self.visit.decide(&text.clone()).await,
            None => Decision::default(),
        };
        wait(decision.wait).await;
        let mut out = BytesMut::new();
        let times = match decision.effect {
            Effect::Drop => 0,
            Effect::Twice => 2,
            Effect::Cut => return Err(self.cut()),
            Effect::Before(garbage) => {
                let garbage = Event { event: Some(Bytes::from_static(b"message")), ..Event::new(garbage) };
                self.write(&garbage, decision.by.clone(), &mut out).await?;
                1
            }
            Effect::Pass | Effect::Answer(_) | Effect::Respond(..) | Effect::Refuse => 1,
        };
        for _ in 0..times {
            self.write(&event, decision.by.clone(), &mut out).await?;
        }
        Ok(out.freeze())
    }

    async fn write(&mut self, event: &Event, by: Vec<Intervention>, out: &mut BytesMut) -> io::Result<()> {
        if self.visit.note(Note::event(TO_CLIENT, event).touched(by)).await.is_err() {
            return Err(self.cut());
        }
        if event.data.is_empty()
            && event.id.is_none()
            && let Some(retry) = event.retry
        {
            sse::encode_retry(retry, out);
        } else {
            encode(event, out);
        }
        Ok(())
    }
}
