//! The real disk: one RocksDB for the rows and a folder for the files, both inside a node's data directory.
//!
//! All families share RocksDB's one write-ahead log, which gives the order that the contract of `disk` asks for; a
//! sync is an fsync of that log. A damaged log or table refuses to open or to be read. Files are written beside their
//! names, synced and renamed.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, ErrorKind, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

use super::{BlobWriter, Disk, Durability, Family, Visit, Write, corrupted};

/// A write-ahead log larger than this makes RocksDB flush, which bounds recovery time after a crash.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Memory per family before it is written to a table.
const WRITE_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of a table or a file that are handed to the disk at once. A large file synced only at its end would hold up
/// the syncs of the log meanwhile, and with them votes and acknowledgements.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;
/// RocksDB's own diagnostic files: enough to look back a little, small enough to forget.
const DIAGNOSTIC_FILES_MAX: usize = 4;
/// Longest name of a file: any file system takes it, with the ending of one in the making.
const BLOB_NAME_BYTES_MAX: usize = 120;
const UNFINISHED: &str = "partial";

/// A node's data directory. One process at a time can have it open.
pub struct RocksDisk {
    db: DB,
    blobs: PathBuf,
}

impl std::fmt::Debug for RocksDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksDisk").field("rows", &self.db.path()).finish_non_exhaustive()
    }
}

impl RocksDisk {
    /// Opens or creates the data directory `folder`. Files that were in the making at a crash are removed. Blocks.
    ///
    /// # Errors
    /// When it is in use, damaged, or was written by a version with another layout.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let (rows, blobs) = (folder.join("store"), folder.join("snapshots"));
        refuse_old_layout(&rows)?;
        fs::create_dir_all(&blobs)?;
        File::open(folder)?.sync_all()?;
        for path in paths(&blobs)? {
            if path.extension().is_some_and(|ending| ending == UNFINISHED) {
                fs::remove_file(path)?;
            }
        }
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options()));
        let db = DB::open_cf_descriptors(&options(), &rows, families).map_err(failed)?;
        Ok(Self { db, blobs })
    }

    /// Opens the data directory `folder` for reading only, and makes nothing. A node may have it open meanwhile; what
    /// it writes from then on is not seen. Blocks.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none; otherwise as [`RocksDisk::open`].
    pub fn open_read_only(folder: &Path) -> io::Result<Self> {
        let (rows, blobs) = (folder.join("store"), folder.join("snapshots"));
        if !rows.join("CURRENT").exists() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} holds no data", folder.display())));
        }
        refuse_old_layout(&rows)?;
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options()));
        let db = DB::open_cf_descriptors_read_only(&options(), &rows, families, false).map_err(failed)?;
        Ok(Self { db, blobs })
    }

    fn family(&self, family: Family) -> io::Result<Arc<BoundColumnFamily<'_>>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no column family {}", family.name()));
        self.db.cf_handle(family.name()).ok_or_else(missing)
    }

    fn blob_path(&self, name: &str) -> io::Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if name.is_empty() || name.len() > BLOB_NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name for a file"));
        }
        Ok(self.blobs.join(name))
    }

    /// Moves what is in the log into tables.
    #[cfg(test)]
    pub(crate) fn flush_for_test(&self) {
        for family in Family::ALL {
            self.db.flush_cf(&self.family(family).unwrap()).unwrap();
        }
    }
}

