//! Connections as they come in: each gets a place and a task, or is closed at once.
//!
//! Called by `http` with whatever answers requests. A connection counts for its origin, unless it is a trusted proxy's,
//! which brings everybody's. When the system gives no connection (no file descriptor is left), accepting pauses; when
//! stop is requested it ends, and connections finish what they are doing (`connection`); the supervisor waits for them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use bailiwick_runtime::{OnEnd, Supervisor};
use tokio::net::TcpStream;

use super::{
    address::{Origin, Proxies},
    connection::{Patience, Serving},
    shares::{Full, Share, Shares},
};
use crate::{
    config::ControlPlaneConfig,
    metrics::{Metrics, TurnedAway},
};

/// Pause after a failed accept: usually no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// On which terms connections are served.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(super) proxies: Proxies,
    pub(super) connections_max: usize,
    /// Of one origin.
    pub(super) connections_each_max: usize,
    pub(super) patience: Patience,
}

impl Terms {
    /// As the operator wants it; the configuration was checked.
    pub(crate) fn of(config: &ControlPlaneConfig) -> Self {
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            proxies: Proxies::new(config.http_proxies()).telling_certificates(config.http_client_certificates),
            connections_max: number(config.http_limits.connections),
            connections_each_max: number(config.http_limits.connections_per_address),
            patience: Patience::default(),
        }
    }
}

/// Accepts what `next` gives until stop is requested, and serves `app` on it.
pub(super) async fn serve<F: Future<Output = io::Result<(TcpStream, SocketAddr)>>>(
    mut next: impl FnMut() -> F,
    app: Router,
    terms: Terms,
    metrics: Metrics,
    supervisor: Supervisor,
) {
    let shares = Shares::new(terms.connections_max, terms.connections_each_max);
    let serving = Arc::new(Serving::new(app, terms.proxies.clone(), terms.patience, supervisor.clone()));
    let stop = supervisor.shutdown();
    while let Some(accepted) = stop.or_stop(next()).await {
        match accepted {
            Ok((stream, from)) => {
                let peer = from.ip().to_canonical();
                match place(peer, &shares, &terms.proxies) {
                    Ok(share) => {
                        let connection = Arc::clone(&serving).serve(stream, peer, share);
                        supervisor.spawn("control-plane-http-connection", OnEnd::Finish, connection);
                    }
                    Err(full) => {
                        tracing::debug!(%peer, ?full, "a connection is closed: there is no place for it");
                        metrics.turned_away(match full {
                            Full::InAll => TurnedAway::Connections,
                            Full::OfOrigin => TurnedAway::ConnectionsOfAddress,
                        });
                    }
                }
            }
            Err(error) if is_one_connections(&error) => tracing::debug!(%error, "a connection was lost"),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                let _stopped = stop.or_stop(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

fn place(peer: IpAddr, shares: &Arc<Shares>, proxies: &Proxies) -> Result<Share, Full> {
    shares.take((!proxies.holds(peer)).then(|| Origin::of(peer)))
}

/// Whether it is a fault of one connection that ended before it was accepted.
fn is_one_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
