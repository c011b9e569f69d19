//! Questions of the server to the client, in the way of each era: requests (legacy), or results that ask for input (modern).

use serde_json::{Map, Value, json};

use super::peer::Say;
use super::server::{Exchange, Failure, Spoken, Stop};
use super::state::notification;

/// A question to the client.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub(crate) method: &'static str,
    pub(crate) params: Value,
}

/// How the questions of a call ended.
#[derive(Debug)]
pub(crate) enum Dialogue {
    /// All have been answered.
    Answered(Vec<Result<Value, Value>>),
    /// The result that asks for the answers (modern).
    InputRequired(Value),
}

impl Exchange {
    /// Whether the client says that it can be asked this.
    pub(crate) fn can_be_asked(&self, spoken: Spoken, capability: &str) -> bool {
        match spoken {
            Spoken::Legacy(revision) => {
                (capability != "elicitation" || revision >= "2025-06-18")
                    && self.peer.state().capabilities[capability].is_object()
            }
            Spoken::Modern => {
                self.message.reserved("clientCapabilities").is_some_and(|all| all[capability].is_object())
            }
        }
    }

    /// Puts `rounds` times the same questions to the client.
    pub(crate) async fn dialogue(&self, spoken: Spoken, rounds: u64, questions: &[Question]) -> Result<Dialogue, Stop> {
        if spoken == Spoken::Modern {
            return Ok(self.ask_by_result(rounds, questions)?);
        }
        let mut answers = Vec::new();
        for _ in 0..rounds {
            answers.extend(
                futures_util::future::join_all(questions.iter().map(|question| self.ask_by_request(question))).await,
            );
        }
        Ok(Dialogue::Answered(answers))
    }

    async fn ask_by_request(&self, question: &Question) -> Result<Value, Value> {
        let (id, answer) = self.peer.state().question();
        let mut open = OpenQuestion { exchange: self, id: &id, answered: false };
        let params = &question.params;
        let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{}","params":{params}}}"#, question.method);
        self.outlet.say(Say::Message(request)).await;
        let answer = answer.await;
        open.answered = true;
        answer.unwrap_or_else(|_| Err(json!({ "code": -32603, "message": "never answered" })))
    }

    fn ask_by_result(&self, rounds: u64, questions: &[Question]) -> Result<Dialogue, Failure> {
        let mut memory = match &self.message.params["requestState"] {
            Value::Null => Memory { round: 1, said: Map::new() },
            state => {
                state.as_str().and_then(Memory::open).ok_or_else(|| Failure::new(-32602, "Invalid requestState"))?
            }
        };
        let given = self.message.params["inputResponses"].as_object();
        loop {
            let keys: Vec<String> = (1..=questions.len()).map(|n| format!("r{}q{n}", memory.round)).collect();
            for key in &keys {
                if let Some(answer) = given.and_then(|given| given.get(key)).filter(|answer| answer.is_object()) {
                    memory.said.insert(key.clone(), answer.clone());
                }
            }
            let missing = keys.iter().zip(questions).filter(|(key, _)| !memory.said.contains_key(*key));
            let requests: Map<String, Value> = missing
                .map(|(key, question)| (key.clone(), json!({ "method": question.method, "params": question.params })))
                .collect();
            if !requests.is_empty() {
                return Ok(Dialogue::InputRequired(json!({
                    "resultType": "input_required", "inputRequests": requests, "requestState": memory.seal(),
                })));
            }
            if memory.round >= rounds {
                let all = (1..=rounds).flat_map(|round| (1..=questions.len()).map(move |n| format!("r{round}q{n}")));
                let answers = all.filter_map(|key| memory.said.remove(&key)).map(Ok);
                return Ok(Dialogue::Answered(answers.collect()));
            }
            memory.round += 1;
        }
    }
}

/// What a `requestState` holds: all that is known about a dialogue, so that this server need not remember it.
///
/// Its text has quotes, a backslash and letters beyond ASCII, and a checksum, so that whoever does not give it back as it was is found out.
struct Memory {
    round: u64,
    said: Map<String, Value>,
}

impl Memory {
    fn seal(&self) -> String {
        let text = json!({ "round": self.round, "said": self.said, "as is": "\\ü\"☃" }).to_string();
        format!("{:016x}.{text}", checksum(&text))
    }

    fn open(sealed: &str) -> Option<Memory> {
        let (sum, text) = sealed.split_once('.')?;
        let genuine = u64::from_str_radix(sum, 16).is_ok_and(|sum| sum == checksum(text));
        let state: Value = genuine.then(|| serde_json::from_str(text).ok()).flatten()?;
        Some(Memory { round: state["round"].as_u64()?, said: state["said"].as_object()?.clone() })
    }
}

/// FNV-1a.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Withdraws a question when the call that asked it ends first.
struct OpenQuestion<'a> {
    exchange: &'a Exchange,
    id: &'a str,
    answered: bool,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.exchange.peer.state().withdraw(self.id);
            let params = format!(r#"{{"requestId":{},"reason":"the call has ended"}}"#, self.id);
            self.exchange.outlet.try_say(Say::Message(notification("notifications/cancelled", &params)));
        }
    }
}
