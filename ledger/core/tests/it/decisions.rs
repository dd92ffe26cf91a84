//! Decisions for services on record: they stand for themselves, cannot be changed, dropped or written by others, and are
//! kept from readers that do not know them.

use bailiwick_ledger_core::{
    chain::{CONTROL_NODE, LEDGER_NODE, NodeChain},
    record::{Kind, PolicyRef, Record, RecordError},
    verify::{Report, Verdict},
};
use proptest::prelude::*;
use serde_json::json;

use crate::fixture::{Export, Log, assert_invalid, assert_valid, evaluated, ts};

/// Three decisions between a call's intent and its outcome. The decisions are leaves 5 to 7.
fn asked() -> Log {
    let mut log = Log::new();
    let call = log.intent("edge-1");
    for _ in 0..3 {
        log.write("edge-1", evaluated(log.now()));
    }
    log.outcome("edge-1", &call);
    log.head("edge-1", 1);
    log
}

fn after(attack: impl FnOnce(&mut Vec<Vec<u8>>)) -> Report {
    let mut leaves = asked().leaves;
    attack(&mut leaves);
    Export::of(&leaves).verify()
}

#[test]
fn a_log_with_decisions_is_valid_and_waits_for_no_outcome_of_theirs() {
    let report = asked().export().verify();
    assert_valid(&report);
    assert_eq!((report.verdict.clone(), report.intents_without_outcome), (Verdict::Valid, 0));
    assert_eq!(serde_json::to_value(&report).unwrap()["kinds"]["decision.evaluated"], json!(3));
}

#[test]
fn a_decision_that_is_changed_dropped_or_exchanged_is_found() {
    let turned = |leaf: &[u8]| {
        let text = std::str::from_utf8(leaf).unwrap();
        let turned = text.replacen("\"effect\":\"deny\"", "\"effect\":\"permit\"", 1);
        assert_ne!(turned, text);
        turned.into_bytes()
    };
    assert_invalid(&after(|leaves| leaves[6] = turned(&leaves[6])), Some(6), "does not name the hash");
    assert_invalid(&after(|leaves| drop(leaves.remove(6))), Some(6), "is missing before");
    assert_invalid(&after(|leaves| leaves.swap(5, 6)), Some(5), "is missing before");
    let again = |leaves: &mut Vec<Vec<u8>>| leaves.insert(7, leaves[6].clone());
    assert_invalid(&after(again), Some(7), "is repeated");
}

#[test]
fn only_nodes_decide() {
    for writer in [CONTROL_NODE, LEDGER_NODE] {
        let mut log = Log::new();
        let leaf = log.leaves.len() as u64;
        log.write(writer, evaluated(log.now()));
        assert_invalid(&log.export().verify(), Some(leaf), "may not write");
    }
}

#[test]
fn a_decision_says_what_was_decided_and_for_whom() {
    let whole = evaluated(ts(0));
    for (record, field) in [
        (Record { decision: None, ..whole.clone() }, "decision"),
        (Record { decision_client: None, ..whole.clone() }, "decision_client"),
    ] {
        let error = NodeChain::open("edge-1", 7).append(record).unwrap_err();
        assert!(matches!(error, RecordError::MissingField { field: missing, .. } if missing == field), "{error}");
    }
    assert!(NodeChain::open("edge-1", 7).append(whole).is_ok());
}

#[test]
fn a_kind_that_was_added_is_kept_from_readers_that_do_not_know_it() {
    let known_to = |reader: u32| Kind::ALL.iter().filter(|kind| kind.is_known_to(reader)).count();
    assert_eq!(Kind::ALL.get(17), Some(&Kind::DecisionEvaluated), "kinds are added at the end");
    assert_eq!([0, 1, 17].map(known_to), [17; 3], "a reader that says nothing knows those from before");
    assert!(Kind::DecisionEvaluated.is_known_to(18) && !Kind::DecisionEvaluated.is_known_to(17));
    assert_eq!(known_to(Kind::known()), Kind::ALL.len());
    assert_eq!(known_to(u32::MAX), Kind::ALL.len());
}

proptest! {
    #[test]
    fn whatever_names_a_decision_has_it_is_written_read_and_chained_alike(
        names in proptest::collection::vec(any::<String>(), 6),
        policies in proptest::collection::vec((any::<String>(), any::<u64>()), 0..4),
    ) {
        let mut record = evaluated(ts(1));
        let [user, agent, client, consent, tool, service] = names.try_into().unwrap();
        (record.user, record.agent, record.client) = (Some(user), Some(agent), Some(client));
        (record.consent, record.tool, record.decision_client) = (Some(consent), Some(tool), Some(service));
        let policy = |(name, version)| PolicyRef { name, version };
        record.decision.as_mut().unwrap().policies = policies.into_iter().map(policy).collect();
        let mut log = Log::new();
        log.write("edge-2", record.clone());
        let read = Record::parse(log.leaves.last().unwrap()).unwrap();
        prop_assert_eq!(&Record { prev: read.prev.clone(), ..placed(record, &read) }, &read);
        prop_assert!(log.export().verify().is_valid());
    }
}

/// The record at the place of another.
fn placed(record: Record, at: &Record) -> Record {
    Record { node: at.node.clone(), epoch: at.epoch, seq: at.seq, ..record }
}
