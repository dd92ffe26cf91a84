//! One look at a document, and what it must say to describe a client
//! (draft-ietf-oauth-client-id-metadata-document, RFC 7591 §2).
//!
//! Called by `documents`. Everything goes through the guard of `outbound`. A document that says one thing that is not
//! taken here describes nobody: nothing of it is believed. What it says besides (`logo_uri`, …) is neither fetched nor
//! shown.

use std::{collections::BTreeSet, time::Duration};

use bailiwick_control_plane_core::resource::{ClientAuth, ClientSpec, KEY_SET_BYTES_MAX, redirect};
use bailiwick_proto::address::{Leave, Network};
use bailiwick_token::assertion::AssertionKeys;
use http::StatusCode;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    oauth::{client::ALGORITHMS, register},
    outbound::{FetchError, Fetched, Limits},
    pages::shown,
    providers::Source,
};

/// Longest wait for a document and the keys that it names, together.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);
/// Largest document: what the draft proposes.
const DOCUMENT_BYTES_MAX: usize = 5 * 1024;
/// Longest name that is kept.
const NAME_CHARS_MAX: usize = 64;

/// What a document gives.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) spec: ClientSpec,
    /// How long it may be kept by its host's word.
    pub(super) max_age: Option<Duration>,
}

/// Why a document describes nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentFault {
    Fetch(FetchError),
    Status(StatusCode),
    ContentType,
    Unreadable,
    /// It is about another client than the one whose id is its URL.
    ClientId,
    Secret,
    AuthMethod,
    /// They are missing, none of them is of use, they are not public, or are said twice.
    Keys,
    /// They are at another host.
    KeysElsewhere,
    RedirectUris,
    NoCodes,
    /// Its tokens cannot be bound to a key and to a certificate.
    Binding,
    Late,
    Busy,
    Stopped,
}

impl DocumentFault {
    /// For people, who may be strangers: nothing of what was fetched stands in it.
    pub(crate) const fn sentence(self) -> &'static str {
        match self {
            Self::Fetch(fault) => of_fetch(fault),
            Self::Status(_) => "the client's description cannot be read: there is none at its address",
            Self::ContentType => "the client's description cannot be read: it is not said to be JSON",
            Self::Unreadable => "the client's description cannot be read: it is not an object of client metadata",
            Self::ClientId => "the client's description cannot be read: it names another client_id than its address",
            Self::Secret => "the client's description cannot be read: it speaks of a secret, and everybody sees it",
            Self::AuthMethod => {
                "the client's description cannot be read: token_endpoint_auth_method is not none or private_key_jwt"
            }
            Self::Keys => "the client's description cannot be read: there are no public keys of use in it",
            Self::KeysElsewhere => "the client's description cannot be read: its jwks_uri is of another host",
            Self::RedirectUris => {
                "the client's description cannot be read: redirect_uris are missing, too many, or not all acceptable"
            }
            Self::Binding => {
                "the client's description cannot be read: its tokens cannot be bound to a key and to a certificate"
            }
            Self::NoCodes => "the client's description cannot be read: it does not want authorization codes",
            Self::Late => "the client's description cannot be read: it does not come in time",
            Self::Busy => "too many descriptions of clients are fetched at this moment",
            Self::Stopped => "the node stops",
        }
    }

    /// Whether it is about us, and not about the document.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Busy | Self::Stopped)
    }

    /// Whether it may be another answer in a moment, with nothing changed about the client.
    pub(crate) fn may_pass(self) -> bool {
        match self {
            Self::Late | Self::Fetch(FetchError::NoAddress | FetchError::Unreachable | FetchError::Late) => true,
            Self::Status(status) => status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
            _ => self.is_ours(),
        }
    }
}

const fn of_fetch(fault: FetchError) -> &'static str {
    match fault {
        FetchError::Url => "the client's description cannot be read: its address, or that of its keys, is not one",
        FetchError::NoAddress => "the client's description cannot be read: its host's name has no address",
        FetchError::Address(_) | FetchError::PlainText => {
            "the client's description cannot be read: it is at an address that is not public"
        }
        FetchError::Untrusted | FetchError::Tls => "the client's description cannot be read: its host is not believed",
        FetchError::Unreachable | FetchError::Broken | FetchError::Encoded | FetchError::FormTooLarge => {
            "the client's description cannot be read: its host does not answer as it should"
        }
        FetchError::TooLarge => "the client's description cannot be read: it is too large",
        FetchError::Late => "the client's description cannot be read: it does not come in time",
    }
}

/// What is read of it; known members may be there once.
#[derive(Deserialize)]
struct Metadata {
    client_id: String,
    client_name: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<BTreeSet<String>>,
    response_types: Option<BTreeSet<String>>,
    jwks: Option<serde_json::Value>,
    jwks_uri: Option<String>,
    #[serde(default)]
    dpop_bound_access_tokens: bool,
    #[serde(default)]
    tls_client_certificate_bound_access_tokens: bool,
    #[serde(default, rename = "client_secret", deserialize_with = "present")]
    has_secret: bool,
    #[serde(default, rename = "client_secret_expires_at", deserialize_with = "present")]
    has_secret_end: bool,
}

/// There, whatever it is, also `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

