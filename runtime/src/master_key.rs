//! The master key: what everything secret on a disk is sealed under, and what never lies beside it.
//!
//! Comes from a file, the environment or a passphrase, newest first; several at a time while one replaces another.
//! [`MasterKeys`] is handed to whatever keeps a secret: the control plane's vault and every sealed file. AES-256-GCM
//! with a random nonce; the place a secret belongs to (column, key, revision) is associated data, so that a ciphertext
//! moved elsewhere, or an older one put back, does not open. A key's name is a hash of it: which key is missing can be
//! told without a trial. Absent: who decides when to rotate (control plane), files of secrets (`sealed_file`).

mod source;

use std::{fmt, io, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
};
use zeroize::{Zeroize, Zeroizing};

pub use self::source::MasterKeyConfig;

/// AES-256.
pub const MASTER_KEY_BYTES: usize = 32;
/// Most master keys at a time: one in use, one coming, and a few that old backups need.
pub const MASTER_KEYS_MAX: usize = 16;
/// Characters of a key's name: 64 bits of its hash.
pub const MASTER_NAME_CHARS: usize = 16;
/// Largest secret that is sealed: keys are far smaller.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

const NAME_LABEL: &[u8] = b"bailiwick/master-key/v1\n";
const PLACE_LABEL: &[u8] = b"bailiwick/sealed/v1\n";

/// What keeps a secret from being sealed or opened. Holds no part of any secret.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// Nothing names a key.
    #[error(
        "no master key: set `file`, `passphrase_file` or `key` in the section [master_key] (make one with \
         `openssl rand -hex 32`, mode 0600, outside the data directory)"
    )]
    NotConfigured,
    /// More than one source.
    #[error("[master_key] names more than one of `file`, `key`, `passphrase` and `passphrase_file`; keep one")]
    Ambiguous,
    /// The file cannot be read.
    #[error("cannot read the master key file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file lies where what it protects lies.
    #[error("the master key file {0} lies inside the data directory; whoever copies that would have both: move it out")]
    Inside(PathBuf),
    /// A line is no key.
    #[error("master key {line}: {rule}")]
    Malformed {
        /// Counted from 1, newest first.
        line: usize,
        /// What would be right.
        rule: &'static str,
    },
    /// Something is sealed under a key that is not there.
    #[error(
        "sealed under master key {wanted}, but this node holds {}; add that key to [master_key] (older keys follow \
         the newest, one a line)", held.join(", ")
    )]
    Missing {
        /// Name of the key it needs.
        wanted: String,
        /// Names of those there are.
        held: Vec<String>,
    },
    /// Not what was sealed for this place.
    #[error("{column}/{key} does not open: it was changed, or sealed for another place")]
    Tampered {
        /// Kind of place.
        column: String,
        /// Place.
        key: String,
    },
    /// Larger than any secret.
    #[error("a secret is larger than {SECRET_BYTES_MAX} bytes")]
    TooLarge,
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
}

/// Where a secret belongs. Sealed for one place, it opens in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Kind of place, e.g. `secret`, `file`.
    pub column: &'a str,
    /// Which of them.
    pub key: &'a str,
    /// Which edition of it, counted by whoever keeps it.
    pub revision: u64,
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let mut data = PLACE_LABEL.to_vec();
        for part in [self.column.as_bytes(), self.key.as_bytes()] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part);
        }
        data.extend_from_slice(&self.revision.to_be_bytes());
        data
    }
}

/// A sealed secret; may be stored and shown anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Name of the master key.
    pub master: String,
    /// Used once.
    pub nonce: [u8; NONCE_LEN],
    /// Ciphertext and tag.
    pub bytes: Vec<u8>,
}

/// The master keys of a node, newest first; cheap to clone, all clones see a reload. Cannot be printed.
#[derive(Clone)]
pub struct MasterKeys {
    source: Arc<MasterKeyConfig>,
    keys: Arc<ArcSwap<Held>>,
}

/// What was read, and from which text.
struct Held {
    keys: Vec<MasterKey>,
    /// SHA-256: the same text is not read twice, as a passphrase costs a second.
    text: [u8; 32],
}

struct MasterKey {
    name: String,
    bytes: Zeroizing<[u8; MASTER_KEY_BYTES]>,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MasterKeys").field(&self.names()).finish()
    }
}

