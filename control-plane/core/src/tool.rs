//! Tools: which definitions of a server's tools are approved, and what it shows instead.
//!
//! The first sight of a server approves ("pins") what it shows. From then on a tool whose definition differs is
//! quarantined, and a tool that is new stays hidden, until somebody approves what is shown. While a tool waits, further
//! sights of it are not recorded, so a server that shows something else on every look cannot grow the log. A tool that
//! is no longer shown stays approved: calling it fails at the server, and showing it again needs nobody.
//! A tool that would take the name of another (under a plain virtual server, or as a Cedar action) is never pinned by
//! itself; approving it is refused. Called by `command`, `apply`, `state`. Absent: looking at servers (data planes).

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use bailiwick_proto::{Tier, names};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Kind, Rejection, ResourceRef,
    command::{Action, Answer, Context, Decision, ResourceChange, ToolDefinition},
    event::Event,
    server::Server,
    show,
    state::{Changed, State},
    virtual_server::{self, Holder, fitting},
};

/// Most tools of one server: more would make every list unusable.
pub const TOOLS_OF_ONE_SERVER_MAX: usize = 1_024;
/// Largest tool definition as canonical JSON; real ones have a few KiB.
pub const DEFINITION_BYTES_MAX: usize = 64 * 1024;
/// Most tools in one `tools_pinned` event: keeps its record, names and hashes only, within 32 KiB.
pub const TOOLS_OF_ONE_EVENT_MAX: usize = 32;

/// A tool of a server. Approved: `pinned` only. Quarantined: both. Hidden, waiting for approval: `observed` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// What was approved.
    pub pinned: Option<Definition>,
    /// What the server shows instead.
    pub observed: Option<Definition>,
    /// When this came to be.
    pub changed: Changed,
}

/// A tool's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The whole tool object as canonical JSON (RFC 8785).
    pub json: String,
    /// SHA-256 of `json`, lower-case hex.
    pub hash: String,
}

impl Definition {
    /// Reads a definition as a server sent it.
    ///
    /// # Errors
    /// A sentence saying why it cannot be approved.
    pub fn read(shown: &ToolDefinition) -> Result<Self, &'static str> {
        if !names::is_upstream_tool_name(&shown.name) {
            return Err("its name must have 1 to 128 characters, none of them a control character");
        }
        if shown.json.len() > DEFINITION_BYTES_MAX {
            return Err("its definition is larger than 64 KiB");
        }
        let value: Value = serde_json::from_str(&shown.json).map_err(|_| "its definition is not JSON")?;
        if value.get("name").and_then(Value::as_str) != Some(shown.name.as_str()) {
            return Err("its definition is not an object with its name");
        }
        let json = serde_json_canonicalizer::to_string(&value).map_err(|_| "its definition has no canonical form")?;
        if json.len() > DEFINITION_BYTES_MAX {
            return Err("its definition is larger than 64 KiB");
        }
        let hash = hex::encode(digest::digest(&digest::SHA256, json.as_bytes()));
        Ok(Self { json, hash })
    }

    /// The tier its MCP annotations speak for.
    #[must_use]
    pub fn tier(&self) -> Tier {
        #[derive(Default, Deserialize)]
        struct Shown {
            #[serde(default)]
            annotations: Value,
        }
        let shown: Shown = serde_json::from_str(&self.json).unwrap_or_default();
        let hint = |name: &str| shown.annotations.get(name).and_then(Value::as_bool);
        Tier::from_annotations(hint("readOnlyHint"), hint("destructiveHint"))
    }
}

/// What follows from one sight of a server.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub(crate) events: Vec<Event>,
    pub(crate) warnings: Vec<String>,
}

/// Compares what a server shows with what is approved. Collisions under virtual servers in `passed_over` are somebody
/// else's to find.
pub(crate) fn observe(
    state: &State,
    name: &str,
    server: &Server,
    shown: &[ToolDefinition],
    passed_over: &BTreeSet<&str>,
    context: &Context,
) -> Sight {
    let mut sight = Sight::default();
    let is_first = server.tools.is_empty();
    let mut pins = Vec::new();
    let mut drifts = Vec::new();
    let mut room = TOOLS_OF_ONE_SERVER_MAX.saturating_sub(server.tools.len());
    let mut policy_names = policy_names(name, server);
    for (tool, definition) in read_all(name, shown, &mut sight.warnings) {
        match server.tools.get(tool) {
            Some(known) if known.observed.is_some() => {}
            Some(known) if known.pinned.as_ref().is_some_and(|pinned| pinned.hash == definition.hash) => {}
            Some(_) => drifts.push((tool, definition)),
            None if room == 0 => sight.warnings.push(format!(
                "tool \"{tool}\" of Server {name} is left out: at most {TOOLS_OF_ONE_SERVER_MAX} tools are kept"
            )),
            None => {
                room -= 1;
                let taken = collision(state, name, tool, &policy_names, passed_over);
                if let Some(other) = &taken {
                    sight
                        .warnings
                        .push(format!("tool \"{tool}\" of Server {name} stays hidden: it collides with {other}"));
                }
                if is_first && taken.is_none() {
                    policy_names.insert(names::prefixed_tool_name(name, tool), tool.to_owned());
                    pins.push(PinnedTool::new(tool, definition));
                } else {
                    drifts.push((tool, definition));
                }
            }
        }
    }
    for tools in pins.chunks(TOOLS_OF_ONE_EVENT_MAX) {
        sight.events.push(context.event(ToolsPinned { server: name.to_owned(), tools: tools.to_vec() }));
    }
    sight.events.extend(drifts.into_iter().map(|(tool, definition)| {
        let Definition { json, hash } = definition;
        context.event(ToolDriftObserved { server: name.to_owned(), tool: tool.to_owned(), hash, definition: json })
    }));
    sight
}

