//! The operator's listener: is it alive, is it ready, what is it doing, what does it count.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use crate::front::guard_layer;
use crate::proxy::{Proxy, Server};

/// Everything that is served to the operator.
pub(crate) fn router(proxy: &Arc<Proxy>) -> Router {
    let router = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/ready/{server}", get(server_ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics));
    guard_layer(router, proxy).with_state(Arc::clone(proxy))
}

/// The process answers.
async fn health() -> &'static str {
    "ok\n"
}

/// It takes requests, and at least one upstream can be expected to answer them.
async fn ready(State(proxy): State<Arc<Proxy>>) -> Response {
    let servers: serde_json::Map<_, _> =
        proxy.servers().map(|(name, server)| (name.to_owned(), state(server).into())).collect();
    let any = servers.values().any(|state| state == READY);
    let draining = proxy.is_draining();
    answer(any && !draining, serde_json::json!({ "draining": draining, "servers": servers }))
}

/// It takes requests for this upstream, which can be expected to answer them.
async fn server_ready(State(proxy): State<Arc<Proxy>>, Path(name): Path<String>) -> Response {
    let Some(server) = proxy.server(Some(&name)) else { return StatusCode::NOT_FOUND.into_response() };
    let (state, draining) = (state(server), proxy.is_draining());
    answer(state == READY && !draining, serde_json::json!({ "draining": draining, "server": name, "state": state }))
}

const READY: &str = "ready";

/// Whether a server can be expected to answer, or why not.
fn state(server: &Server) -> String {
    server.backend.resting().map_or_else(|| READY.to_owned(), |why| format!("failing: {why}"))
}

fn answer(ready: bool, mut body: serde_json::Value) -> Response {
    body["ready"] = ready.into();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

/// What each upstream is doing at this moment: the gauges, for people.
async fn status(State(proxy): State<Arc<Proxy>>) -> Response {
    let servers: serde_json::Map<_, _> =
        proxy.servers().map(|(name, server)| (name.to_owned(), doing(server))).collect();
    let body = serde_json::json!({ "draining": proxy.is_draining(), "servers": servers });
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn doing(server: &Server) -> serde_json::Value {
    let reading = server.metrics.reading();
    let mut pool: serde_json::Map<_, _> = counts(&reading.pool);
    pool.insert("max".to_owned(), reading.pool_max.into());
    let mut doing = serde_json::json!({
        "state": state(server),
        "sessions": reading.sessions,
        "in_flight": reading.in_flight,
        "queue": reading.queue,
        "pool": pool,
    });
    match reading.circuit {
        Some(circuit) => {
            doing["streams"] = counts(&reading.streams).into();
            doing["circuit"] = circuit.into();
        }
        None => doing["children"] = reading.children.into(),
    }
    doing
}

fn counts(by_state: &[(&'static str, i64)]) -> serde_json::Map<String, serde_json::Value> {
    by_state.iter().map(|(state, count)| ((*state).to_owned(), (*count).into())).collect()
}

async fn metrics(State(proxy): State<Arc<Proxy>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], proxy.metrics.exposition(proxy.tasks.panics())).into_response()
}
