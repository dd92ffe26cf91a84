//! The node's secret keys: files of mode 0600 under `keys/` of its data directory, made at the first start.
//!
//! `token-signing.pk8` signs access tokens (its public half becomes an event); `session-sealing.key` goes to data
//! planes over the config stream, so that any of them can open a session another one sealed. Neither is ever in
//! replicated state, a snapshot, a record or a log line.

use std::{io, path::Path, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_control_plane_core::token_key::TokenKey;
use bailiwick_proto::v1::{self, config_frame};
use bailiwick_runtime::private_file;
use bailiwick_token::{Algorithm, KeyError, SigningKey};

use crate::{clock, config_stream::wire::Frame};

/// AES-256.
const SEALING_KEY_BYTES: usize = 32;

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read or made.
    #[error("cannot use the key file {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The token-signing key is no Ed25519 key.
    #[error("the token-signing key: {0}")]
    Signing(#[from] KeyError),
}

/// The keys, ready for use. Cannot be printed.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) signing: Arc<SigningKey>,
    /// What data planes get.
    pub(crate) frame: Frame,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("signing", &self.signing.kid()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys below `folder`, making those that do not exist.
    pub(crate) fn open(folder: &Path) -> Result<Self, KeysError> {
        let signing = file(&folder.join("token-signing.pk8"), || {
            SigningKey::generate_pkcs8(Algorithm::EdDsa).map(|der| der.to_vec()).map_err(io::Error::other)
        })?;
        let sealing = file(&folder.join("session-sealing.key"), || {
            clock::random::<SEALING_KEY_BYTES>().map(|key| key.to_vec()).map_err(io::Error::other)
        })?;
        if sealing.len() != SEALING_KEY_BYTES {
            let source = io::Error::new(io::ErrorKind::InvalidData, "not 32 bytes long");
            return Err(KeysError::File { path: "session-sealing.key".to_owned(), source });
        }
        // The id names the key without telling anything about it.
        let id = hex::encode(digest(&SHA256, &sealing)).chars().take(16).collect();
        let keys = v1::Keys { session_sealing: vec![v1::SealingKey { id, key: sealing }] };
        let signing = Arc::new(SigningKey::from_pkcs8(Algorithm::EdDsa, &signing)?);
        Ok(Self { signing, frame: Frame::encode(config_frame::Frame::Keys(keys)) })
    }

    /// The public half of the signing key, as the domain registers it.
    pub(crate) fn token_key(&self) -> Result<TokenKey, KeysError> {
        let jwk = self.signing.public_jwk();
        Ok(TokenKey { kid: jwk.kid.clone(), alg: jwk.alg.as_str().to_owned(), jwk: jwk.to_json()? })
    }
}

fn file(path: &Path, make: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<Vec<u8>, KeysError> {
    private_file::read_or_create(path, make)
        .map_err(|source| KeysError::File { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_the_same_and_cannot_be_printed() {
        let folder = tempfile::tempdir().unwrap();
        let (first, again) = (Keys::open(folder.path()).unwrap(), Keys::open(folder.path()).unwrap());
        assert_eq!(first.token_key().unwrap(), again.token_key().unwrap());
        assert_eq!(first.frame.decode(), again.frame.decode());
        let printed = format!("{first:?}");
        assert!(printed.len() < 100, "{printed}");
    }
}
