//! Rollouts as administrators ask for them: begin one, look at it, have it go on or back.
//!
//! Beginning one checks all that an apply checks and reports what is wrong in the same way. How each data plane stands
//! is added here to what the state says of a rollout under way. Absent: deciding (`core::rollout`), watching
//! (`crate::rollout`).

use std::collections::BTreeMap;

use bailiwick_control_plane_core::{
    Answer, Command, Rejection, State,
    rollout::{AdvanceRollout, BeginRollout, Plan, Rollout, Stepped, TakeBackRollout, show, watch::Seen},
};
use bailiwick_proto::v1;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    AdminService,
    apply::{change, read},
};
use crate::{
    config_stream::nodes::Progress,
    domain::{Caller, WriteError, Written},
    rollout::seen,
    status,
};

impl AdminService {
    pub(super) async fn begin_rollout_of(
        &self,
        actor: String,
        request: v1::BeginRolloutRequest,
    ) -> Result<v1::RolloutResponse, Status> {
        let v1::BeginRolloutRequest { files, plan, dry_run, request_id } = request;
        let manifests = match read(files).await? {
            Ok(manifests) => manifests,
            Err(problems) => return Ok(refused(problems)),
        };
        let plan = plan.ok_or_else(|| Status::invalid_argument("a rollout needs a plan"))?;
        let v1::RolloutPlan { shares, watch_seconds, denials_max, refusals_max } = plan;
        let plan = Plan { shares, watch_seconds, denials_max, refusals_max };
        let command = Command::BeginRollout(BeginRollout { manifests, plan });
        let caller = Caller { actor, request_id };
        let done = if dry_run {
            self.domain.rehearse(command, caller).await
        } else {
            self.domain.write(command, caller).await
        };
        match done {
            Ok(written) => self.stepped(written, !dry_run).await,
            Err(WriteError::Rejected(Rejection::Invalid(problems))) => Ok(refused(problems)),
            Err(error) => Err(status::of_write(error)),
        }
    }

    pub(super) async fn advance_rollout_of(
        &self,
        actor: String,
        request: v1::AdvanceRolloutRequest,
    ) -> Result<v1::RolloutResponse, Status> {
        let v1::AdvanceRolloutRequest { rollout, reason, request_id } = request;
        let rollout = id(&rollout)?;
        let command = Command::AdvanceRollout(AdvanceRollout { rollout, from: None, reason });
        let written = self.domain.write(command, Caller { actor, request_id }).await.map_err(status::of_write)?;
        self.stepped(written, true).await
    }

    pub(super) async fn take_back_rollout_of(
        &self,
        actor: String,
        request: v1::TakeBackRolloutRequest,
    ) -> Result<v1::RolloutResponse, Status> {
        let v1::TakeBackRolloutRequest { rollout, reason, request_id } = request;
        let command = Command::TakeBackRollout(TakeBackRollout { rollout: id(&rollout)?, reason });
        let written = self.domain.write(command, Caller { actor, request_id }).await.map_err(status::of_write)?;
        self.stepped(written, true).await
    }

    pub(super) async fn rollouts(&self, request: v1::GetRolloutsRequest) -> Result<v1::GetRolloutsResponse, Status> {
        let wanted = id(&request.rollout)?;
        let progress = self.colleagues.progress().await;
        let look = |state: &State| (state.revision, found(state, wanted, &progress));
        let (revision, items) = self.domain.read_latest(look).await.map_err(|error| status::of_consensus(&error))?;
        let items = items.map_err(|rejection| status::of_rejection(&rejection))?;
        Ok(v1::GetRolloutsResponse { revision, items: items.iter().map(Value::to_string).collect() })
    }

    async fn stepped(&self, written: Written, is_begun: bool) -> Result<v1::RolloutResponse, Status> {
        let Answer::Rollout(Stepped { rollout, changes, first_share }) = written.answer else {
            return Err(Status::internal("a rollout's step was answered as something else"));
        };
        let mut response = v1::RolloutResponse {
            revision: written.revision,
            changes: changes.into_iter().map(change).collect(),
            warnings: written.warnings,
            first_share,
            ..v1::RolloutResponse::default()
        };
        if is_begun && rollout > 0 {
            let progress = self.colleagues.progress().await;
            let shown = self.domain.read(|state| found(state, Some(rollout), &progress));
            response.rollout = shown.ok().and_then(|shown| Some(shown.first()?.to_string())).unwrap_or_default();
        }
        Ok(response)
    }
}

fn refused(problems: Vec<bailiwick_control_plane_core::Problem>) -> v1::RolloutResponse {
    let problems = problems.into_iter().map(v1::Problem::from).collect();
    v1::RolloutResponse { problems, ..v1::RolloutResponse::default() }
}

fn id(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Status::invalid_argument("a rollout's id is a number"))
}

fn found(state: &State, wanted: Option<u64>, progress: &BTreeMap<String, Progress>) -> Result<Vec<Value>, Rejection> {
    let mut items = match wanted {
        None => show::all(state),
        Some(id) => vec![show::one(state, id).ok_or(Rejection::RolloutUnknown(id))?],
    };
    if let Some(rollout) = &state.rollouts.under_way {
        let is_it = |item: &&mut Value| item.get("id").and_then(Value::as_str) == Some(&rollout.id.to_string());
        if let Some(Value::Object(item)) = items.iter_mut().find(is_it) {
            item.insert("nodes".to_owned(), nodes(state, rollout, progress));
        }
    }
    Ok(items)
}

/// How each data plane stands.
fn nodes(state: &State, rollout: &Rollout, progress: &BTreeMap<String, Progress>) -> Value {
    let node = |(name, node): (&String, &Seen)| {
        let is_in_share = rollout.has_in_share(name);
        let mut shown = json!({
            "name": name,
            "in_share": is_in_share,
            "state": word(rollout, is_in_share, node),
            "calls": node.counts.calls.all.to_string(),
            "denied": node.counts.calls.denied.to_string(),
            "hidden_percent": node.counts.lists.percent(),
        });
        if node.refuses
            && let (Some(shown), Some(progress)) = (shown.as_object_mut(), progress.get(name))
        {
            shown.insert("refused".to_owned(), progress.refused.clone().into());
        }
        shown
    };
    seen(state, rollout, progress).iter().map(node).collect()
}

const fn word(rollout: &Rollout, is_in_share: bool, node: &Seen) -> &'static str {
    if !node.connected {
        "silent"
    } else if !is_in_share {
        "outside"
    } else if node.refuses {
        "refuses"
    } else if node.acknowledged < rollout.stepped.revision {
        "behind"
    } else {
        "in_force"
    }
}
