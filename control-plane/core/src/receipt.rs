//! Receipts of revocations: since when each data plane holds to what was taken away.
//!
//! The server waits until every data plane has said that a revocation is in force there, or must be because its lease
//! has run out, and then has this recorded; the ledger keeps it. Called by `command`. Nothing in the state follows from
//! a receipt.
//! Invariant: each event fits into one record of the ledger, so a receipt that names many nodes has several parts, all in
//! one change. Absent: waiting, and how long a lease is (server); taking authority away (`revocation`).

use bailiwick_proto::names;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection, State,
    command::{Context, Decision},
    event::Event,
    node::NODES_MAX,
    requests,
};

/// Most nodes named in one event: with the longest names well below the 32 KiB of a record.
pub const NODES_PER_PART_MAX: usize = 200;

/// A wish to have it recorded since when a revocation is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordReceipt {
    /// Every denial up to this revision is in force where the receipt says so.
    pub denied_through: u64,
    /// When it was known to be committed, not before it was; microseconds since 1970, UTC.
    pub committed_at: u64,
    /// Every data plane.
    pub nodes: Vec<Enforcement>,
    /// Of the request that took authority away, so that both are found together; may be empty.
    pub request_id: String,
}

/// Since when a revocation is in force at one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// The node.
    pub name: String,
    /// Since when, and how that is known.
    #[serde(flatten)]
    pub since: Since,
}

/// Since when, in microseconds since 1970, UTC, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// The node said so; by the clock of the control plane that it told.
    AcknowledgedAt(#[serde(with = "crate::decimal")] u64),
    /// The node was silent; its lease had run out by then.
    Deadline(#[serde(with = "crate::decimal")] u64),
}

/// Payload of `revocation_receipted`: one part of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationReceipted {
    /// Every denial up to this revision is in force as the nodes' entries say.
    #[serde(with = "crate::decimal")]
    pub denied_through: u64,
    /// When they were known to be committed, not before they were; microseconds since 1970, UTC.
    #[serde(with = "crate::decimal")]
    pub committed_at: u64,
    /// Which part this is, from 1.
    #[serde(with = "crate::decimal")]
    pub part: u64,
    /// How many parts there are.
    #[serde(with = "crate::decimal")]
    pub parts: u64,
    /// In the order of their names.
    pub nodes: Vec<Enforcement>,
}

pub(crate) fn decide_record(state: &State, wish: RecordReceipt, context: &Context) -> Result<Decision, Rejection> {
    let RecordReceipt { denied_through, committed_at, mut nodes, request_id } = wish;
    if denied_through > state.revision {
        return Err(Rejection::Malformed { what: "revision of a receipt", rule: "one that there has been" });
    }
    if nodes.len() > NODES_MAX {
        return Err(Rejection::TooMany { what: "nodes in a receipt", max: NODES_MAX });
    }
    if !nodes.iter().all(|node| names::is_resource_name(&node.name)) {
        return Err(Rejection::Malformed { what: "node in a receipt", rule: "the name of a node" });
    }
    if !request_id.is_empty() && !requests::is_id(&request_id) {
        return Err(Rejection::Malformed { what: "request id", rule: "at most 128 visible ASCII characters" });
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut named: Vec<Vec<Enforcement>> = nodes.chunks(NODES_PER_PART_MAX).map(<[_]>::to_vec).collect();
    if named.is_empty() {
        // That there was no data plane to wait for is worth a receipt, too.
        named.push(Vec::new());
    }
    let parts = u64::try_from(named.len()).unwrap_or(u64::MAX);
    let part = |(part, nodes)| RevocationReceipted { denied_through, committed_at, part, parts, nodes };
    let of_request = |event: Event| Event { request_id: request_id.clone(), ..event };
    Ok(Decision::done((1..).zip(named).map(|one| of_request(context.event(part(one)))).collect()))
}
