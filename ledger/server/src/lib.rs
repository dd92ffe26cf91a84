//! The ledger: takes the records of all nodes, keeps them in one Merkle log, and publishes checkpoints of it.
//!
//! Read in this order: `store` (the contract of what is on disk), `log` (what may be appended), `sequencer` (from the
//! event stream to the log), `checkpoints` (from the log to a published checkpoint), `http` (what is shown), `export`
//! (the log as files). `role` starts and stops them. The command line calls [`serve`] and [`export::export`].
//!
//! Formats and proofs live in `bailiwick-ledger-core`, which an auditor can read without this package.

mod checkpoints;
pub mod config;
mod error;
pub mod export;
#[cfg(test)]
mod fixture;
mod http;
mod identity;
mod log;
mod metrics;
mod role;
mod sequencer;
pub mod store;

pub use self::{
    config::LedgerConfig,
    error::LedgerError,
    export::{ExportDir, ExportError, Exported, Progress, Source},
    role::{Running, serve},
};
