//! Token buckets: each key may do so much at once, and so much in a second after that.
//!
//! Owned by `limits`, one table for each kind of limit. Time is an argument. A bucket is the moment at which it is full
//! again, so one that is full needs no memory. Memory is bounded: keys seen of late are in two generations; when the
//! younger one has its number, the older one is forgotten, and whoever was in it has a full bucket again. That costs
//! nothing for each key, and whoever goes on asking stays in the younger.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How fast, and how much at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Until one more may be done.
    interval: Duration,
    /// Until an empty bucket is full.
    span: Duration,
}

impl Rate {
    /// Both at least 1.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, span: interval * burst.max(1) }
    }
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    rate: Rate,
    generation_max: usize,
    /// When each is full again.
    young: HashMap<K, Instant>,
    old: HashMap<K, Instant>,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Keeps at most twice `generation_max` keys.
    pub(super) fn new(rate: Rate, generation_max: usize) -> Self {
        Self { rate, generation_max, young: HashMap::new(), old: HashMap::new() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long until there is one.
    pub(super) fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at(&key, now);
        let allowed = self.allows(full_at, now);
        // Whoever asks in vain is kept as well, so that it is not forgotten while it goes on.
        self.keep(key, if allowed.is_ok() { full_at + self.rate.interval } else { full_at });
        allowed
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// How long until there is one.
    pub(super) fn look(&self, key: &K, now: Instant) -> Result<(), Duration> {
        self.allows(self.full_at(key, now), now)
    }

    /// Takes one that may not be there: several who looked at once owe what they take.
    pub(super) fn charge(&mut self, key: K, now: Instant) {
        let full_at = self.full_at(&key, now) + self.rate.interval;
        self.keep(key, full_at);
    }

    fn full_at(&self, key: &K, now: Instant) -> Instant {
        self.young.get(key).or_else(|| self.old.get(key)).map_or(now, |full_at| now.max(*full_at))
    }

    fn allows(&self, full_at: Instant, now: Instant) -> Result<(), Duration> {
        let with_it = full_at.saturating_duration_since(now) + self.rate.interval;
        if with_it <= self.rate.span { Ok(()) } else { Err(with_it.saturating_sub(self.rate.span)) }
    }

    fn keep(&mut self, key: K, full_at: Instant) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, full_at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn taken(buckets: &mut Buckets<u32>, key: u32, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| buckets.take(key, now).is_ok()).count()
    }

    #[test]
    fn a_burst_at_once_and_then_the_rate_and_others_are_not_concerned() {
        let (mut buckets, start) = (Buckets::new(Rate::new(5, 30), 100), Instant::now());
        assert_eq!(taken(&mut buckets, 1, start, 100), 30);
        assert_eq!(buckets.take(1, start), Err(SECOND / 5));
        assert_eq!(taken(&mut buckets, 2, start, 100), 30);
        assert_eq!(taken(&mut buckets, 1, start + SECOND, 100), 5);
        assert_eq!(taken(&mut buckets, 1, start + SECOND * 2, 100), 5);
        assert_eq!(taken(&mut buckets, 1, start + SECOND * 1_000, 100), 30, "no more than a burst is saved");
    }

    #[test]
    fn who_asks_in_vain_is_not_punished_for_it_and_what_is_owed_is_paid() {
        let (mut buckets, start) = (Buckets::new(Rate::new(1, 2), 100), Instant::now());
        assert_eq!(taken(&mut buckets, 1, start, 1_000), 2);
        assert_eq!(buckets.look(&1, start), Err(SECOND));
        assert_eq!(buckets.look(&1, start + SECOND), Ok(()));
        (0..3).for_each(|_| buckets.charge(1, start));
        assert_eq!(buckets.look(&1, start + SECOND * 3), Err(SECOND));
        assert_eq!(buckets.look(&1, start + SECOND * 4), Ok(()));
        assert_eq!(buckets.look(&7, start), Ok(()), "to look costs nothing");
    }

    #[test]
    fn memory_is_bounded_and_whoever_goes_on_asking_is_remembered() {
        let (mut buckets, start) = (Buckets::new(Rate::new(1, 1), 50), Instant::now());
        assert_eq!(taken(&mut buckets, 0, start, 1), 1);
        for stranger in 1..100_000 {
            assert!(buckets.take(stranger, start).is_ok());
            if stranger % 40 == 0 {
                assert!(buckets.take(0, start).is_err(), "the flood made us forget after {stranger}");
            }
            assert!(buckets.young.len() <= 50 && buckets.old.len() <= 50);
        }
        assert!(buckets.take(1, start).is_ok(), "who was not seen for long is forgotten");
    }

    proptest! {
        #[test]
        fn in_no_stretch_of_time_is_more_than_the_burst_and_the_rate(
            steps in prop::collection::vec(0_u64..400, 1..200), per_second in 1_u32..50, burst in 1_u32..50,
        ) {
            let (mut buckets, start) = (Buckets::new(Rate::new(per_second, burst), 8), Instant::now());
            let (mut at, mut times) = (0, Vec::new());
            for step in steps {
                at += step;
                if buckets.take(1, start + Duration::from_millis(at)).is_ok() {
                    times.push(at);
                }
            }
            for (first, begin) in times.iter().enumerate() {
                for (last, end) in times.iter().enumerate().skip(first) {
                    let seconds = Duration::from_millis(end - begin).as_secs_f64();
                    let most = f64::from(burst) + seconds * f64::from(per_second);
                    let count = u32::try_from(last - first + 1).unwrap();
                    prop_assert!(f64::from(count) <= most + 0.001, "{count} in {seconds} s, not {most}");
                }
            }
        }
    }
}
