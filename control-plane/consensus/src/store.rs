//! The one RocksDB of a control-plane node, and the contract of what it keeps.
//!
//! # Storage contract
//! | column family | key | value | written |
//! |---|---|---|---|
//! | `log` | index, big endian | `format::Entry` | synced before Raft is told |
//! | `meta` | a name | vote; how far purged, committed, applied; node; format | vote, node and format synced |
//! | `events` | revision, big endian | `format::Change` | in one batch with `meta/applied`, not synced |
//!
//! 1. All families share one write-ahead log, so a crash keeps a prefix of all writes in the order they were made.
//! 2. Nothing is acknowledged that is not in a synced prefix: a vote before it is cast, an entry before it counts.
//! 3. `events` and `meta/applied` change in one batch. A crash may forget that batch; the entries it came from are
//!    still in `log`, because purging them is a later write (rule 1). They are applied again, from the same bytes.
//! 4. The state is the fold of `events`, and nothing else is kept of it. Nothing in it is edited; only changes that
//!    later ones made void are removed, when a snapshot is made.
//! 5. After any failed write the node stops; it never writes again over a log of which the end is unknown.
//!
//! Called by `log`, `machine` and `snapshot`. Deliberately absent: meaning of events (`domain`).

use std::{io, path::Path, sync::Arc};

use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

use tokio::sync::watch;

use crate::format;

/// Column family of the Raft log.
pub(super) const LOG: &str = "log";
/// Column family of single values.
pub(super) const META: &str = "meta";
/// Column family of applied changes.
pub(super) const EVENTS: &str = "events";

/// The only layout so far; another one is refused rather than guessed.
const FORMAT_VERSION: u64 = 1;
/// A write-ahead log larger than this makes RocksDB flush, which bounds recovery time after a crash.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Memory per column family before it is written to a file.
const WRITE_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// RocksDB's own diagnostic files: enough to look back a little, small enough to forget.
const DIAGNOSTIC_FILES_MAX: usize = 4;

/// Single values in `meta`.
pub(super) mod meta_key {
    pub(crate) const VOTE: &str = "vote";
    pub(crate) const PURGED: &str = "purged";
    pub(crate) const COMMITTED: &str = "committed";
    pub(crate) const APPLIED: &str = "applied";
    pub(crate) const NODE: &str = "node";
    pub(crate) const FORMAT: &str = "format";
}

/// Whether a write must be on the disk before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Synced: survives the host.
    Synced,
    /// In the operating system's hands: survives the process.
    Written,
}

/// A handle on the database; clones share it.
#[derive(Clone)]
pub(super) struct Store(Arc<Open>);

/// The open database. Fields are dropped in this order: first it is closed, then whoever waits is told.
struct Open {
    db: DB,
    closed: watch::Sender<()>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.0.db.path()).finish()
    }
}

