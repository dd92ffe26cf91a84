//! What goes wrong around data planes: they sleep, are cut off, die and come back, their clocks run at wrong rates, their
//! connections break, wires lose and repeat messages, and the control plane they stay with is cut off itself.
//!
//! A schedule of its own, drawn from the seed, beside that of the control planes (`faults`). A simulation can be
//! restricted to one [`Kind`], to see how late a call is admitted at most under it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time;

use crate::{
    cuts::Cut,
    data_plane::{DataPlanes, RATE_PPM_MAX},
    random::Random,
};

/// Most time between two faults, in milliseconds.
const CALM_MILLIS: u64 = 700;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing of a node runs for a while, as after SIGSTOP.
    Pause,
    /// A node falls asleep on a question and wakes up cut off: the answer that it finds in its buffers is old.
    Sleep,
    /// A node reaches some control planes no more, or none.
    Cut,
    /// A node dies and comes back with nothing.
    Restart,
    /// A monotonic clock runs at another rate, and as often as not its node has to rely on it.
    Clock,
    /// Every connection breaks at once.
    Break,
    /// Messages are lost and repeated, as they cannot be over TCP.
    Wire,
    /// A control plane is cut off from the others, and data planes stay with it.
    Stale,
}

/// All kinds with their names on the command line.
pub(crate) const KINDS: [(&str, Kind); 8] = [
    ("pause", Kind::Pause),
    ("sleep", Kind::Sleep),
    ("cut", Kind::Cut),
    ("restart", Kind::Restart),
    ("clock", Kind::Clock),
    ("break", Kind::Break),
    ("wire", Kind::Wire),
    ("stale", Kind::Stale),
];

/// Breaks and mends until told to stop.
#[derive(Debug)]
pub(crate) struct DataPlaneFaults {
    planes: Arc<DataPlanes>,
    random: Random,
    only: Option<Kind>,
    /// A control plane is cut off.
    is_stale: Arc<AtomicBool>,
    /// Nothing breaks any more.
    over: Arc<AtomicBool>,
}

impl DataPlaneFaults {
    pub(crate) fn new(planes: &Arc<DataPlanes>, only: Option<Kind>) -> Self {
        let random = planes.cluster.world.random("data plane faults");
        Self { planes: planes.clone(), random, only, is_stale: Arc::default(), over: Arc::default() }
    }

    /// Breaks and mends for that long.
    pub(crate) async fn run(&self, length: Duration) {
        let end = time::Instant::now() + length;
        while time::Instant::now() < end {
            time::sleep(self.random.millis(20, CALM_MILLIS)).await;
            let Some(id) = self.random.pick(&self.planes.ids()).copied() else { continue };
            let drawn = self.random.pick(&KINDS).map(|(_, kind)| *kind);
            match self.only.or(drawn) {
                Some(Kind::Pause) => self.pause(id),
                Some(Kind::Sleep) => self.sleep(id),
                Some(Kind::Cut) => self.cut(id),
                Some(Kind::Restart) => self.restart(id),
                Some(Kind::Clock) => self.clock(id),
                Some(Kind::Break) => self.planes.wires.break_all(),
                Some(Kind::Wire) => self.wire(),
                Some(Kind::Stale) => self.stale(),
                None => {}
            }
        }
    }

    /// Everything works again, from now on.
    pub(crate) fn mend_all(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.planes.wires.mend_all();
        for id in self.planes.ids() {
            self.planes.resume(id);
            self.planes.start(id);
        }
    }

    fn pause(&self, id: u64) {
        self.planes.pause(id);
        let planes = self.planes.clone();
        self.later(self.random.millis(50, 6_000), move || planes.resume(id));
    }

    fn sleep(&self, id: u64) {
        let (planes, answered, nap) = (self.planes.clone(), self.random.millis(0, 200), self.random.millis(200, 5_000));
        let (asleep, awake) = (self.random.millis(0, 10), self.random.millis(300, 4_000));
        let over = self.over.clone();
        tokio::task::spawn(async move {
            planes.wires.next_ask(id).await;
            time::sleep(asleep).await;
            if over.load(Ordering::Relaxed) {
                return;
            }
            planes.pause(id);
            time::sleep(answered).await;
            if over.load(Ordering::Relaxed) {
                return planes.resume(id);
            }
            let cut = cut_off(&planes, id, &planes.cluster.ids());
            time::sleep(nap).await;
            planes.resume(id);
            time::sleep(awake).await;
            planes.wires.mend(cut);
        });
    }

    fn cut(&self, id: u64) {
        // Or it would hardly ever be connected.
        if self.planes.wires.is_cut(id) {
            return;
        }
        let all = self.planes.cluster.ids();
        let some = if self.random.chance(500) { all } else { self.random.some_of(&all) };
        let (planes, cut) = (self.planes.clone(), cut_off(&self.planes, id, &some));
        self.later(self.random.millis(300, 7_000), move || planes.wires.mend(cut));
    }

    fn restart(&self, id: u64) {
        self.planes.end(id);
        let planes = self.planes.clone();
        self.later(self.random.millis(10, 1_500), move || planes.start(id));
    }

    fn wire(&self) {
        let (lost, repeated) = (self.random.below(120), self.random.below(120));
        self.planes.cluster.world.trace(format_args!("wires lose {lost} and repeat {repeated} in a thousand"));
        self.planes.wires.faulty(lost, repeated);
        let planes = self.planes.clone();
        self.later(self.random.millis(300, 7_000), move || planes.wires.faulty(0, 0));
    }

    fn stale(&self) {
        // One at a time: the others have to be able to go on without it.
        if self.is_stale.swap(true, Ordering::Relaxed) {
            return;
        }
        let all = self.planes.cluster.ids();
        let Some(stale) = self.random.pick(&all).copied() else { return };
        self.planes.cluster.world.trace(format_args!("node {stale} cut off, with its data planes"));
        let others = all.into_iter().filter(|other| *other != stale);
        let cut = self.planes.cluster.network.cut(others.flat_map(|other| [(stale, other), (other, stale)]));
        let (cluster, is_stale) = (self.planes.cluster.clone(), self.is_stale.clone());
        self.later(self.random.millis(1_000, 8_000), move || {
            cluster.network.mend(cut);
            is_stale.store(false, Ordering::Relaxed);
        });
    }

    fn clock(&self, id: u64) {
        self.planes.set_rate(id, self.rate());
        if self.random.chance(500) {
            self.cut(id);
        }
    }

    fn rate(&self) -> i64 {
        let ppm = i64::try_from(self.random.below(RATE_PPM_MAX.unsigned_abs() + 1)).unwrap_or(0);
        if self.random.chance(500) { ppm } else { -ppm }
    }

    fn later(&self, wait: Duration, then: impl FnOnce() + Send + 'static) {
        tokio::task::spawn(async move {
            time::sleep(wait).await;
            then();
        });
    }
}

fn cut_off(planes: &DataPlanes, id: u64, from: &[u64]) -> Cut {
    planes.cluster.world.trace(format_args!("data plane {id} is cut off from {from:?}"));
    planes.wires.cut(id, from)
}
