//! The config client: registers this run, follows the config stream, looks at servers when asked.
//!
//! One task. It reconnects for ever, to the next control plane if there are several, with growing, jittered pauses,
//! resumes at the revision and digest it holds, and asks for everything anew when a frame does not fit or a bookmark
//! names another digest. Every applied revision is acknowledged; one whose policies do not compile is refused by name
//! while the rest of it applies. What it learns goes into `config_state`; the node keeps serving from there while the
//! control plane is away. Deliberately absent: what a revision means (`data-plane/core`), leases and revocations that
//! cannot wait (`lane`), reporting tools (`tool_reports`).

mod backoff;

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::{Applied, CatalogueError, session::SessionKeys};
use bailiwick_enrolment::ControlPlane;
use bailiwick_ledger_core::key::PublicKey;
use bailiwick_proto::v1::{
    Ack, ConfigFrame, Discover, Discovered, Hello, Nack, NodeMessage, RegisterNodeRequest, config_client,
    config_frame::Frame, node_message::Message as Up,
};
use bailiwick_runtime::tasks::{OnEnd, Supervisor};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

pub(crate) use self::backoff::Backoff;
use crate::{
    config_state::{ConfigState, Taken},
    metrics::{Metrics, gauge_value},
    upstream::Upstream,
};

/// Longest wait for a connection or the answer to one request.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// A stream silent for so long is dead, or its control plane is cut off from the others: bookmarks come several times
/// in it.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Largest frame: a chunk of a snapshot or a delta with many policies.
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Answers waiting to be sent up.
const UP_QUEUE_MAX: usize = 64;
/// Servers looked at for the control plane at once; more wait.
const DISCOVERIES_MAX: usize = 8;
/// Longest wait for the control plane to end a stream this node gives up.
const FAREWELL_WAIT_MAX: Duration = Duration::from_millis(500);
/// Longest error text sent up.
const ERROR_CHARS_MAX: usize = 2048;

/// The control plane's service.
pub(crate) type Client = config_client::ConfigClient<Channel>;

/// A client that connects when it is first used, to the first control plane that can be reached.
pub(crate) fn client(control_plane: &ControlPlane) -> Client {
    Client::new(control_plane.channel()).max_decoding_message_size(FRAME_BYTES_MAX)
}

/// Registers this run's key until it succeeds; the epoch it got.
pub(crate) async fn register(control_plane: &ControlPlane, node: &str, public_key: &PublicKey) -> u64 {
    let mut backoff = Backoff::default();
    loop {
        let mut client = client(control_plane);
        let request = RegisterNodeRequest {
            node: node.to_owned(),
            public_key: public_key.to_vec(),
            role: "data-plane".to_owned(),
        };
        match tokio::time::timeout(REQUEST_WAIT_MAX, client.register_node(request)).await {
            Ok(Ok(answer)) => return answer.into_inner().epoch,
            Ok(Err(status)) => tracing::warn!(%status, "this node cannot be registered; trying again"),
            Err(_) => tracing::warn!("no answer to this node's registration; trying again"),
        }
        control_plane.advance();
        backoff.pause().await;
    }
}

/// What the stream's task needs.
#[derive(Debug)]
pub(crate) struct ConfigStream {
    pub(crate) control_plane: ControlPlane,
    pub(crate) node: String,
    pub(crate) epoch: u64,
    pub(crate) state: Arc<ConfigState>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) supervisor: Supervisor,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("the control plane closed the stream")]
    Closed,
    #[error("no frame within {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(tonic::Status),
    #[error(transparent)]
    Refused(#[from] CatalogueError),
}

