//! Clients that are workloads: their platform says what they are, and they act for their agent's owner like any other
//! headless client.
//!
//! The server has verified what the platform signed (`UseWorkload`); here is decided that it still speaks for that
//! client, on whose behalf, and for how long. Called by `wish` (deciding), `apply` (what is named exists, and one
//! workload is one client) and the server (finding). Invariants: a workload is one client at most; no token outlives
//! the word it rests on. An assertion is not used up: platforms hand out the same one until it is renewed.

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Manifest, Problem, Rejection, ResourceRef, Spec,
    client::Client,
    command::{Context, Decision},
    headless,
    identity_provider::{self, IdentityProvider},
    manifest::suggest,
    resource::{ClientAuth, ClientSpec, IdentityProviderSpec, WorkloadSpec, trust_domain_of},
    standing::{self, Standing, Vouching},
    state::State,
};

/// A wish for a token, of a workload whose platform said what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseWorkload {
    /// The client.
    pub client: String,
    /// What its manifest said when that was verified.
    pub workload: WorkloadSpec,
    /// When the platform's word expires, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub until: u64,
    /// Where.
    pub virtual_server: String,
    /// The most harmful tier it asks for; all that it may have where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Tier>,
}

pub(crate) fn decide_use(state: &State, wish: UseWorkload, context: &Context) -> Result<Decision, Rejection> {
    let UseWorkload { client, workload, until, virtual_server, wanted } = wish;
    let unknown = |kind, name: &str| Rejection::NotFound(vec![ResourceRef::new(kind, name)]);
    let spec = &state.clients.get(&client).ok_or_else(|| unknown(Kind::Client, &client))?.spec;
    if of_client(spec) != Some(&workload) {
        return Err(Rejection::NotItsWorkload { client });
    }
    let WorkloadSpec { provider, subject, .. } = workload;
    let known = state.identity_providers.get(&provider);
    let known = &known.ok_or_else(|| unknown(Kind::IdentityProvider, &provider))?.spec;
    if !known.active || !speaks_for(known, &subject) {
        return Err(Rejection::Inactive(ResourceRef::new(Kind::IdentityProvider, &provider)));
    }
    if until <= context.now_seconds() {
        return Err(Rejection::Malformed { what: "assertion", rule: "one that has not expired" });
    }
    let (standing, project) = headless::standing(state, &client, &virtual_server, context)?;
    let standing = Standing {
        reason: format!("{}, vouched for by identity provider {provider}", standing.reason),
        provider,
        ..standing
    };
    let wanted = wanted.unwrap_or(standing.level);
    let vouching = Vouching { uses: Vec::new(), subject, until: Some(until) };
    standing::decide_vouched(state, standing, wanted, project, vouching, context)
}

/// The workload that a client is, if it is one.
#[must_use]
pub fn of_client(spec: &ClientSpec) -> Option<&WorkloadSpec> {
    spec.workload.as_ref().filter(|_| spec.auth == ClientAuth::Workload)
}

/// The provider that speaks for a workload: that of its trust domain, else the one that signs under this issuer.
#[must_use]
pub fn provider_of<'a>(
    state: &'a State,
    issuer: Option<&str>,
    subject: &str,
) -> Option<(&'a str, &'a IdentityProvider)> {
    let found = match trust_domain_of(subject) {
        Some(domain) => {
            let mut all = state.identity_providers.iter();
            all.find(|(_, known)| trust_domain(&known.spec) == Some(domain)).map(|(name, known)| (name.as_str(), known))
        }
        None => identity_provider::of_issuer(state, issuer?),
    };
    found.filter(|(_, known)| speaks_for(&known.spec, subject))
}

/// The client that is this workload of a provider's.
#[must_use]
pub fn client_of<'a>(state: &'a State, provider: &str, subject: &str) -> Option<(&'a str, &'a Client)> {
    let is_it = |spec: &ClientSpec| of_client(spec).is_some_and(|of| of.provider == provider && of.subject == subject);
    state.clients.iter().find(|(_, known)| is_it(&known.spec)).map(|(name, known)| (name.as_str(), known))
}

