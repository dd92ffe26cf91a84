//! Refusals of the authorization server (RFC 6749 §5.2, RFC 8707 §2): a word, a sentence that is safe outside, and what
//! is worth a log line but no stranger's business.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bailiwick_control_plane_core::refusal::Refusal;
use serde_json::json;

use super::limits::FailedProof;
use crate::refusals::{told, untold};

/// How our log's word begins where the description says why.
const DECIDED: &str = "the decision was against ";
/// RFC 9449 §8.
const DPOP_NONCE: &str = "use_dpop_nonce";

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OAuthError {
    status: StatusCode,
    word: &'static str,
    description: String,
    /// For our log: which of the checks it was.
    why: &'static str,
    /// The client tried HTTP's own way of authentication.
    by_basic: bool,
    /// It counts as a failed proof of who asks (`limits`).
    is_proof: bool,
    /// When to try again, in seconds; told where it is worth trying.
    retry_after: u64,
    /// Whose request it was, as far as that is known.
    about: Box<Refusal>,
}

impl OAuthError {
    fn new(status: StatusCode, word: &'static str, why: &'static str) -> Self {
        let (description, about) = (why.to_owned(), Box::default());
        Self { status, word, description, why, by_basic: false, is_proof: false, retry_after: 1, about }
    }

    /// The request is not one.
    pub(crate) fn request(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", why)
    }

    /// The client did not prove who it is. Which part failed is nobody's business.
    pub(crate) fn client(why: &'static str, by_basic: bool) -> Self {
        let description = "the client is unknown or did not prove who it is".to_owned();
        Self { by_basic, description, ..Self::new(StatusCode::UNAUTHORIZED, "invalid_client", why) }
    }

    /// What it presents gives no token.
    pub(crate) fn grant(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_grant", why)
    }

    /// The same, of what was to prove who asks, too.
    pub(crate) fn proof(why: &'static str) -> Self {
        Self { is_proof: true, ..Self::grant(why) }
    }

    /// The same, decided elsewhere.
    pub(crate) fn refused(sentence: String) -> Self {
        Self { description: sentence, ..Self::grant("the decision was against it") }
    }

    /// A token that is not handed on (RFC 8693 §2.2.2).
    pub(crate) fn not_handed_on(sentence: String) -> Self {
        Self { description: sentence, ..Self::request("the decision was against handing it on") }
    }

    /// A proof of the client's key that does not count (RFC 9449 §5).
    pub(crate) fn dpop(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_dpop_proof", why)
    }

    /// A proof that needs a nonce, which is on the answer (RFC 9449 §8).
    pub(crate) fn dpop_nonce() -> Self {
        Self::new(StatusCode::BAD_REQUEST, DPOP_NONCE, "the DPoP proof needs the nonce of this answer")
    }

    pub(crate) fn scope() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_scope", "none of the scopes asked for is granted")
    }

    pub(crate) fn target(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_target", why)
    }

    /// The client is known, and this is not for it.
    pub(crate) fn unauthorized(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unauthorized_client", why)
    }

    /// What a client is told of on the way back to it.
    pub(crate) fn fault(word: &'static str, why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, word, why)
    }

    pub(crate) fn grant_type() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", "this grant type is not served here")
    }

    /// What a client says of itself cannot be registered (RFC 7591 §3.2.2).
    pub(crate) fn metadata(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_client_metadata", why)
    }

    pub(crate) fn redirect_uri(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_redirect_uri", why)
    }

    pub(crate) fn registration_off() -> Self {
        Self::new(StatusCode::FORBIDDEN, "access_denied", "clients do not register themselves here")
    }

    /// Not now.
    pub(crate) fn unavailable(why: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", why)
    }

    /// Not so often, or so much at once (RFC 6585 §4): again after `wait`.
    pub(crate) fn too_many(why: &'static str, wait: Duration) -> Self {
        let retry_after = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable", why) }
    }

    /// The same, with more that is known of whose request it was.
    pub(crate) fn with(mut self, fill_in: impl FnOnce(&mut Refusal)) -> Self {
        fill_in(&mut self.about);
        self
    }

    /// The same, of a request that would have used this consent.
    pub(crate) fn of_consent(self, consent: &str) -> Self {
        self.with(|about| consent.clone_into(&mut about.consent))
    }

    /// As it is noted.
    pub(crate) fn refusal(&self) -> Refusal {
        let why = if self.why.starts_with(DECIDED) { &self.description } else { self.why };
        Refusal { error: self.word.to_owned(), why: why.to_owned(), ..Refusal::clone(&self.about) }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable word.
    pub(crate) const fn word(&self) -> &'static str {
        self.word
    }

    /// Which of the checks it was.
    pub(crate) const fn why(&self) -> &'static str {
        self.why
    }

    /// When to try again, in seconds.
    pub(crate) const fn retry_after(&self) -> u64 {
        self.retry_after
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let refusal = self.refusal();
        let body = Json(json!({"error": self.word, "error_description": printable(&self.description)}));
        let mut response = (self.status, [(header::CACHE_CONTROL, "no-store")], body).into_response();
        if self.by_basic {
            let challenge = HeaderValue::from_static("Basic realm=\"bailiwick\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        if self.is_proof {
            response.extensions_mut().insert(FailedProof);
        }
        // A client that hears of its first nonce is refused nothing.
        if self.word == DPOP_NONCE { untold(response) } else { told(response, refusal) }
    }
}

/// The characters that a description may have (RFC 6749 §5.2).
fn printable(text: &str) -> String {
    let shown = |c: char| if c == '"' || c == '\\' { '\'' } else { c };
    text.chars().map(shown).filter(|c| matches!(c, ' '..='~')).take(400).collect()
}
