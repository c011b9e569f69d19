//! The new truth: what a server says now, written to the tape in place of what it said. Pure.
//!
//! A tape of both sides of the proxy has each message twice, as the server said it and as the client got it: what is replayed is the
//! one, what is verified the other. Both are changed, or none.

use std::collections::BTreeSet;

use super::super::format::{Body, Edge, Frame, Kind};
use super::super::json::Json;
use super::super::whole::Tape;
use super::{Told, Verdict, Verified};
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::scan::DEPTH_MAX;

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Updated {
    /// Messages that were changed.
    pub changed: usize,
    /// Differences that stay: there is no frame for what is new, and none is taken away.
    pub left: usize,
}

/// Why nothing was updated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the tape has both sides of the proxy, and there is nothing that the server said as the client got it in frame {seq}: \
     with the one changed, and not the other, it would contradict itself. Record it anew, or verify the server with a tape of one side"
)]
pub struct Contradiction {
    /// The frame.
    pub seq: u64,
}

impl Verified {
    /// Puts what the server says now in place of what was different: answers, and notifications that came and said something else.
    ///
    /// # Errors
    /// It would have to be changed on both sides of the proxy, and is not there on the other. Then nothing was changed.
    pub fn update(&self, tape: &mut Tape, redact: impl Fn(&mut Frame)) -> Result<Updated, Contradiction> {
        let (changes, mut left) = self.changes();
        let mut edits: Vec<(usize, Message)> = Vec::new();
        let mut taken = BTreeSet::new();
        let (edge, twins) = (tape.edge(), Twins::of(tape));
        for (seq, now) in changes {
            let at = tape.frames.iter().position(|frame| frame.seq == seq && frame.edge() == Some(edge));
            let Some((at, old)) = at.and_then(|at| Some((at, message(&tape.frames[at])?))) else {
                // What is in a batch has no line of its own.
                left += 1;
                continue;
            };
            if let Some(twins) = &twins {
                let twin = twins.find(at, &old, &taken).ok_or(Contradiction { seq })?;
                taken.insert(twin);
                edits.push((twin, now.clone()));
            }
            edits.push((at, now));
        }
        let changed = edits.len();
        for (at, now) in edits {
            let frame = &mut tape.frames[at];
            let Some(old) = message(frame) else { continue };
            frame.body = Some(Body::of(renamed(&now, &old).line()));
            frame.redacted.clear();
            frame.redacted_more = 0;
            redact(frame);
        }
        Ok(Updated { changed, left })
    }

    /// What is to be said in which frame; and how much cannot be.
    fn changes(&self) -> (Vec<(u64, Message)>, usize) {
        let (mut changes, mut left) = (Vec::new(), 0);
        for outcome in &self.outcomes {
            match (&outcome.verdict, outcome.answer_seq, &outcome.answer) {
                (Verdict::Different(_), Some(seq), Some(answer)) => changes.push((seq, answer.clone())),
                (Verdict::Different(_), ..) => left += 1,
                _ => {}
            }
        }
        for told in self.outcomes.iter().flat_map(|outcome| &outcome.told).chain(&self.told) {
            match told {
                Told::Different { seq, now, .. } => changes.push((*seq, now.clone())),
                Told::Missing { .. } | Told::Moved { .. } | Told::Unexpected { .. } => left += 1,
            }
        }
        changes.sort_by_key(|(seq, _)| *seq);
        (changes, left)
    }
}

/// The one message of a frame.
fn message(frame: &Frame) -> Option<Message> {
    Message::parse(frame.body.as_ref()?.bytes().clone(), DEPTH_MAX).ok()
}

/// A message under the names of another one.
fn renamed(message: &Message, old: &Message) -> Message {
    let mut edit = message.edit();
    let id = old.id();
    if let Some(id) = &id {
        edit = edit.id(id.as_json());
    }
    if let (Some(Known::Progress), Some(token)) = (old.known(), old.param(meta::PROGRESS_TOKEN)) {
        edit = edit.param(meta::PROGRESS_TOKEN, token);
    }
    if let Some(id) = old.meta(meta::SUBSCRIPTION_ID) {
        edit = edit.meta(meta::SUBSCRIPTION_ID, id);
    }
    edit.finish()
}

/// What the server said, of a tape that has both sides.
struct Twins(Vec<(usize, Json)>);

impl Twins {
    fn of(tape: &Tape) -> Option<Twins> {
        let has = |edge| tape.frames.iter().any(|frame| frame.edge() == Some(edge) && frame.kind == Kind::Message);
        if !has(Edge::Client) || !has(Edge::Upstream) {
            return None;
        }
        let from_server = |(at, frame): (usize, &Frame)| {
            let said = frame.edge() == Some(Edge::Upstream) && !frame.is_upward();
            Some((at, nameless(&message(frame).filter(|_| said)?)?))
        };
        Some(Twins(tape.frames.iter().enumerate().filter_map(from_server).collect()))
    }

    /// The same as the server said it: the last before the client got it that is nobody else's.
    fn find(&self, before: usize, message: &Message, taken: &BTreeSet<usize>) -> Option<usize> {
        let wanted = nameless(message)?;
        let mut earlier = self.0.iter().rev().filter(|(at, _)| *at < before && !taken.contains(at));
        earlier.find(|(_, said)| *said == wanted).map(|(at, _)| *at)
    }
}

/// A message without the names that either side of the proxy has for it.
fn nameless(message: &Message) -> Option<Json> {
    let named = message.edit().id("0").param(meta::PROGRESS_TOKEN, "0").meta(meta::SUBSCRIPTION_ID, "0").finish();
    Json::parse(named.text()).ok()
}
