//! A data-plane node: MCP clients on one side, MCP servers on the other, a record of everything in between.
//!
//! Read in this order: `role` (what starts and stops), `listener` and `auth` (a request comes in), `calls` (the life of
//! one call), `recorder` and `spool` (how a record is kept), `upstream` (the server's side), `config_client`,
//! `lane`, `config_state` and `tool_reports` (the control plane's side). Decisions and MCP's shapes are in
//! `bailiwick-data-plane-core`. The command line calls [`serve`].

mod auth;
mod calls;
mod commitments;
pub mod config;
mod config_client;
mod config_state;
#[cfg(test)]
mod fakes;
mod lane;
mod listener;
mod metrics;
mod recorder;
mod role;
mod spool;
#[cfg(test)]
mod tests;
mod tool_reports;
mod upstream;

pub use self::{
    config::DataPlaneConfig,
    role::{DataPlaneError, Running, serve},
};
