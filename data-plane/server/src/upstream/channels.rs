//! Servers that are reached over channels of messages, programs and HTTP+SSE: where a request to one of them goes.
//!
//! Called by `upstream` for every server that is no Streamable HTTP one, instead of a peer. Deliberately absent:
//! sessions (`channel::pool`), and moving bytes (`stdio`, `sse_transport`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bailiwick_data_plane_core::{
    forward::ServerRequest,
    listening::{
        Wishes,
        source::{Closed, Offers},
    },
    relay::Level,
};
use bailiwick_proto::{
    mcp::{Era, RequestId, Response},
    v1::Server,
};
use bailiwick_runtime::{OnEnd, Supervisor};
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    channel::{
        live::{Seat, Use},
        pool::Pool,
    },
    context::Context,
    credential::{Credential, Credentials},
    exchange::Bounds,
    fault::UpstreamFault,
    known::Table,
    metrics::OfServer,
    peer::{Aside, Notifications, Principal},
    route::Route,
};
use crate::config::UpstreamConfig;

/// Servers remembered; beyond it those that nobody uses are forgotten. As many as there can be.
const POOLS_MAX: usize = 1_024;
/// Descriptions of one server that are remembered: the one in force, and one that is being looked at.
const DESCRIPTIONS_MAX: usize = 2;
/// Longest wait for all programs to end; what is left then is killed when this node ends.
const ENDING_MAX: Duration = Duration::from_secs(8);

/// What all channels share.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) supervisor: Supervisor,
    pub(super) config: UpstreamConfig,
    pub(super) credentials: Arc<Credentials>,
    /// The ways to servers over HTTP.
    table: Arc<Table>,
    /// Places for programs, of this node.
    places: Arc<Semaphore>,
    /// A place may be free.
    pub(super) freed: Notify,
    numbers: AtomicU64,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Surroundings {
    /// For one channel.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What is counted of a server.
    pub(super) fn metrics(&self, server: &str) -> OfServer {
        self.table.surroundings.metrics.of(server)
    }

    /// The way to a server over HTTP.
    pub(super) fn route(&self, server: &Server) -> Result<Arc<Route>, UpstreamFault> {
        let (known, forgotten) = self.table.find(server);
        if !forgotten.is_empty() {
            self.supervisor.spawn("closing-sessions", OnEnd::Finish, super::close(forgotten));
        }
        let origin = known.origin.as_ref().map_err(UpstreamFault::clone)?;
        Ok(Arc::clone(&origin.route))
    }

    /// A place for a program, if that is what is begun.
    pub(super) fn place(&self, is_program: bool) -> Result<Option<OwnedSemaphorePermit>, ()> {
        let taken = is_program.then(|| Arc::clone(&self.places).try_acquire_owned());
        taken.transpose().map_err(|_none| ())
    }

    /// A session of any server that nobody uses gives its place to another.
    pub(super) fn give_way(&self) -> bool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        let all: Vec<_> = pools.iter().filter_map(Weak::upgrade).collect();
        drop(pools);
        all.iter().filter(|pool| pool.server.command.is_some()).any(|pool| pool.give_way())
    }

    /// Whether these secrets are still what they were.
    pub(super) fn are_current(&self, secrets: &[(String, Credential)]) -> bool {
        secrets.iter().all(|(name, given)| self.credentials.find(name).is_some_and(|present| present.is(given)))
    }
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Channels {
    around: Arc<Surroundings>,
    pools: Mutex<BTreeMap<String, Vec<Arc<Pool>>>>,
}

/// A server over a channel, as one caller meets it.
#[derive(Clone, Debug)]
pub(super) struct Partner {
    pool: Arc<Pool>,
    seat: Arc<Seat>,
}

impl Channels {
    pub(super) fn new(config: UpstreamConfig, table: Arc<Table>, supervisor: Supervisor) -> Self {
        let credentials = Arc::clone(&table.surroundings.credentials);
        let places = Arc::new(Semaphore::new(config.command_processes_max));
        let around = Surroundings {
            supervisor,
            config,
            credentials,
            table,
            places,
            freed: Notify::new(),
            numbers: AtomicU64::new(1),
            pools: Mutex::default(),
        };
        Self { around: Arc::new(around), pools: Mutex::default() }
    }

    /// The server as this caller meets it; `None` if it is reached over Streamable HTTP.
    pub(super) fn partner(&self, server: &Server, principal: &Principal) -> Option<Partner> {
        if server.command.is_none() && server.transport.is_empty() {
            return None;
        }
        let pool = self.pool(server, *principal == Principal::Gateway);
        let seat = pool.seat(principal);
        Some(Partner { pool, seat })
    }

