//! DPoP proofs (RFC 9449): a JWT, signed with a key it brings along, that says for which request it was made.
//!
//! Called by the control plane at the token endpoint and by data planes for each request with `Authorization: DPoP`.
//! Order: size, form, header, key, claims, and the signature last, since it is what costs. A proof that verifies shows
//! who holds the key of [`DpopProof::jkt`], and nothing else: that it is the key of a token, that the nonce is ours and
//! young, and that the `jti` comes for the first time, is the caller's to see to.
//!
//! Invariants: asymmetric algorithms of our list only, as the key's kind allows; a key with private members is refused;
//! one JSON reading or none; nothing in a proof names a place or chooses what verifying means; time is an argument.
//! Absent: nonces and the memory of what was used (servers). Specifications: RFC 9449 §4, 7515, 7638, 8725.

mod url;

use std::fmt;

use aws_lc_rs::{digest, signature::ParsedPublicKey};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};

use self::url::canonical_url;
use crate::{
    assertion::{AssertionAlgorithm, AssertionError, KeySetError, Parts, is_plain, json_object, one_public_key},
    claims::Thumbprint,
    secret::same_secret,
};

/// Longest proof that is looked at, in bytes: one with the largest RSA key (8192 bits) has some 4 KiB.
pub const DPOP_BYTES_MAX: usize = 8 * 1024;
/// How far a proof's `iat` may be from our clock, before and after, in seconds. It is generous because the nonce, whose
/// time is our own, is what bounds a proof's life.
pub const DPOP_IAT_SKEW_SECONDS: i64 = 300;
/// The algorithms, as published in `dpop_signing_alg_values_supported`.
pub const DPOP_ALGORITHMS: [AssertionAlgorithm; 4] =
    [AssertionAlgorithm::Es256, AssertionAlgorithm::EdDsa, AssertionAlgorithm::Ps256, AssertionAlgorithm::Rs256];

/// Type of a proof (RFC 9449 §4.2).
const TYPE: &str = "dpop+jwt";
/// Longest `jti`, `nonce`, `htm`, `ath` and digest, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Longest `htu`, in bytes.
const URL_BYTES_MAX: usize = 2048;
/// Characters of SHA-256 in base64url.
const THUMBPRINT_CHARS: usize = 43;

/// Why a proof is refused. Messages hold no word of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    /// Longer than [`DPOP_BYTES_MAX`].
    #[error("the DPoP proof is longer than {DPOP_BYTES_MAX} bytes")]
    TooLong,
    /// Not a JWS in compact form, or JSON with more than one reading.
    #[error("the DPoP proof is not a signed JWT in compact form")]
    Malformed,
    /// Another member in the header than `typ`, `alg` and `jwk`, or one of them missing.
    #[error("the DPoP proof's header is not typ, alg and jwk")]
    Header,
    /// Another `typ` than `dpop+jwt`.
    #[error("the DPoP proof's typ is not dpop+jwt")]
    Type,
    /// `none`, a symmetric algorithm, or one that is not accepted.
    #[error("the DPoP proof's algorithm is not accepted")]
    Algorithm,
    /// The key in the header has private members.
    #[error("the DPoP proof's jwk holds a private or symmetric key")]
    PrivateKey,
    /// The key is not one of this algorithm, or out of bounds.
    #[error("the DPoP proof's jwk is not a key of its algorithm")]
    Key,
    /// The signature does not verify with the key in the header.
    #[error("the DPoP proof's signature does not verify")]
    Signature,
    /// This claim is not there.
    #[error("the DPoP proof lacks the claim {0}")]
    Missing(&'static str),
    /// This claim has another form than it must have.
    #[error("the DPoP proof's claim {0} is not of the form it must have")]
    Claim(&'static str),
    /// By another key than the one it must be.
    #[error("the DPoP proof is by another key")]
    OtherKey,
    /// Made for another method.
    #[error("the DPoP proof is for another method")]
    Method,
    /// Made for another URL.
    #[error("the DPoP proof is for another URL")]
    Url,
    /// `iat` is too long ago.
    #[error("the DPoP proof is too old")]
    Stale,
    /// `iat` is too far ahead.
    #[error("the DPoP proof is from the future")]
    Future,
    /// `ath` is not that of the token it came with, or there is one where there is no token.
    #[error("the DPoP proof is for another access token")]
    Token,
    /// `content_digest` is not that of the body.
    #[error("the DPoP proof is for another body")]
    Content,
}

impl From<AssertionError> for DpopError {
    fn from(_: AssertionError) -> Self {
        Self::Malformed
    }
}

/// The request that a proof came with.
#[derive(Clone, Copy, Debug)]
pub struct DpopRequest<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// The public URL asked for; query and fragment do not count.
    pub url: &'a str,
    /// The access token it came with: at resources, where `ath` must be its hash. None at the token endpoint.
    pub access_token: Option<&'a str>,
    /// The body, with which a `content_digest` is compared.
    pub body: &'a [u8],
    /// Thumbprint of the key that it must be, where that is known: another one is not even computed with.
    pub key: Option<&'a Thumbprint>,
}

