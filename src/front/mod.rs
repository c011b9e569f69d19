//! HTTP towards clients: paths, guards, and what turns messages into responses.

mod duplex;
mod guard;
mod http_sse;
mod mcp;
mod reply;
pub(crate) mod stdio;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router, middleware};
use http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::protocol::headers;
use crate::proxy::Proxy;
use crate::proxy::error::ProxyError;
use crate::settings::Settings;
use http_sse::Clients;

/// Everything that is served to clients.
pub(crate) fn router(proxy: &Arc<Proxy>) -> Router {
    let mut router = Router::new().route(&proxy.settings.path, any(single)).route("/servers/{name}/mcp", any(named));
    if proxy.settings.http_sse {
        let base = base(&proxy.settings.path);
        router = router
            .route(&format!("{base}/sse"), get(sse_single))
            .route(&format!("{base}/messages"), post(messages))
            .route("/servers/{name}/sse", get(sse_named))
            .route("/servers/{name}/messages", post(messages))
            .layer(Extension(Arc::new(Clients::default())));
    }
    let router = router.fallback(nothing).method_not_allowed_fallback(wrong_method).layer(cors(&proxy.settings));
    guard_layer(router, proxy).with_state(Arc::clone(proxy))
}

/// Checks `Host` and `Origin` before anything else, on whichever listener.
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

async fn single(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    match proxy.server(None).cloned() {
        Some(server) => mcp::endpoint(&proxy, &server, request).await,
        None => reply::refuse(&proxy, &ProxyError::NotFound, None, None),
    }
}

async fn named(State(proxy): State<Arc<Proxy>>, Path(name): Path<String>, request: Request) -> Response {
    match proxy.server(Some(&name)).cloned() {
        Some(server) => mcp::endpoint(&proxy, &server, request).await,
        None => reply::refuse(&proxy, &ProxyError::NotFound, None, None),
    }
}

async fn nothing(State(proxy): State<Arc<Proxy>>) -> Response {
    reply::refuse(&proxy, &ProxyError::NotFound, None, None)
}

async fn wrong_method(State(proxy): State<Arc<Proxy>>) -> Response {
    reply::refuse(&proxy, &ProxyError::MethodNotAllowed, None, None)
}

/// What stands before the last part of the endpoint's path: the paths of HTTP+SSE stand beside it.
fn base(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(base, _)| base)
}

async fn sse_single(
    State(proxy): State<Arc<Proxy>>,
    Extension(clients): Extension<Arc<Clients>>,
    request: Request,
) -> Response {
    let messages = format!("{}/messages", base(&proxy.settings.path));
    open_sse(&proxy, None, &clients, &request, &messages)
}

async fn sse_named(
    State(proxy): State<Arc<Proxy>>,
    Extension(clients): Extension<Arc<Clients>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let messages = format!("/servers/{name}/messages");
    open_sse(&proxy, Some(&name), &clients, &request, &messages)
}

fn open_sse(
    proxy: &Arc<Proxy>,
    name: Option<&str>,
    clients: &Arc<Clients>,
    request: &Request,
    messages: &str,
) -> Response {
    let server = proxy.server(name).cloned().ok_or(ProxyError::NotFound);
    let opened = server.and_then(|server| http_sse::open(proxy, &server, clients, request, messages));
    opened.unwrap_or_else(|error| reply::refuse(proxy, &error, None, None)).into_response()
}

async fn messages(
    State(proxy): State<Arc<Proxy>>,
    Extension(clients): Extension<Arc<Clients>>,
    request: Request,
) -> Response {
    http_sse::post(&proxy, &clients, request).await.unwrap_or_else(|error| reply::refuse(&proxy, &error, None, None))
}
