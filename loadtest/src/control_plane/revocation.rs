//! `revocation`: how long a revocation or a change takes to reach every data plane, and what being connected costs.
//!
//! Light nodes in this process open real config streams and lanes, over connections of their own, at all control planes
//! of a running cluster; they keep nothing and decide nothing. A revocation's time is taken from before the command is
//! sent until the last chunk of its denials has been read by a node, so the commit is part of it. The processors' time
//! is that of the control-plane processes, as the system counts it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_proto::v1::{
    Ask, ConfigFrame, Hello, LaneFrame, LaneHello, LaneMessage, NodeMessage, RegisterNodeRequest,
    config_client::ConfigClient, config_frame, lane_frame, lane_message, node_message,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::{
    admin::Admin,
    cluster::Cluster,
    commit::MANIFESTS,
    figures::{Latencies, count, forget_peak, memory_of},
};

/// Registrations under way at a time: each is a command.
const REGISTERING_AT_ONCE: usize = 32;
/// How often a node asks for a lease, as data planes do.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for all nodes to connect, or to hear of one revocation.
const WAIT_MAX: Duration = Duration::from_secs(60);
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

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

/// What all light nodes tell.
#[derive(Debug, Default)]
struct Heard {
    denials: Arrivals,
    deltas: Arrivals,
    leases: Mutex<Vec<Duration>>,
    present: watch::Sender<usize>,
}

/// When something of a revision was read, node by node.
#[derive(Debug, Default)]
struct Arrivals(Mutex<BTreeMap<u64, Vec<Instant>>>);

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
    heard.present.send_replace(0);
    let began = Instant::now();
    let again = connect(cluster, &registered, &heard).await?;
    let reconnect = began.elapsed();
    drop(again);
    let leases = std::mem::take(&mut *heard.leases.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Figures {
        nodes: count_of_nodes,
        connect: connect_took,
        reconnect,
        revoked: Latencies::new(revoked),
        writes: Latencies::new(writes),
        leases: Latencies::new(leases),
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

/// Registers light nodes; name and epoch of each.
async fn register(cluster: &Cluster, nodes: usize) -> Result<Vec<(String, u64)>> {
    let (mut tasks, mut registered) = (JoinSet::new(), Vec::new());
    let first = cluster.admins.first().context("no control plane")?;
    let client = ConfigClient::new(Endpoint::from_shared(first.clone())?.connect_lazy());
    for number in 0..nodes {
        if tasks.len() >= REGISTERING_AT_ONCE
            && let Some(done) = tasks.join_next().await
        {
            registered.push(done??);
        }
        let mut client = client.clone();
        tasks.spawn(async move {
            let node = format!("light-{number}");
            let public_key = key(number);
            let request = RegisterNodeRequest { node: node.clone(), public_key, role: "data-plane".to_owned() };
            anyhow::Ok((node, client.register_node(request).await?.into_inner().epoch))
        });
    }
    while let Some(done) = tasks.join_next().await {
        registered.push(done??);
    }
    Ok(registered)
}

/// Thirty-two bytes of which nobody knows the private key: light nodes sign nothing.
fn key(number: usize) -> Vec<u8> {
    let mut key = vec![1; 32];
    key.splice(..8, u64::try_from(number).unwrap_or_default().to_be_bytes());
    key
}

/// Connects all nodes and waits until each has its configuration, an open lane and a lease.
async fn connect(cluster: &Cluster, registered: &[(String, u64)], heard: &Arc<Heard>) -> Result<JoinSet<Result<()>>> {
    let mut tasks = JoinSet::new();
    for (number, (node, epoch)) in registered.iter().enumerate() {
        let url = cluster.admins.get(number % cluster.admins.len()).context("no control plane")?.clone();
        tasks.spawn(follow(url, node.clone(), *epoch, Arc::clone(heard)));
    }
    let mut present = heard.present.subscribe();
    let everybody = async { present.wait_for(|present| *present >= registered.len()).await.map(drop) };
    tokio::select! {
        all = tokio::time::timeout(WAIT_MAX, everybody) => all.context("not all nodes could connect")??,
        Some(ended) = tasks.join_next() => ended?.context("a node's streams ended")?,
    }
    Ok(tasks)
}

/// One light node, for ever.
async fn follow(url: String, node: String, epoch: u64, heard: Arc<Heard>) -> Result<()> {
    let endpoint = Endpoint::from_shared(url)?.tcp_nodelay(true);
    let mut client = ConfigClient::new(endpoint.connect().await?).max_decoding_message_size(FRAME_BYTES_MAX);
    let (up, messages) = mpsc::channel(8);
    let hello = Hello { node: node.clone(), epoch, last_revision: 0, digest: Vec::new() };
    up.send(NodeMessage { message: Some(node_message::Message::Hello(hello)) }).await?;
    let config: Streaming<ConfigFrame> = client.stream(ReceiverStream::new(messages)).await?.into_inner();
    let (asks, messages) = mpsc::channel(8);
    let hello = LaneHello { node, epoch };
    asks.send(LaneMessage { message: Some(lane_message::Message::Hello(hello)) }).await?;
    let lane: Streaming<LaneFrame> = client.lane(ReceiverStream::new(messages)).await?.into_inner();
    tokio::select! {
        ended = take(config, &heard) => ended,
        ended = listen(lane, asks, &heard) => ended,
    }
}

async fn take(mut frames: Streaming<ConfigFrame>, heard: &Heard) -> Result<()> {
    while let Some(frame) = frames.message().await? {
        if let Some(config_frame::Frame::Delta(delta)) = frame.frame
            && !delta.changes.is_empty()
        {
            heard.deltas.note(delta.to);
        }
    }
    Ok(())
}

async fn listen(mut lane: Streaming<LaneFrame>, asks: mpsc::Sender<LaneMessage>, heard: &Heard) -> Result<()> {
    let (mut id, mut asked, mut leased) = (0_u64, Instant::now(), false);
    let mut every = tokio::time::interval(ASK_EVERY);
    loop {
        tokio::select! {
            frame = lane.message() => match frame?.and_then(|frame| frame.frame) {
                Some(lane_frame::Frame::Denials(denials)) if !denials.more => heard.denials.note(denials.revision),
                Some(lane_frame::Frame::Lease(lease)) if lease.ask == id => {
                    heard.leases.lock().unwrap_or_else(PoisonError::into_inner).push(asked.elapsed());
                    every.reset();
                    if !std::mem::replace(&mut leased, true) {
                        heard.present.send_modify(|present| *present += 1);
                    }
                }
                Some(_) => {}
                None => return Ok(()),
            },
            _ = every.tick() => {
                (id, asked) = (id + 1, Instant::now());
                let ask = Ask { id, ..Ask::default() };
                asks.send(LaneMessage { message: Some(lane_message::Message::Ask(ask)) }).await?;
            }
        }
    }
}

impl Arrivals {
    fn note(&self, revision: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(revision).or_default().push(Instant::now());
    }

    /// When each of so many nodes heard of a revision, once all have.
    async fn all(&self, revision: u64, nodes: usize) -> Result<Vec<Instant>> {
        let began = Instant::now();
        loop {
            {
                let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let arrived = all.get(&revision).map_or(0, Vec::len);
                if arrived >= nodes {
                    return Ok(all.remove(&revision).unwrap_or_default());
                }
                ensure!(began.elapsed() < WAIT_MAX, "{arrived} of {nodes} nodes heard of revision {revision}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
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
