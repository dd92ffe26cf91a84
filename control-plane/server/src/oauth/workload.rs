//! Workloads: programs whose platform signs what they are, and which need no key of their own here. Such a JWT is a
//! grant (MCP workload identity federation, on RFC 7523 §2.1), or proves who a client is (RFC 7523 §2.2; draft OAuth
//! SPIFFE Client Authentication).
//!
//! Checked here, on any node: type, who speaks for the subject, signature, audience, times, and which client that is.
//! That it still is, and that everybody who takes part may act, is the leader's decision. Called by `token` and
//! `client`. Invariant: an identity assertion (`id_jag`) is never taken for a workload's. Such a JWT is not used up:
//! platforms hand out the same one until it is renewed, so it is good here alone, and not for long. It is never logged.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use bailiwick_control_plane_core::{
    resource::{IdentityProviderSpec, WorkloadSpec, WorkloadsSpec, trust_domain_of},
    workload,
};
use bailiwick_token::assertion::{
    AssertionError, AssertionKeys, PeekedWorkload, Rule, TypRule, peek, peek_workload, verify_workload,
};

use super::{
    Services, TOKEN_PATH,
    client::{Authenticated, SKEW_SECONDS},
    error::OAuthError,
    form::Form,
    id_jag,
};
use crate::{clock, minting, providers};

/// How a SPIFFE workload says that its JWT proves who the client is.
const SPIFFE_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// What a platform said that has been verified.
#[derive(Clone, Debug)]
pub(super) struct Vouched {
    /// The client's manifest, by which it was.
    pub(super) workload: WorkloadSpec,
    /// When the platform's word expires, Unix seconds.
    pub(super) until: u64,
}

/// Why a workload is nobody's, or that nobody can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotVouched {
    why: &'static str,
    /// It may be another time.
    may_pass: bool,
    /// Who speaks for it; empty where nobody here does.
    provider: String,
}

impl NotVouched {
    const fn refused(why: &'static str) -> Self {
        Self { why, may_pass: false, provider: String::new() }
    }

    const fn unavailable(why: &'static str) -> Self {
        Self { why, may_pass: true, provider: String::new() }
    }

    /// Of what was presented as a grant.
    pub(super) fn of_grant(self) -> OAuthError {
        self.told(OAuthError::proof)
    }

    /// Of what was to prove who the client is.
    pub(super) fn of_client(self) -> OAuthError {
        self.told(|why| OAuthError::client(why, false))
    }

    fn told(self, refused: impl FnOnce(&'static str) -> OAuthError) -> OAuthError {
        let Self { why, may_pass, provider } = self;
        let error = if may_pass { OAuthError::unavailable(why) } else { refused(why) };
        error.with(|about| about.provider = provider)
    }
}

impl From<AssertionError> for NotVouched {
    fn from(error: AssertionError) -> Self {
        Self::refused(id_jag::why(error))
    }
}

/// The workload's own assertion, if a request for this grant has one: nobody proves anything else, and what the
/// assertion says of its type is not that a provider speaks for a person.
pub(super) fn as_grant<'a>(headers: &HeaderMap, form: &'a Form) -> Result<Option<&'a str>, OAuthError> {
    let proves = headers.contains_key(header::AUTHORIZATION)
        || ["client_secret", "client_assertion", "client_assertion_type"].into_iter().any(|name| form.has(name));
    let is_its = |jwt: &&str| !proves && !peek(jwt).is_ok_and(|peeked| id_jag::is_one(peeked.typ.as_deref()));
    Ok(form.one("assertion")?.filter(is_its))
}

/// The workload's assertion, if it is what is to prove who the client is: what a client signs itself is from itself
/// and about itself, which no platform's word is.
pub(super) fn as_client<'a>(
    headers: &HeaderMap,
    form: &'a Form,
    usual_type: &str,
) -> Result<Option<&'a str>, OAuthError> {
    let kind = form.one("client_assertion_type")?;
    let only_way = !headers.contains_key(header::AUTHORIZATION) && !form.has("client_secret");
    let Some(jwt) = form.one("client_assertion")?.filter(|_| only_way) else { return Ok(None) };
    let peeked = peek_workload(jwt).ok();
    if kind == Some(SPIFFE_ASSERTION_TYPE) {
        let is_spiffe = peeked.is_some_and(|peeked| trust_domain_of(&peeked.sub).is_some());
        return is_spiffe.then_some(Some(jwt)).ok_or(OAuthError::client("the assertion is about no SPIFFE ID", false));
    }
    let is_its = |peeked: PeekedWorkload| peeked.iss.as_ref() != Some(&peeked.sub);
    Ok(Some(jwt).filter(|_| kind == Some(usual_type) && peeked.is_some_and(is_its)))
}

