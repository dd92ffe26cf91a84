//! One segment file: a run of consecutive records of one epoch.
//!
//! Called by `spool`. The name is `<epoch>-<first>.seg`, both in decimal with leading zeros, where `first` is the
//! sequence number of its first record; record `i` of the file therefore is `first + i`, and no index file exists
//! that could disagree. Offsets are kept in memory (8 bytes per record).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    SpoolError,
    disk::{Disk, DiskFile},
    frame,
};

/// A segment with what is known of its content.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) epoch: u64,
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where each frame ends; the last one is where the next frame goes.
    pub(crate) ends: Vec<u64>,
    /// Length on disk: more than `end()` only where damaged frames were left in place.
    pub(crate) bytes: u64,
}

impl Segment {
    /// A new, empty segment. The caller makes the directory entry durable before anything in it counts as synced.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, epoch: u64, first: u64) -> Result<Self, SpoolError> {
        let path = dir.join(format!("{epoch:020}-{first:020}.seg"));
        let file = disk.create(&path).map_err(SpoolError::Write)?;
        Ok(Self { epoch, first, path, file, ends: Vec::new(), bytes: 0 })
    }

    /// Reads an existing segment as far as it is whole; `cut` removes the rest.
    pub(crate) fn recover(disk: &dyn Disk, path: &Path, cut: bool) -> Result<(Self, u64), SpoolError> {
        let (epoch, first) = parse_name(path).ok_or_else(|| SpoolError::ForeignFile(path.to_owned()))?;
        let file = disk.open(path).map_err(SpoolError::Read)?;
        let len = file.len().map_err(SpoolError::Read)?;
        let mut content = vec![0; usize::try_from(len).map_err(|_| SpoolError::ForeignFile(path.to_owned()))?];
        file.read_exact_at(0, &mut content).map_err(SpoolError::Read)?;
        let scan = frame::scan(&content);
        let valid = scan.valid_bytes as u64;
        if cut && valid < len {
            file.truncate(valid).map_err(SpoolError::Write)?;
            file.sync_data().map_err(SpoolError::Write)?;
        }
        let ends = scan.records.iter().map(|record| record.end as u64).collect();
        let bytes = if cut { valid } else { len };
        Ok((Self { epoch, first, path: path.to_owned(), file, ends, bytes }, len - valid))
    }

    /// One past the last sequence number here.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    /// Where the next frame goes.
    pub(crate) fn end(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where the frame of `seq` begins, or the first one here if that is later.
    pub(crate) fn start_of(&self, seq: u64) -> u64 {
        let before = seq.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()?.checked_sub(1));
        before.and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }

    /// Whether `seq` of `epoch` lies here.
    pub(crate) fn holds(&self, epoch: u64, seq: u64) -> bool {
        self.epoch == epoch && (self.first..self.next()).contains(&seq)
    }

    /// Records from `from` on, until the next would exceed `bytes_max`; at least one when there is one.
    pub(crate) fn read(&self, from: u64, bytes_max: usize) -> Result<Vec<Bytes>, SpoolError> {
        let Some(index) = from.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
            return Ok(Vec::new());
        };
        let Some(ends) = self.ends.get(index..) else { return Ok(Vec::new()) };
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let fits = ends.iter().take_while(|end| **end - start <= bytes_max as u64).count().max(1);
        let Some(end) = ends.get(..fits).and_then(<[u64]>::last) else { return Ok(Vec::new()) };
        let length = usize::try_from(end - start).map_err(|_| SpoolError::Damaged(self.path.clone()))?;
        let mut content = vec![0; length];
        self.file.read_exact_at(start, &mut content).map_err(SpoolError::Read)?;
        let scan = frame::scan(&content);
        if scan.records.len() != fits {
            return Err(SpoolError::Damaged(self.path.clone()));
        }
        let content = Bytes::from(content);
        Ok(scan.records.into_iter().map(|record| content.slice(record)).collect())
    }
}

/// Epoch and first sequence number from a segment's name.
pub(crate) fn parse_name(path: &Path) -> Option<(u64, u64)> {
    let (epoch, first) = path.file_name()?.to_str()?.strip_suffix(".seg")?.split_once('-')?;
    Some((epoch.parse().ok()?, first.parse().ok()?))
}
