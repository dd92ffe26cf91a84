//! The Raft library's type parameters, named once.
//!
//! Called by the other files of `consensus` only; nothing here is visible outside.

use std::fmt;

use openraft::{EntryPayload, impls::leader_id_adv};
use serde::{Deserialize, Serialize};

use super::transport::Member;

/// A wish to append events, as it is replicated. Its bytes are a disk format (see `format`).
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
pub struct Proposal {
    /// How many proposals had taken effect in the state this one was decided on.
    #[prost(uint64, tag = "1")]
    pub expected_version: u64,
    /// At least one; opaque here.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub events: Vec<Vec<u8>>,
    /// A version that the proposer had applied; consensus fills it in.
    #[prost(uint64, tag = "3")]
    pub root_version: u64,
    /// The root of the Merkle log there: a replica with another one stops.
    #[prost(bytes = "vec", tag = "4")]
    pub root: Vec<u8>,
    /// How many of `expected_version` had taken effect when it was decided; the rest were proposals of the same chain,
    /// on their way. Means nothing without a chain.
    #[prost(uint64, tag = "5")]
    pub base_version: u64,
    /// Who decided it, and everything on its way that it was decided on: one writer in one life of a process.
    /// 0: it was decided on nothing that was still on its way.
    #[prost(uint64, tag = "6")]
    pub chain: u64,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events on version {}", self.events.len(), self.expected_version)
    }
}

/// What became of a committed proposal; the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Its events are part of the state.
    Applied,
    /// It was decided on a state other than the one it met; nothing changed.
    Conflict {
        /// The version it met.
        version: u64,
    },
}

openraft::declare_raft_types!(
    /// Type parameters of our Raft.
    pub(super) Types:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = super::runtime::NodeRuntime,
);

pub(super) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(super) type LogId = openraft::LogId<LeaderId>;
pub(super) type Vote = openraft::Vote<LeaderId>;
pub(super) type Payload = EntryPayload<Proposal, u64, Member>;
pub(super) type Entry = openraft::Entry<LeaderId, Payload>;
pub(super) type Members = openraft::Membership<u64, Member>;
pub(super) type StoredMembers = openraft::StoredMembership<LeaderId, u64, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Member>;
pub(super) type Snapshot = openraft::Snapshot<LeaderId, u64, Member, super::snapshot::SnapshotFile>;
