//! Proofs of a client's key at the token endpoint (DPoP, RFC 9449 §4.3, §5, §8): verified, with a nonce of ours, once.
//!
//! A nonce is the time it was made, sealed, so every node of the cluster opens it and nothing of it is kept. A proof
//! without one that is ours and young is answered with a fresh one, which costs a client one more request at first; each
//! answer then brings the next. What was used is remembered as long as its nonce is good, on the node that saw it: what
//! tokens are given for is used once in the cluster anyway. Invariants: what had to be forgotten, or was used before this
//! process began, does not count as new, as its nonce is then too old. Called by `token` and `binding`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bailiwick_token::dpop::{DpopError, DpopProof, DpopRequest};

use super::{Services, error::OAuthError, metadata::token_endpoints};
use crate::{clock, minting, seal::Purpose};

/// Where a proof is.
pub(super) const PROOF: HeaderName = HeaderName::from_static("dpop");
/// Where a nonce is.
pub(super) const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// How long a nonce is good.
const NONCE_SECONDS: i64 = 300;
const MICROS: u64 = 1_000_000;
/// Most proofs that are remembered: three hundred each second for as long as a nonce is good, in some ten MiB.
const REMEMBERED_MAX: usize = 100_000;

/// Which proofs were used; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Used(Arc<Mutex<Memory>>);

#[derive(Debug)]
struct Memory {
    /// When the nonce was made that a proof was used with, by the proof.
    used: BTreeMap<[u8; 32], u64>,
    oldest: BTreeSet<(u64, [u8; 32])>,
    /// Of nonces older than this nothing is known.
    from: u64,
    max: usize,
}

/// Why a proof does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotNew {
    Used,
    /// Nobody knows whether it was used.
    Forgotten,
}

impl Used {
    /// Nothing, as of now.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Memory::new(clock::now_micros(), REMEMBERED_MAX))))
    }
}

impl Memory {
    const fn new(from: u64, max: usize) -> Self {
        Self { used: BTreeMap::new(), oldest: BTreeSet::new(), from, max }
    }

    /// Uses a proof that has a nonce of that time.
    fn take(&mut self, proof: [u8; 32], made: u64, now: u64) -> Result<(), NotNew> {
        let expired = now.saturating_sub(NONCE_SECONDS.unsigned_abs().saturating_mul(MICROS));
        while self.oldest.first().is_some_and(|(made, _)| *made < expired) {
            self.forget_oldest();
        }
        // A clock that is set back does not bring back what was forgotten.
        self.from = self.from.max(expired);
        if made < self.from {
            return Err(NotNew::Forgotten);
        }
        if self.used.contains_key(&proof) {
            return Err(NotNew::Used);
        }
        if self.used.len() >= self.max
            && let Some(forgotten) = self.forget_oldest()
        {
            self.from = self.from.max(forgotten.saturating_add(1));
            if made < self.from {
                return Err(NotNew::Forgotten);
            }
        }
        self.used.insert(proof, made);
        self.oldest.insert((made, proof));
        Ok(())
    }

    fn forget_oldest(&mut self) -> Option<u64> {
        let (made, proof) = self.oldest.pop_first()?;
        self.used.remove(&proof);
        Some(made)
    }
}

