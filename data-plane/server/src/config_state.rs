//! What this node knows of the configuration, and how old that knowledge is.
//!
//! Written by `config_client` (what is in force) and `lane` (what is taken away, and leases), read by `listener` and
//! `calls` on every request without waiting. Both streams meet in one catalogue under one lock, so whatever one of them
//! brought is in force before the next frame of either is taken. Age is that of the last lease that counts, on the
//! monotonic clock; a clock that is set cannot make an old configuration young. Deliberately absent: what entries and
//! denials mean (`data-plane/core`).

mod kept;
mod leases;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bailiwick_data_plane_core::{
    Applied, Caller, Catalogue, CatalogueError, Config,
    admission::{Freshness, taken_away},
    sealed::SealingKeys,
};
use bailiwick_ledger_core::canonical::INTEGER_MAX;
use bailiwick_proto::{Reason, v1};
use prost::Message as _;
use tokio::{sync::watch, time::Instant};

use self::{
    kept::Stated,
    leases::{Lease, Leases},
};
use crate::{
    auth::possession::BindingKeys,
    snapshot::Keeper,
    surroundings::{Host, Surroundings},
    upstream::Credentials,
};

/// Configuration, session keys and their age; one per node, shared by reference.
#[derive(Debug)]
pub(crate) struct ConfigState {
    catalogue: Mutex<Catalogue>,
    /// What the catalogue last put in force.
    config: ArcSwapOption<Config>,
    sealing_keys: ArcSwap<SealingKeys>,
    credentials: Arc<Credentials>,
    binding_keys: Arc<BindingKeys>,
    leases: Mutex<Leases>,
    surroundings: Arc<dyn Surroundings>,
    max_staleness: Duration,
    /// Keeps on disk what comes into force; absent where nothing is kept.
    keeper: OnceLock<Keeper>,
    /// Whether anything was taken away by the config stream that a restart might still forget.
    unsynced: AtomicBool,
    /// Of what was restored, until it counts.
    stated: Mutex<Option<Stated>>,
    /// Counts changes, for whoever has to act on them.
    changes: watch::Sender<u64>,
    /// The revision in force.
    revision: watch::Sender<u64>,
}

/// A revision that came into force.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) applied: Applied,
    /// Whether anything differs from before.
    pub(crate) changed: bool,
}

/// The lane may not grant: another one was opened since, or the configuration went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this lane's leases no longer count")]
pub(crate) struct LaneOutdated;

impl ConfigState {
    /// Nothing is known yet.
    pub(crate) fn new(max_staleness: Duration) -> Self {
        Self::within(Arc::new(Host), max_staleness)
    }

    /// As [`ConfigState::new`], with time and jitter from elsewhere.
    pub(crate) fn within(surroundings: Arc<dyn Surroundings>, max_staleness: Duration) -> Self {
        Self {
            surroundings,
            catalogue: Mutex::default(),
            config: ArcSwapOption::empty(),
            sealing_keys: ArcSwap::default(),
            credentials: Arc::default(),
            binding_keys: Arc::default(),
            leases: Mutex::default(),
            max_staleness,
            keeper: OnceLock::new(),
            unsynced: AtomicBool::default(),
            stated: Mutex::default(),
            changes: watch::Sender::new(0),
            revision: watch::Sender::new(0),
        }
    }

    /// The same for a node of this name: changes that are rolled out in stages count for some nodes only.
    pub(crate) fn of_node(self, name: &str) -> Self {
        Self { catalogue: Mutex::new(Catalogue::of_node(name)), ..self }
    }

    /// The clock that leases are measured on, and jitter.
    pub(crate) fn surroundings(&self) -> Arc<dyn Surroundings> {
        Arc::clone(&self.surroundings)
    }

    /// The configuration in force; `None` before the first.
    pub(crate) fn config(&self) -> Option<Arc<Config>> {
        self.config.load_full()
    }

