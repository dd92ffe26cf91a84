//! Binding keys: a key that is given out once beside a token, and sealed into the token for whoever checks its proofs.
//!
//! The control plane seals when it mints ([`BindingSeal::seal`]), data planes open ([`BindingSeal::open`]); nothing is
//! stored. All other claims are the sealed key's associated data, so it opens in no token that says anything else, not
//! even if that were signed with our key. Each sealing has a key of its own, derived from one of the cluster's keys and
//! a random salt (HKDF-SHA256), so that salts may be drawn at random for as long as a cluster lives. Invariant: keys
//! cannot be printed. Absent: proofs (`proof`), where the cluster's keys are kept (the planes).
//! Specifications: `design.md` §8; RFC 5869; NIST SP 800-38D.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
    hkdf::{HKDF_SHA256, Prk, Salt},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::claims::Claims;

/// The word for it in tokens, token requests and their answers.
pub const BINDING_ALG: &str = "aes-256-gcm";
/// Bytes of a binding key, and of the cluster's keys it is sealed under.
pub const BINDING_KEY_BYTES: usize = 32;
/// Bytes of the salt of one sealing.
pub const SALT_BYTES: usize = 32;

const ID_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const SEALED_BYTES: usize = ID_BYTES + SALT_BYTES + BINDING_KEY_BYTES + TAG_BYTES;
const ID_DOMAIN: &[u8] = b"bailiwick/token-binding/id\n";
const KEY_DOMAIN: &[u8] = b"bailiwick/token-binding/v1\n";

/// The key that proves possession of one token. Wiped when it is dropped.
#[derive(Clone)]
pub struct BindingKey(Zeroizing<[u8; BINDING_KEY_BYTES]>);

impl BindingKey {
    /// From fresh randomness of the system.
    #[must_use]
    pub fn new(random: [u8; BINDING_KEY_BYTES]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// As it was given out: base64url without padding; `None` if it is not one.
    #[must_use]
    pub fn from_base64url(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        bytes.as_slice().try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// In base64url without padding, for the one who asked for the token and for nobody else.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    pub(crate) fn bytes(&self) -> &[u8; BINDING_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for BindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BindingKey(…)")
    }
}

/// Why a key is not sealed, or does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// The claims name no sealed key, or one of another kind.
    #[error("the token is not bound in a way that is known here")]
    Unknown,
    /// None of the keys here sealed it.
    #[error("the key that the token's binding is sealed under is not known here")]
    KeyUnknown,
    /// It does not open: claims were changed, or it is another token's.
    #[error("the token's binding does not belong to it")]
    Forged,
    /// A key of the cluster is none, or there is none.
    #[error("there is no usable key for bindings")]
    Unusable,
}

/// The cluster's keys: the first seals, all open.
#[derive(Clone)]
pub struct BindingSeal(Vec<RingKey>);

#[derive(Clone)]
struct RingKey {
    id: [u8; ID_BYTES],
    secret: std::sync::Arc<Prk>,
}

impl fmt::Debug for BindingSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| hex::encode(key.id))).finish()
    }
}

impl BindingSeal {
    /// On the cluster's keys of 32 bytes each, newest first.
    ///
    /// # Errors
    /// [`BindingError::Unusable`] where one has another length, or there is none.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, BindingError> {
        let keys: Option<Vec<_>> = keys.into_iter().map(RingKey::new).collect();
        keys.filter(|keys| !keys.is_empty()).map(Self).ok_or(BindingError::Unusable)
    }

    /// Binds the claims to a key: sets `binding_alg` and `binding`. They may not be changed after that. `salt` is fresh
    /// from the system's random source.
    ///
    /// # Errors
    /// [`BindingError::Unusable`] where nothing can be sealed.
    pub fn seal(&self, claims: &mut Claims, key: &BindingKey, salt: [u8; SALT_BYTES]) -> Result<(), BindingError> {
        let ring = self.0.first().ok_or(BindingError::Unusable)?;
        claims.binding_alg = Some(BINDING_ALG.to_owned());
        claims.binding = None;
        let mut sealed = Zeroizing::new(Vec::with_capacity(SEALED_BYTES));
        sealed.extend_from_slice(key.bytes());
        let cipher = ring.cipher(&salt).ok_or(BindingError::Unusable)?;
        let aad = Aad::from(identity(claims).ok_or(BindingError::Unusable)?);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        cipher.seal_in_place_append_tag(nonce, aad, &mut *sealed).map_err(|_| BindingError::Unusable)?;
        let envelope = [ring.id.as_slice(), salt.as_slice(), sealed.as_slice()].concat();
        claims.binding = Some(URL_SAFE_NO_PAD.encode(envelope));
        Ok(())
    }

    /// The key that verified claims are bound to; `None` where they name none.
    ///
    /// # Errors
    /// The binding is of another kind, of a key that is not here, or not of these claims.
    pub fn open(&self, claims: &Claims) -> Result<Option<BindingKey>, BindingError> {
        let sealed = match (claims.binding_alg.as_deref(), &claims.binding) {
            (None, None) => return Ok(None),
            (Some(BINDING_ALG), Some(sealed)) => sealed,
            _ => return Err(BindingError::Unknown),
        };
        let envelope = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| BindingError::Forged)?;
        let envelope: [u8; SEALED_BYTES] = envelope.try_into().map_err(|_| BindingError::Forged)?;
        let (id, rest) = envelope.split_first_chunk::<ID_BYTES>().ok_or(BindingError::Forged)?;
        let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>().ok_or(BindingError::Forged)?;
        let ring = self.0.iter().find(|ring| ring.id == *id).ok_or(BindingError::KeyUnknown)?;
        let bare = Claims { binding: None, ..claims.clone() };
        let aad = Aad::from(identity(&bare).ok_or(BindingError::Forged)?);
        let mut plain = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let cipher = ring.cipher(salt).ok_or(BindingError::Unusable)?;
        let opened = cipher.open_in_place(nonce, aad, &mut plain).map_err(|_| BindingError::Forged)?;
        let key = <[u8; BINDING_KEY_BYTES]>::try_from(&*opened).map_err(|_| BindingError::Forged)?;
        Ok(Some(BindingKey::new(key)))
    }
}

