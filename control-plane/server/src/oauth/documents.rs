//! Clients that a document at their `client_id` describes (CIMD): the documents, fetched when they are needed and kept
//! for a while.
//!
//! Called by `clients`. A document is good for ten minutes, or for as long as its host says, within bounds.
//! Invariants: nothing is fetched that no active agent's manifest names ([`Named`]), whatever strangers ask; one fetch
//! at a time per document and one per [`FETCH_EVERY`], [`AT_ONCE_MAX`] in all, and whoever asked and went away stops
//! none; a document that is no longer good is not used, also where it cannot be fetched again; a failure is not kept
//! for longer than that second. Deliberately absent: what a document must say (`description`), and memory across
//! restarts.

mod description;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_control_plane_core::{State, client, resource::ClientSpec};
use bailiwick_proto::address::Network;
use bailiwick_runtime::{OnEnd, Supervisor};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};

pub(crate) use self::description::DocumentFault;
use self::description::{Description, WAIT_MAX};
use crate::providers::Source;

/// How long a document is good whose host does not say.
const FRESH_USUAL: Duration = Duration::from_secs(10 * 60);
/// Shortest: a host that says less would be asked at every step of a sign-in.
const FRESH_MIN: Duration = Duration::from_secs(60);
/// Longest: so long a redirect URI or key counts that was taken out of the document.
const FRESH_MAX: Duration = Duration::from_secs(60 * 60);
/// Shortest time between the beginnings of two fetches of one document.
const FETCH_EVERY: Duration = Duration::from_secs(1);
/// Most fetches at a time.
const AT_ONCE_MAX: usize = 16;
/// Most documents that are kept: those of some more programs than people of one installation use.
const DOCUMENTS_MAX: usize = 512;

/// See the file's header. One per node, shared by reference.
#[derive(Debug)]
pub(crate) struct Documents {
    source: Arc<dyn Source>,
    /// Where documents may be although that is not public.
    networks: Arc<[Network]>,
    supervisor: Supervisor,
    places: Arc<Semaphore>,
    /// By URL; at most [`DOCUMENTS_MAX`].
    known: Mutex<BTreeMap<String, Arc<Known>>>,
}

/// The URL of a document that an agent takes its word of: only such are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named(String);

#[derive(Debug)]
struct Known {
    url: String,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    good: Option<Good>,
    /// The last fetch that has begun.
    begun_at: Option<Instant>,
    /// Closed once that has ended, however it did.
    flight: Option<watch::Receiver<()>>,
    /// Why the last one gave nothing.
    fault: DocumentFault,
    used_at: Instant,
}

#[derive(Debug)]
struct Good {
    spec: ClientSpec,
    fresh_until: Instant,
}

/// What to do for a caller.
enum Step {
    Answer(Result<Box<ClientSpec>, DocumentFault>),
    Wait(watch::Receiver<()>),
    Fetch(OwnedSemaphorePermit, watch::Sender<()>, watch::Receiver<()>),
}

impl Named {
    /// That of a `client_id`, if some agent that may act takes clients that are described there.
    pub(crate) fn of(state: &State, client: &str) -> Option<Self> {
        let is_named = || {
            let mut acting = state.agents.values().map(|agent| &agent.spec).filter(|spec| spec.acts());
            acting.any(|spec| spec.clients.described_at.contains(client))
        };
        (client::is_described(client) && is_named()).then(|| Self(client.to_owned()))
    }

    /// Whose word it is: `https://` and the host.
    pub(crate) fn origin(&self) -> String {
        format!("https://{}", description::authority(&self.0).unwrap_or_default())
    }
}

