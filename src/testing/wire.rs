//! From messages to bytes, with the faults that are a matter of bytes.

use std::time::Duration;

use super::faults::{At, Do, End, LineEnd};

/// How messages are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// One line each.
    Lines,
    /// One Server-Sent Event each.
    Sse,
    /// A body that is one message.
    Body,
}

/// Something the writer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Write(Vec<u8>),
    Pause(Duration),
    /// Nothing more, but the output stays open.
    Stall,
    /// Nothing more; the output ends.
    Close(End),
}

/// A byte order mark.
pub(crate) const BOM: &[u8] = "\u{feff}".as_bytes();

/// Makes bytes of messages and breaks them as the faults of one exchange say.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    line_end: Option<LineEnd>,
    invalid_utf8: bool,
    slice: Option<(usize, Duration)>,
    end: Option<(At, Step)>,
    /// What goes before the answer.
    before: Vec<Extra>,
    /// Frames written so far.
    frames: u64,
    ended: bool,
}

#[derive(Debug, Clone)]
enum Extra {
    /// As it is.
    Text { text: String, times: u64 },
    /// A line of an event stream, with a blank one after it.
    Field { text: String, times: u64 },
    /// Over HTTP it belongs to the body, not to the answer.
    Bom,
    /// A message of a size.
    Huge { bytes: usize, newline: bool },
}

/// A message with what its frame needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) text: &'a str,
    /// Whether it is the answer, before which some faults happen.
    pub(crate) answer: bool,
    /// The SSE `id:`.
    pub(crate) id: Option<&'a str>,
    /// The SSE `event:`.
    pub(crate) event: Option<&'a str>,
}

impl<'a> Frame<'a> {
    pub(crate) fn new(text: &'a str, answer: bool) -> Self {
        Frame { text, answer, id: None, event: None }
    }
}

impl Wire {
    /// The wire of an exchange with these faults; those that are no matter of bytes are passed over.
    pub(crate) fn new(faults: &[Do]) -> Wire {
        let mut wire = Wire::default();
        for fault in faults {
            match fault {
                Do::LineEnd(end) => wire.line_end = Some(*end),
                Do::Bom => wire.before.insert(0, Extra::Bom),
                Do::InvalidUtf8 => wire.invalid_utf8 = true,
                Do::Slice { bytes, gap_ms, .. } => wire.slice = Some(((*bytes).max(1), Duration::from_millis(*gap_ms))),
                Do::Stall(at) => wire.end = Some((*at, Step::Stall)),
                Do::Cut { after, end } => wire.end = Some((after.unwrap_or_default(), Step::Close(*end))),
                Do::Print { text, times, newline } => {
                    let end = if *newline { "\n" } else { "" };
                    wire.before.push(Extra::Text { text: format!("{text}{end}"), times: *times });
                }
                Do::Retry(value) => wire.before.push(Extra::Field { text: format!("retry: {value}"), times: 1 }),
                Do::Comments { count, bytes } => {
                    wire.before.push(Extra::Field { text: format!(":{}", "c".repeat(*bytes)), times: *count });
                }
                Do::Huge { bytes, newline } => wire.before.push(Extra::Huge { bytes: *bytes, newline: *newline }),
                _ => {}
            }
        }
        wire
    }

    /// What to do at once, message or not: everything that goes before an answer, and an end that is due.
    pub(crate) fn opening(&mut self, framing: Framing) -> Vec<Step> {
        let mut steps = Vec::new();
        self.extras(framing, &mut steps);
        if let Some((At { events: 0, bytes: 0 }, end)) = self.end.clone() {
            self.ended = true;
            steps.push(end);
        }
        steps
    }

    /// What to do to write a frame that is none of the answer's: no fault is counted by it.
    pub(crate) fn aside(&self, framing: Framing, frame: Frame<'_>) -> Vec<Step> {
        let mut steps = Vec::new();
        self.write(self.frame(framing, frame), &mut steps);
        steps
    }

