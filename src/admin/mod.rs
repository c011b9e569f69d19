//! The operator's listener: is it alive, is it ready, what does it count.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use crate::front::guard_layer;
use crate::proxy::Proxy;

/// Everything that is served to the operator.
pub(crate) fn router(proxy: &Arc<Proxy>) -> Router {
    let router =
        Router::new().route("/health", get(health)).route("/ready", get(ready)).route("/metrics", get(metrics));
    guard_layer(router, proxy).with_state(Arc::clone(proxy))
}

/// The process answers.
async fn health() -> &'static str {
    "ok\n"
}

/// It takes requests, and which upstreams can be expected to answer them.
async fn ready(State(proxy): State<Arc<Proxy>>) -> Response {
    let servers: serde_json::Map<_, _> = proxy
        .servers()
        .map(|(name, server)| (name.to_owned(), if server.pool.is_ready() { "ready" } else { "failing" }.into()))
        .collect();
    let draining = proxy.is_draining();
    let any = servers.values().any(|state| state == "ready");
    let status = if any && !draining { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": status == StatusCode::OK, "draining": draining, "servers": servers });
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn metrics(State(proxy): State<Arc<Proxy>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], proxy.metrics.exposition(proxy.tasks.panics())).into_response()
}
