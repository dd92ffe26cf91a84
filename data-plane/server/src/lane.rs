//! The revocation lane: what takes authority away, at once, and the leases under which this node may act.
//!
//! One task, on a connection of its own, so that no snapshot stands before a revocation. It puts denials in force
//! (`config_state`) and only then says so; it asks for a lease when the lane opens and every second after, and notes the
//! time before the question leaves. It reconnects for ever, to the next control plane if there are several; a lane on
//! which nothing comes for two seconds is given up, which leaves another control plane time to renew the lease.
//! Deliberately absent: the order of frames (`data-plane/core`, `lane`), what leases allow (`config_state`).

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::{
    CatalogueError,
    lane::{Lane, LaneFault, LaneStep},
};
use bailiwick_proto::v1::{Ask, Denied, LaneFrame, LaneHello, LaneMessage, lane_message::Message as Up};
use futures::{Stream, stream::FuturesOrdered};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use crate::{
    config_client::Backoff,
    config_state::{ConfigState, LaneOutdated},
    metrics::Metrics,
    uplink::Uplink,
};

/// A lease is asked for so long after the last one came, or after a question that was not answered. With the time an
/// answer takes, one may be lost and the next still comes before the lease ends.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// A lane is opened, and then heard from, within this. Shorter than a lease by enough to find another control plane.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Messages waiting to be sent up. A control plane that takes none of so many is not listening.
const UP_QUEUE_MAX: usize = 64;

/// What the lane's task needs.
#[derive(Debug)]
pub(crate) struct RevocationLane<U> {
    /// With a turn of its own: the config stream may get on with another one.
    pub(crate) uplink: U,
    pub(crate) node: String,
    pub(crate) epoch: u64,
    pub(crate) state: Arc<ConfigState>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
enum LaneEnd {
    #[error("the control plane closed the lane")]
    Closed,
    #[error("nothing came within {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the control plane takes nothing")]
    Deaf,
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(Box<Status>),
    #[error(transparent)]
    Order(#[from] LaneFault),
    #[error(transparent)]
    Outdated(#[from] LaneOutdated),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

impl<U: Uplink> RevocationLane<U> {
    /// Keeps a lane open for ever.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::within(self.state.surroundings());
        loop {
            let mut opened = false;
            let Err(end) = self.follow(&mut opened).await;
            if matches!(end, LaneEnd::Order(_)) {
                self.metrics.lanes_refused.inc();
            }
            self.metrics.lane_connected.set(0);
            // Perhaps another one is better off.
            self.uplink.advance();
            tracing::warn!(%end, "the revocation lane ended; opening it again");
            if opened {
                backoff.reset();
            }
            backoff.pause().await;
        }
    }

    async fn follow(&self, opened: &mut bool) -> Result<std::convert::Infallible, LaneEnd> {
        let (up, messages) = mpsc::channel(UP_QUEUE_MAX);
        send(&up, Up::Hello(LaneHello { node: self.node.clone(), epoch: self.epoch }))?;
        let mut heard = Instant::now();
        let opening = self.uplink.lane(ReceiverStream::new(messages));
        let mut frames = match tokio::time::timeout(SILENCE_MAX, opening).await {
            Ok(Ok(frames)) => frames,
            Ok(Err(status)) => return Err(LaneEnd::Unreachable(Box::new(status))),
            Err(_) => return Err(LaneEnd::Silent),
        };
        let mut lane = Lane::default();
        let mut granting = 0;
        // Denials in force that a restart might still forget, in the order in which they came.
        let mut lasting = FuturesOrdered::new();
        let mut asking = tokio::time::interval(ASK_INTERVAL);
        asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let frame = tokio::select! {
                // Once a second, so no frame waits long behind it.
                biased;
                _ = asking.tick(), if *opened => {
                    self.ask(&mut lane, &up)?;
                    continue;
                }
                Some(lasts) = lasting.next() => {
                    // What would be forgotten by a restart is not acknowledged: its lease ends it then.
                    if let Some(revision) = lasts {
                        send(&up, Up::Denied(Denied { revision }))?;
                    }
                    continue;
                }
                frame = next(&mut frames, heard + SILENCE_MAX) => frame?,
            };
            heard = Instant::now();
            match lane.handle(frame)? {
                LaneStep::Opened { revision } => {
                    granting = self.state.lane_opened(revision);
                    *opened = true;
                    asking.reset_immediately();
                    self.metrics.lane_connected.set(1);
                    tracing::info!(revision, "the revocation lane is open");
                }
                LaneStep::Deny { denials, complete } => {
                    let revision = denials.revision;
                    let news = self.state.deny(&denials)?;
                    self.metrics.denials.inc_by(news as u64);
                    tracing::info!(revision, news, complete, "denials are in force");
                    if complete {
                        let state = Arc::clone(&self.state);
                        lasting.push_back(async move { state.denials_last().await.then_some(revision) });
                    }
                }
                LaneStep::Lease { asked, length } => {
                    self.state.grant(granting, asked, length)?;
                    // Nodes that were answered together ask together again: that is cheaper for the control plane.
                    asking.reset();
                }
                LaneStep::Nothing => {}
            }
        }
    }

    fn ask(&self, lane: &mut Lane<Instant>, up: &mpsc::Sender<LaneMessage>) -> Result<(), LaneEnd> {
        let (revision, digest) = self.state.held();
        // Before the question leaves: a lease that counts from too early only ends too early.
        let id = lane.ask(self.state.surroundings().now());
        send(
            up,
            Up::Ask(Ask {
                id,
                revision,
                digest,
                counts: Some(self.metrics.counts()),
                before: self.metrics.counts_before(),
            }),
        )
    }
}

/// Never waits: a lane that cannot take a word is as good as cut.
fn send(up: &mpsc::Sender<LaneMessage>, message: Up) -> Result<(), LaneEnd> {
    up.try_send(LaneMessage { message: Some(message) }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => LaneEnd::Deaf,
        mpsc::error::TrySendError::Closed(_) => LaneEnd::Closed,
    })
}

async fn next(
    frames: &mut (impl Stream<Item = Result<LaneFrame, Status>> + Unpin),
    until: Instant,
) -> Result<LaneFrame, LaneEnd> {
    match tokio::time::timeout_at(until, frames.next()).await {
        Ok(Some(Ok(frame))) => Ok(frame),
        Ok(None) => Err(LaneEnd::Closed),
        Ok(Some(Err(status))) => Err(LaneEnd::Unreachable(Box::new(status))),
        Err(_) => Err(LaneEnd::Silent),
    }
}
