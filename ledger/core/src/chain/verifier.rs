//! Checks a stream of records against the chains they claim to belong to, in the order of the log.
//!
//! One rule for the sequencer, before it appends, and for `verify`, afterwards: every `(node, epoch)` is registered by
//! a `control.event` (`node_epoch_opened`, `node_epoch_reserved`) before its first record; its records follow one another
//! without holes; its heads are signed with the registered key; a hole is passed only after the ledger declared it
//! (`gap.open`), and late records fill a declared hole from its beginning.
//!
//! Two writers have no registered key: the control plane (epoch 0, a pure function of its event log) and the ledger
//! itself. Only the first may write control events, only the second may declare holes of others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{genesis, head_is_signed, link};
use crate::{
    decimal,
    hash::{self, Hash},
    key::PublicKey,
    record::{Gap, Kind, Record},
};

/// The writer of control events.
pub const CONTROL_NODE: &str = "control-plane";
/// The writer of the ledger's own records.
pub const LEDGER_NODE: &str = "ledger";
/// Runs in one log: a thousand nodes restarted daily for almost three years. About 200 bytes of memory each.
pub const CHAINS_MAX: usize = 1 << 20;
/// Holes of one run that may be open at once: more means the node's records are not arriving at all.
pub const OPEN_GAPS_MAX: usize = 64;

/// Why a record does not continue its chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// No event that registers it precedes it.
    #[error("the node's run was not registered before its first record")]
    EpochNotRegistered,
    /// The run was registered before.
    #[error("the run is registered twice")]
    EpochRegisteredTwice,
    /// An event registers something that is no run.
    #[error("the registration of a run is malformed")]
    RegistrationMalformed,
    /// More runs than [`CHAINS_MAX`].
    #[error("the log has more than {CHAINS_MAX} runs")]
    TooManyChains,
    /// A sequence number that was there before.
    #[error("sequence number {found} is repeated; {expected} is next")]
    Repeated {
        /// What would continue the chain.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Something is missing before this record.
    #[error("sequence number {expected} is missing before {found}")]
    Hole {
        /// What would continue the chain.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// `prev` names something else than the record before.
    #[error("the record does not name the hash of the record before it")]
    PrevMismatch,
    /// The head's signature, number or hash is wrong.
    #[error("the signed head does not fit the chain")]
    HeadForged,
    /// The key in `node.epoch_open` is not the registered one.
    #[error("the run opens with another key than the registered one")]
    KeyMismatch,
    /// This writer may not write this kind.
    #[error("this node may not write records of this kind")]
    KindNotAllowed,
    /// A declared hole does not begin where the chain ends, or too many are open.
    #[error("the declared gap does not fit the chain")]
    GapMisplaced,
    /// A gap said to be closed is still open.
    #[error("the gap is closed although records are missing")]
    GapStillOpen,
}

/// A declared hole that is still open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRange {
    /// The first record still missing.
    pub first_seq: u64,
    /// The last record missing.
    pub last_seq: u64,
    /// The chain hash the first missing record must name.
    before: Hash,
    /// The chain hash the record after the hole names; unknown until it comes.
    after: Option<Hash>,
}

/// How far one run's chain has been checked. Storable: [`ChainVerifier::resume`] takes it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainCursor {
    /// Whose run.
    pub node: String,
    /// Which run.
    pub epoch: u64,
    /// What comes next; at the same time the number of records that should be there.
    pub next_seq: u64,
    /// The chain hash the next record must name; unknown right after a declared hole.
    pub prev: Option<Hash>,
    /// The registered key; the control plane and the ledger have none.
    pub public_key: Option<PublicKey>,
    /// The last record covered by a signed head.
    pub signed_through: Option<u64>,
    /// Declared holes still open, in order.
    pub gaps: Vec<MissingRange>,
}

/// Events that register a run: one that begins, and one that may begin later, without a control plane.
const REGISTRATIONS: [&str; 2] = ["node_epoch_opened", "node_epoch_reserved"];

