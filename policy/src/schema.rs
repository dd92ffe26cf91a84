//! The words policies may use: entity types, attributes and actions, as a Cedar schema in JSON.
//!
//! Three kinds of use, each with its action: tools (`call_tool` and every tool's own), prompts (`get_prompt`) and
//! resources (`read_resource`). The schema grows with the catalogue only in the tools' actions, and all of these apply
//! alike. So a text is validated against the schema of just the actions it names: same result, and no cost for ten
//! thousand tools. The reference for people is `docs/security/policies.md`.

use std::collections::BTreeSet;

use bailiwick_proto::Tier;
use serde_json::{Map, Value, json};

pub(crate) const USER: &str = "User";
pub(crate) const GROUP: &str = "Group";
pub(crate) const AGENT: &str = "Agent";
pub(crate) const PROJECT: &str = "Project";
pub(crate) const SERVER: &str = "Server";
pub(crate) const TOOL: &str = "Tool";
pub(crate) const ACTION: &str = "Action";
/// The group every tool's action is in.
pub(crate) const CALL_TOOL: &str = "call_tool";
/// Getting a prompt of a server. No tool's action can have this name: those hold `__`.
pub(crate) const GET_PROMPT: &str = "get_prompt";
/// Reading a resource of a server.
pub(crate) const READ_RESOURCE: &str = "read_resource";
/// The tier of getting a prompt or reading a resource: it changes nothing.
pub(crate) const TIER_OF_READING: Tier = Tier::Retrieval;

/// What a request, and so a statement, can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Tool,
    Prompt,
    Resource,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Tool, Self::Prompt, Self::Resource];

    /// The kind an action belongs to. What is no action of ours counts as a tool's, and validation refuses it as that.
    pub(crate) fn of_action(id: &str) -> Self {
        match id {
            GET_PROMPT => Self::Prompt,
            READ_RESOURCE => Self::Resource,
            _ => Self::Tool,
        }
    }
}

/// The schema in which the tools' `actions` exist, each in the group [`CALL_TOOL`], and requests are of these kinds.
/// Actions of other kinds can be named but never asked for.
pub(crate) fn schema(actions: &BTreeSet<String>, kinds: &[Kind]) -> Value {
    let applies_to = |kind: Kind| if kinds.contains(&kind) { applies_to(kind) } else { to_nothing() };
    let mut declared = Map::new();
    declared.insert(CALL_TOOL.to_owned(), json!({ "appliesTo": applies_to(Kind::Tool) }));
    for action in actions {
        let of_tool = json!({ "memberOf": [{ "id": CALL_TOOL }], "appliesTo": applies_to(Kind::Tool) });
        declared.insert(action.clone(), of_tool);
    }
    declared.insert(GET_PROMPT.to_owned(), json!({ "appliesTo": applies_to(Kind::Prompt) }));
    declared.insert(READ_RESOURCE.to_owned(), json!({ "appliesTo": applies_to(Kind::Resource) }));
    json!({ "": { "entityTypes": entity_types(), "actions": declared } })
}

/// Is this an action every schema has?
pub(crate) fn is_own_action(id: &str) -> bool {
    [CALL_TOOL, GET_PROMPT, READ_RESOURCE].contains(&id)
}

fn applies_to(kind: Kind) -> Value {
    let (resource, asked) = match kind {
        Kind::Tool => (TOOL, None),
        Kind::Prompt => (SERVER, Some("name")),
        Kind::Resource => (SERVER, Some("uri")),
    };
    let always = [("agent", entity(AGENT)), ("virtual_server", string()), ("level", string()), ("bound", boolean())];
    let context = record(always.into_iter().chain(asked.map(|asked| (asked, string()))));
    json!({ "principalTypes": [USER], "resourceTypes": [resource], "context": context })
}

fn to_nothing() -> Value {
    json!({ "principalTypes": [], "resourceTypes": [] })
}

fn entity_types() -> Value {
    json!({
        USER: { "memberOfTypes": [GROUP] },
        GROUP: {},
        AGENT: { "shape": record([("owner", entity(USER)), ("project", entity(PROJECT)), ("ceiling", string())]) },
        PROJECT: {},
        // What tools have too, so that a statement that leaves the action open holds for all that is read of a server.
        SERVER: { "shape": record([("tier", string()), ("server", entity(SERVER))]) },
        TOOL: {
            "memberOfTypes": [SERVER],
            "shape": record([
                ("tier", string()),
                ("name", string()),
                ("server", entity(SERVER)),
                ("cost", json!({ "type": "Extension", "name": "decimal", "required": false })),
            ]),
        },
    })
}

fn record(attributes: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let attributes = attributes.into_iter().collect::<std::collections::BTreeMap<_, _>>();
    json!({ "type": "Record", "attributes": attributes })
}

fn entity(name: &str) -> Value {
    json!({ "type": "Entity", "name": name })
}

fn boolean() -> Value {
    json!({ "type": "Boolean" })
}

fn string() -> Value {
    json!({ "type": "String" })
}
