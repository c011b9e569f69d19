//! `shadowcat fake sse` as a program: how it ends, and what it records.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// A fake server that is a process.
struct Program {
    child: Child,
    url: String,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Program {
    #[expect(clippy::disallowed_methods, reason = "the process is what is tested")]
    fn start(script: &Script, options: &[&str]) -> Program {
        let plan = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&plan, script).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_shadowcat"))
            .args(["fake", "sse", "--listen", "127.0.0.1:0", "--plan"])
            .arg(plan.path())
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://"));
        Program { url: url.unwrap_or_else(|| panic!("{line}")).to_owned(), child, stderr }
    }

    async fn count(&self) -> std::io::Result<Response> {
        Modern::call("count", json!({})).post(&self.url).await
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code, and what it said after it was there.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_fails_if_a_fault_of_its_plan_never_happened() {
    let script = Script::default()
        .fault(On::tool("count").nth(1), Do::Late { ms: 1 })
        .fault(On::tool("count").nth(2), Do::Hang)
        .fault(On::method("tools/list"), Do::Gzip);
    for signal in [Signal::INT, Signal::TERM] {
        let program = Program::start(&script, &[]);
        assert_eq!(program.count().await.unwrap().status, 200);
        program.signal(signal);
        let (code, said) = program.ended();
        assert_eq!(code, Some(7), "{said}");
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(lines[0].contains(r#""nth":2"#) && lines[0].contains(r#""do":"hang""#), "{said}");
        assert!(lines[1].contains(r#""method":"tools/list""#), "{said}");
    }
}

#[tokio::test]
async fn it_ends_well_if_all_of_its_plan_happened() {
    let program = Program::start(&Script::default().fault(On::tool("count").nth(1), Do::Late { ms: 1 }), &[]);
    assert_eq!(program.count().await.unwrap().status, 200);
    program.signal(Signal::TERM);
    assert_eq!(program.ended(), (Some(0), String::new()));
}

/// What the transport cannot have is a fault of the plan, which is named.
#[test]
#[expect(clippy::disallowed_methods, reason = "the process is what is tested")]
fn it_names_the_plan_that_cannot_be() {
    let plan = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&plan, &Script::default().fault(On::tool("echo"), Do::StopReading)).unwrap();
    let fake = ["fake", "sse", "--listen", "127.0.0.1:0", "--plan"];
    let ended = Command::new(env!("CARGO_BIN_EXE_shadowcat")).args(fake).arg(plan.path()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    let expected = format!("error: {}: faults[0]: `stop_reading` is not possible over HTTP\n", plan.path().display());
    assert_eq!((ended.status.code(), said), (Some(3), expected));
}

/// The code that the script gives, unless it ended too early for the rest of the script.
#[tokio::test]
async fn it_exits_with_the_code_it_was_told() {
    let exit = Script::default().fault(On::tool("count"), Do::Exit { code: 41, when: When::Before });
    for (script, code) in [(exit.clone(), 41), (exit.fault(On::tool("echo"), Do::Hang), 7)] {
        let program = Program::start(&script, &[]);
        program.count().await.unwrap_err();
        assert_eq!(program.ended().0, Some(code));
    }
}

#[tokio::test]
async fn it_records_what_it_is_asked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let program = Program::start(&Script::default(), &["--record", file.path().to_str().unwrap()]);
    let long = "\u{e9}".repeat(40_000);
    for request in [
        Modern::call("echo", json!({ "text": "x" })).header("X-Odd", Some("a b")),
        Modern::call("echo", json!({ "text": long })),
    ] {
        assert_eq!(request.post(&program.url).await.unwrap().status, 200);
    }
    send("GET", &format!("{}?a=b", program.url), [("X-Two", "1"), ("x-two", "2")].into_iter().collect(), "")
        .await
        .unwrap();
    // A request is recorded before it is answered, so all are there.
    let lines = std::fs::read_to_string(file.path()).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let [echo, long, get] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&echo["method"], &echo["path"], &echo["connection"]), (&json!("POST"), &json!("/mcp"), &json!(1)));
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["X-Odd", "a b"])), "{echo}");
    let body: Value = serde_json::from_str(echo["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["params"]["arguments"]["text"], "x");
    assert_eq!(echo["body_bytes"], echo["body"].as_str().unwrap().len());
    assert!(long["body_bytes"].as_u64().unwrap() > 80_000, "the length is that of all of it");
    assert!((65_535..=65_536).contains(&long["body"].as_str().unwrap().len()), "of a long body the beginning");
    assert_eq!((&get["method"], &get["path"], &get["body"]), (&json!("GET"), &json!("/mcp?a=b"), &json!("")));
    let two = get["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|header| header[0].as_str().is_some_and(|name| name.eq_ignore_ascii_case("x-two")));
    assert_eq!(two.collect::<Vec<_>>(), [&json!(["X-Two", "1"]), &json!(["x-two", "2"])]);
    assert!(lines.windows(2).all(|pair| pair[0]["ms"].as_u64() <= pair[1]["ms"].as_u64()));
    program.signal(Signal::TERM);
    assert_eq!(program.ended().0, Some(0));
}
