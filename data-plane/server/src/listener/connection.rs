//! One connection: what is needed to serve it, and its life from the first byte to the last.
//!
//! Called by `listener` for what `accept` hands over, in a task of its own on any runtime. A connection ends when its
//! client does, when the client stalls (`patience`, `delivery`), when it has to give its place to somebody (`places`),
//! and at shutdown once its requests are answered. First comes what the operator wants of it (`Terms`): the PROXY
//! protocol, TLS. HTTP/1.1 and HTTP/2 are told apart by the first bytes. An answer that lasts may take the connection
//! over (`lasting`).

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bailiwick_runtime::client_certificate;
use bailiwick_token::Thumbprint;
use http::{Request, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Gateway, HEAD_BYTES_MAX, HEAD_WAIT_MAX,
    accept::Arrived,
    answer::AnswerBody,
    body::RequestBody,
    delivery::Owing,
    lasting::{Handover, Lasting},
    patience::Patient,
    places::{Asked, Control, Place, Places},
    proxy_protocol::{self, HeaderFault},
    terms::Terms,
    visit::Visit,
};
use crate::metrics::{Counted, Parting};

/// Probes of an HTTP/2 or HTTP/3 connection, so that a vanished client is noticed. HTTP/1 ends idle connections by
/// itself.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Requests at once on one HTTP/2 or HTTP/3 connection.
pub(super) const STREAMS_MAX: u32 = 256;

/// What every connection is served with; shared by reference.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) gateway: Arc<Gateway>,
    pub(super) places: Arc<Places>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    terms: Terms,
}

/// A connection's bytes.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end, as far as a connection tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// Where it is, or where a balancer says it is.
    pub(super) address: IpAddr,
    /// Whose key it has shown that it holds.
    pub(super) certificate: Option<Thumbprint>,
}

/// How a connection comes to the end of being driven.
#[derive(Debug, PartialEq, Eq)]
enum Driven {
    /// The client ended it, or a shutdown.
    Ended,
    /// This node ended it.
    Parted(Parting),
    /// An answer takes it over.
    HandedOver,
}

/// Why a connection never came to HTTP.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error("the PROXY protocol's header is not there: {0}")]
    Balancer(#[from] HeaderFault),
    #[error("no TLS: {0}")]
    Tls(#[from] io::Error),
    #[error("it took too long")]
    TooLong,
}

impl Serving {
    pub(super) fn new(gateway: Arc<Gateway>, places: Arc<Places>, terms: Terms) -> Self {
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(TokioExecutor::new()));
        http1.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX);
        // A head may be read whole before it is seen how much was read ahead: both are bounded.
        http1.max_buf_size(HEAD_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
        let head_bytes_max = u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(head_bytes_max)
            .keep_alive_interval(KEEP_ALIVE);
        Self { gateway, places, http1, http2, terms }
    }

    /// Serves a connection until it ends.
    pub(super) async fn serve(self: Arc<Self>, arrived: Arrived) {
        let Arrived { stream, from, place } = arrived;
        let metrics = &self.gateway.metrics;
        let _counted = Counted::of(&metrics.connections);
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        // Answers are small; waiting to fill a packet would only delay them.
        drop(stream.set_nodelay(true));
        // Each part of a connection's life has memory of its own, which the next one does not keep.
        let opening = Box::pin(timeout(HEAD_WAIT_MAX, self.open(stream, from, &place)));
        let Some(opened) = place.control.unless_ended(opening).await else { return };
        match opened.unwrap_or(Err(NotOpened::TooLong)) {
            Ok((wire, client)) => {
                let speaking = Box::pin(self.speak_http(wire, client, &place.control));
                let Some((mut wire, mut lasting)) = speaking.await else { return };
                let delivering = pin!(lasting.deliver(&mut wire));
                if let Some(Err(error)) = place.control.unless_ended(delivering).await {
                    tracing::debug!(%client.address, %error, "a connection ended");
                }
            }
            Err(error) => {
                tracing::debug!(%from, %error, "a connection is not opened");
                metrics.parted(match error {
                    NotOpened::Balancer(_) => Parting::Balancer,
                    NotOpened::Tls(_) | NotOpened::TooLong => Parting::NotOpened,
                });
            }
        }
    }

    /// What comes before HTTP: whom the connection is for, and TLS.
    async fn open(&self, mut stream: TcpStream, from: IpAddr, place: &Place) -> Result<(Wire, Client), NotOpened> {
        let mut client = Client { address: from, certificate: None };
        if self.terms.balancers.iter().any(|network| network.contains(from))
            && let Some(address) = proxy_protocol::read(&mut stream).await?
        {
            client.address = address;
            place.is_from(address);
        }
        let Some(tls) = &self.terms.tls else { return Ok((Wire::Plain(stream), client)) };
        let stream = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        client.certificate = client_certificate::thumbprint(shown).map(Thumbprint);
        Ok((Wire::Tls(Box::new(stream)), client))
    }

    /// What a connection's requests have in common.
    pub(super) fn visit(&self, client: Client, control: &Arc<Control>) -> Arc<Visit> {
        Arc::new(Visit {
            gateway: Arc::clone(&self.gateway),
            places: Arc::clone(&self.places),
            control: Arc::clone(control),
            owing: Owing::default(),
            handover: Handover::default(),
            client: client.address,
            certificate: client.certificate,
            alternative: self.terms.alternative.clone(),
        })
    }

    /// Until the connection ends, or an answer takes it over.
    async fn speak_http(&self, wire: Wire, client: Client, control: &Arc<Control>) -> Option<(Patient<Wire>, Lasting)> {
        let unread_wait_max = self.gateway.unread_wait_max;
        let mut stream = Patient::new(wire, HEAD_WAIT_MAX, unread_wait_max);
        let is_http2 = tokio::select! {
            biased;
            // Nobody has asked anything yet.
            _asked = control.asked_beyond(Asked::GoOn) => return None,
            said = stream.speaks_http2() => said,
        };
        let is_http2 =
            is_http2.inspect_err(|error| tracing::debug!(%client.address, %error, "a connection ended")).ok()?;
        let (is_blocked, visit) = (stream.is_blocked(), self.visit(client, control));
        let service = service_fn(|request: Request<Incoming>| {
            let visit = Arc::clone(&visit);
            async move {
                let body_of =
                    if request.version() < Version::HTTP_2 { RequestBody::Alone } else { RequestBody::Shared };
                Ok::<http::Response<AnswerBody>, Infallible>(visit.answer(request.map(body_of)).await)
            }
        });
        let (io, overdue) = (TokioIo::new(stream), visit.owing.too_long(unread_wait_max));
        if is_http2 {
            let connection = pin!(self.http2.serve_connection(io, service));
            self.parted(drive(connection, control, overdue, || false).await, client.address);
            return None;
        }
        let mut connection = self.http1.serve_connection(io, service);
        let is_due = || visit.handover.is_due(&is_blocked);
        let driven = drive(Pin::new(&mut connection), control, overdue, is_due).await;
        if driven == Driven::HandedOver {
            return Some((connection.into_parts().io.into_inner(), visit.handover.take()?));
        }
        self.parted(driven, client.address);
        None
    }

    fn parted(&self, driven: Driven, client: IpAddr) {
        if let Driven::Parted(parting) = driven {
            tracing::debug!(%client, ?parting, "a connection is ended");
            self.gateway.metrics.parted(parting);
        }
    }
}

