//! Dynamic client registration (RFC 7591): a program that nobody knows becomes a client that may ask people.
//!
//! For today's clients, which have nothing else; off unless `client_registration` is configured, and what a client says
//! of itself is shown to people as its own word. It acts only as agents that take such clients, never without a person.
//! Absent: managing a registration (RFC 7592): administrators do (`get`, `delete client`).

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use bailiwick_control_plane_core::{
    Wish,
    client::RegisterClient,
    resource::{ClientAuth, ClientBinding, ClientSpec, redirect},
};
use serde::{Deserialize, Serialize};

use super::{Services, body_of, error::OAuthError};
use crate::{clock, decisions::Undecided, pages::shown};

/// What clients registered themselves as, by the actor of its event.
const ACTOR: &str = "registration";
/// Longest name that is kept.
const NAME_CHARS_MAX: usize = 64;

/// What a client says of itself; what is not known is left out (RFC 7591 §2).
#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    redirect_uris: Vec<String>,
    client_name: Option<String>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<BTreeSet<String>>,
    response_types: Option<BTreeSet<String>>,
    application_type: Option<String>,
    #[serde(default)]
    dpop_bound_access_tokens: bool,
    #[serde(default)]
    tls_client_certificate_bound_access_tokens: bool,
}

/// What it is registered as (RFC 7591 §3.2.1).
#[derive(Serialize)]
struct Registered {
    client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    /// 0: the secret does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_expires_at: Option<u64>,
    client_id_issued_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<String>,
    redirect_uris: BTreeSet<String>,
    token_endpoint_auth_method: String,
    grant_types: [&'static str; 2],
    response_types: [&'static str; 1],
    application_type: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dpop_bound_access_tokens: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_client_certificate_bound_access_tokens: bool,
}

pub(super) async fn register(State(services): State<Services>, request: Request<Body>) -> Response {
    match registered(&services, request).await {
        Ok(registered) => {
            let headers = [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")];
            (StatusCode::CREATED, headers, Json(registered)).into_response()
        }
        Err(error) => {
            tracing::info!(error = error.word(), why = error.why(), "a client is not registered");
            services.metrics.token_refused(error.word());
            error.into_response()
        }
    }
}

async fn registered(services: &Services, request: Request<Body>) -> Result<Registered, OAuthError> {
    let (parts, body) = request.into_parts();
    // Also where it is in vain: what is left of it would end the connection.
    let body = body_of(body).await?;
    if !services.client_registration {
        return Err(OAuthError::registration_off());
    }
    services.limits.registration(&parts.extensions)?;
    let metadata: Metadata = serde_json::from_slice(&body)
        .map_err(|_| OAuthError::metadata("the body is not an object of client metadata in JSON"))?;
    let (method, auth) = check(&metadata)?;
    let wanted = [metadata.dpop_bound_access_tokens, metadata.tls_client_certificate_bound_access_tokens];
    let binding =
        binding(wanted).ok_or(OAuthError::metadata("tokens are bound to a key or to a certificate, not both"))?;
    if binding == Some(ClientBinding::Certificate) && !services.certificates.are_told() {
        return Err(OAuthError::metadata("no client can show a certificate here"));
    }
    let fresh = |prefix| clock::random_id(prefix).map_err(|_| OAuthError::unavailable("there is no randomness"));
    let client_secret = if auth == ClientAuth::ClientSecret { Some(fresh("bws-")?) } else { None };
    let hash = |secret: &String| hex::encode(digest::digest(&digest::SHA256, secret.as_bytes()));
    let name = metadata.client_name.as_deref().map(title).filter(|name| !name.is_empty());
    let spec = ClientSpec {
        title: name.clone(),
        agent: None,
        auth,
        redirect_uris: metadata.redirect_uris.into_iter().collect(),
        secret_sha256: client_secret.as_ref().map(hash),
        jwks: None,
        ceiling: None,
        headless: None,
        exchange: None,
        workload: None,
        certificate: None,
        binding,
        self_registered: true,
        active: true,
    };
    let registered = Registered {
        client_id: fresh("r-")?,
        client_secret_expires_at: client_secret.is_some().then_some(0),
        client_secret,
        client_id_issued_at: clock::now_seconds(),
        client_name: name,
        redirect_uris: spec.redirect_uris.clone(),
        token_endpoint_auth_method: method.to_owned(),
        grant_types: ["authorization_code", "refresh_token"],
        response_types: ["code"],
        application_type: if spec.redirect_uris.iter().any(|uri| redirect::is_loopback(uri)) {
            "native"
        } else {
            "web"
        },
        dpop_bound_access_tokens: binding == Some(ClientBinding::Dpop),
        tls_client_certificate_bound_access_tokens: binding == Some(ClientBinding::Certificate),
    };
    let wish = RegisterClient { name: registered.client_id.clone(), spec };
    match services.decisions.ask(&Wish::RegisterClient(wish), ACTOR.to_owned()).await {
        Ok(_) => Ok(registered),
        Err(Undecided::Refused(_)) => Err(OAuthError::metadata("the client cannot be registered like this")),
        Err(Undecided::Unavailable) => Err(OAuthError::unavailable("clients cannot be registered now")),
    }
}

/// How the tokens of a client must be bound that wants them bound to its key, or to its certificate (RFC 9449 §5.2,
/// RFC 8705 §3.4); `None` where it wants both, which no token is.
pub(super) const fn binding(wanted: [bool; 2]) -> Option<Option<ClientBinding>> {
    match wanted {
        [false, false] => Some(None),
        [true, false] => Some(Some(ClientBinding::Dpop)),
        [false, true] => Some(Some(ClientBinding::Certificate)),
        [true, true] => None,
    }
}

/// How it will prove who it is, if what it says can be granted.
fn check(metadata: &Metadata) -> Result<(&'static str, ClientAuth), OAuthError> {
    if metadata.redirect_uris.is_empty() || metadata.redirect_uris.len() > redirect::REDIRECT_URIS_MAX {
        return Err(OAuthError::redirect_uri("redirect_uris are missing, or too many"));
    }
    if !metadata.redirect_uris.iter().all(|uri| redirect::is_redirect_uri(uri)) {
        return Err(OAuthError::redirect_uri(
            "a redirect URI is https, http of this machine, or of a program's own scheme",
        ));
    }
    let within = |said: &Option<BTreeSet<String>>, needed: &str| said.as_ref().is_none_or(|said| said.contains(needed));
    if !within(&metadata.grant_types, "authorization_code") || !within(&metadata.response_types, "code") {
        return Err(OAuthError::metadata("clients that register themselves get codes, and nothing without a person"));
    }
    if !matches!(metadata.application_type.as_deref(), None | Some("web" | "native")) {
        return Err(OAuthError::metadata("application_type is web or native"));
    }
    match metadata.token_endpoint_auth_method.as_deref() {
        Some("none") => Ok(("none", ClientAuth::None)),
        // RFC 7591 §2: what nothing is said of.
        None | Some("client_secret_basic") => Ok(("client_secret_basic", ClientAuth::ClientSecret)),
        Some("client_secret_post") => Ok(("client_secret_post", ClientAuth::ClientSecret)),
        Some(_) => Err(OAuthError::metadata("token_endpoint_auth_method is not one that can be registered here")),
    }
}

/// A name as people may be shown it.
fn title(said: &str) -> String {
    shown(said).chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect::<String>().trim().to_owned()
}
