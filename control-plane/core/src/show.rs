//! Resources as people read them: manifests as JSON, with what is so in `status`.
//!
//! Called by the server for `get`, `describe` and `diff`, and by `apply` for what changes. Derived from the state
//! alone (and the time, for what has expired). A manifest shown here, `status` included, can be applied again.
//! Absent: tables and YAML (`cli`), what only the server knows (which nodes are connected).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    Kind, ResourceRef, State, agent,
    agent::Agent,
    consent,
    resource::API_VERSION,
    resource::AgentState,
    server::Server,
    signal,
    state::Changed,
    tool::{self, Tool},
    user,
    virtual_server::{self, VirtualServer, fitting},
};

/// Every resource of a kind with its status, in name order.
#[must_use]
pub fn all(state: &State, kind: Kind, now_seconds: u64) -> Vec<Value> {
    let related = Related::of(state, kind);
    let resources = names(state, kind).into_iter().map(|name| ResourceRef { kind, name });
    resources.filter_map(|resource| with_status(state, &resource, &related, now_seconds)).collect()
}

/// The names of all resources of a kind, in order.
#[must_use]
pub fn names(state: &State, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Server => state.servers.keys().cloned().collect(),
        Kind::VirtualServer => state.virtual_servers.keys().cloned().collect(),
        Kind::User => state.users.keys().cloned().collect(),
        Kind::Group => user::groups(state).into_keys().map(str::to_owned).collect(),
        Kind::Agent => state.agents.keys().cloned().collect(),
        Kind::Project => agent::projects(state).into_keys().map(str::to_owned).collect(),
        Kind::Policy => state.policies.keys().cloned().collect(),
        Kind::Client => state.clients.keys().cloned().collect(),
        Kind::IdentityProvider => state.identity_providers.keys().cloned().collect(),
        Kind::DecisionClient => state.decision_clients.keys().cloned().collect(),
        Kind::Consent => state.consents.keys().cloned().collect(),
        Kind::Node => state.nodes.keys().cloned().collect(),
    }
}

/// One resource with its status.
#[must_use]
pub fn one(state: &State, resource: &ResourceRef, now_seconds: u64) -> Option<Value> {
    with_status(state, resource, &Related::of(state, resource.kind), now_seconds)
}

/// One resource as it was written; of kinds that are not written, only its name.
#[must_use]
pub fn without_status(state: &State, resource: &ResourceRef) -> Option<Value> {
    let related = match resource.kind {
        Kind::Group | Kind::Project => Related::of(state, resource.kind),
        // What is written needs nobody else; an apply of many users asks for each of them.
        Kind::Server
        | Kind::VirtualServer
        | Kind::User
        | Kind::Agent
        | Kind::Policy
        | Kind::Client
        | Kind::IdentityProvider
        | Kind::DecisionClient
        | Kind::Consent
        | Kind::Node => Related::Nothing,
    };
    written(state, resource, &related)
}

/// What is found by going through all resources of another kind, once for a whole list.
enum Related<'a> {
    /// Members of groups, agents of projects, agents of users.
    ByName(BTreeMap<&'a str, Vec<&'a str>>),
    Nothing,
}

impl<'a> Related<'a> {
    fn of(state: &'a State, kind: Kind) -> Self {
        match kind {
            Kind::Group => Self::ByName(user::groups(state)),
            Kind::Project => Self::ByName(agent::projects(state)),
            Kind::User => Self::ByName(agent::owned(state)),
            Kind::Server
            | Kind::VirtualServer
            | Kind::Agent
            | Kind::Policy
            | Kind::Client
            | Kind::IdentityProvider
            | Kind::DecisionClient
            | Kind::Consent
            | Kind::Node => Self::Nothing,
        }
    }

    fn to(&self, name: &str) -> Option<&[&'a str]> {
        match self {
            Self::ByName(by_name) => by_name.get(name).map(Vec::as_slice),
            Self::Nothing => None,
        }
    }
}

fn with_status(state: &State, resource: &ResourceRef, related: &Related<'_>, now_seconds: u64) -> Option<Value> {
    let mut shown = written(state, resource, related)?;
    let status = status(state, resource, related, now_seconds)?;
    shown.as_object_mut()?.insert("status".into(), status);
    Some(shown)
}

