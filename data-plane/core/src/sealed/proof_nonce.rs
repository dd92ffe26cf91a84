//! Nonces for DPoP proofs: when one was given out, sealed, so that any node knows one of ours and its age.
//!
//! Called by the server, for whoever has a token that is bound to a key: a proof made with a nonce was made after it.
//! Not bound to anybody: it says nothing but the time. The time is in milliseconds, so that a node that has just started can
//! tell its own nonces from those before. Specification: RFC 9449 §8, §9.

use serde::{Deserialize, Serialize};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys, level::nobody};

/// How long proofs may be made with one.
pub const PROOF_NONCE_SECONDS_MAX: i64 = 5 * 60;
/// Longest text: there is nothing in it but a time.
const TEXT_BYTES_MAX: usize = 128;

const KIND: Kind = Kind { word: "p1", seconds_max: PROOF_NONCE_SECONDS_MAX, text_bytes_max: TEXT_BYTES_MAX };

/// A nonce, by when it was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofNonce {
    /// Milliseconds since 1970, by the clock of the node that made it.
    #[serde(rename = "t")]
    pub unix_ms: u64,
}

impl ProofNonce {
    /// Seals a nonce given out now.
    ///
    /// # Errors
    /// There is no key.
    pub fn seal(keys: &SealingKeys, now_ms: u64, nonce: SealNonce) -> Result<String, NotSealed> {
        keys.seal(&KIND, &nobody(), &[], &Self { unix_ms: now_ms }, (seconds(now_ms), nonce))
    }

    /// Opens what a proof was made with.
    ///
    /// # Errors
    /// No node of this cluster made it, or too long ago.
    pub fn open(keys: &SealingKeys, text: &str, now_ms: u64) -> Result<Self, NotOurs> {
        keys.open(&KIND, &nobody(), &[], text, seconds(now_ms)).map(|(nonce, _)| nonce)
    }

    /// Whether a client should be given a new one: this one is past half its life.
    #[must_use]
    pub const fn is_aging(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.unix_ms) >= PROOF_NONCE_SECONDS_MAX.unsigned_abs() * 1000 / 2
    }
}

fn seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::v1::SealingKey;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_250;

    fn keys(seed: u8) -> SealingKeys {
        SealingKeys::new(&[SealingKey { id: "k".into(), key: vec![seed; 32] }]).unwrap()
    }

    #[test]
    fn a_nonce_is_good_for_five_minutes_at_every_node_and_is_replaced_after_half_of_them() {
        let text = ProofNonce::seal(&keys(1), NOW_MS, [3; 24]).unwrap();
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'), "{text}");
        for (after_ms, is_good, aging) in [(0, true, false), (149_999, true, false), (150_000, true, true)] {
            let opened = ProofNonce::open(&keys(1), &text, NOW_MS + after_ms).ok();
            assert_eq!(opened, is_good.then_some(ProofNonce { unix_ms: NOW_MS }));
            assert_eq!(opened.unwrap().is_aging(NOW_MS + after_ms), aging);
        }
        assert!(ProofNonce::open(&keys(1), &text, NOW_MS + 300_000).is_err(), "too old");
        assert!(ProofNonce::open(&keys(2), &text, NOW_MS).is_err(), "another cluster's");
        assert!(ProofNonce::open(&keys(1), "p1.AAAA", NOW_MS).is_err());
    }
}
