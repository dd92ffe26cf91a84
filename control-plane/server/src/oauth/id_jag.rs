//! The identity assertion (ID-JAG) of a company's provider, by way of a client of ours: Enterprise-Managed
//! Authorization (EMA §7), and the draft it rests on, Identity Assertion JWT Authorization Grant §4.4.
//!
//! Checked here, on any node: type, issuer, signature, audience, times, that it was made for this client, and which
//! virtual server and tiers it is about. That it was not used before, and that everybody who takes part may, is the
//! leader's decision. An assertion is never logged.

use bailiwick_control_plane_core::{
    Exchanged, Wish,
    assertion::{Use, UseAssertion},
    identity_provider,
    resource::{AssertionsSpec, IdentityProviderSpec},
};
use bailiwick_proto::scope::Scopes;
use bailiwick_token::assertion::{self, Assertion, AssertionError, Rule, TypRule, peek, replay_key};

use super::{
    Services,
    binding::check_assertion,
    client::{Authenticated, SKEW_SECONDS},
    error::OAuthError,
    form::Form,
};
use crate::{
    binding::Binding,
    clock,
    decisions::{Decided, Undecided},
    minting,
};

/// The type of an ID-JAG, as its header says it.
const TYPE: &str = "oauth-id-jag+jwt";

/// A token for the assertion in `form`.
pub(super) async fn exchange(
    services: &Services,
    client: &Authenticated,
    form: &Form,
    binding: &Binding,
) -> Result<Decided<Exchanged>, OAuthError> {
    let jwt = form.one("assertion")?.ok_or(OAuthError::request("assertion is missing"))?;
    let peeked = peek(jwt).map_err(refused)?;
    if !TypRule::Exactly(TYPE).admits(peeked.typ.as_deref()) {
        return Err(OAuthError::grant("the assertion is of a type that is not taken here"));
    }
    let (provider, spec) = provider(services, &peeked.iss)?;
    let exchanged =
        of_provider(services, client, (form, binding), (jwt, peeked.kid.as_deref()), (&provider, &spec)).await;
    exchanged.map_err(|error| error.with(|about| about.provider = provider))
}

/// A token for an assertion, with its `kid`, of a provider.
async fn of_provider(
    services: &Services,
    client: &Authenticated,
    (form, binding): (&Form, &Binding),
    (jwt, kid): (&str, Option<&str>),
    (provider, spec): (&str, &IdentityProviderSpec),
) -> Result<Decided<Exchanged>, OAuthError> {
    let terms = spec.assertions.as_ref().ok_or(OAuthError::grant(UNKNOWN))?;
    let keys = services.providers.keys(provider, spec, kid).await.map_err(|error| {
        tracing::debug!(provider, %error, "an identity provider's keys cannot be had");
        OAuthError::unavailable("the identity provider's keys cannot be had now")
    })?;
    let (issuer, mcp_url) =
        services.domain.read(minting::issuer).ok_or(OAuthError::unavailable("the issuer is not set yet"))?;
    let rule = Rule {
        typ: TypRule::Exactly(TYPE),
        issuer: &spec.issuer,
        audiences: &[&issuer],
        lifetime_max: i64::try_from(terms.lifetime_seconds_max()).unwrap_or(i64::MAX),
        skew: SKEW_SECONDS,
        require: &["jti", "iat", "client_id"],
    };
    let assertion = assertion::verify(jwt, &keys, &rule, clock::now_seconds()).map_err(refused)?;
    if assertion.text("client_id").map_err(refused)? != Some(&client.name) {
        return Err(OAuthError::grant("the assertion was made for another client"));
    }
    check_assertion(assertion.claims.get("cnf"), binding)?;
    let user = user(&assertion, spec)?;
    let about_them = |error: OAuthError| error.with(|about| about.user.clone_from(&user));
    let virtual_server = virtual_server(&assertion, form, terms, &mcp_url).map_err(about_them)?;
    let (granted, wanted) = scopes(&assertion, form).map_err(about_them)?;
    let wish = UseAssertion {
        uses: uses(&assertion, client)?,
        said_at: assertion.iat.and_then(|at| u64::try_from(at).ok()),
        user: user.clone(),
        client: client.name.clone(),
        virtual_server,
        granted: granted.level().ok_or_else(OAuthError::scope).map_err(about_them)?,
        wanted: wanted.level().ok_or_else(OAuthError::scope).map_err(about_them)?,
        provider: provider.to_owned(),
    };
    let decided = services.decisions.token(&Wish::UseAssertion(wish), format!("client:{}", client.name)).await;
    let decided = decided.map_err(|undecided| match undecided {
        Undecided::Refused(sentence) => OAuthError::refused(sentence),
        Undecided::Unavailable => OAuthError::unavailable("nobody decides now; ask for another assertion"),
    });
    decided.map_err(about_them)
}

