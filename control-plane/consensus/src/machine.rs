//! The state machine: committed proposals become changes, in order, once.
//!
//! Decides nothing about meaning: it checks versions and roots, stores the events of each accepted proposal with the
//! progress they make in one batch, hands them to the [`Applier`], and only then lets the answer go. After a restart
//! the applier first gets every stored change again (`fold`), then Raft replays what the log holds beyond.
//! Changes that later ones made void are forgotten when a snapshot is made, as the log is shortened then.
//! Absent: repeats of a request, which the domain knows by the request ids in its events.

mod fold;
#[cfg(test)]
mod tests;

use std::{io, thread};

use futures::{Stream, TryStreamExt as _};
use openraft::{
    OptionalSend,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use prost::Message as _;
use tokio::sync::watch;

use self::fold::Folded;
use super::{
    disk::Durability,
    format,
    gate::Roster,
    merkle::{Roots, leaf},
    raft::{self, Outcome, Proposal, Types},
    snapshot::{SnapshotBuilder, SnapshotFile, Snapshots},
    store::{Batch, Store, meta_key},
};

/// Entries applied in one write: a follower that catches up neither fills memory nor holds a thread for long.
const APPLY_AT_ONCE: usize = 512;

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

/// The stored state and the one folded from it.
pub(super) struct Machine {
    store: Store,
    snapshots: Snapshots,
    /// Elsewhere while it changes; gone for good once that has failed.
    folded: Option<Folded>,
    roots: Roots,
    revision: watch::Sender<u64>,
    roster: watch::Sender<Roster>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Machine {
    /// Ends what a crash interrupted and folds the stored changes into `applier`. Blocks.
    pub(super) fn recover(store: Store, snapshots: Snapshots, applier: Box<dyn Applier>) -> io::Result<Self> {
        snapshots.recover()?;
        let (mut folded, roots) = (Folded::new(applier), Roots::default());
        // The snapshot is read and verified meanwhile: consensus asks for it next.
        match store.disk().inline() {
            true => folded.load(&store, &roots)?,
            false => thread::scope(|scope| {
                scope.spawn(|| snapshots.newest());
                folded.load(&store, &roots)
            })?,
        }
        let (revision, roster) = (watch::Sender::new(0), watch::Sender::default());
        let machine = Self { store, snapshots, folded: None, roots, revision, roster };
        machine.announce(&folded);
        Ok(Self { folded: Some(folded), ..machine })
    }

    /// Tells of each new revision.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Tells who is a member and who was.
    pub(super) fn roster(&self) -> watch::Receiver<Roster> {
        self.roster.subscribe()
    }

    /// The newest roots.
    pub(super) fn roots(&self) -> Roots {
        self.roots.clone()
    }

    fn announce(&self, folded: &Folded) {
        self.revision.send_if_modified(|known| std::mem::replace(known, folded.revision) != folded.revision);
        let roster = Roster { former: folded.former.clone() };
        self.roster.send_if_modified(|known| {
            let changed = *known != roster;
            *known = roster;
            changed
        });
    }

    /// Applies some entries: stores what they change, hands it over, answers.
    fn take_in(&mut self, entries: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let mut folded = self.folded.take().ok_or_else(unfinished)?;
        let (mut batch, mut changes, mut answers) = (Batch::default(), Vec::new(), Vec::new());
        for (entry, responder) in entries {
            let index = entry.log_id.index;
            folded.position = Some(entry.log_id);
            let outcome = match entry.payload {
                raft::Payload::Blank => Outcome::Applied,
                raft::Payload::Membership(members) => {
                    folded.set_members(raft::StoredMembers::new(Some(entry.log_id), members));
                    Outcome::Applied
                }
                raft::Payload::Normal(proposal) => {
                    self.compare(index, &proposal)?;
                    self.admit(index, proposal, &mut folded, &mut batch, &mut changes)?
                }
            };
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        batch.put_meta(meta_key::APPLIED, &folded.applied().encode_to_vec());
        // A crash here replays these entries from the synced log.
        self.store.commit(batch, Durability::Written)?;
        for change in &changes {
            folded.void.extend(folded.applier.apply(change)?);
        }
        if let Some(last) = changes.last() {
            folded.applier.publish(folded.tree.version());
            folded.revision = last.revision;
        }
        self.announce(&folded);
        self.folded = Some(folded);
        answers.into_iter().for_each(|(responder, outcome): (ApplyResponder<Types>, _)| responder.send(outcome));
        Ok(())
    }

    /// Stops the node before anything of a proposal is stored whose proposer had applied other changes.
    fn compare(&self, index: u64, proposal: &Proposal) -> io::Result<()> {
        self.roots.compare(proposal, index).map_err(|diverged| {
            tracing::error!(%diverged, "this node stops");
            io::Error::new(io::ErrorKind::InvalidData, diverged)
        })
    }

    /// What happens to a proposal here; the same on every node, for it depends on applied proposals only.
    fn admit(
        &self,
        index: u64,
        proposal: Proposal,
        folded: &mut Folded,
        batch: &mut Batch,
        changes: &mut Vec<Change>,
    ) -> io::Result<Outcome> {
        let version = folded.tree.version();
        if proposal.expected_version != version {
            return Ok(Outcome::Conflict { version });
        }
        if !folded.run.leads_to(&proposal) {
            return Ok(Outcome::Conflict { version });
        }
        folded.run.note(&proposal);
        let stored = format::Change { events: proposal.events, number: version };
        let bytes = stored.encode_to_vec();
        folded.tree.push(version, leaf(index, &bytes))?;
        self.roots.note(&folded.tree);
        batch.put_change(index, bytes);
        changes.push(Change { revision: index, events: stored.events });
        Ok(Outcome::Applied)
    }
}

/// What was taken in last failed half-way, so nothing may follow it.
fn unfinished() -> io::Error {
    io::Error::other("an earlier change of the state failed; this node must be restarted")
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<raft::LogId>, raft::StoredMembers), io::Error> {
        let folded = self.folded.as_ref().ok_or_else(unfinished)?;
        Ok((folded.position, folded.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut some = Vec::new();
            while some.len() < APPLY_AT_ONCE
                && let Some(entry) = entries.try_next().await?
            {
                some.push(entry);
            }
            let full = some.len() == APPLY_AT_ONCE;
            if !some.is_empty() {
                self.take_in(some)?;
            }
            if !full {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let taken = self.folded.as_mut().map(|folded| (folded.applied(), std::mem::take(&mut folded.void)));
        let (applied, void) = taken.unwrap_or_default();
        SnapshotBuilder::new(self.snapshots.clone(), applied, void)
    }

    async fn install_snapshot(&mut self, meta: &raft::SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let mut folded = self.folded.take().ok_or_else(unfinished)?;
        let (snapshots, roots, meta) = (self.snapshots.clone(), self.roots.clone(), meta.clone());
        // Off the async threads: heartbeats go on meanwhile.
        let install = move |store: &Store| {
            snapshots.install(&meta, &snapshot)?;
            folded.load(store, &roots)?;
            Ok(folded)
        };
        let folded = self.store.run(install).await?;
        self.announce(&folded);
        self.folded = Some(folded);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<raft::Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        self.store.run(move |_| snapshots.newest()).await
    }
}
