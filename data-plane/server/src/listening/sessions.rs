//! Who listens at this node: how many, and which legacy session's stream a subscription belongs to.
//!
//! One per node. A legacy client subscribes to resources in requests of their own, which may come before it listens,
//! and to another node. So all nodes are told, sealed with the keys they share, and the one where the session listens,
//! or is going to, takes it. What is kept is a cache of some minutes: a client that listens again brings its
//! subscriptions with it. In the same way all nodes are told of a session's new stream, for nothing may be told on two:
//! the older one ends, wherever it is. Which one is newer is what nodes hear later, in one order for all; so a client is
//! not answered before what was told of its stream has come back, and a stream it asks for afterwards is the newer one.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::{
    Caller,
    edge::{NotTaken, SessionKey, Subscribe},
    listening::URIS_MAX,
    sealed::note::{Newest, Note},
};
use bailiwick_proto::{Reason, subjects};
use bailiwick_runtime::EventStream;
use bytes::Bytes;
use futures::{FutureExt as _, channel::mpsc, future::BoxFuture};
use tokio::{
    sync::{
        AcquireError, OwnedSemaphorePermit, Semaphore,
        oneshot::{self, error::TryRecvError},
    },
    time::timeout,
};

use crate::{budget::Budget, calls::unix_seconds, config_state::ConfigState, random};

/// Streams at once at a node, as many as connections. An idle one costs some ten KiB, beside one at each server.
const STREAMS_MAX: usize = 10_000;
/// Streams at once of one person through one agent: a client needs one, and has a few windows.
pub(crate) const STREAMS_OF_ONE_MAX: usize = 32;
/// Notes kept for sessions that do not listen here (yet), some hundred bytes each; beyond it the oldest goes.
const NOTES_MAX: usize = 8_192;
/// Subscriptions that one node tells all others in a second, some hundred bytes each.
const TOLD_PER_SECOND: u64 = 1_000;
/// Listeners that look at what their clients see at the same time.
const LOOKING_MAX: usize = 1;
/// Subscriptions on their way to a stream: as many as it can have.
const ON_THE_WAY_MAX: usize = URIS_MAX;
/// Longest wait until what was told of a stream has come back, which takes milliseconds. Without an event stream clients
/// listen all the same.
const BACK_WAIT_MAX: Duration = Duration::from_secs(2);

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Listeners {
    known: Mutex<Known>,
    state: Arc<ConfigState>,
    stream: EventStream,
    told: Budget,
    /// One permit each for whoever looks at what its client sees.
    looking: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Known {
    streams: usize,
    of_one: HashMap<(String, String), usize>,
    /// Sessions that listen here: the newest stream of each.
    sessions: HashMap<SessionKey, Session>,
    /// Of those that do not: in the order of their coming.
    notes: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Session {
    caller: Arc<Caller>,
    stream: mpsc::Sender<Note>,
    /// Names the stream among those of all nodes.
    number: u64,
    /// Until what all nodes were told of it has come back: what comes then is newer.
    untold: Option<oneshot::Sender<()>>,
}

/// One stream's place. Given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Arc<Listeners>,
    caller: Arc<Caller>,
    session: Option<SessionKey>,
    number: u64,
    /// All nodes have been told of it, or it was replaced. Taken by who waits for that.
    told: Option<oneshot::Receiver<()>>,
    /// What the session had subscribed to before it listened.
    pub(super) known: BTreeSet<String>,
    /// What it subscribes to from now on: next to nothing, so over a channel that has no room before it needs some. Taken
    /// by the stream's task.
    pub(super) notes: Option<mpsc::Receiver<Note>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.notes.take());
        let mut all = self.all.lock();
        all.streams = all.streams.saturating_sub(1);
        if let Entry::Occupied(mut count) = all.of_one.entry(who(&self.caller)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        // Another stream of the session may have taken over.
        if let Some(key) = self.session
            && all.sessions.get(&key).is_some_and(|session| session.stream.is_closed())
        {
            all.sessions.remove(&key);
        }
    }
}

impl Place {
    /// All nodes are told of the stream, if it is a session's: older ones end. Returns when they have been, or cannot be.
    pub(super) async fn tell(&mut self) {
        let (Some(key), Some(mut told)) = (self.session, self.told.take()) else { return };
        // Its other end is dropped where the session has a newer stream here already, of which all are told instead.
        if told.try_recv() == Err(TryRecvError::Closed) {
            return;
        }
        let telling = async {
            let is_sent = self.all.tell_newest(&self.caller, &key, self.number).await;
            if is_sent {
                drop(told.await);
            }
            is_sent
        };
        if !timeout(BACK_WAIT_MAX, telling).await.unwrap_or(false) {
            tracing::warn!("other nodes are not told of a session's new stream; an older one there may go on");
            self.all.newest(&key, self.number);
        }
    }
}

