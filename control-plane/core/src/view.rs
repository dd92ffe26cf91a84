//! The view: what data planes need of the state, as the config stream's entries with stable bytes.
//!
//! The server calls [`evolve_all`] for each committed change and streams what it returns as a delta; [`entries`] is the
//! snapshot. Invariant: the changes applied to the entries before give the entries after, so the digest
//! (`bailiwick_proto::config_digest`) of both planes agrees. Keys: `server/…`, `tool/<server>/<tool>`,
//! `virtual_server/…`, `user/…`, `agent/…`, `policy/…`, `consent/…`, `token_key/…`, `decision_client/…`, `issuer/`, and
//! of what is rolled out in stages `rollout/<id>` and `rollout_change/<id>/<key>`, as far as it differs from what counts for all. Absent:
//! nodes, members, checkpoints and hidden tools, which no data plane decides with; framing and leases (server).

use std::collections::BTreeSet;

use bailiwick_proto::{
    config_digest::Entries,
    rollout::{CHANGE, ROLLOUT},
    v1::{self, resource::Resource},
};
use prost::Message;

use crate::{
    Kind, ResourceRef, State, consent, decision_client,
    event::{Change, Event},
    evolve,
    resource::{CommandSpec, OpenApiSpec, PolicySpec, ServerSpec},
    rollout::Rollout,
    server::Server,
};

/// Every entry of a state.
#[must_use]
pub fn entries(state: &State) -> Entries {
    keys(state).into_iter().filter_map(|key| entry(state, &key).map(|value| (key, value))).collect()
}

/// Applies the events of one committed change, in order, and says which entries are different afterwards.
pub fn evolve_all(state: &mut State, events: &[Event], revision: u64) -> Vec<v1::EntryChange> {
    let mut touched = BTreeSet::new();
    for event in events {
        touched.extend(keys_touched(state, event));
        evolve(state, event, revision);
    }
    touched.into_iter().map(|key| v1::EntryChange { value: entry(state, &key), key }).collect()
}

/// The value under a key: an encoded `v1::Resource`.
#[must_use]
pub fn entry(state: &State, key: &str) -> Option<Vec<u8>> {
    let (kind, name) = key.split_once('/')?;
    let resource = match kind {
        "server" => Resource::Server(server(name, &state.servers.get(name)?.spec)),
        "tool" => {
            let (server, tool_name) = name.split_once('/')?;
            let known = state.servers.get(server)?;
            Resource::Tool(tool(server, known, &known.spec, tool_name)?)
        }
        "virtual_server" => Resource::VirtualServer(state.virtual_servers.get(name)?.spec.view(name)),
        "user" => {
            let spec = &state.users.get(name)?.spec;
            let groups = spec.groups.iter().cloned().collect();
            Resource::User(v1::User { name: name.into(), groups, active: spec.active })
        }
        "agent" => Resource::Agent(agent(state, name)?),
        "policy" => {
            let known = state.policies.get(name)?;
            Resource::Policy(policy(name, &known.spec, known.changed.revision))
        }
        "consent" => Resource::Consent(consent(state, name)?),
        "token_key" => {
            let key = &state.token_keys.get(name)?.key;
            Resource::TokenKey(v1::TokenKey { kid: key.kid.clone(), alg: key.alg.clone(), jwk: key.jwk.clone() })
        }
        "decision_client" => Resource::DecisionClient(decision_client::view(state, name)?),
        "issuer" => {
            let issuer = state.issuer.as_ref()?;
            Resource::Issuer(v1::Issuer { issuer: issuer.issuer.clone(), mcp_url: issuer.mcp_url.clone() })
        }
        ROLLOUT => {
            let rollout = under_way(state, name)?;
            Resource::Rollout(v1::Rollout { id: name.into(), below: rollout.below, step: rollout.step })
        }
        CHANGE => {
            let (id, key) = name.split_once('/')?;
            let value = encoded(candidate(state, under_way(state, id)?, key)?);
            if entry(state, key).as_ref() == Some(&value) {
                return None;
            }
            Resource::RolloutChange(v1::RolloutChange { rollout: id.into(), key: key.into(), value })
        }
        _ => return None,
    };
    Some(encoded(resource))
}

fn encoded(resource: Resource) -> Vec<u8> {
    v1::Resource { resource: Some(resource) }.encode_to_vec()
}

