//! A control plane that registers whoever asks, streams the entries it is given, grants leases while it is told to, and
//! keeps what it is told.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bailiwick_proto::{
    config_digest,
    v1::{
        self, BeginReservedRequest, BeginReservedResponse, ConfigFrame, Delta, Denials, EntryChange, Heartbeat, Hello,
        Keys, LaneFrame, LaneMessage, LaneOpened, Lease, NodeMessage, RegisterNodeRequest, RegisterNodeResponse,
        ReportToolsRequest, ReportToolsResponse, ReserveEpochRequest, ReserveEpochResponse, SealingKey, Snapshot,
        config_frame::Frame,
        config_server::{Config, ConfigServer},
        lane_frame::Frame as LaneDown,
        lane_message::Message as LaneUp,
        node_message::Message as Up,
    },
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::holder::{BINDING, binding_keys};

/// Long, for a machine that is busy with other tests.
const LEASE_MS: u64 = 10_000;

#[derive(Debug)]
pub(crate) struct FakeControlPlane {
    pub(crate) url: String,
    pub(crate) shared: Arc<Shared>,
    stop: Shutdown,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    next_epoch: AtomicU64,
    revision: AtomicU64,
    entries: Mutex<Vec<v1::Entry>>,
    down: Mutex<Vec<mpsc::Sender<Result<ConfigFrame, Status>>>>,
    pub(crate) registered: Mutex<Vec<RegisterNodeRequest>>,
    /// Reserves given, and with which epochs.
    pub(crate) reserved: Mutex<Vec<(u64, ReserveEpochRequest)>>,
    /// Reserves that were said to have begun.
    pub(crate) begun: Mutex<Vec<u64>>,
    pub(crate) hellos: Mutex<Vec<Hello>>,
    pub(crate) said: Mutex<Vec<Up>>,
    pub(crate) reports: Mutex<Vec<ReportToolsRequest>>,
    lanes: Mutex<Vec<mpsc::Sender<Result<LaneFrame, Status>>>>,
    pub(crate) lane_said: Mutex<Vec<LaneUp>>,
    /// Grants nothing and says nothing on lanes.
    pub(crate) mute: AtomicBool,
    streams: Mutex<Option<Supervisor>>,
}

#[derive(Clone, Debug)]
struct Service(Arc<Shared>);

impl Drop for FakeControlPlane {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl FakeControlPlane {
    pub(crate) async fn start(entries: Vec<v1::Entry>) -> Self {
        let shared = Arc::new(Shared { entries: Mutex::new(entries), ..Shared::default() });
        shared.next_epoch.store(11, Ordering::SeqCst);
        shared.revision.store(100, Ordering::SeqCst);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let stop = Shutdown::new();
        let supervisor = Supervisor::new(stop.clone());
        *shared.streams.lock().unwrap() = Some(supervisor.clone());
        let (service, stopped) = (ConfigServer::new(Service(Arc::clone(&shared))), stop.clone());
        supervisor.spawn("fake-control-plane", OnEnd::Finish, async move {
            let server = tonic::transport::Server::builder().add_service(service);
            stopped.or_stop(server.serve_with_incoming(TcpListenerStream::new(listener))).await;
        });
        Self { url: format!("http://{address}"), shared, stop }
    }

    /// Changes an entry and streams the delta; with a wrong digest if `sound` is false.
    pub(crate) async fn change(&self, changed: v1::Entry, sound: bool) -> u64 {
        let (from, to) = {
            let mut entries = self.shared.entries.lock().unwrap();
            entries.retain(|entry| entry.key != changed.key);
            entries.push(changed.clone());
            let from = self.shared.revision.fetch_add(1, Ordering::SeqCst);
            (from, from + 1)
        };
        let mut digest = self.shared.digest();
        if !sound {
            digest[0] ^= 1;
        }
        let changes = vec![EntryChange { key: changed.key, value: Some(changed.value) }];
        self.send(Frame::Delta(Delta { from, to, changes, digest })).await;
        to
    }

    /// Denies an entry by the lane, a revision ahead of the config stream; the delta may follow with [`Self::catch_up`].
    pub(crate) async fn deny(&self, denied: v1::Entry) -> u64 {
        let revision = {
            let mut entries = self.shared.entries.lock().unwrap();
            entries.retain(|entry| entry.key != denied.key);
            entries.push(denied.clone());
            self.shared.revision.fetch_add(1, Ordering::SeqCst) + 1
        };
        let changes = vec![EntryChange { key: denied.key, value: Some(denied.value) }];
        let frame = LaneFrame { frame: Some(LaneDown::Denials(Denials { revision, changes, ..Denials::default() })) };
        let lanes = self.shared.lanes.lock().unwrap().clone();
        for lane in lanes {
            drop(lane.send(Ok(frame.clone())).await);
        }
        revision
    }

    /// Streams the present state as a delta from the revision before.
    pub(crate) async fn catch_up(&self, denied: v1::Entry) {
        let to = self.shared.revision.load(Ordering::SeqCst);
        let changes = vec![EntryChange { key: denied.key, value: Some(denied.value) }];
        self.send(Frame::Delta(Delta { from: to - 1, to, changes, digest: self.shared.digest() })).await;
    }

    pub(crate) fn denied(&self, revision: u64) -> bool {
        let said = self.shared.lane_said.lock().unwrap();
        said.iter().any(|up| matches!(up, LaneUp::Denied(denied) if denied.revision == revision))
    }

    pub(crate) async fn send(&self, frame: Frame) {
        let down = self.shared.down.lock().unwrap().clone();
        for sender in down {
            drop(sender.send(Ok(ConfigFrame { frame: Some(frame.clone()) })).await);
        }
    }

