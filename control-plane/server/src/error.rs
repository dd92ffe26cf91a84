//! What keeps a control plane from starting, or ended it: one enum for the command line to show.
//!
//! Made by `serve`, `birth` and `offline`. Absent: why a single request is refused (`status`).

use std::{io, net::SocketAddr, path::PathBuf};

use bailiwick_consensus::ConsensusError;
use bailiwick_enrolment::EnrolError;
use bailiwick_runtime::{
    config::ConfigProblems, identity::IdentityError, listen::BindError, master_key::MasterKeyError, tasks::TaskFailed,
};

use crate::vault::VaultError;

/// What keeps a control plane from starting, or ended it.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The configuration is not usable; all mistakes are listed.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// An address is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The address for peers is taken.
    #[error("cannot listen for peers on {addr} (UDP, `control_plane.peer_listen`): {source}")]
    Peers {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A bound listener does not tell its address.
    #[error("a listener does not tell its address: {0}")]
    Address(io::Error),
    /// The data directory cannot be made or opened.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authorities to believe when something is fetched cannot be read.
    #[error("`control_plane.outbound_ca_file`: {0}")]
    Outbound(String),
    /// The authorities to believe of clients' certificates cannot be read.
    #[error("`control_plane.http_client_ca_file`: {0}")]
    ClientAuthorities(String),
    /// There is no master key, or not the right one.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// The data directory is empty and nothing says what it should become.
    #[error(
        "this node belongs to no cluster: begin one with `bailiwick cluster init --config FILE`, or run `bailiwick \
         cluster join-token control-plane` on a member and set `join` and `join_token_file` in [control_plane]"
    )]
    NotMember,
    /// The data directory belongs to a cluster already.
    #[error("the data directory is that of node {node_id} of cluster {cluster_id} already; nothing was changed")]
    AlreadyMember {
        /// Which cluster.
        cluster_id: String,
        /// Which node.
        node_id: u64,
    },
    /// The configuration names another node than the one whose data this is.
    #[error("this is the data of node \"{kept}\", but `control_plane.node` says \"{wanted}\"; a node keeps its name")]
    Renamed {
        /// Its name.
        kept: String,
        /// The configuration's.
        wanted: String,
    },
    /// This node cannot become a member, or its own keys cannot be read.
    #[error(transparent)]
    Enrolment(#[from] EnrolError),
    /// What this node keeps of its membership cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// This node cannot certify itself.
    #[error("this node cannot certify itself: {0}")]
    Certificate(String),
    /// The cluster's secrets cannot be opened or made.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The log cannot be opened or led.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The backup is damaged, or does not fit.
    #[error("the backup {path} cannot be restored: {source}")]
    Backup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What this node states at start was refused.
    #[error("cannot state {what}: {why}")]
    Statement {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A task ended that must not.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}