pub(super) async fn look(source: &dyn Source, url: &str, networks: &[Network]) -> Result<Description, DocumentFault> {
    let fetched = get(source, url, networks, DOCUMENT_BYTES_MAX).await?;
    let metadata: Metadata = serde_json::from_slice(&fetched.body).map_err(|_| DocumentFault::Unreadable)?;
    let auth = check(&metadata, url)?;
    let binding = [metadata.dpop_bound_access_tokens, metadata.tls_client_certificate_bound_access_tokens];
    let binding = register::binding(binding).ok_or(DocumentFault::Binding)?;
    let (jwks, max_age) = match (auth, metadata.jwks, metadata.jwks_uri) {
        (ClientAuth::PrivateKeyJwt, Some(jwks), None) => (Some(usable(jwks.to_string())?), fetched.cache_max_age),
        (ClientAuth::PrivateKeyJwt, None, Some(place)) => {
            let keys = keys(source, url, &place, networks).await?;
            let jwks = String::from_utf8(keys.body.into()).map_err(|_| DocumentFault::Keys)?;
            // What is not said of one is no word about the other.
            let max_age = fetched.cache_max_age.into_iter().chain(keys.cache_max_age).min();
            (Some(usable(jwks)?), max_age)
        }
        (ClientAuth::PrivateKeyJwt, ..) => return Err(DocumentFault::Keys),
        (
            ClientAuth::ClientSecret
            | ClientAuth::Workload
            | ClientAuth::TlsClientAuth
            | ClientAuth::SelfSignedTlsClientAuth
            | ClientAuth::None,
            ..,
        ) => (None, fetched.cache_max_age),
    };
    let spec = ClientSpec {
        title: metadata.client_name.as_deref().map(title).filter(|name| !name.is_empty()),
        agent: None,
        auth,
        redirect_uris: metadata.redirect_uris.into_iter().collect(),
        secret_sha256: None,
        jwks,
        ceiling: None,
        headless: None,
        exchange: None,
        workload: None,
        certificate: None,
        binding,
        self_registered: false,
        active: true,
    };
    Ok(Description { spec, max_age })
}

/// How it will prove who it is, if all that it says can be taken.
fn check(metadata: &Metadata, url: &str) -> Result<ClientAuth, DocumentFault> {
    if metadata.client_id != url {
        return Err(DocumentFault::ClientId);
    }
    if metadata.has_secret || metadata.has_secret_end {
        return Err(DocumentFault::Secret);
    }
    let auth = match metadata.token_endpoint_auth_method.as_deref() {
        None | Some("none") => ClientAuth::None,
        Some("private_key_jwt") => ClientAuth::PrivateKeyJwt,
        Some(_) => return Err(DocumentFault::AuthMethod),
    };
    let redirect_uris = &metadata.redirect_uris;
    let count = redirect_uris.len();
    if count == 0
        || count > redirect::REDIRECT_URIS_MAX
        || !redirect_uris.iter().all(|uri| redirect::is_redirect_uri(uri))
    {
        return Err(DocumentFault::RedirectUris);
    }
    let within = |said: &Option<BTreeSet<String>>, needed: &str| said.as_ref().is_none_or(|said| said.contains(needed));
    if !within(&metadata.grant_types, "authorization_code") || !within(&metadata.response_types, "code") {
        return Err(DocumentFault::NoCodes);
    }
    Ok(auth)
}

/// The keys at the place that a document names, which has to be its own host: who writes the one writes the other.
async fn keys(source: &dyn Source, url: &str, place: &str, networks: &[Network]) -> Result<Fetched, DocumentFault> {
    let own = authority(url);
    if own.is_none() || authority(place) != own {
        return Err(DocumentFault::KeysElsewhere);
    }
    get(source, place, networks, KEY_SET_BYTES_MAX).await
}

/// Host and port, as written, of an https URL.
pub(super) fn authority(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?.split(['/', '?', '#', '\\']).next()
}

async fn get(source: &dyn Source, url: &str, networks: &[Network], bytes_max: usize) -> Result<Fetched, DocumentFault> {
    // As a manifest's: nobody's leave reaches where clouds keep secrets.
    let leave = Leave { manifest: networks, node: &[] };
    let limits = Limits { bytes_max, wait_max: WAIT_MAX };
    let fetched = source.get(url, leave, limits).await.map_err(DocumentFault::Fetch)?;
    if fetched.status != StatusCode::OK {
        return Err(DocumentFault::Status(fetched.status));
    }
    let said = fetched.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default();
    let said = said.trim().to_ascii_lowercase();
    let is_json = said == "application/json" || said.starts_with("application/") && said.ends_with("+json");
    if is_json { Ok(fetched) } else { Err(DocumentFault::ContentType) }
}

/// A key set that something can be verified with, as it is.
fn usable(jwks: String) -> Result<String, DocumentFault> {
    let keys = AssertionKeys::from_jwks(jwks.as_bytes(), &ALGORITHMS).map_err(|_| DocumentFault::Keys)?;
    if keys.is_empty() { Err(DocumentFault::Keys) } else { Ok(jwks) }
}

/// A name as people may be shown it.
fn title(said: &str) -> String {
    let fit = shown(said);
    let visible = fit.chars().filter(|c| !c.is_control() && *c != '\u{FFFD}').take(NAME_CHARS_MAX);
    visible.collect::<String>().trim().to_owned()
}
