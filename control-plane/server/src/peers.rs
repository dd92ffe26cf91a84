//! How control-plane nodes reach each other: QUIC with mutual TLS.
//!
//! [`Peers`] is the [`Transport`] that consensus calls out on, and hands what comes in to a [`Node`] (consensus
//! again). To each peer there are two connections, one per lane, so that votes and appends never wait behind a
//! snapshot: not for its bytes, its flow control or its congestion window. Each call has a stream of its own.
//! A connection counts only after both ends have introduced themselves and agreed to talk: the id in the certificate is
//! the id claimed, the cluster and its incarnation are the same, the node was not removed, and its data directory is no
//! older than the one seen last. A refusal is told to the one refused.
//! Bounded: connections, streams, messages, and every wait. Absent: what is said (`bailiwick_consensus`), who is a
//! member (its membership), issuing certificates (`enrolment`).

mod inbound;
mod introduction;
mod link;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bailiwick_consensus::{Consensus, Introduction, Lane, Member, PEER_MESSAGE_BYTES_MAX, Refusal, Transport};
use bailiwick_runtime::{Identity, OnEnd, Shutdown, Supervisor};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};

use self::link::Link;

/// Protocol name and version, agreed in the TLS handshake.
const ALPN: &[u8] = b"bailiwick-peer/1";
/// A connection on which nothing was heard for this long is dead: soon enough that a peer that came back is dialled
/// before it misses its leader, and longer than any pause of a healthy one.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// Signs of life on a quiet connection; three may be lost.
const KEEP_ALIVE: Duration = Duration::from_millis(250);
/// Assumed until measured: a first packet lost to a peer that is just starting is sent again soon.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Longest wait for peers to hear that this node closes its connections.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(500);
/// Bytes in flight on one connection: two of the largest messages.
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Codes with which connections and streams are closed.
mod code {
    use bailiwick_consensus::Refusal;
    use quinn::{ConnectionError, VarInt};

    pub(super) const DONE: VarInt = VarInt::from_u32(0);
    pub(super) const REFUSED: VarInt = VarInt::from_u32(1);
    pub(super) const NO_ANSWER: VarInt = VarInt::from_u32(2);
    /// From here on: the one that dialled does not talk to the one it found, and says why.
    const DIALLED: u32 = 0x100;

    pub(super) fn dialled(refusal: Refusal) -> VarInt {
        VarInt::from_u32(DIALLED + refusal.code())
    }

    /// What the one that dialled said, if it said that.
    pub(super) fn refusal(closed: &ConnectionError) -> Option<Refusal> {
        let ConnectionError::ApplicationClosed(closed) = closed else { return None };
        let code = u32::try_from(closed.error_code.into_inner()).ok()?;
        Refusal::from_code(code.checked_sub(DIALLED)?)
    }
}

/// The one that answers peers.
#[async_trait]
pub(crate) trait Node: Send + Sync {
    /// How it presents itself.
    fn introduction(&self) -> Introduction;
    /// Whether it talks to another that proved the id it presents.
    async fn meet(&self, other: &Introduction) -> io::Result<Result<(), Refusal>>;
    /// Hears that node `by`, which proved its id, does not talk to this one.
    fn refused(&self, by: u64, refusal: Refusal);
    /// Answers a request of node `from`.
    async fn handle(&self, from: u64, request: Vec<u8>) -> io::Result<Vec<u8>>;
}

#[async_trait]
impl Node for Consensus {
    fn introduction(&self) -> Introduction {
        Self::introduction(self)
    }

    async fn meet(&self, other: &Introduction) -> io::Result<Result<(), Refusal>> {
        Self::meet(self, other).await
    }

    fn refused(&self, by: u64, refusal: Refusal) {
        Self::refused(self, by, refusal);
    }

    async fn handle(&self, from: u64, request: Vec<u8>) -> io::Result<Vec<u8>> {
        Self::handle(self, from, request).await
    }
}

