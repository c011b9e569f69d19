//! A tape as a player needs it: what was said to the server, and for each of it what the server said because of it.

use std::sync::Arc;

use crate::protocol::id::RequestId;
use crate::protocol::message::{Incoming, Kind, Message};
use crate::protocol::meta::{self, Envelope};
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::protocol::scan::DEPTH_MAX;
use crate::tape::canonical::is_of_proxy;
use crate::tape::format::{self, Edge, Frame};

/// One message to the server, and what the server said because of it.
#[derive(Debug, Clone)]
pub(crate) struct Episode {
    pub(crate) message: Message,
    /// The number of its frame.
    pub(crate) seq: u64,
    /// JSON pointers to what of it was replaced before it was written.
    pub(crate) redacted: Vec<String>,
    /// It is no introduction, and not the proxy's own: how many there are of those depends on what others did before.
    pub(crate) counts: bool,
    pub(crate) steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// How many microseconds after what came before it.
    pub(crate) after: u64,
    /// How much had been said to the server before it, on all of the tape, and by the server.
    pub(crate) heard: usize,
    pub(crate) said: usize,
    pub(crate) what: What,
}

/// What happens.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A notification that belongs to the request.
    Say(Message),
    /// The server asks something.
    Ask(Message),
    /// The client answers the question of this id.
    Await(RequestId),
    /// The answer.
    Answer(Message),
    /// A notification that belongs to no request, or to the listener whose episode it is.
    Tell(Message, Option<usize>),
    /// The client takes the request back.
    Withdrawn,
    /// The connection ends.
    Break,
}

/// All of a tape.
#[derive(Debug)]
pub(crate) struct Episodes {
    pub(crate) era: Era,
    pub(crate) all: Vec<Arc<Episode>>,
    /// Frames that are lost between those that are there.
    pub(crate) lost: u64,
    /// The tape was ended in good order: who has no answer on it got none.
    pub(crate) ended: bool,
    /// The frames of what was said to the server and counts.
    pub(crate) heard: Vec<u64>,
}

/// What is known of one request that is not over.
#[derive(Debug)]
struct Open {
    episode: usize,
    id: RequestId,
    token: Option<RequestId>,
    exchange: Option<u64>,
    connection: Option<u64>,
    may_ask: bool,
}

#[derive(Debug, Default)]
struct Builder {
    all: Vec<Episode>,
    /// When what has been noted last of each episode happened.
    times: Vec<u64>,
    open: Vec<Open>,
    /// Which episode a question of the server belongs to, by connection.
    asked: Vec<(Option<u64>, RequestId, usize)>,
    /// What was last said to the server, on any connection: what it tells by itself on one may be because of what it did on another.
    last: Option<usize>,
    handshake: bool,
    envelope: bool,
    lost: u64,
    ended: bool,
    /// The frames of what was said to the server.
    heard: Vec<u64>,
    said: usize,
    /// The episode that was answered last.
    answered: Option<usize>,
}

impl Episodes {
    /// Puts in order what passed on this edge.
    pub(crate) fn of<'f>(edge: Edge, frames: impl IntoIterator<Item = &'f Frame>) -> Episodes {
        let mut builder = Builder::default();
        for frame in frames {
            match &frame.kind {
                format::Kind::Gap { lost, .. } => builder.lost += lost,
                format::Kind::End { .. } => builder.ended = true,
                _ => {}
            }
            if frame.edge() == Some(edge) {
                builder.frame(frame);
            }
        }
        let era = if builder.envelope && !builder.handshake { Era::Modern } else { Era::Legacy };
        builder.drop_unfinished_cancellations();
        let all = builder.all.into_iter().map(Arc::new).collect();
        Episodes { era, all, lost: builder.lost, ended: builder.ended, heard: builder.heard }
    }
}

/// Puts in order what passes, while it does.
#[derive(Debug, Default)]
pub(super) struct Learner(Builder);

impl Learner {
    /// The episode that is over with the message of this frame.
    pub(super) fn see(&mut self, frame: &Frame) -> Option<Episode> {
        self.0.answered = None;
        self.0.frame(frame);
        self.0.answered.take().map(|at| self.0.all[at].clone())
    }
}

