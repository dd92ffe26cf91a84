//! The feed: what the configuration is now, and how it came to be so over the last revisions.
//!
//! The projection writes; node sessions and lanes read. Each delta, denial and snapshot is encoded once, whoever takes
//! it. A session holds no queue of its own: it remembers where it is and takes what is newer, so a slow node costs
//! nothing here, and one that fell behind the window gets a snapshot instead. The digests of recent revisions are kept,
//! so that a node that holds something else is noticed. Absent: which changes are denials (`proto`), and their window
//! (`denials`).

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

use super::{
    denials::Denials,
    wire::{Frame, LaneFrame},
};

/// Deltas kept: more than an hour of a checkpoint every second.
const HISTORY_DELTAS_MAX: usize = 4_096;
/// Bytes of deltas kept.
const HISTORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A delta larger than this is not sent: nodes get the snapshot, which comes in chunks they can take.
const DELTA_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Revisions whose digests are kept: as many as there may be deltas.
const DIGESTS_MAX: usize = HISTORY_DELTAS_MAX;
/// Bytes of entries in one chunk of a snapshot: well below the 4 MiB a gRPC client accepts.
const CHUNK_BYTES: usize = 256 * 1024;

/// The configuration and its recent past. Shared by the projection and all sessions.
#[derive(Debug)]
pub(crate) struct Feed {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
    /// The last revision that took something away, or the one this feed started anew from.
    denied: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    digest: Digest,
    entries: Entries,
    history: VecDeque<Delta>,
    history_bytes: usize,
    denials: Denials,
    /// By revision, ascending; the last is of the present one.
    digests: VecDeque<(u64, Digest)>,
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
        Self { inner: Mutex::default(), revision: watch::Sender::new(0), denied: watch::Sender::new(0) }
    }

    /// Starts anew from a whole configuration; the past before it is not known.
    pub(crate) fn restart(&self, revision: u64, entries: Entries) {
        let (digest, denials) = (entries.digest(), Denials::from(revision));
        let digests = VecDeque::from([(revision, digest)]);
        *self.lock() = Inner { revision, digest, entries, denials, digests, ..Inner::default() };
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
        inner.denials.take_in(to, &changes);
        let delta = v1::Delta { from, to, changes, digest: inner.digest.to_vec() };
        let frame = Frame::encode(config_frame::Frame::Delta(delta));
        (inner.revision, inner.snapshot) = (to, None);
        inner.remember_digest();
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
        let (revision, denied) = {
            let inner = self.lock();
            (inner.revision, inner.denials.last())
        };
        // Lanes first: with a thousand nodes, what takes authority away should not queue behind what does not.
        self.denied.send_if_modified(|known| std::mem::replace(known, denied) != denied);
        self.revision.send_replace(revision);
    }

    /// Tells of each new revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Tells of each revision that takes something away, and when lanes have to begin anew.
    pub(crate) fn denials(&self) -> watch::Receiver<u64> {
        self.denied.subscribe()
    }

    /// How a node at `revision` gets to the present one, and which that is. With a digest, only a node that holds
    /// exactly what was in force then gets deltas.
    pub(crate) fn since(&self, revision: u64, digest: Option<&[u8]>) -> (u64, CatchUp) {
        let mut inner = self.lock();
        let fits = |expected: &Digest| digest.is_none_or(|digest| digest == expected);
        // In order: each delta begins where the one before it ends.
        let position = inner.history.binary_search_by_key(&revision, |delta| delta.from).ok();
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

    /// Where a lane begins.
    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// What was taken away after `revision`, and up to which revision that is; `None` when not all of it is known here.
    pub(crate) fn denials_since(&self, revision: u64) -> Option<(u64, Vec<LaneFrame>)> {
        let inner = self.lock();
        inner.denials.since(revision).map(|frames| (inner.revision, frames))
    }

    /// The digest of everything in force at a revision, if that is one of the recent ones.
    pub(crate) fn digest_at(&self, revision: u64) -> Option<Digest> {
        let inner = self.lock();
        let at = inner.digests.binary_search_by_key(&revision, |(revision, _)| *revision).ok()?;
        inner.digests.get(at).map(|(_, digest)| *digest)
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
    fn remember_digest(&mut self) {
        if self.digests.len() == DIGESTS_MAX {
            self.digests.pop_front();
        }
        self.digests.push_back((self.revision, self.digest));
    }

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
    fn recent_digests_are_known_by_revision() {
        let feed = feed();
        assert_eq!(feed.digest_at(5), Some(digest_of(&[("a", "1")])));
        assert_eq!(feed.digest_at(6), Some(digest_of(&[("a", "1"), ("b", "2")])));
        assert_eq!(feed.digest_at(9), feed.digest_at(6));
        assert_eq!((feed.digest_at(4), feed.digest_at(7), feed.digest_at(10)), (None, None, None));
    }

    #[test]
    fn a_lane_goes_on_where_it_is_and_not_across_what_this_node_never_saw() {
        let feed = feed();
        let removal = v1::EntryChange { key: "a".into(), value: None };
        feed.advance(9, 10, vec![put("c", "3"), removal]);
        let (revision, denials) = feed.denials_since(9).unwrap();
        assert_eq!((revision, denials.len()), (10, 1), "only what is taken away");
        assert_eq!(feed.denials_since(10).unwrap().1.len(), 0);
        assert!(feed.denials_since(4).is_none(), "before this node's first revision");
        feed.restart(20, Entries::new());
        assert!(feed.denials_since(10).is_none() && feed.denials_since(20).is_some());
    }

    #[test]
    fn lanes_are_woken_by_what_is_taken_away_alone() {
        let feed = feed();
        let mut denials = feed.denials();
        feed.advance(9, 10, vec![put("c", "3")]);
        feed.publish();
        assert!(!denials.has_changed().unwrap());
        feed.advance(10, 11, vec![v1::EntryChange { key: "a".into(), value: None }]);
        feed.publish();
        assert_eq!((denials.has_changed().unwrap(), *denials.borrow_and_update()), (true, 11));
        feed.restart(20, Entries::new());
        feed.publish();
        assert!(denials.has_changed().unwrap(), "they have to begin anew");
    }

    #[test]
    fn the_window_is_bounded() {
        let feed = Feed::new();
        feed.restart(0, Entries::new());
        for revision in 0..5_000 {
            feed.advance(revision, revision + 1, Vec::new());
        }
        assert_eq!(feed.lock().history.len(), HISTORY_DELTAS_MAX);
        assert_eq!(feed.lock().digests.len(), DIGESTS_MAX);
    }
}
