//! What this authorization server is (RFC 8414), from the configuration alone.

use serde::Serialize;

use super::{AUTHORIZE_PATH, JWT_BEARER, TOKEN_PATH};

/// Enterprise-Managed Authorization (EMA §6).
const ID_JAG_PROFILE: &str = "urn:ietf:params:oauth:grant-profile:id-jag";

/// The document.
#[derive(Serialize)]
pub(crate) struct Metadata {
    issuer: String,
    jwks_uri: String,
    /// Clients insist on it, also those that never go there.
    authorization_endpoint: String,
    token_endpoint: String,
    scopes_supported: [&'static str; 3],
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; 1],
    authorization_grant_profiles_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: [&'static str; 3],
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 5],
    code_challenge_methods_supported: [&'static str; 1],
}

/// That of an issuer.
pub(crate) fn of(issuer: String) -> Metadata {
    Metadata {
        jwks_uri: format!("{issuer}/.well-known/jwks.json"),
        authorization_endpoint: format!("{issuer}{AUTHORIZE_PATH}"),
        token_endpoint: format!("{issuer}{TOKEN_PATH}"),
        issuer,
        scopes_supported: ["mcp:read", "mcp:write", "mcp:tools"],
        response_types_supported: [],
        grant_types_supported: [JWT_BEARER],
        authorization_grant_profiles_supported: [ID_JAG_PROFILE],
        token_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post", "private_key_jwt"],
        token_endpoint_auth_signing_alg_values_supported: ["ES256", "ES384", "EdDSA", "PS256", "RS256"],
        code_challenge_methods_supported: ["S256"],
    }
}
