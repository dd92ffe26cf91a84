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
mod backup;
mod changes;
#[cfg(test)]
mod crash_matrix;
mod disk;
mod error;
#[cfg(test)]
mod fixture;
mod format;
mod gate;
mod inbound;
mod inspect;
mod log;
#[cfg(test)]
mod longevity;
mod machine;
mod membership;
mod merkle;
mod messages;
mod network;
mod options;
mod raft;
mod reading;
pub mod runtime;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{
    Stream, TryStreamExt as _,
    future::{Either, select},
};
use openraft::{
    AsyncRuntime as _, Instant as _, Raft, ServerState, async_runtime::watch::WatchReceiver as _, errors::Fatal,
    raft::WriteResult, type_config::TypeConfigExt as _,
};
use rand::Rng as _;
use tokio::sync::watch;

use self::{
    arrival::Arrivals,
    error::{fatal, refused},
    gate::Gate,
    log::Log,
    machine::Machine,
    merkle::Roots,
    network::Network,
    raft::Types,
    runtime::NodeRuntime,
    snapshot::Snapshots,
    store::Store,
};
pub use self::{
    backup::{BackupSummary, backup_changes, restore, verify_backup},
    disk::{BlobWriter, Corrupted, Disk, Durability, Family, RocksDisk, Visit, Write},
    error::ConsensusError,
    inspect::{Inspection, inspect},
    machine::{Applier, Change},
    membership::Membership,
    merkle::Diverged,
    options::{LogLength, Options, Timers},
    raft::{Outcome, Proposal},
    store::Birth,
    transport::{Alone, Introduction, Lane, Member, PEER_MESSAGE_BYTES_MAX, Refusal, Transport},
};

