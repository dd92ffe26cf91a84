//! The record: one thing that happened, as canonical JSON that is hashed exactly as stored.
//!
//! Written by the data plane (calls, decisions for services, heads, epochs), the control plane (events) and the ledger (gaps); each fills the
//! fields it knows with struct update over [`Record::new`], then hands the record to `chain::NodeChain`, which fills
//! `node`, `epoch`, `seq` and `prev`. Read by the sequencer and by `verify`.
//!
//! The bytes are the truth: they must be RFC 8785 canonical JSON without nulls and fractions, at most 32 KiB. Fields
//! a reader does not know are allowed, so a later writer may add some; a record that means something else to an old
//! reader carries another `v`. Absent: payloads and salts (see `commitment`), and any opinion on what was allowed.

mod kind;
mod parts;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::kind::{Kind, UnknownKind};
pub use self::parts::{
    Binding, Commitment, DecisionRecord, Effect, EpochOpen, Gap, Head, Outcome, PolicyRef, RecoveredEpoch, Status,
    Trace,
};
pub use crate::time::format_ts;
use crate::{
    canonical::{self, CanonicalError},
    decimal,
    hash::{self, Hash, sha256},
    time::parse_ts,
};

/// The format version written here.
pub const VERSION: u8 = 1;
/// Largest record: every field of a call with generous names fits in a tenth of it, and an event with a long policy
/// text still does; two records fit in a NATS message of 64 KiB and any record in an entry bundle (65,535 bytes).
pub const RECORD_BYTES_MAX: usize = 32 * 1024;
/// Room for a record before any of it is written: most have less.
const RECORD_BYTES_EXPECTED: usize = 1536;
/// Longest name of a node: a DNS label.
pub const NODE_NAME_BYTES_MAX: usize = 63;

/// Why bytes are not a record, or a record cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Larger than [`RECORD_BYTES_MAX`].
    #[error("the record has {bytes} bytes; {RECORD_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not JSON.
    #[error("the record is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// A null, a number that is no small integer, or too much nesting.
    #[error(transparent)]
    Unrepresentable(#[from] CanonicalError),
    /// Not the canonical form of what it says (RFC 8785); also what a duplicate key gets.
    #[error("the record is not in canonical form")]
    NotCanonical,
    /// A format version unknown here.
    #[error("the record's format version is not {VERSION}")]
    Version,
    /// A field is missing or has the wrong type.
    #[error("the record's fields do not fit the format")]
    Malformed(#[source] serde_json::Error),
    /// A field every record of this kind carries is missing.
    #[error("a record of kind {kind} needs the field `{field}`")]
    MissingField {
        /// The record's kind.
        kind: Kind,
        /// What it lacks.
        field: &'static str,
    },
    /// A field is there but not in its one spelling.
    #[error("the field `{field}` is not spelt as the format says")]
    Spelling {
        /// Which.
        field: &'static str,
    },
}

/// One record. `node`, `epoch`, `seq` and `prev` are filled by `chain::NodeChain::append`.
///
/// INVARIANT: here and in every part, fields are declared in the order of their names, which is that of RFC 8785.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The arguments, committed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Commitment>,
    /// Proof of possession.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The OAuth client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The consent relied upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<String>,
    /// A control-plane event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Value>,
    /// What was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionRecord>,
    /// The service that asked for a decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_client: Option<String>,
    /// How many records were not written.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    /// The agents for which the agent acts, the latest first, where one handed its work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_agents: Option<Vec<String>>,
    /// The writer's run: the control-plane revision at which its key was registered.
    #[serde(with = "decimal")]
    pub epoch: u64,
    /// The start of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_open: Option<EpochOpen>,
    /// What is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// A signed head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// On outcomes: [`record_id`] of the intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// What happened.
    pub kind: Kind,
    /// Who wrote this.
    pub node: String,
    /// How the call ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Who owned the agent then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The chain hash before this record, hex.
    pub prev: String,
    /// The agent's project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The id a refusal or answer carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The result, committed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Commitment>,
    /// Control-plane revision the decision used.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub rev: Option<u64>,
    /// How old that revision was, milliseconds.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub rev_age_ms: Option<u64>,
    /// The rollout whose candidate was laid over that revision where the decision was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Position in the chain of `(node, epoch)`, from 0.
    #[serde(with = "decimal")]
    pub seq: u64,
    /// The MCP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The token's session (`sid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The tool's tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The tool, by the server's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Hash of the approved definition of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_hash: Option<String>,
    /// The caller's own identifiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// When, by the writer's clock: RFC 3339, microseconds, UTC.
    pub ts: String,
    /// The human.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Format version.
    pub v: u8,
    /// The virtual server it was called through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_server: Option<String>,
}

/// The name of a record in other records (`intent`): hex SHA-256 of its bytes.
#[must_use]
pub fn record_id(bytes: &[u8]) -> String {
    hash::to_hex(&sha256(&[bytes]))
}

/// Node names: 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores. They stand in signed text,
/// one per line.
#[must_use]
pub fn is_node_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= NODE_NAME_BYTES_MAX && name.starts_with(edge) && name.ends_with(edge) && name.chars().all(inner)
}

