//! Nodes: who is on the config stream and on a revocation lane here, how far each has come, and asking one to look at a
//! server.
//!
//! In memory only: a node that reconnects says again where it is. Sessions and lanes enter and leave; `admin` reads
//! progress and asks for discovery, a revocation that waits asks who has it in force. When that was is remembered
//! beyond a connection, for as long as the same run of the node may come back. Invariant: a word of one run never
//! counts for another. Absent: which nodes are registered (replicated state), the frames themselves (`session`,
//! `lane`), and nodes connected to other control planes (`internal`).

mod seat;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bailiwick_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

#[cfg(test)]
use self::seat::Leaving;
pub(crate) use self::seat::{LaneSeat, Leave, Seat};
use super::balance::Load;

/// Longest wait for a data plane to read a server's tools.
pub(crate) const DISCOVERY_WAIT_MAX: Duration = Duration::from_secs(5);
/// Discoveries waiting to be sent to one node.
const DISCOVERIES_QUEUED_MAX: usize = 64;
/// Discoveries under way on all nodes together.
const DISCOVERIES_MAX: usize = 256;
/// Words of one node that are kept: who waits for a revision looks again long before so many have come.
const WORDS_MAX: usize = 64;
/// Nodes of which anything is remembered; beyond, those that are not connected are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// What a server shows now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) tools: Vec<v1::ToolDefinition>,
    /// What it has and cannot be offered, a sentence each.
    pub(crate) left_out: Vec<String>,
}

/// What is known of a node that is, or was, connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    /// By its config stream or its lane.
    pub(crate) connected: bool,
    /// The last revision it said is in force there.
    pub(crate) acknowledged: u64,
    /// Why it refused the last revision it refused; empty if it took a later one.
    pub(crate) refused: String,
    /// Every denial up to this revision is in force there.
    pub(crate) denied: u64,
    /// Unix microseconds of the last lease it was given; 0: none.
    pub(crate) leased_at: u64,
    /// Lower-case hex of the digest it last named on its lane; empty: none.
    pub(crate) digest: String,
    /// What that should have been; empty where that is not known.
    pub(crate) expected_digest: String,
    /// What it has decided since its run began.
    pub(crate) counts: v1::Counts,
    /// What that was when the rollout that counts there came into force.
    pub(crate) before: Option<v1::Counts>,
}

impl Progress {
    /// Whether the node holds something else than it was sent.
    pub(crate) fn differs(&self) -> bool {
        !self.digest.is_empty() && !self.expected_digest.is_empty() && self.digest != self.expected_digest
    }
}

/// How a node's configuration compares with what it was sent, and with the comparison before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drift {
    /// It is equal, or not known.
    No,
    /// It is equal again.
    Over,
    /// It differs, in another way than was said before.
    New,
    /// It differs still.
    Still,
}

/// All nodes that are, or were, connected to this control plane.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    known: Mutex<BTreeMap<String, Known>>,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<v1::Discovered>>>,
    next_id: AtomicU64,
    /// Counts words that more denials are in force somewhere.
    words: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    stream: Option<Stream>,
    lane: Option<LanePlace>,
    progress: Progress,
    /// Up to which revision all denials are in force, and since when (Unix microseconds); both ascending.
    words: VecDeque<(u64, u64)>,
    /// The digest of which was said that it is not what the node was sent; empty: none. A lane that is opened again is
    /// no reason to say it again.
    named: String,
}

#[derive(Debug)]
struct Stream {
    /// Tells sessions of one node apart, so that an old one's end does not remove a new one.
    session: u64,
    /// Absent on nodes that cannot look at servers.
    discover: Option<mpsc::Sender<v1::Discover>>,
    /// Asks the session to end; whoever takes over drops it.
    leave: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct LanePlace {
    /// Tells lanes of one node apart.
    lane: u64,
    /// Asks the lane to end; whoever takes over drops it.
    leave: Option<oneshot::Sender<()>>,
}

impl Nodes {
    /// Enters a session; an older one of the same node is replaced. Discoveries asked of the node come out of the
    /// receiver, which stays silent when it cannot look at servers.
    pub(crate) fn enter(&self, name: &str, epoch: u64, can_discover: bool) -> (Seat<'_>, mpsc::Receiver<v1::Discover>) {
        let session = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (discover, asked) = mpsc::channel(DISCOVERIES_QUEUED_MAX);
        let (leave, leaving) = oneshot::channel();
        let mut known = lock(&self.known);
        let node = remembered(&mut known, name, epoch);
        node.stream = Some(Stream { session, discover: can_discover.then_some(discover), leave: Some(leave) });
        node.progress.acknowledged = 0;
        node.progress.refused.clear();
        drop(known);
        (Seat { nodes: self, name: name.to_owned(), session, leaving: Some(leaving) }, asked)
    }

    /// Enters a lane; an older one of the same node is replaced.
    pub(crate) fn enter_lane(&self, name: &str, epoch: u64) -> LaneSeat<'_> {
        let lane = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (leave, leaving) = oneshot::channel();
        remembered(&mut lock(&self.known), name, epoch).lane = Some(LanePlace { lane, leave: Some(leave) });
        LaneSeat { nodes: self, name: name.to_owned(), lane, leaving: Some(leaving) }
    }

