//! A listener that takes TLS from everybody and plain text from this machine.
//!
//! The first byte tells which it is: 0x16 opens a TLS handshake. Plain text is for an administrator on the same machine
//! and is refused from anywhere else, or from everybody where the configuration says so. Each connection is admitted by
//! a task of its own, so that a slow one holds up nobody; what comes out is ready to serve and knows who is at the
//! other end ([`PeerIdentity`], found in a request's extensions). No connection outlives its certificate. Absent: what
//! each of them may do.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::{
    identity::{Identity, IdentityError, Role, read},
    tasks::{OnEnd, Supervisor},
};

/// Longest wait for a first byte and a handshake together.
const ADMISSION_WAIT_MAX: Duration = Duration::from_secs(10);
/// Connections being admitted at once. One more ends the oldest: an honest handshake takes milliseconds, so whoever
/// opens connections and says nothing pushes out its own kind, and keeps out nobody.
const ADMISSIONS_MAX: usize = 512;
/// Admitted connections that wait to be served.
const ADMITTED_MAX: usize = 64;
/// Connections without a certificate at a time: all they can do is enrol.
const STRANGERS_MAX: usize = 256;
/// How long such a connection lasts: time to enrol several times.
const STRANGER_LASTS: Duration = Duration::from_secs(60);
/// After a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// First byte of a TLS record that holds a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;
/// HTTP/2.
const ALPN_H2: &[u8] = b"h2";

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerIdentity {
    /// Plain text from this machine.
    Loopback,
    /// A member with a certificate that counted when it connected.
    Node {
        /// What it is.
        role: Role,
        /// Its name.
        name: String,
        /// Control planes: its id.
        node_id: Option<u64>,
    },
    /// TLS without a certificate.
    Anonymous,
}

/// An admitted connection.
#[derive(Debug)]
pub struct Accepted {
    io: Io,
    peer: PeerIdentity,
    /// When the peer's certificate ends, and the connection with it.
    ends: Option<Pin<Box<Sleep>>>,
    /// One of the places of those who have no certificate.
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Admitted connections, for `serve_with_incoming`.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Accepted>);

/// Starts admitting connections of `listener`; it ends with the supervisor's shutdown, or when nobody takes them.
///
/// # Errors
/// [`IdentityError::Tls`].
pub fn incoming(
    listener: TcpListener,
    identity: &Identity,
    loopback_plaintext: bool,
    supervisor: &Supervisor,
) -> Result<Incoming, IdentityError> {
    let config = Arc::new(identity.server_config(&[ALPN_H2], true)?);
    let (admitted, incoming) = mpsc::channel(ADMITTED_MAX);
    let accepting = accept(listener, config, identity.clone(), loopback_plaintext, admitted, supervisor.clone());
    supervisor.spawn("tls-accept", OnEnd::Finish, accepting);
    Ok(Incoming(incoming))
}

async fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    identity: Identity,
    loopback_plaintext: bool,
    admitted: mpsc::Sender<Accepted>,
    supervisor: Supervisor,
) {
    let (acceptor, strangers) = (TlsAcceptor::from(config), Arc::new(Semaphore::new(STRANGERS_MAX)));
    let door = Arc::new(Door { acceptor, identity, loopback_plaintext, strangers });
    let stop = supervisor.shutdown().clone();
    // Dropping an entry ends its admission.
    let mut admissions = VecDeque::<oneshot::Sender<()>>::new();
    loop {
        let next = tokio::select! {
            next = stop.or_stop(listener.accept()) => next,
            () = admitted.closed() => None,
        };
        let (tcp, from) = match next {
            None => return,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if admissions.len() >= ADMISSIONS_MAX {
            admissions.retain(|admission| !admission.is_closed());
        }
        if admissions.len() >= ADMISSIONS_MAX {
            admissions.pop_front();
        }
        let (going_on, pushed_out) = oneshot::channel();
        admissions.push_back(going_on);
        let (door, admitted, stop) = (Arc::clone(&door), admitted.clone(), stop.clone());
        supervisor.spawn("tls-admission", OnEnd::Finish, async move {
            let admission = door.admit(tcp, from);
            let outcome = tokio::select! {
                outcome = stop.or_stop(timeout(ADMISSION_WAIT_MAX, admission)) => outcome,
                _ = pushed_out => None,
            };
            match outcome {
                None => {}
                // Nobody serves any more.
                Some(Ok(Ok(accepted))) => drop(stop.or_stop(admitted.send(accepted)).await),
                Some(Ok(Err(error))) => tracing::debug!(%from, %error, "a connection is not admitted"),
                Some(Err(_)) => tracing::debug!(%from, "a connection is not admitted: it says nothing"),
            }
        });
    }
}

/// What is needed to admit a connection.
struct Door {
    acceptor: TlsAcceptor,
    identity: Identity,
    loopback_plaintext: bool,
    strangers: Arc<Semaphore>,
}

impl Door {
    async fn admit(&self, tcp: TcpStream, from: SocketAddr) -> io::Result<Accepted> {
        let refused = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
        tcp.set_nodelay(true)?;
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first != [HANDSHAKE] {
            if self.loopback_plaintext && from.ip().to_canonical().is_loopback() {
                return Ok(Accepted { io: Io::Plain(tcp), peer: PeerIdentity::Loopback, ends: None, _place: None });
            }
            return Err(refused("plain text is only for this machine, and only where `loopback_plaintext` allows it"));
        }
        let tls = self.acceptor.accept(tcp).await?;
        let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let (peer, lasts, place) = match leaf.map(read) {
            None => {
                let place = Arc::clone(&self.strangers).try_acquire_owned();
                let place = place.map_err(|_| refused("too many connections without a certificate"))?;
                (PeerIdentity::Anonymous, STRANGER_LASTS, Some(place))
            }
            Some(Ok((id, validity, _))) => {
                let left = Duration::from_secs(validity.not_after.saturating_sub(self.identity.now()));
                (PeerIdentity::Node { role: id.role, name: id.name, node_id: id.node_id }, left, None)
            }
            Some(Err(error)) => return Err(refused(&error.to_string())),
        };
        Ok(Accepted { io: Io::Tls(Box::new(tls)), peer, ends: Some(Box::pin(sleep(lasts))), _place: place })
    }
}

impl Accepted {
    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &PeerIdentity {
        &self.peer
    }
}

impl Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|accepted| accepted.map(Ok))
    }
}

impl Connected for Accepted {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(context).is_ready()) {
            let why = "the peer's certificate, or its time without one, is over";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Io::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Io::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Io::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests;
