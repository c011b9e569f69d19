//! What names, hosts, URLs and the like must look like. Each check has the words that describe it next to it.

use http::{HeaderName, Uri, uri};

use super::fault::FaultKind;

/// Headers that the proxy writes on requests to an upstream, or that HTTP itself owns. If users could set them, one
/// hop or the other would be told something wrong about the message. All `Mcp-…` headers are such, too.
const OWN_HEADERS: [&str; 14] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) const ORIGIN: &str = "an origin without a path, such as \"https://app.example\"";
pub(super) const HOST: &str = "a host name or address, such as \"mcp.example\" or \"mcp.example:8080\" (no wildcard)";
pub(super) const NAME: &str = "a name of 1 to 64 characters A-Z a-z 0-9 _ . -, of which one is no dot";
pub(super) const PATH: &str = "a path such as \"/mcp\": segments of A-Z a-z 0-9 _ . ~ -, no slash at the end";
pub(super) const URL: &str =
    "a URL that starts with http:// or https:// and names a host (credentials belong into `headers`)";
pub(super) const VARIABLE: &str = "the name of an environment variable";
pub(super) const NO_NUL: &str = "a string without NUL characters";
pub(super) const NOT_EMPTY: &str = "a string that is not empty";
pub(super) const HEADER_NAME: &str = "the name of a header";
pub(super) const HEADER_VALUE: &str = "a header value: visible ASCII characters, spaces, tabs";

/// The name of a header that users may set.
///
/// # Errors
///
/// If it is no name, or one of a header that the proxy writes.
pub(super) fn header_name(name: &str) -> Result<HeaderName, FaultKind> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("mcp-") => {
            Err(FaultKind::OwnHeader { name: name.to_string() })
        }
        Ok(name) => Ok(name),
        Err(_) => Err(FaultKind::Malformed { expected: HEADER_NAME }),
    }
}

pub(super) fn is_server_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    // `.` and `..` would vanish from a URL.
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && name.bytes().any(|b| b != b'.')
}

pub(super) fn is_path(path: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'~' | b'-');
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed);
    path.len() <= 256 && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment))
}

pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

pub(super) fn is_endpoint(uri: &Uri) -> bool {
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    is_http && uri.authority().is_some_and(is_plain_authority)
}

pub(super) fn is_host(host: &str) -> bool {
    host.parse::<uri::Authority>().is_ok_and(|authority| is_plain_authority(&authority))
}

/// Whether it is a host and perhaps a port, and neither a wildcard nor credentials.
fn is_plain_authority(authority: &uri::Authority) -> bool {
    let port_is_fine = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => true,
        Some(port) => port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        // Credentials come before the host.
        None => false,
    };
    port_is_fine && !authority.host().is_empty() && !authority.host().contains('*')
}

pub(super) fn is_origin(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return false;
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    is_scheme && is_host(rest)
}
