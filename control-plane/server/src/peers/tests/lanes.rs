//! Votes and appends never wait behind a snapshot.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bailiwick_consensus::{Introduction, Lane, Member, Refusal, Transport as _};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use tokio::{net::UdpSocket, sync::Notify, time::MissedTickBehavior};

use super::{
    super::Node,
    world::{PATIENCE, World, loopback},
};

const CHUNK_BYTES: usize = 1024 * 1024;
const CHUNKS: usize = 64;
/// What the shaped link carries each millisecond (about 12 MB/s), and holds while it is busy; more is lost.
const DATAGRAMS_PER_TICK: usize = 9;
const TICK: Duration = Duration::from_millis(1);
const QUEUE_MAX: usize = 128;

/// Answers everybody with nothing.
struct Mute(Introduction);

#[async_trait]
impl Node for Mute {
    fn introduction(&self) -> Introduction {
        self.0.clone()
    }
    async fn meet(&self, _: &Introduction) -> io::Result<Result<(), Refusal>> {
        Ok(Ok(()))
    }
    fn refused(&self, _: u64, _: Refusal) {}
    async fn handle(&self, _: u64, _: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

fn mute(world: &World, node_id: u64) -> Arc<Mute> {
    let (cluster_id, incarnation) = (world.cluster_id.clone(), world.incarnation.clone());
    Arc::new(Mute(Introduction { cluster_id, incarnation, node_id, starts: 1, run: node_id }))
}

/// A narrow link to `target`; returns its near end. The way back is not narrow.
async fn narrow_link(target: SocketAddr, supervisor: &Supervisor) -> SocketAddr {
    let near = Arc::new(UdpSocket::bind(loopback(0)).await.unwrap());
    let far = Arc::new(UdpSocket::bind(loopback(0)).await.unwrap());
    far.connect(target).await.unwrap();
    let address = near.local_addr().unwrap();
    let (queue, caller) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(Mutex::new(None)));
    let stop = supervisor.shutdown().clone();
    let called = Arc::new(Notify::new());
    let take_in = {
        let (near, queue, caller, called) =
            (Arc::clone(&near), Arc::clone(&queue), Arc::clone(&caller), called.clone());
        async move {
            let mut buffer = vec![0; 2048];
            while let Ok((length, from)) = near.recv_from(&mut buffer).await {
                if caller.lock().unwrap().replace(from).is_none() {
                    called.notify_one();
                }
                let mut queue = queue.lock().unwrap();
                if queue.len() < QUEUE_MAX {
                    queue.push_back(buffer[..length].to_vec());
                }
            }
        }
    };
    let give_out = {
        let (far, queue) = (Arc::clone(&far), Arc::clone(&queue));
        async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                ticks.tick().await;
                let due: Vec<Vec<u8>> = {
                    let mut queue = queue.lock().unwrap();
                    let many = queue.len().min(DATAGRAMS_PER_TICK);
                    queue.drain(..many).collect()
                };
                for datagram in due {
                    drop(far.send(&datagram).await);
                }
            }
        }
    };
    let bring_back = async move {
        called.notified().await;
        let mut buffer = vec![0; 2048];
        while let Ok(length) = far.recv(&mut buffer).await {
            let to = caller.lock().unwrap().unwrap();
            drop(near.send_to(&buffer[..length], to).await);
        }
    };
    supervisor.spawn("link", OnEnd::Finish, async move {
        stop.or_stop(async { tokio::join!(take_in, give_out, bring_back) }).await;
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_snapshot_on_a_narrow_link_holds_up_no_append() {
    let world = World::new();
    let (leader, follower) = (world.peers(1), world.peers(2));
    leader.serve(mute(&world, 1));
    follower.serve(mute(&world, 2));
    let links = Supervisor::new(Shutdown::new());
    let address = narrow_link(follower.local_addr().unwrap(), &links).await;
    let member = Member { peer: address.to_string(), ..Member::default() };

    let order = Mutex::new(Vec::new());
    let done = Notify::new();
    let snapshot = async {
        for _ in 0..CHUNKS {
            leader.call(2, &member, Lane::Snapshot, vec![7; CHUNK_BYTES], PATIENCE).await.unwrap();
            order.lock().unwrap().push(Lane::Snapshot);
        }
        done.notify_one();
    };
    let appends = async {
        let mut until = std::pin::pin!(done.notified());
        loop {
            let append = leader.call(2, &member, Lane::Control, vec![1; 512], PATIENCE);
            tokio::select! {
                answered = append => { answered.unwrap(); }
                () = &mut until => return,
            }
            order.lock().unwrap().push(Lane::Control);
        }
    };
    tokio::join!(snapshot, appends);

    // Appends were answered all along: between any two parts of the snapshot that lie a few apart there is one.
    let order = order.into_inner().unwrap();
    let parts_in_a_row = order.split(|lane| *lane == Lane::Control).map(<[_]>::len).max().unwrap();
    let appends = order.iter().filter(|lane| **lane == Lane::Control).count();
    assert!(appends >= CHUNKS, "{appends} appends beside {CHUNKS} parts");
    assert!(parts_in_a_row <= CHUNKS / 8, "{parts_in_a_row} parts without an append");
    leader.close().await;
    follower.close().await;
    links.shutdown().request();
    links.ended().await.unwrap();
}