    /// What servers are shown, or given.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials)
    }

    /// What opens the binding keys in tokens.
    pub(crate) fn binding_keys(&self) -> Arc<BindingKeys> {
        Arc::clone(&self.binding_keys)
    }

    /// Keys that seal legacy session ids.
    pub(crate) fn sealing_keys(&self) -> Arc<SealingKeys> {
        self.sealing_keys.load_full()
    }

    /// Wakes whenever the configuration has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a revision, or a later one, is in force within so long.
    pub(crate) async fn reaches(&self, revision: u64, wait_max: Duration) -> bool {
        let mut revisions = self.revision.subscribe();
        tokio::time::timeout(wait_max, revisions.wait_for(|held| *held >= revision)).await.is_ok()
    }

    /// Why a caller has no authority any more, if so.
    pub(crate) fn is_taken_away(&self, caller: &Caller) -> Option<Reason> {
        taken_away(self.config.load().as_ref()?, caller)
    }

    /// The same, once it has happened.
    pub(crate) async fn taken_away(&self, caller: &Caller) -> Reason {
        let mut changes = self.changes();
        loop {
            if let Some(reason) = self.is_taken_away(caller) {
                return reason;
            }
            // The sender lives as long as this state.
            drop(changes.changed().await);
        }
    }

    /// Time since the last lease that counts was asked for; `None` when there is none.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.leases().counting().map(|lease| self.since(lease.asked))
    }

    /// That in milliseconds for records, at most what a record can hold.
    pub(crate) fn age_ms(&self) -> u64 {
        let millis = self.age().and_then(|age| u64::try_from(age.as_millis()).ok());
        millis.unwrap_or(INTEGER_MAX).min(INTEGER_MAX)
    }

    /// Whether the configuration is current enough to decide with.
    pub(crate) fn freshness(&self) -> Freshness {
        let Some(lease) = self.leases().counting() else { return Freshness::Expired };
        match self.since(lease.asked) {
            age if age < lease.length => Freshness::Leased,
            age if age <= lease.usable => Freshness::Unleased,
            _ => Freshness::Expired,
        }
    }

    /// Revision and digest held, for `Hello` and `Ask`; 0 and nothing when nothing is.
    pub(crate) fn held(&self) -> (u64, Vec<u8>) {
        self.config.load().as_ref().map_or((0, Vec::new()), |config| (config.revision, config.digest.clone()))
    }

    /// Takes a chunk of a snapshot; `Some` when it was the last and the snapshot is in force.
    pub(crate) fn snapshot(&self, chunk: v1::Snapshot) -> Result<Option<Taken>, CatalogueError> {
        let mut catalogue = self.catalogue();
        // Encoded before it is used up, and noted once it is known to be good.
        let (revision, last) = (chunk.revision, chunk.last);
        let kept = self.keeper.get().map(|keeper| (keeper, chunk.encode_to_vec()));
        let applied = catalogue.snapshot(chunk);
        match (kept, &applied) {
            (Some((keeper, encoded)), Ok(_)) => {
                keeper.chunk(revision, last, encoded);
                self.unsynced.fetch_or(last, Ordering::AcqRel);
            }
            (Some((keeper, _)), Err(_)) => keeper.interrupted(),
            (None, _) => {}
        }
        let applied = applied?;
        Ok(applied.map(|applied| Taken { changed: self.publish(&catalogue), applied }))
    }

    /// Takes a delta. What it denies is in force even when it is refused.
    pub(crate) fn delta(&self, delta: &v1::Delta) -> Result<Taken, CatalogueError> {
        let mut catalogue = self.catalogue();
        let applied = catalogue.delta(delta);
        let changed = self.publish(&catalogue);
        match (&applied, self.keeper.get()) {
            (Ok(_), Some(keeper)) => {
                keeper.delta(delta);
                self.keep_denials(keeper, delta);
            }
            (Err(_), Some(keeper)) => self.keep_denials(keeper, delta),
            (_, None) => {}
        }
        applied.map(|applied| Taken { applied, changed })
    }

    /// Compares what is held with what the control plane says it should be.
    pub(crate) fn bookmark(&self, bookmark: &v1::Heartbeat) -> Result<(), CatalogueError> {
        self.catalogue().bookmark(bookmark)
    }

    /// Forgets a half-received snapshot.
    pub(crate) fn stream_ended(&self) {
        self.catalogue().stream_ended();
        self.keeper.get().into_iter().for_each(Keeper::interrupted);
    }

    /// Puts denials of the revocation lane in force; how many were news.
    pub(crate) fn deny(&self, denials: &v1::Denials) -> Result<usize, CatalogueError> {
        let mut catalogue = self.catalogue();
        let news = catalogue.deny(denials)?;
        self.publish(&catalogue);
        if let Some(keeper) = self.keeper.get() {
            keeper.denials(denials.clone());
        }
        Ok(news)
    }

    /// A lane was opened at a revision; the number under which it grants leases.
    pub(crate) fn lane_opened(&self, revision: u64) -> u64 {
        self.leases().open(revision)
    }

    /// A lane granted a lease that was asked for at `asked`.
    pub(crate) fn grant(&self, lane: u64, asked: Instant, length: Duration) -> Result<(), LaneOutdated> {
        let granted = self.leases().grant(lane, Lease { asked, length, usable: self.max_staleness });
        if granted { Ok(()) } else { Err(LaneOutdated) }
    }

    /// Replaces the session keys.
    pub(crate) fn set_sealing_keys(&self, keys: SealingKeys) {
        self.sealing_keys.store(Arc::new(keys));
    }

    /// Lets readers have what the catalogue put in force. True when it is something else than before. Called with the
    /// catalogue locked, so that nobody publishes something older afterwards.
    fn publish(&self, catalogue: &Catalogue) -> bool {
        let config = catalogue.config();
        if config.revision == 0 {
            return false;
        }
        let revision = config.revision;
        let before = self.config.load_full();
        if before.as_ref().is_some_and(|before| revision < before.revision) {
            tracing::warn!(revision, "the control plane has gone back; a new lease is needed");
            self.leases().went_back(revision);
        }
        let changed = before.is_none_or(|before| !Arc::ptr_eq(&before.contents, &config.contents));
        self.config.store(Some(config));
        self.leases().reached(revision);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
        self.revision.send_replace(revision);
        changed
    }

    fn since(&self, then: Instant) -> Duration {
        self.surroundings.now().saturating_duration_since(then)
    }

    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
