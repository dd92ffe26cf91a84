//! The bytes of one record of every kind, as committed: what was written once must stay readable for ever.

use bailiwick_ledger_core::{
    canonical,
    chain::NodeChain,
    record::{
        Binding, Commitment, DecisionRecord, Effect, EpochOpen, Gap, Head, Kind, Outcome, PolicyRef, RECORD_BYTES_MAX,
        Record, RecordError, RecoveredEpoch, Status, Trace, record_id,
    },
};
use proptest::prelude::*;
use serde_json::json;

use crate::fixture::{denied, evaluated, intent, outcome, signer, ts};

const GOLDEN: &str = include_str!("../golden/records.jsonl");

/// One record of every kind, in the order of `Kind::ALL`, as one chain.
fn samples() -> Vec<Vec<u8>> {
    let mut chain = NodeChain::open("edge-1", 7);
    let mut id = record_id(b"");
    let mut lines = Vec::new();
    for (step, kind) in Kind::ALL.iter().copied().enumerate() {
        let bytes = match kind {
            Kind::NodeHead => chain.append_head(ts(step), &signer(1)).unwrap().unwrap(),
            _ => chain.append(sample(kind, ts(step), &id)).unwrap(),
        };
        id = record_id(&bytes);
        lines.push(bytes);
    }
    lines
}

fn sample(kind: Kind, ts: String, last: &str) -> Record {
    let gap = |node: &str| {
        Some(Gap { node: node.into(), epoch: 5, first_seq: 10, last_seq: 12, cause: Some("transport".into()) })
    };
    let blank = Record::new(kind, ts.clone());
    match kind {
        Kind::CallIntent => intent(ts),
        Kind::CallOutcome => outcome(ts, last),
        Kind::CallDenied => denied(ts),
        Kind::DecisionEvaluated => evaluated(ts),
        Kind::NodeEpochOpen => {
            let recovered = RecoveredEpoch { epoch: 5, next_seq: 13, chain: "cd".repeat(32), open_intents: 1 };
            let open = EpochOpen { public_key: signer(1).public_key_hex(), recovered: vec![recovered] };
            Record { epoch_open: Some(open), ..blank }
        }
        Kind::GapOpen | Kind::GapClose | Kind::GapDeclared => Record { gap: gap("edge-1"), ..blank },
        Kind::DropMarker => Record { dropped: Some(17), ..blank },
        Kind::ControlEvent => {
            Record { control: Some(json!({"type": "user_applied", "groups": ["finance"], "active": true})), ..blank }
        }
        Kind::ConfigApplied | Kind::RevocationReceipt => Record { rev: Some(u64::MAX), ..blank },
        Kind::NodeHead
        | Kind::NodeEpochClose
        | Kind::PrivacyShred
        | Kind::LedgerHeads
        | Kind::LedgerShardOpen
        | Kind::LedgerShardClose => blank,
    }
}

#[test]
fn records_of_every_kind_are_written_as_committed() {
    let golden: Vec<_> = GOLDEN.lines().collect();
    let samples = samples();
    assert_eq!(golden.len(), Kind::ALL.len());
    for ((kind, golden), sample) in Kind::ALL.iter().zip(golden).zip(samples) {
        assert_eq!(std::str::from_utf8(&sample).unwrap(), golden, "{kind}");
    }
}

#[test]
fn committed_records_are_read_and_written_back_unchanged() {
    for (kind, line) in Kind::ALL.iter().zip(GOLDEN.lines()) {
        let record = Record::parse(line.as_bytes()).unwrap();
        assert_eq!((record.kind, record.kind.as_str().parse()), (*kind, Ok(*kind)));
        assert_eq!(record.to_canonical().unwrap(), line.as_bytes());
    }
}

