//! The spec of a decision client: a service that may ask data planes whether a call would be permitted.
//!
//! Its secret never stands in a manifest: the secret's hash does, or two of them while one secret takes the place of
//! another. What must be true of a value is in `faults`; whether what is named exists is for `decision_client`.
//! Absent: comparing secrets and answering (`data-plane`). Specification: AuthZEN Authorization API 1.0 §10.

use std::collections::BTreeSet;

use bailiwick_proto::names;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::{Fault, clip};

/// Most secrets of one client: the one in use and the one that follows.
const SECRETS_MAX: usize = 2;
/// Most virtual servers, and most servers, that one may ask about.
const PLACES_MAX: usize = 64;

/// A service that may ask whether a call would be permitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionClientSpec {
    /// SHA-256 of its secret, in hexadecimal: `bailiwick client new-secret` makes both. Two while one takes the place
    /// of the other.
    pub secret_sha256: BTreeSet<String>,
    /// The virtual servers about which it may ask everything.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub virtual_servers: BTreeSet<String>,
    /// The servers about whose own tools, prompts and resources it may ask, at whichever virtual server.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub servers: BTreeSet<String>,
    /// Whether it is answered.
    #[serde(default = "super::active")]
    pub active: bool,
}

impl DecisionClientSpec {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.secret_sha256.is_empty() || self.secret_sha256.len() > SECRETS_MAX {
            let message = "must be one hash, or two; `bailiwick client new-secret` makes a secret and its hash";
            faults.push(Fault::new("spec.secret_sha256", message));
        }
        let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !self.secret_sha256.iter().all(|hash| is_hash(hash)) {
            faults.push(Fault::new("spec.secret_sha256", "must each be 64 lower-case hexadecimal digits"));
        }
        if self.virtual_servers.is_empty() && self.servers.is_empty() {
            faults.push(Fault::new("spec.virtual_servers", "missing, and so is `servers`; what may it ask about?"));
        }
        for (key, named) in [("spec.virtual_servers", &self.virtual_servers), ("spec.servers", &self.servers)] {
            if named.len() > PLACES_MAX {
                faults.push(Fault::new(key, format!("at most {PLACES_MAX} are accepted")));
            }
            let odd = named.iter().filter(|name| !names::is_server_name(name));
            faults.extend(odd.map(|name| Fault::new(key, format!("\"{}\" cannot be the name of one", clip(name)))));
        }
        faults
    }
}
