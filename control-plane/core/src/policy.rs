//! Policies: Cedar texts that passed validation, each with the version under which decisions name it.
//!
//! A policy's version is the revision at which its present text was applied. Called by `apply` (deciding), `state`
//! (evolving), `view` and `show`. Invariant: every policy in the state validates against the tools and names in the
//! state, so a data plane that compiles them finds no fault. Absent: Cedar itself (`bailiwick_policy`).

use std::collections::BTreeSet;

use bailiwick_policy::{CatalogueTool, Names, PolicyProblem, PolicyText, ReadPolicy, Reader, Universe};
use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    resource::PolicySpec,
    server::Server,
    state::{Changed, State},
};

/// Most policies: what data planes compile together.
pub const POLICIES_MAX: usize = bailiwick_policy::POLICIES_MAX;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// As written.
    pub spec: PolicySpec,
    /// When it was written; the revision is its version.
    pub changed: Changed,
}

/// What a policy's text says by itself.
pub(crate) fn read(reader: &Reader, name: &str, cedar: &str) -> ReadPolicy {
    // The version is for decisions; here nobody looks at it.
    reader.read(&PolicyText { name: name.to_owned(), version: 0, cedar: cedar.to_owned() })
}

/// Judges policies in a state that is about to be, one after another.
pub(crate) struct Judge<'a> {
    reader: Reader,
    names: Names<'a>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(next: &'a State, catalogue: &'a [CatalogueTool]) -> Self {
        Self { reader: Reader::new(), names: Names::new(catalogue, next) }
    }

    /// Everything wrong with one policy; `ahead` is what was found of its text before, if it was.
    pub(crate) fn faults(&self, name: &str, policy: &Policy, ahead: Option<&ReadPolicy>) -> Vec<PolicyProblem> {
        let cedar = policy.spec.cedar.as_str();
        match ahead.filter(|ahead| ahead.is_of(name, cedar)) {
            Some(ahead) => ahead.problems(&self.names),
            None => read(&self.reader, name, cedar).problems(&self.names),
        }
    }
}

/// The tools policies can speak about: those servers show, approved or not, and those their manifests name, so that a
/// policy for a server that cannot be reached right now can be applied with it.
#[must_use]
pub fn catalogue(state: &State) -> Vec<CatalogueTool> {
    state.servers.iter().flat_map(|(name, server)| tools_of(name, server)).collect()
}

fn tools_of(server_name: &str, server: &Server) -> Vec<CatalogueTool> {
    let names: BTreeSet<&String> = server.tools.keys().chain(server.spec.tools.keys()).collect();
    let tool = |name: &String| {
        let known = server.tools.get(name).and_then(|tool| tool.pinned.as_ref().or(tool.observed.as_ref()));
        let said = server.spec.tools.get(name);
        CatalogueTool {
            server: server_name.to_owned(),
            name: name.clone(),
            tier: known.map_or(Tier::Destructive, |definition| server.tier(name, definition)),
            cost: said.and_then(|said| said.cost.clone()),
        }
    };
    names.into_iter().map(tool).collect()
}

impl Universe for State {
    fn has_user(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }
    fn has_agent(&self, name: &str) -> bool {
        self.agents.contains_key(name)
    }
    fn has_server(&self, name: &str) -> bool {
        self.servers.contains_key(name)
    }
}

/// Payload of `policy_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyApplied {
    /// The policy.
    pub name: String,
    /// As written.
    pub spec: PolicySpec,
}

/// Payload of `policy_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDeleted {
    /// The policy.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &PolicyApplied, changed: Changed) {
    state.policies.insert(event.name.clone(), Policy { spec: event.spec.clone(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &PolicyDeleted) {
    state.policies.remove(&event.name);
}
