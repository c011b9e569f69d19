//! One call of a client of 2026-07-28 at a server with a handshake, over all the requests that the client makes of it.
//!
//! Such a client is asked by the end of its request, and answers with another. Between the two the call is *parked*: it goes on
//! at the server, and nobody hears it. What comes in is an [`Input`], what is to be done about it an [`Effect`]: no I/O, no
//! clock, no chance.

mod as_task;
mod asking;
mod errand;
mod kept;

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use as_task::Task;
use bytes::Bytes;

use super::answer::{self, Refusal};
use super::declared::Declared;
use super::question::{self, Question, Raw};
use super::task::{self, Described};
use crate::bridge::loss::Loss;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Most questions that are open at once.
const OPEN_MAX: usize = 64;
/// Between two looks whether a user has been where the server wants them to go.
const ERRAND_PAUSE: Duration = Duration::from_secs(1);

/// How patient a call is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How long more questions are waited for after the first, so that the client is asked all of them at once.
    pub(crate) window: Duration,
    /// How long a parked call waits for its client.
    pub(crate) parked: Duration,
    /// How long the client is not asked again for an errand that it has agreed to.
    pub(crate) errand: Duration,
    /// How often the client is asked.
    pub(crate) rounds: usize,
    /// How much of what the server says is kept while nobody takes it, in bytes.
    pub(crate) bytes: usize,
    /// When the call is over, whatever happens.
    pub(crate) until: Instant,
    /// How long results may be kept, where they say so.
    pub(crate) ttl_ms: u64,
}

/// One request of the client, for as long as it has no answer.
#[derive(Debug, Clone)]
pub(crate) struct Leg {
    id: RequestId,
    /// JSON.
    token: Option<Box<str>>,
    /// The least level of log messages that it wants.
    level: Option<u8>,
    declared: Declared,
    takes_tasks: bool,
}

impl Leg {
    /// What there is to know of a request with this id.
    pub(crate) fn of(request: &Message, id: RequestId) -> Leg {
        Leg {
            id,
            token: request.meta(meta::PROGRESS_TOKEN).map(Box::from),
            level: request.meta_str(meta::LOG_LEVEL).and_then(|level| rank(&level)),
            declared: Declared::of(request),
            takes_tasks: task::takes(request),
        }
    }

    /// What its client can be asked.
    pub(crate) fn declared(&self) -> Declared {
        self.declared
    }

    /// Whether its client takes a task for an answer.
    pub(crate) fn takes_tasks(&self) -> bool {
        self.takes_tasks
    }
}

/// The levels, as they follow on each other.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

fn rank(level: &str) -> Option<u8> {
    LEVELS.iter().position(|one| *one == level).and_then(|at| u8::try_from(at).ok())
}

/// What happens.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// The server says something: on this call, or where nothing else can be meant.
    Server(Message),
    /// The server is gone.
    Lost,
    /// The client has come back, with these answers.
    Back(Leg, Raw),
    /// Nobody waits any more: the client has gone, or the proxy stops.
    Gone,
    /// The call cannot be parked: there are too many.
    NoRoom,
    /// The deadline has come.
    Timer,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Goes to the client, before the answer.
    Client(Message),
    /// Answers the client's request: the end of the call.
    Answer(Message),
    /// Answers the client's request with a question, under this id: `inputRequests` (JSON). From now on the call is parked.
    Ask(RequestId, String),
    /// Goes to the server.
    Server(Message),
    /// The request is to be sent to the server once more.
    Again,
    /// The request is to be sent to the server once more, to become a task.
    AsTask,
    /// The result of this task (JSON) is to be asked for.
    Fetch(String),
    /// The client's request, under this id, is answered with a task, which the server calls so (JSON) and describes so. What
    /// concerns it from now on is not the call's business: [`Call::left`].
    Made(RequestId, String, Described),
    /// Nobody wants the result of this task (JSON).
    CancelTask(String),
    /// The server is to be told that nobody waits for its answer.
    Cancel,
    /// Not carried over.
    Lost(Loss),
    /// Goes nowhere, for this reason.
    Drop(&'static str),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Call {
    known: Option<Known>,
    uri: Option<String>,
    rules: Rules,
    leg: Option<Leg>,
    open: Vec<Question>,
    /// The keys of what the user has been asked to do elsewhere.
    errands: Vec<String>,
    /// Until when the client is not asked again to do it.
    errand_until: Option<Instant>,
    /// The server has not answered yet: the request must not be sent again.
    running: bool,
    /// When there is something to be done.
    due: Option<Instant>,
    keys: u32,
    /// Answers that came with the call, before there was a question: for those that the server calls so, until it asks others.
    given: Raw,
    /// Names of the server's that are keys, or were.
    words: BTreeSet<String>,
    /// What the client would have had to declare to be asked what the server has asked.
    undeclared: Declared,
    rounds: usize,
    kept: VecDeque<Message>,
    progress: Option<Box<Message>>,
    /// The answer that came while nobody was there.
    finished: Option<Box<Message>>,
    over: bool,
    told_roots: bool,
    task: Option<Task>,
    /// The answer to the handshake, as text: it is rarely looked at.
    greeting: Bytes,
}

