//! What is kept on disk of all this, and what was restored from there.
//!
//! Called by `role` (what was restored, and when it counts), `config_client` and `lane`. A restored configuration is
//! in force at once, so that the config stream resumes from it, but counts for nothing until
//! [`ConfigState::count_kept`]: a node that reaches a control plane waits for its lease, as ever. From then on it is
//! like a configuration whose lease ran out, as old as the statement it was kept with. Without a keeper all of this
//! does nothing.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use bailiwick_data_plane_core::sealed::SealingKeys;
use bailiwick_proto::{denial::narrows, v1};
use tokio::{sync::watch, time::Instant};

use super::{ConfigState, leases::Lease};
use crate::snapshot::{Keeper, Restored};

/// When a control plane stated what was restored, and how old that may become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stated {
    at: Instant,
    usable: Duration,
}

impl ConfigState {
    /// Puts in force what was kept; it may become `usable` old.
    pub(crate) fn restore(&self, restored: Restored, usable: Duration) {
        let Restored { catalogue, keys, age, .. } = restored;
        if let Some(keys) = keys {
            self.use_sealing_keys(&keys);
        }
        let mut held = self.catalogue();
        *held = catalogue;
        self.publish(&held);
        drop(held);
        // A clock that cannot go back so far began later than that: nothing can be said of the age then.
        let stated = self.surroundings.now().checked_sub(age).map(|at| Stated { at, usable });
        *self.stated.lock().unwrap_or_else(PoisonError::into_inner) = stated;
    }

    /// Has what was restored count, unless a lease did meanwhile. True when that is news.
    pub(crate) fn count_kept(&self) -> bool {
        let stated = self.stated.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Stated { at, usable }) = stated else { return false };
        self.leases().resume(Lease { asked: at, length: Duration::ZERO, usable: usable.min(self.max_staleness) })
    }

    /// From now on what comes into force is kept.
    pub(crate) fn keep(&self, keeper: Keeper) {
        // Once, by whoever starts the node.
        drop(self.keeper.set(keeper));
    }

    /// What a control plane stated of what is in force.
    pub(crate) fn statement(&self, statement: v1::Statement) {
        if let Some(keeper) = self.keeper.get()
            && self.held() == (statement.revision, statement.digest.clone())
        {
            keeper.statement(statement);
        }
    }

    /// Other session keys, or other secrets for servers.
    pub(crate) fn sealing_keys_came(&self, keys: v1::Keys) {
        if self.use_sealing_keys(&keys)
            && let Some(keeper) = self.keeper.get()
        {
            keeper.keys(keys);
        }
    }

    fn use_sealing_keys(&self, keys: &v1::Keys) -> bool {
        self.credentials.replace(&keys.credentials);
        self.binding_keys.replace(&keys.token_binding);
        self.credentials.contexts.replace(&keys.context_signing);
        match SealingKeys::new(&keys.session_sealing) {
            Ok(keys) => {
                self.set_sealing_keys(keys);
                true
            }
            Err(error) => {
                tracing::error!(%error, "the session keys cannot be used; the older ones stay");
                false
            }
        }
    }

    /// Keeps how old what is in force is by now, so that a restart does not take it for younger.
    pub(crate) fn note_age(&self) {
        if let (Some(keeper), Some(age)) = (self.keeper.get(), self.age()) {
            keeper.aged(age);
        }
    }

    /// Waits until another frame may be taken.
    pub(crate) async fn room(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.room().await;
        }
    }

    /// Keeps what a delta takes away at once; the rest may wait for a statement.
    pub(super) fn keep_denials(&self, keeper: &Keeper, delta: &v1::Delta) {
        let changes: Vec<_> = delta.changes.iter().filter(|change| narrows(change)).cloned().collect();
        if !changes.is_empty() {
            keeper.denials(v1::Denials { revision: delta.to, changes, ..v1::Denials::default() });
            self.unsynced.store(true, Ordering::Release);
        }
    }

    /// Waits, if need be, until what the config stream took away outlasts a restart; false when it cannot.
    pub(crate) async fn acknowledgement_lasts(&self) -> bool {
        !self.unsynced.swap(false, Ordering::AcqRel) || self.denials_last().await
    }

    /// Waits until what was denied so far outlasts a restart; false when it cannot.
    pub(crate) async fn denials_last(&self) -> bool {
        match self.keeper.get() {
            Some(keeper) => keeper.durable().await,
            None => true,
        }
    }

    /// Changes when a whole snapshot is wished for, as what was kept is lost.
    pub(crate) fn snapshot_wishes(&self) -> Option<watch::Receiver<u64>> {
        self.keeper.get().map(Keeper::wishes)
    }
}
