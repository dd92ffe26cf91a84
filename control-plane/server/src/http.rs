//! The public HTTP listener: token keys and what this authorization server is (RFC 7517 §5, RFC 8414).
//!
//! Honest about what is not there yet: no grants and no endpoints but the key set. Everything else is a 404 in JSON.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use bailiwick_runtime::Shutdown;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::domain::Domain;

/// How long clients may keep keys and metadata: a new key is registered well before the first token it signs.
const CACHE: &str = "public, max-age=300";

/// Serves until shutdown is requested.
pub(crate) async fn serve(listener: TcpListener, domain: Domain, shutdown: Shutdown) -> std::io::Result<()> {
    let app = Router::new()
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .fallback(missing)
        .with_state(domain);
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

#[derive(Serialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; 0],
    code_challenge_methods_supported: [&'static str; 1],
}

async fn metadata(State(domain): State<Domain>) -> impl IntoResponse {
    let Some(issuer) = domain.read(|state| state.issuer.as_ref().map(|issuer| issuer.issuer.clone())) else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready").into_response();
    };
    let metadata = Metadata {
        jwks_uri: format!("{issuer}/.well-known/jwks.json"),
        issuer,
        response_types_supported: [],
        grant_types_supported: [],
        code_challenge_methods_supported: ["S256"],
    };
    ([(header::CACHE_CONTROL, CACHE)], Json(metadata)).into_response()
}

async fn missing() -> impl IntoResponse {
    problem(StatusCode::NOT_FOUND, "not_found")
}

fn problem(status: StatusCode, error: &'static str) -> (StatusCode, Json<Value>) {
    (status, Json(serde_json::json!({ "error": error })))
}
