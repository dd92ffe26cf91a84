//! Logs in memory: writers with fixed keys and a clock that counts, and the export of whatever they wrote.

use std::{collections::BTreeMap, io, ops::Range};

use bailiwick_ledger_core::{
    chain::{CONTROL_NODE, LEDGER_NODE, NodeChain},
    checkpoint::{self, Checkpoint, VerifierKey},
    commitment,
    hash::Hash,
    key::NodeSigner,
    record::{
        Binding, DecisionRecord, Effect, EpochOpen, Kind, Outcome, PolicyRef, Record, Status, Trace, format_ts,
        record_id,
    },
    tile::{self, TileKind},
    tree,
    verify::{ExportReader, Report, Trust, Verdict, verify_export},
};
use serde_json::json;

pub(crate) const ORIGIN: &str = "bailiwick.example/log";

pub(crate) fn signer(seed: u8) -> NodeSigner {
    NodeSigner::from_seed(&[seed; 32]).unwrap()
}

/// The log's own key.
pub(crate) fn log_signer() -> NodeSigner {
    signer(200)
}

pub(crate) fn ts(step: usize) -> String {
    format_ts(1_795_220_044_000_123 + step as i64 * 1_000_003)
}

pub(crate) fn trust() -> Trust {
    Trust { keys: vec![VerifierKey::new(ORIGIN, *log_signer().public_key()).unwrap()], earlier: Vec::new() }
}

/// A log being written: the leaves in order, and the chains of its writers.
pub(crate) struct Log {
    pub(crate) leaves: Vec<Vec<u8>>,
    pub(crate) chains: BTreeMap<String, NodeChain>,
}

impl Log {
    /// Two data-plane nodes, registered and opened: leaves 0 to 3.
    pub(crate) fn new() -> Self {
        let mut log = Self { leaves: Vec::new(), chains: BTreeMap::new() };
        for (node, epoch) in [(CONTROL_NODE, 0), (LEDGER_NODE, 0), ("edge-1", 7), ("edge-2", 9)] {
            log.chains.insert(node.into(), NodeChain::open(node, epoch));
        }
        for (node, epoch, seed) in [("edge-1", "7", 1), ("edge-2", "9", 2)] {
            let key = signer(seed).public_key_hex();
            log.control(json!({
                "type": "node_epoch_opened", "node": node, "role": "data-plane", "epoch": epoch, "public_key": key,
            }));
            let open = EpochOpen { public_key: key, recovered: Vec::new() };
            log.write(node, Record { epoch_open: Some(open), ..Record::new(Kind::NodeEpochOpen, log.now()) });
        }
        log
    }

    /// Both nodes at work: two calls, a refusal and a head each, interleaved. 16 leaves.
    pub(crate) fn busy() -> Self {
        let mut log = Self::new();
        let first = log.intent("edge-1");
        let second = log.intent("edge-2");
        log.denied("edge-1");
        log.outcome("edge-2", &second);
        log.outcome("edge-1", &first);
        log.control(json!({"type": "consent_revoked", "consent": "c-1"}));
        let third = log.intent("edge-2");
        log.head("edge-1", 1);
        log.outcome("edge-2", &third);
        log.denied("edge-2");
        log.head("edge-2", 2);
        log.intent("edge-1");
        log
    }

    pub(crate) fn now(&self) -> String {
        ts(self.leaves.len())
    }

    /// Appends to a node's chain and to the log; returns the record's id.
    pub(crate) fn write(&mut self, node: &str, record: Record) -> String {
        let bytes = self.chains.get_mut(node).unwrap().append(record).unwrap();
        let id = record_id(&bytes);
        self.leaves.push(bytes);
        id
    }

    /// Appends to a node's chain only: the record gets lost.
    pub(crate) fn lose(&mut self, node: &str, record: Record) -> Vec<u8> {
        self.chains.get_mut(node).unwrap().append(record).unwrap()
    }

    pub(crate) fn control(&mut self, event: serde_json::Value) {
        self.write(CONTROL_NODE, Record { control: Some(event), ..Record::new(Kind::ControlEvent, self.now()) });
    }

    pub(crate) fn intent(&mut self, node: &str) -> String {
        self.write(node, intent(self.now()))
    }

    pub(crate) fn denied(&mut self, node: &str) {
        self.write(node, denied(self.now()));
    }

    pub(crate) fn outcome(&mut self, node: &str, intent: &str) {
        self.write(node, outcome(self.now(), intent));
    }

    pub(crate) fn head(&mut self, node: &str, seed: u8) {
        let now = self.now();
        let bytes = self.chains.get_mut(node).unwrap().append_head(now, &signer(seed)).unwrap().unwrap();
        self.leaves.push(bytes);
    }

    pub(crate) fn export(&self) -> Export {
        Export::of(&self.leaves)
    }
}

