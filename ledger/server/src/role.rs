//! The ledger's life in one process: what starts in which order, and what stops in which.
//!
//! Start: check the configuration, bind both listeners, open the store, read or make the key, become a member
//! of the cluster, connect the stream, then spawn the tasks. Stop: the sequencer finishes the group in hand; the
//! publisher tries once more to publish; then the HTTP listeners close. A failing task requests the same ordered stop.

use std::{net::SocketAddr, sync::Arc};

use bailiwick_enrolment::{self as enrolment, ControlPlane, Joining};
use bailiwick_runtime::{
    EventStream, MasterKeys, OnEnd, Shutdown, Supervisor, identity::Role, listen, metrics::Registry, ops,
    ops::Readiness,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    checkpoints::{Published, Publisher, REPEATS_MAX, Standing, commitments::Commitments, covered_by},
    config::LedgerConfig,
    error::LedgerError,
    http::Api,
    identity::{self, Identity},
    metrics::Metrics,
    sequencer::{Sequencer, Wiring},
    store::{SharedStore, Store, StoreError},
};

/// A running ledger. Dropping it does not stop it; the `Shutdown` given to [`serve`] does.
#[derive(Debug)]
pub struct Running {
    /// Where queries, tiles and proofs are served.
    pub http_addr: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub ops_addr: SocketAddr,
    /// The log's verifier key, in the form of signed notes.
    pub verifier_key: String,
    supervisor: Supervisor,
}

impl Running {
    /// Returns once everything has stopped.
    /// # Errors
    /// When a task's failure was the cause.
    pub async fn stopped(self) -> Result<(), LedgerError> {
        Ok(self.supervisor.ended().await?)
    }
}

/// What is opened before anything runs.
struct Opened {
    store: SharedStore,
    identity: Arc<Identity>,
    published: Option<Arc<Published>>,
    master_keys: MasterKeys,
}

/// Starts a ledger; returns once it serves. It stops when `shutdown` is requested.
/// # Errors
/// [`LedgerError`] when it cannot start; then nothing is left running.
pub async fn serve(config: LedgerConfig, stream: EventStream, shutdown: Shutdown) -> Result<Running, LedgerError> {
    config.check()?;
    // Bound before anything is opened, so that a second ledger on the same addresses leaves no trace.
    let listeners = bind(&config).await?;
    let opening = config.clone();
    let opened = tokio::task::spawn_blocking(move || open(&opening)).await;
    run(config, stream, opened.map_err(|_| StoreError::Interrupted)??, listeners, shutdown).await
}

async fn bind(config: &LedgerConfig) -> Result<Listeners, LedgerError> {
    let http = listen::tcp("ledger queries", "ledger.listen", config.listen).await?;
    let ops = listen::tcp("ledger operations", "ledger.ops_listen", config.ops_listen).await?;
    Ok(Listeners { http, ops })
}