impl Store {
    /// Opens or creates the database. A layout or a node id other than this one's is refused.
    pub(super) fn open(path: &Path, node_id: u64) -> io::Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        // The default goes on with what lies before a damaged write and forgets the acknowledged ones behind it. Only
        // the end of a log may be torn, by a crash during the last write; damage elsewhere must be seen.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_paranoid_checks(true);
        options.set_keep_log_file_num(DIAGNOSTIC_FILES_MAX);
        let families = [LOG, META, EVENTS].map(|name| ColumnFamilyDescriptor::new(name, family_options()));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(storage)?;
        let store = Self(Arc::new(Open { db, closed: watch::Sender::new(()) }));
        store.claim(meta_key::FORMAT, FORMAT_VERSION)?;
        store.claim(meta_key::NODE, node_id)?;
        Ok(store)
    }

    /// Ends when the database has been closed, after the last clone of this handle.
    pub(super) fn closed(&self) -> watch::Receiver<()> {
        self.0.closed.subscribe()
    }

    /// Writes `value` the first time; afterwards insists on it.
    fn claim(&self, key: &str, value: u64) -> io::Result<()> {
        match self.get(META, key)? {
            None => {
                let mut batch = Batch::new(self)?;
                batch.put_meta(key, &value.to_be_bytes());
                self.commit(batch, Durability::Synced)
            }
            Some(found) if found == value.to_be_bytes() => Ok(()),
            Some(found) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("this data directory has {key} {}, expected {value}", format::index_of(&found).unwrap_or(0)),
            )),
        }
    }

    /// One value.
    pub(super) fn get(&self, family: &str, key: impl AsRef<[u8]>) -> io::Result<Option<Vec<u8>>> {
        self.0.db.get_cf(&self.family(family)?, key).map_err(storage)
    }

    /// The greatest key of a family with its value.
    pub(super) fn last(&self, family: &str) -> io::Result<Option<(u64, Vec<u8>)>> {
        let handle = self.family(family)?;
        let Some(row) = self.0.db.iterator_cf(&handle, IteratorMode::End).next() else { return Ok(None) };
        let (key, value) = row.map_err(storage)?;
        Ok(Some((format::index_of(&key)?, value.into_vec())))
    }

    /// Rows from `start` (inclusive) in order, handed to `visit` until it says `false`.
    pub(super) fn scan(
        &self,
        family: &str,
        start: u64,
        mut visit: impl FnMut(u64, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        let handle = self.family(family)?;
        let from = start.to_be_bytes();
        for row in self.0.db.iterator_cf(&handle, IteratorMode::From(&from, Direction::Forward)) {
            let (key, value) = row.map_err(storage)?;
            if !visit(format::index_of(&key)?, &value)? {
                break;
            }
        }
        Ok(())
    }

    /// Writes a batch whole or not at all. Blocks; `Synced` waits for the disk.
    pub(super) fn commit(&self, batch: Batch<'_>, durability: Durability) -> io::Result<()> {
        self.commit_raw(batch.writes, durability)
    }

    /// As [`Store::commit`], off the async threads: a sync can take many milliseconds.
    pub(super) async fn commit_synced(&self, batch: Batch<'_>) -> io::Result<()> {
        let (store, writes) = (self.clone(), batch.writes);
        tokio::task::spawn_blocking(move || store.commit_raw(writes, Durability::Synced))
            .await
            .map_err(io::Error::other)?
    }

    fn commit_raw(&self, writes: WriteBatch, durability: Durability) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.0.db.write_opt(writes, &options).map_err(storage)
    }

    /// Makes RocksDB write a file where it cannot, as a full or failing disk would.
    #[cfg(test)]
    pub(super) fn break_for_test(&self) {
        self.0.db.flush_cf(&self.family(EVENTS).unwrap()).unwrap_err();
    }

    fn family(&self, name: &str) -> io::Result<Arc<BoundColumnFamily<'_>>> {
        self.0
            .db
            .cf_handle(name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no column family {name}")))
    }
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options
}

/// Writes that happen together.
pub(super) struct Batch<'a> {
    writes: WriteBatch,
    log: Arc<BoundColumnFamily<'a>>,
    meta: Arc<BoundColumnFamily<'a>>,
    events: Arc<BoundColumnFamily<'a>>,
}

impl<'a> Batch<'a> {
    /// An empty batch.
    pub(super) fn new(store: &'a Store) -> io::Result<Self> {
        Ok(Self {
            writes: WriteBatch::default(),
            log: store.family(LOG)?,
            meta: store.family(META)?,
            events: store.family(EVENTS)?,
        })
    }

    pub(super) fn put_meta(&mut self, key: &str, value: &[u8]) {
        self.writes.put_cf(&self.meta, key, value);
    }

    pub(super) fn delete_meta(&mut self, key: &str) {
        self.writes.delete_cf(&self.meta, key);
    }

    pub(super) fn put_entry(&mut self, index: u64, value: &[u8]) {
        self.writes.put_cf(&self.log, index.to_be_bytes(), value);
    }

    /// Removes log entries from `start` on.
    pub(super) fn delete_entries_from(&mut self, start: u64) {
        self.writes.delete_range_cf(&self.log, start.to_be_bytes().as_slice(), BEYOND_EVERY_KEY.as_slice());
    }

    /// Removes log entries up to and including `last`.
    pub(super) fn delete_entries_to(&mut self, last: u64) {
        let end = last.saturating_add(1).to_be_bytes();
        self.writes.delete_range_cf(&self.log, 0_u64.to_be_bytes().as_slice(), end.as_slice());
    }

    pub(super) fn put_change(&mut self, revision: u64, value: &[u8]) {
        self.writes.put_cf(&self.events, revision.to_be_bytes(), value);
    }

    /// Removes a void change.
    pub(super) fn delete_change(&mut self, revision: u64) {
        self.writes.delete_cf(&self.events, revision.to_be_bytes());
    }

    /// Removes every applied change: a snapshot's follow.
    pub(super) fn delete_changes(&mut self) {
        self.writes.delete_range_cf(&self.events, 0_u64.to_be_bytes().as_slice(), BEYOND_EVERY_KEY.as_slice());
    }
}

/// Longer than any key of eight bytes, so greater than all of them.
const BEYOND_EVERY_KEY: [u8; 9] = [0xff; 9];

fn storage(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}
