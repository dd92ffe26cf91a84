//! The latest entries of one sort, within a number and a size of their own: no sort pushes another out.
//!
//! Owned by `timeline`, which fills it in order of place. Invariant: the newest entry stays, whatever its size, and
//! what fell out is counted.

use std::{collections::VecDeque, sync::Arc};

use super::{Entry, Place};

/// See the file's header.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    /// Oldest first.
    entries: VecDeque<Arc<Entry>>,
    entries_max: usize,
    bytes: usize,
    bytes_max: usize,
    fallen_out: u64,
}

impl Ring {
    pub(super) const fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), entries_max, bytes: 0, bytes_max, fallen_out: 0 }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(Arc::new(entry));
        self.trim();
    }

    /// Entries before `before`, newest first.
    pub(super) fn newest(&self, before: Option<Place>) -> impl Iterator<Item = &Arc<Entry>> {
        let end = before.map_or(self.entries.len(), |before| self.entries.partition_point(|one| one.place < before));
        self.entries.range(..end).rev()
    }

    /// Changes the newest entry that fits, of those after `revision`; it is a part of `more` bytes that is filled in.
    pub(super) fn fill_in(
        &mut self,
        revision: u64,
        fits: impl Fn(&Entry) -> bool,
        more: usize,
        fill: impl FnOnce(&mut Entry),
    ) {
        let mut latest = self.entries.iter_mut().rev().take_while(|one| one.place.revision > revision);
        if let Some(entry) = latest.find(|one| fits(one)) {
            self.bytes += more;
            fill(Arc::make_mut(entry));
        }
    }

    pub(super) const fn fallen_out(&self) -> u64 {
        self.fallen_out
    }

    /// Lets the oldest fall out until the rest fits.
    fn trim(&mut self) {
        while self.entries.len() > 1 && (self.entries.len() > self.entries_max || self.bytes > self.bytes_max) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(oldest.bytes());
                self.fallen_out += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Evidence, nothing};

    fn entry(revision: u64) -> Entry {
        Entry { place: Place { revision, number: 0 }, ..nothing() }
    }

    #[test]
    fn the_oldest_fall_out_by_number_and_by_size() {
        let one = entry(1).bytes();
        let check = |entries_max, bytes_max, left: usize| {
            let mut ring = Ring::new(entries_max, bytes_max);
            (1..=10).for_each(|revision| ring.push(entry(revision)));
            let left_over: Vec<u64> = ring.newest(None).map(|one| one.place.revision).collect();
            let expected: Vec<u64> = (1..=10).rev().take(left).collect();
            assert_eq!((left_over, ring.fallen_out()), (expected, 10 - left as u64));
        };
        check(10, 10 * one, 10);
        check(7, usize::MAX, 7);
        check(10, 4 * one, 4);
        check(10, 0, 1);
    }

    #[test]
    fn what_is_filled_in_later_counts() {
        let mut ring = Ring::new(9, usize::MAX);
        (1..=3).for_each(|revision| ring.push(entry(revision)));
        let evidence = Evidence { challenge: "c".repeat(43), redirect_uri: "https://a.example".into() };
        let fill = |entry: &mut Entry| entry.evidence = Some(evidence.clone());
        ring.fill_in(1, |one| one.place.revision != 3, 60, fill);
        ring.fill_in(3, |_| true, 60, |_| unreachable!());
        let filled: Vec<bool> = ring.newest(None).map(|one| one.evidence.is_some()).collect();
        assert_eq!(filled, [false, true, false]);
        assert_eq!(ring.bytes, ring.newest(None).map(|one| one.bytes()).sum::<usize>());
    }
}
