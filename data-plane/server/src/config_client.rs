//! The config client: registers this run and follows the config stream.
//!
//! One task. It reconnects for ever, to the next control plane if there are several, with growing, jittered pauses,
//! resumes at the revision and digest it holds, and asks for everything anew when a frame does not fit or a bookmark
//! names another digest. Every applied revision is acknowledged; one whose policies do not compile is refused by name
//! while the rest of it applies. What it learns goes into `config_state`; the node keeps serving from there while the
//! control plane is away. Deliberately absent: what a revision means (`data-plane/core`), leases and revocations that
//! cannot wait (`lane`), looking at servers (`discovery`), what it all travels over (`uplink`).

mod backoff;

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::{Applied, CatalogueError};
use bailiwick_enrolment::ControlPlane;
use bailiwick_proto::v1::{
    Ack, ConfigFrame, Hello, Nack, NodeMessage, config_client, config_frame::Frame, node_message::Message as Up,
};
use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, transport::Channel};

pub(crate) use self::backoff::Backoff;
use crate::{
    config_state::{ConfigState, Taken},
    discovery::Discoveries,
    metrics::{Metrics, gauge_value},
    uplink::Uplink,
};

/// Longest wait for a connection or the answer to one request.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// A stream silent for so long is dead, or its control plane is cut off from the others: a bookmark comes every three
/// seconds, and one may be lost.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// Largest frame: a chunk of a snapshot or a delta with many policies.
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Answers waiting to be sent up.
const UP_QUEUE_MAX: usize = 64;
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

/// What the stream's task needs.
#[derive(Debug)]
pub(crate) struct ConfigStream<U> {
    pub(crate) uplink: U,
    pub(crate) node: String,
    pub(crate) epoch: u64,
    pub(crate) state: Arc<ConfigState>,
    pub(crate) metrics: Arc<Metrics>,
    /// Absent where there is nobody who could look at a server.
    pub(crate) discoveries: Option<Discoveries>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("the control plane closed the stream")]
    Closed,
    #[error("no frame within {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(Box<Status>),
    #[error("what was kept on disk is lost: everything is asked for again")]
    Lost,
    #[error(transparent)]
    Refused(#[from] CatalogueError),
}

impl<U: Uplink> ConfigStream<U> {
    /// Follows the stream for ever.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::within(self.state.surroundings());
        let mut resume = true;
        let mut wishes = self.state.snapshot_wishes();
        loop {
            let mut frames = 0_u64;
            let end = self.follow(resume, &mut frames, &mut wishes).await;
            self.state.stream_ended();
            self.metrics.config_connected.set(0);
            // Perhaps another one is better off.
            self.uplink.advance();
            let (revision, _) = self.state.held();
            tracing::warn!(%end, revision, "the config stream ended; connecting again");
            resume = !matches!(end, StreamEnd::Refused(_) | StreamEnd::Lost);
            if matches!(end, StreamEnd::Refused(_)) {
                self.metrics.config_refused.inc();
            } else if frames > 0 {
                backoff.reset();
            }
            backoff.pause().await;
        }
    }

    async fn follow(&self, resume: bool, frames: &mut u64, wishes: &mut Option<watch::Receiver<u64>>) -> StreamEnd {
        let (up, messages) = mpsc::channel(UP_QUEUE_MAX);
        let (last_revision, digest) = if resume { self.state.held() } else { (0, Vec::new()) };
        let hello = Hello { node: self.node.clone(), epoch: self.epoch, last_revision, digest };
        if up.send(NodeMessage { message: Some(Up::Hello(hello)) }).await.is_err() {
            return StreamEnd::Closed;
        }
        let opened = self.uplink.stream(ReceiverStream::new(messages));
        let mut stream = match tokio::time::timeout(REQUEST_WAIT_MAX, opened).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(status)) => return StreamEnd::Unreachable(Box::new(status)),
            Err(_) => return StreamEnd::Silent,
        };
        self.metrics.config_connected.set(1);
        // The last word counts, and is said when there is room for it: a control plane that has much to send hears
        // nothing meanwhile, and if either side waited for the other, both would.
        let mut unsaid: Option<Up> = None;
        loop {
            self.state.room().await;
            let next = tokio::select! {
                // A wish is rare; a frame that waits beside it is sent again.
                biased;
                () = wished(wishes) => return StreamEnd::Lost,
                room = up.reserve(), if unsaid.is_some() => {
                    let Ok(room) = room else { return StreamEnd::Closed };
                    room.send(NodeMessage { message: unsaid.take() });
                    continue;
                }
                next = tokio::time::timeout(SILENCE_MAX, stream.next()) => next,
            };
            let frame = match next {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return StreamEnd::Closed,
                Ok(Some(Err(status))) => return StreamEnd::Unreachable(Box::new(status)),
                Err(_) => return StreamEnd::Silent,
            };
            *frames += 1;
            let Some(frame) = frame.frame else { continue };
            let answer = match self.on_frame(frame, &up) {
                Ok(answer) => answer,
                Err(error) => {
                    give_up(self.state.held().0, &error, up, stream).await;
                    return StreamEnd::Refused(error);
                }
            };
            if answer.is_some() && self.state.acknowledgement_lasts().await {
                unsaid = answer;
            }
        }
    }

    fn on_frame(&self, frame: Frame, up: &mpsc::Sender<NodeMessage>) -> Result<Option<Up>, CatalogueError> {
        match frame {
            Frame::Snapshot(chunk) => Ok(self.state.snapshot(chunk)?.map(|taken| self.answer(taken))),
            Frame::Delta(delta) => Ok(Some(self.answer(self.state.delta(&delta)?))),
            Frame::Heartbeat(bookmark) => self.state.bookmark(&bookmark).map(|()| None),
            Frame::Keys(keys) => {
                self.state.sealing_keys_came(keys);
                Ok(None)
            }
            Frame::Statement(statement) => {
                self.state.statement(statement);
                Ok(None)
            }
            Frame::Discover(discover) => {
                if let Some(discoveries) = &self.discoveries {
                    discoveries.answer(discover, up.clone());
                }
                Ok(None)
            }
        }
    }

    fn answer(&self, taken: Taken) -> Up {
        // Most revisions change nothing a data plane knows: checkpoints, reports.
        let Taken { applied: Applied { revision, config, refused }, changed } = taken;
        self.metrics.config_revision.set(gauge_value(revision));
        self.metrics.staged(config.staging.as_ref().map(|staging| &staging.rollout));
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
}

/// Returns once a whole snapshot is wished for; never where nothing is kept.
async fn wished(wishes: &mut Option<watch::Receiver<u64>>) {
    let Some(wishes) = wishes else { return std::future::pending().await };
    if wishes.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Says why before leaving: closes this side and waits a moment for the other, so that the message is not lost.
async fn give_up(
    revision: u64,
    error: &CatalogueError,
    up: mpsc::Sender<NodeMessage>,
    mut stream: impl Stream<Item = Result<ConfigFrame, Status>> + Unpin,
) {
    let nack = Nack { revision, error: error.to_string() };
    // A stream that is gone already need not be told.
    let said = up.send(NodeMessage { message: Some(Up::Nack(nack)) });
    drop(tokio::time::timeout(FAREWELL_WAIT_MAX, said).await);
    drop(up);
    let until_closed = async { while let Some(Ok(_)) = stream.next().await {} };
    drop(tokio::time::timeout(FAREWELL_WAIT_MAX, until_closed).await);
}
