//! `replay`: events applied a second when a node starts on a large data directory, and the memory it then holds.
//!
//! Opening is everything a control-plane node does before it serves: reading each change, checking the Merkle root,
//! reading the events, folding them into state, composing the configuration. It happens in a process of its own
//! (`opened`), so that neither the populating nor an earlier round is in its memory.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_consensus::{Outcome, Proposal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process;

use super::{
    figures::{Latencies, memory_mib},
    nodes::Nodes,
    population::Population,
};

/// Changes proposed together while populating.
pub(crate) const GROUP: usize = 512;

/// Events applied a second at start.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder for the node; one that was populated by an earlier run is used as it is.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    population: Population,
    /// How often it is opened.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One opening, as the process that did it says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    microseconds: u64,
    consents: u64,
    agents: u64,
    revision: u64,
    memory_mib: u64,
    memory_most_mib: u64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    populated(&args.data, args.population).await?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        let opened = open_apart(&args.data).await?;
        ensure!(
            (opened.agents, opened.consents) == (args.population.agents, args.population.consents),
            "{} holds something else: {opened:?}",
            args.data.display()
        );
        eprintln!("round {round} of {}: {:.2} s", args.rounds, seconds(opened));
        rounds.push(opened);
    }
    let took = Latencies::new(rounds.iter().map(|opened| Duration::from_micros(opened.microseconds)).collect());
    let last = rounds.last().context("no rounds")?;
    let (events, median) = (args.population.events(), took.median().as_secs_f64());
    let rate = u32::try_from(events).map_or(f64::INFINITY, f64::from) / median;
    if args.json {
        println!(
            "{:#}",
            json!({"events": events.to_string(), "seconds": median, "events_per_second": rate.round(),
                   "memory_mib": last.memory_mib.to_string(), "memory_most_mib": last.memory_most_mib.to_string()})
        );
        return Ok(());
    }
    println!("{events} events in {median:.2} s (median of {}): {rate:.0} events/s", took.len());
    println!("memory of the node: {} MiB, at most {} MiB", last.memory_mib, last.memory_most_mib);
    Ok(())
}

/// What a process started for nothing else says of one opening.
async fn open_apart(data: &Path) -> Result<Opened> {
    let program = std::env::current_exe()?;
    let output = process::Command::new(program).arg("opened").arg("--data").arg(data).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Opens a node once and prints what that took.
pub(crate) async fn open_once(data: &Path) -> Result<()> {
    let mut nodes = Nodes::new(data, Duration::ZERO);
    let began = Instant::now();
    nodes.open(1).await?;
    let took = began.elapsed();
    let (memory_mib, memory_most_mib) = memory_mib();
    let replica = nodes.get(1)?;
    let (agents, consents, revision) = replica.read(|state| (state.agents.len(), state.consents.len(), state.revision));
    let opened = Opened {
        microseconds: u64::try_from(took.as_micros())?,
        agents: u64::try_from(agents)?,
        consents: u64::try_from(consents)?,
        revision,
        memory_mib,
        memory_most_mib,
    };
    println!("{}", serde_json::to_string(&opened)?);
    nodes.stop().await
}

/// Makes a data directory of node 1 hold the population, unless there is one.
pub(crate) async fn populated(data: &Path, population: Population) -> Result<()> {
    let mut nodes = Nodes::new(data, Duration::ZERO);
    let done = data.join(format!("populated-{}-{}", population.agents, population.consents));
    if done.exists() {
        return Ok(());
    }
    ensure!(!nodes.folder_of(1).exists(), "{} holds something else", data.display());
    eprintln!("populating {} with {} events", data.display(), population.events());
    nodes.begin().await?;
    let began = Instant::now();
    let consensus = nodes.get(1)?.consensus().clone();
    let (mut version, mut group) = (0_u64, Vec::new());
    let mut changes = population.changes().peekable();
    while let Some(events) = changes.next() {
        group.push(Proposal { expected_version: version, events: events?, ..Proposal::default() });
        version += 1;
        if group.len() == GROUP || changes.peek().is_none() {
            for committed in consensus.propose(std::mem::take(&mut group)).await? {
                ensure!(committed.outcome == Outcome::Applied, "a change met another state: {committed:?}");
            }
        }
    }
    let rate = u32::try_from(version).map_or(f64::INFINITY, f64::from) / began.elapsed().as_secs_f64();
    eprintln!("populated: {version} changes, {rate:.0} a second");
    drop(consensus);
    nodes.stop().await?;
    std::fs::write(done, [])?;
    Ok(())
}

fn seconds(opened: Opened) -> f64 {
    Duration::from_micros(opened.microseconds).as_secs_f64()
}