pub(crate) fn decide_report(
    state: &State,
    name: &str,
    shown: &[ToolDefinition],
    context: &Context,
) -> Result<Decision, Rejection> {
    let server = find_server(state, name)?;
    let Sight { events, warnings } = observe(state, name, server, shown, &BTreeSet::new(), context);
    Ok(Decision { events, warnings, ..Decision::default() })
}

pub(crate) fn decide_pin(
    state: &State,
    name: &str,
    wanted: &[String],
    discovered: Option<&[ToolDefinition]>,
    context: &Context,
) -> Result<Decision, Rejection> {
    let server = find_server(state, name)?;
    let mut warnings = Vec::new();
    let shown: BTreeMap<&str, Definition> = match discovered {
        Some(shown) => read_all(name, shown, &mut warnings),
        None => last_seen(server),
    };
    if let Some(missing) = wanted.iter().find(|tool| !shown.contains_key(tool.as_str())) {
        return Err(Rejection::ToolUnknown { server: name.to_owned(), tool: missing.clone() });
    }
    let mut policy_names = policy_names(name, server);
    let mut events = Vec::new();
    for (tool, Definition { json, hash }) in shown {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|wanted| wanted == tool);
        let known = server.tools.get(tool);
        let is_approved = known.is_some_and(|known| {
            known.observed.is_none() && known.pinned.as_ref().is_some_and(|pinned| pinned.hash == hash)
        });
        if !is_wanted || is_approved {
            continue;
        }
        if known.is_none() && server.tools.len() + events.len() >= TOOLS_OF_ONE_SERVER_MAX {
            return Err(Rejection::TooMany { what: "tools of one server", max: TOOLS_OF_ONE_SERVER_MAX });
        }
        if let Some(other) = collision(state, name, tool, &policy_names, &BTreeSet::new()) {
            return Err(Rejection::ToolCollision { server: name.to_owned(), tool: tool.to_owned(), other });
        }
        policy_names.insert(names::prefixed_tool_name(name, tool), tool.to_owned());
        let definition = Definition { json, hash };
        warnings.extend(fitting::misfits_of_tool(state, name, tool, &definition));
        let Definition { json, hash } = definition;
        let approved = ToolApproved { server: name.to_owned(), tool: tool.to_owned(), hash, definition: json };
        events.push(context.event(approved));
    }
    let answer = Answer::Changes(vec![pin_change(state, name, &events, context)]);
    Ok(Decision { events, answer, warnings, ..Decision::default() })
}

fn pin_change(state: &State, name: &str, events: &[Event], context: &Context) -> ResourceChange {
    let mut next = state.clone();
    for event in events {
        crate::evolve(&mut next, event, state.revision.saturating_add(1));
    }
    let resource = ResourceRef::new(Kind::Server, name);
    let manifest = |state: &State| show::one(state, &resource, context.now_seconds());
    let action = if events.is_empty() { Action::Unchanged } else { Action::Configured };
    ResourceChange { action, before: manifest(state), after: manifest(&next), resource }
}

fn find_server<'a>(state: &'a State, name: &str) -> Result<&'a Server, Rejection> {
    state.servers.get(name).ok_or_else(|| Rejection::NotFound(vec![ResourceRef::new(Kind::Server, name)]))
}

