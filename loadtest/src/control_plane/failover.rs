//! `failover`: how long nobody can write when the leader dies, as a client sees it.
//!
//! One client writes all the time, again and again with the same request id until a command is accepted, at whichever
//! node answers. Each round kills the leader (`kill -9` of the process; without `--cluster` a node inside this process
//! that falls silent) and takes the time between the last command accepted before and the next accepted after. Then
//! the node is started again, and the next round waits until it has caught up.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bailiwick_control_plane::Replica;
use bailiwick_control_plane_core::{Command, command::IssueToken, manifest};
use bailiwick_proto::v1::{MembersRequest, cluster_client::ClusterClient};
use serde_json::{Value, json};
use tokio::{process, sync::mpsc, task::JoinSet};

use super::{admin::Admin, commit::MANIFESTS, figures::Latencies, nodes::Nodes};

const NODES: u64 = 3;
/// Between two attempts of the client: about the time a person's tool would not notice.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// A command nobody accepted for so long: the cluster is gone for good.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// Commands go on this long before the leader dies, so that all nodes are where it is.
const STEADY: Duration = Duration::from_millis(1_500);
/// How long after the kill the longest silence is looked for.
const WATCHED: Duration = Duration::from_secs(3);
const TOKEN_SECONDS: u64 = 3_600;

/// Last accepted to next accepted write when the leader is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of a cluster started by deploy/local-cluster; without it three nodes run in this process.
    #[arg(long, value_name = "DIR")]
    cluster: Option<PathBuf>,
    /// The program that starts killed nodes again.
    #[arg(long, value_name = "FILE", default_value = "deploy/local-cluster")]
    local_cluster: PathBuf,
    /// Where to put the nodes of this process.
    #[arg(long, value_name = "DIR", required_unless_present = "cluster")]
    data: Option<PathBuf>,
    /// How often the leader dies.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut shape = match (&args.cluster, &args.data) {
        (Some(folder), _) => Shape::Processes { folder: folder.clone(), script: args.local_cluster.clone() },
        (None, Some(data)) => {
            let folder = data.join("nodes");
            ensure!(!folder.exists(), "{} is in the way", folder.display());
            Shape::Inside { nodes: Box::new(Nodes::cluster(&folder, NODES, Duration::ZERO).await?), folder }
        }
        (None, None) => bail!("neither --cluster nor --data"),
    };
    let client = shape.client().await?;
    let (accepted, mut seen) = mpsc::unbounded_channel();
    let mut writing = JoinSet::new();
    writing.spawn(write_on(client.clone(), accepted));
    let mut outages = Vec::new();
    for round in 1..=args.rounds {
        let outage = tokio::select! {
            outage = one(&mut shape, &client, &mut seen) => outage?,
            ended = writing.join_next() => match ended {
                Some(ended) => ended??,
                None => bail!("the client ended"),
            },
        };
        eprintln!("round {round} of {}: {:.0} ms", args.rounds, outage.as_secs_f64() * 1e3);
        outages.push(outage);
    }
    writing.shutdown().await;
    drop(client);
    shape.stop().await?;
    let outages = Latencies::new(outages);
    let max = outages.max();
    match args.json {
        true => {
            let millis = |outage: Duration| outage.as_millis().to_string();
            let (min, median) = (outages.at(0), outages.median());
            println!(
                "{:#}",
                json!({"rounds": outages.len().to_string(), "min_ms": millis(min), "median_ms": millis(median),
                       "max_ms": millis(max)})
            );
        }
        false => println!(
            "{} rounds: min {:.0} ms, median {:.0} ms, max {:.0} ms",
            outages.len(),
            outages.at(0).as_secs_f64() * 1e3,
            outages.median().as_secs_f64() * 1e3,
            max.as_secs_f64() * 1e3
        ),
    }
    Ok(())
}

