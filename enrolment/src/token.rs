//! Join tokens as text, and what a newcomer signs.
//!
//! `bwj1.<role>.<id>.<secret>.<fingerprint>`: the fingerprint (SHA-256 of the authority's certificate, hex) lets
//! whoever holds the token tell the cluster from an impostor before the secret is sent. Of the secret only a hash is
//! kept anywhere. Used by both sides.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    digest::{SHA256, digest},
    error::Unspecified,
};
use bailiwick_runtime::identity::Role;
use zeroize::Zeroizing;

const SCHEME: &str = "bwj1";
/// Bits enough that nobody guesses: 256, in hex.
const SECRET_CHARS: usize = 64;
/// SHA-256 in hex.
const FINGERPRINT_CHARS: usize = 64;
/// Longest id.
const ID_CHARS_MAX: usize = 64;
/// Longest text that can be a token.
const TOKEN_CHARS_MAX: usize = 256;

/// Leave to become a member, once. Cannot be printed.
#[derive(Clone)]
pub struct JoinToken {
    /// What the member will be.
    pub role: Role,
    /// Names the token; no secret.
    pub id: String,
    secret: Zeroizing<String>,
    /// SHA-256 of the authority's certificate.
    pub fingerprint: [u8; 32],
}

/// Not a join token. Holds nothing of what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: they look like `bwj1.data-plane.….….…`, from `bailiwick cluster join-token`")]
pub struct NotToken;

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("role", &self.role).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A secret for a new token.
///
/// # Errors
/// When the system gives no randomness.
pub fn fresh_secret() -> Result<Zeroizing<String>, Unspecified> {
    let mut bytes = Zeroizing::new([0_u8; SECRET_CHARS / 2]);
    aws_lc_rs::rand::fill(bytes.as_mut())?;
    Ok(Zeroizing::new(hex::encode(bytes.as_ref())))
}

impl JoinToken {
    /// A token of these parts.
    ///
    /// # Errors
    /// [`NotToken`] when the id or the secret could not stand in one.
    pub fn new(role: Role, id: &str, secret: &str, fingerprint: [u8; 32]) -> Result<Self, NotToken> {
        let plain = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
        if !(1..=ID_CHARS_MAX).contains(&id.len()) || !plain(id) || secret.len() != SECRET_CHARS || !plain(secret) {
            return Err(NotToken);
        }
        Ok(Self { role, id: id.to_owned(), secret: Zeroizing::new(secret.to_owned()), fingerprint })
    }

    /// The whole token, for the one who may have it.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let Self { role, id, secret, fingerprint } = self;
        Zeroizing::new(format!("{SCHEME}.{}.{id}.{}.{}", role.as_str(), secret.as_str(), hex::encode(fingerprint)))
    }

    /// SHA-256 of the secret: all that is kept of it.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(self.secret.as_bytes())
    }
}

impl FromStr for JoinToken {
    type Err = NotToken;

    fn from_str(text: &str) -> Result<Self, NotToken> {
        let mut parts = Some(text.trim()).filter(|text| text.len() <= TOKEN_CHARS_MAX).ok_or(NotToken)?.split('.');
        let mut next = || parts.next().ok_or(NotToken);
        let (scheme, role, id, secret, fingerprint) = (next()?, next()?, next()?, next()?, next()?);
        let mut bytes = [0; 32];
        if scheme != SCHEME || next().is_ok() || fingerprint.len() != FINGERPRINT_CHARS {
            return Err(NotToken);
        }
        hex::decode_to_slice(fingerprint, &mut bytes).map_err(|_| NotToken)?;
        Self::new(Role::from_word(role).ok_or(NotToken)?, id, secret, bytes)
    }
}

/// What whoever redeems a token signs with the key its certificate will be for.
#[must_use]
pub fn enrol_message(token: &str) -> Vec<u8> {
    [b"bailiwick/enrol/v1\n".as_slice(), &sha256(token.as_bytes())].concat()
}

/// What a member signs to get a fresh certificate; `time` in Unix milliseconds, `addresses` as in the request (for
/// peers, then for everybody): whoever hands a request on, or keeps one, cannot move a member.
#[must_use]
pub fn renew_message(role: &str, name: &str, time: u64, addresses: [&str; 2]) -> Vec<u8> {
    let [peer, api] = addresses;
    format!("bailiwick/renew/v1\n{role}\n{name}\n{time}\n{peer}\n{api}").into_bytes()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(Role::DataPlane, "j-1", &"ab".repeat(32), [7; 32]).unwrap()
    }

    #[test]
    fn a_token_reads_back_and_is_never_printed() {
        let text = token().expose();
        let read: JoinToken = format!(" {}\n", text.as_str()).parse().unwrap();
        assert_eq!(read.expose(), text);
        assert_eq!((read.role, read.id.as_str(), read.fingerprint), (Role::DataPlane, "j-1", [7; 32]));
        assert_eq!(read.secret_hash(), token().secret_hash());
        assert!(!format!("{read:?}").contains("abab"));
        assert_ne!(fresh_secret().unwrap(), fresh_secret().unwrap());
    }

    #[test]
    fn anything_else_is_refused() {
        let good = token().expose().to_string();
        for bad in [
            "",
            "bwj1",
            &good.replace("bwj1", "bwj2"),
            &good.replace("data-plane", "root"),
            &good.replace("j-1", ""),
            &good.replace("j-1", "j 1"),
            &good.replace("abab", "ab"),
            &good.replace("0707", "07"),
            &good.replace("0707", "07zz"),
            &format!("{good}.x"),
            &format!("{good}{}", "0".repeat(300)),
        ] {
            assert_eq!(bad.parse::<JoinToken>().unwrap_err(), NotToken, "{bad}");
        }
    }
}
