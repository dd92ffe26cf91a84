//! The ledger's formats and proofs: everything an auditor needs to check a log, and nothing else.
//!
//! Read in this order: `canonical` (the bytes of a record), `record` (its fields), `chain` (was anything left out?),
//! `tree` and `tile` (is it in, and does today's log extend yesterday's?), `checkpoint` (who vouches for which tree),
//! `commitment` (what stands in for payloads), `verify` (all of it together, over an export).
//!
//! Called by the data plane and the control plane (to write records), by the ledger server (to sequence and publish
//! them) and by `bailiwick ledger verify`. Deliberately absent: files, sockets, clocks, randomness and async. Time,
//! keys and salts arrive as arguments; an export is read through a trait.

pub mod canonical;
pub mod chain;
pub mod checkpoint;
pub mod commitment;
pub mod decimal;
pub mod hash;
pub mod key;
pub mod record;
pub mod tile;
pub mod time;
pub mod tree;
pub mod verify;
