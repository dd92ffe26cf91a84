//! One control-plane node without sockets: consensus, the state folded from it, the writer, and the streams of those who
//! follow the configuration.
//!
//! What `serve` puts services in front of, for those who bring their own disk, network and clock: the simulation and
//! the benchmarks. Commands are decided, replicated and answered, and data planes served, by exactly the code that does
//! so in production. Absent: what only a leader does besides deciding (`serve` starts that), and forwarding.

use std::sync::Arc;

use bailiwick_consensus::{Applier, Consensus, ConsensusError, Options};
use bailiwick_control_plane_core::{Command, State};
use bailiwick_proto::v1;
use bailiwick_runtime::{Shutdown, Supervisor, metrics::Registry};
use futures::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::sync::watch;
use tonic::Status;

use crate::{
    authorisation::Who,
    clock::Surroundings,
    config_stream::{self, ConfigService, feed::Feed, nodes::Nodes},
    domain::{Caller, Domain, Projection, Shared, WriteError, Written, run_writer},
    keys::{KeySet, Keys},
    metrics::Metrics,
};

/// One node; clones share it.
#[derive(Clone, Debug)]
pub struct Replica {
    consensus: Consensus,
    domain: Domain,
    configs: Arc<ConfigService>,
    /// There are none; who waits for them waits.
    _keys: watch::Sender<Arc<KeySet>>,
}

/// What a node that follows is sent, and what has to run for it to be served.
pub type Served<Frame> = (BoxStream<'static, Result<Frame, Status>>, BoxFuture<'static, ()>);

impl Replica {
    /// Opens the node, which keeps the deltas of so many revisions for nodes that fall behind. `options` gets what applies changes, and may put something in front of it. The future that is
    /// returned beside the node is what works for it, its writer first: it must be run for writes to be answered and
    /// nodes to be served, and ends when it is dropped.
    ///
    /// # Errors
    /// When the disk cannot be opened or read.
    pub async fn open(
        surroundings: Arc<dyn Surroundings>,
        revisions_kept: usize,
        options: impl FnOnce(Box<dyn Applier>) -> Options,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), ConsensusError> {
        let (shared, feed) = (Shared::default(), Arc::new(Feed::keeping(revisions_kept)));
        let projection = Projection::new(shared.clone(), Arc::clone(&feed));
        let consensus = Consensus::open(options(Box::new(projection))).await?;
        let (domain, mailbox) = Domain::within(consensus.clone(), shared.clone(), surroundings);
        let (metrics, shutdown) = (Metrics::register(&Registry::new()), Shutdown::new());
        let writer = run_writer(mailbox, consensus.clone(), shared, metrics.clone());
        let (beats, heartbeats) = config_stream::heartbeats::heartbeats();
        let beating = config_stream::beat(domain.clone(), Arc::clone(&feed), beats, |_| {}, shutdown.clone());
        let (proofs, proving) = config_stream::prove_on_demand(domain.clone(), Arc::clone(&feed), shutdown.clone());
        let (keys, opened) = watch::channel(Arc::default());
        let configs = Arc::new(ConfigService {
            domain: domain.clone(),
            feed,
            nodes: Arc::new(Nodes::default()),
            keys: Keys::new(opened),
            heartbeats,
            slots: config_stream::snapshot::Slots::new(),
            statements: config_stream::statements::Statements::default(),
            proofs,
            supervisor: Supervisor::new(shutdown.clone()),
            shutdown,
            metrics,
        });
        let working = async move {
            tokio::select! {
                biased;
                () = writer => {}
                () = beating => {}
                () = proving => {}
            }
        };
        Ok((Self { consensus, domain, configs, _keys: keys }, working))
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

    /// Opens a config stream for whoever sends `messages`.
    ///
    /// # Errors
    /// Why it is not served.
    pub async fn stream<M>(&self, messages: M) -> Result<Served<v1::ConfigFrame>, Status>
    where
        M: Stream<Item = Result<v1::NodeMessage, Status>> + Unpin + Send + 'static,
    {
        let (frames, session) = self.configs.open_stream(&Who::Loopback, messages).await?;
        Ok((frames.map(|frame| frame?.decode()).boxed(), session))
    }

    /// Opens a revocation lane for whoever sends `messages`.
    ///
    /// # Errors
    /// Why it is not served.
    pub async fn lane<M>(&self, messages: M) -> Result<Served<v1::LaneFrame>, Status>
    where
        M: Stream<Item = Result<v1::LaneMessage, Status>> + Unpin + Send + 'static,
    {
        let (frames, lane) = self.configs.open_lane(&Who::Loopback, messages).await?;
        Ok((frames.map(|frame| frame?.decode()).boxed(), lane))
    }

    /// The nodes that have said here that they have all denials up to `revision` in force.
    #[must_use]
    pub fn denied_through(&self, revision: u64) -> Vec<String> {
        self.configs.nodes.denied_through(revision).into_keys().collect()
    }
}
