//! A snapshot as nodes get it: chunk by chunk, each encoded when the first node gets to it.
//!
//! It holds the entries of one revision, which it shares with the feed, and of the encoded chunks only those that some
//! session is sending right now: nodes that load at the same time share them, and what n nodes cost in memory is what
//! is on the way to them. Nobody holds a snapshot longer than it is being sent. [`Slots`] bound how many sessions send
//! one at once; who waits is told to be patient. Absent: which revision a node needs (`feed`).

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bailiwick_proto::{
    config_digest::{Digest, Entries, PARTS_MAX},
    v1::{self, config_frame},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::wire::Frame;

/// Bytes of entries in one chunk, nearly: well below the 4 MiB a gRPC client accepts.
const CHUNK_BYTES: usize = 256 * 1024;
/// Sessions that send a snapshot at once. A few fill a network; each has some megabytes on the way.
const AT_ONCE_MAX: usize = 8;
/// A node that takes longer gives its slot to another and goes on without: slow ones must not keep all others waiting.
const SLOT_MAX: Duration = Duration::from_secs(10);

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Snapshot {
    revision: u64,
    digest: Digest,
    entries: Entries,
    chunks: Box<[Mutex<Weak<Vec<u8>>>]>,
}

impl Snapshot {
    /// Of what is in force at a revision.
    pub(super) fn of(revision: u64, digest: Digest, entries: Entries) -> Self {
        let count = (entries.bytes() / CHUNK_BYTES + 1).min(PARTS_MAX);
        let chunks = (0..count).map(|_| Mutex::default()).collect();
        Self { revision, digest, entries, chunks }
    }

    /// Where a node is once it has all chunks.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many chunks there are; at least one.
    pub(super) const fn len(&self) -> usize {
        self.chunks.len()
    }

    /// One of them, from 0.
    pub(super) fn chunk(&self, number: usize) -> Frame {
        let Some(place) = self.chunks.get(number) else { return self.encode(number) };
        let mut kept = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = kept.upgrade() {
            return Frame::shared(bytes);
        }
        let bytes = Arc::new(self.encode(number).into_bytes());
        *kept = Arc::downgrade(&bytes);
        Frame::shared(bytes)
    }

    fn encode(&self, number: usize) -> Frame {
        let last = number + 1 >= self.chunks.len();
        let entry = |(key, value): (&str, &[u8])| v1::Entry { key: key.to_owned(), value: value.to_vec() };
        let entries = self.entries.part(number, self.chunks.len()).map(entry).collect();
        let digest = if last { self.digest.to_vec() } else { Vec::new() };
        Frame::encode(config_frame::Frame::Snapshot(v1::Snapshot { revision: self.revision, entries, last, digest }))
    }
}

/// Places of those who may send a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Semaphore>);

/// One of the places; empty again when dropped, or after a while.
#[derive(Debug)]
pub(crate) struct Slot {
    place: Option<OwnedSemaphorePermit>,
    until: Instant,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE_MAX)))
    }

    /// Waits for a place, first come, first served.
    pub(super) async fn take(&self) -> Slot {
        // Nobody closes it.
        let place = Arc::clone(&self.0).acquire_owned().await.ok();
        Slot { place, until: Instant::now() + SLOT_MAX }
    }
}

impl Slot {
    /// To be called now and then by who sends.
    pub(super) fn give_back_if_slow(&mut self) {
        if Instant::now() >= self.until {
            self.place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn snapshot(entries: usize) -> Snapshot {
        let entries: Entries = (0..entries).map(|n| (format!("consent/{n}"), vec![7; 1_000])).collect();
        Snapshot::of(9, entries.digest(), entries)
    }

    fn decoded(frame: &Frame) -> v1::Snapshot {
        match frame.decode().unwrap().frame {
            Some(config_frame::Frame::Snapshot(chunk)) => chunk,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_chunks_are_the_whole_and_the_last_carries_the_digest() {
        for count in [0, 1, 5_000] {
            let snapshot = snapshot(count);
            let chunks: Vec<_> = (0..snapshot.len()).map(|number| decoded(&snapshot.chunk(number))).collect();
            assert_eq!(chunks.iter().map(|chunk| chunk.entries.len()).sum::<usize>(), count);
            let (last, others) = chunks.split_last().unwrap();
            assert!(last.last && last.digest == snapshot.digest && others.iter().all(|chunk| !chunk.last));
            let most = (0..snapshot.len()).map(|number| snapshot.chunk(number).len()).max().unwrap();
            assert!(most < 2 * CHUNK_BYTES, "{most}");
        }
    }

    #[test]
    fn who_is_at_the_same_chunk_shares_it_and_nothing_is_kept_when_all_have_sent_it() {
        let snapshot = snapshot(5_000);
        let kept = |number: usize| snapshot.chunks[number].lock().unwrap().strong_count();
        let (first, again) = (snapshot.chunk(3), snapshot.chunk(3));
        assert!(first.is_same(&again));
        assert_eq!((kept(3), kept(4)), (2, 0));
        drop((first, again));
        assert_eq!(kept(3), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_send_at_once_and_a_slow_one_does_not_keep_the_others_waiting() {
        let slots = Slots::new();
        let mut taken = Vec::new();
        for _ in 0..AT_ONCE_MAX {
            taken.push(slots.take().await);
        }
        assert!(slots.take().now_or_never().is_none());
        taken.pop();
        let mut last = slots.take().await;
        last.give_back_if_slow();
        assert!(slots.take().now_or_never().is_none(), "it has just begun");
        tokio::time::advance(SLOT_MAX).await;
        last.give_back_if_slow();
        assert!(slots.take().now_or_never().is_some());
    }
}
