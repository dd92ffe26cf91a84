//! The intents of this run without an outcome: what stands in the way of freeing the spool, and since when.
//!
//! Kept by `recorder::owner`, which adds each intent it wrote and takes it out with its outcome. There are as many as
//! calls are under way, which the listener bounds. Absent: those of earlier runs (`recovery` ends them).

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct OpenIntents {
    by_id: HashMap<String, u64>,
    by_seq: BTreeMap<u64, Instant>,
}

impl OpenIntents {
    /// One more was written, now.
    pub(super) fn insert(&mut self, id: String, seq: u64) {
        self.by_id.insert(id, seq);
        self.by_seq.insert(seq, Instant::now());
    }

    /// The outcome of this one was written.
    pub(super) fn remove(&mut self, id: &str) {
        if let Some(seq) = self.by_id.remove(id) {
            self.by_seq.remove(&seq);
        }
    }

    /// Where the oldest stands; nothing from there on may be freed.
    pub(super) fn first(&self) -> Option<u64> {
        self.by_seq.first_key_value().map(|(seq, _)| *seq)
    }

    /// For how many whole seconds the oldest has been open; 0 without one.
    pub(super) fn oldest_seconds(&self) -> u64 {
        self.by_seq.first_key_value().map_or(0, |(_, since)| since.elapsed().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_without_an_outcome_is_named_with_its_age() {
        let mut open = OpenIntents::default();
        assert_eq!((open.first(), open.oldest_seconds()), (None, 0));
        open.insert("a".into(), 4);
        tokio::time::advance(Duration::from_secs(90)).await;
        open.insert("b".into(), 9);
        open.remove("unknown");
        assert_eq!((open.first(), open.oldest_seconds()), (Some(4), 90));
        open.remove("a");
        assert_eq!((open.first(), open.oldest_seconds()), (Some(9), 0));
        open.remove("b");
        assert_eq!((open.first(), open.oldest_seconds()), (None, 0));
    }
}