/// A proof whose key, signature and claims fit the request.
#[derive(Clone, PartialEq, Eq)]
pub struct DpopProof {
    /// SHA-256 thumbprint of the key (RFC 7638), base64url: what `cnf.jkt` names.
    pub jkt: String,
    /// Identifier of the proof.
    pub jti: String,
    /// The nonce of ours that it was made with.
    pub nonce: Option<String>,
    /// Method.
    pub htm: String,
    /// URL.
    pub htu: String,
    /// When it was made, by its maker's clock, in seconds since the Unix epoch.
    pub iat: i64,
    /// SHA-256 of the access token, base64url.
    pub ath: Option<String>,
    /// SHA-256 of the body.
    pub content_digest: Option<[u8; 32]>,
}

impl fmt::Debug for DpopProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpopProof").field("jkt", &self.jkt).field("iat", &self.iat).finish_non_exhaustive()
    }
}

impl DpopProof {
    /// Verifies a proof as received, for the request it came with, at `now_unix` seconds since the epoch.
    ///
    /// # Errors
    /// The first of the checks that fails, in the order of this module's header.
    pub fn verify(jwt: &str, request: &DpopRequest<'_>, now_unix: i64) -> Result<Self, DpopError> {
        Self::verified(jwt, request, now_unix, Some(request.body))
    }

    /// The same before the body is there: what is left is to ask [`is_of_body`] once it is.
    ///
    /// # Errors
    /// As of [`Self::verify`], whatever the body.
    pub fn verify_head(jwt: &str, request: &DpopRequest<'_>, now_unix: i64) -> Result<Self, DpopError> {
        Self::verified(jwt, request, now_unix, None)
    }

    fn verified(jwt: &str, request: &DpopRequest<'_>, now_unix: i64, body: Option<&[u8]>) -> Result<Self, DpopError> {
        if jwt.len() > DPOP_BYTES_MAX {
            return Err(DpopError::TooLong);
        }
        let parts = Parts::of(jwt)?;
        let (key, jkt) = key_of(json_object(parts.header)?)?;
        if request.key.is_some_and(|known| Thumbprint::parse(&jkt) != Some(*known)) {
            return Err(DpopError::OtherKey);
        }
        let proof = Self::read(&json_object(parts.claims)?, jkt)?;
        proof.check(request, now_unix)?;
        if body.is_some_and(|body| !is_of_body(proof.content_digest.as_ref(), body)) {
            return Err(DpopError::Content);
        }
        key.verify_sig(parts.signed.as_bytes(), &parts.signature).map_err(|_| DpopError::Signature)?;
        Ok(proof)
    }

    fn read(claims: &Map<String, Value>, jkt: String) -> Result<Self, DpopError> {
        let needed = |name, bytes_max| text(claims, name, bytes_max)?.ok_or(DpopError::Missing(name));
        let iat = claims.get("iat").ok_or(DpopError::Missing("iat"))?;
        let digest = text(claims, "content_digest", TEXT_BYTES_MAX)?;
        let digest = digest.map(|digest| content_digest(&digest).ok_or(DpopError::Claim("content_digest")));
        Ok(Self {
            jkt,
            jti: needed("jti", TEXT_BYTES_MAX)?,
            nonce: text(claims, "nonce", TEXT_BYTES_MAX)?,
            htm: needed("htm", TEXT_BYTES_MAX)?,
            htu: needed("htu", URL_BYTES_MAX)?,
            iat: iat.as_i64().ok_or(DpopError::Claim("iat"))?,
            ath: text(claims, "ath", TEXT_BYTES_MAX)?,
            content_digest: digest.transpose()?,
        })
    }

