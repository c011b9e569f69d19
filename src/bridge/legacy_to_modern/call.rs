//! One request of a legacy client to a modern server, from its first word to its last (2026-07-28, Multi Round-Trip Requests).
//!
//! No I/O and no clock: [`Call::handle`] takes what happened and says what has to be done. The server sees one request after
//! another (*legs*), each with what the client answered to the questions of the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::answer::{Said, Shape};
use super::client::Client;
use super::question::{self, Unaskable};
use super::task::{self, Stands, Task};
use super::{answer, member};
use crate::bridge::loss::Loss;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message, json_str};
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Most legs of one request.
pub(crate) const LEGS_MAX: u32 = 9;
/// Most questions of one leg.
const QUESTIONS_MAX: usize = 32;
/// How long a server that only wants to be asked again is left alone, the first time; then twice as long, and so on.
const PAUSE: Duration = Duration::from_millis(250);

/// What of the client's params is ours, or means nothing to the server: tasks are not offered.
const PARAMS_OUT: [&str; 3] = [meta::TASK, meta::INPUT_RESPONSES, meta::REQUEST_STATE];
/// What of the client's metadata is ours.
const META_OUT: [&str; 4] = [meta::PROTOCOL_VERSION, meta::CLIENT_INFO, meta::CLIENT_CAPABILITIES, meta::LOG_LEVEL];

/// The news that a question of ours need not be answered any more (2025-11-25, Cancellation).
pub(crate) fn withdrawn(name: i64) -> Message {
    super::own(format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"{}":{name},"reason":"The request that it belongs to is over"}}}}"#,
        Known::Cancelled.as_str(),
        meta::REQUEST_ID,
    ))
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// The server said something on the leg under way.
    Upstream(Message),
    /// The client answered this question.
    Answered(u32, Message),
    /// This question cannot be put to the client.
    Unasked(u32),
    /// [`Call::deadline`] has come.
    Timer,
}

