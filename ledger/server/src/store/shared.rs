//! The store as the tasks of one role share it, and how it comes back after a disk was full.
//!
//! A database that failed to write once refuses all writes until it is opened anew, so the sequencer calls `repair`
//! before it tries again. Readers hold the store for one call at a time; while there is no room to open it for
//! writing it stays open for reading. Nothing can be lost on the way: what was acknowledged is synced.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use super::{Store, StoreError};

/// Free space without which opening for writing is not even tried: new files of the database start about this large.
const ROOM_BYTES: usize = 4 * 1024 * 1024;

/// Cheap to clone; all clones are one store.
#[derive(Clone, Debug)]
pub(crate) struct SharedStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// Absent only when the last repair could not even open it for reading.
    store: RwLock<Option<Store>>,
}

impl SharedStore {
    /// Shares `store`, which was opened from `folder`.
    pub(crate) fn new(folder: PathBuf, store: Store) -> Self {
        Self(Arc::new(Shared { folder, store: RwLock::new(Some(store)) }))
    }

    /// Lends the store to `work`; blocks like it does.
    pub(crate) fn lend<T>(&self, work: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let store = self.0.store.read().unwrap_or_else(PoisonError::into_inner);
        work(store.as_ref().ok_or(StoreError::Closed)?)
    }

    /// Lends the store to `work` where blocking is allowed.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || shared.lend(work)).await.map_err(|_| StoreError::Interrupted)?
    }

    /// Opens the database anew, if there is room. Blocks.
    /// # Errors
    /// When there is no room, or it cannot be opened; then it is at best open for reading.
    pub(crate) fn repair(&self) -> Result<(), StoreError> {
        self.probe().map_err(StoreError::Full)?;
        let mut store = self.0.store.write().unwrap_or_else(PoisonError::into_inner);
        #[cfg(test)]
        let faults = store.as_ref().map(|store| Arc::clone(&store.faults)).unwrap_or_default();
        // Its lock on the folder ends with it.
        drop(store.take());
        match Store::open(&self.0.folder) {
            Ok(opened) => {
                *store = Some(Store {
                    #[cfg(test)]
                    faults,
                    ..opened
                });
                Ok(())
            }
            Err(error) => {
                *store = Store::open_read_only(&self.0.folder).ok();
                Err(error)
            }
        }
    }

    /// Repairs where blocking is allowed.
    pub(crate) async fn repair_elsewhere(&self) -> Result<(), StoreError> {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || shared.repair()).await.map_err(|_| StoreError::Interrupted)?
    }

    /// Whether the disk takes a few megabytes.
    fn probe(&self) -> std::io::Result<()> {
        let path = self.0.folder.with_extension("probe");
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; ROOM_BYTES])?;
            file.sync_all()
        });
        // What was written of it would take the room that others wait for.
        let removed = fs::remove_file(&path);
        written.and(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Batch, *};

    #[test]
    fn a_repaired_store_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let shared = SharedStore::new(path.clone(), Store::open(&path).unwrap());
        shared.lend(|store| store.bind_identity("example.org/log", "key")).unwrap();
        shared.repair().unwrap();
        shared.lend(|store| store.commit(&Batch::default())).unwrap();
        assert_eq!(shared.lend(Store::verifier_key).unwrap().as_deref(), Some("key"));
        assert!(!path.with_extension("probe").exists());
    }

    #[test]
    fn a_store_that_cannot_be_written_still_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let shared = SharedStore::new(path.clone(), Store::open(&path).unwrap());
        shared.lend(|store| store.bind_identity("example.org/log", "key")).unwrap();
        // As good as a full disk: somebody else holds the lock.
        let lock = path.join("LOCK");
        let broken = SharedStore::new(path.clone(), Store::open_read_only(&path).unwrap());
        assert!(lock.exists() && broken.repair().is_err());
        assert_eq!(broken.lend(Store::verifier_key).unwrap().as_deref(), Some("key"));
        drop(shared);
        broken.repair().unwrap();
        broken.lend(|store| store.commit(&Batch::default())).unwrap();
    }
}
