//! Who may speak to the proxy, and how: `Host`, `Origin`, content type, `Accept`, size and speed of bodies.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::reply::refuse;
use crate::proxy::Proxy;
use crate::proxy::error::ProxyError;
use crate::rt::wakes::hushed;
use crate::settings::{Limits, Settings, Timeouts};

/// Refuses requests of foreign pages and foreign names, on every path and for every method, before anything else
/// (2026-07-28, Streamable HTTP › Security; a name that an attacker had resolved to our address shows in `Host`).
pub(super) async fn guard(State(proxy): State<Arc<Proxy>>, request: Request, next: Next) -> Response {
    match check(&proxy.settings, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => refuse(&proxy, &error, None, None),
    }
}

pub(super) fn check<B>(settings: &Settings, request: &http::Request<B>) -> Result<(), ProxyError> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| ProxyError::Host)?,
        _ => return Err(ProxyError::Host),
    };
    // A request in absolute form names the host a second time.
    if request.uri().authority().is_some_and(|authority| authority.as_str() != host) {
        return Err(ProxyError::Host);
    }
    if !host_allowed(host, settings.listen, &settings.allow_hosts) {
        return Err(ProxyError::Host);
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) => {
            let origin = origin.to_str().map_err(|_| ProxyError::Origin)?;
            if origin_allowed(origin, settings.listen, &settings.allow_origins) {
                Ok(())
            } else {
                Err(ProxyError::Origin)
            }
        }
        _ => Err(ProxyError::Origin),
    }
}

/// Loopback names, the address that is listened on, and what was allowed by name; with any port, since whoever forwards
/// a port keeps the name and not the number.
fn host_allowed(host: &str, listen: SocketAddr, allowed: &[String]) -> bool {
    // The commonest of them is known at a glance.
    if let Some(port) = host.strip_prefix("127.0.0.1:").or_else(|| host.strip_prefix("localhost:"))
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
    {
        return true;
    }
    let Some((name, port)) = split_port(host) else { return false };
    if allowed.iter().any(|entry| match split_port(entry) {
        Some((entry, None)) => entry.eq_ignore_ascii_case(name),
        Some((entry, entry_port)) => entry.eq_ignore_ascii_case(name) && entry_port == port,
        None => false,
    }) {
        return true;
    }
    is_loopback(name) || (!listen.ip().is_unspecified() && ip(name) == Some(listen.ip()))
}

