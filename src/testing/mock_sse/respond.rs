//! From a request to its response.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::connection::{After, Connection};
use super::events::{Event, Reader};
use super::message::{self, Refused};
use super::session::Session;
use super::{Headers, Recorded, Site};
use crate::testing::faults::{Do, End, Occasion};
use crate::testing::http::chunk;
use crate::testing::incoming::{Incoming, Kind};
use crate::testing::methods::is_modern_method;
use crate::testing::peer::{OUTBOX, Outlet, Peer};
use crate::testing::script::{AnswerForm, Discover, Served};
use crate::testing::server::{Failure, Spoken};
use crate::testing::wire::{Frame, Framing, Step, Wire};

/// The header of a legacy session.
const SESSION: &str = "Mcp-Session-Id";

/// How an SSE response is written.
#[derive(Default)]
struct Form {
    /// The session whose id the head carries.
    new_session: Option<String>,
    /// Whether events have ids.
    ids: bool,
    /// Whether the first event only sets the id.
    prime: bool,
    /// The `event:` field of messages.
    event: Option<&'static str>,
    /// An event before all others: its kind and its data.
    opening: Option<(&'static str, String)>,
    /// The faults of this very response, rather than those of the exchanges whose events it carries.
    wire: Option<Wire>,
    poll: Option<Option<u64>>,
    content_type: Option<String>,
    /// Whether it is a JSON body whatever the script says.
    json: bool,
    /// Whether the status of an error is the one of 2026-07-28.
    modern: bool,
}

impl Site {
    /// Answers a request.
    pub(super) async fn respond(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
    ) -> io::Result<After> {
        let posted = (request.method == "POST").then(|| message::read(request));
        let incoming = posted.as_ref().and_then(|read| read.as_ref().ok());
        let mut faults = self.server.plan.on(Occasion {
            start: false,
            http: Some(&request.method),
            message: incoming,
        });
        if let Some(after) = self.misbehave(connection, request, &mut faults).await? {
            return Ok(after);
        }
        let script = &self.server.script.http;
        let path = request.target.split('?').next().unwrap_or_default();
        match (request.method.as_str(), posted) {
            ("POST", Some(Ok(message))) if path == script.path && script.streamable => {
                self.post(connection, request, message, faults).await
            }
            ("GET", _) if path == script.path && script.streamable => {
                self.get(connection, request, &faults).await
            }
            ("DELETE", _) if path == script.path && script.streamable => {
                self.delete(connection, request).await
            }
            ("GET", _) if path == "/sse" && script.http_sse => {
                self.open_sse(connection, &faults).await
            }
            ("POST", Some(Ok(message))) if path == "/messages" && script.http_sse => {
                self.post_message(connection, request, message, faults)
                    .await
            }
            ("POST", Some(Err(refused))) => refuse(connection, "null", refused).await,
            _ if path == script.path || path == "/sse" || path == "/messages" => {
                let status = if path == script.path && !script.streamable {
                    404
                } else {
                    405
                };
                connection.reply(status, Headers::default(), "").await
            }
            _ => connection.reply(404, Headers::default(), "").await,
        }
    }

