//! Applying and deleting resources: all of it or nothing.
//!
//! A draft of the next state is made by evolving a copy with the events in question; then everything that must hold
//! between resources is checked on the draft: what is named exists, plain names do not collide, policies validate.
//! So resources of one apply may refer to each other in any order. All problems are reported together, each at the line
//! that wrote it. Called by `command::decide`. Absent: what single values must look like (`resource`, `manifest`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    Kind, Manifest, Problem, Rejection, ResourceRef, Spec, State,
    agent::{self, AgentApplied, AgentDeleted},
    client::{self, ClientApplied, ClientDeleted},
    command::{Action, Answer, Context, Decision, ResourceChange, ToolDefinition},
    consent, credential,
    decision_client::{self, DecisionClientApplied, DecisionClientDeleted},
    event::Event,
    evolve,
    identity_provider::{self, IdentityProviderApplied, IdentityProviderDeleted},
    leaver,
    manifest::suggest,
    node::NodeDeleted,
    policy::{self, PolicyApplied, PolicyDeleted},
    problem::PROBLEMS_MAX,
    provisioning,
    resource::{AgentState, ClientSpec, IdentityProviderSpec},
    rollout,
    server::{self, ServerApplied, ServerDeleted},
    show, tool,
    user::{self, UserApplied, UserDeleted},
    virtual_server::{self, VirtualServerApplied, VirtualServerDeleted, fitting},
    workload,
};

/// The next state in the making.
struct Draft<'a> {
    next: State,
    events: Vec<Event>,
    warnings: Vec<String>,
    context: &'a Context,
    revision: u64,
}

impl<'a> Draft<'a> {
    fn new(state: &State, context: &'a Context) -> Self {
        // Which revision it will be is known once it is committed; until then any later one does.
        let revision = state.revision.saturating_add(1);
        Self { next: state.clone(), events: Vec::new(), warnings: Vec::new(), context, revision }
    }

    fn add(&mut self, event: Event) {
        evolve(&mut self.next, &event, self.revision);
        self.events.push(event);
    }
}

pub(crate) fn decide_apply(
    state: &State,
    manifests: &[Manifest],
    discovered: &BTreeMap<String, Result<Vec<ToolDefinition>, String>>,
    context: &Context,
) -> Result<Decision, Rejection> {
    if state.rollouts.under_way.is_some() {
        let differing = manifests.iter().filter(|manifest| differs(state, manifest, context));
        let changed: Vec<_> = differing.map(Manifest::resource).collect();
        rollout::refuse_touched(state, &changed)?;
    }
    apply_all(state, manifests, discovered, context)
}

/// The same for a rollout that comes to its end, and so may touch what it stages.
pub(crate) fn apply_all(
    state: &State,
    manifests: &[Manifest],
    discovered: &BTreeMap<String, Result<Vec<ToolDefinition>, String>>,
    context: &Context,
) -> Result<Decision, Rejection> {
    let mut draft = Draft::new(state, context);
    for event in manifests.iter().filter_map(|manifest| applied(&draft.next, manifest, context)).collect::<Vec<_>>() {
        draft.add(event);
    }
    observe_all(&mut draft, manifests, discovered);
    check_room(&draft.next)?;
    let problems = problems_of_apply(state, &draft.next, manifests);
    if !problems.is_empty() {
        return Err(Rejection::Invalid(problems));
    }
    warn_of_misfits(&mut draft, manifests);
    draft.warnings.extend(leaver::warnings(&draft.next, manifests));
    let changes = manifests.iter().map(|manifest| change(state, &draft.next, manifest.resource())).collect();
    let Draft { events, warnings, .. } = draft;
    Ok(Decision { events, answer: Answer::Changes(changes), repeated: None, warnings })
}

/// What virtual servers of this apply, and others over servers of it, say of tools in vain.
fn warn_of_misfits(draft: &mut Draft<'_>, manifests: &[Manifest]) {
    let applied = |kind, name: &str| manifests.iter().any(|manifest| manifest.kind() == kind && manifest.name == name);
    let Draft { next, warnings, .. } = draft;
    let concerned = next.virtual_servers.iter().filter(|(name, known)| {
        let is_over = known.spec.servers.iter().any(|entry| applied(Kind::Server, &entry.server));
        is_over || applied(Kind::VirtualServer, name)
    });
    for (name, known) in concerned {
        let misfits = fitting::misfits(next, &known.spec).into_iter();
        warnings.extend(misfits.map(|misfit| format!("VirtualServer {name}: {misfit}")));
    }
}

