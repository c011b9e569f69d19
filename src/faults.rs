//! What goes wrong in live traffic, and when: a plan in the words of the fakes' scripts (docs/faults.md), for what can happen
//! between a client and the proxy. Plain data; `tap` does it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A plan of faults.
///
/// ```
/// use shadowcat::faults::Plan;
///
/// let plan = Plan::from_json(r#"{
///     "seed": 7,
///     "faults": [
///         { "on": { "tool": "echo", "nth": 2 },               "do": { "late": { "ms": 250 } } },
///         { "on": { "method": "tools/call", "chance": 0.1 },  "do": { "error": { "code": -32603 } } },
///         { "on": { "from": "server", "method": "notifications/progress" }, "do": "duplicate" }
///     ]
/// }"#)?;
/// assert_eq!(plan.faults.len(), 3);
/// # Ok::<(), shadowcat::faults::PlanError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Where chance begins: with the same seed, the same messages in the same order have the same faults.
    pub seed: u64,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
}

/// One fault: when, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it happens.
    #[serde(default)]
    pub on: On,
    /// What happens.
    #[serde(rename = "do")]
    pub fault: Do,
}

/// When a fault happens. Everything that is given has to fit; nothing given fits each message of the client.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct On {
    /// Who sends the message.
    pub from: From,
    /// On a message with this method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// On a call of this tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Only on the nth that fits, counted from 1; without it on each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Only with this probability, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
}

/// Who sends a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The client: faults are about its message, or about the answer to it.
    #[default]
    Client,
    /// The server, by itself: a notification, or a question to the client.
    Server,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Do {
    /// The message waits before anything is done with it.
    Delay {
        /// How long.
        ms: u64,
    },
    /// The answer waits.
    Late {
        /// How long.
        ms: u64,
    },
    /// The message goes no further: a request is never answered.
    Hang,
    /// A request is answered with this error, and goes no further.
    Error {
        /// Its code.
        code: i32,
        /// Its text.
        #[serde(default = "planned")]
        message: String,
    },
    /// A request gets this HTTP status, and goes no further.
    Status {
        /// The status code.
        code: u16,
        /// Headers, for example `Retry-After`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// The answer, or the message of the server, comes twice, where it comes as an event.
    Duplicate,
    /// This text, which is no message, comes before the answer, or before the message of the server.
    Print {
        /// The text.
        text: String,
    },
    /// The connection is cut instead of the answer, or of the message of the server.
    Cut {},
}

fn planned() -> String {
    "A fault of the plan".to_owned()
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not the JSON of a plan; says where.
    #[error("not a plan: {0}")]
    Json(#[from] serde_json::Error),
    /// A number that means nothing.
    #[error("faults[{index}]: `{name}` must be {expected}")]
    Number {
        /// Its place in the list.
        index: usize,
        /// Which one.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// A fault that messages of the server cannot have.
    #[error("faults[{index}]: `{name}` is about requests of the client, not about what the server says by itself")]
    NotOfTheServer {
        /// Its place in the list.
        index: usize,
        /// What was asked for.
        name: &'static str,
    },
    /// A header that is none.
    #[error("faults[{index}]: `{name}` is no header, or its value is none")]
    Header {
        /// Its place in the list.
        index: usize,
        /// Its name.
        name: String,
    },
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// The text is not JSON, has a field nobody knows, or says something impossible.
    pub fn from_json(text: &str) -> Result<Plan, PlanError> {
        let plan: Plan = serde_json::from_str(text)?;
        for (index, fault) in plan.faults.iter().enumerate() {
            fault.check(index)?;
        }
        Ok(plan)
    }
}

impl Fault {
    fn check(&self, index: usize) -> Result<(), PlanError> {
        let number = |name, expected| Err(PlanError::Number { index, name, expected });
        if self.on.nth == Some(0) {
            return number("nth", "from 1");
        }
        if self.on.chance.is_some_and(|chance| !(0.0..=1.0).contains(&chance)) {
            return number("chance", "from 0 to 1");
        }
        let of_client = match &self.fault {
            Do::Late { .. } => Some("late"),
            Do::Error { .. } => Some("error"),
            Do::Status { code, headers, .. } => {
                if !(200..=599).contains(code) {
                    return number("code", "from 200 to 599");
                }
                let is_header = |name: &str, value: &str| {
                    name.parse::<http::HeaderName>().is_ok() && value.parse::<http::HeaderValue>().is_ok()
                };
                if let Some((name, _)) = headers.iter().find(|(name, value)| !is_header(name, value)) {
                    return Err(PlanError::Header { index, name: name.clone() });
                }
                Some("status")
            }
            _ if self.on.tool.is_some() => Some("tool"),
            _ => None,
        };
        match of_client {
            Some(name) if self.on.from == From::Server => Err(PlanError::NotOfTheServer { index, name }),
            _ => Ok(()),
        }
    }
}
