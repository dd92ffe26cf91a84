//! Reaching one of several servers that answer alike: the first that can be reached, and the next when it cannot.
//!
//! [`Connector`] goes into a gRPC channel (`Endpoint::connect_with_connector_lazy`), which asks it for a connection
//! whenever it has none; whichever address worked last is tried first. A caller whose server answers but cannot help
//! says [`Targets::advance`] and opens a new channel. `https` addresses are spoken to over TLS, whose configuration
//! decides who is believed; `http` ones as they are.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;

use crate::identity::SERVER_NAME;

/// Most servers to choose from: a large cluster with its learners.
pub const TARGETS_MAX: usize = 16;
/// Longest wait for one server; the next may be better.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// Probes of an idle connection, so that a vanished server is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Not a list of servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetsError {
    /// None, or too many.
    #[error("needs 1 to {TARGETS_MAX} URLs")]
    Count,
    /// One of them.
    #[error("`{0}` is not of the form http://host:port or https://host:port")]
    Malformed(String),
}

/// Servers that answer alike; clones share which is tried first.
#[derive(Clone, Debug)]
pub struct Targets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Vec<Target>,
    first: AtomicUsize,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    url: String,
    /// `host:port`.
    authority: String,
    tls: bool,
}

impl Targets {
    /// Servers in the order in which they are tried at first.
    ///
    /// # Errors
    /// [`TargetsError`].
    pub fn parse<T: AsRef<str>>(urls: &[T]) -> Result<Self, TargetsError> {
        if urls.is_empty() || urls.len() > TARGETS_MAX {
            return Err(TargetsError::Count);
        }
        let all = urls.iter().map(|url| target(url.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Inner { all, first: AtomicUsize::new(0) })))
    }

    /// Whether all of them are spoken to over TLS.
    #[must_use]
    pub fn all_tls(&self) -> bool {
        self.0.all.iter().all(|target| target.tls)
    }

    /// Whether any of them is.
    #[must_use]
    pub fn any_tls(&self) -> bool {
        self.0.all.iter().any(|target| target.tls)
    }

    /// The URLs, as they were written.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.0.all.iter().map(|target| target.url.clone()).collect()
    }

    /// The same servers; which of them is tried first is shared with nobody.
    #[must_use]
    pub fn with_own_turn(&self) -> Self {
        let first = AtomicUsize::new(self.0.first.load(Ordering::Relaxed));
        Self(Arc::new(Inner { all: self.0.all.clone(), first }))
    }

    /// The next one is tried first from now on.
    pub fn advance(&self) {
        self.0.first.fetch_add(1, Ordering::Relaxed);
    }

    /// A channel that connects when it is first used, and again whenever it has lost its connection.
    #[must_use]
    pub fn channel(&self, tls: Option<Arc<ClientConfig>>) -> Channel {
        let connector = Connector { targets: self.clone(), tls };
        // The URI only fills in the requests' authority; the connector knows where to go, and by which means.
        let endpoint = Endpoint::from_static("http://bailiwick");
        endpoint
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }

    /// In the order in which they are to be tried.
    fn ordered(&self) -> impl Iterator<Item = (usize, &Target)> {
        let count = self.0.all.len().max(1);
        let first = self.0.first.load(Ordering::Relaxed) % count;
        (first..first + count).map(move |place| place % count).filter_map(|at| Some((at, self.0.all.get(at)?)))
    }
}

fn target(url: &str) -> Result<Target, TargetsError> {
    let malformed = || TargetsError::Malformed(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| malformed())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(malformed()),
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(malformed)?;
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none() && !url.contains('#');
    if !bare || authority.host().is_empty() {
        return Err(malformed());
    }
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Ok(Target { url: url.to_owned(), authority: format!("{}:{port}", authority.host()), tls })
}

/// Connects to the first of the [`Targets`] that can be reached.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Where to.
    pub targets: Targets,
    /// For `https`; without it those cannot be reached.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    async fn connect(self) -> io::Result<TokioIo<Connection>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for (at, target) in self.targets.ordered() {
            match timeout(CONNECT_WAIT_MAX, reach(target, self.tls.as_ref())).await {
                Ok(Ok(connection)) => {
                    self.targets.0.first.store(at, Ordering::Relaxed);
                    return Ok(TokioIo::new(connection));
                }
                Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{}: {error}", target.url)),
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{}: no answer", target.url)),
            }
            tracing::debug!(error = %last, "a server cannot be reached");
        }
        Err(last)
    }
}

async fn reach(target: &Target, tls: Option<&Arc<ClientConfig>>) -> io::Result<Connection> {
    let tcp = TcpStream::connect(&target.authority).await?;
    tcp.set_nodelay(true)?;
    if !target.tls {
        return Ok(Connection::Plain(tcp));
    }
    let config = tls.ok_or_else(|| io::Error::other("https needs an enrolled node: give it a join token"))?;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
    Ok(Connection::Tls(Box::new(connected)))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Connection>>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection to a server.
#[derive(Debug)]
pub enum Connection {
    /// As it is.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_worked_is_first_and_advance_moves_on() {
        let targets = Targets::parse(&["http://a:1", "https://b:2", "http://[::1]:3"]).unwrap();
        let order = |targets: &Targets| targets.ordered().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(order(&targets), [0, 1, 2]);
        targets.advance();
        assert_eq!(order(&targets), [1, 2, 0]);
        targets.0.first.store(2, Ordering::Relaxed);
        assert_eq!(order(&targets), [2, 0, 1]);
        assert!(targets.any_tls() && !targets.all_tls());
        assert_eq!(targets.0.all.last().unwrap().authority, "[::1]:3");
    }

    #[test]
    fn clones_share_their_turn_and_one_with_its_own_does_not() {
        let targets = Targets::parse(&["http://a:1", "http://b:2"]).unwrap();
        targets.advance();
        let (clone, own) = (targets.clone(), targets.with_own_turn());
        let first = |targets: &Targets| targets.ordered().next().unwrap().0;
        assert_eq!((first(&clone), first(&own)), (1, 1));
        targets.advance();
        assert_eq!((first(&clone), first(&own)), (0, 1));
    }

    #[test]
    fn what_is_no_list_of_servers_is_refused() {
        assert_eq!(Targets::parse::<&str>(&[]).unwrap_err(), TargetsError::Count);
        for url in ["", "127.0.0.1:8431", "ftp://a:1", "http://u@a:1", "http://a:1/x", "http://a:1?x", "http://:1"] {
            assert!(matches!(Targets::parse(&[url]), Err(TargetsError::Malformed(_))), "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_passed_over() {
        let (gone, there) = (listen().await, listen().await);
        let urls = [&gone, &there].map(|listener| format!("http://{}", listener.local_addr().unwrap()));
        drop(gone);
        let targets = Targets::parse(&urls).unwrap();
        Connector { targets: targets.clone(), tls: None }.connect().await.unwrap();
        there.accept().await.unwrap();
        assert_eq!(targets.ordered().next().unwrap().0, 1, "and is not tried first again");
    }

    async fn listen() -> tokio::net::TcpListener {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
    }
}
