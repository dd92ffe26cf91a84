//! The stream that a legacy server has for a session, beside those of its answers: one for all who need it.
//!
//! Called by `upstream::peer`, for whoever listens to changes and for calls whose client can be asked. A server gives a
//! session one such stream, so one task reads it while somebody listens or such a call is under way, and a while longer.
//! Changes go to the listener. What the server asks goes to the call that is under way, if there is one only, for then
//! it can hardly be about anything else; otherwise nobody is there who could answer, and the server is told so. A server
//! that has no such streams is asked for one once a session.
//! Deliberately absent: what is done about a question (`relay` in the core), when a listener tries again
//! (`listening::source` there). Specification: MCP 2025-11-25 transports, "Listening for Messages from the Server".

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::{forward::ServerRequest, handshake, relay};
use bailiwick_proto::mcp::{Era, Incoming, Notification, Request, RequestId, method, read_incoming};
use bailiwick_runtime::{OnEnd, Supervisor};
use http::{HeaderValue, Method, StatusCode, header};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{Bounds, Heard, events::Events, post};
use crate::upstream::{
    answer_stream::{EVENT_STREAM, LAST_EVENT_ID},
    exchange::{self},
    route::Route,
    sse::Mark,
};

/// Streams kept at once for calls, each with a connection. Further calls go without.
const STREAMS_MAX: usize = 4_096;
/// How long a call waits for the stream before it is sent. A server that has none says so at once.
const OPENING_WAIT_MAX: Duration = Duration::from_millis(500);
/// How long a stream is kept after the last call that needed it: an agent's next one is near.
const LINGER: Duration = Duration::from_secs(20);
/// Pauses before a stream that broke is opened again, growing from the one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Changes on their way to the listener, which merges equal ones. One that does not keep up listens anew.
const CHANGES_MAX: usize = 256;
/// Longest wait for a server to take the answer to what it asked.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// What the streams of all sessions share.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Room {
    supervisor: Supervisor,
    places: Arc<Semaphore>,
}

impl Room {
    pub(in crate::upstream) fn new(supervisor: Supervisor) -> Self {
        Self { supervisor, places: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

/// A legacy server, and a session with it.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) route: Arc<Route>,
    pub(super) era: Era,
    /// Of a server that wants one.
    pub(super) session: Option<HeaderValue>,
    pub(super) bounds: Bounds,
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct SessionStream {
    at: At,
    room: Room,
    users: Mutex<Users>,
    /// Others need it than before.
    changed: Notify,
    state: watch::Sender<State>,
}

/// Who needs the stream.
#[derive(Debug, Default)]
struct Users {
    /// A task keeps it.
    is_kept: bool,
    /// The server once took too long to open it: no call waits for that again.
    is_late: bool,
    /// Calls under way whose client can be asked, by their ids.
    calls: BTreeMap<RequestId, mpsc::Sender<Heard>>,
    listener: Option<mpsc::Sender<Notification>>,
    lingers_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    OpeningSince(Instant),
    Open,
    Shut(Shut),
}

/// Why there is no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// The server has none.
    Refused,
    /// The server does not know the session any more.
    Gone,
    /// Anything else: it may come.
    Broken,
}

/// Whether the stream is needed.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Now,
    /// Not now, but kept so long.
    Until(Instant),
    No,
}

/// A call's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Attending {
    stream: Arc<SessionStream>,
    id: RequestId,
}

impl Drop for Attending {
    fn drop(&mut self) {
        let mut users = self.stream.users();
        users.calls.remove(&self.id);
        if users.calls.is_empty() {
            users.lingers_until = Some(Instant::now() + LINGER);
        }
        drop(users);
        self.stream.changed.notify_one();
    }
}

impl Users {
    /// Whoever left is forgotten: what waits for that would see it again and again.
    fn need(&mut self, now: Instant, is_stopping: bool) -> Need {
        self.listener.take_if(|listener| listener.is_closed());
        if !self.calls.is_empty() || self.listener.is_some() {
            return Need::Now;
        }
        self.lingers_until.filter(|until| *until > now && !is_stopping).map_or(Need::No, Need::Until)
    }
}

