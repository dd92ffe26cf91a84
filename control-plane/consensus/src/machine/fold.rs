//! The state as far as it is applied, and how it is folded from what is stored.
//!
//! Folding recomputes the Merkle root from every stored change and from what forgotten ones left behind; a node on
//! which that is not the root that was written down does not open. One thread reads, decodes and hashes ahead of the
//! one that applies, unless the disk is a simulated one.

use std::{collections::BTreeSet, io, sync::mpsc, thread, time::Instant};

use bailiwick_ledger_core::{hash::Hash, tree::empty_root};

use super::{Applier, Change};
use crate::{
    changes::{self, Row, Void},
    disk::{Family, corrupted},
    format::{self, Applied},
    merkle::{Roots, Tree, leaf},
    raft::{self, Proposal},
    store::{Store, meta_key},
};

/// Changes handed from one thread to the other at once, and how many such are read ahead.
const STEPS_AT_ONCE: usize = 512;
const AHEAD: usize = 8;

/// What is applied.
pub(super) struct Folded {
    pub(super) applier: Box<dyn Applier>,
    pub(super) position: Option<raft::LogId>,
    pub(super) members: raft::StoredMembers,
    /// Nodes that were members and are none any more.
    pub(super) former: BTreeSet<u64>,
    pub(super) tree: Tree,
    /// The newest change.
    pub(super) revision: u64,
    pub(super) run: Run,
    /// Stored changes that are void; a few tens of thousands at most, for each snapshot takes them.
    pub(super) void: Vec<u64>,
}

/// The newest changes without any of another chain between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    chain: u64,
    /// How many changes there had been before the first of them.
    since: u64,
}

impl Run {
    /// Whether what a proposal was decided on is what happened, now that there are as many changes as it expects: what
    /// was on its way then are the newest changes, and nobody else's is between them.
    pub(super) const fn leads_to(self, proposal: &Proposal) -> bool {
        proposal.chain == 0
            || proposal.base_version == proposal.expected_version
            || (self.chain == proposal.chain && self.since <= proposal.base_version)
    }

    /// Takes in a proposal that takes effect.
    pub(super) const fn note(&mut self, proposal: &Proposal) {
        if proposal.chain == 0 || self.chain != proposal.chain {
            *self = Self { chain: proposal.chain, since: proposal.expected_version };
        }
    }
}

/// One row, ready to be applied.
enum Step {
    Change { change: Change, number: u64, leaf: Hash },
    Void(Void),
}

impl Step {
    fn new(row: Row<'_>) -> io::Result<Self> {
        match row {
            Row::Change { revision, number, bytes } => {
                let events = format::decode::<format::Change>(bytes)?.events;
                Ok(Self::Change { change: Change { revision, events }, number, leaf: leaf(revision, bytes) })
            }
            Row::Void(void) => Ok(Self::Void(void)),
        }
    }
}

impl Folded {
    /// Nothing yet.
    pub(super) fn new(applier: Box<dyn Applier>) -> Self {
        Self {
            applier,
            position: None,
            members: raft::StoredMembers::default(),
            former: BTreeSet::new(),
            tree: Tree::default(),
            revision: 0,
            run: Run::default(),
            void: Vec::new(),
        }
    }

    /// Folds what is stored into the applier, from nothing.
    pub(super) fn load(&mut self, store: &Store, roots: &Roots) -> io::Result<()> {
        let applied = match store.get(Family::Meta, meta_key::APPLIED)? {
            Some(bytes) => format::decode(&bytes)?,
            None => Applied { root: empty_root().to_vec(), ..Applied::default() },
        };
        if store.last(Family::Events)?.is_some_and(|(revision, _)| revision > applied.revision()) {
            return Err(corrupted("a change is stored that was not applied"));
        }
        let began = Instant::now();
        self.applier.reset();
        self.void.clear();
        (self.tree, self.revision) = (Tree::default(), 0);
        let newest = Roots::default();
        newest.restart(&self.tree);
        let worth_a_root = applied.version.saturating_sub(Roots::kept());
        steps(store, applied.revision(), |step| {
            match step {
                Step::Change { change, number, leaf } => {
                    self.tree.push(number, leaf)?;
                    self.void.extend(self.applier.apply(&change)?);
                    self.revision = change.revision;
                }
                Step::Void(void) => self.tree.push_void(void.first, void.level, void.hash)?,
            }
            if self.tree.version() >= worth_a_root {
                newest.note(&self.tree);
            }
            Ok(())
        })?;
        self.tree.insist(applied.version, &applied.root()?)?;
        roots.replace(&newest);
        (self.position, self.members) = (applied.log_id(), applied.stored_members()?);
        self.former = applied.former.into_iter().collect();
        self.run = Run { chain: applied.chain, since: applied.chain_since };
        tracing::info!(changes = self.tree.version(), took = ?began.elapsed(), "folded the stored changes");
        self.applier.publish(self.tree.version());
        Ok(())
    }

    /// The record of this progress.
    pub(super) fn applied(&self) -> Applied {
        Applied {
            former: self.former.iter().copied().collect(),
            chain: self.run.chain,
            chain_since: self.run.since,
            ..Applied::new(self.position.as_ref(), &self.members, self.tree.version(), &self.tree.root())
        }
    }

    /// Takes in a new membership.
    pub(super) fn set_members(&mut self, members: raft::StoredMembers) {
        let before = self.members.membership().nodes().map(|(id, _)| *id);
        self.former.extend(before);
        for (id, _) in members.membership().nodes() {
            self.former.remove(id);
        }
        self.members = members;
    }
}

/// Hands over what is stored up to revision `last`, step by step.
fn steps(store: &Store, last: u64, mut visit: impl FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    if store.disk().inline() {
        return changes::read(store, last, |row| visit(Step::new(row)?));
    }
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        let reader = scope.spawn(move || read_ahead(store, last, &sender));
        let folded = receiver.into_iter().flatten().try_for_each(visit);
        let read = reader.join().map_err(|_| io::Error::other("reading the changes ended abnormally"))?;
        folded.and(read)
    })
}

fn read_ahead(store: &Store, last: u64, sender: &mpsc::SyncSender<Vec<Step>>) -> io::Result<()> {
    let mut some = Vec::with_capacity(STEPS_AT_ONCE);
    // When nobody takes them any more, the other side says why.
    let gone = |_| io::Error::from(io::ErrorKind::Interrupted);
    changes::read(store, last, |row| {
        some.push(Step::new(row)?);
        if some.len() == STEPS_AT_ONCE {
            let full = std::mem::replace(&mut some, Vec::with_capacity(STEPS_AT_ONCE));
            sender.send(full).map_err(gone)?;
        }
        Ok(())
    })?;
    sender.send(some).map_err(gone)
}