/// What an event that registers a run says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRegistration {
    /// Whose run.
    pub node: String,
    /// Which run.
    pub epoch: u64,
    /// The key its heads are signed with.
    pub public_key: PublicKey,
}

/// Reads `{"type":"node_epoch_opened","node":…,"epoch":"…","public_key":"<hex>",…}`, or one of type
/// `node_epoch_reserved`. `None`: another event. `Some(Err)`: such an event, but malformed.
#[must_use]
pub fn registration(event: &Value) -> Option<Result<EpochRegistration, ChainFault>> {
    let text = |field: &str| event.get(field).and_then(Value::as_str);
    text("type").filter(|word| REGISTRATIONS.contains(word))?;
    let read = || {
        Some(EpochRegistration {
            node: text("node")?.to_owned(),
            epoch: decimal::parse(text("epoch")?)?,
            public_key: hash::from_hex(text("public_key")?)?,
        })
    };
    Some(read().ok_or(ChainFault::RegistrationMalformed))
}

/// Checks records of many chains in the order of the log. A refused record leaves everything as it was.
#[derive(Clone, Debug, Default)]
pub struct ChainVerifier {
    chains: BTreeMap<String, BTreeMap<u64, ChainCursor>>,
    count: usize,
}

impl ChainVerifier {
    /// For a log from its beginning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For a log whose records so far led to `cursors`.
    #[must_use]
    pub fn resume(cursors: impl IntoIterator<Item = ChainCursor>) -> Self {
        let mut verifier = Self::new();
        cursors.into_iter().for_each(|cursor| verifier.insert(cursor));
        verifier
    }

    /// All runs, by node and epoch.
    pub fn cursors(&self) -> impl Iterator<Item = &ChainCursor> {
        self.chains.values().flat_map(BTreeMap::values)
    }

    /// One run.
    #[must_use]
    pub fn cursor(&self, node: &str, epoch: u64) -> Option<&ChainCursor> {
        self.chains.get(node)?.get(&epoch)
    }

    /// Whether records of any run of `node` are still missing from declared holes.
    #[must_use]
    pub fn has_open_gaps(&self, node: &str) -> bool {
        self.chains.get(node).is_some_and(|runs| runs.values().any(|cursor| !cursor.gaps.is_empty()))
    }

    /// Checks the next record of the log. `bytes` are the record's bytes, from which it was parsed.
    pub fn accept(&mut self, record: &Record, bytes: &[u8]) -> Result<(), ChainFault> {
        check_writer(record)?;
        if record.control.is_none()
            && record.gap.is_none()
            && let Some(cursor) = self.chains.get_mut(&record.node).and_then(|runs| runs.get_mut(&record.epoch))
        {
            // It speaks of no chain but its own.
            return cursor.step(record, link(bytes));
        }
        let opening = record.control.as_ref().filter(|_| record.kind == Kind::ControlEvent).and_then(registration);
        // The two writers without a key may be registered as members of the cluster; their chains do not change by it.
        let opening = opening.transpose()?.filter(|run| run.node != CONTROL_NODE && run.node != LEDGER_NODE);
        let opening = opening.map(|opening| self.check_opening(opening)).transpose()?;
        let mut cursor = match self.cursor(&record.node, record.epoch) {
            Some(cursor) => cursor.clone(),
            None if self.count >= CHAINS_MAX => return Err(ChainFault::TooManyChains),
            None => unregistered(&record.node, record.epoch)?,
        };
        cursor.step(record, link(bytes))?;
        let gapped = self.check_gap(record)?;
        self.insert(cursor);
        opening.into_iter().chain(gapped).for_each(|cursor| self.insert(cursor));
        Ok(())
    }

    fn insert(&mut self, cursor: ChainCursor) {
        let runs = self.chains.entry(cursor.node.clone()).or_default();
        if runs.insert(cursor.epoch, cursor).is_none() {
            self.count += 1;
        }
    }

