//! Who is talked to: nodes of this cluster in this life, that were not removed, on their newest copy of their data.
//!
//! Every message and every connection carries an [`Introduction`]. How often a node had started when it was seen last
//! is kept on the disk, so a data directory that was wiped or set back does not come back unnoticed: what the node
//! had promised (a vote, an entry) would be forgotten, and a majority could be made of forgetful nodes.
//! When a peer says of *this* node that it was removed or is an older copy, this node ends: the word is true for good,
//! for ids are never used again and a count of starts never falls.
//! Absent: certificates, which prove the id (the transport).

use std::{collections::BTreeMap, io};

use tokio::sync::{Mutex, watch};

use super::{
    disk::Family,
    store::{Batch, Store, meta_key},
    transport::{Introduction, Refusal},
};

/// Ids remembered: far more than a cluster ever has members, in all its life.
const SEEN_MAX: usize = 4096;

/// How a node was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    starts: u64,
    run: u64,
}

/// The gate of one node.
#[derive(Debug)]
pub(super) struct Gate {
    own: Introduction,
    store: Store,
    seen: Mutex<BTreeMap<u64, Seen>>,
    roster: watch::Receiver<Roster>,
    verdict: watch::Sender<Option<Refusal>>,
}

/// Ids that are members, and ids that were and are not any more, as of what is applied here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roster {
    pub(super) former: std::collections::BTreeSet<u64>,
}

impl Gate {
    pub(super) fn new(own: Introduction, store: Store, roster: watch::Receiver<Roster>) -> Self {
        Self { own, store, seen: Mutex::default(), roster, verdict: watch::Sender::new(None) }
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
        if let Err(refusal) = self.judge(other) {
            tracing::warn!(node = other.node_id, %refusal, "a peer is refused");
            return Ok(Err(refusal));
        }
        let now = Seen { starts: other.starts, run: other.run };
        let mut seen = self.seen.lock().await;
        let before = match seen.get(&other.node_id) {
            Some(before) => Some(*before),
            None => self.recall(other.node_id)?,
        };
        if before.is_some_and(|before| now.starts < before.starts || (now.starts == before.starts && now != before)) {
            tracing::error!(node = other.node_id, starts = now.starts, "a peer runs on an older copy of its data");
            return Ok(Err(Refusal::OlderCopy));
        }
        if before != Some(now) {
            // Before anything it says counts: after a crash here an older copy must still be told from this one.
            self.remember(other.node_id, now).await?;
        }
        if seen.len() < SEEN_MAX || seen.contains_key(&other.node_id) {
            seen.insert(other.node_id, now);
        }
        Ok(Ok(()))
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
        tracing::error!(peer = by, %refusal, "this node is refused by a peer");
        if matches!(refusal, Refusal::Removed | Refusal::OlderCopy) {
            self.verdict.send_replace(Some(refusal));
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
