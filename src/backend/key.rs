//! What a pooled connection is good for, and whose it is.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::bridge::handshake::Handshake;
use crate::pool::ledger;

/// Who a client is: a digest of what it shows, so that no secret is kept. Whether it may show that is for others to check.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Principal([u8; 32]);

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

impl Principal {
    /// The one whom a header names. `None` without the header, and with several: that would be a matter of opinion.
    pub(crate) fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Principal> {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Some(Principal::digest(value.as_bytes())),
            _ => None,
        }
    }

    /// Whoever started this process: the only client there is on standard input and output.
    pub(crate) fn local() -> Principal {
        Principal::digest(b"")
    }

    /// What is kept of what it shows.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whoever it is, as one who sends these headers.
    pub(crate) fn with(principal: Option<Principal>, headers: &HeaderMap) -> Principal {
        let mut shown = principal.map_or(Vec::new(), |principal| principal.0.to_vec());
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                shown.extend_from_slice(&(part.len() as u64).to_be_bytes());
                shown.extend_from_slice(part);
            }
        }
        Principal::digest(&shown)
    }

    fn digest(shown: &[u8]) -> Principal {
        let digest = ring::digest::digest(&ring::digest::SHA256, shown);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Principal(bytes)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    /// Started and ready for a handshake of any kind.
    Spare,
    /// Asked for its era; `patient` if its answer is waited for as long as for any start.
    Probe { patient: bool },
    /// Initialised so, with these headers of the client's, for this principal if principals are kept apart.
    Legacy { handshake: Arc<Handshake>, owner: Option<Principal>, headers: Arc<HeaderMap> },
    /// The only one that this principal has, whatever the handshake was.
    Pinned { handshake: Arc<Handshake>, owner: Principal, headers: Arc<HeaderMap> },
    /// Known to be modern.
    Modern { owner: Option<Principal> },
}

impl Key {
    /// The handshake that is made on such a connection, and what goes along with it.
    pub(super) fn handshake(&self) -> Option<(&Arc<Handshake>, &Arc<HeaderMap>)> {
        match self {
            Key::Legacy { handshake, headers, .. } | Key::Pinned { handshake, headers, .. } => {
                Some((handshake, headers))
            }
            Key::Spare | Key::Probe { .. } | Key::Modern { .. } => None,
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Key::Spare, Key::Spare) | (Key::Probe { .. }, Key::Probe { .. }) => true,
            (
                Key::Legacy { handshake, owner, headers },
                Key::Legacy { handshake: other, owner: of_other, headers: sent_by_other },
            ) => owner == of_other && handshake == other && headers == sent_by_other,
            (Key::Pinned { owner, .. }, Key::Pinned { owner: of_other, .. }) => owner == of_other,
            (Key::Modern { owner }, Key::Modern { owner: of_other }) => owner == of_other,
            _ => false,
        }
    }
}

impl ledger::Key for Key {
    fn fits(&self, held: &Self) -> bool {
        self == held || (matches!(self, Key::Legacy { .. }) && *held == Key::Spare)
    }

    fn is_spare(&self) -> bool {
        *self == Key::Spare
    }

    fn is_single(&self) -> bool {
        matches!(self, Key::Pinned { .. })
    }
}
