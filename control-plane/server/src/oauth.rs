//! The authorization server: who may have a token, on whose word (RFC 6749, OAuth 2.1).
//!
//! Served by every control-plane node over HTTP. A request is read strictly (`form`), its client proves who it is
//! (`client`), its grant is looked at here, and what only one place may decide is asked of the leader (`decisions`);
//! then the token is minted (`minting`). So far the one grant is the identity assertion of a company's provider
//! (`id_jag`). Nothing a client sends is logged or recorded; URLs come from the configuration, never from a request.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::{Request, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bailiwick_control_plane_core::Exchanged;
use bailiwick_proto::scope::Scopes;
use serde::Serialize;
use tokio::sync::Semaphore;

use self::{error::OAuthError, form::Form};
use crate::{
    clock,
    decisions::{Decided, Decisions},
    domain::Domain,
    keys::Keys,
    metrics::Metrics,
    minting,
    providers::Providers,
};

mod client;
pub(crate) mod error;
mod form;
mod id_jag;
pub(crate) mod metadata;

/// Largest request: an assertion of 16 KiB, another of the client's, escaped.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest wait for a request's body.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// Requests for tokens worked on at a time; more are turned away at once.
const AT_ONCE_MAX: usize = 256;
/// Where tokens are given, below the issuer.
pub(crate) const TOKEN_PATH: &str = "/oauth/token";
/// Where people would be signed in.
pub(crate) const AUTHORIZE_PATH: &str = "/oauth/authorize";
/// RFC 7523 §2.1.
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// What the authorization server works with; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) domain: Domain,
    pub(crate) decisions: Decisions,
    pub(crate) keys: Keys,
    pub(crate) providers: Arc<Providers>,
    pub(crate) metrics: Metrics,
    places: Arc<Semaphore>,
}

impl Services {
    pub(crate) fn new(
        domain: Domain,
        decisions: Decisions,
        keys: Keys,
        providers: Arc<Providers>,
        metrics: Metrics,
    ) -> Self {
        Self { domain, decisions, keys, providers, metrics, places: Arc::new(Semaphore::new(AT_ONCE_MAX)) }
    }
}

/// What is served below the issuer.
pub(crate) fn routes(services: Services) -> Router {
    let endpoints = Router::new().route(TOKEN_PATH, post(token)).route(AUTHORIZE_PATH, get(authorize));
    endpoints.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(services)
}

/// The answer with a token (RFC 6749 §5.1).
#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
}

/// Nobody is signed in here yet. Whoever asks is not sent on: where to is not known to be right.
async fn authorize() -> OAuthError {
    OAuthError::response_type()
}

async fn token(State(services): State<Services>, request: Request<Body>) -> Response {
    let Ok(_place) = services.places.clone().try_acquire_owned() else {
        return OAuthError::unavailable("too many tokens are asked for at once").into_response();
    };
    match grant(&services, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::info!(error = error.word(), why = error.why(), "no token is given");
            services.metrics.token_refused(error.word());
            error.into_response()
        }
    }
}

async fn grant(services: &Services, request: Request<Body>) -> Result<Response, OAuthError> {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_WAIT_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    let body = read.ok().and_then(Result::ok).ok_or(OAuthError::request("the request is too large or broke off"))?;
    let form = Form::read(&parts.headers, &body)?;
    let grant_type = form.one("grant_type")?.ok_or(OAuthError::request("grant_type is missing"))?;
    if grant_type != JWT_BEARER {
        return Err(OAuthError::grant_type());
    }
    let client = client::authenticate(services, &parts.headers, &form).await?;
    let decided = id_jag::exchange(services, &client, &form).await?;
    answer(services, &decided)
}

fn answer(services: &Services, decided: &Decided) -> Result<Response, OAuthError> {
    let Decided { exchanged: Exchanged { grant, level }, revision } = decided;
    let minted = minting::mint(&services.domain, &services.keys, grant, *level, *revision);
    let minted = minted.map_err(|_| OAuthError::unavailable("no token can be signed now"))?;
    services.metrics.token_issued();
    let response = TokenResponse {
        access_token: minted.token.expose(),
        token_type: "Bearer",
        expires_in: grant.expires_at.saturating_sub(clock::now_micros() / 1_000_000),
        scope: Scopes::of_level(*level).to_string(),
    };
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")];
    Ok((headers, Json(response)).into_response())
}
