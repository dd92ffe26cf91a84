//! Assertions: JWTs that strangers sign — identity providers, OAuth clients, workload platforms — and that are believed
//! only as far as a rule of ours says.
//!
//! Called by the control plane: [`peek`] to choose the issuer's keys and the rule, [`verify`] to believe, and
//! [`replay_key`] to name what may be used once; [`peek_workload`] and [`verify_workload`] for workload tokens, whose
//! issuer may be unnamed. Serves ID-JAGs, `private_key_jwt` client assertions, workload tokens
//! and ID tokens; our own access tokens are `crate::verify`. Order: size, form, header, type, key, signature, and only
//! then the claims: duplicates, form, issuer, audience, required claims, time.
//!
//! Invariants: algorithms come from our list and the key's kind, never from the token alone; nothing in a token
//! chooses its key's place or content; one JSON reading or none; one audience; expiry without leeway; no error and no
//! `Debug` tells a token's content. Absent: clock, network, the memory of what was used (`control-plane/core`), and
//! what claims mean. Specifications: RFC 7515, 7517, 7518, 7519, 7523, 8037, 8725, 9864, draft ID-JAG §4.4.

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::{Map, Value};

mod claims;
mod envelope;
mod keys;
mod rule;
mod security_event;

pub use claims::{Assertion, IDENTIFIER_BYTES_MAX};
pub use keys::{
    AssertionAlgorithm, AssertionKeys, JWKS_BYTES_MAX, JWKS_KEYS_MAX, KEYS_TRIED_MAX, KeySetError, RSA_BITS,
};
pub use rule::{Rule, TypRule};
pub use security_event::{EventRule, SecurityEvent, verify_event};

pub(crate) use envelope::{Parts, is_plain, json_object};
pub(crate) use keys::one_public_key;

use envelope::Envelope;

/// Longest assertion that is looked at, in bytes: ID-JAGs have 1 to 2 KiB, ID tokens with many groups some 10 KiB.
pub const ASSERTION_BYTES_MAX: usize = 16 * 1024;

/// Why an assertion is refused. Messages hold names of claims that the rule asked for, never what a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Longer than [`ASSERTION_BYTES_MAX`].
    #[error("the assertion is longer than {ASSERTION_BYTES_MAX} bytes")]
    TooLong,
    /// Not a JWS in compact form, or JSON with more than one reading.
    #[error("the assertion is not a signed JWT in compact form")]
    Malformed,
    /// The header says something that is not ours to hear: `crit`, `jwk`, `jku`, `x5c`, `cty`, …
    #[error("the assertion's header holds a member that is not accepted")]
    Header,
    /// An algorithm that is unknown, not allowed here, or not that of the key named.
    #[error("the assertion's algorithm is not accepted for this key")]
    Algorithm,
    /// Another `typ` than the rule's.
    #[error("the assertion is of another type")]
    Type,
    /// No key of this id, or none of this algorithm: the issuer may have a new one.
    #[error("the assertion is signed with an unknown key")]
    UnknownKey,
    /// A signature that no key verifies.
    #[error("the assertion's signature does not verify")]
    Signature,
    /// This claim is not there.
    #[error("the assertion lacks the claim {0}")]
    Missing(&'static str),
    /// This claim has another form than it must have.
    #[error("the assertion's claim {0} is not of the form it must have")]
    Claim(&'static str),
    /// Another issuer than the rule's.
    #[error("the assertion is from another issuer")]
    Issuer,
    /// No audience, several, or another one than the rule's.
    #[error("the assertion is for another audience")]
    Audience,
    /// `exp` has come.
    #[error("the assertion has expired")]
    Expired,
    /// `iat` or `nbf` is in the future.
    #[error("the assertion is not valid yet")]
    NotYetValid,
    /// It lives longer than the rule allows, or ends before it begins.
    #[error("the assertion's lifetime is not accepted")]
    Lifetime,
}

impl AssertionError {
    /// The stable word, for logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooLong => "assertion_too_long",
            Self::Malformed => "assertion_malformed",
            Self::Header => "assertion_header",
            Self::Algorithm => "assertion_algorithm",
            Self::Type => "assertion_type",
            Self::UnknownKey => "assertion_unknown_key",
            Self::Signature => "assertion_signature",
            Self::Missing(_) => "assertion_claim_missing",
            Self::Claim(_) => "assertion_claim_form",
            Self::Issuer => "assertion_issuer",
            Self::Audience => "assertion_audience",
            Self::Expired => "assertion_expired",
            Self::NotYetValid => "assertion_not_yet_valid",
            Self::Lifetime => "assertion_lifetime",
        }
    }
}

