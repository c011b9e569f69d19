//! A tape as a timeline for people: who said what to whom, when, and how long until it was answered. Pure.

use std::fmt::{self, Write as _};

use super::compare::excerpt;
use super::conversation::{Asked, Pairing, Role, Said, Seen, subject};
use super::format::{Ending, Frame, Header, Kind, Transport};
use super::json::Json;
use crate::protocol::id::RequestId;
use crate::protocol::message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Which messages are shown. What is not given lets everything through.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Method, also of what an answer answers; `*` at its end stands for anything.
    pub method: Option<String>,
    /// Tool, prompt, resource or task, likewise.
    pub subject: Option<String>,
    /// Id, as it is written in JSON, or the text of one that is a string.
    pub id: Option<String>,
}

impl Filter {
    fn is_open(&self) -> bool {
        self.method.is_none() && self.subject.is_none() && self.id.is_none()
    }

    fn lets_through(&self, said: &Said) -> bool {
        let asked = match &said.role {
            Role::Answer(asked) | Role::Notification(asked) => asked.as_ref(),
            Role::Request => None,
        };
        let method = asked.map(|asked| asked.method.as_str()).or_else(|| said.message.method());
        let subject = asked.map_or_else(|| subject(&said.message), |asked| asked.subject.clone());
        let own = said.message.method();
        let id = said.message.id();
        let wanted = |wanted: &Option<String>, has: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(has);
        wanted(&self.method, &|wanted| [method, own].into_iter().flatten().any(|name| is_like(name, wanted)))
            && wanted(&self.subject, &|wanted| subject.as_deref().is_some_and(|name| is_like(name, wanted)))
            && wanted(&self.id, &|wanted| id.as_ref().is_some_and(|id| is_id(id, wanted)))
    }
}

fn is_like(name: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == wanted,
    }
}

fn is_id(id: &RequestId, wanted: &str) -> bool {
    let text = || Json::parse(id.as_json().as_bytes()).is_ok_and(|json| json.as_str() == Some(wanted));
    RequestId::from_json(wanted).is_some_and(|wanted| *id == wanted) || text()
}

/// Makes lines of frames, one after the other.
#[derive(Default)]
pub struct Timeline {
    filter: Filter,
    pairing: Pairing,
    seen: Count,
}

/// What was on a tape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Messages.
    pub messages: u64,
    /// Requests.
    pub requests: u64,
    /// Answers that are errors, those of tools included.
    pub errors: u64,
    /// Frames that were lost.
    pub lost: u64,
}

impl Timeline {
    /// A timeline of what the filter lets through.
    #[must_use]
    pub fn new(filter: Filter) -> Timeline {
        Timeline { filter, ..Timeline::default() }
    }

    /// The lines of a frame, each with its end; none if the filter holds it back.
    pub fn see(&mut self, frame: &Frame) -> String {
        self.seen.frames += 1;
        let mut text = String::new();
        let place = Place(frame);
        match &frame.kind {
            Kind::Message => {
                for seen in self.pairing.see(frame) {
                    match seen {
                        Seen::Said(said) => {
                            self.count(&said);
                            if self.filter.lets_through(&said) {
                                let _ = writeln!(text, "{place}  {}{}", Words(&said), Marks(frame));
                            }
                        }
                        Seen::NotAMessage(error) if self.filter.is_open() => {
                            let bytes = frame.body.as_ref().map(|body| body.bytes().clone()).unwrap_or_default();
                            let shown = excerpt(&printable(&String::from_utf8_lossy(&bytes)));
                            let _ = writeln!(text, "{place}  ✘ no message ({}): {shown}", error.reason);
                        }
                        Seen::NotAMessage(_) => {}
                    }
                }
            }
            Kind::Gap { lost, bytes, why } => {
                self.seen.lost = self.seen.lost.saturating_add(*lost);
                // Whatever is looked for may have been there.
                let _ = match lost {
                    // Nobody knows how many.
                    0 => writeln!(text, "{place}  ✘ frames are missing: {}", printable(why)),
                    _ => writeln!(text, "{place}  ✘ {lost} frames ({bytes} bytes) are missing: {}", printable(why)),
                };
            }
            _ if !self.filter.is_open() => {}
            Kind::Http | Kind::Event => {
                let _ = writeln!(text, "{place}  {}{}", frame.kind.as_str(), Marks(frame));
            }
            Kind::Close { reason } => {
                let _ = writeln!(text, "{place}  closed: {}", printable(reason));
            }
            Kind::End { reason, next } => {
                let next = next.as_ref().map(|next| format!(", goes on in {}", printable(next)));
                let _ = writeln!(text, "{place}  end of the tape: {}{}", printable(reason), next.unwrap_or_default());
            }
            Kind::Other(name) => {
                let _ = writeln!(text, "{place}  {} (of a kind that this version does not know)", printable(name));
            }
        }
        text
    }

