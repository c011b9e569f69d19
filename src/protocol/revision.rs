//! The protocol's revisions and eras.

use std::fmt;

/// A published revision, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05: HTTP+SSE.
    V2024_11_05,
    /// 2025-03-26: Streamable HTTP, batches.
    V2025_03_26,
    /// 2025-06-18: elicitation, no batches, version header.
    V2025_06_18,
    /// 2025-11-25: tasks, URL elicitation, priming events.
    V2025_11_25,
    /// 2026-07-28: stateless.
    V2026_07_28,
}

/// How a revision keeps state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// Handshake and session: 2024-11-05 … 2025-11-25.
    Legacy,
    /// Metadata on each request, no session: 2026-07-28.
    Modern,
}

impl Era {
    /// As it is called in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        }
    }
}

impl Revision {
    /// All of them, newest first: the order in which they are offered.
    pub const ALL: [Revision; 5] = [
        Revision::V2026_07_28,
        Revision::V2025_11_25,
        Revision::V2025_06_18,
        Revision::V2025_03_26,
        Revision::V2024_11_05,
    ];

    /// The newest revision with a handshake.
    pub const LATEST_LEGACY: Revision = Revision::V2025_11_25;

    /// What a Streamable HTTP request without a version header is taken to speak (2025-06-18, Transports › Protocol Version Header).
    pub const ASSUMED: Revision = Revision::V2025_03_26;

    /// As written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Revision::V2024_11_05 => "2024-11-05",
            Revision::V2025_03_26 => "2025-03-26",
            Revision::V2025_06_18 => "2025-06-18",
            Revision::V2025_11_25 => "2025-11-25",
            Revision::V2026_07_28 => "2026-07-28",
        }
    }

    /// Reads a revision; `None` for one that is not known. Never compares dates of unknown ones.
    pub fn parse(text: &str) -> Option<Revision> {
        Revision::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// Its era.
    pub fn era(self) -> Era {
        if self == Revision::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
