//! Binding listeners, with errors that say which listener and what to do.

use std::net::{SocketAddr, UdpSocket};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted; what `TcpListener::bind` takes as well.
const BACKLOG: u32 = 1_024;

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({what}): {source}; choose another address with `{key}`")]
pub struct BindError {
    what: &'static str,
    key: &'static str,
    addr: SocketAddr,
    source: std::io::Error,
}

/// Binds `addr` for the listener named `what`, configured by `key`. Port 0 picks a free one.
///
/// # Errors
/// [`BindError`] naming the listener, the address and the key.
pub async fn tcp(what: &'static str, key: &'static str, addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|source| BindError { what, key, addr, source })
}

/// The same with connections that keep at most so many bytes (about) for a client that has not taken them. Left to
/// itself the system lets them grow to megabytes, and notices that a slow client took something only after a third.
///
/// # Errors
/// [`BindError`] naming the listener, the address and the key.
pub fn tcp_with_untaken(
    what: &'static str,
    key: &'static str,
    addr: SocketAddr,
    untaken_bytes_max: u32,
) -> Result<TcpListener, BindError> {
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(untaken_bytes_max)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| BindError { what, key, addr, source })
}

/// A UDP socket for the listener named `what`.
///
/// # Errors
/// [`BindError`] naming the listener, the address and the key.
pub fn udp(what: &'static str, key: &'static str, addr: SocketAddr) -> Result<UdpSocket, BindError> {
    UdpSocket::bind(addr).map_err(|source| BindError { what, key, addr, source })
}
