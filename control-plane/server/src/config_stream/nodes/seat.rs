//! Places of sessions and lanes among the nodes: through them one says what its node said, and hears when it should
//! end.
//!
//! Part of `nodes`. A place that a newer session or lane of the same node has taken over changes nothing any more.

use bailiwick_proto::v1;
use tokio::sync::oneshot;

use super::{Drift, Nodes};

/// A session's place among the nodes; leaving is dropping it.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    pub(super) nodes: &'a Nodes,
    pub(super) name: String,
    pub(super) session: u64,
    pub(super) leaving: Option<oneshot::Receiver<()>>,
}

/// A lane's place among the nodes; leaving is dropping it.
#[derive(Debug)]
pub(crate) struct LaneSeat<'a> {
    pub(super) nodes: &'a Nodes,
    pub(super) name: String,
    pub(super) lane: u64,
    pub(super) leaving: Option<oneshot::Receiver<()>>,
}

/// Why a session or a lane should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Others have more room.
    GoElsewhere,
    /// This control plane stops.
    Stopping,
    /// A newer one of the same node has taken over.
    Replaced,
}

/// Comes true when a session or a lane should end.
#[derive(Debug)]
pub(crate) struct Leaving(Option<oneshot::Receiver<()>>);

impl Leaving {
    /// Waits for that.
    pub(crate) async fn asked(&mut self) -> Leave {
        let Some(leaving) = &mut self.0 else { return std::future::pending().await };
        match leaving.await {
            Ok(()) => Leave::GoElsewhere,
            Err(_) => Leave::Replaced,
        }
    }
}

impl Seat<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Tells when the session should end; the second one asked for never does.
    pub(crate) const fn leaving(&mut self) -> Leaving {
        Leaving(self.leaving.take())
    }

    /// The node has `revision` in force, and so all denials up to it.
    pub(crate) fn acknowledge(&self, revision: u64, at: u64) {
        let more = self.nodes.update(self, |node| {
            node.progress.acknowledged = node.progress.acknowledged.max(revision);
            node.progress.refused.clear();
            node.denied(revision, at)
        });
        self.nodes.tell(more);
    }

    /// The node keeps what it had.
    pub(crate) fn refuse(&self, error: String) {
        self.nodes.update(self, |node| node.progress.refused = error);
    }

    /// The node looked at a server.
    pub(crate) fn discovered(&self, found: v1::Discovered) {
        self.nodes.answer(found);
    }

    /// Whether a newer session of the same node has taken over.
    pub(crate) fn is_replaced(&self) -> bool {
        self.nodes.update(self, |_| ()).is_none()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.nodes.update(self, |node| {
            node.stream = None;
            node.progress.acknowledged = 0;
            node.progress.refused.clear();
        });
        self.nodes.forget(&self.name);
    }
}

impl LaneSeat<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Tells when the lane should end; the second one asked for never does.
    pub(crate) const fn leaving(&mut self) -> Leaving {
        Leaving(self.leaving.take())
    }

    /// The node has every denial up to `revision` in force.
    pub(crate) fn denied(&self, revision: u64, at: u64) {
        let more = self.nodes.update_lane(self, |node| node.denied(revision, at));
        self.nodes.tell(more);
    }

    /// The node was given a lease.
    pub(crate) fn leased(&self, at: u64) {
        self.nodes.update_lane(self, |node| node.progress.leased_at = at);
    }

    /// The node has decided so much, and so much of it before the rollout that counts there.
    pub(crate) fn counted(&self, counts: v1::Counts, before: Option<v1::Counts>) {
        self.nodes.update_lane(self, |node| (node.progress.counts, node.progress.before) = (counts, before));
    }

    /// The node holds `digest`, and was sent `expected`, if that is known; both in hex.
    pub(crate) fn compare(&self, digest: String, expected: String) -> Drift {
        let compared = self.nodes.update_lane(self, |node| {
            (node.progress.digest, node.progress.expected_digest) = (digest, expected);
            let progress = &node.progress;
            if progress.differs() {
                let is_new = node.named != progress.digest;
                node.named.clone_from(&progress.digest);
                return if is_new { Drift::New } else { Drift::Still };
            }
            let is_equal = !progress.expected_digest.is_empty() && progress.digest == progress.expected_digest;
            if is_equal && !std::mem::take(&mut node.named).is_empty() { Drift::Over } else { Drift::No }
        });
        compared.unwrap_or(Drift::No)
    }

    /// Whether a newer lane of the same node has taken over.
    pub(crate) fn is_replaced(&self) -> bool {
        self.nodes.update_lane(self, |_| ()).is_none()
    }
}

impl Drop for LaneSeat<'_> {
    fn drop(&mut self) {
        self.nodes.update_lane(self, |node| {
            node.lane = None;
            node.progress.digest.clear();
            node.progress.expected_digest.clear();
        });
        self.nodes.forget(&self.name);
    }
}
