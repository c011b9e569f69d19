//! What clients do: a visit is a session, or a few modern requests, made of things that chance picks.

use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::settings::Isolation;
use shadowcat::testing::client::{LegacySession, Modern, Response};

use crate::chance::Chance;
use crate::common::*;
use crate::leak::Leak;
use crate::tally::Tally;
use crate::world::{Place, World, principal, said};

const HELLO: &str = "shadowcat://demo/hello.txt";

/// One who comes again and again.
pub(crate) struct Visitor<'a> {
    pub(crate) world: &'a World,
    pub(crate) tally: &'a Tally,
    pub(crate) chance: Chance,
    pub(crate) who: u64,
    pub(crate) serial: u64,
}

/// How a request is sent.
enum Way<'a> {
    Session(&'a LegacySession),
    Modern(&'a Place, Option<String>),
}

impl Way<'_> {
    async fn call(&self, id: u64, token: Option<u64>, tool: &str, arguments: Value) -> Response {
        match self {
            Way::Session(session) => {
                let mut params = json!({ "name": tool, "arguments": arguments });
                if let Some(token) = token {
                    params["_meta"] = json!({ "progressToken": token });
                }
                session.send(&message(&id.to_string(), "tools/call", &params.to_string())).ok().await
            }
            Way::Modern(place, name) => {
                let call = Modern::call(tool, arguments).id(&id.to_string()).header("Authorization", name.as_deref());
                let call = match token {
                    Some(token) => call.progress_token(token.into()),
                    None => call,
                };
                call.post(&place.url).ok().await
            }
        }
    }

    async fn list(&self, id: u64, method: &str) -> Response {
        match self {
            Way::Session(session) => session.send(&message(&id.to_string(), method, "{}")).ok().await,
            Way::Modern(place, name) => {
                let list = Modern::new(method).id(&id.to_string()).header("Authorization", name.as_deref());
                list.post(&place.url).ok().await
            }
        }
    }
}

