//! Refusals of the authorization server (RFC 6749 §5.2, RFC 8707 §2): a word, a sentence that is safe outside, and what
//! is worth a log line but no stranger's business.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

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
}

impl OAuthError {
    fn new(status: StatusCode, word: &'static str, why: &'static str) -> Self {
        Self { status, word, description: why.to_owned(), why, by_basic: false }
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

    /// The same, decided elsewhere.
    pub(crate) fn refused(sentence: String) -> Self {
        Self { description: sentence, ..Self::grant("the decision was against it") }
    }

    pub(crate) fn scope() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_scope", "none of the scopes asked for is granted")
    }

    pub(crate) fn target(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_target", why)
    }

    pub(crate) fn grant_type() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", "this grant type is not served here")
    }

    pub(crate) fn response_type() -> Self {
        let why = "nobody is signed in here: tokens come by identity assertions of a company's provider";
        Self::new(StatusCode::BAD_REQUEST, "unsupported_response_type", why)
    }

    /// Not now.
    pub(crate) fn unavailable(why: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", why)
    }

    /// The stable word.
    pub(crate) const fn word(&self) -> &'static str {
        self.word
    }

    /// Which of the checks it was.
    pub(crate) const fn why(&self) -> &'static str {
        self.why
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": self.word, "error_description": printable(&self.description)}));
        let mut response = (self.status, [(header::CACHE_CONTROL, "no-store")], body).into_response();
        if self.by_basic {
            let challenge = HeaderValue::from_static("Basic realm=\"bailiwick\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The characters that a description may have (RFC 6749 §5.2).
fn printable(text: &str) -> String {
    let shown = |c: char| if c == '"' || c == '\\' { '\'' } else { c };
    text.chars().map(shown).filter(|c| matches!(c, ' '..='~')).take(400).collect()
}
