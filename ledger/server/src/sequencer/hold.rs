//! Batches that came too early, kept for a moment until what they need arrives.
//!
//! Owned by the sequencer. Sans-io: time and messages (`T`, given back for acknowledgement) arrive as arguments. The
//! hold is an optimisation with hard bounds: what does not fit or waits too long is given back and forgotten, because
//! its node keeps it in its spool and is asked for it again. So a node that floods the hold delays others, never
//! blocks them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bailiwick_proto::v1::RecordBatch;

use crate::store::ChainId;

/// Batches held at most: well below the messages a stream hands out unacknowledged, so that it always goes on.
pub(super) const BATCHES_MAX: usize = 256;
/// Bytes of records held at most.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait; a replay takes milliseconds, so what waits longer waits for something that does not exist.
const AGE_MAX: Duration = Duration::from_secs(60);

/// A batch with the message it came in.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) batch: RecordBatch,
    pub(super) ticket: T,
}

#[derive(Debug)]
struct Waiting<T> {
    held: Held<T>,
    bytes: usize,
    since: Instant,
}

/// What waits, by chain and first sequence number.
#[derive(Debug)]
pub(super) struct Hold<T> {
    chains: BTreeMap<ChainId, BTreeMap<u64, Waiting<T>>>,
    batches: usize,
    bytes: usize,
}

impl<T> Default for Hold<T> {
    fn default() -> Self {
        Self { chains: BTreeMap::new(), batches: 0, bytes: 0 }
    }
}

impl<T> Hold<T> {
    pub(super) const fn len(&self) -> usize {
        self.batches
    }

    /// Keeps `held`. Gives back the tickets that are no longer needed: of an earlier copy of the same batch, and of
    /// this one if there is no room.
    pub(super) fn insert(&mut self, now: Instant, held: Held<T>) -> Vec<T> {
        let id = ChainId { node: held.batch.node.clone(), epoch: held.batch.epoch };
        let first = held.batch.first_seq;
        let earlier = self.remove(&id, first).map(|held| held.ticket);
        let bytes = held.batch.records.iter().map(Vec::len).sum::<usize>();
        if self.batches >= BATCHES_MAX || self.bytes.saturating_add(bytes) > BYTES_MAX {
            return earlier.into_iter().chain([held.ticket]).collect();
        }
        self.batches += 1;
        self.bytes += bytes;
        self.chains.entry(id).or_default().insert(first, Waiting { held, bytes, since: now });
        earlier.into_iter().collect()
    }

    /// Takes out what chain `id` can go on with when `next_seq` is expected next, in order.
    pub(super) fn release(&mut self, id: &ChainId, next_seq: u64) -> Vec<Held<T>> {
        let (mut next, mut released) = (next_seq, Vec::new());
        while let Some((&first, _)) = self.chains.get(id).and_then(BTreeMap::first_key_value)
            && first <= next
            && let Some(held) = self.remove(id, first)
        {
            next = next.max(first.saturating_add(held.batch.records.len() as u64));
            released.push(held);
        }
        released
    }

    /// Forgets what waited too long and gives back its tickets.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let old = |waiting: &Waiting<T>| now.saturating_duration_since(waiting.since) >= AGE_MAX;
        let expired: Vec<_> = (self.chains.iter())
            .flat_map(|(id, waiting)| waiting.iter().filter(|(_, one)| old(one)).map(|(first, _)| (id.clone(), *first)))
            .collect();
        expired.iter().filter_map(|(id, first)| self.remove(id, *first)).map(|held| held.ticket).collect()
    }

    /// Chains that wait for something.
    pub(super) fn chains(&self) -> impl Iterator<Item = &ChainId> {
        self.chains.keys()
    }

    fn remove(&mut self, id: &ChainId, first: u64) -> Option<Held<T>> {
        let waiting = self.chains.get_mut(id)?;
        let removed = waiting.remove(&first)?;
        if waiting.is_empty() {
            self.chains.remove(id);
        }
        self.batches -= 1;
        self.bytes -= removed.bytes;
        Some(removed.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(first_seq: u64, records: usize, ticket: u32) -> Held<u32> {
        let batch = RecordBatch { node: "n".into(), epoch: 1, first_seq, records: vec![vec![0; 10]; records] };
        Held { batch, ticket }
    }

    fn id() -> ChainId {
        ChainId { node: "n".into(), epoch: 1 }
    }

    fn tickets(released: Vec<Held<u32>>) -> Vec<u32> {
        released.into_iter().map(|held| held.ticket).collect()
    }

    #[test]
    fn neighbours_are_released_together_and_in_order() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        for (first, ticket) in [(20, 3), (10, 1), (15, 2), (30, 4)] {
            assert!(hold.insert(now, held(first, 5, ticket)).is_empty());
        }
        assert!(hold.release(&id(), 9).is_empty());
        assert_eq!(tickets(hold.release(&id(), 12)), [1, 2, 3]);
        assert_eq!(hold.len(), 1);
        assert_eq!(tickets(hold.release(&id(), 30)), [4]);
        assert_eq!(hold.bytes, 0);
    }

    #[test]
    fn a_second_copy_replaces_the_first() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        assert!(hold.insert(now, held(10, 5, 1)).is_empty());
        assert_eq!(hold.insert(now, held(10, 5, 2)), [1]);
        assert_eq!(hold.len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_given_back() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        for first in 0..BATCHES_MAX as u64 {
            assert!(hold.insert(now, held(10 + first, 1, 0)).is_empty());
        }
        assert_eq!(hold.insert(now, held(5, 1, 7)), [7]);
        assert_eq!(hold.len(), BATCHES_MAX);
    }

    #[test]
    fn what_waits_too_long_is_forgotten() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        hold.insert(now, held(10, 5, 1));
        hold.insert(now + AGE_MAX / 2, held(20, 5, 2));
        assert_eq!(hold.expire(now + AGE_MAX), [1]);
        assert_eq!(hold.len(), 1);
    }
}
