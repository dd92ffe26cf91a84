//! Snapshot files: the whole event log up to one position, for peers that are too far behind and for purging the log.
//! Making one first forgets the changes that later ones made void, here as in the file.
//!
//! One file is *the* snapshot: `meta/snapshot` names it once it is whole and synced; any other is removed at start.
//! A snapshot from elsewhere is verified (checksum, Merkle root, cluster), copied, and named in `meta/installing` while
//! its rows replace the stored ones; a start that finds that name does it again from the beginning, so half of a
//! snapshot is never folded. One lock keeps out two that forget, replace or read all changes at once.
//! Absent: the bytes of a file (`layout`); how files travel (`arrival`, `network`).

mod layout;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use openraft::RaftSnapshotBuilder;
use prost::Message as _;

pub(super) use self::layout::{Reader, Writer};
use super::{
    changes::{self, Row, Void},
    disk::{Durability, Family, corrupted},
    format::{Applied, SnapshotHeader},
    raft::{self, Types},
    store::{Batch, Store, meta_key},
};

const SUFFIX: &str = ".snapshot";
/// Rows of a snapshot written to the store at once.
pub(super) const INSTALL_BYTES: usize = 4 * 1024 * 1024;

/// A snapshot on the disk.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFile {
    store: Store,
    name: String,
}

impl SnapshotFile {
    /// Its bytes.
    pub(super) fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.store.disk().blob_open(&self.name)
    }

    /// How far it goes. Reads and verifies the whole file.
    fn verify(&self) -> io::Result<Applied> {
        let reader = Reader::open(self.open()?)?;
        let applied = of_this_cluster(&self.store, reader.header())?;
        reader.rows(|_| Ok(()))?;
        Ok(applied)
    }
}

/// The snapshots of one node. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    store: Store,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Held while changes are forgotten, replaced, or read as a whole.
    whole: Mutex<()>,
    /// The snapshot, once it has been made or verified since the start.
    current: Mutex<Option<(SnapshotFile, Applied)>>,
    made: AtomicU64,
}

impl Snapshots {
    /// Snapshots on the disk of `store`.
    pub(super) fn open(store: Store) -> Self {
        Self { store, shared: Arc::default() }
    }

    /// Ends what a crash interrupted, and removes files that no name stands for. Blocks.
    pub(super) fn recover(&self) -> io::Result<()> {
        if let Some(name) = self.name_in(meta_key::INSTALLING)? {
            tracing::info!(name, "a crash interrupted the installation of a snapshot; doing it again");
            let file = SnapshotFile { store: self.store.clone(), name };
            self.replace(&file, &file.verify()?)?;
        }
        let kept = self.name_in(meta_key::SNAPSHOT)?;
        self.remove_others(kept.as_deref())
    }

    /// The snapshot, if there is one that verifies. Blocks.
    pub(super) fn newest(&self) -> io::Result<Option<raft::Snapshot>> {
        if let Some((file, applied)) = self.current().clone() {
            return snapshot(&applied, file).map(Some);
        }
        let Some(name) = self.name_in(meta_key::SNAPSHOT)? else { return Ok(None) };
        let file = SnapshotFile { store: self.store.clone(), name };
        match file.verify() {
            Ok(applied) => {
                *self.current() = Some((file.clone(), applied.clone()));
                snapshot(&applied, file).map(Some)
            }
            Err(error) => {
                tracing::warn!(name = file.name, %error, "the snapshot does not verify; it is not used");
                Ok(None)
            }
        }
    }

    /// The snapshot in a file that has come from elsewhere, if it verifies. Blocks.
    pub(super) fn arrived(&self, name: &str) -> io::Result<raft::Snapshot> {
        let file = SnapshotFile { store: self.store.clone(), name: name.to_owned() };
        let applied = file.verify()?;
        snapshot(&applied, file)
    }

    /// Makes the stored state that of a snapshot from elsewhere, and keeps that as the snapshot. Blocks.
    pub(super) fn install(&self, meta: &raft::SnapshotMeta, from: &SnapshotFile) -> io::Result<()> {
        let _whole = self.whole();
        let claimed = meta.last_log_id.map_or(0, |id| id.index);
        let kept = SnapshotFile { store: self.store.clone(), name: self.name(claimed) };
        let mut out = self.store.disk().blob_create(&kept.name)?;
        io::copy(&mut from.open()?, &mut out)?;
        out.publish()?;
        let applied = kept.verify()?;
        if applied.log_id() != meta.last_log_id || applied.stored_members()? != meta.last_membership {
            return Err(corrupted("a snapshot is not what its sender said"));
        }
        self.replace(&kept, &applied)?;
        self.remove_others(Some(&kept.name))?;
        *self.current() = Some((kept, applied));
        Ok(())
    }

    /// Puts the rows of `file`, which verifies, in place of the stored ones. A crash anywhere leaves
    /// `meta/installing`, or all done.
    fn replace(&self, file: &SnapshotFile, applied: &Applied) -> io::Result<()> {
        *self.current() = None;
        let mut batch = Batch::default();
        batch.put_meta(meta_key::INSTALLING, file.name.as_bytes());
        batch.delete_meta(meta_key::APPLIED);
        batch.delete_changes();
        self.store.commit(batch, Durability::Synced)?;
        let mut rows = Rows::new(&self.store);
        Reader::open(file.open()?)?.rows(|row| rows.put(row))?;
        let mut batch = rows.rest();
        batch.put_meta(meta_key::APPLIED, &applied.encode_to_vec());
        batch.put_meta(meta_key::SNAPSHOT, file.name.as_bytes());
        batch.delete_meta(meta_key::INSTALLING);
        self.store.commit(batch, Durability::Synced)
    }

