//! Decision clients: services that may ask data planes whether a call would be permitted (AuthZEN).
//!
//! Called by `apply` (deciding), `state` (evolving), `view` and `show`. Invariants: the virtual servers and servers
//! that one names exist, and no two have one secret, so a secret says who asks. One that is not active has no entry at
//! data planes, so that taking it away travels by the revocation lane. Absent: secrets (only their hashes are
//! anywhere), and the answers (`data-plane/core`).

use bailiwick_proto::v1;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Manifest, Problem, ResourceRef, Spec,
    manifest::suggest,
    resource::DecisionClientSpec,
    state::{Changed, State},
};

/// Most decision clients: data planes compare a secret with those of all of them.
pub const DECISION_CLIENTS_MAX: usize = 256;

const SERVERS: &str = "spec.servers";

/// A decision client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionClient {
    /// As written.
    pub spec: DecisionClientSpec,
    /// When it was written.
    pub changed: Changed,
}

/// Payload of `decision_client_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionClientApplied {
    /// The client.
    pub name: String,
    /// As written.
    pub spec: DecisionClientSpec,
}

/// Payload of `decision_client_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionClientDeleted {
    /// The client.
    pub name: String,
}

/// What is wrong with the decision clients of an apply.
pub(crate) fn problems(next: &State, manifests: &[Manifest]) -> Vec<Problem> {
    let specs = manifests.iter().filter_map(|manifest| match &manifest.spec {
        Spec::DecisionClient(spec) => Some((manifest, spec)),
        Spec::Server(_)
        | Spec::VirtualServer(_)
        | Spec::User(_)
        | Spec::Agent(_)
        | Spec::Policy(_)
        | Spec::Client(_)
        | Spec::IdentityProvider(_) => None,
    });
    specs.flat_map(|(manifest, spec)| problems_of(next, manifest, spec)).collect()
}

fn problems_of(next: &State, manifest: &Manifest, spec: &DecisionClientSpec) -> Vec<Problem> {
    let missing = gone(next, spec).into_iter().map(|(key, gone)| {
        let hint = match key == SERVERS {
            true => suggest::hint(&gone.name, next.servers.keys().map(String::as_str)),
            false => suggest::hint(&gone.name, next.virtual_servers.keys().map(String::as_str)),
        };
        manifest.problem(key, format!("{} \"{}\" does not exist{hint}", gone.kind, gone.name))
    });
    let mut others = next.decision_clients.iter().filter(|(name, _)| **name != manifest.name);
    let other = others.find(|(_, known)| !known.spec.secret_sha256.is_disjoint(&spec.secret_sha256));
    let shared = other.map(|(other, _)| {
        manifest.problem("spec.secret_sha256", format!("{} {other} has this secret", Kind::DecisionClient))
    });
    missing.chain(shared).collect()
}

/// What one names and is not there, each with the key it is named under.
pub(crate) fn gone(next: &State, spec: &DecisionClientSpec) -> Vec<(&'static str, ResourceRef)> {
    let places = spec.virtual_servers.iter().filter(|name| !next.virtual_servers.contains_key(*name));
    let places = places.map(|name| ("spec.virtual_servers", ResourceRef::new(Kind::VirtualServer, name)));
    let servers = spec.servers.iter().filter(|name| !next.servers.contains_key(*name));
    places.chain(servers.map(|name| (SERVERS, ResourceRef::new(Kind::Server, name)))).collect()
}

/// As data planes see it; `None` where it is not active.
pub(crate) fn view(state: &State, name: &str) -> Option<v1::DecisionClient> {
    let spec = &state.decision_clients.get(name)?.spec;
    spec.active.then(|| v1::DecisionClient {
        name: name.to_owned(),
        secret_sha256: spec.secret_sha256.iter().cloned().collect(),
        virtual_servers: spec.virtual_servers.iter().cloned().collect(),
        servers: spec.servers.iter().cloned().collect(),
    })
}

pub(crate) fn evolve_applied(state: &mut State, event: &DecisionClientApplied, changed: Changed) {
    state.decision_clients.insert(event.name.clone(), DecisionClient { spec: event.spec.clone(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &DecisionClientDeleted) {
    state.decision_clients.remove(&event.name);
}
