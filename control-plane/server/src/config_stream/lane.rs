//! The revocation lane of one data plane: what takes authority away, at once and in order, and leases.
//!
//! `LaneHello` → `LaneOpened` with the revision of the feed → every denial of every later revision, as it commits. The
//! node asks for a lease each second. Only then this control plane has itself confirmed as current (`proofs`), sends
//! every denial up to there, and grants; so a revocation that was committed before a proof began is never missing from
//! its lease, and an older lease was asked for before that commit and runs out within [`LEASE`] of it.
//! A lane that cannot give every denial ends, and the node opens another. A node whose digest is not that of what it
//! was sent gets no lease and is named: nobody knows what it would admit. A lane holds no queue: the `feed` keeps what is
//! not taken yet.

use std::{collections::VecDeque, sync::Arc};

use bailiwick_control_plane_core::{State, node::Role};
use bailiwick_proto::{
    config_digest::DIGEST_BYTES,
    v1::{self, lane_frame, lane_message},
};
use bailiwick_runtime::OnEnd;
use futures::{FutureExt as _, Stream, future::BoxFuture};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use super::{
    ConfigService, HELLO_WAIT_MAX, LEASE, farewell,
    nodes::{Drift, LaneSeat, Leave},
    proofs::Proof,
    wire::LaneFrame,
};
use crate::authorisation::Who;

/// Frames handed over but not sent; the feed keeps the rest.
const FRAMES_AHEAD_MAX: usize = 16;
/// Questions of one node that wait for a proof: one comes each second, and an answer is worth nothing after [`LEASE`].
const ASKS_MAX: usize = 4;

/// What a node is sent on its lane.
pub(super) type LaneFrames = ReceiverStream<Result<LaneFrame, Status>>;

/// Why a lane ended; ordinary in operation, but for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Protocol,
    Gone,
    /// It took nothing for as long as a lease lasts.
    TooSlow,
    /// Not every denial since what it was sent is known here any more.
    Behind,
    Left(Leave),
    /// It was removed, or another run of it registered.
    Unregistered,
}

impl ConfigService {
    /// Opens the lane of a data plane that says `LaneHello` with the epoch of its registration, and serves it.
    pub(crate) async fn lane(
        self: &Arc<Self>,
        who: &Who,
        messages: impl Stream<Item = Result<v1::LaneMessage, Status>> + Unpin + Send + 'static,
    ) -> Result<LaneFrames, Status> {
        let (frames, lane) = self.open_lane(who, messages).await?;
        self.supervisor.spawn("revocation lane", OnEnd::Finish, lane);
        Ok(frames)
    }

    /// The same, but whoever calls runs the lane.
    pub(crate) async fn open_lane(
        self: &Arc<Self>,
        who: &Who,
        mut messages: impl Stream<Item = Result<v1::LaneMessage, Status>> + Unpin + Send + 'static,
    ) -> Result<(LaneFrames, BoxFuture<'static, ()>), Status> {
        let first = tokio::time::timeout(HELLO_WAIT_MAX, messages.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no LaneHello came"))?.transpose()?;
        let Some(lane_message::Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("the first message must be LaneHello"));
        };
        if self.admit(who, &hello.node, hello.epoch).await? != Role::DataPlane {
            return Err(Status::permission_denied("only data planes have a revocation lane"));
        }
        let (sender, frames) = mpsc::channel(FRAMES_AHEAD_MAX);
        let lane = run(Arc::clone(self), who.clone(), hello, messages, sender).boxed();
        Ok((ReceiverStream::new(frames), lane))
    }

    fn count_lanes(&self) {
        self.metrics.lanes(self.nodes.lanes(), self.nodes.drifting());
    }
}

