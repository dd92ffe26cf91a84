//! Backups: the whole state of a cluster as one file, and a new cluster from it.
//!
//! The file has the layout of a snapshot. A cluster restored from it keeps the cluster's id and has a new incarnation,
//! so no node of the earlier life talks to one of the new, and a node of an old backup cannot come back unnoticed.
//! It begins with one member, the node it was restored on; the others join it as new nodes do.
//! A restore is done when its last write is: one that was interrupted leaves a directory that nothing opens and that
//! another restore may take. Absent: choosing ids, and what the events mean.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Arc,
};

use prost::Message as _;

use super::{
    changes::Row,
    disk::{Disk, Durability, Family},
    format::{self, Applied, Members, Position, SnapshotHeader, Vote, Voters},
    machine::Change,
    snapshot::{Reader, Rows, Snapshots, header, write_state},
    store::{Batch, Birth, Store, meta_key},
    transport::Member,
};

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// The cluster's id.
    pub cluster_id: String,
    /// Which life of it.
    pub incarnation: String,
    /// The last revision that can be part of it.
    pub revision: u64,
    /// How many changes had been applied.
    pub version: u64,
    /// The root of the Merkle log over them.
    pub root: [u8; 32],
    /// Changes in the file; the others had become void.
    pub changes: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The members then, by node id.
    pub members: BTreeMap<u64, Member>,
}

/// Writes a backup of the state as it is applied on this node. Blocks; the node goes on meanwhile.
pub(super) fn write(
    store: &Store,
    snapshots: &Snapshots,
    created_unix_ms: u64,
    out: impl Write,
) -> io::Result<BackupSummary> {
    let _whole = snapshots.whole();
    let applied = store.get(Family::Meta, meta_key::APPLIED)?;
    let applied: Applied = format::decode(&applied.ok_or_else(|| io::Error::other("nothing has been applied yet"))?)?;
    let header = SnapshotHeader { created_unix_ms, ..header(store, applied) };
    let (mut out, changes) = write_state(store, header.clone(), out)?;
    out.flush()?;
    summary(&header, changes)
}

/// Reads a backup to its end and says what it holds. Blocks.
///
/// # Errors
/// When it is not, byte for byte, what was written.
pub fn verify_backup(backup: impl Read) -> io::Result<BackupSummary> {
    let reader = Reader::open(backup)?;
    let header = reader.header().clone();
    let changes = reader.rows(|_| Ok(()))?;
    summary(&header, changes)
}

/// Hands over the changes in a backup, in order; those that had become void are not in it. Blocks.
///
/// # Errors
/// When it is not, byte for byte, what was written, or `visit` fails.
pub fn backup_changes(backup: impl Read, mut visit: impl FnMut(Change) -> io::Result<()>) -> io::Result<()> {
    let rows = Reader::open(backup)?.rows(|row| match row {
        Row::Change { revision, bytes, .. } => {
            let stored: format::Change = format::decode(bytes)?;
            visit(Change { revision, events: stored.events })
        }
        Row::Void(_) => Ok(()),
    });
    rows.map(drop)
}

/// Makes `disk`, which must be empty, the data of a new life of the cluster with `birth` as its only node. Blocks.
///
/// # Errors
/// When the backup does not verify, is of another cluster, or of the very incarnation that `birth` names; when the
/// disk is in use already, or fails.
pub fn restore(backup: impl Read, disk: &Arc<dyn Disk>, birth: &Birth, member: Member) -> io::Result<BackupSummary> {
    let refuse = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let store = Store::restoring(Arc::clone(disk), birth)?;
    let reader = Reader::open(backup)?;
    let header = reader.header().clone();
    let summary = |changes| summary(&header, changes);
    if header.cluster_id != birth.cluster_id {
        return refuse("the backup is of another cluster");
    }
    if header.incarnation == birth.incarnation {
        return refuse("a restored cluster needs a new incarnation");
    }
    let mut rows = Rows::new(&store);
    let changes = reader.rows(|row: Row<'_>| rows.put(row))?;
    let mut batch = rows.rest();
    begin(&mut batch, header.applied.clone().unwrap_or_default(), birth, member);
    batch.put_birth(birth);
    store.commit(batch, Durability::Synced)?;
    summary(changes)
}

/// What Raft finds at the first start: everything up to the backup is applied, and this node may lead from the next
/// term on.
fn begin(batch: &mut Batch, applied: Applied, birth: &Birth, member: Member) {
    let position = applied.position.unwrap_or_default();
    let members = Members {
        voters: vec![Voters { nodes: vec![birth.node_id] }],
        nodes: BTreeMap::from([(birth.node_id, member)]),
    };
    let earlier = applied.members.unwrap_or_default().nodes.into_keys();
    let former = applied.former.into_iter().chain(earlier).filter(|id| *id != birth.node_id);
    let former = former.collect::<std::collections::BTreeSet<u64>>().into_iter().collect();
    let applied = Applied {
        members: Some(members),
        members_position: Some(position),
        position: Some(position),
        former,
        chain: 0,
        chain_since: 0,
        version: applied.version,
        root: applied.root,
    };
    let vote = Vote { term: position.term.saturating_add(1), node: birth.node_id, committed: false };
    batch.put_meta(meta_key::APPLIED, &applied.encode_to_vec());
    batch.put_meta(meta_key::PURGED, &Position::encode_to_vec(&position));
    batch.put_meta(meta_key::VOTE, &vote.encode_to_vec());
}

fn summary(header: &SnapshotHeader, changes: u64) -> io::Result<BackupSummary> {
    let applied = header.applied.clone().unwrap_or_default();
    Ok(BackupSummary {
        cluster_id: header.cluster_id.clone(),
        incarnation: header.incarnation.clone(),
        revision: applied.revision(),
        version: applied.version,
        root: applied.root()?,
        changes,
        created_unix_ms: header.created_unix_ms,
        members: applied.members.unwrap_or_default().nodes,
    })
}

#[cfg(test)]
mod tests;
