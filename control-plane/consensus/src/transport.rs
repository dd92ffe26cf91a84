//! What consensus asks of a network: bytes to a member and bytes back, on one of two lanes.
//!
//! Whoever owns sockets implements [`Transport`] for calls out, and hands what comes in to `Consensus::handle` once it
//! knows which node sent it. Production speaks QUIC (`control-plane/server`), simulations pass messages in memory.
//! A call that fails says nothing about what happened at the peer. Absent: what the bytes mean (`messages`).

use std::{fmt, io, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Largest request or answer a transport has to carry: an append of the largest entries, with room.
pub const PEER_MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A node of the cluster as all members know it. Its bytes are a disk format (see `format`).
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
pub struct Member {
    /// Unique among members; what people call it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where its peers reach it: `host:port`.
    #[prost(string, tag = "2")]
    pub peer: String,
    /// Where its interface for everybody is: a URL.
    #[prost(string, tag = "3")]
    pub api: String,
}

/// What a call competes with on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Votes, appends, heartbeats, reads: small and urgent; never behind a snapshot.
    Control,
    /// Snapshots: large and patient.
    Snapshot,
}

/// Carries one request to a member and its answer back.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Calls node `to`, which is to be found at `member.peer`, and makes sure that it is that node which answers.
    /// Requests and answers are at most [`PEER_MESSAGE_BYTES_MAX`] long.
    ///
    /// # Errors
    /// When there is no answer within `timeout`; a refusal by the peer's gate is a [`Refusal`] inside.
    async fn call(
        &self,
        to: u64,
        member: &Member,
        lane: Lane,
        request: Vec<u8>,
        timeout: Duration,
    ) -> io::Result<Vec<u8>>;
}

/// A transport that reaches nobody: what a cluster of one needs.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

#[async_trait]
impl Transport for Alone {
    async fn call(&self, to: u64, _: &Member, _: Lane, _: Vec<u8>, _: Duration) -> io::Result<Vec<u8>> {
        Err(io::Error::new(io::ErrorKind::NotConnected, format!("node {to} cannot be reached: no transport")))
    }
}

/// How a node presents itself to another.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Introduction {
    /// The cluster it belongs to.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// Which life of that cluster: a restored backup begins another.
    #[prost(string, tag = "2")]
    pub incarnation: String,
    /// Its id.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// How often its data directory has been opened.
    #[prost(uint64, tag = "4")]
    pub starts: u64,
    /// Drawn at random at this start.
    #[prost(uint64, tag = "5")]
    pub run: u64,
}

/// Why a node will not talk to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another cluster.
    #[error("it belongs to another cluster")]
    OtherCluster,
    /// It belongs to another life of this cluster: one of both was restored from a backup.
    #[error("it belongs to another life of this cluster: one of the two was restored from a backup")]
    OtherIncarnation,
    /// It is not the node it is taken for.
    #[error("it is not the node it is taken for")]
    OtherNode,
    /// It was a member and was removed; ids are never used again.
    #[error("it has been removed from the cluster")]
    Removed,
    /// It was seen with a newer copy of its data directory: what it promised since is missing in this one.
    #[error("it runs on an older copy of its data directory, or on two copies at once")]
    OlderCopy,
}

impl Refusal {
    const ALL: [Self; 5] =
        [Self::OtherCluster, Self::OtherIncarnation, Self::OtherNode, Self::Removed, Self::OlderCopy];

    /// What its operator does about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::OtherCluster | Self::OtherNode => "look at its configuration: data directory, addresses, name",
            Self::OtherIncarnation | Self::Removed => {
                "put its data directory away, and join under a new name with a token"
            }
            Self::OlderCopy => {
                "`bailiwick cluster remove` it, then join under a new name with an empty data directory and a token"
            }
        }
    }

    /// Its number on the wire; never 0.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::OtherCluster => 1,
            Self::OtherIncarnation => 2,
            Self::OtherNode => 3,
            Self::Removed => 4,
            Self::OlderCopy => 5,
        }
    }

    /// The refusal of a number, if there is one.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code)
    }

    /// As a failed call reports it.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, self)
    }

    /// The refusal inside a failed call, if that is why it failed.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Snapshot => "snapshot",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_wire_and_an_error() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
            assert_eq!(Refusal::of(&refusal.into_io()), Some(refusal));
        }
        assert_eq!(Refusal::from_code(0), None);
    }
}
