//! What can go wrong towards an upstream, whose side it is on, and whether the request was sent.

use http::StatusCode;

/// A failure of an upstream or of the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The child cannot be started.
    #[error("the server cannot be started: {0}")]
    Start(String),
    /// The server cannot be reached.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The child has ended.
    #[error("the server has exited ({status})")]
    Exited { status: String, sent: bool },
    /// The child does not read its input.
    #[error("the server does not read what is sent to it")]
    Stalled { sent: bool },
    /// The connection or stream broke before the answer.
    #[error("the connection to the server broke")]
    Lost { sent: bool },
    /// It did not answer in time.
    #[error("the server did not answer in time")]
    Timeout { sent: bool },
    /// It broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Violation(&'static str),
    /// A message of it is too large.
    #[error("a message of the server is larger than allowed")]
    TooLarge,
    /// It refused the proxy's credentials, or wants some.
    #[error("the server answered {0}: the proxy's credentials for it are missing or wrong")]
    Credentials(StatusCode),
    /// It answered with a status that has no meaning here.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// It is busy and said when to come back, in seconds.
    #[error("the server is busy ({status})")]
    Busy { status: StatusCode, retry_after: Option<u64> },
    /// It kept failing, and is left alone for so many seconds.
    #[error("the server keeps failing: it is tried again in {seconds} s")]
    CircuitOpen { seconds: u64 },
    /// It does not know the session any more.
    #[error("the server has forgotten the session")]
    SessionGone,
    /// The client did not read, and others share the connection.
    #[error("the client reads too slowly")]
    SlowClient,
    /// The proxy is shutting down.
    #[error("the proxy is shutting down")]
    Closed { sent: bool },
}

impl UpstreamError {
    /// Whether the request may have reached the server, so that its outcome is unknown.
    pub(crate) fn sent(&self) -> bool {
        match self {
            UpstreamError::Exited { sent, .. }
            | UpstreamError::Stalled { sent }
            | UpstreamError::Lost { sent }
            | UpstreamError::Timeout { sent }
            | UpstreamError::Closed { sent } => *sent,
            UpstreamError::Violation(_) | UpstreamError::TooLarge | UpstreamError::SlowClient => true,
            // It failed while it worked on the request, or whoever stands before it does not know what it did.
            UpstreamError::Status(status) => status.is_server_error(),
            // Who says when to come back has refused it. Without that, a gateway may have lost its server in the midst of it.
            UpstreamError::Busy { status, retry_after } => status.is_server_error() && retry_after.is_none(),
            UpstreamError::Start(_)
            | UpstreamError::Unreachable(_)
            | UpstreamError::Credentials(_)
            | UpstreamError::CircuitOpen { .. }
            | UpstreamError::SessionGone => false,
        }
    }

    /// The same failure for a request that was, or was not, sent.
    pub(crate) fn with_sent(self, sent: bool) -> UpstreamError {
        match self {
            UpstreamError::Exited { status, .. } => UpstreamError::Exited { status, sent },
            UpstreamError::Stalled { .. } => UpstreamError::Stalled { sent },
            UpstreamError::Lost { .. } => UpstreamError::Lost { sent },
            UpstreamError::Timeout { .. } => UpstreamError::Timeout { sent },
            UpstreamError::Closed { .. } => UpstreamError::Closed { sent },
            other => other,
        }
    }

    /// A word for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            UpstreamError::Start(_) => "start",
            UpstreamError::Unreachable(_) => "unreachable",
            UpstreamError::Exited { .. } => "exited",
            UpstreamError::Stalled { .. } => "stalled",
            UpstreamError::Lost { .. } => "lost",
            UpstreamError::Timeout { .. } => "timeout",
            UpstreamError::Violation(_) => "violation",
            UpstreamError::TooLarge => "too_large",
            UpstreamError::Credentials(_) => "credentials",
            UpstreamError::Status(_) => "status",
            UpstreamError::Busy { .. } => "busy",
            UpstreamError::CircuitOpen { .. } => "circuit_open",
            UpstreamError::SessionGone => "session_gone",
            UpstreamError::SlowClient => "slow_client",
            UpstreamError::Closed { .. } => "closed",
        }
    }
}
