//! The sessions of one server that is reached over channels: one for each caller, or one for all, begun when somebody
//! needs it and ended when nobody does.
//!
//! Called by `channels`. A session takes a place, of which a server and a node have so many, until nothing of it is
//! left. When all are taken, who came last waits, for a bounded time and among a bounded number, and the session that
//! has been unused for longest gives way. Listening alone keeps no place: who listens is told that the stream broke,
//! and listens again. A session that ends by itself is begun again at the next call, after a pause that grows while
//! none of them answers anything; whoever calls meanwhile is refused at once. What was under way then is not asked
//! again. A session that was given other secrets than there are now gives way to a new one. Deliberately absent:
//! programs and HTTP (`stdio`, `sse_transport`).

mod places;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bailiwick_proto::v1::Server;
use bailiwick_runtime::OnEnd;
use futures::future::BoxFuture;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};

use self::places::Places;
use super::{
    Channel,
    health::Health,
    live::{Live, Seat, Unowned, Use, among_few},
    session::{Known, Session},
};
use crate::upstream::{
    channels::Surroundings, credential::Credential, exchange::Bounds, fault::UpstreamFault, metrics::OfServer,
    peer::Principal, sse_transport, stdio,
};

/// Seats kept of one server, some hundred bytes each; beyond it those without a session are forgotten.
const SEATS_MAX: usize = 4_096;
/// Sessions of one server over HTTP+SSE; each is a connection.
const STREAMS_MAX: usize = 1_024;
/// How long an unused one is kept.
const STREAM_IDLE: Duration = Duration::from_secs(5 * 60);

/// A channel that was just begun.
pub(in crate::upstream) struct Begun {
    pub(in crate::upstream) channel: Channel,
    /// Moves its bytes until it is over and nothing of it is left; how it ended.
    pub(in crate::upstream) run: BoxFuture<'static, Ending>,
    /// The secrets it was given.
    pub(in crate::upstream) secrets: Vec<(String, Credential)>,
}

/// How a channel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Ending {
    /// It was to end.
    Wished,
    /// By itself, or because of what the server did.
    ByItself,
}

/// See the file's header.
#[derive(Debug)]
pub(in crate::upstream) struct Pool {
    pub(in crate::upstream) server: Server,
    around: Arc<Surroundings>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    seats: Mutex<BTreeMap<Principal, Arc<Seat>>>,
    /// A session has nobody who uses it any more.
    freed: Arc<Notify>,
    health: Mutex<Health>,
    metrics: OfServer,
    /// The server once turned out to be a legacy one.
    is_legacy: AtomicBool,
    /// Another configuration took this one's place.
    is_retired: AtomicBool,
}

