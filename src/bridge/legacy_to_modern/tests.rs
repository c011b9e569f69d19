//! Dialogues, to be read: what each side says and hears, one for each row of what a legacy client can say to a modern server;
//! and what holds for every dialogue.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Shape;
use super::call::{Call, Effect, Input, withdrawn};
use super::client::Client;
use super::welcome;
use crate::protocol::id::RequestId;
use crate::protocol::message::Message;

mod dialogues;
mod properties;

const PATIENCE: Duration = Duration::from_secs(600);

fn message(text: &str) -> Message {
    Message::parse(text.to_owned().into(), 64).unwrap_or_else(|error| panic!("{error:?}: {text}"))
}

fn initialize(revision: &str, capabilities: &str) -> Message {
    message(&format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{capabilities}}}}}"#
    ))
}

fn client(revision: &str, capabilities: &str) -> Arc<Client> {
    Arc::new(Client::of(&initialize(revision, capabilities)))
}

const EVERYTHING: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;

#[expect(clippy::disallowed_methods, reason = "some instant to begin with: there is no other way to have one")]
fn now() -> Instant {
    Instant::now()
}

/// A request under way, and what has been said so far.
struct Dialogue {
    call: Call,
    now: Instant,
    id: i64,
    /// Questions, by our numbers: their names for the client begin at 100.
    said: String,
}

impl Dialogue {
    /// A client says something; it is sent on.
    fn begin(client: &Arc<Client>, request: &str) -> Dialogue {
        Dialogue::shaped(client, request, Shape::Omit)
    }

    /// The same, where structured results are to have this shape.
    fn shaped(client: &Arc<Client>, request: &str, shape: Shape) -> Dialogue {
        let call = Call::begin(client, &message(request), true, None, PATIENCE).unwrap().shaped(shape);
        let now = now() + Duration::from_secs(3600);
        let mut dialogue = Dialogue { call, now, id: 0, said: String::new() };
        dialogue.line("> client  ", request);
        dialogue.send();
        dialogue
    }

    fn line(&mut self, who: &str, what: &str) {
        // The envelope is the same each time.
        let start = what.find(r#""io.modelcontextprotocol/protocolVersion""#);
        let end = start
            .and_then(|start| Some(start + what[start..].find(r#""io.modelcontextprotocol/clientCapabilities":"#)?));
        let text = match (start, end) {
            (Some(start), Some(end)) => {
                let rest = &what[end..];
                let depth = |(depth, at): (i32, Option<usize>), (index, byte): (usize, u8)| match byte {
                    _ if at.is_some() => (depth, at),
                    b'{' => (depth + 1, None),
                    b'}' if depth == 1 => (0, Some(index + 1)),
                    b'}' => (depth - 1, None),
                    _ => (depth, None),
                };
                let over = rest.bytes().enumerate().fold((0, None), depth).1.unwrap_or(0);
                format!("{}…{}", &what[..start], &rest[over..])
            }
            _ => what.to_owned(),
        };
        let _ = writeln!(self.said, "{who}{text}");
    }

    fn send(&mut self) {
        self.id += 1;
        let leg = self.call.leg().message(self.id);
        let text = String::from_utf8(leg.text().to_vec()).unwrap();
        message(&text);
        self.line("> upstream", &text);
    }

    fn input(&mut self, input: Input) -> &mut Dialogue {
        let mut effects = Vec::new();
        self.call.handle(input, self.now, &mut effects);
        for effect in effects {
            let text = |message: &Message| {
                let text = String::from_utf8(message.text().to_vec()).unwrap();
                super::tests::message(&text);
                text
            };
            match effect {
                Effect::Pass(message) | Effect::Finish(message) => self.line("< client  ", &text(&message)),
                Effect::Ask(number, question) => {
                    let name = 100 + i64::from(number);
                    let errand = format!("\"errand-{name}\"");
                    let question = question.edit().id(&name.to_string()).param("elicitationId", &errand).finish();
                    self.line("< client  ", &text(&question));
                }
                Effect::Withdraw(number) => self.line("< client  ", &text(&withdrawn(100 + i64::from(number)))),
                Effect::Again => self.send(),
                Effect::Violation(what) => self.line("! ", what),
                Effect::Listed(tools) => self.line("- told of: ", &format!("{tools:?}")),
                Effect::Lost(loss) => self.line("- lost: ", loss.as_str()),
                Effect::Drop(why) => self.line("- dropped: ", why),
            }
        }
        self
    }

    /// The server says something.
    fn upstream(&mut self, text: &str) -> &mut Dialogue {
        let text = text.replace("ID", &self.id.to_string());
        self.line("< upstream", &text);
        self.input(Input::Upstream(message(&text)))
    }

    /// The server answers with this result.
    fn result(&mut self, result: &str) -> &mut Dialogue {
        self.upstream(&format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{result}}}"#))
    }

    /// The client answers the question of this name.
    fn answer(&mut self, name: u32, what: &str) -> &mut Dialogue {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{name},{what}}}"#);
        self.line("> client  ", &text);
        self.input(Input::Answered(name - 100, message(&text)))
    }

    /// Time passes.
    fn wait(&mut self, time: Duration) -> &mut Dialogue {
        self.now += time;
        self.line("… ", &format!("{time:?}"));
        self.input(Input::Timer)
    }

    fn read(&self) -> &str {
        &self.said
    }
}
