//! A disk whose steps fail on demand: for tests of `spool` and `recorder`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::disk::{Disk, DiskFile, RealDisk};

/// A disk on which the next operations of one sort fail.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The next write stores this many bytes and then fails (`None`: works).
    pub(crate) short_write: AtomicUsize,
    pub(crate) out_of_space: AtomicBool,
    pub(crate) truncate_fails: AtomicBool,
    pub(crate) sync_fails: AtomicBool,
    pub(crate) create_fails: AtomicBool,
    pub(crate) writes: AtomicUsize,
    pub(crate) syncs: AtomicUsize,
    pub(crate) dir_syncs: AtomicUsize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FaultDisk(pub(crate) Arc<Faults>);

#[derive(Debug)]
struct FaultFile(Arc<dyn DiskFile>, Arc<Faults>);

fn broken<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::StorageFull))
}

impl Disk for FaultDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if self.0.create_fails.load(Ordering::SeqCst) {
            return broken();
        }
        Ok(Arc::new(FaultFile(RealDisk.create(path)?, Arc::clone(&self.0))))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.dir_syncs.fetch_add(1, Ordering::SeqCst);
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for FaultFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.1.writes.fetch_add(1, Ordering::SeqCst);
        if self.1.out_of_space.load(Ordering::SeqCst) {
            return broken();
        }
        match self.1.short_write.swap(0, Ordering::SeqCst) {
            0 => self.0.write_at(offset, bytes),
            kept => self.0.write_at(offset, &bytes[..kept.min(bytes.len() - 1)]),
        }
    }
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(offset, buffer)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.1.truncate_fails.load(Ordering::SeqCst) { broken() } else { self.0.truncate(len) }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::SeqCst);
        if self.1.sync_fails.load(Ordering::SeqCst) { broken() } else { self.0.sync_data() }
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}
