//! Streams of changes: one task for each client that listens.
//!
//! Called by `listener` for `subscriptions/listen` and for a legacy client's GET. The task moves bytes between the
//! client, the servers behind the virtual server, and the machines of the core that decide what is told (`listening`,
//! `listening::source`). It ends with the client, with the token, with the caller's authority, when what the virtual
//! server consists of changes, and at shutdown; a client that does not read is let go. Nothing here is needed again: a
//! client that comes back brings what it had seen (`Last-Event-ID`), to any node.
//! Deliberately absent: what changes mean and who may know of them (`data-plane/core`).

mod sessions;
mod sources;

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::{
    Caller, Config, Decision,
    admission::{SpoolLevel, node_gate},
    edge::Listen,
    forward::tasks::Seen,
    listening::{Hearer, Listener, Listening, Output},
};
use bailiwick_proto::Tier;
use bailiwick_runtime::{OnEnd, Shutdown};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;

#[cfg(test)]
pub(crate) use self::sessions::STREAMS_OF_ONE_MAX;
pub(crate) use self::sessions::{Listeners, Place};
use self::sources::Sources;
use crate::{
    calls::{Asked, Calls, News, unix_seconds},
    listener::answer::{self, Response},
    metrics::StreamKind,
    random,
};

/// Events that wait to be read by the client; what changes meanwhile waits in the core, where equal changes are one.
const EVENTS_MAX: usize = 16;
/// How often it is asked whether token and authority still stand; what is taken away counts at once all the same.
const TICK: Duration = Duration::from_secs(5);

const COMMENT: &[u8] = b":\n\n";

/// What a listener's task is made of.
pub(crate) struct Stream {
    pub(crate) calls: Arc<Calls>,
    /// What was asked, under the configuration that what the client sees was last found out under.
    pub(crate) asked: Asked,
    pub(crate) virtual_server: String,
    pub(crate) listen: Listen,
    /// Whether the token is still good.
    pub(crate) is_good: Box<dyn Fn(&Config) -> bool + Send + Sync>,
    pub(crate) place: Place,
    pub(crate) stop: Shutdown,
    /// Longest time the client may leave unread what waits for it.
    pub(crate) unread_wait_max: Duration,
}

impl Stream {
    /// The response, once older streams of the session are told to end; what is written to it is the work of a task of its
    /// own.
    pub(crate) async fn respond(mut self) -> Response {
        self.place.tell().await;
        let (writer, events) = mpsc::channel(EVENTS_MAX);
        let supervisor = self.calls.supervisor.clone();
        supervisor.spawn("listening", OnEnd::Finish, Box::pin(Box::new(self).run(writer)));
        answer::lasting(ReceiverStream::new(events))
    }

    async fn run(mut self: Box<Self>, writer: mpsc::Sender<Bytes>) {
        let Some(config) = self.calls.state.config() else { return };
        let kind = if self.listen.session.is_some() { StreamKind::Get } else { StreamKind::Listen };
        let _counted = self.calls.metrics.stream(kind);
        let mut sources = Sources::begin(&self, &config);
        self.asked.config = config;
        self.attend(&mut sources, writer).await;
        // Boxed, like what is seldom waited for above it: while nothing happens, no room is kept for either.
        Box::pin(sources.close()).await;
    }

    /// Until the stream is over.
    async fn attend(&mut self, sources: &mut Sources, writer: mpsc::Sender<Bytes>) {
        let Some(mut notes) = self.place.notes.take() else { return };
        let began = Instant::now();
        let now = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut changes = self.calls.state.changes();
        let mut listening = tokio::select! {
            _turn = self.calls.listeners.turn() => self.begin(sources.servers()),
            () = writer.closed() => return,
            () = self.stop.requested() => return,
        };
        if self.listen.session.is_some() && writer.send(self.primer(&listening)).await.is_err() {
            return;
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut unread_since, mut stopping, mut news) = (None, false, 0);
        let mut turn: Option<BoxFuture<'static, _>> = None;
        loop {
            let config = self.config();
            let hearer = self.hearer(&config);
            sources.carry_out(now(), &hearer, &mut listening);
            let Some(due) = listening.poll_timeout() else { return };
            let is_due = due <= now();
            let since = if is_due { Some(*unread_since.get_or_insert_with(Instant::now)) } else { None };
            unread_since = since;
            let wake = due.min(sources.poll_timeout().unwrap_or(u64::MAX));
            let asleep = Duration::from_millis(wake.saturating_sub(now())).min(TICK);
            // What is due waits for the client; else something is due later.
            let until = since.map_or_else(|| Instant::now() + asleep, |since| since + self.unread_wait_max);
            tokio::select! {
                () = writer.closed() => return,
                room = writer.reserve(), if is_due => {
                    let Ok(room) = room else { return };
                    unread_since = None;
                    match listening.poll_output(now()) {
                        Some(Output::Message(message)) => room.send(self.event(&listening, &message)),
                        Some(Output::News(id, seen, message)) => {
                            news += 1;
                            match Box::pin(self.tell(&config, (&id, &seen), news)).await {
                                true => room.send(self.event(&listening, &message)),
                                false => listening.handle_end(),
                            }
                        }
                        Some(Output::KeepAlive) => room.send(Bytes::from_static(COMMENT)),
                        Some(Output::End) => return,
                        None => {}
                    }
                }
                () = sources.hear(&now) => {}
                note = notes.next(), if self.listen.session.is_some() && !stopping => match note {
                    Some(note) => {
                        match note.wished {
                            true => wish_for(&mut listening, &note.uri),
                            false => listening.unsubscribe(&note.uri),
                        }
                        sources.wish(&hearer, listening.wishes());
                    }
                    // A newer stream of the session has its place: nothing may be told on both.
                    None => {
                        stopping = true;
                        listening.handle_end();
                    }
                },
                _ = changes.changed() => self.judge(sources, &mut listening, &mut turn),
                _ = tick.tick() => self.judge(sources, &mut listening, &mut turn),
                _turn = ours(&mut turn) => {
                    turn = None;
                    let config = self.config();
                    listening.handle_sight(now(), self.hearer(&config).sight());
                    self.asked.config = config;
                }
                () = tokio::time::sleep_until(until) => {
                    if is_due {
                        tracing::debug!(request_id = self.asked.request_id, "a listener does not read");
                        return;
                    }
                    sources.handle_timeout(now());
                }
                () = self.stop.requested(), if !stopping => {
                    stopping = true;
                    listening.handle_end();
                }
            }
        }
    }

