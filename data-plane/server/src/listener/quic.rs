//! HTTP/3: the same requests as on other connections, over QUIC at the same port.
//!
//! Started by `listener` where the operator wants it. A connection has a place like any other (`places`), a client's
//! address is asked for a proof before that when places become few, and requests of a connection are tasks of their own
//! that end with it. Nothing is taken before the handshake has ended (0-RTT): it could be sent again by others. When
//! the node drains, a client is told to open no more requests (GOAWAY, with an id that gives up none that it has
//! sent), and the connection closes when it has been idle for a moment. A fault of the library ends one connection,
//! never the node. Absent: the PROXY protocol, which has no form for UDP. Specification: RFC 9114; RFC 9000; RFC 9001
//! §9.2.

mod streams;

use std::{
    io,
    net::UdpSocket,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use bailiwick_runtime::{OnEnd, Shutdown, Supervisor, client_certificate};
use bailiwick_token::Thumbprint;
use bytes::{Buf, Bytes};
use futures::FutureExt as _;
use h3::{
    error::Code,
    server::{Connection, RequestResolver, RequestStream},
};
use http::{HeaderValue, Method, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use quinn::{
    Endpoint, EndpointConfig, Incoming, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicServerConfig},
};
use rustls::pki_types::CertificateDer;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::streams::{Latest, Opened, Quic, Receiving, Sending};
use super::{
    HEAD_BYTES_MAX, HEAD_WAIT_MAX, IDLE_MIN, UNTAKEN_BYTES_MAX, accept,
    body::RequestBody,
    connection::{Client, KEEP_ALIVE, STREAMS_MAX, Serving},
    places::{Asked, Control, Place},
    visit::Visit,
};
use crate::metrics::{Counted, Parting};

/// What is spoken.
pub(super) const ALPN: &[u8] = b"h3";
/// A client that is silent for so long is gone; probes keep others.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Streams that are no requests: three that HTTP/3 has, and some that mean nothing.
const OTHER_STREAMS_MAX: u32 = 8;
/// Bytes that one connection and one stream of it bring before they are read.
const UNREAD_BYTES_MAX: u32 = 1024 * 1024;
const UNREAD_OF_STREAM_BYTES_MAX: u32 = 256 * 1024;
/// Connections that wait to be accepted.
const WAITING_MAX: usize = 1_024;
/// Requests that a client may have sent before it learnt that it should open no more.
const SENT_BEFORE_MAX: usize = 1 << 16;
/// How often a connection that is to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for clients to learn that the node is gone.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// A request's body, as it comes from the client.
pub(super) struct Asking(RequestStream<Receiving, Bytes>);

/// How connections are set up.
pub(super) fn server_config(tls: rustls::ServerConfig) -> Result<quinn::ServerConfig, NoInitialCipherSuite> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(OTHER_STREAMS_MAX.into())
        .max_idle_timeout(SILENCE_MAX.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .receive_window(UNREAD_BYTES_MAX.into())
        .stream_receive_window(UNREAD_OF_STREAM_BYTES_MAX.into())
        .send_window(UNTAKEN_BYTES_MAX.into())
        .datagram_receive_buffer_size(None);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport)).max_incoming(WAITING_MAX);
    Ok(config)
}

/// Starts to take what comes to a socket.
pub(super) fn open(socket: UdpSocket, config: quinn::ServerConfig) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))
}

/// Accepts until `stop` is requested; then refuses, until the endpoint closes: a client whom nobody answers would wait
/// for its own timeout before it goes elsewhere.
pub(super) async fn accept(endpoint: Endpoint, serving: Arc<Serving>, supervisor: Supervisor, stop: Shutdown) {
    while let Some(Some(incoming)) = stop.or_stop(endpoint.accept()).await {
        if serving.places.is_crowded() && !incoming.remote_address_validated() && incoming.may_retry() {
            // Whoever answers is where it says it is.
            drop(incoming.retry());
            continue;
        }
        let from = incoming.remote_address().ip().to_canonical();
        match accept::place(from, &serving.places, &serving.gateway.metrics) {
            Some(place) => {
                let (serving, requests) = (Arc::clone(&serving), supervisor.clone());
                supervisor.spawn("mcp-connection", OnEnd::Finish, serve(serving, incoming, place, requests));
            }
            None => incoming.refuse(),
        }
    }
    while let Some(incoming) = endpoint.accept().await {
        incoming.refuse();
    }
}

/// Ends what is left.
pub(super) async fn close(endpoint: &Endpoint) {
    endpoint.close(code(Code::H3_NO_ERROR), b"");
    drop(timeout(CLOSE_WAIT_MAX, endpoint.wait_idle()).await);
}

async fn serve(serving: Arc<Serving>, incoming: Incoming, place: Place, supervisor: Supervisor) {
    let metrics = &serving.gateway.metrics;
    let _counted = Counted::of(&metrics.connections);
    let (client, control) = (incoming.remote_address().ip().to_canonical(), &place.control);
    control.share();
    let opening = async { timeout(HEAD_WAIT_MAX, incoming.accept().ok()?).await.ok()?.ok() };
    let Some(opened) = control.unless_ended(opening).await else { return };
    let Some(connection) = opened else { return metrics.parted(Parting::NotOpened) };
    let certificate = certificate(&connection);
    let (visit, gone) = (serving.visit(Client { address: client, certificate }, control), Shutdown::new());
    let conversation = Conversation { visit: Arc::clone(&visit), supervisor, gone: gone.clone() };
    // Boxed, here and below: each future around another one keeps room for it twice.
    let ended = AssertUnwindSafe(Box::pin(conversation.hold(&connection))).catch_unwind().await;
    gone.request();
    connection.close(code(Code::H3_NO_ERROR), b"");
    match ended {
        Ok(None) => {}
        Ok(Some(parting)) => {
            tracing::debug!(%client, ?parting, "a connection is ended");
            metrics.parted(parting);
        }
        Err(_panic) => tracing::error!(%client, "the HTTP/3 library failed; its connection is ended"),
    }
}

