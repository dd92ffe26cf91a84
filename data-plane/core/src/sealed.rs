//! Sealed envelopes: what a client has to bring back, in a form that any node opens and nobody else reads or changes.
//!
//! Called through the kinds below this file, each of which says what it holds, how long it is accepted and how long its
//! text may be. An envelope is `<kind>.` and base64url of a nonce and an AES-256-GCM ciphertext. Its key is derived for
//! it alone, from one of the cluster's keys, the kind and the nonce (HKDF-SHA256), so that nonces may be drawn at
//! random for as long as a cluster lives and an envelope of one kind never opens as another. The associated data names
//! user, agent, OAuth client and virtual server, and what else the kind is about: a stolen envelope is of no use to
//! anybody else and nowhere else, and what a bound token was given is of no use with one that is not bound. It is no
//! authentication and no authority: every request is judged anew.
//!
//! Keys come from the config stream, newest first; older ones still open. Nonces and the time are arguments.
//! Specification: `mcp` 2026-07-28 multi round-trip requests, "requestState"; RFC 5869; NIST SP 800-38D.

pub mod answer;
pub mod ask;
pub mod cursor;
pub mod level;
pub mod note;
pub mod proof_nonce;
pub mod request_state;
pub mod session;
pub mod subscription;
pub mod task;
#[cfg(test)]
mod tests;
pub mod used_proofs;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk, Salt},
};
use bailiwick_proto::v1;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::caller::Caller;

/// How far another node's clock may be ahead.
pub const CLOCK_SKEW_SECONDS: i64 = 60;
/// Length of a sealing key.
const KEY_BYTES: usize = 32;
/// Length of [`SealNonce`].
pub const NONCE_BYTES: usize = 24;
const COUNTER_BYTES: usize = 8;
const TIME_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// What every envelope adds to its content before the encoding.
const OVERHEAD_BYTES: usize = NONCE_BYTES + TIME_BYTES + TAG_BYTES;
const DOMAIN: &[u8] = b"bailiwick/sealed/v2\n";
const BOUND: &[u8] = b"bound\n";

/// Makes an envelope's key its own: fresh from the system's random source for each.
pub type SealNonce = [u8; NONCE_BYTES];

/// As many nonces as one request needs, from randomness drawn once: no two of them are the same.
#[derive(Clone, Debug)]
pub struct SealNonces {
    drawn: [u8; NONCE_BYTES - COUNTER_BYTES],
    count: u64,
}

impl SealNonces {
    /// From fresh randomness of the system.
    #[must_use]
    pub const fn new(drawn: [u8; NONCE_BYTES - COUNTER_BYTES]) -> Self {
        Self { drawn, count: 0 }
    }

    /// The next one.
    pub fn draw(&mut self) -> SealNonce {
        self.count += 1;
        let mut nonce = [0; NONCE_BYTES];
        let bytes = self.drawn.into_iter().chain(self.count.to_be_bytes());
        nonce.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        nonce
    }
}

/// One kind of envelope.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Starts the text, and is part of the key's derivation. Two characters: a letter and the format's version.
    word: &'static str,
    /// How long after it was sealed an envelope is accepted.
    seconds_max: i64,
    /// Longest text made or accepted.
    text_bytes_max: usize,
}

impl Kind {
    /// How long an envelope with so much content is.
    const fn text_bytes(&self, content_bytes: usize) -> usize {
        self.word.len() + 1 + ((OVERHEAD_BYTES + content_bytes) * 4).div_ceil(3)
    }
}

/// The envelope is not one of ours, not this caller's, not for this request, or too old. Not told apart: the answer is
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the envelope is not known")]
pub struct NotOurs;

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSealed {
    /// None has arrived yet, or one has the wrong length.
    #[error("there is no key for sealing")]
    NoKey,
    /// Longer than the kind allows.
    #[error("the content is too long to be sealed")]
    TooLong,
}

/// Keys that seal and open envelopes. Cannot be printed.
#[derive(Default)]
pub struct SealingKeys(Vec<Prk>);

impl std::fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SealingKeys").field(&self.0.len()).finish()
    }
}

