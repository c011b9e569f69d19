//! Whether a tape is whole and in order, and its messages are what the specification says. Pure.

use std::collections::HashMap;
use std::fmt;

use super::conversation::{Pairing, Role, Said, Seen};
use super::format::{Edge, Ending, Frame, Kind, Party};
use super::json::Json;
use super::schema::Schema;
use super::show::printable;
use crate::protocol::headers;
use crate::protocol::message::{self, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};

/// Most findings that are kept; what is beyond is counted.
const FINDINGS_MAX: usize = 1000;
/// Most requests whose revision is remembered until they are answered.
const ASKED_MAX: usize = 1 << 16;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Good to know: what a tape says of the traffic, and which is no fault of the tape.
    Note,
    /// Something is not as it should be.
    Fault,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The number of the frame, if it is about one.
    pub seq: Option<u64>,
    /// How bad it is.
    pub weight: Weight,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Note => "note",
            Weight::Fault => "fault",
        };
        match self.seq {
            Some(seq) => write!(f, "{weight}: #{seq}: {}", self.what),
            None => write!(f, "{weight}: {}", self.what),
        }
    }
}

/// What was found on a tape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Findings, in the order of the tape.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
    /// Frames.
    pub frames: u64,
    /// Messages.
    pub messages: u64,
    /// Messages that were held against the schema of their revision.
    pub checked: u64,
    /// How many findings are faults.
    pub faults: u64,
}

/// Looks at a tape frame by frame.
#[derive(Default)]
pub struct Check {
    report: Report,
    pairing: Pairing,
    last: Option<(u64, u64)>,
    ended: bool,
    schemas: HashMap<Revision, Schema>,
    /// What an edge, or a connection of it, was last seen to speak.
    spoken: HashMap<(Option<Edge>, Option<u64>), Revision>,
    /// What requests without an answer speak, and whether they ask for a task; by the numbers of their frames.
    asked: HashMap<u64, (Revision, bool)>,
}

impl Check {
    /// Looks at the next frame.
    pub fn see(&mut self, frame: &Frame) {
        self.report.frames += 1;
        self.order(frame);
        match (&frame.kind, frame.from, frame.to) {
            (Kind::Gap { lost, bytes, why }, ..) => {
                let how_many = if *lost == 0 { "frames".to_owned() } else { format!("{lost} frames ({bytes} bytes)") };
                self.note(frame.seq, format!("{how_many} are missing here: {}", printable(why)));
            }
            (Kind::Message, Some(from), Some(to)) if !is_way(from, to) => {
                self.fault(frame.seq, format!("nothing goes from {} to {}", from.as_str(), to.as_str()));
            }
            (Kind::Message, None, _) | (Kind::Message, _, None) => {
                self.fault(frame.seq, "a message lacks `from` or `to`".into());
            }
            (Kind::Message, ..) if frame.body.is_none() => self.fault(frame.seq, "a message without a message".into()),
            (Kind::Other(name), ..) => {
                self.note(frame.seq, format!("of a kind that this version does not know: {}", printable(name)));
            }
            _ => {}
        }
        for seen in self.pairing.see(frame) {
            self.report.messages += 1;
            match seen {
                Seen::NotAMessage(error) => self.fault(frame.seq, error.reason.to_string()),
                Seen::Said(said) => self.say(frame, &said),
            }
        }
    }

    /// A line that is no frame.
    pub fn broken(&mut self, error: &dyn fmt::Display) {
        self.add(None, Weight::Fault, error.to_string());
    }

    /// What was found, once all of the tape has been seen.
    #[must_use]
    pub fn finish(mut self, ending: &Ending) -> Report {
        for asked in self.pairing.unanswered() {
            let subject = asked.subject.map(|subject| format!(" {}", printable(&subject))).unwrap_or_default();
            self.note(asked.seq, format!("{}{subject} has no answer", printable(&asked.method)));
        }
        match ending {
            Ending::Proper { .. } => {}
            Ending::CutShort => {
                self.add(None, Weight::Fault, "the tape has no end: it is being written, or was cut short".into());
            }
            Ending::Torn { bytes } => {
                let text = format!("the tape was cut short: its last {bytes} bytes are no whole line");
                self.add(None, Weight::Fault, text);
            }
        }
        self.report
    }

