//! Storms: many nodes at once, and nodes that have to go elsewhere.

use futures::future::join_all;
use tempfile::TempDir;
use tonic::Code;

use crate::support::{DataPlane, Lane, MANIFESTS, Node, register};

/// More than are sent a snapshot at a time, on one connection.
const NODES: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_all_come_at_once_all_get_everything() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(MANIFESTS).await;
    let mut epochs = Vec::new();
    for number in 0..NODES {
        let name = format!("dp-{number}");
        epochs.push((register(&node, &name).await, name));
    }
    let now = node.revision().await;
    let come = epochs.iter().map(|(epoch, name)| async {
        let mut plane = DataPlane::connect_again(&node, name, *epoch).await;
        plane.until(now).await;
        (plane.seen.first().cloned(), plane.entries.digest())
    });
    let came = join_all(come).await;
    assert!(came.iter().all(|(first, digest)| first.as_deref() == Some("snapshot") && *digest == came[0].1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_stops_sends_its_nodes_elsewhere() {
    let folder = TempDir::new().unwrap();
    let node = Node::start(folder.path()).await;
    let epoch = register(&node, "dp-1").await;
    let mut plane = DataPlane::connect_again(&node, "dp-1", epoch).await;
    plane.until(1).await;
    let mut lane = Lane::open(&node.config, "dp-1", epoch).await.unwrap();
    let lane_ended = async {
        loop {
            if let Err(status) = lane.take().await {
                return status;
            }
        }
    };
    let (stream, lane, ()) = tokio::join!(plane.ended(), lane_ended, node.stop());
    assert_eq!((stream.code(), lane.code()), (Code::Unavailable, Code::Unavailable));
    assert!(stream.message().contains("go to another one") && lane.message().contains("go to another one"), "{stream}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_replaced_ends_at_once() {
    let folder = TempDir::new().unwrap();
    let node = Node::start(folder.path()).await;
    let epoch = register(&node, "dp-1").await;
    let mut old = DataPlane::connect_again(&node, "dp-1", epoch).await;
    old.until(1).await;
    let mut lane = Lane::open(&node.config, "dp-1", epoch).await.unwrap();
    let _new = DataPlane::connect_again(&node, "dp-1", epoch).await;
    let _anew = Lane::open(&node.config, "dp-1", epoch).await.unwrap();
    assert_eq!(old.ended().await.code(), Code::Aborted);
    assert_eq!(lane.take().await.unwrap_err().code(), Code::Aborted);
    node.stop().await;
}
