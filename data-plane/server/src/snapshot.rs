//! The snapshot: what this node keeps of its configuration on its own disk, to start from while no control plane can be
//! reached.
//!
//! `config_state` notes every frame that came into force; the `keeper`'s task writes (`journal`), and `role` reads it
//! back at start (`load`). One file, `config.snapshot`: the entries of one revision as chunks, then what changed since,
//! each change with a control plane's signed statement that it led to what was in force at that time. Denials of the
//! revocation lane are written and synced at once, before the lane acknowledges them, so a restart forgets none.
//! Invariants: what is served from it has exactly the digest that a control plane of this cluster signed, less what was
//! denied since; it counts as old as that statement, never younger. The file is sealed (`log`) under a key that is
//! itself sealed under the master key; it holds the session keys, too. Anything odd about it, and it is put away: the
//! node then waits for a control plane. Deliberately absent: epochs (`reserve`), what its age allows (`config_state`).

mod journal;
mod keeper;
mod load;
mod log;
mod merged;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use bailiwick_proto::{statement, v1};
use bailiwick_runtime::{
    Identity, MasterKeys,
    identity::{NotBelieved, Role, Word},
    sealed_file::{self, SealedFileError},
};
use zeroize::Zeroizing;

pub(crate) use self::{
    journal::Journal,
    keeper::Keeper,
    load::{Restored, Unusable, load},
};

/// AES-256.
const KEY_BYTES: usize = 32;
const MICROS: u64 = 1_000_000;

/// Where the snapshot lies, whose it is, and what it is sealed under. Prints no key.
#[derive(Clone)]
pub(crate) struct Place {
    /// Of the snapshot alone.
    pub(crate) folder: PathBuf,
    pub(crate) node: String,
    /// This node, and the authority that it believes.
    pub(crate) identity: Identity,
    key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("folder", &self.folder).field("node", &self.node).finish_non_exhaustive()
    }
}

/// The file with the key that snapshots are sealed under.
pub(crate) fn key_file(keys: &Path) -> PathBuf {
    keys.join("snapshot.key")
}

impl Place {
    /// In `folder`, sealed under the key in `keys`, which is made when there is none.
    pub(crate) fn open(
        folder: PathBuf,
        keys: &Path,
        master_keys: &MasterKeys,
        node: &str,
        identity: Identity,
    ) -> Result<Self, SealedFileError> {
        let make = || {
            let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
            let filled = aws_lc_rs::rand::fill(&mut key);
            filled.map_err(|_| std::io::Error::other("the operating system gives no randomness"))?;
            Ok(key)
        };
        let key = sealed_file::read_or_create(&key_file(keys), master_keys, make)?;
        Ok(Self { folder, node: node.to_owned(), identity, key })
    }

    fn cluster(&self) -> Option<String> {
        self.identity.id().map(|id| id.cluster)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("config.snapshot")
    }

    /// The next one, while it is written.
    fn partial(&self) -> PathBuf {
        self.folder.join("config.snapshot.partial")
    }

    /// Whether a control plane of this cluster said so, at a time when it could.
    fn believe(&self, said: &v1::Statement) -> Result<(), NotBelieved> {
        let cluster = self.cluster().ok_or(NotBelieved::Nobody)?;
        let word = Word { certificate: said.certificate.clone(), signature: said.signature.clone() };
        let message = statement::message(&cluster, said);
        self.identity.believe(&word, &message, Role::ControlPlane, said.time / MICROS).map(drop)
    }

    /// Puts away whatever is kept or begun.
    pub(crate) fn discard(&self) -> std::io::Result<()> {
        gone(std::fs::remove_file(self.partial()))?;
        self.remove()
    }

    /// Puts away what is kept.
    fn remove(&self) -> std::io::Result<()> {
        gone(std::fs::remove_file(self.file()))?;
        // Without the folder there is nothing to sync, and nothing kept.
        match std::fs::File::open(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            opened => opened?.sync_all(),
        }
    }
}

fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