fn written(state: &State, resource: &ResourceRef, related: &Related<'_>) -> Option<Value> {
    let name = resource.name.as_str();
    let spec = match resource.kind {
        Kind::Server => Some(to_json(&state.servers.get(name)?.spec)),
        Kind::VirtualServer => Some(to_json(&state.virtual_servers.get(name)?.spec)),
        Kind::User => Some(to_json(&state.users.get(name)?.spec)),
        Kind::Agent => Some(to_json(&state.agents.get(name)?.spec)),
        Kind::Policy => Some(to_json(&state.policies.get(name)?.spec)),
        Kind::Client => Some(to_json(&state.clients.get(name)?.spec)),
        Kind::IdentityProvider => Some(to_json(&state.identity_providers.get(name)?.spec)),
        Kind::DecisionClient => Some(to_json(&state.decision_clients.get(name)?.spec)),
        Kind::Group | Kind::Project => related.to(name).map(|_| None)?,
        Kind::Consent => state.consents.get(name).map(|_| None)?,
        Kind::Node => state.nodes.get(name).map(|_| None)?,
    };
    let mut shown = Map::new();
    shown.insert("apiVersion".into(), API_VERSION.into());
    shown.insert("kind".into(), resource.kind.as_str().into());
    shown.insert("metadata".into(), json!({"name": name}));
    if let Some(spec) = spec {
        shown.insert("spec".into(), spec);
    }
    Some(Value::Object(shown))
}

/// Specs are structs of strings, lists and maps with string keys, so they always have a JSON form.
fn to_json(spec: &impl Serialize) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

fn status(state: &State, resource: &ResourceRef, related: &Related<'_>, now_seconds: u64) -> Option<Value> {
    let name = resource.name.as_str();
    Some(match resource.kind {
        Kind::Server => server_status(state, name, state.servers.get(name)?),
        Kind::VirtualServer => {
            let VirtualServer { spec, changed } = state.virtual_servers.get(name)?;
            let approved = virtual_server::shown(state, spec).filter(|(_, _, tool)| is_approved(tool));
            let mut status = json!({"approved_tools": approved.count()});
            let misfits: Vec<_> = fitting::misfits(state, spec).iter().map(ToString::to_string).collect();
            if let Some(members) = status.as_object_mut().filter(|_| !misfits.is_empty()) {
                members.insert("misfits".into(), misfits.into());
            }
            changed_with(*changed, status)
        }
        Kind::User => {
            let agents = related.to(name).unwrap_or_default();
            changed_with(state.users.get(name)?.changed, json!({"agents": agents}))
        }
        Kind::Agent => agent_status(state, state.agents.get(name)?, now_seconds),
        Kind::Policy => {
            let changed = state.policies.get(name)?.changed;
            changed_with(changed, json!({"version": changed.revision.to_string()}))
        }
        Kind::Client => changed_with(state.clients.get(name)?.changed, json!({})),
        Kind::IdentityProvider => changed_with(state.identity_providers.get(name)?.changed, signal::shown(state, name)),
        Kind::DecisionClient => changed_with(state.decision_clients.get(name)?.changed, json!({})),
        Kind::Group => json!({"members": related.to(name)?}),
        Kind::Project => json!({"agents": related.to(name)?}),
        Kind::Consent => consent_status(state.consents.get(name)?, now_seconds),
        Kind::Node => {
            let node = state.nodes.get(name)?;
            let own =
                json!({"role": node.role.as_str(), "epoch": node.epoch.to_string(), "public_key": node.public_key});
            changed_with(node.changed, own)
        }
    })
}

fn agent_status(state: &State, agent: &Agent, now_seconds: u64) -> Value {
    let spec = &agent.spec;
    let phase = if spec.state == AgentState::Active && !spec.active { "deactivated" } else { spec.state.as_str() };
    let mut own = json!({ "state": phase });
    let mut conditions = Vec::new();
    if spec.is_review_due(now_seconds) {
        let message = "nobody has looked at it by spec.review_by; it gets no tokens until that is a later day";
        conditions.push(condition("review_due", message));
    }
    if !state.users.get(&spec.owner).is_some_and(|owner| owner.spec.active) {
        let message = "nobody answers for it: its owner is not active, and no active user was named as successor";
        conditions.push(condition("ownerless", message));
    }
    if let Some(fields) = own.as_object_mut().filter(|_| !conditions.is_empty()) {
        fields.insert("conditions".into(), conditions.into());
    }
    changed_with(agent.changed, own)
}

