//! An authority, and nodes with certificates from it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bailiwick_consensus::{
    Applier, Birth, Change, Committed, Consensus, LogLength, Member, Options, Outcome, Proposal, RocksDisk, Timers,
};
use bailiwick_runtime::{
    Identity,
    authority::Authority,
    identity::{NodeKey, Role, SpiffeId},
};
use tempfile::TempDir;

use super::super::Peers;

/// Longer than anything here takes; only a failing test waits for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster's authority.
pub(super) struct World {
    authority: Authority,
    pub(super) cluster_id: String,
    pub(super) incarnation: String,
}

impl World {
    pub(super) fn new() -> Self {
        let cluster_id = "c0".repeat(16);
        let key = NodeKey::generate().unwrap();
        let certificate = Authority::create(&cluster_id, &key, Identity::default().now()).unwrap();
        let authority = Authority::open(&certificate, &key).unwrap();
        Self { authority, cluster_id, incarnation: "1".repeat(16) }
    }

    /// A control plane's identity.
    pub(super) fn identity(&self, node_id: u64) -> Identity {
        let (identity, key) = (Identity::default(), NodeKey::generate().unwrap());
        let cluster = self.cluster_id.clone();
        let id = SpiffeId { cluster, role: Role::ControlPlane, node_id: Some(node_id), name: format!("cp-{node_id}") };
        let certificate = self.authority.issue(&id, key.public_key(), identity.now()).unwrap();
        identity.install(&certificate, self.authority.certificate(), &key).unwrap();
        identity
    }

    pub(super) fn peers(&self, node_id: u64) -> Peers {
        Peers::bind(self.identity(node_id), loopback(0)).unwrap()
    }

    /// A node on a data directory of its own.
    pub(super) async fn node(&self, node_id: u64) -> TestNode {
        let folder = TempDir::new().unwrap();
        self.node_on(node_id, folder, loopback(0), LogLength::default()).await
    }

    pub(super) async fn node_on(
        &self,
        node_id: u64,
        folder: TempDir,
        listen: SocketAddr,
        log_length: LogLength,
    ) -> TestNode {
        let peers = Peers::bind(self.identity(node_id), listen).unwrap();
        let collected = Collected::default();
        let options = Options {
            disk: Arc::new(RocksDisk::open(folder.path()).unwrap()),
            birth: self.birth(node_id),
            transport: Arc::new(peers.clone()),
            applier: Box::new(collected.clone()),
            timers: Timers::default(),
            log_length,
        };
        let consensus = Consensus::open(options).await.unwrap();
        peers.serve(Arc::new(consensus.clone()));
        TestNode { node_id, folder, peers, consensus, collected }
    }

    pub(super) fn birth(&self, node_id: u64) -> Birth {
        Birth { cluster_id: self.cluster_id.clone(), incarnation: self.incarnation.clone(), node_id }
    }

    /// Three voters, of which the first one leads.
    pub(super) async fn three(&self) -> [TestNode; 3] {
        let nodes = [self.node(1).await, self.node(2).await, self.node(3).await];
        let [first, others @ ..] = &nodes;
        first.found().await;
        for other in others {
            first.consensus.add_learner(other.node_id, other.member()).await.unwrap();
        }
        first.consensus.set_voters([1, 2, 3].into()).await.unwrap();
        nodes
    }
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A running node.
pub(super) struct TestNode {
    pub(super) node_id: u64,
    pub(super) folder: TempDir,
    pub(super) peers: Peers,
    pub(super) consensus: Consensus,
    pub(super) collected: Collected,
}

impl TestNode {
    pub(super) fn member(&self) -> Member {
        let peer = self.peers.local_addr().unwrap().to_string();
        Member { name: format!("cp-{}", self.node_id), peer, api: String::new() }
    }

    /// Begins a cluster.
    pub(super) async fn found(&self) {
        self.consensus.initialize(self.member()).await.unwrap();
        self.consensus.ready(PATIENCE).await.unwrap();
    }

    /// Proposes until it is taken, wherever the version stands.
    pub(super) async fn propose(&self, what: &str) -> Committed {
        let events = vec![what.as_bytes().to_vec()];
        loop {
            self.consensus.linearizable().await.unwrap();
            let proposal =
                Proposal { expected_version: self.collected.version(), events: events.clone(), ..Proposal::default() };
            let committed = self.consensus.propose(vec![proposal]).await.unwrap()[0];
            if committed.outcome == Outcome::Applied {
                return committed;
            }
        }
    }

    /// What a read that has to be current finds here.
    pub(super) async fn read(&self) -> Vec<String> {
        self.consensus.linearizable().await.unwrap();
        self.collected.texts()
    }

    /// Returns once this node has applied `revision`.
    pub(super) async fn applied(&self, revision: u64) {
        let mut revisions = self.consensus.revisions();
        let reached = revisions.wait_for(|applied| *applied >= revision);
        tokio::time::timeout(PATIENCE, reached).await.unwrap().unwrap();
    }

    /// Returns once this node knows a leader that is none of `not`.
    pub(super) async fn leader_other_than(&self, not: u64) -> u64 {
        let mut leader = self.consensus.leader();
        let known = leader.wait_for(|leader| leader.is_some_and(|leader| leader != not));
        tokio::time::timeout(PATIENCE, known).await.unwrap().unwrap().unwrap()
    }

    /// Gone from one moment to the next, as far as the others can tell.
    pub(super) async fn crash(self) -> (TempDir, SocketAddr) {
        let address = self.peers.local_addr().unwrap();
        self.peers.close().await;
        drop(self.peers);
        self.consensus.halt().await;
        (self.folder, address)
    }

    /// Stops as a service does.
    pub(super) async fn stop(self) -> (TempDir, SocketAddr) {
        self.consensus.hand_over().await;
        self.crash().await
    }
}

/// Keeps what it is given.
#[derive(Clone, Default)]
pub(super) struct Collected(Arc<Mutex<(Vec<Change>, u64)>>);

impl Collected {
    pub(super) fn version(&self) -> u64 {
        self.0.lock().unwrap().1
    }

    pub(super) fn texts(&self) -> Vec<String> {
        let text = |event: &Vec<u8>| String::from_utf8(event.clone()).unwrap();
        self.0.lock().unwrap().0.iter().flat_map(|change| change.events.iter().map(text)).collect()
    }
}

impl Applier for Collected {
    fn reset(&mut self) {
        self.0.lock().unwrap().0.clear();
    }
    fn apply(&mut self, change: &Change) -> io::Result<Option<u64>> {
        self.0.lock().unwrap().0.push(change.clone());
        Ok(None)
    }
    fn publish(&mut self, version: u64) {
        self.0.lock().unwrap().1 = version;
    }
}

/// A copy of a stopped node's data directory.
pub(super) fn copy_of(folder: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let target = TempDir::new().unwrap();
    copy(folder, target.path());
    target
}
