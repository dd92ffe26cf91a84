//! The vault: the cluster's secrets, sealed in replicated state, opened in memory.
//!
//! Every node opens what the state holds, at start and whenever it changes; the leader makes what is missing and seals
//! everything anew when the master key is rotated. A secret is bound to its column, key and edition, so a ciphertext
//! put in another's place does not open. A node that cannot open a secret does not serve: it would issue nothing and
//! understand no session, and the likeliest cause is the wrong master key. Absent: what secrets mean (`keys`), the
//! sealing itself (`runtime::master_key`), who may ask for a rotation.

mod contents;
mod contexts;
mod keys;
mod ring;
mod rotation;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bailiwick_control_plane_core::{
    Command, Rejection, State,
    secret::{self, SealSecret},
};
use bailiwick_runtime::{
    MasterKeys, Shutdown,
    master_key::{MasterKeyError, Place, Sealed},
    sealed_file,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::contents::{Contents, Kind};
pub(crate) use self::keys::{Rotation, Upkeep};
pub(crate) use self::rotation::{RotateError, Rotated};
use crate::{
    domain::{Caller, Domain, WriteError},
    keys::{KeySet, Keys, sealed_at, token_key},
};

/// Who makes secrets: the leader, whichever node that is.
const ACTOR: &str = "control-plane";
/// A secret sealed by somebody else meanwhile is sealed again so often.
const ROUNDS_MAX: usize = 16;

/// Why the secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The master key is another one, or a ciphertext was changed.
    #[error("the secret {name} cannot be opened: {source}")]
    Sealed {
        /// Column and key.
        name: String,
        /// Why, and what to do.
        source: MasterKeyError,
    },
    /// It opened, but is nothing this version knows.
    #[error("the secret {0} opens, but does not hold what this version keeps there")]
    Content(String),
    /// It cannot be sealed.
    #[error(transparent)]
    Master(#[from] MasterKeyError),
    /// Others seal the same secret all the time.
    #[error("{0} is being sealed by others again and again")]
    Contended(String),
    /// No key can be made.
    #[error("a key cannot be made: {0}")]
    Make(String),
    /// It cannot be replicated.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The secrets of the cluster; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Vault(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    masters: MasterKeys,
    /// Sealed files of this node, which follow a rotation.
    files: Vec<PathBuf>,
    contents: Mutex<Contents>,
    keys: watch::Sender<Arc<KeySet>>,
    /// Of the cluster's own keys one is rotated at a time.
    rotating: tokio::sync::Mutex<()>,
}

impl Vault {
    /// An empty vault; `files` are sealed under the same master key and follow it.
    pub(crate) fn new(masters: MasterKeys, files: Vec<PathBuf>) -> Self {
        let (keys, contents) = (watch::Sender::new(Arc::default()), Mutex::default());
        Self(Arc::new(Inner { masters, files, contents, keys, rotating: tokio::sync::Mutex::default() }))
    }

    /// The opened keys, live.
    pub(crate) fn keys(&self) -> Keys {
        Keys::new(self.0.keys.subscribe())
    }

    /// The master keys of this node.
    pub(crate) fn masters(&self) -> &MasterKeys {
        &self.0.masters
    }

    /// Opens what is new in `state`.
    pub(crate) fn take_in(&self, state: &State) -> Result<(), VaultError> {
        let mut contents = self.0.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (name, sealed) in &state.secrets {
            if contents.edition(name) == sealed.edition {
                continue;
            }
            let opened = match self.open(name, sealed) {
                // The key may have come since this process read its file.
                Err(VaultError::Sealed { source: MasterKeyError::Missing { .. }, .. })
                    if self.0.masters.reload().is_ok() =>
                {
                    self.open(name, sealed)?
                }
                opened => opened?,
            };
            changed |= contents.put(name, sealed.edition, opened);
        }
        changed |= contents.follow(state);
        // A secret that is sealed anew holds what it held, and is of another edition, which is waited for (`keys`).
        let is_of_then = self.0.keys.borrow().sealed_at != sealed_at(state);
        if contents.deliver(&state.credentials) || changed || is_of_then {
            let keys = contents.keys(state)?;
            self.0.keys.send_replace(Arc::new(keys));
        }
        Ok(())
    }

    /// Takes in whatever is new, until shutdown; returns an error once something cannot be opened.
    pub(crate) async fn follow(
        self,
        domain: Domain,
        mut revisions: watch::Receiver<u64>,
        shutdown: Shutdown,
    ) -> Result<(), VaultError> {
        let mut agreed = domain.read(|state| state.master_key.clone());
        self.follow_files();
        while let Some(Ok(())) = shutdown.or_stop(revisions.changed()).await {
            domain.read(|state| self.take_in(state))?;
            let now = domain.read(|state| state.master_key.clone());
            if now != agreed {
                agreed = now;
                self.follow_files();
            }
        }
        Ok(())
    }

    /// Seals this node's own files under its newest master key.
    fn follow_files(&self) {
        if let Err(error) = self.0.masters.reload() {
            tracing::warn!(%error, "the master key cannot be read again; the one in memory is used");
        }
        for file in &self.0.files {
            if let Err(error) = sealed_file::reseal(file, &self.0.masters) {
                tracing::error!(%error, "a sealed file does not follow the master key; keep the older one");
            }
        }
    }

    /// Makes the secrets that are missing, as the leader, and registers what is public of them.
    pub(crate) async fn create_missing(&self, domain: &Domain) -> Result<(), VaultError> {
        for kind in Kind::ALL {
            let (missing, cluster) = domain.read(|state| {
                let missing = !state.secrets.contains_key(&kind.name());
                (missing, state.cluster.as_ref().map(|cluster| cluster.id.clone()))
            });
            if !missing {
                continue;
            }
            let Some(plain) = kind.make(cluster.as_deref())? else { continue };
            let sealing = domain.read(|state| self.seal(state, kind.column(), kind.key(), &plain, None))?;
            match domain.write(Command::SealSecret(sealing), caller()).await {
                // Another leader was faster.
                Ok(_) | Err(WriteError::Rejected(Rejection::SecretEdition { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Both of one moment: what was retired in between is not to be listed again.
        let is_listed = domain.read(|state| {
            self.take_in(state)?;
            Ok::<_, VaultError>(self.keys().signing(state).is_some())
        })?;
        if let Some(signing) = self.keys().newest_signing().filter(|_| !is_listed) {
            let public = token_key(&signing).map_err(|error| VaultError::Make(error.to_string()))?;
            domain.write(Command::RegisterTokenKey(public), caller()).await?;
        }
        Ok(())
    }

    /// Seals a secret in its next edition, whatever was there.
    pub(crate) async fn put(&self, domain: &Domain, column: &str, key: &str, plain: &[u8]) -> Result<(), VaultError> {
        for _ in 0..ROUNDS_MAX {
            let sealing = domain.read(|state| self.seal(state, column, key, plain, None))?;
            match domain.write(Command::SealSecret(sealing), caller()).await {
                Ok(_) => return domain.read(|state| self.take_in(state)),
                // Somebody else sealed meanwhile; the later word counts.
                Err(WriteError::Rejected(Rejection::SecretEdition { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(VaultError::Contended(secret::name(column, key)))
    }

    /// Seals nothing in a secret's place, so that its ciphertext may be forgotten.
    pub(crate) async fn void(&self, domain: &Domain, column: &str, key: &str) -> Result<(), VaultError> {
        domain.read(|state| self.take_in(state))?;
        let held = {
            let contents = self.0.contents.lock().unwrap_or_else(PoisonError::into_inner);
            contents.plain(&secret::name(column, key)).is_some_and(|plain| !plain.is_empty())
        };
        if held { self.put(domain, column, key, &[]).await } else { Ok(()) }
    }

    fn open(&self, name: &str, secret: &secret::Secret) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let content = || VaultError::Content(name.to_owned());
        let nonce = hex::decode(&secret.nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or_else(content)?;
        let bytes = hex::decode(&secret.sealed).map_err(|_| content())?;
        let place = Place { column: &secret.column, key: &secret.key, revision: secret.edition };
        let sealed = Sealed { master: secret.master.clone(), nonce, bytes };
        let opened = self.0.masters.open(place, &sealed);
        opened.map_err(|source| VaultError::Sealed { name: name.to_owned(), source })
    }

    /// The next edition of a secret, under `master`, or under the one that is in use.
    fn seal(
        &self,
        state: &State,
        column: &str,
        key: &str,
        plain: &[u8],
        master: Option<&str>,
    ) -> Result<SealSecret, VaultError> {
        let edition = state.secrets.get(&secret::name(column, key)).map_or(0, |known| known.edition).saturating_add(1);
        let newest = self.0.masters.newest();
        let master = master.or_else(|| secret::master_in_use(state)).unwrap_or(&newest);
        let sealed = self.0.masters.seal_under(master, Place { column, key, revision: edition }, plain)?;
        Ok(SealSecret {
            column: column.to_owned(),
            key: key.to_owned(),
            edition,
            master: sealed.master,
            nonce: hex::encode(sealed.nonce),
            sealed: hex::encode(sealed.bytes),
        })
    }
}

fn caller() -> Caller {
    Caller { actor: ACTOR.to_owned(), request_id: String::new() }
}
