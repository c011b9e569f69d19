//! Who answers whom on a tape: which frame is the answer to which request. Pure.

use std::collections::HashMap;

use super::format::{Edge, Frame, Kind};
use crate::protocol::id::RequestId;
use crate::protocol::message::{self, Incoming, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::scan::DEPTH_MAX;

/// Most requests that wait for their answers; the oldest are given up beyond that. A tape is read without being trusted.
const OPEN_MAX: usize = 1 << 16;

/// A message of a frame, and what it is to the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The number of its frame.
    pub seq: u64,
    /// When, in microseconds.
    pub at: u64,
    /// The message.
    pub message: Message,
    /// What it is to the others.
    pub role: Role,
}

/// What a message is to the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// A request. Its answer is yet to come, if one does.
    Request,
    /// A notification. If it is about a request (cancellation, progress), about which.
    Notification(Option<Asked>),
    /// An answer, and to what; `None` if the tape has no open request of that id.
    Answer(Option<Asked>),
}

/// A request, as far as its answer has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The number of its frame.
    pub seq: u64,
    /// When, in microseconds.
    pub at: u64,
    /// Which method.
    pub method: String,
    /// What it is about: the tool, the prompt, the resource.
    pub subject: Option<String>,
}

impl Asked {
    fn by(frame: &Frame, request: &Message) -> Asked {
        Asked {
            seq: frame.seq,
            at: frame.at,
            method: request.method().unwrap_or_default().to_owned(),
            subject: subject(request),
        }
    }
}

/// What a request is about: the tool, the prompt, the resource, the task.
#[must_use]
pub fn subject(message: &Message) -> Option<String> {
    message.param_str(message.known()?.name_param()?.0)
}

/// Whose ids these are: an edge, the side that asks, and the connection.
type Side = (Option<Edge>, bool, Option<u64>);

struct Open {
    asked: Asked,
    exchange: Option<u64>,
    order: u64,
    token: Option<RequestId>,
}

/// Finds out, frame by frame, what answers what. Remembers the requests that wait for an answer, and no more.
#[derive(Default)]
pub struct Pairing {
    open: HashMap<(Side, RequestId), Vec<Open>>,
    tokens: HashMap<(Side, RequestId), Asked>,
    waiting: usize,
    order: u64,
}

/// What a frame of the kind `message` holds.
pub enum Seen {
    /// One message, or each one of a batch.
    Said(Box<Said>),
    /// What is none: why.
    NotAMessage(message::ParseError),
}

impl Pairing {
    /// The messages of the next frame.
    pub fn see(&mut self, frame: &Frame) -> Vec<Seen> {
        let Some(body) = frame.body.as_ref().filter(|_| frame.kind == Kind::Message) else { return Vec::new() };
        match Incoming::parse(body.bytes().clone(), DEPTH_MAX) {
            Ok(Incoming::One(message)) => vec![Seen::Said(Box::new(self.say(frame, message)))],
            Ok(Incoming::Batch(messages)) => messages
                .into_iter()
                .map(|one| one.map_or_else(Seen::NotAMessage, |message| Seen::Said(Box::new(self.say(frame, message)))))
                .collect(),
            Err(error) => vec![Seen::NotAMessage(error)],
        }
    }

    /// The requests without an answer, in the order of the tape.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Asked> {
        let mut open: Vec<&Open> = self.open.values().flatten().collect();
        open.sort_by_key(|open| open.order);
        open.into_iter().map(|open| open.asked.clone()).collect()
    }

    fn say(&mut self, frame: &Frame, message: Message) -> Said {
        let role = match message.kind() {
            message::Kind::Request => {
                self.ask(frame, &message);
                Role::Request
            }
            message::Kind::Notification => Role::Notification(self.about(frame, &message)),
            message::Kind::Result | message::Kind::Error => Role::Answer(self.answer(frame, &message)),
        };
        Said { seq: frame.seq, at: frame.at, message, role }
    }

    fn ask(&mut self, frame: &Frame, request: &Message) {
        let Some(id) = request.id() else { return };
        if self.waiting >= OPEN_MAX {
            let oldest = self
                .open
                .iter()
                .filter_map(|(key, open)| Some((open.first()?.order, key.clone())))
                .min_by_key(|(order, _)| *order);
            if let Some((_, key)) = oldest {
                self.close(&key, 0);
            }
        }
        let (side, asked) = (side(frame, true), Asked::by(frame, request));
        let token = request.meta(meta::PROGRESS_TOKEN).and_then(RequestId::from_json);
        if let Some(token) = token.clone() {
            self.tokens.insert((side, token), asked.clone());
        }
        self.order += 1;
        self.waiting += 1;
        let open = Open { asked, exchange: frame.exchange, order: self.order, token };
        self.open.entry((side, id)).or_default().push(open);
    }

    fn answer(&mut self, frame: &Frame, answer: &Message) -> Option<Asked> {
        let key = (side(frame, false), answer.id()?);
        let open = self.open.get(&key)?;
        // Clients without sessions use the same ids side by side: then the exchange tells them apart.
        let same = open.iter().position(|open| open.exchange == frame.exchange);
        self.close(&key, same.unwrap_or(0))
    }

    fn close(&mut self, key: &(Side, RequestId), place: usize) -> Option<Asked> {
        let open = self.open.get_mut(key)?;
        let closed = (place < open.len()).then(|| open.remove(place))?;
        if open.is_empty() {
            self.open.remove(key);
        }
        self.waiting -= 1;
        if let Some(token) = closed.token {
            self.tokens.remove(&(key.0, token));
        }
        Some(closed.asked)
    }

    fn about(&mut self, frame: &Frame, notification: &Message) -> Option<Asked> {
        match notification.known()? {
            Known::Cancelled => {
                let id = RequestId::from_json(notification.param(meta::REQUEST_ID)?)?;
                // A request that was cancelled need not be answered.
                self.close(&(side(frame, true), id), 0)
            }
            Known::Progress => {
                let token = RequestId::from_json(notification.param(meta::PROGRESS_TOKEN)?)?;
                self.tokens.get(&(side(frame, false), token)).cloned()
            }
            _ => None,
        }
    }
}