    fn count(&mut self, said: &Said) {
        self.seen.messages += 1;
        match said.role {
            Role::Request => self.seen.requests += 1,
            Role::Answer(_) if failure(&said.message).is_some() => self.seen.errors += 1,
            Role::Answer(_) | Role::Notification(_) => {}
        }
    }

    /// What was seen.
    #[must_use]
    pub fn counted(&self) -> Count {
        self.seen
    }

    /// What is to be said at the end, with its line end.
    #[must_use]
    pub fn summary(&self, ending: &Ending) -> String {
        let Count { frames, requests, errors, lost, .. } = self.seen;
        let unanswered = self.pairing.unanswered();
        let mut text =
            format!("{frames} frames, {requests} requests, {errors} errors, {} unanswered", unanswered.len());
        if lost > 0 {
            let _ = write!(text, ", {lost} frames missing");
        }
        text.push('\n');
        let _ = match ending {
            Ending::Proper { .. } => Ok(()),
            Ending::CutShort => writeln!(text, "The tape has no end: it is still being written, or was cut short."),
            Ending::Torn { bytes } => {
                writeln!(text, "The tape was cut short: its last {bytes} bytes are no whole line and left out.")
            }
        };
        text
    }
}

/// The header in a line.
#[must_use]
pub fn title(header: &Header) -> String {
    let transport = |side: &str, transport: &Option<Transport>| {
        let name = match transport.as_ref()? {
            Transport::Http => "http",
            Transport::HttpSse => "http+sse",
            Transport::Stdio => "stdio",
            Transport::Other(name) => name,
        };
        Some(format!("{side}: {}", printable(name)))
    };
    let parts = [
        header.upstream.as_deref().map(printable),
        Some(printable(&header.started)),
        Some(printable(&header.by)).filter(|by| !by.is_empty()),
        transport("client", &header.client),
        transport("server", &header.server),
        header.continues.as_deref().map(|name| format!("continues {}", printable(name))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// Text of a tape, without what would play tricks on a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_invisible(c) { '�' } else { c }).collect()
}

/// Marks that change the direction of text.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// When, which, from whom to whom.
struct Place<'f>(&'f Frame);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place(frame) = self;
        let (seconds, micros) = (frame.at / 1_000_000, frame.at % 1_000_000);
        write!(f, "{seconds:>5}.{micros:06} {:>6} ", format!("#{}", frame.seq))?;
        match (frame.from, frame.to) {
            (Some(from), Some(to)) => write!(f, "{:>8} → {:<8}", from.as_str(), to.as_str()),
            (Some(from), None) => write!(f, "{:>8}   {:<8}", from.as_str(), ""),
            (None, _) => write!(f, "{:>8}   {:<8}", "", ""),
        }
    }
}

