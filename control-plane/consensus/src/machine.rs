//! The state machine: committed proposals become changes, in order, once.
//!
//! Decides nothing about meaning: it checks versions, stores the events of each accepted proposal with the progress
//! they make in one batch, hands them to the [`Applier`], and only then lets the answer go.
//! After a restart the applier first gets every stored change again, then Raft replays what the log holds beyond.
//! Changes that later ones made void are forgotten when a snapshot is made, as the log is shortened then.
//! Absent: repeats of a request, which the domain knows by the request ids in its events.

use std::io;

use futures::{Stream, TryStreamExt as _};
use openraft::{
    OptionalSend,
    storage::{EntryResponder, RaftStateMachine},
};
use prost::Message as _;
use tokio::sync::watch;

use super::{
    disk::{Durability, Family},
    format,
    gate::Roster,
    raft::{self, Outcome, Proposal, Types},
    snapshot::{SnapshotBuilder, SnapshotFile, Snapshots},
    store::{Batch, Store, meta_key},
};

/// A proposal that took effect: its events and the revision they made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The Raft index of the proposal.
    pub revision: u64,
    /// In order; opaque to consensus.
    pub events: Vec<Vec<u8>>,
}

/// What the domain does with changes. Called from one task, in revision order, never twice for one revision
/// between two resets.
pub trait Applier: Send + Sync + 'static {
    /// Forgets everything: all changes of a snapshot follow.
    fn reset(&mut self);
    /// Takes in one change, and names the revision of an earlier one that this one makes void: without it the same
    /// follows. An error stops the node: it means the change cannot be read.
    fn apply(&mut self, change: &Change) -> io::Result<Option<u64>>;
    /// The changes handed over so far are to be seen by readers now; with forgotten ones they were `version`.
    fn publish(&mut self, version: u64);
}

/// The stored state and the one being folded from it.
pub(super) struct Machine {
    store: Store,
    snapshots: Snapshots,
    applier: Box<dyn Applier>,
    position: Option<raft::LogId>,
    members: raft::StoredMembers,
    version: u64,
    revision: watch::Sender<u64>,
    roster: watch::Sender<Roster>,
    /// Stored changes that are void; a few tens of thousands at most, for each snapshot takes them.
    void: Vec<u64>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("position", &self.position)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Folds the stored changes into `applier`.
    pub(super) fn recover(store: Store, snapshots: Snapshots, applier: Box<dyn Applier>) -> io::Result<Self> {
        let mut machine = Self {
            store,
            snapshots,
            applier,
            position: None,
            members: raft::StoredMembers::default(),
            version: 0,
            revision: watch::Sender::new(0),
            roster: watch::Sender::default(),
            void: Vec::new(),
        };
        machine.fold()?;
        Ok(machine)
    }

    /// Tells of each new revision.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Tells who is a member and who was.
    pub(super) fn roster(&self) -> watch::Receiver<Roster> {
        self.roster.subscribe()
    }

    fn fold(&mut self) -> io::Result<()> {
        let applied: format::Applied = match self.store.get(Family::Meta, meta_key::APPLIED)? {
            Some(bytes) => format::decode(&bytes)?,
            None => format::Applied::default(),
        };
        (self.position, self.members, self.version) = (applied.log_id(), applied.stored_members()?, applied.version);
        self.applier.reset();
        self.void.clear();
        let mut revision = 0;
        self.store.scan(Family::Events, 0, |index, bytes| {
            let stored: format::Change = format::decode(bytes)?;
            self.void.extend(self.applier.apply(&Change { revision: index, events: stored.events })?);
            revision = index;
            Ok(true)
        })?;
        self.applier.publish(self.version);
        self.revision.send_replace(revision);
        Ok(())
    }

    /// What happens to a proposal here; the same on every node, for it depends on applied proposals only.
    fn admit(&mut self, index: u64, proposal: Proposal, batch: &mut Batch, changes: &mut Vec<Change>) -> Outcome {
        if proposal.expected_version != self.version {
            return Outcome::Conflict { version: self.version };
        }
        self.version += 1;
        let stored = format::Change { events: proposal.events };
        batch.put_change(index, stored.encode_to_vec());
        changes.push(Change { revision: index, events: stored.events });
        Outcome::Applied
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<raft::LogId>, raft::StoredMembers), io::Error> {
        Ok((self.position, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut changes, mut answers, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(entry) = entries.try_next().await? {
            taken.push(entry);
        }
        let store = self.store.clone();
        let mut batch = Batch::default();
        for (entry, responder) in taken {
            self.position = Some(entry.log_id);
            let outcome = match entry.payload {
                raft::Payload::Blank => Outcome::Applied,
                raft::Payload::Membership(members) => {
                    self.members = raft::StoredMembers::new(Some(entry.log_id), members);
                    Outcome::Applied
                }
                raft::Payload::Normal(proposal) => self.admit(entry.log_id.index, proposal, &mut batch, &mut changes),
            };
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        let applied = format::Applied::new(self.position.as_ref(), &self.members, self.version);
        batch.put_meta(meta_key::APPLIED, &applied.encode_to_vec());
        // A crash here replays these entries from the synced log.
        store.commit(batch, Durability::Written)?;
        for change in &changes {
            self.void.extend(self.applier.apply(change)?);
        }
        if let Some(last) = changes.last() {
            self.applier.publish(self.version);
            self.revision.send_replace(last.revision);
        }
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let applied = format::Applied::new(self.position.as_ref(), &self.members, self.version);
        SnapshotBuilder::new(self.store.clone(), self.snapshots.clone(), applied, std::mem::take(&mut self.void))
    }

    async fn install_snapshot(&mut self, meta: &raft::SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let kept = self.snapshots.keep(&snapshot)?;
        let applied = format::Applied {
            version: kept.applied()?.version,
            ..format::Applied::new(meta.last_log_id.as_ref(), &meta.last_membership, 0)
        };
        {
            let mut batch = Batch::default();
            batch.delete_changes();
            kept.read(|revision, change| {
                batch.put_change(revision, change.encode_to_vec());
                Ok(())
            })?;
            batch.put_meta(meta_key::APPLIED, &applied.encode_to_vec());
            // A crash before this leaves the kept file, which is newer than what is applied and installed at start.
            self.store.commit(batch, Durability::Synced)?;
        }
        self.fold()
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<raft::Snapshot>, io::Error> {
        self.snapshots.newest()
    }
}