    /// The configuration in force.
    fn config(&self) -> Arc<Config> {
        self.calls.state.config().unwrap_or_else(|| Arc::clone(&self.asked.config))
    }

    fn begin(&self, servers: Vec<String>) -> Listening {
        let Listen { listener, wishes, .. } = &self.listen;
        let sight = self.hearer(&self.asked.config).sight();
        let mut listening = Listening::new(0, listener.clone(), wishes.clone(), sight, servers, u64::MAX);
        for uri in &self.place.known {
            wish_for(&mut listening, uri);
        }
        if let Some(seen) = &self.listen.seen {
            listening.handle_resumed(0, seen);
        }
        listening
    }

    /// Ends what may not go on, and waits for a turn to look at what the client sees now: only when something changed that
    /// decides about it, because there may be thousands of listeners, and every token that is issued is a change.
    fn judge(&mut self, sources: &Sources, listening: &mut Listening, turn: &mut Option<BoxFuture<'static, Turn>>) {
        let (state, config) = (&self.calls.state, self.config());
        let hearer = self.hearer(&config);
        let is_current = node_gate(Tier::Retrieval, state.freshness(), SpoolLevel::Free).is_none();
        let stands = state.is_taken_away(self.caller()).is_none() && (self.is_good)(&config);
        if !is_current || !stands || !sources.are_of(&config, self.caller(), &self.virtual_server) {
            return listening.handle_end();
        }
        if hearer.sees_as_under(&self.asked.config) {
            self.asked.config = config;
        } else if turn.is_none() {
            *turn = Some(self.calls.listeners.turn());
        }
    }

    /// Whether the caller may be told now what has become of a task; that it is told, is on record then.
    async fn tell(&self, config: &Config, (id, seen): (&str, &Seen), number: u64) -> bool {
        let hearer = self.hearer(config);
        let Some(decision) = hearer.follows(id).filter(Decision::permits) else { return false };
        let (Some(task), Listener::Modern(request)) = (self.listen.tasks.get(id), &self.listen.listener) else {
            return false;
        };
        let (asked, virtual_server) = (&self.asked, self.virtual_server.as_str());
        let news = News { asked, virtual_server, id: request, number, decision: &decision, task: &task.id, seen };
        let told = self.calls.tell(news).await;
        if let Err(reason) = told {
            tracing::warn!(%reason, "a listener cannot be told what has become of a task");
        }
        told.is_ok()
    }

    fn caller(&self) -> &Caller {
        &self.asked.caller
    }

    fn hearer<'a>(&'a self, config: &'a Config) -> Hearer<'a> {
        let virtual_server = self.virtual_server.as_str();
        let (tasks, capabilities) = (&self.listen.tasks, self.listen.capabilities.as_deref());
        Hearer { config, caller: self.caller(), virtual_server, now_unix: unix_seconds(), tasks, capabilities }
    }

    /// A message, on a legacy stream with what the client has seen by then.
    fn event(&self, listening: &Listening, message: &[u8]) -> Bytes {
        let id = self.seen(listening).unwrap_or_default();
        Bytes::from([id.as_bytes(), b"event: message\ndata: ", message, b"\n\n"].concat())
    }

    /// An event without a message, so that a client that loses the stream before anything was told knows from where to
    /// go on.
    fn primer(&self, listening: &Listening) -> Bytes {
        match self.seen(listening).filter(|_| self.listen.is_primed) {
            Some(id) => Bytes::from([id.as_bytes(), b"data:\n\n"].concat()),
            None => Bytes::from_static(COMMENT),
        }
    }

    fn seen(&self, listening: &Listening) -> Option<String> {
        self.listen.session?;
        let (keys, nonce) = (self.calls.state.sealing_keys(), random()?);
        let sealed = listening.seen().seal(&keys, self.caller(), unix_seconds(), nonce).ok()?;
        Some(format!("id: {sealed}\n"))
    }
}

/// A turn to look at what a client sees.
type Turn = Result<OwnedSemaphorePermit, AcquireError>;

/// Waits for a turn that was asked for.
async fn ours(turn: &mut Option<BoxFuture<'static, Turn>>) -> Turn {
    match turn {
        Some(turn) => turn.await,
        None => std::future::pending().await,
    }
}

fn wish_for(listening: &mut Listening, uri: &str) {
    if let Err(fault) = listening.subscribe(uri) {
        tracing::debug!(%fault, "a resource is not listened to");
    }
}
