//! `fresh`: a data plane that has nothing gets a large configuration: time, memory, bytes.
//!
//! Real processes: a control plane of `deploy/local-cluster`, whose data directory is filled while it is stopped, as
//! `replay` fills one, and data planes started for it. One is started, loads and goes, several times, each a process of
//! its own; the last stays while the control plane is started on a changed state, so that a snapshot replaces a
//! snapshot. Memory is what the system counts as resident. Bytes are those of the snapshot's frames, as a light node
//! reads them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_consensus::{Birth, Outcome, Proposal, RocksDisk};
use bailiwick_proto::v1::{
    Hello, NodeMessage, RegisterNodeRequest, config_client::ConfigClient, config_frame, node_message,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::process::{self, Child};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::{
    cluster::Cluster,
    figures::{Latencies, forget_peak, memory_of},
    nodes::Nodes,
    population::Population,
    replay::GROUP,
};

/// The data plane that is started again and again.
const NODE: &str = "data-plane-1";
const CONTROL_PLANE: &str = "control-plane-1";
/// Longest wait for a data plane to have everything in force.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Between two looks at a data plane's metrics.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// After loading, before memory is read: freed pages go back to the system within this.
const SETTLED: Duration = Duration::from_secs(3);
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A large configuration into a data plane that has nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of a cluster made with deploy/local-cluster, with one control plane.
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// The program that starts and stops it.
    #[arg(long, value_name = "FILE", default_value = "deploy/local-cluster")]
    local_cluster: PathBuf,
    /// The program that the nodes are.
    #[arg(long, value_name = "FILE", default_value = "target/release/bailiwick")]
    program: PathBuf,
    #[command(flatten)]
    population: Population,
    /// How many data planes load it, one after another.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print JSON instead of lines.
    #[arg(long)]
    json: bool,
}

/// What the benchmark shows.
struct Figures {
    entries: usize,
    bytes: usize,
    frames: usize,
    took: Latencies,
    /// Of a data plane without configuration, in MiB.
    empty: u64,
    /// Of one with it: now, and at most while it loaded.
    loaded: (u64, u64),
    /// At most while another snapshot replaced the first.
    replacing: u64,
    /// Of the control plane: before anybody asked, at most while it served, and afterwards.
    control_plane: [u64; 3],
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let stage = Stage { args: &args };
    stage.script("up").await?;
    let cluster = Cluster::read(&args.cluster)?;
    // Its data directory is filled while nobody else has a say.
    anyhow::ensure!(
        cluster.admins.len() == 1,
        "this needs a cluster of one control plane: make one with `deploy/local-cluster up --data DIR --control-planes 1`"
    );
    let empty = memory_of(cluster.pid(NODE)?).0;
    stage.script("down").await?;
    fill(&args.cluster, args.population).await?;
    stage.script("up").await?;
    let cluster = Cluster::read(&args.cluster)?;
    let control_plane = cluster.pid(CONTROL_PLANE)?;
    stop(cluster.pid(NODE)?).await?;
    let idle = memory_of(control_plane).0;
    let (entries, frames, bytes) = read_all(cluster.admins.first().context("no control plane")?).await?;

    let (mut took, mut last): (Vec<Duration>, Option<Child>) = (Vec::new(), None);
    for round in 1..=args.rounds {
        if let Some(mut before) = last.take() {
            // It has to be gone: its folder is locked as long as it lives.
            before.kill().await?;
        }
        let (child, time) = stage.load(&cluster).await?;
        eprintln!("round {round} of {}: {:.2} s", args.rounds, time.as_secs_f64());
        took.push(time);
        last = Some(child);
    }
    let mut child = last.context("no rounds")?;
    let pid = child.id().context("the data plane has ended")?;
    tokio::time::sleep(SETTLED).await;
    let (loaded, serving) = (memory_of(pid), memory_of(control_plane));

    // Another state, whose history the control plane does not have in memory: everybody gets a snapshot.
    let before = cluster.revision(NODE).await?;
    stop(control_plane).await?;
    fill(&args.cluster, Population { consents: 1, agents: 1 }).await?;
    forget_peak(pid)?;
    let mut again = stage.start(CONTROL_PLANE)?;
    cluster.reaches(NODE, before + 1).await?;
    tokio::time::sleep(SETTLED).await;
    let replacing = memory_of(pid).1;
    again.kill().await?;
    child.kill().await?;
    stage.script("down").await?;
    let control_plane = [idle, serving.1, serving.0];
    Figures { entries, bytes, frames, took: Latencies::new(took), empty, loaded, replacing, control_plane }
        .print(args.json);
    Ok(())
}

/// Whatever has to do with processes.
struct Stage<'a> {
    args: &'a Args,
}

impl Stage<'_> {
    async fn script(&self, what: &str) -> Result<()> {
        let mut script = process::Command::new(&self.args.local_cluster);
        script.arg(what).arg("--data").arg(&self.args.cluster).env("BAILIWICK_BIN", &self.args.program);
        let ended = script.stdout(Stdio::null()).status().await?;
        ensure!(ended.success(), "{} {what}: {ended}", self.args.local_cluster.display());
        Ok(())
    }

    fn start(&self, node: &str) -> Result<Child> {
        let role = node.rsplit_once('-').map_or(node, |(role, _)| role);
        let config = self.args.cluster.join("config").join(format!("{node}.toml"));
        let mut program = process::Command::new(&self.args.program);
        program.arg(role).arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(program.kill_on_drop(true).spawn()?)
    }

    /// Starts a data plane; it, and how long it took until everything was in force there.
    async fn load(&self, cluster: &Cluster) -> Result<(Child, Duration)> {
        // What an earlier one kept for a start without control planes.
        match fs::remove_dir_all(self.args.cluster.join("data").join(NODE).join("snapshot")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let began = Instant::now();
        let child = self.start(NODE)?;
        cluster.reaches(NODE, 1).await?;
        Ok((child, began.elapsed()))
    }
}

