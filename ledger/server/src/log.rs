//! What may be appended, and what one batch of a node leaves in the log.
//!
//! Synchronous and single-owner: the sequencer lends it to a blocking thread for each group. Every record is checked
//! with `ledger-core` before it is staged (canonical, in its chain, its run registered before it, heads signed,
//! outcomes after their intents), so whatever is stored passes `verify`. Stage, commit, apply: the cursors in memory
//! move with the staging and are read from the store again after any failure, because a failed write may be on disk all
//! the same.
//!
//! Absent: the event stream and asking for replays (`sequencer`), signing (`checkpoints`).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
};

use bailiwick_ledger_core::{
    chain::{CONTROL_NODE, ChainFault, ChainVerifier, registration},
    record::{Effect, Kind, Record, record_id},
    time,
    tree::{self, Frontier},
};
use bailiwick_proto::v1::RecordBatch;

use crate::store::{Batch, ChainId, Field, NewLeaf, Store, StoreError};

/// Earlier runs of a node that are asked for what an outcome refers to: crashes in a row before anything was sent.
const EARLIER_RUNS_MAX: usize = 8;
/// Calls remembered that have no outcome yet: more than are under way at once, some ten megabytes.
const OPEN_CALLS_MAX: usize = 1 << 16;

/// What became of one batch. Several fields may be set: a batch may repeat, add and then break off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Records appended.
    pub(crate) stored: u64,
    /// Records that were there before.
    pub(crate) repeated: u64,
    /// Records `0..covered` of the chain are stored now; `None` if the batch says nothing about it.
    pub(crate) covered: Option<u64>,
    /// The rest must wait until something else is stored.
    pub(crate) early: bool,
    /// Where that may be: chains with the sequence number from which they are wanted.
    pub(crate) needs: Vec<(ChainId, u64)>,
    /// Why the rest of the batch can never be stored.
    pub(crate) refused: Option<Refusal>,
}

/// Why records can never be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No batch, or no canonical record.
    Unreadable,
    /// Another node, epoch or number than the batch or its subject says.
    Mislabelled,
    /// It does not continue its chain.
    Unchained,
    /// A second outcome of one call.
    Unpaired,
    /// Another record than the one stored at its place.
    Forked,
}

impl Refusal {
    /// The word in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Mislabelled => "mislabelled",
            Self::Unchained => "unchained",
            Self::Unpaired => "unpaired",
            Self::Forked => "forked",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of a group of batches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequenced {
    /// One per batch, in order.
    pub(crate) verdicts: Vec<Verdict>,
    /// Chains that were extended or opened, with the sequence number each expects next.
    pub(crate) moved: Vec<(ChainId, u64)>,
    /// Size of the log now.
    pub(crate) size: u64,
}

/// The log's appending end.
#[derive(Debug)]
pub(crate) struct Log {
    chains: ChainVerifier,
    frontier: Frontier,
    /// Calls whose intent was appended here and whose outcome was not, as terms: most outcomes come soon, and need not
    /// be looked for in the store. Forgets; then the store is asked.
    open: HashSet<String>,
    /// Something was staged and not committed: memory is ahead of the store.
    stale: bool,
}

/// What a group adds, before it is written.
#[derive(Debug, Default)]
struct Staged {
    batch: Batch,
    /// Chains touched, with the leaf index of their last record in this group.
    touched: BTreeMap<ChainId, Option<u64>>,
    /// Intents and outcomes of this group, as terms.
    calls: BTreeSet<(Field, String)>,
}

impl Log {
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        let (chains, frontier) = (ChainVerifier::new(), Frontier::new());
        let mut log = Self { chains, frontier, open: HashSet::new(), stale: true };
        log.refresh(store)?;
        Ok(log)
    }

    pub(crate) const fn size(&self) -> u64 {
        self.frontier.size()
    }

    fn refresh(&mut self, store: &Store) -> Result<(), StoreError> {
        let state = store.state()?;
        self.frontier = Frontier::at(store, state.size)?;
        self.chains = ChainVerifier::resume(state.cursors.into_iter().map(|(cursor, _)| cursor));
        self.open.clear();
        self.stale = false;
        Ok(())
    }

    /// Appends what is next of `batches`, all in one durable write.
    ///
    /// After an error nothing of the group may be acknowledged; calling again with the same group stores what is not
    /// stored yet.
    pub(crate) fn sequence(&mut self, store: &Store, batches: &[RecordBatch]) -> Result<Sequenced, StoreError> {
        if self.stale {
            self.refresh(store)?;
        }
        self.stale = true;
        let mut staged = Staged { batch: Batch { first: self.size(), ..Batch::default() }, ..Staged::default() };
        let verdicts = batches.iter().map(|batch| self.stage(store, batch, &mut staged)).collect::<Result<_, _>>()?;
        let moved = self.moved(&mut staged);
        if !staged.batch.leaves.is_empty() {
            store.commit(&staged.batch)?;
        }
        self.stale = false;
        Ok(Sequenced { verdicts, moved, size: self.size() })
    }