impl Call {
    /// A call that has been sent to a server with this answer to the handshake.
    pub(crate) fn begin(request: &Message, leg: Leg, rules: Rules, greeting: &Message) -> Call {
        Call {
            known: request.known(),
            uri: (request.known() == Some(Known::ResourcesRead)).then(|| request.param_str("uri")).flatten(),
            rules,
            leg: Some(leg),
            open: Vec::new(),
            errands: Vec::new(),
            errand_until: None,
            running: true,
            due: None,
            keys: 0,
            given: question::answers(request),
            words: BTreeSet::new(),
            undeclared: Declared::default(),
            rounds: 0,
            kept: VecDeque::new(),
            progress: None,
            finished: None,
            over: false,
            told_roots: false,
            task: None,
            greeting: greeting.text().clone(),
        }
    }

    /// The same, sent to become a task, of which its client is told.
    pub(crate) fn offered(mut self) -> Call {
        self.task = Some(Task::Offered);
        self
    }

    /// What the server has asked, and was not answered, when the call has become a task.
    pub(crate) fn left(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.open)
    }

    /// Holds no more than it has to: it may wait for long.
    pub(crate) fn shrink(&mut self) {
        self.open.shrink_to_fit();
        self.kept.shrink_to_fit();
        self.errands.shrink_to_fit();
    }

    /// When [`Input::Timer`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due.filter(|_| !self.over)
    }

    /// Whether the server has given its answer: one that says that a task was made is none.
    fn is_answered(&self) -> bool {
        self.finished.is_some() && !matches!(self.task, Some(Task::Waiting(_)))
    }

    /// Whether nothing more is sent to the server on this call: what needs an errand first is sent again.
    pub(crate) fn is_done_with(&self) -> bool {
        let needs_errand = || self.finished.as_deref().is_some_and(answer::needs_errand);
        self.over || (self.is_answered() && !needs_errand())
    }

    /// Whether the server was told roots: what it does next may depend on them.
    pub(crate) fn has_told_roots(&self) -> bool {
        self.told_roots
    }

    /// What there is to be done about what happens.
    pub(crate) fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Effect>) {
        if self.over {
            return;
        }
        match input {
            Input::Server(message) => self.server(message, now, out),
            Input::Lost => {
                if self.leg.is_none() {
                    out.push(Effect::Lost(Loss::ParkedLost));
                }
                self.open.clear();
                self.over = true;
            }
            Input::Back(leg, answers) => self.back(leg, &answers, now, out),
            Input::Gone => self.abandon(None, out),
            Input::NoRoom => self.abandon(Some(Loss::ParkedTooMany), out),
            Input::Timer => self.timer(now, out),
        }
    }

    fn server(&mut self, message: Message, now: Instant, out: &mut Vec<Effect>) {
        match message.kind() {
            Kind::Result | Kind::Error if self.becomes_task(&message, now, out) => {}
            Kind::Result | Kind::Error => {
                // Who has answered does not wait for answers.
                self.dismiss(out);
                self.running = false;
                self.due = self.due.filter(|_| self.leg.is_none());
                match self.leg.take() {
                    Some(leg) => self.answer(leg, message, now, out),
                    None => self.keep_answer(message, out),
                }
            }
            Kind::Request => self.question(message, now, out),
            Kind::Notification => self.notification(message, out),
        }
    }

    /// The server's answer, for the client that waits.
    fn answer(&mut self, leg: Leg, message: Message, now: Instant, out: &mut Vec<Effect>) {
        if self.undeclared != Declared::default() && answer::is_failure(&message) {
            // It could not do without (2026-07-28, Basic › Capabilities).
            return self.end(answer::needs(&leg.id, self.undeclared.capabilities()), out);
        }
        if message.kind() == Kind::Result {
            let ttl = answer::keeps(self.known).then_some(self.rules.ttl_ms);
            let done = answer::complete(&message, &leg.id, ttl).unwrap_or_else(|| {
                let data = serde_json::json!({ "origin": "proxy", "reason": "violation" });
                answer::error_of(&leg.id, answer::INTERNAL_ERROR, &"The server's result is no object".into(), &data)
            });
            return self.end(done, out);
        }
        match answer::refusal(&message, &leg.id, self.known, self.uri.as_deref()) {
            Refusal::Error(error, loss) => {
                out.extend(loss.map(Effect::Lost));
                self.end(error, out);
            }
            Refusal::Errands(_) if !leg.declared.has_url() => {
                self.end(answer::needs(&leg.id, Declared::url().capabilities()), out);
            }
            Refusal::Errands(places) => match self.errand_until {
                // They have agreed to go; they need some time for it.
                Some(until) if now < until => {
                    self.due = Some(until.min(now + ERRAND_PAUSE));
                    self.leg = Some(leg);
                }
                _ => self.send_on_errands(&leg, places, now, out),
            },
        }
    }

    fn end(&mut self, answer: Message, out: &mut Vec<Effect>) {
        out.push(Effect::Answer(answer));
        self.leg = None;
        self.over = true;
    }

    fn notification(&mut self, message: Message, out: &mut Vec<Effect>) {
        match (message.known(), &self.leg) {
            (Some(Known::Progress), Some(Leg { token: Some(token), .. })) => {
                out.push(Effect::Client(message.edit().param(meta::PROGRESS_TOKEN, token).finish()));
            }
            (Some(Known::Progress), Some(_)) => out.push(Effect::Drop("unasked_progress")),
            (Some(Known::Progress), None) => {
                let last = self.progress.take();
                let is_kept = self.has_room(&message);
                if last.is_some() || !is_kept {
                    out.push(Effect::Lost(Loss::ParkedProgress));
                }
                self.progress = if is_kept { Some(Box::new(message.alone())) } else { last };
                self.make_room(out);
            }
            (Some(Known::LogMessage), Some(leg)) => out.push(wanted(leg, message)),
            (Some(Known::LogMessage), None) => {
                self.kept.push_back(message.alone());
                self.make_room(out);
            }
            (Some(Known::Cancelled), _) => {
                let withdrawn = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                self.open.retain(|question| Some(&question.id) != withdrawn.as_ref());
                if self.open.is_empty() && self.leg.is_some() && self.running {
                    self.due = None;
                }
            }
            (None, _) if message.method() == Some("notifications/elicitation/complete") => {
                // The client has agreed, and waits.
                match self.errand_until {
                    Some(_) if self.leg.is_some() && !self.running => self.again(out),
                    _ => out.push(Effect::Lost(Loss::ElicitationComplete)),
                }
            }
            (None, Some(_)) => out.push(Effect::Client(message)),
            // It belongs to no request (2026-07-28, Subscriptions).
            _ => out.push(Effect::Drop("of_no_request")),
        }
    }

    fn park(&mut self, leg: &Leg, requests: &[String], now: Instant, out: &mut Vec<Effect>) {
        out.push(Effect::Ask(leg.id.clone(), format!("{{{}}}", requests.join(","))));
        self.leg = None;
        self.given.clear();
        self.rounds += 1;
        self.due = Some((now + self.rules.parked).min(self.rules.until));
    }

    fn back(&mut self, leg: Leg, answers: &Raw, now: Instant, out: &mut Vec<Effect>) {
        if self.leg.is_some() {
            return;
        }
        self.due = None;
        if let (Some(progress), Some(token)) = (self.progress.take(), &leg.token) {
            out.push(Effect::Client(progress.edit().param(meta::PROGRESS_TOKEN, token).finish()));
        }
        let kept = std::mem::take(&mut self.kept);
        out.extend(kept.into_iter().map(|message| wanted(&leg, message)));
        self.leg = Some(leg.clone());
        if let Some(Task::Waiting(name)) = self.task.take_if(|task| matches!(task, Task::Waiting(_))) {
            let made = self.finished.take();
            self.take_answers(&leg, answers, out);
            return made.into_iter().for_each(|made| self.made(&leg, name.clone(), &made, now, out));
        }
        if let Some(answer) = self.finished.take() {
            return self.answer(leg, *answer, now, out);
        }
        if !self.errands.is_empty() {
            return self.been_on_errands(&leg, answers, now, out);
        }
        self.take_answers(&leg, answers, out);
        if !self.open.is_empty() {
            self.ask(&leg, now, out);
        }
    }

    fn again(&mut self, out: &mut Vec<Effect>) {
        (self.running, self.due) = (true, None);
        if matches!(self.task, Some(Task::Offered)) {
            return out.push(Effect::AsTask);
        }
        self.task = None;
        out.push(Effect::Again);
    }

    fn timer(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        match self.leg.clone() {
            None => self.abandon(Some(Loss::ParkedExpired), out),
            Some(leg) if !self.open.is_empty() => self.ask(&leg, now, out),
            Some(_) if self.errand_until.is_some() && !self.running => self.again(out),
            Some(_) => {}
        }
    }

    fn abandon(&mut self, loss: Option<Loss>, out: &mut Vec<Effect>) {
        out.extend(loss.map(Effect::Lost));
        self.dismiss(out);
        if let Some(Task::Waiting(name)) = self.task.take_if(|task| matches!(task, Task::Waiting(_))) {
            out.push(Effect::CancelTask(name));
        }
        if self.finished.is_none() {
            // One whose result was asked for and given is at its end.
            if let Some(Task::Named(name)) = self.task.take().filter(|_| self.running) {
                out.push(Effect::CancelTask(name));
            }
            out.push(Effect::Cancel);
        }
        self.leg = None;
        self.over = true;
    }
}

/// A log message goes to a client that asked for such, and to no other (2026-07-28, Logging).
fn wanted(leg: &Leg, message: Message) -> Effect {
    let level = message.param_str("level").and_then(|level| rank(&level));
    match (leg.level, level) {
        (Some(least), Some(level)) if level >= least => Effect::Client(message),
        _ => Effect::Drop("unasked_log"),
    }
}

#[cfg(test)]
mod tests;
