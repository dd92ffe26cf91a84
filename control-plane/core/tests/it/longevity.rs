//! Events are for ever: old readers and new data, new readers and old data.
//!
//! `tests/golden` holds one event of every kind that was ever shipped; `tests/golden_history` holds whole histories as
//! released versions wrote them, each with what it folded to. Neither is ever edited. A history that is named in
//! [`HISTORIES`] but missing is written by the test that asks for it, which then fails so that somebody looks at it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_control_plane_core::{
    Change, Event, State,
    stored::{self, Unreadable},
    view,
};
use serde_json::{Map, Value, json};

use crate::events::lived;

/// What releases wrote. The last one is what this version would write today; name a new one when events are added.
const HISTORIES: [&str; 6] = ["1-one-node", "2-cluster", "3-revocations", "4-rollouts", "5-credentials", "6-identity"];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).join(name)
}

fn golden_events() -> Vec<(String, Value)> {
    let files = fs::read_dir(folder("golden")).unwrap().map(|file| file.unwrap().path());
    let mut events: Vec<(String, Value)> = files
        .map(|path| {
            let golden: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), golden["event"].clone())
        })
        .collect();
    events.sort_by(|a, b| a.0.cmp(&b.0));
    events
}

fn read(event: &Value) -> Result<Event, Unreadable> {
    stored::read(event.to_string().as_bytes())
}

#[test]
fn every_kind_has_a_golden_file_and_no_shipped_kind_is_ever_dropped() {
    let files: BTreeSet<String> = golden_events().into_iter().map(|(name, _)| name).collect();
    let kinds: BTreeSet<String> = Change::TYPES.iter().map(|word| (*word).to_owned()).collect();
    let without: Vec<_> = kinds.difference(&files).collect();
    assert!(without.is_empty(), "no golden file; run the tests of `events` and look at what they write: {without:?}");
    let dropped: Vec<_> = files.difference(&kinds).collect();
    assert!(dropped.is_empty(), "shipped, but unknown to this version; events are for ever: {dropped:?}");
}

#[test]
fn the_name_of_a_golden_file_is_the_type_it_holds() {
    for (name, event) in golden_events() {
        assert_eq!(event["type"], Value::String(name));
    }
}

#[test]
fn reading_quickly_reads_the_same() {
    for (name, event) in golden_events() {
        let slowly: Event = serde_json::from_value(event.clone()).unwrap();
        assert_eq!(read(&event).unwrap(), slowly, "{name}");
    }
}

/// Members that a later version may have added to an event: each kind of value.
fn later_members() -> Map<String, Value> {
    let Value::Object(members) = json!({
        "later_text": "x", "later_number": "18446744073709551615", "later_list": ["a"], "later_map": {"a": {"b": "c"}},
        "later_flag": true,
    }) else {
        panic!("an object")
    };
    members
}

#[test]
fn an_old_reader_passes_over_members_that_an_event_gained_later() {
    for (name, event) in golden_events() {
        let mut newer = event.clone();
        newer.as_object_mut().unwrap().extend(later_members());
        assert_eq!(read(&newer).unwrap(), read(&event).unwrap(), "{name}");
    }
}

#[test]
fn an_old_reader_passes_over_members_that_a_pinned_tool_gained_later() {
    let (_, event) = golden_events().into_iter().find(|(name, _)| name == "tools_pinned").unwrap();
    let mut newer = event.clone();
    newer["tools"][0].as_object_mut().unwrap().extend(later_members());
    assert_eq!(read(&newer).unwrap(), read(&event).unwrap());
}

#[test]
fn a_spec_with_a_key_of_a_later_version_stops_an_old_reader_because_it_may_be_a_restriction() {
    let mut specs = 0;
    for (name, event) in golden_events() {
        if event.get("spec").is_none() {
            continue;
        }
        let mut newer = event.clone();
        newer["spec"]["only_on_weekdays"] = Value::Bool(true);
        let error = read(&newer).unwrap_err();
        assert!(matches!(&error, Unreadable::UnknownContent { word, .. } if *word == name), "{name}: {error}");
        assert!(error.to_string().contains("upgrade this node"), "{error}");
        specs += 1;
    }
    assert!(specs >= 5, "server, virtual server, user, agent and policy have specs");
}

#[test]
fn an_unknown_type_of_event_stops_an_old_reader_and_says_to_upgrade() {
    for (name, event) in golden_events() {
        let mut newer = event.clone();
        newer["type"] = Value::String(format!("{name}_more_strictly"));
        let error = read(&newer).unwrap_err();
        assert!(matches!(error, Unreadable::UnknownType { .. }), "{name}: {error}");
        assert!(error.to_string().contains("upgrade this node"), "{error}");
        assert!(error.to_string().contains(&format!("{name}_more_strictly")), "{error}");
    }
}

#[test]
fn a_type_word_never_floods_the_log_and_bytes_that_are_no_event_are_damage() {
    let long = json!({"type": "x".repeat(100_000), "actor": "a", "request_id": "", "time": "1"});
    assert!(read(&long).unwrap_err().to_string().len() < 300);
    for damaged in [&b""[..], b"{}", b"[]", b"null", b"{\"type\":7}", b"\xff\xfe", b"{\"type\":\"user_deleted\""] {
        assert!(matches!(stored::read(damaged).unwrap_err(), Unreadable::NoEvent(_)), "{damaged:?}");
    }
    let cut = json!({"type": "user_deleted", "actor": "a", "request_id": ""});
    assert!(matches!(read(&cut).unwrap_err(), Unreadable::UnknownContent { word: "user_deleted", .. }));
}

