//! The nodes of one simulated cluster: machines, lives, and what can be asked of them from outside.
//!
//! A node is a real `Replica` (consensus, storage, state, writer) on a simulated disk, network and clock. Its tasks run
//! under its [`Life`]. Clients and administrators stand outside: they [`ask`](Cluster::ask) a node over a network of
//! their own, and an answer that does not come leaves them not knowing.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::error::Unspecified;
use bailiwick_consensus::{Birth, ConsensusError, LogLength, Options, Timers, runtime::hosted};
use bailiwick_control_plane::{Replica, Surroundings};
use tokio::{sync::oneshot, time};

use crate::{
    authority::Authority,
    canon::Canon,
    disk::Machine,
    life::Life,
    network::Network,
    operator,
    random::Random,
    world::{World, lock},
};

pub(crate) const CLUSTER_ID: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
pub(crate) const INCARNATION: &str = "00000000000000a1";
/// How often a node is looked at from outside.
const WATCH_EVERY: Duration = Duration::from_millis(40);

/// One simulated cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) world: Arc<World>,
    pub(crate) network: Arc<Network>,
    pub(crate) canon: Arc<Canon>,
    pub(crate) authority: Arc<Authority>,
    random: Random,
    log_length: LogLength,
    /// Revisions whose deltas a node keeps for data planes that fall behind.
    revisions_kept: usize,
    nodes: Mutex<BTreeMap<u64, Node>>,
}

/// One node, up or down.
#[derive(Debug)]
struct Node {
    machine: Machine,
    skew_micros: Arc<AtomicI64>,
    lives: u64,
    life: Option<Arc<Life>>,
    replica: Option<Replica>,
    /// Its disk is gone; it never comes back.
    wiped: bool,
    /// An operator took it out of service.
    retired: bool,
}

/// What came of asking a node.
#[derive(Debug)]
pub(crate) enum Asked<T> {
    Answered(T),
    /// It certainly never heard of it.
    NotHeard,
    /// There is no telling.
    Lost,
}

impl Cluster {
    pub(crate) fn new(world: &Arc<World>, log_length: LogLength, revisions_kept: usize) -> Arc<Self> {
        let authority = Authority::new(world);
        Arc::new(Self {
            world: world.clone(),
            network: Network::new(world),
            canon: Canon::new(world, &authority),
            authority,
            random: world.random("cluster"),
            log_length,
            revisions_kept,
            nodes: Mutex::default(),
        })
    }

    /// Sets up a machine with an empty disk for a node id, which nobody may have had before.
    pub(crate) fn add(self: &Arc<Self>, id: u64) {
        let node = Node {
            machine: Machine::new(&self.world, id),
            skew_micros: Arc::default(),
            lives: 0,
            life: None,
            replica: None,
            wiped: false,
            retired: false,
        };
        if lock(&self.nodes).insert(id, node).is_some() {
            self.world.violate("node id", format!("id {id} was given to a second node"));
        }
        self.start(id);
    }

    /// Begins a life, unless one is going on.
    pub(crate) fn start(self: &Arc<Self>, id: u64) {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get_mut(&id).filter(|node| node.life.is_none() && !node.wiped && !node.retired) else {
            return;
        };
        node.lives += 1;
        let life = Life::new(self.world.random(&format!("node {id} life {}", node.lives)));
        node.life = Some(life.clone());
        self.world.trace(format_args!("node {id} starts life {}", node.lives));
        let clock =
            Clock { world: self.world.clone(), skew_micros: node.skew_micros.clone(), random: self.random.clone() };
        let (disk, transport) = (node.machine.of(&life), self.network.of(id, &life));
        let birth = Birth { cluster_id: CLUSTER_ID.into(), incarnation: INCARNATION.into(), node_id: id };
        let log_length = self.log_length;
        let canon = self.canon.clone();
        drop(nodes);
        let (cluster, own) = (self.clone(), life.clone());
        let living = async move {
            let options = |applier| Options {
                disk,
                birth,
                transport,
                applier: canon.witness(id, applier),
                timers: Timers::default(),
                log_length,
            };
            match Replica::open(Arc::new(clock), cluster.revisions_kept, options).await {
                Ok((replica, writer)) => {
                    cluster.up(id, &own, &replica);
                    tokio::task::spawn(hosted(own.clone(), operator::reconcile(cluster.clone(), replica.clone())));
                    tokio::select! {
                        biased;
                        failure = replica.consensus().failed() => cluster.stopped(id, &own, &failure),
                        () = writer => {}
                    }
                }
                Err(error) => cluster.stopped(id, &own, &error),
            }
        };
        tokio::task::spawn(hosted(life, living));
    }

