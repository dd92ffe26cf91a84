//! The servers this node has been asked to reach, each as its manifest describes it at the time.
//!
//! Called by `upstream` for every request; finding a server takes no lock. A server whose description changes is
//! another one from then on: with connections, sessions and a standing of its own, so that nothing of before is shown
//! to it or believed of it. For a moment there are two, while a control plane looks at what a changed server shows
//! before that is in force; the one before is forgotten when a third comes. What is idle is swept away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bailiwick_proto::{address::Network, v1::Server};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};

use super::{
    credential::Credentials,
    fault::UpstreamFault,
    guard::Resolver,
    metrics::UpstreamMetrics,
    peer::{Origin, Peer, Principal},
    route::Route,
};
use crate::config::UpstreamConfig;

/// Descriptions of one server that are remembered: the one in force, and one that is being looked at.
const DESCRIPTIONS_MAX: usize = 2;
/// Most servers remembered; beyond it all are forgotten and found again. More than there can be at a time.
const SERVERS_MAX: usize = 2_048;
/// Peers remembered, some hundred bytes each; beyond it all are forgotten and found again. More than a node serves
/// callers of legacy servers at a time.
const PEERS_MAX: usize = 16_384;
/// How often idle connections are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What all servers share.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) limits: UpstreamConfig,
    pub(super) networks: Arc<[Network]>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) supervisor: Supervisor,
    /// Requested when nobody is called any more.
    pub(super) closing: Shutdown,
    pub(super) metrics: UpstreamMetrics,
}

/// One server, as described.
#[derive(Debug)]
pub(super) struct Known {
    server: Server,
    /// Where it is, unless it cannot be reached as described.
    pub(super) origin: Result<Arc<Origin>, UpstreamFault>,
    pub(super) peers: Mutex<BTreeMap<Principal, Arc<Peer>>>,
    /// Callers whose session somebody listens to.
    pub(super) heard: Mutex<BTreeSet<Principal>>,
}

/// All of them, by name.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) surroundings: Arc<Surroundings>,
    known: ArcSwap<BTreeMap<String, Vec<Arc<Known>>>>,
    making: Mutex<()>,
    peers: AtomicUsize,
    is_swept: AtomicBool,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.surroundings.closing.request();
    }
}

impl Table {
    pub(super) fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings: Arc::new(surroundings),
            known: ArcSwap::default(),
            making: Mutex::default(),
            peers: AtomicUsize::new(0),
            is_swept: AtomicBool::new(false),
        }
    }

    /// A server, and those that were forgotten for it: their sessions are to be given back.
    pub(super) fn find(self: &Arc<Self>, server: &Server) -> (Arc<Known>, Vec<Arc<Known>>) {
        if let Some(known) = found(&self.known.load(), server) {
            return (known, Vec::new());
        }
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known.load_full();
        if let Some(known) = found(&before, server) {
            return (known, Vec::new());
        }
        let origin =
            Route::new(server, Arc::clone(&self.surroundings)).map(|route| Arc::new(Origin::new(Arc::new(route))));
        let fresh =
            Arc::new(Known { server: server.clone(), origin, peers: Mutex::default(), heard: Mutex::default() });
        let (mut next, mut forgotten) = (BTreeMap::clone(&before), Vec::new());
        if next.len() >= SERVERS_MAX && !next.contains_key(&server.name) {
            forgotten.extend(std::mem::take(&mut next).into_values().flatten());
            self.surroundings.metrics.clear();
        }
        let of_name = next.entry(server.name.clone()).or_default();
        if of_name.len() >= DESCRIPTIONS_MAX {
            forgotten.push(of_name.remove(0));
        }
        of_name.push(Arc::clone(&fresh));
        self.known.store(Arc::new(next));
        self.sweep();
        (fresh, forgotten)
    }

    /// Counts one more peer; true when there are too many, and none is counted any more.
    pub(super) fn is_full(&self) -> bool {
        let is_full = self.peers.fetch_add(1, Ordering::Relaxed) >= PEERS_MAX;
        if is_full {
            self.peers.store(1, Ordering::Relaxed);
        }
        is_full
    }

    /// Every server.
    pub(super) fn all(&self) -> Vec<Arc<Known>> {
        self.known.load().values().flatten().cloned().collect()
    }

    /// Looks after idle connections, from the first server on until this is gone.
    fn sweep(self: &Arc<Self>) {
        if self.is_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let (table, closing): (Weak<Self>, _) = (Arc::downgrade(self), self.surroundings.closing.clone());
        self.surroundings.supervisor.spawn("idle-connections", OnEnd::Finish, async move {
            while closing.or_stop(tokio::time::sleep(SWEEP_EVERY)).await.is_some() {
                let Some(table) = table.upgrade() else { return };
                table
                    .all()
                    .iter()
                    .filter_map(|known| known.origin.as_ref().ok())
                    .for_each(|origin| origin.route.sweep());
            }
        });
    }
}

fn found(known: &BTreeMap<String, Vec<Arc<Known>>>, server: &Server) -> Option<Arc<Known>> {
    known.get(&server.name)?.iter().rev().find(|known| known.server == *server).cloned()
}

impl Known {
    pub(super) fn peers(&self) -> MutexGuard<'_, BTreeMap<Principal, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, BTreeSet<Principal>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As how many clients the server meets one person and agent.
    pub(super) fn variants(peers: &BTreeMap<Principal, Arc<Peer>>, user: &Arc<str>, agent: &Arc<str>) -> usize {
        let first = Principal::Caller { user: Arc::clone(user), agent: Arc::clone(agent), capabilities: None };
        let is_theirs = |principal: &&Principal| matches!(principal, Principal::Caller { user: of, agent: through, .. } if of == user && through == agent);
        peers.range(first..).map(|(principal, _)| principal).take_while(is_theirs).count()
    }
}
