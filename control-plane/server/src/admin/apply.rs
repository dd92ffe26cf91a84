//! Apply, Delete and PinTools: manifests in, what changed or what is wrong out.
//!
//! Before an apply is decided, a connected data plane looks at the servers it is about, so that their tools are pinned
//! in the same change; servers nobody could look at are pinned when a data plane first reports them.

use std::{collections::BTreeMap, str::FromStr as _};

use bailiwick_control_plane_core::{
    Answer, Command, Kind, Manifest, Problem, ResourceRef, Spec, command::ResourceChange, command::ToolDefinition,
    manifest, rollout::Stepped, view,
};
use bailiwick_proto::v1;
use futures::{StreamExt as _, stream};
use tonic::Status;

use super::AdminService;
use crate::{
    config_stream::{definition, nodes::Shown},
    domain::{Caller, WriteError, Written},
    leavers, status,
};

/// Servers looked at for one apply; the rest are pinned when a data plane first reports them.
const DISCOVERIES_MAX: usize = 32;
/// Operations of one API that are left out and told of at an apply; more are no reading for a terminal.
const LEFT_OUT_TOLD_MAX: usize = 20;
/// Servers looked at together.
const DISCOVERIES_TOGETHER: usize = 8;

/// What servers showed, by name; an error is a sentence.
type Discovered = BTreeMap<String, Result<Vec<ToolDefinition>, String>>;

impl AdminService {
    pub(super) async fn apply_manifests(
        &self,
        actor: String,
        request: v1::ApplyRequest,
    ) -> Result<v1::ApplyResponse, Status> {
        let manifests = match read(request.files).await? {
            Ok(manifests) => manifests,
            Err(problems) => return Ok(refused(problems)),
        };
        let users = manifests.iter().filter(|manifest| matches!(manifest.spec, Spec::User(_)));
        let leaving = users.map(|manifest| manifest.name.clone()).collect();
        let (discovered, left_out) = self.discover(&manifests).await;
        let who = actor.clone();
        let command = Command::Apply { manifests, discovered };
        let caller = Caller { actor, request_id: request.request_id };
        let mut done = self.carry_out(command, caller, request.dry_run).await?;
        if !request.dry_run {
            leavers::finish(&self.domain, &leaving, &who).await.map_err(status::of_write)?;
        }
        if done.problems.is_empty() {
            done.warnings.extend(left_out);
        }
        Ok(done)
    }

    pub(super) async fn delete_resources(
        &self,
        actor: String,
        request: v1::DeleteRequest,
    ) -> Result<v1::ApplyResponse, Status> {
        let mut resources = Vec::new();
        for resource in request.resources {
            match Kind::from_str(&resource.kind) {
                Ok(kind) => resources.push(ResourceRef::new(kind, resource.name)),
                Err(error) => {
                    return Ok(refused(vec![Problem { message: error.to_string(), ..Problem::default() }]));
                }
            }
        }
        match parse(request.files) {
            Ok(manifests) => resources.extend(manifests.iter().map(Manifest::resource)),
            Err(problems) => return Ok(refused(problems)),
        }
        let caller = Caller { actor, request_id: request.request_id };
        self.carry_out(Command::Delete { resources }, caller, request.dry_run).await
    }

    pub(super) async fn approve_tools(
        &self,
        actor: String,
        request: v1::PinToolsRequest,
    ) -> Result<v1::ApplyResponse, Status> {
        let known =
            self.domain.read(|state| Some(view::server(&request.server, &state.servers.get(&request.server)?.spec)));
        let discovered = match known {
            Some(server) => self.colleagues.discover(server).await.and_then(Result::ok),
            None => None,
        };
        let discovered = discovered.map(|shown| shown.tools.into_iter().map(definition).collect());
        let command = Command::PinTools { server: request.server, tools: request.tools, discovered };
        self.carry_out(command, Caller { actor, request_id: request.request_id }, false).await
    }

    async fn carry_out(&self, command: Command, caller: Caller, dry_run: bool) -> Result<v1::ApplyResponse, Status> {
        let done = if dry_run {
            self.domain.rehearse(command, caller).await
        } else {
            self.domain.write(command, caller).await
        };
        match done {
            Ok(written) => Ok(applied(written)),
            Err(WriteError::Rejected(rejection)) => Ok(refused(rejection.problems())),
            Err(error) => Err(status::of_write(error)),
        }
    }

