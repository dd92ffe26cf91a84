//! One simulation from beginning to end: a cluster is founded and grows, clients work while things break, everything is
//! mended, and then the promises are checked.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bailiwick_consensus::LogLength;
use tokio::{runtime::Builder, time};

use crate::{
    authority,
    cluster::Cluster,
    data_plane::DataPlanes,
    data_plane_faults::{DataPlaneFaults, KINDS, Kind},
    faults::Faults,
    history::History,
    operator,
    random::Random,
    settle::settle,
    workload::Workload,
    world::{Violation, World},
};

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
    /// Calls that data planes let through, and those they did not.
    pub(crate) admitted: usize,
    pub(crate) refused: usize,
    /// How long after its authority was taken away the latest call was admitted.
    pub(crate) latest: Duration,
}

/// The one kind of fault that a simulation is restricted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Only {
    ControlPlanes,
    /// Those of control planes.
    Disks,
    DataPlanes(Kind),
}

impl Only {
    /// By its name on the command line.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let kind = KINDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| Self::DataPlanes(*kind));
        match word {
            "control-planes" => Some(Self::ControlPlanes),
            "disks" => Some(Self::Disks),
            _ => kind,
        }
    }
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Has panics of simulated tasks noted instead of printed.
pub(crate) fn note_panics() {
    panic::set_hook(Box::new(|panic| PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()))));
}

/// Runs one seed.
pub(crate) fn simulate(seed: u64, only: Option<Only>, print: bool) -> Report {
    PANICS.take();
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut report = match runtime {
        Ok(runtime) => {
            let run = AssertUnwindSafe(|| runtime.block_on(Box::pin(run(seed, only, print))));
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
            admitted: 0,
            refused: 0,
            latest: Duration::ZERO,
        }
    }
}

async fn run(seed: u64, only: Option<Only>, print: bool) -> Report {
    let world = World::new(seed, print);
    let random = world.random("plan");
    let log_length = LogLength {
        snapshot_every: random.pick(&[15, 40, 100, 20_000]).copied().unwrap_or(100),
        kept: random.pick(&[1, 5, 20]).copied().unwrap_or(5),
    };
    // Few enough that a slow data plane falls behind, or as many as in production.
    let revisions_kept = random.pick(&[3, 20, 4_096]).copied().unwrap_or(20);
    let cluster = Cluster::new(&world, log_length, revisions_kept);
    let history = History::new(&world);
    if time::timeout(LENGTH_MAX, play(&cluster, &history, &random, only)).await.is_err() {
        world.violate("no end", format!("not over after {LENGTH_MAX:?}"));
    }
    let (operations, known) = history.check();
    let (admitted, refused, latest) = cluster.authority.totals();
    Report {
        seed,
        violations: world.violations(),
        trace: world.digest(),
        operations,
        known,
        revision: cluster.canon.last(),
        terms: cluster.canon.leaders().0,
        virtual_time: world.elapsed(),
        admitted: admitted as usize,
        refused: refused as usize,
        latest,
    }
}

async fn play(cluster: &Arc<Cluster>, history: &Arc<History>, random: &Random, only: Option<Only>) {
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
    if !authority::set_up(cluster).await {
        cluster.world.violate("no progress", "nothing could be set up".to_owned());
    }
    let planes = DataPlanes::new(cluster);
    (1..=1 + random.below(3)).for_each(|id| planes.start(id));
    tokio::task::spawn(planes.clone().watch());
    let workload = Workload::new(cluster, history, think);
    let administrator = tokio::task::spawn(authority::administrator(cluster.clone(), workload.clone()));
    let clients: Vec<_> = (0..clients).map(|number| tokio::task::spawn(workload.clone().client(number))).collect();
    time::sleep(random.millis(0, 3_000)).await;
    let length = random.millis(4_000, 16_000);
    let length = if think < 30 { length / 2 } else { length };
    let plan = plan(random, only);
    let mut faults = Faults::new(cluster, nodes, 200 + random.below(1_800), plan.only_disks);
    let below = DataPlaneFaults::new(&planes, plan.kind);
    let of = |happens| if happens { length } else { Duration::ZERO };
    tokio::join!(faults.run(of(plan.above)), below.run(of(plan.below)));
    faults.mend_all().await;
    below.mend_all();
    time::sleep(Duration::from_secs(2)).await;
    workload.stop.store(true, Ordering::Relaxed);
    for client in clients {
        // One that panicked is reported as such.
        drop(client.await);
    }
    drop(administrator.await);
    settle(&planes, &workload, random).await;
}

/// What happens to whom.
#[derive(Clone, Copy, Debug)]
struct Plan {
    above: bool,
    only_disks: bool,
    below: bool,
    /// The only kind that data planes have.
    kind: Option<Kind>,
}

/// Half of all simulations have one kind of fault again and again, on either side: what needs two at the right moments
/// is seldom seen otherwise.
fn plan(random: &Random, only: Option<Only>) -> Plan {
    let plan = Plan { above: true, only_disks: false, below: true, kind: None };
    match only {
        Some(Only::ControlPlanes) => Plan { below: false, ..plan },
        Some(Only::Disks) => Plan { below: false, only_disks: true, ..plan },
        Some(Only::DataPlanes(kind)) => Plan { above: false, kind: Some(kind), ..plan },
        None if random.chance(500) => plan,
        None => {
            // One more than there are: disks.
            let kind = KINDS.get(random.below(KINDS.len() as u64 + 1) as usize).map(|(_, kind)| *kind);
            let other = random.chance(500);
            let only_disks = kind.is_none();
            Plan { above: only_disks || other, only_disks, below: !only_disks || other, kind }
        }
    }
}
