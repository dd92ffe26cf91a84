//! What a token is bound to, and what a request has to show for it.
//!
//! Called by `auth` when a token is verified, by `endpoint::asking` before a request's body is read, and by `endpoint`
//! once it is there. A token is bound by a key sealed into it, by the thumbprint of a key (DPoP) or of a certificate
//! (mTLS), or not at all. Invariants: a bound token without its proof is refused, and so is one that is presented as if
//! it were bound in another way; a proof is looked at for form and time before anything is read, and for what it is of
//! once the body is there, byte for byte as it came. Deliberately absent: that each counts once (`proofs`, `replay`).
//! Specifications: `docs/security/binding.md`; RFC 9449 §4.3 and §7, RFC 8705 §3, RFC 7800 §3.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bailiwick_data_plane_core::sealed::{SealingKeys, proof_nonce::ProofNonce};
use bailiwick_proto::{Reason, v1};
use bailiwick_token::{
    Claims, Confirmation, Thumbprint, TokenHash,
    binding::{BindingError, BindingKey, BindingSeal},
    dpop::{DPOP_BYTES_MAX, DpopError, DpopProof, DpopRequest},
    proof::{PROOF_HEADER, Proof, Proven},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, header};
use serde::Deserialize;

use super::Authentic;

/// The header of a DPoP proof (RFC 9449 §4.1).
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");
const PROOF: HeaderName = HeaderName::from_static(PROOF_HEADER);
/// How old a proof may be when its request's head is there, and how far a client's clock ahead.
pub(super) const PROOF_AGE_MS_MAX: u64 = 60_000;
const PROOF_AHEAD_MS_MAX: u64 = 10_000;
/// How far the clock of the node that gave a nonce out may be ahead.
const NONCE_AHEAD_MS_MAX: u64 = 5_000;

/// The keys that binding keys are sealed under in tokens: as the config stream says, or was kept on disk.
#[derive(Debug, Default)]
pub(crate) struct BindingKeys(ArcSwapOption<BindingSeal>);

impl BindingKeys {
    /// Takes what came; what cannot be used leaves the older ones in place.
    pub(crate) fn replace(&self, keys: &[v1::SealingKey]) {
        // A control plane of the version before says nothing of them.
        if keys.is_empty() {
            return;
        }
        match BindingSeal::new(keys.iter().map(|key| key.key.as_slice())) {
            // The same ones come with every stream: what was opened with them stays open.
            Ok(seal) if self.load().is_some_and(|held| format!("{held:?}") == format!("{seal:?}")) => {}
            Ok(seal) => self.0.store(Some(Arc::new(seal))),
            Err(error) => tracing::error!(%error, "the keys of bound tokens cannot be used; the older ones stay"),
        }
    }

    pub(super) fn load(&self) -> Option<Arc<BindingSeal>> {
        self.0.load_full()
    }
}

/// What whoever presents a token has to hold.
#[derive(Clone, Debug)]
pub(crate) enum Possession {
    /// The token alone.
    Nothing,
    /// The key that was given out beside it.
    Key(Arc<BindingKey>),
    /// The key of this thumbprint.
    Dpop(Thumbprint),
    /// The key of the certificate of this thumbprint.
    Certificate(Thumbprint),
}

impl Possession {
    /// What verified claims say; or why that cannot be told here.
    pub(super) fn of(claims: &Claims, seal: Option<&BindingSeal>) -> Result<Self, Reason> {
        let is_sealed = claims.binding.is_some() || claims.binding_alg.is_some();
        match (&claims.cnf, is_sealed) {
            (None, false) => Ok(Self::Nothing),
            (Some(Confirmation::Key(thumbprint)), false) => Ok(Self::Dpop(*thumbprint)),
            (Some(Confirmation::Certificate(thumbprint)), false) => Ok(Self::Certificate(*thumbprint)),
            (Some(_), true) => Err(Reason::ProofInvalid),
            (None, true) => match seal.map(|seal| seal.open(claims)) {
                Some(Ok(Some(key))) => Ok(Self::Key(Arc::new(key))),
                // No keys have come yet.
                None => Err(Reason::ConfigStale),
                Some(Err(BindingError::KeyUnknown)) => Err(Reason::TokenSignature),
                Some(Ok(None) | Err(_)) => Err(Reason::ProofInvalid),
            },
        }
    }

