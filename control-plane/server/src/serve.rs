//! The control plane's life in one process: what starts in which order, and what stops in which.
//!
//! Start: check the configuration, bind the listeners, open the data directory and learn whom it belongs to (`birth`),
//! open consensus (which folds the stored events), certify this node, then serve; what only a leader does waits until
//! this node leads (`leadership`). Nobody is waited for: a node whose colleagues are down serves what it can and says
//! why it is not ready. Stop: the lead is handed over first; then the listeners finish what they are doing and config
//! sessions end; with the last of them the writer ends; consensus and peers stop last. What was acknowledged is on the
//! disk at every moment, so none of this is needed for safety.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bailiwick_consensus::{Applier, Birth, Consensus, ConsensusError, LogLength, Member, Options, Timers};
use bailiwick_control_plane_core::token_key::Issuer;
use bailiwick_proto::v1::{
    admin_server::AdminServer, checkpoints_server::CheckpointsServer, cluster_server::ClusterServer,
    enrolment_server::EnrolmentServer, internal_server::InternalServer,
};
use bailiwick_runtime::{
    EventStream, OnEnd, Shutdown, Supervisor, listen,
    metrics::Registry,
    ops::{self, Readiness},
    tls,
};
use tokio::net::TcpListener;
use tonic::transport::Server;

use crate::{
    admin::AdminService,
    announce,
    birth::{Addresses, Home, new_cluster},
    checkpoints::CheckpointService,
    cluster::ClusterService,
    config::ControlPlaneConfig,
    config_stream::{self, ConfigService, balance, feed::Feed, wire::ConfigServer},
    decisions::Decisions,
    domain::{Domain, Projection, Shared, run_writer},
    enrolment::EnrolmentService,
    error::ControlPlaneError,
    forward::Gate,
    http,
    internal::Colleagues,
    leadership::Duties,
    links::Links,
    metrics::Metrics,
    oauth::{Services, UsedProofs, certificate::ClientCertificates, documents::Documents, limits::Limits},
    outbound::Fetcher,
    peers::Peers,
    providers::Providers,
    rollout::Rollouts,
    sign_in::LocalCode,
    signals::{Receiver, poll::Polling, streams::Streams},
};

/// Longest wait at start of a node that is alone until it leads.
pub(crate) const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Largest message of an administrator: the largest manifests the domain takes, with room.
const ADMIN_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest answer: every consent there may be, with room.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A connection that answers no ping within this is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is asked to end after this, so that clients connect again with the certificates they have by then.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(20 * 60);
/// Streams that go on have so long; together less than the half of its life that a certificate has left when it is
/// used.
const CONNECTION_GRACE_MAX: Duration = Duration::from_secs(9 * 60);
/// Streams and calls together on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// How often the metrics look at consensus.
const METRICS_EVERY: Duration = Duration::from_secs(1);
/// Conditions in `/readyz`.
const READY_CONSENSUS: &str = "consensus";
const READY_DIVERGED: &str = "history";

/// A running control-plane node. Dropping it does not stop it; the `Shutdown` given to [`serve`] does.
#[derive(Debug)]
pub struct Running {
    /// Administration, configuration and checkpoints (gRPC).
    pub grpc_addr: SocketAddr,
    /// The other control planes (QUIC, UDP).
    pub peer_addr: SocketAddr,
    /// Token keys and metadata (HTTP).
    pub http_addr: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub ops_addr: SocketAddr,
    supervisor: Supervisor,
    consensus: Consensus,
    peers: Peers,
}

