//! One node's stream: brings it to the present revision, keeps it there, and hears what it says.
//!
//! `Hello` → deltas or a snapshot → keys → deltas as revisions commit, heartbeats between. A heartbeat is a bookmark:
//! it names the revision the node is at by then, and the digest of everything in force there. The node's pace is the
//! session's: it takes from the feed only when the last frame was taken, and a node that takes nothing for a while is
//! let go; it comes back with a `Hello`. The session ends with the connection, with shutdown, or when the same node
//! opens another one.

use std::{sync::Arc, time::Duration};

use bailiwick_proto::v1::{self, config_frame, node_message};
use futures::Stream;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    ConfigService, farewell,
    feed::CatchUp,
    nodes::{Leave, Seat},
    snapshot::{Slot, Snapshot},
    statements::STATEMENT_EVERY,
    wire::Frame,
};
use crate::{authorisation::Who, keys::Keys};

/// Frames encoded and handed over but not sent; the feed keeps the rest.
const FRAMES_AHEAD_MAX: usize = 16;
/// How often a node that waits for its snapshot hears that it does: well within what it takes for silence.
const PATIENCE_EVERY: Duration = Duration::from_secs(2);
/// A node that takes no frame for this long is not listening.
const TAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest text of a refusal that is kept.
const REFUSAL_CHARS_MAX: usize = 500;

/// What a node is sent.
pub(super) type Frames = ReceiverStream<Result<Frame, Status>>;

/// A node that said `Hello` with the epoch it is registered under.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) who: Who,
    pub(super) hello: v1::Hello,
    pub(super) is_data_plane: bool,
}

/// Why a session ended; ordinary in operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Gone,
    TooSlow,
    Removed,
    Protocol,
    Left(Leave),
}

/// A channel of frames for one session.
pub(super) fn frames() -> (mpsc::Sender<Result<Frame, Status>>, Frames) {
    let (frames, sent) = mpsc::channel(FRAMES_AHEAD_MAX);
    (frames, ReceiverStream::new(sent))
}

/// Serves one node until its session ends.
pub(super) async fn run(
    service: Arc<ConfigService>,
    node: Node,
    messages: impl Stream<Item = Result<v1::NodeMessage, Status>> + Unpin,
    frames: mpsc::Sender<Result<Frame, Status>>,
) {
    let (seat, asked) = service.nodes.enter(&node.hello.node, node.hello.epoch, node.is_data_plane);
    service.metrics.nodes_connected(service.nodes.connected());
    tracing::info!(node = %node.hello.node, revision = node.hello.last_revision, "node connected");
    let session = Session { service: &service, seat, frames, revision: node.hello.last_revision, stated: None };
    let end = session.serve(&node, messages, asked).await;
    tracing::info!(node = %node.hello.node, ?end, "node disconnected");
    service.metrics.nodes_connected(service.nodes.connected());
}

struct Session<'a> {
    service: &'a ConfigService,
    seat: Seat<'a>,
    frames: mpsc::Sender<Result<Frame, Status>>,
    /// Where the node is once it has taken what was sent.
    revision: u64,
    /// When the node last got a statement.
    stated: Option<Instant>,
}

