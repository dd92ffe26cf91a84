//! Snapshots on their way in: parts of a file, in order, that go into force once the last one is there.
//!
//! One snapshot arrives at a time. A transfer that was cut off goes on where it stopped as long as the sender sends
//! the same file; a restart begins anew, for a file in the making never survives one. A file counts once it is whole
//! and verifies (`snapshot`). Absent: sending (`network`).

use std::{
    io::{self, Read, Write as _},
    sync::Arc,
};

use openraft::{Raft, async_runtime::watch::WatchReceiver as _};
use tokio::sync::Mutex;

use super::{
    disk::BlobWriter,
    format,
    machine::Machine,
    messages::{self, Chunk, ChunkTaken},
    raft::Types,
    snapshot::{SnapshotFile, Snapshots},
    store::Store,
};

/// Name of the file while it arrives.
const ARRIVING: &str = "arriving";
/// Larger than any state a node could hold in memory.
const SNAPSHOT_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// The receiving end of one node.
#[derive(Clone)]
pub(super) struct Arrivals {
    store: Store,
    snapshots: Snapshots,
    current: Arc<Mutex<Option<Arrival>>>,
}

/// A file in the making.
struct Arrival {
    from: u64,
    position: format::Position,
    file: Box<dyn BlobWriter>,
    written: u64,
}

impl Arrivals {
    pub(super) fn new(store: Store, snapshots: Snapshots) -> Self {
        Self { store, snapshots, current: Arc::default() }
    }

    /// Takes in a part from node `from`, and says which byte is wanted next.
    pub(super) async fn take(&self, raft: &Raft<Types, Machine>, from: u64, chunk: Chunk) -> io::Result<ChunkTaken> {
        let vote = messages::vote(chunk.vote)?;
        let own = raft.metrics().borrow_watched().vote;
        if own > vote {
            return Ok(ChunkTaken { vote: Some((&own).into()), next: 0, installed: false });
        }
        let position = chunk.position.unwrap_or_default();
        let wants = |next| ChunkTaken { vote: Some((&own).into()), next, installed: false };
        let mut current = self.current.lock().await;
        let mut arrival = match current.take() {
            Some(arrival) if arrival.from == from && arrival.position == position => arrival,
            _ if chunk.offset > 0 => return Ok(wants(0)),
            earlier => {
                drop(earlier);
                let file = self.store.run(|store| store.disk().blob_create(ARRIVING)).await?;
                Arrival { from, position, file, written: 0 }
            }
        };
        if arrival.written != chunk.offset {
            let next = arrival.written;
            *current = Some(arrival);
            return Ok(wants(next));
        }
        let written = arrival.written.saturating_add(u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX));
        if written > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a snapshot is too large"));
        }
        let (bytes, last) = (chunk.bytes, chunk.last);
        arrival = self.store.run(move |_| arrival.write(&bytes)).await?;
        if !last {
            *current = Some(arrival);
            return Ok(wants(written));
        }
        let snapshots = self.snapshots.clone();
        let publish = move |_: &Store| {
            arrival.file.publish()?;
            snapshots.arrived(ARRIVING)
        };
        let snapshot = self.store.run(publish).await?;
        let installed = raft.install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
        self.store.run(|store| store.disk().blob_remove(ARRIVING)).await?;
        Ok(ChunkTaken { vote: Some((&installed.vote).into()), next: written, installed: true })
    }
}

impl Arrival {
    fn write(mut self, bytes: &[u8]) -> io::Result<Self> {
        self.file.write_all(bytes)?;
        self.written = self.written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(self)
    }
}

/// A snapshot file on its way out, read in order; going back means to begin anew.
pub(super) struct Source {
    file: SnapshotFile,
    input: Box<dyn Read + Send>,
    at: u64,
}

impl Source {
    pub(super) fn open(file: SnapshotFile) -> io::Result<Self> {
        let input = file.open()?;
        Ok(Self { file, input, at: 0 })
    }

    /// At most `bytes_max` bytes from `offset` on, and whether nothing follows. Blocks.
    pub(super) fn part(mut self, offset: u64, bytes_max: usize) -> io::Result<(Self, Vec<u8>, bool)> {
        if offset < self.at {
            self = Self::open(self.file)?;
        }
        io::copy(&mut self.input.by_ref().take(offset - self.at), &mut io::sink())?;
        let mut bytes = Vec::new();
        let wanted = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        self.input.by_ref().take(wanted).read_to_end(&mut bytes)?;
        self.at = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let last = bytes.len() < bytes_max;
        Ok((self, bytes, last))
    }
}