impl Pool {
    pub(in crate::upstream) fn new(server: Server, around: Arc<Surroundings>) -> Self {
        let most = server.command.as_ref().map_or(STREAMS_MAX, |command| command.processes as usize);
        let metrics = around.metrics(&server.name);
        Self {
            server,
            around,
            metrics,
            places: Arc::new(Semaphore::new(most.max(1))),
            waiting: AtomicUsize::new(0),
            seats: Mutex::default(),
            freed: Arc::default(),
            health: Mutex::default(),
            is_legacy: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
        }
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<Principal, Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shared(&self) -> bool {
        self.server.command.as_ref().is_some_and(|command| command.shared)
    }

    fn idle(&self) -> Duration {
        self.server.command.as_ref().map_or(STREAM_IDLE, |command| Duration::from_millis(command.idle_ms))
    }

    /// Where somebody sits.
    pub(in crate::upstream) fn seat(&self, principal: &Principal) -> Arc<Seat> {
        let principal = if self.is_shared() { &Principal::Gateway } else { principal };
        let mut seats = self.seats();
        if let Some(seat) = seats.get(principal) {
            return Arc::clone(seat);
        }
        let principal = &among_few(&seats, principal);
        if let Some(seat) = seats.get(principal) {
            return Arc::clone(seat);
        }
        if seats.len() >= SEATS_MAX {
            seats.retain(|_, seat| seat.is_taken());
        }
        let capabilities = match principal {
            Principal::Gateway => None,
            Principal::Caller { capabilities, .. } => capabilities.as_deref(),
        };
        let seat = Arc::new(Seat::new(capabilities));
        seats.insert(principal.clone(), Arc::clone(&seat));
        seat
    }

    /// The session that is there, without beginning one.
    pub(in crate::upstream) fn present(&self, seat: &Seat) -> Option<Use> {
        let live = seat.live.load_full()?;
        if !self.around.are_current(&live.secrets) {
            live.retire();
            return None;
        }
        live.enter()
    }

    /// A session, begun if there is none. Who only listens takes no place from anybody.
    pub(in crate::upstream) async fn session(
        self: &Arc<Self>,
        seat: &Arc<Seat>,
        bounds: Bounds,
        only_listens: bool,
    ) -> Result<Use, UpstreamFault> {
        if let Some(present) = self.present(seat) {
            return Ok(present);
        }
        let until = Instant::now() + bounds.timeout;
        let _one_at_a_time = timeout_at(until, seat.beginning.lock()).await.map_err(|_elapsed| UpstreamFault::Busy)?;
        if let Some(present) = self.present(seat) {
            return Ok(present);
        }
        let knew = self.is_legacy.load(Ordering::Relaxed);
        let begun = match self.placed(seat, until, bounds, only_listens).await {
            // It may have ended because of what it was asked.
            Err(UpstreamFault::Unreachable(_)) if !knew && self.is_legacy.load(Ordering::Relaxed) => {
                self.placed(seat, until, bounds, only_listens).await
            }
            begun => begun,
        };
        let live = begun?;
        let entered = live.enter().ok_or(UpstreamFault::SessionGone);
        if self.is_retired.load(Ordering::Relaxed) {
            live.retire();
        }
        seat.live.store(Some(live));
        entered
    }

    async fn placed(
        self: &Arc<Self>,
        seat: &Arc<Seat>,
        until: Instant,
        bounds: Bounds,
        only_listens: bool,
    ) -> Result<Arc<Live>, UpstreamFault> {
        self.recover(until).await?;
        let places = if only_listens { self.free_places()? } else { self.places(until).await? };
        Box::pin(self.begin(seat, places, bounds)).await
    }

    /// Waits for the end of a short pause after a failure; during a long one nothing is begun.
    async fn recover(&self, until: Instant) -> Result<(), UpstreamFault> {
        let pause = self.health().pause();
        match pause {
            None => Ok(()),
            Some((paused, _)) if paused <= until && paused <= Instant::now() + Health::WAITED_MAX => {
                sleep_until(paused).await;
                Ok(())
            }
            Some((_, failures)) => Err(UpstreamFault::Unreachable(format!(
                "it ended {failures} times in a row without having answered anything; it is begun again after a pause"
            ))),
        }
    }

    async fn begin(
        self: &Arc<Self>,
        seat: &Arc<Seat>,
        places: Places,
        bounds: Bounds,
    ) -> Result<Arc<Live>, UpstreamFault> {
        let known = if self.is_legacy.load(Ordering::Relaxed) { Known::Legacy } else { Known::Nothing };
        let begun = self.begun().await.inspect_err(|fault| {
            // What this node keeps back says nothing of the server.
            if !matches!(fault, UpstreamFault::NotAllowed(_) | UpstreamFault::NoCredential(_)) {
                self.failed();
            }
        });
        let Begun { channel, run, secrets } = begun?;
        self.keep(channel.clone(), run, places);
        let mut unowned = Unowned(Some(channel.clone()));
        let level = seat.level.load_full().map(|level| *level);
        let capabilities = seat.capabilities.as_deref();
        let opened = Session::open(channel.clone(), known, capabilities, level, bounds).await;
        let session = opened.inspect_err(|_fault| {
            // A server that does not even greet. What it did to the channel itself, is counted when it ends.
            if channel.is_open() {
                self.failed();
            }
            // Some old programs end when they are asked what they do not know: the next one is not.
            let may_be_old = known == Known::Nothing && !channel.is_open();
            self.is_legacy.store(may_be_old, Ordering::Relaxed);
        })?;
        unowned.0 = None;
        if session.era().is_modern() {
            self.is_legacy.store(false, Ordering::Relaxed);
        } else {
            self.is_legacy.store(true, Ordering::Relaxed);
        }
        tracing::debug!(server = self.server.name, version = session.era().version(), "a session is begun");
        let live = Arc::new(Live::new(session, secrets, Arc::clone(&self.freed)));
        self.reap_when_idle(&live);
        Ok(live)
    }

    async fn begun(&self) -> Result<Begun, UpstreamFault> {
        let number = self.around.number();
        match &self.server.command {
            Some(command) => stdio::start(&self.server.name, command, number, &self.around),
            None => sse_transport::start(&self.server, number, &self.around).await,
        }
    }

    /// Moves a channel's bytes until nothing of it is left; then its place is free.
    fn keep(self: &Arc<Self>, channel: Channel, run: BoxFuture<'static, Ending>, places: Places) {
        let (pool, answered, counted) = (Arc::clone(self), channel.answered(), self.metrics.session());
        self.around.supervisor.spawn("channel", OnEnd::Finish, async move {
            let ending = run.await;
            drop((places, counted));
            pool.metrics.ended(ending == Ending::ByItself);
            if ending == Ending::ByItself && channel.answered() <= answered + HANDSHAKE_ANSWERS {
                pool.failed();
            }
            pool.freed.notify_waiters();
            pool.around.freed.notify_waiters();
        });
    }

    fn failed(&self) {
        let failures = self.health().failed(Instant::now());
        if failures == Health::TOLD_AT {
            self.metrics.left_alone(true);
            tracing::warn!(
                server = self.server.name,
                failures,
                "a server ends again and again; it is begun less often"
            );
        }
    }

    /// A request got no usable answer.
    pub(in crate::upstream) fn fault(&self, fault: &UpstreamFault) {
        self.metrics.fault(fault);
    }

    /// The server answered something.
    pub(in crate::upstream) fn answered(&self) {
        let failures = self.health().answered();
        if failures >= Health::TOLD_AT {
            self.metrics.left_alone(false);
            tracing::info!(server = self.server.name, "a server that ended again and again answers");
        }
    }

    fn reap_when_idle(&self, live: &Arc<Live>) {
        let (live, idle) = (Arc::clone(live), self.idle());
        self.around.supervisor.spawn("channel-idle", OnEnd::Finish, async move {
            loop {
                let since = live.unused_since().unwrap_or_else(Instant::now);
                tokio::select! {
                    () = live.session.channel.ended() => return,
                    () = sleep_until(since + idle) => {}
                }
                let since = Instant::now().checked_sub(idle);
                let is_unused = !live.session.channel.is_heard() && !live.has_tasks();
                if is_unused && since.is_some_and(|since| live.gives_way(since)) {
                    return;
                }
                if !is_unused {
                    // Somebody listens, or may ask what has become of a task: it is as good as used now.
                    live.touch();
                }
            }
        });
    }

    /// Another configuration takes this one's place: sessions end once they are not used any more.
    pub(in crate::upstream) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        for seat in self.seats().values() {
            if let Some(live) = seat.live.load_full() {
                live.retire();
            }
        }
    }

    /// Ends all sessions, whoever uses them.
    pub(in crate::upstream) fn end(&self) {
        self.retire();
        for seat in self.seats().values() {
            if let Some(live) = seat.live.load_full() {
                live.session.channel.end();
            }
        }
    }

    /// Whether nobody sits here.
    pub(in crate::upstream) fn is_empty(&self) -> bool {
        !self.seats().values().any(|seat| seat.is_taken())
    }
}

/// What a session is greeted with is answered twice at most, and its log's level once.
const HANDSHAKE_ANSWERS: u64 = 3;