/// What an unverified assertion says of itself: enough to choose issuer and rule, and to be believed in nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Peeked {
    /// Media type of the whole (`typ`).
    pub typ: Option<String>,
    /// Key id.
    pub kid: Option<String>,
    /// Algorithm.
    pub alg: AssertionAlgorithm,
    /// The issuer it claims.
    pub iss: String,
}

impl std::fmt::Debug for Peeked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peeked").field("alg", &self.alg).finish_non_exhaustive()
    }
}

/// Reads an assertion without believing it: the signature is not checked.
///
/// # Errors
/// Refuses what [`verify`] would refuse for its size, form or header, and an `iss` that is missing or unfit.
pub fn peek(jwt: &str) -> Result<Peeked, AssertionError> {
    let envelope = Envelope::open(jwt)?;
    let iss = claims::identifier(&envelope.claims()?, "iss")?.ok_or(AssertionError::Missing("iss"))?;
    let envelope::Header { alg, typ, kid } = envelope.header;
    Ok(Peeked { typ, kid, alg, iss })
}

/// What an unverified workload token says of itself; see [`Peeked`].
#[derive(Clone, PartialEq, Eq)]
pub struct PeekedWorkload {
    /// Media type of the whole (`typ`).
    pub typ: Option<String>,
    /// Key id.
    pub kid: Option<String>,
    /// The issuer it claims, if it does (SPIFFE JWT-SVID §3 has it optional).
    pub iss: Option<String>,
    /// What it claims to be about.
    pub sub: String,
}

impl std::fmt::Debug for PeekedWorkload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeekedWorkload").finish_non_exhaustive()
    }
}

/// Reads a workload token without believing it: the signature is not checked.
///
/// # Errors
/// Refuses what [`verify_workload`] would refuse for its size, form or header, and an `iss` or `sub` that is unfit.
pub fn peek_workload(jwt: &str) -> Result<PeekedWorkload, AssertionError> {
    let envelope = Envelope::open(jwt)?;
    let claims = envelope.claims()?;
    let sub = claims::identifier(&claims, "sub")?.ok_or(AssertionError::Missing("sub"))?;
    let envelope::Header { typ, kid, .. } = envelope.header;
    Ok(PeekedWorkload { typ, kid, iss: claims::identifier(&claims, "iss")?, sub })
}

/// Verifies an assertion as received, with the keys of the rule's issuer, at `now_unix` seconds since the epoch.
///
/// # Errors
/// The first of the checks that fails, in the order of this module's header.
pub fn verify(jwt: &str, keys: &AssertionKeys, rule: &Rule<'_>, now_unix: i64) -> Result<Assertion, AssertionError> {
    verified(jwt, keys, rule, now_unix, |_| ())
}

/// The same of a workload token, as received: one that names no issuer is of the one whose keys verify it. That of two
/// issuers none has the other's keys, nor speaks for its subjects, is the caller's to see to.
///
/// # Errors
/// As [`verify`].
pub fn verify_workload(
    jwt: &str,
    keys: &AssertionKeys,
    rule: &Rule<'_>,
    now_unix: i64,
) -> Result<Assertion, AssertionError> {
    verified(jwt, keys, rule, now_unix, |claims| {
        claims.entry("iss").or_insert_with(|| rule.issuer.into());
    })
}

fn verified(
    jwt: &str,
    keys: &AssertionKeys,
    rule: &Rule<'_>,
    now_unix: i64,
    complete: impl FnOnce(&mut Map<String, Value>),
) -> Result<Assertion, AssertionError> {
    let envelope = Envelope::open(jwt)?;
    if !rule.typ.admits(envelope.header.typ.as_deref()) {
        return Err(AssertionError::Type);
    }
    keys.check(&envelope)?;
    let mut claims = envelope.claims()?;
    complete(&mut claims);
    let assertion = Assertion::read(claims)?;
    rule.check(&assertion, now_unix)?;
    Ok(assertion)
}

/// What stands for an assertion where it may be used once: SHA-256 of issuer, subject and `jti`, each after its length
/// in bytes as eight bytes, big end first.
#[must_use]
pub fn replay_key(iss: &str, sub: &str, jti: &str) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    for part in [iss, sub, jti] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut key = [0; 32];
    key.copy_from_slice(hash.finish().as_ref());
    key
}

#[cfg(test)]
mod tests;
