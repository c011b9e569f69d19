//! One process of the server, and the one who talks to it.
//!
//! The probe reads the pipe itself, where the proxy has a driver: what a driver drops (a second answer, an answer to nobody) is
//! what the probe is after. How the process is started, bounded and stopped is the proxy's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::heard::{Heard, Reply};
use super::judge::observed::{Asked, Step, Stop};
use super::kin;
use super::words::{self, Request};
use crate::protocol::message::{Incoming, Kind, Message, ParseError, cancelled};
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::upstream::child::{ChildEvents, StopStep};
use crate::upstream::driver::{Event, Pipe as _};
use crate::upstream::error::UpstreamError;
use crate::upstream::stdio::StdioPipe;

/// How long it may take to tell what a process wrote to standard error, once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Most bytes that wait to be read by the server: of one that asks and does not listen, the end is near.
const QUEUE_MAX: usize = 1 << 20;
/// Most lines in a row that are no messages.
const JUNK_MAX: u64 = 10_000;
/// Most URIs of changed resources that are remembered.
const UPDATES_MAX: usize = 64;

/// A process that cannot be talked to any more.
#[derive(Debug)]
pub(super) struct Broken {
    /// What it was working on.
    pub(super) during: Asked,
    pub(super) why: UpstreamError,
}

/// Whether the process was told that its client can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// It has none of its own: it is told so.
    Nobody,
    /// It has one, who answers.
    StandIn,
}

/// A process, from its start to its end. Dropped, it is stopped.
pub(super) struct Process {
    pipe: StdioPipe,
    pub(super) era: Era,
    pub(super) client: Client,
    next_id: i64,
    /// Requests that were given up and may still be answered.
    abandoned: BTreeSet<i64>,
    pub(super) heard: Heard,
    /// When its start was begun.
    pub(super) started: Instant,
    depth: usize,
    steps: Arc<Steps>,
}

/// Requests under way: by id, the place of their answer.
type Open = BTreeMap<i64, usize>;

impl Process {
    /// Takes over a process that was just started: `started` is when that was begun.
    pub(super) fn new(
        pipe: StdioPipe,
        started: Instant,
        era: Era,
        client: Client,
        depth: usize,
        steps: Arc<Steps>,
    ) -> Process {
        Process {
            pipe,
            era,
            client,
            next_id: 1,
            abandoned: BTreeSet::new(),
            heard: Heard::default(),
            started,
            depth,
            steps,
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pipe.child().pid()
    }

    /// Makes one request and waits for its answer. One that does not come within `patience` is cancelled.
    ///
    /// # Errors
    /// The process ended, or broke the protocol so that nothing can be made of it.
    pub(super) async fn ask(&mut self, request: &Request, patience: Duration) -> Result<Reply, Broken> {
        let mut replies = self.ask_all(std::slice::from_ref(request), patience).await?;
        Ok(replies.pop().unwrap_or(Reply::Silence))
    }

    /// Makes all requests at the same time and waits for their answers, in the order of the requests.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn ask_all(&mut self, requests: &[Request], patience: Duration) -> Result<Vec<Reply>, Broken> {
        let mut open = Open::new();
        for (place, request) in requests.iter().enumerate() {
            open.insert(self.send(request), place);
        }
        let mut replies = vec![Reply::Silence; requests.len()];
        let during = |open: &Open| {
            let place = open.values().next().copied().unwrap_or_default();
            requests.get(place).map_or(Asked::Method(""), asked)
        };
        let deadline = Instant::now() + patience;
        let unknown = self.heard.unknown;
        // Where as many answers have wrong ids as are missing, they are the missing ones.
        while self.heard.unknown - unknown < open.len() as u64 {
            let heard = self.listen(deadline, &mut open, &mut replies).await;
            if !heard.map_err(|why| Broken { during: during(&open), why })? {
                break;
            }
        }
        for (id, place) in open {
            // A handshake must not be cancelled (2025-11-25, Cancellation).
            if requests.get(place).is_some_and(|request| request.method != Known::Initialize) {
                self.abandon(id);
            }
        }
        Ok(replies)
    }