impl Builder {
    fn frame(&mut self, frame: &Frame) {
        match (&frame.kind, &frame.body) {
            (format::Kind::Message, Some(body)) => {
                // What is no message the other side did not understand either.
                let Ok(incoming) = Incoming::parse(body.bytes().clone(), DEPTH_MAX) else { return };
                let messages = match incoming {
                    Incoming::One(message) => vec![message],
                    Incoming::Batch(messages) => messages.into_iter().flatten().collect(),
                };
                for message in messages {
                    if frame.is_upward() { self.up(frame, message) } else { self.down(frame, message) }
                }
            }
            (format::Kind::Close { .. }, _) => self.close(frame),
            _ => {}
        }
    }

    fn up(&mut self, frame: &Frame, message: Message) {
        let connection = frame.connection;
        match message.kind() {
            Kind::Request => {
                let Some(id) = message.id() else { return };
                self.envelope |=
                    message.known() != Some(Known::Discover) && matches!(Envelope::of(&message), Envelope::Complete(_));
                let token = message.meta(meta::PROGRESS_TOKEN).and_then(RequestId::from_json);
                let may_ask = message.known().is_some_and(Known::may_ask);
                let episode = self.begin(frame, message);
                self.open.push(Open { episode, id, token, exchange: frame.exchange, connection, may_ask });
            }
            Kind::Notification if message.known() == Some(Known::Cancelled) => {
                let id = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                if let Some(open) =
                    self.open.iter().find(|open| open.connection == connection && Some(&open.id) == id.as_ref())
                {
                    self.note(open.episode, frame, What::Withdrawn);
                }
            }
            Kind::Notification => drop(self.begin(frame, message)),
            Kind::Result | Kind::Error => {
                let Some(id) = message.id() else { return };
                let asked = self.asked.iter().position(|(on, asked, _)| *on == connection && *asked == id);
                if let Some(at) = asked {
                    let (_, _, episode) = self.asked.remove(at);
                    self.note(episode, frame, What::Await(id));
                    self.last = Some(episode);
                }
            }
        }
    }

    fn begin(&mut self, frame: &Frame, message: Message) -> usize {
        let episode = self.all.len();
        self.last = Some(episode);
        let introduces = matches!(message.known(), Some(Known::Initialize | Known::Discover | Known::Initialized));
        let (counts, redacted) = (!introduces && !is_of_proxy(&message), frame.redacted.clone());
        self.all.push(Episode { message, seq: frame.seq, redacted, counts, steps: Vec::new() });
        self.times.push(frame.at);
        if counts {
            self.heard.push(frame.seq);
        }
        episode
    }

    fn note(&mut self, episode: usize, frame: &Frame, what: What) {
        let after = frame.at.saturating_sub(std::mem::replace(&mut self.times[episode], frame.at));
        let (heard, said) = (self.heard.len(), self.said);
        match what {
            _ if !self.all[episode].counts => {}
            What::Await(_) => self.heard.push(frame.seq),
            What::Withdrawn => {}
            _ => self.said += 1,
        }
        self.all[episode].steps.push(Step { after, heard, said, what });
    }

    fn down(&mut self, frame: &Frame, message: Message) {
        let connection = frame.connection;
        match message.kind() {
            Kind::Result | Kind::Error => {
                let Some(id) = message.id() else { return };
                let found = self.open.iter().position(|open| open.connection == connection && open.id == id);
                let Some(found) = found else { return };
                let episode = self.open.remove(found).episode;
                let known = self.all[episode].message.known();
                self.handshake |= known == Some(Known::Initialize) && message.kind() == Kind::Result;
                self.note(episode, frame, What::Answer(message));
                self.answered = Some(episode);
            }
            Kind::Request => {
                let Some(id) = message.id() else { return };
                let episode = self.of_exchange(frame).or_else(|| self.newest(connection, |open| open.may_ask));
                let Some(episode) = episode.or(self.last) else { return };
                self.asked.push((connection, id, episode));
                self.note(episode, frame, What::Ask(message));
            }
            Kind::Notification => self.notification(frame, message),
        }
    }

