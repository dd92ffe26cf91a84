//! The keys of companies' identity providers, and where people sign in there: fetched when they are needed, kept for a
//! while.
//!
//! Called by whoever verifies an assertion or signs somebody in, with the provider's manifest as it stands now; a
//! provider that is not active is the caller's to refuse. Both come with one fetch. A set of keys is good for ten
//! minutes, or less if the provider says so. An unknown key id has it fetched before that, as providers publish a new
//! key shortly before they sign with it.
//!
//! Invariants: one fetch at a time per provider and one per [`FETCH_EVERY`], whatever strangers ask, and whoever asked
//! and went away stops none; a key that a later set does not show any more is not used any more; a set that cannot be
//! fetched again is used for an hour and no longer; of a set that shows a private key nothing is used; another manifest
//! begins anew. Deliberately absent: what is fetched from where (`source`, `metadata`), what a key verifies
//! (`bailiwick_token`), and memory across restarts.

mod metadata;
mod source;
#[cfg(test)]
mod tests;
mod transmitter;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_control_plane_core::{identity_provider::PROVIDERS_MAX, resource::IdentityProviderSpec};
use bailiwick_runtime::{OnEnd, Supervisor};
use bailiwick_token::assertion::{AssertionKeys, KeySetError};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

pub(crate) use self::{
    metadata::Endpoints,
    source::{ProviderUnavailable, Source, algorithms},
    transmitter::StreamEndpoints,
};
use crate::outbound::{Fetched, Form, Limits};

/// Longest time for which a set of keys is good without another look.
const FRESH_MAX: Duration = Duration::from_secs(10 * 60);
/// Shortest time between the beginnings of two fetches from one provider, and the least for which a set is good.
const FETCH_EVERY: Duration = Duration::from_secs(30);
/// Since it was fetched: longest use of a set that cannot be fetched again.
const KEPT_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest time for all that a fetch of keys takes: metadata in one place or the other, then the keys.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(10);

/// See the file's header. One per node, shared by reference.
#[derive(Debug)]
pub(crate) struct Providers {
    source: Arc<dyn Source>,
    supervisor: Supervisor,
    /// By whose they are, and the provider's name; at most [`PROVIDERS_MAX`].
    known: Mutex<BTreeMap<(Of, String), Arc<Known>>>,
}

/// Whose keys: a provider's own, or those of the transmitter of its signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Provider,
    Transmitter,
}

/// One provider, as long as its manifest stays as it is.
#[derive(Debug)]
struct Known {
    of: Of,
    name: String,
    spec: IdentityProviderSpec,
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
    fault: ProviderUnavailable,
    used_at: Instant,
}

/// What the last fetch gave that gave something.
#[derive(Debug)]
struct Good {
    found: Arc<Found>,
    /// When it was asked for.
    fetched_at: Instant,
    fresh_until: Instant,
}

#[derive(Debug)]
struct Found {
    keys: Arc<AssertionKeys>,
    endpoints: Result<Endpoints, ProviderUnavailable>,
}

/// What to do for a caller.
enum Step {
    Answer(Result<Arc<Found>, ProviderUnavailable>),
    Wait(watch::Receiver<()>),
    Fetch(watch::Sender<()>, watch::Receiver<()>),
}

impl Providers {
    pub(crate) fn new(source: Arc<dyn Source>, supervisor: Supervisor) -> Self {
        Self { source, supervisor, known: Mutex::default() }
    }

    /// The keys of a provider, for an assertion that names the key `kid`. They may lack it: then the provider showed no
    /// such key within the last [`FETCH_EVERY`].
    ///
    /// # Errors
    /// There are none, and could be none fetched.
    pub(crate) async fn keys(
        &self,
        provider: &str,
        spec: &IdentityProviderSpec,
        kid: Option<&str>,
    ) -> Result<Arc<AssertionKeys>, ProviderUnavailable> {
        Ok(Arc::clone(&self.found(Of::Provider, provider, spec, kid).await?.keys))
    }

    /// The keys of the transmitter of a provider's signals, as [`Self::keys`].
    ///
    /// # Errors
    /// There are none, and could be none fetched.
    pub(crate) async fn transmitter_keys(
        &self,
        provider: &str,
        spec: &IdentityProviderSpec,
        kid: Option<&str>,
    ) -> Result<Arc<AssertionKeys>, ProviderUnavailable> {
        Ok(Arc::clone(&self.found(Of::Transmitter, provider, spec, kid).await?.keys))
    }

    /// Where people sign in.
    ///
    /// # Errors
    /// They cannot, or the provider does not say where.
    pub(crate) async fn endpoints(
        &self,
        provider: &str,
        spec: &IdentityProviderSpec,
    ) -> Result<Endpoints, ProviderUnavailable> {
        self.found(Of::Provider, provider, spec, None).await?.endpoints.clone()
    }

    /// Where the transmitter of a provider's signals is asked for streams; asked for each time.
    ///
    /// # Errors
    /// Its metadata cannot be fetched, or is not its own.
    pub(crate) async fn stream_endpoints(
        &self,
        spec: &IdentityProviderSpec,
    ) -> Result<StreamEndpoints, ProviderUnavailable> {
        transmitter::look(&*self.source, spec).await
    }

