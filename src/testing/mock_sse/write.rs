//! How responses are written: as JSON, as a stream of events, and broken.

use std::io;
use std::sync::PoisonError;

use super::body::Body;
use super::connection::{After, Connection};
use super::events::{Event, Reader};
use super::message::Refused;
use super::{Headers, Recorded, SESSION, Site};
use crate::testing::faults::{BodyEnd, Do, End, EventId};
use crate::testing::script::AnswerForm;
use crate::testing::wire::{Frame, Framing, Step, Wire};

/// How a response is written.
#[derive(Default)]
pub(super) struct Form {
    /// The session whose id the head carries.
    pub(super) new_session: Option<String>,
    /// Whether events have ids.
    pub(super) ids: bool,
    /// Whether the first event only sets the id.
    pub(super) prime: bool,
    /// The `event:` field of messages.
    pub(super) event: Option<&'static str>,
    /// Which ids are wrong, from the event of this number on.
    pub(super) wrong_ids: Option<(EventId, u64)>,
    /// An event before all others: its kind and its data.
    pub(super) opening: Option<(&'static str, String)>,
    /// The faults of this very response, rather than those of the exchanges whose events it carries.
    pub(super) wire: Option<Wire>,
    /// Whether it ends before the answer, and with which `retry:` field.
    pub(super) poll: Option<Option<u64>>,
    /// The `Content-Type`, where it is to be another.
    pub(super) content_type: Option<String>,
    /// How its bytes are written.
    pub(super) body: Body,
    /// How events are written that are none of an exchange's.
    pub(super) plain: Wire,
    /// Whether it is a JSON body whatever the script says.
    pub(super) json: bool,
    /// Whether the status of an error is the one of 2026-07-28.
    pub(super) modern: bool,
}

impl Form {
    /// The default, with what the faults say of it.
    pub(super) fn new(faults: &[Do]) -> Form {
        let mut form = Form { body: Body::new(faults), plain: Wire::new(faults), ..Form::default() };
        for fault in faults {
            match fault {
                Do::ContentType(value) => form.content_type = Some(value.clone()),
                Do::EventId { id, from } => form.wrong_ids = Some((*id, *from)),
                Do::Poll { retry_ms } => form.poll = Some(*retry_ms),
                _ => {}
            }
        }
        form
    }

    /// The id of an event on the wire.
    fn id(&self, reader: &Reader, number: u64) -> Option<String> {
        match self.wrong_ids.filter(|(_, from)| number >= *from) {
            _ if !self.ids => None,
            None => Some(reader.id(number)),
            Some((EventId::Missing, _)) => None,
            Some((EventId::Empty, _)) => Some(String::new()),
            Some((EventId::Same, from)) => Some(reader.id(from)),
        }
    }
}

impl Site {
    /// Answers a POSTed request, as JSON or as SSE.
    pub(super) async fn answer(
        &self,
        connection: &mut Connection,
        request: &Recorded,
        mut reader: Reader,
        form: Form,
    ) -> io::Result<After> {
        let headers = &request.headers;
        let accepts = |kind: &str| headers.lists("accept", kind) || headers.lists("accept", "*/*");
        let mut held = Vec::new();
        let json = match self.server.script.http.answer {
            _ if form.poll.is_some() => false,
            _ if form.json => true,
            AnswerForm::Json => true,
            _ if !accepts("text/event-stream") => true,
            AnswerForm::Sse => !accepts("text/event-stream"),
            AnswerForm::Auto => {
                let Some(first) = next_or_gone(connection, &mut reader).await else {
                    return Ok(After::Close);
                };
                let alone = first.answer && {
                    let second = reader.next().await;
                    let alone = second.is_none();
                    held.extend(second);
                    alone
                };
                held.insert(0, first);
                alone && accepts("application/json")
            }
        };
        if !json {
            return self.stream(connection, reader, held, form).await;
        }
        let answer = loop {
            let event =
                if held.is_empty() { next_or_gone(connection, &mut reader).await } else { Some(held.remove(0)) };
            match event {
                Some(event) if event.answer => break event,
                Some(_) => {}
                None => return Ok(After::Close),
            }
        };
        self.body(connection, &answer, form).await
    }