    /// The cursor of a run that an event registers.
    fn check_opening(&self, opening: EpochRegistration) -> Result<ChainCursor, ChainFault> {
        if self.cursor(&opening.node, opening.epoch).is_some() {
            return Err(ChainFault::EpochRegisteredTwice);
        }
        if self.count >= CHAINS_MAX {
            return Err(ChainFault::TooManyChains);
        }
        Ok(ChainCursor::open(opening.node, opening.epoch, Some(opening.public_key)))
    }

    /// The changed cursor of the run that a `gap.open` or `gap.close` speaks of.
    fn check_gap(&self, record: &Record) -> Result<Option<ChainCursor>, ChainFault> {
        let Some(gap) = &record.gap else { return Ok(None) };
        let cursor = self.cursor(&gap.node, gap.epoch);
        match record.kind {
            Kind::GapOpen => {
                if gap.node == LEDGER_NODE {
                    return Err(ChainFault::GapMisplaced);
                }
                let mut cursor = cursor.ok_or(ChainFault::EpochNotRegistered)?.clone();
                cursor.open_gap(gap)?;
                Ok(Some(cursor))
            }
            Kind::GapClose => {
                let cursor = cursor.ok_or(ChainFault::EpochNotRegistered)?;
                let overlaps = |open: &MissingRange| open.first_seq <= gap.last_seq && gap.first_seq <= open.last_seq;
                let filled = gap.last_seq < cursor.next_seq && !cursor.gaps.iter().any(overlaps);
                if filled { Ok(None) } else { Err(ChainFault::GapStillOpen) }
            }
            Kind::GapDeclared
            | Kind::CallIntent
            | Kind::CallOutcome
            | Kind::CallDenied
            | Kind::NodeEpochOpen
            | Kind::NodeHead
            | Kind::NodeEpochClose
            | Kind::DropMarker
            | Kind::ConfigApplied
            | Kind::ControlEvent
            | Kind::RevocationReceipt
            | Kind::PrivacyShred
            | Kind::LedgerHeads
            | Kind::LedgerShardOpen
            | Kind::LedgerShardClose
            | Kind::DecisionEvaluated => Ok(None),
        }
    }
}

