//! A state under test: commands go in, events are applied as the server would, invariants are checked after each.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_control_plane_core::{
    Answer, Command, Context, Decision, Event, FreshIds, Kind, Manifest, Problem, Rejection, ResourceRef, Spec, State,
    command::{IssueToken, ToolDefinition},
    decide, manifest,
    resource::Naming,
    rollout::Stepped,
    show, view,
};
use bailiwick_proto::config_digest::Entries;

/// 2026-11-21T00:00:00Z.
pub(crate) const START_MICROS: u64 = 1_795_219_200_000_000;

/// The manifests of the issue, as written there.
pub(crate) const EXAMPLE: &str = r#"apiVersion: bailiwick/v1
kind: Server
metadata: {name: finance}
spec:
  endpoint: {url: "http://127.0.0.1:9801/mcp"}
  tools: {create_charge: {tier: transactional, cost: "0.02"}}   # otherwise from the server's annotations
---
apiVersion: bailiwick/v1
kind: VirtualServer
metadata: {name: finance}
spec: {naming: plain, servers: [{server: finance}]}   # plain: the tools' own names; default: server__tool
---
apiVersion: bailiwick/v1
kind: User
metadata: {name: jane@example.com}
spec: {groups: [finance]}
---
apiVersion: bailiwick/v1
kind: Agent
metadata: {name: coding-assistant}
spec: {owner: jane@example.com, project: platform, ceiling: destructive}
---
apiVersion: bailiwick/v1
kind: Policy
metadata: {name: finance-reads}
spec:
  cedar: |
    permit (principal in Group::"finance", action in Action::"call_tool", resource in Server::"finance")
    when { resource.tier == "retrieval" };
"#;

/// A state with what the server keeps beside it.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) entries: Entries,
    pub(crate) events: Vec<Event>,
    /// The same events, with the revision each group of them made.
    pub(crate) changes: Vec<(u64, Vec<Event>)>,
    pub(crate) seconds: u64,
    requests: u64,
}

impl World {
    /// With the issue's example applied and its server seen.
    pub(crate) fn example() -> Self {
        let mut world = Self::default();
        world.apply_seen(EXAMPLE, "finance", &finance_tools()).unwrap();
        world
    }

    pub(crate) fn context(&mut self) -> Context {
        self.requests += 1;
        let number = self.requests;
        Context {
            now_micros: START_MICROS + self.seconds * 1_000_000,
            actor: "admin".into(),
            request_id: format!("r-{number}"),
            ids: FreshIds {
                consent: format!("c-{number}"),
                session: format!("s-{number}"),
                token: format!("t-{number}"),
            },
        }
    }

    pub(crate) fn run(&mut self, command: Command) -> Result<Decision, Rejection> {
        let context = self.context();
        self.run_as(command, &context)
    }

    pub(crate) fn run_as(&mut self, command: Command, context: &Context) -> Result<Decision, Rejection> {
        let decision = decide(&self.state, command, context)?;
        self.commit(&decision.events);
        Ok(decision)
    }

    fn commit(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let revision = self.state.revision + 1;
        for change in view::evolve_all(&mut self.state, events, revision) {
            self.entries.apply(&change);
        }
        self.events.extend_from_slice(events);
        self.changes.push((revision, events.to_vec()));
        self.invariant_deltas_lead_to_the_snapshot();
        self.invariant_everything_named_exists();
        self.invariant_plain_names_are_unique();
        self.invariant_state_survives_a_snapshot();
    }

    pub(crate) fn apply(&mut self, yaml: &str) -> Result<Decision, Rejection> {
        let manifests = parse(yaml).map_err(Rejection::Invalid)?;
        self.run(Command::Apply { manifests, discovered: BTreeMap::new() })
    }

    pub(crate) fn apply_seen(
        &mut self,
        yaml: &str,
        server: &str,
        tools: &[ToolDefinition],
    ) -> Result<Decision, Rejection> {
        let manifests = parse(yaml).map_err(Rejection::Invalid)?;
        let discovered = BTreeMap::from([(server.to_owned(), Ok(tools.to_vec()))]);
        self.run(Command::Apply { manifests, discovered })
    }

    pub(crate) fn delete(&mut self, resources: &[(Kind, &str)]) -> Result<Decision, Rejection> {
        let resources = resources.iter().map(|(kind, name)| ResourceRef::new(*kind, *name)).collect();
        self.run(Command::Delete { resources })
    }

