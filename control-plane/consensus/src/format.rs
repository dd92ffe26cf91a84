//! What the database and snapshots hold, byte for byte: our own protobuf messages, no Raft library's types.
//!
//! Called by `log`, `machine` and `snapshot`. Fields are only ever added; a reader skips those it does not know.
//! Events inside a [`Change`] are opaque here: they are the domain's JSON.

use std::{collections::BTreeMap, io};

use bailiwick_ledger_core::hash::{Hash, from_slice};
use openraft::{Membership, StoredMembership, entry::RaftEntry as _, vote::RaftLeaderId as _};
use prost::{Message, Oneof};

use super::{
    disk::corrupted,
    raft::{self, Proposal},
    transport::Member,
};

/// Where an entry stands: who led when it was made, and its index.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Position {
    #[prost(uint64, tag = "1")]
    pub(super) term: u64,
    #[prost(uint64, tag = "2")]
    pub(super) node: u64,
    #[prost(uint64, tag = "3")]
    pub(super) index: u64,
}

/// A vote cast (or, when committed, a leader accepted).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Vote {
    #[prost(uint64, tag = "1")]
    pub(super) term: u64,
    #[prost(uint64, tag = "2")]
    pub(super) node: u64,
    #[prost(bool, tag = "3")]
    pub(super) committed: bool,
}

/// One log entry.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(message, optional, tag = "1")]
    pub(super) position: Option<Position>,
    #[prost(oneof = "Payload", tags = "2, 3, 4")]
    pub(super) payload: Option<Payload>,
}

/// What an entry asks for.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Payload {
    /// Nothing: a new leader's first entry.
    #[prost(bool, tag = "2")]
    Blank(bool),
    #[prost(message, tag = "3")]
    Proposal(Proposal),
    #[prost(message, tag = "4")]
    Members(Members),
}

/// Who belongs to the cluster; two sets of voters while it changes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Members {
    #[prost(message, repeated, tag = "1")]
    pub(super) voters: Vec<Voters>,
    /// By node id.
    #[prost(btree_map = "uint64, message", tag = "3")]
    pub(super) nodes: BTreeMap<u64, Member>,
}

/// One set of voters.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Voters {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) nodes: Vec<u64>,
}

/// `meta/applied`: how far the state has come.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Applied {
    #[prost(message, optional, tag = "1")]
    pub(super) position: Option<Position>,
    #[prost(message, optional, tag = "2")]
    pub(super) members: Option<Members>,
    #[prost(message, optional, tag = "3")]
    pub(super) members_position: Option<Position>,
    /// How many proposals took effect.
    #[prost(uint64, tag = "4")]
    pub(super) version: u64,
    /// Root of the Merkle log over them.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) root: Vec<u8>,
    /// Nodes that were members and are none any more.
    #[prost(uint64, repeated, tag = "6")]
    pub(super) former: Vec<u64>,
    /// Of which chain the newest proposals are that took effect.
    #[prost(uint64, tag = "7")]
    pub(super) chain: u64,
    /// How many proposals had taken effect before the first of these.
    #[prost(uint64, tag = "8")]
    pub(super) chain_since: u64,
}

/// One applied proposal. With its revision before them, these bytes are a leaf of the Merkle log (`merkle`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct Change {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) events: Vec<Vec<u8>>,
    /// How many proposals took effect before it: the index of its leaf.
    #[prost(uint64, tag = "2")]
    pub(super) number: u64,
}

/// What of a [`Change`] tells where it belongs; the rest is passed over.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct ChangeNumber {
    #[prost(uint64, tag = "2")]
    pub(super) number: u64,
}

/// The first message of a snapshot or backup file; [`SnapshotRow`]s follow.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SnapshotHeader {
    #[prost(message, optional, tag = "1")]
    pub(super) applied: Option<Applied>,
    #[prost(string, tag = "2")]
    pub(super) cluster_id: String,
    #[prost(string, tag = "3")]
    pub(super) incarnation: String,
    /// When a backup was made, in milliseconds since 1970; 0 in a snapshot, which is the same wherever it is made.
    #[prost(uint64, tag = "4")]
    pub(super) created_unix_ms: u64,
}

/// One part of a snapshot file, in the order of the leaves.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SnapshotRow {
    #[prost(oneof = "RowKind", tags = "1, 2, 3")]
    pub(super) kind: Option<RowKind>,
}

/// What a part of a snapshot holds.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum RowKind {
    #[prost(message, tag = "1")]
    Change(SnapshotChange),
    #[prost(message, tag = "2")]
    Void(SnapshotVoid),
    #[prost(message, tag = "3")]
    End(SnapshotEnd),
}

/// One change: the bytes of a [`Change`] as they are stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct SnapshotChange {
    #[prost(uint64, tag = "1")]
    pub(super) revision: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) change: Vec<u8>,
}

/// What stands for `2^level` forgotten changes from number `first` on.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct SnapshotVoid {
    #[prost(uint64, tag = "1")]
    pub(super) first: u64,
    #[prost(uint32, tag = "2")]
    pub(super) level: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) hash: Vec<u8>,
}

/// The last part; the checksum follows.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SnapshotEnd {
    #[prost(uint64, tag = "1")]
    pub(super) changes: u64,
}

/// Reads a message; bytes that are none are corruption.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> io::Result<M> {
    M::decode(bytes).map_err(corrupted)
}

/// The number in an eight-byte key.
pub(super) fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes = key.try_into().map_err(|_| corrupted("a number is not eight bytes long"))?;
    Ok(u64::from_be_bytes(bytes))
}

