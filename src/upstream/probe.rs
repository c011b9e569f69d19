//! Which era a server speaks, judged by its answer to `server/discover`. Pure: the asking is done elsewhere.
//!
//! Only positive evidence makes a server modern; whatever else it answers, it is taken for one with a handshake, and a
//! failure to answer at all is no evidence about a server behind HTTP (2026-07-28, Versioning; stdio and Streamable HTTP ›
//! Backward Compatibility).

use http::StatusCode;
use serde::Deserialize;

use crate::protocol::error::{HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION};
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It speaks 2026-07-28, and these versions in all.
    Modern(Vec<String>),
    /// It has a handshake.
    Legacy,
}

#[derive(Deserialize)]
struct Discovered {
    #[serde(rename = "supportedVersions")]
    supported_versions: Vec<String>,
}

#[derive(Deserialize)]
struct Refused {
    code: i64,
    data: Option<RefusedData>,
}

#[derive(Deserialize)]
struct RefusedData {
    #[serde(default)]
    supported: Vec<String>,
}

/// The request that asks: it carries a complete envelope, so that a modern server has nothing to object to.
pub(crate) fn question(id: i64) -> String {
    let version = Revision::V2026_07_28;
    let client = serde_json::json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
    let envelope = serde_json::json!({
        meta::PROTOCOL_VERSION: version.as_str(),
        meta::CLIENT_INFO: client,
        meta::CLIENT_CAPABILITIES: {},
    });
    let (method, meta) = (Known::Discover.as_str(), meta::META);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"{meta}":{envelope}}}}}"#)
}

/// Judges a JSON-RPC answer to [`question`], from a child or in the body of a response.
pub(crate) fn judge(answer: &Message) -> Verdict {
    let body = answer.body().unwrap_or_default();
    let modern = |versions: Vec<String>| {
        let known = versions.iter().any(|version| Revision::parse(version).is_some_and(|v| v.era() == Era::Modern));
        if known { Verdict::Modern(versions) } else { Verdict::Legacy }
    };
    match answer.kind() {
        Kind::Result => serde_json::from_str::<Discovered>(body)
            .map_or(Verdict::Legacy, |discovered| modern(discovered.supported_versions)),
        Kind::Error => match serde_json::from_str::<Refused>(body) {
            Ok(Refused { code, data }) if code == i64::from(UNSUPPORTED_VERSION) => {
                modern(data.map(|data| data.supported).unwrap_or_default())
            }
            // Only a modern server knows these codes. That our question was wrong is another matter.
            Ok(Refused { code, .. }) if code == i64::from(HEADER_MISMATCH) || code == i64::from(MISSING_CAPABILITY) => {
                Verdict::Modern(vec![Revision::V2026_07_28.as_str().to_owned()])
            }
            _ => Verdict::Legacy,
        },
        Kind::Request | Kind::Notification => Verdict::Legacy,
    }
}

/// Whether an HTTP status says something about the era at all: refused credentials and failures do not.
pub(crate) fn is_evidence(status: StatusCode) -> bool {
    !(status.is_server_error()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS
        )
        || status.is_redirection())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn verdict(body: &str) -> Verdict {
        judge(&Message::parse(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,{body}}}"#)), 64).unwrap())
    }

    /// The table of 2026-07-28, Versioning, row by row: only a result or an error that a modern server alone gives is evidence.
    #[test]
    fn only_positive_evidence_counts() {
        let modern = Verdict::Modern(vec!["2026-07-28".into()]);
        for (body, expected) in [
            (r#""result":{"supportedVersions":["2026-07-28"],"capabilities":{}}"#, modern.clone()),
            (r#""result":{"supportedVersions":["2025-11-25"]}"#, Verdict::Legacy),
            (r#""result":{"supportedVersions":["2031-01-01"]}"#, Verdict::Legacy),
            (r#""result":{}"#, Verdict::Legacy),
            (
                r#""error":{"code":-32022,"message":"","data":{"supported":["2026-07-28"],"requested":"x"}}"#,
                modern.clone(),
            ),
            (
                r#""error":{"code":-32022,"message":"","data":{"supported":["2025-11-25"],"requested":"x"}}"#,
                Verdict::Legacy,
            ),
            (r#""error":{"code":-32022,"message":""}"#, Verdict::Legacy),
            (r#""error":{"code":-32020,"message":""}"#, modern.clone()),
            (r#""error":{"code":-32021,"message":"","data":{"requiredCapabilities":{}}}"#, modern),
            (r#""error":{"code":-32602,"message":""}"#, Verdict::Legacy),
            (r#""error":{"code":-32601,"message":""}"#, Verdict::Legacy),
            (r#""error":{"code":-32000,"message":"Server not initialized"}"#, Verdict::Legacy),
        ] {
            assert_eq!(verdict(body), expected, "{body}");
        }
    }

    #[test]
    fn the_question_is_a_complete_modern_request() {
        let question = Message::parse(Bytes::from(question(7)), 64).unwrap();
        assert_eq!(meta::Envelope::of(&question), meta::Envelope::Complete("2026-07-28".into()));
    }

    #[test]
    fn refused_credentials_and_failures_are_no_evidence() {
        for status in [401, 403, 500, 502, 503, 504, 429, 307] {
            assert!(!is_evidence(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [200, 400, 404, 405, 406] {
            assert!(is_evidence(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
