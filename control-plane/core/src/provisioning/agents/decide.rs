//! Deciding what directories ask about agents.
//!
//! Called by `provisioning::decide`, with a draft that has all operations before this one. Invariants: a directory
//! makes agents, and takes over none; an agent keeps its name; whoever comes to own one is an active user, for whom it
//! does not act without them; a deletion is never refused, whatever refers to the agent. Absent: what a project may be
//! called here beyond its form (server, by its configuration).

use std::collections::BTreeSet;

use bailiwick_proto::names;

use super::{
    super::{
        PROFILE_BYTES_MAX,
        decide::{check_external_id, check_id, clip},
        wish::{AgentWritten, Fault, SuccessorWritten, Whom},
    },
    AgentDeprovisioned, AgentProvisioned, ProvisionedAgent, version_of_agent,
};
use crate::{
    State, agent,
    command::Context,
    consent,
    event::{Change, Event},
    handed_on::Ending,
    resource::AgentSpec,
    revocation::REVOKED_AT_ONCE_MAX,
};

const WHY_DELETED: &str = "the agent's directory deleted it";

pub(in crate::provisioning) fn create(state: &State, id: &str, written: AgentWritten) -> Result<Vec<Change>, Fault> {
    check_id(state, id)?;
    check(&written)?;
    let name = &written.name;
    if state.agents.contains_key(name) {
        // Also one that is retired: another must not come by what refers to it.
        return Err(Fault::Taken(format!("there is an agent {name} already, or there was")));
    }
    // The other half is for administrators, whatever directories make and retire.
    let max = agent::AGENTS_MAX / 2;
    if state.agents.len() >= max {
        return Err(Fault::Full { what: "agents are kept".to_owned(), max });
    }
    let owner = written.owner.as_ref().ok_or_else(|| Fault::Value("an agent needs an owner".to_owned()))?;
    let owner = active(state, owner, "owner")?;
    let successor = match &written.successor {
        SuccessorWritten::AsItIs | SuccessorWritten::Nobody => None,
        SuccessorWritten::User(successor) => Some(active(state, successor, "successor")?),
    };
    let project = written.project.clone();
    let project = project.ok_or_else(|| Fault::Value("an agent needs a project".to_owned()))?;
    Ok(vec![provisioned(id, written, owner, successor, project)?.into()])
}

pub(in crate::provisioning) fn replace(
    state: &State,
    id: &str,
    version: Option<u64>,
    written: AgentWritten,
) -> Result<Vec<Change>, Fault> {
    let (name, known, spec) = agent(state, id, version)?;
    check(&written)?;
    if written.name != *name {
        return Err(Fault::Value(format!("agent {name} keeps its name; another name is another agent")));
    }
    let owner = match &written.owner {
        Some(owner) if user(state, owner, "owner")? != spec.owner => active(state, owner, "owner")?,
        Some(_) | None => spec.owner.clone(),
    };
    let successor = match &written.successor {
        SuccessorWritten::AsItIs => spec.successor.clone(),
        SuccessorWritten::Nobody => None,
        SuccessorWritten::User(successor) => Some(match user(state, successor, "successor")? {
            successor if spec.successor.as_ref() == Some(&successor) => successor,
            _ => active(state, successor, "successor")?,
        }),
    };
    let is_passed_on = owner != spec.owner || successor.is_some() && successor != spec.successor;
    if is_passed_on && super::acts_without_owner(state, name) {
        let message = format!("{name} acts for its owner without them there: an administrator says who that is");
        return Err(Fault::Value(message));
    }
    let project = written.project.clone().unwrap_or_else(|| spec.project.clone());
    let is_same = (known.active, &known.external_id, &known.profile)
        == (written.active, &written.external_id, &written.profile)
        && (&owner, &successor, &project) == (&spec.owner, &spec.successor, &spec.project);
    let event = provisioned(id, written, owner, successor, project)?;
    Ok(if is_same { Vec::new() } else { vec![event.into()] })
}