/// A leader that has heard nothing from a majority for so long, ten heartbeats, does not count on one.
const QUORUM_SILENCE_MAX: Duration = Duration::from_secs(1);
/// Longest wait for others to let go of the disk at shutdown.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Proposals in one call; the domain groups no more than this.
pub const PROPOSALS_MAX: usize = 256;

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
    snapshots: Snapshots,
    roots: Roots,
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
        let Options { disk, birth, transport, applier, timers, log_length } = options;
        let config = Arc::new(options::config(timers, log_length).validate().map_err(io::Error::other)?);
        let node_id = birth.node_id;
        let (store, snapshots, machine) = recover(disk, birth, applier).await?;
        let (revisions, roots) = (machine.revisions(), machine.roots());
        let own = introduction(&store);
        let gate = Arc::new(Gate::new(own, store.clone(), machine.roster()));
        let network = Network::new(transport, Arc::clone(&gate));
        let log = Log::new(store.clone());
        let raft = Raft::new(node_id, config, network.clone(), log, machine).await;
        let raft = raft.map_err(|error| roots.diverged().map_or_else(|| fatal(error), ConsensusError::Diverged))?;
        let (known, leader) = watch::channel(None);
        drop(Types::spawn(observe(raft.clone(), Arc::clone(&gate), network.clone(), known)));
        let arrivals = Arrivals::new(store.clone(), snapshots.clone());
        Ok(Self { raft, store, gate, network, arrivals, snapshots, roots, revisions, leader })
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

    /// Decides whether to talk to a node that presented itself and proved its id, and remembers having met it. What
    /// this node holds against another is never to be reported as a [`Refusal`] inside a failed call: that would mean
    /// that the other refuses this node.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn meet(&self, other: &Introduction) -> io::Result<Result<(), Refusal>> {
        self.gate.meet(other).await
    }

    /// Takes in that node `by`, which proved its id, refuses this one. Some refusals end it ([`Consensus::failed`]).
    /// Who is no member here has no say.
    pub fn refused(&self, by: u64, refusal: Refusal) {
        let members = self.membership();
        if members.get(by).is_some() || members.voters.is_empty() {
            self.gate.told(by, refusal);
        }
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
        self.submit(proposals).await?.committed().await
    }

    /// Appends proposals in order, without waiting for what becomes of them. Those of a later call come after them.
    ///
    /// # Errors
    /// When this node has stopped.
    pub async fn submit(&self, mut proposals: Vec<Proposal>) -> Result<Submitted, ConsensusError> {
        let count = proposals.len();
        proposals.iter_mut().for_each(|proposal| self.roots.stamp(proposal));
        match self.raft.client_write_many(proposals).await {
            Ok(answers) => Ok(Submitted { consensus: self.clone(), answers: Box::pin(answers), count }),
            Err(error) => Err(self.cause(error).await),
        }
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
        let refused = refused.or_else(|| self.roots.diverged().map(ConsensusError::Diverged));
        // The library hears only of its own writes.
        let failed = || self.store.failure().borrow_watched().clone().map(|detail| ConsensusError::Storage { detail });
        refused.or_else(failed).or_else(|| self.raft.metrics().borrow_watched().running_state.clone().err().map(fatal))
    }

    /// Returns when this node has stopped, with the reason.
    pub async fn failed(&self) -> ConsensusError {
        let (mut metrics, mut verdict, mut disk) = (self.raft.metrics(), self.gate.verdict(), self.store.failure());
        loop {
            if let Some(failure) = self.failure() {
                return failure;
            }
            let (ended, told, broken) = (pin!(metrics.changed()), pin!(verdict.changed()), pin!(disk.changed()));
            if let Either::Left((Err(_), _)) = select(ended, select(told, broken)).await {
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

    /// How many changes are applied here, and the root of the Merkle log over them. Equal on all nodes that have
    /// applied as many.
    #[must_use]
    pub fn root(&self) -> (u64, [u8; 32]) {
        self.roots.newest()
    }

    /// The root after `version` changes; unknown when that is long ago or still to come.
    #[must_use]
    pub fn root_at(&self, version: u64) -> Option<[u8; 32]> {
        self.roots.at(version)
    }

    /// Writes a backup of what is applied here, and says what is in it. Blocks on the disk and on `out`; the node goes
    /// on meanwhile. Ask [`Consensus::linearizable`] first for one that holds everything acknowledged until now.
    ///
    /// # Errors
    /// When what is stored cannot be read, or `out` fails.
    pub fn backup(&self, created_unix_ms: u64, out: impl io::Write) -> io::Result<BackupSummary> {
        backup::write(&self.store, &self.snapshots, created_unix_ms, out)
    }

    /// Hands the lead to another voter, if this node has it and there is one, so that nobody has to miss this node
    /// before it goes. Peers must still be able to call it meanwhile.
    pub async fn hand_over(&self) {
        if !self.is_leader() || self.only_voter() || self.failure().is_some() || !self.hears_a_majority() {
            return;
        }
        match self.transfer_leadership(None).await {
            Ok(leader) => tracing::info!(leader, "another node leads from here on"),
            Err(error) => tracing::warn!(%error, "the lead could not be handed over"),
        }
    }

    /// Hands over the lead, stops taking part, and returns once the directory is free for another process. Nothing
    /// needs flushing: what was acknowledged is on the disk.
    pub async fn shutdown(self) {
        self.hand_over().await;
        self.halt().await;
    }

    /// Makes a snapshot now, rather than once enough entries have gathered, and returns when it is on the disk. The log
    /// before it is shortened then.
    ///
    /// # Errors
    /// When this node has stopped.
    pub async fn shorten_log(&self) -> Result<(), ConsensusError> {
        let last = *self.revisions.borrow();
        self.raft.trigger().snapshot().await.map_err(fatal)?;
        let made = self.raft.wait(None).metrics(|m| m.snapshot.is_some_and(|id| id.index >= last), "snapshot").await;
        made.map(drop).map_err(|_| self.failure().unwrap_or(ConsensusError::Stopped))
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
            Fatal::StorageError(_) | Fatal::Panicked => {
                self.roots.diverged().map_or_else(|| fatal(error), ConsensusError::Diverged)
            }
        }
    }

    /// Without a majority nobody can elect another leader.
    fn hears_a_majority(&self) -> bool {
        let heard = self.raft.metrics().borrow_watched().last_quorum_acked;
        heard.is_some_and(|heard| heard.elapsed() < QUORUM_SILENCE_MAX)
    }

    fn only_voter(&self) -> bool {
        self.raft.metrics().borrow_watched().membership_config.voter_ids().count() == 1
    }
}

/// Proposals on their way.
pub struct Submitted {
    consensus: Consensus,
    answers: Answers,
    count: usize,
}

type Answers = Pin<Box<dyn Stream<Item = Result<WriteResult<Types>, Fatal<Types>>> + Send>>;

impl std::fmt::Debug for Submitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submitted").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Submitted {
    /// Waits until each proposal is committed, synced and applied here. The answers stand in their order.
    ///
    /// # Errors
    /// When no answer can be given for the rest. Proposals without an answer may still take effect.
    pub async fn committed(self) -> Result<Vec<Committed>, ConsensusError> {
        let Self { consensus, mut answers, count } = self;
        let mut committed = Vec::with_capacity(count);
        loop {
            match answers.try_next().await {
                Ok(Some(Ok(answer))) => {
                    committed.push(Committed { revision: answer.log_id.index, outcome: answer.response });
                }
                Ok(Some(Err(error))) => return Err(refused(error)),
                Ok(None) if committed.len() == count => return Ok(committed),
                Ok(None) => return Err(consensus.cause(Fatal::Stopped).await),
                Err(error) => return Err(consensus.cause(error).await),
            }
        }
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
        Log::check(&store)?;
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

/// Follows what the library reports for as long as it runs, and stops it when this node is no member any more or may
/// not write any more.
async fn observe(raft: Raft<Types, Machine>, gate: Arc<Gate>, network: Network, leader: watch::Sender<Option<u64>>) {
    let (mut metrics, mut verdict, mut noted) = (raft.metrics(), gate.verdict(), None);
    let mut disk = gate.store().failure();
    loop {
        let (current, membership) = {
            let metrics = metrics.borrow_and_update();
            (metrics.current_leader, Arc::clone(&metrics.membership_config))
        };
        if *membership.log_id() != noted {
            noted = *membership.log_id();
            network.learn(membership.nodes().map(|(id, member)| (*id, member.clone())).collect());
        }
        leader.send_if_modified(|known| std::mem::replace(known, current) != current);
        gate.look_for_removal();
        let refused = verdict.borrow_and_update().is_some();
        if refused || disk.borrow_and_update().is_some() {
            break;
        }
        let (changed, told, broken) = (pin!(metrics.changed()), pin!(verdict.changed()), pin!(disk.changed()));
        if let Either::Left((Err(_), _)) = select(changed, select(told, broken)).await {
            return;
        }
    }
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "consensus did not stop cleanly");
    }
}
