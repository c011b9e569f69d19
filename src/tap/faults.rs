//! The interceptor that carries out a plan of faults.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Duration;

use super::intercept::{Direction, Effect, Interceptor, OnFailure, Verdict};
use crate::faults::{Do, Fault, From, Plan};
use crate::protocol::error::RpcError;
use crate::protocol::message::{Kind, Message, json_str};
use crate::protocol::method::Known;

/// See the module.
pub(super) struct Faults(Vec<Planned>);

struct Planned {
    fault: Fault,
    /// Held for a step.
    state: Mutex<State>,
}

struct State {
    fitted: u64,
    happened: u64,
    /// Of the generator of chance.
    seed: u64,
}

impl Faults {
    pub(super) fn new(plan: &Plan) -> Faults {
        let planned = |(index, fault): (usize, &Fault)| {
            // Each has a sequence of its own, so that they do not depend on each other.
            let seed = plan.seed ^ (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            Planned { fault: fault.clone(), state: Mutex::new(State { fitted: 0, happened: 0, seed }) }
        };
        Faults(plan.faults.iter().enumerate().map(planned).collect())
    }

    /// The places in the plan of those that never happened.
    pub(super) fn unused(&self) -> Vec<usize> {
        let never = |(index, planned): (usize, &Planned)| (planned.state().happened == 0).then_some(index);
        self.0.iter().enumerate().filter_map(never).collect()
    }
}

impl Interceptor for Faults {
    fn name(&self) -> &'static str {
        "faults"
    }

    fn wants(&self, direction: Direction, message: &Message) -> bool {
        self.0.iter().any(|planned| planned.fits(direction, message))
    }

    fn intercept<'a>(&'a self, direction: Direction, message: &'a Message) -> BoxFuture<'a, Verdict> {
        let mut verdict = Verdict::default();
        for planned in &self.0 {
            if planned.fits(direction, message) && planned.happens() {
                verdict.add(&planned.fault.fault, direction, message);
            }
        }
        std::future::ready(verdict).boxed()
    }

    fn on_failure(&self) -> OnFailure {
        // A test must not pass because its faults did not happen.
        OnFailure::Closed
    }
}

impl Planned {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, direction: Direction, message: &Message) -> bool {
        let on = &self.fault.on;
        let is_its_way = match on.from {
            From::Client => direction == Direction::Up,
            From::Server => direction == Direction::Down && !matches!(message.kind(), Kind::Result | Kind::Error),
        };
        is_its_way
            && on.method.as_deref().is_none_or(|method| message.method() == Some(method))
            && on.tool.as_deref().is_none_or(|tool| tool_of(message).as_deref() == Some(tool))
    }

    /// Counts an occasion. Whether it is one.
    fn happens(&self) -> bool {
        let mut state = self.state();
        state.fitted += 1;
        let is_its_turn = self.fault.on.nth.is_none_or(|nth| nth == state.fitted);
        let happens = is_its_turn && self.fault.on.chance.is_none_or(|chance| state.chance() < chance);
        state.happened += u64::from(happens);
        happens
    }
}

impl State {
    /// A number in 0..1 (SplitMix64).
    fn chance(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // The 53 bits that such a number can hold.
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn tool_of(message: &Message) -> Option<String> {
    if message.known() != Some(Known::ToolsCall) {
        return None;
    }
    json_str(message.param("name")?)
}

impl Verdict {
    fn add(&mut self, fault: &Do, direction: Direction, message: &Message) {
        let is_request = message.kind() == Kind::Request;
        let ms = Duration::from_millis;
        match fault {
            Do::Delay { ms: time } => self.wait += ms(*time),
            Do::Late { ms: time } if is_request => self.answer().wait += ms(*time),
            Do::Hang => self.effect = Effect::Drop,
            Do::Error { code, message: text } => {
                if let Some(id) = message.id().filter(|_| is_request) {
                    let error = RpcError::new(*code, "fault", text.clone());
                    self.effect = Effect::Answer(error.to_json(Some(&id)).into());
                }
            }
            Do::Status { code, headers, body } => {
                let header = |(name, value): (&String, &String)| {
                    Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
                };
                let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let headers: HeaderMap = headers.iter().filter_map(header).collect();
                self.effect = Effect::Respond(status, Box::new(headers), Bytes::from(body.clone()));
            }
            Do::Duplicate => self.upon(direction).effect = Effect::Twice,
            Do::Print { text } => self.upon(direction).effect = Effect::Before(Bytes::from(text.clone())),
            Do::Cut {} => self.upon(direction).effect = Effect::Cut,
            Do::Late { .. } => {}
        }
    }

    fn answer(&mut self) -> &mut Verdict {
        self.answer.get_or_insert_with(Box::default)
    }

    /// What is to become of the answer to a message of the client; or of the message itself, where that is the server's.
    fn upon(&mut self, direction: Direction) -> &mut Verdict {
        match direction {
            Direction::Up => self.answer(),
            Direction::Down => self,
        }
    }
}