#[test]
fn a_record_with_fields_of_a_later_version_is_read() {
    let line = GOLDEN.lines().next().unwrap();
    let later = line.replacen(r#""v":1,"#, r#""v":1,"vantage":"x","#, 1);
    assert_eq!(Record::parse(later.as_bytes()).unwrap(), Record::parse(line.as_bytes()).unwrap());
}

#[test]
fn bytes_that_are_no_canonical_record_are_refused() {
    let line = GOLDEN.lines().next().unwrap();
    let with = |from: &str, to: &str| {
        assert!(line.contains(from), "{from}");
        line.replacen(from, to, 1)
    };
    for (name, bytes, expected) in [
        ("white space", format!("{line}\n"), "canonical"),
        ("white space inside", with(r#""v":1"#, r#""v": 1"#), "canonical"),
        ("duplicate key", with(r#""v":1"#, r#""v":1,"v":1"#), "canonical"),
        ("unsorted keys", format!(r#"{{"v":1,{}}}"#, with(r#","v":1"#, "").trim_matches(['{', '}'])), "canonical"),
        ("escapes nobody needs", with("jane@", "jane\\u0040"), "canonical"),
        ("null", with(r#""v":1,"#, r#""v":1,"value":null,"#), "null"),
        ("fraction", with(r#""v":1"#, r#""v":1.5"#), "integer"),
        ("exponent", with(r#""v":1"#, r#""v":1e0"#), "integer"),
        ("big integer", with(r#""v":1,"#, r#""v":1,"value":9007199254740992,"#), "integer"),
        ("later version", with(r#""v":1"#, r#""v":2"#), "version"),
        ("unknown kind", with("call.intent", "call.intend"), "fields"),
        ("number for a string", with(r#""seq":"0""#, r#""seq":0"#), "fields"),
        ("leading zero", with(r#""seq":"0""#, r#""seq":"00""#), "fields"),
        ("time without microseconds", with(".000123Z", "Z"), "`ts`"),
        ("impossible node name", with("edge-1", "edge\\n1"), "`node`"),
        ("short hash", with(r#""prev":""#, r#""prev":"0"#), "`prev`"),
        ("no decision", with(r#""decision":"#, r#""decisiom":"#), "`decision`"),
        ("cut off", line.trim_end_matches('}').to_owned(), "JSON"),
        ("empty", String::new(), "JSON"),
        ("two records", format!("{line}{line}"), "JSON"),
        ("no UTF-8 meaning", with("jane@", "jane\\ud800"), "JSON"),
        ("too large", with("jane@", &"j".repeat(RECORD_BYTES_MAX)), "allowed"),
    ] {
        let error = Record::parse(bytes.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(matches!(Record::parse(b"\xff"), Err(RecordError::NotJson(_))));
}

/// A record that lacks nothing.
fn full(text: &str) -> Record {
    let text = || text.to_owned();
    let effect = Effect::Deny;
    let policies = vec![PolicyRef { name: text(), version: 7 }];
    let decision = DecisionRecord { effect, policies, reason: Some(text()), would_be: Some(effect) };
    let commitment = Commitment { bytes: u64::MAX, commitment: text(), summary: text() };
    let recovered = RecoveredEpoch { chain: text(), epoch: 5, next_seq: 13, open_intents: 1 };
    Record {
        agent: Some(text()),
        args: Some(commitment.clone()),
        binding: Some(Binding::Bound),
        client: Some(text()),
        consent: Some(text()),
        control: None,
        decision: Some(decision),
        decision_client: Some(text()),
        dropped: Some(1),
        epoch: 7,
        epoch_open: Some(EpochOpen { public_key: text(), recovered: vec![recovered] }),
        gap: Some(Gap { cause: Some(text()), epoch: 5, first_seq: 10, last_seq: 12, node: text() }),
        head: Some(Head { chain: text(), seq: 3, sig: text() }),
        intent: Some(record_id(b"")),
        kind: Kind::CallOutcome,
        node: "edge-1".to_owned(),
        outcome: Some(Outcome {
            bytes: Some(u64::MAX),
            cost: Some(text()),
            error_code: Some(text()),
            latency_us: Some(1),
            status: Status::ToolError,
        }),
        earlier_agents: Some(vec![text(), text()]),
        owner: Some(text()),
        prev: record_id(b""),
        project: Some(text()),
        request_id: Some(text()),
        result: Some(commitment),
        rev: Some(1),
        rev_age_ms: Some(2),
        rollout: Some(text()),
        seq: 9,
        server: Some(text()),
        session: Some(text()),
        tier: Some(text()),
        tool: Some(text()),
        tool_hash: Some(text()),
        trace: Some(Trace {
            client_name: Some(text()),
            client_version: Some(text()),
            jsonrpc_id: Some(text()),
            method: Some(text()),
            protocol_version: Some(text()),
            trace_id: Some(text()),
        }),
        ts: ts(0),
        user: Some(text()),
        v: 1,
        virtual_server: Some(text()),
    }
}

proptest! {
    #[test]
    fn what_is_written_at_once_is_the_canonical_form_of_the_tree(text in any::<String>()) {
        let record = full(&text);
        let tree = serde_json::to_value(&record).unwrap();
        prop_assert_eq!(record.to_canonical().unwrap(), canonical::to_canonical(&tree).unwrap());
        prop_assert_eq!(Record::parse(&record.to_canonical().unwrap()).unwrap(), record);
    }
}

#[test]
fn every_kind_says_which_fields_it_needs() {
    for (kind, field) in [
        (Kind::CallIntent, "decision"),
        (Kind::CallDenied, "decision"),
        (Kind::DecisionEvaluated, "decision"),
        (Kind::CallOutcome, "intent"),
        (Kind::NodeEpochOpen, "epoch_open"),
        (Kind::NodeHead, "head"),
        (Kind::GapOpen, "gap"),
        (Kind::GapClose, "gap"),
        (Kind::GapDeclared, "gap"),
        (Kind::DropMarker, "dropped"),
        (Kind::ControlEvent, "control"),
    ] {
        let error = NodeChain::open("edge-1", 7).append(Record::new(kind, ts(0))).unwrap_err();
        assert!(matches!(error, RecordError::MissingField { field: missing, .. } if missing == field), "{error}");
    }
}

#[test]
fn an_event_with_a_null_a_fraction_or_too_much_text_cannot_be_recorded() {
    let event = |value| Record { control: Some(value), ..Record::new(Kind::ControlEvent, ts(0)) };
    for value in [json!({"a": null}), json!({"a": 0.5}), json!({"a": "x".repeat(RECORD_BYTES_MAX)})] {
        assert!(NodeChain::open("control-plane", 0).append(event(value)).is_err());
    }
}
