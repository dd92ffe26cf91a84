//! `bailiwick-loadtest`: closed-loop load on MCP endpoints, and the ratio between two of them.
//!
//! Sends the same modern `tools/call` over a fixed number of connections for a fixed number of calls, first to the
//! server itself and then through the gateway, in turns within one run, so that a drifting machine affects both alike.
//! Only figures measured in the same run are ever compared. Loops are bounded by the number of calls.

mod client;
mod report;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use client::{Load, Target};
use report::Report;

/// Load on an MCP server, directly and through Bailiwick.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-loadtest", version)]
struct Args {
    /// The MCP endpoint behind the gateway, e.g. http://127.0.0.1:9801/mcp.
    #[arg(long, value_name = "URL")]
    direct: Option<String>,
    /// The endpoint to measure, e.g. http://127.0.0.1:8420/mcp/finance.
    #[arg(long, value_name = "URL")]
    url: String,
    /// Bearer token for --url.
    #[arg(long, default_value = "")]
    token: String,
    /// The tool to call.
    #[arg(long)]
    tool: String,
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
    let load = Load {
        tool: args.tool,
        arguments: serde_json::from_str(&args.arguments)?,
        calls: args.calls,
        connections: args.connections,
    };
    let gateway = Target::new("gateway", args.url, args.token)?;
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
