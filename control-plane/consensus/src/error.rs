//! Why consensus cannot do what was asked, and what that says about whether it was done.

use std::{io, time::Duration};

use openraft::errors::{ClientWriteError, Fatal};

use super::{merkle::Diverged, raft::Types, transport::Refusal};

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
    /// This node and the proposer of an entry have applied different changes; this node has stopped.
    #[error("{0}; this node has stopped: rebuild the node whose root differs from that of the others")]
    Diverged(Diverged),
    /// The cluster will have nothing to do with this node any more; it has stopped.
    #[error("a member of the cluster refuses this node: {0}; {advice}", advice = .0.advice())]
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

pub(super) fn fatal(error: Fatal<Types>) -> ConsensusError {
    match error {
        Fatal::StorageError(error) => ConsensusError::Storage { detail: error.to_string() },
        Fatal::Panicked => {
            ConsensusError::Storage { detail: "a storage or consensus task ended abnormally".to_owned() }
        }
        Fatal::Stopped => ConsensusError::Stopped,
    }
}

pub(super) fn refused(error: ClientWriteError<Types>) -> ConsensusError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ConsensusError::NotLeader { leader: forward.leader_id },
        ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_) => ConsensusError::OutcomeUnknown,
    }
}
