//! HTTP towards clients: paths, guards, and what turns messages into responses.

mod duplex;
mod guard;
mod http_sse;
mod mcp;
mod reply;
pub(crate) mod stdio;
mod tapped;

use std::convert::Infallible;
use std::sync::Arc;

use axum::response::Response;
use axum::{Router, middleware};
use http::{HeaderName, Method, Request, header};
use hyper::body::Incoming;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::protocol::headers;
use crate::proxy::Proxy;
use crate::proxy::error::ProxyError;
use crate::settings::Settings;
use http_sse::Clients;
use tapped::Visit;

/// Everything that is served to clients. Clones share it.
///
/// There are six paths, and each request passes here: they are told apart without a router, whose services would be cloned
/// and whose futures boxed for each request.
#[derive(Clone)]
pub(crate) struct Front(Arc<Shared>);

struct Shared {
    proxy: Arc<Proxy>,
    clients: Arc<Clients>,
    cors: CorsLayer,
}

/// What a path is for, and the name of the server in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'p> {
    Mcp(Option<&'p str>),
    Sse(Option<&'p str>),
    Messages,
}

impl<'p> Place<'p> {
    fn of(path: &'p str, endpoint: &str, http_sse: bool) -> Option<Place<'p>> {
        if path == endpoint {
            return Some(Place::Mcp(None));
        }
        let named = path.strip_prefix("/servers/").and_then(|rest| rest.split_once('/'));
        match named {
            Some((name, "mcp")) => return Some(Place::Mcp(Some(name))),
            Some((name, "sse")) if http_sse => return Some(Place::Sse(Some(name))),
            Some((_, "messages")) if http_sse => return Some(Place::Messages),
            _ => {}
        }
        match path.strip_prefix(base(endpoint)) {
            Some("/sse") if http_sse => Some(Place::Sse(None)),
            Some("/messages") if http_sse => Some(Place::Messages),
            _ => None,
        }
    }
}

impl Front {
    pub(crate) fn new(proxy: &Arc<Proxy>) -> Front {
        let cors = cors(&proxy.settings);
        Front(Arc::new(Shared { proxy: Arc::clone(proxy), clients: Arc::default(), cors }))
    }

    /// Answers a request. `Host` and `Origin` are checked before anything else.
    pub(crate) async fn serve(self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let proxy = &self.0.proxy;
        if let Err(error) = guard::check(&proxy.settings, &request) {
            return Ok(reply::refuse(proxy, &error, None, None));
        }
        if request.method() == Method::OPTIONS || request.headers().contains_key(header::ORIGIN) {
            let cors = self.0.cors.clone();
            let route = service_fn(move |request| self.clone().route(request));
            return Box::pin(cors.layer(route).oneshot(request)).await;
        }
        self.route(request).await
    }

    async fn route(self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let proxy = &self.0.proxy;
        let place = Place::of(request.uri().path(), &proxy.settings.path, proxy.settings.http_sse);
        let answered = match place {
            Some(Place::Mcp(name)) => match proxy.server(name).cloned() {
                Some(server) => return Ok(mcp::endpoint(proxy, &server, request).await),
                None => Err(ProxyError::NotFound),
            },
            Some(Place::Sse(name)) if request.method() == Method::GET => match self.open_sse(name, &request) {
                Ok((response, None)) => Ok(response),
                Ok((response, Some(visit))) => Ok(Box::pin(visit.respond(response)).await),
                Err(error) => Err(error),
            },
            Some(Place::Messages) if request.method() == Method::POST => {
                Box::pin(http_sse::post(proxy, &self.0.clients, request)).await
            }
            Some(_) => Err(ProxyError::MethodNotAllowed),
            None => Err(ProxyError::NotFound),
        };
        Ok(answered.unwrap_or_else(|error| reply::refuse(proxy, &error, None, None)))
    }

    fn open_sse(
        &self,
        name: Option<&str>,
        request: &Request<Incoming>,
    ) -> Result<(Response, Option<Visit>), ProxyError> {
        let proxy = &self.0.proxy;
        let server = proxy.server(name).cloned().ok_or(ProxyError::NotFound)?;
        let messages = match name {
            Some(name) => format!("/servers/{name}/messages"),
            None => format!("{}/messages", base(&proxy.settings.path)),
        };
        http_sse::open(proxy, &server, &self.0.clients, request.headers(), &messages)
    }
}

/// Checks `Host` and `Origin` before anything else.
pub(crate) fn guard_layer(router: Router<Arc<Proxy>>, proxy: &Arc<Proxy>) -> Router<Arc<Proxy>> {
    router.layer(middleware::from_fn_with_state(Arc::clone(proxy), guard::guard))
}

/// Pages of other origins get in only if they were allowed by name; then they may also read what MCP puts into headers.
fn cors(settings: &Settings) -> CorsLayer {
    let allowed = settings.allow_origins.clone();
    let forwarded = settings.upstreams.iter().flat_map(|upstream| upstream.forward_headers.iter().cloned());
    let ours = [
        headers::PROTOCOL_VERSION,
        headers::METHOD,
        headers::NAME,
        headers::SESSION_ID,
        headers::LAST_EVENT_ID,
        header::CONTENT_TYPE,
        header::ACCEPT,
        header::AUTHORIZATION,
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| guard::cors_allowed(origin, &allowed)))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(ours.into_iter().chain(forwarded).collect::<Vec<_>>())
        .expose_headers([headers::SESSION_ID])
        .max_age(std::time::Duration::from_secs(600))
}

/// What stands before the last part of the endpoint's path: the paths of HTTP+SSE stand beside it.
fn base(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(base, _)| base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let place = |path| Place::of(path, "/api/mcp", true);
        assert_eq!(place("/api/mcp"), Some(Place::Mcp(None)));
        assert_eq!(place("/servers/a/mcp"), Some(Place::Mcp(Some("a"))));
        assert_eq!(place("/servers/a/sse"), Some(Place::Sse(Some("a"))));
        assert_eq!(place("/servers/a/messages"), Some(Place::Messages));
        assert_eq!((place("/api/sse"), place("/api/messages")), (Some(Place::Sse(None)), Some(Place::Messages)));
        for path in ["/", "", "/mcp", "/sse", "/api/mcp/", "/api/mcp/x", "/servers/a/b/mcp", "/servers/mcp", "/api/x"] {
            assert_eq!(place(path), None, "{path}");
        }
        assert_eq!(Place::of("/sse", "/mcp", true), Some(Place::Sse(None)));
        for path in ["/sse", "/messages", "/servers/a/sse", "/servers/a/messages"] {
            assert_eq!(Place::of(path, "/mcp", false), None, "{path}");
        }
    }
}
