//! One connection: HTTP/1.1 or HTTP/2, told apart by the first bytes, and its life from the first byte to the last.
//!
//! Started by `connections`, a task each. Requests are answered by the router, and carry their client's address. A
//! connection is asked to finish when nothing is asked on it for too long, when it is old, and at shutdown; requests
//! under way are answered, and whoever has not taken its answer a while later is cut. So every connection ends.
//! Requests' bodies are waited for by whoever reads them. Specification: RFC 9112, RFC 9113.

use std::{convert::Infallible, net::IpAddr, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    response::{IntoResponse as _, Response},
};
use bailiwick_runtime::{OnEnd, Supervisor};
use futures::FutureExt as _;
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tower::Service as _;

use super::{address::Proxies, problem, shares::Share};

/// Bytes of a request's head: an authorization request in its URL fits, and cookies.
const HEAD_BYTES_MAX: u32 = 32 * 1024;
/// Requests at once on one HTTP/2 connection: no fewer, says RFC 9113 §6.5.2.
const STREAMS_MAX: u32 = 100;
/// Bytes of a body that HTTP/2 clients send before they are read, for one request and in all: the largest request.
const WINDOW_BYTES: u32 = 64 * 1024;
const WINDOW_BYTES_IN_ALL: u32 = 256 * 1024;
/// Probes of HTTP/2 connections, so that a vanished client is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a request's head, the first on its connection included; HTTP/1.1 has no other bound between requests.
    pub(super) head_max: Duration,
    /// For the next request.
    pub(super) idle_max: Duration,
    /// Until a connection is asked to finish, whatever it does.
    pub(super) age_max: Duration,
    /// And then until it is cut: longer than a body is waited for and an answer takes.
    pub(super) grace_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head_max: Duration::from_secs(15),
            idle_max: Duration::from_secs(60),
            age_max: Duration::from_secs(20 * 60),
            grace_max: Duration::from_secs(15),
        }
    }
}

/// What every connection is served with.
#[derive(Debug)]
pub(super) struct Serving {
    app: Router,
    proxies: Proxies,
    patience: Patience,
    http: Builder<Streams>,
    supervisor: Supervisor,
}

/// Where requests of HTTP/2 are worked on: a task each.
#[derive(Clone, Debug)]
struct Streams(Supervisor);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.spawn("control-plane-http-stream", OnEnd::Finish, stream);
    }
}

/// What goes on on a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Doing {
    under_way: usize,
    has_asked: bool,
}

/// A request under way, from its head to the head of its answer.
struct UnderWay(watch::Sender<Doing>);

impl UnderWay {
    fn begin(doing: &watch::Sender<Doing>) -> Self {
        doing.send_modify(|doing| (doing.under_way, doing.has_asked) = (doing.under_way + 1, true));
        Self(doing.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|doing| doing.under_way = doing.under_way.saturating_sub(1));
    }
}

impl Serving {
    pub(super) fn new(app: Router, proxies: Proxies, patience: Patience, supervisor: Supervisor) -> Self {
        let mut http = Builder::new(Streams(supervisor.clone()));
        let head_bytes_max = usize::try_from(HEAD_BYTES_MAX).unwrap_or(usize::MAX);
        http.http1().timer(TokioTimer::new()).header_read_timeout(patience.head_max).max_buf_size(head_bytes_max);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES_IN_ALL)
            .keep_alive_interval(KEEP_ALIVE);
        Self { app, proxies, patience, http, supervisor }
    }

    /// Serves a connection until it ends; it has its place for so long.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, peer: IpAddr, _share: Share) {
        // Answers are small; waiting to fill a packet would only delay them.
        drop(stream.set_nodelay(true));
        let (doing, done) = watch::channel(Doing::default());
        let service = service_fn(|request: Request<Incoming>| {
            let (serving, under_way) = (Arc::clone(&self), UnderWay::begin(&doing));
            async move {
                let response = serving.answer(request, peer).await;
                drop(under_way);
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, error, "a connection ended");
                }
                return;
            }
            () = self.over(done) => {}
            () = self.supervisor.shutdown().requested() => {}
        }
        connection.as_mut().graceful_shutdown();
        match timeout(self.patience.grace_max, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, error, "a connection ended"),
            Err(_) => tracing::debug!(%peer, "a connection is cut: it did not finish when it was asked to"),
        }
    }

    /// Returns once nothing was asked for too long, or the connection is old.
    async fn over(&self, mut doing: watch::Receiver<Doing>) {
        let mut old = pin!(sleep(self.patience.age_max));
        loop {
            let now = *doing.borrow_and_update();
            let wait_max = if now.has_asked { self.patience.idle_max } else { self.patience.head_max };
            tokio::select! {
                () = &mut old => return,
                () = sleep(wait_max), if now.under_way == 0 => return,
                changed = doing.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response {
        let client = self.proxies.client(peer, request.headers());
        let shown = self.proxies.certificate(peer, request.headers());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(client);
        request.extensions_mut().insert(shown);
        let mut app = self.app.clone();
        // What a stranger sends must not end the node, if it ever finds a fault in it.
        match AssertUnwindSafe(app.call(request)).catch_unwind().await {
            Ok(Ok(response)) => response,
            Err(_panic) => {
                tracing::error!("a request could not be answered: this is a fault of the program");
                problem(StatusCode::INTERNAL_SERVER_ERROR, "server_error").into_response()
            }
        }
    }
}