impl Documents {
    pub(crate) fn new(source: Arc<dyn Source>, networks: Vec<Network>, supervisor: Supervisor) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE_MAX));
        Self { source, networks: networks.into(), supervisor, places, known: Mutex::default() }
    }

    /// What the document says of its client, as if an administrator had written it.
    ///
    /// # Errors
    /// There is none that counts.
    pub(crate) async fn read(&self, named: &Named) -> Result<ClientSpec, DocumentFault> {
        let known = self.known(&named.0);
        let mut ended = match known.step(&self.places, Instant::now()) {
            Step::Answer(answer) => return answer.map(|spec| *spec),
            Step::Wait(ended) => ended,
            Step::Fetch(place, end, ended) => {
                self.fetch(&known, place, end);
                ended
            }
        };
        // Nothing is sent: it is closed at the end.
        while ended.changed().await.is_ok() {}
        known.held().settled(Instant::now())
    }

    fn known(&self, url: &str) -> Arc<Known> {
        let mut all = lock(&self.known);
        if let Some(known) = all.get(url) {
            return Arc::clone(known);
        }
        if all.len() >= DOCUMENTS_MAX {
            let longest = all.values().min_by_key(|known| known.held().used_at).map(|known| known.url.clone());
            if let Some(url) = longest {
                all.remove(&url);
            }
        }
        let held =
            Held { good: None, begun_at: None, flight: None, fault: DocumentFault::Stopped, used_at: Instant::now() };
        let known = Arc::new(Known { url: url.to_owned(), held: Mutex::new(held) });
        all.insert(url.to_owned(), Arc::clone(&known));
        known
    }

    /// As a task of its own: who asked may go away, and the others still want it.
    fn fetch(&self, known: &Arc<Known>, place: OwnedSemaphorePermit, end: watch::Sender<()>) {
        let (known, source) = (Arc::clone(known), Arc::clone(&self.source));
        let (networks, stop) = (Arc::clone(&self.networks), self.supervisor.shutdown().clone());
        let begun_at = Instant::now();
        self.supervisor.spawn("client document", OnEnd::Finish, async move {
            let fetching = timeout(WAIT_MAX, description::look(&*source, &known.url, &networks));
            if let Some(fetched) = stop.or_stop(Box::pin(fetching)).await {
                known.settle(fetched.unwrap_or(Err(DocumentFault::Late)), begun_at);
            }
            drop(place);
            drop(end);
        });
    }
}

impl Known {
    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    fn step(&self, places: &Arc<Semaphore>, now: Instant) -> Step {
        let mut held = self.held();
        held.used_at = now;
        if let Some(good) = held.good.as_ref().filter(|good| now < good.fresh_until) {
            return Step::Answer(Ok(Box::new(good.spec.clone())));
        }
        if let Some(flight) = held.flight.as_ref().filter(|flight| flight.has_changed().is_ok()) {
            return Step::Wait(flight.clone());
        }
        if held.begun_at.is_some_and(|begun_at| now < begun_at + FETCH_EVERY) {
            return Step::Answer(Err(held.fault));
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return Step::Answer(Err(DocumentFault::Busy));
        };
        let (end, ended) = watch::channel(());
        held.begun_at = Some(now);
        held.flight = Some(ended.clone());
        held.fault = DocumentFault::Stopped;
        Step::Fetch(place, end, ended)
    }

    fn settle(&self, fetched: Result<Description, DocumentFault>, begun_at: Instant) {
        let (document, mut held) = (self.url.as_str(), self.held());
        held.good = match fetched {
            Ok(Description { spec, max_age }) => {
                tracing::debug!(document, "a client's description is fetched");
                let fresh = max_age.unwrap_or(FRESH_USUAL).clamp(FRESH_MIN, FRESH_MAX);
                Some(Good { spec, fresh_until: begun_at + fresh })
            }
            Err(fault) => {
                tracing::warn!(document, ?fault, "a client's description cannot be read");
                held.fault = fault;
                None
            }
        };
    }
}

impl Held {
    fn settled(&self, now: Instant) -> Result<ClientSpec, DocumentFault> {
        let good = self.good.as_ref().filter(|good| now < good.fresh_until);
        good.map(|good| good.spec.clone()).ok_or(self.fault)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
