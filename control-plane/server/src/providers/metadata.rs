//! What a provider says of itself: where its keys are, where people sign in, and what it holds itself to there.
//!
//! Called by `source` with a document that it fetched. What the manifest says goes before what the metadata says; the
//! metadata counts if it is of the very issuer of the manifest. An issuer on https cannot name anything on http.
//! Specifications: OpenID Connect Discovery 1.0 §3, §4; RFC 8414 §2, §3; RFC 9207 §3.

use bailiwick_control_plane_core::resource::{IdentityProviderSpec, is_http_url};
use bailiwick_proto::mcp::check_json;
use serde::Deserialize;

use super::ProviderUnavailable;

/// Longest URL of a provider's that somebody is sent to.
const URL_BYTES_MAX: usize = 2_048;

/// What is read of metadata.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    jwks_uri: Option<String>,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Where people sign in at a provider, and how that is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Where people are sent; there may be a query in it.
    pub(crate) authorization_url: String,
    /// Where codes are exchanged.
    pub(crate) token_url: String,
    /// Whether every answer names the provider (RFC 9207).
    pub(crate) names_itself: bool,
    /// Whether a secret goes into the form, as the provider takes none in the header.
    pub(crate) secret_in_form: bool,
}

impl Metadata {
    /// Reads a provider's own.
    pub(super) fn read(json: &[u8], issuer: &str) -> Result<Self, ProviderUnavailable> {
        let text = check_json(json).map_err(|_| ProviderUnavailable::Metadata)?;
        let metadata: Self = serde_json::from_str(text).map_err(|_| ProviderUnavailable::Metadata)?;
        if metadata.issuer == issuer { Ok(metadata) } else { Err(ProviderUnavailable::Issuer) }
    }

    /// Where its keys are.
    pub(super) fn keys(&self, spec: &IdentityProviderSpec) -> Result<String, ProviderUnavailable> {
        self.keys_of(&spec.issuer)
    }

    /// The same for whoever signs as this issuer.
    pub(super) fn keys_of(&self, issuer: &str) -> Result<String, ProviderUnavailable> {
        let named = self.jwks_uri.clone().filter(|url| is_https(url) || !is_https(issuer));
        named.ok_or(ProviderUnavailable::NoKeys)
    }

    /// Where people sign in.
    pub(super) fn endpoints(&self, spec: &IdentityProviderSpec) -> Result<Endpoints, ProviderUnavailable> {
        let sign_in = spec.sign_in.as_ref().ok_or(ProviderUnavailable::NoEndpoints)?;
        let fit = |url: &Option<String>| {
            let is_safe = |url: &String| is_https(url) || !is_https(&spec.issuer);
            url.clone().filter(|url| is_http_url(url) && url.len() <= URL_BYTES_MAX && is_safe(url))
        };
        let either = |stated: &Option<String>, named: &Option<String>| {
            fit(if stated.is_some() { stated } else { named }).ok_or(ProviderUnavailable::NoEndpoints)
        };
        let methods = self.token_endpoint_auth_methods_supported.as_deref().unwrap_or_default();
        let takes = |wanted: &str| methods.iter().any(|method| method == wanted);
        Ok(Endpoints {
            authorization_url: either(&sign_in.authorization_url, &self.authorization_endpoint)?,
            token_url: either(&sign_in.token_url, &self.token_endpoint)?,
            names_itself: self.authorization_response_iss_parameter_supported,
            secret_in_form: takes("client_secret_post") && !takes("client_secret_basic"),
        })
    }
}

/// Whether the manifest alone says all that there is to know.
pub(super) fn is_needless(spec: &IdentityProviderSpec) -> bool {
    let stated =
        spec.sign_in.as_ref().is_none_or(|sign_in| sign_in.authorization_url.is_some() && sign_in.token_url.is_some());
    stated && spec.jwks_url.is_some()
}

/// The two places of an issuer's metadata: behind its path, and between its host and its path.
pub(super) fn places(issuer: &str) -> [String; 2] {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    let (scheme, rest) = issuer.split_once("://").unwrap_or(("https", issuer));
    let (host, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    [
        format!("{issuer}/.well-known/openid-configuration"),
        format!("{scheme}://{host}/.well-known/oauth-authorization-server{path}"),
    ]
}

/// The place of a transmitter's metadata: between its issuer's host and its path (OpenID SSF 1.0 §7.2).
pub(super) fn transmitter_place(issuer: &str) -> String {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    let (scheme, rest) = issuer.split_once("://").unwrap_or(("https", issuer));
    let (host, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    format!("{scheme}://{host}/.well-known/ssf-configuration{path}")
}

fn is_https(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}