/// Whether a resource is not as written.
pub(crate) fn differs(state: &State, manifest: &Manifest, context: &Context) -> bool {
    applied(state, manifest, context).is_some()
}

/// The event that makes a resource be as written; `None` where it is so already.
fn applied(state: &State, manifest: &Manifest, context: &Context) -> Option<Event> {
    let name = manifest.name.clone();
    match &manifest.spec {
        Spec::Server(spec) => (state.servers.get(&name).map(|known| &known.spec) != Some(spec))
            .then(|| context.event(ServerApplied { name, spec: spec.clone() })),
        Spec::VirtualServer(spec) => (state.virtual_servers.get(&name).map(|known| &known.spec) != Some(spec))
            .then(|| context.event(VirtualServerApplied { name, spec: spec.clone() })),
        Spec::User(spec) => {
            let held = !spec.active && provisioning::may_be_held(state, &name);
            (held || state.users.get(&name).map(|known| &known.spec) != Some(spec))
                .then(|| context.event(UserApplied { name, spec: spec.clone(), reason: String::new(), held }))
        }
        Spec::Agent(spec) => {
            let spec = leaver::resolved(state, &name, spec);
            let held = !spec.acts() && provisioning::agents::may_be_held(state, &name);
            (held || state.agents.get(&name).map(|known| &known.spec) != Some(&spec))
                .then(|| context.event(AgentApplied { name, spec, reason: String::new(), held, owner_left: false }))
        }
        Spec::Policy(spec) => (state.policies.get(&name).map(|known| &known.spec) != Some(spec))
            .then(|| context.event(PolicyApplied { name, spec: spec.clone() })),
        Spec::Client(spec) => (state.clients.get(&name).map(|known| &known.spec) != Some(spec))
            .then(|| context.event(ClientApplied { name, spec: spec.clone() })),
        Spec::IdentityProvider(spec) => (state.identity_providers.get(&name).map(|known| &known.spec) != Some(spec))
            .then(|| context.event(IdentityProviderApplied { name, spec: spec.clone() })),
        Spec::DecisionClient(spec) => (state.decision_clients.get(&name).map(|known| &known.spec) != Some(spec))
            .then(|| context.event(DecisionClientApplied { name, spec: spec.clone() })),
    }
}

/// Takes in what the servers of this apply show. Collisions under virtual servers of this same apply are for
/// `problems_of_apply` to refuse, so those are passed over here.
fn observe_all(
    draft: &mut Draft<'_>,
    manifests: &[Manifest],
    discovered: &BTreeMap<String, Result<Vec<ToolDefinition>, String>>,
) {
    let of_this_apply: BTreeSet<&str> = manifests
        .iter()
        .filter(|manifest| manifest.kind() == Kind::VirtualServer)
        .map(|manifest| manifest.name.as_str())
        .collect();
    for manifest in manifests.iter().filter(|manifest| manifest.kind() == Kind::Server) {
        let name = &manifest.name;
        match (draft.next.servers.get(name), discovered.get(name)) {
            (Some(server), Some(Ok(shown))) => {
                let sight = tool::observe(&draft.next, name, server, shown, &of_this_apply, draft.context);
                draft.warnings.extend(sight.warnings);
                for event in sight.events {
                    draft.add(event);
                }
            }
            (_, Some(Err(error))) => draft.warnings.push(format!(
                "Server {name} could not be looked at ({error}); its tools are approved when a data plane first sees them"
            )),
            (_, None) | (None, _) => {}
        }
    }
}

fn check_room(next: &State) -> Result<(), Rejection> {
    let rooms = [
        ("servers", next.servers.len(), server::SERVERS_MAX),
        ("virtual servers", next.virtual_servers.len(), virtual_server::VIRTUAL_SERVERS_MAX),
        ("users", next.users.len(), user::USERS_MAX),
        ("agents", next.agents.len(), agent::AGENTS_MAX),
        ("policies", next.policies.len(), policy::POLICIES_MAX),
        ("clients", next.clients.len(), client::CLIENTS_MAX),
        ("identity providers", next.identity_providers.len(), identity_provider::PROVIDERS_MAX),
        ("decision clients", next.decision_clients.len(), decision_client::DECISION_CLIENTS_MAX),
    ];
    match rooms.into_iter().find(|(_, number, max)| number > max) {
        Some((what, _, max)) => Err(Rejection::TooMany { what, max }),
        None => Ok(()),
    }
}

