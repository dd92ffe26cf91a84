//! What goes wrong in a simulation, when, and how it all ends well.
//!
//! A schedule drawn from the seed: crashes (of one, several or all; between and in the middle of writes), pauses, cuts
//! of every shape, bad weather, slow and failing disks, wrong clocks, machines lost for good and replaced, nodes that
//! join and leave. What breaks is mended after a while, or only at the end: [`mend_all`] leaves a cluster that has to
//! make progress.

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::{
    cluster::{Asked, Cluster},
    cuts::Cut,
    network::Weather,
    operator,
    random::Random,
};

/// Furthest a clock is off, in microseconds: a day.
const SKEW_MICROS_MAX: u64 = 86_400_000_000;
/// Control planes in a simulation, dead ones included.
const NODES_MAX: usize = 7;

/// Breaks and mends until told to stop.
#[derive(Debug)]
pub(crate) struct Faults {
    cluster: Arc<Cluster>,
    random: Random,
    /// Number of the next machine.
    next: u64,
    /// Most time between two faults, in milliseconds.
    calm_millis: u64,
    /// Machines lost whose removal is not certain yet.
    lost: Vec<u64>,
    attempts: u64,
    /// Nothing but disks breaks.
    only_disks: bool,
}

impl Faults {
    pub(crate) fn new(cluster: &Arc<Cluster>, next: u64, calm_millis: u64, only_disks: bool) -> Self {
        let random = cluster.world.random("faults");
        Self { cluster: cluster.clone(), random, next, calm_millis, lost: Vec::new(), attempts: 0, only_disks }
    }

    /// Breaks and mends for that long.
    pub(crate) async fn run(&mut self, length: Duration) {
        let end = time::Instant::now() + length;
        while time::Instant::now() < end {
            time::sleep(self.random.millis(50, self.calm_millis)).await;
            self.one().await;
        }
    }

    async fn one(&mut self) {
        let ids = self.cluster.ids();
        let Some(id) = self.random.pick(&ids).copied() else { return };
        // Of a hundred: disks that stop in the middle, are slow, or fail.
        let drawn = if self.only_disks { self.random.pick(&[23, 66, 71, 71]).copied() } else { None };
        match drawn.unwrap_or_else(|| self.random.below(100)) {
            0..14 => self.crash(&[id]),
            14..19 => self.crash(&self.random.some_of(&ids)),
            19..23 => self.crash(&ids),
            23..31 => {
                let writes = self.random.below(30);
                self.cluster.world.trace(format_args!("node {id} will die {writes} writes from now"));
                self.cluster.disk(id).iter().for_each(|disk| disk.crash_after(writes));
                self.restart_later(&[id]);
            }
            31..38 => self.pause(id),
            38..46 => self.cut(&ids, &[id]),
            46..52 => self.cut(&ids, &self.random.some_of(&ids)),
            52..58 => self.cut_one_way(&ids),
            58..66 => self.weather(),
            66..71 => self.slow_disk(id),
            71..75 => self.failing_disk(id),
            75..80 => self.cluster.set_clock(id, self.skew()),
            80..84 => self.transfer(id).await,
            84..88 => self.grow().await,
            88..92 => self.shrink(id).await,
            92..96 => self.replace(id).await,
            _ => {
                self.cluster.network.mend_all();
                self.cluster.network.weather(Weather::CALM);
                self.cluster.world.trace(format_args!("network mended"));
            }
        }
    }

    fn crash(&self, ids: &[u64]) {
        let power_loss = !self.random.chance(200);
        ids.iter().for_each(|id| self.cluster.end(*id, power_loss));
        self.restart_later(ids);
    }

    fn restart_later(&self, ids: &[u64]) {
        for id in ids {
            let (cluster, id, wait) = (self.cluster.clone(), *id, self.random.millis(50, 4_000));
            tokio::task::spawn(async move {
                time::sleep(wait).await;
                cluster.reap();
                cluster.start(id);
            });
        }
    }

    fn pause(&self, id: u64) {
        let (cluster, length) = (self.cluster.clone(), self.random.millis(100, 5_000));
        cluster.pause(id);
        tokio::task::spawn(async move {
            time::sleep(length).await;
            cluster.resume(id);
        });
    }

    /// Cuts `some` off from the others, both ways.
    fn cut(&self, all: &[u64], some: &[u64]) {
        self.cluster.world.trace(format_args!("{some:?} cut off"));
        let others = || all.iter().filter(|id| !some.contains(id));
        let pairs = some.iter().flat_map(|inside| others().flat_map(|other| [(*inside, *other), (*other, *inside)]));
        self.mend_later(self.cluster.network.cut(pairs));
    }

    fn cut_one_way(&self, all: &[u64]) {
        let mut pairs = Vec::new();
        for from in all {
            for to in all.iter().filter(|to| *to != from && self.random.chance(300)) {
                self.cluster.world.trace(format_args!("cut from {from} to {to}"));
                pairs.push((*from, *to));
            }
        }
        self.mend_later(self.cluster.network.cut(pairs));
    }

