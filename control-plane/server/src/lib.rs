//! The control plane: one event-sourced state, replicated, and the services in front of it.
//!
//! Read in this order: `consensus` (an ordered, durable log), `domain` (commands decided and replicated, state folded),
//! `config_stream` (how data planes learn what is in force), `admin` and `checkpoints` (what people and the ledger
//! ask), `recorder` (every event to the ledger), `http` (keys for everyone), `serve` (what starts and stops when).
//! The command line calls [`serve()`]. What commands and events mean is in `bailiwick-control-plane-core`.

mod admin;
mod checkpoints;
mod clock;
mod config;
mod config_stream;
mod domain;
mod http;
mod keys;
mod metrics;
mod recorder;
mod serve;
mod status;

pub use self::{
    config::ControlPlaneConfig,
    keys::KeysError,
    serve::{ControlPlaneError, Running, serve},
};
