//! Rotation of the master key: every secret sealed anew under the newest one, while everything goes on.
//!
//! Asked of the leader once the new key stands first in every control plane's file. Refused while one of them lacks it,
//! because that one could not open the new editions. Each secret is a change of its own, then one change says that all
//! are done; broken off anywhere, the next attempt goes on from there. Until then both keys are needed, afterwards old
//! backups still need the older one.

use std::collections::BTreeMap;

use bailiwick_control_plane_core::{Command, Rejection};

use super::{Vault, VaultError, caller};
use crate::domain::{Caller, Domain, WriteError};

/// A secret sealed by somebody else meanwhile is looked at again so often.
const ROUNDS_MAX: usize = 16;

/// What a rotation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rotated {
    /// Name of the key that everything is sealed under.
    pub(crate) master: String,
    /// How many secrets there are.
    pub(crate) secrets: u64,
    /// Of the change that says so.
    pub(crate) revision: u64,
}

/// Why the master key was not rotated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    /// A member could not open anything any more.
    #[error(
        "control plane \"{member}\" does not hold the newest master key {master}; put that key first into its \
         [master_key] file, keep the older ones below, and ask again"
    )]
    Lacks {
        /// Who.
        member: String,
        /// Name of the key.
        master: String,
    },
    /// Nobody knows what it holds.
    #[error("control plane \"{0}\" does not answer, so nobody knows whether it holds the newest master key")]
    Silent(String),
    /// The key file cannot be read.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl Vault {
    /// Seals everything under this node's newest master key. `held` says for each control plane which keys it holds;
    /// `None` where it does not answer.
    pub(crate) async fn rotate(
        &self,
        domain: &Domain,
        held: &BTreeMap<String, Option<Vec<String>>>,
        caller_of: Caller,
    ) -> Result<Rotated, RotateError> {
        self.0.masters.reload().map_err(VaultError::from)?;
        let master = self.0.masters.newest();
        for (member, keys) in held {
            let keys = keys.as_ref().ok_or_else(|| RotateError::Silent(member.clone()))?;
            if !keys.contains(&master) {
                return Err(RotateError::Lacks { member: member.clone(), master });
            }
        }
        domain.read(|state| self.take_in(state))?;
        for _ in 0..ROUNDS_MAX {
            let stale: Vec<(String, String, String)> = domain.read(|state| {
                let old = state.secrets.iter().filter(|(_, secret)| secret.master != master);
                old.map(|(name, secret)| (name.clone(), secret.column.clone(), secret.key.clone())).collect()
            });
            if stale.is_empty() {
                break;
            }
            for (name, column, key) in stale {
                self.reseal(domain, &name, &column, &key, &master).await?;
            }
        }
        let written = domain.write(Command::RotateMasterKey { master: master.clone() }, caller_of).await;
        let written = written.map_err(VaultError::from)?;
        let secrets = domain.read(|state| u64::try_from(state.secrets.len()).unwrap_or(u64::MAX));
        Ok(Rotated { master, secrets, revision: written.revision })
    }

    async fn reseal(
        &self,
        domain: &Domain,
        name: &str,
        column: &str,
        key: &str,
        master: &str,
    ) -> Result<(), VaultError> {
        let sealing = domain.read(|state| {
            self.take_in(state)?;
            let contents = self.0.contents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let plain = contents.plain(name).ok_or_else(|| VaultError::Content(name.to_owned()))?;
            drop(contents);
            self.seal(state, column, key, &plain, Some(master))
        })?;
        match domain.write(Command::SealSecret(sealing), caller()).await {
            Ok(_) | Err(WriteError::Rejected(Rejection::SecretEdition { .. })) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
