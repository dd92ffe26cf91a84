//! The upstream connector: this node as a client of MCP servers, in both eras.
//!
//! Called by `calls` (forwarding), `config_client` and `tool_reports` (what does a server show?). One origin per
//! server, as its manifest describes it, remembers the era, one peer per server and caller the legacy session;
//! everything else is per request. The caller's token never comes here. A call is sent once; it is sent a second time
//! only when the server says that it does not know the session, which means that it did not process the call, and
//! where its manifest allows it (`exchange`). How a server is reached, `route` says. Sessions that are not needed any
//! more are given back, as far as servers take them in time. Deliberately absent: what is sent and what an answer
//! means (`data-plane/core`). Specification: MCP 2026-07-28 and 2025-11-25, transports and lifecycle.

mod answer_stream;
mod attempt;
mod channel;
mod channels;
mod connector;
mod context;
mod credential;
mod exchange;
mod fault;
mod gate;
mod guard;
mod hearing;
mod known;
mod lease;
mod metrics;
mod openapi;
mod peer;
mod pool;
mod reply;
mod route;
mod sse;
mod sse_transport;
mod stdio;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    sync::{
        Arc,
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
    repeat::may_repeat,
};
use bailiwick_proto::{
    address::{Network, NotANetwork},
    mcp::{self, Era, RequestId, Response, method},
    v1::{Server, ToolDefinition},
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use futures::{StreamExt as _, stream};
use http::HeaderValue;
use serde_json::value::RawValue;

use self::{
    channels::{Channels, Partner},
    exchange::{Answer, Bounds},
    guard::{Resolver, System},
    known::{Known, Surroundings, Table},
    peer::{Peer, Room},
    route::Route,
};
pub(crate) use self::{
    context::Context,
    credential::Credentials,
    exchange::Heard,
    fault::UpstreamFault,
    gate::Gate,
    hearing::Hearing,
    metrics::UpstreamMetrics,
    peer::{Aside, Notifications, Principal},
};
use crate::{config::UpstreamConfig, telemetry::Cause};

/// Sessions of one person and agent at one legacy server, one for each set of capabilities of their clients. Whoever
/// declares yet others cannot be asked there: or a client that declares something new each time would open sessions
/// without end, and have everybody else's forgotten.
const VARIANTS_MAX: usize = 8;
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
    limits: UpstreamConfig,
    table: Arc<Table>,
    /// Servers that are reached otherwise than over Streamable HTTP.
    channels: Channels,
    next_id: AtomicU64,
    room: Room,
    supervisor: Supervisor,
    /// As whose doing is told what no client asked for.
    cause: Cause,
}

/// What a connector needs of its node.
#[derive(Debug, Default)]
pub(crate) struct Means {
    /// What servers are shown.
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) metrics: UpstreamMetrics,
    /// How names become addresses; as the system does where absent.
    pub(crate) resolver: Option<Arc<dyn Resolver>>,
}

