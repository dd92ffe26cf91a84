//! What the storage tests share: an applier that keeps what it is given, entries, and a node's storage opened.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bailiwick_ledger_core::{
    hash::Hash,
    tree::{empty_root, node_hash},
};
use openraft::{
    entry::RaftEntry as _,
    storage::{RaftLogStorageExt as _, RaftStateMachine as _},
    vote::RaftLeaderId as _,
};

use crate::{
    disk::{Disk, Family},
    format,
    log::Log,
    machine::{Applier, Change, Machine},
    merkle,
    raft::{self, Proposal},
    snapshot::Snapshots,
    store::{Birth, Store},
    transport::Member,
};

/// Of the changes that begin with this only the last counts.
pub(crate) const TICK: &str = "tick";

/// What an applier was given since the last reset, and the version published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected(Arc<Mutex<(Vec<Change>, u64)>>);

impl Collected {
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap().0.clone()
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.lock().unwrap().1
    }
}

fn is_tick(change: &Change) -> bool {
    change.events.iter().any(|event| event.starts_with(TICK.as_bytes()))
}

impl Applier for Collected {
    fn reset(&mut self) {
        *self.0.lock().unwrap() = (Vec::new(), 0);
    }

    fn apply(&mut self, change: &Change) -> std::io::Result<Option<u64>> {
        let changes = &mut self.0.lock().unwrap().0;
        let earlier = changes.iter().rev().find(|earlier| is_tick(earlier)).map(|earlier| earlier.revision);
        changes.push(change.clone());
        Ok(earlier.filter(|_| is_tick(change)))
    }

    fn publish(&mut self, version: u64) {
        self.0.lock().unwrap().1 = version;
    }
}

pub(crate) fn birth() -> Birth {
    Birth { cluster_id: "ab".repeat(16), incarnation: "cd".repeat(8), node_id: 1 }
}

/// A node's storage.
pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) snapshots: Snapshots,
    pub(crate) log: Log,
    pub(crate) machine: Machine,
    pub(crate) collected: Collected,
}

impl Node {
    pub(crate) fn open(disk: impl Disk) -> std::io::Result<Self> {
        let (store, collected) = (Store::open(Arc::new(disk), birth())?, Collected::default());
        let snapshots = Snapshots::open(store.clone());
        let machine = Machine::recover(store.clone(), snapshots.clone(), Box::new(collected.clone()))?;
        Log::check(&store)?;
        Ok(Self { log: Log::new(store.clone()), store, snapshots, machine, collected })
    }

    /// Appends entries, waits until they are synced, and applies them.
    pub(crate) async fn commit(&mut self, entries: Vec<raft::Entry>) -> std::io::Result<()> {
        self.log.blocking_append(entries.clone()).await.map_err(std::io::Error::other)?;
        self.apply(entries).await
    }

    pub(crate) async fn apply(&mut self, entries: Vec<raft::Entry>) -> std::io::Result<()> {
        self.machine.apply(futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
    }

    /// The next change, as an entry.
    pub(crate) fn change(&self, index: u64, what: &str) -> raft::Entry {
        change(index, self.machine.roots().newest().0, what)
    }
}

pub(crate) fn id(term: u64, index: u64) -> raft::LogId {
    raft::LogId { leader_id: raft::LeaderId::new(term, 1), index }
}

pub(crate) fn change(index: u64, expected_version: u64, what: &str) -> raft::Entry {
    let proposal = Proposal { expected_version, events: vec![what.as_bytes().to_vec()], ..Proposal::default() };
    raft::Entry::new(id(1, index), raft::Payload::Normal(proposal))
}

pub(crate) fn members(index: u64, ids: &[u64]) -> raft::Entry {
    let named = ids.iter().map(|id| (*id, Member { name: format!("n{id}"), ..Member::default() }));
    let named: BTreeMap<u64, Member> = named.collect();
    let members = raft::Members::new(vec![ids.iter().copied().collect()], named).unwrap();
    raft::Entry::new(id(1, index), raft::Payload::Membership(members))
}

/// RFC 6962 §2.1, word for word.
pub(crate) fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// The leaves of stored changes, none of which has been forgotten.
pub(crate) fn leaves(disk: &impl Disk) -> Vec<Hash> {
    let mut leaves = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        leaves.push(merkle::leaf(format::index_of(key)?, value));
        Ok(true)
    };
    disk.scan(Family::Events, &[], visit).unwrap();
    leaves
}
