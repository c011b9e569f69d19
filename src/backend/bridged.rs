//! Connections of requests of 2026-07-28 to a server with a handshake. Its handshake is the proxy's: with what the request
//! declares that its client can be asked, since the server learns that once; whoever declares something else uses others.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use tokio::time::Instant;

use super::cells::Cells;
use super::hub::Hub;
use super::key::{Key, Principal};
use super::{Backend, OpenError, Way};
use crate::bridge::handshake::Handshake;
use crate::bridge::modern_to_legacy::declared::Declared;
use crate::bridge::sharing;
use crate::protocol::message::Message;
use crate::settings::BridgeReuse;

/// Most answers to handshakes that are kept: clients choose what they declare, and who they are. And the longest that is, in bytes.
pub(super) const GREETINGS_MAX: usize = 256;
const GREETING_BYTES_MAX: usize = 256 << 10;

/// Who asks a server with a handshake, and what goes along.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) declared: Declared,
    /// Who it shows to be, whether or not the isolation wants to know.
    pub(crate) principal: Option<Principal>,
    /// What an HTTP server gets of its headers.
    pub(crate) headers: Arc<HeaderMap>,
}

impl Guest {
    /// Who it is to the server: what that says to one may be for that one alone.
    pub(crate) fn whole(&self) -> Option<Principal> {
        if self.headers.is_empty() { self.principal } else { Some(Principal::with(self.principal, &self.headers)) }
    }
}

/// A way to the server.
pub(crate) struct Bridged {
    pub(crate) way: Way,
    /// The answer to the handshake.
    pub(crate) greeting: Message,
}

/// What the server answered to handshakes, and when.
pub(super) type Greetings = Cells<(Declared, Option<Principal>), (Instant, Message)>;

impl Backend {
    /// The connection for one request. It is that request's alone, unless the isolation says otherwise; then nobody can be
    /// asked anything.
    ///
    /// # Errors
    /// See [`OpenError`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is left behind.
    pub(crate) async fn bridged(&self, guest: &Guest) -> Result<Bridged, OpenError> {
        if !self.asks_guests() {
            let hub = self.hub(&handshake(Declared::default()), guest.principal).await?;
            let (connection, greeting) = (hub.connection().clone(), hub.answer().clone());
            return Ok(Bridged { way: connection.into(), greeting });
        }
        let mut lease = self.lease_of(self.pinned(guest).unwrap_or_else(|| self.key(guest))).await?;
        lease.reuse(self.settings.bridge_reuse != BridgeReuse::Never);
        if !lease.is_complete() {
            lease.completion().complete().await.map_err(OpenError::Unanswered)?;
        }
        let greeting = lease.answer.clone().ok_or(OpenError::Lost)?;
        Ok(Bridged { way: lease.into(), greeting })
    }

    /// The connection on which the server is heard, by all of those who may have one in common.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) async fn listeners(&self, guest: &Guest) -> Result<Arc<Hub>, OpenError> {
        let handshake = handshake(Declared::default());
        if !self.asks_guests() {
            return self.hub(&handshake, guest.principal).await;
        }
        let guest = Guest { declared: Declared::default(), ..guest.clone() };
        self.hub_of((handshake, self.listener(&guest)), || self.key(&guest)).await
    }

    /// What the only connection of this one is filed under, where there is only one. It is known who that is.
    fn pinned(&self, guest: &Guest) -> Option<Key> {
        let is_known = self.settings.bridge_reuse == BridgeReuse::Pinned && guest.principal.is_some();
        let owner = guest.whole().filter(|_| is_known)?;
        Some(Key::Pinned { handshake: handshake(guest.declared), owner, headers: Arc::clone(&guest.headers) })
    }

    /// What a connection for this one is filed under.
    fn key(&self, guest: &Guest) -> Key {
        let owner = guest.principal.filter(|_| self.settings.bridge_reuse != BridgeReuse::Any);
        Key::Legacy { handshake: handshake(guest.declared), owner, headers: Arc::clone(&guest.headers) }
    }

    /// Who has something in common: those of one principal, if that matters, with the same headers.
    fn listener(&self, guest: &Guest) -> Option<Principal> {
        let owner = guest.principal.filter(|_| self.settings.bridge_reuse != BridgeReuse::Any);
        Guest { principal: owner, ..guest.clone() }.whole()
    }

    /// What the server says of itself, which it is not asked each time.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) async fn greeting(&self, guest: &Guest) -> Result<Message, OpenError> {
        let (ttl, key) = (self.timeouts.discover_ttl, (guest.declared, guest.whole()));
        loop {
            let mut cell = self.greetings.get(key);
            if cell.is_none() {
                drop(self.greetings.sweep(|_, (since, _)| since.elapsed() >= ttl));
                cell = self.greetings.get(key);
            }
            let Some(cell) = cell else { return Ok(self.bridged(guest).await?.greeting) };
            // Of those who ask at the same time, one does.
            let fresh = || async { Ok::<_, OpenError>((Instant::now(), self.bridged(guest).await?.greeting.alone())) };
            let (since, greeting) = cell.get_or_try_init(fresh).await?;
            let (is_current, is_large) = (since.elapsed() < ttl, greeting.text().len() > GREETING_BYTES_MAX);
            if !is_current || is_large {
                self.greetings.forget(&cell);
            }
            if is_current {
                return Ok(greeting.clone());
            }
        }
    }

    /// Whether the server may ask the client of a request of 2026-07-28: whether it is certain whom it means.
    pub(crate) fn asks_guests(&self) -> bool {
        sharing::may_ask(self.settings.isolation)
    }

    /// Who the client is that sent these headers, as far as it says so.
    pub(crate) fn shown(&self, headers: &HeaderMap) -> Option<Principal> {
        Principal::of(headers, &self.settings.principal_header)
    }
}

/// The handshake for clients that declare this. They are made once.
fn handshake(declared: Declared) -> Arc<Handshake> {
    static MADE: [OnceLock<Arc<Handshake>>; Declared::COUNT] = [const { OnceLock::new() }; Declared::COUNT];
    Arc::clone(MADE[declared.index()].get_or_init(|| Arc::new(declared.handshake())))
}