    /// Has the servers looked at that are new, moved or never seen; beside what they show, what of theirs cannot be
    /// offered.
    async fn discover(&self, manifests: &[Manifest]) -> (Discovered, Vec<String>) {
        let wanted: Vec<v1::Server> = self.domain.read(|state| {
            let unseen = |manifest: &Manifest| match &manifest.spec {
                Spec::Server(spec) => {
                    let known = state.servers.get(&manifest.name);
                    known
                        .is_none_or(|known| known.tools.is_empty() || known.spec.endpoint != spec.endpoint)
                        .then(|| view::server(&manifest.name, spec))
                }
                Spec::VirtualServer(_)
                | Spec::User(_)
                | Spec::Agent(_)
                | Spec::Policy(_)
                | Spec::Client(_)
                | Spec::IdentityProvider(_)
                | Spec::DecisionClient(_) => None,
            };
            manifests.iter().filter_map(unseen).take(DISCOVERIES_MAX).collect()
        });
        let looked = stream::iter(wanted).map(|server| async move {
            let name = server.name.clone();
            Some((name, self.colleagues.discover(server).await?))
        });
        let found: Vec<_> = looked.buffer_unordered(DISCOVERIES_TOGETHER).collect().await;
        let (mut discovered, mut told) = (Discovered::new(), Vec::new());
        for (name, found) in found.into_iter().flatten() {
            let tools = found.map(|Shown { tools, left_out }| {
                told.extend(left_out_of(&name, &left_out));
                tools.into_iter().map(definition).collect()
            });
            discovered.insert(name, tools);
        }
        (discovered, told)
    }
}

/// What of a server cannot be offered, within what somebody reads.
fn left_out_of(server: &str, left_out: &[String]) -> Vec<String> {
    let told = left_out.iter().take(LEFT_OUT_TOLD_MAX).map(|why| format!("Server {server}: {why}"));
    let more = left_out.len().saturating_sub(LEFT_OUT_TOLD_MAX);
    let rest = (more > 0).then(|| format!("Server {server}: {more} more; a data plane's log has them"));
    told.chain(rest).collect()
}

/// Reads manifests, and of policies all that can be said before they are decided: thousands of them take seconds, in
/// which no other write should have to wait, and no task of this node.
pub(super) async fn read(files: Vec<v1::ManifestFile>) -> Result<Result<Vec<Manifest>, Vec<Problem>>, Status> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut manifests = parse(files)?;
        manifest::read_policies(&mut manifests);
        Ok(manifests)
    });
    reading.await.map_err(|_stopped| Status::unavailable("the control plane is stopping"))
}

fn parse(files: Vec<v1::ManifestFile>) -> Result<Vec<Manifest>, Vec<Problem>> {
    let files: Vec<(String, String)> = files.into_iter().map(|file| (file.name, file.text)).collect();
    manifest::parse(&files)
}

fn refused(problems: Vec<Problem>) -> v1::ApplyResponse {
    v1::ApplyResponse {
        problems: problems.into_iter().map(v1::Problem::from).collect(),
        ..v1::ApplyResponse::default()
    }
}

fn applied(written: Written) -> v1::ApplyResponse {
    let changes = match written.answer {
        Answer::Changes(changes) | Answer::Rollout(Stepped { changes, .. }) => {
            changes.into_iter().map(change).collect()
        }
        Answer::Done
        | Answer::Granted(_)
        | Answer::Fulfilled(_)
        | Answer::Revoked(_)
        | Answer::JoinToken { .. }
        | Answer::Member { .. } => Vec::new(),
    };
    v1::ApplyResponse { revision: written.revision, changes, problems: Vec::new(), warnings: written.warnings }
}

pub(super) fn change(change: ResourceChange) -> v1::ResourceChange {
    let text = |value: Option<serde_json::Value>| value.map(|value| value.to_string()).unwrap_or_default();
    v1::ResourceChange {
        kind: change.resource.kind.to_string(),
        name: change.resource.name,
        action: change.action.as_str().to_owned(),
        before: text(change.before),
        after: text(change.after),
    }
}
