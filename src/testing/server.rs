//! The fake server behind both transports: takes a message, runs the exchange, says what there is to say.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::faults::{Do, OnCancel, When, WrongId};
use super::incoming::{Incoming, Kind};
use super::peer::{Outlet, Peer, Say};
use super::plan::{Occasion, Plan};
use super::raw;
use super::script::{MODERN, Script, Served};
use super::state::{State, notification};

/// A fake server: one script, and the state all its clients share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) script: Script,
    pub(crate) plan: Plan,
    /// Cancelled when the server is about to end: subscriptions then end gracefully.
    pub(crate) closing: CancellationToken,
    state: Mutex<State>,
}

/// The language of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// A legacy revision.
    Legacy(&'static str),
    Modern,
}

impl Spoken {
    /// Whether it is at least this revision.
    pub(crate) fn since(self, revision: &str) -> bool {
        match self {
            Spoken::Legacy(spoken) => spoken >= revision,
            Spoken::Modern => true,
        }
    }
}

/// Why an exchange has no result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stop {
    /// It is answered with an error.
    Error(Failure),
    /// It is not answered.
    Silent,
    /// The process ends instead.
    Exit(u8),
}

/// A JSON-RPC error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Value>,
}

impl Failure {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), data: None }
    }

    pub(crate) fn with(self, data: Value) -> Failure {
        Failure { data: Some(data), ..self }
    }

    /// What an error says.
    pub(crate) fn of(error: &Value) -> Failure {
        let (code, message) =
            (error["code"].as_i64().unwrap_or_default(), error["message"].as_str().unwrap_or_default());
        Failure { code, message: message.into(), data: error.get("data").cloned() }
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Error(failure)
    }
}

impl Server {
    pub(crate) fn new(script: Script) -> Arc<Server> {
        let plan = Plan::new(&script.faults);
        Arc::new(Server { script, plan, closing: CancellationToken::new(), state: Mutex::default() })
    }

    /// The shared state; the lock is never held over an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The faults of a message that came without HTTP around it.
    pub(crate) fn faults(&self, message: &Incoming) -> Vec<Do> {
        self.plan.on(Occasion { message: Some(message), ..Occasion::default() })
    }

    /// Takes a message from a client. What has to happen in order (cancellation, answers) happens here; the rest when the exchange runs.
    pub(crate) fn receive(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        message: Incoming,
        faults: Vec<Do>,
        outlet: Outlet,
    ) -> Exchange {
        self.state().seen(&message);
        let cancelled = CancellationToken::new();
        match (&message.kind, &message.id) {
            (Kind::Request, Some(id)) if message.method != "initialize" => peer.state().opened(id, cancelled.clone()),
            (Kind::Notification, _) if message.method == "notifications/cancelled" => {
                if let Some(id) = raw::member(&message.params_text, "requestId") {
                    peer.state().cancel(id);
                }
            }
            (Kind::Answer(answer), Some(id)) => {
                let expected = peer.state().answered(id, answer.clone());
                self.state().stats.stray_answers += u64::from(!expected);
            }
            _ => {}
        }
        Exchange {
            server: Arc::clone(self),
            peer: Arc::clone(peer),
            message,
            faults,
            outlet,
            cancelled,
            exit_after: OnceLock::new(),
        }
    }

    /// The language a request is in, or what is wrong with it.
    pub(crate) fn spoken(&self, peer: &Peer, message: &Incoming) -> Result<Spoken, Failure> {
        let supported = || self.script.versions();
        match (self.script.era, message.claimed_version()) {
            (Served::Legacy, _) | (Served::Dual, None) => match peer.state().revision {
                Some(revision) => Ok(Spoken::Legacy(revision)),
                None if matches!(message.method.as_str(), "initialize" | "ping" | "server/discover") => {
                    Ok(Spoken::Legacy(self.script.negotiate("")))
                }
                None => Err(Failure::new(-32600, "Not initialized")),
            },
            (Served::Modern, None) if message.method == "initialize" => {
                let requested = &message.params["protocolVersion"];
                Err(Failure::new(-32022, "Unsupported protocol version")
                    .with(json!({ "supported": supported(), "requested": requested })))
            }
            (Served::Modern, None) => Err(Failure::new(-32602, "Missing request metadata")),
            (_, Some(version)) if version != MODERN => Err(Failure::new(-32022, "Unsupported protocol version")
                .with(json!({ "supported": supported(), "requested": version }))),
            (_, Some(_)) if !message.reserved("clientCapabilities").is_some_and(Value::is_object) => {
                Err(Failure::new(-32602, "Missing client capabilities"))
            }
            (_, Some(_)) => Ok(Spoken::Modern),
        }
    }
}

/// One message from a client, and all that answers it.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) server: Arc<Server>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) message: Incoming,
    pub(crate) outlet: Outlet,
    faults: Vec<Do>,
    cancelled: CancellationToken,
    /// The exit code, once the call itself wants the process to end after its answer.
    exit_after: OnceLock<u8>,
}

impl Exchange {
    /// The same for another message: what is said about it is said here.
    pub(crate) fn instead(&self, message: Incoming) -> Exchange {
        Exchange {
            server: Arc::clone(&self.server),
            peer: Arc::clone(&self.peer),
            message,
            outlet: self.outlet.clone(),
            faults: Vec::new(),
            cancelled: self.cancelled.clone(),
            exit_after: OnceLock::new(),
        }
    }