/// The agent is retired.
pub(in crate::provisioning) fn delete(state: &State, id: &str, version: Option<u64>) -> Result<Vec<Change>, Fault> {
    let (name, ..) = agent(state, id, version)?;
    Ok(vec![AgentDeprovisioned { name: name.clone(), id: id.to_owned() }.into()])
}

/// The agent that is retired by this.
pub(in crate::provisioning) fn deleted(change: &Change) -> Option<String> {
    if let Change::AgentDeprovisioned(gone) = change { Some(gone.name.clone()) } else { None }
}

/// Ends what these agents were allowed, of which one change holds so much; the rest is of no use to a retired agent.
pub(in crate::provisioning) fn end_consents(state: &State, agents: &BTreeSet<String>, context: &Context) -> Vec<Event> {
    let (mut events, mut ending) = (Vec::new(), Ending::default());
    if agents.is_empty() {
        return events;
    }
    let now = context.now_seconds();
    let standing = state.consents.iter().filter(|(_, one)| agents.contains(&one.granted.agent) && one.is_live(now));
    for (id, _) in standing {
        if !ending.take_in(state, id, REVOKED_AT_ONCE_MAX, context) {
            break;
        }
        events.push(consent::revocation(id, WHY_DELETED, context));
    }
    events
}

fn agent<'a>(
    state: &'a State,
    id: &str,
    version: Option<u64>,
) -> Result<(&'a String, &'a ProvisionedAgent, &'a AgentSpec), Fault> {
    let (name, known) = state.provisioned.agent(id).ok_or(Fault::Unknown)?;
    if version.is_some() && version != version_of_agent(state, name) {
        return Err(Fault::Version);
    }
    Ok((name, known, &state.agents.get(name).ok_or(Fault::Unknown)?.spec))
}

fn check(written: &AgentWritten) -> Result<(), Fault> {
    if !names::is_resource_name(&written.name) {
        let rule = "the name of an agent must be 1 to 63 lower-case letters, digits and inner hyphens, dots or \
                    underscores";
        return Err(Fault::Value(rule.to_owned()));
    }
    check_external_id(&written.external_id)?;
    if written.project.as_ref().is_some_and(|project| !names::is_resource_name(project)) {
        return Err(Fault::Value("the name of the project cannot be that".to_owned()));
    }
    if written.profile.len() > PROFILE_BYTES_MAX {
        let what = "bytes of attributes are kept of one agent".to_owned();
        return Err(Fault::Full { what, max: PROFILE_BYTES_MAX });
    }
    Ok(())
}

/// The name of a user.
fn user(state: &State, whom: &Whom, what: &str) -> Result<String, Fault> {
    let user = |name: &String| state.users.get_key_value(name).map(|(name, _)| name);
    let (said, name) = match whom {
        Whom::Said(said) => {
            let person = state.provisioned.person(said).map(|(name, _)| name);
            (said, person.or_else(|| user(said).filter(|name| !state.provisioned.people.contains_key(*name))))
        }
        Whom::Name(name) => (name, user(name)),
    };
    name.cloned().ok_or_else(|| Fault::Value(format!("there is no user {} for the {what}", clip(said))))
}

/// The name of a user, who is active.
fn active(state: &State, whom: &Whom, what: &str) -> Result<String, Fault> {
    let name = user(state, whom, what)?;
    if state.users.get(&name).is_some_and(|user| user.spec.active) {
        return Ok(name);
    }
    Err(Fault::Value(format!("{} is not active, and cannot be the {what} of an agent", clip(&name))))
}

fn provisioned(
    id: &str,
    written: AgentWritten,
    owner: String,
    successor: Option<String>,
    project: String,
) -> Result<AgentProvisioned, Fault> {
    if successor.as_ref() == Some(&owner) {
        return Err(Fault::Value("the successor is the owner".to_owned()));
    }
    let AgentWritten { name, external_id, active, profile, .. } = written;
    Ok(AgentProvisioned { name, id: id.to_owned(), external_id, owner, successor, project, active, profile })
}
