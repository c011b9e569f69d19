//! Plays a script against a server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::script::{Action, Answers, Names, Request, Script, no_answer};
use super::told::{self, Place, TOLD_MAX, is_loose};
use super::{Failure, Options, Outcome, Verdict, Verified};
use crate::metrics::Metrics;
use crate::protocol::headers;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::rt::Tasks;
use crate::rt::mailbox::Reader;
use crate::settings::{Limits, Target, Timeouts, UpstreamSettings};
use crate::tape::compare::differences;
use crate::tape::json::Json;
use crate::upstream::driver::{self, CallFacts, DriverLimits, Sharing};
use crate::upstream::stdio::StdioPipe;
use crate::upstream::streamable::HttpUpstream;
use crate::upstream::{Call, Connection, Replies};

/// Most questions without an answer that are told.
const QUESTIONS_MAX: usize = 20;

/// What came of a request: the answer, or why there is none; and after how long.
type Heard = (Result<Message, String>, Duration);

/// Plays the script.
pub(super) async fn drive(
    script: &Script,
    server: &UpstreamSettings,
    options: &Options,
    tasks: &Tasks,
) -> Result<Verified, Failure> {
    let (connection, standing) = connect(server, script.era, options, tasks).await?;
    let client = Client {
        connection: &connection,
        answers: Mutex::new(script.answers()),
        notes: Mutex::default(),
        changed: Notify::new(),
        options,
    };
    let mut scene = Scene {
        script,
        client: &client,
        standing,
        open: FuturesUnordered::new(),
        heard: BTreeMap::new(),
        handshake: script.handshake(),
    };
    let mut names = Names::default();
    let mut tokens: BTreeMap<usize, CancellationToken> = BTreeMap::new();
    let mut passed_over = BTreeSet::new();
    for step in &script.steps {
        while step.after.iter().any(|place| !scene.heard.contains_key(place)) && scene.listen(&mut names).await {}
        scene.is_greeted()?;
        match &step.action {
            Action::Ask(place) => {
                let request = &script.requests[*place];
                if !request.is_sent() {
                    scene.heard.insert(*place, (Err(String::new()), Duration::ZERO));
                    continue;
                }
                let token = tokens.entry(*place).or_default().clone();
                scene.ask(*place, &names, token);
            }
            Action::Cancel(place) => {
                if script.requests[*place].listens() && !options.only_answers {
                    scene.hear_out(&mut names, |scene| scene.has_heard_of(*place)).await;
                } else {
                    passed_over.insert(*place);
                }
                if let Some(token) = tokens.get(place) {
                    token.cancel();
                }
            }
            Action::Tell(message) => {
                if let Err(error) = connection.send(message).await {
                    tracing::debug!(%error, "A notification was not sent");
                }
                if message.known() == Some(Known::Initialized) {
                    connection.listen();
                }
            }
        }
    }
    let compared = |(_, request): &(usize, &Request)| request.answer.is_some();
    let last: Vec<usize> = script.requests.iter().enumerate().filter(compared).map(|(place, _)| place).collect();
    while last.iter().any(|place| !scene.heard.contains_key(place)) && scene.listen(&mut names).await {}
    scene.is_greeted()?;
    scene.is_answered()?;
    if !options.only_answers {
        scene.hear_out(&mut names, |scene| scene.has_heard(&passed_over)).await;
    }

    let mut heard = scene.heard;
    drop(scene.open);
    connection.close();
    let Notes { questions, told: came, .. } = std::mem::take(&mut *client.notes());
    let failed = |(place, (answer, _)): (&usize, &Heard)| {
        (answer.is_err() && !script.requests[*place].listens()).then_some(*place)
    };
    passed_over.extend(heard.iter().filter_map(failed));
    let mut told = match options.only_answers {
        true => BTreeMap::new(),
        false => told::compare(&script.told, &came, &passed_over, &options.rules),
    };
    let outcomes = script.requests.iter().enumerate().filter(|(_, request)| request.seq > 0);
    let outcomes = outcomes.map(|(place, request)| {
        let told = told.remove(&Some(place)).unwrap_or_default();
        Outcome { told, ..outcome(request, heard.remove(&place), options) }
    });
    let outcomes = outcomes.collect();
    Ok(Verified { outcomes, told: told.remove(&None).unwrap_or_default(), questions })
}

