//! Why a ledger cannot start or has ended.
//!
//! Errors of single requests (`http`), writes (`store`) and publications (`checkpoints`) have their own types; only
//! what ends the role is here, for the command line to show.

use bailiwick_enrolment::EnrolError;
use bailiwick_runtime::{
    config::ConfigProblems, event_stream::StreamError, listen::BindError, master_key::MasterKeyError,
    sealed_file::SealedFileError, tasks::TaskFailed,
};

use crate::store::StoreError;

/// What ends a ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The configuration is not usable; all mistakes are listed.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// The data folder or a key file cannot be used.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no master key, or not the right one.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// A sealed key cannot be opened.
    #[error(transparent)]
    Sealed(#[from] SealedFileError),
    /// The node is no member of the cluster.
    #[error(transparent)]
    Enrolment(#[from] EnrolError),
    /// The signing key is not one.
    #[error("{0} holds no Ed25519 key")]
    Key(std::path::PathBuf),
    /// The system gave no randomness for a new key.
    #[error("no randomness for a new signing key")]
    Randomness,
    /// The database cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event stream cannot be consumed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// An address is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A bound listener does not tell its address.
    #[error("a listener does not tell its address: {0}")]
    Address(std::io::Error),
    /// A task ended that must not.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}
