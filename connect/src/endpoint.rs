//! A local HTTP endpoint for clients that speak Streamable HTTP, with the token and the proof added on the way.
//!
//! Started by the command line with `--http`. Requests and answers pass as they are, streams too. Whoever asks shows a
//! secret, as bearer token or as the end of the path: other users of the machine reach this port, and so does every web
//! page. Invariants: bound to loopback alone; programs of other users are not listened to, with the secret neither,
//! where the system says whose they are (`peer`); a foreign Host (DNS rebinding) and any Origin (web pages) are turned
//! away before the secret is looked at; the client's own credentials and cookies go nowhere; bodies have a largest size.
//! Connections and requests have a largest number each, an answer that still streams included, and neither a head nor a
//! body may take its time.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header},
};
use bailiwick_runtime::{OnEnd, Supervisor};
use bailiwick_token::same_secret;
use futures::StreamExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    caller::Caller,
    credentials::Credentials,
    fault::Fault,
    keeping::lock::Lock,
    peer::{self, Peer},
};

/// Largest request: what data planes take.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Requests whose answers have not ended yet; one person's clients.
const REQUESTS_MAX: usize = 256;
/// One for each request, and some that are idle.
const CONNECTIONS_MAX: usize = 320;
/// For the head of a request, from the end of the one before; and for its body.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);
/// After a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PATH: &str = "/mcp";
/// Of a request, what is the server's business; with all that begin with `mcp-`.
const TO_SERVER: [HeaderName; 3] = [header::ACCEPT, header::CONTENT_TYPE, HeaderName::from_static("last-event-id")];
/// Of an answer, what is the client's.
const TO_CLIENT: [HeaderName; 4] = [header::CONTENT_TYPE, header::CACHE_CONTROL, header::RETRY_AFTER, header::ALLOW];

struct Endpoint {
    caller: Caller,
    secret: Zeroizing<String>,
    address: SocketAddr,
    places: Arc<Semaphore>,
    wait_max: Duration,
}

/// A listener on loopback, and what says to this person's other bridges that the port is theirs.
///
/// # Errors
/// The address is of another kind, or taken. Where somebody else has taken it, clients may have shown them the secret,
/// so that it is worth nothing from now on.
pub(crate) async fn bind(address: SocketAddr, credentials: &Credentials) -> Result<(TcpListener, Option<Lock>), Fault> {
    if !address.ip().is_loopback() {
        return Err(Fault::Url("the local endpoint listens on this machine alone: 127.0.0.1:PORT or [::1]:PORT"));
    }
    let unusable = |error: &str| Fault::Keeping(format!("{address} cannot be listened on: {error}"));
    let lock = match address.port() {
        // Any that is free.
        0 => None,
        port => match Lock::take_free(credentials.folder(), &format!("port-{port}"))? {
            None => return Err(unusable("another bridge of yours does")),
            lock => lock,
        },
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok((listener, lock)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && credentials.spend_endpoint_secret().await? => {
            Err(Fault::PortTaken { address: address.to_string() })
        }
        Err(error) => Err(unusable(&error.to_string())),
    }
}

/// The URL of the endpoint, without its secret.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("http://{address}{PATH}")
}

/// Serves until the stop.
pub(crate) async fn serve(
    listener: TcpListener,
    caller: Caller,
    secret: Zeroizing<String>,
    supervisor: &Supervisor,
) -> Result<(), Fault> {
    let address = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let endpoint = Endpoint { caller, secret, address, places, wait_max: REQUEST_WAIT_MAX };
    let accepting = accept(listener, Arc::new(endpoint), supervisor);
    supervisor.shutdown().or_stop(accepting).await;
    Ok(())
}

async fn accept(listener: TcpListener, endpoint: Arc<Endpoint>, supervisor: &Supervisor) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // It went away before it was taken, or there are too few file descriptors for a moment.
                tracing::debug!(%error, "a connection is not taken");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if peer::of(&stream) == Peer::Other {
            tracing::warn!("a program of another user is not listened to");
            continue;
        }
        let (endpoint, stop) = (Arc::clone(&endpoint), supervisor.shutdown().clone());
        supervisor.spawn("local connection", OnEnd::Finish, async move {
            stop.or_stop(Box::pin(connection(stream, endpoint))).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, endpoint: Arc<Endpoint>) {
    let wait_max = endpoint.wait_max;
    let service = service_fn(move |request: Request<Incoming>| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(Box::pin(answer(endpoint, request.map(Body::new))).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(wait_max);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a local connection ends");
    }
}

async fn answer(endpoint: Arc<Endpoint>, request: Request<Body>) -> Response<Body> {
    if let Err(status) = endpoint.admit(&request) {
        return empty(status);
    }
    let Ok(place) = Arc::clone(&endpoint.places).try_acquire_owned() else {
        return empty(StatusCode::TOO_MANY_REQUESTS);
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = timeout(endpoint.wait_max, to_bytes(body, REQUEST_BYTES_MAX)).await else {
        return empty(StatusCode::REQUEST_TIMEOUT);
    };
    let Ok(body) = body else { return empty(StatusCode::PAYLOAD_TOO_LARGE) };
    match endpoint.caller.send(&parts.method, &picked(&parts.headers, &TO_SERVER), &body).await {
        Ok(answered) => passed_on(answered.response, place),
        Err(fault) => failed(&fault),
    }
}

impl Endpoint {
    /// Whether somebody who may use this asks for the one thing that is here.
    fn admit(&self, request: &Request<Body>) -> Result<(), StatusCode> {
        if !self.is_own_host(request.headers()) || request.headers().contains_key(header::ORIGIN) {
            return Err(StatusCode::FORBIDDEN);
        }
        let rest = request.uri().path().strip_prefix(PATH).ok_or(StatusCode::NOT_FOUND)?;
        let in_path = rest.strip_prefix('/').unwrap_or_default();
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let shown = if rest.is_empty() { bearer } else { in_path };
        if !same_secret(shown.as_bytes(), self.secret.as_bytes()) {
            return Err(if rest.is_empty() { StatusCode::UNAUTHORIZED } else { StatusCode::NOT_FOUND });
        }
        match *request.method() {
            Method::POST | Method::GET | Method::DELETE => Ok(()),
            _ => Err(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn is_own_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, other) = (hosts.next(), hosts.next());
        let port = self.address.port();
        let own = [self.address.to_string(), format!("localhost:{port}")];
        host.is_some_and(|host| own.iter().any(|own| own.as_bytes() == host.as_bytes())) && other.is_none()
    }
}

fn picked(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let is_wanted = |name: &HeaderName| names.contains(name) || name.as_str().starts_with("mcp-");
    headers.iter().filter(|(name, _)| is_wanted(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The answer holds its place until it has ended.
fn passed_on(response: reqwest::Response, place: OwnedSemaphorePermit) -> Response<Body> {
    let (status, headers) = (response.status(), picked(response.headers(), &TO_CLIENT));
    let pieces = response.bytes_stream().map(move |piece| {
        let _held = &place;
        piece
    });
    let mut answer = Response::new(Body::from_stream(pieces));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

fn failed(fault: &Fault) -> Response<Body> {
    tracing::warn!(%fault, "a request fails");
    let data = json!({"reason": fault.word()});
    let error = json!({"code": fault.code(), "message": fault.to_string(), "data": data});
    let body = json!({"jsonrpc": "2.0", "id": null, "error": error});
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests;