impl Session<'_> {
    async fn serve(
        mut self,
        node: &Node,
        messages: impl Stream<Item = Result<v1::NodeMessage, Status>> + Unpin,
        asked: mpsc::Receiver<v1::Discover>,
    ) -> End {
        // From here on no revision is missed.
        let (revisions, keys) = (self.service.feed.revisions(), self.service.keys.clone());
        let greeted = self.greet(node).await;
        let served = match greeted {
            Ok(()) => self.follow(node, messages, asked, revisions, keys).await,
            Err(end) => Err(end),
        };
        let end = served.err().unwrap_or(End::Gone);
        let told = match end {
            End::Left(why) => Some(farewell::status(why)),
            End::Removed => Some(Status::unauthenticated("this node has been removed from the cluster")),
            End::Gone | End::TooSlow | End::Protocol => None,
        };
        if let Some(status) = told {
            drop(self.frames.try_send(Err(status)));
        }
        end
    }

    async fn greet(&mut self, node: &Node) -> Result<(), End> {
        let (revision, catch_up) = self.service.feed.since(node.hello.last_revision, Some(&node.hello.digest));
        match catch_up {
            CatchUp::Deltas(deltas) if deltas.is_empty() => self.send(self.service.feed.confirmation()).await?,
            CatchUp::Deltas(deltas) => self.send_all(&deltas).await?,
            CatchUp::Snapshot(snapshot) => self.send_snapshot(&snapshot).await?,
        }
        self.revision = revision;
        self.advance().await?;
        if node.is_data_plane
            && let Some(keys) = self.service.keys.frame()
        {
            self.send(keys).await?;
        }
        Ok(())
    }

    async fn follow(
        &mut self,
        node: &Node,
        mut messages: impl Stream<Item = Result<v1::NodeMessage, Status>> + Unpin,
        mut asked: mpsc::Receiver<v1::Discover>,
        mut revisions: watch::Receiver<u64>,
        mut keys: Keys,
    ) -> Result<(), End> {
        use tokio_stream::StreamExt as _;
        let mut heartbeats = self.service.heartbeats.of(self.seat.name());
        let mut leaving = self.seat.leaving();
        // Where it is, as soon as that is proven; the next one comes in its turn.
        if *heartbeats.borrow_and_update() > 0 {
            self.beat(node).await?;
        }
        loop {
            tokio::select! {
                // What changed goes before what is asked; each branch takes all there is, so none starves the next.
                biased;
                () = self.service.shutdown.requested() => return Err(self.leave(Leave::Stopping).await),
                why = leaving.asked() => return Err(self.leave(why).await),
                // Keys before the revisions since which they are used.
                Ok(()) = keys.changed(), if node.is_data_plane => {
                    if let Some(keys) = keys.frame() {
                        self.send(keys).await?;
                    }
                }
                Ok(()) = revisions.changed() => self.advance().await?,
                Ok(()) = heartbeats.changed() => self.beat(node).await?,
                Some(question) = asked.recv() => {
                    self.send(Frame::encode(config_frame::Frame::Discover(question))).await?;
                }
                message = messages.next() => match message {
                    Some(Ok(message)) => self.hear(message)?,
                    Some(Err(_)) | None => return Ok(()),
                },
            }
        }
    }

    async fn leave(&self, why: Leave) -> End {
        farewell::turn(why, self.seat.name(), self.service.nodes.connected()).await;
        End::Left(why)
    }

    async fn beat(&mut self, node: &Node) -> Result<(), End> {
        if self.seat.is_replaced() {
            return Err(End::Left(Leave::Replaced));
        }
        if !self.service.is_still_member(&node.who) {
            return Err(End::Removed);
        }
        // Before the state is looked at: what is stated of it is never younger than it is.
        let proven = self.service.heartbeats.last();
        // What is not sent yet goes first: nothing older may follow a bookmark.
        self.advance().await?;
        // The feed may have begun anew in this moment; then there is more to send before the next one.
        let Some((digest, bookmark)) = self.service.feed.bookmark(self.revision) else { return Ok(()) };
        self.send(bookmark).await?;
        if node.is_data_plane && self.stated.is_none_or(|stated| stated.elapsed() >= STATEMENT_EVERY) {
            let Some(statement) = self.service.statements.at(self.revision, &digest, proven) else { return Ok(()) };
            self.stated = Some(Instant::now());
            self.send(statement).await?;
        }
        Ok(())
    }

    async fn advance(&mut self) -> Result<(), End> {
        loop {
            let (revision, catch_up) = self.service.feed.since(self.revision, None);
            match catch_up {
                CatchUp::Deltas(deltas) => self.send_all(&deltas).await?,
                CatchUp::Snapshot(snapshot) => {
                    self.send_snapshot(&snapshot).await?;
                    // There are deltas from there on.
                    self.revision = revision;
                    continue;
                }
            }
            self.revision = revision;
            return Ok(());
        }
    }

    fn hear(&self, message: v1::NodeMessage) -> Result<(), End> {
        match message.message {
            // Nobody has in force what it was not sent.
            Some(node_message::Message::Ack(ack)) => {
                self.seat.acknowledge(ack.revision.min(self.revision), self.service.domain.now_micros());
            }
            Some(node_message::Message::Nack(nack)) => {
                let error: String = nack.error.chars().filter(|c| !c.is_control()).take(REFUSAL_CHARS_MAX).collect();
                tracing::warn!(node = self.seat.name(), revision = nack.revision, %error, "node refused a revision");
                self.service.metrics.revision_refused();
                self.seat.refuse(error);
            }
            Some(node_message::Message::Discovered(found)) => self.seat.discovered(found),
            // A second Hello, or a message of a later version that cannot be answered here.
            Some(node_message::Message::Hello(_)) | None => return Err(End::Protocol),
        }
        Ok(())
    }

    async fn send_snapshot(&self, snapshot: &Snapshot) -> Result<(), End> {
        let mut slot = self.wait_for_slot().await?;
        self.service.metrics.snapshot_sent();
        for number in 0..snapshot.len() {
            slot.give_back_if_slow();
            self.send(snapshot.chunk(number)).await?;
        }
        Ok(())
    }

    /// Waits until not too many others are being sent a snapshot. The node hears that it has not been forgotten.
    async fn wait_for_slot(&self) -> Result<Slot, End> {
        let mut slot = std::pin::pin!(self.service.slots.take());
        loop {
            tokio::select! {
                biased;
                () = self.service.shutdown.requested() => return Err(self.leave(Leave::Stopping).await),
                slot = &mut slot => return Ok(slot),
                () = tokio::time::sleep(PATIENCE_EVERY) => {
                    if self.seat.is_replaced() {
                        return Err(End::Left(Leave::Replaced));
                    }
                    self.send(Frame::nothing()).await?;
                }
            }
        }
    }

    async fn send_all(&self, frames: &[Frame]) -> Result<(), End> {
        for frame in frames {
            self.send(frame.clone()).await?;
        }
        Ok(())
    }

    async fn send(&self, frame: Frame) -> Result<(), End> {
        match tokio::time::timeout(TAKE_WAIT_MAX, self.frames.send(Ok(frame))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::TooSlow),
        }
    }
}