impl Upstream {
    /// # Errors
    /// A network of the configuration cannot be read; checking the configuration finds that before.
    pub(crate) fn new(limits: UpstreamConfig, supervisor: &Supervisor, means: Means) -> Result<Self, NotANetwork> {
        let networks: Result<Vec<Network>, _> = limits.allowed_networks.iter().map(|network| network.parse()).collect();
        let surroundings = Surroundings {
            limits: limits.clone(),
            networks: networks?.into(),
            credentials: means.credentials,
            resolver: means.resolver.unwrap_or_else(|| Arc::new(System)),
            supervisor: supervisor.clone(),
            closing: Shutdown::new(),
            metrics: means.metrics,
        };
        let table = Arc::new(Table::new(surroundings));
        Ok(Self {
            channels: Channels::new(limits.clone(), Arc::clone(&table), supervisor.clone()),
            limits,
            table,
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

    /// Forwards a permitted call of `caller` under `id`, unless a gate keeps it when it could leave; the server's
    /// answer and its length in bytes. Whoever listens ends it when it takes too long.
    pub(crate) async fn call(
        &self,
        server: &Server,
        caller: &Principal,
        permitted: &PermittedCall,
        id: &RequestId,
        aside: Aside<'_>,
    ) -> Result<(Response, u64), UpstreamFault> {
        let bounds = self.call_bounds(server);
        if server.openapi.is_some() {
            return Box::pin(async { openapi::call(&*self.route(server)?, permitted, bounds, aside).await }).await;
        }
        let request = |era| forward::call_request(permitted, era, id);
        if let Some(partner) = self.channels.partner(server, caller) {
            return Box::pin(partner.ask(id, request, (bounds, self.handshake_bounds(server)), aside)).await;
        }
        let peer = self.peer(server, caller)?;
        let is_retried = server.retry.as_ref().is_some_and(|retry| retry.attempts > 1);
        let aside = Aside { repeats: is_retried && may_repeat(permitted), ..aside };
        let asked = peer.ask(id, request, (bounds, self.handshake_bounds(server)), aside);
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
        if server.openapi.is_some() {
            return Ok(openapi::enquired(&request(Era::Modern)));
        }
        let bounds = self.handshake_bounds(server);
        if let Some(partner) = self.channels.partner(server, caller) {
            return Ok(Box::pin(partner.ask(id, request, (bounds, bounds), Aside::default())).await?.0);
        }
        let aside = Aside { repeats: true, ..Aside::default() };
        Ok(self.peer(server, caller)?.ask(id, request, (bounds, bounds), aside).await?.response)
    }

    /// What a server says that it can do: an object.
    pub(crate) async fn capabilities(
        &self,
        server: &Server,
        caller: &Principal,
    ) -> Result<Option<Box<RawValue>>, UpstreamFault> {
        if server.openapi.is_some() {
            return Ok(Some(openapi::capabilities()));
        }
        if let Some(partner) = self.channels.partner(server, caller) {
            return Box::pin(partner.capabilities(self.handshake_bounds(server))).await;
        }
        self.peer(server, caller)?.capabilities(self.handshake_bounds(server)).await
    }

    /// The revision that a server is spoken to in, once that is known.
    pub(crate) fn era(&self, server: &Server, caller: &Principal) -> Option<Era> {
        if server.openapi.is_some() {
            return Some(Era::Modern);
        }
        match self.channels.partner(server, caller) {
            Some(partner) => partner.era(),
            None => self.peer(server, caller).ok()?.era(),
        }
    }

    /// From which level on a caller wants a server's log: told to a legacy server that keeps one, in this session and
    /// in those that come after it.
    pub(crate) async fn set_level(
        &self,
        server: &Server,
        caller: &Principal,
        level: Level,
    ) -> Result<(), UpstreamFault> {
        if server.openapi.is_some() {
            return Ok(());
        }
        if let Some(partner) = self.channels.partner(server, caller) {
            partner.want_level(level);
            return Box::pin(partner.tell_level(&self.next_id(), level, self.handshake_bounds(server))).await;
        }
        let (peer, bounds) = (self.peer(server, caller)?, self.handshake_bounds(server));
        peer.capabilities(bounds).await?;
        peer.want_level(level);
        peer.tell_level(&self.next_id(), bounds).await
    }

    /// The same, said to another node: no session is opened for it. Whether one is open that has to be told.
    pub(crate) fn want_level(&self, server: &Server, caller: &Principal, level: Level) -> bool {
        if server.openapi.is_some() {
            return false;
        }
        match self.channels.partner(server, caller) {
            Some(partner) => partner.want_level(level),
            None => self.peer(server, caller).is_ok_and(|peer| peer.want_level(level)),
        }
    }

    /// How long a server may be silent before a call is given up.
    pub(crate) fn patience(&self, server: &Server) -> Duration {
        self.call_bounds(server).timeout
    }

    /// Sends an answer to what a legacy server asked in this session, during a call with this context.
    pub(crate) async fn answer(
        &self,
        (server, caller): (&Server, &Principal),
        answer: (Vec<u8>, Option<&Context>),
        session: Option<&HeaderValue>,
    ) -> Result<(), UpstreamFault> {
        if let Some(partner) = self.channels.partner(server, caller) {
            return partner.answer(answer, session, ANSWER_WAIT_MAX).await;
        }
        self.peer(server, caller)?.answer(answer, session, ANSWER_WAIT_MAX).await
    }

    /// Tells a legacy server that `caller` no longer waits for `id`. A modern one sees its stream close, and over a
    /// channel both were told when the request was given up.
    pub(crate) async fn cancel(&self, server: &Server, caller: &Principal, id: &RequestId) {
        if server.openapi.is_some() || self.channels.partner(server, caller).is_some() {
            return;
        }
        let params = format!(r#"{{"requestId":{id},"reason":"cancelled"}}"#);
        let Ok(params) = RawValue::from_string(params) else { return };
        let body = mcp::request_body(None, "notifications/cancelled", Some(&params));
        let Ok(peer) = self.peer(server, caller) else { return };
        if let Err(fault) = peer.notify_legacy(body, CANCEL_WAIT_MAX).await {
            tracing::debug!(server = server.name, %fault, "a server did not take a cancellation");
        }
    }

    /// All tools a server shows, as canonical definitions by name.
    pub(crate) async fn list_tools(&self, server: &Server) -> Result<Vec<ToolDefinition>, UpstreamFault> {
        let bounds = self.handshake_bounds(server);
        if let Some(api) = &server.openapi {
            return Box::pin(async { openapi::list(&*self.route(server)?, (server, api), bounds).await }).await;
        }
        let partner = self.channels.partner(server, &Principal::Gateway);
        let mut list = ToolList::default();
        let mut cursor: Option<String> = None;
        loop {
            let id = self.next_id();
            let request = |era| handshake::tools_request(era, &id, cursor.as_deref());
            let mut asks = self.cause.ask(Operation::named(method::TOOLS_LIST, None, Some(id.clone())), &server.url);
            let (answer, era) = match &partner {
                Some(partner) => {
                    let asked = Box::pin(partner.ask(&id, request, (bounds, bounds), Aside::default())).await;
                    (asked.map(|(response, _)| response), partner.era())
                }
                None => {
                    let peer = self.peer(server, &Principal::Gateway)?;
                    let asked = peer.ask(&id, request, (bounds, bounds), Aside::default()).await;
                    (asked.map(|answer| answer.response), peer.era())
                }
            };
            asks.speaks(era);
            asks.answered(answer.as_ref().map_err(UpstreamFault::reason));
            let page = match answer? {
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

    /// One server as one caller meets it.
    fn peer(&self, server: &Server, principal: &Principal) -> Result<Arc<Peer>, UpstreamFault> {
        let known = self.known(server);
        let origin = known.origin.as_ref().map_err(UpstreamFault::clone)?;
        let mut peers = known.peers();
        if let Some(peer) = peers.get(principal) {
            return Ok(Arc::clone(peer));
        }
        let mut key = principal.clone();
        if let Principal::Caller { user, agent, .. } = principal
            && Known::variants(&peers, user, agent) >= VARIANTS_MAX
        {
            key = Principal::Caller { user: user.clone(), agent: agent.clone(), capabilities: None };
            if let Some(peer) = peers.get(&key) {
                return Ok(Arc::clone(peer));
            }
        }
        let peer = Arc::new(Peer::new(Arc::clone(origin), &key, self.room.clone()));
        let is_full = self.table.is_full();
        if !is_full {
            peers.insert(key, Arc::clone(&peer));
            return Ok(peer);
        }
        drop(peers);
        self.give_back(self.table.all());
        known.peers().insert(key, Arc::clone(&peer));
        Ok(peer)
    }

    /// The way to a server, whatever it speaks.
    fn route(&self, server: &Server) -> Result<Arc<Route>, UpstreamFault> {
        let known = self.known(server);
        let origin = known.origin.as_ref().map_err(UpstreamFault::clone)?;
        Ok(Arc::clone(&origin.route))
    }

    fn known(&self, server: &Server) -> Arc<Known> {
        let (known, forgotten) = self.table.find(server);
        if !forgotten.is_empty() {
            self.give_back(forgotten);
        }
        known
    }

    /// Gives back the sessions of those whom nobody uses at the moment, aside.
    fn give_back(&self, servers: Vec<Arc<Known>>) {
        self.supervisor.spawn("closing-sessions", OnEnd::Finish, close(servers));
    }

    /// Gives all sessions back, and closes all connections: nobody is called any more.
    pub(crate) async fn close(&self) {
        tokio::join!(close(self.table.all()), self.channels.close());
        self.table.surroundings.closing.request();
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
async fn close(servers: Vec<Arc<Known>>) {
    let peers = servers.iter().flat_map(|known| std::mem::take(&mut *known.peers()).into_values());
    let peers: Vec<Arc<Peer>> = peers.collect();
    let all =
        stream::iter(peers).for_each_concurrent(CLOSING_MAX, |peer| async move { peer.close(CLOSING_WAIT_MAX).await });
    if tokio::time::timeout(CLOSING_WAIT_MAX, Box::pin(all)).await.is_err() {
        tracing::debug!("not all sessions could be given back in time");
    }
}