/// What the client has shown, by its thumbprint.
fn certificate(connection: &quinn::Connection) -> Option<Thumbprint> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    client_certificate::thumbprint(&shown).map(Thumbprint)
}

/// One connection's requests.
struct Conversation {
    visit: Arc<Visit>,
    supervisor: Supervisor,
    /// Requested when the connection is gone.
    gone: Shutdown,
}

/// What comes next on a connection.
enum Next {
    Request(Box<RequestResolver<Quic, Bytes>>, Opened),
    Asked(Asked),
    Untaken,
    Look,
    Over,
}

impl Conversation {
    /// Until the connection ends; says why, where that was not the client's doing or a shutdown's.
    async fn hold(self, connection: &quinn::Connection) -> Option<Parting> {
        let (quic, latest) = Quic::new(connection);
        let head_bytes_max = u64::try_from(HEAD_BYTES_MAX).unwrap_or(u64::MAX);
        let mut builder = h3::server::builder();
        let building = builder.max_field_section_size(head_bytes_max).send_grease(false).build(quic);
        let mut http = self.control().unless_ended(Box::pin(building)).await?.ok()?;
        let unread_wait_max = self.visit.gateway.unread_wait_max;
        let owing = self.visit.owing.clone();
        let mut untaken = pin!(owing.too_long(unread_wait_max));
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = Asked::GoOn;
        loop {
            let next = tokio::select! {
                biased;
                asked = self.control().asked_beyond(known) => Next::Asked(asked),
                () = &mut untaken => Next::Untaken,
                next = accept_request(&mut http, &latest) => next,
                _ = looks.tick(), if known == Asked::Finish => Next::Look,
            };
            match next {
                Next::Request(resolver, opened) => self.start(*resolver, opened),
                Next::Asked(Asked::End) | Next::Over => return None,
                Next::Asked(asked) => {
                    known = asked;
                    http.shutdown(SENT_BEFORE_MAX).await.ok()?;
                }
                Next::Untaken => return Some(Parting::Untaken),
                Next::Look if self.control().is_idle_for(IDLE_MIN, self.visit.places.at(Instant::now())) => {
                    return None;
                }
                Next::Look => {}
            }
        }
    }

    fn control(&self) -> &Control {
        &self.visit.control
    }

    fn start(&self, resolver: RequestResolver<Quic, Bytes>, opened: Opened) {
        let (visit, gone) = (Arc::clone(&self.visit), self.gone.clone());
        self.supervisor.spawn("mcp-request", OnEnd::Finish, async move {
            let answering = AssertUnwindSafe(Box::pin(answer(&visit, resolver, opened))).catch_unwind();
            if let Some(Err(_panic)) = gone.or_stop(answering).await {
                tracing::error!(client = %visit.client, "the HTTP/3 library failed; its request is ended");
            }
        });
    }
}

async fn accept_request(http: &mut Connection<Quic, Bytes>, latest: &Latest) -> Next {
    match http.accept().await {
        Ok(Some(resolver)) => match latest.take() {
            Some(opened) => Next::Request(Box::new(resolver), opened),
            None => Next::Over,
        },
        Ok(None) => Next::Over,
        Err(error) => {
            tracing::debug!(%error, "a connection ended");
            Next::Over
        }
    }
}

/// Answers one request, unless its client gives up.
async fn answer(visit: &Visit, resolver: RequestResolver<Quic, Bytes>, opened: Opened) {
    let Ok(Ok((request, stream))) = timeout(HEAD_WAIT_MAX, resolver.resolve_request()).await else { return };
    opened.head_is_read();
    let is_head = request.method() == Method::HEAD;
    let (sending, asking) = stream.split();
    let answering = async {
        let answer = visit.answer(request.map(|()| RequestBody::Quic(Box::new(Asking(asking))))).await;
        send(sending, answer, is_head, visit.gateway.unread_wait_max).await
    };
    let mut answering = pin!(answering);
    let mut given_up = opened.given_up;
    std::future::poll_fn(|context| match answering.as_mut().poll(context) {
        Poll::Pending => given_up.poll_unpin(context),
        Poll::Ready(_sent) => Poll::Ready(()),
    })
    .await;
}

/// Sends an answer; `None` if the client takes none.
async fn send(
    mut sending: RequestStream<Sending, Bytes>,
    answer: super::answer::Response,
    is_head: bool,
    unread_wait_max: Duration,
) -> Option<()> {
    let (mut head, mut body) = answer.into_parts();
    if !body.goes_on() {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        head.headers.insert(header::DATE, date);
    }
    timeout(unread_wait_max, sending.send_response(Response::from_parts(head, ()))).await.ok()?.ok()?;
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if !is_head && !data.is_empty() {
            // That this takes too long is noticed where all answers of the connection are watched.
            sending.send_data(data).await.ok()?;
        }
    }
    timeout(unread_wait_max, sending.finish()).await.ok()?.ok()
}

impl Asking {
    /// The next part.
    pub(super) fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv_data(context).map(|read| match read {
            Ok(Some(mut data)) => Some(Ok(Frame::data(data.copy_to_bytes(data.remaining())))),
            Ok(None) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    }
}

fn code(code: Code) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or_default()
}
