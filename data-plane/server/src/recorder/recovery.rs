//! What earlier runs left in the spool, in the words of the new run's first records.
//!
//! Called once at start, before the new epoch begins. Finds how far each chain came, which calls were forwarded
//! without a recorded outcome (their effect is unknown, and the new run says so), and which ranges are lost.
//! Records are read over once; nothing is kept but the intents still open.

use std::collections::BTreeMap;

use bailiwick_ledger_core::{
    chain,
    hash::to_hex,
    record::{self, Gap, Kind, Outcome, Record, Status},
};
use serde::Deserialize;

use crate::spool::{self, Spool, SpoolError};

/// Bytes read from the spool at once.
const READ_BYTES: usize = 1024 * 1024;
/// Earlier runs named in one `epoch_open`, newest last: more than this would not fit into a record, and only a node
/// that crashes in a loop without a ledger has so many.
const EPOCHS_NAMED_MAX: usize = 64;

/// The spool belongs to somebody else, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("the spool holds records of node `{found}`; start this node under that name, or with another data folder")]
    OtherNode { found: String },
}

/// What the new run has to say about earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) epochs: Vec<record::RecoveredEpoch>,
    /// Outcomes `unknown` and declared gaps, to be appended after `epoch_open`.
    pub(crate) records: Vec<Record>,
}

/// The few fields needed of every record.
#[derive(Debug, Deserialize)]
struct Glance {
    node: String,
    kind: Kind,
    intent: Option<String>,
}

#[derive(Debug, Default)]
struct Found {
    chain: Option<[u8; 32]>,
    open: BTreeMap<String, Record>,
}

/// Reads the spool over. `ts` is the time of the records to be written.
pub(crate) fn recover(
    spool: &Spool,
    node: &str,
    recovered: &[spool::RecoveredEpoch],
    ts: &str,
) -> Result<Recovery, RecoveryError> {
    let mut recovery = Recovery::default();
    let mut open: BTreeMap<u64, BTreeMap<String, Record>> = BTreeMap::new();
    let mut closed_elsewhere = Vec::new();
    for found in recovered {
        let mut epoch = Found::default();
        for run in &found.runs {
            read_run(spool, node, found.epoch, run.clone(), &mut epoch, &mut closed_elsewhere)?;
        }
        for pair in found.runs.windows(2) {
            if let [before, after] = pair {
                recovery.records.push(gap(node, found.epoch, before.end, after.start, ts));
            }
        }
        if let (Some(chain), Some(last)) = (epoch.chain, found.runs.last()) {
            recovery.epochs.push(record::RecoveredEpoch {
                epoch: found.epoch,
                next_seq: last.end,
                chain: to_hex(&chain),
                open_intents: 0,
            });
        }
        open.insert(found.epoch, epoch.open);
    }
    for intents in open.values_mut() {
        closed_elsewhere.iter().for_each(|id| drop(intents.remove(id)));
    }
    for named in &mut recovery.epochs {
        named.open_intents = open.get(&named.epoch).map_or(0, |intents| intents.len() as u64);
    }
    let surplus = recovery.epochs.len().saturating_sub(EPOCHS_NAMED_MAX);
    recovery.epochs.drain(..surplus);
    let intents = open.into_values().flatten();
    recovery.records.extend(intents.map(|(id, intent)| unknown_outcome(id, intent, ts)));
    Ok(recovery)
}

fn read_run(
    spool: &Spool,
    node: &str,
    epoch: u64,
    run: std::ops::Range<u64>,
    found: &mut Found,
    closed_elsewhere: &mut Vec<String>,
) -> Result<(), RecoveryError> {
    let mut next = run.start;
    while next < run.end {
        let records = spool.read(epoch, next, READ_BYTES)?;
        if records.is_empty() {
            break;
        }
        next += records.len() as u64;
        for bytes in &records {
            found.chain = Some(chain::link(bytes));
            let Ok(glance) = serde_json::from_slice::<Glance>(bytes) else {
                tracing::warn!(epoch, "the spool holds a record that cannot be read; it is shipped as it is");
                continue;
            };
            if glance.node != node {
                return Err(RecoveryError::OtherNode { found: glance.node });
            }
            if glance.kind == Kind::CallIntent
                && let Ok(intent) = Record::parse(bytes)
            {
                found.open.insert(record::record_id(bytes), intent);
            } else if glance.kind == Kind::CallOutcome
                && let Some(id) = glance.intent
                && found.open.remove(&id).is_none()
            {
                closed_elsewhere.push(id);
            }
        }
    }
    Ok(())
}

fn gap(node: &str, epoch: u64, first_seq: u64, after: u64, ts: &str) -> Record {
    let cause = Some("spool_damaged".to_owned());
    let gap = Gap { node: node.to_owned(), epoch, first_seq, last_seq: after.saturating_sub(1), cause };
    Record { gap: Some(gap), ..Record::new(Kind::GapDeclared, ts.to_owned()) }
}

/// The same call, attributed as its intent was; that it may have had its effect is all that is known.
fn unknown_outcome(id: String, intent: Record, ts: &str) -> Record {
    let outcome = Outcome { status: Status::Unknown, error_code: None, latency_us: None, bytes: None, cost: None };
    Record {
        kind: Kind::CallOutcome,
        ts: ts.to_owned(),
        intent: Some(id),
        outcome: Some(outcome),
        decision: None,
        args: None,
        ..intent
    }
}
