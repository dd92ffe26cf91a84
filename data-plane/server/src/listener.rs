//! The MCP listener: HTTP/1.1, HTTP/2 and HTTP/3 at `/mcp/{virtual-server}`.
//!
//! Started by `role`. Connections are accepted as long as there are places (`accept`, `places`), and each is served in
//! a task of its own (`connection`, `quic`); a request comes in by `visit`, past `guard`, and POSTs go to `endpoint`.
//! Shutdown has three stages: while the node drains, connections are accepted and every answer tells its client to
//! come back elsewhere; then no more are accepted, busy ones finish their requests and idle ones close a moment later,
//! so that what was just sent on one is answered; at the very end whoever still has not taken its answer is cut.
//! GET is for legacy clients with a session, who listen to changes (`listening`); DELETE is 405: no session is stored
//! here. Deliberately absent: what a message means (`data-plane/core`). Specification: MCP 2026-07-28 and
//! 2025-11-25 Streamable HTTP; RFC 9728.

mod accept;
pub(crate) mod answer;
mod body;
mod connection;
mod cors;
mod decisions;
mod delivery;
mod endpoint;
mod event_stream;
mod guard;
mod lasting;
mod metadata;
mod patience;
mod places;
mod proxy_protocol;
mod quic;
mod room;
mod terms;
mod visit;

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bailiwick_data_plane_core::Caller;
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use tokio::{
    net::TcpListener,
    sync::{OnceCell, Semaphore},
};

pub(crate) use self::{
    body::BODY_ROOM_BYTES, decisions::Shares, endpoint::ATTRIBUTED_DENIALS_PER_SECOND, guard::Guard, places::Places,
    room::Room, terms::Terms,
};
use self::{connection::Serving, places::Origin, room::CallerKey};
use crate::{
    auth::{Authenticator, proofs::Proofs},
    budget::Budget,
    calls::Calls,
    config_state::ConfigState,
    metrics::Metrics,
    telemetry::Telemetry,
};

/// Longest wait for a request's head.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(15);
/// Bytes of a request's head, of what follows its body in the same form, and of what an HTTP/1 connection reads ahead: a
/// token, its proofs, and what is repeated of a call's arguments fit many times.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// Bytes of an answer that the system keeps for one client that has not taken them, about: what half a second of a good
/// connection takes.
pub(crate) const UNTAKEN_BYTES_MAX: u32 = 256 * 1024;
/// Bytes of large answers held at once for clients that have not taken them.
pub(crate) const ANSWER_ROOM_BYTES: usize = 512 * 1024 * 1024;
/// Longest wait of a request that comes before the node can answer: it starts within a second.
const START_WAIT_MAX: Duration = Duration::from_secs(3);
const START_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest wait, at the very end, for clients to take the answers they are owed.
const LAST_ANSWERS_WAIT_MAX: Duration = Duration::from_secs(2);
/// A request may be on its way on a connection that has been idle for less, once no more are accepted.
const IDLE_MIN: Duration = Duration::from_millis(500);
/// How often idle connections are looked at then.
const SEE_OFF_EVERY: Duration = Duration::from_millis(20);
/// Longest wait until no connection can bring a request any more.
const SEE_OFF_MAX: Duration = Duration::from_secs(5);

/// What requests are answered from; shared by reference.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) state: Arc<ConfigState>,
    /// Set once this run is registered and its chain is open; until then nothing is served.
    pub(crate) calls: Arc<OnceCell<Arc<Calls>>>,
    pub(crate) authenticator: Authenticator,
    pub(crate) proofs: Arc<Proofs>,
    pub(crate) guard: Guard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) supervisor: Supervisor,
    /// One permit per call under way.
    pub(crate) slots: Arc<Semaphore>,
    /// For requests' bodies.
    pub(crate) body_room: Arc<Room>,
    /// For large answers that their clients have not taken. Apart from the other, so that clients that take nothing
    /// keep nobody from asking.
    pub(crate) answer_room: Arc<Room>,
    /// What callers are told apart by.
    pub(crate) caller_keys: RandomState,
    /// Requested when calls under way have to be given up at shutdown.
    pub(crate) abort: Shutdown,
    /// Requested when streams of changes have to end, since no connection is accepted any more.
    pub(crate) stopping: Shutdown,
    /// Clients may show a certificate, which tokens can be bound to.
    pub(crate) client_certificates: bool,
    pub(crate) attributed_denials: Budget,
    /// What services have asked for of decisions.
    pub(crate) shares: Shares,
    /// Once all of the above was there.
    pub(crate) has_started: AtomicBool,
    /// Longest time a client may take nothing of what is ready for it.
    pub(crate) unread_wait_max: Duration,
}

