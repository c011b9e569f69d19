//! What is measured: each way through the proxy, with messages of several sizes, by few and by many, in both eras.

use serde_json::json;
use shadowcat::load::Call;
use shadowcat::load::stats::Limit;
use shadowcat::protocol::revision::Era;

use crate::gate::{Arm, BUDGET, Budget, Effort, LIVE, Load, Outcome, compare};
use crate::support::echo::PROGRESS;
use crate::support::process::{Behind, Server};

const KIB: usize = 1024;

/// A way through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// To a process that all sessions share.
    Stdio,
    /// To a process of the session's own.
    StdioPerSession,
    /// To a server that answers with JSON.
    HttpJson,
    /// To one that answers with a stream: three progress notifications, and the answer.
    HttpSse,
    /// The same, with a rest of some milliseconds before the answer: does progress come when it is made?
    HttpLive,
}

impl Path {
    const ALL: [Path; 5] = [Path::Stdio, Path::StdioPerSession, Path::HttpJson, Path::HttpSse, Path::HttpLive];

    pub fn name(self) -> &'static str {
        match self {
            Path::Stdio => "stdio, shared",
            Path::StdioPerSession => "stdio, own",
            Path::HttpJson => "HTTP, JSON",
            Path::HttpSse => "HTTP, SSE",
            Path::HttpLive => "HTTP, SSE live",
        }
    }

    pub fn is_stdio(self) -> bool {
        matches!(self, Path::Stdio | Path::StdioPerSession)
    }

    pub fn behind(self, http: &Server) -> Behind<'_> {
        match self {
            Path::Stdio => Behind::Stdio,
            Path::StdioPerSession => Behind::StdioPerSession,
            _ => Behind::Http(&http.target),
        }
    }

    pub fn call(self, bytes: usize) -> Call {
        let call = Call::echo("echo", "text", bytes);
        match self {
            Path::HttpSse => call.with_progress(PROGRESS),
            Path::HttpLive => call.with_progress(PROGRESS).with_argument("pause_ms", json!(5)),
            _ => call,
        }
    }

    pub fn budget(self) -> Budget {
        if self == Path::HttpLive { LIVE } else { BUDGET }
    }

    /// The same; where many call at once, nobody may wait for very much longer than the others.
    fn budget_for(self, clients: usize) -> Budget {
        let tail = (clients >= 128).then_some(Limit::AtMost(3.0));
        Budget { tail, ..self.budget() }
    }

    /// Sizes and clients, by era.
    fn loads(self, era: Era) -> &'static [(usize, usize)] {
        match (self, era) {
            (Path::StdioPerSession, Era::Modern) => &[],
            (Path::HttpLive, Era::Legacy) => &[(200, 16)],
            (Path::HttpLive, Era::Modern) => &[],
            (_, Era::Legacy) => &[(200, 1), (200, 16), (200, 128), (4 * KIB, 16), (64 * KIB, 16)],
            (_, Era::Modern) => &[(200, 1), (200, 16), (64 * KIB, 16)],
        }
    }

    /// Where most can go wrong, for a quick look.
    fn quick_loads(self, era: Era) -> &'static [(usize, usize)] {
        match (self, era) {
            (Path::Stdio | Path::HttpSse, Era::Legacy) => &[(200, 16)],
            _ => &[],
        }
    }
}

/// Compares shadowcat with the baseline, or with the build of it `against`, on every path, or on those whose name has `only` in it.
pub async fn run(effort: &Effort, quick: bool, only: Option<&str>, against: Option<&str>) -> Vec<Outcome> {
    let http = Server::echo();
    let mut outcomes = Vec::new();
    for era in [Era::Legacy, Era::Modern] {
        for path in Path::ALL {
            let loads = if quick { path.quick_loads(era) } else { path.loads(era) };
            let name = |bytes, clients| format!("{} {}, {}, {clients} ×", path.name(), era.as_str(), size(bytes));
            let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
            let loads: Vec<_> = loads.iter().filter(|(bytes, clients)| wanted(&name(*bytes, *clients))).collect();
            if loads.is_empty() {
                continue;
            }
            let behind = path.behind(&http);
            let theirs = match against {
                Some(program) => Server::build_of_shadowcat(program, behind, era == Era::Modern),
                None => Server::legacy(behind, None),
            };
            let shadowcat = Server::shadowcat(behind, era == Era::Modern);
            let ceiling = if path.is_stdio() { Some(Server::bridge()) } else { Server::nginx(&http.target) };
            if ceiling.is_none() {
                eprintln!("nginx is not installed: nothing is compared with it");
            }
            for (bytes, clients) in loads {
                let load = Load { era, clients: *clients, call: path.call(*bytes) };
                let name_of_theirs = if against.is_some() { "other build" } else { "legacy" };
                let pair = [Arm::new(name_of_theirs, &theirs), Arm::new("shadowcat", &shadowcat)];
                let ceiling =
                    ceiling.as_ref().map(|server| Arm::new(if path.is_stdio() { "bridge" } else { "nginx" }, server));
                let direct = (!path.is_stdio()).then_some(Arm::new("direct", &http));
                let others: Vec<Arm<'_>> = direct.into_iter().chain(ceiling).collect();
                outcomes.push(
                    compare(name(*bytes, *clients), &load, pair, &others, &path.budget_for(*clients), effort).await,
                );
            }
        }
    }
    outcomes
}

pub fn size(bytes: usize) -> String {
    if bytes < KIB { format!("{bytes} B") } else { format!("{} KiB", bytes / KIB) }
}