impl Visitor<'_> {
    /// Comes, does some things, and goes in one of the ways there are.
    pub(crate) async fn visit(&mut self) {
        let world = self.world;
        let place = self.chance.pick(&world.places);
        // Without a name where that is possible, now and then.
        let must = place.isolation == Isolation::Principal;
        let name = (must || (place.named && !self.chance.one_in(4))).then(|| principal(self.chance.below(3)));
        match place.era {
            // The server knows of no sessions, and the proxy does.
            Era::Modern if self.chance.one_in(3) => self.session(place, name).await,
            Era::Modern => {
                let way = Way::Modern(place, name);
                for _ in 0..=self.chance.below(6) {
                    self.act(place, &way).await;
                }
            }
            Era::Legacy => self.session(place, name).await,
        }
    }

    async fn session(&mut self, place: &Place, name: Option<String>) {
        let headers: Vec<_> = name.as_deref().map(|name| ("Authorization", name)).into_iter().collect();
        let revision = if self.chance.one_in(5) { "2025-06-18" } else { LEGACY };
        let can = if self.chance.one_in(8) { everything() } else { json!({ "elicitation": {} }) };
        let opening = LegacySession::open_with(&place.url, revision, can, &headers);
        let opened = if self.chance.one_in(12) {
            self.tally.count("left   before the session was open");
            tokio::select! {
                opened = opening => opened,
                () = self.chance.pause(15) => return,
            }
        } else {
            tokio::time::timeout(DEADLINE, opening).await.expect("a session opens, or does not, in time")
        };
        self.tally.asks();
        let session = match opened {
            Ok(session) => session,
            Err(error) => {
                let answer: Value =
                    serde_json::from_str(&error.to_string()).unwrap_or_else(|_| panic!("opening: {error}"));
                let status = if answer["error"]["data"].get("retryable").is_some() { 200 } else { 503 };
                assert!(self.tally.is_error("initialize", status, &answer));
                return;
            }
        };
        self.tally.count("ok     initialize");
        let standing = if self.chance.one_in(3) { Some(session.stream(None).ok().await) } else { None };
        let way = Way::Session(&session);
        for _ in 0..=self.chance.below(7) {
            self.act(place, &way).await;
        }
        if self.tally.leak() == Some(Leak::Streams) {
            std::mem::forget(session.stream(None).ok().await);
            return;
        }
        drop(standing);
        if self.chance.one_in(4) {
            self.tally.count("left   without a word");
        } else {
            assert_eq!(session.delete().ok().await.status, 204, "a session lasts as long as its client wants");
        }
    }

    async fn act(&mut self, place: &Place, way: &Way<'_>) {
        match self.chance.below(13) {
            0..=3 => self.echo(way).await,
            4 | 5 => self.progress(way).await,
            6 => self.lists(way).await,
            7 => self.several(way).await,
            8 => self.takes_back(way).await,
            9 => self.goes_away(way).await,
            10 => self.reads_slowly(way).await,
            11 => self.is_asked(place, way).await,
            _ => self.leaves_traces(place, way).await,
        }
    }

    fn id(&mut self) -> u64 {
        self.tally.asks();
        self.serial += 1;
        self.serial
    }

    async fn echo(&mut self, way: &Way<'_>) {
        let id = self.id();
        let words = format!("visitor {} said {id}", self.who);
        let response = way.call(id, None, "echo", json!({ "text": words })).await;
        let right = |_: &[Value], answer: &Value| said(answer) == Some(&words);
        self.tally.one_answer("echo", response, &id.into(), right).await;
    }

    async fn progress(&mut self, way: &Way<'_>) {
        let (id, steps, delay) = (self.id(), 1 + self.chance.below(8), self.chance.below(5));
        // Everybody has the same tokens.
        let token = self.chance.below(3);
        let response = way.call(id, Some(token), "progress", json!({ "steps": steps, "delay_ms": delay })).await;
        let right = |before: &[Value], answer: &Value| {
            let in_order = before.iter().zip(1_u64..).all(|(message, step)| {
                let params = &message["params"];
                message["method"] == "notifications/progress"
                    && (&params["progressToken"], &params["progress"], &params["total"])
                        == (&json!(token), &json!(step), &json!(steps))
            });
            in_order && before.len() as u64 == steps && said(answer) == Some(&format!("did {steps} steps"))
        };
        self.tally.one_answer("progress", response, &id.into(), right).await;
    }

    async fn lists(&mut self, way: &Way<'_>) {
        let id = self.id();
        let kind = *self.chance.pick(&["tools", "prompts", "resources"]);
        let response = way.list(id, &format!("{kind}/list")).await;
        let right = |_: &[Value], answer: &Value| answer["result"][kind].as_array().is_some_and(|all| !all.is_empty());
        self.tally.one_answer("list", response, &id.into(), right).await;
    }

    async fn several(&mut self, way: &Way<'_>) {
        let ids: Vec<u64> = (0..2 + self.chance.below(3)).map(|_| self.id()).collect();
        let (tally, who) = (self.tally, self.who);
        let calls = ids.into_iter().map(async |id| {
            let words = format!("visitor {who} said {id} at once");
            let response = way.call(id, None, "echo", json!({ "text": words })).await;
            tally.one_answer("several", response, &id.into(), |_, answer| said(answer) == Some(&words)).await
        });
        futures_util::future::join_all(calls).await;
    }

    /// Cancels: with the protocol's word in a session, by closing the stream without one.
    async fn takes_back(&mut self, way: &Way<'_>) {
        let id = self.id();
        let sleeping = way.call(id, None, "sleep", json!({ "ms": 200 + self.chance.below(300) }));
        match way {
            Way::Session(session) => {
                let (response, ()) = tokio::join!(sleeping, async {
                    self.chance.pause(40).await;
                    assert_eq!(session.send(&cancelled(id.into())).ok().await.status, 202);
                });
                self.tally.at_most_one_answer("cancelled", response, &id.into()).await;
            }
            Way::Modern(..) => {
                tokio::select! {
                    response = sleeping => self.tally.at_most_one_answer("cancelled", response, &id.into()).await,
                    () = self.chance.pause(40) => self.tally.count("none   cancelled"),
                }
            }
        }
    }

    async fn goes_away(&mut self, way: &Way<'_>) {
        let id = self.id();
        let calling = async {
            let mut response = way.call(id, Some(id), "progress", json!({ "steps": 20, "delay_ms": 2 })).await;
            let _ = response.event().await;
            response
        };
        tokio::select! {
            response = calling => drop(response),
            () = self.chance.pause(20) => {}
        }
        self.tally.count("left   in the middle of a call");
    }

    async fn reads_slowly(&mut self, way: &Way<'_>) {
        let (id, bytes) = (self.id(), 1 + self.chance.below(400_000));
        let response = way.call(id, None, "payload", json!({ "bytes": bytes })).await;
        self.chance.pause(80).await;
        let right = |_: &[Value], answer: &Value| {
            said(answer).is_some_and(|text| {
                text.len() as u64 == bytes && text.bytes().zip((b'a'..=b'z').cycle()).all(|(is, should)| is == should)
            })
        };
        self.tally.one_answer("large and slow", response, &id.into(), right).await;
    }

    /// Is asked something by the server, where that is possible, and answers.
    async fn is_asked(&mut self, place: &Place, way: &Way<'_>) {
        let (Way::Session(session), Isolation::Session | Isolation::Request) = (way, place.isolation) else {
            return self.listens(way).await;
        };
        let (id, words) = (self.id(), format!("answer of {} to {}", self.who, self.serial));
        let mut response = way.call(id, None, "ask", json!({ "message": words })).await;
        if !response.is_sse() {
            self.tally.one_answer("asked", response, &id.into(), |_, _| false).await;
            return;
        }
        let status = response.status;
        let first = response.message().ok().await.expect("a question, or an answer");
        if first.get("method").is_none() {
            assert!(self.tally.is_error("asked", status, &first));
            return;
        }
        assert_eq!(first["params"]["message"], words, "somebody else's question");
        let content = json!({ "action": "accept", "content": { "answer": words } });
        // Its server may have died: then the answer has nowhere to go.
        let _ = session.respond(&first["id"], &content).ok().await;
        let right = |_: &[Value], answer: &Value| said(answer).is_some_and(|said| said.contains(&words));
        self.tally.one_answer("asked", response, &id.into(), right).await;
    }

    /// Listens for a while, and goes.
    async fn listens(&mut self, way: &Way<'_>) {
        self.tally.count("left   a stream");
        match way {
            Way::Session(session) => {
                let stream = session.stream(None).ok().await;
                self.chance.pause(20).await;
                drop(stream);
            }
            Way::Modern(place, name) => {
                let listen = Modern::new("subscriptions/listen").header("Authorization", name.as_deref());
                let listen = listen.param("notifications", json!({ "toolsListChanged": true }));
                tokio::select! {
                    response = listen.post(&place.url) => drop(response),
                    () = tokio::time::sleep(Duration::from_millis(30)) => {}
                }
            }
        }
    }

    /// Sets what the server keeps for the session; where that is refused, it has to be refused.
    async fn leaves_traces(&mut self, place: &Place, way: &Way<'_>) {
        let Way::Session(session) = way else { return self.echo(way).await };
        let rows = [
            ("logging/setLevel", json!({ "level": "error" })),
            ("resources/subscribe", json!({ "uri": HELLO })),
            ("resources/unsubscribe", json!({ "uri": HELLO })),
        ];
        let (method, params) = self.chance.pick(&rows).clone();
        let refused = match place.isolation {
            // A server that knows of no sessions keeps nothing.
            _ if place.era == Era::Modern && method == "logging/setLevel" => false,
            Isolation::Session => false,
            Isolation::Request => true,
            Isolation::Shared | Isolation::Principal => method == "logging/setLevel",
        };
        let id = self.id();
        let response = session.send(&message(&id.to_string(), method, &params.to_string())).ok().await;
        if refused {
            let answer = response.answer().ok().await;
            assert_eq!(answer["error"]["data"]["reason"], "isolation", "{method}: {answer}");
            self.tally.count("ok     refused");
        } else {
            self.tally.one_answer("set", response, &id.into(), |_, answer| answer["result"] == json!({})).await;
        }
    }
}
