//! The gRPC service `bailiwick.v1.Checkpoints`: how a ledger's checkpoint becomes the only one.
//!
//! Called by the ledger's sequencer. Compare-and-set and the proof are the domain's; here only lengths are checked.

use bailiwick_control_plane_core::{
    Command,
    checkpoint::{CommitCheckpoint, PROOF_HASHES_MAX},
};
use bailiwick_proto::v1::{self, checkpoints_server::Checkpoints};
use tonic::{Request, Response, Status};

use crate::{
    domain::{Caller, Domain},
    status,
};

/// Serves [`Checkpoints`].
#[derive(Clone, Debug)]
pub(crate) struct CheckpointService {
    pub(crate) domain: Domain,
}

#[tonic::async_trait]
impl Checkpoints for CheckpointService {
    async fn latest(
        &self,
        request: Request<v1::LatestCheckpointRequest>,
    ) -> Result<Response<v1::LatestCheckpointResponse>, Status> {
        let origin = request.into_inner().origin;
        let find = |state: &bailiwick_control_plane_core::State| {
            state.checkpoints.get(&origin).map(|found| (found.size, found.root_bytes().to_vec()))
        };
        let (size, root) =
            self.domain.read_latest(find).await.map_err(|error| status::of_consensus(&error))?.unwrap_or_default();
        Ok(Response::new(v1::LatestCheckpointResponse { size, root }))
    }

    async fn commit(
        &self,
        request: Request<v1::CommitCheckpointRequest>,
    ) -> Result<Response<v1::CommitCheckpointResponse>, Status> {
        let request = request.into_inner();
        if request.consistency.len() > PROOF_HASHES_MAX {
            return Err(Status::invalid_argument("the consistency proof is too long"));
        }
        let hash = |bytes: Vec<u8>| {
            <[u8; 32]>::try_from(bytes).map_err(|_| Status::invalid_argument("a hash must have 32 bytes"))
        };
        let command = Command::CommitCheckpoint(CommitCheckpoint {
            origin: request.origin,
            old_size: request.old_size,
            size: request.size,
            root: hash(request.root)?,
            consistency: request.consistency.into_iter().map(hash).collect::<Result<_, _>>()?,
        });
        let caller = Caller { actor: "ledger".to_owned(), request_id: String::new() };
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        Ok(Response::new(v1::CommitCheckpointResponse { revision: written.revision }))
    }
}
