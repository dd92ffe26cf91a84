//! How a stream of signals is set up at its transmitter from here: by which secrets, and which events are asked for.
//!
//! A part of `signals` in an `IdentityProvider`'s manifest. Called by `signals` (its faults), `identity` (its
//! secrets) and the server, which asks the transmitter. Invariant: only events that count by the manifest are asked
//! for. Absent: where the transmitter takes such requests, which its own metadata says. Specification: OpenID SSF 1.0
//! §8.1.

use bailiwick_proto::names;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Fault, RESOURCE_RULE, clip},
    signals::{SignalKind, SignalsSpec},
};

/// The event of RISC that says the same as `session-revoked`.
const SESSIONS_REVOKED: &str = "https://schemas.openid.net/secevent/risc/event-type/sessions-revoked";

/// The stream is made and changed there by `bailiwick signals stream`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamSpec {
    /// The bearer secret that the transmitter wants to be shown: a name that was sealed with `bailiwick secret set NAME
    /// --for identity-provider`.
    pub secret: String,
    /// The bearer secret that the transmitter is given to show here when it pushes, sealed likewise; its hash is among
    /// `push.secrets_sha256`. Where absent, the stream is one that is polled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_secret: Option<String>,
}

impl StreamSpec {
    /// Its secrets, each with the key it is named under.
    pub(super) fn secrets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let push = self.push_secret.as_deref().map(|name| ("spec.signals.stream.push_secret", name));
        [("spec.signals.stream.secret", self.secret.as_str())].into_iter().chain(push)
    }

    pub(super) fn faults(&self, has_push: bool) -> Vec<Fault> {
        let named = self.secrets().filter(|(_, name)| !names::is_resource_name(name));
        let mut faults: Vec<_> =
            named.map(|(key, name)| Fault::new(key, format!("\"{}\" {RESOURCE_RULE}", clip(name)))).collect();
        if self.push_secret.is_some() && !has_push {
            let message = "goes with `push`: its hash stands in `push.secrets_sha256`";
            faults.push(Fault::new("spec.signals.stream.push_secret", message));
        }
        faults
    }
}

impl SignalsSpec {
    /// URIs of all events that count.
    #[must_use]
    pub fn events_wanted(&self) -> Vec<String> {
        let counts = |kind: &SignalKind| !kind.is_of_stream() && self.effect_of(*kind).is_some();
        let kinds = SignalKind::ALL.into_iter().filter(counts);
        kinds
            .flat_map(|kind| {
                let other = (kind == SignalKind::SessionRevoked).then(|| SESSIONS_REVOKED.to_owned());
                [Some(kind.uri()), other].into_iter().flatten()
            })
            .collect()
    }
}
