//! A whole control-plane node, asked over its real listeners; only the data planes and the ledger are played.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on should say where")]

mod cluster;
mod http;
mod keys;
mod lane;
mod master_key;
mod revocation;
mod rollouts;
mod storms;
mod streams;
mod support;
mod writes;
