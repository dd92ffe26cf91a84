//! Tests of the control plane's domain through its public surface: manifests, commands, events and views.
//!
//! `world` holds a state as the server would, checks its invariants after every step, and gives the tables their verbs.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod assertions;
mod authorizations;
mod bindings;
mod certificates;
mod checkpoints;
mod commands;
mod contexts;
mod decision_clients;
mod events;
mod exchanges;
mod inventory;
mod key_rotations;
mod leavers;
mod longevity;
mod manifests;
mod members;
mod properties;
mod provisioned_agents;
mod provisioning;
mod refusals;
mod reserves;
mod revocations;
mod rollouts;
mod secrets;
mod sign_ins;
mod signals;
mod tools;
mod views;
mod workloads;
mod world;
