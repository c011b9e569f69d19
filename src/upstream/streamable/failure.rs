//! Failures of HTTP, as failures of an upstream.

use http::header::RETRY_AFTER;
use http::{StatusCode, Uri};
use tokio::time::{Duration, timeout};

use crate::upstream::error::UpstreamError;
use crate::upstream::http::{Body, HttpError, Response, Violation};
use crate::upstream::reconnect::{Loss, parse_retry_after};

/// A failure of HTTP, as one of an upstream. What it displays says nothing of addresses.
pub(in crate::upstream) fn failure(error: &HttpError) -> UpstreamError {
    tracing::debug!(error = %Chain(error), "HTTP failed");
    match error {
        HttpError::Unsent(_) | HttpError::OtherOrigin => UpstreamError::Unreachable(error.to_string()),
        HttpError::Lost(_) => UpstreamError::Lost { sent: true },
        HttpError::Timeout { sent } => UpstreamError::Timeout { sent: *sent },
        HttpError::Protocol(Violation::TooLarge { .. } | Violation::Sse(_)) => UpstreamError::TooLarge,
        HttpError::Protocol(Violation::ContentType { .. }) => {
            UpstreamError::Violation("its answer is neither JSON nor an event stream")
        }
        HttpError::Protocol(Violation::ContentEncoding) => UpstreamError::Violation("its answer is compressed"),
    }
}

/// An error and what caused it: for the operator's log.
struct Chain<'a>(&'a HttpError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// A status that is no success, as a failure of an upstream.
pub(in crate::upstream) fn refusal(response: &Response) -> UpstreamError {
    if let Body::Other(start) = &response.body {
        let body = String::from_utf8_lossy(start).escape_debug().to_string();
        tracing::debug!(status = response.status.as_u16(), body, "Server refused");
    }
    match response.status {
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => UpstreamError::Credentials(status),
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            let retry_after = retry_after(response).map(|wait| wait.as_secs());
            UpstreamError::Busy { status, retry_after }
        }
        status => UpstreamError::Status(status),
    }
}

pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    parse_retry_after(response.headers.get(RETRY_AFTER)?.as_bytes(), std::time::SystemTime::now())
}

pub(super) fn loss(response: &Result<Response, HttpError>) -> Loss {
    match response {
        Ok(response) if response.status == StatusCode::OK => Loss::Unusable,
        Ok(response) => Loss::Status { status: response.status, retry_after: retry_after(response) },
        Err(HttpError::Timeout { .. }) => Loss::Unreachable,
        Err(error) => loss_of(error),
    }
}

pub(in crate::upstream) fn loss_of(error: &HttpError) -> Loss {
    match error {
        HttpError::Protocol(_) | HttpError::OtherOrigin => Loss::Unusable,
        HttpError::Unsent(_) => Loss::Unreachable,
        HttpError::Lost(_) => Loss::Broken,
        HttpError::Timeout { .. } => Loss::Idle,
    }
}

/// Resolves the address that a server of 2024-11-05 names for messages. It must be of the server's own origin: it is
/// the server that says it, and requests of ours carry credentials.
pub(in crate::upstream) fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let absolute: Uri = if reference.starts_with("http://") || reference.starts_with("https://") {
        reference.parse().ok()?
    } else {
        let origin = format!("{}://{}", base.scheme_str()?, base.authority()?);
        let path = if reference.starts_with('/') {
            reference.to_owned()
        } else {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{reference}")
        };
        format!("{origin}{path}").parse().ok()?
    };
    (absolute.scheme() == base.scheme() && absolute.authority() == base.authority()).then_some(absolute)
}

pub(in crate::upstream) async fn within<T>(
    limit: Duration,
    future: impl Future<Output = T>,
) -> Result<T, UpstreamError> {
    timeout(limit, future).await.map_err(|_| UpstreamError::Timeout { sent: false })
}
