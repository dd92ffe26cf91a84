//! `bailiwick-loadtest`: load on MCP endpoints with honest latencies, and what a control plane, a disk and a large
//! state cost.
//!
//! `mcp` measures several targets in turns within one run: a server itself, the same through a bare reverse proxy, and
//! through a gateway. `upstream` and `raw-proxy` are the two processes that such a run may start for itself. The other
//! commands measure the control plane (README.md). Only figures of one run are ever compared.

#[cfg(feature = "control-plane")]
mod control_plane;
mod cores;
mod mcp;
mod proofs;
mod raw_proxy;
mod serving;
mod upstream;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The allocator of `bailiwick` itself: figures measured with another would not be its figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load on MCP endpoints, directly and through gateways; and on a control plane.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mcp(Box<mcp::Args>),
    Idle(mcp::idle::Args),
    Upstream(upstream::Args),
    RawProxy(raw_proxy::Args),
    DpopKey(mcp::possession::KeyArgs),
    Proofs(proofs::Args),
    #[cfg(feature = "control-plane")]
    #[command(flatten)]
    ControlPlane(control_plane::ControlPlane),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Mcp(args) => mcp::run(&args),
        Command::Idle(args) => mcp::idle::run(&args),
        Command::Upstream(args) => upstream::run(&args),
        Command::RawProxy(args) => raw_proxy::run(&args),
        Command::Proofs(args) => proofs::run(&args),
        Command::DpopKey(args) => mcp::possession::make_key(&args),
        #[cfg(feature = "control-plane")]
        Command::ControlPlane(command) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(control_plane::run(command))
        }
    }
}
