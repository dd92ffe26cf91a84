//! The gRPC service `bailiwick.v1.Admin`: what the command line asks.
//!
//! Writes are commands of the domain; reads look at the latest committed state. What is wrong with manifests comes
//! back as problems with file, line and key, and then nothing was applied; everything else that is refused is a gRPC
//! status (`status`). Any node answers: writes are handed to the leader before they come here (`forward`), reads are
//! made current. Absent: who may call (`authorisation`).

mod apply;
mod keys;
mod revoke;
mod rollout;
mod scim;
mod secrets;
mod signals;
mod token;

use std::{collections::BTreeMap, str::FromStr as _};

use bailiwick_control_plane_core::{
    Kind, Rejection, ResourceRef, State,
    agent::inventory::{self, Activity},
    member, show,
};
use bailiwick_proto::v1::{self, admin_server::Admin};
use serde_json::Value;
use tonic::{Request, Response, Status};

use crate::{
    authorisation::Who, clock, config_stream::nodes::Progress, domain::Domain, internal::Colleagues, keys::Keys,
    metrics::Metrics, signals::streams::Streams, status, vault::Vault,
};

const MICROS: u64 = 1_000_000;

/// Serves [`Admin`].
#[derive(Clone, Debug)]
pub(crate) struct AdminService {
    pub(crate) domain: Domain,
    pub(crate) colleagues: Colleagues,
    pub(crate) keys: Keys,
    /// Seals what servers are shown.
    pub(crate) vault: Vault,
    /// This control-plane node's own name.
    pub(crate) node: String,
    pub(crate) metrics: Metrics,
    /// Asks transmitters of signals.
    pub(crate) streams: Streams,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let actor = actor(&request);
        self.apply_manifests(actor, request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let actor = actor(&request);
        self.delete_resources(actor, request.into_inner()).await.map(Response::new)
    }

    async fn pin_tools(&self, request: Request<v1::PinToolsRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let actor = actor(&request);
        self.approve_tools(actor, request.into_inner()).await.map(Response::new)
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let actor = actor(&request);
        self.revoke_authority(actor, request.into_inner()).await.map(Response::new)
    }

    async fn set_agent_state(
        &self,
        request: Request<v1::SetAgentStateRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        let actor = actor(&request);
        self.change_agent(actor, request.into_inner()).await.map(Response::new)
    }

    async fn begin_rollout(
        &self,
        request: Request<v1::BeginRolloutRequest>,
    ) -> Result<Response<v1::RolloutResponse>, Status> {
        let actor = actor(&request);
        self.begin_rollout_of(actor, request.into_inner()).await.map(Response::new)
    }

    async fn advance_rollout(
        &self,
        request: Request<v1::AdvanceRolloutRequest>,
    ) -> Result<Response<v1::RolloutResponse>, Status> {
        let actor = actor(&request);
        self.advance_rollout_of(actor, request.into_inner()).await.map(Response::new)
    }

    async fn take_back_rollout(
        &self,
        request: Request<v1::TakeBackRolloutRequest>,
    ) -> Result<Response<v1::RolloutResponse>, Status> {
        let actor = actor(&request);
        self.take_back_rollout_of(actor, request.into_inner()).await.map(Response::new)
    }

    async fn get_rollouts(
        &self,
        request: Request<v1::GetRolloutsRequest>,
    ) -> Result<Response<v1::GetRolloutsResponse>, Status> {
        self.rollouts(request.into_inner()).await.map(Response::new)
    }

    async fn set_secret(
        &self,
        request: Request<v1::SetSecretRequest>,
    ) -> Result<Response<v1::SetSecretResponse>, Status> {
        let actor = actor(&request);
        self.seal_secret(actor, request.into_inner()).await.map(Response::new)
    }

    async fn delete_secret(
        &self,
        request: Request<v1::DeleteSecretRequest>,
    ) -> Result<Response<v1::DeleteSecretResponse>, Status> {
        let actor = actor(&request);
        self.forget_secret(actor, request.into_inner()).await.map(Response::new)
    }

