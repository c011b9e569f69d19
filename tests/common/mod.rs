//! A proxy on a real port in front of real processes, and what tests need to talk to it and to wait.
#![allow(dead_code, reason = "each test file uses its part")]

mod processes;

pub(crate) use processes::*;

use std::fmt::Debug;
use std::io;
use std::panic::Location;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use shadowcat::server::Running;
use shadowcat::settings::{HttpTarget, HttpTransport, Settings, StdioTarget, Target, UpstreamSettings};
use shadowcat::testing::client::{self, Event, Headers, LegacySession, Modern, Response, SseSession};
use shadowcat::testing::{Discover, Script, Served};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// The program under test; also the fake servers that it fronts.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_shadowcat");

/// How long anything may take. Nothing waits for it to pass: it is what a hang is.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The newest revision with a handshake.
pub(crate) const LEGACY: &str = "2025-11-25";
/// The stateless revision.
pub(crate) const MODERN: &str = "2026-07-28";
/// Every revision with a handshake.
pub(crate) const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY];

// === Waiting ===

/// What is waited for with a deadline, and has to succeed.
pub(crate) trait InTime<T>: Future<Output = io::Result<T>> + Sized {
    /// The value.
    #[track_caller]
    fn ok(self) -> impl Future<Output = T> {
        let place = Location::caller();
        async move {
            match timeout(DEADLINE, self).await {
                Ok(Ok(value)) => value,
                Ok(Err(error)) => panic!("{place}: {error}"),
                Err(_) => panic!("{place}: nothing happened in {DEADLINE:?}"),
            }
        }
    }
}

impl<T, F: Future<Output = io::Result<T>>> InTime<T> for F {}

/// Waits for something that has no result.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing happened in {DEADLINE:?}"),
    }
}

/// Looks again and again until `look` finds what `wanted` wants.
pub(crate) async fn until<T: Debug>(what: &str, mut look: impl AsyncFnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen = look().await;
        if wanted(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not in {DEADLINE:?}; last seen: {seen:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

// === The proxy ===

/// A script of a server with a handshake only.
pub(crate) fn legacy() -> Script {
    Script { era: Served::Legacy, ..Script::default() }
}

/// A script of a stateless server only.
pub(crate) fn modern() -> Script {
    Script { era: Served::Modern, ..Script::default() }
}

/// A server with a handshake that does this when it is asked for its era.
pub(crate) fn surprised(discover: Discover) -> Script {
    Script { discover, ..legacy() }
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) running: Running,
    /// The Streamable HTTP endpoint.
    pub(crate) url: String,
    script: tempfile::NamedTempFile,
}

/// The command that plays a script: arguments of [`PROGRAM`].
pub(crate) fn fake(script: &Path) -> Vec<String> {
    ["fake", "stdio", "--script"].map(str::to_owned).into_iter().chain([script.display().to_string()]).collect()
}

/// A file with a script in it.
pub(crate) fn script_file(script: &Script) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&mut file, script).unwrap();
    file
}

/// A server over HTTP in a process of its own, with this plan, and the way to it. It ends when it is dropped.
#[expect(clippy::disallowed_methods, reason = "a server in a process of its own")]
pub(crate) async fn fake_sse(plan: &Path) -> (Child, UpstreamSettings) {
    let mut server = Command::new(PROGRAM)
        .args(["fake", "sse", "--listen", "127.0.0.1:0", "--plan"])
        .arg(plan)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(server.stderr.take().unwrap()).lines();
    let listening = said.next_line().ok().await.unwrap();
    let url = listening.split(' ').find(|word| word.starts_with("http://")).unwrap();
    let target = HttpTarget { url: url.parse().unwrap(), headers: vec![], transport: HttpTransport::Auto };
    (server, UpstreamSettings::new("fake", Target::Http(target)))
}

/// An upstream that is a command.
pub(crate) fn command(program: &str, args: Vec<String>) -> UpstreamSettings {
    let target = StdioTarget { program: program.into(), args, env: vec![], pass_env: vec![], cwd: None };
    UpstreamSettings::new("fake", Target::Stdio(target))
}

impl Proxy {
    /// In front of a fake server with this script.
    pub(crate) async fn start(script: Script) -> Proxy {
        Proxy::with(script, |_| {}).await
    }

    /// The same with other settings.
    pub(crate) async fn with(script: Script, change: impl FnOnce(&mut Settings)) -> Proxy {
        let file = script_file(&script);
        let mut settings = Settings::for_upstream(command(PROGRAM, fake(file.path())));
        settings.admin = Some(([127, 0, 0, 1], 0).into());
        change(&mut settings);
        let path = settings.path.clone();
        let running = within("start", Running::start(settings)).await.unwrap();
        let url = format!("http://{}{path}", running.address());
        Proxy { running, url, script: file }
    }

