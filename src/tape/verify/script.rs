//! What is to be done with a server, made of what was done. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::conversation::{Call, Pairing, Role, Seen, subject};
use super::super::format::{Edge, Frame, Kind};
use super::super::json::Json;
use super::super::matching::{Key, Matcher, Rules};
use super::super::pointer::Pointers;
use super::super::whole::Tape;
use super::composed;
use super::told::{Place, Recorded, TOLD_MAX};
use crate::protocol::headers::PARAM_PREFIX;
use crate::protocol::id::RequestId;
use crate::protocol::message::{self, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};

/// A tape, as a client plays it.
pub(super) struct Script {
    pub(super) era: Era,
    pub(super) steps: Vec<Step>,
    pub(super) requests: Vec<Request>,
    /// What the server told, and before which answer.
    pub(super) told: BTreeMap<Place, Vec<Recorded>>,
    /// What the server asked, and what it was answered.
    questions: Vec<Call>,
}

/// One thing that the client does.
pub(super) struct Step {
    /// What has to be answered before: places in [`Script::requests`].
    pub(super) after: BTreeSet<usize>,
    pub(super) action: Action,
}

pub(super) enum Action {
    /// It asks: a place in [`Script::requests`].
    Ask(usize),
    /// It takes back what it asked.
    Cancel(usize),
    /// It tells something.
    Tell(Box<Message>),
}

/// A request of the client.
pub(super) struct Request {
    pub(super) seq: u64,
    pub(super) message: Message,
    /// Headers that repeat arguments.
    pub(super) params: Vec<(String, String)>,
    pub(super) answer: Option<Answer>,
    /// It was recorded without its secrets: the server would be asked something else.
    pub(super) redacted: bool,
}

/// A recorded answer.
pub(super) struct Answer {
    pub(super) seq: u64,
    pub(super) message: Message,
    /// What was taken out of it.
    pub(super) redacted: Pointers,
}

impl Request {
    pub(super) fn subject(&self) -> Option<String> {
        subject(&self.message)
    }
}

impl Script {
    /// What the client of a tape did; `None` if it asked nothing.
    pub(super) fn of(tape: &Tape) -> Option<Script> {
        let edge = tape.edge();
        let (upward, questions): (Vec<Call>, Vec<Call>) = tape.calls(edge).into_iter().partition(|call| call.upward);
        let is_modern = upward.iter().any(|call| call.request.message.meta(meta::PROTOCOL_VERSION).is_some());
        let frames: HashMap<u64, &Frame> = tape.frames.iter().map(|frame| (frame.seq, frame)).collect();
        let mut script = Script {
            era: if is_modern { Era::Modern } else { Era::Legacy },
            steps: Vec::new(),
            requests: upward.iter().map(|call| request(&frames, call)).collect(),
            told: BTreeMap::new(),
            questions,
        };
        if script.requests.is_empty() {
            return None;
        }
        script.lay_out(tape, edge);
        script.ensure_handshake();
        Some(script)
    }

    fn lay_out(&mut self, tape: &Tape, edge: Edge) {
        let mut pairing = Pairing::default();
        let mut next = 0;
        // Requests that were asked and not yet answered, by the frames of their answers.
        let (mut answered, mut seen) = (HashMap::new(), BTreeSet::new());
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut open = Open::default();
        for frame in tape.frames.iter().filter(|frame| frame.edge() == Some(edge)) {
            // Who has no session takes a request back by closing it (2026-07-28, Cancellation).
            if let (Kind::Close { .. }, true, Era::Modern) = (&frame.kind, frame.is_upward(), self.era)
                && let Some(place) = open.of_exchange(frame)
            {
                open.end(place);
                self.steps.push(Step { after: std::mem::take(&mut seen), action: Action::Cancel(place) });
            }
            for message in pairing.see(frame) {
                let Seen::Said(said) = message else { continue };
                let action = match (&said.role, frame.is_upward()) {
                    (Role::Request, true) => {
                        let place = next;
                        next += 1;
                        places.insert(said.seq, place);
                        open.begin(frame, &said.message, place);
                        if let Some(answer) = self.requests.get(place).and_then(|request| request.answer.as_ref()) {
                            answered.insert((answer.seq, answer.message.id()), place);
                        }
                        Action::Ask(place)
                    }
                    (Role::Notification(Some(asked)), true) if said.message.known() == Some(Known::Cancelled) => {
                        let Some(place) = places.get(&asked.seq) else { continue };
                        open.end(*place);
                        Action::Cancel(*place)
                    }
                    // What cancels nothing that is open would cancel something else here.
                    (Role::Notification(None), true) if said.message.known() == Some(Known::Cancelled) => continue,
                    (Role::Notification(_), true) => Action::Tell(Box::new(said.message)),
                    (Role::Answer(Some(_)), false) => {
                        if let Some(place) = answered.remove(&(said.seq, said.message.id())) {
                            seen.insert(place);
                            open.end(place);
                        }
                        continue;
                    }
                    (Role::Notification(_), false) => {
                        if let Some(place) = open.owner(frame, &said.message) {
                            let told = self.told.entry(place).or_default();
                            if told.len() < TOLD_MAX {
                                let (seq, redacted) = (said.seq, redacted(frame));
                                told.push(Recorded { seq, message: said.message, redacted });
                            }
                        }
                        continue;
                    }
                    _ => continue,
                };
                self.steps.push(Step { after: std::mem::take(&mut seen), action });
            }
        }
    }

