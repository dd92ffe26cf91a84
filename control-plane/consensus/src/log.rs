//! The Raft log and vote on the store: what has been promised to peers survives every crash.
//!
//! Implements the library's log traits and keeps the storage contract of `store`. Each write is synced before it is
//! reported, and one write ends before the next begins. Absent: applying entries (`machine`).

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use prost::Message as _;

use super::{
    format,
    raft::{self, Types},
    disk::{Durability, Family},
    store::{Batch, Store, meta_key},
};

/// Entries read at once for a peer stop growing here, so a peer far behind cannot fill memory.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The log; clones read and write the same one.
#[derive(Clone, Debug)]
pub(super) struct Log {
    store: Store,
}

impl Log {
    pub(super) const fn new(store: Store) -> Self {
        Self { store }
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<raft::Entry>> {
        let (mut entries, mut bytes): (Vec<raft::Entry>, usize) = (Vec::new(), 0);
        self.store.scan(Family::Log, start, |index, value| {
            if index >= end || bytes >= bytes_max {
                return Ok(false);
            }
            let entry = raft::Entry::try_from(format::decode::<format::Entry>(value)?)?;
            if entry.log_id.index != index || entries.last().is_some_and(|last| last.log_id.index + 1 != index) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the log has a hole before {index}")));
            }
            bytes += value.len();
            entries.push(entry);
            Ok(true)
        })?;
        Ok(entries)
    }

    fn position(&self, key: &str) -> io::Result<Option<raft::LogId>> {
        let Some(bytes) = self.store.get(Family::Meta, key)? else { return Ok(None) };
        Ok(Some(format::decode::<format::Position>(&bytes)?.into()))
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<raft::Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<raft::Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<raft::Vote>, io::Error> {
        let Some(bytes) = self.store.get(Family::Meta, meta_key::VOTE)? else { return Ok(None) };
        Ok(Some(format::decode::<format::Vote>(&bytes)?.into()))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged = self.position(meta_key::PURGED)?;
        let last = match self.store.last(Family::Log)? {
            Some((_, bytes)) => Some(raft::Entry::try_from(format::decode::<format::Entry>(&bytes)?)?.log_id),
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &raft::Vote) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.put_meta(meta_key::VOTE, &format::Vote::from(vote).encode_to_vec());
        self.store.commit_synced(batch).await
    }

    async fn save_committed(&mut self, committed: Option<raft::LogId>) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        match committed {
            Some(id) => batch.put_meta(meta_key::COMMITTED, &format::Position::from(&id).encode_to_vec()),
            None => batch.delete_meta(meta_key::COMMITTED),
        }
        self.store.commit(batch, Durability::Written)
    }

    async fn read_committed(&mut self) -> Result<Option<raft::LogId>, io::Error> {
        self.position(meta_key::COMMITTED)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = raft::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        for entry in entries {
            let index = entry.log_id.index;
            batch.put_entry(index, format::Entry::from(entry).encode_to_vec());
        }
        // A crash before this returns leaves entries nobody was told of; a crash after it loses none.
        self.store.commit_synced(batch).await?;
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<raft::LogId>) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.delete_entries_from(last.map_or(0, |id| id.index.saturating_add(1)));
        self.store.commit_synced(batch).await
    }

    async fn purge(&mut self, upto: raft::LogId) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.put_meta(meta_key::PURGED, &format::Position::from(&upto).encode_to_vec());
        batch.delete_entries_to(upto.index);
        self.store.commit_synced(batch).await
    }
}
