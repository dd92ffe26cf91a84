//! The question put to the policies, and their answer.
//!
//! Built by `data-plane/core` for everything that is listed or used. All is borrowed: a request lives for one decision
//! only.

use std::sync::Arc;

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

/// May this user, through this agent, have this use of a server on this virtual server?
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The human: Cedar's `principal`.
    pub user: &'a str,
    /// Groups the human is in.
    pub groups: &'a [String],
    /// The agent acting for the human: Cedar's `context.agent`.
    pub agent: RequestAgent<'a>,
    /// The virtual server called on: `context.virtual_server`.
    pub virtual_server: &'a str,
    /// The level of the consent: `context.level`.
    pub level: Tier,
    /// Whether the token is bound to a key, and the request has proved that its sender holds it: `context.bound`.
    pub bound: bool,
    /// What is wanted. Gives Cedar's `action` and `resource`.
    pub wanted: Use<'a>,
}

/// One use of a server; all names are the server's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use<'a> {
    /// Calling a tool: `Action::"server__tool"` on `Tool::"server__tool"`.
    Tool {
        /// Name of the server.
        server: &'a str,
        /// The tool.
        tool: &'a str,
    },
    /// Getting a prompt: `Action::"get_prompt"` on `Server::"server"`.
    Prompt {
        /// Name of the server.
        server: &'a str,
        /// The prompt: `context.name`.
        name: &'a str,
    },
    /// Reading a resource: `Action::"read_resource"` on `Server::"server"`.
    Resource {
        /// Name of the server.
        server: &'a str,
        /// The resource: `context.uri`.
        uri: &'a str,
    },
}

impl Use<'_> {
    /// Name of the server.
    #[must_use]
    pub const fn server(&self) -> &str {
        match self {
            Self::Tool { server, .. } | Self::Prompt { server, .. } | Self::Resource { server, .. } => server,
        }
    }
}

/// The agent of a [`Request`].
#[derive(Clone, Copy, Debug)]
pub struct RequestAgent<'a> {
    /// Name of the agent.
    pub name: &'a str,
    /// The person who answers for the agent.
    pub owner: &'a str,
    /// Groups of the owner, so that `context.agent.owner in Group::"…"` tells the truth. Ignored (the user's groups
    /// are taken) when the owner is the user.
    pub owner_groups: &'a [String],
    /// Project of the agent.
    pub project: &'a str,
    /// Highest tier the agent may ever use.
    pub ceiling: Tier,
}

/// A policy as it stood when it took part in a decision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Name of the policy resource.
    pub name: String,
    /// Its version.
    pub version: u64,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// May the call go on, as far as policies are concerned? Never true when `error` is set.
    pub permit: bool,
    /// The policies that made the verdict, sorted, each once: the permits that matched, or the forbids that matched,
    /// or the policies that failed. Empty when nothing matched.
    pub policies: Arc<[PolicyRef]>,
    /// Why the policies could not be evaluated: refuse with `policy_error`. For logs and records, not for clients.
    pub error: Option<String>,
}

impl Verdict {
    pub(crate) fn fault(policies: Arc<[PolicyRef]>, message: String) -> Self {
        Self { permit: false, policies, error: Some(message) }
    }
}
