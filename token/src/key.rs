//! Private signing keys: made, stored as PKCS#8, used.
//!
//! Held by the control plane only. The bytes of PKCS#8 are kept by the caller (a file of mode 0600); nothing here
//! prints or compares private parts. [`SigningKey::generate_pkcs8`] is the one function of this crate that draws
//! randomness; only servers call it, at the edge, and tests use [`SigningKey::from_ed25519_seed`].

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use zeroize::Zeroizing;

use crate::jwk::{Algorithm, PublicJwk};

/// A key that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PKCS#8 of the algorithm asked for.
    #[error("the private key is not PKCS#8 of this algorithm")]
    Private,
    /// Not a public key of this algorithm.
    #[error("the public key is not one of this algorithm")]
    Public,
    /// An algorithm that does not exist here, or that does not fit the key.
    #[error("the key's algorithm is unknown or does not fit the key")]
    Algorithm,
    /// Not a JWK, or one that is for something else.
    #[error("the key is not a JSON Web Key for signatures")]
    Jwk,
    /// A private key where a public one belongs.
    #[error("the JSON Web Key holds a private key")]
    PrivateJwk,
    /// Two keys share an id.
    #[error("two keys share one id")]
    Duplicate,
    /// The cryptographic library could not make a key.
    #[error("no key could be generated")]
    Generate,
}

enum Pair {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
}

/// A private key, ready to sign. Cannot be printed.
pub struct SigningKey {
    pair: Pair,
    public: PublicJwk,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.public.kid)
            .field("alg", &self.public.alg)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a new private key and returns it as PKCS#8 (DER), to be stored and read back by [`Self::from_pkcs8`].
    ///
    /// Draws randomness from the operating system.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the system gives no randomness.
    pub fn generate_pkcs8(alg: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let random = SystemRandom::new();
        let document = match alg {
            Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random),
            Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random),
        };
        document.map(|der| Zeroizing::new(der.as_ref().to_vec())).map_err(|_| KeyError::Generate)
    }

    /// Reads a private key from PKCS#8 (DER).
    ///
    /// # Errors
    /// [`KeyError::Private`] when the bytes are not a private key of this algorithm.
    pub fn from_pkcs8(alg: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let pair = match alg {
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(der).map(Pair::EdDsa),
            Algorithm::Es256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(Pair::Es256),
        };
        Self::from_pair(pair.map_err(|_| KeyError::Private)?)
    }

    /// The Ed25519 key of a 32-byte seed (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`KeyError::Private`] when the library refuses the seed.
    pub fn from_ed25519_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Self::from_pair(Pair::EdDsa(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Private)?))
    }

    fn from_pair(pair: Pair) -> Result<Self, KeyError> {
        let public = match &pair {
            Pair::EdDsa(pair) => PublicJwk::from_raw(Algorithm::EdDsa, pair.public_key().as_ref())?,
            Pair::Es256(pair) => PublicJwk::from_raw(Algorithm::Es256, pair.public_key().as_ref())?,
        };
        Ok(Self { pair, public })
    }

    /// Id of the key: its RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// The algorithm it signs with.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.public.alg
    }

    /// The public half.
    #[must_use]
    pub const fn public_jwk(&self) -> &PublicJwk {
        &self.public
    }

    /// Signs a message: 64 bytes. ES256 signatures differ every time; the library draws their nonce.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = match &self.pair {
            Pair::EdDsa(pair) => pair.try_sign(message),
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), message),
        };
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| KeyError::Private)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_is_read_back_as_the_same_key() {
        for alg in [Algorithm::EdDsa, Algorithm::Es256] {
            let der = SigningKey::generate_pkcs8(alg).unwrap();
            let (key, again) = (SigningKey::from_pkcs8(alg, &der).unwrap(), SigningKey::from_pkcs8(alg, &der).unwrap());
            assert_eq!((key.kid(), key.algorithm()), (again.kid(), alg));
            assert_eq!(key.kid().len(), 43);
        }
    }

    #[test]
    fn a_key_of_another_algorithm_is_refused() {
        let der = SigningKey::generate_pkcs8(Algorithm::Es256).unwrap();
        assert_eq!(SigningKey::from_pkcs8(Algorithm::EdDsa, &der).unwrap_err(), KeyError::Private);
        assert_eq!(SigningKey::from_pkcs8(Algorithm::Es256, b"").unwrap_err(), KeyError::Private);
    }

    #[test]
    fn a_private_key_is_never_printed() {
        let key = SigningKey::from_ed25519_seed(&[7; 32]).unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey {{ kid: \"{}\", alg: EdDsa, .. }}", key.kid()));
    }
}