    /// A tape that begins in the middle of a session has no handshake, and the server wants one.
    fn ensure_handshake(&mut self) {
        let has = |request: &Request| request.message.known() == Some(Known::Initialize);
        if self.era == Era::Modern || self.requests.iter().any(has) {
            return;
        }
        let (initialize, initialized) = (Known::Initialize.as_str(), Known::Initialized.as_str());
        let (version, capabilities, info) = (meta::PROTOCOL_VERSION_PARAM, meta::CAPABILITIES, meta::CLIENT_INFO_PARAM);
        let request = composed(format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"{initialize}","params":{{"{version}":"{}","{capabilities}":{{}},"{info}":{{"name":"shadowcat","version":"{}"}}}}}}"#,
            Revision::LATEST_LEGACY,
            env!("CARGO_PKG_VERSION"),
        ));
        let done = composed(format!(r#"{{"jsonrpc":"2.0","method":"{initialized}"}}"#));
        let (Some(message), Some(done)) = (request, done) else { return };
        let place = self.requests.len();
        self.requests.push(Request { seq: 0, message, params: Vec::new(), answer: None, redacted: false });
        let first = [
            Step { after: BTreeSet::new(), action: Action::Ask(place) },
            Step { after: BTreeSet::from([place]), action: Action::Tell(Box::new(done)) },
        ];
        self.steps.splice(0..0, first);
    }

    /// The place of the handshake, if there is one.
    pub(super) fn handshake(&self) -> Option<usize> {
        self.requests.iter().position(|request| request.message.known() == Some(Known::Initialize))
    }

    /// The answers of the tape to what the server asks.
    pub(super) fn answers(&self) -> Answers<'_> {
        let rules = Rules { again: true, ..Rules::default() };
        let keys = self.questions.iter().filter_map(|call| Key::of(&call.request.message, &rules.ignore));
        Answers { matcher: Matcher::new(rules.clone(), keys), questions: &self.questions }
    }
}

/// Requests of the client that are under way.
#[derive(Default)]
struct Open(Vec<OpenRequest>);

struct OpenRequest {
    place: usize,
    id: Option<RequestId>,
    token: Option<RequestId>,
    exchange: Option<u64>,
}

impl Open {
    fn begin(&mut self, frame: &Frame, message: &Message, place: usize) {
        let token = message.meta(meta::PROGRESS_TOKEN).and_then(RequestId::from_json);
        self.0.push(OpenRequest { place, id: message.id(), token, exchange: frame.exchange });
    }

    fn of_exchange(&self, frame: &Frame) -> Option<usize> {
        let exchange = frame.exchange?;
        self.0.iter().find(|open| open.exchange == Some(exchange)).map(|open| open.place)
    }

    fn end(&mut self, place: usize) {
        self.0.retain(|open| open.place != place);
    }

    /// Before which answer a notification counts. `None`: it is for nobody.
    fn owner(&self, frame: &Frame, message: &Message) -> Option<Place> {
        let find = |wanted: &dyn Fn(&OpenRequest) -> bool| {
            self.0.iter().rev().find(|open| wanted(open)).map(|open| open.place)
        };
        match message.known() {
            // After the answer nobody waits for it.
            Some(Known::Progress) => {
                let token = message.param(meta::PROGRESS_TOKEN).and_then(RequestId::from_json);
                return find(&|open| open.token.is_some() && open.token == token).map(Some);
            }
            // It is about a question, and comes when it comes.
            Some(Known::Cancelled) => return None,
            _ => {}
        }
        if let Some(id) = message.meta(meta::SUBSCRIPTION_ID).and_then(RequestId::from_json) {
            return find(&|open| open.id.as_ref() == Some(&id)).map(Some);
        }
        let of_exchange = self.of_exchange(frame);
        let newest = || find(&|_| true).filter(|_| message.known() == Some(Known::LogMessage));
        Some(of_exchange.or_else(newest))
    }
}

