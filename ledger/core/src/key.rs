//! Ed25519 keys: a node signs the heads of its chain, the log signs its checkpoints.
//!
//! Called by `chain` and `checkpoint`. Seeds and PKCS#8 documents arrive as arguments: making and keeping them is the
//! business of the servers. The private key cannot be printed.

use std::fmt;

use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// Length of a raw public key in bytes.
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Length of a signature in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// A raw Ed25519 public key.
pub type PublicKey = [u8; PUBLIC_KEY_BYTES];

/// The bytes are not an Ed25519 private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key")]
pub struct KeyError;

/// An Ed25519 private key.
pub struct NodeSigner {
    pair: Ed25519KeyPair,
    public_key: PublicKey,
}

impl NodeSigner {
    /// From 32 secret random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Self::from_pair(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError)?)
    }

    /// From a PKCS#8 document (DER).
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, KeyError> {
        Self::from_pair(Ed25519KeyPair::from_pkcs8(document).map_err(|_| KeyError)?)
    }

    fn from_pair(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public_key = pair.public_key().as_ref().try_into().map_err(|_| KeyError)?;
        Ok(Self { pair, public_key })
    }

    /// The raw public key.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The public key as registered with the control plane: 64 lower-case hex digits.
    #[must_use]
    pub fn public_key_hex(&self) -> String {
        hex::encode(self.public_key)
    }

    /// The signature over `message`, 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for NodeSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeSigner").field("public_key", &self.public_key_hex()).finish_non_exhaustive()
    }
}

/// Whether `signature` is by the holder of `public_key` over `message`.
#[must_use]
pub fn verify(public_key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&signature::ED25519, public_key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_fits_one_key_and_one_message() {
        let (one, other) = (NodeSigner::from_seed(&[1; 32]).unwrap(), NodeSigner::from_seed(&[2; 32]).unwrap());
        let signature = one.sign(b"message");
        assert_eq!(signature.len(), SIGNATURE_BYTES);
        assert!(verify(one.public_key(), b"message", &signature));
        assert!(!verify(other.public_key(), b"message", &signature));
        assert!(!verify(one.public_key(), b"massage", &signature));
        assert!(!verify(one.public_key(), b"message", b""));
    }

    #[test]
    fn the_private_key_is_not_printed() {
        let printed = format!("{:?}", NodeSigner::from_seed(&[7; 32]).unwrap());
        assert!(!printed.contains(&hex::encode([7; 32])) && printed.contains("public_key"));
    }

    #[test]
    fn a_pkcs8_document_gives_the_same_key_back() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let signer = NodeSigner::from_pkcs8(pair.to_pkcs8().unwrap().as_ref()).unwrap();
        assert_eq!(signer.public_key(), NodeSigner::from_seed(&[3; 32]).unwrap().public_key());
        assert_eq!(NodeSigner::from_pkcs8(b"no").err(), Some(KeyError));
    }
}