impl SessionStream {
    pub(super) fn new(at: At, room: Room) -> Arc<Self> {
        let (users, state) = (Mutex::default(), watch::Sender::new(State::Idle));
        Arc::new(Self { at, room, users, changed: Notify::new(), state })
    }

    /// A call begins that can be asked; the stream is waited for, but not for long.
    pub(super) async fn attend(self: &Arc<Self>, id: &RequestId, heard: &mpsc::Sender<Heard>) -> Attending {
        {
            let mut users = self.users();
            users.calls.insert(id.clone(), heard.clone());
            let is_wanted = !users.is_kept && !users.is_late && *self.state.borrow() != State::Shut(Shut::Refused);
            if is_wanted && let Ok(place) = Arc::clone(&self.room.places).try_acquire_owned() {
                self.keep(&mut users, Some(place));
            }
        }
        let attending = Attending { stream: Arc::clone(self), id: id.clone() };
        let mut state = self.state.subscribe();
        let before = *state.borrow();
        if let State::OpeningSince(since) = before {
            let opened = state.wait_for(|state| !matches!(state, State::OpeningSince(_)));
            drop(timeout_at(since + OPENING_WAIT_MAX, opened).await);
        }
        attending
    }

    /// What changes, from now on, once the stream is open. It ends when something may have been missed.
    pub(super) async fn listen(self: &Arc<Self>) -> Result<mpsc::Receiver<Notification>, Shut> {
        let (sender, changes) = mpsc::channel(CHANGES_MAX);
        {
            let mut users = self.users();
            users.listener = Some(sender);
            if !users.is_kept && *self.state.borrow() != State::Shut(Shut::Refused) {
                self.keep(&mut users, None);
            }
        }
        self.changed.notify_one();
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| matches!(state, State::Open | State::Shut(_))).await;
        match settled.map(|state| *state) {
            Ok(State::Open) => Ok(changes),
            Ok(State::Shut(shut)) => Err(shut),
            // INVARIANT: the other end lives as long as `self`, and only these two were waited for.
            Ok(State::Idle | State::OpeningSince(_)) | Err(_) => Err(Shut::Broken),
        }
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, users: &mut Users, place: Option<OwnedSemaphorePermit>) {
        users.is_kept = true;
        self.state.send_replace(State::OpeningSince(Instant::now()));
        let stream = Arc::clone(self);
        self.room.supervisor.spawn("session-stream", OnEnd::Finish, async move {
            Box::pin(stream.run()).await;
            drop(place);
        });
    }

    /// Until nobody needs the stream, or there is none.
    async fn run(&self) {
        let (mut mark, mut pause) = (Mark::default(), PAUSE_MIN);
        loop {
            let opened = Instant::now();
            let shut = match self.open(&mut mark).await {
                Ok(mut events) => {
                    self.state.send_replace(State::Open);
                    if !self.follow(&mut events, &mut mark).await {
                        return;
                    }
                    if opened.elapsed() > pause {
                        pause = PAUSE_MIN;
                    }
                    Shut::Broken
                }
                Err(shut) => shut,
            };
            {
                let mut users = self.users();
                // Whoever listens hears so that something may be missed, and tries again.
                users.listener = None;
                users.is_kept = shut == Shut::Broken && !users.calls.is_empty();
                self.state.send_replace(State::Shut(shut));
                if !users.is_kept {
                    return;
                }
            }
            sleep(mark.retry.unwrap_or(pause).clamp(pause, PAUSE_MAX)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            if matches!(self.need(), Need::No) {
                return;
            }
            self.state.send_replace(State::OpeningSince(Instant::now()));
        }
    }

    /// Hands on what comes. Whether the stream broke; otherwise nobody needs it.
    async fn follow(&self, events: &mut Events, mark: &mut Mark) -> bool {
        let stop = self.room.supervisor.shutdown();
        let mut is_stopping = stop.is_requested();
        loop {
            let until = match self.need() {
                Need::Now => None,
                Need::Until(until) => Some(until),
                Need::No => return false,
            };
            let listener = self.users().listener.clone();
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return true };
                    events.note(mark);
                    self.take(&event).await;
                }
                () = self.changed.notified() => {}
                () = left(listener) => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                () = stop.requested(), if !is_stopping => is_stopping = true,
            }
        }
    }

    /// What is not needed is not kept from then on.
    fn need(&self) -> Need {
        let mut users = self.users();
        let need = users.need(Instant::now(), self.room.supervisor.shutdown().is_requested());
        if matches!(need, Need::No) {
            users.is_kept = false;
            self.state.send_replace(State::Idle);
        }
        need
    }

    async fn take(&self, event: &[u8]) {
        // No request was made here, so no answer belongs here; what is no message says nothing.
        match read_incoming(event, &RequestId::from(0)) {
            Ok(Incoming::Notification(change)) => {
                let mut users = self.users();
                if users.listener.as_ref().is_some_and(|listener| listener.try_send(change).is_err()) {
                    users.listener = None;
                }
            }
            Ok(Incoming::Request(request)) => self.asked(request).await,
            Ok(Incoming::Response(_)) | Err(_) => {}
        }
    }

    /// One question at a time: a server that asks without end waits for its answers.
    async fn asked(&self, request: Request) {
        let call = {
            let users = self.users();
            let mut calls = users.calls.values();
            calls.next().filter(|_| users.calls.len() == 1 && request.method != method::PING).cloned()
        };
        let body = relay::unheard(&request);
        let At { route, era, session, .. } = &self.at;
        let heard = Heard { era: *era, session: session.clone(), message: Incoming::Request(request) };
        if call.is_some_and(|call| call.try_send(heard).is_ok()) {
            return;
        }
        let ServerRequest { headers, .. } = handshake::initialized_notification(*era);
        let Ok(post) = post(None, ServerRequest { headers, body }, session.as_ref()) else { return };
        if let Err(fault) = exchange::notify(route, post, ANSWER_WAIT_MAX).await {
            tracing::debug!(url = route.url, %fault, "a server did not take an answer");
        }
    }

    async fn open(&self, mark: &mut Mark) -> Result<Events, Shut> {
        let At { route, era, session, bounds } = &self.at;
        let request = handshake::initialized_notification(*era);
        let post = post(None, request, session.as_ref()).map_err(|_fault| Shut::Refused)?;
        let mut headers = post.headers;
        headers.insert(header::ACCEPT, EVENT_STREAM);
        let resumed = mark.last_id.take();
        headers.extend(resumed.clone().map(|last| (LAST_EVENT_ID, last)));
        let sent = timeout(bounds.timeout, Box::pin(route.fetch(Method::GET, headers))).await;
        self.users().is_late = sent.is_err();
        let Ok(Ok(response)) = sent else {
            mark.last_id = resumed;
            return Err(Shut::Broken);
        };
        let status = response.status();
        match Events::of(response, bounds.bytes_max) {
            Some(events) => {
                mark.last_id = resumed;
                Ok(events)
            }
            None if status == StatusCode::NOT_FOUND && session.is_some() => Err(Shut::Gone),
            // It may be only the event that the server does not know any more.
            None if resumed.is_some() || may_come(status) => Err(Shut::Broken),
            None => {
                tracing::debug!(url = route.url, %status, "a server has no stream for a session");
                Err(Shut::Refused)
            }
        }
    }
}

/// Whether a stream may come later, by the answer to whoever asked for it.
pub(super) fn may_come(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 408 | 409 | 429)
}

async fn left(listener: Option<mpsc::Sender<Notification>>) {
    match listener {
        Some(listener) => listener.closed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_left_is_waited_for_no_longer_while_the_stream_is_kept() {
        let now = Instant::now();
        let (listener, changes) = mpsc::channel(1);
        let (call, _heard) = mpsc::channel(1);
        let mut users = Users { listener: Some(listener), lingers_until: Some(now + LINGER), ..Users::default() };
        assert_eq!(users.need(now, false), Need::Now);
        drop(changes);
        assert_eq!(users.need(now, false), Need::Until(now + LINGER));
        assert!(users.listener.is_none());
        users.listener = Some(mpsc::channel(1).0);
        users.calls.insert(RequestId::from(1), call);
        assert_eq!(users.need(now, false), Need::Now);
        assert!(users.listener.is_none());
        users.calls.clear();
        for (now, is_stopping) in [(now, true), (now + LINGER, false)] {
            assert_eq!(users.need(now, is_stopping), Need::No);
        }
    }
}