    pub(crate) fn report(&mut self, server: &str, tools: &[ToolDefinition]) -> Result<Decision, Rejection> {
        self.run(Command::ReportTools { server: server.into(), tools: tools.to_vec() })
    }

    pub(crate) fn show(&self, kind: Kind, name: &str) -> serde_json::Value {
        let now_seconds = START_MICROS / 1_000_000 + self.seconds;
        show::one(&self.state, &ResourceRef::new(kind, name), now_seconds).unwrap()
    }

    fn invariant_deltas_lead_to_the_snapshot(&self) {
        let snapshot = view::entries(&self.state);
        assert_eq!(self.entries, snapshot, "the deltas do not lead to the snapshot");
        assert_eq!(self.entries.digest(), snapshot.digest());
    }

    fn invariant_everything_named_exists(&self) {
        for virtual_server in self.state.virtual_servers.values() {
            assert!(virtual_server.spec.servers.iter().all(|entry| self.state.servers.contains_key(&entry.server)));
        }
        assert!(self.state.agents.values().all(|agent| self.state.users.contains_key(&agent.spec.owner)));
        let mut vouched = self.state.clients.values().filter_map(|client| client.spec.workload.as_ref());
        assert!(vouched.all(|workload| self.state.identity_providers.contains_key(&workload.provider)));
    }

    fn invariant_plain_names_are_unique(&self) {
        for virtual_server in self.state.virtual_servers.values().filter(|one| one.spec.naming == Naming::Plain) {
            let mut names = BTreeSet::new();
            for entry in &virtual_server.spec.servers {
                for (name, tool) in &self.state.servers.get(&entry.server).unwrap().tools {
                    let towards_clients = entry.given_name(name).unwrap_or(name);
                    let is_shown = tool.pinned.is_some() && entry.shows(name);
                    assert!(!is_shown || names.insert(towards_clients), "{towards_clients} is shown twice");
                }
            }
        }
    }

    fn invariant_state_survives_a_snapshot(&self) {
        let bytes = serde_json::to_vec(&self.state).unwrap();
        assert_eq!(serde_json::from_slice::<State>(&bytes).unwrap(), self.state);
    }
}

pub(crate) fn parse(yaml: &str) -> Result<Vec<Manifest>, Vec<Problem>> {
    manifest::parse(&[("f.yaml".to_owned(), yaml.to_owned())])
}

pub(crate) fn tool(name: &str, annotations: &str) -> ToolDefinition {
    let json = format!(r#"{{"name": "{name}", "inputSchema": {{"type": "object"}}, "annotations": {annotations}}}"#);
    ToolDefinition { name: name.into(), json }
}

pub(crate) fn finance_tools() -> Vec<ToolDefinition> {
    vec![
        tool("query_data", r#"{"readOnlyHint": true}"#),
        tool("create_charge", r#"{"destructiveHint": true}"#),
        tool("delete_account", "{}"),
    ]
}

pub(crate) fn wish() -> IssueToken {
    IssueToken {
        user: "jane@example.com".into(),
        agent: "coding-assistant".into(),
        virtual_server: "finance".into(),
        level: None,
        ttl_seconds: 600,
        reason: "try it".into(),
        client: "bailiwick-admin".into(),
    }
}

/// "created Server/finance" and so on.
pub(crate) fn actions(decision: &Decision) -> Vec<String> {
    match &decision.answer {
        Answer::Changes(changes) | Answer::Rollout(Stepped { changes, .. }) => {
            let line = |kind: Kind, name: &str, action: &str| format!("{action} {kind}/{name}");
            changes.iter().map(|one| line(one.resource.kind, &one.resource.name, one.action.as_str())).collect()
        }
        Answer::Done
        | Answer::Granted(_)
        | Answer::Fulfilled(_)
        | Answer::Revoked(_)
        | Answer::JoinToken { .. }
        | Answer::Member { .. } => Vec::new(),
    }
}

pub(crate) fn types(decision: &Decision) -> Vec<&'static str> {
    decision.events.iter().map(|event| event.change.type_word()).collect()
}

pub(crate) fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// A manifest's YAML without its first two lines.
pub(crate) fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: bailiwick/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

pub(crate) fn is_user(manifest: &Manifest) -> bool {
    matches!(manifest.spec, Spec::User(_))
}
