//! What control planes ask of each other besides consensus: gRPC service `bailiwick.v1.Internal`, and its callers.
//!
//! Data planes are connected to any one control plane; so whoever needs to know how far all of them are, or needs one
//! that can look at a server, asks all. An answer that does not come in time is left out: what is shown is what is
//! known. Called by `admin` and `cluster`. Absent: who may call (`authorisation`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bailiwick_control_plane_core::{State, member};
use bailiwick_proto::v1::{self, internal_client::InternalClient, internal_server::Internal};
use bailiwick_runtime::MasterKeys;
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    config_stream::{
        balance::Load,
        nodes::{DISCOVERY_WAIT_MAX, Nodes, Progress, Shown},
    },
    decisions,
    domain::Domain,
    links::{Colleague, Links, colleagues},
};

/// Longest wait for a colleague to describe itself: it has nothing to compute.
const DESCRIBE_WAIT_MAX: Duration = Duration::from_millis(1_500);
/// Longest wait for a colleague to say who has denials in force; it is asked again at once.
const ENFORCEMENT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Largest answer of a colleague: ten thousand nodes' progress, or a server's whole tool list.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What this node knows, and whom to ask for the rest. Also serves [`Internal`].
#[derive(Clone, Debug)]
pub(crate) struct Colleagues {
    pub(crate) domain: Domain,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) links: Links,
    pub(crate) master_keys: MasterKeys,
    /// Groups that no directory fills, whichever node it asks.
    pub(crate) scim_reserved_groups: Arc<BTreeSet<String>>,
}

#[tonic::async_trait]
impl Internal for Colleagues {
    async fn discover(&self, request: Request<v1::DiscoverRequest>) -> Result<Response<v1::DiscoverResponse>, Status> {
        let server = request.into_inner().server.ok_or_else(|| Status::invalid_argument("no server is named"))?;
        Ok(Response::new(match self.nodes.discover(server).await {
            None => v1::DiscoverResponse::default(),
            Some(Ok(Shown { tools, left_out })) => {
                v1::DiscoverResponse { looked: true, tools, left_out, error: String::new() }
            }
            Some(Err(error)) => v1::DiscoverResponse { looked: true, error, ..v1::DiscoverResponse::default() },
        }))
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        let described = match request.into_inner() {
            v1::DescribeRequest { brief: true, .. } => self.load_here(),
            v1::DescribeRequest { denied_through: 0, .. } => self.describe_self(),
            v1::DescribeRequest { denied_through, .. } => self.denied_here(denied_through),
        };
        Ok(Response::new(described))
    }

    async fn decide(&self, request: Request<v1::DecideRequest>) -> Result<Response<v1::DecideResponse>, Status> {
        decisions::decide(&self.domain, &self.scim_reserved_groups, request.into_inner()).await.map(Response::new)
    }
}

impl Colleagues {
    /// Names of the master keys that this node's file holds now; those in memory where it cannot be read.
    fn master_keys(&self) -> Vec<String> {
        if let Err(error) = self.master_keys.reload() {
            tracing::warn!(%error, "the master key cannot be read again; the one in memory is used");
        }
        self.master_keys.names()
    }

    /// What this node knows of itself and of the nodes connected to it.
    fn describe_self(&self) -> v1::DescribeResponse {
        let consensus = self.domain.consensus();
        let (log_size, root) = consensus.root();
        let own = consensus.node_id();
        let member = v1::Member {
            role: "control-plane".to_owned(),
            leader: *consensus.leader().borrow() == Some(own),
            node_id: own,
            reachable: true,
            revision: self.domain.read(|state| state.revision),
            log_size,
            log_root: hex::encode(root),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            master_keys: self.master_keys(),
            ..v1::Member::default()
        };
        let connected = self.nodes.progress().into_iter().map(|(name, progress)| v1::ConnectedNode {
            name,
            acknowledged_revision: progress.acknowledged,
            refused: progress.refused,
            denied_revision: progress.denied,
            denied_at: 0,
            leased_at: progress.leased_at,
            digest: progress.digest,
            expected_digest: progress.expected_digest,
            gone: !progress.connected,
            epoch: progress.epoch,
            counts: Some(progress.counts),
            before: progress.before,
        });
        v1::DescribeResponse { member: Some(member), connected: connected.collect(), ..v1::DescribeResponse::default() }
    }

    /// How many nodes each of the other control planes serves that answers; `None` while one does not count them, being
    /// of an earlier version.
    pub(crate) async fn loads(&self) -> Option<Vec<Load>> {
        let request = v1::DescribeRequest { brief: true, ..v1::DescribeRequest::default() };
        let described = self.ask_others(request, DESCRIBE_WAIT_MAX).await;
        let number = |number: Option<u64>| usize::try_from(number?).ok();
        let load = |described: v1::DescribeResponse| {
            Some(Load { sessions: number(described.sessions)?, lanes: number(described.lanes)? })
        };
        described.into_values().map(load).collect()
    }

    /// How many nodes this one serves.
    fn load_here(&self) -> v1::DescribeResponse {
        let Load { sessions, lanes } = self.nodes.load();
        let number = |number: usize| u64::try_from(number).ok();
        v1::DescribeResponse { sessions: number(sessions), lanes: number(lanes), ..v1::DescribeResponse::default() }
    }

    /// Only which nodes have all denials up to `revision` in force, and since when: asked often while somebody waits.
    fn denied_here(&self, revision: u64) -> v1::DescribeResponse {
        let denied = |(name, denied_at)| v1::ConnectedNode { name, denied_at, ..v1::ConnectedNode::default() };
        let connected = self.nodes.denied_through(revision).into_iter().map(denied).collect();
        v1::DescribeResponse { connected, ..v1::DescribeResponse::default() }
    }