    fn up(&self, id: u64, life: &Arc<Life>, replica: &Replica) {
        if life.is_over() {
            return;
        }
        if let Some(node) = lock(&self.nodes).get_mut(&id) {
            node.replica = Some(replica.clone());
        }
        self.network.attach(id, life, replica.consensus());
        self.world.trace(format_args!("node {id} is up"));
    }

    /// A node ended by itself, as a process would that meets an error it cannot go on with.
    fn stopped(&self, id: u64, life: &Arc<Life>, failure: &ConsensusError) {
        if life.is_over() {
            return;
        }
        self.world.trace(format_args!("node {id} stops: {failure}"));
        let expected = match failure {
            ConsensusError::Storage { detail } => {
                detail.contains("simulated") || detail.contains("earlier write failed")
            }
            ConsensusError::Open(error) => error.to_string().contains("simulated"),
            // Said by others: it was removed.
            ConsensusError::Refused(bailiwick_consensus::Refusal::Removed) => true,
            _ => false,
        };
        if !expected {
            self.world.violate("stopped", format!("node {id} stopped by itself: {failure}"));
        }
        self.end(id, false);
    }

    /// Ends a life: by power loss, or as `kill -9` does.
    pub(crate) fn end(&self, id: u64, power_loss: bool) {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get_mut(&id) else { return };
        let Some(life) = node.life.take() else { return };
        let replica = node.replica.take();
        life.end();
        self.network.detach(id);
        self.world.trace(format_args!("node {id} ends, power loss: {power_loss}"));
        if power_loss {
            node.machine.crash()
        } else {
            node.machine.kill()
        }
        drop(nodes);
        drop(replica);
    }

    /// Lives that ended in the middle of a write have lost power.
    pub(crate) fn reap(&self) {
        let over = |node: &Node| node.life.as_ref().is_some_and(|life| life.is_over());
        let dead: Vec<u64> = lock(&self.nodes).iter().filter(|(_, node)| over(node)).map(|(id, _)| *id).collect();
        dead.into_iter().for_each(|id| self.end(id, true));
    }

    /// The machine is lost with its disk.
    pub(crate) fn wipe(&self, id: u64) {
        self.end(id, true);
        if let Some(node) = lock(&self.nodes).get_mut(&id) {
            node.wiped = true;
        }
        self.world.trace(format_args!("node {id} is wiped"));
    }

    /// Takes a removed node out of service.
    pub(crate) fn retire(&self, id: u64) {
        self.end(id, false);
        if let Some(node) = lock(&self.nodes).get_mut(&id) {
            node.retired = true;
        }
    }

    pub(crate) fn pause(&self, id: u64) {
        self.world.trace(format_args!("node {id} pauses"));
        lock(&self.nodes).get(&id).and_then(|node| node.life.clone()).iter().for_each(|life| life.pause());
    }

    pub(crate) fn resume(&self, id: u64) {
        self.world.trace(format_args!("node {id} resumes"));
        lock(&self.nodes).get(&id).and_then(|node| node.life.clone()).iter().for_each(|life| life.resume());
    }

