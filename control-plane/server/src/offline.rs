//! What is done to a data directory while no node runs on it: beginning a cluster, and beginning it anew from a backup.
//!
//! Called by the command line (`cluster init`, `cluster restore`). Consensus, state and vault are those of a running
//! node, with nobody to talk to; when this returns, the directory is ready for `control-plane`. A restore verifies the
//! whole backup, and that its secrets open, before it writes a byte. One that breaks off leaves a directory that nothing
//! opens. Absent: services and listeners (`serve`).

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use bailiwick_consensus::{
    Alone, BackupSummary, Birth, Consensus, ConsensusError, LogLength, Member, Options, Timers, backup_changes,
    restore as restore_disk, verify_backup,
};
use bailiwick_control_plane_core::{State, evolve, member};
use bailiwick_runtime::{Shutdown, identity::fingerprint, metrics::Registry};

use crate::{
    birth::{Addresses, Home, new_cluster, new_incarnation},
    config::ControlPlaneConfig,
    config_stream::feed::Feed,
    domain::{Domain, Projection, Shared, read_event, run_writer},
    error::ControlPlaneError,
    metrics::Metrics,
    serve::READY_WAIT_MAX,
};

/// A cluster that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Stays the same for good.
    pub cluster_id: String,
    /// Which life of it.
    pub incarnation: String,
    /// The first member.
    pub node: String,
    /// Its id.
    pub node_id: u64,
    /// SHA-256 of the authority's certificate, hex: in every join token.
    pub fingerprint: String,
    /// Changes in the state.
    pub changes: u64,
}

/// Begins a cluster with the node of this configuration, whose data directory must be empty.
///
/// # Errors
/// [`ControlPlaneError`]; what is there already stays as it is.
pub async fn init(config: &ControlPlaneConfig) -> Result<Begun, ControlPlaneError> {
    config.check()?;
    let addresses = fixed_addresses(config)?;
    let home = Home::open(config).await?;
    let is_member = home.store.membership().map_err(bailiwick_enrolment::EnrolError::from)?.is_some();
    let birth = match Birth::read(home.disk.as_ref()).map_err(ConsensusError::Open)? {
        // Begun before, and broken off: a founder is a member only at the very end.
        Some(birth) if !is_member => birth,
        Some(birth) => {
            return Err(ControlPlaneError::AlreadyMember { cluster_id: birth.cluster_id, node_id: birth.node_id });
        }
        None => new_cluster().map_err(ConsensusError::Open)?,
    };
    begin(config, &home, &birth, &addresses).await
}

/// Begins the backed-up cluster anew, in a new life, with the node of this configuration as its only control plane.
///
/// # Errors
/// [`ControlPlaneError`]; what is there already stays as it is.
pub async fn restore(backup: &Path, config: &ControlPlaneConfig) -> Result<(Begun, BackupSummary), ControlPlaneError> {
    config.check()?;
    let addresses = fixed_addresses(config)?;
    let unreadable = |source| ControlPlaneError::Backup { path: backup.to_owned(), source };
    let file = || File::open(backup).map(BufReader::new);
    let summary = file().and_then(verify_backup).map_err(unreadable)?;
    let mut state = State::default();
    let folded = file().and_then(|file| {
        backup_changes(file, |change| {
            for event in &change.events {
                evolve(&mut state, &read_event(event)?, change.revision);
            }
            Ok(())
        })
    });
    folded.map_err(unreadable)?;
    let home = Home::open(config).await?;
    if let Some(birth) = Birth::read(home.disk.as_ref()).map_err(ConsensusError::Open)? {
        return Err(ControlPlaneError::AlreadyMember { cluster_id: birth.cluster_id, node_id: birth.node_id });
    }
    // With another master key the cluster could sign nothing: better to know before anything is written.
    home.vault.take_in(&state)?;
    let incarnation = new_incarnation().map_err(ConsensusError::Open)?;
    let node_id = member::next_node_id(&state, state.cluster.is_some());
    let birth = Birth { cluster_id: summary.cluster_id.clone(), incarnation, node_id };
    let (disk, of, first) = (Arc::clone(&home.disk), birth.clone(), first_member(config, &addresses));
    let path = backup.to_owned();
    let restored =
        tokio::task::spawn_blocking(move || restore_disk(File::open(path).map(BufReader::new)?, &disk, &of, first));
    let restored = restored.await.map_err(std::io::Error::other).map_err(unreadable)?;
    restored.map_err(unreadable)?;
    Ok((begin(config, &home, &birth, &addresses).await?, summary))
}

/// Runs the node without a network until the cluster is founded.
async fn begin(
    config: &ControlPlaneConfig,
    home: &Home,
    birth: &Birth,
    addresses: &Addresses,
) -> Result<Begun, ControlPlaneError> {
    let shared = Shared::default();
    let applier = Box::new(Projection::new(shared.clone(), Arc::new(Feed::new())));
    let options = Options {
        disk: Arc::clone(&home.disk),
        birth: birth.clone(),
        transport: Arc::new(Alone),
        applier,
        timers: Timers::default(),
        log_length: LogLength::default(),
    };
    let consensus = Consensus::open(options).await?;
    let founding = async {
        if !consensus.is_initialized().await? {
            consensus.initialize(first_member(config, addresses)).await?;
        }
        consensus.ready(READY_WAIT_MAX).await?;
        let (domain, mailbox) = Domain::new(consensus.clone(), shared.clone());
        let metrics = Metrics::register(&Registry::new());
        let stop = Shutdown::new();
        let writer = stop.or_stop(run_writer(mailbox, consensus.clone(), shared.clone(), metrics));
        let founded = async {
            let lives =
                |state: &State| state.cluster.as_ref().is_some_and(|cluster| cluster.incarnation == birth.incarnation);
            let founded = if domain.read(lives) {
                // Only its certificate was missing.
                home.vault.create_missing(&domain).await.map_err(ControlPlaneError::from)
            } else {
                home.found(config, birth, addresses, &domain).await
            };
            let founded = founded.and_then(|()| home.certify(config, birth).map(drop));
            stop.request();
            founded
        };
        let (_, founded) = tokio::join!(writer, founded);
        founded
    };
    let founded = Box::pin(founding).await;
    let changes = shared.read().version;
    consensus.shutdown().await;
    founded?;
    Ok(Begun {
        cluster_id: birth.cluster_id.clone(),
        incarnation: birth.incarnation.clone(),
        node: config.node.clone(),
        node_id: birth.node_id,
        fingerprint: home
            .identity
            .authority()
            .map(|authority| hex::encode(fingerprint(&authority)))
            .unwrap_or_default(),
        changes,
    })
}

fn first_member(config: &ControlPlaneConfig, addresses: &Addresses) -> Member {
    Member { name: config.node.clone(), peer: addresses.peer.clone(), api: addresses.api.clone() }
}

/// Where the node will be reached: nothing listens yet, so the ports must be named.
fn fixed_addresses(config: &ControlPlaneConfig) -> Result<Addresses, ControlPlaneError> {
    let mut problems = bailiwick_runtime::config::ConfigProblems::default();
    for (key, address, told) in
        [("listen", config.listen, &config.advertise_api), ("peer_listen", config.peer_listen, &config.advertise_peer)]
    {
        if address.port() == 0 && told.is_none() {
            problems.add(key, "must name a port, as others have to find this node");
        }
    }
    problems.into_result()?;
    Ok(Addresses { peer: config.peer_address(config.peer_listen), api: config.api_address(config.listen) })
}
