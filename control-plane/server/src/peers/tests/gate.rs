//! Who is let in.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bailiwick_consensus::{Introduction, Lane, Member, Refusal, Transport as _};

use super::{
    super::{Node, Peers},
    world::{PATIENCE, TestNode, World},
};

/// A caller that claims what it is told to, and objects to nobody.
struct Claims(Introduction);

#[async_trait]
impl Node for Claims {
    fn introduction(&self) -> Introduction {
        self.0.clone()
    }
    async fn meet(&self, _: &Introduction) -> io::Result<Result<(), Refusal>> {
        Ok(Ok(()))
    }
    fn refused(&self, _: u64, _: Refusal) {}
    async fn handle(&self, _: u64, _: Vec<u8>) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn claims(world: &World, node_id: u64) -> Introduction {
    let (cluster_id, incarnation) = (world.cluster_id.clone(), world.incarnation.clone());
    Introduction { cluster_id, incarnation, node_id, starts: 5, run: 55 }
}

/// What the node says to a caller with `peers`' certificate that claims so; `None`: it is let in.
async fn knock(peers: Peers, at: &Member, claims: Introduction) -> Option<io::Error> {
    peers.serve(Arc::new(Claims(claims)));
    let called = peers.call(1, at, Lane::Control, b"no request".to_vec(), PATIENCE).await;
    peers.close().await;
    // No request is answered, but only one who is let in gets as far as to be misunderstood.
    called.err().filter(|error| error.kind() != io::ErrorKind::Other)
}

async fn refusal(peers: Peers, node: &TestNode, claims: Introduction) -> Option<Refusal> {
    let error = knock(peers, &node.member(), claims).await?;
    Some(Refusal::of(&error).unwrap_or_else(|| panic!("not a refusal: {error}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_what_it_claims_in_this_life_of_this_cluster_is_let_in() {
    let world = World::new();
    let node = world.node(1).await;
    node.found().await;
    let honest = claims(&world, 2);
    assert_eq!(refusal(world.peers(2), &node, honest.clone()).await, None);

    let other = Introduction { node_id: 3, ..honest.clone() };
    assert_eq!(refusal(world.peers(2), &node, other).await, Some(Refusal::OtherNode));
    let other = Introduction { incarnation: "2".repeat(16), ..honest.clone() };
    assert_eq!(refusal(world.peers(2), &node, other).await, Some(Refusal::OtherIncarnation));
    let other = Introduction { cluster_id: "d0".repeat(16), ..honest.clone() };
    assert_eq!(refusal(world.peers(2), &node, other).await, Some(Refusal::OtherNode), "the certificate says otherwise");
    let same = Introduction { node_id: 1, ..honest.clone() };
    assert_eq!(refusal(world.peers(1), &node, same).await, Some(Refusal::OtherNode), "two nodes with one id");
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_opens_nothing() {
    let (world, others) = (World::new(), World::new());
    let node = world.node(1).await;
    node.found().await;
    let error = knock(others.peers(2), &node.member(), claims(&world, 2)).await.unwrap();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
    assert_eq!(Refusal::of(&error), None);
    // And nobody is talked to who is found where another is expected.
    let (peers, member) = (world.peers(2), node.member());
    peers.serve(Arc::new(Claims(claims(&world, 2))));
    let called = peers.call(3, &member, Lane::Control, Vec::new(), Duration::from_secs(5)).await;
    assert_eq!(called.unwrap_err().kind(), io::ErrorKind::NotConnected);
    peers.close().await;
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_of_starts_that_fell_is_refused_even_after_a_restart_of_who_noticed() {
    let world = World::new();
    let node = world.node(1).await;
    node.found().await;
    let claim = |starts, run| Introduction { starts, run, ..claims(&world, 2) };
    assert_eq!(refusal(world.peers(2), &node, claim(5, 55)).await, None);
    assert_eq!(refusal(world.peers(2), &node, claim(5, 55)).await, None, "the same run once more");
    assert_eq!(refusal(world.peers(2), &node, claim(4, 44)).await, Some(Refusal::OlderCopy));
    assert_eq!(refusal(world.peers(2), &node, claim(5, 56)).await, Some(Refusal::OlderCopy), "two copies at once");

    let (folder, address) = node.crash().await;
    let node = world.node_on(1, folder, address, Default::default()).await;
    assert_eq!(refusal(world.peers(2), &node, claim(4, 44)).await, Some(Refusal::OlderCopy));
    assert_eq!(refusal(world.peers(2), &node, claim(6, 66)).await, None);
    assert_eq!(refusal(world.peers(2), &node, claim(5, 55)).await, Some(Refusal::OlderCopy));
    node.crash().await;
}
