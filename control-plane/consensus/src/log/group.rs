//! Group commit: one sync for all appends that wait for one.
//!
//! While a sync runs, others append. When it ends, everybody who had written before it began is told, in order, and if
//! somebody has written since, the next sync begins at once. So a slow disk makes groups larger, not queues longer: the
//! library keeps the number of waiting appends bounded by what its peers and callers have under way.
//! After a failed sync everybody is told so, and the store takes no more writes.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{storage::IOFlushed, type_config::TypeConfigExt as _};

use crate::{raft::Types, store::Store};

/// Those who wait. Clones share them.
#[derive(Clone)]
pub(super) struct Group {
    store: Store,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// Their entries have been written, in this order.
    callbacks: Vec<IOFlushed<Types>>,
    /// Whether somebody is at it: they take care of whoever comes meanwhile.
    syncing: bool,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl Group {
    pub(super) fn new(store: Store) -> Self {
        Self { store, waiting: Arc::default() }
    }

    /// Reports to `callback` once everything written so far is on the disk.
    pub(super) fn report_synced(&self, callback: IOFlushed<Types>) {
        let mut waiting = self.lock();
        waiting.callbacks.push(callback);
        if std::mem::replace(&mut waiting.syncing, true) {
            return;
        }
        drop(waiting);
        let group = self.clone();
        if self.store.disk().inline() {
            drop(Types::spawn(async move { group.sync_in_place().await }));
        } else {
            drop(tokio::task::spawn_blocking(move || group.sync()));
        }
    }

    fn sync(&self) {
        while let Some(callbacks) = self.take() {
            tell(callbacks, &self.store.sync());
        }
    }

    async fn sync_in_place(&self) {
        let pause = self.store.disk().sync_delay() / 2;
        while let Some(callbacks) = self.take() {
            // A simulated crash may come before the sync as well as between the sync and the answer.
            self.store.pause(pause).await;
            let synced = self.store.sync();
            self.store.pause(pause).await;
            tell(callbacks, &synced);
        }
    }

    /// Those who wait now; nobody, and the next to come begins anew.
    fn take(&self) -> Option<Vec<IOFlushed<Types>>> {
        let mut waiting = self.lock();
        waiting.syncing = !waiting.callbacks.is_empty();
        waiting.syncing.then(|| std::mem::take(&mut waiting.callbacks))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(callbacks: Vec<IOFlushed<Types>>, synced: &io::Result<()>) {
    for callback in callbacks {
        callback.io_completed(match synced {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        });
    }
}