    fn check(&self, request: &DpopRequest<'_>, now_unix: i64) -> Result<(), DpopError> {
        if self.htm != request.method {
            return Err(DpopError::Method);
        }
        if canonical_url(&self.htu).ok_or(DpopError::Claim("htu"))? != canonical_url(request.url).unwrap_or_default() {
            return Err(DpopError::Url);
        }
        if self.iat < now_unix.saturating_sub(DPOP_IAT_SKEW_SECONDS) {
            return Err(DpopError::Stale);
        }
        if self.iat > now_unix.saturating_add(DPOP_IAT_SKEW_SECONDS) {
            return Err(DpopError::Future);
        }
        match (&self.ath, request.access_token) {
            (None, None) => {}
            (None, Some(_)) => return Err(DpopError::Missing("ath")),
            (Some(_), None) => return Err(DpopError::Token),
            (Some(ath), Some(token)) => {
                if !same_secret(ath.as_bytes(), URL_SAFE_NO_PAD.encode(sha256(token.as_bytes())).as_bytes()) {
                    return Err(DpopError::Token);
                }
            }
        }
        Ok(())
    }
}

/// Whether a proof that says this digest, or none, fits a body.
#[must_use]
pub fn is_of_body(content_digest: Option<&[u8; 32]>, body: &[u8]) -> bool {
    content_digest.is_none_or(|digest| same_secret(digest, sha256(body).as_ref()))
}

/// Can this be the thumbprint of a key: SHA-256 in canonical base64url?
#[must_use]
pub fn is_thumbprint(text: &str) -> bool {
    text.len() == THUMBPRINT_CHARS && URL_SAFE_NO_PAD.decode(text).is_ok()
}

/// The key of a header, and its thumbprint.
fn key_of(mut header: Map<String, Value>) -> Result<(ParsedPublicKey, String), DpopError> {
    let (typ, alg, jwk) = (header.remove("typ"), header.remove("alg"), header.remove("jwk"));
    if !header.is_empty() {
        return Err(DpopError::Header);
    }
    let (Some(Value::String(typ)), Some(Value::String(alg)), Some(Value::Object(jwk))) = (typ, alg, jwk) else {
        return Err(DpopError::Header);
    };
    if typ != TYPE {
        return Err(DpopError::Type);
    }
    let alg: AssertionAlgorithm = alg.parse().map_err(|_| DpopError::Algorithm)?;
    if !DPOP_ALGORITHMS.contains(&alg) {
        return Err(DpopError::Algorithm);
    }
    let key = one_public_key(&jwk, alg).map_err(|error| match error {
        KeySetError::Private => DpopError::PrivateKey,
        KeySetError::TooLong | KeySetError::Malformed | KeySetError::TooMany | KeySetError::Duplicate => DpopError::Key,
    })?;
    Ok((key.ok_or(DpopError::Key)?, thumbprint(&jwk, alg).ok_or(DpopError::Key)?))
}

/// RFC 7638 §3. The members were decoded strictly by whoever read the key: one key has one text, without escapes.
fn thumbprint(jwk: &Map<String, Value>, alg: AssertionAlgorithm) -> Option<String> {
    let names: &[&str] = match alg {
        AssertionAlgorithm::Rs256 | AssertionAlgorithm::Ps256 => &["e", "kty", "n"],
        AssertionAlgorithm::Es256 | AssertionAlgorithm::Es384 => &["crv", "kty", "x", "y"],
        AssertionAlgorithm::EdDsa => &["crv", "kty", "x"],
    };
    let member = |name: &&str| Some(format!(r#""{name}":"{}""#, jwk.get(*name)?.as_str()?));
    let members = names.iter().map(member).collect::<Option<Vec<_>>>()?;
    Some(URL_SAFE_NO_PAD.encode(sha256(format!("{{{}}}", members.join(",")).as_bytes())))
}

/// A claim that is a text of bounded size without control characters; `None` where it is absent.
fn text(claims: &Map<String, Value>, name: &'static str, bytes_max: usize) -> Result<Option<String>, DpopError> {
    let fit = |value: &Value| match value {
        Value::String(text) if is_plain(text, bytes_max) => Ok(text.clone()),
        _ => Err(DpopError::Claim(name)),
    };
    claims.get(name).map(fit).transpose()
}

/// `sha-256=:…:` (RFC 9530 §2), and nothing beside it.
fn content_digest(text: &str) -> Option<[u8; 32]> {
    let digest = text.strip_prefix("sha-256=:")?.strip_suffix(':')?;
    STANDARD.decode(digest).ok()?.try_into().ok()
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

#[cfg(test)]
mod tests;