    /// What to do to say a message.
    pub(crate) fn say(&mut self, framing: Framing, frame: Frame<'_>) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.ended {
            return steps;
        }
        if frame.answer {
            self.extras(framing, &mut steps);
            if self.ended {
                return steps;
            }
        }
        let mut bytes = self.frame(framing, frame);
        if self.invalid_utf8 && frame.answer {
            break_utf8(&mut bytes);
        }
        let mut end = self.end.clone().filter(|(at, _)| at.events == self.frames);
        if let Some((at, _)) = &end {
            bytes.truncate(at.within(bytes.len()));
        }
        self.frames += 1;
        if end.is_none() {
            // Nothing more may be to say for a long time.
            end = self.end.clone().filter(|(at, _)| *at == At { events: self.frames, bytes: 0 });
        }
        self.write(bytes, &mut steps);
        if let Some((_, end)) = end {
            self.ended = true;
            steps.push(end);
        }
        steps
    }

    fn extras(&mut self, framing: Framing, steps: &mut Vec<Step>) {
        for extra in std::mem::take(&mut self.before) {
            match extra {
                Extra::Text { text, times } => {
                    for _ in 0..times {
                        self.write(text.clone().into_bytes(), steps);
                    }
                }
                Extra::Field { text, times } => {
                    let end = self.line_end();
                    for _ in 0..times {
                        self.write(format!("{text}{end}{end}").into_bytes(), steps);
                    }
                }
                Extra::Bom if framing == Framing::Lines => self.write(BOM.to_vec(), steps),
                Extra::Bom => {}
                Extra::Huge { bytes, newline } => {
                    let text = huge(bytes);
                    let mut frame = self.frame(framing, Frame::new(&text, false));
                    if !newline {
                        while frame.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                            frame.pop();
                        }
                    }
                    self.write(frame, steps);
                    if !newline {
                        self.ended = true;
                        steps.push(Step::Stall);
                    }
                }
            }
        }
    }

    fn write(&self, bytes: Vec<u8>, steps: &mut Vec<Step>) {
        match self.slice {
            _ if bytes.is_empty() => {}
            None => steps.push(Step::Write(bytes)),
            Some((size, gap)) => {
                for piece in bytes.chunks(size) {
                    steps.push(Step::Write(piece.to_vec()));
                    if !gap.is_zero() {
                        steps.push(Step::Pause(gap));
                    }
                }
            }
        }
    }

    fn line_end(&self) -> &'static str {
        match self.line_end {
            None => "\n",
            Some(LineEnd::Crlf) => "\r\n",
            Some(LineEnd::Cr) => "\r",
        }
    }

    fn frame(&self, framing: Framing, frame: Frame<'_>) -> Vec<u8> {
        let end = self.line_end();
        let text = match framing {
            Framing::Lines => format!("{}{end}", frame.text),
            Framing::Body => frame.text.to_owned(),
            Framing::Sse => {
                let id = frame.id.map_or_else(String::new, |id| format!("id: {id}{end}"));
                let event = frame.event.map_or_else(String::new, |event| format!("event: {event}{end}"));
                format!("{id}{event}data: {}{end}{end}", frame.text)
            }
        };
        text.into_bytes()
    }
}

/// A log notification of about this many bytes.
fn huge(bytes: usize) -> String {
    let (head, tail) =
        (r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":""#, r#""}}"#);
    let fill = bytes.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", "x".repeat(fill))
}

/// Puts a byte that no UTF-8 text has into the text of a frame: inside the last string, so that its JSON would be fine.
fn break_utf8(frame: &mut Vec<u8>) {
    let last_quote = frame.iter().rposition(|byte| *byte == b'"');
    frame.insert(last_quote.unwrap_or(0), 0xFF);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(faults: &[Do], framing: Framing, texts: &[&str]) -> Vec<Step> {
        let mut wire = Wire::new(faults);
        let last = texts.len() - 1;
        texts.iter().enumerate().flat_map(|(n, text)| wire.say(framing, Frame::new(text, n == last))).collect()
    }

    #[test]
    fn a_cut_is_where_it_was_asked_for() {
        let at = At { events: 1, bytes: 3 };
        let steps =
            said(&[Do::Cut { after: Some(at), end: End::Reset }], Framing::Lines, &["{\"a\":1}", "{\"b\":2}", "{}"]);
        let expected = [Step::Write(b"{\"a\":1}\n".to_vec()), Step::Write(b"{\"b".to_vec()), Step::Close(End::Reset)];
        assert_eq!(steps, expected);
    }

    #[test]
    fn slices_are_of_the_size_asked_for() {
        let steps = said(&[Do::Slice { bytes: 3, gap_ms: 5, head: false }], Framing::Lines, &["abcd"]);
        let pause = Step::Pause(Duration::from_millis(5));
        assert_eq!(steps, [Step::Write(b"abc".to_vec()), pause.clone(), Step::Write(b"d\n".to_vec()), pause]);
    }

    #[test]
    fn an_endless_line_never_ends() {
        let steps = said(&[Do::Huge { bytes: 1000, newline: false }], Framing::Lines, &["{}"]);
        let [Step::Write(line), Step::Stall, ..] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(line.len(), 1000);
        assert!(!line.contains(&b'\n'));
    }

    #[test]
    fn events_have_their_fields() {
        let mut wire = Wire::new(&[Do::Retry("20".into())]);
        let frame = Frame { text: "{}", answer: true, id: Some("s1-1"), event: Some("message") };
        let steps = wire.say(Framing::Sse, frame);
        let expected = ["retry: 20\n\n", "id: s1-1\nevent: message\ndata: {}\n\n"];
        assert_eq!(steps, expected.map(|text| Step::Write(text.into())));
    }
}