impl SealingKeys {
    /// Keys as streamed, newest first.
    ///
    /// # Errors
    /// A key has not 32 bytes; none is taken then.
    pub fn new(keys: &[v1::SealingKey]) -> Result<Self, NotSealed> {
        let salt = Salt::new(HKDF_SHA256, DOMAIN);
        let key = |key: &v1::SealingKey| (key.key.len() == KEY_BYTES).then(|| salt.extract(&key.key));
        keys.iter().map(key).collect::<Option<_>>().map(Self).ok_or(NotSealed::NoKey)
    }

    /// True before keys have arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals with the newest key. Visible ASCII without quotes, within the kind's bound.
    fn seal<T: Serialize>(
        &self,
        kind: &Kind,
        caller: &Caller,
        about: &[&[u8]],
        content: &T,
        (now_unix, nonce): (i64, SealNonce),
    ) -> Result<String, NotSealed> {
        let key = self.0.first().ok_or(NotSealed::NoKey)?;
        let mut sealed = now_unix.to_be_bytes().to_vec();
        serde_json::to_writer(&mut sealed, content).map_err(|_unserialisable| NotSealed::TooLong)?;
        if kind.text_bytes(sealed.len() - TIME_BYTES) > kind.text_bytes_max {
            return Err(NotSealed::TooLong);
        }
        let key = envelope_key(key, kind, &nonce).ok_or(NotSealed::NoKey)?;
        let aad = Aad::from(associated(caller, about));
        key.seal_in_place_append_tag(only_message(), aad, &mut sealed).map_err(|_too_long| NotSealed::TooLong)?;
        let envelope = [nonce.as_slice(), &sealed].concat();
        Ok(format!("{}.{}", kind.word, URL_SAFE_NO_PAD.encode(envelope)))
    }

    /// Opens what a caller sent, at `now_unix` seconds: the content, and when it was sealed.
    fn open<T: DeserializeOwned>(
        &self,
        kind: &Kind,
        caller: &Caller,
        about: &[&[u8]],
        text: &str,
        now_unix: i64,
    ) -> Result<(T, i64), NotOurs> {
        if text.len() > kind.text_bytes_max {
            return Err(NotOurs);
        }
        let encoded = text.strip_prefix(kind.word).and_then(|rest| rest.strip_prefix('.')).ok_or(NotOurs)?;
        let envelope = URL_SAFE_NO_PAD.decode(encoded).map_err(|_undecodable| NotOurs)?;
        let (nonce, sealed) = envelope.split_first_chunk::<NONCE_BYTES>().ok_or(NotOurs)?;
        let aad = associated(caller, about);
        let plain = self.0.iter().find_map(|key| open_with(key, kind, nonce, &aad, sealed)).ok_or(NotOurs)?;
        let (time, content) = plain.split_first_chunk::<TIME_BYTES>().ok_or(NotOurs)?;
        let issued_at = i64::from_be_bytes(*time);
        if !(-CLOCK_SKEW_SECONDS..kind.seconds_max).contains(&now_unix.saturating_sub(issued_at)) {
            return Err(NotOurs);
        }
        let content = serde_json::from_slice(content).map_err(|_other_format| NotOurs)?;
        Ok((content, issued_at))
    }
}

fn open_with(key: &Prk, kind: &Kind, nonce: &SealNonce, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = envelope_key(key, kind, nonce)?;
    let mut buffer = sealed.to_vec();
    let plain = key.open_in_place(only_message(), Aad::from(aad), &mut buffer).ok()?.len();
    buffer.truncate(plain);
    Some(buffer)
}

/// The key of one envelope. Every part has a fixed length, so no two envelopes have the same input.
fn envelope_key(key: &Prk, kind: &Kind, nonce: &SealNonce) -> Option<LessSafeKey> {
    let info = [kind.word.as_bytes(), b"\n", nonce.as_slice()];
    let derived = key.expand(&info, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(derived)))
}

/// INVARIANT: a derived key seals one message, so that message may have any nonce.
fn only_message() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// Each part with its length, so that no two callers or subjects give the same bytes.
fn associated(caller: &Caller, about: &[&[u8]]) -> Vec<u8> {
    let parties = [&caller.user, &caller.agent, &caller.client, &caller.virtual_server];
    let mut bytes = DOMAIN.to_vec();
    if caller.bound {
        bytes.extend_from_slice(BOUND);
    }
    for part in parties.into_iter().map(String::as_bytes).chain(about.iter().copied()) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
