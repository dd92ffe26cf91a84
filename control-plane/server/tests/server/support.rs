//! A control-plane node in this process, and a data plane that only listens.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use bailiwick_control_plane::{ControlPlaneConfig, Running, serve};
use bailiwick_proto::{
    config_digest::Entries,
    v1::{
        self, admin_client::AdminClient, checkpoints_client::CheckpointsClient, config_client::ConfigClient,
        config_frame, lane_frame, lane_message, node_message,
    },
};
use bailiwick_runtime::{EventStream, MasterKeyConfig, Shutdown};
use tokio::sync::mpsc;
use tonic::{Status, Streaming, transport::Channel};

/// Longest wait for anything in a test; only failing tests wait that long.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(20);

pub(crate) const MANIFESTS: &str = r#"
apiVersion: bailiwick/v1
kind: Server
metadata: {name: finance}
spec:
  endpoint: {url: "http://127.0.0.1:9801/mcp"}
---
apiVersion: bailiwick/v1
kind: VirtualServer
metadata: {name: finance}
spec: {naming: plain, servers: [{server: finance}]}
---
apiVersion: bailiwick/v1
kind: User
metadata: {name: jane@example.com}
spec: {groups: [finance]}
---
apiVersion: bailiwick/v1
kind: Agent
metadata: {name: coding-assistant}
spec: {owner: jane@example.com, project: platform, ceiling: destructive}
---
apiVersion: bailiwick/v1
kind: Policy
metadata: {name: finance-reads}
spec:
  cedar: |
    permit (principal in Group::"finance", action in Action::"call_tool", resource in Server::"finance")
    when { resource.tier == "retrieval" };
"#;

/// A node on loopback.
pub(crate) struct Node {
    pub(crate) admin: AdminClient<Channel>,
    pub(crate) config: ConfigClient<Channel>,
    pub(crate) checkpoints: CheckpointsClient<Channel>,
    pub(crate) http: SocketAddr,
    pub(crate) ops: SocketAddr,
    running: Running,
    shutdown: Shutdown,
}

impl Node {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_with(folder, EventStream::in_process()).await
    }

    pub(crate) async fn start_with(folder: &Path, stream: EventStream) -> Self {
        let shutdown = Shutdown::new();
        let mut config = ControlPlaneConfig::embedded(folder.to_owned());
        // As if it listened at the same place always; nobody else has to find it.
        config.advertise_api = Some("https://127.0.0.1:8431".into());
        config.advertise_peer = Some("127.0.0.1:8432".into());
        config.master_key = MasterKeyConfig { key: Some("0123".repeat(16)), ..MasterKeyConfig::default() };
        let running = serve(config, stream, shutdown.clone()).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", running.grpc_addr)).unwrap().connect().await.unwrap();
        let (admin, config) = (AdminClient::new(channel.clone()), ConfigClient::new(channel.clone()));
        let checkpoints = CheckpointsClient::new(channel);
        Self { admin, config, checkpoints, http: running.http_addr, ops: running.ops_addr, running, shutdown }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        tokio::time::timeout(WAIT_MAX, self.running.stopped()).await.unwrap().unwrap();
    }

    pub(crate) async fn apply(&mut self, text: &str) -> v1::ApplyResponse {
        self.apply_as(text, "").await
    }

    pub(crate) async fn apply_as(&mut self, text: &str, request_id: &str) -> v1::ApplyResponse {
        let request = v1::ApplyRequest { files: vec![file(text)], request_id: request_id.into(), dry_run: false };
        self.admin.apply(request).await.unwrap().into_inner()
    }

    pub(crate) async fn names(&mut self, kind: &str) -> Vec<String> {
        let request = v1::GetRequest { kind: kind.into(), name: String::new() };
        let items = self.admin.get(request).await.unwrap().into_inner().items;
        let name = |item: &String| {
            let item: serde_json::Value = serde_json::from_str(item).unwrap();
            item["metadata"]["name"].as_str().unwrap().to_owned()
        };
        items.iter().map(name).collect()
    }

    pub(crate) async fn revision(&mut self) -> u64 {
        self.admin.status(v1::StatusRequest {}).await.unwrap().into_inner().revision
    }
}

pub(crate) fn file(text: &str) -> v1::ManifestFile {
    v1::ManifestFile { name: "test.yaml".into(), text: text.into() }
}

pub(crate) fn user(name: &str) -> String {
    format!("apiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{}}\n")
}

/// The same user, who may do nothing any more.
pub(crate) fn inactive(name: &str) -> String {
    user(name).replace("{}", "{active: false}")
}