    async fn list_secrets(
        &self,
        _: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        self.secrets().await.map(Response::new)
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::RotateKeyResponse>, Status> {
        let actor = actor(&request);
        self.rotate_own_key(actor, request.into_inner()).await.map(Response::new)
    }

    async fn list_keys(&self, _: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.own_keys().await.map(Response::new)
    }

    async fn create_scim_token(
        &self,
        request: Request<v1::CreateScimTokenRequest>,
    ) -> Result<Response<v1::CreateScimTokenResponse>, Status> {
        let actor = actor(&request);
        self.let_directory_in(actor, request.into_inner()).await.map(Response::new)
    }

    async fn revoke_scim_token(
        &self,
        request: Request<v1::RevokeScimTokenRequest>,
    ) -> Result<Response<v1::RevokeScimTokenResponse>, Status> {
        let actor = actor(&request);
        self.keep_directory_out(actor, request.into_inner()).await.map(Response::new)
    }

    async fn list_scim_tokens(
        &self,
        _: Request<v1::ListScimTokensRequest>,
    ) -> Result<Response<v1::ListScimTokensResponse>, Status> {
        self.scim_tokens().await.map(Response::new)
    }

    async fn signal_stream(
        &self,
        request: Request<v1::SignalStreamRequest>,
    ) -> Result<Response<v1::SignalStreamResponse>, Status> {
        self.ask_transmitter(request.into_inner()).await.map(Response::new)
    }

    async fn issue_token(
        &self,
        request: Request<v1::IssueTokenRequest>,
    ) -> Result<Response<v1::IssueTokenResponse>, Status> {
        let actor = actor(&request);
        self.grant_token(actor, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        let kind = Kind::from_str(&request.kind).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now_seconds = clock::now_micros() / MICROS;
        let find = |state: &State, activity: &Activity| {
            let mut items = found(state, kind, &request.name, now_seconds);
            if let (Kind::Agent, Ok(items)) = (kind, &mut items) {
                inventory::describe(items, state, activity);
            }
            (state.revision, items)
        };
        let (revision, items) = self.domain.read_activity(find).await.map_err(|error| status::of_consensus(&error))?;
        let mut items = items.map_err(|rejection| status::of_rejection(&rejection))?;
        if kind == Kind::Node {
            let (progress, now) = (self.colleagues.progress().await, clock::now_micros());
            for item in &mut items {
                let name = item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                let of_node = progress.get(name).cloned();
                add_progress(item, of_node.as_ref(), revision, now);
            }
        }
        let items = items.iter().map(Value::to_string).collect();
        Ok(Response::new(v1::GetResponse { revision, items }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let described = self.colleagues.describe_all().await;
        let progress = self.colleagues.progress_in(&described);
        let describe = |state: &State| {
            let mut nodes = self.control_planes(state, &described);
            nodes.extend(state.nodes.iter().map(|(name, node)| {
                let Progress { connected, acknowledged, refused, .. } = progress.get(name).cloned().unwrap_or_default();
                v1::NodeStatus {
                    name: name.clone(),
                    role: node.role.as_str().to_owned(),
                    epoch: node.epoch,
                    connected,
                    acknowledged_revision: acknowledged,
                    refused,
                }
            }));
            let (issuer, mcp_url) =
                state.issuer.as_ref().map(|issuer| (issuer.issuer.clone(), issuer.mcp_url.clone())).unwrap_or_default();
            v1::StatusResponse { revision: state.revision, node: self.node.clone(), issuer, mcp_url, nodes }
        };
        let described = self.domain.read_latest(describe).await.map_err(|error| status::of_consensus(&error))?;
        Ok(Response::new(described))
    }
}

impl AdminService {
    /// The control planes; this one alone where no cluster was founded.
    fn control_planes(&self, state: &State, described: &BTreeMap<u64, v1::DescribeResponse>) -> Vec<v1::NodeStatus> {
        let status = |name: &str, revision: Option<u64>| v1::NodeStatus {
            name: name.to_owned(),
            role: "control-plane".to_owned(),
            connected: revision.is_some(),
            acknowledged_revision: revision.unwrap_or_default(),
            ..v1::NodeStatus::default()
        };
        let revision = |id: u64| Some(described.get(&id)?.member.as_ref()?.revision);
        let all: Vec<_> =
            member::control_planes(state).map(|(name, one)| status(name, revision(one.node_id))).collect();
        if all.is_empty() { vec![status(&self.node, Some(state.revision))] } else { all }
    }
}

fn found(state: &State, kind: Kind, name: &str, now_seconds: u64) -> Result<Vec<Value>, Rejection> {
    if name.is_empty() {
        return Ok(show::all(state, kind, now_seconds));
    }
    let resource = ResourceRef::new(kind, name);
    let shown = show::one(state, &resource, now_seconds);
    shown.map(|shown| vec![shown]).ok_or_else(|| Rejection::NotFound(vec![resource]))
}

/// Adds to a node's status what only the control planes know that it is, or was, connected to.
fn add_progress(item: &mut Value, progress: Option<&Progress>, revision: u64, now_micros: u64) {
    let Some(status) = item.get_mut("status").and_then(Value::as_object_mut) else { return };
    let unknown = Progress::default();
    let progress = progress.unwrap_or(&unknown);
    status.insert("connected".to_owned(), progress.connected.into());
    let mut show = |key: &str, value: String| status.insert(key.to_owned(), value.into());
    if progress.denied > 0 {
        show("denied_revision", progress.denied.to_string());
    }
    // Of one that is silent: since when.
    if progress.leased_at > 0 {
        show("lease_age_ms", (now_micros.saturating_sub(progress.leased_at) / 1_000).to_string());
    }
    if !progress.connected {
        return;
    }
    show("acknowledged_revision", progress.acknowledged.to_string());
    show("lag", revision.saturating_sub(progress.acknowledged).to_string());
    let digest = if progress.differs() {
        "differs"
    } else if progress.digest.is_empty() || progress.expected_digest.is_empty() {
        "unknown"
    } else {
        "equal"
    };
    show("digest", digest.to_owned());
    if !progress.refused.is_empty() {
        show("refused", progress.refused.clone());
    }
}

fn actor<T>(request: &Request<T>) -> String {
    request.extensions().get::<Who>().unwrap_or(&Who::Anonymous).actor()
}
