//! The control plane's side of a checkpoint: what is committed, and committing the next.
//!
//! A thin client of the gRPC service `Checkpoints`. It connects when first used and again after failures, to the
//! next control plane if there are several; every call has a deadline. Retrying is the publisher's business.

use std::time::Duration;

use bailiwick_enrolment::ControlPlane;
use bailiwick_ledger_core::hash::{self, Hash};
use bailiwick_proto::v1::{CommitCheckpointRequest, LatestCheckpointRequest, checkpoints_client::CheckpointsClient};
use tonic::{Code, Response, Status, transport::Channel};

use super::PublishError;

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
pub(crate) struct Commitments {
    control_plane: ControlPlane,
    client: CheckpointsClient<Channel>,
}

impl Commitments {
    /// Nothing is connected yet.
    pub(crate) fn new(control_plane: ControlPlane) -> Self {
        let client = CheckpointsClient::new(control_plane.channel());
        Self { control_plane, client }
    }

    /// The answer to `asked`; after a failure the next control plane is asked.
    async fn answer<T>(&mut self, asked: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, PublishError> {
        let answered = tokio::time::timeout(ANSWER_WAIT_MAX, asked).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        if answered.as_ref().is_err_and(|status| matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)) {
            self.control_plane.advance();
            self.client = CheckpointsClient::new(self.control_plane.channel());
        }
        Ok(answered?.into_inner())
    }

    pub(super) async fn latest(&mut self, origin: &str) -> Result<Committed, PublishError> {
        let mut client = self.client.clone();
        let asked = client.latest(LatestCheckpointRequest { origin: origin.to_owned() });
        let answer = self.answer(asked).await?;
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
        let mut client = self.client.clone();
        self.answer(client.commit(request)).await.map(drop)
    }
}
