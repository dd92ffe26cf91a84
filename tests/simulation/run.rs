//! One simulation from beginning to end: a cluster is founded and grows, clients work while things break, everything is
//! mended, and then the promises are checked.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bailiwick_consensus::LogLength;
use bailiwick_control_plane::Replica;
use bailiwick_control_plane_core::member;
use tokio::{runtime::Builder, time};

use crate::{
    cluster::Cluster,
    faults::Faults,
    history::History,
    operator,
    random::Random,
    workload::{Workload, look, user_register},
    world::{Violation, World, fnv},
};

/// After everything is mended, progress must be seen within this (virtual) time.
const PROGRESS: Duration = Duration::from_secs(30);
/// No simulation takes longer (virtual time).
const LENGTH_MAX: Duration = Duration::from_secs(600);

/// What a simulation came to.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) violations: Vec<Violation>,
    /// Hash over everything that happened, and how much that was.
    pub(crate) trace: (u64, u64),
    pub(crate) operations: usize,
    pub(crate) known: usize,
    pub(crate) revision: u64,
    pub(crate) terms: usize,
    pub(crate) virtual_time: Duration,
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Has panics of simulated tasks noted instead of printed.
pub(crate) fn note_panics() {
    panic::set_hook(Box::new(|panic| PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()))));
}

/// Runs one seed.
pub(crate) fn simulate(seed: u64, print: bool) -> Report {
    PANICS.take();
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut report = match runtime {
        Ok(runtime) => {
            let run = AssertUnwindSafe(|| runtime.block_on(Box::pin(run(seed, print))));
            panic::catch_unwind(run).unwrap_or_else(|_| Report::empty(seed))
        }
        Err(_) => Report::empty(seed),
    };
    let at = report.virtual_time;
    let panics = PANICS.take().into_iter();
    report.violations.extend(panics.map(|detail| Violation { kind: "panic", detail, at }));
    report
}

impl Report {
    const fn empty(seed: u64) -> Self {
        Self {
            seed,
            violations: Vec::new(),
            trace: (0, 0),
            operations: 0,
            known: 0,
            revision: 0,
            terms: 0,
            virtual_time: Duration::ZERO,
        }
    }
}

async fn run(seed: u64, print: bool) -> Report {
    let world = World::new(seed, print);
    let random = world.random("plan");
    let log_length = LogLength {
        snapshot_every: random.pick(&[15, 40, 100, 20_000]).copied().unwrap_or(100),
        kept: random.pick(&[1, 5, 20]).copied().unwrap_or(5),
    };
    let cluster = Cluster::new(&world, log_length);
    let history = History::new(&world);
    if time::timeout(LENGTH_MAX, play(&cluster, &history, &random)).await.is_err() {
        world.violate("no end", format!("not over after {LENGTH_MAX:?}"));
    }
    let (operations, known) = history.check();
    Report {
        seed,
        violations: world.violations(),
        trace: world.digest(),
        operations,
        known,
        revision: cluster.canon.last(),
        terms: cluster.canon.leaders().0,
        virtual_time: world.elapsed(),
    }
}

