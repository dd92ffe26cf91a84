//! Connections from peers: introduced first, then answered stream by stream until they end.

use std::{io, sync::Arc, time::Duration};

use bailiwick_consensus::{Lane, PEER_MESSAGE_BYTES_MAX, Refusal};
use bailiwick_runtime::OnEnd;
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Inner, Node, code,
    introduction::{self, Hello, Welcome},
};

/// Connections open at once: two from each of more members than a cluster has, and their successors after a restart.
const CONNECTIONS_MAX: usize = 64;
/// Calls under way on one connection: heartbeats, an append, votes, reads of the many that wait for one.
const CONTROL_CALLS_MAX: u32 = 256;
/// One part of one snapshot, and its successor.
const SNAPSHOT_CALLS_MAX: u32 = 2;
/// Handshakes and introductions under way at once, from whomever; members that are connected need no place here.
const ARRIVALS_MAX: usize = 256;
/// With so many, a newcomer first has to show that it is where it says it is: anybody can put any address on a packet.
const ARRIVALS_TRUSTED: usize = 32;
/// Longest wait for a handshake and an introduction.
const INTRODUCTION_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a whole request once it has begun.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(60);

/// Accepts until the endpoint is closed.
pub(super) async fn accept(inner: Arc<Inner>) {
    let stop = inner.supervisor.shutdown().clone();
    let (arrivals, places) = (Arc::new(Semaphore::new(ARRIVALS_MAX)), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    while let Some(Some(incoming)) = stop.or_stop(inner.endpoint.accept()).await {
        let under_way = ARRIVALS_MAX - arrivals.available_permits().min(ARRIVALS_MAX);
        if under_way >= ARRIVALS_TRUSTED && !incoming.remote_address_validated() && incoming.may_retry() {
            // INVARIANT: just asked whether it may.
            drop(incoming.retry());
            continue;
        }
        let Ok(arrival) = Arc::clone(&arrivals).try_acquire_owned() else {
            tracing::debug!(from = %incoming.remote_address(), "too many are arriving; one is passed over");
            incoming.ignore();
            continue;
        };
        let (serving, stop, places) = (Arc::clone(&inner), stop.clone(), Arc::clone(&places));
        inner.supervisor.spawn("peer-connection", OnEnd::Finish, async move {
            stop.or_stop(connection(&serving, incoming, arrival, places)).await;
        });
    }
}

async fn connection(inner: &Inner, incoming: Incoming, arrival: OwnedSemaphorePermit, places: Arc<Semaphore>) {
    let from = incoming.remote_address();
    let welcomed = tokio::time::timeout(INTRODUCTION_WAIT_MAX, welcome(inner, incoming)).await;
    let Welcomed { connection, node, peer, remaining } = match welcomed {
        Ok(Ok(Some(welcomed))) => welcomed,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a connection from no peer"),
        Err(_) => return tracing::debug!(%from, "a connection without an introduction"),
    };
    let Ok(_place) = places.try_acquire_owned() else {
        tracing::warn!(%from, peer, "too many peers are connected; one is turned away");
        return connection.close(code::DONE, b"too many are connected");
    };
    drop(arrival);
    let answering = async {
        // A stream that is not accepted counts against the peer's bound, so this needs no bound of its own.
        while let Ok((send, receive)) = connection.accept_bi().await {
            let (node, stop) = (Arc::clone(&node), inner.supervisor.shutdown().clone());
            inner.supervisor.spawn("peer-call", OnEnd::Finish, async move {
                stop.or_stop(answer(node, peer, send, receive)).await;
            });
        }
    };
    if tokio::time::timeout(remaining, answering).await.is_err() {
        // It dials again with its next certificate, if it has one.
        connection.close(code::DONE, b"the certificate has ended");
    }
    // A node that itself calls nobody, as it only learns, hears it in no other way.
    if let Some(refusal) = connection.close_reason().as_ref().and_then(code::refusal) {
        node.refused(peer, refusal);
    }
}

/// A connection of a peer that introduced itself and is welcome.
struct Welcomed {
    connection: Connection,
    node: Arc<dyn Node>,
    peer: u64,
    remaining: Duration,
}

/// Lets a peer introduce itself, and says whether it is welcome. `None`: it is not, and was told.
async fn welcome(inner: &Inner, incoming: Incoming) -> io::Result<Option<Welcomed>> {
    let node = inner.node()?;
    let connection = incoming.await?;
    let proven = introduction::proven(&connection, inner.identity.now())?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let hello: Hello = introduction::receive(&mut receive).await?;
    let lane = hello.lane().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown lane"))?;
    let theirs = hello.introduction.unwrap_or_default();
    let met = if introduction::is_proven(&theirs, &proven) {
        node.meet(&theirs).await?
    } else {
        let claimed = theirs.node_id;
        tracing::error!(proven = proven.node_id, claimed, "a peer claims to be what its certificate is not");
        Err(Refusal::OtherNode)
    };
    introduction::send(&mut send, &Welcome::new(node.introduction(), met.err())).await?;
    if let Err(refusal) = met {
        // It has to hear why before the connection goes.
        drop(send.stopped().await);
        connection.close(code::REFUSED, refusal.to_string().as_bytes());
        return Ok(None);
    }
    let calls = match lane {
        Lane::Control => CONTROL_CALLS_MAX,
        Lane::Snapshot => SNAPSHOT_CALLS_MAX,
    };
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(calls));
    let (peer, remaining) = (proven.node_id, proven.remaining);
    tracing::info!(peer, %lane, version = %hello.version, "a peer is connected");
    Ok(Some(Welcomed { connection, node, peer, remaining }))
}

async fn answer(node: Arc<dyn Node>, peer: u64, mut send: SendStream, mut receive: RecvStream) {
    let answered = async {
        let read = receive.read_to_end(PEER_MESSAGE_BYTES_MAX);
        let request = tokio::time::timeout(REQUEST_WAIT_MAX, read).await?.map_err(io::Error::other)?;
        let answer = node.handle(peer, request).await?;
        send.write_all(&answer).await?;
        send.finish().map_err(io::Error::other)
    };
    if let Err(error) = answered.await {
        tracing::debug!(peer, %error, "a peer's call is not answered");
        // Closed already, or the caller has gone.
        drop(send.reset(code::NO_ANSWER));
    }
}
