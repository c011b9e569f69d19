//! What goes wrong, as the client sees it: the one table from errors to HTTP statuses and JSON-RPC codes.
//!
//! What is refused before anything went upstream has a status of its own; what fails after that is 200 with a JSON-RPC
//! error, since clients read 400, 404 and 405 as news about the era or the session.

use http::StatusCode;

use crate::backend::OpenError;
use crate::protocol::error as code;
use crate::protocol::error::RpcError;
use crate::protocol::headers::Mismatch;
use crate::protocol::id::RequestId;
use crate::protocol::message::ParseError;
use crate::protocol::revision::Revision;
use crate::session::{CallError, EndReason, SessionError};
use crate::settings::Isolation;
use crate::upstream::error::UpstreamError;

/// Why a client does not get what it asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The body is no JSON, or no message.
    #[error("the body is not a message: {}", .0.reason)]
    Parse(ParseError),
    /// An array, in a revision without batches.
    #[error("batches exist in 2025-03-26 only")]
    Batch,
    /// An array with nothing in it, or too much.
    #[error("a batch has at least one and at most {0} messages")]
    BatchSize(usize),
    /// `initialize` where it cannot be.
    #[error("initialize is sent alone, and without a session")]
    Initialize,
    /// The session id is missing.
    #[error("there is no session: send initialize first, and over HTTP its Mcp-Session-Id with every request")]
    SessionMissing,
    /// There is no such session, or no room for one.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session ended while the request was under way.
    #[error("the session ended; the request may have been executed: check before repeating it")]
    SessionEnded(EndReason),
    /// The request cannot begin.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There is no connection to the server.
    #[error(transparent)]
    Open(OpenError),
    /// The request is not possible on a connection that others use, too.
    #[error("not possible with isolation = \"{}\": {why}; the operator can set isolation = \"session\"", isolation.name())]
    Isolated { isolation: Isolation, why: &'static str },
    /// Who the client is has to be known.
    #[error("this server keeps its clients apart by the header {0}, which has to be there, once")]
    Principal(String),
    /// A shared connection has no more room for subscriptions.
    #[error("too many resources are subscribed to on this server")]
    Subscriptions,
    /// A subscription that does not say what to.
    #[error("the params have no `uri`, or it is no text")]
    Uri,
    /// The server failed, and whether the request may be repeated without harm.
    #[error("{error}")]
    Upstream { error: UpstreamError, repeatable: bool },
    /// Headers and body disagree.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The metadata of a modern request is incomplete.
    #[error("{0}")]
    Envelope(&'static str),
    /// A modern revision that is not served here.
    #[error("this revision is not served")]
    UnsupportedVersion { requested: String, supported: Vec<String> },
    /// A value of `MCP-Protocol-Version` that no session can have.
    #[error("the header MCP-Protocol-Version names a revision that is not served")]
    UnsupportedHeader,
    /// The method is not there (any more).
    #[error("there is no such method in 2026-07-28")]
    RemovedMethod,
    /// What a client brings back is not what it was given, or not any more. Which of the two is nobody's business.
    #[error("this requestState is of no use here: call again without it")]
    RequestState,
    /// A task that is not there (any more), or another's.
    #[error("there is no such task (any more)")]
    Task,
    /// Too many calls wait for answers.
    #[error("too many calls wait for their clients' answers: the call was cancelled")]
    TooManyParked,
    /// A response from a modern client, which was never asked anything.
    #[error("a modern client sends requests and notifications only")]
    Response,
    /// An unknown log level.
    #[error("the log level is none of the eight")]
    LogLevel,
    /// The client cannot read what would be the answer.
    #[error("the answer is application/json or text/event-stream: accept both")]
    NotAcceptable,
    /// The body is no JSON by its own account.
    #[error("the body must be application/json")]
    ContentType,
    /// The body is too large.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The body did not come in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The body broke off.
    #[error("the body broke off")]
    BodyBroken,
    /// The page or program is not one that may use this proxy.
    #[error("this Origin is not allowed: name it with --allow-origin")]
    Origin,
    /// The name in `Host` is not one of ours: a sign of DNS rebinding.
    #[error("this Host is not allowed: name it with --allow-host")]
    Host,
    /// The method of HTTP is none that this path has.
    #[error("this path does not have this method")]
    MethodNotAllowed,
    /// Nothing is served under this path.
    #[error("nothing is served here: the endpoint is /mcp, or /servers/NAME/mcp")]
    NotFound,
    /// The stream cannot be resumed there.
    #[error("{0}: send the requests whose answers are missing again where that does no harm")]
    Resume(crate::session::backlog::ResumeError),
    /// `Last-Event-ID` is none of ours.
    #[error("the header Last-Event-ID is not an event id of this session")]
    EventId,
    /// The proxy is on its way out.
    #[error("the proxy is shutting down")]
    ShuttingDown,
    /// What passes has to be recorded, and cannot be.
    #[error(
        "traffic must be recorded here, and the tape cannot be written: nothing was sent; the operator finds the reason in the proxy's log"
    )]
    Unrecorded,
    /// An interceptor failed that must not.
    #[error("refused by an interceptor of the proxy: nothing was sent")]
    Intercepted,
}

