//! The Raft log and vote on the store: what has been promised to peers survives every crash.
//!
//! Implements the library's log traits and keeps the storage contract of `store`. Entries are written as they come and
//! reported once a sync that began after the write has ended; one sync serves all that waited for it (`group`). Votes,
//! truncations and purges are synced before the library goes on. A log with a hole is refused at start and when read.
//! Absent: applying entries (`machine`).

mod group;
#[cfg(test)]
mod tests;

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

use self::group::Group;
use super::{
    disk::{Durability, Family, corrupted},
    format,
    raft::{self, Types},
    store::{Batch, Store, meta_key},
};

/// Entries read at once for a peer stop growing here, so a peer far behind cannot fill memory.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The log; clones read and write the same one.
#[derive(Clone, Debug)]
pub(super) struct Log {
    store: Store,
    group: Group,
}

impl Log {
    pub(super) fn new(store: Store) -> Self {
        Self { group: Group::new(store.clone()), store }
    }

    /// Reads the whole log once and insists that nothing acknowledged is missing. Blocks.
    pub(super) fn check(store: &Store) -> io::Result<()> {
        let log = Self::new(store.clone());
        let applied: Option<format::Applied> =
            store.get(Family::Meta, meta_key::APPLIED)?.map(|bytes| format::decode(&bytes)).transpose()?;
        // Entries up to here may be gone: a snapshot or the state holds what they did.
        let settled = log.position(meta_key::PURGED)?.max(applied.and_then(|applied| applied.log_id()));
        let (mut first, mut last) = (None, None);
        store.scan(Family::Log, 0, |index, value| {
            let id = raft::Entry::try_from(format::decode::<format::Entry>(value)?)?.log_id;
            if id.index != index || last.is_some_and(|last: raft::LogId| last >= id || last.index + 1 != index) {
                return Err(hole(index));
            }
            first = first.or(Some(index));
            last = Some(id);
            Ok(true)
        })?;
        let expected = settled.map_or(0, |settled| settled.index.saturating_add(1));
        if let Some(first) = first.filter(|first| *first > expected) {
            return Err(hole(first));
        }
        let committed = log.position(meta_key::COMMITTED)?;
        if committed > last.max(settled) {
            return Err(corrupted("the log ends before what is known to be committed"));
        }
        let vote = store.get(Family::Meta, meta_key::VOTE)?.map(|bytes| format::decode::<format::Vote>(&bytes));
        let term = vote.transpose()?.map_or(0, |vote| vote.term);
        if last.is_some_and(|last| last.leader_id.term > term) {
            return Err(corrupted("the vote is older than the log"));
        }
        Ok(())
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<raft::Entry>> {
        let (mut entries, mut bytes): (Vec<raft::Entry>, usize) = (Vec::new(), 0);
        self.store.scan(Family::Log, start, |index, value| {
            if index >= end || bytes >= bytes_max {
                return Ok(false);
            }
            let entry = raft::Entry::try_from(format::decode::<format::Entry>(value)?)?;
            if entry.log_id.index != index || entries.last().is_some_and(|last| last.log_id.index + 1 != index) {
                return Err(hole(index));
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
        // A crash after this and before the sync ends may leave entries that nobody was told of; after it, all of them.
        self.store.commit(batch, Durability::Written)?;
        self.group.report_synced(callback);
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

fn hole(index: u64) -> io::Error {
    corrupted(format!("the log has a hole before {index}"))
}
