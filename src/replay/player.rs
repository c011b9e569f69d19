//! The server of a tape, for one connection: told what was said to it, it says what comes next, and when.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::episodes::{Episode, What};
use super::stage::{Found, Inbox, Stage};
use super::{Replay, Unknown, own};
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Questions of a tape are numbered from here: far from those of whoever stands behind it.
const FIRST_QUESTION: i64 = 1 << 40;

/// What a player does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// It says this.
    Say(Bytes),
    /// Nothing before this time; without one, nothing until something is said to it.
    Wait(Option<Instant>),
    /// The connection ends.
    Break,
}

/// One episode being played.
struct Play {
    /// Its place, and what it is.
    at_tape: usize,
    episode: Arc<Episode>,
    /// The step to come.
    at: usize,
    /// What the request is called here.
    id: Option<RequestId>,
    token: Option<Box<str>>,
    /// Questions that were asked: their names on the tape and here, and whether they were answered.
    asked: Vec<(RequestId, i64, bool)>,
    withdrawn: bool,
    /// When the last step was.
    since: Instant,
    /// It is not its turn, and is not waited for any longer than this.
    held_until: Option<Instant>,
    answered: bool,
}

/// See the module.
pub(crate) struct Player {
    replay: Arc<Replay>,
    stage: Arc<Stage>,
    inbox: Arc<Inbox>,
    plays: Vec<Play>,
    /// Requests that listen to whatever is told on the tape.
    listeners: Vec<RequestId>,
    /// What is to be said before anything else.
    first: VecDeque<Bytes>,
    next_question: i64,
}

impl Player {
    pub(crate) fn new(replay: Arc<Replay>, stage: Arc<Stage>) -> Player {
        let inbox = stage.join();
        replay.join(&inbox);
        let (plays, listeners, first) = (Vec::new(), Vec::new(), VecDeque::new());
        Player { replay, stage, inbox, plays, listeners, first, next_question: FIRST_QUESTION }
    }

    /// Ready when other players have something for this one.
    pub(crate) fn poll_told(&self, context: &Context<'_>) -> Poll<()> {
        self.inbox.poll(context)
    }

    /// Something is said to the server. What is returned is for whoever stands behind the tape.
    pub(crate) fn hear(&mut self, message: Message, now: Instant) -> Option<Message> {
        match message.kind() {
            Kind::Request => self.request(message, now),
            Kind::Notification if message.known() == Some(Known::Cancelled) => {
                let id = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                let playing = self.plays.iter().position(|play| play.id.is_some() && play.id == id);
                if let Some(at) = playing {
                    self.withdraw(at, now);
                }
                let listening = self.listeners.len();
                self.listeners.retain(|listener| Some(listener) != id.as_ref());
                (playing.is_none() && listening == self.listeners.len()).then_some(message)
            }
            Kind::Notification => {
                if let Ok(episode) = self.stage.find(&self.replay, &message) {
                    self.play(episode, None, None, now);
                }
                Some(message)
            }
            Kind::Result | Kind::Error => {
                let id = message.own_id();
                for play in &mut self.plays {
                    if let Some((.., answered)) = play.asked.iter_mut().find(|(_, name, _)| Some(*name) == id) {
                        if !std::mem::replace(answered, true) {
                            self.replay.happened(1, 0);
                        }
                        return None;
                    }
                }
                Some(message)
            }
        }
    }

    fn request(&mut self, message: Message, now: Instant) -> Option<Message> {
        let id = message.id()?;
        let token = message.meta(meta::PROGRESS_TOKEN).map(Box::from);
        match self.stage.take(&self.replay, &message) {
            Found::Episode(episode) => self.play(episode, Some(id), token, now),
            Found::Listen(acknowledgement) => {
                self.first.push_back(acknowledgement);
                self.listeners.push(id);
            }
            Found::Own(answer) => self.first.push_back(answer),
            Found::Missed(_) if self.replay.options.unknown != Unknown::Refuse => return Some(message),
            Found::Missed(missed) => self.first.extend(self.replay.refuse(&message, &missed)),
        }
        None
    }

    fn play(&mut self, at_tape: usize, id: Option<RequestId>, token: Option<Box<str>>, now: Instant) {
        let episode = self.replay.episode(at_tape);
        let (asked, withdrawn, answered, held_until) = (Vec::new(), false, id.is_none(), None);
        self.plays.push(Play {
            at_tape,
            episode,
            at: 0,
            id,
            token,
            asked,
            withdrawn,
            since: now,
            held_until,
            answered,
        });
    }

    /// A request is taken back: what is left of it is what the server said then.
    fn withdraw(&mut self, at: usize, now: Instant) {
        let play = &mut self.plays[at];
        let episode = Arc::clone(&play.episode);
        let rest = episode.steps.get(play.at..).unwrap_or_default();
        let behind = rest.iter().position(|step| matches!(step.what, What::Withdrawn));
        // Nobody has to wait for what will not be said.
        self.replay.happened(0, if episode.counts { behind.unwrap_or(rest.len()) } else { 0 });
        match behind {
            Some(behind) => {
                play.at += behind + 1;
                (play.withdrawn, play.since) = (true, now);
            }
            None => drop(self.plays.remove(at)),
        }
    }

