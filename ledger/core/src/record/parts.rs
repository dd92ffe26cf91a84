//! The structured parts of a record: decision, commitments, outcome, trace, head, epoch opening, gap.
//!
//! Re-exported by `record`. Every part leaves out what it does not know; 64-bit numbers are decimal strings, hashes
//! and signatures are lower-case hex. No part ever holds a payload: `args` and `result` are commitments (`commitment`).
//! INVARIANT: fields are declared in the order of their names (see `Record`).

use serde::{Deserialize, Serialize};

use crate::decimal;

/// Permit or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The call may go on.
    Permit,
    /// The call is refused.
    Deny,
}

/// Whether the caller proved possession of the key its token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// Proved.
    Bound,
    /// Demanded, but no proof came.
    Missing,
    /// The proof does not verify.
    Invalid,
    /// The proof is too old.
    Stale,
    /// The proof was used before.
    Replayed,
    /// The token is not bound and need not be.
    NotRequired,
}

/// A policy and the version of it that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Its name.
    pub name: String,
    /// The control-plane revision at which this text of it was applied.
    #[serde(with = "decimal")]
    pub version: u64,
}

/// What was decided, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// What happened to the call.
    pub effect: Effect,
    /// The policies that determined the effect; empty when something before policy did.
    #[serde(default)]
    pub policies: Vec<PolicyRef>,
    /// The stable reason code of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In monitor mode: what would have happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_be: Option<Effect>,
}

/// Stands in for a payload: proves what it was to whoever is shown payload and salt, tells others nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// Length of the payload in bytes.
    #[serde(with = "decimal")]
    pub bytes: u64,
    /// HMAC-SHA256 under the salt, hex.
    pub commitment: String,
    /// Its shape, without values and names, as `commitment::summarise` tells it.
    pub summary: String,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The tool answered.
    Ok,
    /// The tool answered that it failed (`isError`).
    ToolError,
    /// The server could not be used, or answered with a protocol error.
    Error,
    /// The node stopped before it knew.
    Unknown,
}

/// The outcome of a forwarded call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Length of the answer in bytes.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Cost as a decimal string, in the currency of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// JSON-RPC error code or Bailiwick reason, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// From forwarding to the end of the answer, microseconds.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// How it ended.
    pub status: Status,
}

/// Where the call stands in the caller's own view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What the client calls itself; never a basis of decisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// The version the client claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    /// The JSON-RPC id as JSON text (`7` or `"a"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jsonrpc_id: Option<String>,
    /// The MCP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// MCP revision the client spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// W3C trace id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// A node's signature over its chain (`chain::head_note_bytes`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The chain hash after that record, hex: equal to this record's `prev`.
    pub chain: String,
    /// Of the last record before this one.
    #[serde(with = "decimal")]
    pub seq: u64,
    /// Ed25519 signature, hex.
    pub sig: String,
}

/// The start of a node's run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochOpen {
    /// The public key registered for this run, hex.
    pub public_key: String,
    /// What the spool held of earlier runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<RecoveredEpoch>,
}

/// What a node found of an earlier run of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredEpoch {
    /// The chain hash after the last record found, hex.
    pub chain: String,
    /// The earlier run.
    #[serde(with = "decimal")]
    pub epoch: u64,
    /// One more than the last sequence number found.
    #[serde(with = "decimal")]
    pub next_seq: u64,
    /// Intents without an outcome; each gets an outcome `unknown`.
    #[serde(with = "decimal")]
    pub open_intents: u64,
}

/// A range of a node's chain that is missing, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// A stable word for why, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Which run.
    #[serde(with = "decimal")]
    pub epoch: u64,
    /// First missing sequence number.
    #[serde(with = "decimal")]
    pub first_seq: u64,
    /// Last missing sequence number.
    #[serde(with = "decimal")]
    pub last_seq: u64,
    /// Whose chain.
    pub node: String,
}
