//! The control plane's side of a checkpoint: what is committed, and committing the next.
//!
//! A thin client of the gRPC service `Checkpoints`. It connects when first used and again after failures; every call
//! has a deadline. Retrying is the publisher's business.

use std::time::Duration;

use bailiwick_ledger_core::hash::{self, Hash};
use bailiwick_proto::v1::{CommitCheckpointRequest, LatestCheckpointRequest, checkpoints_client::CheckpointsClient};
use tonic::transport::{Channel, Endpoint};

use super::PublishError;

/// Longest wait for a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for an answer: a commit needs one round of consensus, even a slow one is far quicker.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// A committed tree. The default is the empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) size: u64,
    /// Without meaning while `size` is 0.
    pub(crate) root: Hash,
}

/// A handle on the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Commitments(CheckpointsClient<Channel>);

impl Commitments {
    /// Nothing is connected yet. `None`: not a URL, which the configuration's check would have said.
    pub(crate) fn new(control_plane: &str) -> Option<Self> {
        let endpoint = Endpoint::from_shared(control_plane.to_owned()).ok()?;
        let channel = endpoint.connect_timeout(CONNECT_WAIT_MAX).timeout(ANSWER_WAIT_MAX).connect_lazy();
        Some(Self(CheckpointsClient::new(channel)))
    }

    pub(super) async fn latest(&mut self, origin: &str) -> Result<Committed, PublishError> {
        let answer = self.0.latest(LatestCheckpointRequest { origin: origin.to_owned() }).await?.into_inner();
        if answer.size == 0 {
            return Ok(Committed::default());
        }
        let root = hash::from_slice(&answer.root).ok_or(PublishError::Answer)?;
        Ok(Committed { size: answer.size, root })
    }

    pub(super) async fn commit(
        &mut self,
        origin: &str,
        from: Committed,
        to: Committed,
        proof: Vec<Hash>,
    ) -> Result<(), PublishError> {
        let request = CommitCheckpointRequest {
            origin: origin.to_owned(),
            old_size: from.size,
            size: to.size,
            root: to.root.to_vec(),
            consistency: proof.into_iter().map(Vec::from).collect(),
        };
        self.0.commit(request).await?;
        Ok(())
    }
}
