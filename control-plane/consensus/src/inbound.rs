//! What this node answers its peers.
//!
//! `Consensus::handle` gets a request with the id that the transport has proven. The gate decides whether the sender
//! is talked to at all; then the Raft library answers, and answers only once what it promises is on the disk.
//! Absent: how snapshots arrive (`arrival`).

use std::io;

use prost::Message as _;

use super::{
    Consensus,
    format::{self, Vote},
    messages::{Answer, Append, Ask, Candidacy, Chunk, Reply, Request, Transfer},
    transport::{Introduction, PEER_MESSAGE_BYTES_MAX, Refusal},
};

impl Consensus {
    /// Answers a request of node `from`, whose identity the transport has proven.
    ///
    /// # Errors
    /// When the bytes are no request of that node, or this node has stopped: then the caller gets no answer.
    pub async fn handle(&self, from: u64, request: Vec<u8>) -> io::Result<Vec<u8>> {
        if request.len() > PEER_MESSAGE_BYTES_MAX {
            return Err(invalid("a peer's request is too long"));
        }
        let request: Request = format::decode(&request)?;
        let introduction = request.from.ok_or_else(|| invalid("a peer's request names no sender"))?;
        if introduction.node_id != from {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a peer's request names another sender"));
        }
        if let Some(failure) = self.failure() {
            return Err(io::Error::other(failure));
        }
        let answer = match self.admit(request.to, &introduction).await? {
            Ok(()) => self.answer(from, request.ask.ok_or_else(|| invalid("a peer's request asks nothing"))?).await?,
            Err(refusal) => Answer::Refused(refusal.code()),
        };
        Ok(Reply { from: Some(self.gate.own().clone()), answer: Some(answer) }.encode_to_vec())
    }

    async fn admit(&self, to: u64, introduction: &Introduction) -> io::Result<Result<(), Refusal>> {
        if to != self.gate.own().node_id {
            return Ok(Err(Refusal::OtherNode));
        }
        self.gate.meet(introduction).await
    }

    async fn answer(&self, from: u64, ask: Ask) -> io::Result<Answer> {
        match &ask {
            Ask::Append(Append { vote, .. })
            | Ask::Snapshot(Chunk { vote, .. })
            | Ask::Transfer(Transfer { vote, .. }) => {
                speaks_for_itself(from, *vote, true)?;
            }
            Ask::Vote(Candidacy { vote, .. }) | Ask::PreVote(Candidacy { vote, .. }) => {
                speaks_for_itself(from, *vote, false)?;
            }
            Ask::ReadIndex(_) => {}
        }
        Ok(match ask {
            Ask::Append(append) => {
                let request = append.try_into()?;
                Answer::Append(self.raft.append_entries(request).await.map_err(io::Error::other)?.into())
            }
            Ask::Vote(candidacy) => {
                let request = candidacy.try_into()?;
                Answer::Vote(self.raft.vote(request).await.map_err(io::Error::other)?.into())
            }
            Ask::PreVote(candidacy) => {
                let request = candidacy.try_into()?;
                Answer::Vote(self.raft.pre_vote(request).await.map_err(io::Error::other)?.into())
            }
            Ask::Transfer(transfer) => {
                let request = transfer.try_into()?;
                let taken = self.raft.handle_transfer_leader(request).await.map_err(io::Error::other)?;
                Answer::Transfer(taken.is_ok())
            }
            Ask::Snapshot(chunk) => Answer::Snapshot(self.arrivals.take(&self.raft, from, chunk).await?),
            Ask::ReadIndex(_) => Answer::ReadIndex(self.read_from().await?),
        })
    }
}

/// Whether a leader's message is from that leader, and a candidate's from that candidate.
fn speaks_for_itself(from: u64, vote: Option<Vote>, leads: bool) -> io::Result<()> {
    let vote = vote.unwrap_or_default();
    if vote.node == from && vote.committed == leads {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "a peer speaks in the name of another leader or candidate"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