    /// Whether the token is presented in the scheme for what it is bound to (RFC 9449 §7.2).
    pub(super) fn fits(&self, scheme: Scheme) -> Result<(), Unproven> {
        match (self, scheme) {
            (Self::Dpop(_), Scheme::Dpop) => Ok(()),
            (Self::Dpop(_), Scheme::Bearer) => Err(Unproven::of_dpop(Reason::ProofMissing, DpopFault::Token)),
            (_, Scheme::Bearer) => Ok(()),
            (_, Scheme::Dpop) => Err(Unproven::of_dpop(Reason::ProofInvalid, DpopFault::Token)),
        }
    }
}

/// How a token is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449.
    Dpop,
}

/// The one token of a request.
pub(super) fn credentials(headers: &HeaderMap) -> Result<(Scheme, &str), Reason> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Reason::TokenMissing)?;
    if values.next().is_some() {
        return Err(Reason::TokenMalformed);
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Reason::TokenMissing)?;
    let token = token.trim_matches(' ');
    let scheme = match scheme {
        _ if token.is_empty() => return Err(Reason::TokenMissing),
        bearer if bearer.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
        dpop if dpop.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
        _ => return Err(Reason::TokenMissing),
    };
    Ok((scheme, token))
}

/// Whether a client presents its token by DPoP, or means to.
pub(crate) fn speaks_dpop(headers: &HeaderMap) -> bool {
    headers.contains_key(DPOP) || matches!(credentials(headers), Ok((Scheme::Dpop, _)))
}

/// A request does not show what its token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unproven {
    pub(crate) reason: Reason,
    /// What a client that speaks DPoP is told.
    pub(crate) dpop: Option<DpopFault>,
}

/// The words of RFC 9449 §7.1 and §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DpopFault {
    Token,
    Proof,
    Nonce,
}

impl DpopFault {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Token => "invalid_token",
            Self::Proof => "invalid_dpop_proof",
            Self::Nonce => "use_dpop_nonce",
        }
    }
}

impl Unproven {
    const fn of_dpop(reason: Reason, fault: DpopFault) -> Self {
        Self { reason, dpop: Some(fault) }
    }

    pub(super) const fn nonce() -> Self {
        Self::of_dpop(Reason::ProofStale, DpopFault::Nonce)
    }

    pub(super) const fn replayed() -> Self {
        Self::of_dpop(Reason::ProofReplayed, DpopFault::Proof)
    }
}

impl From<Reason> for Unproven {
    fn from(reason: Reason) -> Self {
        Self { reason, dpop: None }
    }
}

/// What is left to be looked at once the body is there.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// All has been shown.
    Nothing,
    Tag(Arc<BindingKey>, Proof),
    Dpop(Thumbprint, ProofNonce),
}

/// What shows that a request's sender holds what its token is bound to, as far as a request's head tells.
pub(super) fn look(
    possession: &Possession,
    headers: &HeaderMap,
    certificate: Option<Thumbprint>,
    keys: &SealingKeys,
    now_ms: u64,
) -> Result<Pending, Unproven> {
    match possession {
        Possession::Nothing => Ok(Pending::Nothing),
        Possession::Key(key) => {
            let proof = Proof::parse(one(headers, &PROOF, &DPOP)?).ok_or(Reason::ProofInvalid)?;
            let (oldest, latest) = (now_ms.saturating_sub(PROOF_AGE_MS_MAX), now_ms.saturating_add(PROOF_AHEAD_MS_MAX));
            if !(oldest..=latest).contains(&proof.unix_ms) {
                return Err(Reason::ProofStale.into());
            }
            Ok(Pending::Tag(Arc::clone(key), proof))
        }
        Possession::Dpop(thumbprint) => {
            let of_proof = |reason| Unproven::of_dpop(reason, DpopFault::Proof);
            let proof = one(headers, &DPOP, &PROOF).map_err(of_proof)?;
            if proof.len() > DPOP_BYTES_MAX {
                return Err(of_proof(Reason::ProofInvalid));
            }
            let nonce = said_nonce(proof).ok_or(of_proof(Reason::ProofInvalid))?;
            let nonce = nonce.and_then(|nonce| open_nonce(keys, &nonce, now_ms)).ok_or(Unproven::nonce())?;
            Ok(Pending::Dpop(*thumbprint, nonce))
        }
        Possession::Certificate(thumbprint) => match certificate {
            Some(shown) if shown == *thumbprint => Ok(Pending::Nothing),
            Some(_) => Err(Reason::ProofInvalid.into()),
            None => Err(Reason::ProofMissing.into()),
        },
    }
}

