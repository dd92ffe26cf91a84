//! What members say to each other, byte for byte: our own protobuf messages, no Raft library's types.
//!
//! Called by `network` (out) and `inbound` (in). Each message names its sender and its addressee, so one that went
//! astray is refused. Fields are only ever added; a reader skips those it does not know.

use std::io;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use prost::{Message, Oneof};

use super::{
    format::{Entry, Position, Vote},
    raft::{self, Types},
    transport::Introduction,
};

/// One call.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, optional, tag = "1")]
    pub(super) from: Option<Introduction>,
    /// The node it is meant for.
    #[prost(uint64, tag = "2")]
    pub(super) to: u64,
    #[prost(oneof = "Ask", tags = "3, 4, 5, 6, 7, 8")]
    pub(super) ask: Option<Ask>,
}

/// What is asked.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Ask {
    #[prost(message, tag = "3")]
    Append(Append),
    #[prost(message, tag = "4")]
    Vote(Candidacy),
    #[prost(message, tag = "5")]
    PreVote(Candidacy),
    #[prost(message, tag = "6")]
    Transfer(Transfer),
    #[prost(message, tag = "7")]
    Snapshot(Chunk),
    /// Up to where must one have applied to answer a read now? The leader answers, once sure that it leads.
    #[prost(bool, tag = "8")]
    ReadIndex(bool),
}

/// The answer to a call.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Reply {
    #[prost(message, optional, tag = "1")]
    pub(super) from: Option<Introduction>,
    #[prost(oneof = "Answer", tags = "2, 3, 4, 5, 6, 7")]
    pub(super) answer: Option<Answer>,
}

/// What is answered.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Answer {
    /// The code of a [`Refusal`](super::transport::Refusal).
    #[prost(uint32, tag = "2")]
    Refused(u32),
    #[prost(message, tag = "3")]
    Append(Appended),
    /// To a vote or a pre-vote.
    #[prost(message, tag = "4")]
    Vote(Ballot),
    /// Whether leadership is taken over.
    #[prost(bool, tag = "5")]
    Transfer(bool),
    #[prost(message, tag = "6")]
    Snapshot(ChunkTaken),
    #[prost(message, tag = "7")]
    ReadIndex(ReadFrom),
}

/// Entries to append; none: a heartbeat.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Append {
    #[prost(message, optional, tag = "1")]
    pub(super) vote: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub(super) after: Option<Position>,
    #[prost(message, repeated, tag = "3")]
    pub(super) entries: Vec<Entry>,
    #[prost(message, optional, tag = "4")]
    pub(super) committed: Option<Position>,
}

/// What became of an append.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Appended {
    #[prost(oneof = "AppendOutcome", tags = "1, 2, 3, 4")]
    pub(super) outcome: Option<AppendOutcome>,
}

/// The four outcomes.
#[derive(Clone, Copy, PartialEq, Oneof)]
pub(super) enum AppendOutcome {
    #[prost(bool, tag = "1")]
    Whole(bool),
    /// Up to here.
    #[prost(message, tag = "2")]
    Part(Position),
    /// What came before is not here.
    #[prost(bool, tag = "3")]
    Conflict(bool),
    /// Another leader was accepted or voted for since.
    #[prost(message, tag = "4")]
    Later(Vote),
}

/// A wish to lead.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Candidacy {
    #[prost(message, optional, tag = "1")]
    pub(super) vote: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub(super) last: Option<Position>,
    /// The leader asked the candidate to.
    #[prost(bool, tag = "3")]
    pub(super) handed_over: bool,
}

/// A vote given or refused.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ballot {
    #[prost(message, optional, tag = "1")]
    pub(super) vote: Option<Vote>,
    #[prost(bool, tag = "2")]
    pub(super) granted: bool,
    #[prost(message, optional, tag = "3")]
    pub(super) last: Option<Position>,
}

/// The leader hands over.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Transfer {
    #[prost(message, optional, tag = "1")]
    pub(super) vote: Option<Vote>,
    #[prost(uint64, tag = "2")]
    pub(super) to: u64,
    #[prost(message, optional, tag = "3")]
    pub(super) last: Option<Position>,
}

/// Part of a snapshot file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Chunk {
    /// The leader that sends it.
    #[prost(message, optional, tag = "1")]
    pub(super) vote: Option<Vote>,
    /// How far the snapshot goes.
    #[prost(message, optional, tag = "2")]
    pub(super) position: Option<Position>,
    #[prost(uint64, tag = "3")]
    pub(super) offset: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bytes: Vec<u8>,
    /// Nothing follows these bytes.
    #[prost(bool, tag = "5")]
    pub(super) last: bool,
}

/// How far the receiver of a snapshot has come.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChunkTaken {
    /// The receiver's vote; a later one than the sender's ends the transfer.
    #[prost(message, optional, tag = "1")]
    pub(super) vote: Option<Vote>,
    /// The byte it wants next.
    #[prost(uint64, tag = "2")]
    pub(super) next: u64,
    /// The whole snapshot is in force.
    #[prost(bool, tag = "3")]
    pub(super) installed: bool,
}

