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
    resource::AgentSpec,
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
}

/// Payload of `agent_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDeleted {
    /// The agent.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &AgentApplied, changed: Changed) {
    state.agents.insert(event.name.clone(), Agent { spec: event.spec.clone(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &AgentDeleted) {
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