    /// Asks so many sessions and lanes to go to another control plane, those first that have been here longest.
    pub(crate) fn let_go(&self, sessions: usize, lanes: usize) {
        let mut known = lock(&self.known);
        let mut streams: Vec<_> = known.values_mut().filter_map(|node| node.stream.as_mut()).collect();
        streams.sort_unstable_by_key(|stream| stream.session);
        let leaving = streams.into_iter().filter_map(|stream| stream.leave.take()).take(sessions).collect::<Vec<_>>();
        let mut places: Vec<_> = known.values_mut().filter_map(|node| node.lane.as_mut()).collect();
        places.sort_unstable_by_key(|place| place.lane);
        let lanes = places.into_iter().filter_map(|place| place.leave.take()).take(lanes);
        // Who has just left by itself need not be asked.
        leaving.into_iter().chain(lanes).for_each(|leave| leave.send(()).unwrap_or_default());
    }

    /// How far each connected node has come, and what is remembered of those that are not.
    pub(crate) fn progress(&self) -> BTreeMap<String, Progress> {
        let progress = |node: &Known| Progress { connected: node.is_connected(), ..node.progress.clone() };
        lock(&self.known).iter().map(|(name, node)| (name.clone(), progress(node))).collect()
    }

    /// How many nodes are on the config stream.
    pub(crate) fn connected(&self) -> usize {
        lock(&self.known).values().filter(|node| node.stream.is_some()).count()
    }

    /// How many nodes have a lane.
    pub(crate) fn lanes(&self) -> usize {
        lock(&self.known).values().filter(|node| node.lane.is_some()).count()
    }

    /// How many sessions and lanes there are.
    pub(crate) fn load(&self) -> Load {
        Load { sessions: self.connected(), lanes: self.lanes() }
    }

    /// How many nodes hold something else than they were sent.
    pub(crate) fn drifting(&self) -> usize {
        lock(&self.known).values().filter(|node| node.progress.differs()).count()
    }

    /// Since when (Unix microseconds) each node has all denials up to `revision` in force, as far as it said so here.
    pub(crate) fn denied_through(&self, revision: u64) -> BTreeMap<String, u64> {
        let known = lock(&self.known);
        known.iter().filter_map(|(name, node)| Some((name.clone(), node.denied_at(revision)?))).collect()
    }

    /// Wakes whenever a node has more denials in force.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.words.subscribe()
    }

    /// Asks one connected data plane what `server` shows now; `None` when none is connected.
    pub(crate) async fn discover(&self, server: v1::Server) -> Option<Result<Shown, String>> {
        let asked = lock(&self.known).values().find_map(|node| node.stream.as_ref()?.discover.clone())?;
        let (answer, answered) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= DISCOVERIES_MAX {
                return Some(Err("too many servers are being looked at; try again".to_owned()));
            }
            waiting.insert(id, answer);
        }
        let name = server.name.clone();
        let sent = asked.try_send(v1::Discover { id, server: Some(server) });
        let result = match sent {
            Ok(()) => tokio::time::timeout(DISCOVERY_WAIT_MAX, answered).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        lock(&self.waiting).remove(&id);
        Some(match result {
            Some(found) if found.error.is_empty() => Ok(Shown { tools: found.tools, left_out: found.left_out }),
            Some(found) => Err(found.error),
            None => Err(format!("no data plane read the tools of {name} within {} s", DISCOVERY_WAIT_MAX.as_secs())),
        })
    }

    fn answer(&self, found: v1::Discovered) {
        if let Some(waiting) = lock(&self.waiting).remove(&found.id) {
            // Whoever asked may have given up in this moment.
            drop(waiting.send(found));
        }
    }

    /// Changes what is known of a seat's node, unless a newer session has taken over.
    fn update<T>(&self, seat: &Seat<'_>, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut known = lock(&self.known);
        let node = known.get_mut(&seat.name)?;
        let is_its = node.stream.as_ref().is_some_and(|stream| stream.session == seat.session);
        is_its.then(|| change(node))
    }

    /// The same for a lane.
    fn update_lane<T>(&self, seat: &LaneSeat<'_>, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut known = lock(&self.known);
        let node = known.get_mut(&seat.name)?;
        node.lane.as_ref().is_some_and(|place| place.lane == seat.lane).then(|| change(node))
    }

    fn tell(&self, more: Option<bool>) {
        if more == Some(true) {
            self.words.send_modify(|words| *words += 1);
        }
    }

    /// Forgets a node of which nothing is worth remembering.
    fn forget(&self, name: &str) {
        let mut known = lock(&self.known);
        let is_blank = |node: &Known| !node.is_connected() && node.words.is_empty() && node.progress.leased_at == 0;
        if known.get(name).is_some_and(is_blank) {
            known.remove(name);
        }
    }
}

/// What is known of this run of a node; nothing, if another run was known.
fn remembered<'a>(known: &'a mut BTreeMap<String, Known>, name: &str, epoch: u64) -> &'a mut Known {
    if known.len() >= REMEMBERED_MAX && !known.contains_key(name) {
        known.retain(|_, node| node.is_connected());
    }
    let node = known.entry(name.to_owned()).or_default();
    if node.progress.epoch != epoch {
        *node = Known { progress: Progress { epoch, ..Progress::default() }, ..Known::default() };
    }
    node
}

impl Known {
    const fn is_connected(&self) -> bool {
        self.stream.is_some() || self.lane.is_some()
    }

    /// Every denial up to `revision` is in force; whether that is news.
    fn denied(&mut self, revision: u64, at: u64) -> bool {
        if revision <= self.progress.denied {
            return false;
        }
        self.progress.denied = revision;
        if self.words.len() == WORDS_MAX {
            self.words.pop_front();
        }
        self.words.push_back((revision, at));
        true
    }

    /// When it first said so; later than that, if that word is not kept any more.
    fn denied_at(&self, revision: u64) -> Option<u64> {
        let first = self.words.partition_point(|(through, _)| *through < revision);
        self.words.get(first).map(|(_, at)| *at)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
