//! What the server asks, from its question to the answer that it gets.

use std::time::Instant;

use super::{Call, Effect, Leg, OPEN_MAX};
use crate::bridge::loss::Loss;
use crate::bridge::modern_to_legacy::declared::Declared;
use crate::bridge::modern_to_legacy::question::{self, Question, Raw};
use crate::protocol::id::RequestId;
use crate::protocol::message::{Message, json_str};
use crate::protocol::method::Known;

/// Longest name of a server's for a question that its client hears, in bytes, and most of them in one call.
const KEY_MAX: usize = 64;
const WORDS_MAX: usize = 1024;

impl Call {
    pub(super) fn question(&mut self, words: Message, now: Instant, out: &mut Vec<Effect>) {
        let Some(id) = words.id() else { return out.push(Effect::Drop("no_id")) };
        let refusal = if !self.known.is_some_and(Known::may_ask) || self.is_answered() {
            Some((question::not_asked(&id), Loss::QuestionOutside))
        } else if self.leg.as_ref().is_some_and(|leg| !leg.declared.allows(&words)) {
            Some((question::not_asked(&id), Loss::QuestionUndeclared))
        } else if self.rounds >= self.rules.rounds || self.open.len() >= OPEN_MAX || !self.has_room(&words) {
            Some((question::too_many(&id), Loss::QuestionTooMany))
        } else {
            None
        };
        if let Some((answer, loss)) = refusal {
            if loss == Loss::QuestionUndeclared {
                self.undeclared = self.undeclared.and(Declared::needed_for(&words));
            }
            out.extend([Effect::Server(answer), Effect::Lost(loss)]);
            return;
        }
        let key = self.key_of(&id);
        let question = Question { key, id, words: words.alone(), asked: false };
        let given = self.given.contains_key(&question.key) && self.words.contains(&question.key);
        if given && let Some(answer) = question.answered(&self.given) {
            self.given.remove(&question.key);
            self.told_roots |= question.words.known() == Some(Known::RootsList);
            return out.push(Effect::Server(answer));
        }
        self.open.push(question);
        self.make_room(out);
        if self.leg.is_some() && self.due.is_none() {
            self.due = Some(now + self.rules.window);
        }
    }

    /// What the client calls a question: what the server calls it, if that is a word that was not used before in this call.
    pub(super) fn key_of(&mut self, id: &RequestId) -> String {
        self.keys += 1;
        let word = json_str(id.as_json()).filter(|word| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            (1..=KEY_MAX).contains(&word.len())
                && word.bytes().all(is_plain)
                // Those are our own.
                && !word.strip_prefix('q').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        });
        match word {
            Some(word) if self.words.len() < WORDS_MAX && self.words.insert(word.clone()) => word,
            _ => format!("q{}", self.keys),
        }
    }

    /// Asks what has not been answered.
    pub(super) fn ask(&mut self, leg: &Leg, now: Instant, out: &mut Vec<Effect>) {
        let mut requests = Vec::new();
        for question in &mut self.open {
            let (entry, wants_progress) = question.entry();
            if wants_progress && !question.asked {
                out.push(Effect::Lost(Loss::QuestionProgress));
            }
            question.asked = true;
            requests.push(format!(r#""{}":{entry}"#, question.key));
        }
        self.park(leg, &requests, now, out);
    }

    /// Gives the server what the client has answered, and refuses what it will not be asked again.
    pub(super) fn take_answers(&mut self, leg: &Leg, answers: &Raw, out: &mut Vec<Effect>) {
        let mut open = Vec::new();
        for question in std::mem::take(&mut self.open) {
            match question.answered(answers).filter(|_| question.asked) {
                Some(answer) => {
                    self.told_roots |= question.words.known() == Some(Known::RootsList);
                    out.push(Effect::Server(answer));
                }
                // Another request, which may declare something else.
                None if !leg.declared.allows(&question.words) => {
                    self.undeclared = self.undeclared.and(Declared::needed_for(&question.words));
                    out.extend([
                        Effect::Server(question::not_asked(&question.id)),
                        Effect::Lost(Loss::QuestionUndeclared),
                    ]);
                }
                None if self.rounds >= self.rules.rounds => {
                    out.extend([Effect::Server(question::too_many(&question.id)), Effect::Lost(Loss::QuestionTooMany)]);
                }
                None => open.push(question),
            }
        }
        self.open = open;
    }

    /// Refuses what is open: nobody will answer it any more.
    pub(super) fn dismiss(&mut self, out: &mut Vec<Effect>) {
        out.extend(self.open.drain(..).map(|question| Effect::Server(question.abandoned())));
    }
}