/// Pages of this machine where only this machine can connect, and what was allowed by name. `null` is neither.
fn origin_allowed(origin: &str, listen: SocketAddr, allowed: &[String]) -> bool {
    if allowed.iter().any(|entry| entry.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Some(host) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else { return false };
    listen.ip().is_loopback() && split_port(host).is_some_and(|(name, _)| is_loopback(name))
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`. `None` for anything else: user info, paths, trailing dots, bad ports.
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (name, rest) = rest.split_once(']')?;
        name.parse::<std::net::Ipv6Addr>().ok()?;
        (name, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")))
    } else {
        match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("")),
        }
    };
    let port = match port? {
        "" if host.ends_with(':') => return None,
        "" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    let plain = !name.is_empty()
        && !name.ends_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':'));
    plain.then_some((name, port))
}

fn ip(name: &str) -> Option<IpAddr> {
    name.parse().ok()
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || ip(name).is_some_and(|ip| ip.is_loopback())
}

/// Whether an origin gets CORS headers: only one that was allowed by name.
pub(super) fn cors_allowed(origin: &http::HeaderValue, allowed: &[String]) -> bool {
    origin.to_str().is_ok_and(|origin| allowed.iter().any(|entry| entry.eq_ignore_ascii_case(origin)))
}

/// What a client says it can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepts {
    pub(super) json: bool,
    pub(super) sse: bool,
}

impl Accepts {
    /// Reads `Accept`: media ranges with wildcards and weights, in any case (RFC 9110 §12.5.1). Without the header, everything.
    pub(super) fn of(headers: &HeaderMap) -> Accepts {
        // What nearly every client says.
        const BOTH: &str = "application/json, text/event-stream";
        let mut values = headers.get_all(header::ACCEPT).iter();
        match (values.next(), values.next()) {
            (None, _) => return Accepts { json: true, sse: true },
            (Some(one), None) if one == BOTH => return Accepts { json: true, sse: true },
            _ => {}
        }
        Accepts {
            json: weight(headers, "application", "json") > 0.0,
            sse: weight(headers, "text", "event-stream") > 0.0,
        }
    }
}

/// The weight of the most specific range that covers a media type.
fn weight(headers: &HeaderMap, kind: &str, subtype: &str) -> f32 {
    let mut best = (0, 0.0);
    let ranges =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let Some((range_kind, range_subtype)) = parts.next().and_then(|range| range.split_once('/')) else { continue };
        let specific = match (range_kind, range_subtype) {
            ("*", "*") => 1,
            (k, "*") if k.eq_ignore_ascii_case(kind) => 2,
            (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => 3,
            _ => continue,
        };
        let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let q = q.map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if specific >= best.0 {
            best = (specific, q);
        }
    }
    best.1
}

/// Refuses bodies that do not say they are JSON. A page can send `text/plain` anywhere without asking; this it cannot.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ProxyError> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let value = values.next().map(HeaderValue::as_bytes).unwrap_or_default();
    // What nearly every client says is known at a glance.
    let is_json = value == b"application/json" || {
        let essence = value.split(|&byte| byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
    };
    if is_json && values.next().is_none() { Ok(()) } else { Err(ProxyError::ContentType) }
}

/// Reads a body, bounded in size, in total time, and in the time between two pieces.
pub(super) async fn read_body(
    headers: &HeaderMap,
    mut body: Incoming,
    limits: &Limits,
    timeouts: &Timeouts,
) -> Result<Bytes, ProxyError> {
    let too_large = || ProxyError::TooLarge(limits.body_bytes);
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let mut total = None;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        // Nearly always it is there, and nothing has to be waited for.
        let frame = match poll_immediate(next_frame(&mut body)).await {
            Some(frame) => frame,
            None => {
                let now = Instant::now();
                let total = *total.get_or_insert(now + timeouts.body_total);
                let deadline = total.min(now + timeouts.body_idle);
                timeout_at(deadline, next_frame(&mut body)).await.map_err(|_| ProxyError::BodyTimeout)?
            }
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| ProxyError::BodyBroken)?.into_data() else { continue };
        let read = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if read + data.len() > limits.body_bytes {
            return Err(too_large());
        }
        // Nearly every body comes in one piece, which is then not copied.
        match &first {
            None => first = Some(data),
            Some(_) => rest.extend_from_slice(&data),
        }
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// The next piece of a body, whose connection is driven by the same task and is told that there is room only where there is more.
async fn next_frame(body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
    poll_fn(|cx| {
        let (frame, rang) = hushed(|| Pin::new(&mut *body).poll_frame(cx));
        if rang && !body.is_end_stream() {
            cx.waker().wake_by_ref();
        }
        frame
    })
    .await
}

#[cfg(test)]
mod tests {

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:8080";

    fn host(host: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<String> = allowed.iter().map(|&entry| entry.to_owned()).collect();
        host_allowed(host, LOOPBACK.parse().unwrap(), &allowed)
    }

    fn origin(origin: &str, listen: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<String> = allowed.iter().map(|&entry| entry.to_owned()).collect();
        origin_allowed(origin, listen.parse().unwrap(), &allowed)
    }

    /// Security best practices › DNS rebinding: only names that cannot be somebody else's.
    #[test]
    fn hosts() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:9", "[::1]:8080", "127.0.0.2"] {
            assert!(host(good, &[]), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "evil.example:8080",
            "localhost.",
            "127.0.0.1.evil.example",
            "user@localhost",
            "localhost:80:80",
            "localhost:",
            "[::1",
            "",
            "localhost/x",
            "10.0.0.1",
            "localhost:x",
            "127.0.0.1:",
            "127.0.0.1:65536",
            "[evil]",
        ] {
            assert!(!host(bad, &[]), "{bad}");
        }
        assert!(host("mcp.example", &["mcp.example"]) && host("mcp.example:444", &["mcp.example"]));
        assert!(host("mcp.example:443", &["mcp.example:443"]) && !host("mcp.example:444", &["mcp.example:443"]));
        assert!(host_allowed("192.0.2.1:80", "192.0.2.1:80".parse().unwrap(), &[]));
        assert!(!host_allowed("192.0.2.1:80", "0.0.0.0:80".parse().unwrap(), &[]));
    }

    #[test]
    fn origins() {
        for good in ["http://localhost", "http://localhost:6274", "https://127.0.0.1:1", "http://[::1]:3000"] {
            assert!(origin(good, LOOPBACK, &[]), "{good}");
            assert!(!origin(good, "192.0.2.1:80", &[]), "{good}");
        }
        for bad in [
            "null",
            "http://evil.example",
            "http://localhost.evil.example",
            "file://",
            "localhost",
            "http://localhost/x",
            "http://a@localhost",
        ] {
            assert!(!origin(bad, LOOPBACK, &[]), "{bad}");
        }
        assert!(origin("https://app.example", LOOPBACK, &["https://app.example"]));
        assert!(!origin("https://app.example.evil", LOOPBACK, &["https://app.example"]));
    }

    #[test]
    fn accept() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            let accepts = Accepts::of(&headers);
            (accepts.json, accepts.sse)
        };
        assert_eq!(accepts("application/json, text/event-stream"), (true, true));
        assert_eq!(accepts("text/event-stream"), (false, true));
        assert_eq!(accepts("*/*"), (true, true));
        assert_eq!(accepts("text/*;q=0.5"), (false, true));
        assert_eq!(accepts("Application/JSON; charset=utf-8"), (true, false));
        assert_eq!(accepts("*/*, text/event-stream;q=0"), (true, false));
        assert_eq!(accepts("text/html"), (false, false));
        assert_eq!(Accepts::of(&HeaderMap::new()), Accepts { json: true, sse: true });
    }
}
