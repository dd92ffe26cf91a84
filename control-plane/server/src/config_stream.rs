//! The config stream: how data planes and ledgers learn what is in force, and what they report back.
//!
//! `wire` receives, this file answers the unary methods and admits streams, `session` serves one node each, `feed`
//! holds what they all take, `nodes` knows who is there. Heartbeats go out each second, and only while this node,
//! leader or not, can prove that its state is current: a lease must not be renewed by a node that was cut off.
//! Invariant: a node speaks for itself alone (`authorisation`).
//! Absent: what entries mean (`core::view`), and revocation's own lane.

pub(crate) mod feed;
pub(crate) mod nodes;
mod session;
pub(crate) mod wire;

use std::{sync::Arc, time::Duration};

use bailiwick_consensus::ConsensusError;
use bailiwick_control_plane_core::{Command, State, command::ToolDefinition, node::Role};
use bailiwick_proto::v1::{self, config_frame, node_message};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use self::{
    feed::Feed,
    nodes::Nodes,
    session::{Frames, Node},
    wire::Frame,
};
use crate::{
    authorisation::Who,
    domain::{Caller, Domain},
    keys::Keys,
    metrics::Metrics,
    status,
};

/// How often a node hears that nothing has changed.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long what a node has counts as fresh after it last heard from us: ten heartbeats.
const LEASE: Duration = Duration::from_secs(10);
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
    pub(crate) heartbeats: watch::Receiver<Option<Frame>>,
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
        let public_key = request
            .public_key
            .try_into()
            .map_err(|_| Status::invalid_argument("public_key must be a raw Ed25519 key of 32 bytes"))?;
        let caller = node_caller(&request.node);
        let command = Command::RegisterNode { node: request.node, role, public_key };
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        Ok(v1::RegisterNodeResponse { epoch: written.revision })
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

    /// Admits a node that says `Hello` with the epoch of its registration.
    pub(crate) async fn stream(
        self: &Arc<Self>,
        who: &Who,
        mut messages: Streaming<v1::NodeMessage>,
    ) -> Result<Frames, Status> {
        let first = tokio::time::timeout(HELLO_WAIT_MAX, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(node_message::Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let node = self.admit(who, hello).await?;
        let (sender, frames) = session::frames();
        self.supervisor.spawn("config session", OnEnd::Finish, session::run(Arc::clone(self), node, messages, sender));
        Ok(frames)
    }

    async fn admit(&self, who: &Who, hello: v1::Hello) -> Result<Node, Status> {
        let known = |state: &State| state.nodes.get(&hello.node).map(|node| (node.epoch, node.role));
        // It may have registered with another control plane a moment ago.
        let known = self.domain.read_latest(known).await.map_err(|error| status::of_consensus(&error))?;
        let Some((epoch, role)) = known else {
            return Err(Status::failed_precondition("this node is not registered; call RegisterNode first"));
        };
        if !who.speaks_for(&hello.node, role.as_str()) {
            return Err(not_that_node());
        }
        if epoch != hello.epoch {
            return Err(Status::failed_precondition("another run of this node has registered since"));
        }
        Ok(Node { hello, is_data_plane: role == Role::DataPlane })
    }
}

/// Makes the heartbeat all sessions send, once a second, while this node can prove that its state is current. That is
/// also what makes it ready: it knows a leader, and has applied what that one has.
pub(crate) async fn beat(
    domain: Domain,
    beats: watch::Sender<Option<Frame>>,
    proven: impl Fn(Result<(), &ConsensusError>) + Send,
    shutdown: Shutdown,
) {
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.or_stop(interval.tick()).await.is_some() {
        match domain.read_latest(|state| state.revision).await {
            Ok(revision) => {
                proven(Ok(()));
                let lease_ms = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
                let beat = v1::Heartbeat { revision, lease_ms };
                beats.send_replace(Some(Frame::encode(config_frame::Frame::Heartbeat(beat))));
            }
            Err(error) => {
                proven(Err(&error));
                tracing::warn!(%error, "no heartbeat: this node cannot prove that its state is current");
            }
        }
    }
}

fn not_that_node() -> Status {
    Status::permission_denied("the certificate is another node's than the one that is spoken for")
}

/// A definition as the domain takes it.
pub(crate) fn definition(tool: v1::ToolDefinition) -> ToolDefinition {
    ToolDefinition { name: tool.name, json: tool.json }
}

fn node_caller(node: &str) -> Caller {
    Caller { actor: format!("node:{node}"), request_id: String::new() }
}
