//! One server as this node reaches it over HTTP: prepared once, used by every request.
//!
//! Made by `known` for each way a server is described; called by `exchange` and whoever opens streams. It joins what
//! the manifest says of the transport: connections (`pool`), places (`lease`), when it is left alone (`attempt`), what
//! it is shown (`credential`). A request is built here from MCP's own headers and nothing of the caller's. Redirects
//! are not followed: what a server says elsewhere is not what was approved. A request is sent a second time by itself
//! only when the connection turned out to be gone before any of it was written.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bailiwick_proto::{
    address::{Host, Network},
    v1,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, uri::PathAndQuery};

use super::{
    attempt::Standing,
    connector::Connector,
    context::{self, Context, Written},
    credential::Credential,
    fault::{UpstreamFault, chain},
    gate::{Gate, Leaving},
    guard::Guard,
    known::Surroundings,
    lease::{Lease, Place, Places},
    metrics::OfServer,
    pool::{Line, Pool},
    reply::Reply,
    tls::Tls,
};
use crate::calls::unix_seconds;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION")));
/// Room for the headers of a request without growing: MCP's, the credential, and this file's.
const HEADERS: usize = 14;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Route {
    /// As the manifest has it.
    pub(super) url: String,
    paths: Paths,
    host: HeaderValue,
    shown: Option<Shown>,
    /// It is told on whose behalf it is called.
    wants_context: bool,
    pool: Arc<Pool>,
    places: Places,
    pub(super) standing: Standing,
    pub(super) retry: Retry,
    pub(super) metrics: OfServer,
    surroundings: Arc<Surroundings>,
}

/// Where a request goes.
#[derive(Debug)]
struct Paths {
    /// Path and query, as HTTP/1.1 wants it.
    path: Uri,
    /// With scheme and host, as HTTP/2 does.
    whole: Uri,
}

/// What is sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// The first time included.
    pub(super) attempts: u32,
    pub(super) pause: Duration,
}

/// The header that a credential stands in.
#[derive(Debug)]
struct Shown {
    secret: String,
    header: HeaderName,
    scheme: String,
    ready: ArcSwapOption<(Credential, HeaderValue)>,
}

/// A request, but for what every request to this server has.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) method: Method,
    /// Path and query, where they are not those of the server's URL.
    pub(super) path: Option<PathAndQuery>,
    pub(super) headers: HeaderMap,
    /// Asked when the body could leave.
    pub(super) gate: Option<&'a Gate>,
    /// For whom it is sent, where that was decided.
    pub(super) context: Option<&'a Context>,
    pub(super) body: Bytes,
}

