//! Revoke, and SetAgentState: authority is taken away, and with `wait` the answer says since when that holds at each data plane.
//!
//! A user or an agent is deactivated in the first change; consents beyond what one change may hold follow in further
//! ones. Waiting ends when every registered data plane has said that it holds to all of it, or when the lease of the
//! silent ones has run out (`enforcement`); then the receipt is recorded, and with it reaches the ledger.
//! A crash, or another leader, in between leaves a revocation without a receipt: the same request id, or the same
//! revocation asked for again, takes away what is left and gives the receipt.
//! Absent: what is taken away with what (`core::revocation`), how nodes learn of it (`config_stream`).

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Command, State,
    agent::life::SetAgentState,
    consent::CONSENTS_MAX,
    node::Role,
    receipt::{Enforcement, RecordReceipt, Since},
    resource::AgentState,
    revocation::{REVOKED_AT_ONCE_MAX, Revoke, Target},
};
use bailiwick_ledger_core::record::format_ts;
use bailiwick_proto::{subjects::CONTROL_NODE, v1};
use tonic::Status;

use super::{AdminService, apply::change};
use crate::{
    domain::{Caller, WriteError},
    enforcement::{Committed, until_enforced},
    leavers, recorder, status,
};

/// Changes that one revocation makes: all consents there may be, the deactivation, and one for a repeated request.
const CHANGES_MAX: usize = CONSENTS_MAX / REVOKED_AT_ONCE_MAX + 2;

impl AdminService {
    pub(super) async fn revoke_authority(
        &self,
        actor: String,
        request: v1::RevokeRequest,
    ) -> Result<v1::RevokeResponse, Status> {
        let v1::RevokeRequest { kind, name, reason, wait, request_id } = request;
        const KINDS: &str = "kind must be user, user-sessions, agent, client, session or consent";
        let target = Target::from_words(&kind, name).ok_or_else(|| Status::invalid_argument(KINDS))?;
        let caller = Caller { actor, request_id: request_id.clone() };
        let (revision, changes) = self.take_away(Revoke { target, reason }, caller).await?;
        self.enforced(revision, changes, wait, request_id).await
    }

    /// Pauses an agent, lets it go on, or retires it.
    pub(super) async fn change_agent(
        &self,
        actor: String,
        request: v1::SetAgentStateRequest,
    ) -> Result<v1::RevokeResponse, Status> {
        let v1::SetAgentStateRequest { agent, state, reason, wait, request_id } = request;
        let known = AgentState::ALL.into_iter().find(|known| known.as_str() == state);
        let state =
            known.ok_or_else(|| Status::invalid_argument("state must be requested, active, paused or retired"))?;
        let caller = Caller { actor, request_id: request_id.clone() };
        let command = Command::SetAgentState(SetAgentState { agent: agent.clone(), state, reason: reason.clone() });
        let written = self.domain.write(command, caller.clone()).await.map_err(status::of_write)?;
        let mut changes: Vec<_> = match written.answer {
            Answer::Changes(changes) => changes.into_iter().map(change).collect(),
            _ => Vec::new(),
        };
        let mut revision = written.revision;
        if state == AgentState::Retired {
            // Under no id: what is taken away twice is gone as if it were once.
            let caller = Caller { request_id: String::new(), ..caller };
            let (since, revoked) = self.take_away(Revoke { target: Target::Agent(agent), reason }, caller).await?;
            changes.extend(revoked);
            revision = revision.max(since);
        }
        self.enforced(revision, changes, wait, request_id).await
    }

    /// The answer, at once or when it is in force everywhere.
    async fn enforced(
        &self,
        revision: u64,
        changes: Vec<v1::ResourceChange>,
        wait: bool,
        request_id: String,
    ) -> Result<v1::RevokeResponse, Status> {
        let taken = v1::RevokeResponse { revision, changes, ..v1::RevokeResponse::default() };
        if !wait {
            return Ok(taken);
        }
        let committed = Committed::now();
        let nodes = self.domain.read(data_planes);
        let nodes = until_enforced(&self.colleagues, &nodes, revision, committed).await;
        let silent = nodes.iter().filter(|node| matches!(node.since, Since::Deadline(_))).count();
        self.metrics.revocation(committed.elapsed(), silent);
        let shown = nodes.iter().map(enforcement).collect();
        let committed_at = committed.micros;
        let receipt = RecordReceipt { denied_through: revision, committed_at, nodes, request_id };
        let receipt = self.record_receipt(receipt).await?;
        Ok(v1::RevokeResponse { nodes: shown, receipt: Some(receipt), ..taken })
    }

    /// Takes away all that stands; the revision since when none of it does.
    async fn take_away(&self, wish: Revoke, mut caller: Caller) -> Result<(u64, Vec<v1::ResourceChange>), Status> {
        let mut changes = Vec::new();
        for _ in 0..CHANGES_MAX {
            let command = Command::Revoke(wish.clone());
            let written = self.domain.write(command, caller.clone()).await.map_err(status::of_write)?;
            let Answer::Revoked(revoked) = written.answer else {
                return Err(Status::internal("a revocation was answered as something else"));
            };
            changes.extend(revoked.changes.into_iter().map(change));
            if !revoked.more {
                if let Target::User(user) = &wish.target {
                    let users = BTreeSet::from([user.clone()]);
                    leavers::finish(&self.domain, &users, &caller.actor).await.map_err(status::of_write)?;
                }
                return Ok((revoked.since.unwrap_or(written.revision), changes));
            }
            // The rest needs no id: what is taken away twice is gone as if it were once.
            caller.request_id.clear();
        }
        Err(Status::aborted("new consents come as fast as they are revoked; deactivate who grants them, and ask again"))
    }

    async fn record_receipt(&self, receipt: RecordReceipt) -> Result<v1::Receipt, Status> {
        let caller = Caller { actor: CONTROL_NODE.to_owned(), request_id: String::new() };
        let written = self.domain.write(Command::RecordReceipt(receipt), caller).await;
        let written = written.map_err(|error| match error {
            // The revocation stands, so this is no refusal of it: asked again, the receipt is all that is left to do.
            WriteError::Busy => status::outcome_unknown(),
            error => status::of_write(error),
        })?;
        Ok(v1::Receipt { node: CONTROL_NODE.to_owned(), epoch: recorder::EPOCH, revision: written.revision })
    }
}

fn data_planes(state: &State) -> BTreeSet<String> {
    let data_planes = state.nodes.iter().filter(|(_, node)| node.role == Role::DataPlane);
    data_planes.map(|(name, _)| name.clone()).collect()
}

fn enforcement(node: &Enforcement) -> v1::Enforcement {
    let time = |micros: u64| format_ts(i64::try_from(micros).unwrap_or(i64::MAX));
    let name = node.name.clone();
    match node.since {
        Since::AcknowledgedAt(at) => v1::Enforcement { name, acknowledged_at: time(at), deadline: String::new() },
        Since::Deadline(at) => v1::Enforcement { name, acknowledged_at: String::new(), deadline: time(at) },
    }
}
