//! What two tapes must have in common to be of the same traffic: names, times and the order of what is independent may differ.
//!
//! A tape falls into *threads*: a request, or a notification, and all that belongs to it, in order. Threads are paired by what
//! begins them; those that begin alike, in the order of the tape. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;

use http::StatusCode;

use super::align::gaps;
use super::compare::{self, Difference};
use super::format::{Edge, Frame, Kind as FrameKind};
use super::json::Json;
use crate::protocol::headers;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Incoming, Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::scan::DEPTH_MAX;

/// One request and all that belongs to it.
#[derive(Debug, Clone)]
pub struct Thread {
    /// The frame that begins it.
    pub seq: u64,
    /// What begins it, as text: what it is paired by.
    pub key: String,
    /// All that belongs to it.
    pub lines: Vec<Line>,
    /// The proxy says it in its own name: that depends on what other clients did before.
    pub of_proxy: bool,
    /// The client went away from it: what came after that, if anything, is a matter of chance.
    pub left: bool,
}

/// One thing that passed.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its frame.
    pub seq: u64,
    /// Towards the server.
    pub upward: bool,
    /// The HTTP status that came with it.
    pub status: Option<u16>,
    /// Those headers that came with it which mean something to MCP; of those that are made up, only that they are there.
    pub headers: BTreeMap<String, String>,
    /// The message without its names; `None` if there was none.
    pub message: Option<Json>,
}

/// Two tapes are not of the same traffic here.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// A thread of the first has none in the second.
    Missing {
        /// Its frame in the first.
        seq: u64,
        /// What begins it.
        what: String,
    },
    /// A thread of the second has none in the first.
    Unexpected {
        /// Its frame in the second.
        seq: u64,
        /// What begins it.
        what: String,
    },
    /// A thread ends sooner.
    Shorter {
        /// The frame in the first that has none in the second.
        seq: u64,
        /// What it is.
        what: String,
    },
    /// A thread goes on.
    Longer {
        /// The frame in the second that has none in the first.
        seq: u64,
        /// What it is.
        what: String,
    },
    /// Something is different.
    Different {
        /// The frame in the first.
        seq: u64,
        /// What is different.
        differences: Vec<Difference>,
    },
    /// Another HTTP status.
    Status {
        /// The frame in the first.
        seq: u64,
        /// Its status.
        expected: Option<u16>,
        /// That of the other.
        actual: Option<u16>,
    },
    /// Another header.
    Header {
        /// The frame in the first.
        seq: u64,
        /// The header.
        name: String,
        /// Its value, if there is one.
        expected: Option<String>,
        /// That of the other.
        actual: Option<String>,
    },
}

/// What stands for the value of a header that is made up.
const MADE_UP: &str = "one";

/// Most differences of one message that are shown.
const SHOWN_MAX: usize = 3;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing { seq, what } => write!(f, "frame {seq}: {what} did not come"),
            Finding::Unexpected { what, .. } => write!(f, "{what} came, which is not on the tape"),
            Finding::Shorter { seq, what } => write!(f, "frame {seq}: {what} did not come"),
            Finding::Longer { what, .. } => write!(f, "{what} came besides what is on the tape"),
            Finding::Different { seq, differences } => {
                write!(f, "frame {seq}:")?;
                for (index, difference) in differences.iter().take(SHOWN_MAX).enumerate() {
                    write!(f, "{} {difference}", if index == 0 { "" } else { ";" })?;
                }
                match differences.len().checked_sub(SHOWN_MAX) {
                    Some(more @ 1..) => write!(f, "; and {more} more"),
                    _ => Ok(()),
                }
            }
            Finding::Status { seq, expected, actual } => {
                let said = |status: &Option<u16>| status.map_or_else(|| "none".to_owned(), |status| status.to_string());
                write!(f, "frame {seq}: expected status {}, got {}", said(expected), said(actual))
            }
            Finding::Header { seq, name, expected, actual } => {
                let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
                write!(f, "frame {seq}: header {name}: expected {}, got {}", said(expected), said(actual))
            }
        }
    }
}

/// The threads of what passed on one side of the proxy.
#[must_use]
pub fn threads<'f>(edge: Edge, frames: impl IntoIterator<Item = &'f Frame>) -> Vec<Thread> {
    let mut weaver = Weaver::default();
    for frame in frames.into_iter().filter(|frame| frame.edge() == Some(edge)) {
        weaver.frame(frame);
    }
    weaver.threads
}

