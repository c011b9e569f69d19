//! The script of a fake server: what it is, and how it misbehaves.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::{Fault, Transport};

/// What a fake server is and how it misbehaves. The default is the demo server: both eras, no faults.
///
/// One document serves `shadowcat fake stdio` and `shadowcat fake sse`; `http` is read by the latter only.
///
/// ```
/// use shadowcat::testing::Script;
///
/// let script = Script::from_json(r#"{
///     "era": "legacy",
///     "page_size": 4,
///     "faults": [
///         { "on": { "start": true },               "do": { "print": { "text": "Welcome!" } } },
///         { "on": { "tool": "echo", "nth": 2 },    "do": "hang" },
///         { "on": { "method": "tools/list" },      "do": { "delay": { "ms": 250 } } }
///     ]
/// }"#)?;
/// assert_eq!(script.faults.len(), 3);
/// # Ok::<(), shadowcat::testing::ScriptError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// The name the server gives itself.
    pub name: String,
    /// What it tells clients to do with it.
    pub instructions: String,
    /// The eras it serves.
    pub era: Served,
    /// What a legacy-only server does with `server/discover`; servers of old die of it.
    pub discover: Discover,
    /// The newest legacy revision it serves; older ones are served too.
    pub newest_legacy: String,
    /// What it says that it can do, in place of what it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<serde_json::Map<String, serde_json::Value>>,
    /// Entries per page of a list; 0 puts all on one page.
    pub page_size: usize,
    /// The tools it has, by name; all of them without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Tools that are there only once `change` was called for the tools, by whichever client.
    pub hidden_tools: Vec<String>,
    /// Whether calls can become tasks (2025-11-25), which every client of the process can list. In 2026-07-28 every call but `stats` and
    /// `pid` has to become one (extension `io.modelcontextprotocol/tasks`).
    pub tasks: bool,
    /// Where the HTTP server differs from the default.
    pub http: HttpScript,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            name: "shadowcat-demo".into(),
            instructions:
                "A small server to try things on: `echo` answers with what it was told, `ask` asks you something first."
                    .into(),
            era: Served::Dual,
            discover: Discover::Error,
            newest_legacy: LEGACY[LEGACY.len() - 1].into(),
            capabilities: None,
            page_size: 0,
            tools: None,
            hidden_tools: Vec::new(),
            tasks: false,
            http: HttpScript::default(),
            faults: Vec::new(),
        }
    }
}

/// The legacy revisions, oldest first. As text they sort by age.
pub(crate) const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The modern revision.
pub(crate) const MODERN: &str = "2026-07-28";

/// The eras a fake server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// Both, decided per request.
    Dual,
    /// 2024-11-05 to 2025-11-25 only.
    Legacy,
    /// 2026-07-28 only.
    Modern,
}

/// What a legacy-only server does with a `server/discover` request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discover {
    /// Answers `-32601`.
    Error,
    /// Answers nothing.
    Silence,
    /// Exits with code 1.
    Exit,
}

/// Where the HTTP server differs from the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpScript {
    /// The path of the Streamable HTTP endpoint.
    pub path: String,
    /// Whether the endpoints of the HTTP+SSE transport of 2024-11-05 (`/sse`, `/messages`) are there too.
    pub http_sse: bool,
    /// Whether the Streamable HTTP endpoint is there; without it a POST to it is answered with 404.
    pub streamable: bool,
    /// How POSTed requests are answered.
    pub answer: AnswerForm,
    /// Whether a legacy client may open a GET stream; 405 otherwise.
    pub get_stream: bool,
    /// Headers that every response carries in addition.
    pub headers: BTreeMap<String, String>,
}

impl Default for HttpScript {
    fn default() -> Self {
        HttpScript {
            path: "/mcp".into(),
            http_sse: true,
            streamable: true,
            answer: AnswerForm::Auto,
            get_stream: true,
            headers: BTreeMap::new(),
        }
    }
}

/// How POSTed requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerForm {
    /// As JSON when the answer is the first thing to say, else as SSE.
    Auto,
    /// As JSON; what else there is to say goes to the GET stream of a legacy session, or is lost.
    Json,
    /// As SSE.
    Sse,
}

/// Why a script cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// Not the JSON of a script; says where.
    #[error("not a script: {0}")]
    Json(#[from] serde_json::Error),
    /// `newest_legacy` is not a legacy revision.
    #[error("newest_legacy: `{0}` is none of 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25")]
    Revision(String),
    /// A fault that the transport cannot have.
    #[error("faults[{index}]: `{name}` is not possible over {transport}")]
    Impossible {
        /// Its place in the list.
        index: usize,
        /// Its name.
        name: &'static str,
        /// `stdio` or `HTTP`.
        transport: &'static str,
    },
    /// `nth` counts from 1, and `start` happens once.
    #[error("faults[{0}]: `nth` counts from 1, and does not go with `start`")]
    Nth(usize),
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// When the text is not JSON, has a field nobody knows, or says something impossible.
    pub fn from_json(text: &str) -> Result<Script, ScriptError> {
        let script: Script = serde_json::from_str(text)?;
        script.check(None)?;
        Ok(script)
    }

    /// Adds a fault.
    #[must_use]
    pub fn fault(mut self, on: super::On, fault: super::Do) -> Script {
        self.faults.push(Fault { on, fault });
        self
    }

    /// Checks what types cannot; with a transport also that it can have each fault.
    pub(crate) fn check(&self, transport: Option<Transport>) -> Result<(), ScriptError> {
        if !LEGACY.contains(&self.newest_legacy.as_str()) {
            return Err(ScriptError::Revision(self.newest_legacy.clone()));
        }
        for (index, fault) in self.faults.iter().enumerate() {
            if fault.on.nth == Some(0) || (fault.on.start && fault.on.nth.is_some()) {
                return Err(ScriptError::Nth(index));
            }
            if let Some(transport) = transport
                && !fault.fault.possible(transport, fault.on.start)
            {
                return Err(ScriptError::Impossible { index, name: fault.fault.name(), transport: transport.name() });
            }
        }
        Ok(())
    }

    /// Whether it has this tool, once the hidden ones are `revealed` or before.
    pub(crate) fn has_tool(&self, name: &str, revealed: bool) -> bool {
        let is_in = |names: &[String]| names.iter().any(|known| known == name);
        self.tools.as_deref().is_none_or(is_in) && (revealed || !is_in(&self.hidden_tools))
    }

    /// All versions served, newest first.
    pub(crate) fn versions(&self) -> Vec<&'static str> {
        let legacy = LEGACY.into_iter().rev().filter(|version| *version <= self.newest_legacy.as_str());
        match self.era {
            Served::Modern => vec![MODERN],
            Served::Legacy => legacy.collect(),
            Served::Dual => std::iter::once(MODERN).chain(legacy).collect(),
        }
    }

    /// The answer to a legacy client that wants `requested`: the same, or the best there is.
    pub(crate) fn negotiate(&self, requested: &str) -> &'static str {
        let served = |version: &&str| *version <= self.newest_legacy.as_str();
        let all = || LEGACY.into_iter().rev().filter(served);
        all().find(|version| *version == requested).or_else(|| all().next()).unwrap_or(LEGACY[0])
    }
}