fn call(kind: Kind, ts: String) -> Record {
    Record {
        rev: Some(12),
        rev_age_ms: Some(3),
        user: Some("jane@example.com".into()),
        agent: Some("coding-assistant".into()),
        owner: Some("jane@example.com".into()),
        project: Some("platform".into()),
        client: Some("inspector".into()),
        session: Some("s-1".into()),
        consent: Some("c-1".into()),
        binding: Some(Binding::NotRequired),
        server: Some("finance".into()),
        tool: Some("query_data".into()),
        tool_hash: Some("ab".repeat(32)),
        tier: Some("retrieval".into()),
        virtual_server: Some("finance".into()),
        request_id: Some("r-1".into()),
        trace: Some(Trace {
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            jsonrpc_id: Some("7".into()),
            protocol_version: Some("2026-07-28".into()),
            client_name: Some("inspector".into()),
            client_version: Some("2.1.0".into()),
            method: Some("tools/call".into()),
        }),
        ..Record::new(kind, ts)
    }
}

pub(crate) fn intent(ts: String) -> Record {
    let arguments = json!({"query": "revenue", "limit": 10});
    Record {
        decision: Some(DecisionRecord {
            effect: Effect::Permit,
            reason: None,
            policies: vec![PolicyRef { name: "finance-reads".into(), version: 11 }],
            would_be: None,
        }),
        args: Some(commitment::commitment(
            &[3; 32],
            b"arguments",
            commitment::summarise(&arguments.to_string()).unwrap(),
        )),
        ..call(Kind::CallIntent, ts)
    }
}

pub(crate) fn denied(ts: String) -> Record {
    Record {
        decision: Some(DecisionRecord {
            effect: Effect::Deny,
            reason: Some("policy_denied".into()),
            policies: Vec::new(),
            would_be: None,
        }),
        ..call(Kind::CallDenied, ts)
    }
}

/// A service was told that Jane's agent may not.
pub(crate) fn evaluated(ts: String) -> Record {
    Record {
        decision_client: Some("billing".into()),
        args: Some(commitment::commitment(&[5; 32], b"question", "object: 3 members (3 objects)".into())),
        binding: None,
        session: None,
        trace: Some(Trace { method: Some("tools/call".into()), ..Trace::default() }),
        ..Record { kind: Kind::DecisionEvaluated, ..denied(ts) }
    }
}

pub(crate) fn outcome(ts: String, intent: &str) -> Record {
    Record {
        intent: Some(intent.into()),
        outcome: Some(Outcome {
            status: Status::Ok,
            error_code: None,
            latency_us: Some(1500),
            bytes: Some(64),
            cost: Some("0.02".into()),
        }),
        result: Some(commitment::commitment(&[4; 32], b"result", "object: 1 member (1 array)".into())),
        ..Record::new(Kind::CallOutcome, ts)
    }
}

/// An export in memory.
#[derive(Clone)]
pub(crate) struct Export {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl ExportReader for Export {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.get(path).cloned())
    }
}

impl Export {
    /// What whoever holds the log's key can publish for these leaves.
    pub(crate) fn of(leaves: &[Vec<u8>]) -> Self {
        let size = leaves.len() as u64;
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| tree::leaf_hash(leaf)).collect();
        let appended = tree::append(&|_: u8, _: u64| None, 0, &hashes).unwrap();
        let stored: BTreeMap<_, _> = appended.nodes.iter().map(|node| ((node.level, node.index), node.hash)).collect();
        let reader = |level, index| stored.get(&(level, index)).copied();
        let mut files = BTreeMap::new();
        for path in tile::paths_at(size) {
            let first = usize::try_from(path.index).unwrap() * 256;
            let entries = leaves.iter().skip(first).take(path.width.into()).map(Vec::as_slice);
            let bytes = match path.kind {
                TileKind::Entries => tile::encode_entries(entries).unwrap(),
                TileKind::Hashes(_) => tile::hash_tile(&reader, path).unwrap(),
            };
            files.insert(path.to_string(), bytes);
        }
        let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root: appended.root };
        files.insert("checkpoint".into(), checkpoint::sign(&checkpoint, &log_signer()).unwrap().into_bytes());
        Self { files }
    }

    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        self.files["checkpoint"].clone()
    }

    pub(crate) fn verify(&self) -> Report {
        verify_export(self, &trust())
    }

    pub(crate) fn verify_after(&self, earlier: &[Vec<u8>]) -> Report {
        verify_export(self, &Trust { earlier: earlier.to_vec(), ..trust() })
    }
}

/// Where each entry lies in its bundle, with the two bytes of its length.
pub(crate) fn entry_ranges(bundle: &[u8]) -> Vec<Range<usize>> {
    let mut start = 0;
    let entries = tile::decode_entries(bundle).unwrap();
    let ranges = entries.iter().map(|entry| {
        let range = start..start + 2 + entry.len();
        start = range.end;
        range
    });
    ranges.collect()
}

#[track_caller]
pub(crate) fn assert_valid(report: &Report) {
    assert!(report.is_valid(), "{:?}", report.verdict);
}

/// Asserts `INVALID` at `leaf`, with a reason that holds `words`.
#[track_caller]
pub(crate) fn assert_invalid(report: &Report, leaf: Option<u64>, words: &str) {
    let Verdict::Invalid { first_bad_leaf, reason } = &report.verdict else {
        panic!("not found: {words}");
    };
    assert!(reason.to_string().contains(words), "`{reason}` instead of `{words}`");
    assert_eq!(*first_bad_leaf, leaf, "{reason}");
}