fn under_way<'a>(state: &'a State, id: &str) -> Option<&'a Rollout> {
    state.rollouts.under_way.as_ref().filter(|rollout| rollout.id.to_string() == id)
}

/// What stands under a key for those in the share of a rollout, where that is staged.
fn candidate(state: &State, rollout: &Rollout, key: &str) -> Option<Resource> {
    let (kind, name) = key.split_once('/')?;
    Some(match kind {
        "server" => Resource::Server(server(name, rollout.server(name)?)),
        "tool" => {
            let (server, tool_name) = name.split_once('/')?;
            Resource::Tool(tool(server, state.servers.get(server)?, rollout.server(server)?, tool_name)?)
        }
        "virtual_server" => Resource::VirtualServer(rollout.virtual_server(name)?.view(name)),
        "policy" => Resource::Policy(policy(name, rollout.policy(name)?, rollout.began.revision)),
        _ => return None,
    })
}

fn policy(name: &str, spec: &PolicySpec, version: u64) -> v1::Policy {
    v1::Policy { name: name.into(), cedar: spec.cedar.clone(), version }
}

/// A server as data planes see it; also what one is asked to look at before the server is applied.
#[must_use]
pub fn server(name: &str, spec: &ServerSpec) -> v1::Server {
    let mut server = v1::Server {
        name: name.into(),
        url: spec.endpoint.url.clone(),
        timeout_ms: spec.timeout_ms(),
        command: spec.endpoint.command.as_ref().map(CommandSpec::view),
        transport: spec.endpoint.transport.view().to_owned(),
        openapi: spec.endpoint.openapi.as_ref().map(OpenApiSpec::view),
        ..v1::Server::default()
    };
    spec.view_transport(&mut server);
    server
}

fn tool(server_name: &str, server: &Server, spec: &ServerSpec, name: &str) -> Option<v1::Tool> {
    let tool = server.tools.get(name)?;
    let pinned = tool.pinned.as_ref()?;
    let said = spec.tools.get(name);
    Some(v1::Tool {
        server: server_name.into(),
        name: name.into(),
        json: pinned.json.clone(),
        hash: pinned.hash.clone(),
        tier: spec.tier(name, pinned).as_str().into(),
        cost: said.and_then(|said| said.cost.clone()).unwrap_or_default(),
        quarantined: tool.observed.is_some(),
    })
}

fn agent(state: &State, name: &str) -> Option<v1::Agent> {
    let spec = &state.agents.get(name)?.spec;
    Some(v1::Agent {
        name: name.into(),
        owner: spec.owner.clone(),
        project: spec.project.clone(),
        ceiling: spec.ceiling.as_str().into(),
        active: spec.acts(),
    })
}

fn consent(state: &State, id: &str) -> Option<v1::Consent> {
    let consent = state.consents.get(id)?;
    let granted = &consent.granted;
    let level = granted.level.as_str().to_owned();
    let (level, listed_level) = if granted.tools.is_empty() { (level, String::new()) } else { (String::new(), level) };
    Some(v1::Consent {
        id: id.into(),
        user: granted.user.clone(),
        agent: granted.agent.clone(),
        virtual_server: granted.virtual_server.clone(),
        level,
        expires_at: i64::try_from(granted.expires_at).unwrap_or(i64::MAX),
        revoked: consent.revoked.is_some(),
        client: granted.client.clone(),
        tools: granted.tools.iter().cloned().collect(),
        listed_level,
        earlier_agents: granted.earlier_agents.clone(),
    })
}

fn keys(state: &State) -> Vec<String> {
    let mut keys = Vec::with_capacity(state.users.len() + state.agents.len() + state.consents.len());
    for (name, server) in &state.servers {
        keys.push(format!("server/{name}"));
        keys.extend(server.tools.keys().map(|tool| tool_key(name, tool)));
    }
    keys.extend(state.virtual_servers.keys().map(|name| format!("virtual_server/{name}")));
    keys.extend(state.users.keys().map(|name| format!("user/{name}")));
    keys.extend(state.agents.keys().map(|name| format!("agent/{name}")));
    keys.extend(state.policies.keys().map(|name| format!("policy/{name}")));
    keys.extend(state.consents.keys().map(|id| consent_key(id)));
    keys.extend(state.token_keys.keys().map(|kid| format!("token_key/{kid}")));
    keys.extend(state.decision_clients.keys().map(|name| format!("decision_client/{name}")));
    keys.extend(state.issuer.as_ref().map(|_| ISSUER_KEY.to_owned()));
    keys.extend(state.rollouts.under_way.iter().flat_map(|rollout| rollout_keys(state, rollout)));
    keys
}

