//! The places of a server's sessions: how many there may be, and who waits for one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until, timeout_at},
};

use super::Pool;
use crate::upstream::fault::UpstreamFault;

/// Callers of one server that wait for a place. More are refused at once.
const WAITING_MAX: usize = 256;
/// A session that gives way has ended by then.
const ENDING_MAX: Duration = Duration::from_secs(4);

/// A session's places, given back when nothing is left of it.
#[derive(Debug)]
pub(super) struct Places {
    _own: OwnedSemaphorePermit,
    _node: Option<OwnedSemaphorePermit>,
}

/// Somebody waits for a place, until this is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn free_places(&self) -> Result<Places, UpstreamFault> {
        let own = Arc::clone(&self.places).try_acquire_owned().map_err(|_none| UpstreamFault::Busy)?;
        let node = self.around.place(self.server.command.is_some()).map_err(|()| UpstreamFault::Busy)?;
        Ok(Places { _own: own, _node: node })
    }

    /// Two places, one of the server's and one of the node's, waited for in turn with others.
    pub(super) async fn places(&self, until: Instant) -> Result<Places, UpstreamFault> {
        // Who waits already comes first.
        if self.waiting.load(Ordering::Relaxed) == 0
            && let Ok(places) = self.free_places()
        {
            return Ok(places);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        if before >= WAITING_MAX {
            return Err(UpstreamFault::Busy);
        }
        let waited = timeout_at(until, async {
            let mut gave_way: Option<Instant> = None;
            loop {
                let (freed, changed) = (self.freed.notified(), self.around.freed.notified());
                if let Ok(places) = self.free_places() {
                    return places;
                }
                // What gave way needs a while to end; somebody else may take its place.
                if gave_way.is_none_or(|at| at.elapsed() > ENDING_MAX) {
                    let gives_way = self.give_way() || (self.places.available_permits() > 0 && self.around.give_way());
                    gave_way = gives_way.then(Instant::now).or(gave_way);
                }
                tokio::select! {
                    () = freed => {}
                    () = changed => {}
                    () = sleep_until(Instant::now() + ENDING_MAX) => {}
                }
            }
        });
        waited.await.map_err(|_elapsed| UpstreamFault::Busy)
    }

    /// The session that has been unused for longest ends, of those without tasks first.
    pub(in crate::upstream) fn give_way(&self) -> bool {
        let lives: Vec<_> = self.seats().values().filter_map(|seat| seat.live.load_full()).collect();
        let unused = lives.iter().filter_map(|live| Some((live.unused_since()?, live)));
        let longest = unused.min_by_key(|(since, live)| (live.has_tasks(), *since));
        longest.is_some_and(|(since, live)| live.gives_way(since))
    }
}
