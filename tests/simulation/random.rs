//! The only randomness of a simulation: streams of numbers that follow from the seed and a name.
//!
//! Each part (network, each disk, faults, clients) draws from a stream of its own, so a change in one part does not
//! shift what the others do. SplitMix64, because its numbers must be the same for ever: a seed is kept beside each
//! fault of the museum.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A stream of numbers; clones go on with the same stream.
#[derive(Clone, Debug)]
pub(crate) struct Random(Arc<AtomicU64>);

impl Random {
    /// The stream of this name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let label = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let stream = Self(Arc::new(AtomicU64::new(mix(seed ^ label.rotate_left(17)))));
        stream.next();
        stream
    }

    pub(crate) fn next(&self) -> u64 {
        mix(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }

    /// Less than `bound`; 0 where `bound` is.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// Happens `per_mille` times in a thousand.
    pub(crate) fn chance(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Between two times in milliseconds; the second is excluded unless it equals the first.
    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to.saturating_sub(from)))
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.below(of.len() as u64)).ok()?)
    }

    /// Each of them with even chances.
    pub(crate) fn some_of<T: Copy>(&self, of: &[T]) -> Vec<T> {
        of.iter().copied().filter(|_| self.chance(500)).collect()
    }
}

const fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
