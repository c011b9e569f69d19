//! The client of a tape: says what it said, when what it had heard has been heard.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::script::{Act, Names, PIPE, What, state};
use crate::protocol::headers;
use crate::protocol::id::RequestId;
use crate::protocol::lines::Lines;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::scan::DEPTH_MAX;
use crate::protocol::sse::Item;
use crate::replay::Replay;
use crate::replay::stage::Inbox;
use crate::rt::{Spawner, Tasks};
use crate::server::Running;
use crate::settings::{Limits, Timeouts};
use crate::upstream::http::{Body, HttpClient};

/// Longest that one request may take until it is answered at all.
const ANSWER: Duration = Duration::from_secs(300);

/// See the module.
pub(super) struct Client {
    http: HttpClient,
    url: Uri,
    way: Way,
    tasks: Tasks,
    replay: Arc<Replay>,
    /// Woken when something is said to the server.
    inbox: Arc<Inbox>,
    patience: Duration,
    exchanges: BTreeMap<u64, Arc<Exchange>>,
    given_up: BTreeSet<u64>,
}

/// How a client reaches the proxy under test.
pub(super) enum Way {
    /// Over Streamable HTTP.
    Http,
    /// Over HTTP+SSE: this is the stream, which says where messages are posted to.
    HttpSse(Uri),
    /// As over standard input and output, while that is open.
    Pipe(Option<WriteHalf<DuplexStream>>),
}

/// What has come of one request.
#[derive(Default)]
struct Exchange {
    is_stream: bool,
    heard: Mutex<Heard>,
    changed: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct Heard {
    answered: bool,
    session: Option<HeaderValue>,
    /// Where messages are posted to, of HTTP+SSE.
    endpoint: Option<Uri>,
    messages: Vec<Bytes>,
    events: Vec<Bytes>,
}

impl Client {
    /// A client that speaks as that of the tape did, with what is at `url` over HTTP.
    pub(super) fn new(
        running: &Running,
        replay: &Arc<Replay>,
        url: Uri,
        way: Way,
        patience: Duration,
    ) -> io::Result<Client> {
        let tasks = running.tasks().clone();
        let spawner = Spawner::new(&tasks, "through-connection", tasks.stop().clone());
        let http = HttpClient::new(&url, &Limits::default(), &Timeouts::default(), spawner)?;
        let (replay, inbox) = (Arc::clone(replay), Arc::default());
        replay.join(&inbox);
        let (exchanges, given_up) = (BTreeMap::new(), BTreeSet::new());
        let mut client = Client { http, url, way, tasks, replay, inbox, patience, exchanges, given_up };
        if let Way::Pipe(None) = client.way {
            client.way = client.open(running.pipe());
        }
        Ok(client)
    }

    /// A pipe to the proxy under test; what comes out of it is heard.
    fn open(&mut self, pipe: DuplexStream) -> Way {
        let (mut input, output) = tokio::io::split(pipe);
        let exchange = Arc::new(Exchange::default());
        exchange.note(|heard| heard.answered = true);
        self.exchanges.insert(PIPE, Arc::clone(&exchange));
        self.tasks.spawn("through-exchange", async move {
            let mut lines = Lines::new(Limits::default().message_bytes);
            loop {
                while let Some(line) = lines.next_line() {
                    let Ok(line) = line else { return };
                    exchange.note(|heard| heard.messages.push(line));
                }
                tokio::select! {
                    read = input.read_buf(lines.buffer()) => if !read.is_ok_and(|read| read > 0) { return },
                    () = exchange.stop.cancelled() => return,
                }
            }
        });
        Way::Pipe(Some(output))
    }

    /// Does all of it; returns what did not come in time.
    pub(super) async fn play(&mut self, script: &[Act]) -> Vec<String> {
        let mut late = Vec::new();
        for act in script {
            self.wait(act, &mut late).await;
            match &act.what {
                What::Send { http, body, names } => {
                    let method = http.method.as_deref().and_then(|method| method.parse().ok()).unwrap_or(Method::POST);
                    let mut headers = HeaderMap::new();
                    for (name, value) in &http.headers {
                        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                            headers.insert(name, value);
                        }
                    }
                    self.rename(names, &mut headers);
                    let body = body.as_ref().map(|body| self.renamed(names, body)).unwrap_or_default();
                    if let Way::Pipe(pipe) = &mut self.way {
                        let line = [&body[..], b"\n"].concat();
                        if let Some(pipe) = pipe
                            && let Err(error) = pipe.write_all(&line).await
                        {
                            late.push(format!("to the client: frame {}: the proxy does not take it: {error}", act.seq));
                        }
                        continue;
                    }
                    let url = self.url_of(&method).await;
                    self.send(act.exchange, method, url, headers, body);
                }
                What::Close => {
                    if let Way::Pipe(pipe) = &mut self.way {
                        *pipe = None;
                    }
                    if let Some(exchange) = self.exchanges.get(&act.exchange) {
                        exchange.stop.cancel();
                    }
                }
            }
        }
        late
    }

