//! The pure part of the data plane: what is configured, who may call what, and what MCP messages mean.
//!
//! Read in this order: `config` and `catalogue` (what the control plane streamed, compiled), `lane` (what it takes away
//! at once), `caller`, `admission` (the one rule for listing and calling), `edge` (a client's message in, one `Step`
//! out), `forward`, `relay`, `conversation` and `handshake` (the server's side), `sealed` (what clients bring back), `listening` (what
//! they are told of changes), `records` (what the ledger is told), `evaluation`
//! (decisions for services that ask instead of calling).
//!
//! Called by `data-plane/server`, which owns sockets, clocks, randomness and the spool. None of those is here: time,
//! ids, nonces and keys arrive as arguments. Nothing is remembered between calls except the catalogue.

pub mod admission;
pub mod breaker;
pub mod caller;
pub mod catalogue;
pub mod config;
pub mod conversation;
pub mod decision_clients;
pub mod edge;
pub mod evaluation;
pub mod forward;
pub mod handshake;
pub mod header_params;
pub mod lane;
pub mod listening;
pub mod listing;
pub mod naming;
pub mod openapi;
pub mod operation;
pub mod people;
pub mod policies;
pub mod records;
pub mod relay;
pub mod repeat;
pub mod resource_uri;
pub mod sealed;
pub mod search;
pub mod shown;
pub mod table;
pub mod trace;
pub mod wanted;

#[cfg(test)]
mod fixture;

pub use admission::{Decision, ToolRef, Wanted, What, admit, listable};
pub use caller::Caller;
pub use catalogue::{Applied, Catalogue, CatalogueError};
pub use config::Config;
pub use edge::{Call, Exchange, HttpReply, Step};
