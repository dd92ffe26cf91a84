//! Consensus: an ordered, replicated, durable log of changes behind one small facade.
//!
//! `domain` proposes and reads; `serve` opens and shuts down. What [`Consensus::propose`] reports as applied survives
//! `kill -9` and power loss on every node that was asked. The Raft library is named only in the files below this one:
//! none of its types is in a signature here or in a byte on the disk.
//!
//! Deliberately absent: what events mean (`domain`, `core`), and peers (`peers` reaches nobody yet).

mod format;
mod log;
mod machine;
mod peers;
mod raft;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::TryStreamExt as _;
use openraft::{
    BasicNode, Config, Raft, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError},
};
use tokio::sync::watch;

use self::{
    log::Log,
    machine::Machine,
    peers::NoPeers,
    raft::Types,
    snapshot::Snapshots,
    store::{EVENTS, Store},
};
pub use self::{
    machine::{Applier, Change},
    raft::{Outcome, Proposal},
};

/// Heartbeats to followers; a fifth of the shortest election timeout, so one lost heartbeat starts no election.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// Elections start between these, at random: long beside a disk sync, short beside a lease.
const ELECTION_MIN: Duration = Duration::from_secs(1);
const ELECTION_MAX: Duration = Duration::from_secs(2);
/// Entries between snapshots. The state is stored as it is applied, so a snapshot only serves to shorten the log (and
/// peers far behind), and each holds the whole event log: rarely is enough.
const SNAPSHOT_EVERY: u64 = 20_000;
/// Entries kept in the log behind a snapshot, for peers a little behind.
const LOG_KEPT: u64 = 1_000;
/// Longest wait for others to let go of the database at shutdown.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Proposals in one call; the domain groups no more than this.
pub const PROPOSALS_MAX: usize = 64;

/// Why consensus cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// Another node leads, or none does yet. Nothing was changed.
    #[error("this node does not lead the cluster")]
    NotLeader {
        /// The leader's id, where known.
        leader: Option<u64>,
    },
    /// Leadership was lost while the proposal was under way: it may still take effect. Ask again with its id.
    #[error("leadership changed before the outcome was known")]
    OutcomeUnknown,
    /// The disk failed; this node has stopped and must be restarted. Nothing acknowledged is lost.
    #[error("storage failed: {detail}; nothing acknowledged is lost, start again once the disk works")]
    Storage {
        /// What the storage said.
        detail: String,
    },
    /// Shut down.
    #[error("consensus has stopped")]
    Stopped,
    /// Did not come up in time.
    #[error("no leader within {0:?}")]
    NoLeader(Duration),
    /// The data directory cannot be opened.
    #[error("cannot open the data directory: {0}")]
    Open(#[from] io::Error),
}

