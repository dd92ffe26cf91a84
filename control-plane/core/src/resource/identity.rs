//! Specs of those whose word leads to tokens: OAuth clients, and the identity providers of companies.
//!
//! A client's secret never stands in a manifest: its hash does. What must be true of a value is in `faults`; whether
//! what is named exists is for `apply`, and signatures are for the server.

use std::collections::BTreeSet;

use bailiwick_proto::{Tier, address::Network, names};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::client_auth::ClientAuth;
use super::{
    checks::{Fault, clip, is_http_url, timeout_ms},
    client_auth::{self, CertificateSpec},
    people::{PeopleSpec, SignInSpec, TITLE_BYTES_MAX, is_title},
    redirect::{self, REDIRECT_URIS_MAX},
    signal_stream::StreamSpec,
    signals::SignalsSpec,
    workload::{self, WorkloadSpec, WorkloadsSpec},
};
use crate::client;

/// Longest key set of a client: a handful of keys, also of RSA.
pub const KEY_SET_BYTES_MAX: usize = 16 * 1024;
/// Most virtual servers that one provider speaks for.
const VIRTUAL_SERVERS_MAX: usize = 64;
/// Most documents of clients that one agent names.
const DESCRIBED_MAX: usize = 64;
/// Most agents that one client takes over from.
const EXCHANGED_MAX: usize = 64;
/// Most networks of one provider.
const NETWORKS_MAX: usize = 16;
/// How long an assertion may be good where the manifest says nothing: a client uses it at once.
const ASSERTION_LIFETIME_MS_DEFAULT: u64 = 300_000;

/// A program that asks for tokens; its name is its `client_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientSpec {
    /// What people are shown as its name; its `client_id` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The agent that acts when this client calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// How the client proves who it is.
    pub auth: ClientAuth,
    /// Where people are sent back to: byte for byte, but for the port of a loopback address. A client with none cannot
    /// ask people.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub redirect_uris: BTreeSet<String>,
    /// SHA-256 of the client's secret, in hexadecimal: `bailiwick client new-secret` makes both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_sha256: Option<String>,
    /// The client's public keys, or with `self_signed_tls_client_auth` its certificates: a JSON Web Key Set, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// The workload that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadSpec>,
    /// Which certificates are its (RFC 8705 §2), where it proves who it is by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Box<CertificateSpec>>,
    /// The most harmful tier the client may get tokens for; the agent's ceiling where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Tier>,
    /// Where it gets tokens without a person at hand, on behalf of its agent's owner; nowhere where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headless: Option<HeadlessSpec>,
    /// Whose tokens it may exchange for its own agent's (RFC 8693), to do what they hand on; nobody's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<ExchangeSpec>,
    /// How its tokens must be bound to a key; they need not be where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<ClientBinding>,
    /// It registered itself (RFC 7591), and has no agent of its own: people choose one that takes such clients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_registered: bool,
    /// Whether it gets tokens.
    #[serde(default = "super::active")]
    pub active: bool,
}

/// How a client's tokens must be bound to a key, so that they are of no use to who has not got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientBinding {
    /// In any of these ways.
    Any,
    /// To a key of the client's own (DPoP, RFC 9449).
    Dpop,
    /// To a key that is given out with each token (`binding_alg`).
    Envelope,
    /// To the certificate that it shows (mTLS, RFC 8705).
    Certificate,
}

/// Where a client gets tokens without a person at hand (client credentials).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadlessSpec {
    /// The virtual servers.
    pub virtual_servers: BTreeSet<String>,
}

/// Whose work a client may take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExchangeSpec {
    /// The agents whose tokens it may exchange.
    pub agents: BTreeSet<String>,
}

/// Clients that no administrator registered, and that may act as an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentClientsSpec {
    /// Whether clients that registered themselves (RFC 7591) may.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub self_registered: bool,
    /// Clients that are described by a document at their `client_id`, which is an https URL.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub described_at: BTreeSet<String>,
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
    /// How people sign in there; they cannot where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<SignInSpec>,
    /// That its word about programs counts, which need no keys of their own here; it does not where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadsSpec>,
    /// Whose word counts about what happens to its people; nobody's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<SignalsSpec>,
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

impl AssertionsSpec {
    /// How long an assertion may be good, in seconds.
    #[must_use]
    pub fn lifetime_seconds_max(&self) -> u64 {
        self.lifetime_max.as_deref().and_then(timeout_ms).unwrap_or(ASSERTION_LIFETIME_MS_DEFAULT).div_ceil(1_000)
    }
}