impl Record {
    /// An empty record of `kind` at `ts` (see [`format_ts`]); its place in a chain is filled by `NodeChain::append`.
    #[must_use]
    pub const fn new(kind: Kind, ts: String) -> Self {
        Self {
            v: VERSION,
            kind,
            node: String::new(),
            epoch: 0,
            seq: 0,
            prev: String::new(),
            ts,
            rev: None,
            rev_age_ms: None,
            rollout: None,
            user: None,
            agent: None,
            earlier_agents: None,
            owner: None,
            project: None,
            client: None,
            session: None,
            consent: None,
            binding: None,
            server: None,
            tool: None,
            tool_hash: None,
            tier: None,
            virtual_server: None,
            request_id: None,
            decision: None,
            decision_client: None,
            args: None,
            result: None,
            intent: None,
            outcome: None,
            trace: None,
            control: None,
            head: None,
            epoch_open: None,
            gap: None,
            dropped: None,
        }
    }

    /// The bytes to chain, store and hash.
    pub fn to_canonical(&self) -> Result<Vec<u8>, RecordError> {
        self.check()?;
        // Fields stand in canonical order and hold texts; of an event only its writer knows what it holds.
        let bytes = match self.control {
            None => {
                let mut bytes = Vec::with_capacity(RECORD_BYTES_EXPECTED);
                serde_json::to_writer(&mut bytes, self).map_err(RecordError::Malformed)?;
                bytes
            }
            Some(_) => canonical::to_canonical(&serde_json::to_value(self).map_err(RecordError::Malformed)?)?,
        };
        check_size(&bytes)?;
        Ok(bytes)
    }

    /// Reads bytes that [`Record::to_canonical`], here or in a later version, could have written; refuses all others.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        check_size(bytes)?;
        match Self::as_written_here(bytes) {
            Some(record) => Ok(record),
            None => Self::parse_any(bytes),
        }
    }

    /// Reads what this very version writes: if it writes the same bytes again, they are good. Several times as fast as
    /// [`Self::parse_any`], which finds out about all others, and what is wrong with them.
    fn as_written_here(bytes: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(bytes).ok().filter(|record: &Self| record.v == VERSION)?;
        (record.to_canonical().ok()? == bytes).then_some(record)
    }

    fn parse_any(bytes: &[u8]) -> Result<Self, RecordError> {
        let value: Value = serde_json::from_slice(bytes).map_err(RecordError::NotJson)?;
        if canonical::to_canonical(&value)? != bytes {
            return Err(RecordError::NotCanonical);
        }
        if value.get("v").and_then(Value::as_u64) != Some(VERSION.into()) {
            return Err(RecordError::Version);
        }
        let record: Self = serde_json::from_value(value).map_err(RecordError::Malformed)?;
        record.check()?;
        Ok(record)
    }

    /// `prev` as a hash; `None` cannot occur on a record that was parsed.
    #[must_use]
    pub fn prev_hash(&self) -> Option<Hash> {
        hash::from_hex(&self.prev)
    }

    /// What every record, and every record of this kind, must have.
    fn check(&self) -> Result<(), RecordError> {
        let spelling = |fits: bool, field| if fits { Ok(()) } else { Err(RecordError::Spelling { field }) };
        spelling(is_node_name(&self.node), "node")?;
        spelling(hash::is_hex(&self.prev), "prev")?;
        spelling(parse_ts(&self.ts).is_some(), "ts")?;
        spelling(self.intent.as_deref().is_none_or(hash::is_hex), "intent")?;
        let missing = match self.kind {
            Kind::CallIntent | Kind::CallDenied | Kind::DecisionEvaluated if self.decision.is_none() => "decision",
            Kind::DecisionEvaluated if self.decision_client.is_none() => "decision_client",
            Kind::CallOutcome if self.intent.is_none() => "intent",
            Kind::CallOutcome if self.outcome.is_none() => "outcome",
            Kind::NodeEpochOpen if self.epoch_open.is_none() => "epoch_open",
            Kind::NodeHead if self.head.is_none() => "head",
            Kind::GapOpen | Kind::GapClose | Kind::GapDeclared if self.gap.is_none() => "gap",
            Kind::DropMarker if self.dropped.is_none() => "dropped",
            Kind::ControlEvent if self.control.is_none() => "control",
            Kind::CallIntent
            | Kind::CallOutcome
            | Kind::CallDenied
            | Kind::NodeEpochOpen
            | Kind::NodeHead
            | Kind::NodeEpochClose
            | Kind::GapOpen
            | Kind::GapClose
            | Kind::GapDeclared
            | Kind::DropMarker
            | Kind::ConfigApplied
            | Kind::ControlEvent
            | Kind::RevocationReceipt
            | Kind::PrivacyShred
            | Kind::LedgerHeads
            | Kind::LedgerShardOpen
            | Kind::LedgerShardClose
            | Kind::DecisionEvaluated => return Ok(()),
        };
        Err(RecordError::MissingField { kind: self.kind, field: missing })
    }
}

const fn check_size(bytes: &[u8]) -> Result<(), RecordError> {
    if bytes.len() > RECORD_BYTES_MAX { Err(RecordError::TooLarge { bytes: bytes.len() }) } else { Ok(()) }
}
