//! One look at a provider: its metadata, where the manifest leaves something to it, and its keys; and one form to it.
//!
//! Called by `providers`. Keys are where the manifest says, else where the provider's metadata does (`metadata`):
//! OpenID Connect Discovery's place is asked first, RFC 8414's if there is nothing at the first. Everything goes
//! through the guard of `outbound`, with the manifest's networks. Specifications: OpenID Connect Discovery 1.0 §4; RFC
//! 8414 §3; RFC 7517 §5.

use std::{fmt, pin::Pin, time::Duration};

use bailiwick_control_plane_core::resource::{IdentityProviderSpec, ProviderAlgorithm};
use bailiwick_proto::address::{Leave, Network};
use bailiwick_token::assertion::{AssertionAlgorithm, AssertionKeys, JWKS_BYTES_MAX, KeySetError};
use bytes::Bytes;
use http::StatusCode;

use super::metadata::{Endpoints, Metadata, is_needless, places, transmitter_place};
use crate::outbound::{FetchError, Fetched, Fetcher, Form, Limits};

/// Longest wait for one document.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Largest metadata: large providers' have some 5 KiB.
const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Largest answer to a code: an ID token of 16 KiB, and tokens that are for others.
const TOKENS_BYTES_MAX: usize = 64 * 1024;

/// What fetches: `outbound`, or what a test wants it to be.
pub(crate) trait Source: fmt::Debug + Send + Sync {
    /// As [`Fetcher::get`].
    fn get<'a>(&'a self, url: &'a str, leave: Leave<'a>, limits: Limits) -> Fetching<'a>;
    /// As [`Fetcher::post`].
    fn post<'a>(&'a self, url: &'a str, form: &'a Form, leave: Leave<'a>, limits: Limits) -> Fetching<'a>;
}

/// An answer to come.
pub(crate) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send + 'a>>;

impl Source for Fetcher {
    fn get<'a>(&'a self, url: &'a str, leave: Leave<'a>, limits: Limits) -> Fetching<'a> {
        Box::pin(async move { Self::get(self, url, &leave, limits).await })
    }

    fn post<'a>(&'a self, url: &'a str, form: &'a Form, leave: Leave<'a>, limits: Limits) -> Fetching<'a> {
        Box::pin(async move { Self::post(self, url, form, &leave, limits).await })
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
    #[error("neither manifest nor metadata name where people sign in, or not on https")]
    NoEndpoints,
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
            Self::NoEndpoints => "provider_endpoints_unnamed",
            Self::KeySet(KeySetError::Private) => "provider_keys_private",
            Self::KeySet(_) => "provider_keys_unreadable",
            Self::Network => "provider_network_unreadable",
            Self::Late => "provider_late",
            Self::Stopped => "node_stopping",
        }
    }
}

/// What a look gave.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) keys: AssertionKeys,
    /// Where people sign in, if they can.
    pub(super) endpoints: Result<Endpoints, ProviderUnavailable>,
    /// How long the keys may be kept by the provider's word.
    pub(super) max_age: Option<Duration>,
}

pub(super) async fn look(source: &dyn Source, spec: &IdentityProviderSpec) -> Result<Look, ProviderUnavailable> {
    let networks = networks(spec)?;
    let leave = Leave { manifest: &networks, node: &[] };
    let metadata = if is_needless(spec) { Metadata::default() } else { metadata(source, &spec.issuer, leave).await? };
    let url = match &spec.jwks_url {
        Some(url) => url.clone(),
        None => metadata.keys(spec)?,
    };
    let fetched = source.get(&url, leave, limits(JWKS_BYTES_MAX)).await?;
    let json = json(&fetched)?;
    let allowed = algorithms(spec);
    let is_bundle = spec.workloads.as_ref().is_some_and(|workloads| workloads.trust_domain.is_some());
    let read = if is_bundle { AssertionKeys::from_bundle } else { AssertionKeys::from_jwks };
    let keys = read(json, &allowed)?;
    Ok(Look { keys, endpoints: metadata.endpoints(spec), max_age: fetched.cache_max_age })
}

/// The same of the transmitter of a provider's signals, whose own metadata is OpenID SSF 1.0's (§7.2).
pub(super) async fn look_at_transmitter(
    source: &dyn Source,
    spec: &IdentityProviderSpec,
) -> Result<Look, ProviderUnavailable> {
    let signals = spec.signals.as_ref().ok_or(ProviderUnavailable::NoKeys)?;
    let (issuer, networks) = (signals.issuer(&spec.issuer), networks(spec)?);
    let leave = Leave { manifest: &networks, node: &[] };
    let url = match &signals.jwks_url {
        Some(url) => url.clone(),
        None => Metadata::read(&transmitter_metadata(source, spec, issuer).await?, issuer)?.keys_of(issuer)?,
    };
    let fetched = source.get(&url, leave, limits(JWKS_BYTES_MAX)).await?;
    let allowed: Vec<_> = signals.algorithms.iter().copied().map(algorithm).collect();
    let keys = AssertionKeys::from_jwks(json(&fetched)?, &allowed)?;
    Ok(Look { keys, endpoints: Err(ProviderUnavailable::NoEndpoints), max_age: fetched.cache_max_age })
}

/// The metadata of a transmitter of this issuer, as sent.
pub(super) async fn transmitter_metadata(
    source: &dyn Source,
    spec: &IdentityProviderSpec,
    issuer: &str,
) -> Result<Bytes, ProviderUnavailable> {
    let networks = networks(spec)?;
    let leave = Leave { manifest: &networks, node: &[] };
    let fetched = source.get(&transmitter_place(issuer), leave, limits(METADATA_BYTES_MAX)).await?;
    json(&fetched)?;
    Ok(fetched.body)
}

/// Sends something to where a manifest says, and gives what comes back, of whatever status.
pub(super) async fn ask(
    source: &dyn Source,
    spec: &IdentityProviderSpec,
    url: &str,
    form: &Form,
    limits: Limits,
) -> Result<Fetched, ProviderUnavailable> {
    let networks = networks(spec)?;
    Ok(source.post(url, form, Leave { manifest: &networks, node: &[] }, limits).await?)
}

/// Sends a form to a provider and gives what comes back, of whatever status.
pub(super) async fn send(
    source: &dyn Source,
    spec: &IdentityProviderSpec,
    url: &str,
    form: &Form,
) -> Result<Fetched, ProviderUnavailable> {
    ask(source, spec, url, form, limits(TOKENS_BYTES_MAX)).await
}

fn networks(spec: &IdentityProviderSpec) -> Result<Vec<Network>, ProviderUnavailable> {
    let networks: Result<Vec<Network>, _> = spec.networks.iter().map(|network| network.parse()).collect();
    networks.map_err(|_| ProviderUnavailable::Network)
}

async fn metadata(source: &dyn Source, issuer: &str, leave: Leave<'_>) -> Result<Metadata, ProviderUnavailable> {
    let [first, second] = places(issuer);
    let mut fetched = source.get(&first, leave, limits(METADATA_BYTES_MAX)).await?;
    if matches!(fetched.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        fetched = source.get(&second, leave, limits(METADATA_BYTES_MAX)).await?;
    }
    Metadata::read(json(&fetched)?, issuer)
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

/// What a provider may sign with.
pub(crate) fn algorithms(spec: &IdentityProviderSpec) -> Vec<AssertionAlgorithm> {
    spec.algorithms.iter().copied().map(algorithm).collect()
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
