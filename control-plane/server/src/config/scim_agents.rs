//! Whether directories provision agents, and what they may say of them: `[control_plane.scim_agents]`.
//!
//! Part of `ControlPlaneConfig`, checked with it; used by `scim`. There is no standard for agents in SCIM yet, only
//! drafts that contradict each other, so one has to be named, by its exact name: the next one may mean something else.
//! Off where nothing is said. Absent: who owns which agent, which is no matter of a node's configuration.

use bailiwick_proto::names;
use bailiwick_runtime::config::ConfigProblems;
use serde::{Deserialize, Serialize};

/// Most projects that directories may put agents into.
const PROJECTS_MAX: usize = 64;

/// A draft of SCIM's agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Draft {
    /// `draft-wzdk-scim-agent-resource-00`.
    Resource,
    /// `draft-abbey-scim-agent-extension-00`.
    Extension,
}

impl Draft {
    const ALL: [Self; 2] = [Self::Resource, Self::Extension];

    const fn name(self) -> &'static str {
        match self {
            Self::Resource => "draft-wzdk-scim-agent-resource-00",
            Self::Extension => "draft-abbey-scim-agent-extension-00",
        }
    }
}

/// What directories may say of agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScimAgents {
    /// The draft that `/Agents` follows; empty: it is not served.
    pub draft: String,
    /// The projects that directories may put agents into; the first is that of an agent of which they name none.
    pub projects: Vec<String>,
    /// The user who answers for an agent of which its directory names no owner; empty: such an agent is refused.
    pub owner: String,
}

impl ScimAgents {
    /// The draft that is followed.
    pub(crate) fn draft(&self) -> Option<Draft> {
        Draft::ALL.into_iter().find(|draft| draft.name() == self.draft)
    }

    /// Adds what is wrong.
    pub(super) fn check(&self, problems: &mut ConfigProblems) {
        let mut wrong = |key: &str, message: String| problems.add(format!("scim_agents.{key}"), message);
        if !self.draft.is_empty() && self.draft().is_none() {
            let known = Draft::ALL.map(Draft::name).join("\" or \"");
            wrong("draft", format!("must be \"{known}\""));
        }
        if !self.draft.is_empty() && self.projects.is_empty() {
            wrong("projects", "needed with a draft: into which projects may directories put agents?".to_owned());
        }
        if self.projects.len() > PROJECTS_MAX {
            wrong("projects", format!("at most {PROJECTS_MAX}"));
        }
        for project in self.projects.iter().filter(|project| !names::is_resource_name(project)) {
            wrong("projects", format!("`{project}` cannot be a project's name"));
        }
        if !self.owner.is_empty() && !names::is_person_name(&self.owner) {
            wrong("owner", format!("`{}` cannot be a user's name", self.owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(draft: &str, projects: &[&str], owner: &str) -> Vec<String> {
        let projects = projects.iter().map(ToString::to_string).collect();
        let mut problems = ConfigProblems::default();
        ScimAgents { draft: draft.to_owned(), projects, owner: owner.to_owned() }.check(&mut problems);
        problems.0.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn nothing_is_off_and_a_draft_is_named_exactly_and_with_projects() {
        assert_eq!(wrong("", &[], ""), [""; 0]);
        assert_eq!(ScimAgents::default().draft(), None);
        for (draft, known) in [
            ("draft-wzdk-scim-agent-resource-00", Draft::Resource),
            ("draft-abbey-scim-agent-extension-00", Draft::Extension),
        ] {
            assert_eq!(wrong(draft, &["sandbox"], "jane@example.com"), [""; 0]);
            assert_eq!(ScimAgents { draft: draft.to_owned(), ..ScimAgents::default() }.draft(), Some(known));
            assert_eq!(wrong(draft, &[], ""), ["scim_agents.projects"]);
        }
        for draft in ["on", "true", "draft-wzdk-scim-agent-resource", "draft-wzdk-scim-agent-resource-01", "DRAFT"] {
            assert_eq!(wrong(draft, &["sandbox"], ""), ["scim_agents.draft"], "{draft}");
        }
        let all = ["scim_agents.draft", "scim_agents.projects", "scim_agents.owner"];
        assert_eq!(wrong("x", &["No Name"], "two words"), all);
    }
}
