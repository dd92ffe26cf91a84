//! Connections to one server: name to addresses, looked at, then TCP and, for https, TLS, all within one time.
//!
//! Called by `pool` when no connection is there. Addresses are tried one after the other, each with its share of the
//! time. No proxy is taken from the environment, and nothing is connected to that `guard` has not seen.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bailiwick_proto::address::Host;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;

use super::{
    credential::{Credential, Credentials},
    fault::{UpstreamFault, chain},
    guard::{Guard, Resolver},
    tls::Tls,
};

/// Most addresses that are tried.
const TRIES_MAX: usize = 4;

/// See the file's header.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
    pub(super) guard: Guard,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) wait_max: Duration,
}

/// A connection.
pub(super) struct Connected {
    pub(super) stream: Wire,
    /// The server chose HTTP/2.
    pub(super) is_h2: bool,
    /// What this node showed of itself.
    pub(super) client: Option<Credential>,
}

/// With TLS or without.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connector {
    /// # Errors
    /// Nothing was sent, whatever the fault.
    pub(super) async fn connect(&self) -> Result<Connected, UpstreamFault> {
        let millis = u64::try_from(self.wait_max.as_millis()).unwrap_or(u64::MAX);
        let late = || UpstreamFault::Unreachable(format!("no connection within {millis} ms"));
        let until = Instant::now() + self.wait_max;
        timeout_at(until, Box::pin(self.establish(until))).await.unwrap_or_else(|_elapsed| Err(late()))
    }

    async fn establish(&self, until: Instant) -> Result<Connected, UpstreamFault> {
        // Before anything is sent, so that a secret that is missing costs nobody a connection.
        let client = match &self.tls {
            Some(tls) => tls.client(&self.credentials)?,
            None => None,
        };
        let addresses = match &self.host {
            Host::Address(address) => vec![SocketAddr::new(*address, self.port)],
            Host::Name(name) => {
                let resolved = self.resolver.resolve(name, self.port).await;
                resolved.map_err(|error| UpstreamFault::Unreachable(format!("`{name}` has no address: {error}")))?
            }
        };
        self.guard.check(&addresses).map_err(|refused| UpstreamFault::AddressRefused(refused.to_string()))?;
        let stream = dial(&addresses, until).await?;
        let Some(tls) = &self.tls else {
            return Ok(Connected { stream: Wire::Plain(stream), is_h2: false, client });
        };
        let connector = tls.connector(client.clone())?;
        let stream = connector.connect(tls.name(), stream).await.map_err(|error| of_handshake(&error))?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected { stream: Wire::Tls(Box::new(stream)), is_h2, client })
    }
}

/// The first address that takes the connection.
async fn dial(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, UpstreamFault> {
    let mut fault = UpstreamFault::Unreachable("the name has no address".to_owned());
    let count = addresses.len().min(TRIES_MAX);
    for (index, address) in addresses.iter().take(count).enumerate() {
        let left = u32::try_from(count - index).unwrap_or(1);
        let share = until.saturating_duration_since(Instant::now()) / left;
        fault = match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small messages leave at once; a platform that cannot do that is merely slower.
                drop(stream.set_nodelay(true));
                return Ok(stream);
            }
            Ok(Err(error)) => UpstreamFault::Unreachable(format!("{address}: {error}")),
            Err(_elapsed) => UpstreamFault::Unreachable(format!("{address}: no connection in time")),
        };
    }
    Err(fault)
}

fn of_handshake(error: &io::Error) -> UpstreamFault {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(_)) => UpstreamFault::Untrusted(chain(error)),
        Some(_) | None => UpstreamFault::Unreachable(format!("TLS: {}", chain(error))),
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
