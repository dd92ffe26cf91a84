//! How a server does whose sessions end by themselves: how often in a row, and when the next one may be begun.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest: a program that was repaired is found again within it.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// See the file's header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    failures: u32,
    until: Option<Instant>,
}

impl Health {
    /// So long a call waits for the end of a pause rather than being refused.
    pub(super) const WAITED_MAX: Duration = Duration::from_secs(1);
    /// From so many failures on, people are told, once.
    pub(super) const TOLD_AT: u32 = 3;

    /// A session ended without having answered anything; how many of them did in a row.
    pub(super) fn failed(&mut self, now: Instant) -> u32 {
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.saturating_sub(1).min(16);
        self.until = Some(now + (PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX));
        self.failures
    }

    /// All is well again; how many failures there were.
    pub(super) fn answered(&mut self) -> u32 {
        self.until = None;
        std::mem::take(&mut self.failures)
    }

    /// Until when nothing is begun, and after how many failures.
    pub(super) fn pause(&self) -> Option<(Instant, u32)> {
        self.until.filter(|until| *until > Instant::now()).map(|until| (until, self.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_an_answer() {
        let (mut health, now) = (Health::default(), Instant::now());
        let pauses: Vec<_> = (0..12)
            .map(|_| {
                health.failed(now);
                health.until.unwrap() - now
            })
            .collect();
        assert_eq!(pauses[..4], [250, 500, 1000, 2000].map(Duration::from_millis));
        assert_eq!(pauses[11], PAUSE_MAX);
        assert_eq!((health.answered(), health.answered()), (12, 0));
        assert!(health.pause().is_none());
    }
}
