//! From a request to what answers it: faults that come first, then the endpoints.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{After, Connection};
use super::message;
use super::write::{self, Form};
use super::{Headers, Recorded, SESSION, Site};
use crate::testing::faults::{Do, End};
use crate::testing::incoming::Incoming;
use crate::testing::plan::Occasion;
use crate::testing::wire::Wire;

impl Site {
    /// Answers a request.
    pub(super) async fn respond(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
    ) -> io::Result<After> {
        let posted = (request.method == "POST").then(|| message::read(request));
        let incoming = posted.as_ref().and_then(|read| read.as_ref().ok());
        let mut faults = self.server.plan.on(Occasion { start: false, http: Some(&request.method), message: incoming });
        connection.prepare(&faults);
        if let Some(after) = self.misbehave(connection, request, &mut faults).await? {
            return Ok(after);
        }
        let script = &self.server.script.http;
        let path = request.target.split('?').next().unwrap_or_default();
        match (request.method.as_str(), posted) {
            ("POST", Some(Ok(message))) if path == script.path && script.streamable => {
                self.post(connection, request, message, faults).await
            }
            ("GET", _) if path == script.path && script.streamable => self.get(connection, request, &faults).await,
            ("DELETE", _) if path == script.path && script.streamable => self.delete(connection, request).await,
            ("GET", _) if path == "/sse" && script.http_sse => self.open_sse(connection, &faults).await,
            ("POST", Some(Ok(message))) if path == "/messages" && script.http_sse => {
                self.post_message(connection, request, message, faults).await
            }
            ("POST", Some(Err(refused))) => write::refuse(connection, "null", refused).await,
            _ if path == script.path || path == "/sse" || path == "/messages" => {
                let status = if path == script.path && !script.streamable { 404 } else { 405 };
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
                Do::Cut { after: None, end: End::Reset } => return connection.reset().map(Some),
                Do::Cut { after: None, .. } => return Ok(Some(After::Close)),
                Do::Status { code, headers, body } => {
                    return connection.reply(code, headers.into_iter().collect(), &body).await.map(Some);
                }
                Do::ForgetSession => {
                    self.sessions.forget(request.headers.get(SESSION).unwrap_or_default());
                }
                other => left.push(other),
            }
        }
        *faults = left;
        Ok(None)
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
            return connection.reply(400, Headers::default(), "Missing session id").await;
        };
        let Some(session) = self.sessions.get(id) else {
            return connection.reply(404, Headers::default(), "Session not found").await;
        };
        let reader = match request.headers.get("last-event-id") {
            None => session.unasked.read(None),
            Some(event_id) => match session.place(event_id) {
                Some((events, _)) if faults.contains(&Do::ReplayAll) => events.read(Some(0)),
                Some((events, number)) => events.read(Some(number)),
                None => {
                    return connection.reply(400, Headers::default(), "No such event").await;
                }
            },
        };
        let form = Form { ids: true, wire: Some(Wire::new(faults)), ..Form::new(faults) };
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
    async fn open_sse(self: &Arc<Self>, connection: &mut Connection, faults: &[Do]) -> io::Result<After> {
        let session = self.open_session();
        let endpoint = format!("/messages?session_id={}", session.id);
        let form = Form {
            event: Some("message"),
            opening: Some(("endpoint", endpoint)),
            wire: (!faults.is_empty()).then(|| Wire::new(faults)),
            ..Form::new(faults)
        };
        let after = self.stream(connection, session.unasked.read(None), Vec::new(), form).await;
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
            return connection.reply(404, Headers::default(), "Session not found").await;
        };
        let outlet = session.peer.unasked.with_wire(Wire::new(&faults));
        let exchange = self.server.receive(&session.peer, message, faults, outlet);
        self.spawn(exchange.run());
        connection.reply(202, Headers::default(), "Accepted").await
    }
}
