//! The upstream connector: this node as a client of MCP servers, in both eras.
//!
//! Called by `calls` (forwarding), `config_client` and `tool_reports` (what does a server show?). One origin per server
//! URL remembers the era, one peer per URL and caller the legacy session; everything else is per request. The caller's
//! token never comes here. A call is sent once; it is sent a second time only when the server says that it does not
//! know the session, which means that it did not process the call. Sessions that are not needed any more are given
//! back, as far as servers take them in time. Deliberately absent: what is sent and what an answer means
//! (`data-plane/core`), credentials of servers. Specification: MCP 2026-07-28 and 2025-11-25, transports and lifecycle.

mod answer_stream;
mod exchange;
mod fault;
mod gate;
mod hearing;
mod peer;
mod sse;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bailiwick_data_plane_core::{
    edge::PermittedCall,
    forward::{self, ServerRequest},
    handshake::{self, ToolList},
    operation::Operation,
    relay::Level,
};
use bailiwick_proto::{
    mcp::{self, Era, RequestId, Response, method},
    v1::{Server, ToolDefinition},
};
use bailiwick_runtime::{OnEnd, Supervisor};
use futures::{StreamExt as _, stream};
use http::HeaderValue;
use serde_json::value::RawValue;

pub(crate) use self::{
    exchange::Heard,
    fault::UpstreamFault,
    gate::Gate,
    hearing::Hearing,
    peer::{Aside, Notifications, Principal},
};
use self::{
    exchange::{Answer, Bounds},
    peer::{Origin, Peer, Room},
};
use crate::{config::UpstreamConfig, telemetry::Cause};

/// Peers remembered, some hundred bytes each; beyond it all are forgotten and found again. More than a node serves
/// callers of legacy servers at a time.
const PEERS_MAX: usize = 16_384;
/// Sessions of one person and agent at one legacy server, one for each set of capabilities of their clients. Whoever
/// declares yet others cannot be asked there: or a client that declares something new each time would open sessions
/// without end, and have everybody else's forgotten.
const VARIANTS_MAX: usize = 8;
/// Idle connections kept per server.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Longest wait for a server to take a cancellation.
const CANCEL_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a server to take the answer to what it asked.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Sessions given back at once, when many are.
const CLOSING_MAX: usize = 64;
/// Longest time for giving back sessions, however many; servers forget the rest by themselves some day.
const CLOSING_WAIT_MAX: Duration = Duration::from_secs(2);

/// One per node, shared by reference.
#[derive(Debug)]
pub(crate) struct Upstream {
    http: reqwest::Client,
    limits: UpstreamConfig,
    known: Mutex<Known>,
    /// By server URL and caller: whose session somebody listens to.
    heard: Mutex<BTreeSet<(String, Principal)>>,
    next_id: AtomicU64,
    room: Room,
    supervisor: Supervisor,
    /// As whose doing is told what no client asked for.
    cause: Cause,
}

/// What is remembered of servers.
#[derive(Debug, Default)]
struct Known {
    origins: BTreeMap<String, Arc<Origin>>,
    peers: BTreeMap<(String, Principal), Arc<Peer>>,
}

impl Known {
    /// As how many clients a server meets one person and agent.
    fn variants(&self, url: &str, user: &str, agent: &str) -> usize {
        let first = Principal::Caller { user: user.to_owned(), agent: agent.to_owned(), capabilities: None };
        let is_theirs = |principal: &Principal| matches!(principal, Principal::Caller { user: of, agent: through, .. } if of == user && through == agent);
        let from = self.peers.range((url.to_owned(), first)..).map(|(key, _)| key);
        from.take_while(|(at, principal)| at == url && is_theirs(principal)).count()
    }
}

impl Upstream {
    /// # Errors
    /// The TLS backend cannot be set up.
    pub(crate) fn new(limits: UpstreamConfig, supervisor: &Supervisor) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("bailiwick/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_millis(limits.connect_timeout_ms))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()?;
        Ok(Self {
            http,
            limits,
            known: Mutex::default(),
            heard: Mutex::default(),
            next_id: AtomicU64::new(1),
            room: Room::new(supervisor.clone()),
            supervisor: supervisor.clone(),
            cause: Cause::default(),
        })
    }

