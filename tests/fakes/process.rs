//! The fake server as a process of its own: what only real pipes, signals and exit codes can show.
//!
//! The process is this very test program, told by a variable to be the fake server; the lines the test harness writes
//! before it are the banner that any client of a stdio server has to live with.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::testing::{Do, On, Script, When, run_stdio};

const VARIABLE: &str = "FAKE_SERVER_SCRIPT";

/// Not a test: the server, when the variable says so.
#[test]
fn fake_server_process() {
    let Ok(script) = std::env::var(VARIABLE) else {
        return;
    };
    let script = Script::from_json(&script).unwrap();
    let code = tokio::runtime::Runtime::new().unwrap().block_on(run_stdio(script));
    std::process::exit(if code == std::process::ExitCode::SUCCESS { 0 } else { 99 });
}

struct Fake {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Fake {
    #[expect(clippy::disallowed_methods, reason = "the process is what is tested")]
    fn start(script: &Script) -> Fake {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::fake_server_process", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, serde_json::to_string(script).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Fake { input: child.stdin.take(), output: BufReader::new(child.stdout.take().unwrap()), child }
    }

    fn initialized(script: &Script) -> Fake {
        let mut fake = Fake::start(script);
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "0" } });
        fake.send(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }));
        assert_eq!(fake.next()["result"]["protocolVersion"], "2025-11-25");
        fake
    }

    fn send(&mut self, message: &Value) {
        let _ = writeln!(self.input.as_ref().unwrap(), "{message}");
    }

    fn call(&mut self, tool: &str, arguments: Value) {
        let params = json!({ "name": tool, "arguments": arguments });
        self.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }));
    }

    /// The next message, whatever noise comes before it; `Null` at the end of the output.
    fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return Value::Null;
            }
            // The harness does not end the line in which it names the test.
            if let Some(message) = line.find('{').and_then(|at| serde_json::from_str(&line[at..]).ok()) {
                return message;
            }
        }
    }

    /// How it ended, if it does so before long.
    fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = tokio::time::Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                None if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(5)),
                ended => return ended,
            }
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LONG: Duration = Duration::from_secs(20);
const BRIEF: Duration = Duration::from_millis(700);

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

#[test]
fn it_serves_and_ends_with_its_input() {
    let mut fake = Fake::initialized(&Script::default());
    fake.call("pid", json!({}));
    let report: Value = serde_json::from_str(text(&fake.next())).unwrap();
    assert_eq!(report["pid"], fake.child.id());
    #[cfg(unix)]
    assert_eq!(report["ppid"], std::process::id());
    fake.input = None;
    assert_eq!(fake.ended(LONG).and_then(|status| status.code()), Some(0));
}

#[test]
fn it_exits_with_the_code_it_was_told() {
    let mut fake = Fake::initialized(&Script::default());
    fake.call("exit", json!({ "code": 41, "when": "after" }));
    assert_eq!(text(&fake.next()), "goodbye");
    assert_eq!(fake.ended(LONG).and_then(|status| status.code()), Some(41), "though its stdin is open");
    let mut dead = Fake::start(&Script::default().fault(On::start(), Do::Exit { code: 42, when: When::Before }));
    assert_eq!(dead.ended(LONG).and_then(|status| status.code()), Some(42));
}

#[test]
fn a_flood_on_stderr_blocks_it_until_somebody_reads() {
    let flood = Do::Stderr { bytes: 3 << 20, newlines: false };
    let mut fake = Fake::initialized(&Script::default().fault(On::tool("echo"), flood));
    fake.call("echo", json!({ "text": "x" }));
    let mut noise = vec![0; 3 << 20];
    fake.child.stderr.as_mut().unwrap().read_exact(&mut noise).unwrap();
    assert!(noise.iter().all(|byte| *byte == b'e'));
    assert_eq!(text(&fake.next()), "x");
}

#[cfg(unix)]
#[test]
fn it_can_close_its_stdout_and_live_on() {
    let mut fake =
        Fake::initialized(&Script::default().fault(On::tool("echo"), Do::Cut { after: None, end: Default::default() }));
    fake.call("echo", json!({ "text": "x" }));
    assert_eq!(fake.next(), Value::Null);
    assert_eq!(fake.ended(BRIEF), None);
    fake.input = None;
    assert!(fake.ended(LONG).is_some(), "it still ends with its input");
}

#[cfg(unix)]
#[test]
fn it_can_ignore_everything_but_a_kill() {
    let stubborn = Script::default().fault(On::start(), Do::IgnoreEof).fault(On::start(), Do::IgnoreTerm);
    let mut fake = Fake::initialized(&stubborn);
    fake.input = None;
    let pid = rustix_pid(&fake);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(fake.ended(BRIEF), None);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(fake.ended(LONG).is_some());
    let mut mild = Fake::initialized(&Script::default());
    rustix::process::kill_process(rustix_pid(&mild), rustix::process::Signal::TERM).unwrap();
    assert!(mild.ended(LONG).is_some());
}

#[cfg(unix)]
fn rustix_pid(fake: &Fake) -> rustix::process::Pid {
    rustix::process::Pid::from_child(&fake.child)
}

#[cfg(unix)]
#[test]
fn a_grandchild_keeps_the_pipes_open() {
    let mut fake = Fake::initialized(&Script::default().fault(On::tool("echo"), Do::Grandchild { seconds: 2 }));
    fake.call("echo", json!({ "text": "x" }));
    assert_eq!(text(&fake.next()), "x");
    fake.input = None;
    assert!(fake.ended(LONG).is_some());
    let before = tokio::time::Instant::now();
    assert_eq!(fake.next(), Value::Null);
    assert!(before.elapsed() >= Duration::from_millis(500), "the output ends with the grandchild, not with the child");
}
