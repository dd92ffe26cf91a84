//! The ID token: that it is this provider's, for us, about this sign-in.
//!
//! Called by `oidc` with a token that came straight from the provider. Signed with one of its keys by one of the
//! manifest's algorithms all the same, as everything that is believed here is. Absent: who the claims are about
//! (`PeopleSpec`). Specification: OpenID Connect Core 1.0 §2, §3.1.3.7.

use bailiwick_token::{
    assertion::{self, Assertion, AssertionKeys, Rule, TypRule, peek},
    same_secret,
};

use super::{Known, fault::Fault};
use crate::{clock, oauth::Services};

/// Longest life of an ID token, in seconds: some providers let them live for a day, and ours is used at once.
const LIFETIME_SECONDS_MAX: i64 = 24 * 3_600;
/// How far a provider's clock may be ahead, in seconds.
const SKEW_SECONDS: i64 = 30;

/// What the token says, which must be about the sign-in of this nonce.
pub(super) async fn verify(services: &Services, known: &Known, jwt: &str, nonce: &str) -> Result<Assertion, Fault> {
    let kid = peek(jwt).map_err(Fault::IdToken)?.kid;
    let keys = services.providers.keys(&known.name, &known.spec, kid.as_deref()).await.map_err(Fault::Provider)?;
    let expected = Expected { issuer: &known.spec.issuer, client_id: &known.sign_in.client_id, nonce };
    expected.check(jwt, &keys, clock::now_seconds())
}

/// What it must say.
#[derive(Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
}

impl Expected<'_> {
    /// With one audience alone, which is stricter than the specification: no other is trusted here.
    pub(super) fn check(&self, jwt: &str, keys: &AssertionKeys, now: i64) -> Result<Assertion, Fault> {
        let rule = Rule {
            typ: TypRule::Plain,
            issuer: self.issuer,
            audiences: &[self.client_id],
            lifetime_max: LIFETIME_SECONDS_MAX,
            skew: SKEW_SECONDS,
            require: &["iat", "nonce"],
        };
        let assertion = assertion::verify(jwt, keys, &rule, now).map_err(Fault::IdToken)?;
        let nonce = assertion.text("nonce").map_err(Fault::IdToken)?.unwrap_or_default();
        if !same_secret(nonce.as_bytes(), self.nonce.as_bytes()) {
            return Err(Fault::NotForThis("another nonce"));
        }
        match assertion.text("azp").map_err(Fault::IdToken)? {
            Some(party) if party != self.client_id => Err(Fault::NotForThis("another party (azp)")),
            Some(_) | None => Ok(assertion),
        }
    }
}
