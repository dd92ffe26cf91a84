//! Specs of those whose word leads to tokens: OAuth clients, and the identity providers of companies.
//!
//! A client's secret never stands in a manifest: its hash does. What must be true of a value is in `faults`; whether
//! what is named exists is for `apply`, and signatures are for the server.

use std::collections::BTreeSet;

use bailiwick_proto::{Tier, address::Network, names};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::{Fault, clip, is_http_url, timeout_ms};

/// Longest key set of a client: a handful of keys, also of RSA.
pub const KEY_SET_BYTES_MAX: usize = 16 * 1024;
/// Most virtual servers that one provider speaks for.
const VIRTUAL_SERVERS_MAX: usize = 64;
/// Most networks of one provider.
const NETWORKS_MAX: usize = 16;
/// Longest name of a claim.
const CLAIM_BYTES_MAX: usize = 64;
/// How long an assertion may be good where the manifest says nothing: a client uses it at once.
const ASSERTION_LIFETIME_MS_DEFAULT: u64 = 300_000;

/// A program that asks for tokens, registered in advance; its name is its `client_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientSpec {
    /// The agent that acts when this client calls.
    pub agent: String,
    /// How the client proves who it is.
    pub auth: ClientAuth,
    /// SHA-256 of the client's secret, in hexadecimal: `bailiwick client new-secret` makes both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_sha256: Option<String>,
    /// The client's public keys: a JSON Web Key Set, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// The most harmful tier the client may get tokens for; the agent's ceiling where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Tier>,
    /// Whether it gets tokens.
    #[serde(default = "super::active")]
    pub active: bool,
}

/// How a client proves who it is (RFC 6749 §2.3, RFC 7523 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// By a secret, in the header or in the body.
    ClientSecret,
    /// By a JWT it signs.
    PrivateKeyJwt,
}

/// A company's identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityProviderSpec {
    /// The `iss` of what it signs, byte for byte; its metadata is below it.
    pub issuer: String,
    /// Where its keys are; where absent, its metadata says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The algorithms it may sign with.
    #[serde(default = "usual_algorithms")]
    pub algorithms: BTreeSet<ProviderAlgorithm>,
    /// Networks in which it may be although they are not public, e.g. "10.2.0.0/16".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// For what its identity assertions (ID-JAG) are taken; none are where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertions: Option<AssertionsSpec>,
    /// Who its people are here.
    #[serde(default)]
    pub people: PeopleSpec,
    /// Whether its word counts.
    #[serde(default = "super::active")]
    pub active: bool,
}

/// An algorithm of RFC 7518 §3.1 or RFC 8037 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ProviderAlgorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    RS256,
    /// RSA, PSS, SHA-256.
    PS256,
    /// P-256, SHA-256.
    ES256,
    /// P-384, SHA-384.
    ES384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// For what identity assertions are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertionsSpec {
    /// The virtual servers it may vouch for.
    pub virtual_servers: BTreeSet<String>,
    /// How long an assertion may be good, e.g. "5m" (the default); at most "10m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_max: Option<String>,
}

/// Who a provider's people are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeopleSpec {
    /// The claim that is the user's name; `email` counts only where `email_verified` is true.
    #[serde(default = "subject")]
    pub user: String,
}

impl Default for PeopleSpec {
    fn default() -> Self {
        Self { user: subject() }
    }
}

impl AssertionsSpec {
    /// How long an assertion may be good, in seconds.
    #[must_use]
    pub fn lifetime_seconds_max(&self) -> u64 {
        self.lifetime_max.as_deref().and_then(timeout_ms).unwrap_or(ASSERTION_LIFETIME_MS_DEFAULT).div_ceil(1_000)
    }
}

