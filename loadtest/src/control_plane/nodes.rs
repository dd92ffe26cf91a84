//! Control-plane nodes inside this process: the production consensus, storage, projection and writer, each on a data
//! directory of its own; messages between them are encoded and decoded as on the wire, but travel through memory.
//!
//! What is left out is sockets and TLS; `cluster --admin` measures with those, on real processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use bailiwick_consensus::{Birth, Consensus, Lane, LogLength, Member, Options, RocksDisk, Timers, Transport};
use bailiwick_control_plane::{Host, REVISIONS_KEPT, Replica};
use tokio::task::AbortHandle;

use super::slow_disk::SlowDisk;

/// Longest wait for a leader, and for a new node to catch up.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Who can be reached.
#[derive(Debug, Default)]
struct Exchange {
    nodes: RwLock<BTreeMap<u64, Consensus>>,
    /// Urgent calls that a node did not answer in time, by its id.
    unanswered: Mutex<BTreeMap<u64, u64>>,
}

impl Exchange {
    fn find(&self, node_id: u64) -> Option<Consensus> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(&node_id).cloned()
    }

    fn set(&self, node_id: u64, consensus: Option<Consensus>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        match consensus {
            Some(consensus) => drop(nodes.insert(node_id, consensus)),
            None => drop(nodes.remove(&node_id)),
        }
    }
}

/// One node's way to the others.
#[derive(Debug)]
struct Wire {
    from: u64,
    exchange: Arc<Exchange>,
}

#[async_trait]
impl Transport for Wire {
    async fn call(&self, to: u64, _: &Member, lane: Lane, request: Vec<u8>, timeout: Duration) -> io::Result<Vec<u8>> {
        let Some(peer) = self.exchange.find(to) else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        match tokio::time::timeout(timeout, peer.handle(self.from, request)).await {
            Ok(answered) => answered,
            Err(_) => {
                let mut unanswered = self.exchange.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
                *unanswered.entry(to).or_default() += u64::from(lane == Lane::Control);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

#[derive(Debug)]
struct Running {
    replica: Replica,
    writer: AbortHandle,
}

/// Some nodes of one cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    folder: PathBuf,
    sync_delay: Duration,
    exchange: Arc<Exchange>,
    running: BTreeMap<u64, Running>,
    writers: tokio::task::JoinSet<()>,
}

impl Nodes {
    /// No nodes yet, below `folder`; syncs of their disks take `sync_delay` longer than they would.
    pub(crate) fn new(folder: &Path, sync_delay: Duration) -> Self {
        let (exchange, running, writers) = Default::default();
        Self { folder: folder.to_owned(), sync_delay, exchange, running, writers }
    }

    /// Starts nodes 1 to `count` on empty folders, all of them voters.
    pub(crate) async fn cluster(folder: &Path, count: u64, sync_delay: Duration) -> Result<Self> {
        let mut nodes = Self::new(folder, sync_delay);
        nodes.begin().await?;
        for node_id in 2..=count {
            nodes.open(node_id).await?;
            nodes.get(1)?.consensus().add_learner(node_id, member(node_id)).await?;
        }
        nodes.get(1)?.consensus().set_voters((1..=count).collect()).await?;
        Ok(nodes)
    }

    /// Opens node 1; an empty folder becomes a cluster of it alone.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.open(1).await?;
        let consensus = self.get(1)?.consensus();
        if !consensus.is_initialized().await? {
            consensus.initialize(member(1)).await?;
        }
        Ok(consensus.ready(WAIT_MAX).await?)
    }

    /// Opens a node on its folder.
    pub(crate) async fn open(&mut self, node_id: u64) -> Result<()> {
        let folder = self.folder_of(node_id);
        std::fs::create_dir_all(&folder)?;
        let disk = tokio::task::spawn_blocking(move || RocksDisk::open(&folder)).await??;
        self.open_on(disk, birth(node_id)).await
    }

    /// Opens whichever node a disk is of.
    pub(crate) async fn open_on(&mut self, disk: RocksDisk, birth: Birth) -> Result<()> {
        let (delay, node_id) = (self.sync_delay, birth.node_id);
        let transport = Arc::new(Wire { from: node_id, exchange: Arc::clone(&self.exchange) });
        let options = move |applier| Options {
            disk: Arc::new(SlowDisk::new(disk, delay)),
            birth,
            transport,
            applier,
            timers: Timers::default(),
            log_length: LogLength::default(),
        };
        let (replica, writer) = Replica::open(Arc::new(Host), REVISIONS_KEPT, options).await?;
        let writer = self.writers.spawn(writer);
        self.exchange.set(node_id, Some(replica.consensus().clone()));
        self.running.insert(node_id, Running { replica, writer });
        Ok(())
    }

    /// Stops a node as a crash would: nobody hears of it any more, and it hands nothing over.
    pub(crate) async fn kill(&mut self, node_id: u64) -> Result<()> {
        self.exchange.set(node_id, None);
        let Some(Running { replica, writer }) = self.running.remove(&node_id) else { bail!("node {node_id} is down") };
        writer.abort();
        let consensus = replica.consensus().clone();
        drop(replica);
        while self.writers.try_join_next().is_some() {}
        consensus.halt().await;
        Ok(())
    }

    /// Stops all, gently.
    pub(crate) async fn stop(mut self) -> Result<()> {
        for node_id in self.running.keys().copied().collect::<Vec<_>>() {
            self.kill(node_id).await?;
        }
        Ok(())
    }

    pub(crate) fn get(&self, node_id: u64) -> Result<&Replica> {
        self.running.get(&node_id).map(|node| &node.replica).with_context(|| format!("node {node_id} is down"))
    }

    /// Those that run.
    pub(crate) fn ids(&self) -> BTreeSet<u64> {
        self.running.keys().copied().collect()
    }

    /// The node that leads, once a majority confirms it.
    pub(crate) async fn leader(&self) -> Result<&Replica> {
        let find = async {
            loop {
                for node in self.running.values() {
                    let consensus = node.replica.consensus();
                    if consensus.is_leader() && consensus.linearizable().await.is_ok() {
                        return &node.replica;
                    }
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(WAIT_MAX, find).await.context("nobody leads")
    }

    /// Waits until a node has applied what its leader had committed when this was asked.
    pub(crate) async fn caught_up(&self, node_id: u64) -> Result<()> {
        let leader = self.leader().await?.consensus().clone();
        let (target, mut applied) = (*leader.revisions().borrow(), self.get(node_id)?.consensus().revisions());
        let waited = tokio::time::timeout(WAIT_MAX, applied.wait_for(|revision| *revision >= target)).await;
        waited.context("a node does not catch up")??;
        Ok(())
    }

    /// Votes, appends, heartbeats and reads that nodes 1 to `last` did not answer in time so far.
    pub(crate) fn unanswered(&self, last: u64) -> u64 {
        let unanswered = self.exchange.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered.range(..=last).map(|(_, count)| count).sum()
    }

    pub(crate) fn folder_of(&self, node_id: u64) -> PathBuf {
        self.folder.join(format!("node-{node_id}"))
    }
}

pub(crate) fn member(node_id: u64) -> Member {
    let name = format!("node-{node_id}");
    Member { peer: format!("{name}:8432"), api: format!("https://{name}:8431"), name }
}

fn birth(node_id: u64) -> Birth {
    Birth { cluster_id: "0".repeat(32), incarnation: "0".repeat(16), node_id }
}
