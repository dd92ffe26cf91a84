//! Discovery: looks at servers for the control plane, which never talks to one itself.
//!
//! The config client hands over each question; the answer goes up the stream it came by. Absent: reporting what changed
//! (`tool_reports`).

use std::sync::Arc;

use bailiwick_proto::v1::{Discover, Discovered, NodeMessage, node_message::Message as Up};
use bailiwick_runtime::tasks::{OnEnd, Supervisor};
use tokio::sync::{Semaphore, mpsc};

use crate::upstream::Upstream;

/// Servers looked at for the control plane at once; more wait.
const DISCOVERIES_MAX: usize = 8;

/// Answers the control plane's questions about servers.
#[derive(Clone, Debug)]
pub(crate) struct Discoveries {
    upstream: Arc<Upstream>,
    supervisor: Supervisor,
    permits: Arc<Semaphore>,
}

impl Discoveries {
    pub(crate) fn new(upstream: Arc<Upstream>, supervisor: Supervisor) -> Self {
        Self { upstream, supervisor, permits: Arc::new(Semaphore::new(DISCOVERIES_MAX)) }
    }

    /// Looks at a server, and says `up` what it shows.
    pub(crate) fn answer(&self, discover: Discover, up: mpsc::Sender<NodeMessage>) {
        let (upstream, permits) = (Arc::clone(&self.upstream), Arc::clone(&self.permits));
        self.supervisor.spawn("discovery", OnEnd::Finish, async move {
            let Ok(_permit) = permits.acquire().await else { return };
            let Discover { id, server: Some(server) } = discover else { return };
            let discovered = match upstream.look(&server).await {
                Ok((tools, left_out)) => Discovered { id, tools, left_out, ..Discovered::default() },
                Err(fault) => Discovered { id, error: fault.to_string(), ..Discovered::default() },
            };
            // The stream may have ended meanwhile; the control plane no longer waits then.
            drop(up.send(NodeMessage { message: Some(Up::Discovered(discovered)) }).await);
        });
    }
}