    /// Puts the cursors of all touched chains into the batch and tells where they stand.
    fn moved(&self, staged: &mut Staged) -> Vec<(ChainId, u64)> {
        let mut moved = Vec::new();
        for (id, last_index) in std::mem::take(&mut staged.touched) {
            if let Some(cursor) = self.chains.cursor(&id.node, id.epoch) {
                staged.batch.cursors.push((cursor.clone(), last_index));
                moved.push((id, cursor.next_seq));
            }
        }
        moved
    }

    /// Takes a batch up to the first record that is early or refused.
    fn stage(&mut self, store: &Store, batch: &RecordBatch, staged: &mut Staged) -> Result<Verdict, StoreError> {
        let id = ChainId { node: batch.node.clone(), epoch: batch.epoch };
        let mut verdict = Verdict::default();
        let Some(end) = batch.first_seq.checked_add(batch.records.len() as u64) else {
            return Ok(Verdict { refused: Some(Refusal::Mislabelled), ..verdict });
        };
        for (seq, bytes) in (batch.first_seq..end).zip(&batch.records) {
            match self.step(store, &id, seq, bytes, staged)? {
                Step::Stored => verdict.stored += 1,
                Step::Repeated => verdict.repeated += 1,
                Step::Early(needs) => {
                    (verdict.early, verdict.needs) = (true, needs);
                    break;
                }
                Step::Refused(refusal) => {
                    // Whoever sends this must not take it for stored.
                    return Ok(Verdict { refused: Some(refusal), ..verdict });
                }
            }
        }
        verdict.covered = self.chains.cursor(&id.node, id.epoch).map(crate::store::covered);
        Ok(verdict)
    }

    fn step(
        &mut self,
        store: &Store,
        id: &ChainId,
        seq: u64,
        bytes: &[u8],
        staged: &mut Staged,
    ) -> Result<Step, StoreError> {
        let ChainId { node, epoch } = id;
        if seq < self.chains.cursor(node, *epoch).map_or(0, crate::store::covered) {
            let known = store.leaf_of(&place(node, *epoch, seq))?;
            // Within one group it may not be stored yet; the group's own records were just checked.
            let same = known.is_none_or(|known| known == bytes);
            return Ok(if same {
                Step::Repeated
            } else {
                refused(Refusal::Forked, id, seq, &"another record is stored")
            });
        }
        let record = match Record::parse(bytes) {
            Ok(record) if record.node == *node && record.epoch == *epoch && record.seq == seq => record,
            Ok(_) => return Ok(refused(Refusal::Mislabelled, id, seq, &"it names another place")),
            Err(error) => return Ok(refused(Refusal::Unreadable, id, seq, &error)),
        };
        match self.pairing(store, &record, staged)? {
            Pairing::Fits => {}
            Pairing::Early => return Ok(Step::Early(self.earlier_runs(id))),
            Pairing::Second => return Ok(refused(Refusal::Unpaired, id, seq, &"the call has an outcome")),
        }
        match self.chains.accept(&record, bytes) {
            Ok(()) => {
                self.append(id, &record, bytes, staged)?;
                Ok(Step::Stored)
            }
            Err(ChainFault::Repeated { .. }) => Ok(Step::Repeated),
            Err(ChainFault::Hole { .. } | ChainFault::EpochNotRegistered) => Ok(Step::Early(vec![self.needed_for(id)])),
            Err(fault) => Ok(refused(Refusal::Unchained, id, seq, &fault)),
        }
    }

    fn append(&mut self, id: &ChainId, record: &Record, bytes: &[u8], staged: &mut Staged) -> Result<(), StoreError> {
        staged.touched.insert(id.clone(), Some(self.size()));
        if record.kind == Kind::ControlEvent
            && let Some(Ok(opened)) = record.control.as_ref().and_then(registration)
        {
            let opened = ChainId { node: opened.node, epoch: opened.epoch };
            staged.touched.entry(opened).or_insert(None);
        }
        let terms = terms(record, bytes);
        for (field, call) in terms.iter().filter(|(field, _)| matches!(field, Field::Intent | Field::Outcome)) {
            self.remember(*field, call);
            staged.calls.insert((*field, call.clone()));
        }
        self.frontier.push(tree::leaf_hash(bytes), &mut staged.batch.nodes)?;
        staged.batch.leaves.push(NewLeaf {
            bytes: bytes.to_vec(),
            terms,
            at_us: time::parse_ts(&record.ts).unwrap_or(i64::MIN),
        });
        Ok(())
    }

    fn remember(&mut self, field: Field, call: &str) {
        if field != Field::Intent {
            self.open.remove(call);
            return;
        }
        if self.open.len() >= OPEN_CALLS_MAX {
            // Calls whose node died: their outcomes come in its next run, if ever.
            self.open.clear();
        }
        self.open.insert(call.to_owned());
    }

