//! One connection: what is needed to serve it, and its life from the first byte to the last.
//!
//! Called by `listener` for what `accept` hands over, in a task of its own on any runtime. A connection ends when its
//! client does, when the client stalls (`patience`, `delivery`), when it has to give its place to somebody (`places`),
//! and at shutdown once its requests are answered. First comes what the operator wants of it (`Terms`): the PROXY
//! protocol, TLS. HTTP/1.1 and HTTP/2 are told apart by the first bytes.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Version};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
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
    http: auto::Builder<TokioExecutor>,
    terms: Terms,
}

/// A connection's bytes.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
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
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX).max_buf_size(HEAD_BYTES_MAX);
        let head_bytes_max = u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(head_bytes_max)
            .keep_alive_interval(KEEP_ALIVE);
        Self { gateway, places, http, terms }
    }

    /// Serves a connection until it ends.
    pub(super) async fn serve(self: Arc<Self>, arrived: Arrived) {
        let Arrived { stream, from, place } = arrived;
        let metrics = &self.gateway.metrics;
        let _counted = Counted::of(&metrics.connections);
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        // Answers are small; waiting to fill a packet would only delay them.
        drop(stream.set_nodelay(true));
        let opening = timeout(HEAD_WAIT_MAX, self.open(stream, from, &place));
        let Some(opened) = place.control.unless_ended(opening).await else { return };
        match opened.unwrap_or(Err(NotOpened::TooLong)) {
            Ok((wire, client)) => self.speak_http(wire, client, &place.control).await,
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
    async fn open(&self, mut stream: TcpStream, from: IpAddr, place: &Place) -> Result<(Wire, IpAddr), NotOpened> {
        let mut client = from;
        if self.terms.balancers.iter().any(|network| network.contains(from))
            && let Some(address) = proxy_protocol::read(&mut stream).await?
        {
            client = address;
            place.is_from(address);
        }
        let Some(tls) = &self.terms.tls else { return Ok((Wire::Plain(stream), client)) };
        let stream = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await?;
        Ok((Wire::Tls(Box::new(stream)), client))
    }

    /// What a connection's requests have in common.
    pub(super) fn visit(&self, client: IpAddr, control: &Arc<Control>) -> Arc<Visit> {
        Arc::new(Visit {
            gateway: Arc::clone(&self.gateway),
            places: Arc::clone(&self.places),
            control: Arc::clone(control),
            owing: Owing::default(),
            client,
            alternative: self.terms.alternative.clone(),
        })
    }

    async fn speak_http(&self, wire: Wire, client: IpAddr, control: &Arc<Control>) {
        let unread_wait_max = self.gateway.unread_wait_max;
        let stream = Patient::new(wire, HEAD_WAIT_MAX, unread_wait_max);
        let visit = self.visit(client, control);
        let owing = visit.owing.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let visit = Arc::clone(&visit);
            async move {
                let body_of =
                    if request.version() < Version::HTTP_2 { RequestBody::Alone } else { RequestBody::Shared };
                Ok::<http::Response<AnswerBody>, Infallible>(visit.answer(request.map(body_of)).await)
            }
        });
        let connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let parting = drive(connection, control, owing.too_long(unread_wait_max)).await;
        if let Some(parting) = parting {
            tracing::debug!(%client, ?parting, "a connection is ended");
            self.gateway.metrics.parted(parting);
        }
    }
}

/// Drives a connection to its end; says why, where that was not the client's doing or a shutdown's. `overdue` is over
/// when an answer was not taken for too long; it also sees to it that a connection is looked at now and then.
async fn drive<S, I>(
    mut connection: Pin<&mut auto::Connection<'_, I, S, TokioExecutor>>,
    control: &Control,
    overdue: impl Future<Output = ()>,
) -> Option<Parting>
where
    S: Service<Request<Incoming>, Response = http::Response<AnswerBody>, Error = Infallible>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let (mut overdue, mut is_finishing) = (pin!(overdue), false);
    std::future::poll_fn(|context| {
        match control.poll_asked(context) {
            Asked::End => return Poll::Ready(None),
            Asked::Finish if !is_finishing => {
                is_finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            Asked::GoOn | Asked::Finish => {}
        }
        // Before the connection, so that what is looked at now and then is looked at with its clock.
        if overdue.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Parting::Untaken));
        }
        connection.as_mut().poll(context).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(error, "a connection ended");
            }
            None
        })
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
