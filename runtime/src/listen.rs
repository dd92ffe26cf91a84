//! Binding listeners, with errors that say which listener and what to do.

use std::net::SocketAddr;

use tokio::net::TcpListener;

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