/// A proposal that was committed: where, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its index: the revision it made, if it was applied.
    pub revision: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// One node's part in the cluster. Clones share it.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft<Types, Machine>,
    store: Store,
    revisions: watch::Receiver<u64>,
    folder: Arc<PathBuf>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Consensus {
    /// Opens the data directory `folder`, folds what it holds into `applier`, and joins the cluster it belongs to;
    /// an empty directory becomes a cluster of this node alone.
    ///
    /// # Errors
    /// When the directory cannot be opened, belongs to another node, or holds what cannot be read.
    pub async fn open(folder: &Path, node_id: u64, applier: Box<dyn Applier>) -> Result<Self, ConsensusError> {
        let path = folder.to_owned();
        let (store, machine) =
            tokio::task::spawn_blocking(move || recover(&path, node_id, applier)).await.map_err(io::Error::other)??;
        let revisions = machine.revisions();
        let config = Arc::new(config().validate().map_err(io::Error::other)?);
        let raft = Raft::new(node_id, config, NoPeers, Log::new(store.clone()), machine).await.map_err(fatal)?;
        if !raft.is_initialized().await.map_err(fatal)? {
            let members = BTreeMap::from([(node_id, BasicNode::default())]);
            raft.initialize(members).await.map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(Self { raft, store, revisions, folder: Arc::new(folder.to_owned()) })
    }

    /// Waits until this node knows a leader and has applied everything it had acknowledged before.
    ///
    /// # Errors
    /// [`ConsensusError::NoLeader`] when that takes longer than `timeout`.
    pub async fn ready(&self, timeout: Duration) -> Result<(), ConsensusError> {
        if self.only_voter() && !self.is_leader() {
            // Nobody else can lead, so there is nothing to wait for.
            self.raft.trigger().elect(false).await.map_err(fatal)?;
        }
        let recovered = self.raft.wait_for_recovery(Some(timeout)).await;
        recovered.map(drop).map_err(|_| self.failure().unwrap_or(ConsensusError::NoLeader(timeout)))
    }

    /// Appends proposals in order and waits until each is committed, synced and applied here.
    /// The answers stand in the order of the proposals.
    ///
    /// # Errors
    /// When no answer can be given for the rest. Proposals without an answer may still take effect.
    pub async fn propose(&self, proposals: Vec<Proposal>) -> Result<Vec<Committed>, ConsensusError> {
        let count = proposals.len();
        let mut answers = match self.raft.client_write_many(proposals).await {
            Ok(answers) => answers,
            Err(error) => return Err(self.cause(error).await),
        };
        let mut committed = Vec::with_capacity(count);
        loop {
            match answers.try_next().await {
                Ok(Some(Ok(answer))) => {
                    committed.push(Committed { revision: answer.log_id.index, outcome: answer.response });
                }
                Ok(Some(Err(error))) => return Err(refused(error)),
                Ok(None) if committed.len() == count => return Ok(committed),
                Ok(None) => return Err(self.cause(Fatal::Stopped).await),
                Err(error) => return Err(self.cause(error).await),
            }
        }
    }

    /// Returns once every write acknowledged before this call, by any leader, is part of what is read here.
    ///
    /// # Errors
    /// [`ConsensusError::NotLeader`] on a node that cannot prove that it leads.
    pub async fn linearizable(&self) -> Result<(), ConsensusError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ConsensusError::NotLeader { leader: forward.leader_id })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ConsensusError::NotLeader { leader: None })
            }
            Err(RaftError::Fatal(error)) => Err(self.cause(error).await),
        }
    }

    /// Whether this node leads as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    /// The term this node is in; grows with each election.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raft.metrics().borrow_watched().current_term
    }

    /// The revision applied here last; tells of each new one.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.clone()
    }

    /// Why this node has stopped, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<ConsensusError> {
        self.raft.metrics().borrow_watched().running_state.clone().err().map(fatal)
    }

    /// Returns when this node has stopped, with the reason.
    pub async fn failed(&self) -> ConsensusError {
        let mut metrics = self.raft.metrics();
        loop {
            if let Some(failure) = self.failure() {
                return failure;
            }
            if metrics.changed().await.is_err() {
                return self.failure().unwrap_or(ConsensusError::Stopped);
            }
        }
    }

    /// Hands over applied changes from `revision` on, in order, until `visit` says `false`. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk or `visit` fails.
    pub fn changes_from(&self, revision: u64, mut visit: impl FnMut(Change) -> io::Result<bool>) -> io::Result<()> {
        self.store.scan(EVENTS, revision, |revision, bytes| {
            let stored: format::Change = format::decode(bytes)?;
            visit(Change { revision, events: stored.events })
        })
    }

    /// Stops taking part and returns once the directory is free for another process. Nothing needs flushing: what was
    /// acknowledged is on the disk.
    pub async fn shutdown(self) {
        let mut closed = self.store.closed();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
        drop(self);
        // An error says that the sender is gone, which is what is waited for.
        if tokio::time::timeout(CLOSE_WAIT_MAX, closed.changed()).await.is_err() {
            tracing::warn!("the data directory is still in use");
        }
    }

    /// A caller may learn that this node has stopped before it says why.
    async fn cause(&self, error: Fatal<Types>) -> ConsensusError {
        match error {
            Fatal::Stopped => self.failed().await,
            Fatal::StorageError(_) | Fatal::Panicked => fatal(error),
        }
    }

    fn only_voter(&self) -> bool {
        self.raft.metrics().borrow_watched().membership_config.voter_ids().count() == 1
    }
}

fn recover(folder: &Path, node_id: u64, applier: Box<dyn Applier>) -> io::Result<(Store, Machine)> {
    std::fs::create_dir_all(folder)?;
    let store = Store::open(&folder.join("store"), node_id)?;
    let snapshots = Snapshots::open(folder.join("snapshots"))?;
    let machine = Machine::recover(store.clone(), snapshots, applier)?;
    Ok((store, machine))
}

fn config() -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "bailiwick".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: LOG_KEPT,
        purge_batch_size: LOG_KEPT,
        enable_pre_vote: Some(true),
        ..Config::default()
    }
}

fn fatal(error: Fatal<Types>) -> ConsensusError {
    match error {
        Fatal::StorageError(error) => ConsensusError::Storage { detail: error.to_string() },
        Fatal::Panicked => {
            ConsensusError::Storage { detail: "a storage or consensus task ended abnormally".to_owned() }
        }
        Fatal::Stopped => ConsensusError::Stopped,
    }
}

fn refused(error: ClientWriteError<Types>) -> ConsensusError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ConsensusError::NotLeader { leader: forward.leader_id },
        ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_) => ConsensusError::OutcomeUnknown,
    }
}
