//! How this node calls its peers: the Raft library's calls as messages over a [`Transport`].
//!
//! The library makes one [`Client`] per peer and purpose; all share the transport. A peer's answer counts only when
//! the gate lets that peer through, so a vote or an append from an older copy of a data directory never does.
//! A failed call is reported as such, never as an answer. Absent: sockets (`Transport`), answering (`inbound`).

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{Either, select};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use prost::Message as _;

use super::{
    arrival::Source,
    format,
    gate::Gate,
    messages::{self, Answer, Ask, Chunk, Reply, Request},
    raft::{self, Types},
    snapshot::SnapshotFile,
    transport::{Lane, Member, PEER_MESSAGE_BYTES_MAX, Refusal, Transport},
};

/// Longest wait for an append: a slow disk and a far region at once. Heartbeats go beside it and have their own.
const APPEND_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for one part of a snapshot: [`CHUNK_BYTES_MAX`] on a very slow link.
const CHUNK_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the last part, after which the peer puts the snapshot into force.
const INSTALL_WAIT_MAX: Duration = Duration::from_secs(300);
/// Bytes of a snapshot in one message.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// What all clients of a node share.
#[derive(Clone)]
pub(super) struct Network {
    transport: Arc<dyn Transport>,
    gate: Arc<Gate>,
    /// Where members are to be found now. The library keeps its clients when a member moves.
    directory: Arc<Mutex<BTreeMap<u64, Member>>>,
}

impl Network {
    pub(super) fn new(transport: Arc<dyn Transport>, gate: Arc<Gate>) -> Self {
        Self { transport, gate, directory: Arc::default() }
    }

    /// Takes note of where members are.
    pub(super) fn learn(&self, members: BTreeMap<u64, Member>) {
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    /// Asks node `to` and returns its answer, if both let each other through.
    pub(super) async fn ask(
        &self,
        to: u64,
        member: &Member,
        lane: Lane,
        ask: Ask,
        timeout: Duration,
    ) -> io::Result<Answer> {
        let request = Request { from: Some(self.gate.own().clone()), to, ask: Some(ask) };
        let bytes = request.encode_to_vec();
        let called = self.transport.call(to, member, lane, bytes, timeout).await;
        let bytes = called.inspect_err(|error| {
            if let Some(refusal) = Refusal::of(error) {
                self.gate.told(to, refusal);
            }
        })?;
        if bytes.len() > PEER_MESSAGE_BYTES_MAX {
            return Err(unexpected());
        }
        let reply: Reply = format::decode(&bytes)?;
        let from = reply.from.ok_or_else(unexpected)?;
        if from.node_id != to {
            return Err(Refusal::OtherNode.into_io());
        }
        self.gate.meet(&from).await?.map_err(Refusal::into_io)?;
        match reply.answer.ok_or_else(unexpected)? {
            Answer::Refused(code) => {
                let refusal = Refusal::from_code(code).ok_or_else(unexpected)?;
                self.gate.told(to, refusal);
                Err(refusal.into_io())
            }
            answer => Ok(answer),
        }
    }

    fn client(&self, target: u64, member: &Member, heartbeats: bool) -> Client {
        Client { network: self.clone(), target, member: member.clone(), heartbeats }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, true)
    }
}

/// Calls one peer.
pub(super) struct Client {
    network: Network,
    target: u64,
    member: Member,
    heartbeats: bool,
}

impl Client {
    async fn control(&self, ask: Ask, timeout: Duration) -> Result<Answer, RPCError<Types>> {
        self.network.ask(self.target, &self.member(), Lane::Control, ask, timeout).await.map_err(failed)
    }

    /// Where the peer is now; it may have been removed meanwhile.
    fn member(&self) -> Member {
        let directory = self.network.directory.lock().unwrap_or_else(PoisonError::into_inner);
        directory.get(&self.target).unwrap_or(&self.member).clone()
    }

    /// Sends a snapshot from where the peer wants it, part by part, until it is in force there.
    async fn send(&self, vote: raft::Vote, snapshot: &raft::Snapshot) -> Result<raft::Vote, StreamingError<Types>> {
        let position = snapshot.meta.last_log_id.as_ref().map(format::Position::from);
        let (file, store) = (snapshot.snapshot.clone(), self.network.gate.store());
        let mut source = store.run(|_| Source::open(file)).await.map_err(|error| streaming(&error))?;
        let mut next = 0;
        loop {
            let (bytes, last);
            let read = store.run(move |_| source.part(next, CHUNK_BYTES_MAX)).await;
            (source, bytes, last) = read.map_err(|error| streaming(&error))?;
            let chunk = Chunk { vote: Some((&vote).into()), position, offset: next, bytes, last };
            let wait = if last { INSTALL_WAIT_MAX } else { CHUNK_WAIT_MAX };
            let asked = Ask::Snapshot(chunk);
            let answer = self.network.ask(self.target, &self.member(), Lane::Snapshot, asked, wait).await;
            let Answer::Snapshot(taken) = answer.map_err(|error| streaming(&error))? else {
                return Err(streaming(&unexpected()));
            };
            let theirs = messages::vote(taken.vote).map_err(|error| streaming(&error))?;
            if taken.installed || theirs > vote {
                return Ok(theirs);
            }
            if taken.next == next {
                // The peer makes no progress; the library begins again after a pause.
                return Err(streaming(&unexpected()));
            }
            next = taken.next;
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let wait = if self.heartbeats { option.hard_ttl() } else { APPEND_WAIT_MAX };
        let first = request.prev_log_id.is_none();
        let Answer::Append(appended) = self.control(Ask::Append(request.into()), wait).await? else {
            return Err(failed(unexpected()));
        };
        let response = AppendEntriesResponse::try_from(appended).map_err(failed)?;
        if first && response.is_conflict() {
            // Nothing can contradict an append that builds on nothing.
            return Err(failed(unexpected()));
        }
        Ok(response)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.control(Ask::Vote(request.into()), option.hard_ttl()).await? {
            Answer::Vote(ballot) => ballot.try_into().map_err(failed),
            _ => Err(failed(unexpected())),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.control(Ask::PreVote(request.into()), option.hard_ttl()).await? {
            Answer::Vote(ballot) => ballot.try_into().map_err(failed),
            _ => Err(failed(unexpected())),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: raft::Vote,
        snapshot: raft::Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = std::pin::pin!(self.send(vote, &snapshot));
        match select(sending, std::pin::pin!(cancel)).await {
            Either::Left((sent, _)) => sent.map(SnapshotResponse::new),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let expected = request.last_log_id().copied();
        match self.control(Ask::Transfer((&request).into()), option.hard_ttl()).await? {
            Answer::Transfer(true) => Ok(Ok(())),
            Answer::Transfer(false) => Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual: None })),
            _ => Err(failed(unexpected())),
        }
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a peer answered something else than what was asked")
}

/// A peer that cannot be reached is left in peace for a moment; other failures are tried again at once.
fn failed(error: io::Error) -> RPCError<Types> {
    if error.kind() == io::ErrorKind::TimedOut {
        RPCError::Network(NetworkError::new(&error))
    } else {
        RPCError::Unreachable(Unreachable::new(&error))
    }
}

fn streaming(error: &io::Error) -> StreamingError<Types> {
    StreamingError::Unreachable(Unreachable::new(error))
}
