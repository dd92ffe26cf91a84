//! Verification: bytes of anybody become claims that can be believed, or a refusal with a stable reason.
//!
//! Called by data planes for each token they do not hold in their cache. Order: size, form, key, signature, and only
//! then the claims: issuer, audience, time. The algorithm is the one the key was published for; the token can only
//! agree with it (RFC 8725 §3.1). Time comes as an argument. Expiry has no leeway: a revocation bound counts on it.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use bailiwick_proto::Reason;

use crate::{
    claims::Claims,
    envelope::{Envelope, NotAToken},
    jwk::{Algorithm, raw_public_key},
    key::KeyError,
};

/// Longest token that is looked at: ours have about 1 KiB, and header lines beyond 8 KiB fail in most proxies anyway.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How far the issuer's clock may be ahead of ours when a token says from when it is valid.
pub const CLOCK_SKEW_SECONDS: i64 = 5;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of the form we mint.
    #[error("not a signed access token")]
    Malformed,
    /// Unknown key, or a signature that does not verify.
    #[error("the signature does not verify with a known key")]
    Signature,
    /// Expired.
    #[error("the token has expired")]
    Expired,
    /// From the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// For another resource.
    #[error("the token is for another audience")]
    Audience,
    /// From another issuer.
    #[error("the token is from another issuer")]
    Issuer,
}

impl TokenError {
    /// The stable reason word.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Malformed => Reason::TokenMalformed,
            Self::Signature => Reason::TokenSignature,
            Self::Expired => Reason::TokenExpired,
            Self::NotYetValid => Reason::TokenNotYetValid,
            Self::Audience => Reason::TokenAudience,
            Self::Issuer => Reason::TokenIssuer,
        }
    }
}

impl From<TokenError> for Reason {
    fn from(error: TokenError) -> Self {
        error.reason()
    }
}

impl From<NotAToken> for TokenError {
    fn from(_: NotAToken) -> Self {
        Self::Malformed
    }
}

/// What a token must say to be accepted here. Both are compared byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect<'a> {
    /// The only issuer.
    pub issuer: &'a str,
    /// The resource called on.
    pub audience: &'a str,
}

struct VerifyingKey {
    alg: Algorithm,
    key: ParsedPublicKey,
}

/// The public keys of one issuer, each with the one algorithm it was published for.
#[derive(Default)]
pub struct VerifyingKeys(BTreeMap<String, VerifyingKey>);

impl std::fmt::Debug for VerifyingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl VerifyingKeys {
    /// Reads keys given as (key id, algorithm word, JWK as JSON).
    ///
    /// # Errors
    /// When one of them cannot be used; none of them is taken then.
    pub fn from_jwks<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Result<Self, KeyError> {
        let mut read = BTreeMap::new();
        for (kid, alg, jwk) in keys {
            let alg: Algorithm = alg.parse()?;
            let raw = raw_public_key(kid, alg, jwk)?;
            let key = match alg {
                Algorithm::EdDsa => ParsedPublicKey::new(&ED25519, &raw),
                Algorithm::Es256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &raw),
            };
            let key = key.map_err(|_| KeyError::Public)?;
            if read.insert(kid.to_owned(), VerifyingKey { alg, key }).is_some() {
                return Err(KeyError::Duplicate);
            }
        }
        Ok(Self(read))
    }

    /// Are there no keys? Then every token is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a token has our form and names a key that is not among these. Nothing it says is verified by that.
    #[must_use]
    pub fn lack_key_of(&self, token: &str) -> bool {
        token.len() <= TOKEN_BYTES_MAX
            && Envelope::open(token).is_ok_and(|envelope| !self.0.contains_key(&envelope.header.kid))
    }

    /// Verifies a token as received (without `Bearer`), at `now_unix` seconds since the epoch.
    ///
    /// # Errors
    /// The first of the checks that fails, in the order of this module's header.
    pub fn verify(&self, token: &str, expect: &Expect<'_>, now_unix: i64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let envelope = Envelope::open(token)?;
        self.check_signature(&envelope)?;
        let claims: Claims = envelope.claims()?;
        check_claims(&claims, expect, now_unix)?;
        Ok(claims)
    }

    /// That one of these keys signed it, by the algorithm that the key is for.
    pub(crate) fn check_signature(&self, envelope: &Envelope<'_>) -> Result<(), TokenError> {
        let alg: Algorithm = envelope.header.alg.parse().map_err(|_| TokenError::Malformed)?;
        let key = self.0.get(&envelope.header.kid).filter(|key| key.alg == alg).ok_or(TokenError::Signature)?;
        key.key.verify_sig(envelope.signed, &envelope.signature).map_err(|_| TokenError::Signature)
    }
}

fn check_claims(claims: &Claims, expect: &Expect<'_>, now_unix: i64) -> Result<(), TokenError> {
    if claims.iss != expect.issuer {
        return Err(TokenError::Issuer);
    }
    if claims.aud != expect.audience {
        return Err(TokenError::Audience);
    }
    if now_unix >= claims.exp {
        return Err(TokenError::Expired);
    }
    let valid_from = claims.nbf.map_or(claims.iat, |nbf| nbf.max(claims.iat));
    if valid_from > now_unix.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
