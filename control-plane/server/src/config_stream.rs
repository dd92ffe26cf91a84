//! The config stream: how data planes and ledgers learn what is in force, and what they report back.
//!
//! `wire` receives, this file answers the unary methods and admits streams, `session` serves one node each, `feed`
//! holds what they all take, `nodes` knows who is there. `lane` serves the revocation lane of one data plane, with what
//! `denials` keeps, and gives leases on `proofs`. Heartbeats go out on the stream each second, and only while this
//! node, leader or not, can prove that its state is current; they say where it is and grant nothing.
//! Invariant: a node speaks for itself alone (`authorisation`).
//! Absent: what entries mean (`core::view`), and what a revocation is (`admin`).

pub(crate) mod balance;
mod denials;
mod farewell;
pub(crate) mod feed;
pub(crate) mod heartbeats;
mod history;
mod lane;
pub(crate) mod nodes;
pub(crate) mod proofs;
mod session;
pub(crate) mod snapshot;
pub(crate) mod statements;
pub(crate) mod wire;

use std::{sync::Arc, time::Duration};

use bailiwick_consensus::ConsensusError;
use bailiwick_control_plane_core::{Command, State, command::ToolDefinition, node::Role};
use bailiwick_proto::v1::{self, node_message};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use tonic::Status;

use self::{
    feed::Feed,
    heartbeats::{Beats, Heartbeats},
    nodes::Nodes,
    proofs::Proofs,
    session::{Frames, Node},
    snapshot::Slots,
    statements::Statements,
};
use crate::{
    authorisation::Who,
    domain::{Caller, Domain},
    keys::Keys,
    metrics::Metrics,
    status,
};

/// How often this node proves that what it feeds is current.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a data plane may count on having every denial there is, from when it asked: it asks a second after each
/// answer, so one may be lost. No call is admitted on a lease that misses a revocation for longer than this after its
/// commit.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// How much later than by its node's clock a lease may end by another one: a hundredth of it, as two clocks' rates may
/// differ by so much (crystals are off by one in 10,000, what sets a clock right slews it by one in 2,000, virtual
/// machines get the rest); and 50 ms from a node's look at its lease until the call that it admits has begun.
pub(crate) const LEASE_SLACK: Duration = Duration::from_millis(30 + 50);
/// Longest wait for a node's first message.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(5);

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct ConfigService {
    pub(crate) domain: Domain,
    pub(crate) feed: Arc<Feed>,
    pub(crate) nodes: Arc<Nodes>,
    /// The secrets data planes share.
    pub(crate) keys: Keys,
    /// The proofs, one each second, that what is fed here is current.
    pub(crate) heartbeats: Heartbeats,
    /// Who may send a snapshot now.
    pub(crate) slots: Slots,
    /// What data planes may keep on disk.
    pub(crate) statements: Statements,
    /// Proofs for those who ask for a lease.
    pub(crate) proofs: Proofs,
    pub(crate) supervisor: Supervisor,
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: Metrics,
}

impl ConfigService {
    pub(crate) async fn register_node(
        &self,
        who: &Who,
        request: v1::RegisterNodeRequest,
    ) -> Result<v1::RegisterNodeResponse, Status> {
        if !who.speaks_for(&request.node, &request.role) {
            return Err(not_that_node());
        }
        let role = Role::from_word(&request.role)
            .ok_or_else(|| Status::invalid_argument("role must be \"data-plane\" or \"ledger\""))?;
        let public_key = raw_key(request.public_key)?;
        let caller = node_caller(&request.node);
        let command = Command::RegisterNode { node: request.node, role, public_key };
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        Ok(v1::RegisterNodeResponse { epoch: written.revision })
    }

    pub(crate) async fn reserve_epoch(
        &self,
        who: &Who,
        request: v1::ReserveEpochRequest,
    ) -> Result<v1::ReserveEpochResponse, Status> {
        if !who.speaks_for(&request.node, Role::DataPlane.as_str()) {
            return Err(not_that_node());
        }
        let (public_key, caller) = (raw_key(request.public_key)?, node_caller(&request.node));
        let command = Command::ReserveEpoch { node: request.node, run: request.run, public_key };
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        Ok(v1::ReserveEpochResponse { epoch: written.revision })
    }

    pub(crate) async fn begin_reserved(
        &self,
        who: &Who,
        request: v1::BeginReservedRequest,
    ) -> Result<v1::BeginReservedResponse, Status> {
        if !who.speaks_for(&request.node, Role::DataPlane.as_str()) {
            return Err(not_that_node());
        }
        let (public_key, caller) = (raw_key(request.public_key)?, node_caller(&request.node));
        let command = Command::BeginReserved { node: request.node, epoch: request.epoch, public_key };
        self.domain.write(command, caller).await.map_err(status::of_write)?;
        Ok(v1::BeginReservedResponse {})
    }

