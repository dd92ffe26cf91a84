//! Agents as directories write and see them, by the draft that the operator named.
//!
//! Called by `service` and `listing`. Invariants: what is shown active is what counts here, not what the directory
//! said; an agent has one owner; it comes into projects alone that the configuration lists; where nothing is said of
//! owner, successor or project of an agent that there is, they stay. Absent: who may own an agent, and what its name
//! may be (`core::provisioning::agents`).

use bailiwick_control_plane_core::{
    State,
    provisioning::{
        agents::{ProvisionedAgent, version_of_agent},
        wish::{AgentWritten, Operation, SuccessorWritten, Whom},
    },
};
use serde_json::{Map, Value, json};

use super::{
    budget::Budget,
    document,
    fault::Fault,
    patch,
    resource::{location, meta},
    schema::{AGENT_EXTENSION, Type},
    service::text,
};
use crate::config::{Draft, ScimAgents};

/// The attribute that is an agent's name.
pub(super) const fn name_of(draft: Draft) -> &'static str {
    match draft {
        Draft::Resource => "agentUserName",
        Draft::Extension => "name",
    }
}

/// An agent.
pub(super) fn shown(
    state: &State,
    draft: Draft,
    name: &str,
    known: &ProvisionedAgent,
    base: &str,
) -> Option<Map<String, Value>> {
    let (agent, of) = (state.agents.get(name)?, Type::Agent(draft));
    let spec = &agent.spec;
    let mut shown = written(draft, name, known, spec.acts());
    shown.insert("owners".to_owned(), json!([user(state, &spec.owner, base)]));
    let mut extension = json!({"project": spec.project, "ceiling": spec.ceiling.as_str()});
    if let (Some(successor), Some(extension)) = (&spec.successor, extension.as_object_mut()) {
        extension.insert("successor".to_owned(), user(state, successor, base));
    }
    shown.insert(AGENT_EXTENSION.to_owned(), extension);
    shown.insert("schemas".to_owned(), document::schemas(&shown, of).into());
    shown.insert("id".to_owned(), known.id.clone().into());
    let version = version_of_agent(state, name)?;
    let changed = agent.changed.time.max(known.changed.time);
    shown.insert("meta".to_owned(), meta(base, of, &known.id, known.created.time, changed, version));
    Some(shown)
}

/// A user by the id that a directory's person has, or by name.
fn user(state: &State, name: &str, base: &str) -> Value {
    match state.provisioned.people.get(name) {
        Some(person) => json!({"value": person.id, "$ref": location(base, Type::User, &person.id)}),
        None => json!({"value": name}),
    }
}

/// What was written of an agent, but for what the agent itself says.
fn written(draft: Draft, name: &str, known: &ProvisionedAgent, active: bool) -> Map<String, Value> {
    let mut document = match serde_json::from_str(&known.profile) {
        Ok(Value::Object(document)) => document,
        Ok(_) | Err(_) => Map::new(),
    };
    document.insert(name_of(draft).to_owned(), name.into());
    document.insert("active".to_owned(), active.into());
    if !known.external_id.is_empty() {
        document.insert("externalId".to_owned(), known.external_id.clone().into());
    }
    document
}

/// What a directory says of an agent, where it does.
struct Said {
    name: String,
    external_id: String,
    owner: Option<String>,
    successor: Option<Option<String>>,
    project: Option<String>,
    active: Option<bool>,
    profile: String,
}

fn said(mut read: Map<String, Value>, draft: Draft) -> Result<Said, Fault> {
    let name = text(&read, name_of(draft)).ok_or_else(|| Fault::value(format!("{} is missing", name_of(draft))))?;
    let external_id = text(&read, "externalId").unwrap_or_default();
    let active = read.get("active").and_then(Value::as_bool);
    let owner = owner(read.get("owners"))?;
    let extension = match read.remove(AGENT_EXTENSION) {
        Some(Value::Object(extension)) => Some(extension),
        Some(_) | None => None,
    };
    let project = extension.as_ref().and_then(|extension| text(extension, "project"));
    let successor = match extension.as_ref().map(|extension| extension.get("successor")) {
        None => None,
        Some(None) => Some(None),
        Some(Some(successor)) => Some(Some(named(successor, "a successor")?)),
    };
    [name_of(draft), "externalId", "active", "owners"].iter().for_each(|known| drop(read.remove(*known)));
    Ok(Said { name, external_id, owner, successor, project, active, profile: Value::Object(read).to_string() })
}

fn owner(owners: Option<&Value>) -> Result<Option<String>, Fault> {
    match owners.and_then(Value::as_array).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([owner]) => named(owner, "an owner").map(Some),
        Some(_) => Err(Fault::value("an agent has one owner here")),
    }
}

