//! Virtual servers: sets of servers under one URL towards clients.
//!
//! Called by `apply` and `tool` (deciding), `state` (evolving), `view` and `show`. Invariants: every server it names
//! exists; under `naming: plain` no two approved tools of its servers have one name. So data planes need no rule for
//! collisions: a tool whose name is taken stays unapproved (`tool`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    resource::{Naming, VirtualServerSpec},
    state::{Changed, State},
};

/// Most virtual servers: all are held in memory by every node.
pub const VIRTUAL_SERVERS_MAX: usize = 1_000;
/// Most servers of one virtual server: clients read all their tools at once.
pub const SERVERS_OF_ONE_MAX: usize = 64;

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualServer {
    /// As written.
    pub spec: VirtualServerSpec,
    /// When it was written.
    pub changed: Changed,
}

impl VirtualServer {
    /// Whether it shows the tools of this server.
    #[must_use]
    pub fn shows(&self, server: &str) -> bool {
        self.spec.servers.iter().any(|entry| entry.server == server)
    }
}

/// Two approved tools with one name under one plain virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collision {
    pub(crate) tool: String,
    pub(crate) servers: [String; 2],
}

/// The tools of a virtual server that collide, in name order.
pub(crate) fn collisions(state: &State, virtual_server: &VirtualServer) -> Vec<Collision> {
    match virtual_server.spec.naming {
        Naming::Prefixed => Vec::new(),
        Naming::Plain => {
            let mut holder = BTreeMap::<&str, &str>::new();
            let mut collisions = Vec::new();
            for entry in &virtual_server.spec.servers {
                let tools = state.servers.get(&entry.server).into_iter().flat_map(|server| &server.tools);
                for (tool, _) in tools.filter(|(_, tool)| tool.pinned.is_some()) {
                    if let Some(first) = holder.insert(tool, &entry.server) {
                        let servers = [first.to_owned(), entry.server.clone()];
                        collisions.push(Collision { tool: tool.clone(), servers });
                    }
                }
            }
            collisions.sort_by(|a, b| a.tool.cmp(&b.tool));
            collisions
        }
    }
}

/// The plain virtual server, and the other server in it, where `tool` of `server` would collide if it were approved;
/// virtual servers in `passed_over` do not count.
pub(crate) fn would_collide<'a>(
    state: &'a State,
    server: &str,
    tool: &str,
    passed_over: &BTreeSet<&str>,
) -> Option<(&'a str, &'a str)> {
    let plain = |virtual_server: &VirtualServer| match virtual_server.spec.naming {
        Naming::Plain => virtual_server.shows(server),
        Naming::Prefixed => false,
    };
    let has_it = |other: &str| {
        other != server
            && state
                .servers
                .get(other)
                .and_then(|other| other.tools.get(tool))
                .is_some_and(|tool| tool.pinned.is_some())
    };
    let counted = state.virtual_servers.iter().filter(|(name, _)| !passed_over.contains(name.as_str()));
    counted.filter(|(_, virtual_server)| plain(virtual_server)).find_map(|(name, virtual_server)| {
        let other = virtual_server.spec.servers.iter().find(|entry| has_it(&entry.server))?;
        Some((name.as_str(), other.server.as_str()))
    })
}

/// Payload of `virtual_server_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualServerApplied {
    /// The virtual server.
    pub name: String,
    /// As written.
    pub spec: VirtualServerSpec,
}

/// Payload of `virtual_server_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualServerDeleted {
    /// The virtual server.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &VirtualServerApplied, changed: Changed) {
    state.virtual_servers.insert(event.name.clone(), VirtualServer { spec: event.spec.clone(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &VirtualServerDeleted) {
    state.virtual_servers.remove(&event.name);
}
