//! What a server offers, and in what the offers of two tapes differ: names, schemas, descriptions. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::compare::{self, Difference, Rules};
use super::conversation::Call;
use super::json::Json;
use super::show::printable;
use crate::protocol::message::Kind;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// What is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offer {
    /// What the server says of itself: name, version, capabilities, instructions.
    Server,
    /// A tool.
    Tool,
    /// A prompt.
    Prompt,
    /// A resource.
    Resource,
    /// A template of resources.
    Template,
}

impl Offer {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Offer::Server => "server",
            Offer::Tool => "tool",
            Offer::Prompt => "prompt",
            Offer::Resource => "resource",
            Offer::Template => "resource template",
        }
    }

    /// The list that it is in: method, member of the result, and what its elements are known by.
    fn list(method: Known) -> Option<(Offer, &'static str, &'static str)> {
        match method {
            Known::ToolsList => Some((Offer::Tool, "tools", "name")),
            Known::PromptsList => Some((Offer::Prompt, "prompts", "name")),
            Known::ResourcesList => Some((Offer::Resource, "resources", "uri")),
            Known::ResourceTemplatesList => Some((Offer::Template, "resourceTemplates", "uriTemplate")),
            _ => None,
        }
    }
}

/// All that a server offers, as a tape has seen it last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surface {
    /// What was asked for: of the rest nothing is known.
    asked: BTreeSet<Offer>,
    offers: BTreeMap<(Offer, String), Json>,
}

impl Surface {
    /// What the requests of a client, and their answers, say of it. Of a list that was asked for several times, the last answer
    /// counts, with all of its pages.
    #[must_use]
    pub fn of(calls: &[Call]) -> Surface {
        let mut surface = Surface::default();
        for call in calls.iter().filter(|call| call.upward) {
            let (Some(method), Some(answer)) = (call.request.message.known(), &call.answer) else { continue };
            let body = answer.message.body().filter(|_| answer.message.kind() == Kind::Result);
            let Some(result) = body.and_then(|body| Json::parse(body.as_bytes()).ok()) else { continue };
            if let Some((offer, list, name)) = Offer::list(method) {
                surface.asked.insert(offer);
                if call.request.message.param("cursor").is_none() {
                    surface.offers.retain(|(known, _), _| *known != offer);
                }
                for element in result.get(list).map(Json::elements).unwrap_or_default() {
                    let name = element.get(name).and_then(Json::as_str).unwrap_or_default();
                    surface.offers.insert((offer, name.to_owned()), element.clone());
                }
            } else if let (Known::Initialize | Known::Discover, Json::Object(mut members)) = (method, result) {
                // What is true of an answer and not of the server.
                for name in [meta::RESULT_TYPE, meta::TTL_MS, meta::CACHE_SCOPE] {
                    members.remove(name);
                }
                surface.asked.insert(Offer::Server);
                surface.offers.insert((Offer::Server, String::new()), Json::Object(members));
            }
        }
        surface
    }

    /// What one of two tapes does not tell of, and the other does.
    pub fn unknown<'s>(&'s self, other: &'s Surface) -> impl Iterator<Item = Offer> + 's {
        self.asked.symmetric_difference(&other.asked).copied()
    }

    /// In what another one differs from this one, as far as both are known.
    #[must_use]
    pub fn drift(&self, other: &Surface, rules: &Rules) -> Vec<Drift> {
        let known = |(offer, _): &&(Offer, String)| self.asked.contains(offer) && other.asked.contains(offer);
        let gone = self.offers.keys().filter(|key| !other.offers.contains_key(*key)).map(|key| (key, Change::Gone));
        let change = |key: &(Offer, String), json: &Json| match self.offers.get(key) {
            None => Some(Change::New),
            Some(before) => {
                let differences = compare::differences(before, json, rules);
                (!differences.is_empty()).then_some(Change::Changed(differences))
            }
        };
        let changed = other.offers.iter().filter_map(|(key, json)| Some((key, change(key, json)?)));
        let all: BTreeMap<&(Offer, String), Change> = gone.chain(changed).filter(|(key, _)| known(key)).collect();
        let drift =
            |((offer, name), change): (&(Offer, String), Change)| Drift { offer: *offer, name: name.clone(), change };
        all.into_iter().map(drift).collect()
    }
}

/// Something that is no longer offered as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// What it is.
    pub offer: Offer,
    /// Its name; empty for the server itself.
    pub name: String,
    /// What became of it.
    pub change: Change,
}

/// What became of something that is offered.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It was not there before.
    New,
    /// It is no longer there.
    Gone,
    /// It is described otherwise.
    Changed(Vec<Difference>),
}

/// `+`, `-` or `~` and what it is; a line for each difference.
impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.change {
            Change::New => '+',
            Change::Gone => '-',
            Change::Changed(_) => '~',
        };
        let name = printable(&self.name);
        let space = if name.is_empty() { "" } else { " " };
        write!(f, "{mark} {}{space}{name}", self.offer.as_str())?;
        if let Change::Changed(differences) = &self.change {
            for difference in differences {
                write!(f, "\n    {}", printable(&difference.to_string()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
