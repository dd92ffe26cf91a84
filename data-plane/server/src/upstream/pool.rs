//! The connections of one server: kept while they are of use, one after another where the server speaks HTTP/1.1, one
//! for all where it chose HTTP/2.
//!
//! Called by `route`. What was put back is looked at when it is taken out again: the HTTP implementation says whether
//! a connection can take another request, which it cannot while anything of an earlier exchange may still come. A
//! connection on which this node showed another certificate of its own than it would now is not used again. Each
//! connection is a task that ends with whoever uses it, and with the node.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::{
    connector::{Connected, Connector},
    credential::Credential,
    fault::{UpstreamFault, chain},
    gate::Leaving,
    metrics::OfServer,
};

/// Idle connections kept per server.
const IDLE_MAX: usize = 256;
/// An HTTP/2 connection in use is asked for a sign of life so often, and given up without one after so long.
const SIGN_EVERY: Duration = Duration::from_secs(20);
const SIGN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Headers of an answer over HTTP/2; HTTP/1.1 has a like bound in its reader.
const HEADERS_BYTES_MAX: u32 = 64 * 1024;

/// See the file's header.
pub(super) struct Pool {
    connector: Connector,
    idle_wait_max: Duration,
    supervisor: Supervisor,
    closing: Shutdown,
    metrics: OfServer,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Option<SharedOne>>,
    /// The server chose HTTP/2 the last time: then one connection is enough.
    speaks_h2: AtomicBool,
    /// Held while that one is made.
    connecting: tokio::sync::Mutex<()>,
}

struct Idle {
    sender: http1::SendRequest<Leaving>,
    client: Option<Credential>,
    since: Instant,
}

struct SharedOne {
    sender: http2::SendRequest<Leaving>,
    client: Option<Credential>,
    used: Instant,
}

/// A connection that can be asked.
pub(super) enum Line {
    /// HTTP/1.1: nobody else's until it is put back.
    Own(http1::SendRequest<Leaving>, Option<Credential>),
    /// HTTP/2.
    Shared(http2::SendRequest<Leaving>),
}

/// What a request on a line came to.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<Leaving>>>;

impl Line {
    pub(super) const fn is_h2(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    pub(super) async fn send(&mut self, request: Request<Leaving>) -> Sent {
        match self {
            Self::Own(sender, _) => sender.try_send_request(request).await,
            Self::Shared(sender) => sender.try_send_request(request).await,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(
        connector: Connector,
        idle_wait_max: Duration,
        supervisor: Supervisor,
        closing: Shutdown,
        metrics: OfServer,
    ) -> Self {
        let (idle, shared, speaks_h2) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let connecting = tokio::sync::Mutex::default();
        Self { connector, idle_wait_max, supervisor, closing, metrics, idle, shared, speaks_h2, connecting }
    }

    /// A connection that is there, if one is.
    pub(super) fn take(&self) -> Result<Option<Line>, UpstreamFault> {
        let client = match &self.connector.tls {
            Some(tls) => tls.client(&self.connector.credentials)?,
            None => None,
        };
        if self.speaks_h2.load(Ordering::Relaxed) {
            return Ok(self.take_shared(client.as_ref()));
        }
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|one| {
            let is_fresh = now.saturating_duration_since(one.since) < self.idle_wait_max;
            is_fresh && !one.sender.is_closed() && is_same(one.client.as_ref(), client.as_ref())
        });
        // What is not ready yet may be later; the last one put back is the likeliest to live.
        let ready = idle.iter().rposition(|one| one.sender.is_ready());
        Ok(ready.map(|index| {
            let Idle { sender, client, .. } = idle.swap_remove(index);
            Line::Own(sender, client)
        }))
    }

    fn take_shared(&self, client: Option<&Credential>) -> Option<Line> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let one = shared.as_mut().filter(|one| !one.sender.is_closed() && is_same(one.client.as_ref(), client))?;
        one.used = Instant::now();
        Some(Line::Shared(one.sender.clone()))
    }

    /// A new connection, or a shared one that came meanwhile.
    pub(super) async fn connect(&self) -> Result<Line, UpstreamFault> {
        if !self.speaks_h2.load(Ordering::Relaxed) {
            return self.open().await;
        }
        let _one_at_a_time = self.connecting.lock().await;
        match self.take()? {
            Some(line) => Ok(line),
            None => self.open().await,
        }
    }

    async fn open(&self) -> Result<Line, UpstreamFault> {
        let Connected { stream, is_h2, client } = self.connector.connect().await?;
        self.metrics.connected();
        self.speaks_h2.store(is_h2, Ordering::Relaxed);
        let failed = |error: hyper::Error| UpstreamFault::Unreachable(chain(&error));
        let (stream, closing) = (TokioIo::new(stream), self.closing.clone());
        if is_h2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(SIGN_EVERY).keep_alive_timeout(SIGN_WAIT_MAX);
            let handshake = builder.max_header_list_size(HEADERS_BYTES_MAX).handshake(stream);
            let (sender, connection) = handshake.await.map_err(failed)?;
            self.supervisor.spawn("server-connection", OnEnd::Finish, async move {
                told(closing.or_stop(connection).await);
            });
            let one = SharedOne { sender: sender.clone(), client, used: Instant::now() };
            *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(one);
            return Ok(Line::Shared(sender));
        }
        let (sender, connection) = http1::Builder::new().handshake(stream).await.map_err(failed)?;
        self.supervisor.spawn("server-connection", OnEnd::Finish, async move {
            told(closing.or_stop(connection).await);
        });
        Ok(Line::Own(sender, client))
    }

    /// Takes back a connection of its own, whether it can be used again or not.
    pub(super) fn put(&self, line: Line) {
        let Line::Own(sender, client) = line else { return };
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { sender, client, since: Instant::now() });
        }
    }

    /// Closes what nobody has used for too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let is_fresh = |since: Instant| now.saturating_duration_since(since) < self.idle_wait_max;
        self.idle().retain(|one| is_fresh(one.since) && !one.sender.is_closed());
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        // A request that is under way holds its connection by itself.
        if shared.as_ref().is_some_and(|one| !is_fresh(one.used) || one.sender.is_closed()) {
            *shared = None;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_same(held: Option<&Credential>, now: Option<&Credential>) -> bool {
    match (held, now) {
        (None, None) => true,
        (Some(held), Some(now)) => held.is(now),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn told(ended: Option<Result<(), hyper::Error>>) {
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a connection to a server ended");
    }
}
