//! What recent revisions took away, as frames of the revocation lane.
//!
//! Part of the `feed`: it takes in each revision, lanes take what came after the one they have sent. Frames are encoded
//! once, whoever takes them, and a lane holds no queue. Invariant: either every denial after a revision is given, or
//! none and the lane is told so; a gap would be a revocation that one node never hears of.
//! Absent: which changes are denials (`bailiwick_proto::denial`).

use std::collections::VecDeque;

use bailiwick_proto::{
    denial::narrows,
    v1::{self, lane_frame},
};
use prost::Message as _;

use super::wire::LaneFrame;

/// Bytes of denials kept.
const DENIAL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of changes in one frame: small enough that the next revision's denials do not wait long behind it.
const FRAME_BYTES: usize = 256 * 1024;

/// The window of denials.
#[derive(Debug)]
pub(super) struct Denials {
    /// Revisions kept.
    kept: usize,
    /// What was taken away up to this revision is not known any more.
    known_after: u64,
    /// Ascending; revisions that took nothing away are left out.
    by_revision: VecDeque<Denial>,
    bytes: usize,
}

#[derive(Debug)]
struct Denial {
    revision: u64,
    frames: Vec<LaneFrame>,
    bytes: usize,
}

impl Denials {
    /// A window of so many revisions that begins after `revision`.
    pub(super) const fn after(revision: u64, kept: usize) -> Self {
        Self { kept, known_after: revision, by_revision: VecDeque::new(), bytes: 0 }
    }

    /// The last revision that took something away, as far as is known.
    pub(super) fn last(&self) -> u64 {
        self.by_revision.back().map_or(self.known_after, |denial| denial.revision)
    }

    /// The last revision up to this one that took something away, as far as is known.
    pub(super) fn last_until(&self, revision: u64) -> u64 {
        let after = self.by_revision.partition_point(|denial| denial.revision <= revision);
        let last = after.checked_sub(1).and_then(|last| self.by_revision.get(last));
        last.map_or(self.known_after.min(revision), |denial| denial.revision)
    }

    /// Takes in what a revision changes.
    pub(super) fn take_in(&mut self, revision: u64, changes: &[v1::EntryChange]) {
        let denials: Vec<_> = changes.iter().filter(|change| narrows(change)).cloned().collect();
        if denials.is_empty() {
            return;
        }
        let frames = frames(self.last(), revision, denials);
        let bytes = frames.iter().map(LaneFrame::len).sum();
        self.bytes += bytes;
        self.by_revision.push_back(Denial { revision, frames, bytes });
        while self.by_revision.len() > self.kept || self.bytes > DENIAL_BYTES_MAX {
            let Some(oldest) = self.by_revision.pop_front() else { break };
            self.bytes -= oldest.bytes;
            self.known_after = oldest.revision;
        }
    }

    /// What was taken away after `revision`, in order; `None` when not all of it is known.
    pub(super) fn since(&self, revision: u64) -> Option<Vec<LaneFrame>> {
        if revision < self.known_after {
            return None;
        }
        let first = self.by_revision.partition_point(|denial| denial.revision <= revision);
        Some(self.by_revision.iter().skip(first).flat_map(|denial| denial.frames.iter().cloned()).collect())
    }
}

/// A revision's denials, cut into frames; a single change that is larger than a frame should be has one of its own.
fn frames(after: u64, revision: u64, denials: Vec<v1::EntryChange>) -> Vec<LaneFrame> {
    let (mut chunks, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
    for change in denials {
        let more = change.encoded_len();
        if bytes + more > FRAME_BYTES && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += more;
        chunk.push(change);
    }
    chunks.push(chunk);
    let last = chunks.len() - 1;
    let frame = |(at, changes): (usize, Vec<v1::EntryChange>)| {
        let part = u32::try_from(at).unwrap_or(u32::MAX);
        let denials = v1::Denials { revision, changes, more: at < last, after, part };
        LaneFrame::on_lane(lane_frame::Frame::Denials(denials))
    };
    chunks.into_iter().enumerate().map(frame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 4_096;

    fn removal(key: &str) -> v1::EntryChange {
        v1::EntryChange { key: key.into(), value: None }
    }

    fn told(denials: &Denials, after: u64) -> Option<Vec<(u64, usize, bool)>> {
        let told = |frame: LaneFrame| match frame.decode().unwrap().frame {
            Some(lane_frame::Frame::Denials(denials)) => (denials.revision, denials.changes.len(), denials.more),
            other => panic!("{other:?}"),
        };
        Some(denials.since(after)?.into_iter().map(told).collect())
    }

    #[test]
    fn each_lane_gets_what_came_after_the_revision_it_has() {
        let mut denials = Denials::after(3, KEPT);
        denials.take_in(4, &[removal("user/a"), removal("user/b")]);
        denials.take_in(5, &[removal("policy/may-forbid")]);
        denials.take_in(6, &[removal("user/c")]);
        assert_eq!(told(&denials, 3).unwrap(), [(4, 2, false), (6, 1, false)]);
        assert_eq!(told(&denials, 4).unwrap(), [(6, 1, false)]);
        assert_eq!(told(&denials, 6).unwrap(), []);
        assert_eq!(told(&denials, 2), None, "this node does not know what revision 3 took away");
    }

    #[test]
    fn many_denials_of_one_revision_come_in_several_frames_of_which_the_last_says_so() {
        let mut denials = Denials::after(0, KEPT);
        let long = "x".repeat(1_000);
        denials.take_in(1, &(0..600).map(|n| removal(&format!("consent/{n}-{long}"))).collect::<Vec<_>>());
        let told = told(&denials, 0).unwrap();
        assert_eq!(told.iter().map(|(_, changes, _)| changes).sum::<usize>(), 600);
        assert_eq!(told.iter().map(|(_, _, more)| *more).collect::<Vec<_>>(), [true, true, false]);
        assert!(denials.since(0).unwrap().iter().all(|frame| frame.len() < FRAME_BYTES + 2_000));
    }

    #[test]
    fn the_window_is_bounded_and_what_left_it_is_not_passed_over() {
        let mut denials = Denials::after(0, KEPT);
        for revision in 1..=5_000 {
            denials.take_in(revision, &[removal("user/a")]);
        }
        assert_eq!(denials.by_revision.len(), KEPT);
        assert!(denials.since(903).is_none());
        assert_eq!(denials.since(904).unwrap().len(), KEPT);
        let large: Vec<_> = (0..20).map(|_| removal(&"x".repeat(1024 * 1024))).collect();
        denials.take_in(5_001, &large);
        assert!(denials.by_revision.is_empty() && denials.since(5_000).is_none() && denials.since(5_001).is_some());
    }
}
