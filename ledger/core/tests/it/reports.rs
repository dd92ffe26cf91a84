//! What a report says of a log that is good: counts, open intents, unsigned ends, declared gaps; and its JSON.

use bailiwick_ledger_core::{
    chain::LEDGER_NODE,
    record::{Gap, Kind, Record, record_id},
    verify::{ExportReader, Verdict, verify_export},
};
use serde_json::json;

use crate::fixture::{Export, Log, assert_valid, intent, outcome, trust, ts};

fn gap(kind: Kind, first_seq: u64, last_seq: u64) -> Record {
    let gap = Gap { node: "edge-1".into(), epoch: 7, first_seq, last_seq, cause: None };
    Record { gap: Some(gap), ..Record::new(kind, ts(5)) }
}

#[test]
fn a_report_counts_kinds_nodes_runs_and_open_intents() {
    let report = Log::busy().export().verify();
    let kinds = json!({
        "call.denied": 2, "call.intent": 4, "call.outcome": 3, "control.event": 3, "node.epoch_open": 2, "node.head": 2,
    });
    let printed = serde_json::to_value(&report).unwrap();
    assert_eq!((&printed["result"], &printed["size"], &printed["checked"]), (&json!("VALID"), &json!(16), &json!(16)));
    assert_eq!(printed["kinds"], kinds);
    assert_eq!((&printed["intents_without_outcome"], &printed["open_intents"]), (&json!(1), &json!([15])));
    let edge = json!({"records": 6, "epochs": [{
        "epoch": 7, "records": 6, "first_seq": 0, "last_seq": 5, "signed_through": 3, "unsigned_records": 1,
        "missing_records": 0,
    }]});
    assert_eq!(printed["nodes"]["edge-1"], edge);
}

#[test]
fn an_invalid_report_names_leaf_and_reason_in_json() {
    let mut export = Log::busy().export();
    export.files.get_mut("tile/0/000.p/16").unwrap()[3 * 32] ^= 1;
    let printed = serde_json::to_value(export.verify()).unwrap();
    assert_eq!((&printed["result"], &printed["first_bad_leaf"]), (&json!("INVALID"), &json!(3)));
    assert_eq!(printed["reason"], "the leaf does not have the hash in its tile");
    assert_eq!(printed["checked"], 3);
}

#[test]
fn an_empty_log_is_valid() {
    let report = Export::of(&[]).verify();
    assert_eq!((report.verdict, report.size), (Verdict::Valid, 0));
}

#[test]
fn a_reader_that_fails_gives_invalid() {
    struct Broken;
    impl ExportReader for Broken {
        fn read(&self, _: &str) -> std::io::Result<Option<Vec<u8>>> {
            Err(std::io::Error::other("disk on fire"))
        }
    }
    let report = verify_export(&Broken, &trust());
    assert!(
        matches!(report.verdict, Verdict::Invalid { first_bad_leaf: None, ref reason } if reason.to_string().contains("disk on fire"))
    );
}

#[test]
fn a_declared_hole_is_valid_with_gaps_until_it_is_filled() {
    let mut log = Log::new();
    let lost = log.lose("edge-1", intent(ts(4)));
    log.write(LEDGER_NODE, gap(Kind::GapOpen, 1, 1));
    log.write("edge-1", outcome(ts(6), &record_id(&lost)));
    let report = log.export().verify();
    assert_eq!(report.verdict, Verdict::ValidWithDeclaredGaps);
    assert_eq!((report.missing_records, report.outcomes_without_intent), (1, 1));
    log.leaves.push(lost);
    log.write(LEDGER_NODE, gap(Kind::GapClose, 1, 1));
    let report = log.export().verify();
    assert_eq!(report.verdict, Verdict::Valid);
    assert_eq!((report.missing_records, report.outcomes_without_intent, report.intents_without_outcome), (0, 0, 0));
}

#[test]
fn dropped_and_lost_records_are_counted() {
    let mut log = Log::new();
    log.write("edge-1", Record { dropped: Some(17), ..Record::new(Kind::DropMarker, ts(4)) });
    let earlier = Gap { node: "edge-1".into(), epoch: 5, first_seq: 10, last_seq: 12, cause: None };
    log.write("edge-1", Record { gap: Some(earlier), ..Record::new(Kind::GapDeclared, ts(5)) });
    let report = log.export().verify();
    assert_valid(&report);
    assert_eq!((report.verdict, report.missing_records), (Verdict::ValidWithDeclaredGaps, 20));
}
