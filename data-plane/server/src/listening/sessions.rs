//! Who listens at this node: how many, and which legacy session's stream a subscription belongs to.
//!
//! One per node. A legacy client subscribes to resources in requests of their own, which may come before it listens. What
//! is kept of a session is a cache: a client that listens again brings its subscriptions with it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bailiwick_data_plane_core::{
    Caller,
    edge::{NotTaken, SessionKey},
    listening::URIS_MAX,
};
use tokio::sync::mpsc;

/// Streams at once at a node, as many as connections. An idle one costs some ten KiB, beside one at each server.
pub(crate) const STREAMS_MAX: usize = 10_000;
/// Streams at once of one person through one agent: a client needs one, and has a few windows.
pub(crate) const STREAMS_OF_ONE_MAX: usize = 32;
/// Sessions whose subscriptions are kept without a stream; beyond it they are forgotten.
const SESSIONS_MAX: usize = 4_096;
/// Subscriptions on their way to a stream.
const ON_THE_WAY_MAX: usize = 16;

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    streams: usize,
    of_one: HashMap<(String, String), usize>,
    sessions: HashMap<SessionKey, Session>,
}

#[derive(Debug, Default)]
struct Session {
    uris: BTreeSet<String>,
    /// The newest stream of the session.
    stream: Option<mpsc::Sender<(String, bool)>>,
}

/// One stream's place. Given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Arc<Listeners>,
    who: (String, String),
    session: Option<SessionKey>,
    /// What the session had subscribed to before it listened.
    pub(super) known: Vec<String>,
    /// What it subscribes to from now on: resource, and whether or no longer. Taken by the stream's task.
    pub(super) subscriptions: Option<mpsc::Receiver<(String, bool)>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.subscriptions.take());
        let mut all = self.all.lock();
        all.streams = all.streams.saturating_sub(1);
        if let Some(count) = all.of_one.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                all.of_one.remove(&self.who);
            }
        }
        // Another stream of the session may have taken over.
        let is_left = |session: &&mut Session| session.stream.as_ref().is_some_and(mpsc::Sender::is_closed);
        if let Some(session) = self.session.and_then(|key| all.sessions.get_mut(&key)).filter(is_left) {
            session.stream = None;
        }
    }
}

impl Listeners {
    /// A place for one more stream of a caller's; `None` when there are too many.
    pub(crate) fn place(self: &Arc<Self>, caller: &Caller, session: Option<SessionKey>) -> Option<Place> {
        let mut all = self.lock();
        let who = (caller.user.clone(), caller.agent.clone());
        let of_one = all.of_one.get(&who).copied().unwrap_or(0);
        if all.streams >= STREAMS_MAX || of_one >= STREAMS_OF_ONE_MAX {
            return None;
        }
        all.streams += 1;
        all.of_one.insert(who.clone(), of_one + 1);
        let (sender, subscriptions) = mpsc::channel(ON_THE_WAY_MAX);
        let known = match session {
            Some(key) => {
                let session = all.session(key);
                session.stream = Some(sender);
                session.uris.iter().cloned().collect()
            }
            None => Vec::new(),
        };
        drop(all);
        Some(Place { all: Arc::clone(self), who, session, known, subscriptions: Some(subscriptions) })
    }

    /// A session subscribes to a resource, or no longer.
    pub(crate) fn subscribe(&self, key: SessionKey, uri: &str, wished: bool) -> Result<(), NotTaken> {
        let mut all = self.lock();
        let session = all.session(key);
        if wished && session.uris.len() >= URIS_MAX && !session.uris.contains(uri) {
            return Err(NotTaken::TooMany);
        }
        if let Some(stream) = &session.stream {
            // A stream that is just ending takes nothing more; the next one finds it among what is known.
            match stream.try_send((uri.to_owned(), wished)) {
                Err(mpsc::error::TrySendError::Full(_)) => return Err(NotTaken::TooMany),
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        match wished {
            true => drop(session.uris.insert(uri.to_owned())),
            false => drop(session.uris.remove(uri)),
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn session(&mut self, key: SessionKey) -> &mut Session {
        if self.sessions.len() >= SESSIONS_MAX + self.streams {
            self.sessions.retain(|_, session| session.stream.is_some());
        }
        self.sessions.entry(key).or_default()
    }
}
