//! How answers look: records with their place in the log, and errors with a stable code.
//!
//! Every error is `{"error": {"code": …, "message": …}}`; codes never change their meaning. What goes wrong inside is
//! logged here, once, and the outside sees a safe sentence.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bailiwick_ledger_core::{hash, tree};
use serde_json::{Value, json};

use super::params::ParamError;
use crate::store::{Found, StoreError};

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error("there is no such {what}")]
    NotFound { what: &'static str },
    #[error("only GET and HEAD are served here")]
    MethodNotAllowed,
    #[error("no checkpoint has been published yet")]
    NothingPublished,
    #[error("the newest checkpoint covers {size} leaves; this one is not among them")]
    NotPublished { size: u64 },
    #[error("too many requests read the log at once; try again")]
    Busy,
    #[error("the log cannot be read")]
    Store(#[from] StoreError),
}

impl ApiError {
    const fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Param(ParamError::Unknown { .. }) => (StatusCode::BAD_REQUEST, "unknown_parameter"),
            Self::Param(ParamError::Repeated { .. }) => (StatusCode::BAD_REQUEST, "repeated_parameter"),
            Self::Param(ParamError::Malformed { .. }) => (StatusCode::BAD_REQUEST, "malformed_parameter"),
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NothingPublished => (StatusCode::NOT_FOUND, "nothing_published"),
            Self::NotPublished { .. } => (StatusCode::NOT_FOUND, "not_published"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::error!(%error, "a request could not be answered");
        }
        let (status, code) = self.status_and_code();
        (status, Json(json!({"error": {"code": code, "message": self.to_string()}}))).into_response()
    }
}

/// `{"items": […]}`, with `next` (a value for `before`) where more may follow.
pub(super) fn items(found: Vec<Found>, next: Option<u64>) -> Response {
    let mut answer = json!({"items": found.into_iter().map(item).collect::<Vec<_>>()});
    if let (Some(next), Some(answer)) = (next, answer.as_object_mut()) {
        answer.insert("next".to_owned(), Value::String(next.to_string()));
    }
    Json(answer).into_response()
}

/// One record per line.
pub(super) fn ndjson(found: Vec<Found>) -> Response {
    let lines: String = found.into_iter().map(|found| format!("{}\n", item(found))).collect();
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], lines).into_response()
}

/// The record's own fields, its place in the log and its leaf hash.
fn item(found: Found) -> Value {
    let mut fields = found.fields;
    fields.insert("index".to_owned(), Value::String(found.index.to_string()));
    fields.insert("leaf_hash".to_owned(), Value::String(hash::to_hex(&tree::leaf_hash(&found.bytes))));
    Value::Object(fields)
}
