//! Places that the user has to go to before the server does what it is asked (2025-11-25, Elicitation › URL Elicitation Required Error).

use std::time::Instant;

use serde_json::Value;

use super::{Call, Effect, Leg, OPEN_MAX};
use crate::bridge::loss::Loss;
use crate::bridge::modern_to_legacy::answer;
use crate::bridge::modern_to_legacy::question::Raw;
use crate::protocol::message::json_str;
use crate::protocol::method::Known;

impl Call {
    pub(super) fn send_on_errands(&mut self, leg: &Leg, places: Vec<Value>, now: Instant, out: &mut Vec<Effect>) {
        if self.rounds >= self.rules.rounds || places.len() > OPEN_MAX {
            out.push(Effect::Lost(Loss::QuestionTooMany));
            return self.end(answer::declined(&leg.id, self.known), out);
        }
        let mut requests = Vec::new();
        for place in places {
            self.keys += 1;
            let key = format!("q{}", self.keys);
            requests.push(format!(r#""{key}":{{"method":"{}","params":{place}}}"#, Known::Elicit.as_str()));
            self.errands.push(key);
        }
        self.errand_until = None;
        self.park(leg, &requests, now, out);
    }

    pub(super) fn been_on_errands(&mut self, leg: &Leg, answers: &Raw, now: Instant, out: &mut Vec<Effect>) {
        let action = |key: &String| {
            let answer: Raw = serde_json::from_str(answers.get(key)?.get()).ok()?;
            json_str(answer.get("action")?.get())
        };
        let went = self.errands.iter().all(|key| action(key).as_deref() == Some("accept"));
        let declined = self.errands.iter().any(|key| matches!(action(key).as_deref(), Some("decline" | "cancel")));
        self.errands.clear();
        if declined {
            return self.end(answer::declined(&leg.id, self.known), out);
        }
        // Without an answer the server says again where to go.
        self.errand_until = went.then(|| (now + self.rules.errand).min(self.rules.until));
        self.again(out);
    }
}
