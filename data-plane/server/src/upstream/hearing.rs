//! One server as one listener hears it.
//!
//! Called by `listening`. A legacy server tells each change on one stream of a session only, so of the listeners of one
//! caller the first hears the session that the caller's calls are made in, and every further one has a session of its
//! own, as long as it listens. Deliberately absent: what is wished for (`data-plane/core`).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::listening::{
    Wishes,
    source::{Closed, Offers},
};
use bailiwick_proto::{mcp::Era, v1::Server};

use super::{Known, Partner, Peer, Principal, Upstream, UpstreamFault, peer::Notifications};

/// Longest wait for a server to take its session back; it forgets it by itself some day.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// See the file's header. What is shared is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Hearing {
    upstream: Arc<Upstream>,
    server: Server,
    peer: Result<Arc<Peer>, UpstreamFault>,
    /// Instead of the peer: all listeners hear the same session.
    partner: Option<Partner>,
    /// What the partner's server was asked to tell of.
    subscribed: Mutex<BTreeSet<String>>,
    shared: Option<(Arc<Known>, Principal)>,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        if let Some((known, principal)) = &self.shared {
            known.heard().remove(principal);
        }
    }
}

impl Upstream {
    /// Begins to hear a server for a caller.
    pub(crate) fn hearing(self: &Arc<Self>, server: &Server, principal: &Principal) -> Hearing {
        let known = self.known(server);
        let is_first = known.heard().insert(principal.clone());
        let peer = match (is_first, &known.origin) {
            (true, _) => self.peer(server, principal),
            (false, Ok(origin)) => Ok(Arc::new(Peer::new(Arc::clone(origin), principal, self.room.clone()))),
            (false, Err(fault)) => Err(fault.clone()),
        };
        let shared = is_first.then(|| (known, principal.clone()));
        let partner = self.channels.partner(server, principal);
        let subscribed = Mutex::default();
        Hearing { upstream: Arc::clone(self), server: server.clone(), peer, partner, subscribed, shared }
    }
}

impl Hearing {
    /// The server's era, and what it offers to listen to.
    pub(crate) async fn offers(&self) -> Result<(Era, Offers), UpstreamFault> {
        if self.server.openapi.is_some() {
            return Ok((Era::Modern, Offers::default()));
        }
        if let Some(partner) = &self.partner {
            return partner.offers(self.upstream.handshake_bounds(&self.server)).await;
        }
        self.peer()?.offers(self.upstream.handshake_bounds(&self.server)).await
    }

    /// Opens a stream.
    pub(crate) async fn open(&self, wishes: &Wishes) -> Result<Notifications, Closed> {
        if self.server.openapi.is_some() {
            return Err(Closed::Refused);
        }
        let (id, bounds) = (self.upstream.next_id(), self.upstream.handshake_bounds(&self.server));
        if let Some(partner) = &self.partner {
            return partner.notifications(id, wishes, bounds).await;
        }
        let peer = self.peer().map_err(|_fault| Closed::Broken)?;
        peer.notifications(id, wishes, bounds).await
    }

    /// Nobody listens any more. A session of its own is given back; in one that others use, what was asked for is.
    pub(crate) async fn close(&self) {
        if self.partner.is_some() {
            let subscribed = std::mem::take(&mut *self.subscribed());
            for uri in subscribed {
                if let Err(fault) = self.subscribe(&uri, false).await {
                    tracing::debug!(%fault, "a server does not take a subscription back");
                    return;
                }
            }
        }
        if self.shared.is_none()
            && let Ok(peer) = self.peer()
        {
            peer.close(CLOSE_WAIT_MAX).await;
        }
    }

    /// Asks a legacy server to tell of a resource's changes, or no longer to.
    pub(crate) async fn subscribe(&self, uri: &str, wished: bool) -> Result<(), UpstreamFault> {
        let (id, bounds) = (self.upstream.next_id(), self.upstream.handshake_bounds(&self.server));
        if let Some(partner) = &self.partner {
            if wished {
                self.subscribed().insert(uri.to_owned());
            } else {
                self.subscribed().remove(uri);
            }
            return partner.subscribe(&id, (uri, wished), bounds).await;
        }
        self.peer()?.subscribe(&id, (uri, wished), bounds).await
    }

    fn subscribed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self) -> Result<&Arc<Peer>, UpstreamFault> {
        self.peer.as_ref().map_err(UpstreamFault::clone)
    }
}
