//! One event as the next record of the chain.
//!
//! Total: an event that does not fit into a record is recorded by its hash, so the chain never stops and never skips.
//! Pure: the same event, revision and place give the same bytes.

use std::io;

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_control_plane_core::{Change, Event, recorded};
use bailiwick_ledger_core::{
    chain::NodeChain,
    record::{Kind, Record, format_ts},
};
use serde_json::{Value, json};

/// Appends `event` (stored as `bytes`); `None` for events that are not recorded.
pub(super) fn append(chain: &mut NodeChain, event: &Event, bytes: &[u8], revision: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(control) = recorded(event, revision) else { return Ok(None) };
    match chain.append(record(event, revision, control)) {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            tracing::warn!(revision, %error, "an event does not fit into a record; its hash is recorded");
            let record = record(event, revision, hash_only(event, bytes, revision));
            chain.append(record).map(Some).map_err(io::Error::other)
        }
    }
}

fn record(event: &Event, revision: u64, control: Value) -> Record {
    let ts = format_ts(i64::try_from(event.time).unwrap_or(i64::MAX));
    let request_id = (!event.request_id.is_empty()).then(|| event.request_id.clone());
    let is_receipt = matches!(event.change, Change::RevocationReceipted(_));
    let kind = if is_receipt { Kind::RevocationReceipt } else { Kind::ControlEvent };
    Record { rev: Some(revision), request_id, control: Some(control), ..Record::new(kind, ts) }
}

fn hash_only(event: &Event, bytes: &[u8], revision: u64) -> Value {
    json!({
        "type": event.change.type_word(),
        "actor": event.actor,
        "revision": revision.to_string(),
        "omitted": "too_large",
        "sha256": hex::encode(digest(&SHA256, bytes)),
    })
}
