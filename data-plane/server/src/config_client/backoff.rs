//! Pauses between attempts: doubling up to a bound, with jitter so that nodes do not come back all at once.
//!
//! Called by `config_client` and `tool_reports`.

use std::time::Duration;

use aws_lc_rs::rand;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The next pause.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// Waits between half and all of the present pause, then doubles it.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// The pause that [`Backoff::pause`] would wait for.
    pub(crate) fn next(&mut self) -> Duration {
        let half = self.0 / 2;
        let mut random = [0_u8; 1];
        // Without randomness the pause is merely not jittered.
        let [random] = rand::fill(&mut random).map_or([u8::MAX], |()| random);
        let pause = half + half * u32::from(random) / u32::from(u8::MAX);
        self.0 = (self.0 * 2).min(LONGEST);
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