/// The way to the server, and what it says by itself. Dropped before it is done, it leaves nothing.
async fn connect(
    server: &UpstreamSettings,
    era: Era,
    options: &Options,
    tasks: &Tasks,
) -> Result<(Connection, Option<Reader<Message>>), Failure> {
    let limits = Limits::default();
    let timeouts = Timeouts {
        request: options.patience,
        request_max: options.patience,
        start: options.patience,
        ..Timeouts::default()
    };
    let metrics = Arc::new(Metrics::new()).server(&server.name);
    match &server.target {
        Target::Stdio(target) => {
            let start = StdioPipe::start(target, &limits, &timeouts, tasks, &metrics, Arc::new(()));
            let started = timeout(timeouts.start, start).await;
            let pipe = started
                .map_err(|_| Failure::Server(format!("it could not be started in {:?}", timeouts.start)))?
                .map_err(|error| Failure::Server(error.to_string()))?;
            let sharing = if era == Era::Legacy { Sharing::Exclusive } else { Sharing::Shared };
            let bounds = DriverLimits { depth: limits.depth, message_bytes: limits.message_bytes };
            let (writer, standing) = driver::standing();
            let (handle, task) = driver::drive(pipe, writer, sharing, bounds, metrics, tasks.stop().clone());
            tasks.spawn("child-driver", async move {
                task.await;
            });
            Ok((Connection::Driven(handle), Some(standing)))
        }
        Target::Http(target) => {
            let upstream = HttpUpstream::new(target, &limits, &timeouts, tasks, metrics, None)
                .map_err(|error| Failure::Server(error.to_string()))?;
            let upstream = Arc::new(upstream);
            if era == Era::Modern {
                return Ok((Connection::Http(upstream.modern()), None));
            }
            let (connection, standing, task) = upstream.legacy();
            tasks.spawn("upstream-session", task);
            Ok((Connection::Http(connection), Some(standing)))
        }
        Target::Tape(_) => Err(Failure::Server("a tape is no server".to_owned())),
    }
}

/// What is under way.
struct Scene<'s> {
    script: &'s Script,
    client: &'s Client<'s>,
    standing: Option<Reader<Message>>,
    open: FuturesUnordered<BoxFuture<'s, (usize, Heard)>>,
    heard: BTreeMap<usize, Heard>,
    handshake: Option<usize>,
}