/// The keys of a whole rollout, whether there is an entry under each or not.
fn rollout_keys(state: &State, rollout: &Rollout) -> Vec<String> {
    let changes = rollout.resources().into_iter().flat_map(|resource| staged_keys(state, &resource));
    let changes = changes.map(|key| change_key(rollout, &key));
    changes.chain([format!("{ROLLOUT}/{}", rollout.id)]).collect()
}

/// The keys under which a resource that can be staged stands.
fn staged_keys(state: &State, resource: &ResourceRef) -> Vec<String> {
    let name = &resource.name;
    match resource.kind {
        Kind::Server => with_tools(state, name),
        Kind::VirtualServer => vec![format!("virtual_server/{name}")],
        Kind::Policy => vec![format!("policy/{name}")],
        Kind::User
        | Kind::Group
        | Kind::Agent
        | Kind::Project
        | Kind::Client
        | Kind::IdentityProvider
        | Kind::DecisionClient
        | Kind::Consent
        | Kind::Node => Vec::new(),
    }
}

/// A server's manifest decides its tools' tiers and costs; with the server its tools go.
fn with_tools(state: &State, name: &str) -> Vec<String> {
    let tools = state.servers.get(name).into_iter().flat_map(|server| server.tools.keys());
    tools.map(|tool| tool_key(name, tool)).chain([format!("server/{name}")]).collect()
}

fn change_key(rollout: &Rollout, key: &str) -> String {
    format!("{CHANGE}/{}/{key}", rollout.id)
}

const ISSUER_KEY: &str = "issuer/";

fn tool_key(server: &str, tool: &str) -> String {
    format!("tool/{server}/{tool}")
}

fn consent_key(id: &str) -> String {
    format!("consent/{id}")
}

/// The keys of entries that an event may change, seen before it is applied.
fn keys_touched(before: &State, event: &Event) -> Vec<String> {
    let mut keys = keys_of_all(before, event);
    // What is staged is seen on top of what counts for all.
    if let Some(rollout) = &before.rollouts.under_way {
        let staged: Vec<_> = keys.iter().filter(|key| may_be_staged(key)).map(|key| change_key(rollout, key)).collect();
        keys.extend(staged);
    }
    keys
}

fn may_be_staged(key: &str) -> bool {
    key.split_once('/').is_some_and(|(kind, _)| ["server", "tool", "virtual_server", "policy"].contains(&kind))
}

fn members_of(before: &State, group: &str) -> Vec<String> {
    before.provisioned.members_of(group).map(|name| format!("user/{name}")).collect()
}

