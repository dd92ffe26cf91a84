//! Connections as they come in: each gets a place, or is closed at once.
//!
//! Called by `listener`. What is accepted is handed over as the operating system's own socket, so that it can be served
//! (`connection`) by another runtime than the one that accepts. When accepting stops, those that wait in the system's
//! queue are taken first: closing the listener would reset them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bailiwick_runtime::Shutdown;
use tokio::net::TcpListener;

use super::places::{Place, Places};
use crate::metrics::{Metrics, Parting};

/// Pause after a failed accept: usually no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections taken from the queue at the very end: as many as wait there at most.
const LAST_MAX: usize = 1_024;

/// A connection that has a place.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) stream: std::net::TcpStream,
    pub(super) from: IpAddr,
    pub(super) place: Place,
}

/// Accepts until `stop` is requested; each connection goes to `hand_over`.
pub(super) async fn accept(
    listener: TcpListener,
    places: &Arc<Places>,
    metrics: &Metrics,
    stop: &Shutdown,
    hand_over: impl Fn(Arrived),
) {
    let admit = |stream: io::Result<std::net::TcpStream>, from: SocketAddr| {
        let from = from.ip().to_canonical();
        let Some(place) = place(from, places, metrics) else { return };
        match stream {
            Ok(stream) => hand_over(Arrived { stream, from, place }),
            Err(error) => tracing::debug!(%from, %error, "a connection was lost"),
        }
    };
    while let Some(accepted) = stop.or_stop(listener.accept()).await {
        match accepted {
            Ok((stream, from)) => admit(stream.into_std(), from),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The system itself is asked: what the runtime knows of the queue is a moment old.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..LAST_MAX {
        let Ok((stream, from)) = listener.accept() else { break };
        admit(stream.set_nonblocking(true).map(|()| stream), from);
    }
}

/// A place for a connection from there, if there is one.
pub(super) fn place(from: IpAddr, places: &Arc<Places>, metrics: &Metrics) -> Option<Place> {
    let arrival = places.arrive(from, Instant::now());
    for _ in 0..arrival.gave_way {
        metrics.parted(Parting::GaveWay);
    }
    if arrival.place.is_none() {
        metrics.parted(Parting::Full);
        tracing::debug!(%from, "every connection is taken, and nobody gives way");
    }
    arrival.place
}
