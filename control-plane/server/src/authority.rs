//! Certificates for members, signed with the authority's key from the vault.
//!
//! `enrolment` signs for others; a control plane signs for itself, as it has the key anyway, so that it needs nobody to
//! go on: not a leader, not even a colleague. Time comes from the identity, so a test can move it.

use std::{sync::Arc, time::Duration};

use bailiwick_enrolment::{Membership, renew};
use bailiwick_runtime::{
    Identity, Shutdown,
    authority::AuthorityError,
    connect::Targets,
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

/// Who renews a certificate for a node that cannot.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) membership: Membership,
    pub(crate) targets: Targets,
}

impl Own {
    /// Installs a fresh certificate; `false` while the vault has no authority.
    pub(crate) fn certify(&self, keys: &Keys) -> Result<bool, CertifyError> {
        let Some(authority) = keys.authority() else { return Ok(false) };
        let certificate = authority.issue(&self.id, self.key.public_key(), self.identity.now())?;
        self.identity.install(&certificate, authority.certificate(), &self.key)?;
        Ok(true)
    }

    async fn ask(&self, elsewhere: Option<&Elsewhere>, shutdown: &Shutdown) {
        let Some(Elsewhere { membership, targets }) = elsewhere else { return };
        let asked = renew(membership, &self.key, &self.identity, targets, env!("CARGO_PKG_VERSION"));
        if let Some(Err(error)) = shutdown.or_stop(asked).await {
            tracing::warn!(%error, "this node's certificate cannot be renewed yet; trying again");
            targets.advance();
        }
    }

    /// Certifies itself as soon as the authority is there, and whenever half of a certificate's life is over. Until it
    /// has the authority (it joined and has not caught up), it has others do so.
    pub(crate) async fn keep(self, mut keys: Keys, elsewhere: Option<Elsewhere>, shutdown: Shutdown) {
        loop {
            let due = self.identity.validity().is_none_or(|validity| validity.is_due(self.identity.now()));
            match due.then(|| self.certify(&keys)) {
                Some(Err(error)) => tracing::error!(%error, "this node cannot certify itself; trying again"),
                Some(Ok(false)) => self.ask(elsewhere.as_ref(), &shutdown).await,
                Some(Ok(true)) | None => {}
            }
            let pause = async {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    changed = keys.changed() => if changed.is_err() {
                        // Nobody changes keys any more: only time matters.
                        tokio::time::sleep(LOOK_EVERY).await;
                    },
                }
            };
            if shutdown.or_stop(pause).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bailiwick_runtime::authority::{Authority, CERTIFICATE_SECONDS};
    use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
    use tokio::sync::watch;

    use super::*;
    use crate::keys::KeySet;

    #[derive(Clone, Debug)]
    struct Clock(Arc<AtomicU64>);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_certifies_itself_once_it_can_and_at_half_of_each_certificates_life() {
        let clock = Clock(Arc::new(AtomicU64::new(1_800_000_000)));
        let identity = Identity::new(Arc::new(clock.clone()));
        let id: SpiffeId = "spiffe://00ff.bailiwick/control-plane/2/cp-2".parse().unwrap();
        let own = Own { id: id.clone(), key: Arc::new(NodeKey::generate().unwrap()), identity: identity.clone() };
        let (keys, shutdown) = (watch::Sender::new(Arc::new(KeySet::default())), Shutdown::new());
        assert!(!own.certify(&Keys::new(keys.subscribe())).unwrap());
        let keeping = own.keep(Keys::new(keys.subscribe()), None, shutdown.clone());
        let test = async {
            let mut changes = identity.changes();
            let ca = NodeKey::generate().unwrap();
            let certificate = Authority::create("00ff", &ca, identity.now()).unwrap();
            let authority = Some(Arc::new(Authority::open(&certificate, &ca).unwrap()));
            keys.send_replace(Arc::new(KeySet { authority, ..KeySet::default() }));
            changes.changed().await.unwrap();
            assert_eq!(identity.id(), Some(id));
            let mut before = identity.validity().unwrap();
            for forward in [before.half_life() - identity.now(), 3 * CERTIFICATE_SECONDS] {
                clock.0.fetch_add(forward, Ordering::Relaxed);
                changes.changed().await.unwrap();
                let now = identity.validity().unwrap();
                assert!(now.not_after > before.not_after);
                before = now;
            }
            shutdown.request();
        };
        tokio::join!(keeping, test);
    }
}