    /// Ends all streams and stops answering.
    pub(crate) fn vanish(&self) {
        self.stop.request();
        self.shared.down.lock().unwrap().clear();
        self.shared.lanes.lock().unwrap().clear();
    }

    pub(crate) fn acknowledged(&self, revision: u64) -> bool {
        let said = self.shared.said.lock().unwrap();
        said.iter().any(|up| matches!(up, Up::Ack(ack) if ack.revision == revision))
    }
}

impl Shared {
    fn digest(&self) -> Vec<u8> {
        config_digest::of_entries(self.entries.lock().unwrap().iter()).to_vec()
    }

    fn first_frames(&self) -> Vec<Frame> {
        let entries = self.entries.lock().unwrap().clone();
        let revision = self.revision.load(Ordering::SeqCst);
        let (first, rest) = entries.split_at(entries.len() / 2);
        let key = SealingKey { id: "k".into(), key: vec![5; 32] };
        let chunk = |entries: &[v1::Entry], last, digest| {
            Frame::Snapshot(Snapshot { revision, entries: entries.to_vec(), last, digest })
        };
        vec![
            Frame::Keys(Keys { session_sealing: vec![key], token_binding: binding_keys(BINDING), ..Keys::default() }),
            chunk(first, false, Vec::new()),
            chunk(rest, true, self.digest()),
            Frame::Heartbeat(Heartbeat { revision, digest: self.digest() }),
        ]
    }
}

#[tonic::async_trait]
impl Config for Service {
    async fn reserve_epoch(
        &self,
        request: Request<ReserveEpochRequest>,
    ) -> Result<Response<ReserveEpochResponse>, Status> {
        let epoch = self.0.next_epoch.fetch_add(1, Ordering::SeqCst);
        self.0.reserved.lock().unwrap().push((epoch, request.into_inner()));
        Ok(Response::new(ReserveEpochResponse { epoch }))
    }

    async fn begin_reserved(
        &self,
        request: Request<BeginReservedRequest>,
    ) -> Result<Response<BeginReservedResponse>, Status> {
        let BeginReservedRequest { node: _, public_key, epoch } = request.into_inner();
        let last = self.0.reserved.lock().unwrap().last().map(|(epoch, asked)| (*epoch, asked.public_key.clone()));
        if last != Some((epoch, public_key)) {
            return Err(Status::failed_precondition("no such reserve"));
        }
        self.0.begun.lock().unwrap().push(epoch);
        Ok(Response::new(BeginReservedResponse {}))
    }

    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        self.0.registered.lock().unwrap().push(request.into_inner());
        Ok(Response::new(RegisterNodeResponse { epoch: self.0.next_epoch.fetch_add(1, Ordering::SeqCst) }))
    }

    type StreamStream = ReceiverStream<Result<ConfigFrame, Status>>;

    async fn stream(&self, request: Request<Streaming<NodeMessage>>) -> Result<Response<Self::StreamStream>, Status> {
        let mut up = request.into_inner();
        let (down, frames) = mpsc::channel(64);
        let shared = Arc::clone(&self.0);
        let supervisor = self.0.streams.lock().unwrap().clone().unwrap();
        let stop = supervisor.shutdown().clone();
        supervisor.spawn("fake-config-stream", OnEnd::Finish, async move {
            while let Some(Ok(Some(message))) = stop.or_stop(up.message()).await {
                match message.message.unwrap() {
                    Up::Hello(hello) => {
                        let known = hello.last_revision == shared.revision.load(Ordering::SeqCst)
                            && hello.digest == shared.digest();
                        shared.hellos.lock().unwrap().push(hello);
                        let frames = shared.first_frames();
                        for frame in frames.into_iter().filter(|frame| !known || matches!(frame, Frame::Heartbeat(_))) {
                            drop(down.send(Ok(ConfigFrame { frame: Some(frame) })).await);
                        }
                        shared.down.lock().unwrap().push(down.clone());
                    }
                    said => shared.said.lock().unwrap().push(said),
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }

    type LaneStream = ReceiverStream<Result<LaneFrame, Status>>;

    async fn lane(&self, request: Request<Streaming<LaneMessage>>) -> Result<Response<Self::LaneStream>, Status> {
        let mut up = request.into_inner();
        let (down, frames) = mpsc::channel(64);
        let shared = Arc::clone(&self.0);
        let supervisor = self.0.streams.lock().unwrap().clone().unwrap();
        let stop = supervisor.shutdown().clone();
        supervisor.spawn("fake-lane", OnEnd::Finish, async move {
            while let Some(Ok(Some(message))) = stop.or_stop(up.message()).await {
                let message = message.message.unwrap();
                let revision = shared.revision.load(Ordering::SeqCst);
                let frame = match &message {
                    LaneUp::Hello(_) => {
                        shared.lanes.lock().unwrap().push(down.clone());
                        Some(LaneDown::Opened(LaneOpened { revision }))
                    }
                    LaneUp::Ask(ask) => {
                        Some(LaneDown::Lease(Lease { ask: ask.id, lease_ms: LEASE_MS, revision, denied: 0 }))
                    }
                    LaneUp::Denied(_) => None,
                };
                shared.lane_said.lock().unwrap().push(message);
                if let Some(frame) = frame.filter(|_| !shared.mute.load(Ordering::SeqCst)) {
                    drop(down.send(Ok(LaneFrame { frame: Some(frame) })).await);
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }

    async fn report_tools(
        &self,
        request: Request<ReportToolsRequest>,
    ) -> Result<Response<ReportToolsResponse>, Status> {
        self.0.reports.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ReportToolsResponse { revision: self.0.revision.load(Ordering::SeqCst) }))
    }
}
