//! What can be asked of `bailiwick cluster`. The help texts here are also the reference in `docs/reference/cli.md`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Begin a cluster with this node. Once; offline; for an empty data directory.
    ///
    /// Makes the data directory, the cluster's certificate authority and its first secrets, sealed under the master key
    /// that [master_key] in the configuration names. A master key file that is missing is made: keep a copy of it
    /// elsewhere, for without it no secret of the cluster opens again.
    Init(ClusterInitArgs),
    /// Let one more node, or one administrator, in: prints a token that is good once, for ten minutes, in one role.
    JoinToken(ClusterJoinTokenArgs),
    /// Show the members, who leads, and how far each is.
    Members(ClusterOutputArgs),
    /// Remove a member for good. A control plane comes back only under a new name, with an empty data directory.
    Remove(ClusterRemoveArgs),
    /// Copy the whole state into one file, and verify it.
    Backup(ClusterBackupArgs),
    /// Begin the cluster anew from a backup, with this node alone. Offline; for an empty data directory.
    ///
    /// The file is verified whole before a byte of it is used. The cluster keeps its id and begins a new life: whatever
    /// belongs to the former one is refused.
    Restore(ClusterRestoreArgs),
    /// Seal every secret anew under the newest master key, once all control planes hold it.
    RotateMasterKey(ClusterOutputArgs),
    /// Have another control plane lead, e.g. before maintenance of the one that does.
    TransferLeader(ClusterTransferArgs),
    /// Become an administrator on this machine, with a join token for the role admin.
    ///
    /// Afterwards commands may use https URLs. Key and certificate are kept in the data folder; BAILIWICK_IDENTITY names
    /// another one.
    Enrol(ClusterEnrolArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ClusterInitArgs {
    /// The node's configuration (TOML), with the sections [control_plane] and [master_key].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterJoinTokenArgs {
    /// control-plane, data-plane, ledger or admin.
    #[arg(value_parser = ["control-plane", "data-plane", "ledger", "admin"])]
    pub(crate) role: String,
    /// Only a node of this name may use it. Needed for a data plane or ledger that comes back with an empty disk.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A control plane that replicates and serves, but never votes: for a far region.
    #[arg(long)]
    pub(crate) learner: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterOutputArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterRemoveArgs {
    /// Its name, or a control plane's node id.
    pub(crate) member: String,
    /// Even if fewer voters than a majority would answer afterwards.
    #[arg(long)]
    pub(crate) force: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterBackupArgs {
    /// The file to write, for its owner alone.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterRestoreArgs {
    /// What `cluster backup` wrote.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The node's configuration (TOML), with the master key that was in force when the backup was made.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterTransferArgs {
    /// A control plane that votes; without it, the one that is furthest.
    pub(crate) member: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct ClusterEnrolArgs {
    /// A file that holds the join token.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// The join token itself; other users of this machine may see it while the command runs.
    #[arg(long, conflicts_with = "token_file")]
    pub(crate) token: Option<String>,
    /// Who you are; must be the token's name if it has one. Default: your name on this machine.
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Without the token.
impl std::fmt::Debug for ClusterEnrolArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterEnrolArgs").field("name", &self.name).finish_non_exhaustive()
    }
}
