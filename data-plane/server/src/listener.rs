//! The MCP listener: HTTP/1.1 and HTTP/2 (prior knowledge) at `/mcp/{virtual-server}`.
//!
//! Started by `role`. Accepts connections within a bound, turns away strangers' pages and foreign host names (`guard`),
//! serves metadata (`metadata`), and hands POSTs to `endpoint`. Each connection is a task of its own, ended when its
//! client stalls (`patience`); at shutdown no more are accepted, idle ones close, and busy ones finish their request.
//! GET is for legacy clients with a session, who listen to changes (`listening`); DELETE is 405: no session is stored
//! here. Deliberately absent: TLS, and what a message means (`data-plane/core`). Specification: MCP 2026-07-28 and
//! 2025-11-25 Streamable HTTP; RFC 9728.

mod body;
mod cors;
mod delivery;
mod endpoint;
mod event_stream;
mod guard;
mod metadata;
mod patience;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bailiwick_proto::Reason;
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use hyper::{
    body::{Body as _, Incoming},
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{OnceCell, Semaphore},
};

pub(crate) use self::{body::BODY_ROOM_BYTES, endpoint::ATTRIBUTED_DENIALS_PER_SECOND, guard::Guard};
use self::{
    delivery::{Delivery, NoRoom, Owing, room_for},
    guard::Turned,
    patience::Patient,
};
use crate::{
    auth::Authenticator,
    budget::Budget,
    calls::Calls,
    config_state::ConfigState,
    metrics::{Counted, Metrics},
    telemetry::Telemetry,
};

/// Connections at once; more wait to be accepted. Each costs some ten KiB while idle.
const CONNECTIONS_MAX: usize = 10_000;
/// Longest wait for a request's header lines.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(15);
/// Bytes of an answer that the system keeps for one client that has not taken them, about: what half a second of a good
/// connection takes.
pub(crate) const UNTAKEN_BYTES_MAX: u32 = 256 * 1024;
/// Bytes of large answers held at once for clients that have not taken them.
pub(crate) const ANSWER_ROOM_BYTES: usize = 512 * 1024 * 1024;
/// Probes of an HTTP/2 connection, so that a vanished client is noticed. HTTP/1 ends idle connections by itself.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Streams within one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Longest wait, at the very end, for clients to take the answers they are owed.
const LAST_ANSWERS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause after a failed accept: usually no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What requests are answered from; shared by reference.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) state: Arc<ConfigState>,
    /// Set once this run is registered and its chain is open; until then nothing is served.
    pub(crate) calls: Arc<OnceCell<Arc<Calls>>>,
    pub(crate) authenticator: Authenticator,
    pub(crate) guard: Guard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) supervisor: Supervisor,
    /// One permit per call under way.
    pub(crate) slots: Arc<Semaphore>,
    /// One permit per byte of a request's body held in memory.
    pub(crate) body_room: Arc<Semaphore>,
    /// One permit per byte of a large answer that its client has not taken. Apart from the other, so that clients that
    /// take nothing keep nobody from asking.
    pub(crate) answer_room: Arc<Semaphore>,
    /// Requested when calls under way have to be given up at shutdown.
    pub(crate) abort: Shutdown,
    /// Requested when streams of changes have to end, since no connection is accepted any more.
    pub(crate) stopping: Shutdown,
    pub(crate) attributed_denials: Budget,
    /// Longest time a client may take nothing of what is ready for it.
    pub(crate) unread_wait_max: Duration,
}