/// What has to be done, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// It goes to the client.
    Pass(Message),
    /// It goes to the client as a question, under a name that is the session's; until then this is its number.
    Ask(u32, Message),
    /// The client is told that this question need not be answered any more.
    Withdraw(u32),
    /// Another leg: [`Call::leg`].
    Again,
    /// It goes to the client, and is the end.
    Finish(Message),
    /// The server's answer is not acceptable: the end.
    Violation(&'static str),
    /// The client is about to be told of these tools, and of some a schema that is wrapped.
    Listed(Vec<(String, bool)>),
    /// Something could not be carried.
    Lost(Loss),
    /// Something went nowhere, for this reason.
    Drop(&'static str),
}

/// What the server gets.
#[derive(Debug, Clone)]
pub(crate) struct Leg {
    request: Message,
    envelope: String,
    /// What it has in its params besides: the client's answers, and what the server gave us to remember.
    carried: String,
}

impl Leg {
    /// The client's words.
    pub(crate) fn request(&self) -> &Message {
        &self.request
    }

    /// The message, under this name of ours.
    pub(crate) fn message(&self, id: i64) -> Message {
        let name = id.to_string();
        let edit = self.request.edit().id(&name).meta(meta::PROGRESS_TOKEN, &name);
        edit.recast(&PARAMS_OUT, &self.carried, &META_OUT, &self.envelope).finish()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Call {
    client: Arc<Client>,
    leg: Leg,
    client_id: RequestId,
    /// The client's progress token: JSON text.
    client_token: Option<Box<str>>,
    /// How far the client knows the request to be.
    progress: f64,
    /// Whether the client hears questions while it waits for this.
    can_be_asked: bool,
    /// How long it may take to answer them.
    patience: Duration,
    /// How severe log messages have to be, if it wants any.
    level: Option<Box<str>>,
    legs: u32,
    questions: u32,
    pause: Duration,
    /// What is asked for; a leg may be about its task.
    known: Option<Known>,
    /// Whether the server is told that the client takes tasks: it does not know any, but we do.
    takes_tasks: bool,
    /// What one request leaves at the server is there for the next.
    is_one_server: bool,
    /// What becomes of a structured result.
    shape: Shape,
    task: Option<Box<Task>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The server works on it.
    Upstream,
    /// The client is asked.
    Asking {
        /// The questions that are not answered, with the server's names for them.
        open: BTreeMap<u32, (Known, String)>,
        /// The answers, by the server's names: JSON texts.
        answers: BTreeMap<String, String>,
        /// What the server wants back as it is: JSON text.
        remember: Option<Box<str>>,
        until: Instant,
    },
    /// The server wants to be asked again later.
    Pausing(Instant),
    Over,
}

#[derive(serde::Deserialize)]
struct InputRequired<'a> {
    #[serde(borrow, rename = "inputRequests", default)]
    requests: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(borrow, rename = "requestState", default)]
    state: Option<&'a RawValue>,
}

impl Call {
    /// A request that has not been sent. `level` is how severe log messages have to be, if the client wants any. `None` for what
    /// is no request.
    pub(crate) fn begin(
        client: &Arc<Client>,
        request: &Message,
        can_be_asked: bool,
        level: Option<&str>,
        patience: Duration,
    ) -> Option<Call> {
        Some(Call {
            client_id: request.id()?,
            client_token: request.meta(meta::PROGRESS_TOKEN).map(Box::from),
            progress: f64::NEG_INFINITY,
            leg: Leg {
                request: request.clone(),
                envelope: client.envelope(can_be_asked, level),
                carried: String::new(),
            },
            client: Arc::clone(client),
            can_be_asked,
            patience,
            level: level.map(Box::from),
            legs: 1,
            questions: 0,
            pause: PAUSE,
            known: request.known(),
            takes_tasks: false,
            is_one_server: true,
            shape: Shape::Omit,
            task: None,
            state: State::Upstream,
        })
    }

    /// The same, whose structured result is to have this shape.
    pub(crate) fn shaped(self, shape: Shape) -> Call {
        Call { shape, ..self }
    }

    /// The client's name for it.
    pub(crate) fn client_id(&self) -> &RequestId {
        &self.client_id
    }

    /// The leg that is under way, or has to be sent.
    pub(crate) fn leg(&self) -> &Leg {
        &self.leg
    }

    /// What the client asks for.
    pub(crate) fn known(&self) -> Option<Known> {
        self.known
    }

    /// The leg under way has a server for itself: what it leaves there is not there for the next.
    pub(crate) fn is_alone(&mut self) {
        self.is_one_server = false;
    }

    /// The request that tells the server that nobody waits for its task, if there is one.
    pub(crate) fn leave_task(&mut self) -> Option<Leg> {
        let task = self.task.take()?;
        self.state = State::Over;
        self.leg.carried.clear();
        Some(Leg { request: task.request(Known::TasksCancel), ..self.leg.clone() })
    }

    /// When something has to be done although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Asking { until, .. } | State::Pausing(until) => Some(*until),
            State::Upstream | State::Over => None,
        }
    }

    /// Whether the server is at work, or is about to be.
    pub(crate) fn is_upstream(&self) -> bool {
        matches!(self.state, State::Upstream)
    }

    /// Takes what happened, and says what has to be done.
    pub(crate) fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Effect>) {
        match input {
            Input::Upstream(message) => self.upstream(message, now, out),
            Input::Answered(number, message) => self.answered(number, &message, out),
            Input::Unasked(number) => self.unasked(number, out),
            Input::Timer => self.timer(now, out),
        }
    }

    fn upstream(&mut self, message: Message, now: Instant, out: &mut Vec<Effect>) {
        if !self.is_upstream() {
            // Between two legs there is nobody who could say something.
            return out.push(Effect::Drop("out_of_turn"));
        }
        match message.kind() {
            Kind::Result => self.result(message, now, out),
            Kind::Error if self.wants_task(&message) => {
                self.takes_tasks = true;
                self.leg.envelope = self.client.envelope_with_tasks(self.can_be_asked, self.level.as_deref());
                out.push(Effect::Again);
            }
            Kind::Error => {
                // Whatever it says, there is no task to be left.
                self.task = None;
                let mut losses = Vec::new();
                let error = answer::error(&self.leg.request, &self.client_id, &message, &mut losses);
                out.extend(losses.into_iter().map(Effect::Lost));
                self.finish(error, out);
            }
            // A modern server has no requests to make (2026-07-28, Patterns).
            Kind::Request => out.push(Effect::Drop("request_of_modern_server")),
            Kind::Notification => match message.known() {
                Some(Known::Progress) => out.push(self.progressed(message)),
                Some(Known::Cancelled) => out.push(Effect::Drop("unknown_cancel")),
                _ => out.push(Effect::Pass(message)),
            },
        }
    }

    /// One row of progress goes over all legs, and never back (2025-11-25, Progress).
    fn progressed(&mut self, message: Message) -> Effect {
        let Some(token) = &self.client_token else { return Effect::Drop("unasked_progress") };
        let progress = message.param("progress").and_then(|number| number.parse::<f64>().ok());
        match progress {
            Some(progress) if progress <= self.progress && self.legs > 1 => return Effect::Drop("progress_again"),
            Some(progress) => self.progress = self.progress.max(progress),
            None => {}
        }
        Effect::Pass(message.edit().param(meta::PROGRESS_TOKEN, token).finish())
    }

    /// Whether the call is to be a task. Where each request has a server for itself, it could never be found again.
    fn wants_task(&self, error: &Message) -> bool {
        self.known == Some(Known::ToolsCall) && self.is_one_server && !self.takes_tasks && task::is_wanted(error)
    }

    fn result(&mut self, message: Message, now: Instant, out: &mut Vec<Effect>) {
        if self.task.is_some() {
            return self.task_said(&message, now, out);
        }
        let Some((members, _)) = message.result_members() else {
            return self.violates("its result is no object", out);
        };
        let kind = member(&members, message.text(), meta::RESULT_TYPE);
        // What a task has come to wants nothing more.
        let is_first = self.leg.request.known() == self.known;
        match kind.map(json_str) {
            None => {}
            Some(Some(kind)) if kind == "complete" => {}
            Some(Some(kind)) if kind == "input_required" && is_first => return self.wants(&message, now, out),
            Some(Some(kind)) if kind == "task" && is_first && self.takes_tasks => {
                let Some(task) = Task::made(&message) else { return self.violates("its task cannot be read", out) };
                self.task = Some(Box::new(task));
                return self.look_later(now);
            }
            Some(_) => return self.violates("its result is of an unknown resultType", out),
        }
        let mut said = Said::default();
        let (revision, known) = (self.client.revision, self.known());
        let result = answer::result(revision, known, &self.client_id, &message, &members, self.shape, &mut said);
        out.extend(said.losses.into_iter().map(Effect::Lost));
        if !said.listed.is_empty() {
            out.push(Effect::Listed(said.listed));
        }
        self.finish(result, out);
    }

    /// Asks how the task stands, after a while.
    fn look_later(&mut self, now: Instant) {
        let Some(task) = &self.task else { return };
        self.leg.request = task.request(Known::TasksGet);
        self.leg.carried.clear();
        self.state = State::Pausing(now + task.interval);
    }

    /// The server answers a request about the task.
    fn task_said(&mut self, message: &Message, now: Instant, out: &mut Vec<Effect>) {
        let Some(task) = &mut self.task else { return };
        if std::mem::take(&mut task.is_told) {
            return self.look_later(now);
        }
        let Some(stands) = task.stands(message) else { return self.violates("its task cannot be read", out) };
        let done = match stands {
            Stands::Working => return self.look_later(now),
            Stands::Asks(requests) if self.can_be_asked => return self.ask(requests, None, now, out),
            Stands::Asks(_) => return self.violates("it asks a client that cannot be asked", out),
            Stands::Completed(result) => format!(r#"{{"jsonrpc":"2.0","id":0,"result":{}}}"#, result.get()),
            Stands::Failed(error) => format!(r#"{{"jsonrpc":"2.0","id":0,"error":{}}}"#, error.get()),
            Stands::Cancelled => {
                self.task = None;
                return self.unanswered("The server has cancelled the task that the call had become", None, out);
            }
        };
        self.task = None;
        // What it says is the answer to the call.
        match Message::parse(done.into(), crate::protocol::scan::DEPTH_MAX) {
            Ok(answer) => self.upstream(answer, now, out),
            Err(_) => self.violates("the result of its task cannot be read", out),
        }
    }

    /// The server wants input before it goes on.
    fn wants(&mut self, message: &Message, now: Instant, out: &mut Vec<Effect>) {
        if !self.known().is_some_and(Known::may_ask) {
            return self.violates("it asks for input where it cannot", out);
        }
        let Some(Ok(wanted)) = message.body().map(serde_json::from_str::<InputRequired<'_>>) else {
            return self.violates("what input it wants cannot be read", out);
        };
        let remember = wanted.state.map(|state| Box::from(state.get()));
        if remember.as_deref().is_some_and(|state: &str| !state.starts_with('"')) {
            return self.violates("its requestState is no text", out);
        }
        let requests = wanted.requests.unwrap_or_default();
        if self.legs >= LEGS_MAX {
            return self.violates("it wants input again and again", out);
        }
        self.legs += 1;
        if requests.is_empty() {
            let Some(state) = remember else { return self.violates("it wants input and does not say which", out) };
            self.carry(&BTreeMap::new(), Some(&state));
            self.state = State::Pausing(now + self.pause);
            self.pause *= 2;
            return;
        }
        self.ask(requests, remember, now, out);
    }

    /// Asks the client all that the server wants to know.
    fn ask(
        &mut self,
        requests: BTreeMap<String, &RawValue>,
        remember: Option<Box<str>>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        if requests.len() > QUESTIONS_MAX {
            return self.violates("it asks too much at once", out);
        }
        if !self.can_be_asked {
            return self.violates("it asks a client that cannot be asked", out);
        }
        let mut open = BTreeMap::new();
        let mut asked = Vec::new();
        for (key, entry) in requests {
            match question::request(&self.client, entry.get()) {
                Ok((known, request)) => {
                    self.questions += 1;
                    open.insert(self.questions, (known, key));
                    asked.push(Effect::Ask(self.questions, request));
                }
                Err(Unaskable::Undeclared) => return self.violates("it asks for what the client cannot do", out),
                Err(Unaskable::Invalid) => return self.violates("what input it wants cannot be read", out),
                Err(Unaskable::Unspeakable) => {
                    out.push(Effect::Lost(Loss::QuestionUnspeakable));
                    return self.unanswered("The client's revision has no words for what the server asks", None, out);
                }
            }
        }
        out.append(&mut asked);
        self.state = State::Asking { open, answers: BTreeMap::new(), remember, until: now + self.patience };
    }

    fn answered(&mut self, number: u32, message: &Message, out: &mut Vec<Effect>) {
        let State::Asking { open, answers, remember, .. } = &mut self.state else {
            return out.push(Effect::Drop("answer_to_nothing"));
        };
        let Some((known, key)) = open.remove(&number) else { return out.push(Effect::Drop("answer_to_nothing")) };
        let body = message.body().unwrap_or_default();
        match message.kind() {
            Kind::Result if body.starts_with('{') => answers.insert(key, body.to_owned()),
            // Whatever went wrong, the user did not accept.
            _ if known == Known::Elicit => answers.insert(key, r#"{"action":"cancel"}"#.to_owned()),
            kind => {
                let error = (kind == Kind::Error).then_some(body);
                out.push(Effect::Lost(Loss::QuestionRefused));
                return self.unanswered("The client refused what the server asked", error, out);
            }
        };
        if open.is_empty() {
            let (answers, remember) = (std::mem::take(answers), remember.take());
            self.carry(&answers, remember.as_deref());
            if let Some(task) = &mut self.task {
                task.answered(answers.keys());
                self.leg.request = task.request(Known::TasksUpdate);
            }
            self.state = State::Upstream;
            out.push(Effect::Again);
        }
    }

    fn unasked(&mut self, number: u32, out: &mut Vec<Effect>) {
        let State::Asking { open, .. } = &mut self.state else { return };
        if open.remove(&number).is_some() {
            out.push(Effect::Lost(Loss::QuestionUnasked));
            self.unanswered("The client cannot be asked more at once", None, out);
        }
    }

    fn timer(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match &self.state {
            State::Pausing(until) if *until <= now => {
                self.state = State::Upstream;
                out.push(Effect::Again);
            }
            State::Asking { until, .. } if *until <= now => {
                out.push(Effect::Lost(Loss::QuestionUnanswered));
                self.unanswered("The client did not answer in time what the server asked", None, out);
            }
            _ => {}
        }
    }

    /// What the next leg carries: only the answers of this round, since the server keeps the others in what it gives us to
    /// remember.
    fn carry(&mut self, answers: &BTreeMap<String, String>, remember: Option<&str>) {
        self.leg.carried.clear();
        if !answers.is_empty() {
            let all: Vec<String> = answers.iter().map(|(key, json)| format!("{}:{json}", super::quoted(key))).collect();
            self.leg.carried = format!(r#""{}":{{{}}}"#, meta::INPUT_RESPONSES, all.join(","));
        }
        if let Some(remember) = remember {
            let comma = if self.leg.carried.is_empty() { "" } else { "," };
            self.leg.carried.push_str(&format!(r#"{comma}"{}":{remember}"#, meta::REQUEST_STATE));
        }
    }

    /// The client does not say what the server has to know: there is no way to tell it so, and the request ends here.
    fn unanswered(&mut self, what: &str, error: Option<&str>, out: &mut Vec<Effect>) {
        self.take_back(out);
        let end = answer::unanswered(self.known(), &self.client_id, what, error);
        self.finish(end, out);
    }

    fn take_back(&mut self, out: &mut Vec<Effect>) {
        if let State::Asking { open, .. } = &self.state {
            out.extend(open.keys().map(|number| Effect::Withdraw(*number)));
        }
    }

    fn violates(&mut self, what: &'static str, out: &mut Vec<Effect>) {
        self.state = State::Over;
        out.push(Effect::Violation(what));
    }

    fn finish(&mut self, message: Message, out: &mut Vec<Effect>) {
        self.state = State::Over;
        out.push(Effect::Finish(message));
    }
}