/// In what the second differs from the first. What is not in `counts` of either is passed over.
#[must_use]
pub fn compare(
    first: &[Thread],
    second: &[Thread],
    rules: &compare::Rules,
    counts: impl Fn(&Thread, &Line) -> bool,
) -> Vec<Finding> {
    let of = |thread: &Thread| thread.lines.iter().filter(|line| counts(thread, line)).cloned().collect::<Vec<_>>();
    let mut others: HashMap<&str, VecDeque<(u64, Vec<Line>)>> = HashMap::new();
    for thread in second {
        let lines = of(thread);
        if !lines.is_empty() {
            others.entry(&thread.key).or_default().push_back((thread.seq, lines));
        }
    }
    let mut findings = Vec::new();
    for thread in first {
        let lines = of(thread);
        if lines.is_empty() {
            continue;
        }
        let Some((_, actual)) = others.get_mut(thread.key.as_str()).and_then(VecDeque::pop_front) else {
            findings.push(Finding::Missing { seq: thread.seq, what: thread.key.clone() });
            continue;
        };
        pair(&lines, &actual, thread.left, rules, &mut findings);
    }
    let mut left: Vec<_> =
        others.into_iter().flat_map(|(key, all)| all.into_iter().map(move |(seq, _)| (seq, key))).collect();
    left.sort_unstable();
    findings.extend(left.into_iter().map(|(seq, key)| Finding::Unexpected { seq, what: key.to_owned() }));
    findings
}

fn pair(lines: &[Line], actual: &[Line], left: bool, rules: &compare::Rules, findings: &mut Vec<Finding>) {
    let gaps = gaps(lines.len(), actual.len(), |one, other| {
        let mut found = Vec::new();
        lines[one].compare(&actual[other], rules, &mut found);
        lines[one].is_like(&actual[other]) && found.is_empty()
    });
    for (expected, came) in gaps {
        let mut came: Vec<&Line> = actual[came].iter().collect();
        for line in &lines[expected] {
            match came.iter().position(|other| line.is_like(other)).map(|at| came.remove(at)) {
                Some(other) => line.compare(other, rules, findings),
                None => findings.push(Finding::Shorter { seq: line.seq, what: line.words() }),
            }
        }
        let besides = came.into_iter().filter(|_| !left);
        findings.extend(besides.map(|line| Finding::Longer { seq: line.seq, what: line.words() }));
    }
}

impl Line {
    /// Whether both are of a kind, so that it can be said in what they differ.
    fn is_like(&self, other: &Line) -> bool {
        let method = |line: &Line| line.message.as_ref().map(|message| message.get("method").cloned());
        self.upward == other.upward && method(self) == method(other)
    }

    /// In what the other differs.
    fn compare(&self, other: &Line, rules: &compare::Rules, findings: &mut Vec<Finding>) {
        let seq = self.seq;
        if self.status != other.status {
            findings.push(Finding::Status { seq, expected: self.status, actual: other.status });
        }
        let names: BTreeSet<&String> = self.headers.keys().chain(other.headers.keys()).collect();
        for name in names {
            let (expected, actual) = (self.headers.get(name).cloned(), other.headers.get(name).cloned());
            if expected != actual {
                findings.push(Finding::Header { seq, name: name.clone(), expected, actual });
            }
        }
        if let (Some(expected), Some(actual)) = (&self.message, &other.message) {
            let differences = compare::differences(expected, actual, rules);
            if !differences.is_empty() {
                findings.push(Finding::Different { seq, differences });
            }
        }
    }

    /// Whether nothing but a status answers it, here: a notification, an answer, or whatever was taken with 202.
    fn is_taken_with(&self, status: Option<u16>) -> bool {
        let is_request = |message: &Json| message.get("method").is_some() && message.get("id").is_some();
        let taken = status == Some(StatusCode::ACCEPTED.as_u16());
        self.status.is_none() && self.message.as_ref().is_some_and(|message| taken || !is_request(message))
    }

    fn words(&self) -> String {
        let Some(message) = &self.message else {
            return self
                .status
                .map_or_else(|| "a request without a message".to_owned(), |status| format!("status {status}"));
        };
        match message.get("method").and_then(Json::as_str) {
            Some(method) => method.to_owned(),
            None if message.get("error").is_some() => "an error".to_owned(),
            None => "a result".to_owned(),
        }
    }
}

/// A request that is under way.
struct Open {
    thread: usize,
    id: RequestId,
    token: Option<RequestId>,
    connection: Option<u64>,
}

