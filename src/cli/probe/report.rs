//! A report as text for people, and as JSON. The keys of the JSON are part of the interface: `docs/probe.md` has them.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::last_lines;
use crate::probing::judge::Finding;
use crate::probing::judge::observed::Ended;
use crate::probing::{Memory, Report, Speaks};

/// How wide the text is at most, in characters.
const WIDTH: usize = 110;

/// For people.
pub(super) struct Text<'a>(pub(super) &'a Report);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let server = &report.server;
        let name = server.name.as_deref().unwrap_or("a server without a name");
        writeln!(f, "{name} {}", server.version.as_deref().unwrap_or_default())?;
        let eras = match server.speaks {
            Speaks::Both => " (tried with the handshake)",
            Speaks::Legacy | Speaks::Modern => "",
        };
        row(f, "era", &format!("{}: {}{eras}", server.speaks.as_str(), server.revisions.join(", ")))?;
        row(f, "start-up", &startup(report.startup))?;
        row(f, "memory", &memory(&report.memory))?;
        row(f, "tried", &tried(report))?;
        writeln!(f)?;
        for Finding { name, verdict, sentence, .. } in &report.judgement.findings {
            hanging(f, &format!("  {:<13}  {:<7}  ", name.as_str(), verdict.as_str()), sentence)?;
        }
        if let Some(ended) = &report.ended {
            let words = last_lines(&ended.words);
            if !words.is_empty() {
                writeln!(f, "\nThe last of its standard error:\n{words}")?;
            }
        }
        writeln!(f)?;
        hanging(f, "", &report.judgement.conclusion())?;
        writeln!(f, "isolation = \"{}\"", report.judgement.isolation())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    hanging(f, &format!("  {name:<8}  "), text)
}

/// A text behind a head; its further lines stand below its first.
fn hanging(f: &mut fmt::Formatter<'_>, head: &str, text: &str) -> fmt::Result {
    let indent = head.chars().count();
    f.write_str(head)?;
    let mut column = indent;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            write!(f, "\n{:indent$}", "")?;
            column = indent;
        }
        if column > indent {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += length;
    }
    writeln!(f)
}

fn startup(startup: [Option<Duration>; 2]) -> String {
    let shown = |time: Duration| match time.as_millis() {
        ms @ ..10_000 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    };
    match startup {
        [Some(first), Some(second)] => format!("{}, the second time {}", shown(first), shown(second)),
        [Some(only), None] | [None, Some(only)] => shown(only),
        [None, None] => "unknown".to_owned(),
    }
}

fn memory(memory: &[Memory]) -> String {
    // The one that has done more.
    let Some(memory) = memory.iter().max_by_key(|memory| memory.rss) else { return "unknown".to_owned() };
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let mut text = format!("{} resident", mib(memory.rss));
    if let Some(pss) = memory.pss {
        text += &format!(", {} of it when what it shares is divided (PSS)", mib(pss));
    }
    if memory.processes > 1 {
        text += &format!("; {} processes", memory.processes);
    }
    text
}

fn tried(report: &Report) -> String {
    let tried = &report.judgement.tried;
    let offered = tried.offered.map_or_else(|| "unknown".to_owned(), |offered| offered.to_string());
    let mut text = format!("{} of {offered} tools", tried.tools.len());
    if !tried.tools.is_empty() {
        text += &format!(" ({})", tried.tools.join(", "));
    }
    text + &format!(", {} lists", report.lists)
}

/// As one JSON object.
pub(super) struct Json<'a>(pub(super) &'a Report);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(&Document::of(self.0)).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    server: ServerPart<'a>,
    startup_ms: StartupPart,
    memory: Vec<MemoryPart>,
    tried: TriedPart<'a>,
    findings: Vec<FindingPart<'a>>,
    ended: Option<EndedPart<'a>>,
    safe: bool,
    conclusion: String,
    isolation: &'static str,
}

#[derive(Serialize)]
struct ServerPart<'a> {
    name: Option<&'a str>,
    version: Option<&'a str>,
    era: &'static str,
    revisions: &'a [String],
}

#[derive(Serialize)]
struct StartupPart {
    first: Option<f64>,
    second: Option<f64>,
}

#[derive(Serialize)]
struct MemoryPart {
    processes: usize,
    rss_bytes: u64,
    pss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct TriedPart<'a> {
    lists: usize,
    tools_offered: Option<usize>,
    tools: &'a [String],
    failed: &'a [String],
    left_out: &'a [String],
}

#[derive(Serialize)]
struct FindingPart<'a> {
    name: &'static str,
    verdict: &'static str,
    sentence: &'a str,
}

#[derive(Serialize)]
struct EndedPart<'a> {
    during: String,
    why: &'a str,
    stderr: &'a str,
}

impl<'a> Document<'a> {
    fn of(report: &'a Report) -> Document<'a> {
        let (server, judgement) = (&report.server, &report.judgement);
        let ms = |time: Option<Duration>| time.map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0);
        let memory = report.memory.iter().map(|memory| MemoryPart {
            processes: memory.processes,
            rss_bytes: memory.rss,
            pss_bytes: memory.pss,
        });
        let findings = judgement.findings.iter().map(|finding| FindingPart {
            name: finding.name.as_str(),
            verdict: finding.verdict.as_str(),
            sentence: &finding.sentence,
        });
        let ended =
            |ended: &'a Ended| EndedPart { during: ended.during.to_string(), why: &ended.why, stderr: &ended.words };
        Document {
            server: ServerPart {
                name: server.name.as_deref(),
                version: server.version.as_deref(),
                era: server.speaks.as_str(),
                revisions: &server.revisions,
            },
            startup_ms: StartupPart { first: ms(report.startup[0]), second: ms(report.startup[1]) },
            memory: memory.collect(),
            tried: TriedPart {
                lists: report.lists,
                tools_offered: judgement.tried.offered,
                tools: &judgement.tried.tools,
                failed: &judgement.tried.failed,
                left_out: &judgement.tried.left_out,
            },
            findings: findings.collect(),
            ended: report.ended.as_ref().map(ended),
            safe: judgement.is_safe(),
            conclusion: judgement.conclusion(),
            isolation: judgement.isolation(),
        }
    }
}