/// Serves one lane until it ends.
async fn run(
    service: Arc<ConfigService>,
    who: Who,
    hello: v1::LaneHello,
    messages: impl Stream<Item = Result<v1::LaneMessage, Status>> + Unpin,
    frames: mpsc::Sender<Result<LaneFrame, Status>>,
) {
    let seat = service.nodes.enter_lane(&hello.node, hello.epoch);
    service.count_lanes();
    tracing::info!(node = %hello.node, "revocation lane opened");
    let opened = service.feed.revision();
    let lane = Lane {
        service: &service,
        who,
        seat,
        frames,
        epoch: hello.epoch,
        opened,
        sent: opened,
        is_whole: false,
        said: 0,
        asks: VecDeque::with_capacity(ASKS_MAX),
    };
    let end = lane.serve(messages).await;
    tracing::info!(node = %hello.node, ?end, "revocation lane closed");
    service.count_lanes();
}

struct Lane<'a> {
    service: &'a ConfigService,
    who: Who,
    seat: LaneSeat<'a>,
    frames: mpsc::Sender<Result<LaneFrame, Status>>,
    epoch: u64,
    /// Up to here denials come by the config stream alone.
    opened: u64,
    /// Every denial after `opened` and up to here was sent.
    sent: u64,
    /// The node has said that it has everything up to `opened`, so its word on later denials covers all.
    is_whole: bool,
    /// The last revision of which it said that all denials since `opened` are in force.
    said: u64,
    /// Questions that wait for a proof, oldest first.
    asks: VecDeque<Waiting>,
}

/// A question, and the ticket of the proof it waits for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    ask: u64,
    ticket: u64,
}