/// The data directory as `kill -9` would leave it: what the operating system has, of a node that is still running.
pub(crate) fn copy_as_if_killed(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_as_if_killed(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// One request on a connection of its own: status line and body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> (String, String) {
    let mut connection = TcpStream::connect(addr).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The first signed statement that a data plane gets.
pub(crate) async fn statement(config: &ConfigClient<Channel>, name: &str, epoch: u64) -> v1::Statement {
    let (messages, outgoing) = mpsc::channel(1);
    let hello = v1::Hello { node: name.into(), epoch, ..v1::Hello::default() };
    messages.send(message(node_message::Message::Hello(hello))).await.unwrap();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut frames = config.clone().stream(outgoing).await.unwrap().into_inner();
    loop {
        let frame = tokio::time::timeout(WAIT_MAX, frames.message()).await.unwrap().unwrap().unwrap();
        if let Some(config_frame::Frame::Statement(said)) = frame.frame {
            return said;
        }
    }
}

/// A data plane's end of the config stream: keeps what it is told and checks every digest.
pub(crate) struct DataPlane {
    pub(crate) name: String,
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
    pub(crate) entries: Entries,
    pub(crate) keys: Option<v1::Keys>,
    /// What came, in order: `snapshot`, `delta <from>..<to>`, `keys`.
    pub(crate) seen: Vec<String>,
    /// What it shows of servers when asked.
    pub(crate) tools: BTreeMap<String, Vec<v1::ToolDefinition>>,
    messages: mpsc::Sender<v1::NodeMessage>,
    frames: Streaming<v1::ConfigFrame>,
}

impl DataPlane {
    /// Registers as a new run and connects with nothing.
    pub(crate) async fn connect(node: &Node, name: &str) -> Self {
        let epoch = register(node, name).await;
        Self::connect_again(node, name, epoch).await
    }

    /// Connects a registered run with nothing.
    pub(crate) async fn connect_again(node: &Node, name: &str, epoch: u64) -> Self {
        Self::hello(node, name, epoch, 0, Entries::new(), Vec::new()).await
    }

    /// Connects again as the same run, holding what it held.
    pub(crate) async fn reconnect(self, node: &Node) -> Self {
        let digest = self.entries.digest().to_vec();
        self.reconnect_saying(node, digest).await
    }

    pub(crate) async fn reconnect_saying(self, node: &Node, digest: Vec<u8>) -> Self {
        let Self { name, epoch, revision, entries, messages, frames, .. } = self;
        drop((messages, frames));
        Self::hello(node, &name, epoch, revision, entries, digest).await
    }

    async fn hello(node: &Node, name: &str, epoch: u64, revision: u64, entries: Entries, digest: Vec<u8>) -> Self {
        let (messages, outgoing) = mpsc::channel(16);
        let hello = v1::Hello { node: name.into(), epoch, last_revision: revision, digest };
        messages.send(message(node_message::Message::Hello(hello))).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let frames = node.config.clone().stream(outgoing).await.unwrap().into_inner();
        let (seen, keys, tools) = (Vec::new(), None, BTreeMap::new());
        Self { name: name.into(), epoch, revision, entries, keys, seen, tools, messages, frames }
    }

    /// Takes frames until one has been heard that brings it to `revision`, and the keys have come.
    pub(crate) async fn until(&mut self, revision: u64) {
        while self.revision < revision || self.keys.is_none() {
            self.step().await;
        }
    }

    /// Takes what comes until the stream ends; why it did.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = tokio::time::timeout(WAIT_MAX, self.frames.message()).await.unwrap() {
                return status;
            }
        }
    }

    /// Takes one frame.
    pub(crate) async fn step(&mut self) {
        let frame = tokio::time::timeout(WAIT_MAX, self.frames.message()).await.unwrap().unwrap().unwrap();
        match frame.frame.unwrap() {
            config_frame::Frame::Snapshot(snapshot) => {
                if self.seen.last().is_none_or(|last| last != "snapshot") {
                    self.entries = Entries::new();
                    self.seen.push("snapshot".into());
                }
                for entry in snapshot.entries {
                    self.entries.insert(&entry.key, &entry.value);
                }
                if snapshot.last {
                    self.arrive(snapshot.revision, &snapshot.digest).await;
                }
            }
            config_frame::Frame::Delta(delta) => {
                assert_eq!(delta.from, self.revision, "a delta must continue");
                for change in &delta.changes {
                    self.entries.apply(change);
                }
                self.seen.push(format!("delta {}..{}", delta.from, delta.to));
                self.arrive(delta.to, &delta.digest).await;
            }
            config_frame::Frame::Keys(keys) => {
                self.keys = Some(keys);
                self.seen.push("keys".into());
            }
            // A bookmark: where the node is by then, and what it holds.
            config_frame::Frame::Heartbeat(beat) => {
                assert_eq!((beat.revision, beat.digest), (self.revision, self.entries.digest().to_vec()));
            }
            config_frame::Frame::Statement(said) => {
                assert_eq!((said.revision, said.digest), (self.revision, self.entries.digest().to_vec()));
            }
            config_frame::Frame::Discover(asked) => {
                let tools = self.tools.get(&asked.server.unwrap().name).cloned().unwrap_or_default();
                let found = v1::Discovered { id: asked.id, tools, ..v1::Discovered::default() };
                self.messages.send(message(node_message::Message::Discovered(found))).await.unwrap();
            }
        }
    }

    async fn arrive(&mut self, revision: u64, digest: &[u8]) {
        assert_eq!(self.entries.digest(), *digest, "the digest covers the whole configuration");
        self.revision = revision;
        self.acknowledge(revision).await;
    }

    pub(crate) async fn acknowledge(&self, revision: u64) {
        self.messages.send(message(node_message::Message::Ack(v1::Ack { revision }))).await.unwrap();
    }

    pub(crate) async fn refuse(&self, revision: u64, error: &str) {
        let nack = v1::Nack { revision, error: error.into() };
        self.messages.send(message(node_message::Message::Nack(nack))).await.unwrap();
    }
}

