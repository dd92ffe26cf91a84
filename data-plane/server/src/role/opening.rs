//! What a node reads from its disk before anything runs, and as whom it becomes a member.
//!
//! Called by `role` at start, off the runtime's threads. The lock is held as long as the process: two must never write
//! one spool.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bailiwick_enrolment::Joining;
use bailiwick_ledger_core::key::NodeSigner;
use bailiwick_runtime::{MasterKeys, identity::Role};

use super::DataPlaneError;
use crate::{
    commitments::CommitmentKey,
    config::DataPlaneConfig,
    recorder::{self, Reader, Recovery, RecoveryError},
    snapshot,
    spool::{RecoveredEpoch, Spool, disk::RealDisk},
};

/// What is read from disk before anything runs.
pub(super) struct Opened {
    pub(super) lock: File,
    pub(super) run: Run,
    pub(super) master_keys: MasterKeys,
}

/// What this run's chain starts from.
pub(super) struct Run {
    pub(super) spool: Spool,
    pub(super) recovered: Vec<RecoveredEpoch>,
    pub(super) recovery: Recovery,
    pub(super) reader: Arc<Reader>,
    pub(super) commitments: CommitmentKey,
    pub(super) signer: NodeSigner,
}

/// Reads all of it; waits for the disk.
pub(super) fn open(config: &DataPlaneConfig) -> Result<Opened, DataPlaneError> {
    let folder = config.data_dir.join("spool");
    let unusable = |path: PathBuf| move |source| DataPlaneError::DataDir { path, source };
    std::fs::create_dir_all(&folder).map_err(unusable(folder.clone()))?;
    let lock = lock(&config.data_dir.join("lock")).map_err(unusable(config.data_dir.clone()))?;
    config.master_key.outside(&config.data_dir)?;
    let master_keys = MasterKeys::load(&config.master_key)?;
    let commitments = CommitmentKey::load(&commitment_key(config), &master_keys)?;
    let broken = |error: RecoveryError| DataPlaneError::Spool(error.to_string());
    let opened = Spool::open(Arc::new(RealDisk), &folder, config.spool_bytes_max);
    let (spool, recovered) = opened.map_err(|error| broken(error.into()))?;
    let recovery = recorder::recover(&spool, &config.node, &recovered, &recorder::now_ts()).map_err(broken)?;
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| DataPlaneError::Crypto("no randomness".to_owned()))?;
    let signer = NodeSigner::from_seed(&seed).map_err(|error| DataPlaneError::Crypto(error.to_string()))?;
    let reader = Arc::new(Reader::open(config.data_dir.join("ledger-kinds")));
    Ok(Opened { lock, run: Run { spool, recovered, recovery, reader, commitments, signer }, master_keys })
}

fn commitment_key(config: &DataPlaneConfig) -> PathBuf {
    config.data_dir.join("keys").join("commitment.key")
}

/// How this node becomes a member.
pub(super) fn joining(config: &DataPlaneConfig, master_keys: MasterKeys) -> Joining {
    Joining {
        role: Role::DataPlane,
        name: config.node.clone(),
        urls: config.control_plane.clone(),
        join_token: config.join_token.clone(),
        join_token_file: config.join_token_file.clone(),
        keys: config.data_dir.join("keys"),
        master_keys,
        sealed_files: vec![commitment_key(config), snapshot::key_file(&config.data_dir.join("keys"))],
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Two processes must never write one spool. The lock goes with the process, however it ends.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::WouldBlock, "another process is using it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
