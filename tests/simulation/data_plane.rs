//! The data planes of one simulation: real followers of the configuration, on clocks of their own, whose agents make one
//! call after the other.
//!
//! A node's streams, its catalogue, its leases and its decision about each call are the product's
//! (`bailiwick_data_plane::Follower`); listeners, servers and records are left out. Its tasks run under its [`Life`].
//! Retrieval beyond a lease is off, and the one tool is transactional, so every admitted call needs a lease.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bailiwick_consensus::{ConsensusError, runtime::hosted};
use bailiwick_control_plane::WriteError;
use bailiwick_control_plane_core::{Command, node::Role};
use bailiwick_data_plane::{Follower, Surroundings};
use tokio::time::{self, Instant};

use crate::{
    authority::TOOL,
    cluster::{Asked, Cluster},
    life::Life,
    random::Random,
    wire::Wires,
    world::{World, lock},
};

const ASK: Duration = Duration::from_secs(3);
/// Pause between two attempts to register.
const AGAIN: Duration = Duration::from_millis(200);
/// Most time between two calls, in milliseconds.
const THINK_MILLIS: u64 = 60;
/// How often control planes are asked who holds to what.
const WATCH_EVERY: Duration = Duration::from_millis(40);
/// Furthest a clock's rate is off, in parts per million: a hundredth, as the bound assumes.
pub(crate) const RATE_PPM_MAX: i64 = 10_000;

/// All data planes.
#[derive(Debug)]
pub(crate) struct DataPlanes {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) wires: Arc<Wires>,
    nodes: Mutex<BTreeMap<u64, Node>>,
}

#[derive(Debug, Default)]
struct Node {
    lives: u64,
    life: Option<Arc<Life>>,
    follower: Option<Follower>,
    /// Of the present run; 0 until it is registered.
    epoch: u64,
    rate_ppm: Arc<AtomicI64>,
}