/// Kills the leader once and says how long nothing was accepted.
async fn one(shape: &mut Shape, client: &Client, seen: &mut mpsc::UnboundedReceiver<Instant>) -> Result<Duration> {
    tokio::time::sleep(STEADY).await;
    let mut times = Vec::new();
    while let Ok(at) = seen.try_recv() {
        times.push(at);
    }
    let killed = shape.kill_leader(client).await?;
    loop {
        let at = tokio::time::timeout(OUTAGE_MAX, seen.recv()).await.context("nothing is accepted any more")?;
        let at = at.context("the client ended")?;
        times.push(at);
        if at > killed + WATCHED {
            break;
        }
    }
    let gaps = times.windows(2).filter_map(|pair| match pair {
        [before, after] if *after >= killed => Some(*after - *before),
        _ => None,
    });
    let longest = gaps.max().context("nothing was accepted after the kill")?;
    shape.restart(client).await?;
    Ok(longest)
}

/// Whom the client can ask.
#[derive(Clone, Debug)]
enum Client {
    /// Endpoints of all nodes.
    Admin { all: Admin, nodes: Vec<(String, String)> },
    /// Nodes of this process; those that were killed are taken out.
    Inside(Arc<Mutex<Vec<Replica>>>),
}

impl Client {
    async fn attempt(&self, n: u64, request_id: &str) -> Result<()> {
        match self {
            Self::Admin { all, .. } => all.issue_token(request_id.to_owned()).await,
            Self::Inside(replicas) => {
                let replica = {
                    let replicas = replicas.lock().unwrap_or_else(PoisonError::into_inner);
                    let index = usize::try_from(n)? % replicas.len().max(1);
                    replicas.get(index).cloned().context("nobody is up")?
                };
                let command = Command::IssueToken(IssueToken {
                    user: "loadtest@example.com".into(),
                    agent: "loadtest-agent".into(),
                    virtual_server: "loadtest".into(),
                    level: None,
                    ttl_seconds: TOKEN_SECONDS,
                    reason: "failover".into(),
                    client: "bailiwick-loadtest".into(),
                });
                replica.write(command, "admin", request_id).await?;
                Ok(())
            }
        }
    }
}