#[derive(Default)]
struct Weaver {
    threads: Vec<Thread>,
    open: Vec<Open>,
    /// Questions of the server, and the threads they are of.
    asked: Vec<(Option<u64>, RequestId, usize)>,
    /// What an HTTP exchange began.
    exchanges: BTreeMap<u64, usize>,
    /// What the server says by itself, by connection.
    standing: BTreeMap<Option<u64>, usize>,
    /// What servers want to have back, in the order in which they were first said.
    states: Vec<String>,
}

impl Weaver {
    fn frame(&mut self, frame: &Frame) {
        match (&frame.kind, &frame.body) {
            (FrameKind::Message, Some(body)) => {
                let messages = match Incoming::parse(body.bytes().clone(), DEPTH_MAX) {
                    Ok(Incoming::One(message)) => vec![message],
                    Ok(Incoming::Batch(messages)) => messages.into_iter().flatten().collect(),
                    Err(_) => return self.odd(frame),
                };
                for message in messages {
                    if frame.is_upward() { self.up(frame, &message) } else { self.down(frame, &message) }
                }
            }
            (FrameKind::Http, _) => self.http(frame),
            (FrameKind::Close { .. }, _) if frame.is_upward() => {
                if let Some(thread) = frame.exchange.and_then(|exchange| self.exchanges.get(&exchange)) {
                    self.threads[*thread].left = true;
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, frame: &Frame, key: String) -> usize {
        let thread = self.threads.len();
        self.threads.push(Thread { seq: frame.seq, key, lines: Vec::new(), of_proxy: false, left: false });
        if let Some(exchange) = frame.exchange {
            self.exchanges.insert(exchange, thread);
        }
        thread
    }

    fn add(&mut self, frame: &Frame, thread: usize, message: Option<Json>) {
        let status = frame.http.as_ref().and_then(|http| http.status);
        let headers = frame.http.as_ref().map(|http| headers_of(&http.headers)).unwrap_or_default();
        self.threads[thread].lines.push(Line { seq: frame.seq, upward: frame.is_upward(), status, headers, message });
    }

    /// What should have been a message.
    fn odd(&mut self, frame: &Frame) {
        let text =
            frame.body.as_ref().map(|body| String::from_utf8_lossy(body.bytes()).into_owned()).unwrap_or_default();
        let known = frame.exchange.and_then(|exchange| self.exchanges.get(&exchange)).copied();
        let thread = known.unwrap_or_else(|| self.begin(frame, "what is no message".to_owned()));
        self.add(frame, thread, Some(Json::Text(text)));
    }

    fn http(&mut self, frame: &Frame) {
        let http = frame.http.as_deref();
        if frame.is_upward() {
            let method = http.and_then(|http| http.method.clone()).unwrap_or_default();
            let thread = self.begin(frame, method);
            self.add(frame, thread, None);
        } else if let Some(thread) = frame.exchange.and_then(|exchange| self.exchanges.get(&exchange)).copied() {
            let status = http.and_then(|http| http.status);
            match self.threads[thread].lines.first_mut().filter(|line| line.is_taken_with(status)) {
                // It is said of the message: where the answer comes on another stream, either may come first.
                Some(line) => line.status = status,
                None => self.add(frame, thread, None),
            }
        }
    }

    fn up(&mut self, frame: &Frame, message: &Message) {
        let connection = frame.connection;
        let named = self.named(message);
        match message.kind() {
            Kind::Request => {
                let Some(id) = message.id() else { return };
                let thread = self.begin(frame, key(message));
                self.threads[thread].of_proxy = is_of_proxy(message);
                let token = message.meta(meta::PROGRESS_TOKEN).and_then(RequestId::from_json);
                self.open.push(Open { thread, id, token, connection });
                self.add(frame, thread, named);
            }
            Kind::Notification => {
                let id = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                let of = |open: &&Open| open.connection == connection && Some(&open.id) == id.as_ref();
                let cancelled = self.open.iter().find(of).map(|open| open.thread);
                let method = match cancelled.filter(|_| message.known() == Some(Known::Cancelled)) {
                    Some(thread) => format!("{} of {}", key(message), self.threads[thread].key),
                    None => key(message),
                };
                let thread = self.begin(frame, method);
                self.add(frame, thread, named);
            }
            Kind::Result | Kind::Error => {
                let id = message.id();
                let asked =
                    self.asked.iter().position(|(on, asked, _)| *on == connection && Some(asked) == id.as_ref());
                let of = asked.map(|at| self.asked.remove(at).2);
                let what = of.map_or_else(|| "nothing".to_owned(), |of| self.threads[of].key.clone());
                let thread = self.begin(frame, format!("an answer to a question of {what}"));
                self.add(frame, thread, named);
            }
        }
    }

    fn down(&mut self, frame: &Frame, message: &Message) {
        let connection = frame.connection;
        let named = self.named(message);
        let of_exchange = frame.exchange.and_then(|exchange| self.exchanges.get(&exchange)).copied();
        let id = message.id();
        let answered = match message.kind() {
            Kind::Result | Kind::Error => {
                let of_id = |open: &Open| open.connection == connection && Some(&open.id) == id.as_ref();
                let here = self.open.iter().position(|open| of_id(open) && Some(open.thread) == of_exchange);
                let open = here.or_else(|| self.open.iter().position(of_id));
                open.map(|at| self.open.remove(at).thread)
            }
            _ => None,
        };
        let by_name = match message.known() {
            Some(Known::Progress) => message.param(meta::PROGRESS_TOKEN).and_then(RequestId::from_json),
            _ => None,
        };
        let by_name = by_name.and_then(|token| {
            let of = |open: &&Open| open.connection == connection && open.token.as_ref() == Some(&token);
            self.open.iter().find(of).map(|open| open.thread)
        });
        // Clients without sessions use the same ids side by side; answers of a session may come on another stream.
        let is_open = |thread: &usize| answered == Some(*thread) || self.open.iter().any(|open| open.thread == *thread);
        let known = of_exchange.filter(is_open).or(answered).or(by_name).or(of_exchange);
        let thread = known.unwrap_or_else(|| match self.standing.get(&connection) {
            Some(thread) => *thread,
            None => {
                let thread = self.begin(frame, "what the server says by itself".to_owned());
                self.standing.insert(connection, thread);
                thread
            }
        });
        if let (Kind::Request, Some(id)) = (message.kind(), id) {
            self.asked.push((connection, id, thread));
        }
        self.add(frame, thread, named);
    }

    /// The message with fixed words in place of names that clients, servers and the proxy choose as they like.
    fn named(&mut self, message: &Message) -> Option<Json> {
        let named = message
            .edit()
            .id("0")
            .param(meta::PROGRESS_TOKEN, "0")
            .meta(meta::PROGRESS_TOKEN, "0")
            .meta(meta::SUBSCRIPTION_ID, "0");
        let named = if message.known() == Some(Known::Cancelled) { named.param(meta::REQUEST_ID, "0") } else { named };
        let mut json = Json::parse(named.finish().text()).ok()?;
        if let Json::Object(members) = &mut json {
            for part in ["params", "result"] {
                if let Some(Json::Object(body)) = members.get_mut(part) {
                    if let Some(Json::Text(state)) = body.get_mut(meta::REQUEST_STATE) {
                        *state = format!("state {}", self.state(state));
                    }
                    if let Some(Json::Object(metadata)) = body.get_mut(meta::META)
                        && let Some(id) = metadata.get_mut(meta::SUBSCRIPTION_ID)
                    {
                        *id = Json::Text("0".to_owned());
                    }
                }
            }
        }
        Some(json)
    }

    fn state(&mut self, state: &str) -> usize {
        self.states.iter().position(|known| known == state).unwrap_or_else(|| {
            self.states.push(state.to_owned());
            self.states.len() - 1
        })
    }
}

/// The headers that mean something to MCP.
fn headers_of(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let meant = |name: &str| name.starts_with("mcp-") || name == "content-type";
    let value = |name: &str, value: &str| match name == headers::SESSION_ID.as_str() {
        true => MADE_UP.to_owned(),
        false => value.to_owned(),
    };
    all.iter().filter(|(name, _)| meant(name)).map(|(name, text)| (name.clone(), value(name, text))).collect()
}

/// What a thread is paired by: what is asked, and about what.
fn key(message: &Message) -> String {
    let method = message.method().unwrap_or_default();
    let about = message.known().and_then(Known::name_param).and_then(|(param, _)| message.param_str(param));
    about.map_or_else(|| method.to_owned(), |about| format!("{method} `{about}`"))
}

/// Whether the proxy says this in its own name: to find out what a server is, or to lease a connection.
pub(crate) fn is_of_proxy(message: &Message) -> bool {
    #[derive(serde::Deserialize)]
    struct Client {
        name: String,
    }
    let client = message.param(meta::CLIENT_INFO_PARAM).or_else(|| message.meta(meta::CLIENT_INFO));
    let client = client.and_then(|client| serde_json::from_str::<Client>(client).ok());
    message.known() == Some(Known::Ping) || client.is_some_and(|client| client.name == env!("CARGO_PKG_NAME"))
}