impl From<&raft::LogId> for Position {
    fn from(id: &raft::LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<Position> for raft::LogId {
    fn from(position: Position) -> Self {
        Self { leader_id: raft::LeaderId::new(position.term, position.node), index: position.index }
    }
}

impl From<&raft::Vote> for Vote {
    fn from(vote: &raft::Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<Vote> for raft::Vote {
    fn from(vote: Vote) -> Self {
        Self { leader_id: raft::LeaderId::new(vote.term, vote.node), committed: vote.committed }
    }
}

impl From<&raft::Members> for Members {
    fn from(members: &raft::Members) -> Self {
        let voters =
            members.get_joint_config().iter().map(|set| Voters { nodes: set.iter().copied().collect() }).collect();
        let nodes = members.nodes().map(|(id, node)| (*id, node.clone())).collect();
        Self { voters, nodes }
    }
}

impl TryFrom<&Members> for raft::Members {
    type Error = io::Error;

    fn try_from(members: &Members) -> io::Result<Self> {
        let voters = members.voters.iter().map(|set| set.nodes.iter().copied().collect()).collect();
        Membership::new(voters, members.nodes.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl From<raft::Entry> for Entry {
    fn from(entry: raft::Entry) -> Self {
        let position = Some(Position::from(&entry.log_id));
        let payload = match entry.payload {
            raft::Payload::Blank => Payload::Blank(true),
            raft::Payload::Normal(proposal) => Payload::Proposal(proposal),
            raft::Payload::Membership(members) => Payload::Members(Members::from(&members)),
        };
        Self { position, payload: Some(payload) }
    }
}

impl TryFrom<Entry> for raft::Entry {
    type Error = io::Error;

    fn try_from(entry: Entry) -> io::Result<Self> {
        let incomplete = || corrupted("a log entry is incomplete");
        let log_id = raft::LogId::from(entry.position.ok_or_else(incomplete)?);
        let payload = match entry.payload.ok_or_else(incomplete)? {
            Payload::Blank(_) => raft::Payload::Blank,
            Payload::Proposal(proposal) => raft::Payload::Normal(proposal),
            Payload::Members(members) => raft::Payload::Membership((&members).try_into()?),
        };
        Ok(Self::new(log_id, payload))
    }
}

impl Applied {
    /// Composes the record of a state machine's progress.
    pub(super) fn new(
        position: Option<&raft::LogId>,
        members: &raft::StoredMembers,
        version: u64,
        root: &Hash,
    ) -> Self {
        Self {
            position: position.map(Position::from),
            members: Some(Members::from(members.membership())),
            members_position: members.log_id().as_ref().map(Position::from),
            version,
            root: root.to_vec(),
            former: Vec::new(),
            chain: 0,
            chain_since: 0,
        }
    }

    /// The position applied last.
    pub(super) fn log_id(&self) -> Option<raft::LogId> {
        self.position.map(raft::LogId::from)
    }

    /// The root there.
    pub(super) fn root(&self) -> io::Result<Hash> {
        from_slice(&self.root).ok_or_else(|| corrupted("a root is not 32 bytes long"))
    }

    /// The last revision that can be part of it.
    pub(super) fn revision(&self) -> u64 {
        self.position.map_or(0, |position| position.index)
    }

    /// The membership in force there.
    pub(super) fn stored_members(&self) -> io::Result<raft::StoredMembers> {
        let Some(members) = &self.members else { return Ok(StoredMembership::default()) };
        let members = if members.voters.is_empty() { Membership::default() } else { members.try_into()? };
        Ok(StoredMembership::new(self.members_position.map(raft::LogId::from), members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shipped version wrote must be read for ever: these bytes never change.
    #[test]
    fn stored_bytes_stay_as_they_are() {
        let position = Position { term: 3, node: 1, index: 300 };
        let events = vec![b"{}".to_vec(), b"[]".to_vec()];
        let proposal =
            Proposal { expected_version: 7, events, root_version: 5, root: vec![0xab; 2], base_version: 0, chain: 0 };
        let entry = Entry { position: Some(position), payload: Some(Payload::Proposal(proposal)) };
        let nodes = BTreeMap::from([(1, Member { name: "n".into(), peer: "a:1".into(), api: "u".into() })]);
        let members = Members { voters: vec![Voters { nodes: vec![1, 2] }], nodes };
        let applied = Applied {
            position: Some(position),
            members: Some(members),
            members_position: Some(Position { term: 1, node: 1, index: 1 }),
            version: 9,
            root: vec![0xcd; 2],
            former: vec![3],
            chain: 0,
            chain_since: 0,
        };
        let change = Change { events: vec![b"{}".to_vec()], number: 8 };
        let vote = Vote { term: 3, node: 1, committed: true };
        let golden = [
            (entry.encode_to_vec(), "0a070803100118ac021a10080712027b7d12025b5d18052202abab"),
            (
                applied.encode_to_vec(),
                "0a070803100118ac0212170a040a0201021a0f0801120b0a016e1203613a311a01751a0608011001180120092a02cdcd320103",
            ),
            (change.encode_to_vec(), "0a027b7d1008"),
            (vote.encode_to_vec(), "080310011801"),
        ];
        for (bytes, expected) in golden {
            assert_eq!(hex::encode(bytes), expected);
        }
        let entry_again: raft::Entry = entry.clone().try_into().unwrap();
        assert_eq!(Entry::from(entry_again), entry);
    }
}