fn server_status(state: &State, name: &str, server: &Server) -> Value {
    let mut conditions = Vec::new();
    if server.tools.is_empty() {
        conditions.push(condition("not_seen", "no data plane has seen the server's tools yet"));
    }
    for tool in server.spec.tools.keys().filter(|tool| !server.tools.is_empty() && !server.tools.contains_key(*tool)) {
        conditions
            .push(condition("tool_not_shown", &format!("spec.tools names \"{tool}\", which the server does not show")));
    }
    let tools = server.tools.iter().map(|(tool_name, tool)| {
        if tool.pinned.is_none()
            && let Some(other) = tool::obstacle(state, name, server, tool_name)
        {
            conditions
                .push(condition("tool_collides", &format!("\"{tool_name}\" stays hidden: it collides with {other}")));
        }
        tool_status(server, tool_name, tool)
    });
    let tools = tools.collect::<Vec<_>>();
    changed_with(server.changed, json!({"tools": tools, "conditions": conditions}))
}

fn tool_status(server: &Server, name: &str, tool: &Tool) -> Value {
    let mut shown = Map::new();
    shown.insert("name".into(), name.into());
    let state = match (&tool.pinned, &tool.observed) {
        (Some(_), None) => "approved",
        (Some(_), Some(_)) => "quarantined",
        (None, _) => "hidden",
    };
    shown.insert("state".into(), state.into());
    if let Some(definition) = tool.pinned.as_ref().or(tool.observed.as_ref()) {
        shown.insert("tier".into(), server.tier(name, definition).as_str().into());
    }
    if let Some(cost) = server.spec.tools.get(name).and_then(|said| said.cost.as_ref()) {
        shown.insert("cost".into(), cost.as_str().into());
    }
    if let Some(pinned) = &tool.pinned {
        shown.insert("hash".into(), pinned.hash.as_str().into());
    }
    if let Some(observed) = &tool.observed {
        shown.insert("observed_hash".into(), observed.hash.as_str().into());
        // What waits for approval has to be readable before it is approved.
        shown.insert("observed".into(), serde_json::from_str(&observed.json).unwrap_or_default());
    }
    Value::Object(shown)
}

fn is_approved(tool: &Tool) -> bool {
    tool.pinned.is_some() && tool.observed.is_none()
}

fn condition(word: &str, message: &str) -> Value {
    json!({"type": word, "message": message})
}

fn consent_status(consent: &consent::Consent, now_seconds: u64) -> Value {
    let granted = &consent.granted;
    let phase = match (&consent.revoked, consent.is_live(now_seconds)) {
        (Some(_), _) => "revoked",
        (None, true) => "live",
        (None, false) => "expired",
    };
    let mut own = json!({
        "state": phase,
        "user": granted.user,
        "agent": granted.agent,
        "virtual_server": granted.virtual_server,
        "level": granted.level.as_str(),
        "expires_at": time(granted.expires_at.saturating_mul(1_000_000)),
        "reason": granted.reason,
        "client": granted.client,
        "granted_by": consent.granted_by,
    });
    if let Some(fields) = own.as_object_mut().filter(|_| !granted.provider.is_empty()) {
        fields.insert("identity_provider".into(), granted.provider.as_str().into());
    }
    if let Some(fields) = own.as_object_mut().filter(|_| !granted.tools.is_empty()) {
        fields.insert("tools".into(), granted.tools.iter().map(String::as_str).collect());
    }
    if let (Some(fields), Some(parent)) = (own.as_object_mut(), &granted.parent) {
        fields.insert("parent".into(), parent.as_str().into());
        fields.insert("earlier_agents".into(), granted.earlier_agents.iter().map(String::as_str).collect());
    }
    if let (Some(fields), Some(revoked)) = (own.as_object_mut(), &consent.revoked) {
        fields.insert("revoked_at".into(), time(revoked.changed.time).into());
        fields.insert("revoked_reason".into(), revoked.reason.as_str().into());
    }
    if let (Some(fields), Some(token)) = (own.as_object_mut(), &consent.token) {
        fields.insert("session".into(), token.session.as_str().into());
        fields.insert("jti".into(), token.jti.as_str().into());
    }
    changed_with(consent.changed, own)
}

fn changed_with(changed: Changed, mut own: Value) -> Value {
    if let Some(fields) = own.as_object_mut() {
        fields.insert("revision".into(), changed.revision.to_string().into());
        fields.insert("changed_at".into(), time(changed.time).into());
    }
    own
}

/// RFC 3339, UTC; of times beyond the year 9999, the number of microseconds.
#[must_use]
pub fn time(micros: u64) -> String {
    let timestamp = i64::try_from(micros).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    timestamp.map_or_else(|| micros.to_string(), |timestamp| timestamp.to_string())
}
