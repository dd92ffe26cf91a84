//! The pure part of the data plane: what is configured, who may call what, and what MCP messages mean.
//!
//! Read in this order: `config` and `catalogue` (what the control plane streamed, compiled), `lane` (what it takes away
//! at once), `caller`, `admission` (the one rule for listing and calling), `edge` (a client's message in, one `Step`
//! out), `forward` and `handshake` (the server's side), `session` (sealed legacy session ids), `records` (what the ledger
//! is told).
//!
//! Called by `data-plane/server`, which owns sockets, clocks, randomness and the spool. None of those is here: time,
//! ids, nonces and keys arrive as arguments. Nothing is remembered between calls except the catalogue.

pub mod admission;
pub mod caller;
pub mod catalogue;
pub mod config;
pub mod edge;
pub mod forward;
pub mod handshake;
pub mod header_params;
pub mod lane;
pub mod people;
pub mod policies;
pub mod records;
pub mod session;
pub mod table;

#[cfg(test)]
mod fixture;

pub use admission::{Decision, ToolRef, admit, listable};
pub use caller::Caller;
pub use catalogue::{Applied, Catalogue, CatalogueError};
pub use config::Config;
pub use edge::{Exchange, HttpReply, Step, ToolCall};