fn trust_domain(spec: &IdentityProviderSpec) -> Option<&str> {
    spec.workloads.as_ref()?.trust_domain.as_deref()
}

/// Whether a provider's word about this workload counts: one with a trust domain speaks for that, others for what is
/// in none.
fn speaks_for(spec: &IdentityProviderSpec, subject: &str) -> bool {
    spec.workloads.as_ref().is_some_and(|workloads| workloads.trust_domain.as_deref() == trust_domain_of(subject))
}

/// What is wrong with clients and providers of an apply, as far as workloads go.
pub(crate) fn problems(next: &State, manifests: &[Manifest]) -> Vec<Problem> {
    let of_one = |manifest: &Manifest| match &manifest.spec {
        Spec::Client(spec) => client_problem(next, manifest, spec),
        Spec::IdentityProvider(spec) => provider_problem(next, manifest, spec),
        Spec::Server(_)
        | Spec::VirtualServer(_)
        | Spec::User(_)
        | Spec::Agent(_)
        | Spec::Policy(_)
        | Spec::DecisionClient(_) => None,
    };
    manifests.iter().filter_map(of_one).collect()
}

fn client_problem(next: &State, manifest: &Manifest, spec: &ClientSpec) -> Option<Problem> {
    let WorkloadSpec { provider, subject, .. } = spec.workload.as_ref()?;
    let Some(known) = next.identity_providers.get(provider) else {
        let hint = suggest::hint(provider, next.identity_providers.keys().map(String::as_str));
        let message = format!("{} \"{provider}\" does not exist{hint}", Kind::IdentityProvider);
        return Some(manifest.problem("spec.workload.provider", message));
    };
    if known.spec.workloads.is_none() {
        let message =
            format!("{} {provider} does not speak for workloads: it has no `workloads`", Kind::IdentityProvider);
        return Some(manifest.problem("spec.workload.provider", message));
    }
    if !speaks_for(&known.spec, subject) {
        let rule = trust_domain(&known.spec).map_or_else(
            || format!("is a SPIFFE ID, and {provider} has no `workloads.trust_domain`"),
            |domain| format!("must be in the trust domain of {provider}: spiffe://{domain}/…"),
        );
        return Some(manifest.problem("spec.workload.subject", rule));
    }
    let is_other = |name: &str, other: &ClientSpec| {
        let same = other.workload.as_ref().is_some_and(|of| of.provider == *provider && of.subject == *subject);
        same && name != manifest.name
    };
    let (other, _) = next.clients.iter().find(|(name, known)| is_other(name, &known.spec))?;
    Some(manifest.problem("spec.workload.subject", format!("{} {other} is this workload", Kind::Client)))
}

fn provider_problem(next: &State, manifest: &Manifest, spec: &IdentityProviderSpec) -> Option<Problem> {
    let domain = trust_domain(spec)?;
    let mut others = next.identity_providers.iter().filter(|(name, _)| **name != manifest.name);
    let (other, _) = others.find(|(_, known)| trust_domain(&known.spec) == Some(domain))?;
    let message = format!("{} {other} speaks for this trust domain", Kind::IdentityProvider);
    Some(manifest.problem("spec.workloads.trust_domain", message))
}

/// What a client refers to beside its agents, and that is not there.
pub(crate) fn gone(next: &State, spec: &ClientSpec) -> Vec<ResourceRef> {
    let places = spec.headless.iter().flat_map(|headless| &headless.virtual_servers);
    let places = places.filter(|name| !next.virtual_servers.contains_key(*name));
    let places = places.map(|name| ResourceRef::new(Kind::VirtualServer, name));
    let provider = spec.workload.iter().map(|workload| &workload.provider);
    let provider = provider.filter(|name| !next.identity_providers.contains_key(*name));
    places.chain(provider.map(|name| ResourceRef::new(Kind::IdentityProvider, name))).collect()
}
