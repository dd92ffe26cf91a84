//! What the tests of this package share: chains of records as real nodes write them, and a check of a whole log.

use std::sync::Arc;

use bailiwick_ledger_core::{
    chain::NodeChain,
    checkpoint::{self, Checkpoint, VerifierKey},
    key::NodeSigner,
    record::{DecisionRecord, Effect, EpochOpen, Kind, Outcome, Record, Status, record_id},
    tile::TilePath,
    time::format_ts,
    tree,
    verify::{ExportReader, Report, Trust, verify_export},
};
use bailiwick_proto::v1::RecordBatch;
use serde_json::json;

use crate::store::Store;

/// Two minutes into the epoch of Unix: the fixture's clock starts here and never stops counting.
const START_US: i64 = 120_000_000;

/// A node that writes records.
pub(crate) struct Node {
    chain: NodeChain,
    signer: NodeSigner,
    clock_us: i64,
}

impl Node {
    pub(crate) fn control() -> Self {
        Self::run("control-plane", 0)
    }

    pub(crate) fn run(name: &str, epoch: u64) -> Self {
        let signer = NodeSigner::from_seed(&[u8::try_from(epoch % 200).unwrap(); 32]).unwrap();
        Self { chain: NodeChain::open(name, epoch), signer, clock_us: START_US }
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.chain.next_seq()
    }

    /// A batch of whatever `write` appends.
    pub(crate) fn batch(&mut self, write: impl FnOnce(&mut Self) -> Vec<Vec<u8>>) -> RecordBatch {
        let first_seq = self.chain.next_seq();
        let records = write(self);
        RecordBatch { node: self.chain.node().to_owned(), epoch: self.chain.epoch(), first_seq, records }
    }

    fn new_record(&mut self, kind: Kind) -> Record {
        self.clock_us += 1_000;
        Record::new(kind, format_ts(self.clock_us))
    }

    fn append(&mut self, record: Record) -> Vec<u8> {
        self.chain.append(record).unwrap()
    }

    /// A control event.
    pub(crate) fn event(&mut self, event: serde_json::Value) -> Vec<u8> {
        let record = self.new_record(Kind::ControlEvent);
        self.append(Record { control: Some(event), ..record })
    }

    /// The event that registers a run.
    pub(crate) fn register(&mut self, node: &Self) -> Vec<u8> {
        self.event(json!({
            "type": "node_epoch_opened",
            "node": node.chain.node(),
            "epoch": node.chain.epoch().to_string(),
            "public_key": node.signer.public_key_hex(),
        }))
    }

    pub(crate) fn open(&mut self) -> Vec<u8> {
        let opened = EpochOpen { public_key: self.signer.public_key_hex(), recovered: vec![] };
        let record = self.new_record(Kind::NodeEpochOpen);
        self.append(Record { epoch_open: Some(opened), ..record })
    }

    pub(crate) fn intent(&mut self, user: &str, tool: &str) -> Vec<u8> {
        let decision = DecisionRecord { effect: Effect::Permit, reason: None, policies: vec![], would_be: None };
        let record = self.new_record(Kind::CallIntent);
        self.append(Record {
            user: Some(user.to_owned()),
            agent: Some("coding-assistant".to_owned()),
            server: Some("finance".to_owned()),
            tool: Some(tool.to_owned()),
            request_id: Some(format!("r-{}", self.chain.next_seq())),
            decision: Some(decision),
            ..record
        })
    }

    pub(crate) fn denied(&mut self, user: &str, tool: &str) -> Vec<u8> {
        let reason = Some("policy_denied".to_owned());
        let decision = DecisionRecord { effect: Effect::Deny, reason, policies: vec![], would_be: None };
        let record = self.new_record(Kind::CallDenied);
        let (user, tool) = (Some(user.to_owned()), Some(tool.to_owned()));
        self.append(Record { user, tool, decision: Some(decision), ..record })
    }

    /// A service was told that a user may.
    pub(crate) fn evaluated(&mut self, service: &str, user: &str) -> Vec<u8> {
        let decision = DecisionRecord { effect: Effect::Permit, reason: None, policies: vec![], would_be: None };
        let record = self.new_record(Kind::DecisionEvaluated);
        let (user, decision_client) = (Some(user.to_owned()), Some(service.to_owned()));
        self.append(Record { user, decision_client, decision: Some(decision), ..record })
    }

    pub(crate) fn outcome(&mut self, intent: &[u8]) -> Vec<u8> {
        let outcome = Outcome { status: Status::Ok, error_code: None, latency_us: Some(5), bytes: None, cost: None };
        let record = self.new_record(Kind::CallOutcome);
        self.append(Record { intent: Some(record_id(intent)), outcome: Some(outcome), ..record })
    }

    pub(crate) fn head(&mut self) -> Vec<u8> {
        self.clock_us += 1_000;
        self.chain.append_head(format_ts(self.clock_us), &self.signer).unwrap().unwrap()
    }

    /// An opened run with `calls` calls, each with its outcome, and a head.
    pub(crate) fn calls(&mut self, calls: usize) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        if self.next_seq() == 0 {
            records.push(self.open());
        }
        for _ in 0..calls {
            let intent = self.intent("jane@example.com", "query_data");
            let outcome = self.outcome(&intent);
            records.extend([intent, outcome]);
        }
        records.push(self.head());
        records
    }
}

/// Verifies everything stored, as an auditor would, under a checkpoint made up on the spot.
pub(crate) fn verify_store(store: &Arc<Store>) -> Report {
    struct Reader {
        store: Arc<Store>,
        note: String,
        size: u64,
    }
    impl ExportReader for Reader {
        fn read(&self, path: &str) -> std::io::Result<Option<Vec<u8>>> {
            match TilePath::parse(path) {
                Some(path) => Ok(self.store.tile(path, self.size).unwrap()),
                None => Ok((path == "checkpoint").then(|| self.note.clone().into_bytes())),
            }
        }
    }
    let signer = NodeSigner::from_seed(&[42; 32]).unwrap();
    let (origin, size) = ("example.org/log".to_owned(), store.size().unwrap());
    let key = VerifierKey::new(origin.clone(), *signer.public_key()).unwrap();
    let checkpoint = Checkpoint { origin, size, root: tree::root(&**store, size).unwrap() };
    let note = checkpoint::sign(&checkpoint, &signer).unwrap();
    let reader = Reader { store: Arc::clone(store), note, size };
    verify_export(&reader, &Trust { keys: vec![key], earlier: vec![] })
}

/// A master key of no consequence.
pub(crate) fn master_key() -> bailiwick_runtime::MasterKeyConfig {
    bailiwick_runtime::MasterKeyConfig { key: Some("0123".repeat(16)), ..Default::default() }
}