impl RingKey {
    fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BINDING_KEY_BYTES {
            return None;
        }
        let mut named = digest::Context::new(&digest::SHA256);
        named.update(ID_DOMAIN);
        named.update(bytes);
        let id = named.finish().as_ref().first_chunk().copied()?;
        Some(Self { id, secret: std::sync::Arc::new(Salt::new(HKDF_SHA256, &[]).extract(bytes)) })
    }

    /// The cipher of one sealing, which is used for that alone.
    fn cipher(&self, salt: &[u8; SALT_BYTES]) -> Option<LessSafeKey> {
        let info = [KEY_DOMAIN, salt.as_slice()];
        let derived = self.secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

/// What the sealed key is bound to: the claims without it, as they are written into the token.
fn identity(bare: &Claims) -> Option<Vec<u8>> {
    serde_json::to_vec(bare).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{claims::Actor, verify::tests::claims};

    fn seal(ring: &[u8]) -> BindingSeal {
        let keys: Vec<_> = ring.iter().map(|seed| [*seed; BINDING_KEY_BYTES]).collect();
        BindingSeal::new(keys.iter().map(<[u8; BINDING_KEY_BYTES]>::as_slice)).unwrap()
    }

    fn bound(by: &BindingSeal) -> Claims {
        let mut claims = claims();
        by.seal(&mut claims, &BindingKey::new([7; BINDING_KEY_BYTES]), [3; SALT_BYTES]).unwrap();
        claims
    }

    #[test]
    fn what_was_sealed_opens_also_after_a_rotation_and_nowhere_else() {
        let sealed = bound(&seal(&[1]));
        for ring in [&[1][..], &[2, 1]] {
            let key = seal(ring).open(&sealed).unwrap().unwrap();
            assert_eq!(key.bytes(), &[7; BINDING_KEY_BYTES]);
        }
        assert_eq!(seal(&[2]).open(&sealed).unwrap_err(), BindingError::KeyUnknown);
        assert_eq!(seal(&[1]).open(&claims()).unwrap().map(|_| ()), None);
        let later = bound(&seal(&[2, 1]));
        assert_eq!(seal(&[1]).open(&later).unwrap_err(), BindingError::KeyUnknown, "the newest seals");
    }

    #[test]
    fn a_changed_claim_makes_the_binding_unreadable() {
        let (ring, sealed) = (seal(&[1]), bound(&seal(&[1])));
        let changed: [fn(&mut Claims); 12] = [
            |claims| claims.iss.push('x'),
            |claims| claims.aud.push('x'),
            |claims| claims.sub = "mallory@example.com".into(),
            |claims| claims.agent_sub = "other".into(),
            |claims| claims.project_id = "other".into(),
            |claims| claims.client_id = "other".into(),
            |claims| claims.consent_id = "c-2".into(),
            |claims| claims.scope.push_str(" mcp:write"),
            |claims| claims.act = Actor { sub: "other".into(), act: None },
            |claims| claims.jti.push('x'),
            |claims| claims.exp += 1,
            |claims| claims.min_revision = Some(1),
        ];
        for change in changed {
            let mut claims = sealed.clone();
            change(&mut claims);
            assert_eq!(ring.open(&claims).unwrap_err(), BindingError::Forged, "{claims:?}");
        }
    }

    #[test]
    fn a_binding_that_is_damaged_or_of_another_kind_is_refused() {
        let (ring, sealed) = (seal(&[1]), bound(&seal(&[1])));
        let with = |alg: Option<&str>, binding: Option<&str>| {
            let (binding_alg, binding) = (alg.map(str::to_owned), binding.map(str::to_owned));
            ring.open(&Claims { binding_alg, binding, ..sealed.clone() }).unwrap_err()
        };
        let text = sealed.binding.as_deref().unwrap();
        assert_eq!(with(Some("aes-128-gcm"), Some(text)), BindingError::Unknown);
        assert_eq!(with(None, Some(text)), BindingError::Unknown);
        assert_eq!(with(Some(BINDING_ALG), None), BindingError::Unknown);
        for damaged in ["", "!", text.get(1..).unwrap(), &format!("{text}AAAA")] {
            assert_eq!(with(Some(BINDING_ALG), Some(damaged)), BindingError::Forged, "{damaged}");
        }
        let mut envelope = URL_SAFE_NO_PAD.decode(text).unwrap();
        *envelope.last_mut().unwrap() ^= 1;
        assert_eq!(with(Some(BINDING_ALG), Some(&URL_SAFE_NO_PAD.encode(envelope))), BindingError::Forged);
    }

    #[test]
    fn keys_are_told_once_and_never_printed() {
        let key = BindingKey::new([9; BINDING_KEY_BYTES]);
        let again = BindingKey::from_base64url(&key.expose()).unwrap();
        assert_eq!((again.bytes(), format!("{key:?}").as_str()), (key.bytes(), "BindingKey(…)"));
        assert!(BindingKey::from_base64url("AAAA").is_none() && BindingKey::from_base64url("not base64").is_none());
        assert!(BindingSeal::new([[1; 16].as_slice()]).is_err() && BindingSeal::new([]).is_err());
    }
}