    /// From now on, processes that start play this script.
    pub(crate) fn play(&self, script: &Script) {
        let next = script_file(script).into_temp_path();
        next.persist(self.script.path()).unwrap();
    }

    /// Its servers' processes, by their script.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mine = self.script.path().display().to_string();
        let plays = |pid: &i32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|argument| argument == mine.as_bytes()))
        };
        children(std::process::id().try_into().unwrap()).into_iter().filter(plays).collect()
    }

    /// Another path of the same listener.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.address())
    }

    /// A legacy session of the newest revision, whose client can be asked anything.
    pub(crate) async fn session(&self) -> LegacySession {
        self.session_of(LEGACY).await
    }

    /// The same with another revision.
    pub(crate) async fn session_of(&self, revision: &str) -> LegacySession {
        LegacySession::open(&self.url, revision, everything()).ok().await
    }

    /// A session over HTTP+SSE.
    pub(crate) async fn sse(&self) -> SseSession {
        SseSession::open(&self.at("/sse"), "2024-11-05", everything()).ok().await
    }

    /// A client of each era that the server behind the proxy speaks.
    pub(crate) async fn client(&self, era: Era) -> Client {
        match era {
            Era::Legacy => Client::Legacy(self.session().await),
            Era::Modern => Client::Modern(self.url.clone()),
        }
    }

    /// The sum of a metric over all labels that contain each of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.running, name, labels).await
    }

    /// Waits until that sum is this.
    pub(crate) async fn until_metric(&self, name: &str, labels: &[&str], value: f64) {
        until(
            &format!("{name} {labels:?} is {value}"),
            async || self.metric(name, labels).await,
            |seen| *seen == value,
        )
        .await;
    }

    /// Stops it, and expects that nothing had to be forced and no child is left.
    pub(crate) async fn close(self) {
        let report = within("shutdown", self.running.shutdown()).await;
        assert!(report.is_clean(), "{report:?}");
    }
}

/// A page of the operator's listener.
pub(crate) async fn admin(proxy: &Running, path: &str) -> Response {
    let url = format!("http://{}{path}", proxy.admin_address().unwrap());
    client::send("GET", &url, Headers::default(), "").ok().await
}

/// The sum of a metric over all labels that contain each of `labels`.
pub(crate) async fn metric(proxy: &Running, name: &str, labels: &[&str]) -> f64 {
    let page = admin(proxy, "/metrics").await.text().ok().await;
    let lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The capabilities of a client that can be asked anything.
pub(crate) fn everything() -> Value {
    json!({ "elicitation": {}, "sampling": {}, "roots": {} })
}

/// `shadowcat serve` as a process.
pub(crate) struct Program {
    child: Child,
    pub(crate) url: String,
    _files: Vec<tempfile::NamedTempFile>,
}

impl Program {
    pub(crate) async fn start(script: Script, options: &[&str]) -> Program {
        Program::with(script, options, &[]).await
    }

    /// The same with variables in its environment.
    pub(crate) async fn with(script: Script, options: &[&str], env: &[(&str, &str)]) -> Program {
        #[expect(clippy::disallowed_methods, reason = "a test of processes")]
        Program::run(Command::new(PROGRAM), script, options, env).await
    }

    /// The same, started by a program with these arguments, which gets the command as further ones.
    pub(crate) async fn under(starter: &[&str], script: Script, options: &[&str]) -> Program {
        #[expect(clippy::disallowed_methods, reason = "a test of processes")]
        let mut command = Command::new(starter[0]);
        command.args(&starter[1..]).arg(PROGRAM);
        Program::run(command, script, options, &[]).await
    }

    /// In front of the server at this URL.
    pub(crate) async fn before(url: &str, options: &[&str]) -> Program {
        #[expect(clippy::disallowed_methods, reason = "a test of processes")]
        let mut command = Command::new(PROGRAM);
        serve(&mut command, options).args(["--upstream", url]);
        Program::listening(command, Vec::new()).await
    }

    async fn run(mut command: Command, script: Script, options: &[&str], env: &[(&str, &str)]) -> Program {
        let file = script_file(&script);
        serve(&mut command, options).arg("--").arg(PROGRAM).args(fake(file.path())).envs(env.iter().copied());
        Program::listening(command, vec![file]).await
    }

    async fn listening(mut command: Command, mut files: Vec<tempfile::NamedTempFile>) -> Program {
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = command.stdin(Stdio::null()).stderr(log.reopen().unwrap()).kill_on_drop(true).spawn().unwrap();
        let read = async || std::fs::read_to_string(log.path()).unwrap();
        let said = until("it says where it listens", read, |said| said.contains("http://")).await;
        let url = said[said.find("http://").unwrap()..].split_whitespace().next().unwrap().to_owned();
        files.push(log);
        Program { child, url, _files: files }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub(crate) async fn session(&self) -> Client {
        Client::Legacy(LegacySession::open(&self.url, LEGACY, everything()).ok().await)
    }

    pub(crate) async fn exit_code(mut self) -> Option<i32> {
        self.child.wait().ok().await.code()
    }
}

fn serve<'a>(command: &'a mut Command, options: &[&str]) -> &'a mut Command {
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "off"]).args(options)
}

