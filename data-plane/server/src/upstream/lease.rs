//! What a request holds while it is under way: a connection, and a place among those of its server.
//!
//! Both are given back when they are dropped, however the request ends. Places are counted per server, so one that
//! hangs holds up its own callers and nobody else's.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    fault::UpstreamFault,
    pool::{Line, Pool},
};

/// A connection, until it goes back.
pub(super) struct Lease {
    line: Option<Line>,
    pool: Arc<Pool>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            self.pool.put(line);
        }
    }
}

impl Lease {
    pub(super) const fn new(line: Line, pool: Arc<Pool>) -> Self {
        Self { line: Some(line), pool }
    }
}

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// One of them.
pub(super) type Place = OwnedSemaphorePermit;

impl Places {
    pub(super) fn new(places: usize, waiting_max: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), waiting_max }
    }

    /// A place, at once or when one is given back. Whoever asked ends a wait that is too long.
    ///
    /// # Errors
    /// Too many wait already.
    pub(super) async fn take(&self) -> Result<Place, UpstreamFault> {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::begin(self)?;
        // Never closed.
        Arc::clone(&self.free).acquire_owned().await.map_err(|_closed| UpstreamFault::Busy)
    }
}

/// Counted as long as it waits, also when it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(places: &'a Places) -> Result<Self, UpstreamFault> {
        let counted = Self(&places.waiting);
        if counted.0.fetch_add(1, Ordering::Relaxed) >= places.waiting_max {
            Err(UpstreamFault::Busy)
        } else {
            Ok(counted)
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn so_many_have_places_so_many_wait_and_the_rest_is_refused_at_once() {
        let places = Places::new(1, 1);
        let first = places.take().await.unwrap();
        let mut second = Box::pin(places.take());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(places.take().await.unwrap_err(), UpstreamFault::Busy);
        drop(second);
        let mut third = Box::pin(places.take());
        assert!(third.as_mut().now_or_never().is_none(), "who gave up waiting is not counted any more");
        drop(first);
        assert!(third.await.is_ok());
    }
}