    pub(crate) async fn report_tools(
        &self,
        who: &Who,
        request: v1::ReportToolsRequest,
    ) -> Result<v1::ReportToolsResponse, Status> {
        let known = |state: &State| (state.nodes.get(&request.node).map(|node| node.role), state.revision);
        let (role, revision) = self.domain.read_latest(known).await.map_err(|error| status::of_consensus(&error))?;
        let role = role.ok_or_else(|| Status::failed_precondition("this node is not registered"))?;
        if !who.speaks_for(&request.node, role.as_str()) {
            return Err(not_that_node());
        }
        if !request.error.is_empty() {
            let v1::ReportToolsRequest { node, server, error, .. } = request;
            tracing::warn!(%node, %server, %error, "a node cannot read a server's tools");
            return Ok(v1::ReportToolsResponse { revision });
        }
        let tools = request.tools.into_iter().map(definition).collect();
        let command = Command::ReportTools { server: request.server, tools };
        let written = self.domain.write(command, node_caller(&request.node)).await.map_err(status::of_write)?;
        Ok(v1::ReportToolsResponse { revision: written.revision })
    }

    /// Admits a node that says `Hello` with the epoch of its registration, and serves it.
    pub(crate) async fn stream(
        self: &Arc<Self>,
        who: &Who,
        messages: impl Stream<Item = Result<v1::NodeMessage, Status>> + Unpin + Send + 'static,
    ) -> Result<Frames, Status> {
        let (frames, session) = self.open_stream(who, messages).await?;
        self.supervisor.spawn("config session", OnEnd::Finish, session);
        Ok(frames)
    }

    /// The same, but whoever calls runs the session.
    pub(crate) async fn open_stream(
        self: &Arc<Self>,
        who: &Who,
        mut messages: impl Stream<Item = Result<v1::NodeMessage, Status>> + Unpin + Send + 'static,
    ) -> Result<(Frames, BoxFuture<'static, ()>), Status> {
        let first = tokio::time::timeout(HELLO_WAIT_MAX, messages.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))?.transpose()?;
        let Some(node_message::Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let role = self.admit(who, &hello.node, hello.epoch).await?;
        let (sender, frames) = session::frames();
        let node = Node { who: who.clone(), hello, is_data_plane: role == Role::DataPlane };
        Ok((frames, session::run(Arc::clone(self), node, messages, sender).boxed()))
    }

    /// Whether a caller that was admitted as a member still is one.
    fn is_still_member(&self, who: &Who) -> bool {
        let Who::Member { role, name } = who else { return true };
        self.domain.read(|state| state.members.get(name).is_some_and(|member| member.role == *role))
    }

    /// The role of a node that is registered in this run.
    async fn admit(&self, who: &Who, name: &str, epoch: u64) -> Result<Role, Status> {
        let known = |state: &State| state.nodes.get(name).map(|node| (node.epoch, node.role));
        // It may have registered with another control plane a moment ago.
        let known = self.domain.read_latest(known).await.map_err(|error| status::of_consensus(&error))?;
        // Nor does it ever go back because of a control plane that has not caught up yet.
        self.feed.reaches(self.domain.read(|state| state.revision)).await;
        let Some((registered, role)) = known else {
            return Err(Status::failed_precondition("this node is not registered; call RegisterNode first"));
        };
        if !who.speaks_for(name, role.as_str()) {
            return Err(not_that_node());
        }
        if registered != epoch {
            return Err(Status::failed_precondition("another run of this node has registered since"));
        }
        Ok(role)
    }
}

/// Proves each second that this node's state is current, and has sessions say so in turns. That is also
/// what makes it ready: it knows a leader, and has applied what that one has.
pub(crate) async fn beat(
    domain: Domain,
    feed: Arc<Feed>,
    mut beats: Beats,
    proven: impl Fn(Result<(), &ConsensusError>) + Send,
    shutdown: Shutdown,
) {
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.or_stop(interval.tick()).await.is_some() {
        let began = domain.now_micros();
        match shutdown.or_stop(prove(&domain, &feed)).await {
            None => return,
            Some(Ok(_)) => {
                proven(Ok(()));
                beats.proven(began);
            }
            Some(Err(error)) => {
                proven(Err(&error));
                tracing::warn!(%error, "no heartbeat: this node cannot prove that its state is current");
            }
        }
    }
}

/// Proves that this node is current whenever a data plane asks for a lease: where to ask, and what has to run for it.
pub(crate) fn prove_on_demand(
    domain: Domain,
    feed: Arc<Feed>,
    shutdown: Shutdown,
) -> (Proofs, impl Future<Output = ()> + Send) {
    let (proofs, prover) = proofs::proofs();
    let prove = move || {
        let (domain, feed) = (domain.clone(), Arc::clone(&feed));
        // Why not is said once a second, where there is no heartbeat either.
        async move { prove(&domain, &feed).await.ok() }
    };
    (proofs, prover.run(prove, shutdown))
}

/// A revision that holds every change committed before this was called, and that the feed has.
async fn prove(domain: &Domain, feed: &Feed) -> Result<u64, ConsensusError> {
    let revision = domain.read_latest(|state| state.revision).await?;
    feed.reaches(revision).await;
    Ok(revision)
}

fn not_that_node() -> Status {
    Status::permission_denied("the certificate is another node's than the one that is spoken for")
}

fn raw_key(bytes: Vec<u8>) -> Result<[u8; 32], Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument("public_key must be a raw Ed25519 key of 32 bytes"))
}

/// A definition as the domain takes it.
pub(crate) fn definition(tool: v1::ToolDefinition) -> ToolDefinition {
    ToolDefinition { name: tool.name, json: tool.json }
}

fn node_caller(node: &str) -> Caller {
    Caller { actor: format!("node:{node}"), request_id: String::new() }
}
