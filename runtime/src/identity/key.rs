//! A member's own key: ECDSA on P-256, made where it is used, never sent anywhere.
//!
//! It signs TLS handshakes, and proofs that whoever asks for a certificate holds the key it will be for. Kept in a
//! sealed file by `enrolment`.

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use zeroize::Zeroizing;

use super::IdentityError;

/// How SubjectPublicKeyInfo of an uncompressed point on P-256 begins (RFC 5480).
const P256_SPKI_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
/// That prefix and two coordinates.
const P256_SPKI_BYTES: usize = 91;

/// A private key. Prints nothing of itself.
pub struct NodeKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: EcdsaKeyPair,
    public: Vec<u8>,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

impl NodeKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`IdentityError::Key`] when the system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Self::from_pkcs8(document.map_err(|_| IdentityError::Key)?.as_ref())
    }

    /// A key as it was kept.
    ///
    /// # Errors
    /// [`IdentityError::Key`].
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| IdentityError::Key)?;
        let public = pair.public_key().as_der().map_err(|_| IdentityError::Key)?.as_ref().to_vec();
        Ok(Self { pkcs8: Zeroizing::new(pkcs8.to_vec()), pair, public })
    }

    /// How to keep it.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// ECDSA with SHA-256, ASN.1.
    ///
    /// # Errors
    /// [`IdentityError::Key`] when the system gives no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| IdentityError::Key)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Whether `public_key` (SubjectPublicKeyInfo of a P-256 key, in the one form there is) signed `message`.
#[must_use]
pub fn verify_proof(public_key: &[u8], message: &[u8], proof: &[u8]) -> bool {
    is_p256(public_key) && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key).verify(message, proof).is_ok()
}

pub(crate) fn is_p256(public_key: &[u8]) -> bool {
    public_key.len() == P256_SPKI_BYTES && public_key.starts_with(&P256_SPKI_PREFIX)
}
