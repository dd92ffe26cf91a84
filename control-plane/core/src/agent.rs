//! Agents and the projects they name.
//!
//! A project has no life of its own: it exists while an agent names it. Called by `apply` (deciding), `state`
//! (evolving) and `show`. Invariant: an agent's owner is a user that exists.
//! Its states are in `life`. Absent: what an agent may do (policies and consents), sessions.

pub mod inventory;
pub mod life;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    provisioning,
    resource::{AgentSpec, AgentState},
    state::{Changed, State},
};

/// Most agents: as many as users; all of them are held in memory by every node.
pub const AGENTS_MAX: usize = 100_000;

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// As written.
    pub spec: AgentSpec,
    /// When it was written.
    pub changed: Changed,
    /// Who owned it has left the name that it is owned by: it acts again once somebody resumes it, or another owns it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owner_left: bool,
}

/// Payload of `agent_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentApplied {
    /// The agent.
    pub name: String,
    /// As written.
    pub spec: AgentSpec,
    /// Why, where it was deactivated by a revocation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who owns it has left that name for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owner_left: bool,
    /// It is stopped although its directory may have stopped it already: the directory does not set it going again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// Payload of `agent_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDeleted {
    /// The agent.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &AgentApplied, changed: Changed) {
    provisioning::agents::evolve_written(state, event);
    let AgentApplied { name, spec, .. } = event;
    let owner_left = event.owner_left || stays_left(state, name, spec);
    state.agents.insert(name.clone(), Agent { spec: spec.clone(), changed, owner_left });
}

/// Whether an agent that becomes so is still one whose owner has left: whoever has their name next does not answer for
/// it by that.
pub(crate) fn stays_left(state: &State, name: &str, spec: &AgentSpec) -> bool {
    let is_left = |before: &Agent| before.owner_left && before.spec.owner == spec.owner;
    spec.state != AgentState::Active && state.agents.get(name).is_some_and(is_left)
}

pub(crate) fn evolve_deleted(state: &mut State, event: &AgentDeleted) {
    provisioning::agents::forget(state, &event.name);
    state.agents.remove(&event.name);
}

/// Projects by name, each with its agents in name order.
#[must_use]
pub fn projects(state: &State) -> BTreeMap<&str, Vec<&str>> {
    let mut projects = BTreeMap::<&str, Vec<&str>>::new();
    for (name, agent) in &state.agents {
        projects.entry(&agent.spec.project).or_default().push(name);
    }
    projects
}

/// Agents by owner, in name order.
#[must_use]
pub fn owned(state: &State) -> BTreeMap<&str, Vec<&str>> {
    let mut owned = BTreeMap::<&str, Vec<&str>>::new();
    for (name, agent) in &state.agents {
        owned.entry(&agent.spec.owner).or_default().push(name);
    }
    owned
}
