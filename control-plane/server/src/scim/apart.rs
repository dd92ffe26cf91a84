//! What may take long, away from the tasks that serve others: so much of it at once.
//!
//! Asked by `service`, for searches too. Invariant: a place belongs to the work and not to the request, so whoever asks,
//! goes away and asks again has no more places than who waits. Absent: how long one piece of work may be (`budget`).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::Fault;

/// Most work at once: the other threads are for everybody else.
const AT_ONCE_MAX: usize = 4;

/// All places of a node; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE_MAX)))
    }
}

/// One of them, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place(OwnedSemaphorePermit);

impl Places {
    /// Waits until one is free.
    pub(super) async fn take(&self) -> Result<Place, Fault> {
        Arc::clone(&self.0).acquire_owned().await.map(Place).map_err(|_closed| Fault::unavailable())
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
        for _ in 0..AT_ONCE_MAX {
            let place = places.take().now_or_never().expect("a place is free").unwrap();
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
        let mut next = Box::pin(places.take());
        assert!((&mut next).now_or_never().is_none(), "all places are taken");
        ends.send(()).unwrap();
        let place = next.await.unwrap();
        assert_eq!(place.work(|| Ok(7)).await, Ok(7));
        drop(under_way);
    }

    #[tokio::test]
    async fn work_that_breaks_leaves_its_place() {
        let places = Places::default();
        for _ in 0..=AT_ONCE_MAX {
            let place = places.take().await.unwrap();
            assert_eq!(place.work::<()>(|| panic!("on purpose")).await, Err(Fault::unavailable()));
        }
    }
}
