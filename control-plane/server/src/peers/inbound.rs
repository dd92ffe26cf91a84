//! Connections from peers: introduced first, then answered stream by stream until they end.

use std::{io, sync::Arc, time::Duration};

use bailiwick_consensus::{Lane, PEER_MESSAGE_BYTES_MAX, Refusal};
use bailiwick_runtime::OnEnd;
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::Semaphore;

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
/// Longest wait for a handshake and an introduction.
const INTRODUCTION_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a whole request once it has begun.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(60);

/// Accepts until the endpoint is closed.
pub(super) async fn accept(inner: Arc<Inner>) {
    let stop = inner.supervisor.shutdown().clone();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some(Some(incoming)) = stop.or_stop(inner.endpoint.accept()).await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(from = %incoming.remote_address(), "too many peers are connected; one is turned away");
            incoming.refuse();
            continue;
        };
        let (serving, stop) = (Arc::clone(&inner), stop.clone());
        inner.supervisor.spawn("peer-connection", OnEnd::Finish, async move {
            stop.or_stop(connection(&serving, incoming)).await;
            drop(place);
        });
    }
}

async fn connection(inner: &Inner, incoming: Incoming) {
    let from = incoming.remote_address();
    let welcomed = tokio::time::timeout(INTRODUCTION_WAIT_MAX, welcome(inner, incoming)).await;
    let (connection, node, peer) = match welcomed {
        Ok(Ok(Some(welcomed))) => welcomed,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::warn!(%from, %error, "a connection from no peer"),
        Err(_) => return tracing::debug!(%from, "a connection without an introduction"),
    };
    // A stream that is not accepted counts against the peer's bound, so this needs no bound of its own.
    while let Ok((send, receive)) = connection.accept_bi().await {
        let node = Arc::clone(&node);
        inner.supervisor.spawn("peer-call", OnEnd::Finish, {
            let stop = inner.supervisor.shutdown().clone();
            async move {
                stop.or_stop(answer(node, peer, send, receive)).await;
            }
        });
    }
}

/// Lets a peer introduce itself, and says whether it is welcome. `None`: it is not, and was told.
async fn welcome(inner: &Inner, incoming: Incoming) -> io::Result<Option<(Connection, Arc<dyn Node>, u64)>> {
    let node = inner.node()?;
    let connection = incoming.await?;
    let proven = introduction::proven(&connection)?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let hello: Hello = introduction::receive(&mut receive).await?;
    let lane = hello.lane().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown lane"))?;
    let theirs = hello.introduction.unwrap_or_default();
    let met = if introduction::is_proven(&theirs, &proven) {
        node.meet(&theirs).await?
    } else {
        tracing::error!(proven = proven.1, claimed = theirs.node_id, "a peer claims to be what its certificate is not");
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
    tracing::info!(peer = proven.1, %lane, version = %hello.version, "a peer is connected");
    Ok(Some((connection, node, proven.1)))
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
