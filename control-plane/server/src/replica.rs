//! One control-plane node without sockets: consensus, the state folded from it, and the writer.
//!
//! What `serve` puts services in front of, for those who bring their own disk, network and clock: the simulation and
//! the benchmarks. Commands are decided, replicated and answered by exactly the code that serves them in production.
//! Absent: what only a leader does besides deciding (`serve` starts that), and forwarding.

use std::sync::Arc;

use bailiwick_consensus::{Applier, Consensus, ConsensusError, Options};
use bailiwick_control_plane_core::{Command, State};
use bailiwick_runtime::metrics::Registry;

use crate::{
    clock::Surroundings,
    config_stream::feed::Feed,
    domain::{Caller, Domain, Projection, Shared, WriteError, Written, run_writer},
    metrics::Metrics,
};

/// One node; clones share it.
#[derive(Clone, Debug)]
pub struct Replica {
    consensus: Consensus,
    domain: Domain,
}

impl Replica {
    /// Opens the node. `options` gets what applies changes, and may put something in front of it. The future that is
    /// returned beside the node is its writer: it must be run for writes to be answered, and ends when it is dropped.
    ///
    /// # Errors
    /// When the disk cannot be opened or read.
    pub async fn open(
        surroundings: Arc<dyn Surroundings>,
        options: impl FnOnce(Box<dyn Applier>) -> Options,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), ConsensusError> {
        let shared = Shared::default();
        let projection = Projection::new(shared.clone(), Arc::new(Feed::new()));
        let consensus = Consensus::open(options(Box::new(projection))).await?;
        let (domain, mailbox) = Domain::within(consensus.clone(), shared.clone(), surroundings);
        let writer = run_writer(mailbox, consensus.clone(), shared, Metrics::register(&Registry::new()));
        Ok((Self { consensus, domain }, writer))
    }

    /// Its part in the cluster.
    #[must_use]
    pub const fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Carries a command out, as `actor`, and waits until it is committed and applied here.
    ///
    /// # Errors
    /// Says what is known about the outcome.
    pub async fn write(&self, command: Command, actor: &str, request_id: &str) -> Result<Written, WriteError> {
        self.domain.write(command, Caller { actor: actor.to_owned(), request_id: request_id.to_owned() }).await
    }

    /// Looks at a state that holds every write acknowledged anywhere before this call.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn read_latest<R>(&self, look: impl FnOnce(&State) -> R) -> Result<R, ConsensusError> {
        self.domain.read_latest(look).await
    }

    /// Looks at the state as of the last change applied here.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.domain.read(look)
    }
}