async fn play(cluster: &Arc<Cluster>, history: &Arc<History>, random: &Random) {
    let nodes = random.pick(&[1, 3, 3, 3, 3, 5, 5]).copied().unwrap_or(3);
    // Few clients at their leisure, or so many at once that decisions are made ahead of what is committed.
    let (clients, think) =
        random.pick(&[(3, 60), (4, 120), (4, 90), (5, 60), (3, 40), (6, 15)]).copied().unwrap_or((3, 60));
    cluster.world.trace(format_args!("{nodes} nodes, {clients} clients"));
    tokio::task::spawn(cluster.clone().watch());
    if !operator::found(cluster).await {
        cluster.world.violate("no progress", "the cluster could not be founded".to_owned());
        return;
    }
    for number in 2..=nodes {
        if operator::join(cluster, number, false).await.is_none() {
            cluster.world.violate("no progress", format!("node {number} could not join"));
        }
    }
    let workload = Workload::new(cluster, history, think);
    let clients: Vec<_> = (0..clients).map(|number| tokio::task::spawn(workload.clone().client(number))).collect();
    time::sleep(random.millis(0, 3_000)).await;
    let mut faults = Faults::new(cluster, nodes, 200 + random.below(1_800));
    let length = random.millis(4_000, 16_000);
    faults.run(if think < 30 { length / 2 } else { length }).await;
    faults.mend_all().await;
    time::sleep(Duration::from_secs(2)).await;
    workload.stop.store(true, Ordering::Relaxed);
    for client in clients {
        // One that panicked is reported as such.
        drop(client.await);
    }
    match time::timeout(PROGRESS, settle(cluster, &workload, random)).await {
        Ok(()) => compare(cluster),
        Err(_) => cluster.world.violate("no progress", whereabouts(cluster)),
    }
}

/// Writes, and reads on every member, until all of that works and every member is as far as any.
async fn settle(cluster: &Arc<Cluster>, workload: &Workload, random: &Random) {
    for user in 0..3 {
        for attempt in 0.. {
            if workload.write(random, user, &format!("last-{user}-{attempt}")).await {
                break;
            }
            time::sleep(Duration::from_millis(200)).await;
        }
    }
    loop {
        let members = members(cluster);
        let mut good = !members.is_empty();
        for id in members {
            let Some(replica) = cluster.replica(id) else {
                cluster.reap();
                cluster.start(id);
                good = false;
                break;
            };
            let read = workload.read_from(id, &user_register(0), "settle").await;
            let here = replica.read(|state| state.revision);
            good = good && read.is_some() && here == cluster.canon.last();
        }
        if good {
            return;
        }
        time::sleep(Duration::from_millis(200)).await;
    }
}

/// The control planes that should take part, as of the newest state, and still exist.
fn members(cluster: &Cluster) -> Vec<u64> {
    let replicas: Vec<Replica> = cluster.up_ids().into_iter().filter_map(|id| cluster.replica(id)).collect();
    let newest = replicas.iter().max_by_key(|replica| replica.read(|state| state.revision));
    let wanted: Vec<u64> = newest.map_or_else(Vec::new, |replica| {
        replica.read(|state| member::control_planes(state).map(|(_, member)| member.node_id).collect())
    });
    cluster.ids().into_iter().filter(|id| wanted.contains(id)).collect()
}

/// All members must hold the same state, byte for byte.
fn compare(cluster: &Cluster) {
    let mut states = BTreeMap::<u64, Vec<u64>>::new();
    for id in members(cluster) {
        let Some(replica) = cluster.replica(id) else { continue };
        let digest = replica.read(|state| serde_json::to_vec(state).map_or(0, |bytes| fnv(0, &bytes)));
        states.entry(digest).or_default().push(id);
    }
    if states.len() != 1 {
        cluster.world.violate("diverged", format!("states differ: {states:x?}"));
    }
}

fn whereabouts(cluster: &Cluster) -> String {
    let show = |id: u64| match cluster.replica(id) {
        Some(replica) => {
            let consensus = replica.consensus();
            let users: Vec<String> =
                (0..3).map(|user| replica.read(|state| look(state, &user_register(user)))).collect();
            let (term, leader, revision) =
                (consensus.term(), *consensus.leader().borrow(), replica.read(|state| state.revision));
            let members = consensus.membership();
            let (voters, learners): (Vec<_>, Vec<_>) =
                (members.voters.into_keys().collect(), members.learners.into_keys().collect());
            format!("{id}: term {term}, follows {leader:?}, at {revision}, {users:?}, {voters:?}+{learners:?}")
        }
        None => format!("{id}: down"),
    };
    let nodes: Vec<String> = cluster.ids().into_iter().map(show).collect();
    format!("last revision {}; {}", cluster.canon.last(), nodes.join("; "))
}
