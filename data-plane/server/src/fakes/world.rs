//! A small configuration: one person, one agent, one consent, one server with three tools, and the token key.

use bailiwick_ledger_core::canonical;
use bailiwick_proto::v1::{self, resource::Resource as Kind};
use bailiwick_token::{Actor, Claims, SigningKey, mint};
use prost::Message as _;

use super::server::definitions;

pub(crate) const ISSUER: &str = "http://issuer.test";
pub(crate) const MCP_URL: &str = "http://gateway.test/mcp";

pub(crate) fn now_unix() -> i64 {
    jiff::Timestamp::now().as_second()
}

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::from_ed25519_seed(&[1; 32]).unwrap()
}

pub(crate) fn entry(key: &str, kind: Kind) -> v1::Entry {
    v1::Entry { key: key.to_owned(), value: v1::Resource { resource: Some(kind) }.encode_to_vec() }
}

pub(crate) fn consent(revoked: bool) -> v1::Entry {
    entry("consent/c-1", Kind::Consent(v1::Consent { revoked, ..whole() }))
}

/// The same for these tools only.
pub(crate) fn narrowed(tools: &[&str]) -> v1::Entry {
    let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
    let whole = whole();
    let (level, listed_level) = (String::new(), whole.level);
    entry("consent/c-1", Kind::Consent(v1::Consent { level, listed_level, tools, ..whole }))
}

fn whole() -> v1::Consent {
    v1::Consent {
        id: "c-1".into(),
        user: "jane@example.com".into(),
        agent: "coder".into(),
        virtual_server: "finance".into(),
        level: "destructive".into(),
        expires_at: now_unix() + 3600,
        client: "cli".into(),
        ..v1::Consent::default()
    }
}

pub(crate) fn policy(cedar: &str) -> v1::Entry {
    entry("policy/all", Kind::Policy(v1::Policy { name: "all".into(), cedar: cedar.into(), version: 3 }))
}

pub(crate) const PERMIT_ALL: &str = r#"permit (principal, action in Action::"call_tool", resource);"#;
pub(crate) const PERMIT_READS: &str =
    r#"permit (principal, action in Action::"call_tool", resource) when { resource.tier == "retrieval" };"#;

/// Tools are pinned unless `pinned` is false.
pub(crate) fn entries(server_url: &str, cedar: &str, pinned: bool) -> Vec<v1::Entry> {
    let key = signing_key();
    let jwk = serde_json::to_string(key.public_jwk()).unwrap();
    let mut entries = vec![
        entry("issuer/", Kind::Issuer(v1::Issuer { issuer: ISSUER.into(), mcp_url: MCP_URL.into() })),
        entry(
            &format!("token_key/{}", key.kid()),
            Kind::TokenKey(v1::TokenKey { kid: key.kid().into(), alg: "EdDSA".into(), jwk }),
        ),
        entry(
            "user/jane@example.com",
            Kind::User(v1::User { name: "jane@example.com".into(), groups: vec!["finance".into()], active: true }),
        ),
        entry(
            "agent/coder",
            Kind::Agent(v1::Agent {
                name: "coder".into(),
                owner: "jane@example.com".into(),
                project: "platform".into(),
                ceiling: "destructive".into(),
                active: true,
            }),
        ),
        consent(false),
        entry(
            "server/finance",
            Kind::Server(v1::Server {
                name: "finance".into(),
                url: server_url.into(),
                timeout_ms: 1500,
                ..v1::Server::default()
            }),
        ),
        entry(
            "virtual_server/finance",
            Kind::VirtualServer(v1::VirtualServer {
                name: "finance".into(),
                servers: vec!["finance".into()],
                naming: "plain".into(),
                ..v1::VirtualServer::default()
            }),
        ),
        policy(cedar),
    ];
    let tiers = ["retrieval", "transactional", "destructive"];
    for (definition, tier) in definitions().into_iter().zip(tiers).filter(|_| pinned) {
        let json = String::from_utf8(canonical::to_canonical(&definition).unwrap()).unwrap();
        let name = definition["name"].as_str().unwrap().to_owned();
        let tool = v1::Tool {
            server: "finance".into(),
            name: name.clone(),
            hash: bailiwick_ledger_core::record::record_id(json.as_bytes()),
            json,
            tier: tier.into(),
            cost: "0.02".into(),
            quarantined: false,
        };
        entries.push(entry(&format!("tool/finance/{name}"), Kind::Tool(tool)));
    }
    entries
}

pub(crate) fn claims() -> Claims {
    Claims {
        iss: ISSUER.into(),
        aud: format!("{MCP_URL}/finance"),
        sub: "jane@example.com".into(),
        agent_sub: "coder".into(),
        project_id: "platform".into(),
        client_id: "cli".into(),
        consent_id: "c-1".into(),
        sid: "s-1".into(),
        scope: "mcp:tools".into(),
        act: Actor { sub: "coder".into(), act: None },
        jti: "t-1".into(),
        iat: now_unix() - 10,
        nbf: None,
        exp: now_unix() + 600,
        min_revision: None,
        cnf: None,
        binding_alg: None,
        binding: None,
    }
}

pub(crate) fn token(claims: &Claims) -> String {
    mint(claims, &signing_key()).unwrap().expose().to_owned()
}
