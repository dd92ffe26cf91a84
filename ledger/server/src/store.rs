//! The ledger's only store: leaves, tree hashes, chain cursors, checkpoints and search indexes, in one RocksDB.
//!
//! # Contract (callers rely on it; `tests` hold it)
//! - **One batch, all or nothing.** `commit` writes leaves, hashes, cursors, keys, indexes and the new size together
//!   and has synced them when it returns `Ok`. Nothing is ever rewritten or deleted.
//! - **An error means unknown.** After `Err` the batch may be on disk or not, so the caller reads `state` again and
//!   compares before it tries again. Exactly-once follows: the cursors are in the batch they describe.
//! - **Dense.** Leaves are 0..size without holes; hashes are exactly the complete subtrees over them.
//! - **Readers see whole batches.** A reader takes a size first and never looks past it.
//! - **A checkpoint never covers what is not stored.** `put_checkpoint` is synced and refuses a size beyond the log's.
//!
//! Trust: who can write these files can destroy the log, but not change it unnoticed: the control plane holds the
//! committed root, nodes hold their chains. Deliberately absent: deciding what belongs in the log (`log.rs`).

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bailiwick_ledger_core::{
    chain::ChainCursor,
    hash::Hash,
    tree::{HashReader, Node, TreeError},
};
use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

pub(crate) use self::{keys::covered, shared::SharedStore};
pub use self::{
    keys::{ChainId, Field},
    search::{Filter, Found, Page},
};

mod keys;
mod published;
mod search;
mod shared;
#[cfg(test)]
pub(crate) mod tests;
mod tiles;

/// Write-ahead logs are dropped once the families they cover are flushed; small families must not pin them for ever.
const WAL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// RocksDB's own text logs: enough to explain a fault, too few to fill a disk.
const INFO_LOGS_MAX: usize = 4;
/// Bytes of one such text log.
const INFO_LOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What this code writes.
const FORMAT: u64 = 2;
/// What it reads as well: every term's entry names one leaf.
const FORMAT_BEFORE: u64 = 1;

const LEAVES: &str = "leaves";
const HASHES: &str = "hashes";
const CURSORS: &str = "cursors";
const CHECKPOINTS: &str = "checkpoints";
const INDEXES: &str = "indexes";
const SPANS: &str = "spans";
const META: &str = "meta";
const FAMILIES: [&str; 7] = [LEAVES, HASHES, CURSORS, CHECKPOINTS, INDEXES, SPANS, META];

const META_FORMAT: &[u8] = b"format";
const META_SIZE: &[u8] = b"size";
const META_ORIGIN: &[u8] = b"origin";
const META_VERIFIER: &[u8] = b"verifier_key";

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database itself failed: disk full, unreadable, locked by another process.
    #[error("the ledger's database failed: {0}")]
    Database(#[from] rocksdb::Error),
    /// The folder holds no ledger.
    #[error("{0} holds no ledger")]
    Absent(PathBuf),
    /// Something that must be there is not, or has another shape.
    #[error("the ledger's database is damaged: {what} at {at}")]
    Damaged { what: &'static str, at: u64 },
    /// Written by a version of this program with another format.
    #[error("the ledger's database has format {found}; this program reads formats {FORMAT_BEFORE} and {FORMAT}")]
    Format { found: u64 },
    /// The log was created under another name or key.
    #[error("the ledger's {what} is `{stored}`, not `{given}`; a log keeps its name and key for life")]
    Identity { what: &'static str, stored: String, given: String },
    /// A batch that does not continue the log.
    #[error("the batch starts at leaf {first}, the log ends at {size}")]
    NotNext { first: u64, size: u64 },
    /// A tree hash is missing.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// There is no room to go on.
    #[error("the ledger's disk takes no more: {0}")]
    Full(std::io::Error),
    /// The database could not be opened again after a failure.
    #[error("the ledger's database is closed until it can be opened again")]
    Closed,
    /// A call was cut short by a panic or by the end of the process.
    #[error("a call of the ledger's database was cut short")]
    Interrupted,
    /// A checkpoint over leaves that are not there.
    #[error("a checkpoint of size {checkpoint} was to be stored in a log of size {size}")]
    BeyondLog { checkpoint: u64, size: u64 },
}

/// One new leaf with what searches need of it.
#[derive(Clone, Debug)]
pub struct NewLeaf {
    /// Canonical record bytes.
    pub bytes: Vec<u8>,
    /// Terms it can be found by.
    pub terms: Vec<(Field, String)>,
    /// The record's own time, microseconds since 1970.
    pub at_us: i64,
}

/// Everything one sequenced batch leaves on disk.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Index of the first leaf; must equal the log's size.
    pub first: u64,
    pub leaves: Vec<NewLeaf>,
    /// Every subtree the leaves complete.
    pub nodes: Vec<Node>,
    /// Every chain the batch moved or opened, with the leaf index of its last record.
    pub cursors: Vec<(ChainCursor, Option<u64>)>,
}

/// What the sequencer must know to go on.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub size: u64,
    /// Every chain, with the leaf index of its last record.
    pub cursors: Vec<(ChainCursor, Option<u64>)>,
}

