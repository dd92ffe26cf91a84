//! Agents that a company's directory provisions (SCIM): what it says of them, beside the agents it makes.
//!
//! The agent stays the one thing that decides (`agent`): here are its id, its attributes, and the directory's word on
//! whether it is active. Called by `state` (evolving), `agent`, `apply`, `leaver` and `revocation`. Invariants: what
//! was stopped here (`held`) the directory does not set going again; an agent of a directory begins with the safest
//! ceiling and without clients, and nothing that a directory says changes either; deleted by it, an agent is retired,
//! for ever, so that no other gets its name with what refers to it. Absent: deciding (`decide`), SCIM (server).

pub(crate) mod decide;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Named, Provisioned};
use crate::{
    agent::{self, Agent, AgentApplied},
    leaver,
    resource::{AgentClientsSpec, AgentSpec, AgentState, safest},
    state::{Changed, State},
};

/// An agent as its directory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionedAgent {
    /// Random, for good.
    pub id: String,
    /// What the directory calls it; empty: it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// The directory's word on whether it is active.
    pub active: bool,
    /// Stopped here, not by the directory; only who did that, or an administrator, sets it going.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// What else it said: a JSON object.
    pub profile: String,
    /// When it was first provisioned.
    pub created: Changed,
    /// When the directory last changed something.
    pub changed: Changed,
}

/// Payload of `agent_provisioned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentProvisioned {
    /// Its name, which is made if there is none.
    pub name: String,
    /// Its for good.
    pub id: String,
    /// What the directory calls it; empty: it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// The user who answers for it.
    pub owner: String,
    /// The user who does once the owner is not active any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// The project it belongs to.
    pub project: String,
    /// Whether the directory says that it is active.
    pub active: bool,
    /// What else it says: a JSON object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
}

/// Payload of `agent_deprovisioned`: the agent is retired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDeprovisioned {
    /// The agent.
    pub name: String,
    /// The id it had.
    pub id: String,
}

impl Provisioned {
    /// The agent of an id, with its name.
    #[must_use]
    pub fn agent(&self, id: &str) -> Option<(&String, &ProvisionedAgent)> {
        match self.ids.get(id)? {
            Named::Agent(name) => self.agents.get_key_value(name),
            Named::Person(_) | Named::Group(_) => None,
        }
    }
}

/// Revision of what is shown of an agent: its directory's, or its own.
#[must_use]
pub fn version_of_agent(state: &State, name: &str) -> Option<u64> {
    let known = state.provisioned.agents.get(name)?;
    let own = state.agents.get(name).map_or(0, |agent| agent.changed.revision);
    Some(known.changed.revision.max(own))
}

/// Agents of these that their directory deleted and that have consents that stand: more than one change may hold.
#[must_use]
pub fn unfinished(state: &State, agents: &BTreeSet<String>, now_seconds: u64) -> BTreeSet<String> {
    let is_retired = |name: &String| {
        let known = state.agents.get(name);
        known.is_some_and(|agent| agent.spec.state == AgentState::Retired) && agents.contains(name)
    };
    let standing = state.consents.values().filter(|one| one.is_live(now_seconds)).map(|one| &one.granted.agent);
    standing.filter(|agent| is_retired(agent)).cloned().collect()
}

/// Every retired agent of which [`unfinished`] holds.
#[must_use]
pub fn all_unfinished(state: &State, now_seconds: u64) -> BTreeSet<String> {
    let retired = state.agents.iter().filter(|(_, agent)| agent.spec.state == AgentState::Retired);
    let retired: BTreeSet<String> = retired.map(|(name, _)| name.clone()).collect();
    if retired.is_empty() { BTreeSet::new() } else { unfinished(state, &retired, now_seconds) }
}

