//! OAuth clients that were registered in advance: the programs that may ask for tokens.
//!
//! A client is software of one agent. Called by `apply` (deciding), `state` (evolving), `assertion` and `show`.
//! Invariant: a client's agent exists. Absent: proving who one is, which the server looks at.

use serde::{Deserialize, Serialize};

use crate::{
    resource::ClientSpec,
    state::{Changed, State},
};

/// Most clients: every agent there may be a few times over would be more than one installation has.
pub const CLIENTS_MAX: usize = 10_000;

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// As written.
    pub spec: ClientSpec,
    /// When it was written.
    pub changed: Changed,
}

/// Payload of `client_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientApplied {
    /// The client.
    pub name: String,
    /// As written.
    pub spec: ClientSpec,
}

/// Payload of `client_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientDeleted {
    /// The client.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &ClientApplied, changed: Changed) {
    state.clients.insert(event.name.clone(), Client { spec: event.spec.clone(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &ClientDeleted) {
    state.clients.remove(&event.name);
}