/// The one value of a header, where there is none of the other one.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName, other: &HeaderName) -> Result<&'h str, Reason> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Reason::ProofMissing)?;
    if values.next().is_some() || headers.contains_key(other) {
        return Err(Reason::ProofInvalid);
    }
    value.to_str().map_err(|_no_text| Reason::ProofInvalid)
}

/// The nonce that a proof says it was made with; `None` where it is no proof. Nothing it says is verified by that.
pub(super) fn said_nonce(proof: &str) -> Option<Option<String>> {
    #[derive(Deserialize)]
    struct Said {
        nonce: Option<String>,
    }
    let claims = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok().map(|said: Said| said.nonce)
}

pub(super) fn open_nonce(keys: &SealingKeys, nonce: &str, now_ms: u64) -> Option<ProofNonce> {
    let opened = ProofNonce::open(keys, nonce, now_ms).ok()?;
    (opened.unix_ms <= now_ms.saturating_add(NONCE_AHEAD_MS_MAX)).then_some(opened)
}

/// A request as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) method: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
    /// The host that was asked, where that can only be this machine.
    pub(crate) local_host: Option<&'a str>,
}

impl Sent<'_> {
    /// Whether the tag is one over this request, by the holder of the key.
    pub(super) fn is_of_tag(&self, key: &BindingKey, proof: &Proof, (token, audience): (&TokenHash, &str)) -> bool {
        let body = sha256(&[self.body]);
        proof.is_of(key, &Proven { token, method: self.method, path: path_of(audience), body: &body })
    }

    /// The DPoP proof of this request, where its key is that of the thumbprint.
    pub(super) fn dpop_proof(
        &self,
        thumbprint: Thumbprint,
        authentic: &Authentic,
        now_ms: u64,
    ) -> Result<DpopProof, Unproven> {
        let of_proof = |reason| Unproven::of_dpop(reason, DpopFault::Proof);
        let (_, token) = credentials(self.headers)?;
        let jwt = one(self.headers, &DPOP, &PROOF).map_err(of_proof)?;
        let now_unix = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
        let proof = self.urls(authentic.audience()).map(|url| {
            let (method, body, key) = (self.method, self.body, Some(&thumbprint));
            let request = DpopRequest { method, url: &url, access_token: Some(token), body, key };
            DpopProof::verify(jwt, &request, now_unix)
        });
        // It is for one of them, or the last one says why not.
        let proof = proof.reduce(|tried, next| if matches!(tried, Err(DpopError::Url)) { next } else { tried });
        proof.unwrap_or(Err(DpopError::Url)).map_err(|error| match error {
            DpopError::Stale | DpopError::Future => of_proof(Reason::ProofStale),
            _ => of_proof(Reason::ProofInvalid),
        })
    }

    /// The URLs that a client may have asked for: the public one; and at an address of this machine only that one, so
    /// that nobody who was sent a proof for a place of theirs can have it count here by naming that place.
    fn urls(&self, audience: &str) -> impl Iterator<Item = String> {
        let (host, path) = (self.local_host, path_of(audience).to_owned());
        let urls = move |host: &str| ["http", "https"].map(|scheme| format!("{scheme}://{host}{path}"));
        let local = host.into_iter().flat_map(urls);
        std::iter::once(audience.to_owned()).chain(local)
    }
}

/// The path of a URL; empty where it has none.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').and_then(|start| rest.get(start..)).unwrap_or_default();
    path.split(['?', '#']).next().unwrap_or_default()
}

/// SHA-256 over all parts.
pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let (mut hash, digest) = ([0; 32], context.finish());
    hash.iter_mut().zip(digest.as_ref()).for_each(|(place, byte)| *place = *byte);
    hash
}

#[cfg(test)]
mod tests;