/// What the stages of a shutdown are asked by.
#[derive(Clone, Debug)]
pub(crate) struct Stages {
    /// Clients are told to come back elsewhere.
    pub(crate) draining: Shutdown,
    /// Nothing is accepted any more.
    pub(crate) stop: Shutdown,
    /// This one says: nobody can bring a request any more.
    pub(crate) quiet: Shutdown,
    /// What is still there ends soon.
    pub(crate) late: Shutdown,
}

impl Gateway {
    fn has_started(&self) -> bool {
        self.has_started.load(Ordering::Relaxed)
    }

    /// Waits a moment for what requests are answered from, so that a node that has just started turns nobody away.
    async fn start(&self) {
        let began = Instant::now();
        while began.elapsed() < START_WAIT_MAX && !self.stopping.is_requested() {
            if self.calls.initialized() && self.state.config().is_some() && self.state.age().is_some() {
                self.has_started.store(true, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep(START_LOOK_EVERY).await;
        }
    }

    /// Stands for a caller.
    fn caller_key(&self, caller: &Caller) -> CallerKey {
        self.caller_keys.hash_one((&caller.user, &caller.agent)) | 1
    }

    /// Stands for whoever shows this caller's token there, and nothing yet that it is theirs.
    fn unproven_key(&self, client: IpAddr, caller: &Caller) -> CallerKey {
        self.caller_keys.hash_one((Origin::of(client), &caller.user, &caller.agent)) | 1
    }
}

/// Serves until the stages of shutdown are over and the connections have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    (places, terms): (Arc<Places>, Terms),
    gateway: Arc<Gateway>,
    stages: Stages,
) {
    let (supervisor, metrics) = (gateway.supervisor.clone(), Arc::clone(&gateway.metrics));
    if let Some(certificate) = terms.certificate.clone() {
        let following = terms::follow(certificate, Arc::clone(&metrics), stages.late.clone());
        supervisor.spawn("tls-certificate", OnEnd::Finish, following);
    }
    let socket = terms.quic.clone().zip(terms.udp.as_ref().and_then(|socket| socket.try_clone().ok()));
    let serving = Arc::new(Serving::new(gateway, Arc::clone(&places), terms));
    let accepting = accept::accept(listener, &places, &metrics, &stages.stop, |arrived| {
        // Boxed: a task keeps room for its work twice.
        supervisor.spawn("mcp-connection", OnEnd::Finish, Box::pin(Arc::clone(&serving).serve(arrived)));
    });
    let endpoint = socket.and_then(|(config, socket)| match quic::open(socket, config) {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            tracing::error!(%error, "HTTP/3 cannot be served");
            None
        }
    });
    if let Some(endpoint) = endpoint.clone() {
        let accepting = quic::accept(endpoint, Arc::clone(&serving), supervisor.clone(), stages.stop.clone());
        supervisor.spawn("mcp-quic", OnEnd::Finish, accepting);
    }
    let draining = async {
        stages.draining.requested().await;
        places.drain();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = accepting => {}
        () = draining => {}
    }
    places.drain();
    see_off(&places).await;
    stages.quiet.request();
    let overdue = async {
        stages.late.requested().await;
        tokio::time::sleep(LAST_ANSWERS_WAIT_MAX).await;
    };
    tokio::select! {
        () = places.empty() => {}
        () = overdue => {
            places.end_all();
            places.empty().await;
        }
    }
    if let Some(endpoint) = endpoint {
        quic::close(&endpoint).await;
    }
}

/// Until no connection can bring a request any more.
async fn see_off(places: &Places) {
    let began = Instant::now();
    while places.see_off(IDLE_MIN, Instant::now()) {
        if began.elapsed() >= SEE_OFF_MAX {
            tracing::warn!("some clients neither ask nor leave; they are cut");
            return;
        }
        tokio::time::sleep(SEE_OFF_EVERY).await;
    }
}
