//! What a client did, as it is to be done again: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::headers;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::tape::format::{Edge, Frame, Http, Kind as FrameKind};

/// One thing that a client does.
#[derive(Debug)]
pub(super) struct Act {
    /// Its frame.
    pub(super) seq: u64,
    pub(super) exchange: u64,
    /// How much of what exchanges have before it has to be there: of each, how many messages, and that there is an answer at all.
    pub(super) after: BTreeMap<u64, usize>,
    pub(super) what: What,
}

/// What it does.
#[derive(Debug)]
pub(super) enum What {
    /// A request over HTTP.
    Send { http: Arc<Http>, body: Option<Bytes>, names: Names },
    /// It goes away from one.
    Close,
}

/// What of a request was made up by the proxy of the tape: places where the one under test has said something else.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The question that is answered: which message of which exchange.
    pub(super) question: Option<(u64, usize)>,
    /// What is given back with answers: the same.
    pub(super) state: Option<(u64, usize)>,
    /// The event after which a stream is resumed: which event of which exchange.
    pub(super) event: Option<(u64, usize)>,
    /// The session: the exchange whose answer opened it.
    pub(super) session: Option<u64>,
}

/// The exchange of what belongs to no request over HTTP.
pub(super) const PIPE: u64 = 0;

/// All that the client of a tape did.
pub(super) fn of(frames: &[Frame]) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut heard: BTreeMap<u64, Vec<Option<Message>>> = BTreeMap::new();
    let mut events: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut answered: BTreeMap<u64, usize> = BTreeMap::new();
    let mut sessions: BTreeMap<String, u64> = BTreeMap::new();
    for frame in frames.iter().filter(|frame| frame.edge() == Some(Edge::Client)) {
        // Over standard input and output all is one exchange.
        let exchange = frame.exchange.unwrap_or(PIPE);
        if frame.is_upward() {
            let message = frame.body.as_ref().and_then(|body| body.message().ok());
            let what = match (&frame.kind, &frame.http) {
                (FrameKind::Close { .. }, _) => What::Close,
                (FrameKind::Message | FrameKind::Http, http) => {
                    let http = http.clone().unwrap_or_default();
                    let find = |wanted: &dyn Fn(&Message) -> bool| {
                        let mut all = heard.iter().rev().flat_map(|(exchange, all)| {
                            all.iter().enumerate().map(move |(at, message)| (*exchange, at, message))
                        });
                        all.find(|(.., message)| message.as_ref().is_some_and(wanted))
                            .map(|(exchange, at, _)| (exchange, at))
                    };
                    let of_kind = |kinds: &[Kind]| message.as_ref().filter(|message| kinds.contains(&message.kind()));
                    let id = of_kind(&[Kind::Result, Kind::Error]).and_then(Message::id);
                    let given = of_kind(&[Kind::Request]).and_then(|message| message.param(meta::REQUEST_STATE));
                    let last = http.headers.get(headers::LAST_EVENT_ID.as_str());
                    let session =
                        http.headers.get(headers::SESSION_ID.as_str()).and_then(|session| sessions.get(session));
                    let names = Names {
                        question: id.and_then(|id: RequestId| {
                            find(&|message| message.kind() == Kind::Request && message.id().as_ref() == Some(&id))
                        }),
                        state: given.and_then(|given| find(&|message| state(message).as_deref() == Some(given))),
                        event: last.and_then(|last| {
                            let at = |(exchange, all): (&u64, &Vec<String>)| {
                                Some((*exchange, all.iter().position(|id| id == last)?))
                            };
                            events.iter().find_map(at)
                        }),
                        session: session.copied(),
                    };
                    What::Send { http, body: frame.body.as_ref().map(|body| body.bytes().clone()), names }
                }
                _ => continue,
            };
            acts.push(Act { seq: frame.seq, exchange, after: answered.clone(), what });
            continue;
        }
        match &frame.kind {
            FrameKind::Message => {
                let message = frame.body.as_ref().and_then(|body| body.message().ok());
                heard.entry(exchange).or_default().push(message);
                *answered.entry(exchange).or_default() += 1;
            }
            FrameKind::Http => {
                answered.entry(exchange).or_default();
            }
            _ => {}
        }
        if let Some(id) = frame.sse.as_ref().and_then(|sse| sse.id.clone()) {
            events.entry(exchange).or_default().push(id);
        }
        if let Some(session) = frame.http.as_ref().and_then(|http| http.headers.get(headers::SESSION_ID.as_str())) {
            sessions.insert(session.clone(), exchange);
        }
    }
    acts.push(Act { seq: 0, exchange: 0, after: answered, what: What::Close });
    acts
}

/// What a result wants to have back: JSON.
pub(super) fn state(message: &Message) -> Option<String> {
    let (members, _) = message.result_members()?;
    let member = members.find(message.text(), meta::REQUEST_STATE)?;
    Some(String::from_utf8_lossy(member.value.of(message.text())).into_owned())
}