/// From which index on a read is current.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadFrom {
    /// Empty: the asked node cannot say, for it does not lead.
    #[prost(uint64, optional, tag = "1")]
    pub(super) index: Option<u64>,
    /// Who leads, as far as the asked node knows.
    #[prost(uint64, optional, tag = "2")]
    pub(super) leader: Option<u64>,
}

fn incomplete() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a peer's message is incomplete")
}

/// The vote a message cannot do without.
pub(super) fn vote(vote: Option<Vote>) -> io::Result<raft::Vote> {
    vote.map(raft::Vote::from).ok_or_else(incomplete)
}

fn log_id(position: Option<Position>) -> Option<raft::LogId> {
    position.map(raft::LogId::from)
}

impl From<AppendEntriesRequest<Types>> for Append {
    fn from(request: AppendEntriesRequest<Types>) -> Self {
        Self {
            vote: Some(Vote::from(&request.vote)),
            after: request.prev_log_id.as_ref().map(Position::from),
            entries: request.entries.into_iter().map(Entry::from).collect(),
            committed: request.leader_commit.as_ref().map(Position::from),
        }
    }
}

impl TryFrom<Append> for AppendEntriesRequest<Types> {
    type Error = io::Error;

    fn try_from(append: Append) -> io::Result<Self> {
        let entries: Vec<raft::Entry> = append.entries.into_iter().map(TryInto::try_into).collect::<io::Result<_>>()?;
        let mut next = append.after.map_or(0, |position| position.index.saturating_add(1));
        for entry in &entries {
            if entry.log_id.index != next {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a peer's entries have a hole"));
            }
            next = next.saturating_add(1);
        }
        Ok(Self {
            vote: vote(append.vote)?,
            prev_log_id: log_id(append.after),
            entries,
            leader_commit: log_id(append.committed),
        })
    }
}

impl From<AppendEntriesResponse<Types>> for Appended {
    fn from(response: AppendEntriesResponse<Types>) -> Self {
        let outcome = match response {
            AppendEntriesResponse::Success => AppendOutcome::Whole(true),
            AppendEntriesResponse::PartialSuccess(Some(id)) => AppendOutcome::Part(Position::from(&id)),
            // Nothing of it: the sender asks anew from before.
            AppendEntriesResponse::PartialSuccess(None) | AppendEntriesResponse::Conflict => {
                AppendOutcome::Conflict(true)
            }
            AppendEntriesResponse::HigherVote(vote) => AppendOutcome::Later(Vote::from(&vote)),
        };
        Self { outcome: Some(outcome) }
    }
}

impl TryFrom<Appended> for AppendEntriesResponse<Types> {
    type Error = io::Error;

    fn try_from(appended: Appended) -> io::Result<Self> {
        Ok(match appended.outcome.ok_or_else(incomplete)? {
            AppendOutcome::Whole(_) => Self::Success,
            AppendOutcome::Part(position) => Self::PartialSuccess(Some(position.into())),
            AppendOutcome::Conflict(_) => Self::Conflict,
            AppendOutcome::Later(vote) => Self::HigherVote(vote.into()),
        })
    }
}

impl From<VoteRequest<Types>> for Candidacy {
    fn from(request: VoteRequest<Types>) -> Self {
        Self {
            vote: Some(Vote::from(&request.vote)),
            last: request.last_log_id.as_ref().map(Position::from),
            handed_over: request.leadership_transfer,
        }
    }
}

impl TryFrom<Candidacy> for VoteRequest<Types> {
    type Error = io::Error;

    fn try_from(candidacy: Candidacy) -> io::Result<Self> {
        let last_log_id = log_id(candidacy.last);
        Ok(Self { vote: vote(candidacy.vote)?, last_log_id, leadership_transfer: candidacy.handed_over })
    }
}

impl From<VoteResponse<Types>> for Ballot {
    fn from(response: VoteResponse<Types>) -> Self {
        Self {
            vote: Some(Vote::from(&response.vote)),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(Position::from),
        }
    }
}

impl TryFrom<Ballot> for VoteResponse<Types> {
    type Error = io::Error;

    fn try_from(ballot: Ballot) -> io::Result<Self> {
        Ok(Self { vote: vote(ballot.vote)?, vote_granted: ballot.granted, last_log_id: log_id(ballot.last) })
    }
}

impl From<&TransferLeaderRequest<Types>> for Transfer {
    fn from(request: &TransferLeaderRequest<Types>) -> Self {
        Self {
            vote: Some(Vote::from(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(Position::from),
        }
    }
}

impl TryFrom<Transfer> for TransferLeaderRequest<Types> {
    type Error = io::Error;

    fn try_from(transfer: Transfer) -> io::Result<Self> {
        Ok(Self::new(vote(transfer.vote)?, transfer.to, log_id(transfer.last)))
    }
}
