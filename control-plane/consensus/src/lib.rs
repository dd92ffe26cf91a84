//! Consensus: an ordered, replicated, durable log of changes behind one small facade.
//!
//! `domain` proposes and reads; `serve` opens and shuts down. What [`Consensus::propose`] reports as applied survives
//! `kill -9` and power loss of any minority of voters, and of all of them at once where their disks survive.
//! [`Consensus::linearizable`] makes any node's state current. The Raft library is named only in the files below this
//! one: none of its types is in a signature here, in a byte on the disk or in a byte between members.
//!
//! Read in this order: `transport` (what is asked of a network), `gate` (who is talked to), `network` and `inbound`
//! (calls out and in), `membership`; `disk`, `store`, `log`, `machine`, `snapshot` (what is kept).
//! Deliberately absent: what events mean (`domain`, `core`), sockets and certificates (`Transport`).

mod arrival;
mod disk;
mod format;
mod gate;
mod inbound;
mod log;
mod machine;
mod membership;
mod messages;
mod network;
mod raft;
pub mod runtime;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod transport;

use std::{io, sync::Arc, time::Duration};

use futures::{
    TryStreamExt as _,
    future::{Either, select},
};
use openraft::{
    AsyncRuntime as _, Config, Raft, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError},
    type_config::TypeConfigExt as _,
};
use rand::Rng as _;
use tokio::sync::watch;

use self::{
    arrival::Arrivals,
    gate::Gate,
    log::Log,
    machine::Machine,
    messages::{Answer, Ask},
    network::Network,
    raft::Types,
    runtime::NodeRuntime,
    snapshot::Snapshots,
    store::Store,
};
pub use self::{
    disk::{BlobWriter, Corrupted, Disk, Durability, Family, RocksDisk, Visit, Write},
    machine::{Applier, Change},
    membership::Membership,
    raft::{Outcome, Proposal},
    store::Birth,
    transport::{Alone, Introduction, Lane, Member, PEER_MESSAGE_BYTES_MAX, Refusal, Transport},
};

/// Entries between snapshots. The state is stored as it is applied, so a snapshot only serves to shorten the log (and
/// peers far behind), and each holds the whole event log: rarely is enough.
const SNAPSHOT_EVERY: u64 = 20_000;
/// Entries kept in the log behind a snapshot, for peers a little behind.
const LOG_KEPT: u64 = 1_000;
/// A peer further behind than this gets a snapshot; more than what lies between two snapshots and is kept.
const LAG_MAX: u64 = 2 * SNAPSHOT_EVERY;
/// Entries in one append; their bytes are bounded where they are read.
const APPEND_ENTRIES_MAX: u64 = 1024;
/// First pauses before a peer that cannot be reached is tried again: a restart goes unnoticed, a dead peer is cheap.
const RETRY_PAUSES: &str = "20ms 50ms 100ms 200ms ...500ms";
/// Longest wait for others to let go of the disk at shutdown.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the leader to say from where on a read is current, and for that to be applied here.
const READ_WAIT_MAX: Duration = Duration::from_secs(5);
/// Proposals in one call; the domain groups no more than this.
pub const PROPOSALS_MAX: usize = 64;

/// When a leader is missed.
///
/// A follower begins an election when it has heard nothing for `election_max` (for so long it is bound to its leader)
/// and then a random time between `election_min` and `election_max`. With the default that is 0.55 to 0.7 s after the
/// leader's last sign of life: five heartbeats may be lost or a disk may take half a second for a sync before anybody
/// doubts the leader, and two votes (each a sync, tens of milliseconds) still end within a second.
/// A leader that a majority has not confirmed for `election_max` takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Between signs of life; also the longest round trip to a voter that counts as one.
    pub heartbeat: Duration,
    /// Shortest further wait.
    pub election_min: Duration,
    /// Longest further wait, and how long a follower is bound.
    pub election_max: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(350),
        }
    }
}

