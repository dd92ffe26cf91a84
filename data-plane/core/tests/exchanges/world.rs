//! The little that is configured: one person, one agent, one server with one tool, behind one virtual server; and a
//! consent of one of three kinds.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_data_plane_core::{Caller, Catalogue, Config, sealed::SealingKeys};
use bailiwick_proto::{Tier, config_digest, v1, v1::resource::Resource as Kind};
use prost::Message as _;

use crate::{random::Random, script::PATIENCE_MS};

/// Unix seconds at which virtual time begins.
pub(crate) const BEGAN_UNIX: i64 = 1_800_000_000;
pub(crate) const VIRTUAL_SERVER: &str = "finance";

/// What the person consented to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consented {
    /// Every tool.
    Whole,
    /// Some tools, the server's among them.
    Listed,
    /// Other tools: nothing may reach the server.
    Unlisted,
}

impl Consented {
    pub(crate) fn any(random: &mut Random) -> Self {
        match random.below(10) {
            0 => Self::Unlisted,
            1..5 => Self::Listed,
            _ => Self::Whole,
        }
    }

    fn tools(self) -> Vec<String> {
        let tools: &[&str] = match self {
            Self::Whole => &[],
            Self::Listed => &["finance/other", "finance/query_data"],
            Self::Unlisted => &["finance/other", "query/data"],
        };
        tools.iter().map(|tool| (*tool).to_owned()).collect()
    }
}

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
        virtual_server: VIRTUAL_SERVER.into(),
        min_revision: 0,
        bound: false,
    }
}

pub(crate) fn keys() -> SealingKeys {
    SealingKeys::new(&[v1::SealingKey { id: "k".into(), key: vec![5; 32] }]).unwrap()
}

pub(crate) fn config(consented: Consented) -> Arc<Config> {
    let entries = entries(consented.tools());
    let digest = config_digest::of_entries(&entries).to_vec();
    let snapshot = v1::Snapshot { revision: 7, entries, last: true, digest };
    Catalogue::new().snapshot(snapshot).unwrap().unwrap().config
}

fn entries(tools: Vec<String>) -> Vec<v1::Entry> {
    let definition = r#"{"inputSchema":{"type":"object"},"name":"query_data"}"#;
    let (jane, agent, finance) = ("jane@example.com", "coder", VIRTUAL_SERVER);
    let user = v1::User { name: jane.into(), groups: vec![finance.into()], active: true };
    let agent_of_jane = v1::Agent {
        name: agent.into(),
        owner: jane.into(),
        project: "platform".into(),
        ceiling: "destructive".into(),
        active: true,
    };
    let level = |is_for_listed| if is_for_listed { "destructive".to_owned() } else { String::new() };
    let consent = v1::Consent {
        id: "c-1".into(),
        user: jane.into(),
        agent: agent.into(),
        virtual_server: finance.into(),
        level: level(tools.is_empty()),
        listed_level: level(!tools.is_empty()),
        tools,
        expires_at: BEGAN_UNIX + 7 * 24 * 3_600,
        revoked: false,
        client: "cli".into(),
        earlier_agents: Vec::new(),
    };
    let server = v1::Server {
        name: finance.into(),
        url: "http://finance.test/mcp".into(),
        timeout_ms: PATIENCE_MS,
        ..v1::Server::default()
    };
    let tool = v1::Tool {
        server: finance.into(),
        name: "query_data".into(),
        hash: hex::encode(digest(&SHA256, definition.as_bytes())),
        json: definition.into(),
        tier: "retrieval".into(),
        cost: String::new(),
        quarantined: false,
    };
    let virtual_server = v1::VirtualServer {
        name: finance.into(),
        servers: vec![finance.into()],
        naming: "plain".into(),
        ..v1::VirtualServer::default()
    };
    let policy = v1::Policy { name: "all".into(), cedar: "permit (principal, action, resource);".into(), version: 1 };
    let entry = |key: &str, kind| v1::Entry {
        key: key.to_owned(),
        value: v1::Resource { resource: Some(kind) }.encode_to_vec(),
    };
    vec![
        entry("user/jane@example.com", Kind::User(user)),
        entry("agent/coder", Kind::Agent(agent_of_jane)),
        entry("consent/c-1", Kind::Consent(consent)),
        entry("server/finance", Kind::Server(server)),
        entry("tool/finance/query_data", Kind::Tool(tool)),
        entry("virtual_server/finance", Kind::VirtualServer(virtual_server)),
        entry("policy/all", Kind::Policy(policy)),
    ]
}
