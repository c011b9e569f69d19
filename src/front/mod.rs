//! HTTP towards clients: paths, guards, and what turns messages into responses.

mod guard;
mod mcp;
mod reply;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware;
use axum::response::Response;
use axum::routing::any;
use http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::protocol::headers;
use crate::proxy::Proxy;
use crate::proxy::error::ProxyError;

/// Everything that is served to clients.
pub(crate) fn router(proxy: &Arc<Proxy>) -> Router {
    let router = Router::new()
        .route(&proxy.settings.path, any(single))
        .route("/servers/{name}/mcp", any(named))
        .fallback(nothing)
        .layer(cors(&proxy.settings.allow_origins));
    guard_layer(router, proxy).with_state(Arc::clone(proxy))
}

/// Checks `Host` and `Origin` before anything else, on whichever listener.
pub(crate) fn guard_layer(router: Router<Arc<Proxy>>, proxy: &Arc<Proxy>) -> Router<Arc<Proxy>> {
    router.layer(middleware::from_fn_with_state(Arc::clone(proxy), guard::guard))
}

/// Pages of other origins get in only if they were allowed by name; then they may also read what MCP puts into headers.
fn cors(allowed: &[String]) -> CorsLayer {
    let allowed = allowed.to_vec();
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
        .allow_headers(ours)
        .expose_headers([headers::SESSION_ID])
        .max_age(std::time::Duration::from_secs(600))
}

async fn single(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    match proxy.server(None).cloned() {
        Some(server) => mcp::endpoint(&proxy, &server, request).await,
        None => reply::refuse(&proxy, &ProxyError::NotFound, None),
    }
}

async fn named(State(proxy): State<Arc<Proxy>>, Path(name): Path<String>, request: Request) -> Response {
    match proxy.server(Some(&name)).cloned() {
        Some(server) => mcp::endpoint(&proxy, &server, request).await,
        None => reply::refuse(&proxy, &ProxyError::NotFound, None),
    }
}

async fn nothing(State(proxy): State<Arc<Proxy>>) -> Response {
    reply::refuse(&proxy, &ProxyError::NotFound, None)
}
