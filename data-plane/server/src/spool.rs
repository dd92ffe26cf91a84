//! The spool: where every record of this node lies from before its effect until a published checkpoint covers it.
//!
//! Called by `recorder` alone, which is the only writer. The storage contract:
//! - *written*: when [`Spool::append`] returns `Ok`, the records are in the file by one write system call. They
//!   survive `kill -9` of this process, not a power cut.
//! - *synced*: when [`SpoolSync::sync_to`] returns `Ok`, they survive a power cut: file data and, for a new
//!   segment, the directory entry were fsynced.
//! - *prefix*: after a crash of the process, [`Spool::open`] returns exactly what was written; after a power cut, at
//!   least everything synced. A torn tail is cut; it was never acknowledged. What is missing between segments (a
//!   damaged disk) shows as a hole between the recovered runs.
//! - *all or nothing*: an append that fails leaves the file ending at the last good frame, so that a refused
//!   record is not found later. If even that fails, the spool refuses everything until the next start.
//! - *freeing*: only whole segments, and only through a sequence number that the caller knows to be covered.
//!
//! Deliberately absent: what records mean, chains, publishing (`recorder`); deciding who is refused when it is
//! nearly full (`recorder` asks [`Spool::fill`]).

pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod fault_disk;
mod frame;
mod segment;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

pub(crate) use self::sync::SpoolSync;
use self::{disk::Disk, segment::Segment, sync::Syncer};

/// A full segment is freed as a whole, so segments are small against the spool: a sixteenth of it, at most this.
const SEGMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// From this share of the spool on, risky calls are refused.
const PRESSURE_PERCENT: u64 = 80;
/// Beyond its maximum the spool still takes this share for the outcomes of calls already under way.
const RESERVE_DIVISOR: u64 = 8;

/// Storage refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("reading the spool failed")]
    Read(#[source] io::Error),
    #[error("writing the spool failed")]
    Write(#[source] io::Error),
    #[error("the disk took only part of a record")]
    ShortWrite,
    #[error("the spool has no room left")]
    Full,
    #[error("a record is empty or larger than a frame may be")]
    RecordSize,
    #[error("an earlier failure left the spool unusable until the next start")]
    Poisoned,
    #[error("records could not be made durable")]
    SyncFailed,
    #[error("{0} is not a segment of this spool")]
    ForeignFile(PathBuf),
    #[error("{0} does not hold what was written")]
    Damaged(PathBuf),
    #[error(
        "epoch {epoch} is not above epoch {newest}, which the spool holds: has the control plane lost its data? \
         Keep the spool as evidence and start with another data folder"
    )]
    EpochReused { epoch: u64, newest: u64 },
}

/// How full the spool is, against its configured maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Room,
    /// At or above 80 %.
    Pressure,
    /// At or above the maximum.
    Full,
}

/// What an older epoch left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecoveredEpoch {
    pub(crate) epoch: u64,
    /// Runs of consecutive sequence numbers, ascending; more than one only where a segment was damaged.
    pub(crate) runs: Vec<Range<u64>>,
    /// Bytes after the last whole frames.
    pub(crate) cut_bytes: u64,
}

/// The spool of one node; one writer.
#[derive(Debug)]
pub(crate) struct Spool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes_max: u64,
    segment_bytes: u64,
    /// Ascending by epoch and first sequence number.
    segments: Vec<Segment>,
    bytes: u64,
    current: Option<Current>,
    poisoned: bool,
    sync: SpoolSync,
    _syncer: Syncer,
}

#[derive(Debug)]
struct Current {
    epoch: u64,
    next: u64,
}