async fn run(
    config: LedgerConfig,
    stream: EventStream,
    opened: Opened,
    listeners: Listeners,
    shutdown: Shutdown,
) -> Result<Running, LedgerError> {
    let http_addr = listeners.http.local_addr().map_err(LedgerError::Address)?;
    let ops_addr = listeners.ops.local_addr().map_err(LedgerError::Address)?;
    let verifier_key = opened.identity.verifier.to_string();
    let supervisor = Supervisor::new(shutdown.child());
    let joined = enrolment::join(joining(&config, opened.master_keys.clone()), &supervisor).await;
    let started = match joined {
        Ok(control_plane) => start(&config, stream, opened, listeners, control_plane, &supervisor).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = started {
        supervisor.shutdown().request();
        return Err(error);
    }
    tracing::info!(%http_addr, %ops_addr, origin = %config.origin, "ledger serves");
    Ok(Running { http_addr, ops_addr, verifier_key, supervisor })
}

fn joining(config: &LedgerConfig, master_keys: MasterKeys) -> Joining {
    Joining {
        role: Role::Ledger,
        name: config.node.clone(),
        urls: config.control_plane.clone(),
        join_token: config.join_token.clone(),
        join_token_file: config.join_token_file.clone(),
        keys: config.data_dir.join("keys"),
        master_keys,
        sealed_files: vec![identity::file(&config.data_dir)],
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn open(config: &LedgerConfig) -> Result<Opened, LedgerError> {
    let (data_dir, origin) = (config.data_dir.as_path(), config.origin.as_str());
    let folder = |source| LedgerError::Folder { path: data_dir.to_owned(), source };
    std::fs::create_dir_all(data_dir).map_err(folder)?;
    config.master_key.outside(data_dir)?;
    let master_keys = MasterKeys::load(&config.master_key)?;
    let database = data_dir.join("db");
    let store = Store::open(&database)?;
    let identity = identity::load(data_dir, &master_keys, origin)?;
    store.bind_identity(origin, &identity.verifier.to_string())?;
    let newest = store.latest_checkpoint()?;
    let published = newest.map(|(size, note)| Arc::new(Published { size, note }));
    Ok(Opened { store: SharedStore::new(database, store), identity: Arc::new(identity), published, master_keys })
}

struct Listeners {
    http: TcpListener,
    ops: TcpListener,
}

/// The order of stopping: each stage is requested when the one before it has ended.
struct Stages {
    intake: Shutdown,
    publishing: Shutdown,
    serving: Shutdown,
}

async fn start(
    config: &LedgerConfig,
    stream: EventStream,
    opened: Opened,
    listeners: Listeners,
    control_plane: ControlPlane,
    supervisor: &Supervisor,
) -> Result<(), LedgerError> {
    let Opened { store, identity, published, master_keys: _ } = opened;
    let (readiness, registry) = (Readiness::new(), Registry::new());
    let metrics = Metrics::register(&registry);
    let stages = Stages { intake: Shutdown::new(), publishing: Shutdown::new(), serving: Shutdown::new() };
    let (size_sender, size) = watch::channel(0);
    let (repeated_sender, repeated) = mpsc::channel(REPEATS_MAX);
    let progress = store.run(Store::progress).await?;
    let covered = published.as_ref().map_or_else(Vec::new, |published| covered_by(published.size, progress.chains));
    let (published_sender, published) = watch::channel(published);
    let (standing_sender, standing) = watch::channel(Standing::Unknown);
    let publisher = Publisher {
        store: store.clone(),
        identity: Arc::clone(&identity),
        region: config.region.clone(),
        stream: stream.clone(),
        commitments: Commitments::new(control_plane),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        size: size.clone(),
        repeated,
        published: published_sender,
        standing: standing_sender,
        committed: None,
        covered,
    };
    let wiring = Wiring {
        stream,
        region: config.region.clone(),
        readiness: readiness.clone(),
        metrics,
        size: size_sender,
        repeated: repeated_sender,
        standing,
    };
    let sequencer = Sequencer::connect(store.clone(), wiring).await?;
    let api = Api::new(store, identity, size, published, stages.serving.clone());

    let (sequenced, intake_ended) = oneshot::channel::<()>();
    let (concluded, publishing_ended) = oneshot::channel::<()>();
    let (intake, publishing) = (stages.intake.clone(), stages.publishing.clone());
    supervisor.spawn("ledger-sequencer", OnEnd::Critical, async move {
        sequencer.run(intake).await;
        drop(sequenced);
    });
    supervisor.spawn("ledger-publisher", OnEnd::Critical, async move {
        publisher.run(publishing).await;
        drop(concluded);
    });
    supervisor.spawn("ledger-http", OnEnd::Critical, ended("queries", api.serve(listeners.http)));
    let operations = ops::serve(listeners.ops, readiness, registry, stages.serving.clone());
    supervisor.spawn("ledger-ops", OnEnd::Critical, ended("operations", operations));
    let stop = supervisor.shutdown().clone();
    supervisor.spawn("ledger-shutdown", OnEnd::Finish, async move {
        stop.requested().await;
        stages.intake.request();
        // The senders are dropped when their tasks end, even by a panic; the error only says so.
        drop(intake_ended.await);
        stages.publishing.request();
        drop(publishing_ended.await);
        stages.serving.request();
    });
    Ok(())
}

async fn ended(what: &'static str, served: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = served.await {
        tracing::error!(what, %error, "a listener failed");
    }
}

#[cfg(test)]
mod tests;
