//! What is measured of the control plane, of a disk, and of a large state (README.md).
//!
//! Called by the command line. Each command makes what it needs below the folder it is given, and prints its figures.
//! Only with the feature `control-plane`: load on MCP endpoints needs nothing of the control plane and builds without.

mod admin;
mod cluster;
mod commit;
mod directory;
mod disk;
mod failover;
mod figures;
mod fresh;
mod import;
mod leavers;
mod light;
mod nodes;
mod population;
mod replay;
mod revocation;
mod slow_disk;
mod snapshot;
mod tokens;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Subcommand;

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum ControlPlane {
    /// Synced appends of one kilobyte a second: what the disk can do.
    Fsync {
        /// A folder on that disk.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// For how long.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Print JSON instead of a line.
        #[arg(long)]
        json: bool,
    },
    Cluster(commit::Args),
    Failover(failover::Args),
    Replay(replay::Args),
    Snapshot(snapshot::Args),
    Revocation(revocation::Args),
    Leavers(leavers::Args),
    Import(import::Args),
    Fresh(fresh::Args),
    Tokens(tokens::Args),
    /// One opening of a populated node, for `replay`.
    #[command(hide = true)]
    Opened {
        /// As of `replay`.
        #[arg(long)]
        data: PathBuf,
    },
}

/// Measures and prints.
pub(crate) async fn run(command: ControlPlane) -> Result<()> {
    match command {
        ControlPlane::Fsync { data, seconds, json } => {
            let measured = move || disk::measure(&data, Duration::from_secs(seconds), Duration::ZERO);
            let syncs = tokio::task::spawn_blocking(measured).await??;
            println!("{}", if json { format!("{:#}", syncs.json()) } else { syncs.line() });
            Ok(())
        }
        ControlPlane::Cluster(args) => commit::run(args).await,
        ControlPlane::Failover(args) => Box::pin(failover::run(args)).await,
        ControlPlane::Replay(args) => replay::run(args).await,
        ControlPlane::Snapshot(args) => Box::pin(snapshot::run(args)).await,
        ControlPlane::Revocation(args) => Box::pin(revocation::run(args)).await,
        ControlPlane::Leavers(args) => Box::pin(leavers::run(args)).await,
        ControlPlane::Import(args) => import::run(args).await,
        ControlPlane::Fresh(args) => Box::pin(fresh::run(args)).await,
        ControlPlane::Tokens(args) => Box::pin(tokens::run(args)).await,
        ControlPlane::Opened { data } => replay::open_once(&data).await,
    }
}
