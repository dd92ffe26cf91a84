//! Light nodes: config streams and lanes as data planes open them, in numbers.
//!
//! For `revocation` and `leavers`. Each has a connection of its own and asks for leases as data planes do; they keep
//! nothing and decide nothing. What they hear is noted with the time at which it was read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_proto::v1::{
    Ask, ConfigFrame, Hello, LaneFrame, LaneHello, LaneMessage, NodeMessage, RegisterNodeRequest,
    config_client::ConfigClient, config_frame, lane_frame, lane_message, node_message,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::cluster::Cluster;

/// Registrations under way at a time: each is a command.
const REGISTERING_AT_ONCE: usize = 32;
/// How often a node asks for a lease, as data planes do.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for all nodes to connect, or to hear of one revocation.
const WAIT_MAX: Duration = Duration::from_secs(60);
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What all light nodes tell.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) denials: Arrivals,
    pub(super) deltas: Arrivals,
    leases: Mutex<Vec<Duration>>,
    present: watch::Sender<usize>,
}

/// When something of a revision was read, node by node.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Mutex<BTreeMap<u64, Vec<Instant>>>);

/// Registers light nodes; name and epoch of each.
pub(super) async fn register(cluster: &Cluster, nodes: usize) -> Result<Vec<(String, u64)>> {
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
pub(super) async fn connect(
    cluster: &Cluster,
    registered: &[(String, u64)],
    heard: &Arc<Heard>,
) -> Result<JoinSet<Result<()>>> {
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

impl Heard {
    /// How long each lease took since this was asked last.
    pub(super) fn leases(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All nodes are gone.
    pub(super) fn nobody(&self) {
        self.present.send_replace(0);
    }
}

impl Arrivals {
    fn note(&self, revision: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(revision).or_default().push(Instant::now());
    }

    /// When each of so many nodes heard of a revision, once all have.
    pub(super) async fn all(&self, revision: u64, nodes: usize) -> Result<Vec<Instant>> {
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