fn problems_of_apply(before: &State, next: &State, manifests: &[Manifest]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for manifest in manifests {
        match &manifest.spec {
            Spec::VirtualServer(_) => virtual_server_problems(next, manifest, &mut problems),
            Spec::Agent(spec) if is_retired(before, manifest) && spec.state != AgentState::Retired => {
                let message = "is retired, which is for ever; its successor needs a name of its own";
                problems.push(manifest.problem("spec.state", message.to_owned()));
            }
            Spec::Agent(spec) if !next.users.contains_key(&spec.owner) => {
                let message = missing(Kind::User, &spec.owner, next.users.keys());
                problems.push(manifest.problem("spec.owner", message));
            }
            Spec::Agent(spec) if spec.successor.as_ref().is_some_and(|name| !next.users.contains_key(name)) => {
                let successor = spec.successor.as_deref().unwrap_or_default();
                let message = missing(Kind::User, successor, next.users.keys());
                problems.push(manifest.problem("spec.successor", message));
            }
            Spec::User(_) | Spec::Agent(_) => problems.extend(provisioning::problem(before, manifest)),
            Spec::Server(spec) => problems.extend(spec.secrets().filter_map(|(key, name)| {
                let known = credential::is_set(next, name, credential::Audience::Servers);
                let message = format!("no secret \"{name}\" is set; seal it first: bailiwick secret set {name}");
                (!known).then(|| manifest.problem(key, message))
            })),
            Spec::Client(spec) => problems.extend(client_problems(next, manifest, spec)),
            Spec::IdentityProvider(spec) => problems.extend(provider_problems(next, manifest, spec)),
            Spec::Policy(_) | Spec::DecisionClient(_) => {}
        }
    }
    problems.extend(policy_problems(next, manifests).into_iter().chain(workload::problems(next, manifests)));
    problems.extend(decision_client::problems(next, manifests));
    problems.truncate(PROBLEMS_MAX);
    problems
}

fn is_retired(state: &State, manifest: &Manifest) -> bool {
    state.agents.get(&manifest.name).is_some_and(|known| known.spec.state == AgentState::Retired)
}

fn client_problems(next: &State, manifest: &Manifest, spec: &ClientSpec) -> Vec<Problem> {
    let agents = spec.agents().filter(|(_, agent)| !next.agents.contains_key(*agent));
    let agents = agents.map(|(key, agent)| manifest.problem(key, missing(Kind::Agent, agent, next.agents.keys())));
    let named = spec.headless.iter().flat_map(|headless| &headless.virtual_servers);
    let unknown = named.filter(|name| !next.virtual_servers.contains_key(*name)).map(|name| {
        let message = missing(Kind::VirtualServer, name, next.virtual_servers.keys());
        manifest.problem("spec.headless.virtual_servers", message)
    });
    agents.chain(unknown).collect()
}

fn provider_problems(next: &State, manifest: &Manifest, spec: &IdentityProviderSpec) -> Vec<Problem> {
    let named = spec.assertions.iter().flat_map(|assertions| &assertions.virtual_servers);
    let unknown = named.filter(|name| !next.virtual_servers.contains_key(*name)).map(|name| {
        let message = missing(Kind::VirtualServer, name, next.virtual_servers.keys());
        manifest.problem("spec.assertions.virtual_servers", message)
    });
    let others = identity_provider::ambiguous(next).remove(spec.issuer.as_str());
    let other = others.and_then(|names| names.into_iter().find(|name| *name != manifest.name));
    let taken = other
        .map(|other| manifest.problem("spec.issuer", format!("{} {other} has this issuer", Kind::IdentityProvider)));
    let is_unset = |name: &str| !credential::is_set(next, name, credential::Audience::IdentityProvider);
    let unset = spec.secrets().filter(|(_, name)| is_unset(name)).map(|(key, name)| {
        let command = format!("bailiwick secret set {name} --for identity-provider");
        let message = format!("no secret \"{name}\" is set for identity providers; seal it first: {command}");
        manifest.problem(key, message)
    });
    unknown.chain(taken).chain(unset).collect()
}

fn virtual_server_problems(next: &State, manifest: &Manifest, problems: &mut Vec<Problem>) {
    let Some(virtual_server) = next.virtual_servers.get(&manifest.name) else { return };
    let entries = &virtual_server.spec.servers;
    let key = |server: &str| {
        let index = entries.iter().position(|entry| entry.server == server).unwrap_or_default();
        format!("spec.servers[{index}].server")
    };
    for entry in entries.iter().filter(|entry| !next.servers.contains_key(&entry.server)) {
        let message = missing(Kind::Server, &entry.server, next.servers.keys());
        problems.push(manifest.problem(&key(&entry.server), message));
    }
    for collision in virtual_server::collisions(next, virtual_server) {
        let [_, (second, _)] = &collision.tools;
        problems.push(manifest.problem(&key(second), collision.to_string()));
    }
    let misfits = fitting::misfits(next, &virtual_server.spec);
    for misfit in misfits.into_iter().filter(|misfit| misfit.is_error) {
        problems.push(manifest.problem(&misfit.key, misfit.message));
    }
}

