//! The state: everything that follows from the events so far, and how one more event changes it.
//!
//! Every node holds a `State` and calls [`evolve`] for each committed event in order; `decide` reads it, `view` and
//! `show` derive from it. It serialises for snapshots. Maps are ordered, so equal states have equal bytes.
//! Invariant: [`evolve`] is total: it never fails, even for an event that no state like this could have led to.
//! Absent: what an event does to its aggregate (the aggregate's own file).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{self, Agent},
    checkpoint::{self, Checkpoint},
    consent::{self, Consent},
    event::{Change, Event},
    node::{self, Node},
    policy::{self, Policy},
    requests::Requests,
    server::{self, Server},
    token_key::{self, Issuer, StoredTokenKey},
    tool,
    user::{self, User},
    virtual_server::{self, VirtualServer},
};

/// Everything that follows from the events so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Revision of the last event; 0 before the first.
    pub revision: u64,
    /// Servers by name, each with its tools.
    pub servers: BTreeMap<String, Server>,
    /// Virtual servers by name.
    pub virtual_servers: BTreeMap<String, VirtualServer>,
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// Agents by name.
    pub agents: BTreeMap<String, Agent>,
    /// Policies by name.
    pub policies: BTreeMap<String, Policy>,
    /// Consents by id.
    pub consents: BTreeMap<String, Consent>,
    /// (expiry in Unix seconds, consent): what to forget first.
    pub consent_expiries: BTreeSet<(u64, String)>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The last committed checkpoint by log origin.
    pub checkpoints: BTreeMap<String, Checkpoint>,
    /// Token-signing public keys by key id.
    pub token_keys: BTreeMap<String, StoredTokenKey>,
    /// Who signs tokens; absent until set.
    pub issuer: Option<Issuer>,
    /// Requests carried out lately.
    pub requests: Requests,
}

/// When a resource came to be as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The revision.
    pub revision: u64,
    /// Microseconds since 1970, UTC.
    pub time: u64,
}

/// Applies one committed event; `revision` is the Raft index of the change it belongs to.
pub fn evolve(state: &mut State, event: &Event, revision: u64) {
    let changed = Changed { revision, time: event.time };
    match &event.change {
        Change::ServerApplied(change) => server::evolve_applied(state, change, changed),
        Change::ServerDeleted(change) => server::evolve_deleted(state, change),
        Change::ToolsPinned(change) => tool::evolve_pinned(state, change, changed),
        Change::ToolDriftObserved(change) => tool::evolve_drift(state, change, changed),
        Change::ToolApproved(change) => tool::evolve_approved(state, change, changed),
        Change::VirtualServerApplied(change) => virtual_server::evolve_applied(state, change, changed),
        Change::VirtualServerDeleted(change) => virtual_server::evolve_deleted(state, change),
        Change::UserApplied(change) => user::evolve_applied(state, change, changed),
        Change::UserDeleted(change) => user::evolve_deleted(state, change),
        Change::AgentApplied(change) => agent::evolve_applied(state, change, changed),
        Change::AgentDeleted(change) => agent::evolve_deleted(state, change),
        Change::PolicyApplied(change) => policy::evolve_applied(state, change, changed),
        Change::PolicyDeleted(change) => policy::evolve_deleted(state, change),
        Change::ConsentGranted(change) => consent::evolve_granted(state, change, &event.actor, changed),
        Change::ConsentRevoked(change) => consent::evolve_revoked(state, change, changed),
        Change::TokenIssued(change) => consent::evolve_issued(state, change),
        Change::NodeEpochOpened(change) => node::evolve_opened(state, change, changed),
        Change::NodeDeleted(change) => node::evolve_deleted(state, change),
        Change::CheckpointCommitted(change) => checkpoint::evolve_committed(state, change, changed),
        Change::TokenKeyRegistered(change) => token_key::evolve_registered(state, change, changed),
        Change::IssuerSet(change) => token_key::evolve_issuer(state, change),
    }
    state.requests.remember(event, revision);
    state.revision = revision;
}