/// The client that a workload is.
pub(super) async fn authenticate(
    services: &Services,
    jwt: &str,
    client_id: Option<&str>,
) -> Result<Authenticated, NotVouched> {
    let peeked = peek_workload(jwt)?;
    if !TypRule::Workload.admits(peeked.typ.as_deref()) {
        return Err(NotVouched::refused("the assertion is of a type that is not taken here"));
    }
    let (provider, spec, terms) = provider(services, &peeked).await?;
    let found = client(services, jwt, client_id, &peeked, (&provider, &spec, &terms)).await;
    found.map_err(|refused| NotVouched { provider, ..refused })
}

/// The client, by the word of the provider that speaks for it.
async fn client(
    services: &Services,
    jwt: &str,
    client_id: Option<&str>,
    peeked: &PeekedWorkload,
    (provider, spec, terms): (&str, &IdentityProviderSpec, &WorkloadsSpec),
) -> Result<Authenticated, NotVouched> {
    let keys = keys(services, provider, spec, terms, peeked.kid.as_deref()).await?;
    let issuer = services.domain.read(minting::issuer).ok_or(NotVouched::unavailable("the issuer is not set yet"))?.0;
    let rule = Rule {
        typ: TypRule::Workload,
        issuer: &spec.issuer,
        audiences: &[&issuer, &format!("{issuer}{TOKEN_PATH}")],
        lifetime_max: i64::try_from(terms.lifetime_seconds_max()).unwrap_or(i64::MAX),
        skew: SKEW_SECONDS,
        require: &[],
    };
    let assertion = verify_workload(jwt, &keys, &rule, clock::now_seconds())?;
    if assertion.claims.contains_key("cnf") {
        let why = "the assertion is bound to a key, of which no proof can be given here";
        return Err(NotVouched::refused(why));
    }
    let found = services.domain.read(|state| {
        let (name, client) = workload::client_of(state, provider, &assertion.sub)?;
        let spec = &client.spec;
        Some((name.to_owned(), spec.active, workload::of_client(spec)?.clone(), spec.binding))
    });
    let is_asked_for = |name: &str| client_id.is_none_or(|asked| asked == name);
    let (name, _, workload, demands) = found
        .filter(|(name, is_active, ..)| *is_active && is_asked_for(name))
        .ok_or(NotVouched::refused("the assertion is about no client here, another one, or one that is not active"))?;
    if !workload.takes(&assertion.claims) {
        return Err(NotVouched::refused("a claim that the workload must have is missing, or has another value"));
    }
    let until = u64::try_from(assertion.exp).map_err(|_| NotVouched::refused("the assertion has no end"))?;
    let workload = Some(Vouched { workload, until });
    Ok(Authenticated { name, used: None, is_public: false, by_certificate: false, workload, demands })
}

/// Who speaks for the subject, and on which terms. Which providers are known is not disclosed.
async fn provider(
    services: &Services,
    peeked: &PeekedWorkload,
) -> Result<(String, IdentityProviderSpec, WorkloadsSpec), NotVouched> {
    let found = services.domain.read_latest(|state| {
        let (name, known) = workload::provider_of(state, peeked.iss.as_deref(), &peeked.sub)?;
        let spec = Some(known.spec.clone()).filter(|spec| spec.active)?;
        Some((name.to_owned(), spec.clone(), spec.workloads?))
    });
    let found = found.await.map_err(|_| NotVouched::unavailable("the cluster does not answer"))?;
    found.ok_or(NotVouched::refused(id_jag::UNKNOWN))
}

/// The keys of the manifest, else those that the provider shows.
async fn keys(
    services: &Services,
    provider: &str,
    spec: &IdentityProviderSpec,
    terms: &WorkloadsSpec,
    kid: Option<&str>,
) -> Result<Arc<AssertionKeys>, NotVouched> {
    let away = || NotVouched::unavailable("the identity provider's keys cannot be had now");
    let Some(jwks) = &terms.jwks else {
        return services.providers.keys(provider, spec, kid).await.map_err(|error| {
            tracing::debug!(provider, %error, "an identity provider's keys cannot be had");
            away()
        });
    };
    let keys = AssertionKeys::from_bundle(jwks.as_bytes(), &providers::algorithms(spec)).map_err(|error| {
        tracing::warn!(provider, %error, "the keys of an identity provider's manifest cannot be used");
        away()
    })?;
    Ok(Arc::new(keys))
}
