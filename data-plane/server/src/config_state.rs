//! What this node knows of the configuration, and how old that knowledge is.
//!
//! Written by `config_client`, read by `listener` and `calls` on every request without waiting. Age is measured on
//! the monotonic clock from the last frame that confirmed the revision held; a clock that is set cannot make an old
//! configuration young. Deliberately absent: compiling entries (`data-plane/core`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bailiwick_data_plane_core::{Config, admission::Freshness, session::SessionKeys};
use tokio::{sync::watch, time::Instant};

/// Configuration, session keys and their age; one per node, shared by reference.
#[derive(Debug)]
pub(crate) struct ConfigState {
    config: ArcSwapOption<Config>,
    session_keys: ArcSwap<SessionKeys>,
    heard: Mutex<Heard>,
    max_staleness: Duration,
    /// Counts changes, for whoever has to act on them.
    changes: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    at: Option<Instant>,
    lease: Duration,
}

impl ConfigState {
    /// Nothing is known yet.
    pub(crate) fn new(max_staleness: Duration) -> Self {
        Self {
            config: ArcSwapOption::empty(),
            session_keys: ArcSwap::default(),
            heard: Mutex::default(),
            max_staleness,
            changes: watch::Sender::new(0),
        }
    }

    /// The configuration in force; `None` before the first.
    pub(crate) fn config(&self) -> Option<Arc<Config>> {
        self.config.load_full()
    }

    /// Keys that seal legacy session ids.
    pub(crate) fn session_keys(&self) -> Arc<SessionKeys> {
        self.session_keys.load_full()
    }

    /// Wakes whenever the configuration has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Time since the control plane last confirmed the revision in force.
    pub(crate) fn age(&self) -> Duration {
        self.heard().at.map_or(Duration::MAX, |at| at.elapsed())
    }

    /// Whether the configuration is current enough to decide with. A lease of zero means that none was given.
    pub(crate) fn freshness(&self) -> Freshness {
        let heard = self.heard();
        match heard.at.map(|at| at.elapsed()) {
            Some(age) if heard.lease.is_zero() || age <= heard.lease => Freshness::Leased,
            Some(age) if age <= self.max_staleness => Freshness::Unleased,
            Some(_) | None => Freshness::Expired,
        }
    }

    /// Puts a configuration into force, confirmed now. True when any entry differs from before.
    pub(crate) fn apply(&self, config: Arc<Config>) -> bool {
        let digest = config.digest.clone();
        let before = self.config.swap(Some(config));
        self.confirm(None);
        let changed = before.is_none_or(|before| before.digest != digest);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
        changed
    }

    /// Puts what only narrows into force: the revision is not confirmed by it.
    pub(crate) fn restrict(&self, config: Arc<Config>) {
        if self.config.load().is_some() {
            self.config.store(Some(config));
        }
    }

    /// The control plane confirmed the revision in force just now, and may have given a lease.
    pub(crate) fn confirm(&self, lease: Option<Duration>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.at = Some(Instant::now());
        heard.lease = lease.unwrap_or(heard.lease);
    }

    /// Replaces the session keys.
    pub(crate) fn set_session_keys(&self, keys: SessionKeys) {
        self.session_keys.store(Arc::new(keys));
    }

    fn heard(&self) -> Heard {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn freshness_falls_from_leased_to_expired_as_time_passes() {
        let state = ConfigState::new(Duration::from_secs(100));
        assert_eq!((state.freshness(), state.age()), (Freshness::Expired, Duration::MAX));
        state.apply(Arc::default());
        assert_eq!(state.freshness(), Freshness::Leased);
        state.confirm(Some(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((state.freshness(), state.age()), (Freshness::Leased, Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(state.freshness(), Freshness::Unleased);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(state.freshness(), Freshness::Expired);
        state.confirm(None);
        assert_eq!(state.freshness(), Freshness::Leased);
    }

    #[test]
    fn narrowing_nothing_is_not_a_configuration() {
        let state = ConfigState::new(Duration::ZERO);
        state.restrict(Arc::default());
        assert!(state.config().is_none());
    }
}