/// What somebody else than its directory says of an agent and that is not theirs to say.
pub(crate) fn conflict(before: &State, name: &str, spec: &AgentSpec) -> Option<(&'static str, String)> {
    let known = before.provisioned.agents.get(name)?;
    let owner = &before.agents.get(name)?.spec.owner;
    let answers = before.users.get(owner).is_some_and(|user| user.spec.active);
    if answers && leaver::resolved(before, name, spec).owner != *owner {
        return Some(("spec.owner", format!("the directory that provisions {name} says that {owner} owns it")));
    }
    if spec.acts() && !known.active {
        return Some(("spec.state", format!("the directory that provisions {name} says that it is not active")));
    }
    None
}

/// Agents that a directory made, and for which some client gets tokens on behalf of their owners without them there
/// (`headless`).
fn without_owner(state: &State) -> impl Iterator<Item = &str> {
    let headless = state.clients.values().filter(|client| client.spec.headless.is_some());
    let agents = headless.filter_map(|client| client.spec.agent.as_deref());
    agents.filter(|agent| state.provisioned.agents.contains_key(*agent))
}

/// All of them, by name.
pub(crate) fn all_without_owner(state: &State) -> BTreeSet<&str> {
    without_owner(state).collect()
}

/// Whether an agent is one of them.
pub(crate) fn acts_without_owner(state: &State, agent: &str) -> bool {
    state.provisioned.agents.contains_key(agent) && without_owner(state).any(|one| one == agent)
}

/// Whether a directory may set this agent of its going, so that stopping it here has something to say.
pub(crate) fn may_be_held(state: &State, name: &str) -> bool {
    state.provisioned.agents.get(name).is_some_and(|known| !known.held)
}

/// An agent is about to be written by somebody else than a directory.
pub(crate) fn evolve_written(state: &mut State, event: &AgentApplied) {
    let acted = state.agents.get(&event.name).is_some_and(|agent| agent.spec.acts());
    let Some(known) = state.provisioned.agents.get_mut(&event.name) else { return };
    // Whoever changes something else of an agent that its directory stopped says nothing of that.
    if event.held || acted != event.spec.acts() {
        known.held = !event.spec.acts();
    }
}

pub(crate) fn evolve_provisioned(state: &mut State, event: &AgentProvisioned, changed: Changed) {
    let AgentProvisioned { name, id, external_id, owner, successor, project, active, profile } = event;
    let known = state.provisioned.agents.get(name);
    let (held, created) = known.map_or((false, changed), |known| (known.held, known.created));
    forget(state, name);
    let own = &mut state.provisioned;
    own.ids.insert(id.clone(), Named::Agent(name.clone()));
    own.named_outside(external_id, id, true);
    let known = ProvisionedAgent {
        id: id.clone(),
        external_id: external_id.clone(),
        active: *active,
        held,
        profile: profile.clone(),
        created,
        changed,
    };
    own.agents.insert(name.clone(), known);
    let before = state.agents.get(name).map(|agent| agent.spec.clone());
    let mut spec = before.clone().unwrap_or_else(|| AgentSpec {
        owner: String::new(),
        successor: None,
        project: String::new(),
        ceiling: safest(),
        clients: AgentClientsSpec::default(),
        state: AgentState::Active,
        review_by: None,
        active: true,
    });
    (spec.owner, spec.successor, spec.project) = (owner.clone(), successor.clone(), project.clone());
    if !held {
        spec.state = if *active { AgentState::Active } else { AgentState::Paused };
    }
    if before.as_ref() != Some(&spec) {
        let owner_left = agent::stays_left(state, name, &spec);
        state.agents.insert(name.clone(), Agent { spec, changed, owner_left });
    }
}

pub(crate) fn evolve_deprovisioned(state: &mut State, event: &AgentDeprovisioned, changed: Changed) {
    forget(state, &event.name);
    if let Some(agent) = state.agents.get_mut(&event.name) {
        agent.spec.state = AgentState::Retired;
        agent.changed = changed;
    }
}

/// What a directory said of an agent is forgotten.
pub(crate) fn forget(state: &mut State, name: &str) {
    let own = &mut state.provisioned;
    let Some(known) = own.agents.get(name).cloned() else { return };
    own.named_outside(&known.external_id, &known.id, false);
    own.ids.remove(&known.id);
    own.agents.remove(name);
}
