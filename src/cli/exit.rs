//! Exit codes.

use std::process::ExitCode;

/// How the program ends. The numbers are part of the interface: scripts and supervisors look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Fine = 0,
    /// A fault of the program's own.
    Internal = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// A configuration file is invalid.
    Config = 3,
    /// An address cannot be listened on.
    Listen = 4,
    /// An upstream cannot be started or reached.
    Upstream = 5,
    /// A tape cannot be read.
    Tape = 6,
    /// The answer is no: a server is not safe to share, answers wrongly, or is slower than its budget; a fault of a plan never
    /// happened; a tape was asked for what it does not have.
    Negative = 7,
    /// What was asked for is unsafe, and nobody has said that it is meant.
    Refused = 8,
    /// Shutdown had to cut something off.
    Forced = 9,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