    fn order(&mut self, frame: &Frame) {
        let (expected, since) = self.last.map_or((1, 0), |(seq, at)| (seq.saturating_add(1), at));
        if frame.seq != expected {
            self.fault(frame.seq, format!("its number should be {expected}"));
        }
        if frame.at < since {
            self.fault(frame.seq, format!("it goes back in time, from {since} to {} µs", frame.at));
        }
        if self.ended {
            self.fault(frame.seq, "it comes after the end".into());
        }
        self.ended |= matches!(frame.kind, Kind::End { .. });
        self.last = Some((frame.seq, frame.at.max(since)));
    }

    fn say(&mut self, frame: &Frame, said: &Said) {
        let message = &said.message;
        if let Role::Answer(None) = said.role
            && message.id().is_some()
        {
            self.note(frame.seq, "it answers nothing that is open".into());
        }
        let asked = match &said.role {
            Role::Answer(Some(asked)) => self.asked.remove(&asked.seq).map(|(revision, task)| (asked, revision, task)),
            _ => None,
        };
        let Some(revision) = asked.map(|(_, revision, _)| revision).or_else(|| self.revision(frame, message)) else {
            return;
        };
        if message.kind() == message::Kind::Request {
            if self.asked.len() >= ASKED_MAX {
                self.asked.clear();
            }
            self.asked.insert(frame.seq, (revision, message.param(meta::TASK).is_some()));
        }
        let Ok(json) = Json::parse(message.text()) else { return };
        // A handshake is about the revision that is agreed on.
        let revision = match asked {
            Some((asked, ..)) if Known::parse(&asked.method) == Some(Known::Initialize) => {
                let agreed = json.get("result").and_then(|result| result.get(meta::PROTOCOL_VERSION_PARAM));
                let agreed = agreed.and_then(Json::as_str).and_then(Revision::parse).unwrap_or(revision);
                self.spoken.insert((frame.edge(), frame.connection), agreed);
                agreed
            }
            _ => revision,
        };
        let schema = self.schemas.entry(revision).or_insert_with(|| Schema::of(revision));
        let faults = match (message.kind(), asked) {
            (message::Kind::Request | message::Kind::Notification, _) => {
                schema.check(message.method().unwrap_or_default(), &json)
            }
            (message::Kind::Error, _) => Some(schema.check_error(&json)),
            (message::Kind::Result, Some((asked, _, task))) => {
                json.get("result").and_then(|result| schema.check_result(&asked.method, result, task))
            }
            (message::Kind::Result, None) => None,
        };
        let Some(faults) = faults else { return };
        self.report.checked += 1;
        for fault in faults {
            // What was taken out had another type, perhaps.
            if frame.redacted.contains(&fault.path) {
                continue;
            }
            let path = if fault.path.is_empty() { "the message" } else { &fault.path };
            let text = format!("{} ({revision})", printable(&format!("{path} {}", fault.what)));
            self.fault(frame.seq, text);
        }
    }

    /// What a message that answers nothing speaks, as far as can be told.
    fn revision(&mut self, frame: &Frame, message: &Message) -> Option<Revision> {
        let place = (frame.edge(), frame.connection);
        let header = || {
            let http = frame.http.as_ref()?;
            Revision::parse(http.headers.get(headers::PROTOCOL_VERSION.as_str())?)
        };
        let said = match message.known() {
            Some(Known::Initialize) => {
                // It may ask for one that there is not.
                let wanted = message.param_str(meta::PROTOCOL_VERSION_PARAM).and_then(|text| Revision::parse(&text));
                return Some(wanted.filter(|one| one.era() == Era::Legacy).unwrap_or(Revision::LATEST_LEGACY));
            }
            _ => message.meta_str(meta::PROTOCOL_VERSION).and_then(|text| Revision::parse(&text)).or_else(header),
        };
        if let Some(said) = said {
            self.spoken.insert(place, said);
        }
        said.or_else(|| self.spoken.get(&place).copied())
    }

    fn note(&mut self, seq: u64, what: String) {
        self.add(Some(seq), Weight::Note, what);
    }

    fn fault(&mut self, seq: u64, what: String) {
        self.add(Some(seq), Weight::Fault, what);
    }

    fn add(&mut self, seq: Option<u64>, weight: Weight, what: String) {
        self.report.faults += u64::from(weight == Weight::Fault);
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding { seq, weight, what });
        } else {
            self.report.more += 1;
        }
    }
}

fn is_way(from: Party, to: Party) -> bool {
    (from == Party::Proxy) != (to == Party::Proxy)
}

#[cfg(test)]
mod tests;
