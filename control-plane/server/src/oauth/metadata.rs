//! What this authorization server is (RFC 8414), from the configuration alone.

use bailiwick_token::{assertion::AssertionAlgorithm, binding::BINDING_ALG, dpop::DPOP_ALGORITHMS};
use serde::Serialize;

use super::{AUTHORIZE_PATH, GRANT_TYPES, INTROSPECT_PATH, REGISTER_PATH, REVOKE_PATH, Services, TOKEN_PATH};

/// Enterprise-Managed Authorization (EMA §6).
const ID_JAG_PROFILE: &str = "urn:ietf:params:oauth:grant-profile:id-jag";
/// What clients may sign with.
const ALGORITHMS: [&str; 5] = ["ES256", "ES384", "EdDSA", "PS256", "RS256"];
/// How clients prove who they are, wherever they come from.
const METHODS: [&str; 4] = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];

/// Where the keys are, below the issuer, that verify what servers are told of calls.
pub(crate) const CONTEXT_JWKS: &str = "/.well-known/context-jwks.json";

/// The document.
#[derive(Serialize)]
pub(crate) struct Metadata {
    issuer: String,
    jwks_uri: String,
    bailiwick_context_jwks_uri: String,
    authorization_endpoint: String,
    token_endpoint: String,
    revocation_endpoint: String,
    introspection_endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_endpoint: Option<String>,
    scopes_supported: [&'static str; 3],
    response_types_supported: [&'static str; 1],
    response_modes_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 5],
    authorization_grant_profiles_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: Vec<&'static str>,
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 5],
    revocation_endpoint_auth_methods_supported: Vec<&'static str>,
    introspection_endpoint_auth_methods_supported: Vec<&'static str>,
    code_challenge_methods_supported: [&'static str; 1],
    dpop_signing_alg_values_supported: [&'static str; 4],
    /// How a token is bound to a key that is given out with it: values of `binding_alg`.
    bailiwick_binding_algs_supported: [&'static str; 1],
    /// Tokens are bound to certificates that proxies tell (RFC 8705 §3.3).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_client_certificate_bound_access_tokens: bool,
    /// Where clients show them, where that is elsewhere (RFC 8705 §5).
    #[serde(skip_serializing_if = "Option::is_none")]
    mtls_endpoint_aliases: Option<Aliases>,
    authorization_response_iss_parameter_supported: bool,
    client_id_metadata_document_supported: bool,
}

/// What is served for clients with certificates.
#[derive(Serialize)]
struct Aliases {
    token_endpoint: String,
    revocation_endpoint: String,
    introspection_endpoint: String,
}

impl Aliases {
    fn at(url: &str) -> Self {
        let at = |path: &str| format!("{url}{path}");
        Self {
            token_endpoint: at(TOKEN_PATH),
            revocation_endpoint: at(REVOKE_PATH),
            introspection_endpoint: at(INTROSPECT_PATH),
        }
    }
}

/// Where tokens are asked for, as the metadata says: at the issuer, and where clients show certificates, if that is
/// elsewhere. What a request says of its own host is not asked.
pub(super) fn token_endpoints(issuer: &str, services: &Services) -> Vec<String> {
    let alias = services.certificates.url().map(Aliases::at);
    let own = format!("{issuer}{TOKEN_PATH}");
    std::iter::once(own).chain(alias.map(|alias| alias.token_endpoint)).collect()
}

/// That of an issuer, with what the operator has turned on.
pub(crate) fn of(issuer: String, services: &Services) -> Metadata {
    let at = |path: &str| format!("{issuer}{path}");
    let certificates = &services.certificates;
    let methods: Vec<_> = METHODS.into_iter().chain(certificates.methods()).collect();
    Metadata {
        jwks_uri: at("/.well-known/jwks.json"),
        bailiwick_context_jwks_uri: at(CONTEXT_JWKS),
        authorization_endpoint: at(AUTHORIZE_PATH),
        token_endpoint: at(TOKEN_PATH),
        revocation_endpoint: at(REVOKE_PATH),
        introspection_endpoint: at(INTROSPECT_PATH),
        registration_endpoint: services.client_registration.then(|| at(REGISTER_PATH)),
        scopes_supported: bailiwick_proto::scope::WORDS,
        response_types_supported: ["code"],
        response_modes_supported: ["query"],
        grant_types_supported: GRANT_TYPES,
        authorization_grant_profiles_supported: [ID_JAG_PROFILE],
        token_endpoint_auth_methods_supported: methods.clone(),
        token_endpoint_auth_signing_alg_values_supported: ALGORITHMS,
        introspection_endpoint_auth_methods_supported: methods.iter().copied().filter(|way| *way != "none").collect(),
        revocation_endpoint_auth_methods_supported: methods,
        code_challenge_methods_supported: ["S256"],
        dpop_signing_alg_values_supported: DPOP_ALGORITHMS.map(AssertionAlgorithm::as_str),
        bailiwick_binding_algs_supported: [BINDING_ALG],
        tls_client_certificate_bound_access_tokens: certificates.are_told(),
        mtls_endpoint_aliases: certificates.url().map(Aliases::at),
        authorization_response_iss_parameter_supported: true,
        client_id_metadata_document_supported: true,
        issuer,
    }
}
