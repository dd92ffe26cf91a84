//! Events: golden bytes of every kind, their recorded form, and its bounds.
//!
//! A golden file is never edited: what was written once must parse for ever. A kind without one gets its file written
//! by the test, which then fails so that somebody looks at it.

use std::{collections::BTreeMap, fs, path::PathBuf};

use bailiwick_control_plane_core::{
    Change, Command, Event, Kind, State, evolve,
    node::Role,
    recorded,
    token_key::{Issuer, TokenKey},
};
use bailiwick_ledger_core::tree::leaf_hash;
use serde_json::Value;

use crate::world::{EXAMPLE, World, document, finance_tools, tool, wish};

/// Largest record (`ledger.md`); its other fields take well under 1 KiB.
const CONTROL_BYTES_MAX: usize = 31 * 1024;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)
}

/// A life in which every kind of event happens, by commands: the changes with their revisions.
pub(crate) fn lived() -> Vec<(u64, Vec<Event>)> {
    let mut world = World::example();
    world.report("finance", &[tool("query_data", r#"{"readOnlyHint": false}"#)]).unwrap();
    world.run(Command::PinTools { server: "finance".into(), tools: vec![], discovered: None }).unwrap();
    world.run(Command::IssueToken(wish())).unwrap();
    world.run(Command::RegisterNode { node: "dp-1".into(), role: Role::DataPlane, public_key: [7; 32] }).unwrap();
    let key =
        TokenKey { kid: "k1".into(), alg: "EdDSA".into(), jwk: r#"{"crv":"Ed25519","kty":"OKP","x":"AA"}"#.into() };
    world.run(Command::RegisterTokenKey(key)).unwrap();
    let issuer = Issuer { issuer: "http://127.0.0.1:8430".into(), mcp_url: "http://127.0.0.1:8420/mcp".into() };
    world.run(Command::SetIssuer(issuer)).unwrap();
    let commit = bailiwick_control_plane_core::checkpoint::CommitCheckpoint {
        origin: "bailiwick.test/log".into(),
        old_size: 0,
        size: 1,
        root: leaf_hash(b"a"),
        consistency: vec![],
    };
    world.run(Command::CommitCheckpoint(commit)).unwrap();
    let all = [
        (Kind::Server, "finance"),
        (Kind::VirtualServer, "finance"),
        (Kind::User, "jane@example.com"),
        (Kind::Agent, "coding-assistant"),
        (Kind::Policy, "finance-reads"),
        (Kind::Node, "dp-1"),
    ];
    world.delete(&all).unwrap();
    crate::members::one_of_each(&mut world);
    crate::secrets::one_of_each(&mut world);
    crate::revocations::one_of_each(&mut world);
    crate::reserves::one_of_each(&mut world);
    crate::rollouts::one_of_each(&mut world);
    crate::secrets::one_for_servers(&mut world);
    crate::assertions::one_of_each(&mut world);
    crate::authorizations::one_of_each(&mut world);
    crate::sign_ins::at_a_provider(&mut world);
    crate::refusals::one_of_each(&mut world);
    crate::key_rotations::one_of_each(&mut world);
    crate::exchanges::one_of_each(&mut world);
    crate::workloads::a_token(&mut world);
    crate::provisioning::one_of_each(&mut world);
    crate::decision_clients::one_of_each(&mut world);
    crate::bindings::one_of_each(&mut world);
    crate::signals::one_of_each(&mut world);
    crate::contexts::one_of_each(&mut world);
    crate::provisioned_agents::one_of_each(&mut world);
    world.changes
}

/// One event of every kind: the first there was.
fn one_of_each() -> BTreeMap<&'static str, Event> {
    let mut events = BTreeMap::new();
    for event in lived().into_iter().flat_map(|(_, events)| events) {
        events.entry(event.change.type_word()).or_insert(event);
    }
    events
}

#[test]
fn every_kind_of_event_is_written_as_its_golden_file_says() {
    let events = one_of_each();
    let mut written = Vec::new();
    for word in Change::TYPES {
        let event = events.get(word).unwrap_or_else(|| panic!("no command led to {word}"));
        let recorded = recorded(event, 42).unwrap_or(Value::String("not recorded".into()));
        let value = serde_json::json!({"event": event, "recorded": recorded});
        let path = golden(&format!("{word}.json"));
        match fs::read_to_string(&path) {
            Ok(golden) => assert_eq!(value, serde_json::from_str::<Value>(&golden).unwrap(), "{word}"),
            Err(_) => {
                fs::write(&path, format!("{value:#}\n")).unwrap();
                written.push(word);
            }
        }
    }
    assert!(written.is_empty(), "golden files were missing and are written; look at them: {written:?}");
}

#[test]
fn every_event_ever_shipped_still_parses_and_applies() {
    let mut files = 0;
    for file in fs::read_dir(golden("")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let event: Event = serde_json::from_value(golden["event"].clone()).unwrap();
        let mut state = State::default();
        evolve(&mut state, &event, 7);
        assert_eq!(state.revision, 7);
        files += 1;
    }
    assert!(files >= Change::TYPES.len());
}

#[test]
fn a_field_that_comes_later_does_not_keep_an_old_node_from_reading() {
    let json = r#"{"type":"user_deleted","actor":"a","request_id":"","time":"1","name":"u","later":"x"}"#;
    let event: Event = serde_json::from_str(json).unwrap();
    assert_eq!(event.change.type_word(), "user_deleted");
}

/// Canonical bytes exist, and no number occurs: not even small ones, which might grow.
fn check_recordable(value: &Value) {
    bailiwick_ledger_core::canonical::to_canonical(value).unwrap();
    assert!(!has_number(value), "{value}");
}

fn has_number(value: &Value) -> bool {
    match value {
        Value::Null | Value::Number(_) => true,
        Value::Bool(_) | Value::String(_) => false,
        Value::Array(items) => items.iter().any(has_number),
        Value::Object(fields) => fields.values().any(has_number),
    }
}

#[test]
fn recorded_events_are_plain_and_carry_their_revision() {
    for (word, event) in one_of_each() {
        let Some(recorded) = recorded(&event, u64::MAX) else {
            assert!(["checkpoint_committed", "secret_sealed"].contains(&word), "{word}");
            continue;
        };
        check_recordable(&recorded);
        assert_eq!(recorded["revision"], u64::MAX.to_string(), "{word}");
        assert_eq!(recorded["type"], word);
        let runs = ["node_epoch_opened", "node_epoch_reserved", "node_reserve_begun"];
        assert_eq!(recorded.get("epoch").is_some(), runs.contains(&word));
        assert!(!recorded.to_string().contains("inputSchema"), "{word} records a definition");
    }
}

#[test]
fn the_largest_events_fit_into_a_record() {
    let mut world = World::default();
    world.apply(EXAMPLE).unwrap();
    let cedar = format!("//{}\npermit (principal, action, resource);", "\\\"".repeat(4_700));
    let yaml = document("Policy", "large", &format!("{{cedar: {}}}", Value::String(cedar)));
    world.apply(&yaml).unwrap();
    let tools: Vec<_> = (0..100).map(|number| tool(&format!("{}{number:03}", "𝄞".repeat(125)), "{}")).collect();
    world.report("finance", &tools).unwrap();
    assert_eq!(world.state.servers.get("finance").unwrap().tools.len(), 100);
    world.report("finance", &finance_tools()).unwrap();
    for event in &world.events {
        let bytes = recorded(event, u64::MAX).map_or(0, |recorded| recorded.to_string().len());
        assert!(bytes <= CONTROL_BYTES_MAX, "{} has {bytes} bytes", event.change.type_word());
    }
}
