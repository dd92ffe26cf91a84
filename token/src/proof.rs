//! Proofs of possession: who sends a bound token shows, with each request, that they hold its binding key.
//!
//! `Bailiwick-Proof: v1.<unix_ms>.<nonce>.<tag>`. The tag is AES-256-GCM under the binding key over nothing, with what
//! the proof is for as associated data: token, time, method, path and body. Made by clients ([`prove`]), checked by data
//! planes ([`Proof::is_of`]). Invariant: a proof has one way to be written. Absent: whether its time is near and its
//! nonce new (data plane). Specifications: `design.md` §8, `docs/security/binding.md`; NIST SP 800-38D.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    binding::BindingKey,
    secret::{TokenHash, same_secret},
};

/// The header that carries a proof.
pub const PROOF_HEADER: &str = "bailiwick-proof";
/// Bytes of a proof's nonce: fresh from the system's random source for each.
pub const PROOF_NONCE_BYTES: usize = NONCE_LEN;

const VERSION: &str = "v1";
const DOMAIN: &str = "bailiwick-proof-v1";
const TAG_BYTES: usize = 16;
/// Digits of a time: until the year 5138.
const TIME_DIGITS_MAX: usize = 14;

/// A nonce of a proof.
pub type ProofNonce = [u8; PROOF_NONCE_BYTES];

/// What a proof is for: this request, with this token.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'a> {
    /// The token it is sent with.
    pub token: &'a TokenHash,
    /// E.g. `POST`.
    pub method: &'a str,
    /// Path of the resource's public URL.
    pub path: &'a str,
    /// SHA-256 of the body's bytes as sent.
    pub body: &'a [u8; 32],
}

/// A proof as it was received; nothing in it is to be believed before [`Self::is_of`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// When it was made, in milliseconds since the Unix epoch, by the client's clock.
    pub unix_ms: u64,
    /// What makes it different from all others of this key.
    pub nonce: ProofNonce,
    tag: [u8; TAG_BYTES],
}

impl Proof {
    /// Reads a header's value; `None` if it is not one.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split('.');
        let (version, time, nonce, tag) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_time = time.len() <= TIME_DIGITS_MAX && time.bytes().all(|byte| byte.is_ascii_digit());
        if version != VERSION || parts.next().is_some() || !is_time || (time.starts_with('0') && time.len() > 1) {
            return None;
        }
        Some(Self { unix_ms: time.parse().ok()?, nonce: bytes(nonce)?, tag: bytes(tag)? })
    }

    /// Whether whoever made it held the key, and made it for just this.
    #[must_use]
    pub fn is_of(&self, key: &BindingKey, proven: &Proven<'_>) -> bool {
        tag(key, proven, self.unix_ms, self.nonce).is_some_and(|expected| same_secret(&expected, &self.tag))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nonce, tag) = (URL_SAFE_NO_PAD.encode(self.nonce), URL_SAFE_NO_PAD.encode(self.tag));
        write!(f, "{VERSION}.{}.{nonce}.{tag}", self.unix_ms)
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof({})", self.unix_ms)
    }
}

/// Proves at `unix_ms` that whoever sends this holds the key. `None` where the cryptographic library fails, or the time
/// is too far away to be written.
#[must_use]
pub fn prove(key: &BindingKey, proven: &Proven<'_>, unix_ms: u64, nonce: ProofNonce) -> Option<Proof> {
    if unix_ms.checked_ilog10().unwrap_or(0) as usize >= TIME_DIGITS_MAX {
        return None;
    }
    Some(Proof { unix_ms, nonce, tag: tag(key, proven, unix_ms, nonce)? })
}

fn tag(key: &BindingKey, proven: &Proven<'_>, unix_ms: u64, nonce: ProofNonce) -> Option<[u8; TAG_BYTES]> {
    let Proven { token, method, path, body } = proven;
    let (token, body) = (hex::encode(token.as_bytes()), hex::encode(body));
    let about = format!("{DOMAIN}\n{token}\n{unix_ms}\n{method}\n{path}\n{body}");
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.bytes()).ok()?);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(about.as_bytes()), &mut []).ok()?;
    tag.as_ref().try_into().ok()
}

/// Canonical base64url of exactly so many bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_123;

    fn key(seed: u8) -> BindingKey {
        BindingKey::new([seed; 32])
    }

    fn about<'a>(token: &'a TokenHash, body: &'a [u8; 32]) -> Proven<'a> {
        Proven { token, method: "POST", path: "/mcp/finance", body }
    }

    #[test]
    fn a_proof_holds_for_its_key_token_method_path_body_and_time_only() {
        let (token, other, body) = (TokenHash::of("token"), TokenHash::of("other"), [5; 32]);
        let proven = about(&token, &body);
        let proof = prove(&key(1), &proven, NOW_MS, [9; 12]).unwrap();
        assert_eq!(Proof::parse(&proof.to_string()), Some(proof));
        assert!(proof.is_of(&key(1), &proven));
        assert!(!proof.is_of(&key(2), &proven));
        for elsewhere in [
            Proven { token: &other, ..proven },
            Proven { method: "GET", ..proven },
            Proven { path: "/mcp/hr", ..proven },
            Proven { body: &[6; 32], ..proven },
        ] {
            assert!(!proof.is_of(&key(1), &elsewhere), "{elsewhere:?}");
        }
        assert!(!Proof { unix_ms: NOW_MS + 1, ..proof }.is_of(&key(1), &proven));
        assert!(!Proof { nonce: [8; 12], ..proof }.is_of(&key(1), &proven));
        assert!(!format!("{proof:?}").contains(proof.to_string().as_str()));
    }

    #[test]
    fn the_published_example_is_what_it_is() {
        let (token, body) = (TokenHash::of("token"), [0; 32]);
        let proof = prove(&key(0), &about(&token, &body), NOW_MS, [0; 12]).unwrap();
        // Computed by another implementation (Python's `cryptography`).
        assert_eq!(proof.to_string(), "v1.1800000000123.AAAAAAAAAAAAAAAA.c_VxDoXUzQo6E4feGRIHCQ");
    }

    #[test]
    fn what_is_not_written_as_a_proof_is_none() {
        let (token, body) = (TokenHash::of("token"), [5; 32]);
        let good = prove(&key(1), &about(&token, &body), NOW_MS, [9; 12]).unwrap().to_string();
        let parts: Vec<&str> = good.split('.').collect();
        let [version, time, nonce, tag] = parts.as_slice() else { panic!("{good}") };
        for bad in [
            String::new(),
            format!("v2.{time}.{nonce}.{tag}"),
            format!("{version}.0{time}.{nonce}.{tag}"),
            format!("{version}.+{time}.{nonce}.{tag}"),
            format!("{version}.-1.{nonce}.{tag}"),
            format!("{version}..{nonce}.{tag}"),
            format!("{version}.999999999999999.{nonce}.{tag}"),
            format!("{version}.{time}.{nonce}=.{tag}"),
            format!("{version}.{time}.{nonce}A.{tag}"),
            format!("{version}.{time}.{tag}.{nonce}"),
            format!("{version}.{time}.{nonce}.{tag}.x"),
            format!("{version}.{time}.{nonce}"),
            format!(" {good}"),
        ] {
            assert_eq!(Proof::parse(&bad), None, "{bad}");
        }
        assert!(prove(&key(1), &about(&token, &body), 100_000_000_000_000, [0; 12]).is_none());
    }
}
