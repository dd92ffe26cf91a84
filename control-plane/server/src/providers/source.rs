//! Where a provider's keys are, and one fetch of them.
//!
//! Called by `providers`. Keys are where the manifest says, else where the provider's metadata does, which must be of
//! the very issuer that the manifest names: OpenID Connect Discovery's place is asked first, RFC 8414's if there is
//! nothing at the first. Everything comes through the guard of `outbound`, with the manifest's networks; an issuer on
//! https cannot name keys on http.
//! Specifications: OpenID Connect Discovery 1.0 §4; RFC 8414 §3; RFC 7517 §5.

use std::{fmt, pin::Pin, time::Duration};

use bailiwick_control_plane_core::resource::{IdentityProviderSpec, ProviderAlgorithm};
use bailiwick_proto::{
    address::{Leave, Network},
    mcp::check_json,
};
use bailiwick_token::assertion::{AssertionAlgorithm, AssertionKeys, JWKS_BYTES_MAX, KeySetError};
use http::StatusCode;
use serde::Deserialize;

use crate::outbound::{FetchError, Fetched, Fetcher, Limits};

/// Longest wait for one document.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Largest metadata: large providers' have some 5 KiB.
const METADATA_BYTES_MAX: usize = 64 * 1024;

/// What fetches: `outbound`, or what a test wants it to be.
pub(crate) trait Source: fmt::Debug + Send + Sync {
    /// As [`Fetcher::get`].
    fn get<'a>(&'a self, url: &'a str, leave: Leave<'a>, limits: Limits) -> Fetching<'a>;
}

/// An answer to come.
pub(crate) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send + 'a>>;

impl Source for Fetcher {
    fn get<'a>(&'a self, url: &'a str, leave: Leave<'a>, limits: Limits) -> Fetching<'a> {
        Box::pin(async move { Self::get(self, url, &leave, limits).await })
    }
}

/// Why there are no keys of a provider. Nothing of what it sent stands in a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProviderUnavailable {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the provider answers with status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("the provider's answer is not said to be JSON")]
    ContentType,
    #[error("the provider's metadata cannot be read")]
    Metadata,
    #[error("the provider's metadata is of another issuer than the manifest's")]
    Issuer,
    #[error("the provider's metadata names no keys, or none on https")]
    NoKeys,
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    #[error("a network of the provider's manifest cannot be read")]
    Network,
    #[error("the provider's keys did not come in time")]
    Late,
    #[error("the node stops")]
    Stopped,
}

impl ProviderUnavailable {
    /// The stable word for responses, records and metrics.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Fetch(fault) => fault.word(),
            Self::Status(_) => "provider_status",
            Self::ContentType => "provider_content_type",
            Self::Metadata => "provider_metadata_unreadable",
            Self::Issuer => "provider_issuer_differs",
            Self::NoKeys => "provider_keys_unnamed",
            Self::KeySet(KeySetError::Private) => "provider_keys_private",
            Self::KeySet(_) => "provider_keys_unreadable",
            Self::Network => "provider_network_unreadable",
            Self::Late => "provider_late",
            Self::Stopped => "node_stopping",
        }
    }
}

/// What a fetch gave.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) keys: AssertionKeys,
    /// How long they may be kept by the provider's word.
    pub(super) max_age: Option<Duration>,
}

/// What is read of metadata.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: Option<String>,
}

pub(super) async fn fetch(source: &dyn Source, spec: &IdentityProviderSpec) -> Result<Keys, ProviderUnavailable> {
    let networks: Result<Vec<Network>, _> = spec.networks.iter().map(|network| network.parse()).collect();
    let networks = networks.map_err(|_| ProviderUnavailable::Network)?;
    let leave = Leave { manifest: &networks, node: &[] };
    let url = match &spec.jwks_url {
        Some(url) => url.clone(),
        None => named(source, &spec.issuer, leave).await?,
    };
    let fetched = source.get(&url, leave, limits(JWKS_BYTES_MAX)).await?;
    let json = json(&fetched)?;
    let allowed: Vec<_> = spec.algorithms.iter().copied().map(algorithm).collect();
    Ok(Keys { keys: AssertionKeys::from_jwks(json, &allowed)?, max_age: fetched.cache_max_age })
}

/// Where the provider's metadata says that its keys are.
async fn named(source: &dyn Source, issuer: &str, leave: Leave<'_>) -> Result<String, ProviderUnavailable> {
    let [first, second] = places(issuer);
    let mut fetched = source.get(&first, leave, limits(METADATA_BYTES_MAX)).await?;
    if matches!(fetched.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        fetched = source.get(&second, leave, limits(METADATA_BYTES_MAX)).await?;
    }
    let text = check_json(json(&fetched)?).map_err(|_| ProviderUnavailable::Metadata)?;
    let metadata: Metadata = serde_json::from_str(text).map_err(|_| ProviderUnavailable::Metadata)?;
    if metadata.issuer != issuer {
        return Err(ProviderUnavailable::Issuer);
    }
    let url = metadata.jwks_uri.filter(|url| is_https(url) || !is_https(issuer));
    url.ok_or(ProviderUnavailable::NoKeys)
}

/// The two places of an issuer's metadata: behind its path, and between its host and its path.
fn places(issuer: &str) -> [String; 2] {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    let (scheme, rest) = issuer.split_once("://").unwrap_or(("https", issuer));
    let (host, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    [
        format!("{issuer}/.well-known/openid-configuration"),
        format!("{scheme}://{host}/.well-known/oauth-authorization-server{path}"),
    ]
}

fn is_https(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

const fn limits(bytes_max: usize) -> Limits {
    Limits { bytes_max, wait_max: WAIT_MAX }
}

/// The body of an answer that gives what was asked for.
fn json(fetched: &Fetched) -> Result<&[u8], ProviderUnavailable> {
    if fetched.status != StatusCode::OK {
        return Err(ProviderUnavailable::Status(fetched.status));
    }
    let said = fetched.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default();
    let said = said.trim().to_ascii_lowercase();
    let is_json = said == "application/json" || said.starts_with("application/") && said.ends_with("+json");
    if is_json { Ok(&fetched.body) } else { Err(ProviderUnavailable::ContentType) }
}

const fn algorithm(algorithm: ProviderAlgorithm) -> AssertionAlgorithm {
    match algorithm {
        ProviderAlgorithm::RS256 => AssertionAlgorithm::Rs256,
        ProviderAlgorithm::PS256 => AssertionAlgorithm::Ps256,
        ProviderAlgorithm::ES256 => AssertionAlgorithm::Es256,
        ProviderAlgorithm::ES384 => AssertionAlgorithm::Es384,
        ProviderAlgorithm::EdDsa => AssertionAlgorithm::EdDsa,
    }
}
