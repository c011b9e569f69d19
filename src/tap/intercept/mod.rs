//! Those who interfere: what they are asked, and what they may say.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::time::{Duration, timeout};

use crate::protocol::message::Message;
use crate::tape::format::Intervention;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// What becomes of a message whose interceptor failed, or took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// It passes.
    Open,
    /// It is refused, or on its way to the client left out.
    Closed,
}

/// Somebody who may interfere with messages at the edge of the client.
pub(crate) trait Interceptor: Send + Sync + 'static {
    /// Its name on tapes.
    fn name(&self) -> &'static str;

    /// Whether it wants to be asked about this message. It is asked for each one: it has to be quick.
    fn wants(&self, direction: Direction, message: &Message) -> bool;

    /// What is to become of the message.
    fn intercept<'a>(&'a self, direction: Direction, message: &'a Message) -> BoxFuture<'a, Verdict>;

    /// How long that may take.
    fn limit(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// What happens if it does not say.
    fn on_failure(&self) -> OnFailure {
        OnFailure::Open
    }
}

/// What is to become of a message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    /// It waits for so long first.
    pub(crate) wait: Duration,
    pub(crate) effect: Effect,
    /// What is to become of the answer to it, if it is a request.
    pub(crate) answer: Option<Box<Verdict>>,
}

/// What happens to a message once it has waited.
#[derive(Debug, Clone, Default)]
pub(crate) enum Effect {
    /// It passes.
    #[default]
    Pass,
    /// A request is answered with this text, and goes no further.
    Answer(Bytes),
    /// A request gets this response, and goes no further.
    Respond(StatusCode, Box<HeaderMap>, Bytes),
    /// Nothing comes of it: a request is never answered, a message to the client is left out.
    Drop,
    /// A message to the client comes twice.
    Twice,
    /// This comes before a message to the client, whatever it is.
    Before(Bytes),
    /// The connection is cut instead.
    Cut,
    /// A request is refused.
    Refuse,
}

impl Effect {
    /// A word for it on tapes.
    fn word(&self) -> Option<&'static str> {
        match self {
            Effect::Pass => None,
            Effect::Answer(_) => Some("answered"),
            Effect::Respond(..) => Some("responded"),
            Effect::Drop => Some("dropped"),
            Effect::Twice => Some("doubled"),
            Effect::Before(_) => Some("preceded"),
            Effect::Cut => Some("cut"),
            Effect::Refuse => Some("refused"),
        }
    }
}

/// What all of them together say, and who did what.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) wait: Duration,
    pub(crate) effect: Effect,
    pub(crate) by: Vec<Intervention>,
    /// What is to become of the answer to it, and who said so.
    pub(crate) answer: Option<Planned>,
}

/// What an interceptor said of an answer that has not come yet.
#[derive(Debug)]
pub(crate) struct Planned {
    name: &'static str,
    verdict: Box<Verdict>,
}

impl From<Planned> for Decision {
    fn from(planned: Planned) -> Decision {
        let mut decision = Decision::default();
        decision.add(planned.name, *planned.verdict);
        decision
    }
}

/// All interceptors, in order.
#[derive(Default)]
pub(crate) struct Chain(Vec<Arc<dyn Interceptor>>);

impl Chain {
    pub(super) fn new(interceptors: Vec<Arc<dyn Interceptor>>) -> Chain {
        Chain(interceptors)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks those who want to be asked; `None` if there is none. After the first who does not let it pass, nobody is asked.
    pub(crate) fn on<'a>(
        &'a self,
        direction: Direction,
        message: &'a Message,
    ) -> Option<impl Future<Output = Decision> + Send + 'a> {
        let first = self.0.iter().position(|interceptor| interceptor.wants(direction, message))?;
        Some(self.ask(first, direction, message))
    }

    /// What becomes of a batch. It is not taken apart: if somebody wants to be asked about one of its messages it is refused as a whole.
    /// What was planned would not happen otherwise, and nobody would know.
    pub(crate) fn on_batch<'m>(&self, messages: impl Iterator<Item = &'m Message>) -> Decision {
        let mut decision = Decision::default();
        for message in messages {
            if let Some(one) = self.0.iter().find(|one| one.wants(Direction::Up, message)) {
                decision.add(one.name(), Verdict { effect: Effect::Refuse, ..Verdict::default() });
                break;
            }
        }
        decision
    }

    async fn ask(&self, first: usize, direction: Direction, message: &Message) -> Decision {
        let mut decision = Decision::default();
        for interceptor in &self.0[first..] {
            if !interceptor.wants(direction, message) {
                continue;
            }
            let asked = AssertUnwindSafe(interceptor.intercept(direction, message)).catch_unwind();
            let verdict = match timeout(interceptor.limit(), asked).await {
                Ok(Ok(verdict)) => verdict,
                failed => {
                    let did = if failed.is_err() { "late" } else { "failed" };
                    tracing::warn!(interceptor = interceptor.name(), did, "Interceptor did not say what to do");
                    let name = interceptor.name().to_owned();
                    decision.by.push(Intervention { name, did: did.to_owned(), ..Intervention::default() });
                    let effect = match (interceptor.on_failure(), direction) {
                        (OnFailure::Open, _) => Effect::Pass,
                        (OnFailure::Closed, Direction::Up) => Effect::Refuse,
                        (OnFailure::Closed, Direction::Down) => Effect::Drop,
                    };
                    Verdict { effect, ..Verdict::default() }
                }
            };
            decision.add(interceptor.name(), verdict);
            if !matches!(decision.effect, Effect::Pass) {
                break;
            }
        }
        decision
    }
}

impl Decision {
    fn add(&mut self, name: &'static str, verdict: Verdict) {
        let mut did = |did: &str, wait: Option<Duration>| {
            let ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            self.by.push(Intervention { name: name.to_owned(), did: did.to_owned(), ms, ..Intervention::default() });
        };
        if !verdict.wait.is_zero() {
            did("delayed", Some(verdict.wait));
        }
        if let Some(word) = verdict.effect.word() {
            did(word, None);
        }
        self.wait += verdict.wait;
        self.effect = verdict.effect;
        if let Some(verdict) = verdict.answer {
            self.answer = Some(Planned { name, verdict });
        }
    }
}

#[cfg(test)]
mod tests;
