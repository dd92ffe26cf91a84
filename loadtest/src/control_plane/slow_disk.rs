//! The real disk with syncs that take longer: what a cloud volume or a busy array would make of the same run.
//!
//! The raw rate that a ratio is against is slowed by the same time (`disk`).

use std::{io, io::Read, time::Duration};

use bailiwick_consensus::{BlobWriter, Disk, Durability, Family, RocksDisk, Visit, Write};

/// A disk of which every sync takes a fixed time longer.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    disk: RocksDisk,
    delay: Duration,
}

impl SlowDisk {
    pub(crate) const fn new(disk: RocksDisk, delay: Duration) -> Self {
        Self { disk, delay }
    }
}

impl Disk for SlowDisk {
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.disk.get(family, key)
    }

    fn last(&self, family: Family) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.disk.last(family)
    }

    fn scan(&self, family: Family, start: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        self.disk.scan(family, start, visit)
    }

    fn write(&self, writes: Vec<Write>, durability: Durability) -> io::Result<()> {
        self.disk.write(writes, durability)?;
        if durability == Durability::Synced && !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()?;
        std::thread::sleep(self.delay);
        Ok(())
    }

    fn blob_create(&self, name: &str) -> io::Result<Box<dyn BlobWriter>> {
        self.disk.blob_create(name)
    }

    fn blob_open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.disk.blob_open(name)
    }

    fn blob_list(&self) -> io::Result<Vec<String>> {
        self.disk.blob_list()
    }

    fn blob_remove(&self, name: &str) -> io::Result<()> {
        self.disk.blob_remove(name)
    }

    fn compact(&self, family: Family) -> io::Result<()> {
        self.disk.compact(family)
    }
}