    /// The token that cancels it.
    pub(crate) fn canceller(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// The id as it was written; `null` for what has none.
    pub(crate) fn id(&self) -> &str {
        self.message.id.as_deref().unwrap_or("null")
    }

    /// Runs it to its end.
    pub(crate) async fn run(self) {
        let patience = self.faults.iter().find_map(|fault| if let Do::Cancel(how) = fault { Some(*how) } else { None });
        let outcome = tokio::select! {
            biased;
            () = self.cancelled.cancelled(), if patience != Some(OnCancel::Ignore) => {
                self.server.state().stats.cancelled += 1;
                match patience {
                    Some(_) => Ok(json!({ "content": [{ "type": "text", "text": "too late" }] }).to_string()),
                    None => Err(Stop::Silent),
                }
            }
            outcome = self.outcome() => outcome,
        };
        self.peer.state().closed(self.id());
        match outcome {
            Ok(result) => self.answer(Ok(result)).await,
            Err(Stop::Error(failure)) => self.answer(Err(failure)).await,
            Err(Stop::Silent) => {}
            Err(Stop::Exit(code)) => return self.outlet.say(Say::Exit(code)).await,
        }
        if let Some(code) = self.exit_after.get().copied().or_else(|| self.exits(When::After)) {
            self.outlet.say(Say::Exit(code)).await;
        }
    }

    /// What comes before the answer, and what the answer is.
    async fn outcome(&self) -> Result<String, Stop> {
        for fault in &self.faults {
            match fault {
                Do::Delay { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
                Do::Stderr { bytes, newlines } => {
                    self.outlet.say(Say::Stderr { bytes: *bytes, newlines: *newlines }).await;
                }
                Do::Flood { count, bytes } => self.flood(*count, *bytes).await,
                Do::Hang => std::future::pending().await,
                _ => {}
            }
        }
        if let Some(code) = self.exits(When::Before) {
            return Err(Stop::Exit(code));
        }
        match self.message.kind {
            Kind::Request => {
                let result = self.handle().await;
                for fault in &self.faults {
                    if let Do::Late { ms } = fault {
                        tokio::time::sleep(Duration::from_millis(*ms)).await;
                    }
                }
                result
            }
            Kind::Notification | Kind::Answer(_) => Err(Stop::Silent),
        }
    }

    /// Ends the process once the answer is out.
    pub(crate) fn exit_after(&self, code: u8) {
        self.exit_after.get_or_init(|| code);
    }

    fn exits(&self, moment: When) -> Option<u8> {
        self.faults.iter().find_map(|fault| match fault {
            Do::Exit { code, when } if *when == moment => Some(*code),
            _ => None,
        })
    }

    async fn flood(&self, count: u64, bytes: usize) {
        for n in 0..count {
            let params = json!({ "level": "debug", "logger": "flood", "data": format!("{n} {}", "x".repeat(bytes)) });
            self.outlet.say(Say::Message(notification("notifications/message", &params.to_string()))).await;
        }
    }

    async fn answer(&self, outcome: Result<String, Failure>) {
        let body = match outcome {
            Ok(result) if self.has(&Do::ResultAndError) => {
                let error = Failure::new(-32603, "both").to_json();
                format!(r#""result":{result},"error":{error}"#)
            }
            Ok(result) => format!(r#""result":{result}"#),
            Err(failure) if self.has(&Do::ResultAndError) => {
                format!(r#""result":{{}},"error":{}"#, failure.to_json())
            }
            Err(failure) => format!(r#""error":{}"#, failure.to_json()),
        };
        let text = format!(r#"{{"jsonrpc":"2.0",{}{body}}}"#, self.id_member());
        if self.has(&Do::Duplicate) {
            self.outlet.say(Say::Answer(text.clone())).await;
        }
        self.outlet.say(Say::Answer(text)).await;
        if self.has(&Do::LateProgress) {
            self.progress(1_000_000, None, "too late").await;
        }
        for fault in &self.faults {
            if let Do::Aside { text, times } = fault {
                for _ in 0..*times {
                    self.outlet.say(Say::Message(text.clone())).await;
                }
            }
        }
    }

    /// The `id` member of the answer with the comma after it, as the faults want it.
    fn id_member(&self) -> String {
        let wrong = self.faults.iter().find_map(|fault| if let Do::Id(wrong) = fault { Some(*wrong) } else { None });
        let id = self.id();
        let id = match wrong {
            None => id.to_owned(),
            Some(WrongId::Unknown) => r#""nobody's""#.to_owned(),
            Some(WrongId::Retyped) => match id.strip_prefix('"').and_then(|id| id.strip_suffix('"')) {
                Some(inner) if inner.parse::<i64>().is_ok() => inner.to_owned(),
                Some(_) => "0".to_owned(),
                None => format!("\"{id}\""),
            },
            Some(WrongId::Null) => "null".to_owned(),
            Some(WrongId::Missing) => return String::new(),
        };
        format!(r#""id":{id},"#)
    }

    fn has(&self, fault: &Do) -> bool {
        self.faults.contains(fault)
    }

    /// Reports progress, if the client gave a token for it.
    pub(crate) async fn progress(&self, progress: u64, total: Option<u64>, about: &str) {
        let Some(token) = self.message.progress_token() else {
            return;
        };
        let mut params = json!({ "progress": progress });
        if let Some(total) = total {
            params["total"] = total.into();
        }
        if self.server.spoken(&self.peer, &self.message).is_ok_and(|spoken| spoken.since("2025-03-26")) {
            params["message"] = about.into();
        }
        let params = raw::with(&params.to_string(), "progressToken", token);
        self.outlet.say(Say::Message(notification("notifications/progress", &params))).await;
    }
}
