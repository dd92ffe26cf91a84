//! Certificates for members, signed with the authority's key from the vault.
//!
//! `enrolment` signs for others; a control plane signs for itself, as it has the key anyway, so that it needs nobody to
//! go on: not a leader, not even a colleague. Time comes from the identity, so a test can move it.

use std::{sync::Arc, time::Duration};

use bailiwick_runtime::{
    Identity, Shutdown,
    authority::AuthorityError,
    identity::{IdentityError, NodeKey, SpiffeId},
};

use crate::keys::Keys;

/// How often it is looked whether the certificate is to be renewed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a node cannot certify itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertifyError {
    /// The authority refuses.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// What it signed cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Who this control plane is, and the key it enrolled with.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) id: SpiffeId,
    pub(crate) key: Arc<NodeKey>,
    pub(crate) identity: Identity,
}

impl Own {
    /// Installs a fresh certificate; `false` while the vault has no authority.
    pub(crate) fn certify(&self, keys: &Keys) -> Result<bool, CertifyError> {
        let Some(authority) = keys.authority() else { return Ok(false) };
        let certificate = authority.issue(&self.id, self.key.public_key(), self.identity.now())?;
        self.identity.install(&certificate, authority.certificate(), &self.key)?;
        Ok(true)
    }

    /// Certifies itself as soon as the authority is there, and whenever half of a certificate's life is over.
    pub(crate) async fn keep(self, mut keys: Keys, shutdown: Shutdown) {
        loop {
            let due = self.identity.validity().is_none_or(|validity| self.identity.now() >= validity.half_life());
            if due && let Err(error) = self.certify(&keys) {
                tracing::error!(%error, "this node cannot certify itself; trying again");
            }
            let pause = async {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    // Nobody changes keys any more: only time matters.
                    Err(_) = keys.changed() => tokio::time::sleep(LOOK_EVERY).await,
                    else => {}
                }
            };
            if shutdown.or_stop(pause).await.is_none() {
                return;
            }
        }
    }
}
