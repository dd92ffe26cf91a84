//! Who this log is: its name and the Ed25519 key that signs its checkpoints.
//!
//! The key is made at first start from the system's randomness and kept as PKCS#8 in `keys/ledger.key`, sealed.
//! Whoever has it can sign checkpoints in the log's name, but cannot have them committed by the control plane, nor
//! make nodes' chains fit. It never leaves this process; only the verifier key is shown and exported.

use std::path::{Path, PathBuf};

use aws_lc_rs::{rand::SystemRandom, signature::Ed25519KeyPair};
use bailiwick_ledger_core::{checkpoint::VerifierKey, key::NodeSigner};
use bailiwick_runtime::{MasterKeys, sealed_file};
use zeroize::Zeroizing;

use crate::error::LedgerError;

/// The log's name and key.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) origin: String,
    pub(crate) signer: NodeSigner,
    /// What others need to check its checkpoints.
    pub(crate) verifier: VerifierKey,
}

/// Reads the key under `data_dir`, or makes one.
pub(crate) fn load(data_dir: &Path, master_keys: &MasterKeys, origin: &str) -> Result<Identity, LedgerError> {
    let path = file(data_dir);
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| LedgerError::Randomness)?;
    let made = || Ok(Zeroizing::new(document.as_ref().to_vec()));
    let document = sealed_file::read_or_create(&path, master_keys, made)?;
    let signer = NodeSigner::from_pkcs8(&document).map_err(|_| LedgerError::Key(path.clone()))?;
    let verifier = VerifierKey::new(origin, *signer.public_key()).map_err(|_| LedgerError::Key(path))?;
    Ok(Identity { origin: origin.to_owned(), signer, verifier })
}

/// Where the key is kept.
pub(crate) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys").join("ledger.key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::master_key;

    #[test]
    fn the_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let keys = MasterKeys::load(&master_key()).unwrap();
        let first = load(folder.path(), &keys, "example.org/log").unwrap();
        let again = load(folder.path(), &keys, "example.org/log").unwrap();
        assert_eq!(first.verifier, again.verifier);
        assert!(!format!("{first:?}").contains("seed"));
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let keys = MasterKeys::load(&master_key()).unwrap();
        sealed_file::write(&file(folder.path()), &keys, b"not a key").unwrap();
        let error = load(folder.path(), &keys, "example.org/log").unwrap_err().to_string();
        assert!(error.contains("ledger.key"), "{error}");
    }
}