/// The proof of a request for a token, if there is one: its key counts as shown.
pub(super) fn proof(services: &Services, headers: &HeaderMap, body: &[u8]) -> Result<Option<DpopProof>, OAuthError> {
    let mut shown = headers.get_all(PROOF).iter();
    let Some(jwt) = shown.next() else { return Ok(None) };
    if shown.next().is_some() {
        return Err(OAuthError::dpop("there is more than one DPoP proof"));
    }
    let jwt = jwt.to_str().map_err(|_| OAuthError::dpop("the DPoP proof is not a JWT"))?;
    let issuer = services.domain.read(minting::issuer).ok_or(OAuthError::unavailable("the issuer is not set yet"))?.0;
    let now = clock::now_seconds();
    let verified = |url: &String| {
        let request = DpopRequest { method: "POST", url, access_token: None, body, key: None };
        DpopProof::verify(jwt, &request, now)
    };
    let is_of_place = |tried: &Result<_, _>| !matches!(tried, Err(DpopError::Url));
    let tried = token_endpoints(&issuer, services).iter().map(verified).find(is_of_place);
    let proof = tried.unwrap_or(Err(DpopError::Url)).map_err(|error| {
        tracing::info!(%error, "a DPoP proof is refused");
        OAuthError::dpop("the DPoP proof is not one for this request")
    })?;
    let made = proof.nonce.as_deref().and_then(|nonce| opened(services, nonce)).ok_or_else(OAuthError::dpop_nonce)?;
    let taken = {
        let mut memory = services.dpop.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.take(name(&proof), made, clock::now_micros())
    };
    match taken {
        Ok(()) => Ok(Some(proof)),
        Err(NotNew::Used) => Err(OAuthError::dpop("the DPoP proof was used before")),
        Err(NotNew::Forgotten) => Err(OAuthError::dpop_nonce()),
    }
}

/// A nonce for the next proof; none while there is nothing to seal it with.
pub(super) fn nonce(services: &Services) -> Option<HeaderValue> {
    let until = clock::now_seconds().saturating_add(NONCE_SECONDS);
    let sealed = services.keys.seal()?.close(Purpose::DpopNonce, &clock::now_micros(), until)?;
    HeaderValue::from_str(&sealed).ok()
}

/// When a nonce of ours was made that is good now.
fn opened(services: &Services, nonce: &str) -> Option<u64> {
    services.keys.seal()?.open(Purpose::DpopNonce, nonce, clock::now_seconds())
}

/// What stands for a proof: its key and its `jti`. Its bytes would not do, as signatures have several forms.
fn name(proof: &DpopProof) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    for part in [&proof.jkt, &proof.jti] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut name = [0; 32];
    name.copy_from_slice(hash.finish().as_ref());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000 * MICROS;
    const LIFE: u64 = 300 * MICROS;

    fn proof(number: u8) -> [u8; 32] {
        [number; 32]
    }

    #[test]
    fn a_proof_counts_once_as_long_as_its_nonce_is_good() {
        let mut memory = Memory::new(START, 10);
        assert_eq!(memory.take(proof(1), START, START), Ok(()));
        assert_eq!(memory.take(proof(1), START, START + LIFE), Err(NotNew::Used));
        assert_eq!(memory.take(proof(1), START + 5, START + 6), Err(NotNew::Used), "whatever nonce it has");
        assert_eq!(memory.take(proof(2), START, START), Ok(()));
        assert_eq!(memory.take(proof(3), START + LIFE, START + LIFE + 1), Ok(()));
        assert_eq!(memory.used.len(), 1, "what nobody can use again is forgotten");
        assert_eq!(memory.used.len(), memory.oldest.len());
    }

    #[test]
    fn what_was_used_before_this_process_began_does_not_count_as_new() {
        let mut memory = Memory::new(START, 10);
        assert_eq!(memory.take(proof(1), START - 1, START), Err(NotNew::Forgotten));
        assert_eq!(memory.take(proof(1), START, START), Ok(()));
    }

    #[test]
    fn what_had_to_be_forgotten_does_not_count_as_new() {
        let mut memory = Memory::new(START, 2);
        for number in 1..=3 {
            assert_eq!(memory.take(proof(number), START + u64::from(number), START + 9), Ok(()));
        }
        assert_eq!(memory.used.len(), 2);
        assert_eq!(memory.take(proof(1), START + 1, START + 9), Err(NotNew::Forgotten));
        assert_eq!(memory.take(proof(9), START + 1, START + 9), Err(NotNew::Forgotten), "nobody knows");
        assert_eq!(memory.take(proof(2), START + 2, START + 9), Err(NotNew::Used));
        assert_eq!(memory.take(proof(9), START + 9, START + 9), Ok(()));
    }
}