    pub(crate) fn set_clock(&self, id: u64, skew: i64) {
        self.world.trace(format_args!("clock of node {id} is off by {skew} us"));
        if let Some(node) = lock(&self.nodes).get(&id) {
            node.skew_micros.store(skew, Ordering::Relaxed);
        }
    }

    pub(crate) fn disk(&self, id: u64) -> Option<Machine> {
        lock(&self.nodes).get(&id).map(|node| node.machine.clone())
    }

    /// Nodes in service, up or down.
    pub(crate) fn ids(&self) -> Vec<u64> {
        lock(&self.nodes).iter().filter(|(_, node)| !node.wiped && !node.retired).map(|(id, _)| *id).collect()
    }

    /// Nodes that are up.
    pub(crate) fn up_ids(&self) -> Vec<u64> {
        lock(&self.nodes).iter().filter(|(_, node)| node.replica.is_some()).map(|(id, _)| *id).collect()
    }

    pub(crate) fn down_ids(&self) -> Vec<u64> {
        let down = |node: &Node| node.life.is_none() && !node.wiped && !node.retired;
        lock(&self.nodes).iter().filter(|(_, node)| down(node)).map(|(id, _)| *id).collect()
    }

    /// A node that is up, with its present life: what a connection to it leads to.
    pub(crate) fn host(&self, id: u64) -> Option<(Arc<Life>, Replica)> {
        let nodes = lock(&self.nodes);
        let node = nodes.get(&id)?;
        Some((node.life.clone()?, node.replica.clone()?)).filter(|(life, _)| !life.is_over())
    }

    /// The node's insides, for looking at from outside the simulation.
    pub(crate) fn replica(&self, id: u64) -> Option<Replica> {
        lock(&self.nodes).get(&id).and_then(|node| node.replica.clone())
    }

    /// Asks a node from outside. What is asked runs on the node, and goes on there if the answer is not waited for.
    pub(crate) async fn ask<T, F>(&self, id: u64, timeout: Duration, what: impl FnOnce(Replica) -> F) -> Asked<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let deadline = time::Instant::now() + timeout;
        let Some(delay) = self.network.fate() else {
            time::sleep_until(deadline).await;
            return Asked::Lost;
        };
        time::sleep(delay).await;
        let found = lock(&self.nodes).get(&id).and_then(|node| Some((node.life.clone()?, node.replica.clone()?)));
        let Some((life, replica)) = found.filter(|(life, _)| !life.is_over()) else { return Asked::NotHeard };
        let (reply, answer) = oneshot::channel();
        let asked = what(replica);
        tokio::task::spawn(hosted(life, async move { drop(reply.send(asked.await)) }));
        let back = self.network.fate();
        let answered = async {
            let answer = answer.await.ok()?;
            time::sleep(back?).await;
            Some(answer)
        };
        match time::timeout_at(deadline, answered).await {
            Ok(Some(answer)) => Asked::Answered(answer),
            Ok(None) => {
                time::sleep_until(deadline).await;
                Asked::Lost
            }
            Err(_) => Asked::Lost,
        }
    }

    /// Looks at every node again and again, as nobody but a simulation can.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            time::sleep(WATCH_EVERY).await;
            self.reap();
            for id in self.up_ids() {
                let Some(replica) = self.replica(id) else { continue };
                let consensus = replica.consensus();
                if consensus.is_leader() {
                    self.canon.leader(id, consensus.term());
                }
                let (version, root) = consensus.root();
                self.canon.root(id, version, &root);
            }
        }
    }
}

/// A node's clock, which may be wrong.
#[derive(Debug)]
struct Clock {
    world: Arc<World>,
    skew_micros: Arc<AtomicI64>,
    random: Random,
}

impl Surroundings for Clock {
    fn now_micros(&self) -> u64 {
        self.world.now_micros().saturating_add_signed(self.skew_micros.load(Ordering::Relaxed))
    }

    fn random(&self) -> Result<[u8; 16], Unspecified> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.random.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.random.next().to_be_bytes());
        Ok(bytes)
    }
}
