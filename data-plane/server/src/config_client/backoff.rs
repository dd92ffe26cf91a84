//! Pauses between attempts: doubling up to a bound, with jitter so that nodes do not come back all at once.
//!
//! Called by `config_client` and `tool_reports`.

use std::{sync::Arc, time::Duration};

use crate::surroundings::{Host, Surroundings};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The next pause.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    surroundings: Arc<dyn Surroundings>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::within(Arc::new(Host))
    }
}

impl Backoff {
    /// As by default, with jitter from elsewhere.
    pub(crate) fn within(surroundings: Arc<dyn Surroundings>) -> Self {
        Self { next: FIRST, surroundings }
    }

    /// What was tried has worked: the next pause is a short one.
    pub(crate) const fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Waits between half and all of the present pause, then doubles it.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// The pause that [`Backoff::pause`] would wait for.
    pub(crate) fn next(&mut self) -> Duration {
        let half = self.next / 2;
        let pause = half + half * u32::from(self.surroundings.random()) / u32::from(u8::MAX);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST);
        assert!(pauses[11] >= LONGEST / 2 && pauses.iter().all(|pause| *pause <= LONGEST));
    }
}