/// What was taken out of a message.
fn redacted(frame: &Frame) -> Pointers {
    Pointers::parse(frame.redacted.iter().map(String::as_str)).unwrap_or_default()
}

fn request(frames: &HashMap<u64, &Frame>, call: &Call) -> Request {
    let frame = frames.get(&call.request.seq);
    let headers = frame.and_then(|frame| frame.http.as_ref()).map(|http| &http.headers);
    let params = headers.into_iter().flatten().filter(|(name, _)| name.starts_with(PARAM_PREFIX));
    let answer = call.answer.as_ref().map(|answer| {
        let redacted = frames.get(&answer.seq).map(|frame| redacted(frame)).unwrap_or_default();
        Answer { seq: answer.seq, message: answer.message.clone(), redacted }
    });
    Request {
        seq: call.request.seq,
        message: call.request.message.clone(),
        params: params.map(|(name, value)| (name.clone(), value.clone())).collect(),
        answer,
        redacted: frame.is_some_and(|frame| !frame.redacted.is_empty()),
    }
}

/// What the client answers.
pub(super) struct Answers<'s> {
    matcher: Matcher,
    questions: &'s [Call],
}

impl Answers<'_> {
    /// What a question of the server is answered, under its id.
    ///
    /// # Errors
    /// The tape has no answer: what is to be said of that.
    pub(super) fn answer(&mut self, question: &Message) -> Result<Message, String> {
        let place = self
            .matcher
            .take(question)
            .map_err(|miss| miss.told(|place| format!("frame {}", self.questions[place].request.seq)))?;
        let call = &self.questions[place];
        let answer = call.answer.as_ref().zip(question.id());
        let (answer, id) = answer.ok_or_else(|| format!("the tape has no answer to frame {}", call.request.seq))?;
        Ok(answer.message.edit().id(id.as_json()).finish())
    }
}