    /// Sends a request and leaves it to [`await_any`](Self::await_any) to wait for its answer. Its id.
    pub(super) fn send(&mut self, request: &Request) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.pipe.write(Some(id), request.line(id, self.era));
        id
    }

    /// The answer to the first of these requests that is answered before `deadline`, with its id.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn await_any(
        &mut self,
        requests: &[(i64, Known)],
        deadline: Instant,
    ) -> Result<Option<(i64, Reply)>, Broken> {
        let mut open: Open = requests.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect();
        let mut replies = vec![Reply::Silence; requests.len()];
        let during = requests.last().map_or("", |(_, method)| method.as_str());
        let broken = |why| Broken { during: Asked::Method(during), why };
        while self.listen(deadline, &mut open, &mut replies).await.map_err(broken)? {
            if let Some(place) = replies.iter().position(|reply| *reply != Reply::Silence) {
                return Ok(requests.get(place).map(|(id, _)| (*id, replies.swap_remove(place))));
            }
        }
        Ok(None)
    }

    /// Sends a notification.
    pub(super) fn tell(&mut self, line: Bytes) {
        self.pipe.write(None, line);
    }

    /// Asks something harmless: with its answer, all has been read that the process said before.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn fence(&mut self, patience: Duration) -> Result<(), Broken> {
        let method = match self.era {
            Era::Legacy => Known::Ping,
            Era::Modern => Known::Discover,
        };
        self.ask(&Request::new(method, serde_json::json!({})), patience).await.map(drop)
    }

    /// Listens for so long to what the process says by itself; until it asks for roots, since more need not be known.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn linger(&mut self, time: Duration) -> Result<(), Broken> {
        let deadline = Instant::now() + time;
        let broken = |why| Broken { during: Asked::Method(Known::Initialized.as_str()), why };
        while self.heard.questions.roots == 0
            && self.listen(deadline, &mut Open::new(), &mut []).await.map_err(broken)?
        {}
        Ok(())
    }

    /// Stops it, and tells how that went. The deadlines are those of the proxy's own stop.
    pub(super) async fn close(mut self) -> Stop {
        let family = kin::family(self.pid());
        self.pipe.stop().await;
        Stop { step: self.steps.highest(), survivors: kin::survivors(family).await }
    }

    /// Stops one that broke; tells what became of it, and what it last wrote to standard error.
    pub(super) async fn autopsy(self, why: &UpstreamError) -> (String, String) {
        let gone = matches!(why, UpstreamError::Exited { .. } | UpstreamError::Lost { .. });
        // That nothing can be written to it is seen before its end is, which says more.
        let exit = match gone {
            true => timeout(LAST_WORDS, self.pipe.child().stopped()).await.ok(),
            false => None,
        };
        let why = exit.map_or_else(|| why.to_string(), |exit| format!("the server has exited ({exit})"));
        (why, self.bury().await)
    }

    /// Stops it, and tells what it last wrote to standard error.
    pub(super) async fn bury(mut self) -> String {
        self.pipe.stop().await;
        timeout(LAST_WORDS, self.pipe.child().last_words()).await.unwrap_or_default()
    }

    fn abandon(&mut self, id: i64) {
        self.abandoned.insert(id);
        self.pipe.write(None, cancelled(id));
    }

    /// Takes in the next thing that happens; `false` at the deadline.
    async fn listen(
        &mut self,
        deadline: Instant,
        open: &mut Open,
        replies: &mut [Reply],
    ) -> Result<bool, UpstreamError> {
        // Looked at here as well: what always has something to say would never let the timer have its turn.
        if Instant::now() >= deadline {
            return Ok(false);
        }
        match timeout_at(deadline, self.pipe.next(true)).await {
            Ok(Event::Text(text)) => self.hear(Incoming::parse(text, self.depth), open, replies)?,
            Ok(Event::Read(said)) => self.hear(said, open, replies)?,
            Ok(Event::Closed(why)) => return Err(why),
            Ok(Event::Sent(_) | Event::Failed(..)) => {}
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Makes something of what the process said.
    fn hear(
        &mut self,
        said: Result<Incoming, ParseError>,
        open: &mut Open,
        replies: &mut [Reply],
    ) -> Result<(), UpstreamError> {
        match said {
            Ok(Incoming::One(message)) => {
                self.heard.junk = 0;
                self.take(&message, open, replies);
            }
            Ok(Incoming::Batch(messages)) => {
                messages.into_iter().flatten().for_each(|message| self.take(&message, open, replies));
            }
            Err(error) => {
                let id = error.id.as_ref().and_then(|id| id.as_integer());
                match id.and_then(|id| open.remove(&id)) {
                    Some(place) => put(replies, place, Reply::Malformed),
                    None => self.heard.junk += 1,
                }
            }
        }
        if self.heard.junk > JUNK_MAX {
            return Err(UpstreamError::Violation("it writes what are no messages"));
        }
        if self.pipe.queued() > QUEUE_MAX {
            return Err(UpstreamError::Stalled { sent: true });
        }
        Ok(())
    }

    fn take(&mut self, message: &Message, open: &mut Open, replies: &mut [Reply]) {
        match message.kind() {
            Kind::Result | Kind::Error => self.answered(message, open, replies),
            Kind::Request => self.asked(message),
            Kind::Notification => self.told(message),
        }
    }

    fn answered(&mut self, message: &Message, open: &mut Open, replies: &mut [Reply]) {
        let Some(id) = message.id() else {
            // Some servers answer notifications that they do not know with an error without an id.
            self.heard.junk += 1;
            return;
        };
        // Only the spelling that was sent is ours: `"1"` or `1.0` answers nothing.
        let id = Some(id).filter(|id| id.as_json().bytes().all(|b| b.is_ascii_digit()));
        let id = id.and_then(|id| id.as_integer()).filter(|id| (1..self.next_id).contains(id));
        let Some(id) = id else {
            self.heard.unknown += 1;
            return;
        };
        let body = message.body().unwrap_or_default().to_owned();
        match open.remove(&id) {
            Some(place) if message.kind() == Kind::Result => put(replies, place, Reply::Result(body)),
            Some(place) => put(replies, place, Reply::Error(body)),
            // It was given up, and comes late.
            None if self.abandoned.remove(&id) => {}
            None => self.heard.repeated += 1,
        }
    }

    fn asked(&mut self, message: &Message) {
        let Some(id) = message.id() else { return };
        let questions = &mut self.heard.questions;
        match message.known() {
            Some(Known::Ping) => {}
            Some(Known::RootsList) => questions.roots += 1,
            Some(Known::CreateMessage) => questions.sampling += 1,
            Some(Known::Elicit) => questions.elicitation += 1,
            _ => questions.other += 1,
        }
        let answer = match (self.client, message.known()) {
            (Client::Nobody, known) if known != Some(Known::Ping) => words::refusal(&id),
            (_, known) => words::stand_in(&id, known),
        };
        self.pipe.write(None, answer);
    }

    fn told(&mut self, message: &Message) {
        match message.known() {
            Some(Known::LogMessage) => self.heard.logs += 1,
            Some(Known::ResourceUpdated) if self.heard.updates.len() < UPDATES_MAX => {
                self.heard.updates.extend(message.param_str("uri"));
            }
            _ => {}
        }
    }
}

fn put(replies: &mut [Reply], place: usize, reply: Reply) {
    if let Some(slot) = replies.get_mut(place) {
        *slot = reply;
    }
}

/// What a request is called in a report.
fn asked(request: &Request) -> Asked {
    match &request.tool {
        Some(tool) => Asked::Call(tool.clone()),
        None => Asked::Method(request.method.as_str()),
    }
}

/// How far the ladder had to be climbed to stop a process.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Held for a push or a look.
    taken: Mutex<Option<StopStep>>,
}

impl Steps {
    fn highest(&self) -> Step {
        match *self.taken.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Step::Asked,
            Some(StopStep::Terminate) => Step::Terminated,
            Some(StopStep::Kill) => Step::Killed,
        }
    }
}

impl ChildEvents for Steps {
    fn stop_step(&self, step: StopStep) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }
}
