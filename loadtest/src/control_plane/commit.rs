//! `cluster`: commands a second and their latency with more and more writers, against the raw sync rate of the disk.
//!
//! A writer has one command under way: a consent granted with a token, two events. Without `--admin` three nodes run
//! in this process (`nodes`); with it the writers are gRPC clients of a real cluster, which also signs each token.
//! Before and after every step the raw rate is measured, and a step's ratio is to the mean of both.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_control_plane::Replica;
use bailiwick_control_plane_core::{Command, command::IssueToken, manifest};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    admin::Admin,
    disk::{self, Syncs},
    figures::{Latencies, count},
    nodes::Nodes,
};

/// Nodes in this process.
const NODES: u64 = 3;
/// How long a raw measurement takes.
const RAW: Duration = Duration::from_secs(2);
/// Whoever the consents are for; applied first.
pub(crate) const MANIFESTS: &str = "\
apiVersion: bailiwick/v1
kind: VirtualServer
metadata: {name: loadtest}
spec: {servers: []}
---
apiVersion: bailiwick/v1
kind: User
metadata: {name: loadtest@example.com}
spec: {groups: [loadtest]}
---
apiVersion: bailiwick/v1
kind: Agent
metadata: {name: loadtest-agent}
spec: {owner: loadtest@example.com, project: loadtest, ceiling: transactional}
";
const TOKEN_SECONDS: u64 = 3_600;

/// Commands a second of a control-plane cluster against the raw sync rate of the disk.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// gRPC endpoints of a running cluster, comma separated; without them three nodes run in this process.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    admin: Vec<String>,
    /// Where to put the nodes of this process, and to measure the disk: on the disk that the cluster is on.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Numbers of writers.
    #[arg(long, value_delimiter = ',', default_values_t = [1_usize, 8, 64, 256])]
    writers: Vec<usize>,
    /// Seconds per number of writers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Make every sync take so many microseconds longer, for the nodes of this process and for the raw rate alike.
    #[arg(long, default_value_t = 0, conflicts_with = "admin", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    sync_delay_us: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Who carries out commands.
#[derive(Clone, Debug)]
enum Target {
    Replica(Box<Replica>),
    Admin(Admin),
}

impl Target {
    async fn write(&self, request_id: String) -> Result<()> {
        match self {
            Self::Admin(admin) => admin.issue_token(request_id).await,
            Self::Replica(replica) => {
                let command = Command::IssueToken(IssueToken {
                    user: "loadtest@example.com".into(),
                    agent: "loadtest-agent".into(),
                    virtual_server: "loadtest".into(),
                    level: None,
                    ttl_seconds: TOKEN_SECONDS,
                    reason: "load test".into(),
                    client: "bailiwick-loadtest".into(),
                });
                replica.write(command, "admin", &request_id).await?;
                Ok(())
            }
        }
    }
}

/// One number of writers.
struct Step {
    writers: usize,
    latencies: Latencies,
    took: Duration,
    raw_per_second: f64,
}

impl Step {
    fn per_second(&self) -> f64 {
        self.latencies.per_second(self.took)
    }

    fn ratio(&self) -> f64 {
        self.per_second() / self.raw_per_second
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let delay = Duration::from_micros(args.sync_delay_us);
    let (target, nodes) = if args.admin.is_empty() {
        let folder = args.data.join("nodes");
        ensure!(!folder.exists(), "{} is in the way", folder.display());
        let nodes = Nodes::cluster(&folder, NODES, delay).await?;
        let replica = nodes.leader().await?.clone();
        apply(&replica).await?;
        (Target::Replica(Box::new(replica)), Some(nodes))
    } else {
        let admin = Admin::connect(&args.admin).await?;
        admin.apply(MANIFESTS).await?;
        (Target::Admin(admin), None)
    };
    let (steps, raws) = measure(&args, &target, delay).await?;
    if let Some(nodes) = nodes {
        drop(target);
        nodes.stop().await?;
        std::fs::remove_dir_all(args.data.join("nodes"))?;
    }
    print(&args, &steps, &raws);
    Ok(())
}

async fn measure(args: &Args, target: &Target, delay: Duration) -> Result<(Vec<Step>, Vec<Syncs>)> {
    let mut raws = vec![raw(args, delay).await?];
    let mut steps = Vec::new();
    for writers in &args.writers {
        eprintln!("{writers} writers for {} s", args.seconds);
        let (latencies, took) = step(target, *writers, Duration::from_secs(args.seconds)).await?;
        let before = raws.last().map_or(0.0, |raw| raw.per_second);
        let after = raw(args, delay).await?;
        steps.push(Step {
            writers: *writers,
            latencies,
            took,
            raw_per_second: f64::midpoint(before, after.per_second),
        });
        raws.push(after);
    }
    Ok((steps, raws))
}

async fn raw(args: &Args, delay: Duration) -> Result<Syncs> {
    let folder = args.data.clone();
    tokio::task::spawn_blocking(move || disk::measure(&folder, RAW, delay)).await?
}

/// So many writers for so long; none of their commands may fail.
async fn step(target: &Target, writers: usize, time: Duration) -> Result<(Latencies, Duration)> {
    let target = Arc::new(target.clone());
    let mut running = JoinSet::new();
    let began = Instant::now();
    for writer in 0..writers {
        let target = Arc::clone(&target);
        running.spawn(async move {
            let (mut latencies, mut n) = (Vec::new(), 0_u64);
            while began.elapsed() < time {
                let at = Instant::now();
                let id = format!("load-{}-{writers}-{writer}-{n}", std::process::id());
                target.write(id).await.with_context(|| format!("command {n} of writer {writer}"))?;
                latencies.push(at.elapsed());
                n += 1;
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.extend(ended??);
    }
    Ok((Latencies::new(all), began.elapsed()))
}

async fn apply(replica: &Replica) -> Result<()> {
    let parsed = manifest::parse(&[("loadtest".to_owned(), MANIFESTS.to_owned())]);
    let manifests = parsed.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    replica.write(Command::Apply { manifests, discovered: Default::default() }, "admin", "load-apply").await?;
    Ok(())
}

fn print(args: &Args, steps: &[Step], raws: &[Syncs]) {
    if args.json {
        let rows = steps.iter().map(|step| {
            json!({"writers": step.writers.to_string(), "commands_per_second": step.per_second().round(),
                   "latency": step.latencies.json(), "raw_syncs_per_second": step.raw_per_second.round(),
                   "ratio": (step.ratio() * 100.0).round() / 100.0})
        });
        let rows: Vec<Value> = rows.collect();
        println!("{:#}", json!({"items": rows, "raw": raws.iter().map(Syncs::json).collect::<Vec<_>>()}));
        return;
    }
    for raw in raws {
        println!("{}", raw.line());
    }
    println!("{:>8} {:>12} {:>10} {:>10} {:>10} {:>8}", "WRITERS", "COMMANDS/S", "P50 MS", "P99 MS", "MAX MS", "RATIO");
    for step in steps {
        let [p50, p99, max] = [500, 990, 1000].map(|at| step.latencies.at(at).as_secs_f64() * 1e3);
        println!(
            "{:>8} {:>12.0} {p50:>10.2} {p99:>10.2} {max:>10.2} {:>8.2}",
            step.writers,
            step.per_second(),
            step.ratio()
        );
    }
    let total: usize = steps.iter().map(|step| step.latencies.len()).sum();
    println!("{total} commands in {:.0} s", count(steps.len()) * Duration::from_secs(args.seconds).as_secs_f64());
}