/// A request and what there is of its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The request.
    pub request: Said,
    /// The answer; `None` if the tape has none.
    pub answer: Option<Said>,
    /// Whether the client asks, and not the server.
    pub upward: bool,
}

/// The requests of one edge with their answers, in the order of the tape.
#[must_use]
pub fn calls(frames: &[Frame], edge: Edge) -> Vec<Call> {
    let mut pairing = Pairing::default();
    let mut calls: Vec<Call> = Vec::new();
    for frame in frames.iter().filter(|frame| frame.edge() == Some(edge)) {
        for seen in pairing.see(frame) {
            let Seen::Said(said) = seen else { continue };
            match &said.role {
                Role::Request => calls.push(Call { request: *said, answer: None, upward: frame.is_upward() }),
                Role::Answer(Some(asked)) => {
                    let is_open = |call: &&mut Call| {
                        let id = call.request.message.id();
                        call.request.seq == asked.seq && call.answer.is_none() && id == said.message.id()
                    };
                    // It is more often one of the last than one of the first.
                    if let Some(call) = calls.iter_mut().rev().find(is_open) {
                        call.answer = Some(*said);
                    }
                }
                Role::Answer(None) | Role::Notification(_) => {}
            }
        }
    }
    calls
}

/// Whose ids a frame speaks of: those of who says it, or those of who hears it.
fn side(frame: &Frame, own: bool) -> Side {
    (frame.edge(), frame.is_upward() == own, frame.connection)
}

#[cfg(test)]
mod tests {
    use super::super::format::Party::{self, Client, Proxy, Upstream};
    use super::*;

    fn told(frames: &[(Party, Party, Option<u64>, &str)]) -> (Vec<String>, Vec<u64>) {
        let mut pairing = Pairing::default();
        let mut told = Vec::new();
        for (index, (from, to, exchange, text)) in frames.iter().enumerate() {
            let mut frame = Frame::message(index as u64 + 1, 0, *from, *to, (*text).to_owned());
            frame.exchange = *exchange;
            for seen in pairing.see(&frame) {
                told.push(match seen {
                    Seen::NotAMessage(error) => error.reason.to_string(),
                    Seen::Said(said) => match said.role {
                        Role::Request => "request".into(),
                        Role::Notification(None) => "notification".into(),
                        Role::Answer(None) => "answer to nothing".into(),
                        Role::Notification(Some(asked)) | Role::Answer(Some(asked)) => format!("to {}", asked.seq),
                    },
                });
            }
        }
        (told, pairing.unanswered().iter().map(|asked| asked.seq).collect())
    }

    #[test]
    fn answers_find_their_requests() {
        let ask =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":"p"}}}"#;
        let answer = r#"{"jsonrpc":"2.0","id":1.0,"result":{}}"#;
        let progress =
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#;
        let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
        let frames = [
            (Client, Proxy, Some(1), ask),
            // The same id: of another client, on the other edge, in the other direction.
            (Client, Proxy, Some(2), ask),
            (Proxy, Upstream, None, ask),
            (Upstream, Proxy, None, ask),
            (Proxy, Client, Some(2), answer),
            (Upstream, Proxy, None, progress),
            (Upstream, Proxy, None, answer),
            (Proxy, Client, Some(1), answer),
            (Proxy, Client, Some(1), answer),
            (Upstream, Proxy, None, cancel),
            (Client, Proxy, Some(3), ask),
            (Client, Proxy, Some(4), "[]x"),
            (Client, Proxy, Some(5), r#"[{"jsonrpc":"2.0","id":7,"method":"ping"},1]"#),
        ];
        let (told, unanswered) = told(&frames);
        assert_eq!(
            told,
            [
                "request",
                "request",
                "request",
                "request",
                "to 2",
                "to 3",
                "to 3",
                "to 1",
                "answer to nothing",
                "to 4",
                "request",
                "not valid JSON at byte 2",
                "request",
                "not a JSON-RPC 2.0 message: a message is an object",
            ]
        );
        assert_eq!(unanswered, [11, 13]);
    }
}
