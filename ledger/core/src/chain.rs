//! The node chain: was anything left out of what one node wrote in one run?
//!
//! A run is `(node, epoch)`; its records count from 0 without holes, and each names the hash of the one before:
//! `prev` of record 0 is SHA-256 of `bailiwick/node/v1\n<node>\n<epoch>\n`; of record n, SHA-256 of
//! `bailiwick/node/v1\n` and the bytes of record n−1. At short intervals the node signs how far it has come
//! (`node.head`), so a cut end shows too.
//!
//! Writers hold a [`NodeChain`]; the sequencer and `verify` hold a [`ChainVerifier`]. A chain proof never stands in
//! for a tree proof. Absent: deciding when a head is due (it needs a clock), and storage.

mod verifier;

use base64::{Engine, prelude::BASE64_STANDARD};

pub use self::verifier::{
    CHAINS_MAX, CONTROL_NODE, ChainCursor, ChainFault, ChainVerifier, EpochRegistration, LEDGER_NODE, MissingRange,
    OPEN_GAPS_MAX, registration,
};
use crate::{
    hash::{self, Hash, sha256},
    key::{self, NodeSigner, PublicKey},
    record::{Head, Kind, Record, RecordError},
};

const DOMAIN: &[u8] = b"bailiwick/node/v1\n";

/// The chain hash before the first record of a run.
#[must_use]
pub fn genesis(node: &str, epoch: u64) -> Hash {
    sha256(&[DOMAIN, format!("{node}\n{epoch}\n").as_bytes()])
}

/// The chain hash after the record with these bytes.
#[must_use]
pub fn link(record: &[u8]) -> Hash {
    sha256(&[DOMAIN, record])
}

/// What a `node.head` signs: five lines, the chain hash in base64.
#[must_use]
pub fn head_note_bytes(node: &str, epoch: u64, seq: u64, chain: &Hash) -> Vec<u8> {
    format!("bailiwick/head/v1\n{node}\n{epoch}\n{seq}\n{}\n", BASE64_STANDARD.encode(chain)).into_bytes()
}

/// How far a chain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// Of the last record.
    pub seq: u64,
    /// The chain hash after it: `prev` of the next.
    pub chain: Hash,
}

/// The writing end of one run's chain. One per run; whoever holds it is the only writer.
#[derive(Debug)]
pub struct NodeChain {
    node: String,
    epoch: u64,
    next_seq: u64,
    prev: Hash,
}

impl NodeChain {
    /// A new run. `epoch` was never used by this node before.
    #[must_use]
    pub fn open(node: impl Into<String>, epoch: u64) -> Self {
        let node = node.into();
        let prev = genesis(&node, epoch);
        Self { node, epoch, next_seq: 0, prev }
    }

    /// A run that already has `next_seq` records, the last of which gave the chain hash `prev`.
    #[must_use]
    pub fn resume(node: impl Into<String>, epoch: u64, next_seq: u64, prev: Hash) -> Self {
        Self { node: node.into(), epoch, next_seq, prev }
    }

    /// Fills `node`, `epoch`, `seq` and `prev`, and returns the record's bytes. On error the chain is as before. The
    /// caller makes the bytes durable, or gives the chain up: a number is never used twice.
    pub fn append(&mut self, record: Record) -> Result<Vec<u8>, RecordError> {
        let placed = Record {
            node: self.node.clone(),
            epoch: self.epoch,
            seq: self.next_seq,
            prev: hash::to_hex(&self.prev),
            ..record
        };
        let bytes = placed.to_canonical()?;
        self.prev = link(&bytes);
        self.next_seq += 1;
        Ok(bytes)
    }

    /// Appends a `node.head` that signs everything so far; `None` when there is nothing yet.
    pub fn append_head(&mut self, ts: String, signer: &NodeSigner) -> Result<Option<Vec<u8>>, RecordError> {
        let Some(head) = self.head() else { return Ok(None) };
        let note = head_note_bytes(&self.node, self.epoch, head.seq, &head.chain);
        let sig = hex::encode(signer.sign(&note));
        let head = Head { seq: head.seq, chain: hash::to_hex(&head.chain), sig };
        self.append(Record { head: Some(head), ..Record::new(Kind::NodeHead, ts) }).map(Some)
    }

    /// The sequence number the next record gets.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The chain hash the next record names: with [`NodeChain::next_seq`], what [`NodeChain::resume`] takes.
    #[must_use]
    pub const fn prev(&self) -> &Hash {
        &self.prev
    }

    /// How far the chain has come; `None` before the first record.
    #[must_use]
    pub fn head(&self) -> Option<ChainHead> {
        Some(ChainHead { seq: self.next_seq.checked_sub(1)?, chain: self.prev })
    }

    /// Whose chain this is.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Which run.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Whether `record` is a head that signs exactly what stands before it.
#[must_use]
pub fn head_is_signed(record: &Record, public_key: &PublicKey) -> bool {
    let (Some(head), Some(prev)) = (&record.head, record.prev_hash()) else { return false };
    let Ok(signature) = hex::decode(&head.sig) else { return false };
    let note = head_note_bytes(&record.node, record.epoch, head.seq, &prev);
    head.seq.checked_add(1) == Some(record.seq)
        && head.chain == record.prev
        && key::verify(public_key, &note, &signature)
}

#[cfg(test)]
mod tests;
