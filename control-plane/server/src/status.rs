//! The one place where errors become gRPC answers: a stable code and a sentence that is safe outside.
//!
//! Causes that only operators may see are logged here, once.

use bailiwick_control_plane_core::{Rejection, rejection::Class};
use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};

use crate::domain::WriteError;
use bailiwick_consensus::ConsensusError;

/// On answers to requests that certainly had no effect, because nobody or somebody else leads.
const VOID_HEADER: &str = "bailiwick-void";

/// The answer to a write that had no effect.
pub(crate) fn of_write(error: WriteError) -> Status {
    match error {
        WriteError::Rejected(rejection) => of_rejection(&rejection),
        WriteError::Busy => Status::resource_exhausted("too many writes are waiting; try again"),
        WriteError::OutcomeUnknown => outcome_unknown(),
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
        ConsensusError::NotLeader { .. } | ConsensusError::NoLeader(_) => not_leader(),
        ConsensusError::OutcomeUnknown => outcome_unknown(),
        ConsensusError::Storage { .. } | ConsensusError::Open(_) => {
            tracing::error!(%error, "the control plane's storage failed");
            Status::unavailable("the control plane's storage failed; nothing acknowledged is lost; see its log")
        }
        ConsensusError::Unconfirmed { .. } => {
            void("no leader that a majority follows confirms what this control-plane node knows; try again")
        }
        ConsensusError::Diverged(_) => {
            Status::unavailable("this control-plane node's history differs from the others'; ask another one")
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

/// Nobody leads, or somebody else; nothing happened, so anybody may try again.
pub(crate) fn not_leader() -> Status {
    void("no control-plane node leads the cluster now, as far as this one knows; try again")
}

/// The request may still take effect.
pub(crate) fn outcome_unknown() -> Status {
    Status::deadline_exceeded("the outcome is not known yet; send the request again under the same request id")
}

/// Whether an answer says that its request certainly had no effect.
pub(crate) fn says_void(headers: &HeaderMap) -> bool {
    headers.contains_key(VOID_HEADER)
}

fn void(message: &'static str) -> Status {
    let mut headers = HeaderMap::new();
    headers.insert(VOID_HEADER, HeaderValue::from_static("1"));
    Status::with_metadata(Code::Unavailable, message, tonic::metadata::MetadataMap::from_headers(headers))
}