fn missing<'a>(kind: Kind, name: &str, known: impl Iterator<Item = &'a String>) -> String {
    format!("{kind} \"{name}\" does not exist{}", suggest::hint(name, known.map(String::as_str)))
}

/// Policies of this apply, and when servers are in it all others too: they must go on to validate.
fn policy_problems(next: &State, manifests: &[Manifest]) -> Vec<Problem> {
    let written: BTreeMap<&str, &Manifest> = manifests
        .iter()
        .filter(|manifest| manifest.kind() == Kind::Policy)
        .map(|manifest| (manifest.name.as_str(), manifest))
        .collect();
    let touches_servers = manifests.iter().any(|manifest| manifest.kind() == Kind::Server);
    if written.is_empty() && !touches_servers {
        return Vec::new();
    }
    let catalogue = policy::catalogue(next);
    let judge = policy::Judge::new(next, &catalogue);
    let checked = next.policies.iter().filter(|(name, _)| touches_servers || written.contains_key(name.as_str()));
    let of_one = |(name, known): (&String, &policy::Policy)| {
        let place = |fault: bailiwick_policy::PolicyProblem| match written.get(name.as_str()) {
            Some(manifest) => manifest.source.text_problem("spec.cedar", fault.line, fault.message),
            None => Problem { message: fault.to_string(), ..Problem::default() },
        };
        let ahead = written.get(name.as_str()).and_then(|manifest| manifest.read.as_deref());
        judge.faults(name, known, ahead).into_iter().map(place).collect::<Vec<_>>()
    };
    checked.flat_map(of_one).take(PROBLEMS_MAX).collect()
}

/// What an apply of these manifests did, seen when it is repeated.
pub(crate) fn unchanged(state: &State, manifests: &[Manifest]) -> Vec<ResourceChange> {
    manifests.iter().map(|manifest| change(state, state, manifest.resource())).collect()
}

fn change(state: &State, next: &State, resource: ResourceRef) -> ResourceChange {
    let before = show::without_status(state, &resource);
    let after = show::without_status(next, &resource);
    let action = match (&before, &after) {
        (None, Some(_)) => Action::Created,
        (Some(_), None) => Action::Deleted,
        (before, after) if same(before.as_ref(), after.as_ref()) => Action::Unchanged,
        _ => Action::Configured,
    };
    ResourceChange { resource, action, before, after }
}

fn same(before: Option<&Value>, after: Option<&Value>) -> bool {
    before == after
}

pub(crate) fn decide_delete(
    state: &State,
    resources: &[ResourceRef],
    context: &Context,
) -> Result<Decision, Rejection> {
    let resources: BTreeSet<&ResourceRef> = resources.iter().collect();
    rollout::refuse_touched(state, resources.iter().copied())?;
    let missing: Vec<_> =
        resources.iter().filter(|resource| show::without_status(state, resource).is_none()).copied().cloned().collect();
    if !missing.is_empty() {
        return Err(Rejection::NotFound(missing));
    }
    let mut draft = Draft::new(state, context);
    for resource in &resources {
        for event in consent::revoke_all_of(&draft.next, resource, context) {
            draft.add(event);
        }
        if let Some(event) = deleted(&draft.next, resource, context)? {
            draft.add(event);
        }
    }
    let problems = problems_of_delete(&draft.next, &resources);
    if !problems.is_empty() {
        return Err(Rejection::InUse(problems));
    }
    let changes = resources.into_iter().map(|resource| deletion(state, &draft.next, resource)).collect();
    let Draft { events, warnings, .. } = draft;
    Ok(Decision { events, answer: Answer::Changes(changes), repeated: None, warnings })
}