/// An error as it leaves the proxy.
pub(crate) struct Outward {
    pub(crate) status: StatusCode,
    pub(crate) error: RpcError,
    /// Seconds for `Retry-After`.
    pub(crate) retry_after: Option<u64>,
}

impl ProxyError {
    /// The id to answer to, where only the error knows it.
    pub(crate) fn id(&self) -> Option<&RequestId> {
        match self {
            ProxyError::Parse(error) => error.id.as_ref(),
            _ => None,
        }
    }

    /// Whether the server wants no handshake. With a status, it may be the request itself that it does not want: then it is one that
    /// is safe to repeat.
    pub(crate) fn refuses_handshake(&self) -> bool {
        matches!(
            self,
            ProxyError::Open(OpenError::Refused(_))
                | ProxyError::Upstream { error: UpstreamError::Status(_), repeatable: true }
        )
    }

    /// Whose side the failure is on, and a word for it: the labels of the error metric.
    pub(crate) fn blame(&self) -> (&'static str, &'static str) {
        let reason = self.outward().error.reason;
        match self {
            ProxyError::Upstream { error, .. } | ProxyError::Open(OpenError::Start(error)) => {
                ("upstream", error.kind())
            }
            ProxyError::Open(OpenError::Resting { .. }) => ("upstream", "resting"),
            ProxyError::Open(_)
            | ProxyError::ShuttingDown
            | ProxyError::Unrecorded
            | ProxyError::Intercepted
            | ProxyError::Session(SessionError::TooMany | SessionError::NoRandomness) => ("proxy", reason),
            _ => ("client", reason),
        }
    }

