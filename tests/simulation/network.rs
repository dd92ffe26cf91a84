//! A simulated network between nodes: it delays, loses, repeats and reorders messages, and can be cut anywhere.
//!
//! A call is two messages, each with a fate of its own drawn from the seed: a lost answer leaves the caller not
//! knowing while the effect is there. Cuts are one-way and per pair, and hold for messages that arrive while they last.
//! The receiver's part of a call runs under the receiver's [`Life`], so a paused node takes messages in when it wakes.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bailiwick_consensus::{Consensus, Lane, Member, Transport, runtime::hosted};
use tokio::{sync::oneshot, time};

use crate::{
    cuts::{Cut, Cuts},
    life::Life,
    random::Random,
    world::{World, fnv, lock},
};

/// A connection over which nothing comes for so long is given up, and every call on it with it; as in production.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// How messages fare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) delay_millis: (u64, u64),
    /// Of a thousand messages, this many are late by up to `late_millis`.
    pub(crate) late_per_mille: u64,
    pub(crate) late_millis: u64,
    pub(crate) lost_per_mille: u64,
    pub(crate) repeated_per_mille: u64,
}

impl Weather {
    /// A good network in one building.
    pub(crate) const CALM: Self =
        Self { delay_millis: (0, 3), late_per_mille: 5, late_millis: 40, lost_per_mille: 0, repeated_per_mille: 0 };
}

/// The network of one simulation.
#[derive(Debug)]
pub(crate) struct Network {
    world: Arc<World>,
    random: Random,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    weather: Weather,
    /// Of (from, to) pairs.
    cuts: Cuts,
    nodes: BTreeMap<u64, (Arc<Life>, Consensus)>,
}

impl Network {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        let inner = Inner { weather: Weather::CALM, cuts: Cuts::default(), nodes: BTreeMap::new() };
        Arc::new(Self { world: world.clone(), random: world.random("network"), inner: Mutex::new(inner) })
    }

    /// The network as a life of node `from` reaches it.
    pub(crate) fn of(self: &Arc<Self>, from: u64, life: &Arc<Life>) -> Arc<Port> {
        Arc::new(Port { network: Arc::downgrade(self), from, life: life.clone() })
    }

    /// From now on calls to the node end here.
    pub(crate) fn attach(&self, node: u64, life: &Arc<Life>, consensus: &Consensus) {
        lock(&self.inner).nodes.insert(node, (life.clone(), consensus.clone()));
    }

    pub(crate) fn detach(&self, node: u64) {
        lock(&self.inner).nodes.remove(&node);
    }

    pub(crate) fn weather(&self, weather: Weather) {
        lock(&self.inner).weather = weather;
    }

    /// Cuts `from` off `to`, one way, pair by pair.
    pub(crate) fn cut(&self, pairs: impl IntoIterator<Item = (u64, u64)>) -> Cut {
        lock(&self.inner).cuts.cut(pairs)
    }

    /// Mends one cut.
    pub(crate) fn mend(&self, cut: Cut) {
        lock(&self.inner).cuts.mend(cut);
    }

    /// Mends every cut.
    pub(crate) fn mend_all(&self) {
        lock(&self.inner).cuts.mend_all();
    }

    /// How long until a message arrives; `None` when it never does.
    pub(crate) fn fate(&self) -> Option<Duration> {
        self.fate_by(&self.random)
    }

    /// The same, drawn from other numbers.
    pub(crate) fn fate_by(&self, random: &Random) -> Option<Duration> {
        let weather = lock(&self.inner).weather;
        if random.chance(weather.lost_per_mille) {
            return None;
        }
        let (from, to) = weather.delay_millis;
        let late = if random.chance(weather.late_per_mille) { random.below(weather.late_millis) } else { 0 };
        Some(random.millis(from, to) + Duration::from_millis(late))
    }

    fn repeats(&self) -> bool {
        let per_mille = lock(&self.inner).weather.repeated_per_mille;
        self.random.chance(per_mille)
    }

    fn passes(&self, from: u64, to: u64) -> bool {
        !lock(&self.inner).cuts.are_between((from, to))
    }

    /// Whether a connection with that life of a node lives now.
    fn hears(&self, from: u64, to: u64, life: Option<&Arc<Life>>) -> bool {
        let is_it = |(now, _): &(Arc<Life>, Consensus)| life.is_some_and(|life| Arc::ptr_eq(now, life));
        let there = lock(&self.inner).nodes.get(&to).is_some_and(is_it);
        there && life.is_some_and(|life| life.is_running()) && self.passes(from, to) && self.passes(to, from)
    }

    fn life_of(&self, node: u64) -> Option<Arc<Life>> {
        lock(&self.inner).nodes.get(&node).map(|(life, _)| life.clone())
    }

    /// Takes a request to its receiver and the answer back.
    async fn carry(
        self: Arc<Self>,
        from: u64,
        to: u64,
        request: Vec<u8>,
        answer: oneshot::Sender<io::Result<Vec<u8>>>,
    ) {
        let Some(delay) = self.fate() else { return };
        time::sleep(delay).await;
        if !self.passes(from, to) {
            return;
        }
        let receiver = lock(&self.inner).nodes.get(&to).cloned();
        let Some((life, consensus)) = receiver.filter(|(life, _)| !life.is_over()) else {
            // Nobody listens there: a host that is up says so at once.
            drop(answer.send(Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens"))));
            return;
        };
        self.world.trace(format_args!("{from} -> {to} {} bytes {:016x}", request.len(), fnv(0, &request)));
        let answered = hosted(life, async move { consensus.handle(from, request).await }).await;
        let Some(delay) = self.fate() else { return };
        time::sleep(delay).await;
        if !self.passes(to, from) {
            return;
        }
        let digest = answered.as_ref().map_or(0, |bytes| fnv(0, bytes));
        self.world.trace(format_args!("{to} => {from} {} {digest:016x}", answered.is_ok()));
        // A peer's error reaches the caller as an error; of which kind, a stream's reset would not say.
        drop(answer.send(answered));
    }
}

/// The network as one life of one node reaches it.
#[derive(Debug)]
pub(crate) struct Port {
    network: Weak<Network>,
    from: u64,
    life: Arc<Life>,
}

#[async_trait]
impl Transport for Port {
    async fn call(&self, to: u64, _: &Member, _: Lane, request: Vec<u8>, timeout: Duration) -> io::Result<Vec<u8>> {
        let network = self.network.upgrade().ok_or_else(|| io::Error::other("the simulation is over"))?;
        let (answer, answered) = oneshot::channel();
        let there = network.life_of(to);
        if !self.life.is_over() {
            if network.repeats() {
                let (ignored, _) = oneshot::channel();
                tokio::task::spawn(network.clone().carry(self.from, to, request.clone(), ignored));
            }
            tokio::task::spawn(network.carry(self.from, to, request, answer));
        }
        let (began, mut answered) = (time::Instant::now(), answered);
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            match time::timeout(left.min(SILENCE_MAX), &mut answered).await {
                Ok(Ok(answer)) => return answer,
                // A lost message is silence, until the caller or the connection has waited long enough.
                Ok(Err(_)) => {
                    time::sleep_until(began + timeout.min(SILENCE_MAX)).await;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Err(_) if left <= SILENCE_MAX => return Err(io::ErrorKind::TimedOut.into()),
                Err(_)
                    if !self.network.upgrade().is_some_and(|network| network.hears(self.from, to, there.as_ref())) =>
                {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                // A patient call on a connection that lives.
                Err(_) => {}
            }
        }
    }
}
