//! The authorization server: who may have a token, on whose word (RFC 6749, OAuth 2.1).
//!
//! Served by every control-plane node over HTTP. People are sent here by clients (`authorize`), sign in (`sign_in`) and
//! are asked (`consent`); clients get tokens for codes, refresh tokens and identity assertions (`token`). What only one
//! place may decide is asked of the leader (`decisions`). Invariants: nothing is kept here between two requests;
//! nothing a client sends is logged or recorded; URLs come from the configuration, never from a request.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};

pub(crate) use self::dpop::Used as UsedProofs;
use self::{certificate::ClientCertificates, documents::Documents, error::OAuthError, limits::Limits};
use crate::{
    audit,
    config::ScimAgents,
    consents,
    decisions::Decisions,
    domain::Domain,
    keys::Keys,
    metrics::Metrics,
    pages,
    providers::Providers,
    refusals::{self, Refusals},
    sign_in::{self, LocalCode},
    signals,
};

mod authorize;
mod binding;
pub(crate) mod certificate;
mod client;
mod clients;
mod consent;
pub(crate) mod documents;
mod dpop;
pub(crate) mod error;
mod exchange;
pub(crate) mod form;
mod handles;
mod id_jag;
mod introspect;
pub(crate) mod limits;
pub(crate) mod metadata;
mod register;
mod request;
mod revoke;
mod token;
mod workload;

/// Largest request: an assertion of 16 KiB, another of the client's, escaped.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest wait for a request's body.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// Where tokens are given, below the issuer.
pub(crate) const TOKEN_PATH: &str = "/oauth/token";
/// Where clients send people.
pub(crate) const AUTHORIZE_PATH: &str = "/oauth/authorize";
/// Where they say what they allow.
const CONSENT_PATH: &str = "/oauth/consent";
pub(crate) const REGISTER_PATH: &str = "/oauth/register";
pub(crate) const REVOKE_PATH: &str = "/oauth/revoke";
pub(crate) const INTROSPECT_PATH: &str = "/oauth/introspect";
/// RFC 7523 §2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 8693 §2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// What tokens are given for.
const GRANT_TYPES: [&str; 5] =
    ["authorization_code", "refresh_token", "client_credentials", JWT_BEARER, TOKEN_EXCHANGE];

/// What the authorization server works with; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) domain: Domain,
    pub(crate) decisions: Decisions,
    /// Has what is refused on record.
    pub(crate) refusals: Refusals,
    pub(crate) keys: Keys,
    pub(crate) providers: Arc<Providers>,
    pub(crate) documents: Arc<Documents>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    /// Clients' proofs of their keys that were used here.
    pub(crate) dpop: UsedProofs,
    /// With which anybody signs in as anybody; `bailiwick dev` alone has one.
    pub(crate) local_sign_in: Option<LocalCode>,
    /// Whether clients may register themselves.
    pub(crate) client_registration: bool,
    /// Which certificates of clients count, and for what.
    pub(crate) certificates: ClientCertificates,
    /// What directories may say of agents.
    pub(crate) scim_agents: Arc<ScimAgents>,
    /// Whose members see everybody's consent timeline.
    pub(crate) auditor_groups: Arc<[String]>,
    /// Groups that no directory may fill.
    pub(crate) scim_reserved_groups: Arc<BTreeSet<String>>,
}

/// What is served below the issuer.
pub(crate) fn routes(services: Services) -> Router {
    let limits = middleware::from_fn_with_state(services.limits.clone(), limits::limit);
    let endpoints = Router::new()
        .route(TOKEN_PATH, post(token::token))
        .route(AUTHORIZE_PATH, get(authorize::authorize))
        .route(CONSENT_PATH, post(consent::answer))
        .route(REGISTER_PATH, post(register::register))
        .route(REVOKE_PATH, post(revoke::revoke))
        .route(INTROSPECT_PATH, post(introspect::introspect))
        .merge(sign_in::routes())
        .merge(signals::push::routes())
        .merge(consents::routes())
        .merge(audit::routes());
    let whole = middleware::from_fn(whole);
    let noted = middleware::from_fn_with_state(services.refusals.clone(), refusals::note);
    let limited = endpoints.layer(whole).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(limits).layer(noted);
    limited.route(pages::STYLE_PATH, get(pages::style)).with_state(services)
}

/// Reads a request's body before anybody works on it: nobody waits longer for one than here.
async fn whole(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match body_of(body).await {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(error) => error.into_response(),
    }
}

async fn body_of(body: Body) -> Result<Bytes, OAuthError> {
    let read = tokio::time::timeout(BODY_WAIT_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    read.ok().and_then(Result::ok).ok_or(OAuthError::request("the request is too large or broke off"))
}