impl ClientSpec {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !names::is_resource_name(&self.agent) {
            let message = format!("\"{}\" {}", clip(&self.agent), super::checks::RESOURCE_RULE);
            faults.push(Fault::new("spec.agent", message));
        }
        let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match (self.auth, &self.secret_sha256, &self.jwks) {
            (ClientAuth::ClientSecret, Some(hash), None) if is_hash(hash) => {}
            (ClientAuth::ClientSecret, Some(_), None) => {
                faults.push(Fault::new("spec.secret_sha256", "must be 64 lower-case hexadecimal digits"));
            }
            (ClientAuth::ClientSecret, None, _) => {
                let message = "missing; `bailiwick client new-secret` makes a secret and this hash of it";
                faults.push(Fault::new("spec.secret_sha256", message));
            }
            (ClientAuth::ClientSecret, Some(_), Some(_)) => {
                faults.push(Fault::new("spec.jwks", "is for auth: private_key_jwt"));
            }
            (ClientAuth::PrivateKeyJwt, None, Some(keys)) if is_key_set(keys) => {}
            (ClientAuth::PrivateKeyJwt, None, Some(_)) => {
                let message = format!("must be a JSON Web Key Set of at most {KEY_SET_BYTES_MAX} bytes");
                faults.push(Fault::new("spec.jwks", message));
            }
            (ClientAuth::PrivateKeyJwt, None, None) => {
                faults.push(Fault::new("spec.jwks", "missing; write the client's public keys"));
            }
            (ClientAuth::PrivateKeyJwt, Some(_), _) => {
                faults.push(Fault::new("spec.secret_sha256", "is for auth: client_secret"));
            }
        }
        faults
    }
}

/// Whether the server can make keys of it is found out there; here, that it may stand in an event.
fn is_key_set(text: &str) -> bool {
    let keys = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok()?.get("keys")?.as_array().cloned();
    let is_public = |key: &serde_json::Value| key.get("d").is_none() && key.get("k").is_none();
    text.len() <= KEY_SET_BYTES_MAX && keys(text).is_some_and(|keys| !keys.is_empty() && keys.iter().all(is_public))
}

impl IdentityProviderSpec {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let urls = [("spec.issuer", Some(&self.issuer)), ("spec.jwks_url", self.jwks_url.as_ref())];
        for (key, url) in urls.into_iter().filter_map(|(key, url)| Some((key, url?))) {
            if !is_http_url(url) || url.contains('?') && key == "spec.issuer" {
                faults.push(Fault::new(key, "must be an http or https URL with a host and without user or fragment"));
            }
        }
        if self.algorithms.is_empty() {
            faults.push(Fault::new("spec.algorithms", "names no algorithm; leave it out for RS256 and ES256"));
        }
        if self.networks.len() > NETWORKS_MAX {
            faults.push(Fault::new("spec.networks", format!("at most {NETWORKS_MAX} are accepted")));
        }
        for (index, network) in self.networks.iter().enumerate() {
            if let Err(fault) = network.parse::<Network>() {
                faults.push(Fault::new(format!("spec.networks[{index}]"), fault.to_string()));
            }
        }
        let claim = &self.people.user;
        if claim.is_empty() || claim.len() > CLAIM_BYTES_MAX || !claim.bytes().all(|byte| byte.is_ascii_graphic()) {
            faults.push(Fault::new("spec.people.user", "must be the name of a claim, e.g. \"sub\" or \"email\""));
        }
        faults.extend(self.assertions.iter().flat_map(AssertionsSpec::faults));
        faults
    }
}

impl AssertionsSpec {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let key = "spec.assertions.virtual_servers";
        if self.virtual_servers.is_empty() || self.virtual_servers.len() > VIRTUAL_SERVERS_MAX {
            faults.push(Fault::new(key, format!("must name 1 to {VIRTUAL_SERVERS_MAX} virtual servers")));
        }
        for name in self.virtual_servers.iter().filter(|name| !names::is_server_name(name)) {
            faults.push(Fault::new(key, format!("\"{}\" cannot be a virtual server's name", clip(name))));
        }
        if self.lifetime_max.as_deref().is_some_and(|text| timeout_ms(text).is_none_or(|ms| ms < 1_000)) {
            let message = "must be a whole number with a unit, from \"1s\" to \"10m\"";
            faults.push(Fault::new("spec.assertions.lifetime_max", message));
        }
        faults
    }
}

fn usual_algorithms() -> BTreeSet<ProviderAlgorithm> {
    BTreeSet::from([ProviderAlgorithm::RS256, ProviderAlgorithm::ES256])
}

fn subject() -> String {
    "sub".to_owned()
}
