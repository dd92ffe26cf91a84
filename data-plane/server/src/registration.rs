//! Registration: under which epoch and key a run writes its chain, and who knows.
//!
//! Called by `role` at start. With a control plane in reach a run is registered first, as the reserve of the run before
//! if there is one. Without one a run that has a configuration from disk begins as that reserve, whose epoch the ledger
//! knows already, and is registered as soon as a control plane answers. A run that is registered gets new reserves.
//! Invariant: a reserve is spent before its run's first record, so no epoch ever has two chains.
//! Deliberately absent: what may be served without a control plane (`config_state`).

use std::{future::Future, sync::Arc, time::Duration};

use bailiwick_enrolment::ControlPlane;
use bailiwick_ledger_core::key::{NodeSigner, PublicKey};
use bailiwick_proto::v1::{BeginReservedRequest, RegisterNodeRequest, ReserveEpochRequest};
use tonic::{Code, Response, Status};

use crate::{
    config_client::{self, Backoff},
    metrics::{Metrics, gauge_value},
    reserve::{Reserve, Reserves},
};

/// A control plane that answers nothing for so long is away. Longer than electing a leader takes.
pub(crate) const ALONE_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the answer to one request.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between attempts to get a reserve that is refused: nodes that were started too often lately wait for theirs.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// So often a node may be started again in one outage.
const RESERVES: usize = 3;
/// How often it is looked whether the reserves are sealed under the newest master key.
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
    /// For the runs after it.
    pub(crate) reserves: Vec<Reserve>,
}

/// The control plane says that the reserve is not this run's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane refuses the run that was begun without it: {0}")]
pub(crate) struct ReserveRefused(String);

impl Registration {
    /// Registers a run, with `fresh` as its key unless there is a reserve; begins as that without a control plane if
    /// there is a configuration to serve (`has_config`).
    pub(crate) async fn begin(&self, fresh: NodeSigner, kept: Vec<Reserve>, has_config: bool) -> Begun {
        if has_config && kept.is_empty() {
            tracing::warn!("there is no reserve: this run needs a control plane to begin");
        }
        let mut kept = kept.into_iter();
        if let Some(reserve) = kept.next()
            && let Some(begun) = self.begin_as(&reserve, kept.collect(), has_config).await
        {
            return begun;
        }
        Begun { epoch: self.register(&fresh).await, signer: fresh, is_registered: true, reserves: Vec::new() }
    }

    /// As a reserve; `rest` is what there is besides. `None` when it may not be, or cannot be spent.
    async fn begin_as(&self, reserve: &Reserve, rest: Vec<Reserve>, has_config: bool) -> Option<Begun> {
        let (epoch, signer) = (reserve.epoch, reserve.signer()?);
        let asked = self.begin_reserved(epoch, signer.public_key());
        let answer = if has_config { tokio::time::timeout(ALONE_AFTER, asked).await.ok() } else { Some(asked.await) };
        if let Some(Err(error)) = answer {
            // What was registered since ends all reserves.
            tracing::info!(%error, "this run is registered anew");
            return None;
        }
        if let Err(error) = self.reserves.as_ref()?.keep(&rest) {
            tracing::error!(%error, "the reserve cannot be spent, so it is not used");
            return None;
        }
        let is_registered = answer.is_some();
        if !is_registered {
            tracing::warn!(epoch, "no control plane answers: this run begins under its reserved epoch");
        }
        Some(Begun { epoch, signer, is_registered, reserves: rest })
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

    /// Keeps reserves for the next runs, sealed under the newest master key; for ever. `run` is the present run's
    /// epoch, `kept` what is left of those before it.
    pub(crate) async fn keep_reserves(self, run: u64, mut kept: Vec<Reserve>, metrics: Arc<Metrics>) {
        let Some(reserves) = &self.reserves else { return std::future::pending().await };
        metrics.reserves_kept.set(gauge_value(kept.len() as u64));
        let mut sealed = None;
        loop {
            if kept.len() < RESERVES
                && let Some(reserve) = self.reserve(run).await
            {
                kept.push(reserve);
            }
            let wanted = Some((kept.len(), reserves.master()));
            if sealed != wanted {
                match reserves.keep(&kept) {
                    Ok(()) => {
                        tracing::debug!(reserves = kept.len(), "there are reserves for the next runs");
                        metrics.reserves_kept.set(gauge_value(kept.len() as u64));
                        sealed = wanted;
                    }
                    Err(error) => tracing::error!(%error, "the reserves cannot be kept; trying again"),
                }
            }
            if kept.len() >= RESERVES || sealed.is_none() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Another reserve. Never, without randomness or with control planes of an earlier version.
    async fn reserve(&self, run: u64) -> Option<Reserve> {
        let Some(fresh) = Reserve::fresh() else { return std::future::pending().await };
        let public_key = fresh.signer()?.public_key().to_vec();
        let mut backoff = Backoff::default();
        loop {
            let request = ReserveEpochRequest { node: self.node.clone(), public_key: public_key.clone(), run };
            let mut client = config_client::client(&self.control_plane);
            match self.ask(client.reserve_epoch(request), "the next run").await {
                Ok(answer) => return Some(fresh.of(answer.into_inner().epoch)),
                Err(status) if status.code() == Code::Unimplemented => return std::future::pending().await,
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

#[cfg(test)]
mod tests;