/// The connections of one node; clones share them.
#[derive(Clone)]
pub(crate) struct Peers(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    identity: Identity,
    /// There while this node serves.
    node: Mutex<Option<Arc<dyn Node>>>,
    /// One per member and lane.
    links: Mutex<BTreeMap<(u64, Lane), Arc<Link>>>,
    /// Its own: peers are served until consensus has handed over the lead, which is after all services have stopped.
    supervisor: Supervisor,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("address", &self.0.endpoint.local_addr().ok()).finish_non_exhaustive()
    }
}

impl Peers {
    /// Takes the UDP address `listen`. Nobody is answered, and no call gets through, before [`Peers::serve`].
    ///
    /// # Errors
    /// When the address is taken.
    pub(crate) fn bind(identity: Identity, listen: SocketAddr) -> io::Result<Self> {
        let crypto = identity.server_config(&[ALPN], false).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport(0)?)).migration(false);
        let socket = UdpSocket::bind(listen)?;
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))?;
        let supervisor = Supervisor::new(Shutdown::new());
        Ok(Self(Arc::new(Inner { endpoint, identity, node: Mutex::default(), links: Mutex::default(), supervisor })))
    }

    /// Where peers reach this node.
    ///
    /// # Errors
    /// When the socket does not tell.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.endpoint.local_addr()
    }

    /// Lets `node` answer what comes in, and calls out in its name.
    pub(crate) fn serve(&self, node: Arc<dyn Node>) {
        *self.0.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        let inner = Arc::clone(&self.0);
        self.0.supervisor.spawn("peer-accept", OnEnd::Critical, inbound::accept(inner));
    }

    /// Returns when peers are served no more, whether by [`Peers::close`] or by a fault.
    pub(crate) async fn ended(&self) {
        self.0.supervisor.shutdown().requested().await;
    }

    /// Ends all connections and lets go of the node.
    pub(crate) async fn close(&self) {
        self.0.supervisor.shutdown().request();
        self.0.endpoint.close(code::DONE, b"");
        if let Err(error) = self.0.supervisor.ended().await {
            tracing::error!(%error, "peers were not served to the end");
        }
        // So that the peers hear that this end is gone, rather than miss it.
        drop(tokio::time::timeout(CLOSE_WAIT_MAX, self.0.endpoint.wait_idle()).await);
        // The library lets go of its socket some time later; the address is to be free for a successor now. It keeps
        // the socket before the present one as well, so it gets two others.
        for _ in 0..2 {
            let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| self.0.endpoint.rebind(socket));
            if let Err(error) = elsewhere {
                tracing::warn!(%error, "the address of peers stays in use for a while");
            }
        }
        self.0.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Inner {
    fn node(&self) -> io::Result<Arc<dyn Node>> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        node.clone().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "this node does not serve"))
    }

    fn link(&self, to: u64, lane: Lane) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry((to, lane)).or_insert_with(|| Arc::new(Link::new(to, lane))))
    }
}

#[async_trait]
impl Transport for Peers {
    async fn call(
        &self,
        to: u64,
        member: &Member,
        lane: Lane,
        request: Vec<u8>,
        timeout: Duration,
    ) -> io::Result<Vec<u8>> {
        let link = self.0.link(to, lane);
        let called = async {
            let connection = link.connection(&self.0, &member.peer).await?;
            exchange(&connection, &request).await
        };
        tokio::time::timeout(timeout, called).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// One request and its answer, on a stream of their own.
async fn exchange(connection: &Connection, request: &[u8]) -> io::Result<Vec<u8>> {
    if request.len() > PEER_MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a request to a peer is too long"));
    }
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(request).await?;
    send.finish().map_err(io::Error::other)?;
    receive.read_to_end(PEER_MESSAGE_BYTES_MAX).await.map_err(io::Error::other)
}

/// How connections behave; the other end may have `streams` of calls open at once.
fn transport(streams: u32) -> io::Result<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_MAX).map_err(io::Error::other)?))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        // The first one is for the introduction; more are allowed once it has gone well.
        .max_concurrent_bidi_streams(VarInt::from_u32(streams.max(1)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES / 2))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .datagram_receive_buffer_size(None);
    Ok(config)
}