/// Which issuers are known is not disclosed.
pub(super) const UNKNOWN: &str = "the assertion's issuer is not known here";

/// As of when the client was looked for, or later: that was a state that holds all that was acknowledged before.
fn provider(services: &Services, issuer: &str) -> Result<(String, IdentityProviderSpec), OAuthError> {
    let found = services.domain.read(|state| {
        let found = identity_provider::of_issuer(state, issuer);
        found.map(|(name, provider)| (name.to_owned(), provider.spec.clone()))
    });
    found.filter(|(_, spec)| spec.active).ok_or(OAuthError::grant(UNKNOWN))
}

/// Where the token is to be good: what the assertion names, and the request may choose of it.
fn virtual_server(
    assertion: &Assertion,
    form: &Form,
    terms: &AssertionsSpec,
    mcp_url: &str,
) -> Result<String, OAuthError> {
    let of_url = |url: &str| {
        let vouched = terms.virtual_servers.iter();
        vouched.clone().find(|name| minting::resource(mcp_url, name) == url).cloned()
    };
    let asserted = assertion.texts("resource").map_err(refused)?;
    let asserted = asserted.map(|urls| urls.into_iter().filter_map(of_url).collect::<Vec<_>>());
    if asserted.as_ref().is_some_and(Vec::is_empty) {
        return Err(OAuthError::grant("the assertion is for a resource that its issuer does not vouch for here"));
    }
    let possible = asserted.unwrap_or_else(|| terms.virtual_servers.iter().cloned().collect());
    match form.all("resource") {
        [] => match possible.as_slice() {
            [only] => Ok(only.clone()),
            _ => Err(OAuthError::target("several resources are possible: name one")),
        },
        [url] => {
            let wanted = of_url(url).filter(|name| possible.contains(name));
            wanted.ok_or(OAuthError::target("the assertion is not for this resource"))
        }
        _ => Err(OAuthError::target("a token is for one resource")),
    }
}

/// What the provider grants, and what of that is asked for. Where the assertion says nothing, it is for reading.
fn scopes(assertion: &Assertion, form: &Form) -> Result<(Scopes, Scopes), OAuthError> {
    let words = assertion.scope_words().map_err(refused)?;
    let granted = words
        .map_or_else(|| Scopes::of_level(bailiwick_proto::Tier::Retrieval), |words| Scopes::parse(&words.join(" ")));
    let wanted = form.one("scope")?.map(Scopes::parse);
    let wanted = wanted.map_or(granted, |wanted| wanted.meet(&granted));
    Ok((granted, wanted))
}

/// Who it is about, under the name that person has here.
fn user(assertion: &Assertion, spec: &IdentityProviderSpec) -> Result<String, OAuthError> {
    const NOBODY: &str = "the assertion does not say who it is about in the way its issuer is known for";
    spec.people.user_of(&assertion.claims).map(str::to_owned).map_err(|_| OAuthError::grant(NOBODY))
}

fn uses(assertion: &Assertion, client: &Authenticated) -> Result<Vec<Use>, OAuthError> {
    let jti = assertion.jti.as_deref().ok_or(OAuthError::grant("the assertion has no jti"))?;
    let key = hex::encode(replay_key(&assertion.iss, &assertion.sub, jti));
    let until = u64::try_from(assertion.exp).map_err(|_| OAuthError::grant("the assertion has no end"))?;
    Ok([Use { key, until }].into_iter().chain(client.used.clone()).collect())
}

fn refused(error: AssertionError) -> OAuthError {
    OAuthError::grant(why(error))
}

/// Whether a type is that of an identity assertion.
pub(super) fn is_one(typ: Option<&str>) -> bool {
    TypRule::Exactly(TYPE).admits(typ)
}

/// What whoever presents an assertion is told of it.
pub(super) const fn why(error: AssertionError) -> &'static str {
    match error {
        AssertionError::Expired => "the assertion has expired",
        AssertionError::NotYetValid => "the assertion is not valid yet",
        AssertionError::Lifetime => "the assertion lives longer than is accepted",
        AssertionError::Audience => "the assertion is for another audience",
        AssertionError::Missing(_) => "the assertion lacks a claim",
        AssertionError::UnknownKey | AssertionError::Signature => "the assertion's signature does not verify",
        AssertionError::Algorithm => "the assertion's algorithm is not accepted",
        AssertionError::Issuer => UNKNOWN,
        AssertionError::Type
        | AssertionError::TooLong
        | AssertionError::Malformed
        | AssertionError::Header
        | AssertionError::Claim(_) => "the assertion is not one of the form that is taken here",
    }
}
