//! Growth, counted: what compiling a configuration and listing its tools cost by how much there is.
//!
//! Counts are of allocations, which are the same on every machine; how long it takes is in `docs/performance.md`. Each
//! claim compares a world with one several times as large: what is claimed to be linear may cost so many times more,
//! and a little, and what is claimed not to depend on something nothing more.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_data_plane_core::{Caller, Catalogue, Config, Exchange, Step, edge::handle, sealed::SealingKeys};
use bailiwick_proto::{
    config_digest,
    v1::{self, resource::Resource as Kind},
};
use prost::Message as _;

const NOW: i64 = 1_800_000_000;

/// How much there is.
#[derive(Clone, Copy, Debug)]
struct Size {
    servers: usize,
    tools_of_each: usize,
    agents: usize,
    virtual_servers: usize,
    policies: usize,
}

const SMALL: Size = Size { servers: 5, tools_of_each: 100, agents: 100, virtual_servers: 5, policies: 5 };

fn entry(key: String, kind: Kind) -> v1::Entry {
    v1::Entry { key, value: v1::Resource { resource: Some(kind) }.encode_to_vec() }
}

fn tool(server: &str, number: usize) -> v1::Entry {
    let name = format!("tool_{number:05}");
    let json = format!(
        r#"{{"description":"Does thing number {number} of many, in a few words as real ones have.","inputSchema":{{"properties":{{"a":{{"type":"string"}},"b{number}":{{"type":"integer"}}}},"type":"object"}},"name":"{name}"}}"#
    );
    let hash = hex::encode(digest(&SHA256, json.as_bytes()));
    let (tier, cost) = ("retrieval".into(), String::new());
    let tool = v1::Tool { server: server.to_owned(), name: name.clone(), json, hash, tier, cost, quarantined: false };
    entry(format!("tool/{server}/{name}"), Kind::Tool(tool))
}

/// Every virtual server is over one server; the first one's tools may be called.
fn entries(size: Size, shown: &str) -> Vec<v1::Entry> {
    let mut all = Vec::new();
    for server in (0..size.servers).map(|number| format!("s{number}")) {
        let known =
            v1::Server { name: server.clone(), url: "http://s.test/".into(), timeout_ms: 1, ..Default::default() };
        all.push(entry(format!("server/{server}"), Kind::Server(known)));
        all.extend((0..size.tools_of_each).map(|number| tool(&server, number)));
    }
    for number in 0..size.virtual_servers {
        let (name, servers) = (format!("v{number}"), vec![format!("s{}", number % size.servers)]);
        let (naming, tools) = ("prefixed".into(), shown.to_owned());
        let listed = v1::VirtualServer { name: name.clone(), servers, naming, tools, ..v1::VirtualServer::default() };
        all.push(entry(format!("virtual_server/{name}"), Kind::VirtualServer(listed)));
    }
    for number in 0..size.agents {
        let name = format!("agent-{number}");
        let (owner, project, ceiling) = ("jane@example.com".into(), "p".into(), "destructive".into());
        let agent = v1::Agent { name: name.clone(), owner, project, ceiling, active: true };
        all.push(entry(format!("agent/{name}"), Kind::Agent(agent)));
    }
    for number in 0..size.policies {
        let name = format!("policy-{number}");
        let cedar = format!(
            "permit (principal in Group::\"g{number}\", action in Action::\"call_tool\", resource in Server::\"s0\");"
        );
        all.push(entry(format!("policy/{name}"), Kind::Policy(v1::Policy { name, cedar, version: 1 })));
    }
    all.push(entry("user/jane@example.com".into(), Kind::User(jane())));
    all.push(entry("consent/c".into(), Kind::Consent(consent())));
    all
}

fn jane() -> v1::User {
    v1::User { name: "jane@example.com".into(), groups: vec!["g0".into()], active: true }
}

fn consent() -> v1::Consent {
    v1::Consent {
        id: "c".into(),
        user: "jane@example.com".into(),
        agent: "agent-0".into(),
        virtual_server: "v0".into(),
        level: "destructive".into(),
        expires_at: NOW + 600,
        revoked: false,
        client: "cli".into(),
        ..v1::Consent::default()
    }
}

fn snapshot(entries: &[v1::Entry]) -> v1::Snapshot {
    let digest = config_digest::of_entries(entries).to_vec();
    v1::Snapshot { revision: 1, entries: entries.to_vec(), last: true, digest }
}

fn catalogue(entries: &[v1::Entry]) -> (Catalogue, Arc<Config>) {
    let mut catalogue = Catalogue::new();
    let applied = catalogue.snapshot(snapshot(entries)).unwrap().unwrap();
    assert!(applied.refused.is_empty() && applied.config.warnings.is_empty(), "{:?}", applied.refused);
    (catalogue, applied.config)
}

/// What taking a snapshot in costs, digest and policies included.
fn cost_of_snapshot(size: Size, shown: &str) -> AllocationInfo {
    let entries = entries(size, shown);
    let whole = snapshot(&entries);
    let mut kept = None;
    let cost = measure(|| {
        let mut catalogue = Catalogue::new();
        kept = catalogue.snapshot(whole.clone()).unwrap();
    });
    assert!(kept.is_some());
    cost
}

