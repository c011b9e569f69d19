//! `shadowcat tape` and `shadowcat verify` from outside: what is said of tapes, and of servers that are held against one.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "tapes/errors.rs"]
mod errors;
#[path = "tapes/looking.rs"]
mod looking;
#[path = "tapes/verifying.rs"]
mod verifying;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::PROGRAM;
use serde_json::{Value, json};
use shadowcat::tape::{Frame, Header, Kind, Party, Tape};

/// A tape of the demo server that was recorded once.
fn echo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tapes/echo.tape.jsonl")
}

/// What came of a run.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program without an environment.
fn shadowcat(args: &[&str]) -> Run {
    let output = Command::new(PROGRAM).env_clear().args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A folder with files in it, which names of files in the output are to be free of.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A file with this text.
    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.path().join(name), text).unwrap();
        self.path(name)
    }

    /// A tape with these messages: upward ones begin with `>`, downward ones with `<`.
    fn tape(&self, name: &str, dialogue: &[(char, Value)]) -> String {
        let path = self.path(name);
        tape(dialogue).save(&path).unwrap();
        path
    }

    /// What was said, without where.
    fn told(&self, run: &Run) -> String {
        let folder = format!("{}/", self.0.path().display());
        format!("exit {:?}\n{}{}", run.code.unwrap(), run.stdout, run.stderr).replace(&folder, "")
    }
}

fn tape(dialogue: &[(char, Value)]) -> Tape {
    let header = Header::new(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_442_400));
    let frames = dialogue.iter().zip(1..).map(|((way, message), seq)| match way {
        '>' => Frame::message(seq, seq * 1000, Party::Client, Party::Proxy, message.to_string()),
        _ => Frame::message(seq, seq * 1000, Party::Proxy, Party::Client, message.to_string()),
    });
    let mut frames: Vec<Frame> = frames.collect();
    let seq = frames.len() as u64 + 1;
    frames.push(Frame::new(seq, seq * 1000, Kind::End { reason: "session ended".into(), next: None }));
    let ending = shadowcat::tape::Ending::Proper { reason: "session ended".into(), next: None };
    Tape { header, frames, ending, faults: vec![] }
}

fn ask(id: u64, method: &str, params: Value) -> (char, Value) {
    ('>', json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
}

fn call(id: u64, tool: &str, arguments: Value) -> (char, Value) {
    ask(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

fn answer(id: u64, result: Value) -> (char, Value) {
    ('<', json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}
