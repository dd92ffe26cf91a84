//! A member's signed word: something said once, to be believed later by somebody who was not connected.
//!
//! Signed with the key of the certificate of the moment. Whoever checks it asks what a connection would ask for (chain,
//! cluster, role), as of the time at which it was given: the certificate may have expired since, but must have counted
//! then. What is signed has to say what it is for; TLS signs texts that begin otherwise. Absent: what is said.

use std::time::Duration;

use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, UnixTime},
};

use super::{Identity, Role, SpiffeId, read, verify, verify_proof};

/// What was signed by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Of the member, DER.
    pub certificate: Vec<u8>,
    /// ECDSA P-256 with SHA-256, ASN.1.
    pub signature: Vec<u8>,
}

/// A word that is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBelieved {
    /// This node has no certificate yet, so it knows no authority.
    #[error("this node is no member yet")]
    Nobody,
    /// Not a member's certificate.
    #[error("the certificate cannot be read")]
    Certificate,
    /// Another cluster's member, or one in another role.
    #[error("it was signed by somebody who may not say so")]
    Stranger,
    /// The authority did not sign the certificate, or it did not count at that time.
    #[error("the signer's certificate did not count at that time")]
    Chain,
    /// The signature is not over this.
    #[error("the signature does not fit")]
    Signature,
}

impl Identity {
    /// Signs `message`; `None` while this is nobody.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Option<Word> {
        let current = self.0.current.load_full()?;
        let signer = current.certified.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?;
        let signature = signer.sign(message).ok()?;
        Some(Word { certificate: current.certified.cert.first()?.to_vec(), signature })
    }

    /// Who of this cluster, in `role`, signed `message` at `seconds` (Unix time).
    ///
    /// # Errors
    /// [`NotBelieved`].
    pub fn believe(&self, word: &Word, message: &[u8], role: Role, seconds: u64) -> Result<SpiffeId, NotBelieved> {
        let current = self.0.current.load_full().ok_or(NotBelieved::Nobody)?;
        let leaf = CertificateDer::from(word.certificate.as_slice());
        let (id, _, public_key) = read(&leaf).map_err(|_| NotBelieved::Certificate)?;
        if id.cluster != current.id.cluster || id.role != role {
            return Err(NotBelieved::Stranger);
        }
        let then = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        verify::chain(&leaf, &current.roots, then, &self.0.provider).map_err(|_| NotBelieved::Chain)?;
        if verify_proof(&public_key, message, &word.signature) { Ok(id) } else { Err(NotBelieved::Signature) }
    }
}