/// What a change of one entry costs.
fn cost_of_delta(entries: &[v1::Entry], changed: v1::Entry) -> AllocationInfo {
    let (mut catalogue, config) = catalogue(entries);
    let mut after: Vec<v1::Entry> = entries.iter().filter(|entry| entry.key != changed.key).cloned().collect();
    after.push(changed.clone());
    let digest = config_digest::of_entries(&after).to_vec();
    let changes = vec![v1::EntryChange { key: changed.key, value: Some(changed.value) }];
    let delta = v1::Delta { from: config.revision, to: 2, changes, digest };
    let mut applied = None;
    let cost = measure(|| applied = Some(catalogue.delta(&delta).unwrap()));
    assert!(applied.is_some_and(|applied| applied.revision == 2 && applied.refused.is_empty()));
    cost
}

/// `tools/list` of a modern client.
fn list(config: &Config) -> (AllocationInfo, Vec<u8>) {
    let keys = SealingKeys::new(&[v1::SealingKey { id: "k".into(), key: vec![1; 32] }]).unwrap();
    let [user, agent, virtual_server] = ["jane@example.com", "agent-0", "v0"].map(str::to_owned);
    let caller = Caller {
        user,
        agent,
        project: "p".into(),
        client: "cli".into(),
        consent: "c".into(),
        session: "s".into(),
        token_id: "t".into(),
        scope_level: bailiwick_proto::Tier::Destructive,
        virtual_server,
        min_revision: 0,
        bound: false,
    };
    let exchange = Exchange {
        config,
        caller: &caller,
        virtual_server: "v0",
        sealing_keys: &keys,
        nonce: [3; 24],
        now_unix: NOW,
        request_id: "r",
    };
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let headers: [(&str, &[u8]); 4] = [
        ("content-type", b"application/json"),
        ("accept", b"*/*"),
        ("mcp-protocol-version", b"2026-07-28"),
        ("mcp-method", b"tools/list"),
    ];
    let mut answered = None;
    let cost = measure(|| answered = Some(handle(&exchange, headers, body.as_bytes()).0));
    match answered {
        Some(Step::Respond(reply)) => (cost, reply.body.unwrap()),
        other => panic!("no list: {other:?}"),
    }
}

fn assert_within(what: &str, cost: &AllocationInfo, bound: u64) {
    assert!(cost.count_total <= bound, "{what}: {} allocations, at most {bound}", cost.count_total);
}

#[test]
fn compiling_costs_as_much_for_each_tool_however_many_there_are() {
    for shown in ["", "search"] {
        let few = cost_of_snapshot(SMALL, shown);
        let many = cost_of_snapshot(Size { tools_of_each: SMALL.tools_of_each * 8, ..SMALL }, shown);
        assert_within("eight times the tools", &many, few.count_total * 9);
    }
}

#[test]
fn a_virtual_server_costs_what_is_behind_it_and_not_what_there_is() {
    let of = |virtual_servers, servers| {
        let size = Size { servers, virtual_servers, ..SMALL };
        cost_of_snapshot(size, "").count_total
    };
    let (one, more) = (of(5, 5), of(50, 5));
    let (one_of_many, more_of_many) = (of(5, 40), of(50, 40));
    let (added, added_of_many) = (more - one, more_of_many - one_of_many);
    assert!(added_of_many <= added + added / 8, "{added_of_many} for 45 virtual servers, {added} where there is less");
}

#[test]
fn who_there_is_costs_nothing_when_somebody_changes() {
    let revoked = || {
        let consent = v1::Consent { revoked: true, ..consent() };
        entry("consent/c".into(), Kind::Consent(consent))
    };
    let few = cost_of_delta(&entries(SMALL, ""), revoked());
    let many = cost_of_delta(&entries(Size { agents: 20_000, tools_of_each: 800, ..SMALL }, ""), revoked());
    assert_within("200 times the agents", &many, few.count_total * 2 + 100);
}

#[test]
fn a_changed_policy_makes_no_tool_anew() {
    let changed = || {
        let cedar = "forbid (principal, action, resource in Server::\"s1\");".into();
        entry("policy/policy-1".into(), Kind::Policy(v1::Policy { name: "policy-1".into(), cedar, version: 2 }))
    };
    let whole = cost_of_snapshot(SMALL, "search");
    let change = cost_of_delta(&entries(SMALL, "search"), changed());
    assert_within("a change of a policy", &change, whole.count_total);
}

/// Most allocations of a list that its caller has asked for before: for each tool, and for all that is around them.
const OF_EACH: u64 = 2;
const AROUND: u64 = 64;

#[test]
fn a_list_of_tools_is_copied_once_and_costs_little_when_it_is_asked_for_again() {
    let (_, config) = catalogue(&entries(Size { tools_of_each: 1_000, ..SMALL }, ""));
    let (first, body) = list(&config);
    let (again, same) = list(&config);
    assert_eq!(body, same);
    let listed: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(listed["result"]["tools"].as_array().map(Vec::len), Some(1_000));
    let body = u64::try_from(body.len()).unwrap();
    for cost in [first, again] {
        assert!(cost.bytes_max <= body + body / 2, "{} bytes are held for a body of {body}", cost.bytes_max);
    }
    assert_within("a list that is asked for again", &again, OF_EACH * 1_000 + AROUND);
}