    fn notification(&mut self, frame: &Frame, message: Message) {
        let connection = frame.connection;
        let by_id = |name: Option<&str>| name.and_then(RequestId::from_json);
        match message.known() {
            Some(Known::Progress) => {
                let token = by_id(message.param(meta::PROGRESS_TOKEN));
                let of = |open: &&Open| open.connection == connection && open.token.is_some() && open.token == token;
                // Progress after the answer is for nobody.
                if let Some(open) = self.open.iter().find(of) {
                    self.note(open.episode, frame, What::Say(message));
                }
                return;
            }
            Some(Known::Cancelled) => {
                let id = by_id(message.param(meta::REQUEST_ID));
                let asked = self.asked.iter().find(|(on, asked, _)| *on == connection && Some(asked) == id.as_ref());
                let own = self.open.iter().find(|open| open.connection == connection && Some(&open.id) == id.as_ref());
                let episode = asked.map(|(.., episode)| *episode).or(own.map(|open| open.episode));
                if let Some(episode) = episode {
                    self.note(episode, frame, What::Say(message));
                }
                return;
            }
            _ => {}
        }
        let subscription = by_id(message.meta(meta::SUBSCRIPTION_ID));
        let listener =
            subscription.and_then(|id| self.open.iter().find(|open| open.connection == connection && open.id == id));
        let listener = listener.map(|open| open.episode);
        let last = self.last;
        let log = message.known() == Some(Known::LogMessage);
        let of_call = self
            .of_exchange(frame)
            .filter(|episode| listener.is_none() && self.all[*episode].message.known() != Some(Known::Listen));
        let of_call = of_call.or_else(|| if log { self.newest(connection, |_| true) } else { None });
        match (of_call, listener, last) {
            (Some(episode), ..) => self.note(episode, frame, What::Say(message)),
            (None, Some(listener), _) if message.known() == Some(Known::SubscriptionAcknowledged) => {
                self.note(listener, frame, What::Say(message));
            }
            (None, Some(listener), Some(last)) if last == listener => self.note(listener, frame, What::Say(message)),
            (None, listener, Some(last)) => self.note(last, frame, What::Tell(message, listener)),
            // Nobody had said anything yet: nobody has asked for it.
            (None, _, None) => {}
        }
    }

    /// The request that began the exchange of a frame.
    fn of_exchange(&self, frame: &Frame) -> Option<usize> {
        let exchange = frame.exchange?;
        let of = |open: &&Open| open.connection == frame.connection && open.exchange == Some(exchange);
        self.open.iter().find(of).map(|open| open.episode)
    }

    fn newest(&self, connection: Option<u64>, wanted: impl Fn(&Open) -> bool) -> Option<usize> {
        let of = |open: &&Open| open.connection == connection && wanted(open);
        self.open.iter().rev().find(of).map(|open| open.episode)
    }

    /// The end of a connection takes its requests with it. The end of an exchange takes a request back where there are no
    /// sessions (2026-07-28, Cancellation); where there are, the answer may still come on another stream.
    fn close(&mut self, frame: &Frame) {
        let stateless = |open: &Open| matches!(Envelope::of(&self.all[open.episode].message), Envelope::Complete(_));
        let ends = |open: &Open| {
            open.connection == frame.connection
                && match frame.exchange {
                    Some(exchange) => open.exchange == Some(exchange) && frame.is_upward() && stateless(open),
                    None => true,
                }
        };
        let (over, open): (Vec<Open>, Vec<Open>) = std::mem::take(&mut self.open).into_iter().partition(ends);
        self.open = open;
        for call in over {
            let what = if frame.is_upward() { What::Withdrawn } else { What::Break };
            self.note(call.episode, frame, what);
        }
    }

    /// What was answered although it had been taken back was not waiting for that.
    fn drop_unfinished_cancellations(&mut self) {
        for episode in &mut self.all {
            let answered = |step: &Step| matches!(&step.what, What::Answer(answer) if answer.kind() == Kind::Result);
            if episode.steps.iter().any(answered) {
                episode.steps.retain(|step| !matches!(step.what, What::Withdrawn));
            }
        }
    }
}