fn keys_of_all(before: &State, event: &Event) -> Vec<String> {
    match &event.change {
        Change::ServerApplied(change) => with_tools(before, &change.name),
        Change::ServerDeleted(change) => with_tools(before, &change.name),
        Change::ToolsPinned(change) => change.tools.iter().map(|tool| tool_key(&change.server, &tool.name)).collect(),
        Change::ToolDriftObserved(change) => vec![tool_key(&change.server, &change.tool)],
        Change::ToolApproved(change) => vec![tool_key(&change.server, &change.tool)],
        Change::VirtualServerApplied(change) => vec![format!("virtual_server/{}", change.name)],
        Change::VirtualServerDeleted(change) => vec![format!("virtual_server/{}", change.name)],
        Change::UserApplied(change) => vec![format!("user/{}", change.name)],
        Change::UserDeleted(change) => vec![format!("user/{}", change.name)],
        Change::PersonProvisioned(change) => vec![format!("user/{}", change.name)],
        Change::PersonRenamed(change) => vec![format!("user/{}", change.from), format!("user/{}", change.to)],
        Change::PersonDeprovisioned(change) => vec![format!("user/{}", change.name)],
        Change::GroupMembersChanged(change) => {
            let all = before.provisioned.members_of(&change.group).filter(|_| change.cleared);
            all.chain(&change.added).chain(&change.removed).map(|name| format!("user/{name}")).collect()
        }
        Change::GroupRenamed(change) => members_of(before, &change.from),
        Change::GroupDeprovisioned(change) => members_of(before, &change.name),
        Change::AgentApplied(change) => vec![format!("agent/{}", change.name)],
        Change::AgentDeleted(change) => vec![format!("agent/{}", change.name)],
        Change::AgentProvisioned(change) => vec![format!("agent/{}", change.name)],
        Change::AgentDeprovisioned(change) => vec![format!("agent/{}", change.name)],
        Change::PolicyApplied(change) => vec![format!("policy/{}", change.name)],
        Change::PolicyDeleted(change) => vec![format!("policy/{}", change.name)],
        Change::ConsentGranted(change) => {
            let forgotten = consent::forgettable(before, event.time / 1_000_000);
            forgotten.iter().map(|(_, id)| consent_key(id)).chain([consent_key(&change.consent)]).collect()
        }
        Change::ConsentRevoked(change) => vec![consent_key(&change.consent)],
        Change::TokenKeyRegistered(change) => vec![format!("token_key/{}", change.kid)],
        Change::TokenKeyRetired(change) => vec![format!("token_key/{}", change.kid)],
        Change::DecisionClientApplied(change) => vec![format!("decision_client/{}", change.name)],
        Change::DecisionClientDeleted(change) => vec![format!("decision_client/{}", change.name)],
        Change::IssuerSet(_) => vec![ISSUER_KEY.to_owned()],
        Change::RolloutBegun(change) => {
            let replaced = before.rollouts.under_way.iter().flat_map(|rollout| rollout_keys(before, rollout));
            replaced.chain([format!("{ROLLOUT}/{}", change.rollout)]).collect()
        }
        Change::RolloutStaged(change) => before.rollouts.under_way.as_ref().map_or_else(Vec::new, |rollout| {
            let resource = ResourceRef::new(change.staged.kind(), &change.name);
            staged_keys(before, &resource).iter().map(|key| change_key(rollout, key)).collect()
        }),
        Change::RolloutStepped(change) => vec![format!("{ROLLOUT}/{}", change.rollout)],
        Change::RolloutEnded(_) => {
            before.rollouts.under_way.iter().flat_map(|rollout| rollout_keys(before, rollout)).collect()
        }
        Change::TokenIssued(_)
        | Change::NodeEpochOpened(_)
        | Change::NodeDeleted(_)
        | Change::CheckpointCommitted(_)
        | Change::ClusterFounded(_)
        | Change::JoinTokenCreated(_)
        | Change::MemberEnrolled(_)
        | Change::MemberMoved(_)
        | Change::MemberRemoved(_)
        | Change::SecretSealed(_)
        | Change::MasterKeyRotated(_)
        | Change::RevocationReceipted(_)
        | Change::NodeEpochReserved(_)
        | Change::NodeReserveBegun(_)
        | Change::GroupProvisioned(_)
        | Change::ScimTokenCreated(_)
        | Change::ScimTokenRevoked(_)
        // Who may get tokens is no matter of data planes.
        | Change::ClientApplied(_)
        | Change::ClientDeleted(_)
        | Change::IdentityProviderApplied(_)
        | Change::IdentityProviderDeleted(_)
        | Change::AssertionUsed(_)
        | Change::PersonSignedIn(_)
        | Change::SignalReceived(_)
        | Change::SessionsEnded(_)
        | Change::ConsentDeclined(_)
        | Change::CodeIssued(_)
        | Change::CodeRedeemed(_)
        | Change::TokenRefreshed(_)
        // Data planes ask only whose signature verifies.
        | Change::TokenKeyRotated(_)
        | Change::AuthorizationKeyRotated(_)
        | Change::AuthorizationKeyRetired(_)
        | Change::BindingKeyRotated(_)
        | Change::BindingKeyRetired(_)
        | Change::ContextKeyRotated(_)
        | Change::ContextKeyRetired(_)
        | Change::GrantBound(_)
        | Change::RequestRefused(_)
        | Change::TokenExchanged(_)
        // What they are travels beside the entries.
        | Change::CredentialSet(_)
        | Change::CredentialDeleted(_) => Vec::new(),
    }
}
