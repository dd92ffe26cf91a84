//! One connection: name to addresses, checked, then TCP and, for https, TLS.
//!
//! Addresses are tried one after the other, each with its share of the time that is left.

use std::{fmt, io, net::SocketAddr, pin::Pin};

use bailiwick_proto::address::{ADDRESSES_MAX, Host, Leave};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    FetchError,
    target::Target,
    trust::{self, Trust},
};

/// Most addresses that are tried.
const TRIES_MAX: usize = 4;

/// How names become addresses.
pub(super) trait Resolver: fmt::Debug + Send + Sync {
    /// The addresses of a name.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a>;
}

/// Addresses to come.
pub(super) type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// As the operating system does.
#[derive(Clone, Copy, Debug)]
pub(super) struct System;

impl Resolver for System {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a> {
        // One more than are looked at, so that too many are seen to be too many.
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.take(ADDRESSES_MAX + 1).collect()) })
    }
}

/// With TLS or without.
pub(super) type Connection = Box<dyn Stream>;

/// What HTTP is spoken over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) async fn open(
    target: &Target,
    leave: &Leave<'_>,
    resolver: &dyn Resolver,
    trust: &Trust,
    until: Instant,
) -> Result<Connection, FetchError> {
    let addresses = match &target.host {
        Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
        Host::Name(name) => resolver.resolve(name, target.port).await.map_err(|_| FetchError::NoAddress)?,
    };
    leave.check(&addresses).map_err(FetchError::Address)?;
    if !target.is_tls && !addresses.iter().all(|address| leave.names(address.ip())) {
        return Err(FetchError::PlainText);
    }
    let stream = dial(&addresses, until).await?;
    if !target.is_tls {
        return Ok(Box::new(stream));
    }
    let connected = trust.connector()?.connect(trust::name(&target.host)?, stream).await;
    Ok(Box::new(connected.map_err(|error| of_handshake(&error))?))
}

/// The first address that takes the connection.
async fn dial(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, FetchError> {
    let mut fault = FetchError::NoAddress;
    let count = addresses.len().min(TRIES_MAX);
    for (index, address) in addresses.iter().take(count).enumerate() {
        let left = u32::try_from(count - index).unwrap_or(1);
        let share = until.saturating_duration_since(Instant::now()) / left;
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(_)) | Err(_) => fault = FetchError::Unreachable,
        }
    }
    Err(fault)
}

fn of_handshake(error: &io::Error) -> FetchError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(_)) => FetchError::Untrusted,
        Some(_) | None => FetchError::Tls,
    }
}
