//! Signals that a transmitter sends here (RFC 8935): one security event token in one POST.
//!
//! Routed by `oauth`, so that strangers have the limits they have there: by address, in size, and by failed proofs.
//! Invariants: before anything is read of a token, its sender has shown the bearer secret of this provider's manifest;
//! a wrong secret, a provider that is none and one that may not push are answered alike; 202 is said once the effect is
//! committed. Absent: what a token says (`signals`).

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bailiwick_control_plane_core::{
    refusal::Refusal,
    resource::{IdentityProviderSpec, PushSpec},
    signal::Delivery,
};
use bailiwick_token::same_secret;
use serde_json::json;

use super::{Receiver, SetFault};
use crate::{
    oauth::{Services, limits::FailedProof},
    refusals::told,
};

/// Below the issuer, with the provider's name behind it.
pub(super) const PATH: &str = "/ssf/events";
/// RFC 8417 §2.3.
const MEDIA_TYPE: &str = "application/secevent+jwt";
/// When a transmitter is to try again, in seconds.
const RETRY_SECONDS: u64 = 5;

/// The endpoint.
pub(crate) fn routes() -> Router<Services> {
    Router::new().route(&format!("{PATH}/{{provider}}"), post(push))
}

/// Why a request is refused.
enum Refused {
    /// The sender is not who may push for this provider.
    Sender,
    /// The request is not one of RFC 8935.
    Request(&'static str),
    Signal(SetFault),
}

async fn push(
    State(services): State<Services>,
    Path(provider): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match pushed(&services, &provider, &headers, &body).await {
        Ok(()) => (StatusCode::ACCEPTED, [(header::CACHE_CONTROL, "no-store")]).into_response(),
        Err(refused) => {
            if !matches!(refused, Refused::Signal(_)) {
                services.metrics.signal("none", refused.word());
            }
            let is_known = services.domain.read(|state| state.identity_providers.contains_key(&provider));
            refused.answer(if is_known { provider } else { String::new() })
        }
    }
}

async fn pushed(services: &Services, provider: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Refused> {
    let spec = services.domain.read(|state| state.identity_providers.get(provider).map(|known| known.spec.clone()));
    let spec = sender(spec, headers).ok_or(Refused::Sender)?;
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said = said.split(';').next().unwrap_or_default().trim();
    if !said.eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(Refused::Request("the body must be application/secevent+jwt"));
    }
    let jwt = std::str::from_utf8(body).map_err(|_| Refused::Request("the body is no token"))?;
    let Services { decisions, providers, metrics, .. } = services.clone();
    let receiver = Receiver { decisions, providers, metrics };
    receiver.take(provider, &spec, jwt.trim(), Delivery::Push).await.map(drop).map_err(Refused::Signal)
}

/// The provider's manifest, if whoever sends these headers may push for it.
fn sender(spec: Option<IdentityProviderSpec>, headers: &HeaderMap) -> Option<IdentityProviderSpec> {
    let shown = bearer(headers).unwrap_or_default();
    // As much work for a provider that is none.
    let shown = hex::encode(digest(&SHA256, shown.as_bytes()));
    let spec = spec.filter(|spec| spec.active)?;
    let PushSpec { secrets_sha256 } = spec.signals.as_ref()?.push.as_ref()?;
    let knows = secrets_sha256.iter().filter(|known| same_secret(known.as_bytes(), shown.as_bytes())).count() > 0;
    knows.then_some(spec)
}

/// Whether a header with this text would be let in.
pub(super) fn is_known(push: &PushSpec, header: &str) -> bool {
    let shown = header.split_once(' ').map(|(_, secret)| hex::encode(digest(&SHA256, secret.trim().as_bytes())));
    let is_it = |known: &String, shown: &String| same_secret(known.as_bytes(), shown.as_bytes());
    shown.is_some_and(|shown| push.secrets_sha256.iter().any(|known| is_it(known, &shown)))
}

/// The one bearer secret of a request (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, secret) = all.next().filter(|_| all.next().is_none())?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}

impl Refused {
    /// The word of RFC 8935 §2.4.
    const fn word(&self) -> &'static str {
        match self {
            Self::Sender => "authentication_failed",
            Self::Request(_) => "invalid_request",
            Self::Signal(fault) => fault.word(),
        }
    }

    fn answer(self, provider: String) -> Response {
        let word = self.word();
        let (status, sentence) = match &self {
            Self::Sender => {
                let sentence = "the sender is not known, or did not prove who it is".to_owned();
                (StatusCode::BAD_REQUEST, sentence)
            }
            Self::Request(sentence) => (StatusCode::BAD_REQUEST, (*sentence).to_owned()),
            Self::Signal(fault) if fault.may_pass() => (StatusCode::SERVICE_UNAVAILABLE, fault.sentence()),
            Self::Signal(fault) => (StatusCode::BAD_REQUEST, fault.sentence()),
        };
        let refusal = Refusal { error: word.to_owned(), why: sentence.clone(), provider, ..Refusal::default() };
        let headers = [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_LANGUAGE, "en")];
        let mut response = (status, headers, Json(json!({"err": word, "description": sentence}))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        if matches!(self, Self::Sender) {
            response.extensions_mut().insert(FailedProof);
        }
        told(response, refusal)
    }
}
