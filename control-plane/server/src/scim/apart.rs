//! What may take long, away from the tasks that serve others: so much of it at once.
//!
//! Asked by `service`. Invariants: a place belongs to the work and not to the request, so whoever asks, goes away and
//! asks again has no more places than who waits; who leaves waits for nobody's search. Absent: how long one piece of
//! work may be (`budget`).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::Fault;

/// Most changes that are made at once: the other threads are for everybody else.
const CHANGES_MAX: usize = 4;
/// Most searches at once, which may look at everybody.
const SEARCHES_MAX: usize = 2;

/// What a place is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Change,
    Search,
}

/// All places of a node; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places {
    changes: Arc<Semaphore>,
    searches: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { changes: Arc::new(Semaphore::new(CHANGES_MAX)), searches: Arc::new(Semaphore::new(SEARCHES_MAX)) }
    }
}

/// One of them, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place(OwnedSemaphorePermit);

impl Places {
    /// Waits until one is free.
    pub(super) async fn take(&self, purpose: Purpose) -> Result<Place, Fault> {
        let places = match purpose {
            Purpose::Change => &self.changes,
            Purpose::Search => &self.searches,
        };
        Arc::clone(places).acquire_owned().await.map(Place).map_err(|_closed| Fault::unavailable())
    }
}

impl Place {
    /// Has it done, to its end even if nobody waits for that any more.
    pub(super) async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let Self(permit) = self;
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        working.await.map_err(|_failed| Fault::unavailable())?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_goes_away_leaves_no_place_before_the_work_is_done() {
        let (places, (ends, end)) = (Places::default(), mpsc::channel::<()>());
        let mut under_way = Vec::new();
        let mut work = Some(move || end.recv().map_err(|_| Fault::unavailable()));
        for _ in 0..SEARCHES_MAX {
            let place = places.take(Purpose::Search).now_or_never().expect("a place is free").unwrap();
            match work.take() {
                Some(work) => {
                    let mut working = Box::pin(place.work(work));
                    assert!((&mut working).now_or_never().is_none());
                    // The request is gone; its work is not.
                    drop(working);
                }
                None => under_way.push(place),
            }
        }
        let mut next = Box::pin(places.take(Purpose::Search));
        assert!((&mut next).now_or_never().is_none(), "all places are taken");
        assert!(places.take(Purpose::Change).now_or_never().is_some(), "a change waits for no search");
        ends.send(()).unwrap();
        let place = next.await.unwrap();
        assert_eq!(place.work(|| Ok(7)).await, Ok(7));
        drop(under_way);
    }

    #[tokio::test]
    async fn work_that_breaks_leaves_its_place() {
        let places = Places::default();
        for _ in 0..=CHANGES_MAX {
            let place = places.take(Purpose::Change).await.unwrap();
            assert_eq!(place.work::<()>(|| panic!("on purpose")).await, Err(Fault::unavailable()));
        }
    }
}
