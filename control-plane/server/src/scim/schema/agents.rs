//! Which attributes agents have, in each draft, and in an extension of ours.
//!
//! What the drafts have besides (`groups`, `entitlements`, `roles`, `protocols`, `applications`, `parent`, `subject`,
//! `x509Certificates`) is not kept: what an agent may do is for policies and consents, and which clients are its
//! software for manifests. Invariant: the ceiling is read, and never written.
//! Specifications: draft-wzdk-scim-agent-resource-00, draft-abbey-scim-agent-extension-00.

use serde_json::Value;

use super::{Attribute, Kind, Mutability, attribute, complex, reference, several, text};

pub(in crate::scim) const AGENT: &str = "urn:ietf:params:scim:schemas:core:2.0:Agent";
/// Of our extension.
pub(in crate::scim) const AGENT_EXTENSION: &str = "urn:bailiwick:params:scim:schemas:extension:2.0:Agent";

const NAME: Attribute = Attribute {
    unique: true,
    ..text("", "The name of the agent here, for good; an agent that is deleted keeps it.")
        .required()
        .with(Mutability::Immutable)
};
const DISPLAY_NAME: Attribute = text("displayName", "The name that people are shown.");
const DESCRIPTION: Attribute = text("description", "What the agent is for.");
const ACTIVE: Attribute =
    attribute("active", Kind::Flag, "Whether the agent may act; false pauses it and takes nothing away.");
const USER: [Attribute; 2] = [
    text("value", "The id of a user; of one whom no directory provisions, the name.").exact(),
    reference("$ref", &["User"], "Where the user is."),
];
const OWNERS: Attribute = several("owners", &USER, "The user who answers for the agent: one.");

pub(super) const OF_RESOURCE_DRAFT: &[Attribute] =
    &[Attribute { name: "agentUserName", ..NAME }, DISPLAY_NAME, DESCRIPTION, ACTIVE, OWNERS.required()];

pub(super) const OF_EXTENSION_DRAFT: &[Attribute] = &[
    Attribute { name: "name", ..NAME },
    DISPLAY_NAME,
    text("agentType", "What kind of agent it is."),
    DESCRIPTION,
    ACTIVE,
    OWNERS,
];

pub(super) const EXTENDED: &[Attribute] = &[
    text("project", "The project that the agent belongs to, which policies may name.").exact(),
    text("ceiling", "The most harmful tier that the agent may ever use; administrators say it.")
        .with(Mutability::ReadOnly),
    complex("successor", &USER, "The user who answers for the agent once its owner is not active any more."),
];

/// Says in our extension's schema which projects directories may put agents into.
pub(super) fn name_projects(schema: &mut Value, projects: &[String]) {
    let is_ours = schema.get("id").and_then(Value::as_str) == Some(AGENT_EXTENSION);
    let attributes = schema.get_mut("attributes").and_then(Value::as_array_mut).filter(|_| is_ours);
    for attribute in attributes.into_iter().flatten().filter_map(Value::as_object_mut) {
        if attribute.get("name").and_then(Value::as_str) == Some("project") {
            attribute.insert("canonicalValues".to_owned(), projects.into());
        }
    }
}
