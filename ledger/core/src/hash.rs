//! SHA-256 and its text form: the one hash of records, chains and trees.
//!
//! Called by every other module. In records a hash is 64 lower-case hex digits; in checkpoints and proofs it is base64.

use aws_lc_rs::digest;

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// Length of a hash in bytes.
pub const HASH_BYTES: usize = 32;

/// SHA-256 of the concatenation of `parts`.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; HASH_BYTES];
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// 64 lower-case hex digits.
#[must_use]
pub fn to_hex(hash: &Hash) -> String {
    let mut digits = [0; 2 * HASH_BYTES];
    // Digits are twice as many as bytes, and are all ASCII.
    let _fits = hex::encode_to_slice(hash, &mut digits);
    String::from_utf8_lossy(&digits).into_owned()
}

/// Whether [`from_hex`] reads this.
#[must_use]
pub fn is_hex(text: &str) -> bool {
    text.len() == 2 * HASH_BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads 64 lower-case hex digits; anything else, upper case included, is `None`.
#[must_use]
pub fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = [0; HASH_BYTES];
    (is_hex(text) && hex::decode_to_slice(text, &mut hash).is_ok()).then_some(hash)
}

/// Reads exactly 32 bytes.
#[must_use]
pub fn from_slice(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok()
}
