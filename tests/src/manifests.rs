//! Manifests that many tests say in the same way. What a test is about, it says itself.

use serde_json::Value;

/// Jane and her coding assistant, which may be permitted everything: those whom [`crate::Deployment::token`] is for.
pub const JANE: &str = "---
apiVersion: bailiwick/v1
kind: User
metadata: {name: jane@example.com}
spec: {}
---
apiVersion: bailiwick/v1
kind: Agent
metadata: {name: coding-assistant}
spec: {owner: jane@example.com, project: billing, ceiling: destructive}
";

/// Any resource; `spec` is YAML on one line, of which JSON is a part.
#[must_use]
pub fn manifest(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: bailiwick/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// A server whose endpoint is this.
#[must_use]
pub fn server(name: &str, endpoint: &Value) -> String {
    manifest("Server", name, &format!("{{endpoint: {endpoint}}}"))
}

/// A virtual server that shows all of one server.
#[must_use]
pub fn virtual_server(name: &str, naming: &str, server: &str) -> String {
    manifest("VirtualServer", name, &format!("{{naming: {naming}, servers: [{{server: {server}}}]}}"))
}

/// A policy of one rule.
#[must_use]
pub fn policy(name: &str, cedar: &str) -> String {
    manifest("Policy", name, &format!("\n  cedar: {cedar}"))
}

/// A policy that permits everybody all of a server.
#[must_use]
pub fn permits_all_of(server: &str) -> String {
    policy(server, &format!("permit (principal, action, resource in Server::\"{server}\");"))
}

/// A person and an agent of theirs, which may be permitted everything.
#[must_use]
pub fn person(user: &str, groups: &str, agent: &str) -> String {
    manifest("User", user, &format!("{{groups: [{groups}]}}"))
        + &manifest("Agent", agent, &format!("{{owner: {user}, project: billing, ceiling: destructive}}"))
}
