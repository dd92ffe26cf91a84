//! Who is talked to: nodes of this cluster in this life, that were not removed, on their newest copy of their data.
//!
//! Every message and every connection carries an [`Introduction`]. How often a node had started when it was seen last
//! is kept on the disk, so a data directory that was wiped or set back does not come back unnoticed: what the node
//! had promised (a vote, an entry) would be forgotten, and a majority could be made of forgetful nodes.
//! When a peer says of *this* node that it was removed or is an older copy, this node ends: the word is true for good,
//! for ids are never used again and a count of starts never falls.
//! Absent: certificates, which prove the id (the transport).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::PoisonError,
};

use tokio::sync::{Mutex, watch};

use super::{
    disk::Family,
    store::{Batch, Store, meta_key},
    transport::{Introduction, Refusal},
};

/// Ids remembered: far more than a cluster ever has members, in all its life.
const MET_MAX: usize = 4096;

/// How a node was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    starts: u64,
    run: u64,
}

impl Seen {
    /// A start is counted on the disk before anything is said, so one number never stands for two runs.
    fn is_older_than(self, seen: Self) -> bool {
        self.starts < seen.starts || (self.starts == seen.starts && self.run != seen.run)
    }
}

/// What is known of a node that was met.
#[derive(Clone, Copy, Debug)]
struct Met {
    seen: Option<Seen>,
    /// Why it was refused the last time, if it was.
    refusal: Option<Refusal>,
}

/// The gate of one node.
#[derive(Debug)]
pub(super) struct Gate {
    own: Introduction,
    store: Store,
    met: Mutex<BTreeMap<u64, Met>>,
    /// The last refusal heard, and from whom.
    told: std::sync::Mutex<Option<(u64, Refusal)>>,
    roster: watch::Receiver<Roster>,
    verdict: watch::Sender<Option<Refusal>>,
}

/// Ids that are members, and ids that were and are not any more, as of what is applied here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roster {
    pub(super) former: BTreeSet<u64>,
}

impl Gate {
    pub(super) fn new(own: Introduction, store: Store, roster: watch::Receiver<Roster>) -> Self {
        Self {
            own,
            store,
            met: Mutex::default(),
            told: std::sync::Mutex::default(),
            roster,
            verdict: watch::Sender::new(None),
        }
    }

    /// How this node presents itself.
    pub(super) const fn own(&self) -> &Introduction {
        &self.own
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    /// Decides whether to talk to `other`, and remembers having met it.
    pub(super) async fn meet(&self, other: &Introduction) -> io::Result<Result<(), Refusal>> {
        let mut met = self.met.lock().await;
        if met.len() >= MET_MAX && !met.contains_key(&other.node_id) {
            return Ok(Err(Refusal::OtherNode));
        }
        let before = match met.get(&other.node_id) {
            Some(before) => *before,
            None => Met { seen: self.recall(other.node_id)?, refusal: None },
        };
        let now = Seen { starts: other.starts, run: other.run };
        let refusal = self
            .judge(other)
            .err()
            .or_else(|| before.seen.is_some_and(|seen| now.is_older_than(seen)).then_some(Refusal::OlderCopy));
        if refusal != before.refusal {
            match refusal {
                Some(why) => tracing::error!(node = other.node_id, starts = other.starts, %why, "a peer is refused"),
                None => tracing::info!(node = other.node_id, starts = other.starts, "a peer is not refused any more"),
            }
        }
        let mut seen = before.seen;
        if refusal.is_none() && seen != Some(now) {
            // Before anything it says counts: after a crash here an older copy must still be told from this one.
            self.remember(other.node_id, now).await?;
            seen = Some(now);
        }
        met.insert(other.node_id, Met { seen, refusal });
        Ok(refusal.map_or(Ok(()), Err))
    }

    fn judge(&self, other: &Introduction) -> Result<(), Refusal> {
        if other.cluster_id != self.own.cluster_id {
            return Err(Refusal::OtherCluster);
        }
        if other.incarnation != self.own.incarnation {
            return Err(Refusal::OtherIncarnation);
        }
        if other.node_id == self.own.node_id {
            return Err(Refusal::OtherNode);
        }
        if self.roster.borrow().former.contains(&other.node_id) {
            return Err(Refusal::Removed);
        }
        Ok(())
    }

    /// Takes in what a peer said of this node. Some of it is final.
    pub(super) fn told(&self, by: u64, refusal: Refusal) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.replace((by, refusal)) != Some((by, refusal)) {
            tracing::error!(peer = by, why = %refusal, "this node is refused by a peer");
        }
        if matches!(refusal, Refusal::Removed | Refusal::OlderCopy) {
            self.verdict.send_replace(Some(refusal));
        }
    }

    /// Notices when what is applied here says that this node was removed.
    pub(super) fn look_for_removal(&self) {
        if self.roster.borrow().former.contains(&self.own.node_id) && self.verdict.borrow().is_none() {
            tracing::error!("this node has been removed from the cluster");
            self.verdict.send_replace(Some(Refusal::Removed));
        }
    }

    /// Why this node may take part no longer, once that is so.
    pub(super) fn verdict(&self) -> watch::Receiver<Option<Refusal>> {
        self.verdict.subscribe()
    }

    fn recall(&self, node_id: u64) -> io::Result<Option<Seen>> {
        let Some(bytes) = self.store.get(Family::Meta, key(node_id))? else { return Ok(None) };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the record of a peer's starts is damaged");
        let (starts, run) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let run = run.try_into().map_err(|_| damaged())?;
        Ok(Some(Seen { starts: u64::from_be_bytes(*starts), run: u64::from_be_bytes(run) }))
    }

    async fn remember(&self, node_id: u64, seen: Seen) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.put_meta(&key(node_id), &[seen.starts.to_be_bytes(), seen.run.to_be_bytes()].concat());
        self.store.commit_synced(batch).await
    }
}

fn key(node_id: u64) -> String {
    format!("{}{node_id}", meta_key::PEER_STARTS)
}
