//! A follower at the other end of streams that are nothing but channels.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bailiwick_proto::{
    config_digest::of_entries,
    v1::{ConfigFrame, Delta, LaneFrame, LaneMessage, NodeMessage, Snapshot, config_frame::Frame},
};
use futures::stream::{self, Empty, Pending};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::*;
use crate::surroundings::Host;

type Frames =
    stream::Chain<stream::Iter<std::vec::IntoIter<Result<ConfigFrame, Status>>>, Pending<Result<ConfigFrame, Status>>>;

/// Sends what it has and listens to nothing.
#[derive(Debug)]
struct Deaf {
    frames: Vec<ConfigFrame>,
    unheard: Mutex<Vec<ReceiverStream<NodeMessage>>>,
}

impl Uplink for Deaf {
    type Frames = Frames;
    type LaneFrames = Empty<Result<LaneFrame, Status>>;

    async fn stream(&self, up: ReceiverStream<NodeMessage>) -> Result<Self::Frames, Status> {
        self.unheard.lock().unwrap().push(up);
        let frames: Vec<_> = self.frames.iter().cloned().map(Ok).collect();
        Ok(futures::StreamExt::chain(stream::iter(frames), stream::pending()))
    }

    async fn lane(&self, _: ReceiverStream<LaneMessage>) -> Result<Self::LaneFrames, Status> {
        Ok(stream::empty())
    }

    fn advance(&self) {}
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_does_not_listen_yet_is_heard_to_the_end() {
    let digest = of_entries(&[]).to_vec();
    let snapshot = Snapshot { revision: 1, entries: Vec::new(), last: true, digest: digest.clone() };
    let delta = |from| Frame::Delta(Delta { from, to: from + 1, changes: Vec::new(), digest: digest.clone() });
    let frames = std::iter::once(Frame::Snapshot(snapshot)).chain((1..1_000).map(delta));
    let frames = frames.map(|frame| ConfigFrame { frame: Some(frame) }).collect();
    let follower = Follower::new(Arc::new(Host), Duration::ZERO);
    let deaf = Deaf { frames, unheard: Mutex::default() };
    // Less than it takes for a silent stream to be given up.
    let following = tokio::time::timeout(Duration::from_secs(1), follower.stream(deaf, "dp-1", 1));
    assert!(following.await.is_err(), "the stream goes on");
    assert_eq!(follower.held().0, 1_000);
}
