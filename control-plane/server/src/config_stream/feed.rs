//! The feed: what the configuration is now, and how it came to be so over the last revisions.
//!
//! The projection writes; node sessions and lanes read. A session holds no queue of its own: it remembers where it is
//! and takes what is newer, so a slow node costs nothing here, and one that fell behind the window gets a snapshot
//! instead. The digests of recent revisions are kept, so that a node that holds something else is noticed. Absent:
//! which deltas are kept and which go into one message (`history`), which changes are denials (`proto`), and their
//! window (`denials`), and how a snapshot is sent (`snapshot`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bailiwick_proto::{
    config_digest::{Digest, Entries},
    v1::{self, config_frame},
};
use tokio::sync::watch;

use super::{
    denials::Denials,
    history::{Digests, History},
    snapshot::Snapshot,
    wire::{Frame, LaneFrame},
};

/// Revisions of which deltas, digests and denials are kept; those that change nothing count once, however many follow
/// each other. A lane takes its denials within moments, or is let go.
pub const REVISIONS_KEPT: usize = 4_096;

/// The configuration and its recent past. Shared by the projection and all sessions.
#[derive(Debug)]
pub(crate) struct Feed {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
    /// The last revision that took something away, or the one this feed started anew from.
    denied: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    /// Revisions kept.
    kept: usize,
    revision: u64,
    digest: Digest,
    entries: Entries,
    history: History,
    denials: Denials,
    digests: Digests,
    /// That which is being sent, if any is.
    snapshot: Weak<Snapshot>,
    /// The last bookmark that was asked for, and its revision: as a rule everybody asks for the same one.
    bookmark: Option<(u64, Frame)>,
}