/// Drives a connection to its end, or until it is due that an answer takes it over. `overdue` is over when an answer
/// was not taken for too long; it also sees to it that a connection is looked at now and then.
async fn drive<C: GracefulConnection<Error = hyper::Error>>(
    mut connection: Pin<&mut C>,
    control: &Control,
    overdue: impl Future<Output = ()>,
    is_due: impl Fn() -> bool,
) -> Driven {
    let (mut overdue, mut is_finishing) = (pin!(overdue), false);
    std::future::poll_fn(|context| {
        match control.poll_asked(context) {
            Asked::End => return Poll::Ready(Driven::Ended),
            Asked::Finish if !is_finishing => {
                is_finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            Asked::GoOn | Asked::Finish => {}
        }
        // Before the connection, so that what is looked at now and then is looked at with its clock.
        if overdue.as_mut().poll(context).is_ready() {
            return Poll::Ready(Driven::Parted(Parting::Untaken));
        }
        match connection.as_mut().poll(context) {
            Poll::Ready(ended) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                Poll::Ready(Driven::Ended)
            }
            Poll::Pending if is_due() => Poll::Ready(Driven::HandedOver),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Instant};

    use futures::stream;
    use http::StatusCode;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::listener::answer;

    #[tokio::test]
    async fn an_answer_takes_a_connection_over_once_what_comes_before_it_is_written() {
        let place = Places::new(1).arrive(Ipv4Addr::LOCALHOST.into(), Instant::now()).place.unwrap();
        let (mut client, wire) = duplex(16);
        let wire = Patient::new(wire, HEAD_WAIT_MAX, HEAD_WAIT_MAX);
        let (is_blocked, handover) = (wire.is_blocked(), Handover::default());
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(match request.uri().path() {
                "/first" => answer::text(StatusCode::OK, "the first"),
                _ => handover.leave(answer::lasting(stream::pending()), request.version()),
            })
        });
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(wire), service);
        let serving = async {
            let (overdue, is_due) = (std::future::pending(), || handover.is_due(&is_blocked));
            let driven = drive(Pin::new(&mut connection), &place.control, overdue, is_due).await;
            drop(connection);
            driven
        };
        let asking = async {
            client.write_all(b"GET /first HTTP/1.1\r\n\r\nGET /lasts HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answers = String::new();
            client.read_to_string(&mut answers).await.unwrap();
            answers
        };
        let (driven, answers) = tokio::join!(serving, asking);
        assert_eq!(driven, Driven::HandedOver);
        let (first, second) = answers.split_once("the first").unwrap();
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n") && first.contains("content-length: 9\r\n"), "{first}");
        assert!(second.starts_with("HTTP/1.1 200 OK\r\n") && second.ends_with("\r\n\r\n"), "{second}");
        assert!(
            second.contains("connection: close\r\n") && second.contains("transfer-encoding: chunked\r\n"),
            "{second}"
        );
    }
}
