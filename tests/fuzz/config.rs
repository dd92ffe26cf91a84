//! What the server's SCIM reads of the configuration: compiled in for what reads bytes, which is told it here.

/// A draft of SCIM's agents.
#[expect(dead_code, reason = "nobody's configuration is read here")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Draft {
    Resource,
    Extension,
}

/// What directories may say of agents.
#[expect(dead_code, reason = "nobody's configuration is read here")]
pub(crate) struct ScimAgents {
    pub(crate) projects: Vec<String>,
    draft: Option<Draft>,
}

impl ScimAgents {
    #[expect(dead_code, reason = "nobody's configuration is read here")]
    pub(crate) const fn draft(&self) -> Option<Draft> {
        self.draft
    }
}
