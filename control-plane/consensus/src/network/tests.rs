//! Nodes that call each other in memory, over wires that can be cut, crossed and listened to.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prost::Message as _;

use crate::{
    Birth, Consensus, ConsensusError, Introduction, Lane, LogLength, Member, Options, Outcome, Proposal, Refusal,
    Timers, Transport,
    disk::memory::MemoryDisk,
    fixture::Collected,
    format::{Entry, Position, Vote},
    messages::{Answer, Append, Ask, Candidacy, Chunk, Reply, Request},
};

const READY: Duration = Duration::from_secs(30);
const MEBIBYTE: usize = 1024 * 1024;

/// What a wire does to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Arrives,
    RequestLost,
    AnswerLost,
    /// Another node is found where the peer should be.
    ReachesNode(u64),
}

type Decide = Box<dyn FnMut(u64, &Ask) -> Fate + Send>;

/// All wires of a cluster.
#[derive(Clone, Default)]
struct Wires {
    nodes: Arc<Mutex<BTreeMap<u64, Consensus>>>,
    decide: Arc<Mutex<Option<Decide>>>,
}

/// One node's end of them.
struct End {
    own: u64,
    wires: Wires,
}

#[async_trait]
impl Transport for End {
    async fn call(&self, to: u64, _: &Member, _: Lane, request: Vec<u8>, _: Duration) -> io::Result<Vec<u8>> {
        let cut = || io::Error::from(io::ErrorKind::NotConnected);
        let ask = Request::decode(request.as_slice()).unwrap().ask.unwrap();
        let fate = self.wires.decide.lock().unwrap().as_mut().map_or(Fate::Arrives, |decide| decide(to, &ask));
        let to = match fate {
            Fate::ReachesNode(other) => other,
            Fate::Arrives | Fate::RequestLost | Fate::AnswerLost => to,
        };
        let node = self.wires.nodes.lock().unwrap().get(&to).cloned().ok_or_else(cut)?;
        if fate == Fate::RequestLost {
            return Err(cut());
        }
        let answer = node.handle(self.own, request).await?;
        if fate == Fate::AnswerLost { Err(cut()) } else { Ok(answer) }
    }
}

impl Wires {
    async fn node(&self, node_id: u64, log_length: LogLength) -> (Consensus, Collected) {
        let collected = Collected::default();
        let options = Options {
            disk: Arc::new(MemoryDisk::default()),
            birth: Birth { cluster_id: "ab".repeat(16), incarnation: "cd".repeat(8), node_id },
            transport: Arc::new(End { own: node_id, wires: self.clone() }),
            applier: Box::new(collected.clone()),
            timers: Timers::default(),
            log_length,
        };
        let consensus = Consensus::open(options).await.unwrap();
        self.nodes.lock().unwrap().insert(node_id, consensus.clone());
        (consensus, collected)
    }

    fn decide(&self, decide: impl FnMut(u64, &Ask) -> Fate + Send + 'static) {
        *self.decide.lock().unwrap() = Some(Box::new(decide));
    }

    /// Ends all nodes; the wires hold them, and they the wires.
    async fn end(self) {
        let nodes = std::mem::take(&mut *self.nodes.lock().unwrap());
        for node in nodes.into_values() {
            drop(node.raft.shutdown().await);
        }
    }
}

async fn found(consensus: &Consensus) {
    consensus.initialize(Member::default()).await.unwrap();
    consensus.ready(READY).await.unwrap();
}

async fn propose(consensus: &Consensus, event: Vec<u8>) {
    let (expected_version, _) = consensus.root();
    let proposal = Proposal { expected_version, events: vec![event], ..Proposal::default() };
    assert_eq!(consensus.propose(vec![proposal]).await.unwrap()[0].outcome, Outcome::Applied);
}

