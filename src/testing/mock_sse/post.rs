//! POSTed messages of both eras.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::connection::{After, Connection};
use super::events::Events;
use super::message::{self, Refused};
use super::session::Session;
use super::write::{self, Form};
use super::{Headers, Recorded, SESSION, Site};
use crate::testing::faults::Do;
use crate::testing::incoming::{Incoming, Kind};
use crate::testing::methods::is_modern_method;
use crate::testing::peer::{Outlet, Peer};
use crate::testing::script::{Discover, Served};
use crate::testing::server::Spoken;
use crate::testing::wire::Wire;

impl Site {
    pub(super) async fn post(
        self: &Arc<Self>,
        connection: &mut Connection,
        request: &Recorded,
        message: Incoming,
        faults: Vec<Do>,
    ) -> io::Result<After> {
        let id = message.id.clone().unwrap_or_else(|| "null".into());
        let era = self.server.script.era;
        let claimed = message.claimed_version().is_some() || message::claims_modern(&request.headers);
        if era == Served::Modern || (era == Served::Dual && claimed) {
            return match self.check_modern(request, &message) {
                Ok(()) => self.modern(connection, request, message, faults).await,
                Err(refused) => write::refuse(connection, &id, refused).await,
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
        let checked = message::legacy_version(&request.headers).and_then(|()| self.session(request, &message));
        match checked {
            Ok(session) => self.legacy(connection, request, &session, message, faults).await,
            Err(refused) => write::refuse(connection, &id, refused).await,
        }
    }

    fn check_modern(&self, request: &Recorded, message: &Incoming) -> Result<(), Refused> {
        let peer = peer_of_one_request();
        match message.kind {
            Kind::Answer(_) => Err(Refused::new(400, -32600, "There is nothing to answer")),
            Kind::Notification => Ok(()),
            Kind::Request => {
                if message.claimed_version().is_some() {
                    message::mirrored(&request.headers, message)?;
                }
                match self.server.spoken(&peer, message) {
                    Ok(Spoken::Modern) => Ok(()),
                    Err(failure) if failure.code != -32600 => Err(Refused { status: 400, failure }),
                    _ => Err(Refused::new(400, -32602, "Missing request metadata")),
                }
            }
        }
    }

    /// The session of a legacy message: a new one for `initialize`, else the one it names.
    fn session(self: &Arc<Self>, request: &Recorded, message: &Incoming) -> Result<Arc<Session>, Refused> {
        match request.headers.get(SESSION) {
            None if message.method == "initialize" => Ok(self.open_session()),
            None => Err(Refused::new(400, -32600, "Missing session id")),
            Some(id) => self.sessions.get(id).ok_or_else(|| Refused::new(404, -32600, "Session not found")),
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
        let peer = peer_of_one_request();
        let events = Events::new(0);
        let reader = events.read(None);
        let json = !is_modern_method(&message.method);
        let form = Form { json, modern: true, ..Form::new(&faults) };
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
        let form = Form::new(&faults);
        let events = session.stream();
        let reader = events.read(None);
        self.run(&session.peer, message, faults, &events);
        if !is_request {
            return connection.reply(202, Headers::default(), "").await;
        }
        let prime = session.peer.state().revision.is_some_and(|revision| revision >= "2025-11-25");
        let form = Form {
            new_session: initialize.then(|| session.id.clone()),
            ids: true,
            prime: (prime && !initialize) || form.poll.is_some(),
            ..form
        };
        let after = self.answer(connection, request, reader, form).await;
        events.delivered.cancel();
        after
    }
}

/// A peer to whom nothing can be said but in answer: what every modern request has.
fn peer_of_one_request() -> Arc<Peer> {
    Peer::new(Outlet::new(mpsc::channel(1).0, Wire::default()))
}