    fn mend_later(&self, cut: Cut) {
        let (cluster, wait) = (self.cluster.clone(), self.random.millis(300, 6_000));
        tokio::task::spawn(async move {
            time::sleep(wait).await;
            cluster.network.mend(cut);
            cluster.world.trace(format_args!("{cut:?} mended"));
        });
    }

    fn weather(&self) {
        let weather = Weather {
            delay_millis: (0, 2 + self.random.below(30)),
            late_per_mille: self.random.below(100),
            late_millis: 50 + self.random.below(1_500),
            lost_per_mille: self.random.below(120),
            repeated_per_mille: self.random.below(100),
        };
        self.cluster.world.trace(format_args!("{weather:?}"));
        self.cluster.network.weather(weather);
    }

    fn slow_disk(&self, id: u64) {
        let (millis, wait) = (50 + self.random.below(1_500), self.random.millis(300, 4_000));
        self.cluster.world.trace(format_args!("disk {id}: syncs take up to {millis} ms"));
        let Some(disk) = self.cluster.disk(id) else { return };
        disk.slow(millis);
        tokio::task::spawn(async move {
            time::sleep(wait).await;
            disk.slow(4);
        });
    }

    fn failing_disk(&self, id: u64) {
        let Some(disk) = self.cluster.disk(id) else { return };
        disk.fail(true);
        let (cluster, wait) = (self.cluster.clone(), self.random.millis(50, 3_000));
        tokio::task::spawn(async move {
            time::sleep(wait).await;
            disk.fail(false);
            cluster.start(id);
        });
    }

    fn skew(&self) -> i64 {
        let micros = i64::try_from(self.random.below(SKEW_MICROS_MAX)).unwrap_or(0);
        if self.random.chance(500) { micros } else { -micros }
    }

    async fn transfer(&self, id: u64) {
        let ask =
            async |replica: bailiwick_control_plane::Replica| replica.consensus().transfer_leadership(None).await.ok();
        if let Asked::Answered(Some(leader)) = self.cluster.ask(id, Duration::from_secs(3), ask).await {
            self.cluster.world.trace(format_args!("leadership handed over to {leader}"));
        }
    }

    async fn grow(&mut self) {
        if self.cluster.ids().len() + self.lost.len() < NODES_MAX {
            let learner = self.random.chance(300);
            self.next += 1;
            operator::join(&self.cluster, self.next, learner).await;
        }
    }

    async fn shrink(&mut self, id: u64) {
        if self.spare(4) {
            self.attempts += 1;
            self.cluster.world.trace(format_args!("node {id} is to leave"));
            if operator::remove(&self.cluster, id, self.attempts).await {
                self.leave(id).await;
            }
        }
    }

    /// Whether one voter can be lost for good: every node knows of so many, none of them lost already.
    fn spare(&self, voters_min: usize) -> bool {
        let alive = self.cluster.ids();
        let up = self.cluster.up_ids();
        let enough = |id: &u64| {
            self.cluster.replica(*id).is_some_and(|replica| {
                let members = replica.consensus().membership();
                let voters = members.voters;
                !members.changing && voters.len() >= voters_min && voters.keys().all(|id| alive.contains(id))
            })
        };
        self.lost.is_empty() && up.len() >= 2 && up.iter().all(enough)
    }

    /// A removed node is switched off once the cluster goes on without it.
    async fn leave(&self, id: u64) {
        for _ in 0..40 {
            let gone = |other: u64| {
                let replica = self.cluster.replica(other);
                replica.is_some_and(|replica| {
                    let consensus = replica.consensus();
                    consensus.is_leader() && consensus.membership().get(id).is_none()
                })
            };
            if self.cluster.up_ids().into_iter().any(|other| other != id && gone(other)) {
                break;
            }
            time::sleep(Duration::from_millis(250)).await;
        }
        self.cluster.retire(id);
    }

    /// A machine is lost with its disk; another takes its place, under an id of its own.
    async fn replace(&mut self, id: u64) {
        if !self.spare(3) {
            return;
        }
        self.cluster.wipe(id);
        self.lost.push(id);
        self.next += 1;
        operator::join(&self.cluster, self.next, false).await;
        self.remove_lost().await;
    }

    async fn remove_lost(&mut self) {
        for id in self.lost.clone() {
            self.attempts += 1;
            if operator::remove(&self.cluster, id, self.attempts).await {
                self.lost.retain(|lost| *lost != id);
            }
        }
    }

    /// Mends everything that can be mended.
    pub(crate) async fn mend_all(&mut self) {
        let cluster = &self.cluster;
        cluster.world.trace(format_args!("everything is mended"));
        cluster.network.mend_all();
        cluster.network.weather(Weather::CALM);
        for id in cluster.ids() {
            cluster.set_clock(id, 0);
            cluster.resume(id);
            if let Some(disk) = cluster.disk(id) {
                disk.slow(4);
                disk.fail(false);
                disk.mend();
            }
        }
        cluster.reap();
        cluster.down_ids().into_iter().for_each(|id| cluster.start(id));
        self.remove_lost().await;
    }
}