async fn applied(consensus: &Consensus, revision: u64) {
    let mut revisions = consensus.revisions();
    let reached = revisions.wait_for(|applied| *applied >= revision);
    tokio::time::timeout(READY, reached).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_snapshot_that_was_cut_off_goes_on_where_it_stopped() {
    let (wires, short) = (Wires::default(), LogLength { snapshot_every: 4, kept: 1 });
    let (first, sent) = wires.node(1, short).await;
    found(&first).await;
    for n in 0..8 {
        propose(&first, vec![n; MEBIBYTE]).await;
    }
    let last = *first.revisions().borrow();
    first.raft.trigger().snapshot().await.unwrap();
    let whole = |metrics: &openraft::RaftMetrics<_>| metrics.purged.is_some_and(|id| id.index + 1 >= last);
    first.raft.wait(Some(READY)).metrics(whole, "the log is purged").await.unwrap();

    // Every third part is lost on its way, every fifth answer.
    let parts = Arc::new(Mutex::new(Vec::new()));
    let listening = Arc::clone(&parts);
    wires.decide(move |_, ask| {
        let Ask::Snapshot(chunk) = ask else { return Fate::Arrives };
        let mut parts = listening.lock().unwrap();
        parts.push(chunk.offset);
        match parts.len() {
            n if n % 3 == 0 => Fate::RequestLost,
            n if n % 5 == 0 => Fate::AnswerLost,
            _ => Fate::Arrives,
        }
    });
    let (second, received) = wires.node(2, short).await;
    first.add_learner(2, Member::default()).await.unwrap();
    applied(&second, last).await;
    assert_eq!(received.changes(), sent.changes());
    assert_eq!(second.root(), first.root());
    let parts = parts.lock().unwrap().clone();
    let begun = parts.iter().filter(|offset| **offset == 0).count();
    let resumed = parts.windows(2).any(|pair| pair[0] == 0 && pair[1] > u64::try_from(MEBIBYTE).unwrap());
    assert!(begun > 1 && resumed, "{parts:?}");
    drop((first, second));
    wires.end().await;
}

#[tokio::test]
async fn what_another_node_than_the_one_called_answers_does_not_count() {
    let wires = Wires::default();
    let (first, _) = wires.node(1, LogLength::default()).await;
    let (second, _) = wires.node(2, LogLength::default()).await;
    let (third, _) = wires.node(3, LogLength::default()).await;
    found(&first).await;
    first.add_learner(2, Member::default()).await.unwrap();
    applied_membership(&second).await;
    // Whoever calls node 3 gets node 2: nothing it says makes node 3 a holder of the log.
    wires.decide(|to, _| if to == 3 { Fate::ReachesNode(2) } else { Fate::Arrives });
    first.add_learner(3, Member::default()).await.unwrap();
    propose(&first, b"x".to_vec()).await;
    applied(&second, *first.revisions().borrow()).await;
    assert_eq!(first.progress().get(&3), Some(&0));
    assert!(!third.is_initialized().await.unwrap());
    drop((first, second, third));
    wires.end().await;
}

async fn applied_membership(consensus: &Consensus) {
    let known = |metrics: &openraft::RaftMetrics<_>| metrics.membership_config.nodes().count() == 2;
    consensus.raft.wait(Some(READY)).metrics(known, "membership").await.unwrap();
}

/// A request of node 2 to node 1.
fn request(ask: Ask) -> Request {
    let (cluster_id, incarnation) = ("ab".repeat(16), "cd".repeat(8));
    let from = Introduction { cluster_id, incarnation, node_id: 2, starts: 1, run: 1 };
    Request { from: Some(from), to: 1, ask: Some(ask) }
}

#[tokio::test]
async fn a_message_is_taken_only_from_who_it_says_and_for_who_it_is_meant() {
    let wires = Wires::default();
    let (node, _) = wires.node(1, LogLength::default()).await;
    let refusal = |bytes: Vec<u8>| match Reply::decode(bytes.as_slice()).unwrap().answer.unwrap() {
        Answer::Refused(code) => Refusal::from_code(code),
        _ => None,
    };
    let read = request(Ask::ReadIndex(true));
    assert_eq!(refusal(node.handle(2, read.encode_to_vec()).await.unwrap()), None);
    let other = Request { to: 3, ..read.clone() };
    assert_eq!(refusal(node.handle(2, other.encode_to_vec()).await.unwrap()), Some(Refusal::OtherNode));
    let error = node.handle(3, read.encode_to_vec()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "the transport proved another id");

    let vote = |node, committed| Some(Vote { term: 9, node, committed });
    for foreign in [
        Ask::Vote(Candidacy { vote: vote(3, false), ..Candidacy::default() }),
        Ask::Vote(Candidacy { vote: vote(2, true), ..Candidacy::default() }),
        Ask::PreVote(Candidacy::default()),
        Ask::Append(Append { vote: vote(3, true), ..Append::default() }),
        Ask::Append(Append { vote: vote(2, false), ..Append::default() }),
        Ask::Snapshot(Chunk { vote: vote(3, true), ..Chunk::default() }),
    ] {
        let error = node.handle(2, request(foreign.clone()).encode_to_vec()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{foreign:?}");
    }
    let position = |index| Some(Position { term: 9, node: 2, index });
    let hole = vec![Entry { position: position(7), payload: Some(crate::format::Payload::Blank(true)) }];
    let append = Append { vote: vote(2, true), after: position(5), entries: hole, committed: None };
    let error = node.handle(2, request(Ask::Append(append)).encode_to_vec()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    for junk in [&b""[..], b"junk", &[0xff; 64]] {
        assert!(node.handle(2, junk.to_vec()).await.is_err());
    }
    assert!(!node.is_initialized().await.unwrap(), "nothing of that has left a trace");
    drop(node);
    wires.end().await;
}

#[tokio::test]
async fn a_read_beside_a_leader_that_nobody_follows_is_not_answered() {
    let wires = Wires::default();
    let (first, _) = wires.node(1, LogLength::default()).await;
    found(&first).await;
    let mut others = Vec::new();
    for id in [2, 3] {
        others.push(wires.node(id, LogLength::default()).await.0);
        first.add_learner(id, Member::default()).await.unwrap();
    }
    first.set_voters([1, 2, 3].into()).await.unwrap();
    // Node 2 can ask the leader, and the leader can reach nobody.
    wires.decide(|_, ask| if matches!(ask, Ask::ReadIndex(_)) { Fate::Arrives } else { Fate::RequestLost });
    for node in [&first, &others[0]] {
        let read = node.linearizable().await;
        assert!(matches!(read, Err(ConsensusError::Unconfirmed { .. })), "{read:?}");
    }
    wires.decide(|_, _| Fate::Arrives);
    others[0].linearizable().await.unwrap();
    drop((first, others));
    wires.end().await;
}
