//! The Merkle log over all applied changes (RFC 6962, the ledger's own core): what every replica must agree on after
//! each of them.
//!
//! Leaf number `n` is change number `n`: its revision (64 bits, big endian), then its bytes as they are stored. After
//! `version` changes the tree has `version` leaves. A change that is forgotten leaves its hash behind, so the root can
//! be computed again from what is stored; `machine` does so at every start and before every snapshot goes into force.
//! Every proposal names a root its proposer had; a replica with another root at that version stops ([`Diverged`]).
//! Absent: where hashes of forgotten changes lie (`changes`).

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bailiwick_ledger_core::{
    hash::{Hash, from_slice, sha256, to_hex},
    tree::{Frontier, TreeError, empty_root},
};

use super::{disk::corrupted, raft::Proposal};

/// Roots kept for comparison: far more than are ever on their way at once.
const ROOTS_KEPT: usize = 4096;

/// Two nodes have applied different changes. None of both may go on before somebody has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replicas have diverged: after {version} changes the root is {} here, {} at the proposer of {revision}",
    to_hex(.own), to_hex(.theirs))]
pub struct Diverged {
    /// After how many changes.
    pub version: u64,
    /// This node's root there.
    pub own: Hash,
    /// The proposer's.
    pub theirs: Hash,
    /// The log index of the proposal that showed it.
    pub revision: u64,
}

/// The hash of one change as it is stored.
pub(super) fn leaf(revision: u64, change: &[u8]) -> Hash {
    sha256(&[&[0x00], &revision.to_be_bytes(), change])
}

/// The tree while it grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(Frontier);

impl Tree {
    /// Number of leaves.
    pub(super) const fn version(&self) -> u64 {
        self.0.size()
    }

    pub(super) fn root(&self) -> Hash {
        self.0.root()
    }

    /// Adds change number `number`, which must be the next.
    pub(super) fn push(&mut self, number: u64, leaf: Hash) -> io::Result<()> {
        self.push_void(number, 0, leaf)
    }

    /// Adds what stands for `2^level` changes from number `first` on, which must be the next.
    pub(super) fn push_void(&mut self, first: u64, level: u8, hash: Hash) -> io::Result<()> {
        if first != self.version() {
            return Err(corrupted(format!("change number {first} stands where {} belongs", self.version())));
        }
        self.0.push_subtree(level, hash).map_err(|error: TreeError| corrupted(error))
    }

    /// Insists that this is the tree that was written down.
    pub(super) fn insist(&self, version: u64, root: &Hash) -> io::Result<()> {
        if self.version() == version && self.root() == *root {
            return Ok(());
        }
        let (own, theirs) = (to_hex(&self.root()), to_hex(root));
        Err(corrupted(format!(
            "the changes give version {} and root {own}, not {version} and {theirs}",
            self.version()
        )))
    }
}

/// The newest roots, for everybody who compares. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    /// The version of the first of `roots`.
    first: u64,
    roots: VecDeque<Hash>,
    diverged: Option<Diverged>,
}

impl Roots {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all but what `tree` says.
    pub(super) fn restart(&self, tree: &Tree) {
        let mut ring = self.lock();
        (ring.first, ring.roots) = (tree.version(), VecDeque::from([tree.root()]));
    }

    /// Becomes what `other` is.
    pub(super) fn replace(&self, other: &Self) {
        let (first, roots) = {
            let mut other = other.lock();
            (other.first, std::mem::take(&mut other.roots))
        };
        let mut ring = self.lock();
        (ring.first, ring.roots) = (first, roots);
    }

    /// Takes in the root of `tree`, one change after the newest; a gap begins anew.
    pub(super) fn note(&self, tree: &Tree) {
        let mut ring = self.lock();
        if tree.version() != ring.first.saturating_add(u64::try_from(ring.roots.len()).unwrap_or(u64::MAX)) {
            drop(ring);
            return self.restart(tree);
        }
        ring.roots.push_back(tree.root());
        if ring.roots.len() > ROOTS_KEPT {
            ring.roots.pop_front();
            ring.first += 1;
        }
    }

    /// The newest version and its root.
    pub(super) fn newest(&self) -> (u64, Hash) {
        let ring = self.lock();
        let past = u64::try_from(ring.roots.len()).unwrap_or(u64::MAX).saturating_sub(1);
        ring.roots.back().map_or_else(|| (0, empty_root()), |root| (ring.first.saturating_add(past), *root))
    }

    /// The root after `version` changes, if it is among those kept.
    pub(super) fn at(&self, version: u64) -> Option<Hash> {
        let ring = self.lock();
        let at = usize::try_from(version.checked_sub(ring.first)?).ok()?;
        ring.roots.get(at).copied()
    }

    /// Makes a proposal name the newest root here.
    pub(super) fn stamp(&self, proposal: &mut Proposal) {
        let (version, root) = self.newest();
        (proposal.root_version, proposal.root) = (version, root.to_vec());
    }

    /// Compares the root that the proposal at `revision` names. One that is too old to be known here is let pass.
    pub(super) fn compare(&self, proposal: &Proposal, revision: u64) -> Result<(), Diverged> {
        let (newest, _) = self.newest();
        let version = proposal.root_version;
        let Some(theirs) = from_slice(&proposal.root) else { return Ok(()) };
        // A proposer cannot have applied more than stands before its proposal.
        let own = if version > newest { Some([0; 32]) } else { self.at(version) };
        match own {
            Some(own) if own != theirs => {
                let diverged = Diverged { version, own, theirs, revision };
                self.lock().diverged = Some(diverged);
                Err(diverged)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this node has stopped because replicas diverged.
    pub(super) fn diverged(&self) -> Option<Diverged> {
        self.lock().diverged
    }

    /// How many of the newest versions are worth a root when many are folded.
    pub(super) const fn kept() -> u64 {
        ROOTS_KEPT as u64
    }
}

#[cfg(test)]
mod tests;
