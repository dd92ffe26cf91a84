//! A small world for this crate's tests: one person, one agent, one consent, two servers, a few tools and policies.

use std::sync::Arc;

use aws_lc_rs::digest;
use bailiwick_proto::{Tier, config_digest, v1, v1::resource::Resource as Kind};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    caller::Caller,
    catalogue::{Applied, Catalogue},
    config::Config,
};

pub(crate) const NOW: i64 = 1_800_000_000;

pub(crate) fn caller() -> Caller {
    Caller {
        user: "jane@example.com".into(),
        agent: "coder".into(),
        project: "platform".into(),
        client: "cli".into(),
        consent: "c-1".into(),
        session: "s-1".into(),
        token_id: "t-1".into(),
        scope_level: Tier::Destructive,
        virtual_server: "finance".into(),
        min_revision: 0,
        bound: false,
    }
}

/// Entries by key; change what a test is about, then compile.
#[derive(Clone, Debug)]
pub(crate) struct World(pub(crate) Vec<v1::Entry>);

pub(crate) fn entry(key: &str, kind: Kind) -> v1::Entry {
    v1::Entry { key: key.to_owned(), value: v1::Resource { resource: Some(kind) }.encode_to_vec() }
}

pub(crate) fn tool(server: &str, definition: &Value, tier: &str) -> v1::Tool {
    let json = serde_json_canonicalizer::to_string(definition).unwrap();
    v1::Tool {
        server: server.into(),
        name: definition["name"].as_str().unwrap().into(),
        hash: hex::encode(digest::digest(&digest::SHA256, json.as_bytes())),
        json,
        tier: tier.into(),
        cost: String::new(),
        quarantined: false,
    }
}

pub(crate) fn definition(name: &str) -> Value {
    json!({"name": name, "description": format!("Does {name}."), "inputSchema": {"type": "object"}})
}

pub(crate) fn user(active: bool) -> Kind {
    Kind::User(v1::User { name: "jane@example.com".into(), groups: vec!["finance".into()], active })
}

pub(crate) fn agent(ceiling: &str, active: bool) -> Kind {
    let (name, owner, project) = ("coder".into(), "jane@example.com".into(), "platform".into());
    Kind::Agent(v1::Agent { name, owner, project, ceiling: ceiling.into(), active })
}

pub(crate) fn consent() -> v1::Consent {
    v1::Consent {
        id: "c-1".into(),
        user: "jane@example.com".into(),
        agent: "coder".into(),
        virtual_server: "finance".into(),
        level: "destructive".into(),
        expires_at: NOW + 600,
        revoked: false,
        client: "cli".into(),
        ..v1::Consent::default()
    }
}

/// The consent, narrowed to these tools.
pub(crate) fn narrowed(tools: &[&str]) -> v1::Consent {
    let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
    v1::Consent { level: String::new(), listed_level: "destructive".into(), tools, ..consent() }
}

pub(crate) fn virtual_server(name: &str, servers: &[&str], naming: &str) -> Kind {
    let servers = servers.iter().map(|server| (*server).to_owned()).collect();
    let (name, naming) = (name.into(), naming.into());
    Kind::VirtualServer(v1::VirtualServer { name, servers, naming, ..v1::VirtualServer::default() })
}

/// The virtual server `finance` over `finance`, with plain names, as this changes it.
pub(crate) fn finance_with(change: impl FnOnce(&mut v1::VirtualServer)) -> v1::Entry {
    let (name, servers, naming) = ("finance".into(), vec!["finance".into()], "plain".into());
    let mut listed = v1::VirtualServer { name, servers, naming, ..v1::VirtualServer::default() };
    change(&mut listed);
    entry("virtual_server/finance", Kind::VirtualServer(listed))
}

pub(crate) fn policy(name: &str, version: u64, cedar: &str) -> v1::Entry {
    let policy = v1::Policy { name: name.into(), cedar: cedar.into(), version };
    entry(&format!("policy/{name}"), Kind::Policy(policy))
}

pub(crate) const PERMIT_FINANCE: &str =
    r#"permit (principal in Group::"finance", action in Action::"call_tool", resource in Server::"finance");"#;

pub(crate) fn server(name: &str) -> v1::Entry {
    let server = v1::Server {
        name: name.into(),
        url: format!("http://{name}.test/mcp"),
        timeout_ms: 1000,
        ..v1::Server::default()
    };
    entry(&format!("server/{name}"), Kind::Server(server))
}

pub(crate) fn tool_entry(tool: v1::Tool) -> v1::Entry {
    entry(&format!("tool/{}/{}", tool.server, tool.name), Kind::Tool(tool))
}

pub(crate) fn world() -> World {
    let region = json!({"name": "by_region", "inputSchema": {"type": "object", "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
    }}});
    World(vec![
        entry("user/jane@example.com", user(true)),
        entry("agent/coder", agent("destructive", true)),
        entry("consent/c-1", Kind::Consent(consent())),
        server("finance"),
        server("hr"),
        tool_entry(tool("finance", &definition("query_data"), "retrieval")),
        tool_entry(tool("finance", &definition("create_charge"), "transactional")),
        tool_entry(tool("finance", &definition("drop_ledger"), "destructive")),
        tool_entry(tool("finance", &region, "retrieval")),
        tool_entry(tool("hr", &definition("list_people"), "retrieval")),
        entry("virtual_server/finance", virtual_server("finance", &["finance"], "plain")),
        entry("virtual_server/all", virtual_server("all", &["finance", "hr"], "prefixed")),
        policy("finance", 3, PERMIT_FINANCE),
    ])
}

impl World {
    /// Puts an entry in place of the one under its key.
    pub(crate) fn with(mut self, changed: v1::Entry) -> Self {
        self.0.retain(|entry| entry.key != changed.key);
        self.0.push(changed);
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.0.retain(|entry| entry.key != key);
        self
    }

    pub(crate) fn digest(&self) -> Vec<u8> {
        config_digest::of_entries(&self.0).to_vec()
    }

    pub(crate) fn snapshot(&self, revision: u64) -> v1::Snapshot {
        v1::Snapshot { revision, entries: self.0.clone(), last: true, digest: self.digest() }
    }

    pub(crate) fn apply(&self, catalogue: &mut Catalogue, revision: u64) -> Applied {
        catalogue.snapshot(self.snapshot(revision)).unwrap().unwrap()
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.apply(&mut Catalogue::new(), 7).config
    }
}