    /// Faults that come before anything is done; those that remain are left in the list.
    async fn misbehave(
        &self,
        connection: &mut Connection,
        request: &Recorded,
        faults: &mut Vec<Do>,
    ) -> io::Result<Option<After>> {
        let mut left = Vec::new();
        for fault in faults.drain(..) {
            match fault {
                Do::Delay { ms } => tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(ms)) => {}
                    () = connection.gone() => return Ok(Some(After::Close)),
                },
                Do::Hang => {
                    connection.gone().await;
                    return Ok(Some(After::Close));
                }
                Do::Cut {
                    after: None,
                    end: End::Reset,
                } => return connection.reset().map(Some),
                Do::Cut { after: None, .. } => return Ok(Some(After::Close)),
                Do::Status {
                    code,
                    headers,
                    body,
                } => {
                    return connection
                        .reply(code, headers.into_iter().collect(), &body)
                        .await
                        .map(Some);
                }
                Do::ForgetSession => {
                    self.sessions
                        .forget(request.headers.get(SESSION).unwrap_or_default());
                }
                other => left.push(other),
            }
        }
        *faults = left;
        Ok(None)
    }

    async fn post(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
        message: Incoming,
        faults: Vec<Do>,
    ) -> io::Result<After> {
        let id = message.id.clone().unwrap_or_else(|| "null".into());
        let era = self.server.script.era;
        let claimed =
            message.claimed_version().is_some() || message::claims_modern(&request.headers);
        if era == Served::Modern || (era == Served::Dual && claimed) {
            return match self.check_modern(request, &message) {
                Ok(()) => self.modern(connection, request, message, faults).await,
                Err(refused) => refuse(connection, &id, refused).await,
            };
        }
        if era == Served::Legacy && message.method == "server/discover" {
            match self.server.script.discover {
                Discover::Error => {}
                Discover::Silence => {
                    connection.gone().await;
                    return Ok(After::Close);
                }
                Discover::Exit => {
                    self.exit(1);
                    return Ok(After::Close);
                }
            }
        }
        let checked = message::legacy_version(&request.headers)
            .and_then(|()| self.session(request, &message));
        match checked {
            Ok(session) => {
                self.legacy(connection, request, &session, message, faults)
                    .await
            }
            Err(refused) => refuse(connection, &id, refused).await,
        }
    }

    fn check_modern(&self, request: &Recorded, message: &Incoming) -> Result<(), Refused> {
        let peer = Peer::new(Outlet::new(
            tokio::sync::mpsc::channel(1).0,
            Wire::default(),
        ));
        match message.kind {
            Kind::Answer(_) => Err(Refused::new(400, -32600, "There is nothing to answer")),
            Kind::Notification => Ok(()),
            Kind::Request => {
                if message.claimed_version().is_some() {
                    message::mirrored(&request.headers, message)?;
                }
                match self.server.spoken(&peer, message) {
                    Ok(Spoken::Modern) => Ok(()),
                    Err(failure) if failure.code != -32600 => Err(Refused {
                        status: 400,
                        failure,
                    }),
                    _ => Err(Refused::new(400, -32602, "Missing request metadata")),
                }
            }
        }
    }

    /// The session of a legacy message: a new one for `initialize`, else the one it names.
    fn session(
        self: &Arc<Self>,
        request: &Recorded,
        message: &Incoming,
    ) -> Result<Arc<Session>, Refused> {
        match request.headers.get(SESSION) {
            None if message.method == "initialize" => Ok(self.open_session()),
            None => Err(Refused::new(400, -32600, "Missing session id")),
            Some(id) => self
                .sessions
                .get(id)
                .ok_or_else(|| Refused::new(404, -32600, "Session not found")),
        }
    }

    async fn modern(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
        message: Incoming,
        faults: Vec<Do>,
    ) -> io::Result<After> {
        let is_request = message.kind == Kind::Request;
        // Nothing may be said outside the exchange: this outlet leads nowhere.
        let nowhere = tokio::sync::mpsc::channel(OUTBOX).0;
        let peer = Peer::new(Outlet::new(nowhere, Wire::default()));
        let events = super::events::Events::new(0);
        let reader = events.read(None);
        let json = !is_modern_method(&message.method);
        let form = Form {
            content_type: content_type(&faults),
            json,
            modern: true,
            ..Form::default()
        };
        let canceller = self.run(&peer, message, faults, &events);
        if !is_request {
            return connection.reply(202, Headers::default(), "").await;
        }
        let _cancel = canceller.drop_guard();
        let after = self.answer(connection, request, reader, form).await;
        events.delivered.cancel();
        after
    }

    async fn legacy(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
        session: &Arc<Session>,
        message: Incoming,
        faults: Vec<Do>,
    ) -> io::Result<After> {
        let initialize = message.method == "initialize";
        let is_request = message.kind == Kind::Request;
        let poll = faults.iter().find_map(|fault| {
            if let Do::Poll { retry_ms } = fault {
                Some(*retry_ms)
            } else {
                None
            }
        });
        let content_type = content_type(&faults);
        let events = session.stream();
        let reader = events.read(None);
        self.run(&session.peer, message, faults, &events);
        if !is_request {
            return connection.reply(202, Headers::default(), "").await;
        }
        let prime = session
            .peer
            .state()
            .revision
            .is_some_and(|revision| revision >= "2025-11-25");
        let form = Form {
            new_session: initialize.then(|| session.id.clone()),
            ids: true,
            prime: (prime && !initialize) || poll.is_some(),
            poll,
            content_type,
            ..Form::default()
        };
        let after = self.answer(connection, request, reader, form).await;
        events.delivered.cancel();
        after
    }

    /// Answers a POSTed request, as JSON or as SSE.
    async fn answer(
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
            let event = if held.is_empty() {
                next_or_gone(connection, &mut reader).await
            } else {
                Some(held.remove(0))
            };
            match event {
                Some(event) if event.answer => break event,
                Some(_) => {}
                None => return Ok(After::Close),
            }
        };
        self.body(connection, &answer, form).await
    }

    /// Writes an answer as a JSON body.
    async fn body(
        &self,
        connection: &mut Connection,
        answer: &Event,
        form: Form,
    ) -> io::Result<After> {
        let steps = {
            let mut wire = answer.wire.lock().unwrap_or_else(PoisonError::into_inner);
            wire.say(Framing::Body, Frame::new(&answer.text, true))
        };
        let written: usize = steps
            .iter()
            .map(|step| {
                if let Step::Write(bytes) = step {
                    bytes.len()
                } else {
                    0
                }
            })
            .sum();
        let cut = steps
            .iter()
            .any(|step| matches!(step, Step::Stall | Step::Close(End::Abrupt | End::Reset)));
        let announced = if cut {
            written.max(answer.text.len()) + 1
        } else {
            written
        };
        let mut headers = Headers::default();
        headers.push(
            "Content-Type",
            form.content_type.as_deref().unwrap_or("application/json"),
        );
        headers.push("Content-Length", announced.to_string());
        headers.extend_session(form.new_session);
        connection
            .head(
                if form.modern {
                    modern_status(&answer.text)
                } else {
                    200
                },
                &headers,
            )
            .await?;
        Ok(perform(connection, steps, false)
            .await?
            .unwrap_or(After::Next))
    }

    /// Writes events until there are no more.
    async fn stream(
        &self,
        connection: &mut Connection,
        mut reader: Reader,
        held: Vec<Event>,
        mut form: Form,
    ) -> io::Result<After> {
        let mut headers = Headers::default();
        headers.push(
            "Content-Type",
            form.content_type.as_deref().unwrap_or("text/event-stream"),
        );
        headers.push("Cache-Control", "no-cache, no-transform");
        headers.push("X-Accel-Buffering", "no");
        headers.push("Transfer-Encoding", "chunked");
        headers.extend_session(form.new_session.take());
        connection.head(200, &headers).await?;
        if let Some((event, data)) = form.opening.take() {
            connection
                .write(&chunk(
                    format!("event: {event}\ndata: {data}\n\n").as_bytes(),
                ))
                .await?;
        }
        if form.prime {
            connection
                .write(&chunk(
                    format!("id: {}\ndata: \n\n", reader.id(0)).as_bytes(),
                ))
                .await?;
        }
        if let Some(retry) = form.poll {
            let retry = retry.map_or_else(String::new, |retry| format!("retry: {retry}\n\n"));
            if !retry.is_empty() {
                connection.write(&chunk(retry.as_bytes())).await?;
            }
            return finish(connection).await;
        }
        if let Some(wire) = &mut form.wire {
            let steps = wire.opening(Framing::Sse);
            if let Some(after) = perform(connection, steps, true).await? {
                return Ok(after);
            }
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
                return finish(connection).await;
            };
            let id = form.ids.then(|| reader.id(event.number));
            let frame = Frame {
                text: &event.text,
                answer: event.answer,
                id: id.as_deref(),
                event: form.event,
            };
            let steps = match &mut form.wire {
                Some(wire) => wire.say(
                    Framing::Sse,
                    Frame {
                        answer: false,
                        ..frame
                    },
                ),
                None => event
                    .wire
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .say(Framing::Sse, frame),
            };
            if let Some(after) = perform(connection, steps, true).await? {
                return Ok(after);
            }
        }
    }

    async fn get(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
        faults: &[Do],
    ) -> io::Result<After> {
        if message::claims_modern(&request.headers) || !self.server.script.http.get_stream {
            return connection.reply(405, Headers::default(), "").await;
        }
        if !request.headers.lists("accept", "text/event-stream") {
            return connection.reply(406, Headers::default(), "").await;
        }
        let Some(id) = request.headers.get(SESSION) else {
            return connection
                .reply(400, Headers::default(), "Missing session id")
                .await;
        };
        let Some(session) = self.sessions.get(id) else {
            return connection
                .reply(404, Headers::default(), "Session not found")
                .await;
        };
        let reader = match request.headers.get("last-event-id") {
            None => session.unasked.read(None),
            Some(event_id) => match session.place(event_id) {
                Some((events, _)) if faults.contains(&Do::ReplayAll) => events.read(Some(0)),
                Some((events, number)) => events.read(Some(number)),
                None => {
                    return connection
                        .reply(400, Headers::default(), "No such event")
                        .await;
                }
            },
        };
        let content_type = content_type(faults);
        let form = Form {
            ids: true,
            wire: Some(Wire::new(faults)),
            content_type,
            ..Form::default()
        };
        self.stream(connection, reader, Vec::new(), form).await
    }

    async fn delete(&self, connection: &mut Connection, request: &Recorded) -> io::Result<After> {
        let status = match request.headers.get(SESSION) {
            _ if message::claims_modern(&request.headers) => 405,
            None => 400,
            Some(id) if self.sessions.forget(id) => 204,
            Some(_) => 404,
        };
        connection.reply(status, Headers::default(), "").await
    }

    /// HTTP+SSE: the stream that is the session.
    async fn open_sse(
        self: &Arc<Self>,
        connection: &mut Connection,
        faults: &[Do],
    ) -> io::Result<After> {
        let session = self.open_session();
        let endpoint = format!("/messages?session_id={}", session.id);
        let form = Form {
            event: Some("message"),
            opening: Some(("endpoint", endpoint)),
            wire: (!faults.is_empty()).then(|| Wire::new(faults)),
            content_type: content_type(faults),
            ..Form::default()
        };
        let after = self
            .stream(connection, session.unasked.read(None), Vec::new(), form)
            .await;
        self.sessions.forget(&session.id);
        after
    }

    /// HTTP+SSE: a message, whose answer goes to the stream.
    async fn post_message(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
        message: Incoming,
        faults: Vec<Do>,
    ) -> io::Result<After> {
        let id = request.target.split_once("session_id=").map(|(_, id)| id);
        let Some(session) = id.and_then(|id| self.sessions.get(id)) else {
            return connection
                .reply(404, Headers::default(), "Session not found")
                .await;
        };
        let outlet = session.peer.unasked.with_wire(Wire::new(&faults));
        let exchange = self.server.receive(&session.peer, message, faults, outlet);
        self.spawn(exchange.run());
        connection.reply(202, Headers::default(), "Accepted").await
    }
}

