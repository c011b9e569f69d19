//! Tapes written by hand, and the program that plays them.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio as Piped;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::common::{InTime as _, PROGRAM, until};

/// A tape that is being written: each frame is a millisecond after the one before.
pub(crate) struct Tape {
    text: String,
    seq: u64,
}

impl Tape {
    /// With one edge, that of the upstream.
    pub(crate) fn new() -> Tape {
        let header = json!({
            "shadowcat_tape": 1, "started": "2026-11-23T14:00:00.000Z", "by": "a test", "upstream": "demo",
            "edges": ["upstream"], "server": "stdio",
        });
        Tape { text: format!("{header}\n"), seq: 0 }
    }

    fn frame(mut self, from: &str, to: &str, message: &Value) -> Tape {
        self.seq += 1;
        let (seq, at) = (self.seq, self.seq * 1000);
        writeln!(
            self.text,
            r#"{{"seq":{seq},"at":{at},"from":"{from}","to":"{to}","kind":"message","connection":1,"message":{message}}}"#
        )
        .unwrap();
        self
    }

    /// Something is said to the server.
    pub(crate) fn up(self, message: Value) -> Tape {
        self.frame("proxy", "upstream", &message)
    }

    /// The server says something.
    pub(crate) fn down(self, message: Value) -> Tape {
        self.frame("upstream", "proxy", &message)
    }

    /// A request to the server.
    pub(crate) fn ask(self, id: u64, method: &str, params: Value) -> Tape {
        self.up(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
    }

    /// Its answer.
    pub(crate) fn answer(self, id: u64, result: Value) -> Tape {
        self.down(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
    }

    /// A notification of the server.
    pub(crate) fn tell(self, method: &str, params: Value) -> Tape {
        self.down(json!({ "jsonrpc": "2.0", "method": method, "params": params }))
    }

    /// The handshake of a server of before 2026-07-28.
    pub(crate) fn handshake(self) -> Tape {
        let client = json!({ "protocolVersion": "2025-11-25", "capabilities": { "elicitation": {} }, "clientInfo": { "name": "t", "version": "1" } });
        let server = json!({
            "protocolVersion": "2025-11-25", "serverInfo": { "name": "taped", "version": "1" },
            "capabilities": { "tools": {}, "logging": {}, "resources": { "subscribe": true } },
        });
        self.ask(1, "initialize", client)
            .answer(1, server)
            .up(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
    }

    /// No end: the recording broke off.
    pub(crate) fn cut(self) -> String {
        self.text
    }

    /// The end, in good order.
    pub(crate) fn end(mut self) -> String {
        let (seq, at) = (self.seq + 1, (self.seq + 1) * 1000);
        writeln!(self.text, r#"{{"seq":{seq},"at":{at},"kind":"end","reason":"session ended"}}"#).unwrap();
        self.text
    }
}

/// The result of a tool.
pub(crate) fn said(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn tool(name: &str) -> Value {
    json!({ "name": name, "description": name, "inputSchema": { "type": "object" } })
}

/// What a server with a handshake said.
pub(crate) fn legacy_tape() -> String {
    let progress = |n: u64| json!({ "progressToken": 4, "progress": n, "total": 2 });
    Tape::new()
        .handshake()
        .ask(2, "tools/list", json!({}))
        .answer(2, json!({ "tools": [tool("echo"), tool("progress")] }))
        .ask(3, "tools/call", json!({ "name": "echo", "arguments": { "text": "hi" } }))
        .answer(3, said("hi"))
        .ask(
            4,
            "tools/call",
            json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": 4 } }),
        )
        .tell("notifications/progress", progress(1))
        .tell("notifications/progress", progress(2))
        .answer(4, said("2 steps"))
        .end()
}

/// The envelope of a request of 2026-07-28.
pub(crate) fn envelope(mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    params
}

/// What a server without sessions said.
pub(crate) fn modern_tape() -> String {
    let mut result = said("hi");
    result["resultType"] = json!("complete");
    Tape::new()
        .ask(1, "tools/list", envelope(json!({})))
        .answer(1, json!({ "resultType": "complete", "tools": [tool("echo")], "ttlMs": 0, "cacheScope": "private" }))
        .ask(2, "tools/call", envelope(json!({ "name": "echo", "arguments": { "text": "hi" } })))
        .answer(2, result)
        .end()
}

/// `shadowcat replay --listen`.
pub(crate) struct Player {
    child: Child,
    pub(crate) url: String,
    log: tempfile::NamedTempFile,
    _tape: Option<tempfile::NamedTempFile>,
}

impl Player {
    pub(crate) async fn start(tape: &str, options: &[&str]) -> Player {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), tape).unwrap();
        let player = Player::at(file.path(), options).await;
        Player { _tape: Some(file), ..player }
    }

    /// The same of a file.
    pub(crate) async fn at(tape: &Path, options: &[&str]) -> Player {
        let log = tempfile::NamedTempFile::new().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test of processes")]
        let child = Command::new(PROGRAM)
            .arg("replay")
            .arg(tape)
            .args(["--listen", "127.0.0.1:0"])
            .args(options)
            .stdin(Piped::null())
            .stderr(log.reopen().unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let read = async || std::fs::read_to_string(log.path()).unwrap();
        let said = until("it says where it listens", read, |said| said.contains("http://")).await;
        let url = said[said.find("http://").unwrap()..].split_whitespace().next().unwrap().to_owned();
        Player { child, url, log, _tape: None }
    }

    /// Asks it to end: its exit code, and what it said but for where it listens.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        let code = self.child.wait().ok().await.code();
        let said = std::fs::read_to_string(self.log.path()).unwrap();
        let report = said.rsplit_once("\n}\n").map_or(said.as_str(), |(_, report)| report);
        (code, report.to_owned())
    }
}

/// The program with a client on its standard input and output.
pub(crate) struct Stdio {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: tempfile::NamedTempFile,
}

impl Stdio {
    pub(crate) fn start(args: &[&str]) -> Stdio {
        let log = tempfile::NamedTempFile::new().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test of processes")]
        let mut child = Command::new(PROGRAM)
            .args(args)
            .stdin(Piped::piped())
            .stdout(Piped::piped())
            .stderr(log.reopen().unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Stdio { child, input, output: BufReader::new(output).lines(), log }
    }

    pub(crate) async fn say(&mut self, message: &str) {
        self.input.write_all(format!("{message}\n").as_bytes()).ok().await;
    }

    pub(crate) async fn ask(&mut self, request: &str) -> Value {
        self.say(request).await;
        self.hear().await
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// The next line, whatever it is.
    pub(crate) async fn line(&mut self) -> String {
        self.output.next_line().ok().await.unwrap()
    }

    /// Closes its input: its exit code, and what it said on standard error.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        drop(self.input);
        let code = self.child.wait().ok().await.code();
        (code, std::fs::read_to_string(self.log.path()).unwrap())
    }
}
