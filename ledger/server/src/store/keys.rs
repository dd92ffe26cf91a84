//! How the store's keys and fixed-shape values look as bytes. Numbers are big-endian, so key order is number order.
//!
//! - chain: node name, NUL, epoch (8 bytes); node names hold no NUL. Its value: how many records are covered (8 bytes),
//!   leaf index of the last one plus one (8 bytes; 0: none), then the chain's cursor as JSON.
//! - hash: level (1 byte), index (8 bytes).
//! - term: field (1 byte), first 16 bytes of SHA-256 of the value, leaf index (8 bytes). A digest keeps keys short and
//!   of one length whatever a record says; 128 bits do not collide by accident, and on purpose only within one's own
//!   search results. Its value: which later leaves of the same write have the term, as distances from that leaf (4 bytes
//!   each, rising). Under load a write has thousands of leaves and a term one entry in it.
//! - span: leaf index / 256 → the newest record time up to the end of that span.

use aws_lc_rs::digest;
use bailiwick_ledger_core::chain::ChainCursor;

/// Leaves per span; the same as a full tile, so a span costs one small entry per tile.
pub(super) const SPAN: u64 = 256;
/// Bytes of a term key before the leaf index.
pub(super) const TERM_PREFIX_BYTES: usize = 17;

/// One chain: a node's name and the epoch of one of its runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId {
    pub node: String,
    pub epoch: u64,
}

/// What records can be found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Field {
    User = 1,
    Agent = 2,
    Tool = 3,
    Server = 4,
    Decision = 5,
    Kind = 6,
    Binding = 7,
    RequestId = 8,
    /// Node and record id of an intent.
    Intent = 9,
    /// Node and record id of the intent that an outcome names.
    Outcome = 10,
    /// Node, epoch and sequence number: one record.
    Place = 11,
    /// The service that asked for a decision.
    DecisionClient = 12,
}

pub(super) fn chain(node: &str, epoch: u64) -> Vec<u8> {
    [node.as_bytes(), &[0], &epoch.to_be_bytes()].concat()
}

pub(super) fn decode_chain(key: &[u8]) -> Option<ChainId> {
    let (name, epoch) = key.split_last_chunk::<8>()?;
    let node = String::from_utf8(name.strip_suffix(&[0])?.to_vec()).ok()?;
    Some(ChainId { node, epoch: u64::from_be_bytes(*epoch) })
}

pub(super) fn hash(level: u8, index: u64) -> [u8; 9] {
    let mut key = [level; 9];
    if let Some(tail) = key.last_chunk_mut::<8>() {
        *tail = index.to_be_bytes();
    }
    key
}

pub(super) fn term_prefix(field: Field, value: &str) -> [u8; TERM_PREFIX_BYTES] {
    let hash = digest::digest(&digest::SHA256, value.as_bytes());
    let mut prefix = [field as u8; TERM_PREFIX_BYTES];
    for (byte, of_hash) in prefix.iter_mut().skip(1).zip(hash.as_ref()) {
        *byte = *of_hash;
    }
    prefix
}

pub(super) fn term(field: Field, value: &str, index: u64) -> Vec<u8> {
    [&term_prefix(field, value)[..], &index.to_be_bytes()].concat()
}

pub(super) fn decode_number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// The last leaf at or below `at` of a term's entry, which begins at leaf `first`.
pub(super) fn at_or_below(first: u64, later: &[u8], at: u64) -> Option<u64> {
    let distance = at.checked_sub(first)?;
    let (later, _) = later.as_chunks::<4>();
    let upto = later.partition_point(|later| u64::from(u32::from_be_bytes(*later)) <= distance);
    let last = upto.checked_sub(1).and_then(|at| later.get(at)).map_or(0, |last| u64::from(u32::from_be_bytes(*last)));
    Some(first + last)
}

pub(super) fn encode_cursor(cursor: &ChainCursor, last_index: Option<u64>) -> Option<Vec<u8>> {
    let last = last_index.map_or(0, |index| index.saturating_add(1));
    let numbers = [covered(cursor), last].map(u64::to_be_bytes);
    Some([numbers.as_flattened(), &serde_json::to_vec(cursor).ok()?].concat())
}

/// Records up to here are stored without exception: an open gap ends it.
pub(crate) fn covered(cursor: &ChainCursor) -> u64 {
    cursor.gaps.iter().map(|gap| gap.first_seq).min().unwrap_or(cursor.next_seq)
}

/// `covered` and the last leaf index.
pub(super) fn decode_progress(value: &[u8]) -> Option<(u64, Option<u64>)> {
    let (covered, rest) = value.split_first_chunk::<8>()?;
    let last = rest.first_chunk::<8>()?;
    Some((u64::from_be_bytes(*covered), u64::from_be_bytes(*last).checked_sub(1)))
}

pub(super) fn decode_cursor(value: &[u8]) -> Option<(ChainCursor, Option<u64>)> {
    let (_, last_index) = decode_progress(value)?;
    Some((serde_json::from_slice(value.get(16..)?).ok()?, last_index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_tells_its_last_leaf_at_or_below_any() {
        let later: Vec<u8> = [2_u32, 5, 9].iter().flat_map(|distance| distance.to_be_bytes()).collect();
        let told: Vec<_> = (6..=22).map(|at| at_or_below(10, &later, at)).collect();
        let none = [None; 4].into_iter();
        let leaves = [10, 10, 12, 12, 12, 15, 15, 15, 15, 19, 19, 19, 19].into_iter().map(Some);
        assert_eq!(told, none.chain(leaves).collect::<Vec<_>>());
        assert_eq!(at_or_below(10, &[], u64::MAX), Some(10), "one leaf");
    }

    #[test]
    fn keys_and_cursors_round_trip() {
        let id = ChainId { node: "data-plane-1".into(), epoch: u64::MAX };
        assert_eq!(decode_chain(&chain(&id.node, id.epoch)), Some(id));
        let cursor = ChainCursor {
            node: "data-plane-1".into(),
            epoch: 7,
            next_seq: 8,
            prev: Some([9; 32]),
            public_key: Some([1; 32]),
            signed_through: None,
            gaps: vec![],
        };
        for last_index in [None, Some(0), Some(41)] {
            let value = encode_cursor(&cursor, last_index).unwrap();
            assert_eq!(decode_progress(&value), Some((8, last_index)));
            assert_eq!(decode_cursor(&value), Some((cursor.clone(), last_index)));
        }
    }

    #[test]
    fn anything_else_is_not_decoded() {
        assert_eq!(decode_chain(b"short"), None);
        assert_eq!(decode_chain(b"no-nul-here12345678"), None);
        assert_eq!(decode_cursor(&[0; 16]), None);
        assert_eq!(decode_progress(&[0; 15]), None);
        assert_eq!(decode_number(&[0; 7]), None);
    }

    #[test]
    fn term_order_is_leaf_order() {
        assert!(term(Field::User, "jane", 255) < term(Field::User, "jane", 256));
        assert_ne!(term_prefix(Field::User, "jane"), term_prefix(Field::Agent, "jane"));
    }
}