impl DataPlanes {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self { cluster: cluster.clone(), wires: Wires::new(cluster), nodes: Mutex::default() })
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        lock(&self.nodes).keys().copied().collect()
    }

    /// Begins a run, unless one is going on.
    pub(crate) fn start(self: &Arc<Self>, id: u64) {
        let mut nodes = lock(&self.nodes);
        let node = nodes.entry(id).or_default();
        if node.life.is_some() {
            return;
        }
        node.lives += 1;
        let lives = node.lives;
        let life = Life::new(self.cluster.world.random(&format!("data plane {id} life {lives}")));
        let clock = Clock {
            began: Instant::now(),
            rate_ppm: node.rate_ppm.clone(),
            read: Mutex::new((Instant::now(), 0)),
            random: self.random(id, "jitter"),
        };
        let follower = Follower::new(Arc::new(clock), Duration::ZERO);
        node.life = Some(life.clone());
        node.follower = Some(follower.clone());
        node.epoch = 0;
        drop(nodes);
        self.cluster.world.trace(format_args!("data plane {id} starts run {lives}"));
        let (planes, own) = (self.clone(), life.clone());
        tokio::task::spawn(hosted(life, async move {
            let Some(epoch) = planes.register(id, lives).await else { return };
            planes.registered(id, epoch);
            let name = name(id);
            let link = |what| planes.wires.link(id, &own, format!("{name} {lives} {what}"));
            tokio::join!(
                follower.stream(link("stream"), &name, epoch),
                follower.lane(link("lane"), &name, epoch),
                planes.agents(id, &follower),
            );
        }));
    }

    /// Ends a run as `kill -9` does.
    pub(crate) fn end(&self, id: u64) {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get_mut(&id) else { return };
        node.follower = None;
        if let Some(life) = node.life.take() {
            life.end();
            self.cluster.world.trace(format_args!("data plane {id} ends"));
        }
    }

    pub(crate) fn pause(&self, id: u64) {
        self.cluster.world.trace(format_args!("data plane {id} pauses"));
        self.life(id).iter().for_each(|life| life.pause());
    }

    pub(crate) fn resume(&self, id: u64) {
        self.cluster.world.trace(format_args!("data plane {id} resumes"));
        self.life(id).iter().for_each(|life| life.resume());
    }

    /// From now on the node's monotonic clock runs faster (or slower) by so much.
    pub(crate) fn set_rate(&self, id: u64, ppm: i64) {
        self.cluster.world.trace(format_args!("the clock of data plane {id} is off by {ppm} ppm"));
        if let Some(node) = lock(&self.nodes).get(&id) {
            node.rate_ppm.store(ppm, Ordering::Relaxed);
        }
    }

    pub(crate) fn follower(&self, id: u64) -> Option<Follower> {
        lock(&self.nodes).get(&id).and_then(|node| node.follower.clone())
    }

    /// How many frames did not fit at what is running now.
    pub(crate) fn misfits(&self) -> u64 {
        lock(&self.nodes).values().filter_map(|node| node.follower.as_ref()).map(Follower::misfits).sum()
    }

    /// Starts a node again that another run of itself has replaced, as its operator would: the registration of a run
    /// that is over can still have been on its way.
    pub(crate) fn start_if_replaced(self: &Arc<Self>, id: u64, replica: &bailiwick_control_plane::Replica) {
        let own = lock(&self.nodes).get(&id).map_or(0, |node| node.epoch);
        let registered = replica.read(|state| state.nodes.get(&name(id)).map_or(0, |node| node.epoch));
        if own > 0 && own < registered {
            self.cluster.world.trace(format_args!("data plane {id} was replaced by its run {registered}"));
            self.end(id);
            self.start(id);
        }
    }

    fn registered(&self, id: u64, epoch: u64) {
        lock(&self.nodes).get_mut(&id).into_iter().for_each(|node| node.epoch = epoch);
    }

    fn life(&self, id: u64) -> Option<Arc<Life>> {
        lock(&self.nodes).get(&id).and_then(|node| node.life.clone())
    }

    fn random(&self, id: u64, what: &str) -> Random {
        self.cluster.world.random(&format!("data plane {id} {what}"))
    }

    /// Gets this run's epoch, from whichever control plane answers.
    async fn register(&self, id: u64, lives: u64) -> Option<u64> {
        let random = self.random(id, "registration");
        let mut key = [0; 32];
        key[..8].copy_from_slice(&id.to_be_bytes());
        key[8..16].copy_from_slice(&lives.to_be_bytes());
        let mut hint = None;
        loop {
            let control_plane = hint.take().or_else(|| random.pick(&self.cluster.ids()).copied())?;
            let command = Command::RegisterNode { node: name(id), role: Role::DataPlane, public_key: key };
            let request = format!("register-{id}-{lives}");
            let ask =
                async move |replica: bailiwick_control_plane::Replica| replica.write(command, "node", &request).await;
            match self.cluster.ask(control_plane, ASK, ask).await {
                Asked::Answered(Ok(written)) => return Some(written.revision),
                Asked::Answered(Err(WriteError::Consensus(ConsensusError::NotLeader { leader }))) => hint = leader,
                Asked::Answered(Err(WriteError::Rejected(rejection))) => {
                    self.cluster.world.violate("workload", format!("data plane {id} cannot register: {rejection}"));
                    return None;
                }
                Asked::Answered(Err(_)) | Asked::NotHeard | Asked::Lost => {}
            }
            time::sleep(AGAIN).await;
        }
    }

    /// Agents call, for ever.
    async fn agents(&self, id: u64, follower: &Follower) {
        let (world, authority) = (&self.cluster.world, &self.cluster.authority);
        let random = self.random(id, "agents");
        loop {
            time::sleep(random.millis(1, THINK_MILLIS)).await;
            let Some(caller) = authority.any_caller(&random) else { continue };
            match follower.refuses(&caller, TOOL, unix_seconds(world)) {
                Some(_) => authority.refused(),
                None => authority.admitted(id, &caller),
            }
        }
    }

    /// Listens to what control planes say about data planes.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            time::sleep(WATCH_EVERY).await;
            let recent = self.cluster.authority.recent();
            for replica in self.cluster.up_ids().into_iter().filter_map(|id| self.cluster.replica(id)) {
                for revision in &recent {
                    for id in replica.denied_through(*revision).iter().filter_map(|name| number(name)) {
                        self.cluster.authority.said(id, *revision);
                    }
                }
            }
        }
    }
}

fn name(id: u64) -> String {
    format!("dp-{id}")
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix("dp-")?.parse().ok()
}

/// What the node's clock shows; which consents have expired is not what is simulated here.
pub(crate) fn unix_seconds(world: &World) -> i64 {
    i64::try_from(world.now_micros() / 1_000_000).unwrap_or(i64::MAX)
}

/// A node's monotonic clock, which may run too fast or too slowly.
#[derive(Debug)]
struct Clock {
    began: Instant,
    rate_ppm: Arc<AtomicI64>,
    /// When it was last read, and by how many nanoseconds it was off then.
    read: Mutex<(Instant, i64)>,
    random: Random,
}

impl Surroundings for Clock {
    fn now(&self) -> Instant {
        let mut read = lock(&self.read);
        let now = Instant::now();
        let passed = i64::try_from(now.duration_since(read.0).as_nanos()).unwrap_or(i64::MAX);
        let off = read.1 + passed / 1_000 * self.rate_ppm.load(Ordering::Relaxed) / 1_000;
        *read = (now, off);
        drop(read);
        let shown = now.duration_since(self.began).as_nanos() as i64 + off;
        self.began + Duration::from_nanos(u64::try_from(shown).unwrap_or(0))
    }

    fn random(&self) -> u8 {
        self.random.next() as u8
    }
}