/// A message in words.
struct Words<'s>(&'s Said);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Words(said) = self;
        let message = &said.message;
        let id = message.id().map(|id| format!(" (id {})", printable(id.as_json()))).unwrap_or_default();
        match &said.role {
            Role::Request => {
                let method = printable(message.method().unwrap_or_default());
                write!(f, "{method}{}{id}", Subject(&subject(message)))
            }
            Role::Notification(asked) => {
                let method = printable(message.method().unwrap_or_default());
                write!(f, "{method}")?;
                match message.known() {
                    Some(Known::Progress) => {
                        let number = |name| message.param(name).map(str::to_owned);
                        if let Some(progress) = number("progress") {
                            let of = number("total").map(|total| format!("/{total}")).unwrap_or_default();
                            write!(f, " {progress}{of}")?;
                        }
                    }
                    Some(Known::Cancelled) => {
                        write!(f, " (id {})", printable(message.param(meta::REQUEST_ID).unwrap_or_default()))?;
                    }
                    Some(Known::ResourceUpdated) => write!(f, "{}", Subject(&message.param_str("uri")))?,
                    _ => {}
                }
                match asked {
                    Some(asked) => write!(f, " of {}", Of(asked)),
                    None => Ok(()),
                }
            }
            Role::Answer(asked) => {
                let failure = failure(message);
                f.write_str(if failure.is_some() { "✘ " } else { "✔ " })?;
                match asked {
                    Some(asked) => write!(f, "{} after {}", Of(asked), Span(said.at.saturating_sub(asked.at)))?,
                    None => write!(f, "answer to nothing that is open{id}")?,
                }
                failure.map_or(Ok(()), |why| write!(f, ": {}", excerpt(&printable(&why))))
            }
        }
    }
}

struct Subject<'s>(&'s Option<String>);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |subject| write!(f, " {}", excerpt(&printable(subject))))
    }
}

struct Of<'a>(&'a Asked);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Of(asked) = self;
        write!(f, "#{} {}{}", asked.seq, printable(&asked.method), Subject(&asked.subject))
    }
}

/// Microseconds, as people say them.
pub(super) struct Span(pub(super) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0;
        match micros {
            0..1_000 => write!(f, "{micros} µs"),
            1_000..1_000_000 => write!(f, "{}.{} ms", micros / 1_000, micros % 1_000 / 100),
            _ => write!(f, "{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
        }
    }
}

/// What there is to a frame beside its message.
struct Marks<'f>(&'f Frame);

impl fmt::Display for Marks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Marks(frame) = self;
        if let Some(http) = &frame.http {
            if let Some(method) = &http.method {
                write!(f, "  [{}]", printable(method))?;
            }
            if let Some(status) = http.status {
                write!(f, "  [{}{status}]", if status >= 400 { "✘ " } else { "" })?;
            }
        }
        if let Some(id) = frame.sse.as_ref().and_then(|sse| sse.id.as_ref()) {
            write!(f, "  [event {}]", excerpt(&printable(id)))?;
        }
        for one in &frame.by {
            let time = one.ms.map(|ms| format!(" {ms} ms")).unwrap_or_default();
            write!(f, "  [{}: {}{time}]", printable(&one.name), printable(&one.did))?;
        }
        match frame.redacted_more.saturating_add(frame.redacted.len() as u64) {
            0 => Ok(()),
            count => write!(f, "  [{count} redacted]"),
        }
    }
}

/// What went wrong, if the answer says so: an error of the protocol, or of a tool.
#[must_use]
pub fn failure(answer: &message::Message) -> Option<String> {
    let body = Json::parse(answer.body()?.as_bytes()).ok()?;
    if answer.kind() == message::Kind::Error {
        let code = body.get("code").map(ToString::to_string).unwrap_or_default();
        let text = body.get("message").and_then(Json::as_str).unwrap_or_default();
        return Some(format!("error {code}: {text}"));
    }
    if body.get("isError") != Some(&Json::Bool(true)) {
        return None;
    }
    let text = body.get("content").and_then(|content| content.elements().iter().find_map(|one| one.get("text")));
    Some(format!("tool error: {}", text.and_then(Json::as_str).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