impl ConfigStream {
    /// Follows the stream for ever.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        let discoveries = Arc::new(Semaphore::new(DISCOVERIES_MAX));
        let mut resume = true;
        loop {
            let mut frames = 0_u64;
            let end = self.follow(resume, &mut frames, &discoveries).await;
            self.state.stream_ended();
            self.metrics.config_connected.set(0);
            // Perhaps another one is better off.
            self.control_plane.advance();
            let (revision, _) = self.state.held();
            tracing::warn!(%end, revision, "the config stream ended; connecting again");
            resume = !matches!(end, StreamEnd::Refused(_));
            if !resume {
                self.metrics.config_refused.inc();
            } else if frames > 0 {
                backoff = Backoff::default();
            }
            backoff.pause().await;
        }
    }

    async fn follow(&self, resume: bool, frames: &mut u64, discoveries: &Arc<Semaphore>) -> StreamEnd {
        let (up, messages) = mpsc::channel(UP_QUEUE_MAX);
        let (last_revision, digest) = if resume { self.state.held() } else { (0, Vec::new()) };
        let hello = Hello { node: self.node.clone(), epoch: self.epoch, last_revision, digest };
        if up.send(NodeMessage { message: Some(Up::Hello(hello)) }).await.is_err() {
            return StreamEnd::Closed;
        }
        let mut client = client(&self.control_plane);
        let opened = tokio::time::timeout(REQUEST_WAIT_MAX, client.stream(ReceiverStream::new(messages))).await;
        let mut stream: Streaming<ConfigFrame> = match opened {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => return StreamEnd::Unreachable(status),
            Err(_) => return StreamEnd::Silent,
        };
        self.metrics.config_connected.set(1);
        loop {
            let frame = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => return StreamEnd::Closed,
                Ok(Err(status)) => return StreamEnd::Unreachable(status),
                Err(_) => return StreamEnd::Silent,
            };
            *frames += 1;
            let Some(frame) = frame.frame else { continue };
            let answer = match self.on_frame(frame, &up, discoveries) {
                Ok(answer) => answer,
                Err(error) => {
                    give_up(self.state.held().0, &error, up, stream).await;
                    return StreamEnd::Refused(error);
                }
            };
            if let Some(answer) = answer
                && up.send(NodeMessage { message: Some(answer) }).await.is_err()
            {
                return StreamEnd::Closed;
            }
        }
    }

    fn on_frame(
        &self,
        frame: Frame,
        up: &mpsc::Sender<NodeMessage>,
        discoveries: &Arc<Semaphore>,
    ) -> Result<Option<Up>, CatalogueError> {
        match frame {
            Frame::Snapshot(chunk) => Ok(self.state.snapshot(chunk)?.map(|taken| self.answer(taken))),
            Frame::Delta(delta) => Ok(Some(self.answer(self.state.delta(&delta)?))),
            Frame::Heartbeat(bookmark) => self.state.bookmark(&bookmark).map(|()| None),
            Frame::Keys(keys) => {
                match SessionKeys::new(&keys.session_sealing) {
                    Ok(keys) => self.state.set_session_keys(keys),
                    Err(error) => tracing::error!(%error, "the session keys cannot be used; the older ones stay"),
                }
                Ok(None)
            }
            Frame::Discover(discover) => {
                self.discover(discover, up.clone(), Arc::clone(discoveries));
                Ok(None)
            }
        }
    }

    fn answer(&self, taken: Taken) -> Up {
        // Most revisions change nothing a data plane knows: checkpoints, reports.
        let Taken { applied: Applied { revision, config, refused }, changed } = taken;
        self.metrics.config_revision.set(gauge_value(revision));
        for warning in config.warnings.iter().filter(|_| changed) {
            tracing::warn!(revision, warning, "a configuration entry is left out");
        }
        if refused.is_empty() {
            tracing::debug!(revision, changed, "configuration applied");
            return Up::Ack(Ack { revision });
        }
        let error: String = refused.join("; ").chars().take(ERROR_CHARS_MAX).collect();
        if changed {
            self.metrics.config_refused.inc();
            tracing::error!(revision, error, "the policies of this revision are refused; the older ones stay in force");
        }
        Up::Nack(Nack { revision, error })
    }

    fn discover(&self, discover: Discover, up: mpsc::Sender<NodeMessage>, discoveries: Arc<Semaphore>) {
        let upstream = Arc::clone(&self.upstream);
        self.supervisor.spawn("discovery", OnEnd::Finish, async move {
            let Ok(_permit) = discoveries.acquire().await else { return };
            let Discover { id, server: Some(server) } = discover else { return };
            let discovered = match upstream.list_tools(&server).await {
                Ok(tools) => Discovered { id, tools, error: String::new() },
                Err(fault) => Discovered { id, tools: Vec::new(), error: fault.to_string() },
            };
            // The stream may have ended meanwhile; the control plane no longer waits then.
            drop(up.send(NodeMessage { message: Some(Up::Discovered(discovered)) }).await);
        });
    }
}

/// Says why before leaving: closes this side and waits a moment for the other, so that the message is not lost.
async fn give_up(
    revision: u64,
    error: &CatalogueError,
    up: mpsc::Sender<NodeMessage>,
    mut stream: Streaming<ConfigFrame>,
) {
    let nack = Nack { revision, error: error.to_string() };
    // A stream that is gone already need not be told.
    drop(up.send(NodeMessage { message: Some(Up::Nack(nack)) }).await);
    drop(up);
    let until_closed = async { while let Ok(Some(_)) = stream.message().await {} };
    drop(tokio::time::timeout(FAREWELL_WAIT_MAX, until_closed).await);
}
