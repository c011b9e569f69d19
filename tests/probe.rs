//! `shadowcat probe` from outside: what it says of servers that can be shared, of servers that cannot, and of such that do not work.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "probe/broken.rs"]
mod broken;
#[path = "probe/output.rs"]
mod output;
#[path = "probe/verdicts.rs"]
mod verdicts;

use assert_cmd::Command;
use common::{PROGRAM, fake, script_file};
use serde_json::Value;
use shadowcat::testing::Script;

/// What came of a run.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program without an environment.
fn shadowcat(args: &[&str]) -> Run {
    let output = Command::new(PROGRAM).env_clear().args(args).output().expect("the program starts");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Tries a fake server with this script.
fn probe(script: &Script, options: &[&str]) -> Run {
    let file = script_file(script);
    let server = fake(file.path());
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    shadowcat(&[&["probe"], options, &["--", PROGRAM], &server].concat())
}

/// A report that was asked for as JSON.
struct Report {
    code: Option<i32>,
    json: Value,
}

/// Tries a fake server, and expects a report.
#[track_caller]
fn report(script: &Script, options: &[&str]) -> Report {
    let run = probe(script, &[&["--json"], options].concat());
    let json =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr));
    Report { code: run.code, json }
}

impl Report {
    fn finding(&self, name: &str) -> &Value {
        let findings = self.json["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name}: {}", self.json))
    }

    /// Expects a verdict, and a word in its sentence.
    #[track_caller]
    fn found(&self, name: &str, verdict: &str, word: &str) -> &Self {
        let finding = self.finding(name);
        let sentence = finding["sentence"].as_str().unwrap();
        assert!(finding["verdict"] == verdict && sentence.contains(word), "not {verdict} with {word:?}: {finding}");
        self
    }

    #[track_caller]
    fn safe(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{:#}", self.json);
        assert_eq!((&self.json["safe"], &self.json["isolation"]), (&true.into(), &"shared".into()), "{:#}", self.json);
        self
    }

    /// Expects that it is not safe, and exactly for these reasons.
    #[track_caller]
    fn not_safe(&self, reasons: &[&str]) -> &Self {
        assert_eq!(self.code, Some(7), "{:#}", self.json);
        assert_eq!(
            (&self.json["safe"], &self.json["isolation"]),
            (&false.into(), &"session".into()),
            "{:#}",
            self.json
        );
        let findings = self.json["findings"].as_array().unwrap().iter();
        let harmful = findings.filter(|finding| finding["verdict"] == "unsafe");
        let names: Vec<&str> = harmful.map(|finding| finding["name"].as_str().unwrap()).collect();
        assert_eq!(names, reasons, "{:#}", self.json);
        self
    }
}

/// A script with these tools only.
fn with_tools(script: Script, tools: &[&str]) -> Script {
    Script { tools: Some(tools.iter().map(|tool| (*tool).to_owned()).collect()), ..script }
}
