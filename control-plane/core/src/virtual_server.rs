//! Virtual servers: sets of servers under one URL towards clients.
//!
//! Called by `apply` and `tool` (deciding), `state` (evolving), `view` and `show`. Invariants: every server it names
//! exists; under `naming: plain` no two approved tools of its servers have one name. So data planes need no rule for
//! collisions: a tool whose name is taken stays unapproved (`tool`). Whether what a view says of single tools fits them
//! is in `fitting`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    resource::{Naming, ServerEntry, VirtualServerSpec},
    state::{Changed, State},
    tool::Tool,
};

pub(crate) mod fitting;

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
    /// Towards clients.
    pub(crate) name: String,
    /// Server and tool.
    pub(crate) tools: [(String, String); 2],
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, tools: [(first, first_tool), (second, second_tool)] } = self;
        if first_tool == second_tool {
            write!(f, "naming: plain, but Server {first} and Server {second} both show the tool \"{name}\"")
        } else {
            write!(
                f,
                "naming: plain, but tool \"{first_tool}\" of Server {first} and tool \"{second_tool}\" of Server {second} \
                 would both be \"{name}\""
            )
        }
    }
}

/// The tools of a virtual server that collide, in name order. Prefixed names never do, nor do names given under them.
pub(crate) fn collisions(state: &State, virtual_server: &VirtualServer) -> Vec<Collision> {
    match virtual_server.spec.naming {
        Naming::Prefixed => Vec::new(),
        Naming::Plain => {
            let mut holder = BTreeMap::<&str, (&str, &str)>::new();
            let mut collisions = Vec::new();
            for (entry, tool, _) in shown(state, &virtual_server.spec) {
                let name = entry.given_name(tool).unwrap_or(tool);
                let held = |(server, tool): (&str, &str)| (server.to_owned(), tool.to_owned());
                if let Some(first) = holder.insert(name, (&entry.server, tool)) {
                    let tools = [held(first), held((&entry.server, tool))];
                    collisions.push(Collision { name: name.to_owned(), tools });
                }
            }
            collisions.sort_by(|a, b| a.name.cmp(&b.name));
            collisions
        }
    }
}

/// The approved tools that a virtual server shows, quarantined ones among them, each with what is said of its server.
pub(crate) fn shown<'a>(
    state: &'a State,
    spec: &'a VirtualServerSpec,
) -> impl Iterator<Item = (&'a ServerEntry, &'a str, &'a Tool)> {
    spec.servers.iter().flat_map(|entry| {
        let tools = state.servers.get(&entry.server).into_iter().flat_map(|server| &server.tools);
        let shown = tools.filter(|(name, tool)| tool.pinned.is_some() && entry.shows(name));
        shown.map(move |(name, tool)| (entry, name.as_str(), tool))
    })
}

/// A tool that may be called through a virtual server, if policies and consents permit.
#[derive(Clone, Copy, Debug)]
pub struct ShownTool<'a> {
    /// Its server.
    pub server: &'a str,
    /// Its own name.
    pub tool: &'a str,
    /// How much harm it can do.
    pub tier: Tier,
    /// Its approved definition: the whole tool object as JSON.
    pub definition: &'a str,
}

impl ShownTool<'_> {
    /// As consents list it: `server/tool`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.server, self.tool)
    }
}

/// The approved tools that a virtual server shows.
pub fn shown_tools<'a>(state: &'a State, spec: &'a VirtualServerSpec) -> impl Iterator<Item = ShownTool<'a>> {
    shown(state, spec).filter_map(|(entry, name, tool)| {
        let (server, definition) = (state.servers.get(&entry.server)?, tool.pinned.as_ref()?);
        let tier = server.tier(name, definition);
        Some(ShownTool { server: &entry.server, tool: name, tier, definition: &definition.json })
    })
}

/// A tool that has the name that another would have, and under which virtual server.
#[derive(Clone, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) virtual_server: &'a str,
    pub(crate) server: &'a str,
    pub(crate) tool: String,
}

/// The plain virtual server, and the other tool in it, with which `tool` of `server` would collide if it were approved;
/// virtual servers in `passed_over` do not count.
pub(crate) fn would_collide<'a>(
    state: &'a State,
    server: &str,
    tool: &str,
    passed_over: &BTreeSet<&str>,
) -> Option<Holder<'a>> {
    let counted = state.virtual_servers.iter().filter(|(name, _)| !passed_over.contains(name.as_str()));
    let plain = counted.filter(|(_, virtual_server)| virtual_server.spec.naming == Naming::Plain);
    plain.into_iter().find_map(|(virtual_server, known)| {
        let entries = &known.spec.servers;
        let entry = entries.iter().find(|entry| entry.server == server && entry.shows(tool))?;
        let name = entry.given_name(tool).unwrap_or(tool);
        let held = entries.iter().find_map(|entry| {
            let is_other = |other: &&str| entry.server != server || *other != tool;
            let is_approved = |other: &&str| {
                let known = state.servers.get(&entry.server).and_then(|known| known.tools.get(*other));
                known.is_some_and(|known| known.pinned.is_some())
            };
            let other = holders(entry, name).filter(is_other).find(is_approved)?;
            Some((entry.server.as_str(), other.to_owned()))
        });
        held.map(|(server, tool)| Holder { virtual_server, server, tool })
    })
}

/// The tools of a server that a plain virtual server shows under a name, if they exist: one that has it by itself, and
/// one that is given it.
fn holders<'a>(entry: &'a ServerEntry, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
    let given = entry.tools.iter().filter(move |(_, view)| view.name.as_deref() == Some(name));
    let own = entry.given_name(name).is_none().then_some(name);
    given.map(|(tool, _)| tool.as_str()).chain(own).filter(|tool| entry.shows(tool))
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
