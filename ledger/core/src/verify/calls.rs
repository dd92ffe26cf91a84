//! Intents and outcomes: every outcome names one intent of the same node, and every intent has at most one.
//!
//! Called by `verify` for each record, after its place in its chain is checked. Keeps only intents that are still
//! open, so memory follows the calls in flight and those cut short by a crash, not the log.

use std::collections::BTreeMap;

use super::report::Fault;
use crate::{
    chain::ChainVerifier,
    hash::{self, Hash, sha256},
    record::{Kind, Record},
};

/// Intents without an outcome at any one point of the log: calls in flight on a thousand nodes of a thousand calls.
pub const OPEN_INTENTS_MAX: usize = 1 << 20;

#[derive(Debug)]
struct OpenIntent {
    leaf: u64,
    node: String,
}

/// What is open at this point of the log.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<Hash, OpenIntent>,
    /// Outcomes whose intent is in a declared hole and may still come; with the node that wrote them.
    orphans: BTreeMap<Hash, String>,
}

impl Calls {
    pub(super) fn see(
        &mut self,
        leaf: u64,
        record: &Record,
        entry: &[u8],
        chains: &ChainVerifier,
    ) -> Result<(), Fault> {
        if record.kind == Kind::CallIntent {
            return self.open(leaf, record, sha256(&[entry]));
        }
        let intent = record.intent.as_deref().filter(|_| record.kind == Kind::CallOutcome).and_then(hash::from_hex);
        intent.map_or(Ok(()), |intent| self.close(record, intent, chains))
    }

    fn open(&mut self, leaf: u64, record: &Record, id: Hash) -> Result<(), Fault> {
        match self.orphans.remove(&id) {
            Some(node) if node == record.node => return Ok(()),
            Some(_) => return Err(Fault::OutcomeOfOther),
            None => {}
        }
        if self.open.len() >= OPEN_INTENTS_MAX {
            return Err(Fault::TooManyOpenIntents);
        }
        self.open.insert(id, OpenIntent { leaf, node: record.node.clone() });
        Ok(())
    }

    fn close(&mut self, record: &Record, intent: Hash, chains: &ChainVerifier) -> Result<(), Fault> {
        match self.open.remove(&intent) {
            Some(open) if open.node == record.node => return Ok(()),
            Some(_) => return Err(Fault::OutcomeOfOther),
            None => {}
        }
        let may_come = chains.has_open_gaps(&record.node) && self.orphans.len() < OPEN_INTENTS_MAX;
        if !may_come || self.orphans.insert(intent, record.node.clone()).is_some() {
            return Err(Fault::OutcomeWithoutIntent);
        }
        Ok(())
    }

    /// Leaves of intents without an outcome, in no particular order.
    pub(super) fn open_intents(&self) -> impl Iterator<Item = u64> {
        self.open.values().map(|intent| intent.leaf)
    }

    /// Outcomes whose intent lies in a declared hole.
    pub(super) fn orphans(&self) -> u64 {
        self.orphans.len() as u64
    }
}