impl ClientSpec {
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        match &self.agent {
            Some(_) if self.self_registered => faults.push(Fault::new("spec.agent", "is chosen by people here")),
            Some(agent) if !names::is_resource_name(agent) => {
                let message = format!("\"{}\" {}", clip(agent), super::checks::RESOURCE_RULE);
                faults.push(Fault::new("spec.agent", message));
            }
            None if !self.self_registered => faults.push(Fault::new("spec.agent", "missing; whose software is it?")),
            Some(_) | None => {}
        }
        if self.title.as_deref().is_some_and(|title| !is_title(title)) {
            faults.push(Fault::new("spec.title", format!("must be 1 to {TITLE_BYTES_MAX} bytes of text on one line")));
        }
        faults.extend(self.redirect_faults());
        if let Some(headless) = &self.headless {
            let key = "spec.headless.virtual_servers";
            if matches!(self.auth, ClientAuth::ClientSecret | ClientAuth::None) || self.self_registered {
                let message = "is for registered clients that sign who they are, or show a certificate";
                faults.push(Fault::new("spec.headless", message));
            }
            if headless.virtual_servers.is_empty() || headless.virtual_servers.len() > VIRTUAL_SERVERS_MAX {
                faults.push(Fault::new(key, format!("must name 1 to {VIRTUAL_SERVERS_MAX} virtual servers")));
            }
        }
        faults.extend(self.exchange.iter().flat_map(|exchange| self.exchange_faults(exchange)));
        faults.extend(workload::faults_of_client(self));
        faults.extend(client_auth::faults(self));
        faults
    }

    fn exchange_faults(&self, exchange: &ExchangeSpec) -> Vec<Fault> {
        let key = "spec.exchange.agents";
        if self.auth == ClientAuth::None || self.self_registered {
            return vec![Fault::new("spec.exchange", "is for registered clients that prove who they are")];
        }
        if exchange.agents.is_empty() || exchange.agents.len() > EXCHANGED_MAX {
            return vec![Fault::new(key, format!("must name 1 to {EXCHANGED_MAX} agents"))];
        }
        let fault = |agent: &String| match names::is_resource_name(agent) {
            false => Some(format!("\"{}\" {}", clip(agent), super::checks::RESOURCE_RULE)),
            true if self.agent.as_ref() == Some(agent) => Some("names the client's own agent".to_owned()),
            true => None,
        };
        exchange.agents.iter().filter_map(fault).map(|message| Fault::new(key, message)).collect()
    }

    /// The agents it names, each with the key it is named under.
    pub(crate) fn agents(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let taken_over = self.exchange.iter().flat_map(|exchange| &exchange.agents);
        let own = self.agent.iter().map(|agent| ("spec.agent", agent));
        own.chain(taken_over.map(|agent| ("spec.exchange.agents", agent)))
    }

    fn redirect_faults(&self) -> Vec<Fault> {
        let key = "spec.redirect_uris";
        if self.redirect_uris.len() > REDIRECT_URIS_MAX {
            return vec![Fault::new(key, format!("at most {REDIRECT_URIS_MAX} are accepted"))];
        }
        let bad = self.redirect_uris.iter().filter(|uri| !redirect::is_redirect_uri(uri));
        bad.map(|uri| Fault::new(key, format!("\"{}\" {}", clip(uri), redirect::RULE))).collect()
    }
}

impl AgentClientsSpec {
    pub(super) fn is_default(&self) -> bool {
        !self.self_registered && self.described_at.is_empty()
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let key = "spec.clients.described_at";
        if self.described_at.len() > DESCRIBED_MAX {
            return vec![Fault::new(key, format!("at most {DESCRIBED_MAX} are accepted"))];
        }
        let bad = self.described_at.iter().filter(|url| !client::is_described(url));
        let rule =
            "must be an https URL of at most 128 bytes with a path, without query, fragment, user and dot segments";
        bad.map(|url| Fault::new(key, format!("\"{}\" {rule}", clip(url)))).collect()
    }
}

/// Whether the server can make keys of it is found out there; here, that it may stand in an event.
pub(super) fn is_key_set(text: &str) -> bool {
    let keys = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok()?.get("keys")?.as_array().cloned();
    let is_public = |key: &serde_json::Value| key.get("d").is_none() && key.get("k").is_none();
    text.len() <= KEY_SET_BYTES_MAX && keys(text).is_some_and(|keys| !keys.is_empty() && keys.iter().all(is_public))
}

impl IdentityProviderSpec {
    /// The name of the secret that we show there.
    #[must_use]
    pub fn secret(&self) -> Option<&str> {
        self.sign_in.as_ref()?.secret.as_deref()
    }

    /// All secrets of ours that its manifest names, each with the key it is named under.
    pub fn secrets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let poll = self.signals.as_ref().and_then(|signals| signals.poll.as_ref()).map(|poll| poll.secret.as_str());
        let named = [("spec.sign_in.secret", self.secret()), ("spec.signals.poll.secret", poll)];
        let stream = self.signals.as_ref().and_then(|signals| signals.stream.as_deref());
        let named = named.into_iter().filter_map(|(key, name)| Some((key, name?)));
        named.chain(stream.into_iter().flat_map(StreamSpec::secrets))
    }

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
        faults.extend(self.people.faults());
        faults.extend(self.sign_in.iter().flat_map(|sign_in| sign_in.faults(&self.issuer)));
        faults.extend(self.assertions.iter().flat_map(AssertionsSpec::faults));
        faults.extend(self.workloads.iter().flat_map(WorkloadsSpec::faults));
        faults.extend(self.signals.iter().flat_map(|signals| signals.faults(&self.issuer)));
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

pub(super) fn usual_algorithms() -> BTreeSet<ProviderAlgorithm> {
    BTreeSet::from([ProviderAlgorithm::RS256, ProviderAlgorithm::ES256])
}