    /// The row of the table.
    pub(crate) fn outward(&self) -> Outward {
        let text = self.to_string();
        let row = |status, code, reason| Outward {
            status,
            error: RpcError::new(code, reason, text.clone()),
            retry_after: None,
        };
        let bad = |code, reason| row(StatusCode::BAD_REQUEST, code, reason);
        let later = |code, reason, seconds| Outward {
            retry_after: Some(seconds),
            ..row(StatusCode::SERVICE_UNAVAILABLE, code, reason)
        };
        match self {
            ProxyError::Parse(error) if error.reason.is_syntax() => bad(code::PARSE_ERROR, "parse_error"),
            ProxyError::Parse(_) => bad(code::INVALID_REQUEST, "invalid_request"),
            ProxyError::Batch => bad(code::INVALID_REQUEST, "batch"),
            ProxyError::BatchSize(_) => bad(code::INVALID_REQUEST, "batch_size"),
            ProxyError::Initialize => bad(code::INVALID_REQUEST, "initialize"),
            ProxyError::SessionMissing => bad(code::INVALID_REQUEST, "session_missing"),
            ProxyError::Session(SessionError::NotFound) => {
                row(StatusCode::NOT_FOUND, code::SESSION_NOT_FOUND, "session_not_found")
            }
            ProxyError::Session(SessionError::TooMany) => later(code::OVERLOADED, "too_many_sessions", 5),
            ProxyError::Session(SessionError::NoRandomness) => {
                row(StatusCode::INTERNAL_SERVER_ERROR, code::OVERLOADED, "no_randomness")
            }
            ProxyError::SessionEnded(EndReason::Shutdown) => row(StatusCode::OK, code::SHUTTING_DOWN, "shutting_down"),
            ProxyError::SessionEnded(_) => {
                let mut row = row(StatusCode::OK, code::SESSION_NOT_FOUND, "session_ended");
                row.error = row.error.with("retryable", false);
                row
            }
            ProxyError::Call(CallError::Ended) => {
                row(StatusCode::NOT_FOUND, code::SESSION_NOT_FOUND, "session_not_found")
            }
            ProxyError::Call(CallError::Duplicate) => bad(code::INVALID_REQUEST, "duplicate_id"),
            ProxyError::Call(CallError::TooMany) => Outward {
                retry_after: Some(1),
                ..row(StatusCode::TOO_MANY_REQUESTS, code::OVERLOADED, "too_many_requests")
            },
            ProxyError::Open(OpenError::Timeout) => later(code::OVERLOADED, "no_connection_free", 1),
            ProxyError::Open(OpenError::QueueFull) => later(code::OVERLOADED, "queue_full", 1),
            ProxyError::Open(OpenError::Closed | OpenError::Start(UpstreamError::Closed { .. }))
            | ProxyError::ShuttingDown => later(code::SHUTTING_DOWN, "shutting_down", 5),
            ProxyError::Open(OpenError::Resting { seconds, looping, .. }) => {
                let reason = if *looping { "crash_loop" } else { "resting" };
                later(code::UPSTREAM_UNAVAILABLE, reason, *seconds)
            }
            ProxyError::Open(
                OpenError::Start(UpstreamError::CircuitOpen { seconds })
                | OpenError::Unanswered(UpstreamError::CircuitOpen { seconds }),
            )
            | ProxyError::Upstream { error: UpstreamError::CircuitOpen { seconds }, .. } => {
                let mut row = later(code::UPSTREAM_UNAVAILABLE, "circuit_open", *seconds);
                row.error = row.error.with("retryable", true);
                row
            }
            ProxyError::Open(OpenError::Start(error) | OpenError::Unanswered(error)) => {
                later(code::UPSTREAM_UNAVAILABLE, error.kind(), 5)
            }
            // These two are told in other ways; here they stand for completeness.
            ProxyError::Open(OpenError::Refused(_)) => bad(code::INVALID_REQUEST, "handshake_refused"),
            ProxyError::Open(OpenError::Lost) => {
                row(StatusCode::NOT_FOUND, code::SESSION_NOT_FOUND, "session_not_found")
            }
            ProxyError::Isolated { .. } => row(StatusCode::OK, code::METHOD_NOT_FOUND, "isolation"),
            ProxyError::Principal(_) => row(StatusCode::FORBIDDEN, code::REFUSED, "principal"),
            ProxyError::Subscriptions => row(StatusCode::OK, code::OVERLOADED, "too_many_subscriptions"),
            ProxyError::Upstream { error, repeatable } => upstream(error, *repeatable),
            ProxyError::Mismatch(_) => bad(code::HEADER_MISMATCH, "header_mismatch"),
            ProxyError::Envelope(_) => bad(code::INVALID_PARAMS, "envelope"),
            ProxyError::UnsupportedVersion { requested, supported } => {
                let mut row = bad(code::UNSUPPORTED_VERSION, "unsupported_version");
                row.error = row.error.with("requested", requested.as_str()).with("supported", supported.clone());
                row
            }
            ProxyError::UnsupportedHeader => {
                let mut row = bad(code::INVALID_REQUEST, "unsupported_version");
                let served = Revision::ALL.map(Revision::as_str);
                row.error = row.error.with("supported", served.to_vec());
                row
            }
            ProxyError::RemovedMethod => row(StatusCode::NOT_FOUND, code::METHOD_NOT_FOUND, "method_not_found"),
            ProxyError::RequestState => row(StatusCode::OK, code::INVALID_PARAMS, "request_state"),
            ProxyError::Task => row(StatusCode::OK, code::INVALID_PARAMS, "no_such_task"),
            ProxyError::TooManyParked => row(StatusCode::OK, code::OVERLOADED, "too_many_parked"),
            ProxyError::Response => bad(code::INVALID_REQUEST, "response"),
            ProxyError::Uri => row(StatusCode::OK, code::INVALID_PARAMS, "uri"),
            ProxyError::LogLevel => row(StatusCode::OK, code::INVALID_PARAMS, "log_level"),
            ProxyError::NotAcceptable => row(StatusCode::NOT_ACCEPTABLE, code::REFUSED, "not_acceptable"),
            ProxyError::ContentType => row(StatusCode::UNSUPPORTED_MEDIA_TYPE, code::REFUSED, "content_type"),
            ProxyError::TooLarge(_) => row(StatusCode::PAYLOAD_TOO_LARGE, code::TOO_LARGE, "too_large"),
            ProxyError::BodyTimeout => row(StatusCode::REQUEST_TIMEOUT, code::REFUSED, "body_timeout"),
            ProxyError::BodyBroken => bad(code::REFUSED, "body_broken"),
            ProxyError::Origin => row(StatusCode::FORBIDDEN, code::REFUSED, "origin"),
            ProxyError::Host => row(StatusCode::FORBIDDEN, code::REFUSED, "host"),
            ProxyError::MethodNotAllowed => row(StatusCode::METHOD_NOT_ALLOWED, code::REFUSED, "method_not_allowed"),
            ProxyError::NotFound => row(StatusCode::NOT_FOUND, code::REFUSED, "not_found"),
            ProxyError::Resume(_) => bad(code::REFUSED, "gap"),
            ProxyError::EventId => bad(code::REFUSED, "event_id"),
            ProxyError::Unrecorded => later(code::OVERLOADED, "unrecorded", 5),
            ProxyError::Intercepted => later(code::REFUSED, "intercepted", 5),
        }
    }
}

