//! Legacy sessions.

pub(crate) mod backlog;