/// Writes for ever. Returns only when nothing was accepted for too long.
async fn write_on(client: Client, accepted: mpsc::UnboundedSender<Instant>) -> Result<Duration> {
    let mut attempts = 0_u64;
    for n in 0_u64.. {
        let (began, request_id) = (Instant::now(), format!("failover-{}-{n}", std::process::id()));
        while let Err(error) = client.attempt(attempts, &request_id).await {
            attempts += 1;
            ensure!(began.elapsed() < OUTAGE_MAX, "nothing is accepted any more: {error:#}");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        accepted.send(Instant::now())?;
    }
    bail!("all numbers are used up")
}

/// What is killed and started again.
enum Shape {
    Inside { nodes: Box<Nodes>, folder: PathBuf },
    Processes { folder: PathBuf, script: PathBuf },
}

impl Shape {
    async fn client(&self) -> Result<Client> {
        match self {
            Self::Inside { nodes, .. } => {
                let parsed = manifest::parse(&[("loadtest".to_owned(), MANIFESTS.to_owned())]);
                let manifests = parsed.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
                let apply = Command::Apply { manifests, discovered: Default::default() };
                nodes.leader().await?.write(apply, "admin", "failover-apply").await?;
                Ok(Client::Inside(Arc::new(Mutex::new(replicas(nodes)?))))
            }
            Self::Processes { folder, .. } => {
                let nodes: Vec<(String, String)> = control_planes(folder)?
                    .into_iter()
                    .map(|node| Ok((text(&node, "/name")?, format!("http://{}", text(&node, "/listen/grpc")?))))
                    .collect::<Result<_>>()?;
                let urls: Vec<String> = nodes.iter().map(|(_, url)| url.clone()).collect();
                let all = Admin::connect(&urls).await?;
                all.apply(MANIFESTS).await?;
                Ok(Client::Admin { all, nodes })
            }
        }
    }

    /// Kills whoever leads; says when.
    async fn kill_leader(&mut self, client: &Client) -> Result<Instant> {
        match (self, client) {
            (Self::Inside { nodes, .. }, Client::Inside(reachable)) => {
                let leader = nodes.leader().await?.consensus().node_id();
                let others = nodes.ids().into_iter().filter(|node_id| *node_id != leader);
                let left: Vec<Replica> = others.map(|node_id| nodes.get(node_id).cloned()).collect::<Result<_>>()?;
                let killed = Instant::now();
                *reachable.lock().unwrap_or_else(PoisonError::into_inner) = left;
                nodes.kill(leader).await?;
                Ok(killed)
            }
            (Self::Processes { folder, .. }, Client::Admin { nodes, .. }) => {
                let leader = leader_of(nodes).await?;
                let all = control_planes(folder)?;
                let node = all.iter().find(|node| text(node, "/name").is_ok_and(|name| name == leader));
                let pid = node.and_then(|node| node.pointer("/pid")?.as_u64()).context("the leader has no pid")?;
                let killed = Instant::now();
                let kill = process::Command::new("kill").args(["-9", &pid.to_string()]).status().await?;
                ensure!(kill.success(), "kill -9 {pid}: {kill}");
                Ok(killed)
            }
            _ => bail!("the client is of another cluster"),
        }
    }

    /// Starts what was killed, and waits until it has caught up.
    async fn restart(&mut self, client: &Client) -> Result<()> {
        match (self, client) {
            (Self::Inside { nodes, .. }, Client::Inside(reachable)) => {
                let up = nodes.ids();
                for node_id in (1..=NODES).filter(|node_id| !up.contains(node_id)) {
                    nodes.open(node_id).await?;
                    nodes.caught_up(node_id).await?;
                }
                *reachable.lock().unwrap_or_else(PoisonError::into_inner) = replicas(nodes)?;
                Ok(())
            }
            (Self::Processes { folder, script }, _) => {
                let mut up = process::Command::new(&*script);
                up.arg("up").arg("--data").arg(&*folder).stdout(Stdio::null()).stderr(Stdio::null());
                let ended = up.status().await.with_context(|| format!("start {}", script.display()))?;
                ensure!(ended.success(), "{}: {ended}", script.display());
                Ok(())
            }
            (Self::Inside { .. }, Client::Admin { .. }) => bail!("the client is of another cluster"),
        }
    }

    async fn stop(self) -> Result<()> {
        if let Self::Inside { nodes, folder } = self {
            nodes.stop().await?;
            std::fs::remove_dir_all(folder)?;
        }
        Ok(())
    }
}

fn replicas(nodes: &Nodes) -> Result<Vec<Replica>> {
    nodes.ids().into_iter().map(|node_id| nodes.get(node_id).cloned()).collect()
}

/// The name of the leader, as any node that answers says.
pub(super) async fn leader_of(nodes: &[(String, String)]) -> Result<String> {
    for (_, url) in nodes {
        let Ok(mut client) = ClusterClient::connect(url.clone()).await else { continue };
        let Ok(members) = client.members(MembersRequest {}).await else { continue };
        if let Some(leader) = members.into_inner().items.into_iter().find(|member| member.leader) {
            return Ok(leader.name);
        }
    }
    bail!("nobody says who leads")
}

fn control_planes(folder: &Path) -> Result<Vec<Value>> {
    let file = folder.join("cluster.json");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let cluster: Value = serde_json::from_str(&text)?;
    let nodes = cluster.pointer("/nodes").and_then(Value::as_array).context("cluster.json names no nodes")?;
    let of_role = |node: &&Value| node.pointer("/role").and_then(Value::as_str) == Some("control-plane");
    Ok(nodes.iter().filter(of_role).cloned().collect())
}

fn text(node: &Value, pointer: &str) -> Result<String> {
    let found = node.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("a node without {pointer} in cluster.json"))?.to_owned())
}