/// The event that makes a resource go; `None` where there is nothing left to do.
fn deleted(state: &State, resource: &ResourceRef, context: &Context) -> Result<Option<Event>, Rejection> {
    let name = resource.name.clone();
    let event = match resource.kind {
        Kind::Server => context.event(ServerDeleted { name }),
        Kind::VirtualServer => context.event(VirtualServerDeleted { name }),
        Kind::User => context.event(UserDeleted { name }),
        Kind::Agent => context.event(AgentDeleted { name }),
        Kind::Policy => context.event(PolicyDeleted { name }),
        Kind::Client => context.event(ClientDeleted { name }),
        Kind::IdentityProvider => context.event(IdentityProviderDeleted { name }),
        Kind::DecisionClient => context.event(DecisionClientDeleted { name }),
        Kind::Node => context.event(NodeDeleted { node: name }),
        Kind::Consent => {
            let is_revoked = state.consents.get(&name).is_some_and(|consent| consent.revoked.is_some());
            if is_revoked {
                return Ok(None);
            }
            consent::revocation(&name, "deleted", context)
        }
        Kind::Group => {
            let instead = "it exists while a User names it; take it out of spec.groups";
            return Err(Rejection::NotDeletable { resource: resource.clone(), instead });
        }
        Kind::Project => {
            let instead = "it exists while an Agent names it; change spec.project";
            return Err(Rejection::NotDeletable { resource: resource.clone(), instead });
        }
    };
    Ok(Some(event))
}

fn problems_of_delete(next: &State, resources: &BTreeSet<&ResourceRef>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refers = |kind: Kind, name: &str, target: ResourceRef| {
        let message = format!("{target} cannot be deleted: {kind} {name} refers to it");
        problems.push(Problem { message, ..Problem::default() });
    };
    for (name, virtual_server) in &next.virtual_servers {
        for entry in virtual_server.spec.servers.iter().filter(|entry| !next.servers.contains_key(&entry.server)) {
            refers(Kind::VirtualServer, name, ResourceRef::new(Kind::Server, &entry.server));
        }
    }
    for (name, agent) in next.agents.iter().filter(|(_, agent)| !next.users.contains_key(&agent.spec.owner)) {
        refers(Kind::Agent, name, ResourceRef::new(Kind::User, &agent.spec.owner));
    }
    for (name, agent) in &next.agents {
        for gone in agent.spec.successor.iter().filter(|successor| !next.users.contains_key(*successor)) {
            refers(Kind::Agent, name, ResourceRef::new(Kind::User, gone));
        }
    }
    let agents = next.clients.iter().flat_map(|(name, one)| one.spec.agents().map(move |(_, agent)| (name, agent)));
    for (name, agent) in agents.filter(|(_, agent)| !next.agents.contains_key(*agent)) {
        refers(Kind::Client, name, ResourceRef::new(Kind::Agent, agent));
    }
    for (name, client) in &next.clients {
        for gone in workload::gone(next, &client.spec) {
            refers(Kind::Client, name, gone);
        }
    }
    for (name, asking) in &next.decision_clients {
        for (_, gone) in decision_client::gone(next, &asking.spec) {
            refers(Kind::DecisionClient, name, gone);
        }
    }
    for (name, provider) in &next.identity_providers {
        let named = provider.spec.assertions.iter().flat_map(|assertions| &assertions.virtual_servers);
        for gone in named.filter(|named| !next.virtual_servers.contains_key(*named)) {
            refers(Kind::IdentityProvider, name, ResourceRef::new(Kind::VirtualServer, gone));
        }
    }
    let can_be_named_in_policies = |resource: &&ResourceRef| match resource.kind {
        Kind::Server | Kind::User | Kind::Agent => true,
        Kind::VirtualServer
        | Kind::Group
        | Kind::Project
        | Kind::Policy
        | Kind::Client
        | Kind::IdentityProvider
        | Kind::DecisionClient
        | Kind::Consent
        | Kind::Node => false,
    };
    if resources.iter().any(can_be_named_in_policies) {
        let catalogue = policy::catalogue(next);
        let judge = policy::Judge::new(next, &catalogue);
        for (name, known) in &next.policies {
            for fault in judge.faults(name, known, None) {
                let message = format!("Policy {name} refers to what should go: {}", fault.message);
                problems.push(Problem { message, ..Problem::default() });
            }
        }
    }
    problems.truncate(PROBLEMS_MAX);
    problems
}

/// A consent stays to be looked at, but it is gone as far as its holder is concerned.
fn deletion(state: &State, next: &State, resource: &ResourceRef) -> ResourceChange {
    let change = change(state, next, resource.clone());
    match resource.kind {
        Kind::Consent => ResourceChange { action: Action::Deleted, after: None, ..change },
        Kind::Server
        | Kind::VirtualServer
        | Kind::User
        | Kind::Group
        | Kind::Agent
        | Kind::Project
        | Kind::Policy
        | Kind::Client
        | Kind::IdentityProvider
        | Kind::DecisionClient
        | Kind::Node => change,
    }
}