/// How far one chain is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainProgress {
    pub id: ChainId,
    /// Records `0 .. covered` are stored, without exception.
    pub covered: u64,
    /// Leaf index of the chain's last record; `None`: registered, nothing stored.
    pub last_index: Option<u64>,
}

/// How far all chains were stored when the log had `size` leaves.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub size: u64,
    pub chains: Vec<ChainProgress>,
}

/// An open ledger database. Calls block; async callers go through `spawn_blocking`.
pub struct Store {
    db: DB,
    #[cfg(test)]
    pub(crate) faults: Arc<tests::Faults>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.db.path()).finish()
    }
}

impl HashReader for Store {
    /// A failing database looks like a missing hash here; the tree then reports it as missing.
    fn hash(&self, level: u8, index: u64) -> Option<Hash> {
        self.subtree(level, index).inspect_err(|error| tracing::error!(%error, "a tree hash cannot be read")).ok()?
    }
}

impl Store {
    /// Opens or creates the database in `folder`.
    /// # Errors
    /// When it cannot be opened, is locked, or has another format.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let mut options = options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, options_of(name)));
        let store = Self::over(DB::open_cf_descriptors(&options, folder, families)?);
        match store.number(META_FORMAT)? {
            None | Some(FORMAT_BEFORE) => store.put_synced(META, META_FORMAT, &FORMAT.to_be_bytes())?,
            Some(FORMAT) => {}
            Some(found) => return Err(StoreError::Format { found }),
        }
        Ok(store)
    }

    /// Opens the database for reading beside a running ledger; it shows the state of this moment.
    /// # Errors
    /// When there is none, it cannot be opened, or it has another format.
    pub fn open_read_only(folder: &Path) -> Result<Self, StoreError> {
        if !folder.join("CURRENT").is_file() {
            return Err(StoreError::Absent(folder.to_owned()));
        }
        let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, options_of(name)));
        let store = Self::over(DB::open_cf_descriptors_read_only(&options(), folder, families, false)?);
        match store.number(META_FORMAT)? {
            Some(FORMAT | FORMAT_BEFORE) => Ok(store),
            found => Err(StoreError::Format { found: found.unwrap_or(0) }),
        }
    }

    fn over(db: DB) -> Self {
        Self {
            db,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// Writes one batch; see the contract above.
    /// # Errors
    /// `NotNext` writes nothing; after `Database` the outcome is unknown.
    pub fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let size = self.size()?;
        if batch.first != size {
            return Err(StoreError::NotNext { first: batch.first, size });
        }
        let mut writes = WriteBatch::default();
        self.stage_leaves(&mut writes, batch)?;
        let (hashes, cursors) = (self.family(HASHES)?, self.family(CURSORS)?);
        for node in &batch.nodes {
            writes.put_cf(&hashes, keys::hash(node.level, node.index), node.hash);
        }
        for (cursor, last_index) in &batch.cursors {
            let value = keys::encode_cursor(cursor, *last_index);
            let value = value.ok_or(StoreError::Damaged { what: "cursor to store", at: size })?;
            writes.put_cf(&cursors, keys::chain(&cursor.node, cursor.epoch), value);
        }
        let end = size + batch.leaves.len() as u64;
        writes.put_cf(&self.family(META)?, META_SIZE, end.to_be_bytes());
        self.write(writes)
    }

    fn stage_leaves(&self, writes: &mut WriteBatch, batch: &Batch) -> Result<(), StoreError> {
        let (leaves, spans) = (self.family(LEAVES)?, self.family(SPANS)?);
        let mut newest = self.newest_before(batch.first)?;
        let end = batch.first + batch.leaves.len() as u64;
        for (index, leaf) in (batch.first..).zip(&batch.leaves) {
            writes.put_cf(&leaves, index.to_be_bytes(), &leaf.bytes);
            newest = newest.max(leaf.at_us);
            if (index + 1).is_multiple_of(keys::SPAN) || index + 1 == end {
                writes.put_cf(&spans, (index / keys::SPAN).to_be_bytes(), newest.to_be_bytes());
            }
        }
        self.stage_terms(writes, batch)
    }

    /// One entry for each term, whatever the number of leaves that have it.
    fn stage_terms(&self, writes: &mut WriteBatch, batch: &Batch) -> Result<(), StoreError> {
        let indexes = self.family(INDEXES)?;
        let mut entries: HashMap<(Field, &str), (u64, Vec<u8>)> = HashMap::new();
        for (index, leaf) in (batch.first..).zip(&batch.leaves) {
            for (field, value) in &leaf.terms {
                let (first, later) = entries.entry((*field, value)).or_insert((index, Vec::new()));
                if let Some(distance) = index.checked_sub(*first).filter(|distance| *distance > 0) {
                    let distance = u32::try_from(distance);
                    let distance = distance.map_err(|_| StoreError::Damaged { what: "batch to store", at: index })?;
                    later.extend(distance.to_be_bytes());
                }
            }
        }
        for ((field, value), (first, later)) in entries {
            writes.put_cf(&indexes, keys::term(field, value, first), later);
        }
        Ok(())
    }

    fn write(&self, writes: WriteBatch) -> Result<(), StoreError> {
        #[cfg(test)]
        let outcome = self.faults.next();
        #[cfg(test)]
        outcome.before()?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(writes, &synced)?;
        #[cfg(test)]
        outcome.after()?;
        Ok(())
    }

    fn put_synced(&self, family: &'static str, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut writes = WriteBatch::default();
        writes.put_cf(&self.family(family)?, key, value);
        self.write(writes)
    }

    /// Number of leaves.
    /// # Errors
    /// When the database fails.
    pub fn size(&self) -> Result<u64, StoreError> {
        Ok(self.number(META_SIZE)?.unwrap_or(0))
    }

    /// Size and cursors as one batch left them.
    /// # Errors
    /// When the database fails or an entry has an unknown shape.
    pub fn state(&self) -> Result<State, StoreError> {
        let mut cursors = Vec::new();
        let size = self.each_cursor(|_, value| keys::decode_cursor(value).map(|cursor| cursors.push(cursor)))?;
        Ok(State { size, cursors })
    }

    /// How far every chain is stored, and the size that belongs to it.
    /// # Errors
    /// When the database fails or an entry has an unknown shape.
    pub fn progress(&self) -> Result<Progress, StoreError> {
        let mut chains = Vec::new();
        let size = self.each_cursor(|key, value| {
            let (id, (covered, last_index)) = keys::decode_chain(key).zip(keys::decode_progress(value))?;
            chains.push(ChainProgress { id, covered, last_index });
            Some(())
        })?;
        Ok(Progress { size, chains })
    }

    /// Visits all cursors of one moment and returns the size of that moment.
    fn each_cursor(&self, mut visit: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Result<u64, StoreError> {
        let snapshot = self.db.snapshot();
        let size = number_in(snapshot.get_cf(&self.family(META)?, META_SIZE)?)?.unwrap_or(0);
        for (at, entry) in (0..).zip(snapshot.iterator_cf(&self.family(CURSORS)?, IteratorMode::Start)) {
            let (key, value) = entry?;
            visit(&key, &value).ok_or(StoreError::Damaged { what: "cursor", at })?;
        }
        Ok(size)
    }

    /// The bytes of leaf `index`, if it is stored.
    /// # Errors
    /// When the database fails.
    pub fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(&self.family(LEAVES)?, index.to_be_bytes())?)
    }

    /// Leaves `from .. from + count`, all of which must be stored.
    /// # Errors
    /// When the database fails or a leaf is missing.
    pub fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        self.run(LEAVES, &from.to_be_bytes(), from, count, "leaf", |at| at.to_be_bytes().to_vec())
    }

    /// One complete subtree's hash, if it is stored.
    /// # Errors
    /// When the database fails or the entry is no hash.
    pub fn subtree(&self, level: u8, index: u64) -> Result<Option<Hash>, StoreError> {
        let found = self.db.get_pinned_cf(&self.family(HASHES)?, keys::hash(level, index))?;
        let damaged = StoreError::Damaged { what: "hash", at: index };
        found.map(|bytes| Hash::try_from(bytes.as_ref()).map_err(|_| damaged)).transpose()
    }

    /// Hashes `from .. from + count` of one level, concatenated: the content of a tile.
    /// # Errors
    /// When the database fails or a hash is missing.
    pub fn hashes(&self, level: u8, from: u64, count: u64) -> Result<Vec<u8>, StoreError> {
        let found =
            self.run(HASHES, &keys::hash(level, from), from, count, "hash", |at| keys::hash(level, at).to_vec())?;
        Ok(found.concat())
    }

    /// Reads `count` neighbouring entries whose keys are `key_of(from)`, `key_of(from + 1)`, …
    fn run(
        &self,
        family: &'static str,
        start: &[u8],
        from: u64,
        count: u64,
        what: &'static str,
        key_of: impl Fn(u64) -> Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut entries = self.db.raw_iterator_cf(&self.family(family)?);
        entries.seek(start);
        let mut found = Vec::new();
        for at in from..from.saturating_add(count) {
            match entries.item() {
                Some((key, value)) if key == key_of(at) => found.push(value.to_vec()),
                _ => {
                    entries.status()?;
                    return Err(StoreError::Damaged { what, at });
                }
            }
            entries.next();
        }
        Ok(found)
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        number_in(self.db.get_cf(&self.family(META)?, key)?)
    }

    fn family(&self, name: &'static str) -> Result<Arc<BoundColumnFamily<'_>>, StoreError> {
        self.db.cf_handle(name).ok_or(StoreError::Damaged { what: "column family", at: 0 })
    }
}

fn number_in(found: Option<Vec<u8>>) -> Result<Option<u64>, StoreError> {
    let damaged = StoreError::Damaged { what: "number", at: 0 };
    found.map(|bytes| keys::decode_number(&bytes).ok_or(damaged)).transpose()
}

fn options() -> Options {
    let mut options = Options::default();
    // Every write is synced before it counts, so only an unacknowledged tail may be torn; damage elsewhere is an error.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_keep_log_file_num(INFO_LOGS_MAX);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_paranoid_checks(true);
    options
}

fn options_of(family: &str) -> Options {
    let mut options = Options::default();
    // Hashes do not compress; records do.
    let compression = if family == HASHES { DBCompressionType::None } else { DBCompressionType::Lz4 };
    options.set_compression_type(compression);
    options
}
