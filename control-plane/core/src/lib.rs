//! The control plane's domain: what may be asked, what follows from it, and what everybody else gets to see.
//!
//! `manifest::parse` reads YAML into [`Manifest`]s; [`decide`] turns a [`Command`] into [`Event`]s or a
//! [`Rejection`]; [`evolve`] applies an event to the [`State`]; `view` derives the config stream's entries from it and
//! `show` the manifests with status that people read. `control-plane/server` replicates the events and does all I/O.
//! Invariants: [`evolve`] is total and deterministic; [`decide`] sees no clock and no randomness but its [`Context`];
//! an apply happens whole or not at all; no secret is in a command, an event or the state, but sealed.
//! Deliberately absent: Raft, storage, gRPC (server); Cedar (`policy`); signing tokens (`token`).

pub mod agent;
pub mod apply;
pub mod assertion;
pub mod authorization;
pub mod binding;
pub mod checkpoint;
pub mod client;
pub mod command;
pub mod consent;
pub mod credential;
mod decimal;
pub mod decision_client;
pub mod event;
pub mod exchange;
pub mod handed_on;
pub mod headless;
pub mod identity_provider;
pub mod join_token;
pub mod key_rotation;
pub mod leaver;
pub mod manifest;
pub mod member;
pub mod node;
mod parties;
pub mod policy;
pub mod problem;
pub mod provisioning;
pub mod receipt;
pub mod refresh;
pub mod refusal;
pub mod rejection;
pub mod requests;
pub mod reserve;
pub mod resource;
pub mod revocation;
pub mod rollout;
mod schema_check;
pub mod scim_token;
pub mod secret;
pub mod server;
pub mod show;
pub mod sign_in;
pub mod signal;
pub mod standing;
pub mod state;
pub mod stored;
pub mod table;
pub mod timeline;
pub mod token_key;
pub mod tool;
pub mod user;
pub mod view;
pub mod virtual_server;
pub mod wish;
pub mod workload;

pub use command::{Answer, Command, Context, Decision, Exchanged, FreshIds, Grant, ResourceChange, decide};
pub use event::{Change, Event, recorded};
pub use manifest::Manifest;
pub use problem::Problem;
pub use rejection::Rejection;
pub use resource::{Kind, ResourceRef, Spec};
pub use state::{State, evolve};
pub use wish::{Fulfilled, Wish};
