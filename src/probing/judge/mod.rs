//! What was seen of a server, judged: may sessions share one process of it? Pure: who asks and listens is elsewhere.

use std::fmt;

pub(crate) mod content;
mod manners;
pub(crate) mod observed;
mod state;

use observed::{Answer, Asked, Observed};

/// What is judged. The names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// Whether answers come under the right ids.
    Ids,
    /// Whether one session notices what another one did.
    State,
    /// Whether it asks its client anything.
    AsksClient,
    /// Whether subscriptions to resources can be told apart.
    Subscriptions,
    /// What becomes of log messages.
    LogLevel,
    /// Whether sessions see each other's tasks.
    Tasks,
    /// Whether the process ends when it is asked to. Says nothing about sharing.
    Survives,
}

impl Name {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Name::Ids => "ids",
            Name::State => "state",
            Name::AsksClient => "asks_client",
            Name::Subscriptions => "subscriptions",
            Name::LogLevel => "log_level",
            Name::Tasks => "tasks",
            Name::Survives => "survives",
        }
    }
}

/// What was found about one thing. The names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Sharing does no harm here.
    Ok,
    /// Sharing does harm: sessions disturb each other, or something does not work.
    Unsafe,
    /// Sharing does no harm, but something that the server offers is not there for the clients of a shared process.
    Lost,
    /// It was not found out.
    Unknown,
}

impl Verdict {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Unsafe => "unsafe",
            Verdict::Lost => "lost",
            Verdict::Unknown => "unknown",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) name: Name,
    pub(crate) verdict: Verdict,
    /// For a person: what it means, and what can be done.
    pub(crate) sentence: String,
    /// Why sharing is unsafe, to stand behind "because".
    because: &'static str,
}

impl Finding {
    fn new(name: Name, verdict: Verdict, sentence: impl Into<String>) -> Finding {
        Finding { name, verdict, sentence: sentence.into(), because: "" }
    }

    fn harmful(name: Name, because: &'static str, sentence: impl Into<String>) -> Finding {
        Finding { name, verdict: Verdict::Unsafe, sentence: sentence.into(), because }
    }

    /// Whether it says something about sharing.
    fn counts(&self) -> bool {
        self.name != Name::Survives
    }
}

/// How much of the server was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    /// How many tools it has; `None` if it did not tell.
    pub(crate) offered: Option<usize>,
    /// Tools that gave a result; in order, each once.
    pub(crate) tools: Vec<String>,
    /// Tools that were called and only failed.
    pub(crate) failed: Vec<String>,
    /// Tools that were left out, since they or others took too long; lists too.
    pub(crate) left_out: Vec<String>,
}

/// All that was found, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// One of each name, in the order of [`Name`].
    pub(crate) findings: Vec<Finding>,
    pub(crate) tried: Tried,
}

impl Judgement {
    /// Whether sessions may share one process. What was not found out does not forbid it.
    pub(crate) fn is_safe(&self) -> bool {
        !self.findings.iter().any(|finding| finding.counts() && finding.verdict == Verdict::Unsafe)
    }

    /// The isolation setting that follows.
    pub(crate) fn isolation(&self) -> &'static str {
        if self.is_safe() { "shared" } else { "session" }
    }

    /// `safe to share` or `not safe to share, because …`.
    pub(crate) fn conclusion(&self) -> String {
        let with = |verdict| self.findings.iter().filter(move |finding| finding.counts() && finding.verdict == verdict);
        if !self.is_safe() {
            let reasons: Vec<&str> = with(Verdict::Unsafe).map(|finding| finding.because).collect();
            return format!("not safe to share, because {}", reasons.join(", and "));
        }
        let names = |verdict| with(verdict).map(|finding| finding.name.as_str()).collect::<Vec<_>>();
        let mut text = "safe to share".to_owned();
        let unknown = names(Verdict::Unknown);
        if !unknown.is_empty() {
            text += &format!(", as far as it was tried (unknown: {})", unknown.join(", "));
        }
        let lost = names(Verdict::Lost);
        if !lost.is_empty() {
            text += &format!(", but for what is lost: {}", lost.join(", "));
        }
        text
    }
}

/// Judges a server.
pub(crate) fn judge(seen: &Observed) -> Judgement {
    let findings = vec![
        state::ids(seen),
        state::state(seen),
        manners::asks_client(seen),
        manners::subscriptions(seen),
        manners::log_level(seen),
        manners::tasks(seen),
        manners::survives(seen),
    ];
    Judgement { findings, tried: tried(seen) }
}

/// Whether another trial may show that what looks like harm was chance.
pub(crate) fn is_worth_repeating(seen: &Observed) -> bool {
    seen.ended.is_none() && !state::leaks(seen).is_empty()
}

fn tried(seen: &Observed) -> Tried {
    let (mut tools, mut failed) = (Vec::new(), Vec::new());
    let first: &[Answer] = seen.alone.first().map_or(&[], |views| &views[0]);
    for (asked, answer) in seen.asked.iter().zip(first) {
        let Asked::Call(tool) = asked else { continue };
        let list = if answer.is_good() { &mut tools } else { &mut failed };
        if !list.contains(tool) {
            list.push(tool.clone());
        }
    }
    failed.retain(|tool| !tools.contains(tool));
    Tried { offered: seen.tools, tools, failed, left_out: seen.left_out.clone() }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Method(method) => f.write_str(method),
            Asked::Call(tool) => write!(f, "`{tool}`"),
        }
    }
}

/// Most things that a sentence names.
const NAMED_MAX: usize = 5;

/// "a", "a and b", "a, b and c", "a, b, c, d, e and 3 more".
fn enumerated(things: &[impl fmt::Display]) -> String {
    let mut shown: Vec<String> = things.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if things.len() > NAMED_MAX {
        shown.push(format!("{} more", things.len() - NAMED_MAX));
    }
    match shown.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// The same for names of tools.
fn tools(names: &[String]) -> String {
    enumerated(&names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