/// What a node is made of.
pub struct Options {
    /// Its data directory.
    pub disk: Arc<dyn Disk>,
    /// Whom the data belongs to: claimed at the first opening, insisted on afterwards.
    pub birth: Birth,
    /// How it reaches its peers.
    pub transport: Arc<dyn Transport>,
    /// What takes in the changes.
    pub applier: Box<dyn Applier>,
    /// When a leader is missed.
    pub timers: Timers,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("birth", &self.birth).field("timers", &self.timers).finish_non_exhaustive()
    }
}

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
    /// No leader that a majority follows has confirmed that the state known here is current.
    #[error("no leader confirms what this node knows")]
    Unconfirmed {
        /// Who leads as far as known here.
        leader: Option<u64>,
    },
    /// The disk failed; this node has stopped and must be restarted. Nothing acknowledged is lost.
    #[error("storage failed: {detail}; nothing acknowledged is lost, start again once the disk works")]
    Storage {
        /// What the storage said.
        detail: String,
    },
    /// The cluster will have nothing to do with this node any more; it has stopped.
    #[error("a member of the cluster refuses this node: {0}")]
    Refused(Refusal),
    /// A change of the membership is not possible now.
    #[error("the membership cannot be changed: {detail}")]
    Membership {
        /// Why.
        detail: String,
    },
    /// No such node belongs to the cluster (as a voter, where only a voter will do).
    #[error("node {node_id} is no such member")]
    NoSuchMember {
        /// The id asked for.
        node_id: u64,
    },
    /// Nobody can take over, or nobody did in time.
    #[error("no other voter has taken the lead")]
    NoSuccessor,
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
    gate: Arc<Gate>,
    network: Network,
    arrivals: Arrivals,
    revisions: watch::Receiver<u64>,
    leader: watch::Receiver<Option<u64>>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Consensus {
    /// Opens a data directory, folds what it holds into the applier, and joins the cluster it belongs to. An empty one
    /// belongs to none: it waits to be made a member, unless [`Consensus::initialize`] begins a cluster with it.
    ///
    /// # Errors
    /// When the directory cannot be opened, belongs to another node, or holds what cannot be read.
    pub async fn open(options: Options) -> Result<Self, ConsensusError> {
        let Options { disk, birth, transport, applier, timers } = options;
        let config = Arc::new(config(timers).validate().map_err(io::Error::other)?);
        let node_id = birth.node_id;
        let (store, snapshots, machine) = recover(disk, birth, applier).await?;
        let revisions = machine.revisions();
        let own = introduction(&store);
        let gate = Arc::new(Gate::new(own, store.clone(), machine.roster()));
        let network = Network::new(transport, Arc::clone(&gate));
        let log = Log::new(store.clone());
        let raft = Raft::new(node_id, config, network.clone(), log, machine).await.map_err(fatal)?;
        let (known, leader) = watch::channel(None);
        drop(Types::spawn(observe(raft.clone(), gate.verdict(), known)));
        let arrivals = Arrivals::new(store.clone(), snapshots);
        Ok(Self { raft, store, gate, network, arrivals, revisions, leader })
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.gate.own().node_id
    }

    /// How this node presents itself to others.
    #[must_use]
    pub fn introduction(&self) -> Introduction {
        self.gate.own().clone()
    }

    /// Decides whether to talk to a node that presented itself (and proved its id), and remembers it.
    ///
    /// # Errors
    /// A [`Refusal`] inside; anything else when the disk fails.
    pub async fn meet(&self, other: &Introduction) -> io::Result<()> {
        self.gate.meet(other).await?.map_err(Refusal::into_io)
    }

    /// Takes in what a peer said when it refused this node; some of it ends this node.
    pub fn refused(&self, by: u64, refusal: Refusal) {
        self.gate.told(by, refusal);
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

    /// Returns once every write acknowledged before this call, by any leader, is part of what is read here. On any
    /// node: one that does not lead asks the leader, and waits until it has applied as much.
    ///
    /// # Errors
    /// [`ConsensusError::Unconfirmed`] when no leader that a majority follows could be asked.
    pub async fn linearizable(&self) -> Result<(), ConsensusError> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => match forward.leader_id {
                Some(leader) if leader != self.node_id() => self.follow(leader).await,
                leader => Err(ConsensusError::Unconfirmed { leader }),
            },
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ConsensusError::Unconfirmed { leader: None })
            }
            Err(RaftError::Fatal(error)) => Err(self.cause(error).await),
        }
    }

    /// Learns from the leader how far a current state goes, and waits for that much.
    async fn follow(&self, leader: u64) -> Result<(), ConsensusError> {
        let unconfirmed = || ConsensusError::Unconfirmed { leader: Some(leader) };
        let member = self.membership().get(leader).cloned().ok_or_else(unconfirmed)?;
        let asked = self.network.ask(leader, &member, Lane::Control, Ask::ReadIndex(true), READ_WAIT_MAX).await;
        let answer = asked.map_err(|error| {
            tracing::debug!(leader, %error, "the leader gives no read index");
            self.failure().unwrap_or_else(unconfirmed)
        })?;
        let Answer::ReadIndex(from) = answer else { return Err(unconfirmed()) };
        let Some(index) = from.index else { return Err(ConsensusError::Unconfirmed { leader: from.leader }) };
        let applied = self.raft.wait(Some(READ_WAIT_MAX)).applied_index_at_least(Some(index), "read index").await;
        applied.map(drop).map_err(|_| self.failure().unwrap_or_else(unconfirmed))
    }

    /// Whether this node leads as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    /// Who leads as far as this node knows; tells of each change.
    #[must_use]
    pub fn leader(&self) -> watch::Receiver<Option<u64>> {
        self.leader.clone()
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
        let refused = self.gate.verdict().borrow().map(ConsensusError::Refused);
        refused.or_else(|| self.raft.metrics().borrow_watched().running_state.clone().err().map(fatal))
    }

    /// Returns when this node has stopped, with the reason.
    pub async fn failed(&self) -> ConsensusError {
        let (mut metrics, mut verdict) = (self.raft.metrics(), self.gate.verdict());
        loop {
            if let Some(failure) = self.failure() {
                return failure;
            }
            let (ended, told) = (std::pin::pin!(metrics.changed()), std::pin::pin!(verdict.changed()));
            if let Either::Left((Err(_), _)) = select(ended, told).await {
                return self.failure().unwrap_or(ConsensusError::Stopped);
            }
        }
    }

    /// Hands over applied changes from `revision` on, in order, until `visit` says `false`. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk or `visit` fails.
    pub fn changes_from(&self, revision: u64, mut visit: impl FnMut(Change) -> io::Result<bool>) -> io::Result<()> {
        self.store.scan(Family::Events, revision, |revision, bytes| {
            let stored: format::Change = format::decode(bytes)?;
            visit(Change { revision, events: stored.events })
        })
    }

    /// Hands the lead to another voter if there is one, stops taking part, and returns once the directory is free for
    /// another process. Nothing needs flushing: what was acknowledged is on the disk.
    pub async fn shutdown(self) {
        if self.is_leader() && !self.only_voter() {
            match self.transfer_leadership(None).await {
                Ok(leader) => tracing::info!(leader, "another node leads from here on"),
                Err(error) => tracing::warn!(%error, "the lead could not be handed over"),
            }
        }
        self.halt().await;
    }

    /// Stops without handing over the lead, as a crash would.
    pub async fn halt(self) {
        let mut closed = self.store.closed();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
        drop(self);
        // An error says that the sender is gone, which is what is waited for.
        if Types::timeout(CLOSE_WAIT_MAX, closed.changed()).await.is_err() {
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

async fn recover(
    disk: Arc<dyn Disk>,
    birth: Birth,
    applier: Box<dyn Applier>,
) -> io::Result<(Store, Snapshots, Machine)> {
    let open = |disk: Arc<dyn Disk>| {
        let store = Store::open(disk, birth)?;
        let snapshots = Snapshots::open(store.clone());
        let machine = Machine::recover(store.clone(), snapshots.clone(), applier)?;
        Ok((store, snapshots, machine))
    };
    if disk.inline() {
        return open(disk);
    }
    tokio::task::spawn_blocking(move || open(disk)).await.map_err(io::Error::other)?
}

fn introduction(store: &Store) -> Introduction {
    let birth = store.birth();
    Introduction {
        cluster_id: birth.cluster_id.clone(),
        incarnation: birth.incarnation.clone(),
        node_id: birth.node_id,
        starts: store.starts(),
        run: NodeRuntime::thread_rng().next_u64(),
    }
}

/// Follows what the library reports for as long as it runs, and stops it when the cluster refuses this node.
async fn observe(
    raft: Raft<Types, Machine>,
    mut verdict: watch::Receiver<Option<Refusal>>,
    leader: watch::Sender<Option<u64>>,
) {
    let mut metrics = raft.metrics();
    loop {
        let current = metrics.borrow_and_update().current_leader;
        leader.send_if_modified(|known| std::mem::replace(known, current) != current);
        let refused = verdict.borrow_and_update().is_some();
        if refused {
            break;
        }
        let (changed, told) = (std::pin::pin!(metrics.changed()), std::pin::pin!(verdict.changed()));
        if let Either::Left((Err(_), _)) = select(changed, told).await {
            return;
        }
    }
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "consensus did not stop cleanly");
    }
}

fn config(timers: Timers) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "bailiwick".to_owned(),
        heartbeat_interval: millis(timers.heartbeat),
        election_timeout_min: millis(timers.election_min),
        election_timeout_max: millis(timers.election_max),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        replication_lag_threshold: LAG_MAX,
        max_payload_entries: APPEND_ENTRIES_MAX,
        max_in_snapshot_log_to_keep: LOG_KEPT,
        purge_batch_size: LOG_KEPT,
        enable_pre_vote: Some(true),
        // A leader that restarts has to be elected: what it applied before may not have been synced.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        backoff: RETRY_PAUSES.to_owned(),
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