fn message(message: node_message::Message) -> v1::NodeMessage {
    v1::NodeMessage { message: Some(message) }
}

/// A data plane's end of its revocation lane.
pub(crate) struct Lane {
    /// Up to here denials do not come by it.
    pub(crate) opened: u64,
    asked: u64,
    messages: mpsc::Sender<v1::LaneMessage>,
    frames: Streaming<v1::LaneFrame>,
}

impl Lane {
    pub(crate) async fn open(config: &ConfigClient<Channel>, name: &str, epoch: u64) -> Result<Self, Status> {
        let (messages, outgoing) = mpsc::channel(16);
        let hello = v1::LaneHello { node: name.into(), epoch };
        messages.send(lane_message(lane_message::Message::Hello(hello))).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let frames = config.clone().lane(outgoing).await?.into_inner();
        let mut lane = Self { opened: 0, asked: 0, messages, frames };
        match lane.next().await? {
            lane_frame::Frame::Opened(opened) => lane.opened = opened.revision,
            other => unreachable!("{other:?}"),
        }
        Ok(lane)
    }

    /// The next frame, or the end.
    pub(crate) async fn take(&mut self) -> Result<Option<lane_frame::Frame>, Status> {
        let frame = tokio::time::timeout(WAIT_MAX, self.frames.message()).await.unwrap()?;
        Ok(frame.and_then(|frame| frame.frame))
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Result<lane_frame::Frame, Status> {
        Ok(self.take().await?.unwrap())
    }

    /// The next frame, which is denials.
    pub(crate) async fn denials(&mut self) -> v1::Denials {
        match self.next().await.unwrap() {
            lane_frame::Frame::Denials(denials) => denials,
            other => unreachable!("{other:?}"),
        }
    }

    /// The next frame, which is a lease.
    pub(crate) async fn lease(&mut self) -> v1::Lease {
        match self.next().await.unwrap() {
            lane_frame::Frame::Lease(lease) => lease,
            other => unreachable!("{other:?}"),
        }
    }

    /// Whether nothing comes for so long.
    pub(crate) async fn is_silent(&mut self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.frames.message()).await.is_err()
    }

    /// Asks for a lease as a node that holds this; gives the question's id.
    pub(crate) async fn ask(&mut self, revision: u64, digest: Vec<u8>) -> u64 {
        self.ask_having(revision, digest, 0, 0).await
    }

    /// The same as a node that has decided and denied so many calls.
    pub(crate) async fn ask_having(&mut self, revision: u64, digest: Vec<u8>, calls: u64, denied: u64) -> u64 {
        self.asked += 1;
        let counts = v1::Counts { calls, denied, ..v1::Counts::default() };
        let ask = v1::Ask { id: self.asked, revision, digest, counts: Some(counts), before: None };
        // A lane that has ended says why in its last frame.
        drop(self.messages.send(lane_message(lane_message::Message::Ask(ask))).await);
        self.asked
    }

    pub(crate) async fn denied(&self, revision: u64) {
        let denied = lane_message::Message::Denied(v1::Denied { revision });
        self.messages.send(lane_message(denied)).await.unwrap();
    }
}

fn lane_message(message: lane_message::Message) -> v1::LaneMessage {
    v1::LaneMessage { message: Some(message) }
}

/// Registers a run of a data plane with a key of its own; gives its epoch.
pub(crate) async fn register(node: &Node, name: &str) -> u64 {
    register_with(&node.config, name, "data-plane").await
}

pub(crate) async fn register_with(config: &ConfigClient<Channel>, name: &str, role: &str) -> u64 {
    let public_key = {
        use std::hash::{BuildHasher, RandomState};
        // Any 32 bytes do: nothing is signed here.
        (0..4_u64).flat_map(|n| RandomState::new().hash_one(n).to_be_bytes()).collect()
    };
    let request = v1::RegisterNodeRequest { node: name.into(), public_key, role: role.into() };
    config.clone().register_node(request).await.unwrap().into_inner().epoch
}

pub(crate) fn tool(name: &str, read_only: bool) -> v1::ToolDefinition {
    let json = serde_json::json!({
        "name": name,
        "inputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": read_only},
    });
    v1::ToolDefinition { name: name.into(), json: json.to_string() }
}
