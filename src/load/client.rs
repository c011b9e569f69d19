//! One client: its connection, its session, one call at a time.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Plan;
use super::words::{self, Call, Template, Wrong};
use crate::protocol::headers;
use crate::protocol::meta;
use crate::protocol::revision::Era;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    authority: String,
    /// In origin form: the path, and a query.
    path: Uri,
}

impl Target {
    /// Reads an `http://` URL; `None` for anything else.
    #[must_use]
    pub fn parse(url: &str) -> Option<Target> {
        let uri: Uri = url.parse().ok().filter(|uri: &Uri| uri.scheme() == Some(&Scheme::HTTP))?;
        let authority = uri.authority()?;
        let authority = match authority.port() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:80"),
        };
        Some(Target { authority, path: Uri::from(uri.path_and_query()?.clone()) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Why a request has no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection can be made.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Lost(#[source] hyper::Error),
    /// No answer in time.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    /// It answered, and not as it should.
    #[error("{wrong}: {excerpt}")]
    Wrong {
        /// In which way.
        #[source]
        wrong: Wrong,
        /// The beginning of the answer.
        excerpt: String,
    },
}

impl Failure {
    /// The same for all failures of a kind: what they are counted under.
    pub(super) fn kind(&self) -> String {
        match self {
            Failure::Connect(_) => "cannot connect".to_owned(),
            Failure::Lost(_) => "connection broke".to_owned(),
            Failure::Timeout(_) => "no answer in time".to_owned(),
            Failure::Wrong { wrong, .. } => wrong.kind(),
        }
    }
}

/// A connection, and the half of it that does the work: there is no task that would.
struct Http {
    sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
}

pub(super) struct Client {
    target: Target,
    era: Era,
    patience: Duration,
    headers: HeaderMap,
    template: Template,
    /// `None` after a failure: the next call makes another.
    http: Option<Http>,
    /// The body of the last response.
    body: Vec<u8>,
    content_type: Vec<u8>,
    /// When its first bytes were there.
    first_bytes: Instant,
}

impl Client {
    /// Connects, and opens a session in the era that has them.
    pub(super) async fn open(plan: &Plan, number: usize) -> Result<Client, Failure> {
        let headers = words::header_map(&plan.call, plan.era, &plan.target.authority).unwrap_or_default();
        let mut client = Client {
            target: plan.target.clone(),
            era: plan.era,
            patience: plan.patience,
            headers,
            template: Template::new(&plan.call, plan.era, number),
            http: None,
            body: Vec::new(),
            content_type: Vec::new(),
            first_bytes: Instant::now(),
        };
        client.ensure_open().await?;
        Ok(client)
    }

    pub(super) fn session(&self) -> Option<&str> {
        self.headers.get(headers::SESSION_ID)?.to_str().ok()
    }

    /// When the first bytes of the last response's body were there.
    pub(super) fn first_bytes(&self) -> Instant {
        self.first_bytes
    }

    /// One call, whose answer is read in full.
    pub(super) async fn rehearse(&mut self) -> Result<(), Failure> {
        let (body, id) = self.template.next();
        self.post(body).await?;
        self.template.read(&self.content_type, &self.body, id).map_err(|wrong| self.wrong(wrong))
    }

    /// One call. Returns how many progress notifications came before the answer.
    pub(super) async fn call(&mut self) -> Result<usize, Failure> {
        self.ensure_open().await?;
        let (body, id) = self.template.next();
        self.post(body).await?;
        self.template.check(&self.body, id).map_err(|wrong| self.wrong(wrong))
    }

    /// The result of a request without parameters of its own, such as a list.
    pub(super) async fn ask(&mut self) -> Result<Value, Failure> {
        let (body, _) = self.template.next();
        self.post(body).await?;
        let last = words::messages(&self.content_type, &self.body).pop();
        Ok(last.map(|mut answer| answer["result"].take()).unwrap_or_default())
    }

    pub(super) async fn close(mut self) {
        if self.session().is_some() {
            let _ = self.exchange(Method::DELETE, Bytes::new()).await;
        }
    }

    async fn ensure_open(&mut self) -> Result<(), Failure> {
        if self.http.is_some() {
            return Ok(());
        }
        let connecting = timeout(self.patience, TcpStream::connect(&self.target.authority)).await;
        let stream = connecting.map_err(|_| Failure::Timeout(self.patience))?.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Lost)?;
        self.http = Some(Http { sender, driver: Box::pin(driver) });
        if self.era == Era::Legacy {
            self.headers.remove(headers::SESSION_ID);
            self.headers.remove(headers::PROTOCOL_VERSION);
            let response = self.post(words::initialize()).await?;
            let answer = words::messages(&self.content_type, &self.body).pop().unwrap_or_default();
            let version = answer["result"][meta::PROTOCOL_VERSION_PARAM].as_str().unwrap_or_default();
            let version = HeaderValue::from_str(version).ok().filter(|version| !version.is_empty());
            let version = version.ok_or_else(|| self.wrong(Wrong::Payload))?;
            self.headers.insert(headers::PROTOCOL_VERSION, version);
            if let Some(session) = response.get(headers::SESSION_ID) {
                self.headers.insert(headers::SESSION_ID, session.clone());
            }
            self.post(words::initialized()).await?;
        }
        Ok(())
    }

    /// POSTs, and reads the response into `body`.
    async fn post(&mut self, body: Bytes) -> Result<HeaderMap, Failure> {
        match timeout(self.patience, self.exchange(Method::POST, body)).await {
            Ok(Ok((status, headers))) if status.is_success() => Ok(headers),
            Ok(Ok((status, _))) => Err(self.wrong(Wrong::Status(status.as_u16()))),
            Ok(Err(error)) => {
                self.http = None;
                Err(Failure::Lost(error))
            }
            Err(_) => {
                // Its answer may come yet, and would be taken for the next one's.
                self.http = None;
                Err(Failure::Timeout(self.patience))
            }
        }
    }

    async fn exchange(&mut self, method: Method, body: Bytes) -> Result<(StatusCode, HeaderMap), hyper::Error> {
        let Client { http: Some(Http { sender, driver }), body: answer, headers, first_bytes, .. } = self else {
            return Ok((StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new()));
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.path.clone();
        request.headers_mut().clone_from(headers);
        answer.clear();
        let mut ended = false;
        let exchanged: Result<_, hyper::Error> = {
            let mut work = pin!(async {
                sender.ready().await?;
                let (head, mut body) = sender.send_request(request).await?.into_parts();
                while let Some(frame) = body.frame().await {
                    if let Ok(data) = frame?.into_data() {
                        if answer.is_empty() {
                            *first_bytes = Instant::now();
                        }
                        answer.extend_from_slice(&data);
                    }
                }
                Ok((head.status, head.headers))
            });
            poll_fn(|context| {
                // It hands the request over, the connection writes and reads, and it takes what came.
                if let done @ Poll::Ready(_) = work.as_mut().poll(context) {
                    return done;
                }
                ended = ended || driver.as_mut().poll(context).is_ready();
                work.as_mut().poll(context)
            })
            .await
        };
        if ended {
            self.http = None;
        }
        let (status, headers) = exchanged?;
        self.content_type.clear();
        self.content_type.extend_from_slice(headers.get(header::CONTENT_TYPE).map_or(b"", HeaderValue::as_bytes));
        Ok((status, headers))
    }

    fn wrong(&self, wrong: Wrong) -> Failure {
        let excerpt = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]).into_owned();
        Failure::Wrong { wrong, excerpt }
    }
}

/// Finds out what the server speaks, unless it is known, and what it can be asked for.
///
/// # Errors
/// It cannot be reached, or speaks neither era.
pub(crate) async fn look_around(
    target: &Target,
    era: Option<Era>,
    payload_bytes: usize,
    patience: Duration,
) -> Result<(Era, Call), Failure> {
    let plan = |era| Plan { target: target.clone(), era, clients: 1, call: Call::list(), patience };
    let (era, mut client) = match era {
        Some(era) => (era, Client::open(&plan(era), 0).await?),
        // A server that speaks both is met in the era that most clients speak; of one that speaks neither, the first no is told.
        None => match Client::open(&plan(Era::Legacy), 0).await {
            Ok(client) => (Era::Legacy, client),
            Err(refusal @ Failure::Wrong { .. }) => {
                // Opening one takes no more than a connection: it has no session.
                let mut modern = Client::open(&plan(Era::Modern), 0).await?;
                modern.ask().await.map_err(|_| refusal)?;
                (Era::Modern, modern)
            }
            Err(failure) => return Err(failure),
        },
    };
    let tools = client.ask().await?;
    client.close().await;
    Ok((era, Call::found_in(&tools, payload_bytes)))
}