impl Headers {
    fn extend_session(&mut self, session: Option<String>) {
        if let Some(id) = session {
            self.push(SESSION, id);
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

fn content_type(faults: &[Do]) -> Option<String> {
    faults.iter().find_map(|fault| {
        if let Do::ContentType(value) = fault {
            Some(value.clone())
        } else {
            None
        }
    })
}

async fn refuse(connection: &mut Connection, id: &str, refused: Refused) -> io::Result<After> {
    let Refused { status, failure } = refused;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#,
        Failure::to_json(&failure)
    );
    connection
        .reply(
            status,
            [("Content-Type", "application/json")].into_iter().collect(),
            &body,
        )
        .await
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

/// Ends a chunked body.
async fn finish(connection: &mut Connection) -> io::Result<After> {
    connection.write(b"0\r\n\r\n").await?;
    Ok(After::Next)
}

/// Does what a wire says; what becomes of the connection, if that is decided.
async fn perform(
    connection: &mut Connection,
    steps: Vec<Step>,
    chunked: bool,
) -> io::Result<Option<After>> {
    for step in steps {
        match step {
            Step::Write(bytes) if chunked => connection.write(&chunk(&bytes)).await?,
            Step::Write(bytes) => connection.write(&bytes).await?,
            Step::Pause(gap) => tokio::time::sleep(gap).await,
            Step::Stall => {
                connection.gone().await;
                return Ok(Some(After::Close));
            }
            Step::Close(End::Clean) if chunked => return finish(connection).await.map(Some),
            Step::Close(End::Clean) => return Ok(Some(After::Next)),
            Step::Close(End::Abrupt) => return Ok(Some(After::Close)),
            Step::Close(End::Reset) => return connection.reset().map(Some),
        }
    }
    Ok(None)
}