impl MasterKeys {
    /// Reads the keys that `config` names.
    ///
    /// # Errors
    /// [`MasterKeyError`] with advice.
    pub fn load(config: &MasterKeyConfig) -> Result<Self, MasterKeyError> {
        let held = read(config, None)?.ok_or(MasterKeyError::NotConfigured)?;
        Ok(Self { source: Arc::new(config.clone()), keys: Arc::new(ArcSwap::from_pointee(held)) })
    }

    /// Reads them again, so that a key can be added without a restart; what was held stays held when that fails.
    ///
    /// # Errors
    /// As [`MasterKeys::load`].
    pub fn reload(&self) -> Result<(), MasterKeyError> {
        if let Some(held) = read(&self.source, Some(self.keys.load().text))? {
            self.keys.store(Arc::new(held));
        }
        Ok(())
    }

    /// Names of the keys held, newest first.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.keys.load().keys.iter().map(|key| key.name.clone()).collect()
    }

    /// Name of the newest key.
    #[must_use]
    pub fn newest(&self) -> String {
        self.keys.load().keys.first().map_or_else(String::new, |key| key.name.clone())
    }

    /// Whether the key of that name is held.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.keys.load().keys.iter().any(|key| key.name == name)
    }

    /// Seals a secret under the newest key.
    ///
    /// # Errors
    /// [`MasterKeyError::Randomness`], [`MasterKeyError::TooLarge`].
    pub fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Sealed, MasterKeyError> {
        self.seal_under(&self.newest(), place, secret)
    }

    /// Seals a secret under the key of that name.
    ///
    /// # Errors
    /// [`MasterKeyError::Missing`] when it is not held; otherwise as [`MasterKeys::seal`].
    pub fn seal_under(&self, master: &str, place: Place<'_>, secret: &[u8]) -> Result<Sealed, MasterKeyError> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(MasterKeyError::TooLarge);
        }
        let cipher = self.cipher(master)?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| MasterKeyError::Randomness)?;
        let mut bytes = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
        bytes.extend_from_slice(secret);
        let sealed = cipher.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.associated_data()),
            &mut bytes,
        );
        if sealed.is_err() {
            bytes.zeroize();
            return Err(MasterKeyError::TooLarge);
        }
        Ok(Sealed { master: master.to_owned(), nonce, bytes })
    }

    /// Opens what was sealed for this very place.
    ///
    /// # Errors
    /// [`MasterKeyError::Missing`], [`MasterKeyError::Tampered`].
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        let cipher = self.cipher(&sealed.master)?;
        let mut bytes = Zeroizing::new(sealed.bytes.clone());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let opened = cipher.open_in_place(nonce, Aad::from(place.associated_data()), &mut bytes).map(|open| open.len());
        let length = opened
            .map_err(|_| MasterKeyError::Tampered { column: place.column.to_owned(), key: place.key.to_owned() })?;
        bytes.truncate(length);
        Ok(bytes)
    }

    fn cipher(&self, name: &str) -> Result<LessSafeKey, MasterKeyError> {
        let held = self.keys.load();
        let missing = || MasterKeyError::Missing { wanted: name.to_owned(), held: self.names() };
        let key = held.keys.iter().find(|key| key.name == name).ok_or_else(missing)?;
        // INVARIANT: a master key has the length of an AES-256 key, the only thing that can be wrong with one.
        UnboundKey::new(&AES_256_GCM, key.bytes.as_ref()).map(LessSafeKey::new).map_err(|_| missing())
    }
}

/// The keys, unless they come from the text that is known already.
fn read(config: &MasterKeyConfig, known: Option<[u8; 32]>) -> Result<Option<Held>, MasterKeyError> {
    let text = config.text()?;
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
    if known == Some(hash) {
        return Ok(None);
    }
    Ok(Some(Held { keys: named(config.read(&text)?), text: hash }))
}

fn named(keys: Vec<Zeroizing<[u8; MASTER_KEY_BYTES]>>) -> Vec<MasterKey> {
    let name = |bytes: &[u8; MASTER_KEY_BYTES]| {
        let labelled = Zeroizing::new([NAME_LABEL, bytes.as_slice()].concat());
        hex::encode(digest(&SHA256, &labelled)).chars().take(MASTER_NAME_CHARS).collect()
    };
    keys.into_iter().map(|bytes| MasterKey { name: name(&bytes), bytes }).collect()
}

#[cfg(test)]
mod tests;
