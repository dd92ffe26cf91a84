//! The feed: what the configuration is now, and how it came to be so over the last revisions.
//!
//! The projection writes; node sessions read. Each delta and snapshot is encoded once, whoever takes it. A session
//! holds no queue of its own: it remembers where it is and takes what is newer, so a slow node costs nothing here,
//! and one that fell behind the window gets a snapshot instead.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bailiwick_proto::{
    config_digest::{Digest, Entries},
    v1::{self, config_frame},
};
use prost::Message as _;
use tokio::sync::watch;

use super::wire::Frame;

/// Deltas kept: more than an hour of a checkpoint every second.
const HISTORY_DELTAS_MAX: usize = 4_096;
/// Bytes of deltas kept.
const HISTORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A delta larger than this is not sent: nodes get the snapshot, which comes in chunks they can take.
const DELTA_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of entries in one chunk of a snapshot: well below the 4 MiB a gRPC client accepts.
const CHUNK_BYTES: usize = 256 * 1024;

/// The configuration and its recent past. Shared by the projection and all sessions.
#[derive(Debug)]
pub(crate) struct Feed {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    digest: Digest,
    entries: Entries,
    history: VecDeque<Delta>,
    history_bytes: usize,
    snapshot: Option<Arc<[Frame]>>,
}

#[derive(Clone, Debug)]
struct Delta {
    from: u64,
    digest_before: Digest,
    frame: Frame,
}