    /// What each control plane that answers says of itself, by node id; this one included.
    pub(crate) async fn describe_all(&self) -> BTreeMap<u64, v1::DescribeResponse> {
        let mut described = self.ask_others(v1::DescribeRequest::default(), DESCRIBE_WAIT_MAX).await;
        described.insert(self.domain.consensus().node_id(), self.describe_self());
        described
    }

    /// Whether all control planes answer, and with one version.
    pub(crate) async fn are_of_one_version(&self) -> bool {
        let described = self.describe_all().await;
        let members = self.domain.read(|state| member::control_planes(state).count());
        let version = |one: &v1::DescribeResponse| one.member.as_ref().map(|member| member.version.clone());
        let versions: BTreeSet<_> = described.values().map(version).collect();
        described.len() >= members && versions.len() == 1
    }

    /// Since when (Unix microseconds, by the clock of the control plane that heard it) each data plane has all denials
    /// up to `revision` in force, as far as it said so to a control plane that answers.
    pub(crate) async fn enforcement(&self, revision: u64) -> BTreeMap<String, u64> {
        let mut first = self.nodes.denied_through(revision);
        let request = v1::DescribeRequest { denied_through: revision, ..v1::DescribeRequest::default() };
        let others = self.ask_others(request, ENFORCEMENT_WAIT_MAX).await;
        for node in others.into_values().flat_map(|described| described.connected) {
            // One of an earlier version does not know the question and names whoever is connected.
            if node.denied_at > 0 {
                let known = first.entry(node.name).or_insert(node.denied_at);
                *known = node.denied_at.min(*known);
            }
        }
        first
    }

    async fn ask_others(&self, request: v1::DescribeRequest, wait: Duration) -> BTreeMap<u64, v1::DescribeResponse> {
        let asked = self.others().into_iter().map(|other| async move {
            let mut client = self.client(&other)?;
            match tokio::time::timeout(wait, client.describe(request)).await {
                Ok(Ok(described)) => Some((other.node_id, described.into_inner())),
                Ok(Err(status)) => {
                    tracing::debug!(colleague = %other.name, %status, "a control plane does not describe itself");
                    self.links.forget(other.node_id);
                    None
                }
                Err(_) => {
                    self.links.forget(other.node_id);
                    None
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// How far each node has come, wherever it is or was connected.
    pub(crate) async fn progress(&self) -> BTreeMap<String, Progress> {
        self.progress_in(&self.describe_all().await)
    }

    /// The same, from what was just described.
    pub(crate) fn progress_in(&self, described: &BTreeMap<u64, v1::DescribeResponse>) -> BTreeMap<String, Progress> {
        let mut all = self.nodes.progress();
        for node in described.values().flat_map(|described| &described.connected) {
            let known = all.entry(node.name.clone()).or_default();
            // Its stream may be here and its lane there, and who has just moved is listed twice: the later word counts.
            if node.acknowledged_revision >= known.acknowledged {
                known.acknowledged = node.acknowledged_revision;
                known.refused.clone_from(&node.refused);
            }
            known.connected |= !node.gone;
            if node.epoch >= known.epoch {
                // Its lane may have moved: of one run the larger count is the later one.
                let before = if node.epoch > known.epoch { v1::Counts::default() } else { known.counts };
                let counts = node.counts.unwrap_or_default();
                if (counts.calls, counts.lists) >= (before.calls, before.lists) {
                    known.before = node.before;
                }
                known.counts = larger(&before, &counts);
                known.epoch = node.epoch;
            }
            known.denied = known.denied.max(node.denied_revision);
            known.leased_at = known.leased_at.max(node.leased_at);
            if !node.digest.is_empty() {
                known.digest.clone_from(&node.digest);
                known.expected_digest.clone_from(&node.expected_digest);
            }
        }
        all
    }

    /// Asks one data plane, wherever one is connected, what `server` shows now; `None` when there is none.
    pub(crate) async fn discover(&self, server: v1::Server) -> Option<Result<Shown, String>> {
        if let Some(found) = self.nodes.discover(server.clone()).await {
            return Some(found);
        }
        let mut asked: FuturesUnordered<_> = self
            .others()
            .into_iter()
            .map(|other| {
                let request = v1::DiscoverRequest { server: Some(server.clone()) };
                async move {
                    let mut client = self.client(&other)?;
                    let answer = tokio::time::timeout(DISCOVERY_WAIT_MAX, client.discover(request)).await;
                    Some(answer.ok()?.ok()?.into_inner()).filter(|answer| answer.looked)
                }
            })
            .collect();
        while let Some(answer) = asked.next().await {
            if let Some(v1::DiscoverResponse { tools, error, left_out, .. }) = answer {
                return Some(if error.is_empty() { Ok(Shown { tools, left_out }) } else { Err(error) });
            }
        }
        None
    }

    fn others(&self) -> Vec<Colleague> {
        let own = self.domain.consensus().node_id();
        self.domain.read(|state: &State| colleagues(state, own))
    }

    fn client(&self, other: &Colleague) -> Option<InternalClient<Channel>> {
        match self.links.to(other) {
            Ok(channel) => Some(InternalClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)),
            Err(error) => {
                tracing::warn!(colleague = %other.name, %error, "a control plane cannot be asked");
                None
            }
        }
    }
}

fn larger(one: &v1::Counts, other: &v1::Counts) -> v1::Counts {
    v1::Counts {
        calls: one.calls.max(other.calls),
        denied: one.denied.max(other.denied),
        lists: one.lists.max(other.lists),
        hidden: one.hidden.max(other.hidden),
    }
}