/// Serves until `stop` is requested and the connections have ended; those that have not a moment after `late` are cut.
pub(crate) async fn serve(listener: TcpListener, gateway: Arc<Gateway>, stop: Shutdown, late: Shutdown) {
    let cut = Shutdown::new();
    let supervisor = gateway.supervisor.clone();
    let (unread_wait_max, metrics) = (gateway.unread_wait_max, Arc::clone(&gateway.metrics));
    let service = TowerToHyperService::new(router(gateway));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_WAIT_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).keep_alive_interval(KEEP_ALIVE);
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = stop.requested() => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small; waiting to fill a packet would only delay them.
        drop(stream.set_nodelay(true));
        let stream = Patient::new(stream, HEADER_WAIT_MAX, unread_wait_max);
        let owing = Owing::default();
        let (known, service) = (owing.clone(), service.clone());
        let service = service_fn(move |mut request: axum::http::Request<Incoming>| {
            request.extensions_mut().insert(known.clone());
            service.call(request)
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let (cut, counted) = (cut.clone(), Counted::of(&metrics.connections));
        supervisor.spawn("mcp-connection", OnEnd::Finish, async move {
            tokio::select! {
                ended = cut.or_stop(connection) => if let Some(Err(error)) = ended {
                    tracing::debug!(error, "a connection ended");
                },
                () = owing.too_long(unread_wait_max) => tracing::debug!("a client does not take its answers"),
            }
            drop((permit, counted));
        });
    }
    drop(listener);
    let overdue = async {
        late.requested().await;
        tokio::time::sleep(LAST_ANSWERS_WAIT_MAX).await;
    };
    tokio::select! {
        () = graceful.shutdown() => {}
        () = overdue => cut.request(),
    }
}

fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/mcp/{virtual_server}", any(endpoint::handle))
        .route(metadata::WELL_KNOWN, get(root_metadata))
        .route(&format!("{}/{{*path}}", metadata::WELL_KNOWN), get(server_metadata))
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), let_in))
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), owed))
        .with_state(gateway)
}

/// Answers, and sees to it that the answer is either taken or given up.
async fn owed(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let owing = request.extensions().get::<Owing>().cloned().filter(|_| request.version() >= Version::HTTP_2);
    let answer = next.run(request).await;
    let room = room_for(&gateway.answer_room, answer.body().size_hint().exact().unwrap_or(0));
    match room {
        Ok(None) if owing.is_none() => answer,
        Ok(room) => answer.map(|body| Body::new(Delivery::new(body, room, owing.as_ref()))),
        Err(NoRoom) => {
            gateway.metrics.refused(Reason::NodeOverloaded);
            endpoint::no_room()
        }
    }
}

async fn let_in(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    // With two of them, the one that is checked need not be the one that counts (RFC 9112 §3.2).
    if [header::HOST, header::ORIGIN].iter().any(|name| request.headers().get_all(name).iter().nth(1).is_some()) {
        return (StatusCode::BAD_REQUEST, "a header that may stand once is repeated\n").into_response();
    }
    let config = gateway.state.config();
    let mcp_url = config.as_ref().and_then(|config| config.issuer.as_ref()).map(|issuer| issuer.mcp_url.as_str());
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(axum::http::uri::Authority::as_str).or(host);
    let origin = request.headers().get(header::ORIGIN).map(HeaderValue::as_bytes);
    match gateway.guard.check(origin, host, mcp_url) {
        Ok(()) => {
            let origin = request.headers().get(header::ORIGIN).cloned();
            let mut answer = match cors::preflight(request.method(), request.headers()) {
                Some(answer) => answer,
                None => next.run(request).await,
            };
            if let Some(origin) = origin {
                cors::allow(&mut answer, origin);
            }
            answer
        }
        Err(turned) => {
            let message = match turned {
                Turned::Origin => "this origin may not call this gateway\n",
                Turned::Host => "this gateway is not known under this host name\n",
            };
            tracing::debug!(?turned, "a request was turned away");
            (StatusCode::FORBIDDEN, message).into_response()
        }
    }
}

async fn root_metadata(State(gateway): State<Arc<Gateway>>) -> Response {
    let config = gateway.state.config();
    match config.as_ref().and_then(|config| config.issuer.as_ref()) {
        Some(issuer) => Json(metadata::document(issuer, None)).into_response(),
        None => endpoint::not_ready(),
    }
}

async fn server_metadata(State(gateway): State<Arc<Gateway>>, Path(path): Path<String>) -> Response {
    let config = gateway.state.config();
    let Some((config, issuer)) = config.as_ref().and_then(|config| Some((config, config.issuer.as_ref()?))) else {
        return endpoint::not_ready();
    };
    let path = format!("/{path}");
    match metadata::virtual_server_of(issuer, &path).filter(|name| config.virtual_servers.contains_key(*name)) {
        Some(name) => Json(metadata::document(issuer, Some(name))).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