impl Cluster {
    /// The revision in force at a data plane; 0 while it has none, or does not answer.
    async fn revision(&self, node: &str) -> Result<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.ops_port(node)?);
        let Ok(answer) = reqwest::get(url).await else { return Ok(0) };
        let text = answer.text().await?;
        let of = |line: &str| line.strip_prefix("bailiwick_data_plane_config_revision ")?.parse().ok();
        Ok(text.lines().find_map(of).unwrap_or(0))
    }

    async fn reaches(&self, node: &str, revision: u64) -> Result<()> {
        let reached = async {
            while self.revision(node).await? < revision {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(WAIT_MAX, reached).await.context("the data plane does not get there")?
    }
}

/// Adds a population to what a stopped control plane has.
async fn fill(cluster: &Path, population: Population) -> Result<()> {
    let done = cluster.join(format!("filled-{}-{}", population.agents, population.consents));
    if population.consents > 1 && done.exists() {
        return Ok(());
    }
    let folder = cluster.join("data").join(CONTROL_PLANE).join("raft");
    let mut nodes = Nodes::new(cluster, Duration::ZERO);
    let disk = tokio::task::spawn_blocking(move || RocksDisk::open(&folder)).await??;
    let birth = Birth::read(&disk)?.context("the control plane was never started")?;
    let node_id = birth.node_id;
    nodes.open_on(disk, birth).await?;
    let consensus = nodes.get(node_id)?.consensus().clone();
    consensus.ready(WAIT_MAX).await?;
    let (mut version, mut group) = (consensus.root().0, Vec::new());
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
    drop(consensus);
    nodes.stop().await?;
    fs::write(done, [])?;
    Ok(())
}

/// Entries, frames and bytes of a snapshot.
async fn read_all(url: &str) -> Result<(usize, usize, usize)> {
    let channel = Endpoint::from_shared(url.to_owned())?.connect().await?;
    let mut client = ConfigClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
    let (node, public_key, role) = ("light-fresh".to_owned(), vec![2; 32], "data-plane".to_owned());
    let request = RegisterNodeRequest { node: node.clone(), public_key, role };
    let epoch = client.register_node(request).await?.into_inner().epoch;
    let hello = Hello { node, epoch, last_revision: 0, digest: Vec::new() };
    let hello = NodeMessage { message: Some(node_message::Message::Hello(hello)) };
    let (messages, sent) = tokio::sync::mpsc::channel(1);
    messages.send(hello).await?;
    let mut stream = client.stream(ReceiverStream::new(sent)).await?.into_inner();
    let (mut entries, mut frames, mut bytes) = (0, 0, 0);
    while let Some(frame) = stream.message().await? {
        frames += 1;
        bytes += frame.encoded_len();
        if let Some(config_frame::Frame::Snapshot(chunk)) = frame.frame {
            entries += chunk.entries.len();
            if chunk.last {
                break;
            }
        }
    }
    Ok((entries, frames, bytes))
}

async fn stop(pid: u32) -> Result<()> {
    let kill = process::Command::new("kill").args(["-9", &pid.to_string()]).status().await?;
    ensure!(kill.success(), "kill -9 {pid}: {kill}");
    // A process is gone with its last thread: until then it may hold its locks.
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let is_dead = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        threads() == 0 || threads() == 1 && stat.contains(") Z ")
    };
    while !is_dead() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

impl Figures {
    fn print(&self, json: bool) {
        let (entries, mib) = (self.entries.max(1), |bytes: usize| bytes >> 20);
        let [idle, most, after] = self.control_plane;
        if json {
            let value: Value = json!({
                "entries": self.entries.to_string(), "bytes": self.bytes.to_string(), "frames": self.frames,
                "load": self.took.json(), "data_plane_empty_mib": self.empty, "data_plane_mib": self.loaded.0,
                "data_plane_most_mib": self.loaded.1, "data_plane_most_replacing_mib": self.replacing,
                "control_plane_mib": [idle, most, after],
            });
            println!("{value:#}");
            return;
        }
        let per_entry = ((self.loaded.0.saturating_sub(self.empty)) << 20) / u64::try_from(entries).unwrap_or(1);
        println!(
            "{} entries: {} MiB in {} frames ({} bytes an entry)\n\
             from a process's start until all is in force: {}\n\
             memory of a data plane: {} MiB without, {} MiB with them (at most {} MiB while loading): {per_entry} bytes \
             an entry\n\
             at most {} MiB while a snapshot replaces a snapshot\n\
             memory of the control plane: {idle} MiB before, at most {most} MiB while serving, {after} MiB after",
            self.entries,
            mib(self.bytes),
            self.frames,
            self.bytes / entries,
            self.took,
            self.empty,
            self.loaded.0,
            self.loaded.1,
            self.replacing,
        );
    }
}