// === Both eras ===

/// How a client and a server speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

impl Era {
    pub(crate) const BOTH: [Era; 2] = [Era::Legacy, Era::Modern];

    /// A server of this era.
    pub(crate) fn server(self) -> Script {
        match self {
            Era::Legacy => legacy(),
            Era::Modern => modern(),
        }
    }
}

/// A client of either era, for what does not depend on it.
pub(crate) enum Client {
    Legacy(LegacySession),
    Modern(String),
}

impl Client {
    /// Calls a tool.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.begin("7", None, tool, arguments).await.answer().ok().await
    }

    /// Calls a tool with this id and progress token, as they are to be written.
    pub(crate) async fn begin(&self, id: &str, token: Option<&str>, tool: &str, arguments: Value) -> Response {
        let token = token.map(|token| serde_json::from_str(token).unwrap());
        match self {
            Client::Legacy(session) => {
                let mut params = json!({ "name": tool, "arguments": arguments });
                if let Some(token) = token {
                    params["_meta"] = json!({ "progressToken": token });
                }
                session.send(&message(id, "tools/call", &params.to_string())).ok().await
            }
            Client::Modern(url) => {
                let call = Modern::call(tool, arguments).id(id);
                let call = match token {
                    Some(token) => call.progress_token(token),
                    None => call,
                };
                call.post(url).ok().await
            }
        }
    }

    /// What the server has seen so far.
    pub(crate) async fn stats(&self) -> Value {
        serde_json::from_str(text(&self.call("stats", json!({})).await)).unwrap()
    }

    /// Waits until the server has seen this.
    pub(crate) async fn until_stats(&self, pointer: &str, value: impl Into<Value>) -> Value {
        let value = value.into();
        let seen = |stats: &Value| stats.pointer(pointer).cloned().unwrap_or(json!(0));
        until(&format!("{pointer} is {value}"), async || self.stats().await, |stats| seen(stats) == value).await
    }

    /// What the process of the server says of itself.
    pub(crate) async fn process(&self) -> Value {
        serde_json::from_str(text(&self.call("pid", json!({})).await)).unwrap()
    }

    /// The process id of the server.
    pub(crate) async fn pid(&self) -> i32 {
        i32::try_from(self.process().await["pid"].as_i64().unwrap()).unwrap()
    }
}

// === Messages ===

/// A request; `id` and `params` as they are to be written.
pub(crate) fn message(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// A notification.
pub(crate) fn notification(method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

/// `notifications/cancelled`.
pub(crate) fn cancelled(id: Value) -> String {
    notification("notifications/cancelled", json!({ "requestId": id }))
}

/// `initialize`.
pub(crate) fn initialize(revision: &str) -> String {
    let info = json!({ "name": "test", "version": "0" });
    let params = json!({ "protocolVersion": revision, "capabilities": everything(), "clientInfo": info });
    message("0", "initialize", &params.to_string())
}

/// The text of a tool's result.
#[track_caller]
pub(crate) fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// The code of an error.
#[track_caller]
pub(crate) fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {answer}"))
}

/// Whether it is an error that the proxy made, and says so.
#[track_caller]
pub(crate) fn assert_ours(answer: &Value, expected: i64) {
    assert_eq!(code(answer), expected, "{answer}");
    assert_eq!(answer["error"]["data"]["origin"], "proxy", "{answer}");
}

/// The headers of a request with a JSON body.
pub(crate) fn json_headers() -> Vec<(&'static str, &'static str)> {
    vec![("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]
}

/// Sends a request as it is.
pub(crate) async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Response {
    client::send(method, url, headers.iter().copied().collect(), body).ok().await
}

/// The next event that has data.
pub(crate) async fn next(response: &mut Response) -> Option<Event> {
    loop {
        let event = response.event().ok().await?;
        if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
            return Some(event);
        }
    }
}

/// All events with data up to the end of the stream.
pub(crate) async fn rest(response: &mut Response) -> Vec<Event> {
    let all = async {
        let mut events = Vec::new();
        while let Some(event) = next(response).await {
            events.push(event);
        }
        events
    };
    within("the end of the stream", all).await
}

/// All messages of an answer: of a stream, or the one that is the body.
pub(crate) async fn messages(mut response: Response) -> Vec<Value> {
    if !response.is_sse() {
        return vec![response.json().ok().await];
    }
    rest(&mut response).await.iter().map(Event::json).collect()
}