/// What a node gets to be at the present revision.
#[derive(Clone, Debug)]
pub(crate) enum CatchUp {
    /// Deltas from where it is; none when it is there already.
    Deltas(Vec<Frame>),
    /// Everything.
    Snapshot(Arc<[Frame]>),
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), revision: watch::Sender::new(0) }
    }

    /// Starts anew from a whole configuration; the past before it is not known.
    pub(crate) fn restart(&self, revision: u64, entries: Entries) {
        *self.lock() = Inner { revision, digest: entries.digest(), entries, ..Inner::default() };
    }

    /// Takes in one revision; one that changes no entry has a delta all the same, so revisions never skip.
    pub(crate) fn advance(&self, from: u64, to: u64, changes: Vec<v1::EntryChange>) {
        let mut inner = self.lock();
        let digest_before = inner.digest;
        if !changes.is_empty() {
            for change in &changes {
                inner.entries.apply(change);
            }
            inner.entries.settle();
            inner.digest = inner.entries.digest();
        }
        let delta = v1::Delta { from, to, changes, digest: inner.digest.to_vec() };
        let frame = Frame::encode(config_frame::Frame::Delta(delta));
        (inner.revision, inner.snapshot) = (to, None);
        if frame.len() > DELTA_BYTES_MAX {
            inner.history.clear();
            inner.history_bytes = 0;
            return;
        }
        inner.history_bytes += frame.len();
        inner.history.push_back(Delta { from, digest_before, frame });
        while inner.history.len() > HISTORY_DELTAS_MAX || inner.history_bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = inner.history.pop_front() else { break };
            inner.history_bytes -= oldest.frame.len();
        }
    }

    /// Lets sessions see what was taken in.
    pub(crate) fn publish(&self) {
        let revision = self.lock().revision;
        self.revision.send_replace(revision);
    }

    /// Tells of each new revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// How a node at `revision` gets to the present one, and which that is. With a digest, only a node that holds
    /// exactly what was in force then gets deltas.
    pub(crate) fn since(&self, revision: u64, digest: Option<&[u8]>) -> (u64, CatchUp) {
        let mut inner = self.lock();
        let fits = |expected: &Digest| digest.is_none_or(|digest| digest == expected);
        let position = inner.history.iter().rposition(|delta| delta.from == revision);
        let deltas = match position.and_then(|at| Some((at, inner.history.get(at)?))) {
            Some((at, first)) if fits(&first.digest_before) => {
                Some(inner.history.iter().skip(at).map(|delta| delta.frame.clone()).collect())
            }
            None if revision == inner.revision && revision > 0 && fits(&inner.digest) => Some(Vec::new()),
            Some(_) | None => None,
        };
        let catch_up = deltas.map_or_else(|| CatchUp::Snapshot(inner.snapshot()), CatchUp::Deltas);
        (inner.revision, catch_up)
    }

    /// A delta that changes nothing: tells a node that it is where it should be.
    pub(crate) fn confirmation(&self) -> Frame {
        let inner = self.lock();
        let (from, to, digest) = (inner.revision, inner.revision, inner.digest.to_vec());
        Frame::encode(config_frame::Frame::Delta(v1::Delta { from, to, changes: Vec::new(), digest }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn snapshot(&mut self) -> Arc<[Frame]> {
        if let Some(snapshot) = &self.snapshot {
            return Arc::clone(snapshot);
        }
        let (mut frames, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (key, value) in self.entries.iter() {
            let entry = v1::Entry { key: key.to_owned(), value: value.to_vec() };
            bytes += entry.encoded_len();
            chunk.push(entry);
            if bytes >= CHUNK_BYTES {
                frames.push(self.chunk(std::mem::take(&mut chunk), false));
                bytes = 0;
            }
        }
        frames.push(self.chunk(chunk, true));
        let snapshot: Arc<[Frame]> = frames.into();
        self.snapshot = Some(Arc::clone(&snapshot));
        snapshot
    }

    fn chunk(&self, entries: Vec<v1::Entry>, last: bool) -> Frame {
        let digest = if last { self.digest.to_vec() } else { Vec::new() };
        Frame::encode(config_frame::Frame::Snapshot(v1::Snapshot { revision: self.revision, entries, last, digest }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> v1::EntryChange {
        v1::EntryChange { key: key.into(), value: Some(value.as_bytes().to_vec()) }
    }

    fn feed() -> Feed {
        let feed = Feed::new();
        feed.restart(5, std::iter::once(("a".to_owned(), b"1".to_vec())).collect());
        feed.advance(5, 6, vec![put("b", "2")]);
        feed.advance(6, 9, Vec::new());
        feed.publish();
        feed
    }

    fn digest_of(pairs: &[(&str, &str)]) -> Digest {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect::<Entries>().digest()
    }

    fn is_snapshot(feed: &Feed, revision: u64, digest: &[u8]) -> bool {
        matches!(feed.since(revision, Some(digest)).1, CatchUp::Snapshot(_))
    }

    #[test]
    fn a_node_within_the_window_gets_every_delta_since() {
        let (revision, catch_up) = feed().since(5, Some(&digest_of(&[("a", "1")])));
        let CatchUp::Deltas(frames) = catch_up else { panic!("a snapshot") };
        let ends: Vec<(u64, u64)> = frames
            .iter()
            .map(|frame| match frame.decode().frame {
                Some(config_frame::Frame::Delta(delta)) => (delta.from, delta.to),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((revision, ends), (9, vec![(5, 6), (6, 9)]));
    }

    #[test]
    fn a_node_that_holds_something_else_gets_a_snapshot() {
        let now = digest_of(&[("a", "1"), ("b", "2")]);
        assert!(is_snapshot(&feed(), 5, &now), "right revision, wrong content");
        assert!(is_snapshot(&feed(), 4, &digest_of(&[("a", "1")])), "before the window");
        assert!(is_snapshot(&feed(), 0, &[]), "nothing yet");
        assert!(is_snapshot(&feed(), 12, &now), "from a future that is not ours");
        assert!(!is_snapshot(&feed(), 9, &now));
    }

    #[test]
    fn a_snapshot_is_encoded_once_and_carries_the_digest_last() {
        let feed = feed();
        let (CatchUp::Snapshot(first), CatchUp::Snapshot(again)) = (feed.since(0, None).1, feed.since(0, None).1)
        else {
            panic!("deltas")
        };
        assert!(Arc::ptr_eq(&first, &again));
        let Some(config_frame::Frame::Snapshot(last)) = first.last().unwrap().decode().frame else {
            panic!("no snapshot")
        };
        assert!(last.last);
        assert_eq!(last.digest, digest_of(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn a_delta_too_large_for_one_message_becomes_a_snapshot() {
        let feed = feed();
        let before = digest_of(&[("a", "1"), ("b", "2")]);
        feed.advance(9, 10, (0..100).map(|n| put(&format!("k{n}"), &"x".repeat(30_000))).collect());
        let (revision, CatchUp::Snapshot(chunks)) = feed.since(9, Some(&before)) else { panic!("deltas") };
        assert_eq!(revision, 10);
        assert!(chunks.len() > 5 && chunks.iter().all(|chunk| chunk.len() < 2 * CHUNK_BYTES));
    }

    #[test]
    fn the_window_is_bounded() {
        let feed = Feed::new();
        feed.restart(0, Entries::new());
        for revision in 0..5_000 {
            feed.advance(revision, revision + 1, Vec::new());
        }
        assert_eq!(feed.lock().history.len(), HISTORY_DELTAS_MAX);
    }
}