    /// The sessions with a server as it is described. One that is only looked at may be described otherwise than the
    /// one that is called, so for a while there are two; once a caller comes, there is one.
    fn pool(&self, server: &Server, only_looks: bool) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= POOLS_MAX && !pools.contains_key(&server.name) {
            pools.retain(|_, described| !described.iter().all(|pool| pool.is_empty()));
        }
        let described = pools.entry(server.name.clone()).or_default();
        let found = described.iter().position(|pool| pool.server == *server);
        let pool = match found {
            Some(found) => described.remove(found),
            None => {
                let pool = Arc::new(Pool::new(server.clone(), Arc::clone(&self.around)));
                self.around.pools.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pool));
                pool
            }
        };
        let kept = if only_looks { DESCRIPTIONS_MAX - 1 } else { 0 };
        while described.len() > kept {
            described.remove(0).retire();
        }
        described.push(Arc::clone(&pool));
        pool
    }

    /// Ends all: nobody is called any more. Returns when nothing of any program is left, within a bound.
    pub(super) async fn close(&self) {
        drop(std::mem::take(&mut *self.pools.lock().unwrap_or_else(PoisonError::into_inner)));
        // Those too that are not called any more, but are not over yet.
        let pools = std::mem::take(&mut *self.around.pools.lock().unwrap_or_else(PoisonError::into_inner));
        pools.iter().filter_map(Weak::upgrade).for_each(|pool| pool.end());
        let all = u32::try_from(self.around.config.command_processes_max).unwrap_or(u32::MAX);
        if tokio::time::timeout(ENDING_MAX, self.around.places.acquire_many(all)).await.is_err() {
            tracing::warn!("not all programs ended in time");
        }
    }
}

impl Partner {
    /// Sends the request that `request` makes for the server's era; the answer and its length in bytes. Once more only
    /// if it surely did not leave.
    pub(super) async fn ask(
        &self,
        id: &RequestId,
        request: impl Fn(Era) -> ServerRequest,
        (bounds, handshake): (Bounds, Bounds),
        aside: Aside<'_>,
    ) -> Result<(Response, u64), UpstreamFault> {
        let began = Instant::now();
        let session = self.session(handshake).await?;
        let asked = match session.asked(id, request(session.era()), bounds, aside).await {
            Err(UpstreamFault::SessionGone) if began.elapsed() < handshake.timeout => {
                drop(session);
                let session = self.session(handshake).await?;
                session.asked(id, request(session.era()), bounds, aside).await
            }
            asked => asked,
        };
        match &asked {
            Ok(_) => self.pool.answered(),
            Err(fault) => self.pool.fault(fault),
        }
        asked
    }

    async fn session(&self, bounds: Bounds) -> Result<Use, UpstreamFault> {
        self.pool.session(&self.seat, bounds, false).await
    }

    pub(super) async fn capabilities(&self, bounds: Bounds) -> Result<Option<Box<RawValue>>, UpstreamFault> {
        Ok(self.session(bounds).await?.capabilities())
    }

    /// The revision spoken, once that is known.
    pub(super) fn era(&self) -> Option<Era> {
        self.pool.present(&self.seat).map(|session| session.era())
    }

    /// From which level on the client wants the log from now on. Whether a session that is open has to be told.
    pub(super) fn want_level(&self, level: Level) -> bool {
        let before = self.seat.level.swap(Some(Arc::new(level)));
        before.as_deref() != Some(&level) && self.pool.present(&self.seat).is_some_and(|session| session.logs())
    }

    /// Tells a legacy server that keeps a log the level that is wanted; begins a session where there is none.
    pub(super) async fn tell_level(&self, id: &RequestId, level: Level, bounds: Bounds) -> Result<(), UpstreamFault> {
        self.session(bounds).await?.tell_level(id, level, bounds).await
    }

    /// Sends an answer to what the server asked, in the session it asked in.
    pub(super) async fn answer(
        &self,
        answer: (Vec<u8>, Option<&Context>),
        asked_in: Option<&HeaderValue>,
        longest: Duration,
    ) -> Result<(), UpstreamFault> {
        let session = self.pool.present(&self.seat).ok_or(UpstreamFault::SessionGone)?;
        session.answer(answer, asked_in, longest).await
    }

    /// The server's era, and what it offers to listen to.
    pub(super) async fn offers(&self, bounds: Bounds) -> Result<(Era, Offers), UpstreamFault> {
        let session = self.pool.session(&self.seat, bounds, true).await?;
        Ok((session.era(), session.offers()))
    }

    /// Begins to listen.
    pub(super) async fn notifications(
        &self,
        id: RequestId,
        wishes: &Wishes,
        bounds: Bounds,
    ) -> Result<Notifications, Closed> {
        let session = self.pool.session(&self.seat, bounds, true).await.map_err(|_fault| Closed::Broken)?;
        if session.era().is_modern() {
            let subscription = session.subscription(id, wishes, bounds).await?;
            return Ok(Notifications::Subscription(Box::new(subscription)));
        }
        session.channel.listen().map(Notifications::Shared).ok_or(Closed::Broken)
    }

    /// Asks a legacy server to tell of a resource's changes, or no longer to.
    pub(super) async fn subscribe(
        &self,
        id: &RequestId,
        wish: (&str, bool),
        bounds: Bounds,
    ) -> Result<(), UpstreamFault> {
        let session = self.pool.present(&self.seat).ok_or(UpstreamFault::SessionGone)?;
        session.subscribe(id, wish, bounds).await
    }
}