impl Running {
    /// Returns once everything has stopped.
    ///
    /// # Errors
    /// When a task's failure was the cause.
    pub async fn stopped(self) -> Result<(), ControlPlaneError> {
        let ended = self.supervisor.ended().await;
        let failure = self.consensus.failure();
        // Peers hold on to consensus for as long as they are served, and handing over needs them.
        self.consensus.hand_over().await;
        self.peers.close().await;
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
    let home = Home::open(&config).await?;
    let unbound = |source| ControlPlaneError::Peers { addr: config.peer_listen, source };
    let peers = Peers::bind(home.identity.clone(), config.peer_listen).map_err(unbound)?;
    let peer_addr = peers.local_addr().map_err(ControlPlaneError::Address)?;
    let addresses = Addresses { peer: config.peer_address(peer_addr), api: config.api_address(grpc_addr) };
    let birth = match home.belongs(&config, &addresses).await? {
        Some(birth) => birth,
        None if config.found => new_cluster().map_err(ConsensusError::Open)?,
        None => return Err(ControlPlaneError::NotMember),
    };

    let (shared, feed) = (Shared::default(), Arc::new(Feed::new()));
    let projection = Projection::new(shared.clone(), Arc::clone(&feed));
    let consensus = open_consensus(&home, &birth, &peers, Box::new(projection)).await?;
    peers.serve(Arc::new(consensus.clone()));
    let supervisor = Supervisor::new(Shutdown::new());
    let parts =
        Parts { shared, feed, home, birth, addresses, listeners, consensus: consensus.clone(), peers: peers.clone() };
    let started = Box::pin(start(&config, stream, parts, &supervisor)).await;
    if let Err(error) = started {
        supervisor.shutdown().request();
        peers.close().await;
        consensus.shutdown().await;
        return Err(error);
    }
    supervisor.spawn(
        "control-plane-stop",
        OnEnd::Critical,
        stop(shutdown, consensus.clone(), supervisor.shutdown().clone()),
    );
    tracing::info!(%grpc_addr, %peer_addr, %http_addr, %ops_addr, node = %config.node, "control plane serves");
    Ok(Running { grpc_addr, peer_addr, http_addr, ops_addr, supervisor, consensus, peers })
}

async fn open_consensus(
    home: &Home,
    birth: &Birth,
    peers: &Peers,
    applier: Box<dyn Applier>,
) -> Result<Consensus, ConsensusError> {
    let options = Options {
        disk: Arc::clone(&home.disk),
        birth: birth.clone(),
        transport: Arc::new(peers.clone()),
        applier,
        timers: Timers::default(),
        log_length: LogLength::default(),
    };
    Consensus::open(options).await
}

/// When this process is to stop: has another node lead first, then stops everything here.
async fn stop(asked: Shutdown, consensus: Consensus, everything: Shutdown) {
    tokio::select! {
        () = asked.requested() => {
            consensus.hand_over().await;
            everything.request();
        }
        () = everything.requested() => {}
    }
}

/// What is opened before anything runs.
struct Parts {
    shared: Shared,
    feed: Arc<Feed>,
    home: Home,
    birth: Birth,
    addresses: Addresses,
    listeners: Listeners,
    consensus: Consensus,
    peers: Peers,
}

async fn start(
    config: &ControlPlaneConfig,
    stream: EventStream,
    parts: Parts,
    supervisor: &Supervisor,
) -> Result<(), ControlPlaneError> {
    let Parts { shared, feed, home, birth, addresses, listeners, consensus, peers } = parts;
    let (readiness, registry) = (Readiness::new(), Registry::new());
    readiness.not_ready(READY_CONSENSUS, "no leader is known yet");
    let metrics = Metrics::register(&registry);
    let stop = supervisor.shutdown().clone();
    let operations = ops::serve(listeners.ops, readiness.clone(), registry, stop.clone());
    supervisor.spawn("control-plane-ops", OnEnd::Critical, ended("operations", operations));
    let (domain, mailbox) = Domain::new(consensus.clone(), shared.clone());
    let writer = run_writer(mailbox, consensus.clone(), shared, metrics.clone());
    supervisor.spawn("control-plane-writer", OnEnd::Critical, writer);

    domain.read(|state| home.vault.take_in(state))?;
    alone(config, &home, &birth, &addresses, &domain).await?;
    let own = home.certify(config, &birth)?;
    let links = Links::new(home.identity.clone());
    supervise(supervisor, &domain, &home, &feed, &metrics, &readiness, &peers);
    supervisor.spawn(
        "control-plane-certificate",
        OnEnd::Critical,
        own.clone().keep(home.vault.keys(), home.elsewhere(config), stop.clone()),
    );
    let announcing = announce::run(domain.clone(), links.clone(), own, addresses, stop.clone());
    supervisor.spawn("control-plane-announce", OnEnd::Finish, announcing);
    let colleagues = Colleagues {
        domain: domain.clone(),
        nodes: Arc::default(),
        links: links.clone(),
        master_keys: home.vault.masters().clone(),
        scim_reserved_groups: Arc::new(config.scim_reserved_groups()),
    };
    let gate = Gate { domain: domain.clone(), links, metrics: metrics.clone() };
    let decisions = Decisions::new(&gate, colleagues.clone(), &config.node);
    let fetcher = Fetcher::new(config.outbound_ca_file.as_deref()).map(Arc::new);
    let fetcher = fetcher.map_err(|error| ControlPlaneError::Outbound(error.to_string()))?;
    let providers = Arc::new(Providers::new(fetcher.clone(), supervisor.clone()));
    let (asked, keys) = (decisions.clone(), home.vault.keys());
    let receiver = Receiver { decisions: asked, providers: Arc::clone(&providers), metrics: metrics.clone() };
    let signals = Polling::new(domain.clone(), keys, receiver);
    lead(config, &home, &colleagues, signals, stream, &metrics, &readiness, supervisor).await?;

    let configs = stream_config(&home, &colleagues, feed, &metrics, readiness, supervisor);
    let admin = AdminService {
        domain: domain.clone(),
        colleagues: colleagues.clone(),
        keys: home.vault.keys(),
        vault: home.vault.clone(),
        node: config.node.clone(),
        metrics: metrics.clone(),
        streams: Streams { domain: domain.clone(), keys: home.vault.keys(), providers: Arc::clone(&providers) },
    };
    let cluster = ClusterService {
        domain: domain.clone(),
        colleagues: colleagues.clone(),
        vault: home.vault.clone(),
        supervisor: supervisor.clone(),
    };
    let enrolment = EnrolmentService { domain: domain.clone(), keys: home.vault.keys() };
    let documents = Documents::new(fetcher, config.client_document_networks(), supervisor.clone());
    let limits = Limits::new(&config.http_limits, metrics.clone());
    let authorization = Services {
        domain: domain.clone(),
        refusals: crate::refusals::Refusals::start(&config.node, decisions.clone(), supervisor),
        decisions,
        keys: home.vault.keys(),
        providers,
        documents: Arc::new(documents),
        metrics,
        limits,
        dpop: UsedProofs::new(),
        local_sign_in: config.local_sign_in_code.clone().map(LocalCode::new),
        client_registration: config.client_registration,
        certificates: ClientCertificates::of(config)?,
        scim_agents: Arc::new(config.scim_agents.clone()),
        auditor_groups: config.auditor_groups.clone().into(),
        scim_reserved_groups: Arc::clone(&colleagues.scim_reserved_groups),
    };
    let admin = AdminServer::new(admin)
        .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let grpc = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_connection_age(CONNECTION_AGE_MAX)
        .max_connection_age_grace(CONNECTION_GRACE_MAX)
        .layer(gate)
        .add_service(admin)
        .add_service(configs)
        .add_service(CheckpointsServer::new(CheckpointService { domain: domain.clone() }))
        .add_service(ClusterServer::new(cluster))
        .add_service(EnrolmentServer::new(enrolment))
        .add_service(InternalServer::new(colleagues).max_encoding_message_size(ANSWER_BYTES_MAX));
    let incoming = tls::incoming(listeners.grpc, &home.identity, config.loopback_plaintext, supervisor)?;
    let until = stop.clone();
    let serving = grpc.serve_with_incoming_shutdown(incoming, async move { until.requested().await });
    supervisor.spawn("control-plane-grpc", OnEnd::Critical, ended("gRPC", serving));
    supervisor.spawn(
        "control-plane-http",
        OnEnd::Critical,
        http::serve(listeners.http, authorization, http::Terms::of(config), supervisor.clone()),
    );
    Ok(())
}

/// What streams configuration to data planes, with what it needs running.
fn stream_config(
    home: &Home,
    colleagues: &Colleagues,
    feed: Arc<Feed>,
    metrics: &Metrics,
    readiness: Readiness,
    supervisor: &Supervisor,
) -> ConfigServer {
    let (domain, stop) = (&colleagues.domain, supervisor.shutdown());
    let (beats, heartbeats) = config_stream::heartbeats::heartbeats();
    let beating = config_stream::beat(domain.clone(), Arc::clone(&feed), beats, beaten(readiness), stop.clone());
    supervisor.spawn("control-plane-heartbeat", OnEnd::Critical, beating);
    let (proofs, proving) = config_stream::prove_on_demand(domain.clone(), Arc::clone(&feed), stop.clone());
    supervisor.spawn("control-plane-proofs", OnEnd::Critical, proving);
    let balancing = balance::run(Arc::clone(&colleagues.nodes), colleagues.clone(), stop.clone());
    supervisor.spawn("control-plane-balance", OnEnd::Critical, balancing);
    ConfigServer(Arc::new(ConfigService {
        domain: domain.clone(),
        feed,
        nodes: Arc::clone(&colleagues.nodes),
        keys: home.vault.keys(),
        heartbeats,
        slots: config_stream::snapshot::Slots::new(),
        statements: config_stream::statements::Statements::new(home.identity.clone()),
        proofs,
        supervisor: supervisor.clone(),
        shutdown: stop.clone(),
        metrics: metrics.clone(),
    }))
}

/// Takes on the leader's duties whenever this node leads.
#[expect(clippy::too_many_arguments, reason = "what a leader needs, each named once")]
async fn lead(
    config: &ControlPlaneConfig,
    home: &Home,
    colleagues: &Colleagues,
    signals: Polling,
    stream: EventStream,
    metrics: &Metrics,
    readiness: &Readiness,
    supervisor: &Supervisor,
) -> Result<(), ControlPlaneError> {
    let issuer = Issuer { issuer: config.issuer.clone(), mcp_url: config.mcp_url.clone() };
    let (domain, vault, node) = (colleagues.domain.clone(), home.vault.clone(), config.node.clone());
    let rollouts = Rollouts {
        domain: domain.clone(),
        colleagues: colleagues.clone(),
        node: node.clone(),
        metrics: metrics.clone(),
    };
    let duties = Duties {
        domain: domain.clone(),
        vault,
        issuer,
        node,
        stream,
        metrics: metrics.clone(),
        rollouts,
        signals,
        colleagues: colleagues.clone(),
        token_key_days: config.token_key_days,
    };
    if domain.consensus().is_leader() {
        // So that a node that is alone has all it needs before it serves.
        duties
            .state_once()
            .await
            .map_err(|error| ControlPlaneError::Statement { what: "the issuer", why: error.to_string() })?;
        readiness.ready(READY_CONSENSUS);
    }
    supervisor.spawn("control-plane-leadership", OnEnd::Critical, duties.run(supervisor.shutdown().clone()));
    Ok(())
}

/// A node that is the only voter waits for nobody: it leads before it serves, and founds its cluster if that was not
/// done, or was broken off.
async fn alone(
    config: &ControlPlaneConfig,
    home: &Home,
    birth: &Birth,
    addresses: &Addresses,
    domain: &Domain,
) -> Result<(), ControlPlaneError> {
    let consensus = domain.consensus();
    let begins = !consensus.is_initialized().await?;
    if begins && !config.found {
        return Ok(());
    }
    if begins {
        let member = Member { name: config.node.clone(), peer: addresses.peer.clone(), api: addresses.api.clone() };
        consensus.initialize(member).await?;
    }
    let voters = consensus.membership().voters;
    if !begins && (voters.len() != 1 || !voters.contains_key(&consensus.node_id())) {
        return Ok(());
    }
    consensus.ready(READY_WAIT_MAX).await?;
    domain.read_latest(|_| ()).await?;
    let anew = |state: &bailiwick_control_plane_core::State| {
        state.cluster.as_ref().is_none_or(|cluster| cluster.incarnation != birth.incarnation)
    };
    if domain.read(anew) { Box::pin(home.found(config, birth, addresses, domain)).await } else { Ok(()) }
}

/// Watches over what must not end.
fn supervise(
    supervisor: &Supervisor,
    domain: &Domain,
    home: &Home,
    feed: &Feed,
    metrics: &Metrics,
    readiness: &Readiness,
    peers: &Peers,
) {
    let stop = supervisor.shutdown();
    let following = home.vault.clone().follow(domain.clone(), feed.revisions(), stop.clone());
    supervisor.spawn("control-plane-vault", OnEnd::Critical, async move {
        if let Err(error) = following.await {
            tracing::error!(%error, "this node cannot open the cluster's secrets and ends");
        }
    });
    let (served, until) = (peers.clone(), stop.clone());
    supervisor.spawn("control-plane-peers", OnEnd::Critical, async move {
        let _stopped = until.or_stop(served.ended()).await;
    });
    let consensus = domain.consensus().clone();
    let watched = watch_consensus(consensus.clone(), metrics.clone(), readiness.clone(), stop.clone());
    supervisor.spawn("control-plane-consensus", OnEnd::Critical, watched);
    let (metrics, until) = (metrics.clone(), stop.clone());
    supervisor.spawn("control-plane-metrics", OnEnd::Critical, async move {
        while until.or_stop(tokio::time::sleep(METRICS_EVERY)).await.is_some() {
            let members = consensus.membership();
            metrics.consensus(consensus.is_leader(), consensus.term(), members.voters.len(), members.learners.len());
        }
    });
}

/// Ready is a node that can prove that its state is current: it knows a leader and has caught up.
fn beaten(readiness: Readiness) -> impl Fn(Result<(), &ConsensusError>) + Send {
    move |proven| match proven {
        Ok(()) => readiness.ready(READY_CONSENSUS),
        Err(error) => readiness.not_ready(READY_CONSENSUS, error.to_string()),
    }
}

/// A node whose storage failed can answer nothing more, so it ends: whoever supervises the process starts it again,
/// and with a working disk it goes on with all it acknowledged. One whose history differs from the others' must not go
/// on at all: it stays, refuses, and shows the alarm until somebody looks.
async fn watch_consensus(consensus: Consensus, metrics: Metrics, readiness: Readiness, shutdown: Shutdown) {
    let Some(failure) = shutdown.or_stop(consensus.failed()).await else { return };
    if let ConsensusError::Diverged(_) = failure {
        metrics.diverged();
        readiness.not_ready(READY_DIVERGED, failure.to_string());
        tracing::error!(error = %failure, "ALARM: this node's history differs from the others'; it serves no more");
        shutdown.requested().await;
        return;
    }
    tracing::error!(error = %failure, "consensus has stopped; this node ends and has to be started again");
}

async fn ended<E: std::fmt::Display>(what: &'static str, served: impl Future<Output = Result<(), E>>) {
    if let Err(error) = served.await {
        tracing::error!(what, %error, "a listener failed");
    }
}
