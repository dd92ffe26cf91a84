//! `revocation`: how long a revocation or a change takes to reach every data plane, and what being connected costs.
//!
//! Light nodes in this process open real config streams and lanes at all control planes of a running cluster. A
//! revocation's time is taken from before the command is sent until the last chunk of its denials has been read by a
//! node, so the commit is part of it. The processors' time is that of the control-plane processes, as the system counts
//! it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    admin::Admin,
    cluster::Cluster,
    commit::MANIFESTS,
    figures::{Latencies, count, forget_peak, memory_of},
    light::{Heard, connect, register},
};

/// Revocations to many data planes: latency, processors' time, and a storm of reconnections.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of a cluster made with deploy/local-cluster.
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// Numbers of nodes.
    #[arg(long, value_delimiter = ',', default_values_t = [10_usize, 100, 1_000])]
    nodes: Vec<usize>,
    /// Revocations per number of nodes.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    revocations: u32,
    /// Changes of a policy per number of nodes.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
    /// Bytes of each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    change_bytes: u32,
    /// Seconds to watch idle nodes for.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle_seconds: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// The figures of one number of nodes.
struct Figures {
    nodes: usize,
    connect: Duration,
    reconnect: Duration,
    revoked: Latencies,
    writes: Latencies,
    leases: Latencies,
    /// Of one core, in percent, all control planes together.
    idle_percent: f64,
    per_revocation: Duration,
    changed: Latencies,
    applied: Latencies,
    per_change: Duration,
    /// Most memory of a control plane while idle, and by how much that grew during the changes, in MiB.
    memory: (u64, u64),
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let cluster = Cluster::read(&args.cluster)?;
    let admin = Admin::connect(&cluster.admins).await?;
    admin.apply(MANIFESTS).await?;
    let mut all = Vec::new();
    for nodes in &args.nodes {
        eprintln!("{nodes} nodes");
        all.push(measure(&args, &cluster, &admin, *nodes).await?);
    }
    if args.json {
        println!("{:#}", json!({ "items": all.iter().map(Figures::json).collect::<Vec<_>>() }));
        return Ok(());
    }
    for figures in &all {
        println!("{}", figures.lines());
    }
    Ok(())
}

async fn measure(args: &Args, cluster: &Cluster, admin: &Admin, count_of_nodes: usize) -> Result<Figures> {
    let registered = register(cluster, count_of_nodes).await?;
    let heard = Arc::new(Heard::default());
    let began = Instant::now();
    let connected = connect(cluster, &registered, &heard).await?;
    let connect_took = began.elapsed();

    let (cpu, idle) = (cluster.cpu(), Duration::from_secs(args.idle_seconds));
    tokio::time::sleep(idle).await;
    let idle_percent = (cluster.cpu() - cpu).as_secs_f64() / idle.as_secs_f64() * 100.0;

    let mut consents = Vec::new();
    for _ in 0..args.revocations {
        consents.push(admin.consent().await?);
    }
    let (mut revoked, mut writes, cpu) = (Vec::new(), Vec::new(), cluster.cpu());
    for consent in consents {
        let sent = Instant::now();
        let revision = admin.revoke(&consent).await?;
        writes.push(sent.elapsed());
        revoked.extend(heard.denials.all(revision, count_of_nodes).await?.into_iter().map(|at| at - sent));
    }
    let per_revocation = (cluster.cpu() - cpu) / args.revocations;

    cluster.control_planes.iter().try_for_each(|pid| forget_peak(*pid))?;
    let most = || cluster.control_planes.iter().map(|pid| memory_of(*pid).1).max().unwrap_or(0);
    let (mut changed, mut applied, memory, cpu) = (Vec::new(), Vec::new(), most(), cluster.cpu());
    for number in 0..args.changes {
        let sent = Instant::now();
        let revision = admin.apply(&policy(number, args.change_bytes)).await?;
        applied.push(sent.elapsed());
        changed.extend(heard.deltas.all(revision, count_of_nodes).await?.into_iter().map(|at| at - sent));
    }
    let (per_change, memory) = ((cluster.cpu() - cpu) / args.changes, (memory, most() - memory));

    // All at once, as after a network that was down.
    drop(connected);
    heard.nobody();
    let began = Instant::now();
    let again = connect(cluster, &registered, &heard).await?;
    let reconnect = began.elapsed();
    drop(again);
    Ok(Figures {
        nodes: count_of_nodes,
        connect: connect_took,
        reconnect,
        revoked: Latencies::new(revoked),
        writes: Latencies::new(writes),
        leases: Latencies::new(heard.leases()),
        idle_percent,
        per_revocation,
        changed: Latencies::new(changed),
        applied: Latencies::new(applied),
        per_change,
        memory,
    })
}

/// A policy of so many bytes, each a little different.
fn policy(number: u32, bytes: u32) -> String {
    let filling = "x".repeat(usize::try_from(bytes).unwrap_or(0).saturating_sub(100));
    format!(
        "apiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: loadtest}}\nspec:\n  cedar: |\n    // {} {number} \
         {filling}\n    permit (principal, action, resource) when {{ resource.tier == \"retrieval\" }};\n",
        std::process::id()
    )
}

impl Figures {
    fn lines(&self) -> String {
        let per_thousand = self.idle_percent / count(self.nodes) * 1_000.0;
        format!(
            "{} nodes: connected in {:.2} s, again in {:.2} s\n  revocation, sent to heard: {}\n  the write alone:           {}\n  \
             lease, asked to answered:  {}\n  idle: {:.1} % of a core ({per_thousand:.1} % per 1,000 nodes); \
             a revocation: {:.1} ms of processor\n  \
             change, sent to read:      {}\n  the write alone:           {}\n  \
             a change: {:.1} ms of processor; memory of a control plane {} MiB, {} MiB more during changes",
            self.nodes,
            self.connect.as_secs_f64(),
            self.reconnect.as_secs_f64(),
            self.revoked,
            self.writes,
            self.leases,
            self.idle_percent,
            self.per_revocation.as_secs_f64() * 1e3,
            self.changed,
            self.applied,
            self.per_change.as_secs_f64() * 1e3,
            self.memory.0,
            self.memory.1,
        )
    }

    fn json(&self) -> Value {
        json!({
            "nodes": self.nodes, "connect_ms": self.connect.as_millis().to_string(),
            "reconnect_ms": self.reconnect.as_millis().to_string(), "revoked": self.revoked.json(),
            "writes": self.writes.json(), "leases": self.leases.json(), "idle_percent": self.idle_percent,
            "per_revocation_us": self.per_revocation.as_micros().to_string(),
            "changed": self.changed.json(), "applied": self.applied.json(),
            "per_change_us": self.per_change.as_micros().to_string(),
            "memory_mib": self.memory.0, "memory_more_mib": self.memory.1,
        })
    }
}
