//! One server as one listener hears it.
//!
//! Called by `listening`. A legacy server tells each change on one stream of a session only, so of the listeners of one
//! caller the first hears the session that the caller's calls are made in, and every further one has a session of its
//! own, as long as it listens. Deliberately absent: what is wished for (`data-plane/core`).

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::listening::{
    Wishes,
    source::{Closed, Offers},
};
use bailiwick_proto::{mcp::Era, v1::Server};

use super::{Origin, Peer, Principal, Upstream, UpstreamFault, peer::Notifications};

/// Longest wait for a server to take its session back; it forgets it by itself some day.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// See the file's header. What is shared is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Hearing {
    upstream: Arc<Upstream>,
    server: Server,
    peer: Arc<Peer>,
    shared: Option<(String, Principal)>,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            self.upstream.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(shared);
        }
    }
}

impl Upstream {
    /// Begins to hear a server for a caller.
    pub(crate) fn hearing(self: &Arc<Self>, server: &Server, principal: &Principal) -> Hearing {
        let key = (server.url.clone(), principal.clone());
        let is_first = self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        let peer = match is_first {
            true => self.peer(&server.url, principal),
            false => Arc::new(Peer::new(Arc::new(Origin::new(&server.url)), principal, self.room.clone())),
        };
        Hearing { upstream: Arc::clone(self), server: server.clone(), peer, shared: is_first.then_some(key) }
    }
}

impl Hearing {
    /// The server's era, and what it offers to listen to.
    pub(crate) async fn offers(&self) -> Result<(Era, Offers), UpstreamFault> {
        self.peer.offers(&self.upstream.http, self.upstream.handshake_bounds(&self.server)).await
    }

    /// Opens a stream.
    pub(crate) async fn open(&self, wishes: &Wishes) -> Result<Notifications, Closed> {
        let (id, bounds) = (self.upstream.next_id(), self.upstream.handshake_bounds(&self.server));
        self.peer.notifications(&self.upstream.http, id, wishes, bounds).await
    }

    /// Nobody listens any more. A session of its own is given back.
    pub(crate) async fn close(&self) {
        if self.shared.is_none() {
            self.peer.close(&self.upstream.http, CLOSE_WAIT_MAX).await;
        }
    }

    /// Asks a legacy server to tell of a resource's changes, or no longer to.
    pub(crate) async fn subscribe(&self, uri: &str, wished: bool) -> Result<(), UpstreamFault> {
        let (id, bounds) = (self.upstream.next_id(), self.upstream.handshake_bounds(&self.server));
        self.peer.subscribe(&self.upstream.http, &id, (uri, wished), bounds).await
    }
}
