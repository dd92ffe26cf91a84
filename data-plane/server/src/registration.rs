//! Registration: under which epoch and key a run writes its chain, and who knows.
//!
//! Called by `role` at start. With a control plane in reach a run is registered first, as the reserve of the run before
//! if there is one. Without one a run that has a configuration from disk begins as that reserve, whose epoch the ledger
//! knows already, and is registered as soon as a control plane answers. A run that is registered gets the next reserve.
//! Invariant: a reserve is spent before its run's first record, so no epoch ever has two chains.
//! Deliberately absent: what may be served without a control plane (`config_state`).

use std::{future::Future, sync::Arc, time::Duration};

use bailiwick_enrolment::ControlPlane;
use bailiwick_ledger_core::key::{NodeSigner, PublicKey};
use bailiwick_proto::v1::{BeginReservedRequest, RegisterNodeRequest, ReserveEpochRequest};
use tonic::{Code, Response, Status};

use crate::{
    config_client::{self, Backoff, Client},
    metrics::Metrics,
    reserve::{Reserve, Reserves, Seed},
};

/// A control plane that answers nothing for so long is away. Longer than electing a leader takes.
pub(crate) const ALONE_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the answer to one request.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between attempts to get a reserve that is refused: nodes that were started too often lately wait for theirs.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// How often it is looked whether the reserve is sealed under the newest master key.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How a run is registered.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) control_plane: ControlPlane,
    pub(crate) node: String,
    /// Where reserves are kept; absent where nothing is kept for a start without control planes.
    pub(crate) reserves: Option<Reserves>,
}

/// A run that may write.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) epoch: u64,
    pub(crate) signer: NodeSigner,
    /// Whether a control plane knows that it has begun.
    pub(crate) is_registered: bool,
}

/// The control plane says that the reserve is not this run's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane refuses the run that was begun without it: {0}")]
pub(crate) struct ReserveRefused(String);

impl Registration {
    /// Registers a run, with `fresh` as its key unless there is a `reserve`; begins as that without a control plane if
    /// there is a configuration to serve (`has_config`).
    pub(crate) async fn begin(&self, fresh: NodeSigner, reserve: Option<Reserve>, has_config: bool) -> Begun {
        if has_config && reserve.is_none() {
            tracing::warn!("there is no reserve: this run needs a control plane to begin");
        }
        if let Some(Reserve { epoch, signer }) = reserve {
            let asked = self.begin_reserved(epoch, signer.public_key());
            let answer =
                if has_config { tokio::time::timeout(ALONE_AFTER, asked).await.ok() } else { Some(asked.await) };
            let is_registered = matches!(answer, Some(Ok(())));
            let may_begin = is_registered || answer.is_none();
            if let Some(Err(error)) = answer {
                tracing::info!(%error, "this run is registered anew");
            }
            match self.reserves.as_ref().map(Reserves::spend) {
                Some(Ok(())) if may_begin => {
                    if !is_registered {
                        tracing::warn!(epoch, "no control plane answers: this run begins under its reserved epoch");
                    }
                    return Begun { epoch, signer, is_registered };
                }
                Some(Err(error)) => tracing::error!(%error, "the reserve cannot be spent, so it is not used"),
                Some(Ok(())) | None => {}
            }
        }
        Begun { epoch: self.register(&fresh).await, signer: fresh, is_registered: true }
    }

    /// Says that the reserved run has begun, until a control plane answers.
    pub(crate) async fn begin_reserved(&self, epoch: u64, public_key: &PublicKey) -> Result<(), ReserveRefused> {
        let (node, public_key) = (self.node.clone(), public_key.to_vec());
        let request = BeginReservedRequest { node, public_key, epoch };
        let mut backoff = Backoff::default();
        loop {
            let mut client = config_client::client(&self.control_plane);
            match self.ask(client.begin_reserved(request.clone()), "the reserved run").await {
                Ok(_) => return Ok(()),
                Err(status) if is_refusal(&status) => return Err(ReserveRefused(status.message().to_owned())),
                Err(_) => backoff.pause().await,
            }
        }
    }

    /// Registers this run's key until it succeeds; the epoch it got.
    async fn register(&self, signer: &NodeSigner) -> u64 {
        let mut backoff = Backoff::default();
        loop {
            let mut client = config_client::client(&self.control_plane);
            let request = RegisterNodeRequest {
                node: self.node.clone(),
                public_key: signer.public_key().to_vec(),
                role: "data-plane".to_owned(),
            };
            match self.ask(client.register_node(request), "this run").await {
                Ok(answer) => return answer.into_inner().epoch,
                Err(_) => backoff.pause().await,
            }
        }
    }

    /// Gets a reserve for the next run and keeps it, sealed under the newest master key; for ever. `run` is the present
    /// run's epoch.
    pub(crate) async fn keep_reserve(self, run: u64, metrics: Arc<Metrics>) {
        let Some(reserves) = &self.reserves else { return std::future::pending().await };
        let Some((epoch, seed)) = self.reserve(run).await else { return std::future::pending().await };
        let mut sealed_under = None;
        loop {
            let master = reserves.master();
            if sealed_under.as_ref() != Some(&master) {
                match reserves.keep(epoch, &seed) {
                    Ok(()) => {
                        tracing::debug!(epoch, "there is a reserve for the next run");
                        sealed_under = Some(master);
                    }
                    Err(error) => tracing::error!(%error, "the reserve cannot be kept; trying again"),
                }
                metrics.reserve_kept.set(i64::from(sealed_under.is_some()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// `None` when there will be none: no randomness, or control planes of an earlier version.
    async fn reserve(&self, run: u64) -> Option<(u64, Seed)> {
        let seed = Seed::fresh()?;
        let public_key = seed.signer()?.public_key().to_vec();
        let mut backoff = Backoff::default();
        loop {
            let request = ReserveEpochRequest { node: self.node.clone(), public_key: public_key.clone(), run };
            let mut client: Client = config_client::client(&self.control_plane);
            match self.ask(client.reserve_epoch(request), "the next run").await {
                Ok(answer) => return Some((answer.into_inner().epoch, seed)),
                Err(status) if status.code() == Code::Unimplemented => return None,
                Err(status) if is_refusal(&status) => tokio::time::sleep(REFUSED_PAUSE).await,
                Err(_) => backoff.pause().await,
            }
        }
    }

    async fn ask<T>(
        &self,
        asked: impl Future<Output = Result<Response<T>, Status>>,
        what: &'static str,
    ) -> Result<Response<T>, Status> {
        let answer = tokio::time::timeout(REQUEST_WAIT_MAX, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        answer.inspect_err(|status| {
            tracing::warn!(%status, "{what} is not registered");
            self.control_plane.advance();
        })
    }
}

/// Whether the control plane knows what it says no to; asking again would get the same answer.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}
