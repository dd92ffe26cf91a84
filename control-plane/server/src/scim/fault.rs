//! What a directory is answered whose request is not carried out (RFC 7644 §3.12).
//!
//! Made wherever a request is looked at; becomes a response here. Invariant: what is told is a sentence of ours, with
//! at most a name that the directory sent.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bailiwick_control_plane_core::provisioning::wish::Fault as Decided;
use serde_json::{Value, json};

use super::{MEDIA_TYPE, schema};
use crate::decisions::Undecided;

/// Longest sentence.
const DETAIL_CHARS_MAX: usize = 400;

/// An answer with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    /// `scimType`; empty: none fits.
    kind: &'static str,
    detail: String,
}

impl Fault {
    fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into() }
    }

    pub(super) fn syntax(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalidSyntax", detail)
    }

    pub(super) fn filter(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalidFilter", detail)
    }

    pub(super) fn path(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalidPath", detail)
    }

    pub(super) fn value(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalidValue", detail)
    }

    pub(super) fn target(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "noTarget", detail)
    }

    pub(super) fn mutability(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "mutability", detail)
    }

    pub(super) fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "tooMany", detail)
    }

    pub(super) fn large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "", detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "", detail)
    }

    pub(super) fn missing() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", "there is no such resource")
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "", detail)
    }

    pub(super) fn version() -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "", "the resource was changed since")
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "", "this method is not for this resource")
    }

    pub(super) fn media_type() -> Self {
        let detail = "send application/scim+json or application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "", detail)
    }

    pub(super) fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "", "not now; try again")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "", "a token made by `bailiwick scim token create` is needed")
    }

    /// The error as it stands in answers of its own and of bulk requests.
    pub(super) fn body(&self) -> Value {
        let detail: String = self.detail.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect();
        let mut body = json!({
            "schemas": [schema::ERROR],
            "status": self.status.as_str(),
            "detail": detail,
        });
        if let Some(members) = body.as_object_mut().filter(|_| !self.kind.is_empty()) {
            members.insert("scimType".to_owned(), self.kind.into());
        }
        body
    }
}

impl From<Decided> for Fault {
    fn from(fault: Decided) -> Self {
        match fault {
            Decided::Unknown => Self::missing(),
            Decided::Version => Self::version(),
            Decided::Taken(detail) => Self::new(StatusCode::CONFLICT, "uniqueness", detail),
            Decided::Value(detail) => Self::value(detail),
            Decided::Reserved(_) => Self::mutability(fault.to_string()),
            Decided::Full { .. } => Self::too_many(fault.to_string()),
        }
    }
}

impl From<Undecided> for Fault {
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Refused(detail) => Self::value(detail),
            Undecided::Unavailable => Self::unavailable(),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"bailiwick-scim\", error=\"invalid_token\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