/// What one line of a history holds.
fn line(revision: u64, events: &[Event]) -> Value {
    json!({ "revision": revision.to_string(), "events": events })
}

/// One hash over what data planes get, apart from the digest of the config stream, which may be made otherwise one day.
fn entries_hash(state: &State) -> String {
    let hash = |parts: &[&[u8]]| digest(&SHA256, &parts.concat());
    let entries = view::entries(state);
    let entries: BTreeMap<&str, &[u8]> = entries.iter().collect();
    let each = entries.iter().map(|(key, value)| {
        let length = u32::try_from(key.len()).unwrap().to_be_bytes();
        hash(&[&length, key.as_bytes(), value]).as_ref().to_vec()
    });
    hex::encode(hash(&[&each.collect::<Vec<_>>().concat()]))
}

/// What a history folds to: after every change a hash of what data planes get, and the whole state at `revisions`.
fn fold(history: &str, revisions: &[String]) -> Value {
    let (mut state, mut digests, mut states) = (State::default(), Map::new(), Map::new());
    for line in history.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let revision = line["revision"].as_str().unwrap();
        let events: Vec<Event> = line["events"].as_array().unwrap().iter().map(|event| read(event).unwrap()).collect();
        view::evolve_all(&mut state, &events, revision.parse().unwrap());
        digests.insert(revision.to_owned(), entries_hash(&state).into());
        if revisions.iter().any(|one| one == revision) {
            states.insert(revision.to_owned(), serde_json::to_value(&state).unwrap());
        }
    }
    json!({ "entries_hashes": digests, "states": states })
}

/// Of a new history the states to keep: the largest one, and the last.
fn worth_keeping(history: &str) -> Vec<String> {
    let all: Vec<String> = history
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["revision"].as_str().unwrap().to_owned())
        .collect();
    let folded = fold(history, &all);
    let largest = all.iter().max_by_key(|revision| folded["states"][revision.as_str()].to_string().len()).unwrap();
    vec![largest.clone(), all.last().unwrap().clone()]
}

/// Everything of `golden` is in `now` as it was; what `now` has besides is empty, as old events could not fill it.
fn assert_kept(path: &str, golden: &Value, now: &Value) {
    match (golden, now) {
        (Value::Object(golden), Value::Object(now)) => {
            for (key, value) in golden {
                let kept = now.get(key).unwrap_or_else(|| panic!("{path}/{key} is gone"));
                assert_kept(&format!("{path}/{key}"), value, kept);
            }
            for (key, value) in now.iter().filter(|(key, _)| !golden.contains_key(*key)) {
                assert!(is_empty(value), "{path}/{key} came out of old events as {value}");
            }
        }
        (Value::Array(golden), Value::Array(now)) => {
            assert_eq!(golden.len(), now.len(), "{path}");
            for (index, (golden, now)) in golden.iter().zip(now).enumerate() {
                assert_kept(&format!("{path}/{index}"), golden, now);
            }
        }
        _ => assert_eq!(golden, now, "{path}"),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
    }
}

#[test]
fn every_history_ever_written_folds_to_the_states_it_folded_to_then() {
    let mut written = Vec::new();
    for name in HISTORIES {
        let file = |ending: &str| folder("golden_history").join(format!("{name}.{ending}"));
        if !file("events.jsonl").exists() {
            let lines: Vec<String> =
                lived().iter().map(|(revision, events)| format!("{}\n", line(*revision, events))).collect();
            let history = lines.concat();
            fs::create_dir_all(folder("golden_history")).unwrap();
            fs::write(file("folded.json"), format!("{:#}\n", fold(&history, &worth_keeping(&history)))).unwrap();
            fs::write(file("events.jsonl"), history).unwrap();
            written.push(name);
            continue;
        }
        let golden: Value = serde_json::from_str(&fs::read_to_string(file("folded.json")).unwrap()).unwrap();
        let revisions: Vec<String> = golden["states"].as_object().unwrap().keys().cloned().collect();
        assert_kept(name, &golden, &fold(&fs::read_to_string(file("events.jsonl")).unwrap(), &revisions));
    }
    assert!(written.is_empty(), "histories were missing and are written; look at them: {written:?}");
}

#[test]
fn the_latest_history_holds_every_kind_of_event() {
    let latest = HISTORIES.last().unwrap();
    let text = fs::read_to_string(folder("golden_history").join(format!("{latest}.events.jsonl"))).unwrap_or_default();
    let kinds: BTreeSet<String> = text
        .lines()
        .flat_map(|line| serde_json::from_str::<Value>(line).unwrap()["events"].as_array().unwrap().clone())
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect();
    let without: Vec<_> = Change::TYPES.iter().filter(|word| !kinds.contains(**word)).collect();
    assert!(without.is_empty(), "events were added: name a new history in HISTORIES. Missing: {without:?}");
}