/// The definitions that can be approved, by name; of a name shown twice the first counts.
fn read_all<'a>(
    server: &str,
    shown: &'a [ToolDefinition],
    warnings: &mut Vec<String>,
) -> BTreeMap<&'a str, Definition> {
    let mut all = BTreeMap::new();
    if shown.len() > TOOLS_OF_ONE_SERVER_MAX {
        warnings.push(format!("Server {server} shows {} tools; {TOOLS_OF_ONE_SERVER_MAX} are looked at", shown.len()));
    }
    for tool in shown.iter().take(TOOLS_OF_ONE_SERVER_MAX) {
        match Definition::read(tool) {
            Ok(_) if all.contains_key(tool.name.as_str()) => {
                warnings.push(format!("Server {server} shows tool \"{}\" twice; the first counts", tool.name));
            }
            Ok(definition) => {
                all.insert(tool.name.as_str(), definition);
            }
            Err(why) => {
                let name: String = tool.name.chars().take(names::UPSTREAM_TOOL_NAME_CHARS_MAX).collect();
                warnings.push(format!("tool {name:?} of Server {server} is left out: {why}"));
            }
        }
    }
    all
}

/// What was last seen of each tool.
fn last_seen(server: &Server) -> BTreeMap<&str, Definition> {
    let seen = |tool: &Tool| tool.observed.clone().or_else(|| tool.pinned.clone());
    server.tools.iter().filter_map(|(name, tool)| Some((name.as_str(), seen(tool)?))).collect()
}

/// The Cedar action of every approved tool of a server, with the tool that holds it.
fn policy_names(name: &str, server: &Server) -> BTreeMap<String, String> {
    let approved = server.tools.iter().filter(|(_, tool)| tool.pinned.is_some());
    approved.map(|(tool, _)| (names::prefixed_tool_name(name, tool), tool.clone())).collect()
}

/// What holds the name that this tool would have if it were approved.
pub(crate) fn collision(
    state: &State,
    server: &str,
    tool: &str,
    policy_names: &BTreeMap<String, String>,
    passed_over: &BTreeSet<&str>,
) -> Option<String> {
    if let Some(holder) = policy_names.get(&names::prefixed_tool_name(server, tool)).filter(|holder| *holder != tool) {
        return Some(format!("tool \"{holder}\" of the same server"));
    }
    virtual_server::would_collide(state, server, tool, passed_over).map(|holder| {
        let Holder { virtual_server, server, tool: other } = holder;
        let which = if other == tool { "the same tool".to_owned() } else { format!("tool \"{other}\"") };
        format!("{which} of Server {server} under VirtualServer {virtual_server} (naming: plain)")
    })
}

/// Why a hidden tool could not be approved now, for its status.
pub(crate) fn obstacle(state: &State, name: &str, server: &Server, tool: &str) -> Option<String> {
    collision(state, name, tool, &policy_names(name, server), &BTreeSet::new())
}

/// Payload of `tools_pinned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsPinned {
    /// The server.
    pub server: String,
    /// Its tools, at most 32 in one event.
    pub tools: Vec<PinnedTool>,
}

/// One tool of a `tools_pinned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTool {
    /// Its own name.
    pub name: String,
    /// SHA-256 of the definition, lower-case hex.
    pub hash: String,
    /// Canonical JSON; not part of the record.
    pub definition: String,
}

impl PinnedTool {
    fn new(name: &str, Definition { json, hash }: Definition) -> Self {
        Self { name: name.to_owned(), hash, definition: json }
    }
}

/// Payload of `tool_drift_observed`: a changed tool is quarantined, a new one hidden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDriftObserved {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// SHA-256 of what it shows, lower-case hex.
    pub hash: String,
    /// Canonical JSON of what it shows; not part of the record.
    pub definition: String,
}

/// Payload of `tool_approved`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolApproved {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// SHA-256 of what was approved, lower-case hex.
    pub hash: String,
    /// Canonical JSON of what was approved; not part of the record.
    pub definition: String,
}

pub(crate) fn evolve_pinned(state: &mut State, event: &ToolsPinned, changed: Changed) {
    if let Some(server) = state.servers.get_mut(&event.server) {
        for PinnedTool { name, hash, definition } in &event.tools {
            let pinned = Some(Definition { json: definition.clone(), hash: hash.clone() });
            server.tools.insert(name.clone(), Tool { pinned, observed: None, changed });
        }
    }
}

pub(crate) fn evolve_drift(state: &mut State, event: &ToolDriftObserved, changed: Changed) {
    if let Some(server) = state.servers.get_mut(&event.server) {
        let pinned = server.tools.remove(&event.tool).and_then(|tool| tool.pinned);
        let observed = Some(Definition { json: event.definition.clone(), hash: event.hash.clone() });
        server.tools.insert(event.tool.clone(), Tool { pinned, observed, changed });
    }
}

pub(crate) fn evolve_approved(state: &mut State, event: &ToolApproved, changed: Changed) {
    if let Some(server) = state.servers.get_mut(&event.server) {
        let pinned = Some(Definition { json: event.definition.clone(), hash: event.hash.clone() });
        server.tools.insert(event.tool.clone(), Tool { pinned, observed: None, changed });
    }
}
