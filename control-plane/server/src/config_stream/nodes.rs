//! Connected nodes: who is on the config stream, how far each has come, and asking one to look at a server.
//!
//! In memory only: a node that reconnects says again where it is. Sessions enter and leave; `admin` reads progress and
//! asks for discovery. Absent: which nodes are registered (replicated state), and the frames themselves (`session`).

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bailiwick_proto::v1;
use tokio::sync::{mpsc, oneshot};

/// Longest wait for a data plane to read a server's tools.
pub(crate) const DISCOVERY_WAIT_MAX: Duration = Duration::from_secs(5);
/// Discoveries waiting to be sent to one node.
const DISCOVERIES_QUEUED_MAX: usize = 64;
/// Discoveries under way on all nodes together.
const DISCOVERIES_MAX: usize = 256;

/// What is known of a connected node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    /// The last revision it said is in force there.
    pub(crate) acknowledged: u64,
    /// Why it refused the last revision it refused; empty if it took a later one.
    pub(crate) refused: String,
}

/// All connected nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    links: Mutex<BTreeMap<String, Link>>,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<v1::Discovered>>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Link {
    /// Tells sessions of one node apart, so that an old one's end does not remove a new one.
    session: u64,
    progress: Progress,
    /// Absent on nodes that cannot look at servers.
    discover: Option<mpsc::Sender<v1::Discover>>,
}

/// A session's place among the nodes; leaving is dropping it.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    nodes: &'a Nodes,
    name: String,
    session: u64,
}

impl Nodes {
    /// Enters a session; an older one of the same node is replaced. Discoveries asked of the node come out of the
    /// receiver, which stays silent when it cannot look at servers.
    pub(crate) fn enter(&self, name: &str, epoch: u64, can_discover: bool) -> (Seat<'_>, mpsc::Receiver<v1::Discover>) {
        let session = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (discover, asked) = mpsc::channel(DISCOVERIES_QUEUED_MAX);
        let progress = Progress { epoch, ..Progress::default() };
        let link = Link { session, progress, discover: can_discover.then_some(discover) };
        lock(&self.links).insert(name.to_owned(), link);
        (Seat { nodes: self, name: name.to_owned(), session }, asked)
    }

    /// How far each connected node has come.
    pub(crate) fn progress(&self) -> BTreeMap<String, Progress> {
        lock(&self.links).iter().map(|(name, link)| (name.clone(), link.progress.clone())).collect()
    }

    /// How many nodes are connected.
    pub(crate) fn connected(&self) -> usize {
        lock(&self.links).len()
    }

    /// Asks one connected data plane what `server` shows now; `None` when none is connected.
    pub(crate) async fn discover(&self, server: v1::Server) -> Option<Result<Vec<v1::ToolDefinition>, String>> {
        let asked = lock(&self.links).values().find_map(|link| link.discover.clone())?;
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
            Some(found) if found.error.is_empty() => Ok(found.tools),
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

    fn update(&self, seat: &Seat<'_>, change: impl FnOnce(&mut Progress)) {
        if let Some(link) = lock(&self.links).get_mut(&seat.name)
            && link.session == seat.session
        {
            change(&mut link.progress);
        }
    }
}

impl Seat<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The node has `revision` in force.
    pub(crate) fn acknowledge(&self, revision: u64) {
        self.nodes.update(self, |progress| {
            progress.acknowledged = progress.acknowledged.max(revision);
            progress.refused.clear();
        });
    }

    /// The node keeps what it had.
    pub(crate) fn refuse(&self, error: String) {
        self.nodes.update(self, |progress| progress.refused = error);
    }

    /// The node looked at a server.
    pub(crate) fn discovered(&self, found: v1::Discovered) {
        self.nodes.answer(found);
    }

    /// Whether a newer session of the same node has taken over.
    pub(crate) fn is_replaced(&self) -> bool {
        lock(&self.nodes.links).get(&self.name).is_none_or(|link| link.session != self.session)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut links = lock(&self.nodes.links);
        if links.get(&self.name).is_some_and(|link| link.session == self.session) {
            links.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_sessions_end_leaves_the_new_one() {
        let nodes = Nodes::default();
        let (old, _asked) = nodes.enter("dp-1", 3, true);
        let (new, _asked) = nodes.enter("dp-1", 4, true);
        old.acknowledge(9);
        assert!(old.is_replaced() && !new.is_replaced());
        drop(old);
        new.acknowledge(7);
        assert_eq!(nodes.progress()["dp-1"], Progress { epoch: 4, acknowledged: 7, refused: String::new() });
        drop(new);
        assert_eq!(nodes.connected(), 0);
    }

    #[tokio::test]
    async fn an_answer_reaches_whoever_asked() {
        let nodes = Nodes::default();
        assert_eq!(nodes.discover(v1::Server::default()).await, None);
        let (seat, mut asked) = nodes.enter("dp-1", 3, true);
        let server = v1::Server { name: "finance".into(), ..v1::Server::default() };
        let (found, ()) = tokio::join!(nodes.discover(server), async {
            let question = asked.recv().await.unwrap();
            seat.discovered(v1::Discovered { id: question.id + 1, ..v1::Discovered::default() });
            seat.discovered(v1::Discovered { id: question.id, error: "refused".into(), tools: Vec::new() });
        });
        assert_eq!(found, Some(Err("refused".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_not_waited_for() {
        let nodes = Nodes::default();
        let (_seat, _asked) = nodes.enter("dp-1", 3, true);
        let found = nodes.discover(v1::Server { name: "finance".into(), ..v1::Server::default() }).await;
        assert!(found.unwrap().unwrap_err().contains("within 5 s"));
        assert!(lock(&nodes.waiting).is_empty());
    }
}
