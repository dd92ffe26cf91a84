//! `snapshot`: size, build and install of a snapshot of a large state, while three nodes go on working.
//!
//! A populated node gets two peers, which can only be given snapshots; all three vote. Then, under a light load of
//! writes, the leader builds a snapshot and a fourth node is given one. What counts is that nobody notices: the term
//! stays the same, every heartbeat is answered, and writes are accepted all the time.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_control_plane::Replica;
use bailiwick_control_plane_core::{Command, token_key::Issuer};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{
    figures::{Latencies, memory_mib},
    nodes::{Nodes, member},
    population::Population,
    replay::populated,
};

const VOTERS: u64 = 3;
/// The one that is given a snapshot under load.
const LATE: u64 = 4;
/// Between two writes of the load.
const WRITE_EVERY: Duration = Duration::from_millis(5);

/// Size, build and install of a snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder for the nodes; a node that was populated by an earlier run (of `replay`, too) is used as it is.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    population: Population,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What one stretch of work cost.
struct Stretch {
    took: Duration,
    terms: u64,
    unanswered: u64,
    writes: Latencies,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    populated(&args.data, args.population).await?;
    for node_id in 2..=LATE {
        drop(std::fs::remove_dir_all(Nodes::new(&args.data, Duration::ZERO).folder_of(node_id)));
    }
    let mut nodes = Nodes::new(&args.data, Duration::ZERO);
    nodes.begin().await?;
    let (one, _) = memory_mib();
    let joining = Instant::now();
    for node_id in 2..=VOTERS {
        join(&mut nodes, node_id).await?;
    }
    let joined = joining.elapsed();
    nodes.get(1)?.consensus().set_voters((1..=VOTERS).collect()).await?;
    eprintln!("{VOTERS} voters after {:.1} s", joined.as_secs_f64());
    let leader = nodes.leader().await?.clone();

    let build = under_load(&mut nodes, async |_| Ok(leader.consensus().shorten_log().await?)).await?;
    let bytes = size(&nodes, leader.consensus().node_id())?;
    let install = under_load(&mut nodes, async |nodes| join(nodes, LATE).await).await?;
    let (_, most) = memory_mib();
    drop(leader);
    nodes.stop().await?;
    for node_id in 2..=LATE {
        std::fs::remove_dir_all(Nodes::new(&args.data, Duration::ZERO).folder_of(node_id))?;
    }
    print(&args, bytes, one, most, &[("build", build), ("transfer and install", install)]);
    Ok(())
}

/// Starts an empty node, makes it a learner, and waits until it has all there is.
async fn join(nodes: &mut Nodes, node_id: u64) -> Result<()> {
    nodes.open(node_id).await?;
    let leader = nodes.leader().await?.consensus().clone();
    leader.add_learner(node_id, member(node_id)).await?;
    nodes.caught_up(node_id).await
}

/// Does `work` while a client writes, and says what both noticed of each other.
async fn under_load(nodes: &mut Nodes, work: impl AsyncFnOnce(&mut Nodes) -> Result<()>) -> Result<Stretch> {
    let leader = nodes.leader().await?.clone();
    let (term, unanswered) = (leader.consensus().term(), nodes.unanswered(VOTERS));
    let (stop, stopped) = watch::channel(());
    let (latencies, mut measured) = mpsc::unbounded_channel();
    let mut writing = tokio::task::JoinSet::new();
    writing.spawn(write_on(leader.clone(), latencies, stopped));
    let began = Instant::now();
    work(nodes).await?;
    let took = began.elapsed();
    drop(stop);
    while let Some(ended) = writing.join_next().await {
        ended??;
    }
    let mut writes = Vec::new();
    while let Ok(latency) = measured.try_recv() {
        writes.push(latency);
    }
    Ok(Stretch {
        took,
        terms: leader.consensus().term() - term,
        unanswered: nodes.unanswered(VOTERS) - unanswered,
        writes: Latencies::new(writes),
    })
}

/// Small writes, none of which may fail, until told to stop.
async fn write_on(
    leader: Replica,
    latencies: mpsc::UnboundedSender<Duration>,
    mut stopped: watch::Receiver<()>,
) -> Result<()> {
    for n in 0_u64.. {
        let at = Instant::now();
        let issuer = format!("http://127.0.0.1:{}", 1024 + n % 60_000);
        let command = Command::SetIssuer(Issuer { issuer, mcp_url: "http://127.0.0.1/mcp".into() });
        leader.write(command, "admin", "").await.context("a write during the snapshot")?;
        latencies.send(at.elapsed())?;
        if tokio::time::timeout(WRITE_EVERY, stopped.changed()).await.is_ok() {
            break;
        }
    }
    Ok(())
}

/// Size of a node's newest snapshot.
fn size(nodes: &Nodes, node_id: u64) -> Result<u64> {
    let folder = nodes.folder_of(node_id).join("snapshots");
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        newest = newest.max(Some((entry.file_name(), entry.metadata()?.len())));
    }
    let (_, bytes) = newest.context("there is no snapshot")?;
    ensure!(bytes > 0, "the snapshot is empty");
    Ok(bytes)
}

fn print(args: &Args, bytes: u64, one: u64, most: u64, stretches: &[(&str, Stretch)]) {
    if args.json {
        let rows: Vec<Value> = stretches
            .iter()
            .map(|(what, stretch)| {
                json!({"what": what, "seconds": stretch.took.as_secs_f64(), "elections": stretch.terms.to_string(),
                       "calls_unanswered": stretch.unanswered.to_string(),
                       "writes": stretch.writes.len().to_string(), "latency": stretch.writes.json()})
            })
            .collect();
        println!(
            "{:#}",
            json!({"bytes": bytes.to_string(), "memory_one_node_mib": one.to_string(),
                   "memory_four_nodes_most_mib": most.to_string(), "items": rows})
        );
        return;
    }
    println!(
        "{} agents, {} consents: snapshot of {} MiB",
        args.population.agents,
        args.population.consents,
        bytes >> 20
    );
    println!("memory: one node {one} MiB; {LATE} nodes in one process at most {most} MiB");
    for (what, stretch) in stretches {
        println!(
            "{what}: {:.2} s, {} elections, {} calls unanswered by voters; {} writes meanwhile: {}",
            stretch.took.as_secs_f64(),
            stretch.terms,
            stretch.unanswered,
            stretch.writes.len(),
            stretch.writes
        );
    }
}
