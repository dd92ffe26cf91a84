//! The way up: how the config stream and the revocation lane are opened.
//!
//! `config_client` and `lane` follow what comes, whatever it comes over: gRPC in production, the network of a simulation
//! otherwise. Deliberately absent: what is said (`config_client`, `lane`), finding and authenticating control planes
//! (`bailiwick_enrolment`).

use std::fmt::Debug;

use bailiwick_enrolment::ControlPlane;
use bailiwick_proto::v1::{ConfigFrame, LaneFrame, LaneMessage, NodeMessage};
use futures::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::config_client;

/// Opens both streams with the control plane whose turn it is.
pub trait Uplink: Debug + Send + Sync {
    /// What comes down the config stream.
    type Frames: Stream<Item = Result<ConfigFrame, Status>> + Send + Unpin;
    /// What comes down the revocation lane.
    type LaneFrames: Stream<Item = Result<LaneFrame, Status>> + Send + Unpin;

    /// Opens a config stream that sends `up`.
    fn stream(&self, up: ReceiverStream<NodeMessage>) -> impl Future<Output = Result<Self::Frames, Status>> + Send;
    /// Opens a revocation lane that sends `up`.
    fn lane(&self, up: ReceiverStream<LaneMessage>) -> impl Future<Output = Result<Self::LaneFrames, Status>> + Send;
    /// The control plane that was used cannot help: it is the next one's turn.
    fn advance(&self);
}

impl Uplink for ControlPlane {
    type Frames = Streaming<ConfigFrame>;
    type LaneFrames = Streaming<LaneFrame>;

    async fn stream(&self, up: ReceiverStream<NodeMessage>) -> Result<Self::Frames, Status> {
        config_client::client(self).stream(up).await.map(tonic::Response::into_inner)
    }

    async fn lane(&self, up: ReceiverStream<LaneMessage>) -> Result<Self::LaneFrames, Status> {
        config_client::client(self).lane(up).await.map(tonic::Response::into_inner)
    }

    fn advance(&self) {
        Self::advance(self);
    }
}