/// Failures after the request was handed to the server.
fn upstream(error: &UpstreamError, repeatable: bool) -> Outward {
    let (code, reason) = match error {
        UpstreamError::Timeout { .. } => (code::UPSTREAM_TIMEOUT, "timeout"),
        UpstreamError::Violation(_) => (code::UPSTREAM_VIOLATION, "violation"),
        UpstreamError::TooLarge => (code::TOO_LARGE, "too_large"),
        UpstreamError::SlowClient => (code::OVERLOADED, "slow_client"),
        UpstreamError::Closed { .. } => (code::SHUTTING_DOWN, "shutting_down"),
        _ if error.sent() && !repeatable => (code::OUTCOME_UNKNOWN, error.kind()),
        _ => (code::UPSTREAM_UNAVAILABLE, error.kind()),
    };
    let retryable = !error.sent() || repeatable;
    let advice = match code {
        code::OUTCOME_UNKNOWN | code::UPSTREAM_TIMEOUT | code::SHUTTING_DOWN if !retryable => {
            "; the request may have been executed: check before repeating it"
        }
        code::OUTCOME_UNKNOWN | code::UPSTREAM_TIMEOUT | code::UPSTREAM_UNAVAILABLE => match error {
            // It would be the same again.
            UpstreamError::Credentials(_) => "",
            UpstreamError::Status(status) if is_elsewhere(*status) => ": the URL that is configured may not be its own",
            _ => "; it can be repeated",
        },
        _ => "",
    };
    let mut answer = RpcError::new(code, reason, format!("{error}{advice}")).with("retryable", retryable);
    if let UpstreamError::Busy { retry_after: Some(seconds), .. } = error {
        answer = answer.with("retryAfter", *seconds);
    }
    Outward { status: StatusCode::OK, error: answer, retry_after: None }
}

/// Whether a status says that what is asked for is not there.
fn is_elsewhere(status: StatusCode) -> bool {
    status.is_redirection()
        || matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE)
}
