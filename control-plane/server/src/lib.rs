//! The control plane: one event-sourced state, replicated, and the services in front of it.
//!
//! Read in this order: `consensus` (an ordered, durable log), `domain` (commands decided and replicated, state folded),
//! `config_stream` (how data planes learn what is in force), `admin` and `checkpoints` (what people and the ledger
//! ask), `recorder` (every event to the ledger), `http` (keys for everyone), `serve` (what starts and stops when).
//! For a cluster of several: `peers` (consensus among them), `birth` and `offline` (how a node becomes one of them),
//! `enrolment` and `authority` (how others do), `authorisation` and `forward` (who may call what, and where it is
//! done), `leadership`, `vault` (its secrets), `cluster` and `internal`, `enforcement` (since when a revocation holds).
//! The command line calls [`serve()`]. What commands and events mean is in `bailiwick-control-plane-core`.

mod admin;
mod announce;
mod audit;
mod authorisation;
mod authority;
mod binding;
mod birth;
mod checkpoints;
mod clock;
mod cluster;
mod config;
mod config_stream;
mod consents;
mod decisions;
mod domain;
mod enforcement;
mod enrolment;
mod error;
mod forward;
mod http;
mod internal;
mod keys;
mod leadership;
mod leavers;
mod links;
mod metrics;
mod minting;
mod oauth;
mod offline;
mod outbound;
mod pages;
mod peers;
mod providers;
mod recorder;
mod refusals;
mod replica;
mod rollout;
mod scim;
mod seal;
mod serve;
mod sign_in;
mod signals;
mod status;
mod vault;

pub use self::{
    clock::{Host, Surroundings},
    config::{ControlPlaneConfig, HttpLimits, ScimAgents},
    config_stream::feed::REVISIONS_KEPT,
    domain::{WriteError, Written},
    error::ControlPlaneError,
    offline::{Begun, init, restore},
    replica::{Replica, Served},
    serve::{Running, serve},
    vault::VaultError,
};
