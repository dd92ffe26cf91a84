//! Servers: MCP servers behind the gateway, each with the tools it showed.
//!
//! Called by `apply` (deciding), `state` (evolving), `view` and `show`. A server keeps its tools and their approval
//! when its manifest changes, even its URL: what the new place shows is compared like any other sight.
//! Absent: approval and drift of tools (`tool`), talking to servers (data planes).

use std::collections::BTreeMap;

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    resource::ServerSpec,
    state::{Changed, State},
    tool::{Definition, Tool},
};

/// Most servers: all, with their tools, are held in memory by every node.
pub const SERVERS_MAX: usize = 1_000;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// As written.
    pub spec: ServerSpec,
    /// When it was written.
    pub changed: Changed,
    /// Its tools by their own names, approved or not; empty until it was seen.
    pub tools: BTreeMap<String, Tool>,
}

impl Server {
    /// The tier that applies to a tool: what the manifest says, else what the definition's annotations say.
    #[must_use]
    pub fn tier(&self, tool: &str, definition: &Definition) -> Tier {
        self.spec.tier(tool, definition)
    }
}

impl ServerSpec {
    /// The tier that applies to a tool under this manifest.
    #[must_use]
    pub(crate) fn tier(&self, tool: &str, definition: &Definition) -> Tier {
        self.tools.get(tool).and_then(|said| said.tier).unwrap_or_else(|| definition.tier())
    }
}

/// Payload of `server_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerApplied {
    /// The server.
    pub name: String,
    /// As written.
    pub spec: ServerSpec,
}

/// Payload of `server_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerDeleted {
    /// The server.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &ServerApplied, changed: Changed) {
    match state.servers.get_mut(&event.name) {
        Some(server) => {
            server.spec = event.spec.clone();
            server.changed = changed;
        }
        None => {
            let server = Server { spec: event.spec.clone(), changed, tools: BTreeMap::new() };
            state.servers.insert(event.name.clone(), server);
        }
    }
}

pub(crate) fn evolve_deleted(state: &mut State, event: &ServerDeleted) {
    state.servers.remove(&event.name);
}
