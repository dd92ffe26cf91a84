//! What verification says: the verdict, the first bad leaf, and what was counted on the way.
//!
//! Serialises as the stable output of `bailiwick ledger verify -o json`: fields are only ever added. On `INVALID` the
//! counts reach up to the leaf where the walk ended.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Serialize, Serializer};

use super::calls::Calls;
use crate::{
    chain::{ChainFault, ChainVerifier},
    checkpoint::{Checkpoint, CheckpointError},
    record::{Kind, Record},
};

/// Leaves of open intents that a report lists; it always counts all.
pub const OPEN_INTENTS_LISTED_MAX: usize = 100;

/// Why an export is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The caller's reader failed.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the reader said.
        error: String,
    },
    /// A file that a log of this size has is not there.
    #[error("{path} is missing")]
    FileMissing {
        /// Which file.
        path: String,
    },
    /// The export's checkpoint.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// A checkpoint the caller kept.
    #[error("an earlier checkpoint cannot be relied on: {0}")]
    EarlierCheckpoint(CheckpointError),
    /// A checkpoint the caller kept.
    #[error("an earlier checkpoint is of another log")]
    OtherLog,
    /// A bundle ends too early.
    #[error("the leaf is missing")]
    LeafMissing,
    /// A tile ends too early.
    #[error("the hash is missing from its tile")]
    HashMissing,
    /// The leaf or the hash was changed.
    #[error("the leaf does not have the hash in its tile")]
    LeafMismatch,
    /// The tile or something below it was changed.
    #[error("{path} does not hold the hash of the leaves from here on")]
    TileMismatch {
        /// Which tile.
        path: String,
    },
    /// A file holds more than the log.
    #[error("{path} holds more than it should")]
    Surplus {
        /// Which file.
        path: String,
    },
    /// The leaf is no record.
    #[error("{0}")]
    Record(String),
    /// The record is not what its chain continues with.
    #[error("leaf {leaf}, of node {node}, epoch {epoch}: {fault}")]
    Chain {
        /// The record that does not fit.
        leaf: u64,
        /// Whose chain.
        node: String,
        /// Which run.
        epoch: u64,
        /// Why.
        fault: ChainFault,
    },
    /// The intent does not exist, comes later, or has its outcome already.
    #[error("the outcome names no intent that is open")]
    OutcomeWithoutIntent,
    /// Outcomes come from the node that wrote the intent.
    #[error("the outcome is for another node's intent")]
    OutcomeOfOther,
    /// More than any real log has.
    #[error("too many intents are without an outcome")]
    TooManyOpenIntents,
    /// Leaves and tiles agree with each other, but not with the checkpoint.
    #[error("the root over the leaves is not the checkpoint's")]
    RootMismatch,
    /// An earlier checkpoint vouches for another beginning.
    #[error("an earlier checkpoint vouches for other first {size} leaves")]
    HistoryRewritten {
        /// How many.
        size: u64,
    },
    /// An earlier checkpoint vouches for more.
    #[error("an earlier checkpoint vouches for {expected} leaves, there are {found}")]
    TailCut {
        /// What must be there.
        expected: u64,
        /// What is there.
        found: u64,
    },
}

/// A fault and where it lies.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) first_bad_leaf: Option<u64>,
    pub(super) fault: Fault,
}

impl Faulty {
    pub(super) const fn at(leaf: u64, fault: Fault) -> Self {
        Self { first_bad_leaf: Some(leaf), fault }
    }

    pub(super) const fn nowhere(fault: Fault) -> Self {
        Self { first_bad_leaf: None, fault }
    }
}

/// The result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Everything is there and unchanged.
    Valid,
    /// Everything that is there is unchanged, and what is missing was declared.
    ValidWithDeclaredGaps,
    /// Something was changed, left out or never right.
    Invalid {
        /// The first leaf found bad. Exact where a leaf or its hash was changed; where two records of a chain do not
        /// fit together, the earlier; where only a hash over many leaves differs, the first of those that no earlier
        /// checkpoint vouches for. None when the fault lies in no leaf.
        #[serde(skip_serializing_if = "Option::is_none")]
        first_bad_leaf: Option<u64>,
        /// Why; serialised as a sentence.
        #[serde(serialize_with = "as_sentence")]
        reason: Fault,
    },
}

fn as_sentence<S: Serializer>(fault: &Fault, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(fault)
}

/// What verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The log's name, from the verified checkpoint.
    pub origin: String,
    /// Leaves the checkpoint vouches for.
    pub size: u64,
    /// Its root, base64.
    pub root: String,
    /// Leaves found good.
    pub checked: u64,
    /// Records by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Records by node.
    pub nodes: BTreeMap<String, NodeReport>,
    /// Calls whose end is not known.
    pub intents_without_outcome: u64,
    /// Their leaves, ascending, at most [`OPEN_INTENTS_LISTED_MAX`].
    pub open_intents: Vec<u64>,
    /// Outcomes whose intent is missing in a declared gap.
    pub outcomes_without_intent: u64,
    /// Records declared missing or dropped.
    pub missing_records: u64,
}