impl<'a> Asking<'a> {
    /// Of MCP: a message.
    pub(super) const fn post(headers: HeaderMap, body: Bytes) -> Self {
        Self { method: Method::POST, path: None, headers, gate: None, context: None, body }
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) struct NoReply {
    pub(super) fault: UpstreamFault,
    /// Something of the request may have left.
    pub(super) has_left: bool,
}

impl Route {
    /// # Errors
    /// The server cannot be reached as it is described.
    pub(super) fn new(server: &v1::Server, surroundings: Arc<Surroundings>) -> Result<Self, UpstreamFault> {
        let unusable = |what: &str| UpstreamFault::Unusable(what.to_owned());
        let whole: Uri = server.url.parse().map_err(|_| unusable("its URL cannot be read"))?;
        let is_https = match whole.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(unusable("its URL is neither http nor https")),
        };
        let authority = whole.authority().ok_or_else(|| unusable("its URL has no host"))?;
        let host: Host =
            authority.host().parse().map_err(|fault| UpstreamFault::Unusable(format!("its host: {fault}")))?;
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let path = whole.path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse().map_err(|_| unusable("its URL's path cannot be read"))?;
        let host_header = HeaderValue::from_str(authority.as_str()).map_err(|_| unusable("its host cannot be read"))?;
        let tls = is_https.then(|| Tls::new(server.tls.as_ref(), &host)).transpose()?;
        let networks: Result<Vec<Network>, _> = server.networks.iter().map(|network| network.parse()).collect();
        let networks = networks
            .map_err(|fault: bailiwick_proto::address::NotANetwork| UpstreamFault::Unusable(fault.to_string()))?;
        let shown = server.credential.as_ref().map(Shown::new).transpose()?;
        let limits = &surroundings.limits;
        let or = |said: u64, otherwise: u64| Duration::from_millis(if said > 0 { said } else { otherwise });
        let metrics = surroundings.metrics.of(&server.name);
        let connector = Connector {
            host,
            port,
            tls,
            guard: Guard { server: networks, node: Arc::clone(&surroundings.networks) },
            resolver: Arc::clone(&surroundings.resolver),
            credentials: Arc::clone(&surroundings.credentials),
            wait_max: or(server.connect_timeout_ms, limits.connect_timeout_ms),
        };
        let idle = or(server.idle_timeout_ms, limits.idle_timeout_ms);
        let (supervisor, closing) = (surroundings.supervisor.clone(), surroundings.closing.clone());
        let pool = Arc::new(Pool::new(connector, idle, supervisor, closing, metrics.clone()));
        let connections = if server.connections > 0 { server.connections as usize } else { limits.connections };
        let waiting = server.waiting.map_or(limits.waiting, |waiting| waiting as usize);
        let retry = server.retry.unwrap_or_default();
        Ok(Self {
            url: server.url.clone(),
            paths: Paths { path, whole },
            host: host_header,
            shown,
            wants_context: !server.no_context,
            pool,
            places: Places::new(connections, waiting),
            standing: Standing::new(server, limits, metrics.clone()),
            retry: Retry { attempts: retry.attempts.max(1), pause: or(retry.pause_ms, RETRY_PAUSE_MS) },
            metrics,
            surroundings,
        })
    }

    /// A place among the requests of this server.
    pub(super) async fn place(&self) -> Result<Place, UpstreamFault> {
        self.places.take().await
    }

    /// Sends a request and waits for the head of its reply.
    pub(super) async fn send(&self, asking: Asking<'_>, place: Option<Place>) -> Result<Reply, NoReply> {
        let Asking { method, path, mut headers, gate, context, body } = asking;
        let paths = match path {
            Some(path) => &self.paths_of(path).map_err(|fault| NoReply { fault, has_left: false })?,
            None => &self.paths,
        };
        let unsent = |fault| NoReply { fault, has_left: false };
        if let Some(shown) = &self.shown {
            let value = shown.value(&self.surroundings).map_err(unsent)?;
            headers.insert(shown.header.clone(), value);
        }
        headers.insert(header::USER_AGENT, USER_AGENT);
        let context = context.filter(|_| self.wants_context);
        let (is_empty, signed) = (body.is_empty(), context.map(|_| body.clone()));
        let mut request = Request::new(Leaving::new(gate.cloned(), body));
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        loop {
            let (mut line, is_fresh) = match self.pool.take().map_err(unsent)? {
                Some(line) => (line, false),
                None => (self.pool.connect().await.map_err(unsent)?, true),
            };
            // Nothing is read of an empty body, so the gate is asked here.
            if let (true, Some(reason)) = (is_empty, gate.and_then(Gate::keeps)) {
                return Err(unsent(UpstreamFault::Withheld(reason)));
            }
            self.fit(&mut request, &line, paths);
            if let (Some(context), Some(body)) = (context, &signed) {
                self.tell(&mut request, context, (paths, body)).map_err(unsent)?;
            }
            let mut error = match line.send(request).await {
                Ok(response) => {
                    let lease = Lease::new(line, Arc::clone(&self.pool));
                    return answered(Reply::new(response, lease, place));
                }
                Err(error) => error,
            };
            let unsent_request = error.take_message();
            let has_left = unsent_request.is_none();
            match (unsent_request, gate.and_then(Gate::refused)) {
                (_, Some(reason)) => return Err(unsent(UpstreamFault::Withheld(reason))),
                // The connection was gone before anything was written, as those that are kept may be.
                (Some(again), None) if !is_fresh => request = again,
                (_, None) => {
                    return Err(NoReply { fault: UpstreamFault::Unreachable(chain(error.error())), has_left });
                }
            }
        }
    }