    /// Sends a form to a provider, once, and gives what it answers, of whatever status.
    ///
    /// # Errors
    /// There is no answer. The form may have come there all the same.
    pub(crate) async fn send(
        &self,
        spec: &IdentityProviderSpec,
        url: &str,
        form: &Form,
    ) -> Result<Fetched, ProviderUnavailable> {
        source::send(&*self.source, spec, url, form).await
    }

    /// Sends something to where a provider's manifest says, once, and gives what is answered, of whatever status.
    ///
    /// # Errors
    /// There is no answer within the limits. It may have come there all the same.
    pub(crate) async fn ask(
        &self,
        spec: &IdentityProviderSpec,
        url: &str,
        form: &Form,
        limits: Limits,
    ) -> Result<Fetched, ProviderUnavailable> {
        source::ask(&*self.source, spec, url, form, limits).await
    }

    async fn found(
        &self,
        of: Of,
        provider: &str,
        spec: &IdentityProviderSpec,
        kid: Option<&str>,
    ) -> Result<Arc<Found>, ProviderUnavailable> {
        let known = self.known(of, provider, spec);
        let mut ended = match known.step(kid, Instant::now()) {
            Step::Answer(answer) => return answer,
            Step::Wait(ended) => ended,
            Step::Fetch(end, ended) => {
                self.fetch(&known, end);
                ended
            }
        };
        // Nothing is sent: it is closed at the end.
        while ended.changed().await.is_ok() {}
        known.held().settled(Instant::now())
    }

    fn known(&self, of: Of, name: &str, spec: &IdentityProviderSpec) -> Arc<Known> {
        let (mut all, key) = (lock(&self.known), (of, name.to_owned()));
        if let Some(known) = all.get(&key).filter(|known| known.spec == *spec) {
            return Arc::clone(known);
        }
        all.remove(&key);
        if all.len() >= PROVIDERS_MAX {
            let longest =
                all.values().min_by_key(|known| known.held().used_at).map(|known| (known.of, known.name.clone()));
            if let Some(longest) = longest {
                all.remove(&longest);
            }
        }
        let held = Held {
            good: None,
            begun_at: None,
            flight: None,
            fault: ProviderUnavailable::Stopped,
            used_at: Instant::now(),
        };
        let known = Arc::new(Known { of, name: name.to_owned(), spec: spec.clone(), held: Mutex::new(held) });
        all.insert(key, Arc::clone(&known));
        known
    }

    /// As a task of its own: who asked may go away, and the others still want it.
    fn fetch(&self, known: &Arc<Known>, end: watch::Sender<()>) {
        let (known, source) = (Arc::clone(known), Arc::clone(&self.source));
        let stop = self.supervisor.shutdown().clone();
        let begun_at = Instant::now();
        self.supervisor.spawn("provider keys", OnEnd::Finish, async move {
            let looking = async {
                match known.of {
                    Of::Provider => source::look(&*source, &known.spec).await,
                    Of::Transmitter => source::look_at_transmitter(&*source, &known.spec).await,
                }
            };
            let fetching = timeout(FETCH_WAIT_MAX, looking);
            if let Some(fetched) = stop.or_stop(Box::pin(fetching)).await {
                known.settle(fetched.unwrap_or(Err(ProviderUnavailable::Late)), begun_at);
            }
            drop(end);
        });
    }
}

impl Known {
    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    fn step(&self, kid: Option<&str>, now: Instant) -> Step {
        let mut held = self.held();
        held.used_at = now;
        if let Some(good) = held.good.as_ref().filter(|good| now < good.fresh_until)
            && kid.is_none_or(|kid| good.found.keys.has_kid(kid))
        {
            return Step::Answer(Ok(Arc::clone(&good.found)));
        }
        if let Some(flight) = held.flight.as_ref().filter(|flight| flight.has_changed().is_ok()) {
            return Step::Wait(flight.clone());
        }
        if held.begun_at.is_some_and(|begun_at| now < begun_at + FETCH_EVERY) {
            return Step::Answer(held.settled(now));
        }
        let (end, ended) = watch::channel(());
        held.begun_at = Some(now);
        held.flight = Some(ended.clone());
        Step::Fetch(end, ended)
    }

    fn settle(&self, fetched: Result<source::Look, ProviderUnavailable>, begun_at: Instant) {
        let (provider, mut held) = (self.name.as_str(), self.held());
        match fetched {
            Ok(source::Look { keys, endpoints, max_age }) => {
                tracing::debug!(provider, skipped = keys.skipped(), "an identity provider's keys are fetched");
                let fresh_until = begun_at + max_age.unwrap_or(FRESH_MAX).clamp(FETCH_EVERY, FRESH_MAX);
                let found = Arc::new(Found { keys: Arc::new(keys), endpoints });
                held.good = Some(Good { found, fetched_at: begun_at, fresh_until });
            }
            Err(fault) => {
                let reason = fault.word();
                tracing::warn!(provider, reason, %fault, "an identity provider's keys cannot be fetched");
                if fault == ProviderUnavailable::KeySet(KeySetError::Private) {
                    // Anybody can sign with it.
                    held.good = None;
                }
                held.fault = fault;
            }
        }
    }
}

impl Held {
    fn settled(&self, now: Instant) -> Result<Arc<Found>, ProviderUnavailable> {
        let good = self.good.as_ref().filter(|good| now < good.fetched_at + KEPT_MAX);
        good.map(|good| Arc::clone(&good.found)).ok_or_else(|| self.fault.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