fn named(user: &Value, what: &str) -> Result<String, Fault> {
    let value = user.as_object().and_then(|parts| text(parts, "value"));
    value.ok_or_else(|| Fault::value(format!("{what} needs the id of a user as its value")))
}

/// What makes a new agent.
pub(super) fn created(
    draft: Draft,
    id: String,
    read: Map<String, Value>,
    rules: &ScimAgents,
) -> Result<Operation, Fault> {
    let Said { name, external_id, owner, successor, project, active, profile } = said(read, draft)?;
    let owner = match owner {
        Some(owner) => Whom::Said(owner),
        None if !rules.owner.is_empty() => Whom::Name(rules.owner.clone()),
        None => return Err(Fault::value("owners is missing: a user answers for each agent")),
    };
    let project = match project {
        Some(project) => allowed(project, rules)?,
        None => rules.projects.first().cloned().ok_or_else(|| Fault::value("project is missing"))?,
    };
    let agent = AgentWritten {
        name,
        external_id,
        owner: Some(owner),
        successor: successor_of(successor),
        project: Some(project),
        active: active.unwrap_or(true),
        profile,
    };
    Ok(Operation::CreateAgent { id, agent })
}

/// What makes an agent be as written.
pub(super) fn replaced(
    state: &State,
    draft: Draft,
    id: &str,
    read: Map<String, Value>,
    version: Option<u64>,
    rules: &ScimAgents,
) -> Result<Operation, Fault> {
    let (name, known) = state.provisioned.agent(id).ok_or_else(Fault::missing)?;
    let said = said(read, draft)?;
    // It becomes active by nobody's silence: then it holds for this version alone.
    let version = if said.active.is_some() { version } else { version_of_agent(state, name) };
    let agent = changed(state, name, known, said, rules)?;
    Ok(Operation::ReplaceAgent { id: id.to_owned(), version, agent })
}

/// What makes an agent be otherwise. All of it is written, so it holds for this version alone.
pub(super) fn patched(
    state: &State,
    draft: Draft,
    id: &str,
    operations: Vec<patch::Operation>,
    rules: &ScimAgents,
    budget: &mut Budget,
) -> Result<Operation, Fault> {
    let (name, known) = state.provisioned.agent(id).ok_or_else(Fault::missing)?;
    let spec = &state.agents.get(name).ok_or_else(Fault::missing)?.spec;
    let mut document = written(draft, name, known, known.active);
    document.insert("owners".to_owned(), json!([user(state, &spec.owner, "")]));
    let mut extension = Map::from_iter([("project".to_owned(), Value::from(spec.project.clone()))]);
    extension.extend(spec.successor.iter().map(|name| ("successor".to_owned(), user(state, name, ""))));
    document.insert(AGENT_EXTENSION.to_owned(), Value::Object(extension));
    let of = Type::Agent(draft);
    patch::apply(&mut document, operations, of, budget)?;
    let mut said = said(document::read(&document, of)?, draft)?;
    if said.owner.is_none() {
        return Err(Fault::mutability("an agent has an owner: name another instead"));
    }
    if said.project.is_none() {
        return Err(Fault::mutability("an agent has a project: name another instead"));
    }
    said.successor.get_or_insert(None);
    let agent = changed(state, name, known, said, rules)?;
    Ok(Operation::ReplaceAgent { id: id.to_owned(), version: version_of_agent(state, name), agent })
}

/// An agent that there is, as written.
fn changed(
    state: &State,
    own: &str,
    known: &ProvisionedAgent,
    said: Said,
    rules: &ScimAgents,
) -> Result<AgentWritten, Fault> {
    let Said { name, external_id, owner, successor, project, active, profile } = said;
    if name != own {
        return Err(Fault::mutability("an agent keeps its name; another name is another agent"));
    }
    // Where an administrator put it, it may stay.
    let stays = |project: &String| state.agents.get(own).is_some_and(|agent| agent.spec.project == *project);
    let project = project.filter(|project| !stays(project)).map(|project| allowed(project, rules)).transpose()?;
    let active = active.unwrap_or(known.active);
    let (owner, successor) = (owner.map(Whom::Said), successor_of(successor));
    Ok(AgentWritten { name, external_id, owner, successor, project, active, profile })
}

fn allowed(project: String, rules: &ScimAgents) -> Result<String, Fault> {
    let message = "directories may not put agents into this project; the operator lists those they may";
    if rules.projects.contains(&project) { Ok(project) } else { Err(Fault::value(message)) }
}

fn successor_of(said: Option<Option<String>>) -> SuccessorWritten {
    match said {
        None => SuccessorWritten::AsItIs,
        Some(None) => SuccessorWritten::Nobody,
        Some(Some(successor)) => SuccessorWritten::User(Whom::Said(successor)),
    }
}

#[cfg(test)]
mod tests;
