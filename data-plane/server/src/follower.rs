//! What one data plane knows of its authority, without sockets.
//!
//! What `role` puts listeners, servers and a recorder around, for those who bring their own transport and clock: the
//! simulation. Frames, denials and leases are taken in, and calls are decided, by exactly the code that does so in
//! production.

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::{
    Caller, ToolRef,
    admission::{SpoolLevel, admit, node_gate},
};
use bailiwick_proto::Reason;
use bailiwick_runtime::metrics::Registry;

use crate::{
    config_client::ConfigStream, config_state::ConfigState, lane::RevocationLane, metrics::Metrics,
    surroundings::Surroundings, uplink::Uplink,
};

/// One run of a data plane.
#[derive(Clone, Debug)]
pub struct Follower {
    state: Arc<ConfigState>,
    metrics: Arc<Metrics>,
}

impl Follower {
    /// A node that knows nothing yet, and lets retrieval go on for so long without a lease.
    #[must_use]
    pub fn new(surroundings: Arc<dyn Surroundings>, max_staleness: Duration) -> Self {
        let state = Arc::new(ConfigState::within(surroundings, max_staleness));
        Self { state, metrics: Arc::new(Metrics::new(&Registry::new())) }
    }

    /// Follows the config stream for ever, registered as `node` under `epoch`.
    pub fn stream<U: Uplink>(&self, uplink: U, node: &str, epoch: u64) -> impl Future<Output = ()> + Send + use<U> {
        let stream = ConfigStream {
            uplink,
            node: node.to_owned(),
            epoch,
            state: Arc::clone(&self.state),
            metrics: Arc::clone(&self.metrics),
            discoveries: None,
        };
        stream.run()
    }

    /// Keeps a revocation lane open for ever.
    pub fn lane<U: Uplink>(&self, uplink: U, node: &str, epoch: u64) -> impl Future<Output = ()> + Send + use<U> {
        let lane = RevocationLane {
            uplink,
            node: node.to_owned(),
            epoch,
            state: Arc::clone(&self.state),
            metrics: Arc::clone(&self.metrics),
        };
        lane.run()
    }

    /// Why this node may not let a call leave at this moment (`now_unix` in seconds), if so.
    #[must_use]
    pub fn refuses(&self, caller: &Caller, tool: ToolRef<'_>, now_unix: i64) -> Option<Reason> {
        let Some(config) = self.state.config() else { return Some(Reason::ConfigStale) };
        let decision = admit(&config, caller, tool, now_unix);
        decision.reason.or_else(|| node_gate(decision.tier(), self.state.freshness(), SpoolLevel::Free))
    }

    /// How many frames could not be used, because one was lost, repeated or wrong.
    #[must_use]
    pub fn misfits(&self) -> u64 {
        self.metrics.config_refused.get() + self.metrics.lanes_refused.get()
    }

    /// The revision in force and its digest; 0 and nothing before the first.
    #[must_use]
    pub fn held(&self) -> (u64, Vec<u8>) {
        self.state.held()
    }
}

#[cfg(test)]
mod tests;
