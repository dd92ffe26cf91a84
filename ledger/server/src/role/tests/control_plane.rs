//! A control plane that keeps checkpoints as the real one does, and can be away or lose its answers.

use std::sync::{Arc, Mutex, MutexGuard};

use bailiwick_ledger_core::{
    hash::{Hash, from_slice},
    tree,
};
use bailiwick_proto::v1::{
    CommitCheckpointRequest, CommitCheckpointResponse, LatestCheckpointRequest, LatestCheckpointResponse,
    checkpoints_server::{Checkpoints, CheckpointsServer},
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

#[derive(Debug, Default)]
struct State {
    size: u64,
    root: Hash,
    revision: u64,
    away: bool,
    answers_to_lose: u32,
    refused: u32,
}

/// Stops when dropped.
pub(super) struct FakeControlPlane {
    state: Arc<Mutex<State>>,
    port: u16,
    shutdown: Shutdown,
}

impl Drop for FakeControlPlane {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

impl FakeControlPlane {
    pub(super) async fn start() -> Self {
        let (state, shutdown) = (Arc::<Mutex<State>>::default(), Shutdown::new());
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = incoming.local_addr().unwrap().port();
        let (service, stop) = (Service(Arc::clone(&state)), shutdown.clone());
        Supervisor::new(shutdown.clone()).spawn("fake-control-plane", OnEnd::Finish, async move {
            let server = Server::builder().add_service(CheckpointsServer::new(service));
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.unwrap(),
                () = stop.requested() => {}
            }
        });
        Self { state, port, shutdown }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn committed(&self) -> (u64, Hash) {
        let state = self.state();
        (state.size, state.root)
    }

    pub(super) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// The next commits happen, but their answers do not arrive.
    pub(super) fn lose_answers(&self, answers: u32) {
        self.state().answers_to_lose = answers;
    }

    /// Calls refused while away.
    pub(super) fn refused(&self) -> u32 {
        self.state().refused
    }

    /// As if another ledger had committed this.
    pub(super) fn pretend_committed(&self, size: u64, root: Hash) {
        let mut state = self.state();
        (state.size, state.root) = (size, root);
    }
}

struct Service(Arc<Mutex<State>>);

impl Service {
    fn state(&self) -> Result<MutexGuard<'_, State>, Status> {
        let mut state = self.0.lock().unwrap();
        if state.away {
            state.refused += 1;
            return Err(Status::unavailable("away"));
        }
        Ok(state)
    }
}

#[tonic::async_trait]
impl Checkpoints for Service {
    async fn latest(
        &self,
        _request: Request<LatestCheckpointRequest>,
    ) -> Result<Response<LatestCheckpointResponse>, Status> {
        let state = self.state()?;
        let root = if state.size == 0 { Vec::new() } else { state.root.to_vec() };
        Ok(Response::new(LatestCheckpointResponse { size: state.size, root }))
    }

    async fn commit(
        &self,
        request: Request<CommitCheckpointRequest>,
    ) -> Result<Response<CommitCheckpointResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state()?;
        let root = from_slice(&request.root).ok_or_else(|| Status::invalid_argument("root"))?;
        let proof: Option<Vec<Hash>> = request.consistency.iter().map(|hash| from_slice(hash)).collect();
        let proof = proof.ok_or_else(|| Status::invalid_argument("proof"))?;
        let extends = state.size == 0 && proof.is_empty()
            || tree::verify_consistency(state.size, request.size, &state.root, &root, &proof);
        if request.old_size != state.size || request.size <= state.size || !extends {
            return Err(Status::failed_precondition("not an extension of what is committed"));
        }
        (state.size, state.root, state.revision) = (request.size, root, state.revision + 1);
        if state.answers_to_lose > 0 {
            state.answers_to_lose -= 1;
            return Err(Status::deadline_exceeded("the answer was lost"));
        }
        Ok(Response::new(CommitCheckpointResponse { revision: state.revision }))
    }
}