/// One node's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// How many.
    pub records: u64,
    /// Its runs, ascending.
    pub epochs: Vec<EpochReport>,
}

/// One run's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EpochReport {
    /// Which run.
    pub epoch: u64,
    /// How many records; 0 when the run was registered but wrote nothing.
    pub records: u64,
    /// The lowest sequence number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seq: Option<u64>,
    /// The highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
    /// The last record covered by a signed head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_through: Option<u64>,
    /// Records after the last signed head: only the checkpoint vouches for them.
    pub unsigned_records: u64,
    /// Records declared missing.
    pub missing_records: u64,
}

/// What is counted while walking.
#[derive(Debug, Default)]
pub(super) struct Counts {
    checked: u64,
    kinds: BTreeMap<Kind, u64>,
    runs: BTreeMap<String, BTreeMap<u64, RunCount>>,
    declared_missing: u64,
}

#[derive(Debug)]
struct RunCount {
    records: u64,
    first_seq: u64,
    last_seq: u64,
    last_leaf: u64,
}

impl Counts {
    pub(super) fn see(&mut self, leaf: u64, record: &Record) {
        self.checked += 1;
        *self.kinds.entry(record.kind).or_default() += 1;
        let lost = record.gap.as_ref().filter(|_| record.kind == Kind::GapDeclared);
        let lost = lost.map_or(0, |gap| gap.last_seq.saturating_sub(gap.first_seq).saturating_add(1));
        self.declared_missing = self.declared_missing.saturating_add(lost).saturating_add(record.dropped.unwrap_or(0));
        let new = RunCount { records: 0, first_seq: record.seq, last_seq: record.seq, last_leaf: leaf };
        let run = self.runs.entry(record.node.clone()).or_default().entry(record.epoch).or_insert(new);
        run.records += 1;
        run.first_seq = run.first_seq.min(record.seq);
        run.last_seq = run.last_seq.max(record.seq);
        run.last_leaf = leaf;
    }

    /// The leaf of the last record of the same run.
    pub(super) fn last_leaf(&self, record: &Record) -> Option<u64> {
        self.runs.get(&record.node)?.get(&record.epoch).map(|run| run.last_leaf)
    }
}

impl Report {
    /// Nothing could be checked.
    pub(super) fn refused(faulty: Faulty) -> Self {
        let nothing = Checkpoint { origin: String::new(), size: 0, root: [0; 32] };
        let (counts, chains, calls) = (Counts::default(), ChainVerifier::new(), Calls::default());
        Self { root: String::new(), ..Self::new(&nothing, Err(faulty), &counts, &chains, &calls) }
    }

    pub(super) fn new(
        checkpoint: &Checkpoint,
        result: Result<(), Faulty>,
        counts: &Counts,
        chains: &ChainVerifier,
        calls: &Calls,
    ) -> Self {
        let nodes = nodes(counts, chains);
        let open_gaps = chains.cursors().map(|cursor| cursor.missing_records()).fold(0, u64::saturating_add);
        let missing_records = counts.declared_missing.saturating_add(open_gaps);
        let mut open_intents: Vec<u64> = calls.open_intents().collect();
        let intents_without_outcome = open_intents.len() as u64;
        open_intents.sort_unstable();
        open_intents.truncate(OPEN_INTENTS_LISTED_MAX);
        Self {
            verdict: match result {
                Ok(()) if missing_records > 0 => Verdict::ValidWithDeclaredGaps,
                Ok(()) => Verdict::Valid,
                Err(Faulty { first_bad_leaf, fault }) => Verdict::Invalid { first_bad_leaf, reason: fault },
            },
            origin: checkpoint.origin.clone(),
            size: checkpoint.size,
            root: BASE64_STANDARD.encode(checkpoint.root),
            checked: counts.checked,
            kinds: counts.kinds.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
            nodes,
            intents_without_outcome,
            open_intents,
            outcomes_without_intent: calls.orphans(),
            missing_records,
        }
    }

    /// Whether nothing was changed and nothing undeclared is missing.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        match self.verdict {
            Verdict::Valid | Verdict::ValidWithDeclaredGaps => true,
            Verdict::Invalid { .. } => false,
        }
    }
}

/// Every run that is registered or has records.
fn nodes(counts: &Counts, chains: &ChainVerifier) -> BTreeMap<String, NodeReport> {
    let mut nodes: BTreeMap<String, NodeReport> = BTreeMap::new();
    for cursor in chains.cursors() {
        let run = counts.runs.get(&cursor.node).and_then(|runs| runs.get(&cursor.epoch));
        let records = run.map_or(0, |run| run.records);
        let node = nodes.entry(cursor.node.clone()).or_default();
        node.records += records;
        node.epochs.push(EpochReport {
            epoch: cursor.epoch,
            records,
            first_seq: run.map(|run| run.first_seq),
            last_seq: run.map(|run| run.last_seq),
            signed_through: cursor.signed_through,
            unsigned_records: cursor.unsigned_records(),
            missing_records: cursor.missing_records(),
        });
    }
    nodes
}
