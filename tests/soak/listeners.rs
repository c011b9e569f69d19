//! Clients that use streams: they call, listen and subscribe, some lose their own connection all the time, and all of them keep
//! account of what they hear.

use futures_util::future::join_all;
use serde_json::{Value, json};
use shadowcat::testing::MockSse;
use shadowcat::testing::client::{Event, LegacySession, Modern, Response, post};
use tokio::time::Instant;

use crate::accounts::{Accounts, NAMES, Sequence};
use crate::broken::Broken;
use crate::chance::Chance;
use crate::common::*;
use crate::leak::Leak;

const TAG: &str = "io.modelcontextprotocol/subscriptionId";

/// One who listens.
pub(crate) struct Listener<'a> {
    pub(crate) world: &'a Broken,
    pub(crate) accounts: &'a Accounts,
    pub(crate) chance: Chance,
    pub(crate) who: String,
    pub(crate) until: Instant,
}

impl Listener<'_> {
    fn time_is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Calls of a server with sessions, one after the other. `moves`: goes to another connection in the middle of the answers.
    pub(crate) async fn calls(mut self, server: &'static str, moves: bool) {
        let Some(session) = self.session(server).await else { return };
        for serial in 0.. {
            if self.time_is_over() {
                break;
            }
            let several: Vec<_> = (0..1 + self.chance.below(3))
                .map(|n| (serial * 3 + n, Chance::new(self.chance.below(u64::MAX), n)))
                .collect();
            let calls = several.into_iter().map(|(id, chance)| self.call(&session, server, id, moves, chance));
            join_all(calls).await;
            self.chance.pause(60).await;
        }
        self.leave(session).await;
    }

    /// What the server says by itself.
    pub(crate) async fn stands(mut self) {
        let Some(session) = self.session("streams").await else { return };
        let mut sequence = Sequence::new(&self.who);
        let hello = format!("soak://{}/hello", self.who);
        for uri in sequence.names().iter().chain([&hello]) {
            session.request("resources/subscribe", json!({ "uri": uri })).ok().await.answer().ok().await;
        }
        let mut stream = session.stream(None).ok().await;
        // Before the first event the server's stream cannot be resumed: what it says then may be lost.
        let mut cursor = None;
        while cursor.is_none() {
            self.world.streams.touch(&hello);
            let event = stream.event().ok().await.expect("the client's stream does not end");
            cursor = updated(&event).and(event.id);
        }
        while !self.time_is_over() {
            self.says(&self.world.streams, &mut sequence).await;
            let deadline = Instant::now() + DEADLINE;
            while !sequence.is_whole() {
                assert!(Instant::now() < deadline, "{}: never came: {}", self.who, sequence.next());
                let event = stream.event().ok().await.expect("the client's stream does not end");
                if let Some(name) = updated(&event).filter(|name| *name != hello) {
                    sequence.enter(&name);
                    self.accounts.count("right  an event of a standing stream");
                }
                cursor = event.id.or(cursor);
                if self.chance.one_in(40) {
                    drop(stream);
                    stream = session.stream(cursor.as_deref()).ok().await;
                    assert_eq!(stream.status, 200, "{}", self.who);
                    self.accounts.count("moved  a standing stream");
                }
            }
            self.chance.pause(200).await;
        }
        drop(stream);
        self.leave(session).await;
    }

    /// Subscriptions to a server without sessions. They cannot be resumed; who listens is told.
    pub(crate) async fn subscribes(mut self) {
        let url = self.world.url("modern");
        let mut sequence = Sequence::new(&self.who);
        for serial in 0.. {
            if self.time_is_over() {
                return;
            }
            let wanted = json!({
                "resourceSubscriptions": sequence.names(),
                "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true,
            });
            let tag = format!("{}-{serial}", self.who);
            let listen = Modern::new("subscriptions/listen").id(&json!(tag).to_string()).param("notifications", wanted);
            let response = listen.post(&url).ok().await;
            if response.is_sse() {
                sequence.begins_again();
                self.subscribed(response, &tag, &mut sequence).await;
            } else {
                let answer = response.answer().ok().await;
                assert!(self.accounts.is_error("a subscription", &answer), "{}: {answer}", self.who);
            }
            self.chance.pause(100).await;
        }
    }

    async fn subscribed(&mut self, mut stream: Response, tag: &str, sequence: &mut Sequence) {
        let mut acknowledged = false;
        while !self.time_is_over() {
            self.says(&self.world.modern, sequence).await;
            let deadline = Instant::now() + DEADLINE;
            while !sequence.is_whole() {
                assert!(Instant::now() < deadline, "{}: was not told that {} is lost", self.who, sequence.next());
                let Some(event) = stream.event().ok().await else { return };
                let Some(message) = event.data.is_some().then(|| event.json()) else { continue };
                if message.get("method").is_none() {
                    assert_eq!(message["id"], *tag, "{message}");
                    assert!(self.accounts.is_error("a subscription", &message), "{}: {message}", self.who);
                    assert_eq!(stream.message().ok().await, None, "it is over");
                    return;
                }
                assert_eq!(message["params"]["_meta"][TAG], *tag, "{}: {message}", self.who);
                let method = message["method"].as_str().and_then(|method| method.strip_prefix("notifications/"));
                match method.unwrap_or_default() {
                    "subscriptions/acknowledged" => {
                        assert!(!std::mem::replace(&mut acknowledged, true), "{}: again {message}", self.who);
                    }
                    "resources/updated" => {
                        sequence.enter(message["params"]["uri"].as_str().unwrap());
                        self.accounts.count("right  an event of a subscription");
                    }
                    // What its server said while it could not be heard is lost, and this is how the client learns of that.
                    other => {
                        let list = other.strip_suffix("/list_changed");
                        sequence.told(list.unwrap_or_else(|| panic!("{}: {message}", self.who)));
                        self.accounts.count("told   a subscription: list_changed");
                    }
                }
                assert!(acknowledged, "{}: nothing comes before that: {message}", self.who);
            }
            self.chance.pause(100).await;
        }
    }

    /// Lets the server say a few things to this client.
    async fn says(&mut self, server: &MockSse, sequence: &mut Sequence) {
        for _ in 0..1 + self.chance.below(NAMES / 2 - 1) {
            // There may be nobody to say it to: then it was not said.
            if server.touch(&sequence.next()) > 0 {
                sequence.said();
            }
        }
    }

    async fn session(&mut self, server: &'static str) -> Option<LegacySession> {
        let url = self.world.url(server);
        while !self.time_is_over() {
            match LegacySession::open(&url, LEGACY, everything()).await {
                Ok(session) => return Some(session),
                Err(error) => {
                    let answer: Value = serde_json::from_str(&error.to_string()).unwrap_or_else(|_| panic!("{error}"));
                    assert!(self.accounts.is_error("a handshake", &answer));
                    assert_eq!(server, "old", "no other server fails when it is greeted: {answer}");
                }
            }
            self.chance.pause(100).await;
        }
        None
    }

    async fn leave(&self, session: LegacySession) {
        if self.accounts.leak() == Some(Leak::Streams) {
            return std::mem::forget(session.stream(None).ok().await);
        }
        assert_eq!(
            session.delete().ok().await.status,
            204,
            "{}: a session lasts as long as its client wants",
            self.who
        );
    }

    /// One call. Clients use the same ids; the mark says whose it is.
    async fn call(&self, session: &LegacySession, server: &'static str, id: u64, moves: bool, mut chance: Chance) {
        let mark = format!("{}-{id}", self.who);
        let steps = 1 + chance.below(30);
        let takes_it_back = chance.one_in(15).then(|| 1 + chance.below(6));
        let arguments = json!({ "steps": steps, "delay_ms": chance.below(4), "mark": mark });
        let params = json!({ "name": "progress", "arguments": arguments, "_meta": { "progressToken": mark } });
        let call = message(&id.to_string(), "tools/call", &params.to_string());
        let mut account = self.accounts.call(server, id, mark, steps);
        if self.accounts.leak() == Some(Leak::Twice) {
            // It may meet with a fault, like any other.
            let _ = post(&self.world.streams.url(), &call, &[]).await;
        }
        let mut response = session.send(&call).ok().await;
        if !response.is_sse() {
            account.enter(response.json().ok().await);
            return account.close();
        }
        let mut cursor = None;
        while let Some(event) = response.event().ok().await {
            if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
                for message in self.accounts.hear(&self.who, event.json()) {
                    account.enter(message);
                }
                if takes_it_back == Some(account.heard()) && !account.is_answered() {
                    account.take_back();
                    assert_eq!(session.send(&cancelled(id.into())).ok().await.status, 202);
                }
            }
            cursor = event.id.or(cursor);
            if moves && takes_it_back.is_none() && !account.is_answered() && cursor.is_some() && chance.one_in(8) {
                drop(response);
                response = session.stream(cursor.as_deref()).ok().await;
                assert_eq!(response.status, 200, "{}", self.who);
                self.accounts.count("moved  an answer");
            }
        }
        account.close();
    }
}

/// The resource that an event says has changed.
fn updated(event: &Event) -> Option<String> {
    let message = event.json();
    (message["method"] == "notifications/resources/updated").then_some(())?;
    message["params"]["uri"].as_str().map(str::to_owned)
}
