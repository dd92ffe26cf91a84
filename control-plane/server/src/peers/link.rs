//! The way to one peer on one lane: dialled when it is needed, kept while it lives, dialled again after a pause.
//!
//! Dialling goes on when the call that began it gives up, so a short wait never keeps a slow peer from being reached.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bailiwick_consensus::{Lane, Refusal};
use bailiwick_runtime::{
    OnEnd,
    identity::{Expect, Role, SERVER_NAME},
};
use quinn::{ClientConfig, Connection, crypto::rustls::QuicClientConfig};
use tokio::{sync::watch, time::Instant};

use super::{ALPN, Inner, code, introduction, transport};

/// Longest wait for a peer to be found, to shake hands and to introduce itself.
const DIAL_WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause after the first failure; doubles with each up to the longest: a peer that is back is missed no longer.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// One peer, one lane.
pub(super) struct Link {
    to: u64,
    lane: Lane,
    state: Mutex<State>,
}

enum State {
    Down {
        until: Option<Instant>,
        pause: Duration,
        refusal: Option<Refusal>,
    },
    /// Ends when the dialling does.
    Dialling {
        ended: watch::Receiver<()>,
        pause: Duration,
    },
    /// Until the peer's certificate ends.
    Up {
        connection: Connection,
        until: Instant,
    },
}

impl Link {
    pub(super) fn new(to: u64, lane: Lane) -> Self {
        let down = State::Down { until: None, pause: PAUSE_MIN, refusal: None };
        Self { to, lane, state: Mutex::new(down) }
    }

    /// A connection that lives, as far as is known; dials if there is none.
    pub(super) async fn connection(self: &Arc<Self>, inner: &Arc<Inner>, address: &str) -> io::Result<Connection> {
        if let Some(mut ended) = self.begin(inner, address) {
            // The sender only ever goes away.
            drop(ended.changed().await);
        }
        match &*self.state() {
            State::Up { connection, .. } => Ok(connection.clone()),
            State::Down { refusal: Some(refusal), .. } => Err(refusal.into_io()),
            State::Down { .. } | State::Dialling { .. } => {
                Err(io::Error::new(io::ErrorKind::NotConnected, format!("node {} cannot be reached", self.to)))
            }
        }
    }

    /// Dials if that is due; gives the dialling to wait for, if there is one.
    fn begin(self: &Arc<Self>, inner: &Arc<Inner>, address: &str) -> Option<watch::Receiver<()>> {
        let mut state = self.state();
        let pause = match &*state {
            State::Up { connection, until } if connection.close_reason().is_none() && Instant::now() < *until => {
                return None;
            }
            State::Dialling { ended, .. } if ended.has_changed().is_ok() => return Some(ended.clone()),
            State::Down { until: Some(until), .. } if Instant::now() < *until => return None,
            State::Up { .. } => PAUSE_MIN,
            State::Down { pause, .. } | State::Dialling { pause, .. } => *pause,
        };
        let (end, ended) = watch::channel(());
        *state = State::Dialling { ended: ended.clone(), pause };
        drop(state);
        let (link, dialler, address) = (Arc::clone(self), Arc::clone(inner), address.to_owned());
        inner.supervisor.spawn("peer-dial", OnEnd::Finish, async move {
            let stop = dialler.supervisor.shutdown().clone();
            let dialled = stop.or_stop(tokio::time::timeout(DIAL_WAIT_MAX, link.dial(&dialler, &address))).await;
            let dialled = dialled.map(|result| result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
            link.settle(dialled, pause);
            drop(end);
        });
        Some(ended)
    }

    fn settle(&self, dialled: Option<io::Result<(Connection, Duration)>>, pause: Duration) {
        *self.state() = match dialled {
            Some(Ok((connection, remaining))) => {
                tracing::info!(peer = self.to, lane = %self.lane, address = %connection.remote_address(), "connected");
                State::Up { connection, until: Instant::now() + remaining }
            }
            Some(Err(error)) => {
                if pause == PAUSE_MIN {
                    tracing::warn!(peer = self.to, lane = %self.lane, %error, "a peer cannot be reached");
                } else {
                    tracing::debug!(peer = self.to, lane = %self.lane, %error, "a peer still cannot be reached");
                }
                let (until, pause) = (Some(Instant::now() + pause), (pause * 2).min(PAUSE_MAX));
                State::Down { until, pause, refusal: Refusal::of(&error) }
            }
            None => State::Down { until: None, pause, refusal: None },
        };
    }

    async fn dial(&self, inner: &Inner, address: &str) -> io::Result<(Connection, Duration)> {
        let node = inner.node()?;
        let expect = Expect { node_id: Some(self.to), ..Expect::role(Role::ControlPlane) };
        let crypto = inner.identity.client_config(&[ALPN], expect).map_err(io::Error::other)?;
        let crypto = QuicClientConfig::try_from(crypto).map_err(io::Error::other)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(0)?));
        let to = resolve(address, inner.endpoint.local_addr()?.is_ipv4()).await?;
        let connecting = inner.endpoint.connect_with(config, to, SERVER_NAME).map_err(io::Error::other)?;
        let connection = connecting.await?;
        let (mut send, mut receive) = connection.open_bi().await?;
        introduction::send(&mut send, &introduction::Hello::new(node.introduction(), self.lane)).await?;
        let welcome: introduction::Welcome = introduction::receive(&mut receive).await?;
        if let Some(refusal) = Refusal::from_code(welcome.refused) {
            connection.close(code::DONE, b"");
            return Err(refusal.into_io());
        }
        let theirs = welcome.introduction.unwrap_or_default();
        let proven = introduction::proven(&connection, inner.identity.now())?;
        let met =
            if introduction::is_proven(&theirs, &proven) { node.meet(&theirs).await? } else { Err(Refusal::OtherNode) };
        // What this node holds against the peer must not look as if the peer had said it of this node.
        met.map_err(|refusal| {
            connection.close(code::dialled(refusal), refusal.to_string().as_bytes());
            io::Error::new(io::ErrorKind::PermissionDenied, refusal.to_string())
        })?;
        Ok((connection, proven.remaining))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn resolve(address: &str, ipv4: bool) -> io::Result<SocketAddr> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "a peer's address leads nowhere");
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    found.iter().find(|found| found.is_ipv4() == ipv4).or(found.first()).copied().ok_or_else(unknown)
}
