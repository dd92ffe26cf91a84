//! Values that must not be printed or compared carelessly: tokens, their hashes, shared secrets.
//!
//! Used by both planes wherever a token is held: caches key on [`TokenHash`], never on the token.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use zeroize::Zeroizing;

/// A minted access token. Neither `Debug` nor `Display` tells it; the memory is wiped when it is dropped.
#[derive(Clone)]
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    pub(crate) fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    /// The token itself, to be handed to the one who asked for it and to nobody else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(…)")
    }
}

impl fmt::Display for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// SHA-256 of a token's bytes: stands for the token in caches and proofs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token as received.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({})", hex::encode(self.0))
    }
}

/// Compares two secrets in a time that depends on their lengths only.
#[must_use]
pub fn same_secret(left: &[u8], right: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(left, right).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_never_printed() {
        let token = AccessToken::new("secret-token".into());
        assert!(!format!("{token:?} {token} {:?}", TokenHash::of(token.expose())).contains("secret"));
        assert_eq!(token.expose(), "secret-token");
    }

    #[test]
    fn secrets_are_equal_only_byte_for_byte() {
        assert!(same_secret(b"a", b"a") && !same_secret(b"a", b"b") && !same_secret(b"a", b"ab"));
    }
}