impl Disk for RocksDisk {
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(&self.family(family)?, key).map_err(failed)
    }

    fn last(&self, family: Family) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let handle = self.family(family)?;
        let Some(row) = self.db.iterator_cf(&handle, IteratorMode::End).next() else { return Ok(None) };
        let (key, value) = row.map_err(failed)?;
        Ok(Some((key.into_vec(), value.into_vec())))
    }

    fn scan(&self, family: Family, start: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        let handle = self.family(family)?;
        let mut rows = self.db.raw_iterator_cf(&handle);
        rows.seek(start);
        while let Some((key, value)) = rows.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(failed)
    }

    fn write(&self, writes: Vec<Write>, durability: Durability) -> io::Result<()> {
        let handles = Handles {
            log: self.family(Family::Log)?,
            meta: self.family(Family::Meta)?,
            events: self.family(Family::Events)?,
            tree: self.family(Family::Tree)?,
        };
        let mut batch = WriteBatch::default();
        for write in writes {
            match write {
                Write::Put { family, key, value } => batch.put_cf(handles.of(family), key, value),
                Write::Delete { family, key } => batch.delete_cf(handles.of(family), key),
                Write::DeleteRange { family, start, end } => batch.delete_range_cf(handles.of(family), start, end),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(batch, &options).map_err(failed)
    }

    fn sync(&self) -> io::Result<()> {
        self.db.flush_wal(true).map_err(failed)
    }

    fn compact(&self, family: Family) -> io::Result<()> {
        self.db.compact_range_cf(&self.family(family)?, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn blob_create(&self, name: &str) -> io::Result<Box<dyn BlobWriter>> {
        let path = self.blob_path(name)?;
        let unfinished = Unfinished(self.blobs.join(format!("{name}.{UNFINISHED}")));
        let file = BufWriter::new(File::create(&unfinished.0)?);
        Ok(Box::new(Blob { file, path, folder: self.blobs.clone(), unfinished, waiting: 0 }))
    }

    fn blob_open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.blob_path(name)?)?))
    }

    fn blob_list(&self) -> io::Result<Vec<String>> {
        let finished = paths(&self.blobs)?.into_iter().filter(|path| path.extension().is_none_or(|e| e != UNFINISHED));
        let mut names: Vec<String> = finished.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    fn blob_remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.blob_path(name)?)
    }
}

/// The handles of all families, for one batch.
struct Handles<'a> {
    log: Arc<BoundColumnFamily<'a>>,
    meta: Arc<BoundColumnFamily<'a>>,
    events: Arc<BoundColumnFamily<'a>>,
    tree: Arc<BoundColumnFamily<'a>>,
}

impl<'a> Handles<'a> {
    const fn of(&self, family: Family) -> &Arc<BoundColumnFamily<'a>> {
        match family {
            Family::Log => &self.log,
            Family::Meta => &self.meta,
            Family::Events => &self.events,
            Family::Tree => &self.tree,
        }
    }
}

/// The path of a file in the making; dropped, it is gone (or has been renamed).
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

struct Blob {
    file: BufWriter<File>,
    path: PathBuf,
    folder: PathBuf,
    unfinished: Unfinished,
    /// Not yet handed to the disk.
    waiting: u64,
}

impl io::Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.waiting = self.waiting.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        if self.waiting >= SYNC_BYTES {
            self.waiting = 0;
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter for Blob {
    fn publish(mut self: Box<Self>) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.unfinished.0, &self.path)?;
        File::open(&self.folder)?.sync_all()
    }
}

fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// The first layout had no hashes of what was forgotten, so its changes cannot be proven.
fn refuse_old_layout(rows: &Path) -> io::Result<()> {
    if !rows.join("CURRENT").exists() {
        return Ok(());
    }
    let names = DB::list_cf(&Options::default(), rows).map_err(failed)?;
    if names.iter().any(|name| name == Family::Tree.name()) {
        return Ok(());
    }
    Err(super::other_layout("1"))
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    // The default goes on with what lies before a damaged write and forgets the acknowledged ones behind it. Only
    // the end of a log may be torn, by a crash during the last write; damage elsewhere must be seen.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_bytes_per_sync(SYNC_BYTES);
    options.set_keep_log_file_num(DIAGNOSTIC_FILES_MAX);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options
}

fn failed(error: rocksdb::Error) -> io::Error {
    match error.kind() {
        ErrorKind::Corruption => corrupted(error),
        _ => io::Error::other(error),
    }
}
