//! Identity providers: companies' own, whose assertions about their people are taken.
//!
//! Called by `apply` (deciding), `state` (evolving), `assertion` and `show`. Invariant: no two have one issuer, so an
//! assertion has one manifest that says what it is good for. Absent: keys and signatures (server).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    resource::IdentityProviderSpec,
    signal,
    state::{Changed, State},
};

/// Most providers: a company and those it has bought.
pub const PROVIDERS_MAX: usize = 64;

/// An identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityProvider {
    /// As written.
    pub spec: IdentityProviderSpec,
    /// When it was written.
    pub changed: Changed,
}

/// Payload of `identity_provider_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityProviderApplied {
    /// The provider.
    pub name: String,
    /// As written.
    pub spec: IdentityProviderSpec,
}

/// Payload of `identity_provider_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityProviderDeleted {
    /// The provider.
    pub name: String,
}

/// The provider that signs under this issuer.
#[must_use]
pub fn of_issuer<'a>(state: &'a State, issuer: &str) -> Option<(&'a str, &'a IdentityProvider)> {
    let all = state.identity_providers.iter().map(|(name, provider)| (name.as_str(), provider));
    all.into_iter().find(|(_, provider)| provider.spec.issuer == issuer)
}

/// Issuers that more than one provider has, with the names of those.
pub(crate) fn ambiguous(state: &State) -> BTreeMap<&str, Vec<&str>> {
    let mut by_issuer = BTreeMap::<&str, Vec<&str>>::new();
    for (name, provider) in &state.identity_providers {
        by_issuer.entry(&provider.spec.issuer).or_default().push(name);
    }
    by_issuer.retain(|_, names| names.len() > 1);
    by_issuer
}

pub(crate) fn evolve_applied(state: &mut State, event: &IdentityProviderApplied, changed: Changed) {
    let provider = IdentityProvider { spec: event.spec.clone(), changed };
    state.identity_providers.insert(event.name.clone(), provider);
}

pub(crate) fn evolve_deleted(state: &mut State, event: &IdentityProviderDeleted) {
    state.identity_providers.remove(&event.name);
    signal::forget(state, &event.name);
}
