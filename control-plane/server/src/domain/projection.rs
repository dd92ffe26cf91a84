//! The projection: every committed change becomes state, and a frame for those who follow the configuration.
//!
//! Consensus calls it in revision order from its own task. A change is taken in under one lock, so readers see all of
//! it or nothing; no copy of the state is made. The configuration's part goes to the [`Feed`].
//! Invariant: the same changes give the same state, entries and digest on every node and after every restart.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bailiwick_control_plane_core::{Event, State, checkpoint, view};

use crate::config_stream::feed::Feed;
use bailiwick_consensus::{Applier, Change};

/// The state after some revision.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    pub(crate) state: State,
    /// How many changes led here: what a proposal names as the version it was decided on.
    pub(crate) version: u64,
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
    /// Between a reset and the next publish changes are old news: nobody is told of each.
    replaying: bool,
    feed: Arc<Feed>,
}

impl Projection {
    /// A projection of nothing yet into `shared` and `feed`.
    pub(crate) fn new(shared: Shared, feed: Arc<Feed>) -> Self {
        Self { shared, replaying: true, feed }
    }
}

impl Applier for Projection {
    fn reset(&mut self) {
        *self.shared.write() = Committed::default();
        self.replaying = true;
    }

    fn apply(&mut self, change: &Change) -> io::Result<Option<u64>> {
        let events = change.events.iter().map(|bytes| read_event(bytes)).collect::<io::Result<Vec<Event>>>()?;
        let mut committed = self.shared.write();
        let (from, void) = (committed.state.revision, checkpoint::made_void_by(&committed.state, &events));
        let changes = view::evolve_all(&mut committed.state, &events, change.revision);
        committed.version += 1;
        drop(committed);
        if !self.replaying {
            self.feed.advance(from, change.revision, changes);
        }
        Ok(void)
    }

    fn publish(&mut self, version: u64) {
        if self.replaying {
            // Changes that were made void and forgotten count as well.
            self.shared.write().version = version;
            let committed = self.shared.read();
            self.feed.restart(committed.state.revision, view::entries(&committed.state));
            drop(committed);
            self.replaying = false;
        }
        self.feed.publish();
    }
}

/// Reads an event as stored. One that cannot be read stops the node: going on would mean to skip it.
pub(crate) fn read_event(bytes: &[u8]) -> io::Result<Event> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
