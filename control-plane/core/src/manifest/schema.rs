//! The JSON Schema of manifests, for editors: `docs/reference/manifest.schema.json` is this function's output.
//!
//! Derived from the types in `resource`, so it cannot differ from what is read. Looser only where a rule is not one of
//! types and keys: names, URLs, Cedar.

use schemars::{JsonSchema, generate::SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::resource::{
    API_VERSION, AgentSpec, ClientSpec, DecisionClientSpec, IdentityProviderSpec, Kind, PolicySpec, ServerSpec,
    UserSpec, VirtualServerSpec,
};

/// The schema of one manifest.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let kinds = [
        one::<ServerSpec>(Kind::Server, &mut generator),
        one::<VirtualServerSpec>(Kind::VirtualServer, &mut generator),
        one::<UserSpec>(Kind::User, &mut generator),
        one::<AgentSpec>(Kind::Agent, &mut generator),
        one::<PolicySpec>(Kind::Policy, &mut generator),
        one::<ClientSpec>(Kind::Client, &mut generator),
        one::<IdentityProviderSpec>(Kind::IdentityProvider, &mut generator),
        one::<DecisionClientSpec>(Kind::DecisionClient, &mut generator),
    ];
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bailiwick manifest",
        "description": "One document of a manifest file for `bailiwick apply -f`.",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
    })
}

fn one<T: JsonSchema>(kind: Kind, generator: &mut SchemaGenerator) -> Value {
    let spec = generator.subschema_for::<T>();
    // A user needs nothing but a name.
    let required: &[&str] = match kind {
        Kind::User => &["apiVersion", "kind", "metadata"],
        Kind::Server
        | Kind::VirtualServer
        | Kind::Agent
        | Kind::Policy
        | Kind::Client
        | Kind::IdentityProvider
        | Kind::DecisionClient => &["apiVersion", "kind", "metadata", "spec"],
        Kind::Group | Kind::Project | Kind::Consent | Kind::Node => &[],
    };
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.as_str()},
            "metadata": {
                "type": "object",
                "additionalProperties": false,
                "required": ["name"],
                "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 254}},
            },
            "spec": spec,
            "status": {"description": "Written by Bailiwick; ignored when applied."},
        },
    })
}