impl Listeners {
    pub(crate) fn new(state: Arc<ConfigState>, stream: EventStream) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::default(),
            state,
            stream,
            told: Budget::new(TOLD_PER_SECOND),
            looking: Arc::new(Semaphore::new(LOOKING_MAX)),
        })
    }

    /// A place for one more stream of a caller's; `None` when there are too many, or no randomness.
    pub(crate) fn place(self: &Arc<Self>, caller: &Arc<Caller>, session: Option<SessionKey>) -> Option<Place> {
        let number = u64::from_be_bytes(random()?);
        let mut all = self.lock();
        let who = who(caller);
        let of_one = all.of_one.get(&who).copied().unwrap_or(0);
        if all.streams >= STREAMS_MAX || of_one >= STREAMS_OF_ONE_MAX {
            return None;
        }
        all.streams += 1;
        all.of_one.insert(who, of_one + 1);
        let (sender, notes) = mpsc::channel(ON_THE_WAY_MAX);
        let (untold, told) = oneshot::channel();
        let mut known = BTreeSet::new();
        if let Some(key) = session {
            let session = Session { caller: Arc::clone(caller), stream: sender, number, untold: Some(untold) };
            all.sessions.insert(key, session);
            for Note { uri, wished } in all.notes_of(&key).iter().filter_map(|note| self.open(caller, note)) {
                match wished {
                    true => known.insert(uri),
                    false => known.remove(&uri),
                };
            }
        }
        drop(all);
        let (all, caller) = (Arc::clone(self), Arc::clone(caller));
        Some(Place { all, caller, session, number, told: Some(told), known, notes: Some(notes) })
    }

    /// A turn to look at what a client sees. A change, or a crowd that arrives, makes all look at once, and each look asks
    /// policy about every tool, tens of milliseconds for somebody new: taking turns, and each after what has come in
    /// meanwhile, they leave room for calls and for revocations.
    pub(super) fn turn(&self) -> BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>> {
        let looking = Arc::clone(&self.looking);
        let turn = async {
            let turn = looking.acquire_owned().await;
            tokio::task::yield_now().await;
            turn
        };
        turn.boxed()
    }

    /// Tells all nodes that a session has a new stream here. Whether that could be sent.
    async fn tell_newest(&self, caller: &Caller, key: &SessionKey, number: u64) -> bool {
        let newest = Newest { stream: number };
        let nonce = random();
        let sealed =
            nonce.and_then(|nonce| newest.seal(&self.state.sealing_keys(), caller, key, unix_seconds(), nonce).ok());
        match sealed.filter(|_| self.told.take(1)) {
            Some(sealed) => self.stream.broadcast(subjects::SUBSCRIPTIONS, Bytes::from(sealed)).await.is_ok(),
            None => false,
        }
    }

    /// A stream of this number was told of.
    fn newest(&self, key: &SessionKey, number: u64) {
        let mut all = self.lock();
        let Some(session) = all.sessions.get_mut(key) else { return };
        if session.number == number {
            if let Some(untold) = session.untold.take() {
                // Who waited may have gone; then nothing is left to do here.
                let _gone = untold.send(());
            }
        } else if session.untold.is_none() {
            all.sessions.remove(key);
        }
    }

    /// A caller's session subscribes to a resource, or no longer: every node is told.
    pub(crate) async fn subscribe(&self, caller: &Caller, wish: &Subscribe) -> Result<(), NotTaken> {
        let unable = NotTaken::Unable(Reason::NodeOverloaded);
        let note = Note { uri: wish.uri.clone(), wished: wish.wished };
        let nonce = random().ok_or(unable)?;
        let sealed = note.seal(&self.state.sealing_keys(), caller, &wish.session, unix_seconds(), nonce);
        let sealed = Bytes::from(sealed.map_err(|_not_sealed| NotTaken::TooMany)?);
        if !self.told.take(1) {
            return Err(unable);
        }
        self.brought(&sealed);
        self.stream.broadcast(subjects::SUBSCRIPTIONS, sealed).await.map_err(|error| {
            tracing::warn!(%error, "a subscription cannot be brought to other nodes");
            unable
        })
    }

    /// Takes what other nodes were told, for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        self.stream.follow(subjects::SUBSCRIPTIONS, |told| self.brought(told)).await;
    }

    fn brought(&self, note: &Bytes) {
        let Some(text) = std::str::from_utf8(note).ok() else { return };
        let Some(key) = Note::session_of(text) else { return };
        if Newest::is_one(text) {
            let Some(caller) = self.lock().sessions.get(&key).map(|session| Arc::clone(&session.caller)) else {
                return;
            };
            if let Ok(newest) = Newest::open(&self.state.sealing_keys(), &caller, text, unix_seconds()) {
                self.newest(&key, newest.stream);
            }
            return;
        }
        let mut all = self.lock();
        match all.sessions.get_mut(&key) {
            Some(session) => {
                let opened = self.open(&session.caller, note);
                // A stream that takes no more has all it can have, or is ending.
                if opened.is_some_and(|opened| session.stream.try_send(opened).is_err()) {
                    tracing::debug!("a stream does not take a subscription");
                }
            }
            None => all.keep(note.clone()),
        }
    }

    fn open(&self, caller: &Caller, note: &Bytes) -> Option<Note> {
        let text = std::str::from_utf8(note).ok()?;
        Note::open(&self.state.sealing_keys(), caller, text, unix_seconds()).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose streams are counted together.
fn who(caller: &Caller) -> (String, String) {
    (caller.user.clone(), caller.agent.clone())
}

impl Known {
    /// A node hears what it told itself, so each note comes twice.
    fn keep(&mut self, note: Bytes) {
        if self.notes.len() >= NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    fn notes_of(&mut self, key: &SessionKey) -> Vec<Bytes> {
        let is_of = |note: &Bytes| std::str::from_utf8(note).ok().and_then(Note::session_of).as_ref() == Some(key);
        let mut seen = HashSet::new();
        let (of_it, others) = mem::take(&mut self.notes).into_iter().partition::<Vec<_>, _>(is_of);
        self.notes = others.into();
        of_it.into_iter().filter(|note| seen.insert(note.clone())).collect()
    }
}

#[cfg(test)]
mod tests;