    /// Waits for what the client had heard before.
    async fn wait(&mut self, act: &Act, late: &mut Vec<String>) {
        let deadline = Instant::now() + self.patience;
        let abreast = async {
            while !self.replay.is_abreast(act.seq) {
                poll_fn(|context| self.inbox.poll(context)).await;
            }
        };
        // What is then missing at the server is told with what it got.
        let _ = timeout_at(Instant::now() + self.patience / 4, abreast).await;
        for (number, count) in &act.after {
            // What was waited for in vain is not waited for again.
            let Some(exchange) = self.exchanges.get(number).filter(|_| !self.given_up.contains(number)) else {
                continue;
            };
            if timeout_at(deadline, exchange.has(*count)).await.is_err() {
                let before = if act.seq == 0 { "the end".to_owned() } else { format!("frame {}", act.seq) };
                late.push(format!(
                    "to the client: what comes before {before} did not come in time, of exchange {number}"
                ));
                self.given_up.insert(*number);
            }
        }
    }

    fn heard<T>(&self, exchange: u64, look: impl FnOnce(&Heard) -> Option<T>) -> Option<T> {
        look(&self.exchanges.get(&exchange)?.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names of the proxy's in headers.
    fn rename(&self, names: &Names, fields: &mut HeaderMap) {
        if let Some(session) = names.session.and_then(|exchange| self.heard(exchange, |heard| heard.session.clone())) {
            fields.insert(headers::SESSION_ID, session);
        }
        if let Some((exchange, at)) = names.event
            && let Some(id) = self.heard(exchange, |heard| heard.events.get(at).cloned())
            && let Ok(id) = HeaderValue::from_maybe_shared(id)
        {
            fields.insert(headers::LAST_EVENT_ID, id);
        }
    }

    /// Names of the proxy's in a message.
    fn renamed(&self, names: &Names, body: &Bytes) -> Bytes {
        let message = |(exchange, at): (u64, usize)| {
            let text = self.heard(exchange, |heard| heard.messages.get(at).cloned())?;
            Message::parse(text, DEPTH_MAX).ok()
        };
        let Ok(said) = Message::parse(body.clone(), DEPTH_MAX) else { return body.clone() };
        let id = names.question.and_then(message).and_then(|question| question.id());
        let given = names.state.and_then(message).and_then(|result| state(&result));
        if id.is_none() && given.is_none() {
            return body.clone();
        }
        let mut edit = said.edit();
        if let Some(id) = id.as_ref().map(RequestId::as_json) {
            edit = edit.id(id);
        }
        if let Some(given) = &given {
            edit = edit.param(meta::REQUEST_STATE, given);
        }
        edit.finish().text().clone()
    }

    /// Where a request goes.
    async fn url_of(&self, method: &Method) -> Uri {
        let Way::HttpSse(stream) = &self.way else { return self.url.clone() };
        if *method == Method::GET {
            return stream.clone();
        }
        let endpoint = async {
            for exchange in self.exchanges.values() {
                if let Some(endpoint) = exchange.endpoint().await {
                    return Some(endpoint);
                }
            }
            None
        };
        // Without one it goes where nobody takes it, which is told.
        timeout_at(Instant::now() + self.patience, endpoint).await.ok().flatten().unwrap_or_else(|| self.url.clone())
    }

    fn send(&mut self, number: u64, method: Method, url: Uri, headers: HeaderMap, body: Bytes) {
        let exchange = Arc::new(Exchange { is_stream: method == Method::GET, ..Exchange::default() });
        self.exchanges.insert(number, Arc::clone(&exchange));
        let http = self.http.clone();
        self.tasks.spawn("through-exchange", async move {
            let answered = async {
                let Ok(response) = http.send(method, &url, headers, body, Instant::now() + ANSWER).await else {
                    return exchange.note(|heard| heard.answered = true);
                };
                exchange.note(|heard| {
                    heard.answered = true;
                    heard.session = response.headers.get(headers::SESSION_ID).cloned();
                });
                match response.body {
                    Body::Json(text) | Body::Other(text) => exchange.note(|heard| heard.messages.push(text)),
                    Body::Empty => {}
                    Body::Sse(mut events) => {
                        while let Some(Ok(item)) = events.next().await {
                            let Item::Event(event) = item else { continue };
                            exchange.note(|heard| {
                                if event.event.as_deref() == Some(b"endpoint") {
                                    heard.endpoint = beside(&url, &event.data);
                                }
                                heard.events.extend(event.id.clone());
                                heard.messages.extend(event.message().cloned());
                            });
                        }
                    }
                }
            };
            tokio::select! {
                () = answered => {}
                () = exchange.stop.cancelled() => {}
            }
        });
    }
}

impl Exchange {
    fn note(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Where messages are posted to, if it is a stream that says so.
    async fn endpoint(&self) -> Option<Uri> {
        if !self.is_stream {
            return None;
        }
        loop {
            if let Some(endpoint) = self.heard.lock().unwrap_or_else(PoisonError::into_inner).endpoint.clone() {
                return Some(endpoint);
            }
            self.changed.notified().await;
        }
    }

    /// Waits until there is an answer, and so many messages.
    async fn has(&self, messages: usize) {
        loop {
            {
                let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.answered && heard.messages.len() >= messages {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }
}

/// Another path of the same server.
fn beside(url: &Uri, path: &[u8]) -> Option<Uri> {
    let mut parts = url.clone().into_parts();
    parts.path_and_query = Some(path.try_into().ok()?);
    Uri::from_parts(parts).ok()
}
