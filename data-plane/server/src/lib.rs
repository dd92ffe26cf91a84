//! A data-plane node: MCP clients on one side, MCP servers on the other, a record of everything in between.
//!
//! Read in this order: `role` (what starts and stops), `listener` and `auth` (a request comes in), `calls` (the life of
//! one call), `recorder` and `spool` (how a record is kept), `upstream` (the server's side), `config_client`,
//! `lane`, `uplink`, `config_state`, `discovery` and `tool_reports` (the control plane's side), `kept`, `snapshot`,
//! `reserve` and `registration` (starting without it). Decisions and MCP's shapes are in `bailiwick-data-plane-core`. The command line calls [`serve`].

mod auth;
mod budget;
mod calls;
mod commitments;
pub mod config;
mod config_client;
mod config_state;
mod discovery;
#[cfg(test)]
mod fakes;
mod follower;
mod kept;
mod lane;
mod listener;
mod listening;
mod metrics;
mod random;
mod recorder;
mod registration;
mod reserve;
mod role;
mod snapshot;
mod spool;
mod surroundings;
mod telemetry;
#[cfg(test)]
mod tests;
mod tool_reports;
mod uplink;
mod upstream;
pub mod warden;

use self::random::random;
pub use self::{
    config::DataPlaneConfig,
    follower::Follower,
    role::{DataPlaneError, Running, serve},
    surroundings::Surroundings,
    uplink::Uplink,
};