/// Names that a server gives, which are others with every run: what they were on the tape, and are now.
#[derive(Default)]
pub(super) struct Names(HashMap<(&'static str, String), String>);

impl Names {
    /// Where names are found in a result, and the parameter that they come back in.
    const GIVEN: [(&'static [&'static str], &'static str); 4] = [
        (&[meta::REQUEST_STATE], meta::REQUEST_STATE),
        (&["nextCursor"], "cursor"),
        (&["task", meta::TASK_ID], meta::TASK_ID),
        (&[meta::TASK_ID], meta::TASK_ID),
    ];

    /// Learns from an answer what the names of the recorded one are now.
    pub(super) fn learn(&mut self, recorded: &Message, answer: &Message) {
        if recorded.kind() != message::Kind::Result || answer.kind() != message::Kind::Result {
            return;
        }
        let parse = |message: &Message| Json::parse(message.body().unwrap_or_default().as_bytes()).ok();
        let (Some(then), Some(now)) = (parse(recorded), parse(answer)) else { return };
        for (path, param) in Self::GIVEN {
            let find = |json: &Json| {
                let found = path.iter().try_fold(json, |json, name| json.get(name));
                found.and_then(Json::as_str).map(str::to_owned)
            };
            if let (Some(then), Some(now)) = (find(&then), find(&now)) {
                self.0.insert((param, then), now);
            }
        }
    }

    /// A request as it has to be made now, under this id.
    pub(super) fn translate(&self, request: &Message, id: i64) -> Message {
        let name = id.to_string();
        let mut edit = request.edit().id(&name).meta(meta::PROGRESS_TOKEN, &name);
        for param in [meta::REQUEST_STATE, "cursor", meta::TASK_ID] {
            let now = request.param_str(param).and_then(|then| self.0.get(&(param, then)));
            if let Some(now) = now {
                edit = edit.param(param, &serde_json::Value::from(now.as_str()).to_string());
            }
        }
        edit.finish()
    }
}

/// The answer to a question that the tape has no answer to.
pub(super) fn no_answer(id: &RequestId) -> Option<Message> {
    let id = id.as_json();
    composed(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"The tape has no answer to this question"}}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::super::super::format::Ending;
    use super::super::super::format::{Frame, Header, Party};
    use super::*;

    fn tape(dialogue: &[(char, &str)]) -> Tape {
        let frames = dialogue.iter().zip(1..).map(|((way, text), seq)| match way {
            '>' => Frame::message(seq, 0, Party::Client, Party::Proxy, (*text).to_owned()),
            _ => Frame::message(seq, 0, Party::Proxy, Party::Client, (*text).to_owned()),
        });
        let header = Header::new(std::time::UNIX_EPOCH);
        Tape { header, frames: frames.collect(), ending: Ending::CutShort, faults: vec![] }
    }

    fn message(text: &str) -> Message {
        composed(text.to_owned()).unwrap()
    }

    /// Steps in words: `ask 0`, `ask 1 after 0`.
    fn steps(script: &Script) -> Vec<String> {
        let told = |step: &Step| {
            let action = match &step.action {
                Action::Ask(place) => format!("ask {place}"),
                Action::Cancel(place) => format!("cancel {place}"),
                Action::Tell(message) => format!("tell {}", message.method().unwrap_or_default()),
            };
            let after = step.after.iter().map(|place| format!(" after {place}"));
            [action].into_iter().chain(after).collect::<String>()
        };
        script.steps.iter().map(told).collect()
    }

    #[test]
    fn what_is_asked_waits_for_what_was_answered_before() {
        let tape = tape(&[
            ('>', r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#),
            ('<', r#"{"jsonrpc":"2.0","id":0,"result":{}}"#),
            ('>', r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
            ('>', r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#),
            ('>', r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"b"}}"#),
            ('<', r#"{"jsonrpc":"2.0","id":2,"result":{}}"#),
            ('>', r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#),
            ('>', r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#),
            ('>', r#"[{"jsonrpc":"2.0","id":3,"method":"ping"},{"jsonrpc":"2.0","id":4,"method":"ping"}]"#),
        ]);
        let script = Script::of(&tape).unwrap();
        assert_eq!(
            steps(&script),
            ["ask 0", "tell notifications/initialized after 0", "ask 1", "ask 2", "cancel 1 after 2", "ask 3", "ask 4"]
        );
    }

    #[test]
    fn who_has_no_session_takes_a_request_back_by_closing_it() {
        let call = |id: u64| {
            let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a","_meta":{meta}}}}}"#)
        };
        let (one, two) = (call(1), call(1));
        let mut tape = tape(&[('>', &one), ('>', &two), ('<', r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), ('>', "")]);
        for (frame, exchange) in tape.frames.iter_mut().zip([1, 2, 1, 2]) {
            frame.exchange = Some(exchange);
        }
        let last = tape.frames.last_mut().unwrap();
        (last.kind, last.body) = (Kind::Close { reason: "client went away".into() }, None);
        assert_eq!(steps(&Script::of(&tape).unwrap()), ["ask 0", "ask 1", "cancel 1 after 0"]);
    }

    #[test]
    fn a_tape_that_begins_in_the_middle_of_a_session_gets_a_handshake() {
        let script = Script::of(&tape(&[('>', r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)])).unwrap();
        assert_eq!(steps(&script), ["ask 1", "tell notifications/initialized after 1", "ask 0"]);
        assert_eq!(script.requests[1].message.known(), Some(Known::Initialize));
        assert!(Script::of(&tape(&[('<', r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)])).is_none());
    }

    #[test]
    fn names_that_the_server_gives_are_given_back() {
        let mut names = Names::default();
        let answers = [
            (r#"{"nextCursor":"c1"}"#, r#"{"nextCursor":"x\"1"}"#),
            (r#"{"requestState":"s"}"#, r#"{"requestState":"t"}"#),
            (r#"{"task":{"taskId":"one"}}"#, r#"{"task":{"taskId":"eins"}}"#),
            (r#"{"taskId":"two"}"#, r#"{"other":"zwei"}"#),
        ];
        for (then, now) in answers {
            let answer = |result: &str| message(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#));
            names.learn(&answer(then), &answer(now));
        }
        let translated = |params: &str| {
            let request = message(&format!(r#"{{"jsonrpc":"2.0","id":"a","method":"m","params":{params}}}"#));
            String::from_utf8(names.translate(&request, 7).text().to_vec()).unwrap()
        };
        let expected = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":7,"method":"m","params":{params}}}"#);
        assert_eq!(translated(r#"{"cursor":"c1"}"#), expected(r#"{"cursor":"x\"1"}"#));
        assert_eq!(translated(r#"{"requestState":"s","x":1.0}"#), expected(r#"{"requestState":"t","x":1.0}"#));
        assert_eq!(
            translated(r#"{"taskId":"one","_meta":{"progressToken":"p"}}"#),
            expected(r#"{"taskId":"eins","_meta":{"progressToken":7}}"#)
        );
        assert_eq!(translated(r#"{"taskId":"two","cursor":"s"}"#), expected(r#"{"taskId":"two","cursor":"s"}"#));
    }
}
