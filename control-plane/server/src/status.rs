//! The one place where errors become gRPC answers: a stable code and a sentence that is safe outside.
//!
//! Causes that only operators may see are logged here, once.

use bailiwick_control_plane_core::{Rejection, rejection::Class};
use tonic::{Code, Status};

use crate::domain::WriteError;
use bailiwick_consensus::ConsensusError;

/// The answer to a write that had no effect.
pub(crate) fn of_write(error: WriteError) -> Status {
    match error {
        WriteError::Rejected(rejection) => of_rejection(&rejection),
        WriteError::Busy => Status::resource_exhausted("too many writes are waiting; try again"),
        WriteError::OutcomeUnknown => {
            Status::deadline_exceeded("the outcome is not known yet; send the request again under the same request id")
        }
        WriteError::Consensus(error) => of_consensus(&error),
        WriteError::Randomness => {
            tracing::error!("the operating system gives no randomness");
            Status::unavailable("the control plane cannot make identifiers now")
        }
        WriteError::Stopping => Status::unavailable("the control plane is stopping"),
    }
}

/// The answer to a command that is refused.
pub(crate) fn of_rejection(rejection: &Rejection) -> Status {
    let code = match rejection.class() {
        Class::Invalid => Code::InvalidArgument,
        Class::NotFound => Code::NotFound,
        Class::Conflict => Code::FailedPrecondition,
        Class::Forbidden => Code::PermissionDenied,
    };
    Status::new(code, rejection.to_string())
}

/// The answer while consensus cannot serve.
pub(crate) fn of_consensus(error: &ConsensusError) -> Status {
    match error {
        ConsensusError::NotLeader { .. } | ConsensusError::NoLeader(_) => {
            Status::unavailable("this control-plane node does not lead the cluster now; try again")
        }
        ConsensusError::OutcomeUnknown => {
            Status::deadline_exceeded("the outcome is not known yet; send the request again under the same request id")
        }
        ConsensusError::Storage { .. } | ConsensusError::Open(_) => {
            tracing::error!(%error, "the control plane's storage failed");
            Status::unavailable("the control plane's storage failed; nothing acknowledged is lost; see its log")
        }
        ConsensusError::Unconfirmed { .. } => {
            Status::unavailable("no leader confirms what this control-plane node knows; try again")
        }
        ConsensusError::Refused(refusal) => {
            tracing::error!(%refusal, "the cluster refuses this node");
            Status::unavailable("this control-plane node takes no part in the cluster any more; ask another one")
        }
        ConsensusError::Membership { detail } => Status::failed_precondition(format!("not now: {detail}")),
        ConsensusError::NoSuchMember { node_id } => Status::not_found(format!("node {node_id} is no such member")),
        ConsensusError::NoSuccessor => Status::unavailable("no other voter has taken the lead; try again"),
        ConsensusError::Stopped => Status::unavailable("the control plane is stopping"),
    }
}
