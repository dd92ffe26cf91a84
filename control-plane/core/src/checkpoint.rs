//! Checkpoints: the ledger's claim of one history, committed here so that there can be no second one.
//!
//! A commit is compared and set: it must start at the last committed size, and its RFC 6962 consistency proof must
//! show that the last committed tree is a prefix of the new one. A second sequencer, a rewritten log or a restored
//! backup fails here. Called by `command` and `state`. Absent: signing and publishing (`ledger/server`).

use bailiwick_ledger_core::tree;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Context, Decision},
    event::{Change, Event},
    requests,
    state::{Changed, State},
};

/// Most logs: one per region, with room.
pub const ORIGINS_MAX: usize = 64;
/// Longest consistency proof: two hashes per level of a tree of 2^64 leaves.
pub const PROOF_HASHES_MAX: usize = 128;

/// A wish to commit a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitCheckpoint {
    /// Which log.
    pub origin: String,
    /// Size of the last committed tree; 0 where there is none.
    pub old_size: u64,
    /// Size of the new tree.
    pub size: u64,
    /// Root of the new tree.
    pub root: [u8; 32],
    /// RFC 6962 consistency proof; empty from size 0.
    pub consistency: Vec<[u8; 32]>,
}

/// The last committed checkpoint of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Leaves.
    pub size: u64,
    /// Root, lower-case hex.
    pub root: String,
    /// When it was committed.
    pub changed: Changed,
}

impl Checkpoint {
    /// The root's bytes.
    #[must_use]
    pub fn root_bytes(&self) -> [u8; 32] {
        let mut root = [0; 32];
        // INVARIANT: the root was encoded from 32 bytes; anything else reads as zeros, which no proof verifies against.
        if hex::decode_to_slice(&self.root, &mut root).is_err() {
            return [0; 32];
        }
        root
    }
}

pub(crate) fn decide_commit(
    state: &State,
    commit: &CommitCheckpoint,
    context: &Context,
) -> Result<Decision, Rejection> {
    if !requests::is_id(&commit.origin) {
        return Err(Rejection::Malformed { what: "origin", rule: "1 to 128 visible ASCII characters" });
    }
    if commit.consistency.len() > PROOF_HASHES_MAX {
        return Err(Rejection::Malformed { what: "consistency proof", rule: "at most 128 hashes" });
    }
    let last = state.checkpoints.get(&commit.origin);
    let size = last.map_or(0, |last| last.size);
    // The answer to the same commit was lost.
    if last.is_some_and(|last| last.size == commit.size && last.root_bytes() == commit.root) {
        return Ok(Decision::default());
    }
    if size != commit.old_size || commit.size <= size {
        return Err(Rejection::CheckpointConflict { origin: commit.origin.clone(), size });
    }
    if last.is_none() && state.checkpoints.len() >= ORIGINS_MAX {
        return Err(Rejection::TooMany { what: "logs", max: ORIGINS_MAX });
    }
    let extends = match last {
        None => commit.consistency.is_empty(),
        Some(last) => {
            tree::verify_consistency(size, commit.size, &last.root_bytes(), &commit.root, &commit.consistency)
        }
    };
    if !extends {
        let (origin, old_size) = (commit.origin.clone(), commit.old_size);
        return Err(Rejection::CheckpointProof { origin, old_size, size: commit.size });
    }
    let (old_size, size) = (commit.old_size, commit.size);
    let event = CheckpointCommitted { origin: commit.origin.clone(), old_size, size, root: hex::encode(commit.root) };
    Ok(Decision::done(vec![context.event(event)]))
}

/// Payload of `checkpoint_committed`; the proof has done its work and is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCommitted {
    /// Which log.
    pub origin: String,
    /// Size of the tree before.
    #[serde(with = "crate::decimal")]
    pub old_size: u64,
    /// Size of the tree.
    #[serde(with = "crate::decimal")]
    pub size: u64,
    /// Its root, lower-case hex.
    pub root: String,
}

/// The revision of the change that `events`, the next change, make void: a checkpoint of the same log before theirs.
///
/// A checkpoint is committed by a change of its own, without a request id, and is not recorded; so nothing but the
/// next checkpoint follows from it, and a log of events may forget it.
#[must_use]
pub fn made_void_by(state: &State, events: &[Event]) -> Option<u64> {
    match events {
        [Event { change: Change::CheckpointCommitted(next), .. }] => {
            state.checkpoints.get(&next.origin).map(|last| last.changed.revision)
        }
        _ => None,
    }
}

pub(crate) fn evolve_committed(state: &mut State, event: &CheckpointCommitted, changed: Changed) {
    let checkpoint = Checkpoint { size: event.size, root: event.root.clone(), changed };
    state.checkpoints.insert(event.origin.clone(), checkpoint);
}
