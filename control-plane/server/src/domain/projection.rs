//! The projection: every committed change becomes state, and a frame for those who follow the configuration.
//!
//! Consensus calls it in revision order from its own task. A change is taken in under one lock, so readers see all of
//! it or nothing; no copy of the state is made. The configuration's part goes to the [`Feed`]. A fold from nothing, at
//! start and when a snapshot replaces the state, happens out of sight: readers go on seeing the state before it.
//! Invariant: the same changes give the same state, entries and digest on every node and after every restart.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bailiwick_control_plane_core::{
    Event, State, agent::inventory::Activity, checkpoint, evolve, leaver, secret, stored, timeline::Timeline, view,
};

use crate::config_stream::feed::Feed;
use bailiwick_consensus::{Applier, Change};

/// The state after some revision.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    pub(crate) state: State,
    /// The consents' latest history, from the same changes.
    pub(crate) timeline: Timeline,
    /// When agents got tokens, from the same changes.
    pub(crate) activity: Activity,
    /// The revision of the last change by which somebody may have left.
    pub(crate) left_at: u64,
    /// How many changes led here: what a proposal names as the version it was decided on.
    pub(crate) version: u64,
}

impl Committed {
    fn note_leavers(&mut self, events: &[Event], revision: u64) {
        if events.iter().any(leaver::may_leave) {
            self.left_at = revision;
        }
    }
}

/// The committed state, shared by its one writer and all readers. Locks are held for moments, never across waiting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<RwLock<Committed>>);

impl Shared {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Committed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Committed> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Folds changes into state.
#[derive(Debug)]
pub(crate) struct Projection {
    shared: Shared,
    /// Between a reset and the next publish: what is folded so far. A reader who saw it would miss what follows, a
    /// revocation say. The changes are old news, and nobody is told of each.
    folding: Option<Committed>,
    feed: Arc<Feed>,
}

impl Projection {
    /// A projection of nothing yet into `shared` and `feed`.
    pub(crate) fn new(shared: Shared, feed: Arc<Feed>) -> Self {
        Self { shared, folding: Some(Committed::default()), feed }
    }
}

impl Applier for Projection {
    fn reset(&mut self) {
        self.folding = Some(Committed::default());
    }

    fn apply(&mut self, change: &Change) -> io::Result<Option<u64>> {
        let events = change.events.iter().map(|bytes| read_event(bytes)).collect::<io::Result<Vec<Event>>>()?;
        if let Some(committed) = &mut self.folding {
            let void = made_void_by(&committed.state, &events);
            committed.version += 1;
            committed.timeline.see(&committed.state, &events, change.revision);
            events.iter().for_each(|event| evolve(&mut committed.state, event, change.revision));
            committed.activity.see(&committed.state, &events);
            committed.note_leavers(&events, change.revision);
            return Ok(void);
        }
        let mut guard = self.shared.write();
        let committed = &mut *guard;
        let (from, void) = (committed.state.revision, made_void_by(&committed.state, &events));
        committed.version += 1;
        committed.timeline.see(&committed.state, &events, change.revision);
        let changes = view::evolve_all(&mut committed.state, &events, change.revision);
        committed.activity.see(&committed.state, &events);
        committed.note_leavers(&events, change.revision);
        drop(guard);
        self.feed.advance(from, change.revision, changes);
        Ok(void)
    }

    fn publish(&mut self, version: u64) {
        if let Some(folded) = self.folding.take() {
            // Changes that were made void and forgotten count as well.
            *self.shared.write() = Committed { version, ..folded };
            let committed = self.shared.read();
            self.feed.restart(committed.state.revision, view::entries(&committed.state));
        }
        self.feed.publish();
    }
}

/// The revision of the change that the next one leaves without effect, so that the log may forget it.
fn made_void_by(state: &State, events: &[Event]) -> Option<u64> {
    checkpoint::made_void_by(state, events).or_else(|| secret::made_void_by(state, events))
}

/// Reads an event as stored. One that cannot be read stops the node: going on would mean to skip it.
pub(crate) fn read_event(bytes: &[u8]) -> io::Result<Event> {
    stored::read(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use bailiwick_control_plane_core::timeline::Filter;

    use super::*;

    #[test]
    fn readers_never_see_half_of_a_fold() {
        let shared = Shared::default();
        let mut projection = Projection::new(shared.clone(), Arc::new(Feed::new()));
        let event = r#"{"type":"user_deleted","actor":"a","request_id":"","time":"1","name":"u"}"#;
        let seen = || (shared.read().state.revision, shared.read().version);
        projection.apply(&change(1, &[event])).unwrap();
        assert_eq!(seen(), (0, 0));
        projection.publish(4);
        assert_eq!(seen(), (1, 4));
        // A snapshot is installed.
        projection.reset();
        projection.apply(&change(2, &[event])).unwrap();
        projection.apply(&change(3, &[event])).unwrap();
        assert_eq!(seen(), (1, 4), "the state before it, whole");
        projection.publish(7);
        assert_eq!(seen(), (3, 7));
    }

    #[test]
    fn the_timeline_is_the_same_whether_changes_are_folded_or_live() {
        let granted = r#"{"type":"consent_granted","actor":"admin","request_id":"","time":"1","consent":"c-1",
            "user":"u","agent":"a","virtual_server":"v","level":"retrieval","expires_at":"9","reason":"r","client":"c"}"#;
        let revoked = r#"{"type":"consent_revoked","actor":"admin","request_id":"","time":"2","consent":"c-1",
            "reason":"done"}"#;
        let changes = [change(1, &[granted]), change(2, &[revoked])];
        let seen = |shared: &Shared| {
            let found = shared.read().timeline.newest(&Filter::default(), None, 9);
            found.iter().map(|one| (one.place.to_string(), one.user.clone(), one.reason.clone())).collect::<Vec<_>>()
        };
        let told = |place: &str, reason: &str| (place.to_owned(), "u".to_owned(), reason.to_owned());
        let expected = [told("2-0", "done"), told("1-0", "r")];
        let shared = Shared::default();
        let mut projection = Projection::new(shared.clone(), Arc::new(Feed::new()));
        projection.publish(0);
        changes.iter().for_each(|change| assert!(projection.apply(change).is_ok()));
        assert_eq!(seen(&shared), expected, "live");
        projection.reset();
        changes.iter().for_each(|change| assert!(projection.apply(change).is_ok()));
        projection.publish(2);
        assert_eq!(seen(&shared), expected, "folded anew, each once");
    }

    fn change(revision: u64, events: &[&str]) -> Change {
        Change { revision, events: events.iter().map(|event| event.as_bytes().to_vec()).collect() }
    }

    #[test]
    fn a_change_of_an_unknown_type_stops_the_node_and_takes_nothing_in() {
        let shared = Shared::default();
        let mut projection = Projection::new(shared.clone(), Arc::new(Feed::new()));
        let known = r#"{"type":"user_deleted","actor":"a","request_id":"","time":"1","name":"u"}"#;
        let later = r#"{"type":"user_suspended","actor":"a","request_id":"","time":"2","name":"u"}"#;
        projection.apply(&change(1, &[known])).unwrap();
        projection.publish(1);
        let error = projection.apply(&change(2, &[known, later])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("`user_suspended`"), "{error}");
        assert!(error.to_string().contains("upgrade this node"), "{error}");
        assert_eq!(shared.read().state.revision, 1, "nothing of the change is in the state");
        assert_eq!(shared.read().version, 1);
    }
}
