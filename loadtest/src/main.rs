//! `bailiwick-loadtest`: closed-loop load on MCP endpoints and control planes, and what a disk and a large state cost.
//!
//! Without a subcommand it sends the same modern `tools/call` over a fixed number of connections for a fixed number of
//! calls, first to the server itself and then through the gateway, in turns within one run, so that a drifting machine
//! affects both alike. The subcommands measure the control plane (README.md).
//! Only figures measured in the same run are ever compared. Loops are bounded by a number of calls or a time.

mod admin;
mod client;
mod cluster;
mod commit;
mod disk;
mod failover;
mod figures;
mod fresh;
mod nodes;
mod population;
mod replay;
mod report;
mod revocation;
mod slow_disk;
mod snapshot;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use client::{Load, Target};
use report::Report;

/// The allocator of `bailiwick` itself: figures measured with another would not be its figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load on an MCP server, directly and through Bailiwick; and on the control plane.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-loadtest", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    control_plane: Option<ControlPlane>,
    /// The MCP endpoint behind the gateway, e.g. http://127.0.0.1:9801/mcp.
    #[arg(long, value_name = "URL")]
    direct: Option<String>,
    /// The endpoint to measure, e.g. http://127.0.0.1:8420/mcp/finance.
    #[arg(long, value_name = "URL", required = true)]
    url: Option<String>,
    /// Bearer token for --url.
    #[arg(long, default_value = "")]
    token: String,
    /// The tool to call.
    #[arg(long, required = true)]
    tool: Option<String>,
    /// Its arguments, as JSON.
    #[arg(long, default_value = "{}")]
    arguments: String,
    /// Calls per target and round.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    calls: u32,
    /// Connections, each with one call under way.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    connections: u32,
    /// Rounds; targets take turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is measured of the control plane.
#[derive(Debug, Subcommand)]
enum ControlPlane {
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
    Fresh(fresh::Args),
    /// One opening of a populated node, for `replay`.
    #[command(hide = true)]
    Opened {
        /// As of `replay`.
        #[arg(long)]
        data: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    match args.control_plane {
        None => mcp(args).await,
        Some(ControlPlane::Fsync { data, seconds, json }) => {
            let measured = move || disk::measure(&data, Duration::from_secs(seconds), Duration::ZERO);
            let syncs = tokio::task::spawn_blocking(measured).await??;
            println!("{}", if json { format!("{:#}", syncs.json()) } else { syncs.line() });
            Ok(())
        }
        Some(ControlPlane::Cluster(args)) => commit::run(args).await,
        Some(ControlPlane::Failover(args)) => Box::pin(failover::run(args)).await,
        Some(ControlPlane::Replay(args)) => replay::run(args).await,
        Some(ControlPlane::Snapshot(args)) => Box::pin(snapshot::run(args)).await,
        Some(ControlPlane::Revocation(args)) => Box::pin(revocation::run(args)).await,
        Some(ControlPlane::Fresh(args)) => Box::pin(fresh::run(args)).await,
        Some(ControlPlane::Opened { data }) => replay::open_once(&data).await,
    }
}

async fn mcp(args: Args) -> Result<()> {
    let (url, tool) = (args.url.context("--url is missing")?, args.tool.context("--tool is missing")?);
    let load = Load {
        tool,
        arguments: serde_json::from_str(&args.arguments)?,
        calls: args.calls,
        connections: args.connections,
    };
    let gateway = Target::new("gateway", url, args.token)?;
    let direct = args.direct.map(|url| Target::new("direct", url, String::new())).transpose()?;
    let targets: Vec<&Target> = direct.iter().chain([&gateway]).collect();
    let mut report = Report::default();
    for target in &targets {
        // One call first: a mistake is said plainly instead of being measured.
        if let Err(error) = target.call(&load).await {
            bail!("{}: {error:#}", target.name);
        }
    }
    for round in 1..=args.rounds {
        for target in &targets {
            eprintln!("round {round} of {}: {} calls to {}", args.rounds, load.calls, target.name);
            report.add(target.name, client::run(target, &load).await?);
        }
    }
    println!("{}", if args.json { format!("{:#}", report.json()) } else { report.table() });
    Ok(())
}