    /// Tells the server on whose behalf it is asked: signed anew each time that the request is written.
    fn tell(
        &self,
        request: &mut Request<Leaving>,
        context: &Context,
        (paths, body): (&Paths, &Bytes),
    ) -> Result<(), UpstreamFault> {
        let target = paths.path.path_and_query().map_or("/", PathAndQuery::as_str);
        let written = Written { server: &self.url, method: request.method(), target, body };
        let contexts = &self.surroundings.credentials.contexts;
        if let Some(value) = contexts.header(context, written, unix_seconds())? {
            request.headers_mut().insert(context::HEADER, value);
        }
        Ok(())
    }

    /// A GET or DELETE: nothing to read for a gate, no place taken.
    pub(super) async fn fetch(&self, method: Method, headers: HeaderMap) -> Result<Reply, UpstreamFault> {
        let asking = Asking { method, ..Asking::post(headers, Bytes::new()) };
        let sent = self.send(asking, None).await;
        sent.map_err(|no_reply| no_reply.fault)
    }

    /// Another path at the same server.
    fn paths_of(&self, path: PathAndQuery) -> Result<Paths, UpstreamFault> {
        let mut parts = self.paths.whole.clone().into_parts();
        parts.path_and_query = Some(path.clone());
        let whole = Uri::from_parts(parts).map_err(|_| UpstreamFault::Unusable("a path cannot be read".to_owned()))?;
        Ok(Paths { path: Uri::from(path), whole })
    }

    /// Writes the address as the connection's protocol wants it.
    fn fit(&self, request: &mut Request<Leaving>, line: &Line, paths: &Paths) {
        if line.is_h2() {
            request.uri_mut().clone_from(&paths.whole);
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(header::HOST);
        } else {
            request.uri_mut().clone_from(&paths.path);
            *request.version_mut() = Version::HTTP_11;
            request.headers_mut().insert(header::HOST, self.host.clone());
        }
    }

    /// Closes connections that nobody has used for too long.
    pub(super) fn sweep(&self) {
        self.pool.sweep();
    }
}

/// The pause before the second attempt, where the manifest names none.
const RETRY_PAUSE_MS: u64 = 100;

/// An empty map with room for the headers of a request.
pub(super) fn headers(own: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.extend(own);
    headers
}

fn answered(reply: Reply) -> Result<Reply, NoReply> {
    let status = reply.status();
    if status.is_redirection() && status != http::StatusCode::NOT_MODIFIED {
        return Err(NoReply { fault: UpstreamFault::Redirected(status.as_u16()), has_left: true });
    }
    Ok(reply)
}

impl Shown {
    fn new(credential: &v1::Credential) -> Result<Self, UpstreamFault> {
        let header = HeaderName::from_bytes(credential.header.as_bytes());
        let header =
            header.map_err(|_| UpstreamFault::Unusable("the header of its credential cannot be read".to_owned()))?;
        let (secret, scheme) = (credential.secret.clone(), credential.scheme.clone());
        Ok(Self { secret, header, scheme, ready: ArcSwapOption::empty() })
    }

    /// The header's present value; made once for each value of the secret.
    fn value(&self, surroundings: &Surroundings) -> Result<HeaderValue, UpstreamFault> {
        let missing = || UpstreamFault::NoCredential(self.secret.clone());
        let credential = surroundings.credentials.find(&self.secret).ok_or_else(missing)?;
        if let Some(ready) = self.ready.load().as_ref().filter(|ready| ready.0.is(&credential)) {
            return Ok(ready.1.clone());
        }
        let mut text = zeroize::Zeroizing::new(Vec::with_capacity(self.scheme.len() + 1 + credential.as_bytes().len()));
        if !self.scheme.is_empty() {
            text.extend_from_slice(self.scheme.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(credential.as_bytes());
        let value = HeaderValue::from_bytes(&text);
        let mut value = value
            .map_err(|_| UpstreamFault::Unusable(format!("the secret `{}` cannot stand in a header", self.secret)))?;
        value.set_sensitive(true);
        self.ready.store(Some(Arc::new((credential, value.clone()))));
        Ok(value)
    }
}