/// What a node gets to be at the present revision.
#[derive(Clone, Debug)]
pub(crate) enum CatchUp {
    /// Deltas from where it is; none when it is there already.
    Deltas(Vec<Frame>),
    /// Everything.
    Snapshot(Arc<Snapshot>),
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self::keeping(REVISIONS_KEPT)
    }

    /// As [`Feed::new`], but with another number of revisions kept.
    pub(crate) fn keeping(revisions: usize) -> Self {
        let inner = Mutex::new(Inner::starting(revisions));
        Self { inner, revision: watch::Sender::new(0), denied: watch::Sender::new(0) }
    }

    /// Starts anew from a whole configuration; the past before it is not known.
    pub(crate) fn restart(&self, revision: u64, entries: Entries) {
        let mut inner = self.lock();
        let (kept, digest) = (inner.kept, entries.digest());
        *inner = Inner { revision, digest, entries, denials: Denials::after(revision, kept), ..Inner::starting(kept) };
        inner.digests.take_in(revision, digest);
    }

    /// Takes in one revision, also one that changes no entry: nodes are told of each revision, be it with others.
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
        inner.revision = to;
        let digest = inner.digest;
        inner.denials.take_in(to, &changes);
        inner.digests.take_in(to, digest);
        inner.history.take_in(from, to, changes, [digest_before, digest]);
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

    /// Waits until this revision is here; the state has it a moment earlier.
    pub(crate) async fn reaches(&self, revision: u64) {
        // The sender lives as long as this feed.
        drop(self.revision.subscribe().wait_for(|fed| *fed >= revision).await);
    }

    /// Tells of each revision that takes something away, and when lanes have to begin anew.
    pub(crate) fn denials(&self) -> watch::Receiver<u64> {
        self.denied.subscribe()
    }

    /// How a node at `revision` gets on, and where it is then: at the present revision by deltas; by a snapshot at one
    /// from which there are deltas. With a digest, only a node that holds exactly what was in force then gets deltas.
    pub(crate) fn since(&self, revision: u64, digest: Option<&[u8]>) -> (u64, CatchUp) {
        let mut inner = self.lock();
        let fits = |expected: &Digest| digest.is_none_or(|digest| digest == expected);
        let is_there = revision == inner.revision && revision > 0 && fits(&inner.digest);
        let deltas = if is_there { Some(Vec::new()) } else { inner.history.since(revision, fits) };
        match deltas {
            Some(deltas) => (inner.revision, CatchUp::Deltas(deltas)),
            None => {
                let snapshot = inner.snapshot();
                (snapshot.revision(), CatchUp::Snapshot(snapshot))
            }
        }
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

    /// The last revision up to this one that took something away, as far as is known.
    pub(crate) fn last_denial(&self, revision: u64) -> u64 {
        self.lock().denials.last_until(revision)
    }

    /// The digest of everything in force at a revision, if that is one of the recent ones.
    pub(crate) fn digest_at(&self, revision: u64) -> Option<Digest> {
        self.lock().digests.at(revision)
    }

    /// What a node is told that is at a revision, and the digest of everything in force then, if it is a recent one.
    pub(crate) fn bookmark(&self, revision: u64) -> Option<(Digest, Frame)> {
        let digest = self.digest_at(revision)?;
        let mut inner = self.lock();
        if let Some((_, frame)) = inner.bookmark.as_ref().filter(|(at, _)| *at == revision) {
            return Some((digest, frame.clone()));
        }
        let frame = Frame::encode(config_frame::Frame::Heartbeat(v1::Heartbeat { revision, digest: digest.to_vec() }));
        inner.bookmark = Some((revision, frame.clone()));
        Some((digest, frame))
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
    fn starting(kept: usize) -> Self {
        Self {
            kept,
            revision: 0,
            digest: Digest::default(),
            entries: Entries::new(),
            history: History::keeping(kept),
            denials: Denials::after(0, kept),
            digests: Digests::keeping(kept),
            snapshot: Weak::new(),
            bookmark: None,
        }
    }

    /// The snapshot that others are being sent, if there are deltas from there on; another one otherwise.
    fn snapshot(&mut self) -> Arc<Snapshot> {
        let is_of_use = |snapshot: &Arc<Snapshot>| {
            let revision = snapshot.revision();
            revision == self.revision || self.history.leads_on_from(revision)
        };
        if let Some(snapshot) = self.snapshot.upgrade().filter(is_of_use) {
            return snapshot;
        }
        let snapshot = Arc::new(Snapshot::of(self.revision, self.digest, self.entries.clone()));
        self.snapshot = Arc::downgrade(&snapshot);
        snapshot
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

    fn delta(frame: &Frame) -> v1::Delta {
        match frame.decode().unwrap().frame {
            Some(config_frame::Frame::Delta(delta)) => delta,
            other => panic!("{other:?}"),
        }
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
        let ends: Vec<_> = frames.iter().map(delta).map(|delta| (delta.from, delta.to)).collect();
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

    fn snapshot_of(feed: &Feed) -> Arc<Snapshot> {
        let (revision, CatchUp::Snapshot(snapshot)) = feed.since(0, None) else { panic!("deltas") };
        assert_eq!(revision, snapshot.revision());
        snapshot
    }

    #[test]
    fn who_needs_a_snapshot_gets_the_one_that_is_being_sent_as_long_as_there_are_deltas_from_it() {
        let feed = feed();
        let first = snapshot_of(&feed);
        feed.advance(9, 10, vec![put("c", "3")]);
        assert!(Arc::ptr_eq(&first, &snapshot_of(&feed)) && first.revision() == 9);
        assert!(matches!(feed.since(9, None), (10, CatchUp::Deltas(deltas)) if deltas.len() == 1));
        // A delta that is too large to be sent.
        feed.advance(10, 11, (0..100).map(|n| put(&format!("k{n}"), &"x".repeat(30_000))).collect());
        assert_eq!((snapshot_of(&feed).revision(), first.revision()), (11, 9));
        let last = snapshot_of(&feed);
        let Some(config_frame::Frame::Snapshot(chunk)) = last.chunk(last.len() - 1).decode().unwrap().frame else {
            panic!("no snapshot")
        };
        assert!(chunk.last && Some(chunk.digest) == feed.digest_at(11).map(|digest| digest.to_vec()));
    }

    #[test]
    fn a_snapshot_that_nobody_is_sent_is_not_kept() {
        let feed = feed();
        drop(snapshot_of(&feed));
        assert_eq!(feed.lock().snapshot.strong_count(), 0);
    }

    #[test]
    fn a_delta_too_large_for_one_message_becomes_a_snapshot() {
        let feed = feed();
        let before = digest_of(&[("a", "1"), ("b", "2")]);
        feed.advance(9, 10, (0..100).map(|n| put(&format!("k{n}"), &"x".repeat(30_000))).collect());
        let (revision, CatchUp::Snapshot(snapshot)) = feed.since(9, Some(&before)) else { panic!("deltas") };
        assert!(revision == 10 && snapshot.len() > 5);
    }

    #[test]
    fn recent_digests_are_known_by_revision() {
        let feed = feed();
        assert_eq!(feed.digest_at(5), Some(digest_of(&[("a", "1")])));
        assert_eq!(feed.digest_at(6), Some(digest_of(&[("a", "1"), ("b", "2")])));
        assert_eq!(feed.digest_at(9), feed.digest_at(6));
        assert_eq!((feed.digest_at(4), feed.digest_at(10)), (None, None));
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
    fn a_session_that_is_held_gets_what_changed_nothing_in_one_message_and_what_changed_something_in_its_place() {
        let feed = feed();
        // Where it is, as a session remembers it; its node takes nothing for a while.
        let (revision, _) = feed.since(9, None);
        for from in 9..1_009 {
            let changes = if from == 500 { vec![put("c", "3")] } else { Vec::new() };
            feed.advance(from, from + 1, changes);
            feed.publish();
        }
        let (revision, CatchUp::Deltas(frames)) = feed.since(revision, None) else { panic!("a snapshot") };
        let deltas: Vec<_> = frames.iter().map(delta).collect();
        let ways: Vec<_> = deltas.iter().map(|delta| (delta.from, delta.to, delta.changes.len())).collect();
        assert_eq!((revision, ways), (1_009, vec![(9, 500, 0), (500, 501, 1), (501, 1_009, 0)]));
        assert_eq!(deltas[1].digest, feed.digest_at(1_009).unwrap());
        assert_eq!((feed.digest_at(300), feed.digest_at(700)), (feed.digest_at(9), feed.digest_at(1_009)));
    }

    #[test]
    fn a_node_comes_back_within_a_long_time_of_revisions_that_change_nothing() {
        let feed = feed();
        let now = digest_of(&[("a", "1"), ("b", "2")]);
        (9..20_000).for_each(|from| feed.advance(from, from + 1, Vec::new()));
        assert!(matches!(feed.since(6, Some(&now)), (20_000, CatchUp::Deltas(deltas)) if deltas.len() == 1));
        assert!(matches!(feed.since(15_000, Some(&now)), (20_000, CatchUp::Deltas(deltas)) if deltas.len() == 1));
        assert!(is_snapshot(&feed, 15_000, &digest_of(&[("a", "1")])), "it holds something else");
    }
}