    /// Whether an outcome's call is known and still open. Everything else fits, as do records that are no news.
    fn pairing(&self, store: &Store, record: &Record, staged: &Staged) -> Result<Pairing, StoreError> {
        let next_seq = self.chains.cursor(&record.node, record.epoch).map(|cursor| cursor.next_seq);
        let Some(intent) = record.intent.as_deref().filter(|_| record.kind == Kind::CallOutcome) else {
            return Ok(Pairing::Fits);
        };
        if next_seq != Some(record.seq) {
            return Ok(Pairing::Fits);
        }
        let call = call_of(&record.node, intent);
        if self.open.contains(&call) {
            return Ok(Pairing::Fits);
        }
        let known = |field| -> Result<bool, StoreError> {
            Ok(staged.calls.contains(&(field, call.clone())) || store.has_term(field, &call)?)
        };
        Ok(match (known(Field::Intent)?, known(Field::Outcome)?) {
            (_, true) => Pairing::Second,
            (true, false) => Pairing::Fits,
            (false, false) => Pairing::Early,
        })
    }

    /// After a crash a node writes the outcomes of its last run into the next one: the intents may still be on the way.
    fn earlier_runs(&self, id: &ChainId) -> Vec<(ChainId, u64)> {
        let runs = self.chains.cursors().filter(|cursor| cursor.node == id.node && cursor.epoch < id.epoch);
        let mut newest: Vec<_> = runs.map(|cursor| (cursor.epoch, crate::store::covered(cursor))).collect();
        newest.sort_unstable();
        let run = |(epoch, from)| (ChainId { node: id.node.clone(), epoch }, from);
        newest.into_iter().rev().take(EARLIER_RUNS_MAX).map(run).collect()
    }

    /// What chain `id` expects next; `None` while its run is unknown.
    pub(crate) fn next_seq(&self, id: &ChainId) -> Option<u64> {
        self.chains.cursor(&id.node, id.epoch).map(|cursor| cursor.next_seq)
    }

    /// What chain `id` waits for: its own next record, or, while its run is unknown, the control plane's.
    pub(crate) fn needed_for(&self, id: &ChainId) -> (ChainId, u64) {
        match self.chains.cursor(&id.node, id.epoch) {
            Some(cursor) => (id.clone(), crate::store::covered(cursor)),
            None => self.control_next(),
        }
    }

    /// The control plane's chain and the event expected next.
    pub(crate) fn control_next(&self) -> (ChainId, u64) {
        let next_seq = self.chains.cursor(CONTROL_NODE, 0).map_or(0, |cursor| cursor.next_seq);
        (ChainId { node: CONTROL_NODE.to_owned(), epoch: 0 }, next_seq)
    }
}

/// What became of one record.
enum Step {
    Stored,
    Repeated,
    /// Until what is named here is stored.
    Early(Vec<(ChainId, u64)>),
    Refused(Refusal),
}

fn refused(refusal: Refusal, id: &ChainId, seq: u64, why: &dyn fmt::Display) -> Step {
    tracing::warn!(node = %id.node, epoch = id.epoch, seq, %refusal, %why, "record refused");
    Step::Refused(refusal)
}

/// The one place of a record, as a term.
fn place(node: &str, epoch: u64, seq: u64) -> String {
    format!("{node} {epoch} {seq}")
}

/// How an outcome stands to its intent. `verify` refuses a log with an outcome before its intent, or with two.
enum Pairing {
    Fits,
    Early,
    Second,
}

/// One call, as a term: outcomes come from the node that wrote the intent.
fn call_of(node: &str, intent: &str) -> String {
    format!("{node} {intent}")
}

/// What a record can be found by.
fn terms(record: &Record, bytes: &[u8]) -> Vec<(Field, String)> {
    let opened = (record.kind == Kind::CallIntent).then(|| call_of(&record.node, &record_id(bytes)));
    let closed = record.intent.as_deref().filter(|_| record.kind == Kind::CallOutcome);
    let effect = record.decision.as_ref().map(|decision| match decision.effect {
        Effect::Permit => "permit".to_owned(),
        Effect::Deny => "deny".to_owned(),
    });
    let binding = record.binding.and_then(|binding| serde_json::to_value(binding).ok());
    let binding = binding.as_ref().and_then(serde_json::Value::as_str).map(str::to_owned);
    [
        (Field::User, record.user.clone()),
        (Field::Agent, record.agent.clone()),
        (Field::Tool, record.tool.clone()),
        (Field::Server, record.server.clone()),
        (Field::Decision, effect),
        (Field::Kind, Some(record.kind.as_str().to_owned())),
        (Field::Binding, binding),
        (Field::RequestId, record.request_id.clone()),
        (Field::DecisionClient, record.decision_client.clone()),
        (Field::Intent, opened),
        (Field::Outcome, closed.map(|intent| call_of(&record.node, intent))),
        (Field::Place, Some(place(&record.node, record.epoch, record.seq))),
    ]
    .into_iter()
    .filter_map(|(field, value)| Some((field, value?)))
    .collect()
}

#[cfg(test)]
mod tests;
