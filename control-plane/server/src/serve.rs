//! The control plane's life in one process: what starts in which order, and what stops in which.
//!
//! Start: check the configuration, bind the listeners, read the keys, open consensus (which folds the stored events),
//! wait until this node can serve, start the writer, state the issuer and the token key, then serve. Stop: the
//! listeners finish what they are doing and config sessions end; with the last of them the writer ends; consensus
//! stops last. What was acknowledged is on the disk at every moment, so none of this is needed for safety.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bailiwick_control_plane_core::{Command, token_key::Issuer};
use bailiwick_proto::v1::{admin_server::AdminServer, checkpoints_server::CheckpointsServer};
use bailiwick_runtime::{
    EventStream, OnEnd, Shutdown, Supervisor,
    config::ConfigProblems,
    listen::{self, BindError},
    metrics::Registry,
    ops::{self, Readiness},
    tasks::TaskFailed,
};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    admin::AdminService,
    checkpoints::CheckpointService,
    clock,
    config::ControlPlaneConfig,
    config_stream::{self, ConfigService, feed::Feed, nodes::Nodes, wire::ConfigServer},
    domain::{Caller, Domain, Projection, Shared, run_writer},
    http,
    keys::{Keys, KeysError},
    metrics::Metrics,
    recorder::Recorder,
};
use bailiwick_consensus::{Alone, Applier, Birth, Consensus, ConsensusError, Member, Options, RocksDisk, Timers};

/// Longest wait at start for a leader and for everything acknowledged before to be applied.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Largest message of an administrator: the largest manifests the domain takes, with room.
const ADMIN_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest answer: every consent there may be, with room.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A connection that answers no ping within this is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams and calls together on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Condition in `/readyz`.
const READY_CONSENSUS: &str = "consensus";

/// What keeps a control plane from starting, or ended it.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The configuration is not usable; all mistakes are listed.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// An address is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A bound listener does not tell its address.
    #[error("a listener does not tell its address: {0}")]
    Address(io::Error),
    /// The data directory cannot be made.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A secret key cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The log cannot be opened or led.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// What this node states at start was refused.
    #[error("cannot state {what}: {why}")]
    Statement {
        /// Issuer or key.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A task ended that must not.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// A running control-plane node. Dropping it does not stop it; the `Shutdown` given to [`serve`] does.
#[derive(Debug)]
pub struct Running {
    /// Administration, configuration and checkpoints (gRPC).
    pub grpc_addr: SocketAddr,
    /// Token keys and metadata (HTTP).
    pub http_addr: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub ops_addr: SocketAddr,
    supervisor: Supervisor,
    consensus: Consensus,
}

impl Running {
    /// Returns once everything has stopped.
    ///
    /// # Errors
    /// When a task's failure was the cause.
    pub async fn stopped(self) -> Result<(), ControlPlaneError> {
        let ended = self.supervisor.ended().await;
        let failure = self.consensus.failure();
        self.consensus.shutdown().await;
        match (ended, failure) {
            (Err(_), Some(failure)) => Err(failure.into()),
            (ended, _) => Ok(ended?),
        }
    }
}

struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    ops: TcpListener,
}

/// Starts a control-plane node; returns once it serves. It stops when `shutdown` is requested.
///
/// # Errors
/// [`ControlPlaneError`] when it cannot start; then nothing is left running.
pub async fn serve(
    config: ControlPlaneConfig,
    stream: EventStream,
    shutdown: Shutdown,
) -> Result<Running, ControlPlaneError> {
    config.check()?;
    let listeners = Listeners {
        grpc: listen::tcp("control-plane gRPC", "control_plane.listen", config.listen).await?,
        http: listen::tcp("control-plane HTTP", "control_plane.http_listen", config.http_listen).await?,
        ops: listen::tcp("control-plane operations", "control_plane.ops_listen", config.ops_listen).await?,
    };
    let address = |listener: &TcpListener| listener.local_addr().map_err(ControlPlaneError::Address);
    let (grpc_addr, http_addr, ops_addr) =
        (address(&listeners.grpc)?, address(&listeners.http)?, address(&listeners.ops)?);
    let folder = |source| ControlPlaneError::Folder { path: config.data_dir.clone(), source };
    std::fs::create_dir_all(&config.data_dir).map_err(folder)?;
    let keys = Keys::open(&config.data_dir.join("keys"))?;

    let (shared, feed) = (Shared::default(), Arc::new(Feed::new()));
    let projection = Projection::new(shared.clone(), Arc::clone(&feed));
    let consensus = open_consensus(&config, Box::new(projection)).await?;
    let supervisor = Supervisor::new(shutdown.child());
    let started = start(&config, stream, Parts { shared, feed, keys, listeners }, &consensus, &supervisor).await;
    if let Err(error) = started {
        supervisor.shutdown().request();
        consensus.shutdown().await;
        return Err(error);
    }
    tracing::info!(%grpc_addr, %http_addr, %ops_addr, node = %config.node, "control plane serves");
    Ok(Running { grpc_addr, http_addr, ops_addr, supervisor, consensus })
}

