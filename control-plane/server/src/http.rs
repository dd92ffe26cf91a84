//! The public HTTP listener: token keys (RFC 7517 §5), what this authorization server is (RFC 8414), and its endpoints
//! (`oauth`). Everything else is a 404 in JSON.
//!
//! The metadata is also found where an issuer with a path has it (RFC 8414 §3.1).

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, Uri, header},
    response::IntoResponse,
    routing::get,
};
use bailiwick_runtime::Shutdown;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    domain::Domain,
    minting,
    oauth::{self, Services},
};

/// RFC 8414 §3.
const METADATA: &str = "/.well-known/oauth-authorization-server";
/// How long clients may keep keys and metadata: a new key is registered well before the first token it signs.
const CACHE: &str = "public, max-age=300";

/// Serves until shutdown is requested.
pub(crate) async fn serve(listener: TcpListener, services: Services, shutdown: Shutdown) -> std::io::Result<()> {
    let app = Router::new()
        .route("/.well-known/jwks.json", get(jwks))
        .route(METADATA, get(metadata))
        .route(&format!("{METADATA}/{{*path}}"), get(metadata_at))
        .with_state(services.domain.clone())
        .merge(oauth::routes(services))
        .fallback(missing);
    axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.requested().await }).await
}

#[derive(Serialize)]
struct KeySet {
    keys: Vec<Value>,
}

async fn jwks(State(domain): State<Domain>) -> impl IntoResponse {
    let keys = domain.read(|state| {
        state.token_keys.values().filter_map(|stored| serde_json::from_str(&stored.key.jwk).ok()).collect()
    });
    ([(header::CACHE_CONTROL, CACHE)], Json(KeySet { keys }))
}

async fn metadata(State(domain): State<Domain>) -> impl IntoResponse {
    match domain.read(minting::issuer) {
        Some((issuer, _)) => ([(header::CACHE_CONTROL, CACHE)], Json(oauth::metadata::of(issuer))).into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready").into_response(),
    }
}

/// Where an issuer with a path has it.
async fn metadata_at(State(domain): State<Domain>, Path(path): Path<String>) -> impl IntoResponse {
    let is_ours = |issuer: &str| {
        let uri = issuer.parse::<Uri>().ok();
        uri.is_some_and(|uri| uri.path().trim_matches('/') == path && !path.is_empty())
    };
    if domain.read(minting::issuer).is_some_and(|(issuer, _)| is_ours(&issuer)) {
        metadata(State(domain)).await.into_response()
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