    /// What is done next.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        self.first.extend(self.inbox.take());
        let mut wake: Option<Instant> = None;
        let mut at = 0;
        while at < self.plays.len() {
            if let Some(text) = self.first.pop_front() {
                return Next::Say(text);
            }
            match self.step(at, now) {
                Done::Something => {}
                Done::Nothing => at += 1,
                Done::Later(due) => {
                    wake = Some(wake.map_or(due, |wake| wake.min(due)));
                    at += 1;
                }
                Done::Over => drop(self.plays.remove(at)),
                Done::Break => return Next::Break,
            }
        }
        self.first.pop_front().map_or(Next::Wait(wake), Next::Say)
    }

    /// Takes one step of one play.
    fn step(&mut self, index: usize, now: Instant) -> Done {
        let replay = Arc::clone(&self.replay);
        let play = &mut self.plays[index];
        let episode = Arc::clone(&play.episode);
        let Some(step) = episode.steps.get(play.at) else {
            if play.answered || play.withdrawn {
                return Done::Over;
            }
            let waits = episode.steps.last().is_some_and(|last| matches!(last.what, What::Withdrawn));
            if waits || replay.episodes.ended || episode.message.known() == Some(Known::Listen) {
                return Done::Nothing;
            }
            if let Some(id) = &play.id {
                self.first.push_back(own::unanswered(id, &episode));
            }
            play.answered = true;
            return Done::Something;
        };
        match &step.what {
            What::Withdrawn => return Done::Nothing,
            What::Await(question) if play.asked.iter().any(|(name, _, answered)| name == question && !answered) => {
                return Done::Nothing;
            }
            What::Await(_) => {
                // From here on time counts again.
                play.since = now;
                play.at += 1;
                return Done::Something;
            }
            _ => {}
        }
        let due = play.since + replay.wait(step.after);
        if due > now {
            return Done::Later(due);
        }
        if let Some(patience) = replay.options.in_step
            && !replay.is_time_for(step)
        {
            let until = *play.held_until.get_or_insert(now + patience);
            if now < until {
                return Done::Later(until);
            }
        }
        play.held_until = None;
        replay.happened(0, usize::from(episode.counts));
        play.since = due;
        play.at += 1;
        match &step.what {
            What::Say(message) => {
                if let Some(text) = play.named(message) {
                    self.first.push_back(text);
                }
            }
            What::Ask(question) => {
                let name = self.next_question;
                self.next_question += 1;
                if let Some(id) = question.id() {
                    play.asked.push((id, name, false));
                }
                let question = question.edit().id(&name.to_string()).finish();
                self.first.push_back(question.line());
            }
            What::Answer(answer) => {
                play.answered = true;
                let text = play.answer(answer);
                self.first.push_back(text);
            }
            What::Tell(message, None) => {
                self.first.push_back(message.line());
                self.stage.tell(&message.line(), &self.inbox);
            }
            What::Tell(message, Some(listener)) => {
                let live =
                    self.plays.iter().filter(|play| play.at_tape == *listener).filter_map(|play| play.id.as_ref());
                let told = |id: &RequestId| message.edit().meta(meta::SUBSCRIPTION_ID, id.as_json()).finish().line();
                self.first.extend(live.chain(&self.listeners).map(told));
            }
            What::Break => return Done::Break,
            What::Withdrawn | What::Await(_) => {}
        }
        Done::Something
    }
}

enum Done {
    Something,
    Nothing,
    Later(Instant),
    Over,
    Break,
}

impl Play {
    /// A notification under the names that the request has here.
    fn named(&self, message: &Message) -> Option<Bytes> {
        let id = self.id.as_ref().map_or("null", RequestId::as_json);
        let named = match message.known() {
            // Nobody is told of progress who did not ask for it.
            Some(Known::Progress) => message.edit().param(meta::PROGRESS_TOKEN, self.token.as_deref()?),
            Some(Known::Cancelled) => {
                let question = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                let asked = self.asked.iter().find(|(name, ..)| Some(name) == question.as_ref());
                match asked {
                    Some((_, name, _)) => message.edit().param(meta::REQUEST_ID, &name.to_string()),
                    None => message.edit().param(meta::REQUEST_ID, id),
                }
            }
            _ => message.edit().meta(meta::SUBSCRIPTION_ID, id),
        };
        Some(named.finish().line())
    }

    /// The answer under the name that the request has here.
    fn answer(&self, answer: &Message) -> Bytes {
        let id = self.id.as_ref().map_or("null", RequestId::as_json);
        let mut edit = answer.edit().id(id);
        // The end of a stream of notifications names it once more (2026-07-28, Subscriptions).
        if let Some((_, Some(members))) = answer.result_members()
            && let Some(member) = members.find(answer.text(), meta::SUBSCRIPTION_ID)
        {
            edit = edit.span(member.value, id);
        }
        edit.finish().line()
    }
}
