//! A data-plane node's life in one process: what starts in which order, and what stops in which.
//!
//! Start: check the configuration, bind the listeners, recover the spool, read or make the commitment key; become
//! a member of the cluster; read what was kept on disk; then register this run with the control plane, open its chain,
//! follow the configuration and the revocation lane. Until a configuration is in force and the chain is open every
//! request gets 503, and until the first lease no call is let through. A run that reaches no control plane begins with
//! what was kept (`kept`, `registration`) and lets through what needs no lease. Stop: say so, and go on for a moment,
//! so that balancers notice; accept nothing more and let calls under way finish, within a bound; close the chain and
//! hand over its last records; then the rest. Calls that do not finish in time are recorded as unknown.

mod opening;

use std::{
    fs::File,
    hash::RandomState,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bailiwick_data_plane_core::admission::Freshness;
use bailiwick_enrolment::{self as enrolment, ControlPlane, EnrolError};
use bailiwick_runtime::{
    EventStream, OnEnd, Shutdown, Supervisor,
    config::ConfigProblems,
    listen,
    master_key::MasterKeyError,
    metrics::Registry,
    ops::{self, Readiness},
    sealed_file::SealedFileError,
    served_certificate::CertificateError,
    tasks::TaskFailed,
    telemetry::otlp::{self, TelemetryError},
};
use tokio::{
    net::TcpListener,
    sync::{OnceCell, Semaphore},
    time::Instant,
};

use self::opening::{Opened, Run, joining, open};
use crate::{
    auth::{Authenticator, proofs::Proofs},
    budget::Budget,
    calls::{Answers, Calls, Levels},
    config::DataPlaneConfig,
    config_client::{self, ConfigStream},
    config_state::ConfigState,
    discovery::Discoveries,
    kept::{Kept, Standby},
    lane::RevocationLane,
    listener::{
        self, ANSWER_ROOM_BYTES, ATTRIBUTED_DENIALS_PER_SECOND, BODY_ROOM_BYTES, Gateway, Guard, Places, Room, Shares,
        Terms,
    },
    listening::Listeners,
    metrics::Metrics,
    recorder::{self, Recorder},
    registration::{ALONE_AFTER, Begun, Registration},
    telemetry::{self, Telemetry},
    tool_reports::ToolReports,
    upstream::{Means, Upstream},
};

/// After calls under way were given up, their outcomes are recorded within this.
const ABORT_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often readiness looks at the configuration's age.
const READINESS_TICK: Duration = Duration::from_millis(200);
/// Without a lease, the age of what is in force is kept so often: by so much a clock set back makes it younger.
const AGE_NOTED_EVERY: Duration = Duration::from_secs(10);

/// A data-plane node could not start, or ended because one of its tasks failed.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// Mistakes in the configuration, all of them.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// A listener's address is taken.
    #[error(transparent)]
    Bind(#[from] listen::BindError),
    /// A listener's address cannot be read.
    #[error("a listener has no address")]
    Address(#[source] io::Error),
    /// The data folder cannot be used.
    #[error("the data folder {path} cannot be used")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The spool cannot be recovered.
    #[error("the spool cannot be opened: {0}")]
    Spool(String),
    /// There is no master key, or not the right one.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// Clients could be shown no certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A sealed key cannot be opened.
    #[error(transparent)]
    Key(#[from] SealedFileError),
    /// The node is no member of the cluster.
    #[error(transparent)]
    Enrolment(#[from] EnrolError),
    /// No key can be made, or TLS cannot be set up.
    #[error("cryptography is not usable: {0}")]
    Crypto(String),
    /// The networks that servers may be in cannot be read.
    #[error("upstream.allowed_networks: {0}")]
    Networks(String),
    /// The collector's endpoint cannot be used.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A task failed.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// A running node. Dropping it does not stop it; the `Shutdown` given to [`serve`] does.
#[derive(Debug)]
pub struct Running {
    /// Where MCP is served, at `/mcp/{virtual-server}`.
    pub mcp_addr: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub ops_addr: SocketAddr,
    supervisor: Supervisor,
    readiness: Readiness,
}

impl Running {
    /// Whether the node has a configuration, an open chain and room in its spool.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Returns once everything has stopped.
    ///
    /// # Errors
    /// When a task's failure was the cause.
    pub async fn stopped(self) -> Result<(), DataPlaneError> {
        Ok(self.supervisor.ended().await?)
    }
}

/// Starts a node; returns once its listeners are bound. It stops when `shutdown` is requested.
///
/// # Errors
/// [`DataPlaneError`] when it cannot start; then nothing is left running.
pub async fn serve(
    config: DataPlaneConfig,
    stream: EventStream,
    shutdown: Shutdown,
) -> Result<Running, DataPlaneError> {
    config.check()?;
    let terms = Terms::of(&config)?;
    let mcp = listen::tcp_with_untaken("MCP", "data_plane.listen", config.listen, listener::UNTAKEN_BYTES_MAX)?;
    let operations = listen::tcp("data-plane operations", "data_plane.ops_listen", config.ops_listen).await?;
    let mcp_addr = mcp.local_addr().map_err(DataPlaneError::Address)?;
    let terms = terms.at(mcp_addr)?;
    let ops_addr = operations.local_addr().map_err(DataPlaneError::Address)?;
    let opened = {
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || open(&config)).await;
        opened.map_err(|error| DataPlaneError::Spool(error.to_string()))??
    };
    let Opened { lock, run, master_keys } = opened;
    let (readiness, registry) = (Readiness::new(), Registry::new());
    let supervisor = Supervisor::new(shutdown.child());
    let control_plane = enrolment::join(joining(&config, master_keys.clone()), &supervisor).await?;
    let kept = {
        let (config, identity) = (config.clone(), control_plane.identity().cloned());
        let kept = tokio::task::spawn_blocking(move || Kept::open(&config, identity.as_ref(), master_keys)).await;
        kept.map_err(|error| DataPlaneError::Spool(error.to_string()))??
    };
    let (metrics, stages) = (Arc::new(Metrics::new(&registry)), Stages::default());
    let telemetry = telemetry(&config, &metrics, &supervisor, &stages.late).await?;
    let state = ConfigState::new(Duration::from_millis(config.max_staleness_ms)).of_node(&config.node);
    let means = Means { credentials: state.credentials(), metrics: metrics.upstream.clone(), resolver: None };
    let upstream = Upstream::new(config.upstream.clone(), &supervisor, means);
    let upstream = upstream.map_err(|error| DataPlaneError::Networks(error.to_string()))?;
    let state = Arc::new(state);
    let node = Node {
        proofs: Proofs::new(Arc::clone(&state), Arc::clone(&metrics)),
        state,
        upstream: Arc::new(upstream.telling(telemetry.own_cause())),
        metrics,
        telemetry,
        calls: Arc::default(),
        slots: Arc::new(Semaphore::new(config.calls_max)),
        stages,
        _lock: Arc::new(lock),
        readiness: readiness.clone(),
        supervisor: supervisor.clone(),
        config,
    };
    let (metrics, late) = (&node.metrics, node.stages.late.clone());
    let standby =
        kept.map(|kept| kept.start(&node.config, &node.state, metrics, &supervisor, late)).unwrap_or_default();
    node.start((mcp, mcp_addr, terms), run, standby, control_plane, stream);
    let serving = node.stages.late.clone();
    let ops = ops::serve(operations, readiness.clone(), registry, serving);
    supervisor.spawn("data-plane-ops", OnEnd::Critical, async move {
        if let Err(error) = ops.await {
            tracing::error!(%error, "the operations listener failed");
        }
    });
    let stopping = node.stop();
    supervisor.spawn("data-plane-shutdown", OnEnd::Finish, stopping);
    tracing::info!(%mcp_addr, %ops_addr, "data plane listens");
    Ok(Running { mcp_addr, ops_addr, supervisor, readiness })
}

/// What is told about requests, and the tasks that tell it, if there is a collector.
async fn telemetry(
    config: &DataPlaneConfig,
    metrics: &Metrics,
    supervisor: &Supervisor,
    stop: &Shutdown,
) -> Result<Arc<Telemetry>, TelemetryError> {
    let operations = metrics.operations.clone();
    let durations = vec![operations.server.clone(), operations.client.clone()];
    let (source, lost) = (telemetry::source(&config.node), metrics.spans_lost.clone());
    let spans = otlp::start(&config.telemetry, source, durations, lost, supervisor, stop).await?;
    Ok(Arc::new(Telemetry::new(operations, spans, &config.telemetry)))
}

/// The order of stopping: each stage is requested when the one before it has ended.
#[derive(Clone, Debug, Default)]
struct Stages {
    /// Inviting clients to stay.
    draining: Shutdown,
    /// Accepting connections.
    accepting: Shutdown,
    /// Says that no connection can bring a request any more.
    quiet: Shutdown,
    /// Waiting for servers.
    calls: Shutdown,
    /// Everything that serves the others.
    late: Shutdown,
}

/// What the tasks of one node share.
#[derive(Clone, Debug)]
struct Node {
    config: DataPlaneConfig,
    state: Arc<ConfigState>,
    proofs: Arc<Proofs>,
    upstream: Arc<Upstream>,
    metrics: Arc<Metrics>,
    telemetry: Arc<Telemetry>,
    calls: Arc<OnceCell<Arc<Calls>>>,
    slots: Arc<Semaphore>,
    stages: Stages,
    _lock: Arc<File>,
    readiness: Readiness,
    supervisor: Supervisor,
}

impl Node {
    fn start(
        &self,
        (mcp, address, terms): (TcpListener, SocketAddr, Terms),
        run: Run,
        standby: Standby,
        control_plane: ControlPlane,
        stream: EventStream,
    ) {
        self.readiness.not_ready("config", "none received yet");
        self.readiness.not_ready("spool", "not open yet");
        let gateway = Arc::new(Gateway {
            state: Arc::clone(&self.state),
            calls: Arc::clone(&self.calls),
            authenticator: Authenticator::new(self.state.binding_keys()),
            proofs: Arc::clone(&self.proofs),
            guard: Guard {
                allowed_origins: self.config.allowed_origins.clone(),
                bound_to_loopback: self.config.listen.ip().is_loopback(),
                address,
            },
            metrics: Arc::clone(&self.metrics),
            telemetry: Arc::clone(&self.telemetry),
            supervisor: self.supervisor.clone(),
            body_room: Room::new(BODY_ROOM_BYTES),
            answer_room: Room::new(ANSWER_ROOM_BYTES),
            caller_keys: RandomState::new(),
            slots: Arc::clone(&self.slots),
            abort: self.stages.calls.clone(),
            stopping: self.stages.accepting.clone(),
            client_certificates: self.config.client_certificates,
            attributed_denials: Budget::new(ATTRIBUTED_DENIALS_PER_SECOND),
            shares: Shares::default(),
            has_started: AtomicBool::new(false),
            unread_wait_max: self.config.unread(),
        });
        let stages = listener::Stages {
            draining: self.stages.draining.clone(),
            stop: self.stages.accepting.clone(),
            quiet: self.stages.quiet.clone(),
            late: self.stages.late.clone(),
        };
        let door = (Places::new(self.config.connections_max), terms);
        self.supervisor.spawn("mcp-listener", OnEnd::Critical, listener::serve(mcp, door, gateway, stages));
        let (node, late) = (self.clone(), self.stages.late.clone());
        self.supervisor.spawn("config-stream", OnEnd::Critical, async move {
            late.or_stop(Box::pin(node.follow(run, standby, control_plane, stream))).await;
        });
        let (node, late) = (self.clone(), self.stages.late.clone());
        self.supervisor.spawn("readiness", OnEnd::Critical, async move {
            late.or_stop(node.watch_config()).await;
        });
    }

    /// Registers this run, opens its chain, then follows the configuration for ever. Without a control plane in reach a
    /// run that has what it needs begins all the same, and is registered when one answers.
    async fn follow(self, run: Run, standby: Standby, control_plane: ControlPlane, stream: EventStream) {
        let Standby { reserves, left, has_config } = standby;
        let registration =
            Registration { control_plane: control_plane.clone(), node: self.config.node.clone(), reserves };
        let begun = registration.begin(run.signer, left, has_config).await;
        let Begun { epoch, signer, is_registered, reserves } = begun;
        let answers = Answers::new(Arc::clone(&self.state), stream.clone());
        let listeners = Listeners::new(Arc::clone(&self.state), stream.clone());
        let (state, upstream) = (Arc::clone(&self.state), Arc::clone(&self.upstream));
        let levels = Levels::new(state, stream.clone(), upstream, self.supervisor.clone());
        self.keep("used-proofs", Arc::clone(&self.proofs).follow(stream.clone()));
        self.keep("proofs-told", Arc::clone(&self.proofs).tell_others(stream.clone()));
        let alone = (!is_registered).then(|| *signer.public_key());
        let start = recorder::Start {
            node: self.config.node.clone(),
            region: self.config.region.clone(),
            epoch,
            signer,
            spool: run.spool,
            recovered: run.recovered,
            recovery: run.recovery,
            reader: run.reader,
            stream,
            metrics: Arc::clone(&self.metrics),
            readiness: self.readiness.clone(),
        };
        let recorder = match Recorder::start(start, &self.supervisor) {
            Ok(recorder) => recorder,
            Err(error) => {
                tracing::error!(%error, "this run's chain cannot be opened");
                return;
            }
        };
        let calls = Calls {
            state: Arc::clone(&self.state),
            recorder,
            upstream: Arc::clone(&self.upstream),
            commitments: run.commitments,
            metrics: Arc::clone(&self.metrics),
            supervisor: self.supervisor.clone(),
            answers: Arc::clone(&answers),
            kept: Arc::default(),
            levels: Arc::clone(&levels),
            listeners: Arc::clone(&listeners),
        };
        self.keep("answers", answers.follow());
        self.keep("subscriptions", listeners.follow());
        self.keep("log-levels", levels.follow());
        // Set once: this function runs once.
        drop(self.calls.set(Arc::new(calls)));
        if let Some(public_key) = alone
            && let Err(error) = registration.begin_reserved(epoch, &public_key).await
        {
            tracing::error!(%error, epoch, "this run cannot go on; the next one registers anew");
            return;
        }
        let reserving = registration.keep_reserves(epoch, reserves, Arc::clone(&self.metrics));
        self.keep("reserves", Box::pin(reserving));
        let reports = ToolReports {
            client: config_client::client(&control_plane),
            control_plane: control_plane.clone(),
            node: self.config.node.clone(),
            state: Arc::clone(&self.state),
            upstream: Arc::clone(&self.upstream),
        };
        self.keep("tool-reports", reports.run());
        let lane = RevocationLane {
            uplink: control_plane.with_own_turn(),
            node: self.config.node.clone(),
            epoch,
            state: Arc::clone(&self.state),
            metrics: Arc::clone(&self.metrics),
        };
        self.keep("revocation-lane", Box::pin(lane.run()));
        let stream = ConfigStream {
            uplink: control_plane,
            node: self.config.node,
            epoch,
            state: self.state,
            metrics: self.metrics,
            discoveries: Some(Discoveries::new(self.upstream, self.supervisor)),
        };
        stream.run().await;
    }

    /// Runs a part that goes on until nothing is served any more.
    fn keep(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let late = self.stages.late.clone();
        self.supervisor.spawn(name, OnEnd::Critical, async move {
            late.or_stop(part).await;
        });
    }

    async fn watch_config(self) {
        let began = Instant::now();
        let mut noted = began;
        loop {
            // Calls wait for the chain: whoever has none cannot serve alone either.
            if began.elapsed() >= ALONE_AFTER && self.calls.initialized() && self.state.count_kept() {
                let age_seconds = self.state.age().unwrap_or_default().as_secs();
                tracing::warn!(age_seconds, "no control plane gives a lease: serving the configuration kept on disk");
                self.metrics.snapshot_in_use.set(1);
            }
            let (age, freshness) = (self.state.age(), self.state.freshness());
            self.metrics.lease_age_seconds.set(age.map_or(-1.0, |age| age.as_secs_f64()));
            if freshness == Freshness::Leased {
                self.metrics.snapshot_in_use.set(0);
            } else if noted.elapsed() >= AGE_NOTED_EVERY {
                noted = Instant::now();
                self.state.note_age();
            }
            match (self.state.config(), age, freshness) {
                (None, _, _) => self.readiness.not_ready("config", "none received yet"),
                (Some(_), None, _) => self.readiness.not_ready("config", "no lease yet"),
                (Some(_), Some(_), Freshness::Expired) => {
                    self.readiness.not_ready("config", "older than max_staleness_ms or snapshot_max_age_ms");
                }
                (Some(_), Some(_), Freshness::Leased | Freshness::Unleased) => self.readiness.ready("config"),
            }
            tokio::time::sleep(READINESS_TICK).await;
        }
    }

    /// See the file's header for the order.
    async fn stop(self) {
        self.supervisor.shutdown().requested().await;
        self.readiness.not_ready("running", "shutting down");
        self.stages.draining.request();
        tokio::time::sleep(self.config.drain_delay()).await;
        self.stages.accepting.request();
        self.stages.quiet.requested().await;
        let all = u32::try_from(self.config.calls_max).unwrap_or(u32::MAX);
        if tokio::time::timeout(self.config.drain(), self.slots.acquire_many(all)).await.is_err() {
            tracing::warn!("calls under way are given up; their outcomes are unknown");
            self.stages.calls.request();
            drop(tokio::time::timeout(ABORT_WAIT_MAX, self.slots.acquire_many(all)).await);
        }
        if let Some(calls) = self.calls.get() {
            calls.recorder.close().await;
        }
        self.upstream.close().await;
        self.stages.calls.request();
        self.stages.late.request();
    }
}