    /// Forgets void changes and writes the state at `applied` to a file. Where a newer snapshot has been installed
    /// since, that one is the answer. Blocks.
    fn build(&self, applied: &Applied, void: &[u64]) -> io::Result<raft::Snapshot> {
        let whole = self.whole();
        if let Some((file, newer)) = self.current().clone().filter(|(_, newer)| newer.revision() > applied.revision()) {
            return snapshot(&newer, file);
        }
        changes::forget(&self.store, void)?;
        let file = SnapshotFile { store: self.store.clone(), name: self.name(applied.revision()) };
        let out = self.store.disk().blob_create(&file.name)?;
        let (out, _) = write_state(&self.store, header(&self.store, applied.clone()), out)?;
        out.publish()?;
        let mut batch = Batch::default();
        batch.put_meta(meta_key::SNAPSHOT, file.name.as_bytes());
        self.store.commit(batch, Durability::Synced)?;
        self.remove_others(Some(&file.name))?;
        *self.current() = Some((file.clone(), applied.clone()));
        drop(whole);
        // What was purged after earlier snapshots; the range markers it left make reading slow.
        self.store.disk().compact(Family::Log)?;
        snapshot(applied, file)
    }

    /// Keeps everybody else from forgetting or replacing changes.
    pub(super) fn whole(&self) -> MutexGuard<'_, ()> {
        self.shared.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> MutexGuard<'_, Option<(SnapshotFile, Applied)>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name that no other file of this node ever had.
    fn name(&self, revision: u64) -> String {
        let made = self.shared.made.fetch_add(1, Ordering::Relaxed);
        format!("{revision:020}-{}-{made}{SUFFIX}", self.store.starts())
    }

    fn name_in(&self, key: &str) -> io::Result<Option<String>> {
        let Some(bytes) = self.store.get(Family::Meta, key)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(corrupted)
    }

    fn remove_others(&self, kept: Option<&str>) -> io::Result<()> {
        let disk = self.store.disk();
        disk.blob_list()?.iter().filter(|name| Some(name.as_str()) != kept).try_for_each(|name| disk.blob_remove(name))
    }
}

/// Rows on their way into the store, some megabytes at a time.
pub(super) struct Rows<'a> {
    store: &'a Store,
    batch: Batch,
    bytes: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, batch: Batch::default(), bytes: 0 }
    }

    pub(super) fn put(&mut self, row: Row<'_>) -> io::Result<()> {
        match row {
            Row::Change { revision, bytes, .. } => {
                self.batch.put_change(revision, bytes.to_vec());
                self.bytes += bytes.len();
            }
            Row::Void(void) => {
                self.batch.put(Family::Tree, Void::key(void.first, void.level), void.hash.to_vec());
                self.bytes += void.hash.len();
            }
        }
        if self.bytes >= INSTALL_BYTES {
            self.bytes = 0;
            self.store.commit(std::mem::take(&mut self.batch), Durability::Written)?;
        }
        Ok(())
    }

    /// What has not been written yet.
    pub(super) fn rest(self) -> Batch {
        self.batch
    }
}

/// Writes the state that `header` describes as a file; says how many changes are in it.
pub(super) fn write_state<W: io::Write>(store: &Store, header: SnapshotHeader, out: W) -> io::Result<(W, u64)> {
    let last = header.applied.as_ref().map_or(0, Applied::revision);
    let mut writer = Writer::new(out, &header)?;
    changes::read(store, last, |row| writer.row(row))?;
    writer.finish()
}

/// The header of a file of this node's cluster.
pub(super) fn header(store: &Store, applied: Applied) -> SnapshotHeader {
    let birth = store.birth();
    SnapshotHeader {
        applied: Some(applied),
        cluster_id: birth.cluster_id.clone(),
        incarnation: birth.incarnation.clone(),
        created_unix_ms: 0,
    }
}

fn of_this_cluster(store: &Store, header: &SnapshotHeader) -> io::Result<Applied> {
    let birth = store.birth();
    if header.cluster_id != birth.cluster_id || header.incarnation != birth.incarnation {
        return Err(corrupted("a snapshot is of another cluster, or of another life of this one"));
    }
    header.applied.clone().ok_or_else(|| corrupted("a snapshot names no position"))
}

fn snapshot(applied: &Applied, file: SnapshotFile) -> io::Result<raft::Snapshot> {
    let meta = raft::SnapshotMeta { last_log_id: applied.log_id(), last_membership: applied.stored_members()? };
    Ok(raft::Snapshot { meta, snapshot: file })
}

/// Builds one snapshot of the state as it was when the builder was made.
#[derive(Debug)]
pub(super) struct SnapshotBuilder {
    snapshots: Snapshots,
    applied: Applied,
    void: Vec<u64>,
}

impl SnapshotBuilder {
    /// `void`: changes up to `applied` that others up to `applied` made void.
    pub(super) const fn new(snapshots: Snapshots, applied: Applied, void: Vec<u64>) -> Self {
        Self { snapshots, applied, void }
    }
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<raft::Snapshot, io::Error> {
        let (snapshots, applied) = (self.snapshots.clone(), self.applied.clone());
        let void = std::mem::take(&mut self.void);
        let store = self.snapshots.store.clone();
        store.run(move |_| snapshots.build(&applied, &void)).await
    }
}