impl ChainCursor {
    /// How many records are missing from declared holes.
    #[must_use]
    pub fn missing_records(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.last_seq - gap.first_seq + 1).fold(0, u64::saturating_add)
    }

    /// How many records at the end no signed head covers yet; a head counts as covered by itself.
    #[must_use]
    pub fn unsigned_records(&self) -> u64 {
        match self.signed_through {
            Some(seq) => self.next_seq.saturating_sub(seq.saturating_add(2)),
            None => self.next_seq,
        }
    }

    fn open(node: String, epoch: u64, public_key: Option<PublicKey>) -> Self {
        let prev = Some(genesis(&node, epoch));
        Self { node, epoch, next_seq: 0, prev, public_key, signed_through: None, gaps: Vec::new() }
    }

    /// Moves over `record`, after which the chain hash is `after`. Refused, nothing has changed.
    fn step(&mut self, record: &Record, after: Hash) -> Result<(), ChainFault> {
        let named = record.prev_hash().ok_or(ChainFault::PrevMismatch)?;
        self.check_key(record)?;
        let (expected, found) = (self.next_seq, record.seq);
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => self.fill(found, named, after)?,
            std::cmp::Ordering::Greater => return Err(ChainFault::Hole { expected, found }),
            std::cmp::Ordering::Equal => self.extend(named, after)?,
        }
        if record.kind == Kind::NodeHead {
            self.signed_through = self.signed_through.max(record.head.as_ref().map(|head| head.seq));
        }
        Ok(())
    }

    fn check_key(&self, record: &Record) -> Result<(), ChainFault> {
        let signed = |key: &PublicKey| head_is_signed(record, key);
        if record.kind == Kind::NodeHead && !self.public_key.as_ref().is_some_and(signed) {
            return Err(ChainFault::HeadForged);
        }
        let opened = record.epoch_open.as_ref().map(|open| hash::from_hex(&open.public_key));
        if opened.is_some_and(|key| key != self.public_key) {
            return Err(ChainFault::KeyMismatch);
        }
        Ok(())
    }

    fn extend(&mut self, named: Hash, after: Hash) -> Result<(), ChainFault> {
        let next_seq = self.next_seq.checked_add(1).ok_or(ChainFault::PrevMismatch)?;
        match (self.prev, self.gaps.last_mut()) {
            (Some(prev), _) if prev != named => return Err(ChainFault::PrevMismatch),
            (Some(_), _) => {}
            (None, Some(gap)) => gap.after = Some(named),
            (None, None) => return Err(ChainFault::GapMisplaced),
        }
        self.prev = Some(after);
        self.next_seq = next_seq;
        Ok(())
    }

    /// A late record: it must be the first one missing of a declared hole.
    fn fill(&mut self, found: u64, named: Hash, after: Hash) -> Result<(), ChainFault> {
        let repeated = ChainFault::Repeated { expected: self.next_seq, found };
        let position = self.gaps.iter().position(|gap| gap.first_seq <= found && found <= gap.last_seq);
        let position = position.ok_or(repeated)?;
        let Some(gap) = self.gaps.get_mut(position) else { return Err(ChainFault::GapMisplaced) };
        if gap.first_seq != found {
            return Err(ChainFault::Hole { expected: gap.first_seq, found });
        }
        if gap.before != named {
            return Err(ChainFault::PrevMismatch);
        }
        if found < gap.last_seq {
            gap.first_seq += 1;
            gap.before = after;
            return Ok(());
        }
        match gap.after {
            Some(expected) if expected != after => return Err(ChainFault::PrevMismatch),
            Some(_) => {}
            None => self.prev = Some(after),
        }
        self.gaps.remove(position);
        Ok(())
    }

    fn open_gap(&mut self, gap: &Gap) -> Result<(), ChainFault> {
        let fits = gap.first_seq == self.next_seq && gap.last_seq >= gap.first_seq && self.gaps.len() < OPEN_GAPS_MAX;
        let (true, Some(before), Some(next)) = (fits, self.prev, gap.last_seq.checked_add(1)) else {
            return Err(ChainFault::GapMisplaced);
        };
        self.gaps.push(MissingRange { first_seq: gap.first_seq, last_seq: gap.last_seq, before, after: None });
        self.prev = None;
        self.next_seq = next;
        Ok(())
    }
}

/// A cursor for the two writers that need no registration.
fn unregistered(node: &str, epoch: u64) -> Result<ChainCursor, ChainFault> {
    if (node == CONTROL_NODE && epoch == 0) || node == LEDGER_NODE {
        Ok(ChainCursor::open(node.to_owned(), epoch, None))
    } else {
        Err(ChainFault::EpochNotRegistered)
    }
}

fn check_writer(record: &Record) -> Result<(), ChainFault> {
    let allowed = match record.kind {
        Kind::ControlEvent => record.node == CONTROL_NODE,
        Kind::GapOpen | Kind::GapClose | Kind::LedgerHeads | Kind::LedgerShardOpen | Kind::LedgerShardClose => {
            record.node == LEDGER_NODE
        }
        Kind::GapDeclared => record.gap.as_ref().is_some_and(|gap| gap.node == record.node),
        Kind::CallIntent
        | Kind::CallOutcome
        | Kind::CallDenied
        | Kind::NodeEpochOpen
        | Kind::NodeHead
        | Kind::NodeEpochClose
        | Kind::DropMarker
        | Kind::ConfigApplied
        | Kind::RevocationReceipt
        | Kind::PrivacyShred => record.node != LEDGER_NODE,
        // Only data planes decide.
        Kind::DecisionEvaluated => record.node != LEDGER_NODE && record.node != CONTROL_NODE,
    };
    if allowed { Ok(()) } else { Err(ChainFault::KindNotAllowed) }
}