    /// Writes an answer as a JSON body.
    async fn body(&self, connection: &mut Connection, answer: &Event, form: Form) -> io::Result<After> {
        let steps = {
            let mut wire = answer.wire.lock().unwrap_or_else(PoisonError::into_inner);
            wire.say(Framing::Body, Frame::new(&answer.text, true))
        };
        let cut = steps
            .iter()
            .any(|step| matches!(step, Step::Stall | Step::Close(End::Abrupt | End::MidChunk | End::Reset)));
        let mut body = form.body;
        let (steps, length) = body.encode_all(steps);
        let announced = if cut { length.max(answer.text.len()) + 1 } else { length };
        let mut headers = Headers::default();
        headers.push("Content-Type", form.content_type.as_deref().unwrap_or("application/json"));
        body.announce(BodyEnd::Length(announced as u64), &mut headers);
        if let Some(session) = form.new_session {
            headers.push(SESSION, session);
        }
        connection.head(if form.modern { modern_status(&answer.text) } else { 200 }, &headers).await?;
        match body.perform(connection, steps).await? {
            Some(after) => Ok(after),
            None => body.end(connection, End::Clean).await,
        }
    }

    /// Writes events until there are no more.
    pub(super) async fn stream(
        &self,
        connection: &mut Connection,
        mut reader: Reader,
        held: Vec<Event>,
        mut form: Form,
    ) -> io::Result<After> {
        let mut headers = Headers::default();
        headers.push("Content-Type", form.content_type.as_deref().unwrap_or("text/event-stream"));
        headers.push("Cache-Control", "no-cache, no-transform");
        headers.push("X-Accel-Buffering", "no");
        form.body.announce(BodyEnd::Chunked, &mut headers);
        if let Some(session) = form.new_session.take() {
            headers.push(SESSION, session);
        }
        connection.head(200, &headers).await?;
        if let Some(wire) = &mut form.wire {
            let steps = wire.opening(Framing::Sse);
            if let Some(after) = form.body.perform(connection, steps).await? {
                return Ok(after);
            }
        }
        if let Some((event, data)) = form.opening.take() {
            let frame = Frame { event: Some(event), ..Frame::new(&data, false) };
            let steps = form.wire.as_mut().unwrap_or(&mut form.plain).say(Framing::Sse, frame);
            if let Some(after) = form.body.perform(connection, steps).await? {
                return Ok(after);
            }
        }
        if form.prime
            && let Some(id) = form.id(&reader, 0)
        {
            let steps = form.plain.aside(Framing::Sse, Frame { id: Some(&id), ..Frame::new("", false) });
            form.body.perform(connection, steps).await?;
        }
        if let Some(retry) = form.poll {
            if let Some(retry) = retry {
                form.body.perform(connection, vec![Step::Write(format!("retry: {retry}\n\n").into())]).await?;
            }
            return form.body.end(connection, End::Clean).await;
        }
        let mut held = held.into_iter();
        loop {
            let event = match held.next() {
                Some(event) => Some(event),
                None => tokio::select! {
                    biased;
                    event = reader.next() => event,
                    () = connection.gone() => return Ok(After::Close),
                },
            };
            let Some(event) = event else {
                return form.body.end(connection, End::Clean).await;
            };
            let id = form.id(&reader, event.number);
            let frame = Frame { text: &event.text, answer: event.answer, id: id.as_deref(), event: form.event };
            let steps = match &mut form.wire {
                Some(wire) => wire.say(Framing::Sse, Frame { answer: false, ..frame }),
                None => event.wire.lock().unwrap_or_else(PoisonError::into_inner).say(Framing::Sse, frame),
            };
            if let Some(after) = form.body.perform(connection, steps).await? {
                return Ok(after);
            }
        }
    }
}

/// The status of a modern JSON answer: that of its error, if 2026-07-28 gives it one.
fn modern_status(answer: &str) -> u16 {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    match answer["error"]["code"].as_i64() {
        Some(-32022..=-32020) => 400,
        Some(-32601) => 404,
        _ => 200,
    }
}

/// The next event, or `None` when the client goes away first, or there is none.
async fn next_or_gone(connection: &mut Connection, reader: &mut Reader) -> Option<Event> {
    tokio::select! {
        biased;
        event = reader.next() => match event {
            Some(event) => Some(event),
            // An exchange that ends without an answer leaves the request hanging, as it does over stdio.
            None => {
                connection.gone().await;
                None
            }
        },
        () = connection.gone() => None,
    }
}

pub(super) async fn refuse(connection: &mut Connection, id: &str, refused: Refused) -> io::Result<After> {
    let Refused { status, failure } = refused;
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#, failure.to_json());
    connection.reply(status, [("Content-Type", "application/json")].into_iter().collect(), &body).await
}
