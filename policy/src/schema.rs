//! The words policies may use: entity types, attributes and actions, as a Cedar schema in JSON.
//!
//! The schema grows with the catalogue only in its actions, and all actions apply alike. So a text is validated
//! against the schema of just the actions it names: same result, and no cost for ten thousand tools.
//! The reference for people is `docs/security/policies.md`.

use std::collections::BTreeSet;

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

/// The schema in which `actions` exist, each in the group [`CALL_TOOL`].
pub(crate) fn schema(actions: &BTreeSet<String>) -> Value {
    let applies_to = json!({
        "principalTypes": [USER],
        "resourceTypes": [TOOL],
        "context": record([
            ("agent", entity(AGENT)),
            ("virtual_server", string()),
            ("level", string()),
        ]),
    });
    let mut declared = Map::new();
    declared.insert(CALL_TOOL.to_owned(), json!({ "appliesTo": applies_to }));
    for action in actions.iter().filter(|action| *action != CALL_TOOL) {
        declared.insert(action.clone(), json!({ "memberOf": [{ "id": CALL_TOOL }], "appliesTo": applies_to }));
    }
    json!({ "": { "entityTypes": entity_types(), "actions": declared } })
}

fn entity_types() -> Value {
    json!({
        USER: { "memberOfTypes": [GROUP] },
        GROUP: {},
        AGENT: { "shape": record([("owner", entity(USER)), ("project", entity(PROJECT)), ("ceiling", string())]) },
        PROJECT: {},
        SERVER: {},
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

fn record<const N: usize>(attributes: [(&str, Value); N]) -> Value {
    json!({ "type": "Record", "attributes": attributes.into_iter().collect::<std::collections::BTreeMap<_, _>>() })
}

fn entity(name: &str) -> Value {
    json!({ "type": "Entity", "name": name })
}

fn string() -> Value {
    json!({ "type": "String" })
}