impl Scene<'_> {
    fn ask(&mut self, place: usize, names: &Names, cancelled: CancellationToken) {
        let (client, request) = (self.client, &self.script.requests[place]);
        let id = client.connection.next_id();
        let message = names.translate(&request.message, id);
        self.open.push(Box::pin(async move {
            let began = Instant::now();
            let answer = tokio::select! {
                answer = timeout(client.options.patience, client.ask(place, id, &message, request)) => {
                    answer.unwrap_or_else(|_| Err(format!("no answer in {:?}", client.options.patience)))
                }
                () = cancelled.cancelled() => Err("it was taken back".to_owned()),
            };
            (place, (answer, began.elapsed()))
        }));
    }

    /// Whether the handshake has not failed: without one there is nothing to talk about.
    fn is_greeted(&self) -> Result<(), Failure> {
        match self.handshake.and_then(|place| self.heard.get(&place)) {
            Some((Err(why), _)) => Err(Failure::Server(why.clone())),
            _ => Ok(()),
        }
    }

    /// Whether the server has answered anything that it was asked.
    fn is_answered(&self) -> Result<(), Failure> {
        let mut asked = self.heard.iter().filter(|(place, _)| self.script.requests[**place].is_sent());
        match asked.clone().next() {
            Some((_, (Err(why), _))) if asked.all(|(_, (heard, _))| heard.is_err()) => {
                Err(Failure::Server(why.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Waits for what the tape has told by now and nobody has heard. What does not come in time is missing.
    async fn hear_out(&mut self, names: &mut Names, is_all: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + self.client.options.patience / 4;
        while !is_all(self) && (self.standing.is_some() || !self.open.is_empty()) {
            let waited = async {
                match self.open.is_empty() {
                    // Nobody else says anything.
                    true => match next_of(&mut self.standing).await {
                        Some(message) => self.client.hear(None, message).await,
                        None => self.standing = None,
                    },
                    false => drop(self.listen(names).await),
                }
            };
            if timeout_at(deadline, waited).await.is_err() {
                return;
            }
        }
    }

    /// Whether as much has been told before the answer to a request, or instead of one, as on the tape.
    fn has_heard_of(&self, place: usize) -> bool {
        let expected = self.script.told.get(&Some(place)).map_or(0, Vec::len);
        self.client.notes().told.get(&Some(place)).map_or(0, Vec::len) >= expected
    }

    /// Whether as much has been told as on the tape, as far as it can still come.
    fn has_heard(&self, passed_over: &BTreeSet<usize>) -> bool {
        let script = self.script;
        let is_over = |place: &Place| {
            place.is_some_and(|place| {
                passed_over.contains(&place) || self.heard.get(&place).is_some_and(|(answer, _)| answer.is_err())
            })
        };
        let mut open =
            script.told.keys().flatten().filter(|place| !is_over(&Some(**place)) && !self.heard.contains_key(place));
        if !open.all(|place| self.has_heard_of(*place)) {
            return false;
        }
        // Of the rest, as many of each method: which of them came where is found out in the end.
        let mut missing: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let expected = script.told.iter().filter(|(place, _)| !is_over(place)).flat_map(|(_, told)| told);
        for recorded in expected.filter(|recorded| is_loose(&recorded.message)) {
            *missing.entry(recorded.message.method()).or_default() += 1;
        }
        let notes = self.client.notes();
        for message in notes.told.values().flatten().filter(|message| is_loose(message)) {
            if let Some(count) = missing.get_mut(&message.method()) {
                *count = count.saturating_sub(1);
            }
        }
        missing.values().all(|count| *count == 0)
    }

    /// Waits for an answer, or for what the server says by itself; whether there was anything to wait for.
    async fn listen(&mut self, names: &mut Names) -> bool {
        let Scene { open, standing, client, script, heard, .. } = self;
        tokio::select! {
            () = client.changed.notified() => {}
            answered = open.next() => {
                let Some((place, answer)) = answered else { return false };
                if let (Some(recorded), Ok(answer)) = (&script.requests[place].answer, &answer.0) {
                    names.learn(&recorded.message, answer);
                }
                heard.insert(place, answer);
            }
            message = next_of(standing) => match message {
                Some(message) => client.hear(None, message).await,
                None => *standing = None,
            },
        }
        true
    }
}

/// The next message; none if there is nobody who would say one.
async fn next_of(standing: &mut Option<Reader<Message>>) -> Option<Message> {
    match standing {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

/// Who asks and answers.
struct Client<'s> {
    connection: &'s Connection,
    answers: Mutex<Answers<'s>>,
    notes: Mutex<Notes>,
    /// Something was told.
    changed: Notify,
    options: &'s Options,
}

/// What a server says besides its answers.
#[derive(Default)]
struct Notes {
    /// Questions that cannot be answered.
    questions: Vec<String>,
    /// Notifications, by the request whose answer they came before.
    told: BTreeMap<Place, Vec<Message>>,
}

impl Client<'_> {
    /// Sends a request and waits for its answer; answers what is asked in between.
    async fn ask(&self, place: usize, id: i64, message: &Message, request: &Request) -> Result<Message, String> {
        let known = message.known();
        let facts = CallFacts {
            may_ask: known.is_some_and(Known::may_ask),
            wants_log: message.meta(meta::LOG_LEVEL).is_some(),
            cancellable: known != Some(Known::Initialize),
        };
        let call = Call { id, message, facts, headers: headers_of(message, request) };
        let mut replies: Replies = self.connection.call(call).await.map_err(|error| error.to_string())?;
        loop {
            match replies.next().await {
                Some(Ok(message)) if matches!(message.kind(), Kind::Result | Kind::Error) => return Ok(message),
                Some(Ok(message)) => self.hear(Some(place), message).await,
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the connection ended".to_owned()),
            }
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a question, and keeps what is told.
    async fn hear(&self, place: Place, message: Message) {
        if message.kind() == Kind::Notification && message.known() != Some(Known::Cancelled) {
            let mut notes = self.notes();
            let told = notes.told.entry(place).or_default();
            if told.len() < TOLD_MAX {
                told.push(message);
            }
            drop(notes);
            return self.changed.notify_one();
        }
        let (Kind::Request, Some(id)) = (message.kind(), message.id()) else { return };
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).answer(&message);
        let answer = answer.map(Some).unwrap_or_else(|why| {
            let mut notes = self.notes();
            if notes.questions.len() < QUESTIONS_MAX {
                notes.questions.push(why);
            }
            no_answer(&id)
        });
        if let Some(answer) = answer
            && let Err(error) = self.connection.send(&answer).await
        {
            tracing::debug!(%error, "An answer to the server was not sent");
        }
    }
}

/// The headers that repeat what is in the message (2026-07-28, Streamable HTTP › Request Metadata).
fn headers_of(message: &Message, request: &Request) -> HeaderMap {
    let mut map = HeaderMap::new();
    if message.meta(crate::protocol::meta::PROTOCOL_VERSION).is_none() {
        return map;
    }
    if let Some(method) = message.method() {
        map.insert(headers::METHOD, headers::encode(method));
    }
    if let Some(subject) = request.subject() {
        map.insert(headers::NAME, headers::encode(&subject));
    }
    for (name, value) in &request.params {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            map.insert(name, value);
        }
    }
    map
}

impl Request {
    /// It is for what the server tells, and has an answer when that is over.
    fn listens(&self) -> bool {
        self.message.known() == Some(Known::Listen)
    }

    /// A handshake is not left out: its answer is what the rest depends on.
    fn is_sent(&self) -> bool {
        !self.redacted || self.message.known() == Some(Known::Initialize)
    }
}

fn outcome(request: &Request, heard: Option<Heard>, options: &Options) -> Outcome {
    let (answer, took) = heard.unwrap_or((Err(String::new()), Duration::ZERO));
    let verdict = match (&request.answer, &answer) {
        _ if !request.is_sent() => Verdict::Skipped("its params were redacted"),
        (None, _) => Verdict::Skipped("the tape has no answer to it"),
        (Some(_), Err(why)) => Verdict::NoAnswer(why.clone()),
        (Some(recorded), Ok(answer)) => {
            let mut rules = options.rules.clone();
            rules.ignore = rules.ignore.and(recorded.redacted.clone());
            match (Json::parse(recorded.message.text()), Json::parse(answer.text())) {
                (Ok(expected), Ok(actual)) => match differences(&expected, &actual, &rules) {
                    found if found.is_empty() => Verdict::Same,
                    found => Verdict::Different(found),
                },
                _ => Verdict::NoAnswer("it is no JSON".to_owned()),
            }
        }
    };
    Outcome {
        seq: request.seq,
        answer_seq: request.answer.as_ref().map(|answer| answer.seq),
        method: request.message.method().unwrap_or_default().to_owned(),
        subject: request.subject(),
        verdict,
        took,
        answer: answer.ok(),
        told: Vec::new(),
    }
}