impl Spool {
    /// Opens `dir`, which exists, and recovers what older epochs left.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        bytes_max: u64,
    ) -> Result<(Self, Vec<RecoveredEpoch>), SpoolError> {
        let mut paths: Vec<PathBuf> = disk.list(dir).map_err(SpoolError::Read)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
        paths.sort_by_key(|path| segment::parse_name(path));
        let mut segments = Vec::with_capacity(paths.len());
        let mut epochs: Vec<RecoveredEpoch> = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let epoch_of = |path: &PathBuf| segment::parse_name(path).map(|(epoch, _)| epoch);
            let last_of_epoch = paths.get(index + 1).and_then(epoch_of) != epoch_of(path);
            let (segment, cut) = Segment::recover(disk.as_ref(), path, last_of_epoch)?;
            note_recovered(&mut epochs, &segment, cut);
            if segment.ends.is_empty() && last_of_epoch {
                disk.remove(path).map_err(SpoolError::Write)?;
            } else {
                segments.push(segment);
            }
        }
        let (syncer, sync) = Syncer::start(Arc::clone(&disk), dir.to_owned()).map_err(SpoolError::Write)?;
        let spool = Self {
            disk,
            dir: dir.to_owned(),
            bytes_max,
            segment_bytes: (bytes_max / 16).clamp(frame::RECORD_BYTES_MAX as u64, SEGMENT_BYTES_MAX),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments,
            current: None,
            poisoned: false,
            sync,
            _syncer: syncer,
        };
        Ok((spool, epochs))
    }

    /// Starts appending under `epoch`, from sequence number 0.
    pub(crate) fn begin(&mut self, epoch: u64) -> Result<(), SpoolError> {
        if let Some(newest) = self.segments.last().map(|segment| segment.epoch).filter(|newest| *newest >= epoch) {
            return Err(SpoolError::EpochReused { epoch, newest });
        }
        self.current = Some(Current { epoch, next: 0 });
        Ok(())
    }

    /// Appends records in order by one write; either all of them are in the file or none is.
    /// Returns the sequence numbers they got.
    pub(crate) fn append<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Range<u64>, SpoolError> {
        if self.poisoned || self.sync.failed() {
            return Err(SpoolError::Poisoned);
        }
        let bytes = records.iter().map(|record| frame::FRAME_HEADER_BYTES + record.as_ref().len()).sum();
        let mut frames = Vec::with_capacity(bytes);
        if !records.iter().all(|record| frame::encode(&mut frames, record.as_ref())) {
            return Err(SpoolError::RecordSize);
        }
        if self.bytes + frames.len() as u64 > self.bytes_max + self.bytes_max / RESERVE_DIVISOR {
            return Err(SpoolError::Full);
        }
        let created = self.roll_if_due()?;
        let (Some(segment), Some(current)) = (self.segments.last_mut(), self.current.as_mut()) else {
            return Err(SpoolError::Poisoned);
        };
        if let Err(error) = write_whole(segment, &frames) {
            self.poisoned = segment.file.truncate(segment.end()).is_err();
            return Err(error);
        }
        let first = current.next;
        let mut end = segment.end();
        for record in records {
            end += (frame::FRAME_HEADER_BYTES + record.as_ref().len()) as u64;
            segment.ends.push(end);
        }
        segment.bytes = end;
        current.next += records.len() as u64;
        self.bytes += frames.len() as u64;
        self.sync.written(current.next, &segment.file, created);
        Ok(first..current.next)
    }

    /// Records of `epoch` from `from` on, from one segment, up to `bytes_max` with at least one; empty where none is.
    pub(crate) fn read(&self, epoch: u64, from: u64, bytes_max: usize) -> Result<Vec<Bytes>, SpoolError> {
        match self.segments.iter().find(|segment| segment.holds(epoch, from)) {
            Some(segment) => segment.read(from, bytes_max),
            None => Ok(Vec::new()),
        }
    }

    /// Bytes on disk of the records of `epoch` from `from` on.
    pub(crate) fn bytes_from(&self, epoch: u64, from: u64) -> u64 {
        let after = self.segments.iter().rev().take_while(|segment| segment.epoch == epoch && segment.next() > from);
        after.map(|segment| segment.end() - segment.start_of(from)).sum()
    }

    /// The first sequence number at or after `from` that the spool still holds for `epoch`.
    pub(crate) fn first_held(&self, epoch: u64, from: u64) -> Option<u64> {
        let of_epoch = self.segments.iter().filter(|segment| segment.epoch == epoch);
        of_epoch.filter(|segment| segment.next() > from).map(|segment| segment.first.max(from)).min()
    }

    /// Removes the segments of `epoch` that hold nothing above `through`; the one being written stays.
    pub(crate) fn free(&mut self, epoch: u64, through: u64) -> Result<(), SpoolError> {
        let writing = self.current.as_ref().map(|current| current.epoch);
        let last = self.segments.len().saturating_sub(1);
        let mut index = 0;
        let mut failure = None;
        let (disk, bytes) = (&self.disk, &mut self.bytes);
        self.segments.retain(|segment| {
            let in_use = index == last && writing == Some(segment.epoch);
            index += 1;
            if failure.is_some() || in_use || segment.epoch != epoch || segment.next() > through.saturating_add(1) {
                return true;
            }
            match disk.remove(&segment.path) {
                Ok(()) => {
                    *bytes -= segment.bytes;
                    false
                }
                Err(error) => {
                    failure = Some(error);
                    true
                }
            }
        });
        failure.map_or(Ok(()), |error| Err(SpoolError::Write(error)))
    }

    /// How full it is; a spool that cannot be written counts as full.
    pub(crate) fn fill(&self) -> Fill {
        if self.poisoned || self.sync.failed() || self.bytes >= self.bytes_max {
            Fill::Full
        } else if self.bytes.saturating_mul(100) >= self.bytes_max.saturating_mul(PRESSURE_PERCENT) {
            Fill::Pressure
        } else {
            Fill::Room
        }
    }

    /// From half of its maximum on, it takes only what calls need.
    pub(crate) fn is_half_full(&self) -> bool {
        self.bytes >= self.bytes_max / 2
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A handle to wait for durability of the current epoch's records.
    pub(crate) fn sync(&self) -> SpoolSync {
        self.sync.clone()
    }

    /// A crash right after creating the file leaves an empty segment, which the next start removes.
    fn roll_if_due(&mut self) -> Result<bool, SpoolError> {
        let Some(current) = &self.current else { return Err(SpoolError::Poisoned) };
        let open = self.segments.last().filter(|segment| segment.epoch == current.epoch);
        if open.is_some_and(|segment| segment.bytes < self.segment_bytes) {
            return Ok(open.is_some_and(|segment| segment.ends.is_empty()));
        }
        let segment = Segment::create(self.disk.as_ref(), &self.dir, current.epoch, current.next)?;
        self.segments.push(segment);
        Ok(true)
    }
}

fn write_whole(segment: &Segment, frames: &[u8]) -> Result<(), SpoolError> {
    match segment.file.write_at(segment.end(), frames) {
        Ok(written) if written == frames.len() => Ok(()),
        Ok(_) => Err(SpoolError::ShortWrite),
        Err(error) => Err(SpoolError::Write(error)),
    }
}

fn note_recovered(epochs: &mut Vec<RecoveredEpoch>, segment: &Segment, cut: u64) {
    if segment.ends.is_empty() && cut == 0 {
        return;
    }
    let run = segment.first..segment.next();
    match epochs.last_mut().filter(|known| known.epoch == segment.epoch) {
        Some(known) => {
            known.cut_bytes += cut;
            match known.runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                Some(_) | None => known.runs.push(run),
            }
        }
        None => epochs.push(RecoveredEpoch { epoch: segment.epoch, runs: vec![run], cut_bytes: cut }),
    }
}