/// Opens the data directory; an empty one becomes a cluster of this node alone.
async fn open_consensus(config: &ControlPlaneConfig, applier: Box<dyn Applier>) -> Result<Consensus, ConsensusError> {
    let folder = config.data_dir.join("raft");
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)?;
        let disk = RocksDisk::open(&folder)?;
        Ok::<_, io::Error>((Birth::read(&disk)?, disk))
    });
    let (birth, disk) = opened.await.map_err(io::Error::other)??;
    let fresh = || io::Error::other("the operating system gives no randomness");
    let birth = match birth {
        Some(birth) => birth,
        None => Birth {
            cluster_id: hex::encode(clock::random::<16>().map_err(|_| fresh())?),
            incarnation: hex::encode(clock::random::<8>().map_err(|_| fresh())?),
            node_id: config.node_id,
        },
    };
    let (disk, transport, timers) = (Arc::new(disk), Arc::new(Alone), Timers::default());
    let consensus = Consensus::open(Options { disk, birth, transport, applier, timers }).await?;
    if !consensus.is_initialized().await? {
        let api = format!("http://{}", config.listen);
        consensus.initialize(Member { name: config.node.clone(), peer: String::new(), api }).await?;
    }
    Ok(consensus)
}

/// What is opened before anything runs.
struct Parts {
    shared: Shared,
    feed: Arc<Feed>,
    keys: Keys,
    listeners: Listeners,
}

async fn start(
    config: &ControlPlaneConfig,
    stream: EventStream,
    parts: Parts,
    consensus: &Consensus,
    supervisor: &Supervisor,
) -> Result<(), ControlPlaneError> {
    let Parts { shared, feed, keys, listeners } = parts;
    let (readiness, registry) = (Readiness::new(), Registry::new());
    readiness.not_ready(READY_CONSENSUS, "starting");
    let metrics = Metrics::register(&registry);
    let stop = supervisor.shutdown().clone();
    let operations = ops::serve(listeners.ops, readiness.clone(), registry, stop.clone());
    supervisor.spawn("control-plane-ops", OnEnd::Critical, ended("operations", operations));

    consensus.ready(READY_WAIT_MAX).await?;
    let (domain, mailbox) = Domain::new(consensus.clone(), shared.clone());
    let writer = run_writer(mailbox, consensus.clone(), shared, metrics.clone());
    supervisor.spawn("control-plane-writer", OnEnd::Critical, writer);
    state_identity(config, &keys, &domain).await?;

    let (beats, heartbeats) = watch::channel(None);
    supervisor.spawn(
        "control-plane-heartbeat",
        OnEnd::Critical,
        config_stream::beat(domain.clone(), beats, stop.clone()),
    );
    let recorder = Recorder::new(consensus.clone(), stream, metrics.clone());
    supervisor.spawn("control-plane-recorder", OnEnd::Critical, recorder.run(stop.clone()));
    let watched = watch_consensus(consensus.clone(), stop.clone());
    supervisor.spawn("control-plane-consensus", OnEnd::Critical, watched);

    let nodes = Arc::new(Nodes::default());
    let configs = ConfigServer(Arc::new(ConfigService {
        domain: domain.clone(),
        feed,
        nodes: Arc::clone(&nodes),
        keys: keys.frame.clone(),
        heartbeats,
        supervisor: supervisor.clone(),
        shutdown: stop.clone(),
        metrics: metrics.clone(),
    }));
    let checkpoints = CheckpointsServer::new(CheckpointService { domain: domain.clone() });
    let admin = AdminService { domain: domain.clone(), nodes, keys, node: config.node.clone(), metrics };
    let admin = AdminServer::new(admin)
        .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let grpc = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_service(admin)
        .add_service(configs)
        .add_service(checkpoints);
    let incoming = TcpIncoming::from(listeners.grpc).with_nodelay(Some(true));
    let until = stop.clone();
    let serving = grpc.serve_with_incoming_shutdown(incoming, async move { until.requested().await });
    supervisor.spawn("control-plane-grpc", OnEnd::Critical, ended("gRPC", serving));
    supervisor.spawn("control-plane-http", OnEnd::Critical, ended("HTTP", http::serve(listeners.http, domain, stop)));
    readiness.ready(READY_CONSENSUS);
    Ok(())
}

/// Who signs tokens and with which key, as events; nothing happens when they say so already.
async fn state_identity(config: &ControlPlaneConfig, keys: &Keys, domain: &Domain) -> Result<(), ControlPlaneError> {
    let issuer = Issuer { issuer: config.issuer.clone(), mcp_url: config.mcp_url.clone() };
    let statements =
        [("the token key", Command::RegisterTokenKey(keys.token_key()?)), ("the issuer", Command::SetIssuer(issuer))];
    for (what, command) in statements {
        let caller = Caller { actor: format!("node:{}", config.node), request_id: String::new() };
        let stated = domain.write(command, caller).await;
        stated.map_err(|error| ControlPlaneError::Statement { what, why: error.to_string() })?;
    }
    Ok(())
}

/// A node whose storage failed can answer nothing more, so it ends: whoever supervises the process starts it again,
/// and with a working disk it goes on with all it acknowledged.
async fn watch_consensus(consensus: Consensus, shutdown: Shutdown) {
    if let Some(failure) = shutdown.or_stop(consensus.failed()).await {
        tracing::error!(error = %failure, "consensus has stopped; this node ends and has to be started again");
    }
}

async fn ended<E: std::fmt::Display>(what: &'static str, served: impl Future<Output = Result<(), E>>) {
    if let Err(error) = served.await {
        tracing::error!(what, %error, "a listener failed");
    }
}
