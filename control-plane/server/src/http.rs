//! The public HTTP listener: keys that verify tokens, and those that verify contexts (RFC 7517 §5), what this
//! authorization server is (RFC 8414), and its endpoints (`oauth`). Everything else is a 404 in JSON.
//!
//! Started by `serve`. Strangers come here, so connections are counted and end (`connections`, `connection`), and each
//! request knows from whom it is (`address`); how much of `oauth` one of them may have is `oauth::limits`. The metadata
//! is also found where an issuer with a path has it (RFC 8414 §3.1). Absent: TLS, which is a proxy's.

pub(crate) mod address;
pub(crate) mod client_certificate;
mod connection;
mod connections;
pub(crate) mod shares;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, Uri, header},
    response::IntoResponse,
    routing::get,
};
use bailiwick_runtime::Supervisor;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpListener;

pub(crate) use self::connections::Terms;
use crate::{
    minting,
    oauth::{self, Services},
    scim,
};

/// RFC 8414 §3.
const METADATA: &str = "/.well-known/oauth-authorization-server";
/// How long clients may keep keys and metadata: a new key is registered well before the first token it signs.
const CACHE: &str = "public, max-age=300";

/// Serves until shutdown is requested; connections finish after that, as tasks of `supervisor`.
pub(crate) async fn serve(listener: TcpListener, services: Services, terms: Terms, supervisor: Supervisor) {
    let metrics = services.metrics.clone();
    let app = Router::new()
        .route("/.well-known/jwks.json", get(jwks))
        .route(oauth::metadata::CONTEXT_JWKS, get(context_jwks))
        .route(METADATA, get(metadata))
        .route(&format!("{METADATA}/{{*path}}"), get(metadata_at))
        .with_state(services.clone())
        .merge(scim::routes(services.clone()))
        .merge(oauth::routes(services))
        .fallback(missing);
    let listener = Arc::new(listener);
    let next = || {
        let listener = Arc::clone(&listener);
        async move { listener.accept().await }
    };
    connections::serve(next, app, terms, metrics, supervisor).await;
}

#[derive(Serialize)]
struct KeySet {
    keys: Vec<Value>,
}

async fn jwks(State(services): State<Services>) -> impl IntoResponse {
    let keys = services.domain.read(|state| {
        state.token_keys.values().filter_map(|stored| serde_json::from_str(&stored.key.jwk).ok()).collect()
    });
    ([(header::CACHE_CONTROL, CACHE)], Json(KeySet { keys }))
}

/// A set of its own: whoever verifies access tokens must not take what data planes sign.
async fn context_jwks(State(services): State<Services>) -> impl IntoResponse {
    let contexts = services.keys.contexts();
    let keys = contexts.iter().filter_map(|jwk| serde_json::to_value(jwk).ok()).collect();
    ([(header::CACHE_CONTROL, CACHE)], Json(KeySet { keys }))
}

async fn metadata(State(services): State<Services>) -> impl IntoResponse {
    match services.domain.read(minting::issuer) {
        Some((issuer, _)) => {
            let metadata = oauth::metadata::of(issuer, &services);
            ([(header::CACHE_CONTROL, CACHE)], Json(metadata)).into_response()
        }
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready").into_response(),
    }
}

/// Where an issuer with a path has it.
async fn metadata_at(State(services): State<Services>, Path(path): Path<String>) -> impl IntoResponse {
    let is_ours = |issuer: &str| {
        let uri = issuer.parse::<Uri>().ok();
        uri.is_some_and(|uri| uri.path().trim_matches('/') == path && !path.is_empty())
    };
    if services.domain.read(minting::issuer).is_some_and(|(issuer, _)| is_ours(&issuer)) {
        metadata(State(services)).await.into_response()
    } else {
        missing().await.into_response()
    }
}

async fn missing() -> impl IntoResponse {
    problem(StatusCode::NOT_FOUND, "not_found")
}

fn problem(status: StatusCode, error: &'static str) -> (StatusCode, Json<Value>) {
    (status, Json(serde_json::json!({ "error": error })))
}