impl Lane<'_> {
    async fn serve(mut self, messages: impl Stream<Item = Result<v1::LaneMessage, Status>> + Unpin) -> End {
        let end = self.follow(messages).await.err().unwrap_or(End::Gone);
        let told = match end {
            End::Left(why) => Some(farewell::status(why)),
            End::Behind => Some(Status::aborted("denials were missed; open the lane again")),
            End::Unregistered => {
                Some(Status::failed_precondition("this node was removed, or another run of it has registered since"))
            }
            End::Protocol => Some(Status::invalid_argument("not what a lane takes")),
            End::Gone | End::TooSlow => None,
        };
        if let Some(status) = told {
            drop(self.frames.try_send(Err(status)));
        }
        end
    }

    async fn follow(
        &mut self,
        mut messages: impl Stream<Item = Result<v1::LaneMessage, Status>> + Unpin,
    ) -> Result<(), End> {
        let (mut denials, mut proven) = (self.service.feed.denials(), self.service.proofs.proven());
        let mut heartbeats = self.service.heartbeats.of(self.seat.name());
        let mut leaving = self.seat.leaving();
        self.send(lane_frame::Frame::Opened(v1::LaneOpened { revision: self.opened })).await?;
        // What was committed between the two moments, or while the frame was taken.
        self.deny().await?;
        loop {
            tokio::select! {
                // Denials before all else; each branch takes all there is, so none starves the next.
                biased;
                () = self.service.shutdown.requested() => return Err(self.leave(Leave::Stopping).await),
                why = leaving.asked() => return Err(self.leave(why).await),
                Ok(()) = denials.changed() => self.deny().await?,
                // Each proof wakes those alone who wait for one.
                Ok(()) = proven.changed(), if !self.asks.is_empty() => {
                    let proof = *proven.borrow_and_update();
                    self.grant(proof).await?;
                }
                // Also of a node that asks for nothing, so that no lane stays that nobody should have.
                Ok(()) = heartbeats.changed() => {
                    heartbeats.mark_unchanged();
                    self.check_registered()?;
                }
                message = messages.next() => match message {
                    Some(Ok(message)) => self.hear(message)?,
                    Some(Err(_)) | None => return Ok(()),
                },
            }
        }
    }

    async fn leave(&self, why: Leave) -> End {
        farewell::turn(why, self.seat.name(), self.service.nodes.lanes()).await;
        End::Left(why)
    }

    /// Sends every denial there is and was not sent.
    async fn deny(&mut self) -> Result<(), End> {
        let (revision, frames) = self.service.feed.denials_since(self.sent).ok_or(End::Behind)?;
        for frame in frames {
            self.send_frame(frame).await?;
        }
        self.sent = revision;
        Ok(())
    }

    /// Answers the last question that came before the proof began; older ones with it, as the later lease lasts longer.
    async fn grant(&mut self, proof: Proof) -> Result<(), End> {
        let mut answered = None;
        while self.asks.front().is_some_and(|waiting| waiting.ticket <= proof.ticket) {
            answered = self.asks.pop_front();
        }
        let (Some(waiting), Some(proven)) = (answered, proof.revision) else { return Ok(()) };
        self.check_registered()?;
        self.deny().await?;
        if self.sent < proven {
            return Err(End::Behind);
        }
        let lease_ms = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        let denied = self.service.feed.last_denial(self.sent);
        let lease = v1::Lease { ask: waiting.ask, lease_ms, revision: self.sent, denied };
        self.send(lane_frame::Frame::Lease(lease)).await?;
        self.seat.leased(self.service.domain.now_micros());
        self.service.metrics.lease_given();
        Ok(())
    }

    fn check_registered(&self) -> Result<(), End> {
        if self.seat.is_replaced() {
            return Err(End::Left(Leave::Replaced));
        }
        let is_it = |state: &State| state.nodes.get(self.seat.name()).is_some_and(|node| node.epoch == self.epoch);
        if self.service.domain.read(is_it) && self.service.is_still_member(&self.who) {
            Ok(())
        } else {
            Err(End::Unregistered)
        }
    }

    fn hear(&mut self, message: v1::LaneMessage) -> Result<(), End> {
        match message.message {
            Some(lane_message::Message::Ask(ask)) => self.asked(&ask),
            Some(lane_message::Message::Denied(denied)) => {
                // Nobody has in force what it was not sent.
                self.said = self.said.max(denied.revision.min(self.sent));
                self.count_denied();
                Ok(())
            }
            // A second Hello, or a message of a later version that cannot be answered here.
            Some(lane_message::Message::Hello(_)) | None => Err(End::Protocol),
        }
    }

    fn asked(&mut self, ask: &v1::Ask) -> Result<(), End> {
        if !ask.digest.is_empty() && ask.digest.len() != DIGEST_BYTES {
            return Err(End::Protocol);
        }
        self.seat.counted(ask.counts.unwrap_or_default(), ask.before);
        // Of a node that holds something else nobody knows what it would admit.
        let differs = self.differs(ask);
        self.is_whole = !differs && (self.is_whole || ask.revision >= self.opened);
        self.count_denied();
        if differs {
            return Ok(());
        }
        if self.asks.len() == ASKS_MAX {
            self.asks.pop_front();
        }
        self.asks.push_back(Waiting { ask: ask.id, ticket: self.service.proofs.ask() });
        Ok(())
    }

    /// A node that has all denials since the lane was opened has all there are only if it has those before, too.
    fn count_denied(&self) {
        if self.is_whole && self.said > 0 {
            self.seat.denied(self.said, self.service.domain.now_micros());
        }
    }

    /// Whether the node holds something else than it was sent.
    fn differs(&self, ask: &v1::Ask) -> bool {
        let expected = self.service.feed.digest_at(ask.revision).map(hex::encode).unwrap_or_default();
        let drift = self.seat.compare(hex::encode(&ask.digest), expected.clone());
        let (node, revision, digest) = (self.seat.name(), ask.revision, hex::encode(&ask.digest));
        match drift {
            Drift::No => return false,
            Drift::Still => {}
            Drift::New => tracing::error!(
                node,
                revision,
                digest,
                expected,
                "ALARM: a node holds another configuration than it was sent; it gets no lease"
            ),
            Drift::Over => tracing::info!(node, revision, digest, "the node holds what it was sent again"),
        }
        self.service.count_lanes();
        drift != Drift::Over
    }

    async fn send(&self, frame: lane_frame::Frame) -> Result<(), End> {
        self.send_frame(LaneFrame::on_lane(frame)).await
    }

    async fn send_frame(&self, frame: LaneFrame) -> Result<(), End> {
        match tokio::time::timeout(LEASE, self.frames.send(Ok(frame))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::TooSlow),
        }
    }
}
