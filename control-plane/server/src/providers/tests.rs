//! When keys are fetched, kept and dropped, by a clock that tests move; and whole fetches over HTTP.

mod fetching;
mod keeping;

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_control_plane_core::resource::{PeopleSpec, ProviderAlgorithm};
use bailiwick_proto::address::Leave;
use bailiwick_runtime::Shutdown;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::{source::Fetching, *};
use crate::outbound::{FetchError, Fetched, Form, Limits};

fn spec(issuer: &str) -> IdentityProviderSpec {
    IdentityProviderSpec {
        issuer: issuer.to_owned(),
        jwks_url: None,
        algorithms: [ProviderAlgorithm::EdDsa].into(),
        networks: vec!["127.0.0.0/8".to_owned()],
        assertions: None,
        sign_in: None,
        workloads: None,
        signals: None,
        people: PeopleSpec::default(),
        active: true,
    }
}

/// A key set with a key of each id.
fn key_set(kids: &[&str]) -> String {
    let key = |kid: &&str| {
        let key = Ed25519KeyPair::generate().unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x})
    };
    json!({"keys": kids.iter().map(key).collect::<Vec<_>>()}).to_string()
}

fn ok(body: impl Into<Bytes>) -> Result<Fetched, FetchError> {
    let content_type = Some("application/json".to_owned());
    Ok(Fetched { status: StatusCode::OK, content_type, body: body.into(), cache_max_age: None })
}