    /// The same, telling what it does by itself.
    pub(crate) fn telling(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// An id for a request to a server.
    pub(crate) fn next_id(&self) -> RequestId {
        RequestId::from(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Forwards a permitted call of `caller` under `id`, unless a gate keeps it when it could leave; the server's answer
    /// and its length in bytes. Whoever listens ends it when it takes too long.
    pub(crate) async fn call(
        &self,
        server: &Server,
        caller: &Principal,
        permitted: &PermittedCall,
        id: &RequestId,
        aside: Aside<'_>,
    ) -> Result<(Response, u64), UpstreamFault> {
        let bounds = self.call_bounds(server);
        let peer = self.peer(&server.url, caller);
        let request = |era| forward::call_request(permitted, era, id);
        let asked = peer.ask(&self.http, id, request, (bounds, self.handshake_bounds(server)), aside);
        let Answer { response, bytes, .. } = asked.await?;
        Ok((response, bytes))
    }

    /// Asks a server something that is no call; the whole answer is waited for.
    pub(crate) async fn enquire(
        &self,
        server: &Server,
        caller: &Principal,
        id: &RequestId,
        request: impl Fn(Era) -> ServerRequest,
    ) -> Result<Response, UpstreamFault> {
        let bounds = self.handshake_bounds(server);
        let asked = self.peer(&server.url, caller);
        Ok(asked.ask(&self.http, id, request, (bounds, bounds), Aside::default()).await?.response)
    }

    /// What a server says that it can do: an object.
    pub(crate) async fn capabilities(
        &self,
        server: &Server,
        caller: &Principal,
    ) -> Result<Option<Box<RawValue>>, UpstreamFault> {
        self.peer(&server.url, caller).capabilities(&self.http, self.handshake_bounds(server)).await
    }

    /// The revision that a server is spoken to in, once that is known.
    pub(crate) fn era(&self, server: &Server, caller: &Principal) -> Option<Era> {
        self.peer(&server.url, caller).era()
    }

    /// From which level on a caller wants a server's log: told to a legacy server that keeps one, in this session and in
    /// those that come after it.
    pub(crate) async fn set_level(
        &self,
        server: &Server,
        caller: &Principal,
        level: Level,
    ) -> Result<(), UpstreamFault> {
        let (peer, bounds) = (self.peer(&server.url, caller), self.handshake_bounds(server));
        peer.capabilities(&self.http, bounds).await?;
        peer.want_level(level);
        peer.tell_level(&self.http, &self.next_id(), bounds).await
    }

    /// The same, said to another node: no session is opened for it. Whether one is open that has to be told.
    pub(crate) fn want_level(&self, server: &Server, caller: &Principal, level: Level) -> bool {
        self.peer(&server.url, caller).want_level(level)
    }

    /// How long a server may be silent before a call is given up.
    pub(crate) fn patience(&self, server: &Server) -> Duration {
        self.call_bounds(server).timeout
    }

    /// Sends an answer to what a legacy server asked in this session.
    pub(crate) async fn answer(
        &self,
        server: &Server,
        caller: &Principal,
        body: Vec<u8>,
        session: Option<&HeaderValue>,
    ) -> Result<(), UpstreamFault> {
        self.peer(&server.url, caller).answer(&self.http, body, session, ANSWER_WAIT_MAX).await
    }

    /// Tells a legacy server that `caller` no longer waits for `id`. A modern one sees its stream close.
    pub(crate) async fn cancel(&self, server: &Server, caller: &Principal, id: &RequestId) {
        let params = format!(r#"{{"requestId":{id},"reason":"cancelled"}}"#);
        let Ok(params) = RawValue::from_string(params) else { return };
        let body = mcp::request_body(None, "notifications/cancelled", Some(&params));
        if let Err(fault) = self.peer(&server.url, caller).notify_legacy(&self.http, body, CANCEL_WAIT_MAX).await {
            tracing::debug!(server = server.name, %fault, "a server did not take a cancellation");
        }
    }

    /// All tools a server shows, as canonical definitions by name.
    pub(crate) async fn list_tools(&self, server: &Server) -> Result<Vec<ToolDefinition>, UpstreamFault> {
        let bounds = self.handshake_bounds(server);
        let peer = self.peer(&server.url, &Principal::Gateway);
        let mut list = ToolList::default();
        let mut cursor: Option<String> = None;
        loop {
            let id = self.next_id();
            let request = |era| handshake::tools_request(era, &id, cursor.as_deref());
            let mut asks = self.cause.ask(Operation::named(method::TOOLS_LIST, None, Some(id.clone())), &server.url);
            let answer = peer.ask(&self.http, &id, request, (bounds, bounds), Aside::default()).await;
            asks.speaks(peer.era());
            asks.answered(answer.as_ref().map(|answer| &answer.response).map_err(UpstreamFault::reason));
            let page = match answer?.response {
                Response::Result(page) => page,
                Response::Error(error) => {
                    return Err(UpstreamFault::Invalid(format!("tools/list: error {}: {}", error.code, error.message)));
                }
            };
            let next = list.take_page(&page).map_err(|fault| UpstreamFault::Invalid(fault.to_string()))?;
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(list.finish()),
            }
        }
    }

    fn peer(&self, url: &str, principal: &Principal) -> Arc<Peer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (url.to_owned(), principal.clone());
        if let Some(peer) = known.peers.get(&key) {
            return Arc::clone(peer);
        }
        if let Principal::Caller { user, agent, .. } = principal
            && known.variants(url, user, agent) >= VARIANTS_MAX
        {
            let (user, agent) = (user.clone(), agent.clone());
            key.1 = Principal::Caller { user, agent, capabilities: None };
            if let Some(peer) = known.peers.get(&key) {
                return Arc::clone(peer);
            }
        }
        if known.peers.len() >= PEERS_MAX {
            let Known { peers, .. } = std::mem::take(&mut *known);
            let closing = close(self.http.clone(), peers);
            self.supervisor.spawn("closing-sessions", OnEnd::Finish, closing);
        }
        let origin = known.origins.entry(url.to_owned()).or_insert_with(|| Arc::new(Origin::new(url)));
        let peer = Arc::new(Peer::new(Arc::clone(origin), &key.1, self.room.clone()));
        known.peers.insert(key, Arc::clone(&peer));
        peer
    }

    /// Gives all sessions back: nobody is called any more.
    pub(crate) async fn close(&self) {
        let Known { peers, .. } = std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner));
        close(self.http.clone(), peers).await;
    }

    fn call_bounds(&self, server: &Server) -> Bounds {
        let timeout_ms = if server.timeout_ms > 0 { server.timeout_ms } else { self.limits.call_timeout_ms };
        Bounds { timeout: Duration::from_millis(timeout_ms), bytes_max: self.limits.response_bytes_max }
    }

    fn handshake_bounds(&self, server: &Server) -> Bounds {
        let call = self.call_bounds(server);
        let handshake = Duration::from_millis(self.limits.handshake_timeout_ms);
        Bounds { timeout: call.timeout.min(handshake), ..call }
    }
}

/// Gives back the sessions of those whom nobody uses at the moment.
async fn close(http: reqwest::Client, peers: BTreeMap<(String, Principal), Arc<Peer>>) {
    let all = stream::iter(peers.into_values()).for_each_concurrent(CLOSING_MAX, |peer| {
        let http = http.clone();
        async move { peer.close(&http, CLOSING_WAIT_MAX).await }
    });
    if tokio::time::timeout(CLOSING_WAIT_MAX, Box::pin(all)).await.is_err() {
        tracing::debug!("not all sessions could be given back in time");
    }
}
